"""Floor 5: the report: many scores of the same counts under names, as a `MetricCollection` of scalars."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor
from torchmetrics import Metric, MetricCollection

from torchmetrics_dice_ext._observations import Reading
from torchmetrics_dice_ext._options import (
    LEVELS,
    AggregationLevel,
    Average,
    Counting,
    InputFormat,
    Readout,
    Task,
    ValidateArgs,
    one_of,
)
from torchmetrics_dice_ext._readout import Score
from torchmetrics_dice_ext.metrics._base import OverlapMetric

ScoreSpec = str | tuple[str, Mapping[str, Any]] | list[Any]  # a list as it comes from a file of settings


class OverlapReport(MetricCollection):
    """Several scores by name from one count: ``{"dice": ..., "dice/liver": ..., "jaccard": ...}``.

    A `MetricCollection` of scalar metrics over one shared state: an update counts once from the first batch on, and
    `compute` costs one collective, casewise two. In Lightning `self.log_dict(report)` logs every key, with the
    automatic reset at the end of an epoch; there each member synchronises for itself.

    Keys are the names of the scores for their averages, and score/class for every class (or region). The binary task
    has the names of the scores alone; with average "none" the class keys stand alone.

    Args:
        task: "binary", "multiclass" or "multilabel".
        scores: Names of scores, or pairs of a name and its parameters such as ``("fbeta", {"beta": 2})``: "dice",
            "jaccard", "precision", "recall", "specificity", "fbeta", "tversky", "volumetric_similarity",
            "generalized_dice". Each once.
        num_classes, num_labels, threshold, from_logits, class_dim, input_format, average, aggregation_level,
            include_background, ignore_index, zero_division, class_names, regions, validate_args: As the metrics take
            them.
        prefix, postfix: Of all keys.
        **kwargs: Metric's own options, for every member.

    Raises:
        ValueError: A wrong option, an unknown score, or one that is listed twice.
        TypeError: An option of a wrong type.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext import OverlapReport
        >>> report = OverlapReport("multiclass", ("dice", "recall"), num_classes=2, class_names=("other", "liver"))
        >>> report.update(torch.tensor([[0, 1, 1, 0]]), torch.tensor([[0, 1, 0, 0]]))
        >>> {key: round(value.item(), 3) for key, value in report.compute().items()}
        {'dice': 0.733, 'dice/other': 0.8, 'dice/liver': 0.667,
         'recall': 0.833, 'recall/other': 0.667, 'recall/liver': 1.0}
    """

    def __init__(
        self,
        task: Task,
        scores: Sequence[ScoreSpec] = ("dice", "jaccard"),
        *,
        num_classes: int | None = None,
        num_labels: int | None = None,
        threshold: float | Sequence[float] | None = None,
        from_logits: bool = False,
        class_dim: int = 1,
        input_format: InputFormat | None = None,
        average: Average | None = "macro",
        aggregation_level: AggregationLevel = "global",
        include_background: bool = True,
        ignore_index: int | Collection[int] | None = None,
        zero_division: float | Literal["nan"] = "nan",
        class_names: Sequence[str] | None = None,
        regions: Mapping[str, Sequence[int]] | None = None,
        validate_args: ValidateArgs = True,
        prefix: str | None = None,
        postfix: str | None = None,
        **kwargs: Any,
    ) -> None:
        counting = Counting.of(
            task,
            num_classes=num_classes,
            num_labels=num_labels,
            threshold=threshold,
            from_logits=from_logits,
            class_dim=class_dim,
            input_format=input_format,
            ignore_index=ignore_index,
            regions=regions,
        )
        readout = Readout.of(
            counting,
            average=average,
            include_background=include_background,
            zero_division=zero_division,
            class_names=class_names,
            regions=regions,
        )
        if task == "binary" and average != "macro":
            raise ValueError(f"`average` has no meaning for task 'binary', got {average!r}: leave it out.")
        level = one_of("aggregation_level", aggregation_level, LEVELS)
        reading = Reading(counting, level, tuple((score, readout) for score in _read_scores(scores)))
        shown = dict(_keys(reading))
        members: dict[str, Metric | MetricCollection] = {
            key: OverlapMetric(reading, validate_args, where, **kwargs) for key, where in shown.items()
        }
        super().__init__(members, prefix=prefix, postfix=postfix, compute_groups=[list(shown)])
        for key in shown:  # in the order of the results, not of the alphabet
            self._modules[key] = self._modules.pop(key)
        self._shown = shown
        self._kept: dict[str, Tensor] = {}
        self._kept_with: Any = None  # the leader's own result, as long as what is kept holds

    def compute(self) -> dict[str, Tensor]:
        """All scores by key, from one synchronisation; kept until the leader forgets its own result."""
        leader = self._leader
        if leader._computed is None or leader._computed is not self._kept_with:
            with self._everything_shown():
                self._kept = self._by_key(leader.compute())
            if leader.compute_with_cache:
                for key, value in self._kept.items():
                    self._modules[key]._computed = value  # type: ignore[assignment]
            self._kept_with = leader._computed
        return self._named(self._kept)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Update, and give the scores of this batch alone."""
        with self._everything_shown() as leader:
            batch = self._by_key(leader(*args, **leader._filter_kwargs(**kwargs)))
        self._share()
        for key, value in batch.items():
            self._modules[key]._forward_cache = value  # type: ignore[assignment]
        return self._named(batch)

    def __setitem__(self, key: str, module: Any) -> None:
        """Add a member; only `__init__` may: the members of a report are its scores."""
        if hasattr(self, "_shown"):
            raise TypeError("A report takes no further metrics: put it and them into one MetricCollection.")
        super().__setitem__(key, module)

    def merge_state(self, incoming: OverlapReport) -> None:
        """Add the counts of another report, which may list other scores of the same counts.

        Raises:
            ValueError: It is no report, or counts otherwise.
        """
        if not isinstance(incoming, OverlapReport):
            raise ValueError(f"`incoming` must be an OverlapReport, got {type(incoming).__name__}.")
        self._leader.merge_state(incoming._leader)
        self._share()

    @contextmanager
    def sync_context(self, *args: Any, **kwargs: Any) -> Generator[None, None, None]:
        """As `Metric.sync_context`: inside, `state_dict` holds the counts of all processes."""
        with self._leader.sync_context(*args, **kwargs):
            yield

    def state_dict(self, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The shared state, once, under names that don't depend on what is read out."""
        return self._leader.state_dict(destination, f"{prefix}{_COUNTS}.", keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Give the saved state to every member, each of which checks it."""
        saved = {name: state_dict.pop(name) for name in [*state_dict] if name.startswith(f"{prefix}{_COUNTS}.")}
        for name, state in saved.items():
            for key in self._shown:
                state_dict[f"{prefix}{key}{name[len(prefix) + len(_COUNTS) :]}"] = state
        super()._load_from_state_dict(state_dict, prefix, *args)

    def per_case(self, *, worst_first: bool = False) -> list[dict[str, Any]]:
        """As a metric's `per_case`, with one column per score, named as the score; sorted by the first one."""
        scores = [score.name for score, _ in self._leader._reading.scores]
        return self._leader._per_case([(name, which) for which, name in enumerate(scores)], worst_first)

    def confidence_interval(
        self, level: float = 0.95, n_resamples: int = 1000, seed: int | None = None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """As a metric's `confidence_interval`, by key."""
        with self._everything_shown() as leader:
            low, high = leader.confidence_interval(level, n_resamples, seed)
        lows, highs = self._named(self._by_key(low)), self._named(self._by_key(high))
        return {key: (lows[key], highs[key]) for key in lows}

    @property
    def _leader(self) -> OverlapMetric:
        """The member that counts for all: the first of the compute group."""
        return self._modules[next(iter(self._shown))]  # type: ignore[return-value]

    @contextmanager
    def _everything_shown(self) -> Generator[OverlapMetric, None, None]:
        """The leader, for a while giving all scores at once instead of its own."""
        leader = self._leader
        shown, computed = leader._shown, leader._computed
        leader._shown, leader._computed = None, None
        try:
            yield leader
        finally:
            leader._shown, leader._computed = shown, computed

    def _share(self) -> None:
        """Hand the leader's state to all members."""
        leader = self._leader
        for key in self._shown:
            member = self._modules[key]
            for name, state in leader._states.items():
                setattr(member, name, state)
            member._update_count, member._computed = leader._update_count, None

    def _by_key(self, everything: Tensor) -> dict[str, Tensor]:
        """Scores by key from the vector of all scores, each its average and then its classes."""
        size = everything.numel() // len(self._leader._reading.scores)
        values = everything.unbind()
        return {
            key: values[which * size + (0 if index is None else 1 + index)]
            for key, (which, index) in self._shown.items()
        }

    def _named(self, by_key: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same with prefix and postfix."""
        return {self._set_name(key): value for key, value in by_key.items()}


_COUNTS = "counts"  # the name of the shared state in a state_dict


def _keys(reading: Reading) -> Iterator[tuple[str, tuple[int, int | None]]]:
    """Keys, and where their values stand in the reading: which score, which class (None: the average)."""
    for which, (score, readout) in enumerate(reading.scores):
        if readout.average != "none":
            yield score.name, (which, None)
        if reading.counting.task != "binary":
            for index, name in enumerate(readout.names(reading.counting)):
                yield f"{score.name}/{name}", (which, index)


def _read_scores(specs: Any) -> list[Score]:
    if isinstance(specs, str) or not isinstance(specs, Sequence) or not specs:
        raise ValueError(f"`scores` must list scores such as ('dice', ('fbeta', {{'beta': 2}})), got {specs!r}.")
    scores = []
    for spec in specs:
        pair = (spec, {}) if isinstance(spec, str) else spec
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[1], Mapping)):
            raise ValueError(f"`scores` must hold names or pairs such as ('fbeta', {{'beta': 2}}), got {spec!r}.")
        scores.append(Score.of(pair[0], **pair[1]))
    names = [score.name for score in scores]
    if len(set(names)) != len(names):
        raise ValueError(f"`scores` must list a score once, its name being its key, got {names}.")
    return scores
