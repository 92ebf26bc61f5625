"""Floor 6: whole numbers that are no labels: scaled, shifted, wrapped around, void, or of more classes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from torchmetrics_dice_ext._diagnosis._batch import Batch
from torchmetrics_dice_ext._diagnosis._faulty_side import FaultySide, Guess
from torchmetrics_dice_ext._views import Form, LabelViews, MaskViews

_USUAL_VOID = (255, -1, -100, 254, 250, 128, 99)
_MOST_TIMES_CLASSES = 4  # a number of classes is wrong by this factor at most
_TRIED_LABELS = 8  # labels of a map that are tried as the foreground of a mask


def guess_at_both_sides(batch: Batch) -> Guess | None:
    """Label maps that agree on labels other than 0 to C - 1: from 1 to C, or more of them."""
    sides = [FaultySide(name, batch) for name in ("preds", "target")]
    size = batch.counting.num_classes
    if any(not side.values or side.values[0] < 0 or side.values[-1] > _MOST_TIMES_CLASSES * size for side in sides):
        return None
    seen = f"preds hold {sides[0].shown} and target {sides[1].shown}"
    most = max(side.values[-1] for side in sides)
    if most == size and all(side.values[0] >= 1 for side in sides):
        message = f"{seen}: labels from 1 to {size} instead of 0 to {size - 1}."
        edited = batch.edited(preds=lambda x: x - 1, target=lambda x: x - 1)
        return Guess("labels_from_one", message, "preds, target = preds - 1, target - 1", edited)
    return _more_classes(batch, f"{seen} where only 0 to {size - 1} are labels.", most)


def _more_classes(batch: Batch, message: str, most: float) -> Guess:
    size = int(most) + 1
    remedy = f"diagnose(preds, target, num_classes={size}, ...)  # and in the metrics and the model"
    text = f"{message} Perhaps there are {size} classes."
    return Guess("labels_out_of_range", text, remedy, batch.edited(num_classes=size))


def guess_at_labels(side: FaultySide, number: str) -> Iterator[Guess]:
    """Whole numbers that are no labels."""
    name, values, size = side.name, side.values, side.size
    wrong = [value for value in values if not 0 <= value < size]
    if any(map(math.isinf, wrong)):  # target, for infinite preds are scores or probabilities
        yield guess_at_void(side.batch, "infinite", f"target holds infinite values in {number}.")
        return
    foreground = [value for value in values if 0 < value < size]
    if size == 2 or not foreground:
        yield from guess_at_scale(side)
    if values and values[0] >= 1 and values[-1] == size:
        message = f"{side.holds}: labels from 1 to {size} instead of 0 to {size - 1}."
        yield side.guess("labels_from_one", message, f"{name} - 1", lambda x: x - 1)
    yield from _overflow(side, foreground)
    if name == "target" and 0 < len(wrong) <= 2 and (foreground or size > 2):
        yield from _ignorable(side, wrong, number)
    if size > 2 and foreground:
        yield from guess_at_scale(side)
    yield from _other_labels(side, wrong, number)


def guess_at_void(batch: Batch, code: str, message: str) -> Guess:
    """Target without NaN and infinity, which become void."""
    void = -1
    edited = batch.edited(
        target=lambda x: x.nan_to_num(void, void, void),
        ignore_index=tuple(sorted({*batch.counting.ignore_index, void})),
    )
    remedy = f"target = target.nan_to_num({void}, {void}, {void})  # and ignore_index={void}"
    return Guess(code, f"{message} The Dice is that of the rest.", remedy, edited)


def guess_at_scale(side: FaultySide) -> Iterator[Guess]:
    """Labels times a constant: {0, 255}, {0, 1/255}, {0, 127, 255}."""
    values = side.values
    if len(values) < 2 or values[0] < 0:
        return
    unit = next(value for value in values if value > 0)
    for step in dict.fromkeys((unit, 255 / (side.size - 1), values[-1] / (len(values) - 1))):
        step = float(f"{step:g}")  # as the remedy says it
        labels = [value / step for value in values]
        in_range = labels[-1] < side.size - 0.5  # checked first, for what is beyond it can be infinite or NaN
        if in_range and step != 1 and all(abs(label - round(label)) < 0.05 for label in labels):
            scale = f"by {step:g}" if step > 1 else f"down by {1 / step:g}"
            message = f"{side.holds}: labels scaled {scale}, where the metrics want 0 to {side.size - 1}."
            if side.size == 2:
                cutoff = 0 if len(values) == 2 else step / 2
                yield side.guess("scaled_mask", message, f"{side.name} > {cutoff}", partial(torch.gt, other=cutoff))
            else:
                remedy = f"({side.name} / {step:g}).round().long()"
                yield side.guess("scaled_mask", message, remedy, partial(_unscaled, step=step))
            return


def _unscaled(labels: Tensor, step: float) -> Tensor:
    return (labels / step).round().long()


def _overflow(side: FaultySide, foreground: list[float]) -> Iterator[Guess]:
    """Values that a cast to a small integer dtype has wrapped around."""
    name, values, size = side.name, side.values, side.size
    lowest = values[0] if values else 0.0
    if lowest < -(2**30):
        message = f"{name} holds {lowest:g}: NaN or infinity that was cast to an integer."
        yield Guess("overflow", message, f"assert torch.isfinite({name}).all()  # before the cast", side.batch)
    if side.dtype == torch.int8 and lowest < 0 and not foreground:
        message = (
            f"{name} is int8 and holds {side.shown}: a mask of {{0, 255}} that overflowed in the cast (255 becomes -1)."
        )
        yield side.guess("overflow", message, f"{name} != 0", lambda x: x != 0)
    wrapped = [256 - value for value in values if value]
    if side.dtype == torch.uint8 and wrapped and len(wrapped) > 1 and max(wrapped) < size:
        message = f"{name} is uint8 and holds {side.shown}: labels times 255 that overflowed in the cast."
        yield side.guess("overflow", message, f"(256 - {name}.int()) % 256", lambda x: (256 - x) % 256)


def _ignorable(side: FaultySide, wrong: list[float], number: str) -> Iterator[Guess]:
    usual = all(value in _USUAL_VOID for value in wrong)
    views = side.batch.views
    if not usual and (len(wrong) > 1 or isinstance(views, MaskViews) or _both_labels(views)):
        return
    void = [int(value) for value in wrong]
    shown = str(void[0]) if len(void) == 1 else str(void)
    kind = "usual for void voxels" if usual else "perhaps void voxels"
    message = f"target holds {side.shown}; {shown} in {number} is no label from 0 to {side.size - 1}, and {kind}."
    ignored = tuple(sorted({*side.batch.counting.ignore_index, *void}))
    remedy = f"diagnose(preds, target, ignore_index={shown}, ...)  # the metrics take the same option"
    yield Guess("ignore_label", message, remedy, side.batch.edited(ignore_index=ignored))


def _other_labels(side: FaultySide, wrong: list[float], number: str) -> Iterator[Guess]:
    """More labels than the task has."""
    name, values, size, batch = side.name, side.values, side.size, side.batch
    message = f"{side.holds} where only 0 to {size - 1} are labels: wrong in {number}."
    if isinstance(batch.views, MaskViews):
        if side.dtype == torch.uint8 and name == "preds" and len(values) > 16:
            text = f"preds are uint8 with {side.shown}: a picture of probabilities, scaled by 255."
            yield side.guess("scaled_preds", text, "preds / 255", lambda x: x / 255)
        text = f"{message} A label map of several classes was given as a mask."
        yield side.guess("label_map_as_mask", text, f"{name} > 0  # or task='multiclass'", lambda x: x > 0)
        for label in [_as_number(value) for value in values if value > 0][:_TRIED_LABELS]:
            remedy = f"{name} == {label}  # or task='multiclass'"
            yield side.guess("label_map_as_mask", text, remedy, partial(torch.eq, other=label))
        return
    most = values[-1] if values else 0
    if _both_labels(batch.views) and wrong and wrong[0] >= 0 and size <= most <= _MOST_TIMES_CLASSES * size:
        yield _more_classes(batch, message, most)
    if 1 < len(values) <= size:
        text = f"{message} The {len(values)} values want to be numbered from 0."
        known = torch.tensor(values, dtype=torch.float64)
        numbers = [_as_number(value) for value in values]
        table = f"torch.tensor({numbers}, dtype=torch.float64, device={name}.device)"
        remedy = f"torch.searchsorted({table}, {name}.double().contiguous())"
        yield side.guess(
            "labels_out_of_range", text, remedy, lambda x: torch.searchsorted(known, x.double().contiguous())
        )
    remedy = f"{name}[({name} < 0) | ({name} >= {size})].unique()  # which they are"
    yield Guess("labels_out_of_range", message, remedy, batch, tested=False)


def _as_number(value: float) -> int | float:
    """A value as integer tensors compare it and as code shows it, without loss."""
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _both_labels(views: LabelViews) -> bool:
    return views.preds_form is views.target_form is Form.LABELS
