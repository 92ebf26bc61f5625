"""Floor 6: what the counts of a well-formed batch say about its score."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from torchmetrics_dice_ext._counts import OverlapCounts
from torchmetrics_dice_ext._diagnosis._batch import Batch
from torchmetrics_dice_ext._diagnosis._report import Finding, Severity
from torchmetrics_dice_ext._options import Readout
from torchmetrics_dice_ext._reductions import average_classes, score_pooled
from torchmetrics_dice_ext._scores import dice, precision, recall
from torchmetrics_dice_ext._views import MaskViews

_TELLING_VOXELS = 4096  # from which on a perfect score is suspicious, and a low one meant
_SHOWN_CLASSES = 6


def find_outcomes(batch: Batch, readout: Readout) -> Iterator[Finding]:
    """What is worth knowing of a batch whose preds and target fit each other."""
    names = _names(batch, readout)
    n = batch.planes.counts
    if not bool((n.support > 0).any()):
        void = "every voxel is void" if batch.views.target.numel() else "the batch has no voxels"
        yield _finding(
            batch,
            "nothing_counted",
            "warning",
            f"{void}: there is no score (nan).",
            "print(target.shape, target.unique())",
        )
        return
    constant = _constant(batch)
    if constant is not None:
        yield constant
    else:
        yield from _never_predicted(batch, names)
        if readout.include_background:
            yield from _background_only(batch)
    yield from _absent(batch, names, readout)
    yield from _imbalance(batch, names)


def _names(batch: Batch, readout: Readout) -> Sequence[str | int]:
    """What the classes are called: their names if they fit, else their numbers."""
    if readout.class_names is not None and len(readout.class_names) == batch.counting.num_classes:
        return readout.class_names
    return ("foreground",) if batch.counting.task == "binary" else range(batch.counting.num_classes)


def find_low_dice(batch: Batch) -> Iterator[Finding]:
    """A low score that nothing else explains, by precision and recall."""
    planes = batch.planes
    n = OverlapCounts(*(column[planes.foreground :] for column in planes.counts))
    low = planes.foreground_dice < 0.3
    if low and bool((n.target_cardinality > 0).any()) and float(n.support.max()) >= _TELLING_VOXELS:
        scored = planes.scored[planes.foreground :]
        right, found = (float(score_pooled(ratio, n, scored, math.nan)) for ratio in (precision, recall))
        kind = "too much is predicted" if found > 2 * right else "too little is predicted" if right > 2 * found else ""
        message = (
            f"the foreground Dice is {planes.foreground_dice:.3f} with precision {right:.3f} and recall {found:.3f}"
            f"{f': {kind}' if kind else ''}. No fault in the data or options explains it: look at the model."
        )
        yield _finding(batch, "low_dice", "info", message, "diagnose(...).plot()")


def _finding(
    batch: Batch, code: str, severity: Severity, message: str, remedy: str, after: float | None = None
) -> Finding:
    before = batch.planes.dice
    message = f"in the sample, {message}" if batch.sampled else message
    return Finding(code=code, severity=severity, message=message, remedy=remedy, dice_before=before, dice_after=after)


def _constant(batch: Batch) -> Finding | None:
    """One decision for all voxels, where the target has more."""
    planes, preds = batch.planes, batch.views.preds
    n = planes.counts
    constant = (n.pred_cardinality == 0) | (n.pred_cardinality == n.support)
    varied = (n.target_cardinality > 0) & (n.target_cardinality < n.support)
    if not bool(constant.all()) or not bool(varied.any()) or float(n.support.max()) < 2:
        return None
    class_scores = preds if isinstance(batch.views, MaskViews) or preds.ndim == len(batch.steps) else preds.diff(dim=1)
    same = bool((class_scores == class_scores.flatten()[0]).all())
    seen = ""
    if preds.is_floating_point() and isinstance(batch.views, MaskViews):
        low, high = batch.ranges["preds"]
        cutoff = ", ".join(f"{c:.3g}" for c in dict.fromkeys(batch.views.cutoffs))
        seen = f"; preds lie from {low:.3g} to {high:.3g}, the cutoff is {cutoff}"
    background = not bool(n.pred_cardinality[planes.foreground :].any())
    target = int(n.target_cardinality[planes.foreground :].sum())
    if same and preds.is_floating_point():
        message = f"all preds have one value{seen}: a dead output, or an activation over an axis with a single entry."
        return _finding(
            batch, "constant_preds", "warning", message, "print(preds.min(), preds.max())  # layer by layer"
        )
    if background:
        message = f"preds are background everywhere, target has {target} foreground voxels{seen}."
        if not preds.is_floating_point():
            message += " (Probabilities cast to integers before the threshold become 0.)"
        remedy = "preds = probabilities > 0.1  # is anything below the threshold? else train on, with a Dice loss"
        return _finding(batch, "all_background", "warning", message, remedy)
    message = f"preds are the same class everywhere{seen}."
    return _finding(
        batch, "constant_preds", "warning", message, "print(preds.min(), preds.max())  # before the decision"
    )


def _never_predicted(batch: Batch, names: Sequence[str | int]) -> Iterator[Finding]:
    n = batch.planes.counts
    missing = _indices((n.target_cardinality > 0) & (n.pred_cardinality == 0) & batch.planes.scored)
    if missing:
        shown = _named(missing, names, n.target_cardinality)
        message = f"never predicted, though in the target: class {shown}; their Dice is 0."
        yield _finding(batch, "class_never_predicted", "warning", message, _per_class(batch))


def _per_class(batch: Batch) -> str:
    """The scores of all classes as the user's code, with the options that decide how the batch is read."""
    counting = batch.counting
    thresholds = set(counting.thresholds)
    threshold = list(counting.thresholds) if len(thresholds) > 1 else min(thresholds, default=0.5)
    options = {
        "task": counting.task,
        "num_classes": counting.num_classes if counting.task == "multiclass" else None,
        "num_labels": counting.num_classes if counting.task == "multilabel" else None,
        "threshold": threshold if threshold != 0.5 else None,
        "from_logits": counting.from_logits or None,
        "class_dim": counting.class_dim if counting.class_dim != 1 else None,
        "input_format": counting.input_format if counting.input_format != "auto" else None,
        "ignore_index": list(counting.ignore_index) or None,
        "average": "none" if counting.task != "binary" else None,
    }
    code = [f"{name}={value!r}".replace("'", '"') for name, value in options.items() if value is not None]
    masked = ["mask=mask"] if batch.given.mask is not None else []
    return f"dice_score({', '.join(['preds', 'target', *code, *masked])})"


def _background_only(batch: Batch) -> Iterator[Finding]:
    """A score that the background carries alone."""
    planes = batch.planes
    foreground, target = planes.foreground_dice, planes.counts.target_cardinality[planes.foreground :]
    if not planes.foreground or not bool(planes.scored[0]) or not bool(target.any()):
        return
    background = float(planes.class_dice[0])
    if background >= 0.8 and foreground <= 0.2:
        micro = float(score_pooled(dice, planes.counts, planes.scored, math.nan))
        message = (
            f"the background carries the score: its Dice is {background:.3f}, the mean of the other classes"
            f" {foreground:.3f} (macro with background {planes.dice:.3f}, micro {micro:.3f})."
        )
        remedy = "MulticlassDiceScore(num_classes, include_background=False)"
        yield _finding(batch, "background_only", "warning", message, remedy, foreground)


def _absent(batch: Batch, names: Sequence[str | int], readout: Readout) -> Iterator[Finding]:
    """Classes that are not in the target: predicted ones cost a whole class of the macro average."""
    planes = batch.planes
    n = planes.counts
    absent = (n.target_cardinality == 0) & (n.support > 0) & planes.scored
    invented = _indices(absent & (n.pred_cardinality > 0))
    if bool(absent[planes.foreground :].all()) and not bool(n.pred_cardinality[planes.foreground :].any()):
        if math.isnan(readout.zero_division):
            message = "target and preds have no foreground: its Dice is 0/0, which is nan and skipped by averages."
            remedy = "DiceScore(..., zero_division=1.0)  # if an empty image that is left empty should count as right"
            yield _finding(batch, "class_absent", "info", message, remedy)
        return
    present = planes.class_dice[n.target_cardinality > 0]
    if invented and readout.average == "macro" and (not present.numel() or float(present.mean()) - planes.dice >= 0.05):
        shown = _named(invented, names, n.pred_cardinality)
        message = f"predicted, but not in the target: class {shown}; macro averages their Dice of 0 in."
        yield _finding(batch, "class_absent", "info", message, _per_class(batch))


def _imbalance(batch: Batch, names: Sequence[str | int]) -> Iterator[Finding]:
    """A tiny class, where macro and micro tell different stories."""
    planes = batch.planes
    n = planes.counts
    shares = torch.where(n.target_cardinality > 0, n.target_cardinality / n.support.clamp(min=1), 1.0)
    smallest = int(shares.argmin())
    if len(shares) < 2 or float(shares[smallest]) >= 1e-3:
        return
    micro = float(score_pooled(dice, n, planes.scored, math.nan))
    weighted = float(average_classes(planes.class_dice, n, "weighted", math.nan))
    if abs(planes.dice - micro) >= 0.2:
        share = f"class {names[smallest]} is {float(shares[smallest]):.3%} of all voxels"
        averages = (
            f"macro {planes.dice:.3f} (each class alike), micro {micro:.3f} and weighted {weighted:.3f} (by size)"
        )
        message = f"{share}, and the averages differ by what it counts for: {averages}."
        yield _finding(batch, "imbalance", "info", message, _per_class(batch))


def find_leak(batch: Batch) -> Iterator[Finding]:
    """Not one voxel wrong; of a batch as it was given, for what a remedy makes equal was not."""
    planes = batch.planes
    n = planes.counts
    varied = bool(((n.target_cardinality > 0) & (n.target_cardinality < n.support)).any())
    exact = bool((planes.preds & planes.counted == planes.target).all())
    voxels = int(n.support.max())
    if varied and exact and voxels >= _TELLING_VOXELS:
        message = f"preds equal the target on each of {voxels} voxels: does the model, or its input, see the target?"
        remedy = "assert preds.data_ptr() != target.data_ptr()  # then look for the mask among the model's inputs"
        yield _finding(batch, "perfect", "warning", message, remedy)


def _indices(chosen: Tensor) -> list[int]:
    return [int(i) for i in torch.nonzero(chosen).flatten()]


def _named(classes: list[int], names: Sequence[str | int], voxels: Tensor) -> str:
    shown = [f"{names[k]} ({int(voxels[k])} voxel{'s' * (int(voxels[k]) != 1)})" for k in classes[:_SHOWN_CLASSES]]
    return ", ".join(shown) + (f" and {len(classes) - _SHOWN_CLASSES} more" if len(classes) > _SHOWN_CLASSES else "")
