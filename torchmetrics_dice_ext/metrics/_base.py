"""Floor 5: the one base of all metrics, from update() to compute(); its state has a room of its own, `_state`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchmetrics_dice_ext._cases import read_case_ids, spelled_cases
from torchmetrics_dice_ext._counts import refuse_faults
from torchmetrics_dice_ext._inputs import read_inputs
from torchmetrics_dice_ext._observations import Reading, Result, count_batch
from torchmetrics_dice_ext._options import AggregationLevel, Average, Readout, ValidateArgs
from torchmetrics_dice_ext.metrics import _ledger
from torchmetrics_dice_ext.metrics._evaluation import case_rows, confidence_interval
from torchmetrics_dice_ext.metrics._plots import draw
from torchmetrics_dice_ext.metrics._state import CountState


class OverlapMetric(CountState):
    """A metric over overlap counts; the public classes say what is counted and which score is read.

    State: one vector (`_ledger`), whatever has been seen; casewise also one row of counts per case (`_cases`). `reset`
    empties it, `merge_state` adds that of another metric, ``persistent(True)`` makes it part of the state_dict.

    Synchronisation: `compute`, `per_class`, `per_case` and `confidence_interval` cost one collective each, casewise
    two. All ranks call them, also one without data.

    Args:
        reading: What is counted and what is read out.
        validate_args: When malformed values are refused; see `update`.
        shown: Which score of the reading, and which of its classes, `compute` gives; class None stands for the average,
            or for all classes with average "none"; None for all that the reading has, in one vector.
        **kwargs: Metric's own options.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(
        self,
        reading: Reading,
        validate_args: ValidateArgs = True,
        shown: tuple[int, int | None] | None = (0, None),
        **kwargs: Any,
    ) -> None:
        super().__init__(reading, validate_args, **kwargs)
        self._shown = shown

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """The docstring of a score goes on with that of its task, which explains the options."""
        super().__init_subclass__(**kwargs)
        task = cls.__mro__[1]
        if cls.__doc__ and task.__doc__ and task is not OverlapMetric:
            cls.__doc__ = cls.__doc__.rstrip() + "\n\n" + task.__doc__.partition("\n\n")[2]

    def update(
        self,
        preds: Tensor,
        target: Tensor,
        *,
        mask: Tensor | None = None,
        case_ids: Sequence[int | str] | Tensor | None = None,
    ) -> None:
        """Count one batch.

        Args:
            preds: Predictions as the task takes them.
            target: Reference, likewise.
            mask: bool `(N, ...)`, True where a voxel counts.
            case_ids: N ints or strings, the case of each sample; for casewise metrics alone.

        Raises:
            ValueError: Shapes that don't fit; malformed values, if validation is eager (the default on the CPU). The
                metric is then as it was. Deferred validation (the default on accelerators) never waits for the device:
                malformed voxels are left out, and `compute` refuses.
            TypeError: Wrong types or dtypes.
        """
        views = read_inputs(preds, target, mask, self._reading.counting)
        cases = self._cases_of(case_ids, views.space[0])
        ledger: Tensor = getattr(self, self._ledger_name)
        if views.preds.device != ledger.device:
            raise ValueError(
                f"`preds` must be on the metric's device {ledger.device}, got {views.preds.device}:"
                f" use `metric.to({str(views.preds.device)!r})`."
            )
        mode = self.validate_args
        counts, faults = count_batch(views, self._reading.counting, validate=mode is not False)
        if mode is True:
            mode = "eager" if ledger.device.type == "cpu" else "deferred"
        if mode == "eager":
            refuse_faults(views, faults, self._label_names)
        summary = None if cases is not None else self._reading.summarise(counts)
        setattr(self, self._ledger_name, _ledger.enter(ledger, faults if mode == "deferred" else None, summary))
        if cases is not None:
            table = self._table_of(self._states)
            table.add(cases, counts)
            self._show(table)

    def compute(self) -> Tensor:
        """The score: a scalar, with ``average="none"`` `(C,)`; nan where nothing has a score.

        torchmetrics makes a scalar of a vector of one class.

        Raises:
            ValueError: Validation is deferred and an update since the last reset had malformed values, on any rank.
        """
        return self._publish(self._shown_of(self._results()))

    def per_class(self) -> dict[str, Tensor]:
        """The score of each scored class by name, 0-d tensors; nan where a class has none.

        Without `class_names` the names are "0", "1", ..., and "foreground" for the binary task.

        Raises:
            ValueError: As `compute`.
        """
        with self._synced():
            classes = self._publish(self._results()[self._which].classes)
        return dict(zip(self.class_names, classes.unbind(), strict=True))

    def per_case(self, *, worst_first: bool = False) -> list[dict[str, Any]]:
        """One row per case and scored class of a casewise metric, the same on every rank.

        Keys: case, class (its name), intersection, pred_cardinality, target_cardinality, support (voxels), score. Made
        for ``pandas.DataFrame(rows)`` or `csv.DictWriter`.

        Args:
            worst_first: Whether rows are in ascending order of score (nan last) instead of case.

        Raises:
            ValueError: The metric is not casewise; or as `compute`.
        """
        return self._per_case((("score", self._which),), worst_first)

    def confidence_interval(
        self, level: float = 0.95, n_resamples: int = 1000, seed: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Percentile bootstrap of the mean over cases, of what `compute` gives, for a casewise metric.

        Args:
            level: Confidence level in (0, 1).
            n_resamples: Number of resamples.
            seed: With a seed the interval is the same on all ranks and for any order of cases. Global random generators
                stay untouched in any case.

        Returns:
            Low and high, each shaped as the result of `compute`; nan without a scored case.

        Raises:
            ValueError: The metric is not casewise, `level` or `n_resamples` is out of range; or as `compute`.
            ModuleNotFoundError: scipy, the extra "stats", is missing.
        """
        with self._synced():
            self._refuse()
            scores = self._shown_of(self._reading.observe(self._case_counts()[1]))
        low, high = (bound.squeeze() for bound in confidence_interval(scores, level, n_resamples, seed))
        return self._publish(low), self._publish(high)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw bars per class by name, or with several values their curves over steps; needs matplotlib.

        Args:
            val: What `compute`, `forward` or `per_class` gave, or a sequence of such; by default `per_class()` for a
                metric with average "none", else `compute()`.
            ax: A matplotlib axis to draw on.

        Returns:
            Figure and axis.
        """
        vector = self._shown is not None and self._shown[1] is None and self._readout.average == "none"
        if val is None:
            val = self.per_class() if vector else self.compute()
        return draw(val, self.class_names, self._title, ax)

    @property
    def aggregation_level(self) -> AggregationLevel:
        """What one observation is."""
        return self._reading.level

    @property
    def average(self) -> Average | None:
        """How classes become one number; None for a score that has no such choice."""
        score, readout = self._reading.scores[self._which]
        return None if score.reduces_classes or self._reading.counting.task == "binary" else readout.average

    @property
    def num_classes(self) -> int:
        """Classes or labels that are told apart; 1 for the binary task."""
        return self._reading.counting.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the scored classes, labels or regions, in the order of a result with average "none"."""
        return self._readout.names(self._reading.counting)

    @property
    def _which(self) -> int:
        """The score of the reading that this metric gives; the first one where it gives them all."""
        return 0 if self._shown is None else self._shown[0]

    @property
    def _readout(self) -> Readout:
        return self._reading.scores[self._which][1]

    @property
    def _title(self) -> str:
        """What plots call this metric; a member of a report has no class of its own, but a key."""
        if type(self) is not OverlapMetric or self._shown is None:
            return type(self).__name__
        which, index = self._shown
        name = self._reading.scores[which][0].name
        return name if index is None else f"{name}/{self.class_names[index]}"

    @property
    def _label_names(self) -> tuple[str, ...]:
        """Names of the C labels for errors; empty where none were given."""
        return () if self._reading.counting.regions else self._readout.class_names or ()

    def _cases_of(self, case_ids: Any, samples: int) -> list[int | str] | None:
        if self._reading.level == "casewise":
            return read_case_ids(case_ids, samples)
        if case_ids is not None:
            raise ValueError(
                f"`case_ids` belong to `aggregation_level='casewise'`, got them at {self._reading.level!r}."
            )
        return None

    def _results(self) -> list[Result]:
        """Results of all scores of the reading from the current state."""
        malformed = self._refuse()
        if self._reading.level == "casewise":
            summary = self._case_counts()[1]
        else:
            summary = getattr(self, self._ledger_name)[_ledger.SUMMARY].reshape(self._reading.summary_shape)
        results = self._reading.conclude(summary)
        if malformed:
            return [Result(*(torch.full_like(part, math.nan) for part in result)) for result in results]
        return results

    def _shown_of(self, results: list[Result]) -> Tensor:
        """The part of the results that `compute` gives, class axis last; all of it where nothing is chosen."""
        if self._shown is None:
            return torch.cat([part for r in results for part in (r.average.unsqueeze(-1), r.classes)], dim=-1)
        which, index = self._shown
        if index is not None:
            return results[which].classes[..., index]
        return results[which].classes if self._readout.average == "none" else results[which].average

    def _per_case(self, columns: Sequence[tuple[str, int]], worst_first: bool) -> list[dict[str, Any]]:
        """Rows by case with the given columns: their names, and which scores of the reading they hold."""
        reading = replace(self._reading, scores=tuple(self._reading.scores[which] for _, which in columns))
        with self._synced():
            self._refuse()
            return case_rows(reading, *self._case_counts(), [name for name, _ in columns], worst_first)

    def _refuse(self) -> bool:
        """Raise what is wrong with the current state; within `forward` only tell whether something is."""
        ledger, size = getattr(self, self._ledger_name), self._reading.counting.num_classes
        complaint = _ledger.complaint(ledger, size, self._label_names)
        if complaint and not self._in_forward:
            raise ValueError(complaint)
        return complaint is not None

    def _case_counts(self) -> tuple[list[int | str], Tensor]:
        """Case ids and their counts `(cases, K, 4)` on the CPU."""
        if self._reading.level != "casewise":
            raise ValueError(
                f"Cases are known at `aggregation_level='casewise'` alone, not at {self._reading.level!r}."
            )
        cases = spelled_cases(getattr(self, self._keys_name))
        return cases, getattr(self, self._rows_name)[: len(cases)].cpu()

    def _publish(self, value: Tensor) -> Tensor:
        return value.to(self.device, torch.get_default_dtype())
