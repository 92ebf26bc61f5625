"""Floor 6: values that the metrics refuse: what they probably are, and what Dice they give when read so."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from torchmetrics_dice_ext._diagnosis._batch import Batch
from torchmetrics_dice_ext._diagnosis._faulty_side import FaultySide, Guess, entries_of
from torchmetrics_dice_ext._diagnosis._labels import guess_at_both_sides, guess_at_labels, guess_at_scale, guess_at_void
from torchmetrics_dice_ext._diagnosis._report import Finding
from torchmetrics_dice_ext._diagnosis._shapes import CLOSE, about_mask
from torchmetrics_dice_ext._faults import Fault
from torchmetrics_dice_ext._views import MaskViews

_SHARE_OF_SCORES = 0.5  # voxels with fractions from which on a target holds scores; interpolation makes them at edges
_STRAY_SHARE = 0.01  # entries that may lie outside [0, 1] by mischance


def check_values(batch: Batch) -> tuple[Batch, list[Finding]]:
    """A finding per kind of malformed value, and the batch as the likeliest guesses leave it."""
    swapped = _swapped(batch)
    if swapped is not None:
        batch, findings = check_values(swapped.batch)
        return batch, [_finding(swapped), *findings]
    findings = []
    if batch.faults[Fault.PREDS_LABEL] and batch.faults[Fault.TARGET_LABEL]:  # one cause, such as labels from 1
        both = guess_at_both_sides(batch)
        if both is not None:
            findings.append(_finding(both))
            batch = both.batch
    for fault in sorted(Fault, key=lambda fault: not fault.name.startswith("TARGET")):
        if batch.faults[fault]:  # which the remedies so far have not mended
            guess = _likeliest(list(_guesses(fault, batch)))
            findings.append(_finding(guess))
            batch = guess.batch
    if all(finding.code != "infinite" for finding in findings):
        findings += _infinite(batch)
    return batch, findings


def _finding(guess: Guess) -> Finding:
    after = guess.batch.planes.dice if guess.tested else None
    return Finding(code=guess.code, severity="error", message=guess.message, remedy=guess.remedy, dice_after=after)


def _likeliest(guesses: list[Guess]) -> Guess:
    """The first that comes close to the best Dice; guesses are listed by how likely they are."""
    tested = [guess for guess in guesses if guess.tested]
    if not tested:
        return guesses[0]
    figures = [guess.batch.planes.dice for guess in tested]
    figures = [figure if figure == figure else 0.0 for figure in figures]
    return next(r for r, figure in zip(tested, figures, strict=True) if figure >= max(figures) - CLOSE)


def _name(fault: Fault) -> str:
    return "target" if fault.name.startswith("TARGET") else "preds"


def _voxels(number: int) -> str:
    return f"{number} voxel{'s' * (number != 1)}"


def _swapped(batch: Batch) -> Guess | None:
    """Scores or probabilities as target, and labels as preds."""
    scores, labels = batch.views.target, batch.views.preds
    if not scores.is_floating_point() or (labels.is_floating_point() and bool((labels * (labels - 1) != 0).any())):
        return None
    fractions = (scores != scores.trunc()) & ~scores.isnan()
    share = float((fractions.any(1) if scores.ndim > len(batch.steps) else fractions).double().mean())
    if not share > _SHARE_OF_SCORES:
        return None
    try:
        after = Batch.read(batch.given._replace(preds=batch.given.target, target=batch.given.preds))
    except ValueError:
        return None
    low, high = batch.ranges["target"]
    message = (
        f"target lies from {low:.4g} to {high:.4g}, with fractions in {share:.0%} of the voxels, and preds hold labels"
        " alone: the arguments look swapped, preds come first."
    )
    return Guess("swapped_arguments", message, "diagnose(target, preds, ...)", after)


def _guesses(fault: Fault, batch: Batch) -> Iterator[Guess]:
    """What the values of one kind of fault could be, the likeliest first; the last one changes nothing."""
    side = FaultySide(_name(fault), batch)
    number = _voxels(batch.faults[fault]) + ("" if batch.all_checked else " of the sample")
    if fault is Fault.PREDS_NAN:
        message = f"preds are NaN in {number}: a diverged loss, or a division by zero; the Dice is that of the rest."
        yield Guess("nan", message, "assert torch.isfinite(preds).all()  # after each layer, to find the first", batch)
    elif fault is Fault.AMBIGUOUS:
        yield from _one_hot_as_labels(batch)
    elif fault is Fault.PREDS_PROBABILITY:
        few = batch.faults[fault] <= _STRAY_SHARE * batch.checked.preds.numel()
        yield from _out_of_range_probabilities(side, number, few=few)
    elif fault in (Fault.PREDS_ONE_HOT, Fault.TARGET_ONE_HOT):
        yield from _not_one_hot(side, number)
    elif fault is Fault.TARGET_FRACTION:
        yield from _fractions(side, number)
    else:
        yield from guess_at_labels(side, number)


def _one_hot_as_labels(batch: Batch) -> Iterator[Guess]:
    axis, size = batch.counting.class_dim, batch.counting.num_classes
    message = (
        f"preds and target hold integers of one shape, axis {axis} has {size} entries and each voxel sums to 1 over it:"
        " they are one-hot, but two integer tensors of one shape are read as label maps."
    )
    after = batch.reread(input_format="one-hot")
    without_mask, no_mask = about_mask(batch, after)
    remedy = f'diagnose(preds, target, input_format="one-hot"{no_mask}, ...)  # the metrics take the same option'
    yield Guess("one_hot_as_labels", message + without_mask, remedy, after)


def _out_of_range_probabilities(side: FaultySide, number: str, *, few: bool) -> Iterator[Guess]:
    values, batch = side.values, side.batch
    seen = (
        f"preds hold values from {values[0]:g} to {values[-1]:g}, outside [0, 1] in {number}"
        if values
        else "preds leave [0, 1]"
    )
    if values and values[0] >= 0 and values[-1] == math.inf:
        message = f"{seen}: an overflow, usual in half precision."
        yield Guess("infinite", message, "preds = model(image.float())", batch)
        return
    if values and values[0] >= 0:
        for scale in (255, 100):
            if (scale / 2 if few else 2) < values[-1] <= scale:
                message = f"{seen}: probabilities scaled by {scale}."
                yield side.guess("scaled_preds", message, f"preds / {scale}", partial(torch.div, other=scale))
    if values and values[0] > -0.25 and values[-1] < 1.25:
        message = f"{seen} by little: probabilities that interpolation or averaging has moved."
        yield side.guess("probabilities_out_of_range", message, "preds.clamp(0, 1)", lambda x: x.clamp(0, 1))
    if few:
        message = f"{seen}: probabilities but for these few."
        remedy = "preds.clamp(0, 1)  # and look where these come from"
        yield side.guess("probabilities_out_of_range", message, remedy, lambda x: x.clamp(0, 1))
    message = f"{seen}: they are logits, and were given as probabilities."
    remedy = "diagnose(preds, target, from_logits=True, ...)  # the metrics take the same option"
    yield Guess("logits_as_probabilities", message, remedy, batch.edited(from_logits=True))


def _not_one_hot(side: FaultySide, number: str) -> Iterator[Guess]:
    name, dim = side.name, side.batch.counting.class_dim
    if len(side.values) == 2 and side.values[0] == 0 and side.values[1] != 1:
        message = f"{name} is one-hot but for its scale: it holds {side.shown}."
        yield side.guess("scaled_mask", message, f"{name} > 0", lambda x: x > 0)
        return
    if any(math.isfinite(value) and value != round(value) for value in side.values):
        message = (
            f"{name} has the shape of a one-hot tensor, but holds fractions ({side.shown}) in {number}: soft labels."
        )
        yield side.guess(
            "fractional_mask", message, f"{name}.argmax({dim})", lambda x: _one_hot(x.argmax(1), x.shape[1])
        )
        return
    if any(value not in (0, 1) for value in side.values):
        message = f"{name} has the shape of a one-hot tensor, but holds {side.shown}: malformed in {number}."
        yield Guess("not_one_hot", message, f"print({name}.unique())", side.batch, tested=False)
        return
    none = several = 0
    for entries, valid in entries_of(side.batch, name):
        classes = (entries == 1).sum(1)[valid[:, 0]]
        none, several = none + int((classes == 0).sum()), several + int((classes > 1).sum())
    if none > several:
        message = f"{name} is one-hot, but has no class in {_voxels(none)}: is the background missing?"
        remedy = f"torch.cat([1 - {name}.amax({dim}, keepdim=True), {name}], dim={dim})  # and num_classes + 1"
        yield Guess("not_one_hot", message, f"{name} = {remedy}", side.batch, tested=False)
        return
    message = f"{name} has several classes in {_voxels(several)}: overlapping masks, not one-hot."
    yield Guess("not_one_hot", message, 'diagnose(preds, target, task="multilabel", ...)', side.batch, tested=False)


def _one_hot(labels: Tensor, size: int) -> Tensor:
    return torch.nn.functional.one_hot(labels, size).movedim(-1, 1)


def _fractions(side: FaultySide, number: str) -> Iterator[Guess]:
    batch, values = side.batch, side.values
    if any(bool(entries[valid].isnan().any()) for entries, valid in entries_of(batch, "target")):
        yield guess_at_void(batch, "nan", f"target holds NaN or fractions in {number}.")
        return
    yield from guess_at_scale(side)
    if isinstance(batch.views, MaskViews) and values and 0 <= values[0] <= values[-1] <= 1:
        message = f"target holds {side.shown}, fractions in {number}: a mask that was interpolated."
        yield side.guess(
            "fractional_mask", message, "target > 0.5  # and resize masks with nearest neighbours", lambda x: x > 0.5
        )
        return
    message = (
        f"target holds {side.shown}, fractions in {number}: labels that were resized or augmented with interpolation."
    )
    yield side.guess(
        "fractional_mask", message, "target.round()  # and resize masks with nearest neighbours", torch.round
    )


def _infinite(batch: Batch) -> list[Finding]:
    """Infinite scores: they can be compared, but not averaged or trained with."""
    if math.inf not in map(abs, batch.ranges["preds"]):
        return []
    infinite = sum(int(piece.preds.isinf().sum()) for piece in batch.pieces())
    share = infinite / batch.checked.preds.numel()
    message = (
        f"preds are infinite in {share:.2%} of the entries; hard scores can take that, soft scores and losses can't."
    )
    remedy = "preds = preds.nan_to_num()  # and look for an overflow, in half precision above all"
    return [Finding(code="infinite", severity="warning", message=message, remedy=remedy)]
