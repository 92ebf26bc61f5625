"""Floor 5: what the tasks take: one constructor each, from options to a `Reading`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from torchmetrics_dice_ext._observations import Reading
from torchmetrics_dice_ext._options import (
    LEVELS,
    AggregationLevel,
    Average,
    Counting,
    InputFormat,
    Readout,
    ValidateArgs,
    one_of,
)
from torchmetrics_dice_ext._readout import Score
from torchmetrics_dice_ext.metrics._base import OverlapMetric

ZeroDivision = float | Literal["nan"]


class BinaryOverlapMetric(OverlapMetric):
    """A score of one foreground class.

    `update` takes preds `(N, ...)` or `(N, 1, ...)`: float probabilities (logits with `from_logits`), or int/bool in
    {0, 1}; target in {0, 1} of any dtype.

    Args:
        threshold: A float is positive above it, in (0, 1).
        from_logits: Whether float preds are logits.
        class_dim: Where a singleton channel axis may stand.
        aggregation_level: "global" pools the counts of all data; "samplewise" scores each sample, "casewise" each case
            of `case_ids`, then takes the mean over those that have a score. A case that comes twice whole, as from a
            `DistributedSampler` that pads, changes no score casewise, but does at the other levels.
        ignore_index: Target values that are void: left out on both sides.
        zero_division: The score where its denominator is 0: "nan" (skipped by averages) or a number in [0, 1].
        class_names: The name of the foreground.
        validate_args: True, "eager", "deferred" or False; see `update`.
        **kwargs: Metric's own options.
    """

    score: Score

    def __init__(
        self,
        threshold: float = 0.5,
        *,
        from_logits: bool = False,
        class_dim: int = 1,
        aggregation_level: AggregationLevel = "global",
        ignore_index: int | Collection[int] | None = None,
        zero_division: ZeroDivision = "nan",
        class_names: Sequence[str] | None = None,
        validate_args: ValidateArgs = True,
        **kwargs: Any,
    ) -> None:
        counting = Counting.of(
            "binary", threshold=threshold, from_logits=from_logits, class_dim=class_dim, ignore_index=ignore_index
        )
        readout = Readout.of(counting, zero_division=zero_division, class_names=class_names)
        super().__init__(reading_of(counting, aggregation_level, self.score, readout), validate_args, **kwargs)


class MulticlassOverlapMetric(OverlapMetric):
    """A score of C classes of which each voxel has one.

    `update` takes preds `(N, C, ...)` float, probabilities or logits alike (the first maximum wins), integer labels
    `(N, ...)` or one-hot; target integer labels, floats that hold whole numbers, or one-hot.

    Args:
        num_classes: C, at least 2.
        average: "macro", "micro", "weighted" (by target cardinality) or "none" (one score per class).
        aggregation_level: "global" (default) pools the counts of all data; "samplewise" scores each sample, "casewise"
            each case of `case_ids`, classes first, then takes the mean over those that have a score.
        include_background: Whether class 0 is scored; its voxels count as false positives of others in any case.
        class_dim: The class axis; -1 for channels-last.
        input_format: "auto" reads two integer tensors of one shape as label maps; "one-hot", "index".
        ignore_index: Target labels that are void; a class among them has the score nan, and no average sees it.
        zero_division: The score of a class whose denominator is 0: "nan" (skipped by averages) or a number in [0, 1].
        class_names: C names for `per_class`, plots and reports.
        regions: ``{name: labels}``, unions of labels, possibly overlapping, that are scored instead of the classes.
        validate_args: True, "eager", "deferred" or False; see `update`.
        **kwargs: Metric's own options.
    """

    score: Score

    def __init__(
        self,
        num_classes: int,
        *,
        average: Average | None = "macro",
        aggregation_level: AggregationLevel = "global",
        include_background: bool = True,
        class_dim: int = 1,
        input_format: InputFormat = "auto",
        ignore_index: int | Collection[int] | None = None,
        zero_division: ZeroDivision = "nan",
        class_names: Sequence[str] | None = None,
        regions: Mapping[str, Sequence[int]] | None = None,
        validate_args: ValidateArgs = True,
        **kwargs: Any,
    ) -> None:
        counting = Counting.of(
            "multiclass",
            num_classes=num_classes,
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
        super().__init__(reading_of(counting, aggregation_level, self.score, readout), validate_args, **kwargs)


class MultilabelOverlapMetric(OverlapMetric):
    """A score of L labels, each of which a voxel may have or not.

    `update` takes preds `(N, L, ...)`: float probabilities (logits with `from_logits`), or int/bool in {0, 1}; target
    of the same shape in {0, 1}.

    Args:
        num_labels: L, the number of labels.
        threshold: A float is positive above it, in (0, 1); one number or one per label.
        from_logits: Whether float preds are logits.
        average: "macro", "micro", "weighted" (by target cardinality) or "none" (one score per label).
        aggregation_level: "global" (default) pools the counts of all data; "samplewise" scores each sample, "casewise"
            each case of `case_ids`, classes first, then takes the mean over those that have a score.
        class_dim: The label axis; -1 for channels-last.
        ignore_index: Target values whose elements are void.
        zero_division: The score of a label whose denominator is 0: "nan" (skipped by averages) or a number in [0, 1].
        class_names: L names for `per_class`, plots and reports.
        validate_args: True, "eager", "deferred" or False; see `update`.
        **kwargs: Metric's own options.
    """

    score: Score

    def __init__(
        self,
        num_labels: int,
        *,
        threshold: float | Sequence[float] = 0.5,
        from_logits: bool = False,
        average: Average | None = "macro",
        aggregation_level: AggregationLevel = "global",
        class_dim: int = 1,
        ignore_index: int | Collection[int] | None = None,
        zero_division: ZeroDivision = "nan",
        class_names: Sequence[str] | None = None,
        validate_args: ValidateArgs = True,
        **kwargs: Any,
    ) -> None:
        counting = Counting.of(
            "multilabel",
            num_labels=num_labels,
            threshold=threshold,
            from_logits=from_logits,
            class_dim=class_dim,
            ignore_index=ignore_index,
        )
        readout = Readout.of(counting, average=average, zero_division=zero_division, class_names=class_names)
        super().__init__(reading_of(counting, aggregation_level, self.score, readout), validate_args, **kwargs)


def reading_of(counting: Counting, level: AggregationLevel, score: Score, readout: Readout) -> Reading:
    """The reading of one score."""
    return Reading(counting, one_of("aggregation_level", level, LEVELS), ((score, readout),))
