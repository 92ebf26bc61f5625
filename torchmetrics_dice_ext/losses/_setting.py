"""Floor 5: the options of a loss, validated once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from torchmetrics_dice_ext._options import (
    Average,
    Counting,
    Readout,
    Task,
    ValidateArgs,
    flag,
    number,
    one_of,
    validation_mode,
)
from torchmetrics_dice_ext._readout import Score

Level = Literal["samplewise", "global"]


class LossOptions(TypedDict, total=False):
    """Options of every loss; the package's docstring explains them."""

    from_logits: bool
    squared: bool
    smooth: float
    average: Average | None
    aggregation_level: Level
    include_background: bool
    ignore_index: int | Collection[int] | None
    class_dim: int
    class_weights: Sequence[float] | Tensor | None
    sync: bool
    soft_target: bool
    validate_args: ValidateArgs


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a loss is, checked; build it with `Setting.of`.

    Attributes:
        score: The score whose distance from 1 is the loss.
        counting: What is counted.
        readout: The average over classes, and whether class 0 is one of them.
        level: What one observation is.
        squared, smooth, gamma, sync, soft_target, validate_args: As the options.
        class_weights: One weight for every class; None where all count alike.
    """

    score: Score
    counting: Counting
    readout: Readout
    level: Level
    squared: bool
    smooth: float
    gamma: float
    class_weights: tuple[float, ...] | None
    sync: bool
    soft_target: bool
    validate_args: ValidateArgs

    @classmethod
    def of(
        cls,
        score: Score,
        task: Task,
        num_classes: int | None = None,
        num_labels: int | None = None,
        *,
        gamma: float = 1.0,
        from_logits: bool = True,
        squared: bool = False,
        smooth: float = 0.0,
        average: Average | None = "macro",
        aggregation_level: Level = "samplewise",
        include_background: bool = True,
        ignore_index: int | Collection[int] | None = None,
        class_dim: int = 1,
        class_weights: Sequence[float] | Tensor | None = None,
        sync: bool = False,
        soft_target: bool = False,
        validate_args: ValidateArgs = True,
    ) -> Setting:
        """Check every option of a loss."""
        counting = Counting.of(
            task,
            num_classes=num_classes,
            num_labels=num_labels,
            from_logits=from_logits,
            class_dim=class_dim,
            ignore_index=ignore_index,
            soft=True,
        )
        _check_combination(score, counting, average, flag("squared", squared), class_weights)
        return cls(
            score=score,
            counting=counting,
            readout=Readout.of(counting, average=average, include_background=include_background),
            level=one_of("aggregation_level", aggregation_level, ("samplewise", "global")),
            squared=squared,
            smooth=number("smooth", smooth, "a number of at least 0", lambda v: v >= 0),
            gamma=number("gamma", gamma, "a number above 0", lambda v: v > 0),
            class_weights=None if class_weights is None else _class_weights(class_weights, counting.num_outputs),
            sync=flag("sync", sync),
            soft_target=flag("soft_target", soft_target),
            validate_args=validation_mode(validate_args),
        )

    def weights_on(self, device: torch.device) -> Tensor:
        """The class weights on a device; copied to it, unless all count alike."""
        if self.class_weights is None:
            return torch.ones(self.counting.num_outputs, device=device)
        return torch.tensor(self.class_weights, device=device)

    def raises_on(self, device: torch.device) -> bool:
        """Whether malformed values on that device are raised at once, which waits for it."""
        if self.validate_args is True:
            return device.type == "cpu" and not torch.compiler.is_compiling()
        return self.validate_args == "eager"


def _check_combination(score: Score, counting: Counting, average: Any, squared: bool, class_weights: Any) -> None:
    """Refuse options that have no meaning together."""
    binary = counting.task == "binary"
    if average != "macro" and (binary or score.reduces_classes):
        raise ValueError(f"`average` has no meaning for a {score.name} loss of task {counting.task!r}: leave it out.")
    if class_weights is not None and (binary or average in ("none", None)):
        where = "task 'binary'" if binary else "`average='none'`"
        raise ValueError(f"`class_weights` weight the average over classes, which {where} has none of: leave them out.")
    if squared and binary and score.reduces_classes:
        raise ValueError(
            "`squared=True` can't go with the binary Generalized Dice loss, which needs the background's squares too:"
            " use task='multiclass' with num_classes=2."
        )
    parameters = dict(score.parameters)
    if squared and score.name == "tversky" and parameters["alpha"] != parameters["beta"]:
        raise ValueError(
            f"`squared=True` needs `alpha` equal to `beta`, got {parameters['alpha']} and {parameters['beta']}:"
            f" with squares P can be less than I, and the loss could leave [0, 1]."
        )


def _class_weights(weights: Sequence[float] | Tensor, size: int) -> tuple[float, ...]:
    values = weights.tolist() if isinstance(weights, Tensor) else weights
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"`class_weights` must be a sequence of {size} numbers, one per class, got {weights!r}.")
    if len(values) != size:
        raise ValueError(f"`class_weights` must hold {size} numbers, one per class, got {len(values)}: {weights!r}.")
    checked = tuple(number("class_weights", value, "numbers of at least 0", lambda v: v >= 0) for value in values)
    if not any(checked):
        raise ValueError("`class_weights` can't all be 0.")
    return checked
