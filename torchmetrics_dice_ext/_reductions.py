"""Floor 3: from counts to scores to one number: the zero-division rule, class averages, means over observations.

Everything here gives the same bits on every device and for every order and batching of the observations: class sums run
along a fixed tree, means over observations are sums of fixed-point integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchmetrics_dice_ext._counts import OverlapCounts
from torchmetrics_dice_ext._options import Average

Equation = Callable[[OverlapCounts], tuple[Tensor, Tensor]]

_FRACTION_BITS = 52  # scores in [0, 1] are kept as multiples of 2⁻⁵²
_HALF_BITS = 26  # in two halves, so that int64 sums hold 2³⁷ of them


def as_overlap_counts(counts: Tensor) -> OverlapCounts:
    """The named columns of `(..., K, 4)`, in float64 (on the CPU where the device has none)."""
    if counts.device.type == "mps":
        counts = counts.cpu()
    return OverlapCounts(*counts.to(torch.float64).unbind(-1))


def select(n: OverlapCounts, classes: slice) -> OverlapCounts:
    """The counts of some classes."""
    return OverlapCounts(*(column[..., classes] for column in n))


def with_background(n: OverlapCounts) -> OverlapCounts:
    """Counts of (background, foreground) from those of the foreground."""
    background = OverlapCounts(
        n.support - n.pred_cardinality - n.target_cardinality + n.intersection,
        n.support - n.pred_cardinality,
        n.support - n.target_cardinality,
        n.support,
    )
    return OverlapCounts(*(torch.cat(pair, dim=-1) for pair in zip(background, n, strict=True)))


def class_sum(values: Tensor) -> Tensor:
    """Sum over the last axis along a fixed binary tree."""
    while values.shape[-1] > 1:
        if values.shape[-1] % 2:
            values = torch.cat((values, torch.zeros_like(values[..., :1])), dim=-1)
        values = values[..., ::2] + values[..., 1::2]
    return values.squeeze(-1)


def divide(ratio: tuple[Tensor, Tensor], zero_division: float) -> Tensor:
    """Numerator / denominator, `zero_division` where the denominator is 0."""
    numerator, denominator = ratio
    defined = denominator > 0
    return torch.where(defined, numerator / torch.where(defined, denominator, 1), zero_division)


def score_classes(equation: Equation, n: OverlapCounts, scored: Tensor, zero_division: float) -> Tensor:
    """Scores `(..., K)`; nan where a class is not `scored` (bool, K) or has seen no valid voxel."""
    return divide(equation(n), zero_division).masked_fill(~scored | (n.support == 0), math.nan)


def average_classes(scores: Tensor, n: OverlapCounts, average: Average, zero_division: float) -> Tensor:
    """Mean `(...)` of scores `(..., K)` over the classes that have one, plain (macro) or by target size (weighted)."""
    present = ~scores.isnan()
    weights = present.to(scores.dtype) if average == "macro" else torch.where(present, n.target_cardinality, 0)
    mean = divide((class_sum(weights * scores.nan_to_num(0.0)), class_sum(weights)), zero_division)
    return mean.masked_fill(~present.any(-1), math.nan)


def score_pooled(equation: Equation, n: OverlapCounts, scored: Tensor, zero_division: float) -> Tensor:
    """Score `(...)` of the counts `(..., K)` summed over the `scored` classes (micro)."""
    pooled = OverlapCounts(*(class_sum(column * scored) for column in n))
    return divide(equation(pooled), zero_division).masked_fill(pooled.support == 0, math.nan)


def score_weighted(
    equation: Equation, n: OverlapCounts, scored: Tensor, weights: Tensor, zero_division: float
) -> Tensor:
    """Ratio `(...)` of both sides, summed over the `scored` classes with `weights` `(..., K)` (Generalized Dice)."""
    weights = weights * scored
    numerator, denominator = (class_sum(weights * side) for side in equation(n))
    nothing_seen = class_sum(n.support * scored) == 0
    return divide((numerator, denominator), zero_division).masked_fill(nothing_seen, math.nan)


def to_fixed_point(scores: Tensor) -> Tensor:
    """Scores `(...)` in [0, 1] or nan as int64 `(..., 3)` that can be summed exactly: high half, low half, number."""
    present = ~scores.isnan()
    fixed = torch.round(scores.nan_to_num(0.0) * 2**_FRACTION_BITS).to(torch.int64)
    return torch.stack((fixed >> _HALF_BITS, fixed & (2**_HALF_BITS - 1), present.to(torch.int64)), dim=-1)


def mean_of_fixed_point(sums: Tensor) -> Tensor:
    """The mean `(...)` in float64 of sums `(..., 3)` of `to_fixed_point`; nan of nothing."""
    high, low, number = sums.to(torch.float64).unbind(-1)
    mean: Tensor = (high * 2**_HALF_BITS + low) * 2.0**-_FRACTION_BITS / number
    return mean
