"""Floor 6: whether a remedy that raises Dice is more than chance, and optimal assignment.

A remedy is tested against the null hypothesis that preds and target have nothing to do with each other: then any
circular shift of a sample would fit as well. The share of shifts that do is a p-value per sample, which needs no model
of how smooth images are. Fisher's method joins the samples, and each alternative tried is paid for (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchmetrics_dice_ext._diagnosis._batch import Batch, Planes
from torchmetrics_dice_ext._diagnosis._report import Finding

GAIN = 0.2  # rise of the foreground Dice that chance has to explain
SMALL_GAIN = 0.05  # and a smaller one, of images that are nearly symmetric: it has to halve what is missing, all over
HIGH = 0.6  # least foreground Dice after the remedy
_CORRELATED = 0.5  # least correlation of preds and target after the remedy
_CERTAIN = math.log(10_000)  # surprise in nats from which on a finding is an error
_LIKELY = 2.0  # and a warning
_JUDGED_SAMPLES, MOST_PLANES = 64, 4
_BLOCKS = 4  # along each axis


@dataclass(frozen=True)
class Proposal:
    """A remedy that is to be judged.

    Attributes:
        code: The finding's code.
        message: What it means.
        remedy: The way out, as code.
        batch: The batch after the remedy.
        before: Planes that the remedy is about, as they are.
        after: The same after the remedy.
        choices: Logarithm of how many alternatives were tried.
        trusted: Whether surprise alone can make an error of it.
    """

    code: str
    message: str
    remedy: str
    batch: Batch
    before: Planes
    after: Planes
    choices: float
    trusted: bool = True


def judge(proposal: Proposal, dice_before: float) -> Finding | None:
    """The proposal as a finding, if it raises Dice a lot, to a high value, and not by chance."""
    before, after = proposal.before.foreground_dice, proposal.after.foreground_dice
    if not after >= HIGH or correlation(proposal.after) < _CORRELATED:
        return None
    if after - before >= GAIN:
        nats, trusted = surprise(proposal.after) - proposal.choices, proposal.trusted
    elif proposal.before.preds.shape != proposal.after.preds.shape:  # there are no places to compare
        return None
    elif after - before >= SMALL_GAIN and 1 - after <= (1 - before) / 2:
        nats, trusted = consistency(proposal.before, proposal.after) - proposal.choices, False
    else:
        return None
    if nats < _LIKELY:
        return None
    return Finding(
        code=proposal.code,
        severity="error" if trusted and nats >= _CERTAIN else "warning",
        message=proposal.message,
        remedy=proposal.remedy,
        dice_before=dice_before,
        dice_after=proposal.batch.planes.dice,
    )


def correlation(planes: Planes) -> float:
    """Correlation of preds and target over voxels and classes (for two classes the Matthews coefficient)."""
    n = planes.counts
    size = n.support.clamp(min=1)
    preds, target = n.pred_cardinality / size, n.target_cardinality / size
    covariance = (n.intersection / size - preds * target).sum()
    variances = (preds - preds**2).sum() * (target - target**2).sum()
    return float(covariance / variances.sqrt()) if variances > 0 else 0.0


def overlaps_of_shifts(preds: Tensor, target: Tensor) -> Tensor:
    """Intersection after every circular shift of preds: `(K, *S)` planes to `(*S)`, entry d for a shift by d."""
    axes = tuple(range(1, preds.ndim))
    spectrum = torch.fft.rfftn(preds.float(), dim=axes).conj() * torch.fft.rfftn(target.float(), dim=axes)
    overlaps: Tensor = torch.fft.irfftn(spectrum.sum(0), s=preds.shape[1:])
    return overlaps


def largest(planes: Planes) -> list[int]:
    """The foreground classes with most target voxels, those that decide what fits."""
    sizes = planes.counts.target_cardinality[planes.foreground :]
    return [int(k) + planes.foreground for k in sizes.topk(min(MOST_PLANES, sizes.numel())).indices]


def surprise(planes: Planes) -> float:
    """How unlikely such an overlap is for unrelated images, in nats."""
    total, informative = 0.0, 0
    classes = largest(planes)
    counted = planes.counted if planes.counted.shape[1] == 1 else planes.counted[:, classes]
    preds, target = planes.preds[:, classes] & counted, planes.target[:, classes]
    for one, other in zip(preds[:_JUDGED_SAMPLES], target[:_JUDGED_SAMPLES], strict=True):
        here = float((one & other).sum())
        share = float((overlaps_of_shifts(one, other) >= here * (1 - 1e-5) - 0.25).float().mean())
        if 0 < share < 1:
            total -= math.log(share)
            informative += 1
    return -_log_gamma_tail(informative, total)


def consistency(before: Planes, after: Planes) -> float:
    """How unlikely it is that a change without meaning does good in so many places, in nats (sign test over blocks)."""
    errors = [((planes.preds & planes.counted) != planes.target).sum(1) for planes in (before, after)]
    fewer = errors[0] - errors[1]
    for axis in range(1, fewer.ndim):
        fewer = torch.stack([part.sum(axis) for part in fewer.tensor_split(_BLOCKS, axis)], axis)
    better, worse = int((fewer > 0).sum()), int((fewer < 0).sum())
    n, k = better + worse, torch.arange(better, better + worse + 1, dtype=torch.float64)
    chances = math.lgamma(n + 1) - (k + 1).lgamma() - (n - k + 1).lgamma() - n * math.log(2)
    return -float(chances.logsumexp(0)) / 2  # half of it: neighbours and mirrored blocks are not independent


def _log_gamma_tail(n: int, x: float) -> float:
    """Logarithm of the chance that n exponential variables of mean 1 sum to more than x."""
    if n == 0 or x <= 0:
        return 0.0
    terms = [k * math.log(x) - math.lgamma(k + 1) for k in range(n)]
    top = max(terms)
    return min(0.0, top + math.log(sum(math.exp(term - top) for term in terms)) - x)


def best_assignment(scores: Sequence[Sequence[float]]) -> list[int]:
    """The row for each column of a square matrix such that the sum of the chosen scores is largest.

    The Hungarian method with potentials (Kuhn 1955, Munkres 1957), O(n³), as scipy's `linear_sum_assignment`.
    """
    n = len(scores)
    row_potential, column_potential = [0.0] * (n + 1), [0.0] * (n + 1)
    row_of = [n] * (n + 1)  # of each column; column n is where the search for a free one starts
    for row in range(n):
        row_of[n], column = row, n
        slack, came_from, visited = [math.inf] * n, [n] * n, [False] * (n + 1)
        while row_of[column] != n:
            visited[column] = True
            current = row_of[column]
            for j in range(n):
                if not visited[j]:
                    reduced = -scores[current][j] - row_potential[current] - column_potential[j]
                    if reduced < slack[j]:
                        slack[j], came_from[j] = reduced, column
            nearest = min((j for j in range(n) if not visited[j]), key=slack.__getitem__)
            delta = slack[nearest]
            for j in range(n + 1):
                if visited[j]:
                    row_potential[row_of[j]] += delta
                    column_potential[j] -= delta
                elif j < n:
                    slack[j] -= delta
            column = nearest
        while column != n:
            row_of[column] = row_of[came_from[column]]
            column = came_from[column]
    return row_of[:n]
