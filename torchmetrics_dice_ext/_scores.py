"""Floor 3: one equation per score, and the class weights of the Generalized Dice; nothing else.

An equation takes `OverlapCounts` (float, any shape, hard or soft) and gives numerator and denominator. They are written
so that rounding can't make a numerator exceed its denominator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchmetrics_dice_ext._counts import OverlapCounts

Ratio = tuple[Tensor, Tensor]


def dice(n: OverlapCounts) -> Ratio:
    """2I / (P + T)."""
    return 2 * n.intersection, n.pred_cardinality + n.target_cardinality


def jaccard(n: OverlapCounts) -> Ratio:
    """I / (P + T - I)."""
    return n.intersection, n.pred_cardinality + n.target_cardinality - n.intersection


def precision(n: OverlapCounts) -> Ratio:
    """I / P."""
    return n.intersection, n.pred_cardinality


def recall(n: OverlapCounts) -> Ratio:
    """I / T."""
    return n.intersection, n.target_cardinality


def specificity(n: OverlapCounts) -> Ratio:
    """(V' - P - T + I) / (V' - T)."""
    negatives = n.support - n.target_cardinality
    return negatives - (n.pred_cardinality - n.intersection), negatives


def tversky(n: OverlapCounts, alpha: float, beta: float) -> Ratio:
    """I / (I + alpha (P - I) + beta (T - I))."""
    false_positives, false_negatives = n.pred_cardinality - n.intersection, n.target_cardinality - n.intersection
    return n.intersection, n.intersection + alpha * false_positives + beta * false_negatives


def fbeta(n: OverlapCounts, beta: float) -> Ratio:
    """(1 + beta²) I / (P + beta² T), written as the Tversky index that it is."""
    return tversky(n, alpha=1 / (1 + beta**2), beta=beta**2 / (1 + beta**2))


def volumetric_similarity(n: OverlapCounts) -> Ratio:
    """1 - |P - T| / (P + T)."""
    total = n.pred_cardinality + n.target_cardinality
    return total - (n.pred_cardinality - n.target_cardinality).abs(), total


def volume_weights(n: OverlapCounts, scored: Tensor, weight_type: str) -> Tensor:
    """Class weights of the Generalized Dice: 1/T² "square", 1/T "simple", 1 "linear".

    A class without target gets the largest weight of the `scored` classes that have one, 1 if none has.
    """
    volume = n.target_cardinality
    if weight_type == "linear":
        return torch.ones_like(volume)
    present = volume > 0
    volume = torch.where(present, volume, 1)
    weights = 1 / (volume * volume if weight_type == "square" else volume)
    known = present & scored
    largest = torch.where(known, weights, 0).amax(-1, keepdim=True)
    return torch.where(present, weights, torch.where(known.any(-1, keepdim=True), largest, 1))
