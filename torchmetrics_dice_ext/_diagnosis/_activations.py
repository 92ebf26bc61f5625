"""Floor 6: float preds that are valid, but not what the options say: wrong or doubled activations, a bad threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from torchmetrics_dice_ext._counts import OverlapCounts
from torchmetrics_dice_ext._diagnosis._batch import Batch, value_range
from torchmetrics_dice_ext._diagnosis._report import Finding, Severity
from torchmetrics_dice_ext._faults import TOLERANCE
from torchmetrics_dice_ext._reductions import divide, score_classes
from torchmetrics_dice_ext._scores import dice
from torchmetrics_dice_ext._views import Form, LabelViews, MaskViews

Explained = tuple[Finding, Batch]

_LEAST_ENTRIES, _MANY_ENTRIES = 100, 1000  # below the first values say nothing, from the second on their range much
_WIDE = 0.8  # a range of probabilities that hardly any but real ones span
_THRESHOLDS = (0.001, 0.002, 0.005, 0.01, 0.02, *(step / 20 for step in range(1, 20)), 0.98, 0.99, 0.995, 0.998, 0.999)
_WORTH = 0.1  # rise of Dice from which on another threshold is reported
_LINES = 1 << 18
_LEAST_LINES = 16
_MOST_VECTORS = 1 << 16


def explain_activations(batch: Batch) -> Iterator[Explained]:
    """What float preds are, in the order of causes, each finding with the batch after its remedy."""
    if not batch.views.preds.is_floating_point() or not batch.views.preds.numel():
        return
    checks: tuple[Callable[[Batch], Explained | None], ...] = (
        _softmax_axis,
        _probabilities_as_logits,
        _sigmoid_twice,
        _softmax_twice,
    )
    for check in checks:
        explained = check(batch)
        if explained is not None:
            yield explained
            batch = explained[1]


def _softmax_axis(batch: Batch) -> Explained | None:
    """Scores that sum to 1 along an axis that is not the class axis."""
    preds = batch.whole.preds
    if not preds.is_floating_point():
        return None
    single = [axis for axis in (0, 1) if preds.shape[axis] == 1]
    if single and preds.numel() >= _LEAST_ENTRIES and bool((batch.views.preds == 1).all()):
        shape = tuple(batch.given.preds.shape)
        message = f"all preds of shape {shape} are exactly 1: softmax over an axis with a single entry."
        remedy = "preds = torch.sigmoid(logits)  # softmax needs an axis with two classes or more"
        return _untested(batch, "softmax_axis", "warning", message, remedy)
    classes = isinstance(batch.views, LabelViews)
    if classes and _sums_to_one(preds, 1):
        return None
    for axis in range(preds.ndim):
        if (classes or axis != 1) and preds.shape[axis] > 1 and _sums_to_one(preds, axis):
            name = batch.axis(axis - 2) if axis > 1 else axis
            message = f"preds sum to 1 along axis {name}, which isn't the class axis: softmax over the wrong axis."
            remedy = (
                f"preds = logits.softmax(dim={batch.counting.class_dim})"
                if classes
                else "preds = torch.sigmoid(logits)"
            )
            return _untested(batch, "softmax_axis", "error", message, remedy)
    return None


def _untested(batch: Batch, code: str, severity: Severity, message: str, remedy: str) -> Explained:
    return Finding(code=code, severity=severity, message=message, remedy=remedy, dice_before=batch.planes.dice), batch


def _sums_to_one(preds: Tensor, axis: int) -> bool:
    """Whether whole lines along an axis are distributions, as softmax makes them; constant lines don't tell."""
    lines = preds
    while lines.numel() > max(_LINES, _LEAST_LINES * preds.shape[axis]):
        longest = max((a for a in range(lines.ndim) if a != axis), key=lambda a: lines.shape[a])
        lines = lines[(*(slice(None) for _ in range(longest)), slice(None, None, 2))]
    lines = lines.double()
    if lines.numel() < _LEAST_LINES * preds.shape[axis]:
        return False
    slack = 4 * float(torch.finfo(preds.dtype).eps) * math.sqrt(preds.shape[axis]) + 1e-5
    distributions = bool((lines >= 0).all()) and bool(((lines.sum(axis) - 1).abs() <= slack).all())
    return distributions and float(lines.amax()) > 1.01 / preds.shape[axis]


def _probabilities_as_logits(batch: Batch) -> Explained | None:
    """Values in [0, 1] where logits were announced."""
    preds = batch.views.preds
    if not isinstance(batch.views, MaskViews) or not batch.counting.from_logits or preds.numel() < _LEAST_ENTRIES:
        return None
    low, high = batch.ranges["preds"]
    if not -TOLERANCE <= low < high <= 1 + TOLERANCE:
        return None
    message = (
        f"`from_logits=True`, but all preds lie in [{low:.3g}, {high:.3g}] like probabilities; as logits none is"
        " negative, so the threshold 0 calls nearly all of them positive."
    )
    remedy = "diagnose(preds, target, from_logits=False, ...)  # or pass the output from before the sigmoid"
    return _by_range(batch, "probabilities_as_logits", high - low, message, remedy, batch.edited(from_logits=False))


def _sigmoid_twice(batch: Batch) -> Explained | None:
    """Probabilities in [0.5, 0.731], the range of sigmoid over [0, 1]."""
    preds = batch.views.preds
    if not isinstance(batch.views, MaskViews) or batch.counting.from_logits or preds.numel() < _LEAST_ENTRIES:
        return None
    slack = float(torch.finfo(preds.dtype).eps)
    low, high = batch.ranges["preds"]
    once = _logit(low), _logit(high)
    if not (-8 * slack <= once[0] and once[1] <= 1 + 8 * slack and once[1] - once[0] > 0.5):
        return None
    message = (
        f"all preds lie in [{low:.3f}, {high:.3f}]: sigmoid turns [0, 1] into [0.500, 0.731], so it was applied twice."
    )
    after = batch.edited(preds=lambda p: p.double().logit())
    remedy = "preds = torch.sigmoid(logits)  # once; `preds.logit()` takes the second one back"
    return _by_range(batch, "sigmoid_twice", once[1] - once[0], message, remedy, after)


def _by_range(batch: Batch, code: str, span: float, message: str, remedy: str, after: Batch) -> Explained:
    certain = span >= _WIDE and batch.views.preds.numel() >= _MANY_ENTRIES
    finding = Finding(
        code=code,
        severity="error" if certain else "warning",
        message=message,
        remedy=remedy,
        dice_before=batch.planes.dice,
        dice_after=after.planes.dice,
    )
    return finding, after


def _logit(p: float) -> float:
    return math.log(p / (1 - p)) if 0 < p < 1 else math.inf


def _softmax_twice(batch: Batch) -> Explained | None:
    """Probabilities whose logarithms are probabilities again, but for a constant: log softmax(p) = p - log Σ exp(p)."""
    views = batch.views
    if not isinstance(views, LabelViews) or views.preds_form is not Form.SCORES:
        return None
    vectors = views.preds.movedim(1, -1).flatten(0, -2)
    vectors = vectors[:: max(1, vectors.shape[0] // _MOST_VECTORS)].double()
    slack = 8 * float(torch.finfo(views.preds.dtype).eps)
    if (
        vectors.shape[0] < _LEAST_ENTRIES
        or not bool(((vectors.sum(1) - 1).abs() < 1e-4 + slack).all())
        or float(vectors.amin()) <= 0
    ):
        return None
    logs = vectors.log()
    once = logs + (1 - logs.sum(1, keepdim=True)) / vectors.shape[1]
    low, high = value_range([once])
    slack *= vectors.shape[1]
    if low < -1e-3 - slack or high > 1 + 1e-3 + slack or float((once.amax(1) > 0.9).double().mean()) < 0.2:
        return None
    message = (
        f"the highest score is {float(vectors.amax()):.3f}, just what softmax makes of a probability of {high:.3f}"
        f" among {vectors.shape[1]} classes: softmax was applied twice. Only losses and soft scores see it."
    )
    return _untested(
        batch, "softmax_twice", "warning", message, "preds = logits  # scores and losses take logits as they are"
    )


def find_threshold(batch: Batch) -> Explained | None:
    """Another threshold with a much better Dice, for each label the best."""
    views, counting, planes = batch.views, batch.counting, batch.planes
    if not isinstance(views, MaskViews) or not views.preds.is_floating_point() or views.preds.numel() < _MANY_ENTRIES:
        return None
    figures = _dice_of_thresholds(batch)
    best = figures.nan_to_num(-1.0).max(0)
    n = planes.counts
    everywhere = divide((2 * n.target_cardinality, n.support + n.target_cardinality), 0.0)  # Dice of preds 1 everywhere
    gains = best.values - torch.maximum(planes.class_dice.nan_to_num(0.0), everywhere)
    wanted = gains >= _WORTH
    if not bool(wanted.any()):
        return None
    known = counting.thresholds
    choice = tuple(
        _THRESHOLDS[i] if want else known[k] for k, (i, want) in enumerate(zip(best.indices, wanted, strict=True))
    )
    after = batch.edited(thresholds=choice)
    if not after.planes.dice >= planes.dice + _WORTH:
        return None
    low, high = batch.ranges["preds"]
    value = str(choice[0]) if len(set(choice)) == 1 else str(list(choice))
    now = str(known[0]) if len(set(known)) == 1 else str(list(known))
    kind = "logits" if counting.from_logits else "probabilities"
    message = (
        f"threshold {now} is far from the best one for these preds ({kind} from {low:.3g} to {high:.3g}): {value}."
    )
    remedy = f"diagnose(preds, target, threshold={value}, ...)  # choose it on data that you don't report"
    figures_now = {"dice_before": planes.dice, "dice_after": after.planes.dice}
    return Finding(code="threshold", severity="warning", message=message, remedy=remedy, **figures_now), after


def _dice_of_thresholds(batch: Batch) -> Tensor:
    """Dice `(B, L)` of every threshold, from one histogram per label and side."""
    views, planes = batch.views, batch.planes
    bounds = torch.tensor(_THRESHOLDS, dtype=torch.float64)
    bounds = torch.logit(bounds) if batch.counting.from_logits else bounds
    preds, target, counted = (
        side.expand_as(views.preds).transpose(0, 1).flatten(1).contiguous()
        for side in (views.preds, planes.target, planes.counted)
    )
    bins = torch.bucketize(preds.double(), bounds)  # bounds[b - 1] < value <= bounds[b]: above the first b bounds
    bins += (len(bounds) + 1) * torch.arange(len(bins)).unsqueeze(1)  # those of each label apart
    histograms = (torch.bincount(bins[side], minlength=len(bins) * (len(bounds) + 1)) for side in (target, counted))
    above = [bars.view(len(bins), -1).T.flip(0).cumsum(0).flip(0)[1:].double() for bars in histograms]
    sizes = (side.sum(1).double().expand_as(above[0]) for side in (target, counted))
    return score_classes(dice, OverlapCounts(*above, *sizes), torch.ones(len(bins), dtype=torch.bool), math.nan)
