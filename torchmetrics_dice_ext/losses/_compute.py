"""Floor 5: soft counts of each observation -> losses of observations -> their mean.

The equations and the averages over classes are those of the scores.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, distributed

from torchmetrics_dice_ext._counts import OverlapCounts, refuse_faults
from torchmetrics_dice_ext._faults import Fault
from torchmetrics_dice_ext._inputs import read_inputs
from torchmetrics_dice_ext._reductions import (
    Equation,
    average_classes,
    score_classes,
    score_pooled,
    select,
    with_background,
)
from torchmetrics_dice_ext._scores import Ratio
from torchmetrics_dice_ext._soft_counts import count_soft
from torchmetrics_dice_ext._views import Views
from torchmetrics_dice_ext.losses._setting import Setting


def loss_of_batch(
    preds: Tensor, target: Tensor, mask: Tensor | None, setting: Setting, class_weights: Tensor | None = None
) -> Tensor:
    """Counts of each observation -> losses of observations -> their mean."""
    views = read_inputs(preds, target, mask, setting.counting, keep_graph=True)
    if not views.preds.is_floating_point():
        raise TypeError(
            f"`preds` of a loss must be logits or probabilities of a float dtype, got {views.preds.dtype}: decisions"
            f" have no gradient. Take the network's output before argmax or threshold."
        )
    counts, faults = count_soft(views, setting.counting, soft_target=setting.soft_target)
    malformed = None if setting.validate_args is False else _pooled(faults.sum(), setting) > 0
    if setting.raises_on(faults.device):
        _refuse(views, faults, malformed, setting)
    if setting.level == "global":
        counts = _pooled(counts.sum(0, keepdim=True), setting)
    if class_weights is None:
        class_weights = setting.weights_on(counts.device)
    losses = _observation_losses(OverlapCounts(*counts.unbind(-1)), class_weights.to(counts), setting)
    loss = _mean(losses, setting)
    if malformed is not None:
        loss = loss.masked_fill(malformed, math.nan)
    return loss.to(torch.promote_types(views.preds.dtype, torch.float32))


def _refuse(views: Views, faults: Tensor, malformed: Tensor | None, setting: Setting) -> None:
    """Raise what the faults of a batch say, or that another batch that it is pooled with has some."""
    fractions = int(faults[Fault.TARGET_FRACTION])
    if setting.soft_target and fractions:
        raise ValueError(
            f"`target` must hold shares from 0 to 1 (`soft_target=True`), got other values in {fractions} voxels."
        )
    try:
        refuse_faults(views, faults)
    except ValueError as error:
        soft = fractions or int(faults[Fault.TARGET_ONE_HOT])
        raise ValueError(f"{error}" + " For fractions meant as shares say `soft_target=True`." * bool(soft)) from None
    if malformed:
        raise ValueError("The batch of another rank, with which this one is pooled (`sync=True`), is malformed.")


def _observation_losses(n: OverlapCounts, class_weights: Tensor, setting: Setting) -> Tensor:
    """Losses `(observations,)`, with average "none" `(observations, K)`; nan where nothing takes part."""
    equation, average = _smoothed(setting.score.equation, setting.smooth), setting.readout.average
    generalized = setting.score.reduces_classes
    if not setting.readout.include_background:
        n, class_weights = select(n, slice(1, None)), class_weights[1:]
    if generalized and setting.counting.task == "binary":
        n = with_background(n)
    scored = _taking_part(n, setting)
    if generalized:
        class_weights = class_weights * setting.score.weights(n, scored)
    if generalized or average == "micro":
        weighted = OverlapCounts(*(column * class_weights for column in n))
        return _focused(1 - score_pooled(equation, weighted, scored, 0.0), setting.gamma)
    losses = _focused(1 - score_classes(equation, n, scored, 0.0), setting.gamma)
    if average == "none":
        return losses
    importance = class_weights * (n.target_cardinality if average == "weighted" else torch.ones_like(n.support))
    return average_classes(
        losses, OverlapCounts(n.intersection, n.pred_cardinality, importance, n.support), "weighted", math.nan
    )


def _taking_part(n: OverlapCounts, setting: Setting) -> Tensor:
    """Which classes take part in which observation, bool `(observations, K)`."""
    scored = n.support > 0 if setting.smooth > 0 else n.target_cardinality > 0
    first = 0 if setting.readout.include_background else 1
    classes = torch.arange(first, first + scored.shape[-1], device=scored.device)
    for void in setting.counting.void_outputs:
        scored = scored & (classes != void)
    return scored


def _smoothed(equation: Equation, smooth: float) -> Equation:
    """The equation with `smooth` added to numerator and denominator."""

    def smoothed(n: OverlapCounts) -> Ratio:
        numerator, denominator = equation(n)
        return numerator + smooth, denominator + smooth

    return smoothed


def _focused(losses: Tensor, gamma: float) -> Tensor:
    """Losses to the power of gamma; the slope at 0, infinite for gamma below 1, is taken as 0."""
    if gamma == 1:
        return losses
    positive = losses > 0
    powers = torch.where(positive, losses, 1) ** gamma
    return torch.where(positive, powers, torch.where(losses.isnan(), math.nan, 0.0))


def _mean(losses: Tensor, setting: Setting) -> Tensor:
    """Mean over the observations that have a loss, 0 if none has."""
    present = ~losses.isnan()
    sums = torch.stack((torch.where(present, losses, 0).sum(0), present.sum(0).to(losses.dtype)))
    total, observations = (_pooled(sums, setting) if setting.level == "samplewise" else sums).unbind(0)
    return (total / observations.clamp(min=1)).clamp(0, 1)


def _pooled(sums: Tensor, setting: Setting) -> Tensor:
    """Sums over the ranks, if they are to be pooled."""
    if not (setting.sync and distributed.is_available() and distributed.is_initialized()):
        return sums
    return _SumOverRanks.apply(sums)  # type: ignore[no-any-return, no-untyped-call]


class _SumOverRanks(torch.autograd.Function):
    """All-reduce; its backward pass sums gradients too, as every rank's loss depends on every rank's input."""

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _SumOverRanks.apply(*grads)  # type: ignore[no-any-return, no-untyped-call]
