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
    """Options of every loss.

    Options (keyword-only, the same for all):
        from_logits: Whether preds are logits (default True), to which softmax (multiclass) or sigmoid is applied.
        squared: Square the cardinalities, P = Σp² and T = Σt², as V-Net does (default False).
        smooth: Added to numerator and denominator of the equation (default 0), in voxels; those of Generalized Dice are
            weighted sums. The losses don't need it: a class without target is left out. Above 0 it takes part, and its
            loss grows with what is predicted of it.
        average: "macro" (default), "micro", "weighted" (by target cardinality) or "none" (one loss per class): classes
            -> one number. Binary and Generalized Dice have none.
        aggregation_level: "samplewise" (default) takes the mean over the samples' losses, "global" pools the batch
            first.
        include_background: Whether class 0 is part of the loss (multiclass, default True).
        ignore_index: Target values that are void.
        class_dim: The class axis (default 1; -1 for channels-last).
        class_weights: C weights of at least 0, of which only the ratios matter. They weight the mean over classes; in
            "micro" and Generalized Dice the counts. A module keeps them on its device, a function copies them there at
            every call.
        sync: Whether the ranks of the default process group pool their counts ("global"), or the mean over all their
            samples ("samplewise"); default False. The loss is then that of all ranks' batches together, the same on
            every rank, and so is the gradient that DistributedDataParallel averages: the backward pass of the
            all-reduce sums the gradients over the ranks, and the averaging divides by their number. Every rank must
            call the loss. A malformed batch on one rank is one for all: each raises, or has the loss nan.
        soft_target: Whether the target holds shares in [0, 1] along the class axis (default False: fractions are
            refused). A voxel is void where the share of an ignored class is 1.
        validate_args: True (default) raises on malformed values of tensors on the CPU; for tensors on accelerators and
            under `torch.compile` it never waits: the loss of a malformed batch is nan, its gradient 0. "eager" always
            raises, "deferred" always gives nan, False leaves malformed voxels out without a word.
    """

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


DEFAULTS: LossOptions = {
    "from_logits": True,
    "squared": False,
    "smooth": 0.0,
    "average": "macro",
    "aggregation_level": "samplewise",
    "include_background": True,
    "ignore_index": None,
    "class_dim": 1,
    "class_weights": None,
    "sync": False,
    "soft_target": False,
    "validate_args": True,
}
_INSTEAD = {  # of options that MONAI, segmentation_models_pytorch or the scores have
    "batch": "`aggregation_level='global'`",
    "classes": "`class_weights` of 1 and 0",
    "eps": "not needed, nothing is divided by 0",
    "input_format": "not needed, a target of preds' shape is one-hot",
    "jaccard": "`TverskyLoss` with `alpha=1, beta=1`",
    "log_loss": "`average='none'`, then -log(1 - loss)",
    "mask": "an argument of the call",
    "reduction": "not needed, the loss is a mean over samples, with `average='none'` one for each class",
    "regions": "`task='multilabel'` on unions of probabilities",
    "sigmoid": "`from_logits=True`, the default",
    "smooth_dr": "`smooth`",
    "smooth_nr": "`smooth`",
    "soft_label": "`soft_target`",
    "softmax": "`from_logits=True`, the default",
    "squared_pred": "`squared`",
    "threshold": "not needed, probabilities are never thresholded",
    "to_onehot_y": "not needed, a label map is read as such",
    "w_type": "`weight_type`",
    "weight": "`class_weights`",
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a loss is, checked; build it with `Setting.of`.

    Attributes:
        score: The score whose distance from 1 is the loss.
        counting: What is counted.
        readout: The average over classes, and whether class 0 is one of them.
        level: What one observation is.
        smooth, gamma, sync, soft_target, validate_args: As the options.
        class_weights: One weight for every class; None where all count alike.
    """

    score: Score
    counting: Counting
    readout: Readout
    level: Level
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
        num_classes: int | None,
        num_labels: int | None,
        options: LossOptions,
        gamma: float = 1.0,
    ) -> Setting:
        """Check every option of a loss; options that are none of a loss are refused."""
        _refuse_strangers(score, options)
        given: LossOptions = {**DEFAULTS, **options}
        counting = Counting.of(
            task,
            num_classes=num_classes,
            num_labels=num_labels,
            from_logits=given["from_logits"],
            class_dim=given["class_dim"],
            ignore_index=given["ignore_index"],
            soft=True,
            squared=given["squared"],
        )
        weights = given["class_weights"]
        _check_combination(score, counting, given["average"], weights)
        readout = Readout.of(counting, average=given["average"], include_background=given["include_background"])
        return cls(
            score=score,
            counting=counting,
            readout=readout,
            level=one_of("aggregation_level", given["aggregation_level"], ("samplewise", "global")),
            smooth=number("smooth", given["smooth"], "a number of at least 0", lambda v: v >= 0),
            gamma=number("gamma", gamma, "a number above 0", lambda v: v > 0),
            class_weights=None if weights is None else _class_weights(weights, counting, readout),
            sync=flag("sync", given["sync"]),
            soft_target=flag("soft_target", given["soft_target"]),
            validate_args=validation_mode(given["validate_args"]),
        )

    @property
    def changed(self) -> dict[str, Any]:
        """The options and parameters that differ from their defaults."""
        options = {
            "from_logits": self.counting.from_logits,
            "squared": self.counting.squared,
            "smooth": self.smooth,
            "average": self.readout.average,
            "aggregation_level": self.level,
            "include_background": self.readout.include_background,
            "ignore_index": self.counting.ignore_index or None,
            "class_dim": self.counting.class_dim,
            "class_weights": self.class_weights,
            "sync": self.sync,
            "soft_target": self.soft_target,
            "validate_args": self.validate_args,
        }
        given = {**dict(self.score.parameters), "gamma": self.gamma, **options}
        defaults = {**dict(Score.of(self.score.name).parameters), "gamma": 1.0, **DEFAULTS}
        return {name: value for name, value in given.items() if value != defaults[name]}

    def weights_on(self, device: torch.device) -> Tensor:
        """The class weights over the largest of them, on a device; copied to it, unless all count alike."""
        dtype = torch.float32 if device.type == "mps" else torch.float64
        if self.class_weights is None:
            return torch.ones(self.counting.num_outputs, dtype=dtype, device=device)
        largest = max(self.class_weights)
        return torch.tensor([weight / largest for weight in self.class_weights], dtype=dtype, device=device)

    def raises_on(self, device: torch.device) -> bool:
        """Whether malformed values on that device are raised at once, which waits for it."""
        if self.validate_args is True:
            return device.type == "cpu" and not torch.compiler.is_compiling()
        return self.validate_args == "eager"


def _refuse_strangers(score: Score, options: LossOptions) -> None:
    """Refuse options that are none of a loss, with the ways out that are known."""
    strangers = sorted(options.keys() - DEFAULTS.keys())
    if strangers:
        known = sorted([*DEFAULTS, *dict(score.parameters), *["gamma"] * (score.name == "tversky")])
        ways = "".join(f" `{name}`: {_INSTEAD[name]}." for name in strangers if name in _INSTEAD)
        raise TypeError(f"Unexpected options {strangers}; a {score.name} loss takes {known}.{ways}")


def _check_combination(score: Score, counting: Counting, average: Any, class_weights: Any) -> None:
    """Refuse options that have no meaning together."""
    binary = counting.task == "binary"
    if average != "macro" and (binary or score.reduces_classes):
        raise ValueError(f"`average` has no meaning for a {score.name} loss of task {counting.task!r}: leave it out.")
    if class_weights is not None and (binary or average in ("none", None)):
        where = "task 'binary'" if binary else "`average='none'`"
        raise ValueError(f"`class_weights` weight the average over classes, which {where} has none of: leave them out.")
    if counting.squared and binary and score.reduces_classes:
        raise ValueError(
            "`squared=True` can't go with the binary Generalized Dice loss, which needs the background's squares too:"
            " use task='multiclass' with num_classes=2."
        )
    parameters = dict(score.parameters)
    if counting.squared and score.name == "tversky" and parameters["alpha"] != parameters["beta"]:
        raise ValueError(
            f"`squared=True` needs `alpha` equal to `beta`, got {parameters['alpha']} and {parameters['beta']}:"
            f" with squares P can be less than I, and the loss could leave [0, 1]."
        )


def _class_weights(weights: Any, counting: Counting, readout: Readout) -> tuple[float, ...]:
    values, size = weights.tolist() if hasattr(weights, "tolist") else weights, counting.num_outputs
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"`class_weights` must be a sequence of {size} numbers, one per class, got {weights!r}.")
    if len(values) != size:
        raise ValueError(f"`class_weights` must hold {size} numbers, one per class, got {len(values)}: {weights!r}.")
    checked = tuple(number("class_weights", value, "numbers of at least 0", lambda v: v >= 0) for value in values)
    first = 0 if readout.include_background else 1
    if not any(weight for label, weight in enumerate(checked) if label >= first and label not in counting.void_outputs):
        raise ValueError(f"`class_weights` can't all be 0 for the classes in the loss, got {weights!r}.")
    return checked
