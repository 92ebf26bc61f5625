"""Floor 5: the soft Dice score, one class per task and a factory; `functional.soft_dice_score` has the formula."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torchmetrics_dice_ext._options import AggregationLevel, Average, Counting, InputFormat, Readout, ValidateArgs
from torchmetrics_dice_ext._readout import Score
from torchmetrics_dice_ext.metrics._base import OverlapMetric
from torchmetrics_dice_ext.metrics._factory import TaskFactory
from torchmetrics_dice_ext.metrics._tasks import ZeroDivision, reading_of


class BinarySoftDiceScore(OverlapMetric):
    """Soft Dice score of one foreground class.

    `update` takes float preds, probabilities or with `from_logits` logits, of the shapes that `BinaryDiceScore` takes.
    The sums are kept in float64 where the device has it; they are not bitwise independent of the order of batches.

    Args:
        from_logits: Whether preds are logits, to which sigmoid is applied.
        squared: Whether cardinalities are sums of squares (V-Net).
        class_dim, aggregation_level, ignore_index, zero_division, class_names, validate_args: As `BinaryDiceScore`
            takes them.
        **kwargs: Metric's own options.
    """

    def __init__(
        self,
        from_logits: bool = False,
        *,
        squared: bool = False,
        class_dim: int = 1,
        aggregation_level: AggregationLevel = "global",
        ignore_index: int | Collection[int] | None = None,
        zero_division: ZeroDivision = "nan",
        class_names: Sequence[str] | None = None,
        validate_args: ValidateArgs = True,
        **kwargs: Any,
    ) -> None:
        counting = Counting.of(
            "binary",
            from_logits=from_logits,
            class_dim=class_dim,
            ignore_index=ignore_index,
            soft=True,
            squared=squared,
        )
        readout = Readout.of(counting, zero_division=zero_division, class_names=class_names)
        super().__init__(reading_of(counting, aggregation_level, _DICE, readout), validate_args, **kwargs)


class MulticlassSoftDiceScore(OverlapMetric):
    """Soft Dice score of C classes.

    `update` takes float preds `(N, C, ...)`, probabilities or with `from_logits` logits; the rest as
    `BinarySoftDiceScore` has it.

    Args:
        num_classes: C, at least 2.
        from_logits: Whether preds are logits, to which softmax is applied.
        squared: Whether cardinalities are sums of squares (V-Net).
        average, aggregation_level, include_background, class_dim, input_format, ignore_index, zero_division,
            class_names, regions, validate_args: As `MulticlassDiceScore` takes them; a region has the sum of the
            probabilities of its labels.
        **kwargs: Metric's own options.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        from_logits: bool = False,
        squared: bool = False,
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
            from_logits=from_logits,
            class_dim=class_dim,
            input_format=input_format,
            ignore_index=ignore_index,
            regions=regions,
            soft=True,
            squared=squared,
        )
        readout = Readout.of(
            counting,
            average=average,
            include_background=include_background,
            zero_division=zero_division,
            class_names=class_names,
            regions=regions,
        )
        super().__init__(reading_of(counting, aggregation_level, _DICE, readout), validate_args, **kwargs)


class MultilabelSoftDiceScore(OverlapMetric):
    """Soft Dice score of L labels.

    `update` takes float preds `(N, L, ...)`, probabilities or with `from_logits` logits; the rest as
    `BinarySoftDiceScore` has it.

    Args:
        num_labels: L, the number of labels.
        from_logits: Whether preds are logits, to which sigmoid is applied.
        squared: Whether cardinalities are sums of squares (V-Net).
        average, aggregation_level, class_dim, ignore_index, zero_division, class_names, validate_args: As
            `MultilabelDiceScore` takes them.
        **kwargs: Metric's own options.
    """

    def __init__(
        self,
        num_labels: int,
        *,
        from_logits: bool = False,
        squared: bool = False,
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
            from_logits=from_logits,
            class_dim=class_dim,
            ignore_index=ignore_index,
            soft=True,
            squared=squared,
        )
        readout = Readout.of(counting, average=average, zero_division=zero_division, class_names=class_names)
        super().__init__(reading_of(counting, aggregation_level, _DICE, readout), validate_args, **kwargs)


class SoftDiceScore(TaskFactory):
    """Soft Dice score of the task that is named; see `functional.soft_dice_score` for the formula."""

    binary = BinarySoftDiceScore
    multiclass = MulticlassSoftDiceScore
    multilabel = MultilabelSoftDiceScore


_DICE = Score.of("dice")
