"""Floor 6: values that the metrics refuse: what they probably are, and what Dice they give when read so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from torchmetrics_dice_ext._diagnosis._batch import Batch
from torchmetrics_dice_ext._diagnosis._report import Finding
from torchmetrics_dice_ext._diagnosis._shapes import CLOSE, about_mask
from torchmetrics_dice_ext._faults import Fault
from torchmetrics_dice_ext._kernels.reference import count_views, valid_entries
from torchmetrics_dice_ext._tiles import cut, cut_channels, tiles
from torchmetrics_dice_ext._views import Form, LabelViews, MaskViews, Views

_USUAL_VOID = (255, -1, -100, 254, 250, 128, 99)
_SHOWN = 8
_MOST_DISTINCT = 1024  # values that are told apart
_MOST = 0.5  # share of fractions from which on a target holds scores; interpolation makes them at edges alone
_FEW = 0.01  # share of the entries that may lie outside [0, 1] by mischance
_BOX = 1 << 20
_MOST_TIMES = 4  # a number of classes is wrong by this factor at most


@dataclass(frozen=True)
class Reading:
    """One explanation of malformed values, and the batch read by it."""

    code: str
    message: str
    remedy: str
    batch: Batch
    tested: bool = True


@dataclass(frozen=True)
class Side:
    """The malformed side of a batch."""

    name: str
    batch: Batch

    @cached_property
    def values(self) -> list[float]:
        """Distinct values but void ones and NaN, ascending; where there are very many, the extremes and some others."""
        known = torch.zeros(0)
        for entries, valid in _boxes(self.batch.shown(self.name), self.name):
            kept = valid & (entries == entries)
            values = entries.flatten() if bool(kept.all()) else entries[kept]
            known = known.to(values)
            if len(known) <= _MOST_DISTINCT:
                values = values[~torch.isin(values, known)]
            elif values.numel():
                values = torch.stack(torch.aminmax(values))
            known = torch.cat((known, values)).unique()
        return [float(value) for value in known.tolist()]

    @property
    def dtype(self) -> torch.dtype:
        """As the user holds it."""
        preds, target, _ = self.batch.given
        return (target if self.name == "target" else preds).dtype

    @property
    def size(self) -> int:
        """How many labels are allowed: 0 and 1 for masks."""
        return self.batch.counting.num_classes if isinstance(self.batch.views, LabelViews) else 2

    @property
    def holds(self) -> str:
        """The side and its values in words."""
        return f"{self.name} {'holds' if self.name == 'target' else 'hold'} {self.shown}"

    @property
    def shown(self) -> str:
        """The values in words."""
        if len(self.values) <= _SHOWN:
            return "{" + ", ".join(f"{value:g}" for value in self.values) + "}"
        number = f"{len(self.values)} " if len(self.values) <= _MOST_DISTINCT else ""
        return f"{number}values from {self.values[0]:g} to {self.values[-1]:g}"

    def edited(self, edit: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with this side changed."""
        return self.batch.edited(target=edit) if self.name == "target" else self.batch.edited(preds=edit)

    def reading(self, code: str, message: str, remedy: str, edit: Callable[[Tensor], Tensor]) -> Reading:
        """A reading that changes this side."""
        return Reading(code, message, f"{self.name} = {remedy}", self.edited(edit))


def check_values(batch: Batch) -> tuple[Batch, list[Finding]]:
    """A finding per kind of malformed value, and the batch as the likeliest readings leave it."""
    swapped = _swapped(batch)
    if swapped is not None:
        batch, findings = check_values(swapped.batch)
        return batch, [_finding(swapped), *findings]
    findings = []
    faults = batch.faults().tolist()
    if faults[Fault.PREDS_LABEL] and faults[Fault.TARGET_LABEL]:  # one cause on both sides, such as labels from 1
        both = _both_sides(batch)
        if both is not None:
            batch, faults[Fault.PREDS_LABEL], faults[Fault.TARGET_LABEL] = both.batch, 0, 0
            findings.append(_finding(both))
    for fault in sorted(Fault, key=lambda fault: not fault.name.startswith("TARGET")):
        if faults[fault] and not _mended(fault, batch):
            reading = _likeliest(list(_readings(fault, batch, faults[fault])))
            findings.append(_finding(reading))
            batch = reading.batch
    if all(finding.code != "infinite" for finding in findings):
        findings += _infinite(batch)
    return batch, findings


def _finding(reading: Reading) -> Finding:
    after = reading.batch.planes.dice if reading.tested else None
    return Finding(
        code=reading.code, severity="error", message=reading.message, remedy=reading.remedy, dice_after=after
    )


def _likeliest(readings: list[Reading]) -> Reading:
    """The first that comes close to the best Dice; readings are listed by how likely they are."""
    tested = [reading for reading in readings if reading.tested]
    if not tested:
        return readings[0]
    figures = [reading.batch.planes.dice for reading in tested]
    figures = [figure if figure == figure else 0.0 for figure in figures]
    return next(r for r, figure in zip(tested, figures, strict=True) if figure >= max(figures) - CLOSE)


def _name(fault: Fault) -> str:
    return "target" if fault.name.startswith("TARGET") else "preds"


def _voxels(number: int) -> str:
    return f"{number} voxel{'s' * (number != 1)}"


def _mended(fault: Fault, batch: Batch) -> bool:
    """Whether the remedy for another fault of the same side has mended this one too."""
    return _name(fault) in batch.edits and not bool(count_views(batch.views)[1][fault])


def _boxes(views: Views, name: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The entries `(n, c, v)` of a side, box by box, and where they aren't void."""
    side = views.target if name == "target" else views.preds
    flat = side.ndim == len(views.space)  # without a class axis
    for box in tiles(views.space, max(1, _BOX // (1 if flat else side.shape[1]))):
        entries = cut(side, box).unsqueeze(1) if flat else cut_channels(side, box)
        if not entries.is_floating_point():
            entries = entries.to(torch.int64)
        elif entries.element_size() < 4:
            entries = entries.to(torch.float32)
        yield entries, valid_entries(views, box).expand_as(entries)


def _swapped(batch: Batch) -> Reading | None:
    """Scores or probabilities as target, and labels as preds."""
    preds, target, mask = batch.given
    scores, labels = batch.views.target, batch.views.preds
    if not scores.is_floating_point() or (labels.is_floating_point() and bool((labels * (labels - 1) != 0).any())):
        return None
    fractions = (scores != scores.trunc()) & ~scores.isnan()
    share = float((fractions.any(1) if scores.ndim > len(batch.steps) else fractions).double().mean())
    if not share > _MOST:
        return None
    try:
        after = Batch.read(target, preds, mask, batch.counting)
    except ValueError:
        return None
    low, high = batch.ranges["target"]
    message = (
        f"target lies from {low:.4g} to {high:.4g}, with fractions in {share:.0%} of the voxels, and preds hold labels"
        " alone: the arguments look swapped, preds come first."
    )
    return Reading("swapped_arguments", message, "diagnose(target, preds, ...)", after)


def _readings(fault: Fault, batch: Batch, voxels: int) -> Iterator[Reading]:
    """What the values of one kind of fault could be, the likeliest first; the last one changes nothing."""
    side = Side(_name(fault), batch)
    number = _voxels(voxels) + ("" if batch.all_checked else " of the sample")
    if fault is Fault.PREDS_NAN:
        message = f"preds are NaN in {number}: a diverged loss, or a division by zero; the Dice is that of the rest."
        yield Reading(
            "nan", message, "assert torch.isfinite(preds).all()  # after each layer, to find the first", batch
        )
    elif fault is Fault.AMBIGUOUS:
        yield from _one_hot_as_labels(batch)
    elif fault is Fault.PREDS_PROBABILITY:
        few = voxels <= _FEW * batch.shown("preds").preds.numel()
        yield from _out_of_range_probabilities(side, number, few=few)
    elif fault in (Fault.PREDS_ONE_HOT, Fault.TARGET_ONE_HOT):
        yield from _not_one_hot(side, number)
    elif fault is Fault.TARGET_FRACTION:
        yield from _fractions(side, number)
    else:
        yield from _wrong_labels(side, number)


def _one_hot_as_labels(batch: Batch) -> Iterator[Reading]:
    axis, size = batch.counting.class_dim, batch.counting.num_classes
    message = (
        f"preds and target hold integers of one shape, axis {axis} has {size} entries and each voxel sums to 1 over it:"
        " they are one-hot, but two integer tensors of one shape are read as label maps."
    )
    remedy = 'diagnose(preds, target, input_format="one-hot", ...)  # the metrics take the same option'
    after = batch.reread(input_format="one-hot")
    yield Reading("one_hot_as_labels", message + about_mask(batch, after), remedy, after)


def _out_of_range_probabilities(side: Side, number: str, *, few: bool) -> Iterator[Reading]:
    values, batch = side.values, side.batch
    seen = (
        f"preds hold values from {values[0]:g} to {values[-1]:g}, outside [0, 1] in {number}"
        if values
        else "preds leave [0, 1]"
    )
    if values and values[0] >= 0 and values[-1] == math.inf:
        message = f"{seen}: an overflow, usual in half precision."
        yield Reading("infinite", message, "preds = model(image.float())", batch)
        return
    if values and values[0] >= 0:
        for scale in (255, 100):
            if (scale / 2 if few else 2) < values[-1] <= scale:
                message = f"{seen}: probabilities scaled by {scale}."
                yield side.reading("scaled_preds", message, f"preds / {scale}", partial(torch.div, other=scale))
    if values and values[0] > -0.25 and values[-1] < 1.25:
        message = f"{seen} by little: probabilities that interpolation or averaging has moved."
        yield side.reading("probabilities_out_of_range", message, "preds.clamp(0, 1)", lambda x: x.clamp(0, 1))
    if few:
        message = f"{seen}: probabilities but for these few."
        remedy = "preds.clamp(0, 1)  # and look where these come from"
        yield side.reading("probabilities_out_of_range", message, remedy, lambda x: x.clamp(0, 1))
    message = f"{seen}: they are logits, and were given as probabilities."
    remedy = "diagnose(preds, target, from_logits=True, ...)  # the metrics take the same option"
    yield Reading("logits_as_probabilities", message, remedy, batch.edited(from_logits=True))


def _not_one_hot(side: Side, number: str) -> Iterator[Reading]:
    name = side.name
    if len(side.values) == 2 and side.values[0] == 0 and side.values[1] != 1:
        message = f"{name} is one-hot but for its scale: it holds {side.shown}."
        yield side.reading("scaled_mask", message, f"{name} > 0", lambda x: x > 0)
        return
    if any(math.isfinite(value) and value != round(value) for value in side.values):
        message = (
            f"{name} has the shape of a one-hot tensor, but holds fractions ({side.shown}) in {number}: soft labels."
        )
        yield side.reading("fractional_mask", message, f"{name}.argmax(1)", lambda x: _one_hot(x.argmax(1), x.shape[1]))
        return
    if any(value not in (0, 1) for value in side.values):
        message = f"{name} has the shape of a one-hot tensor, but holds {side.shown}: malformed in {number}."
        yield Reading("not_one_hot", message, f"print({name}.unique())", side.batch, tested=False)
        return
    none = several = 0
    for entries, valid in _boxes(side.batch.shown(name), name):
        classes = (entries == 1).sum(1)[valid[:, 0]]
        none, several = none + int((classes == 0).sum()), several + int((classes > 1).sum())
    if none > several:
        message = f"{name} is one-hot, but has no class in {_voxels(none)}: is the background missing?"
        remedy = f"torch.cat([1 - {name}.amax(1, keepdim=True), {name}], dim=1)  # and num_classes + 1"
        yield Reading("not_one_hot", message, f"{name} = {remedy}", side.batch, tested=False)
        return
    message = f"{name} has several classes in {_voxels(several)}: overlapping masks, not one-hot."
    yield Reading("not_one_hot", message, 'diagnose(preds, target, task="multilabel", ...)', side.batch, tested=False)


def _one_hot(labels: Tensor, size: int) -> Tensor:
    return torch.nn.functional.one_hot(labels, size).movedim(-1, 1)


def _fractions(side: Side, number: str) -> Iterator[Reading]:
    batch, values = side.batch, side.values
    if any(bool(entries[valid].isnan().any()) for entries, valid in _boxes(batch.shown("target"), "target")):
        message = f"target holds NaN or fractions in {number}; the Dice is that of the rest."
        yield Reading("nan", message, "target = target.nan_to_num(255)  # and ignore_index=255", batch)
        return
    yield from _scaled(side)
    if isinstance(batch.views, MaskViews) and values and 0 <= values[0] <= values[-1] <= 1:
        message = f"target holds {side.shown}, fractions in {number}: a mask that was interpolated."
        yield side.reading(
            "fractional_mask", message, "target > 0.5  # and resize masks with nearest neighbours", _halves
        )
        return
    message = (
        f"target holds {side.shown}, fractions in {number}: labels that were resized or augmented with interpolation."
    )
    yield side.reading(
        "fractional_mask", message, "target.round()  # and resize masks with nearest neighbours", torch.round
    )


def _halves(mask: Tensor) -> Tensor:
    return (mask > 0.5).to(torch.int64)


def _both_sides(batch: Batch) -> Reading | None:
    """Label maps that agree on labels other than 0 to C - 1: from 1 to C, or more of them."""
    sides = [Side(name, batch) for name in ("preds", "target")]
    size = batch.counting.num_classes
    if any(not side.values or side.values[0] < 0 or side.values[-1] > _MOST_TIMES * size for side in sides):
        return None
    seen = f"preds hold {sides[0].shown} and target {sides[1].shown}"
    most = max(side.values[-1] for side in sides)
    if most == size and all(side.values[0] >= 1 for side in sides):
        message = f"{seen}: labels from 1 to {size} instead of 0 to {size - 1}."
        edited = batch.edited(preds=lambda x: x - 1, target=lambda x: x - 1)
        return Reading("labels_from_one", message, "preds, target = preds - 1, target - 1", edited)
    return _more_classes(batch, f"{seen} where only 0 to {size - 1} are labels.", most)


def _more_classes(batch: Batch, message: str, most: float) -> Reading:
    size = int(most) + 1
    remedy = f"diagnose(preds, target, num_classes={size}, ...)  # and in the metrics and the model"
    text = f"{message} Perhaps there are {size} classes."
    return Reading("labels_out_of_range", text, remedy, batch.edited(num_classes=size))


def _wrong_labels(side: Side, number: str) -> Iterator[Reading]:
    """Whole numbers that are no labels."""
    name, values, size = side.name, side.values, side.size
    wrong = [value for value in values if not 0 <= value < size]
    if any(value in (float("inf"), float("-inf")) for value in wrong):
        message = f"{name} holds infinite values in {number}."
        yield Reading("infinite", message, f"{name} = {name}.nan_to_num(255)  # and ignore_index=255", side.batch)
        return
    foreground = [value for value in values if 0 < value < size]
    if size == 2 or not foreground:
        yield from _scaled(side)
    if values and values[0] >= 1 and values[-1] == size:
        message = f"{side.holds}: labels from 1 to {size} instead of 0 to {size - 1}."
        yield side.reading("labels_from_one", message, f"{name} - 1", lambda x: x - 1)
    yield from _overflow(side, foreground)
    if name == "target" and 0 < len(wrong) <= 2 and (foreground or size > 2):
        yield from _ignorable(side, wrong, number)
    if size > 2 and foreground:
        yield from _scaled(side)
    yield from _other_labels(side, wrong, number)


def _scaled(side: Side) -> Iterator[Reading]:
    """Labels times a constant: {0, 255}, {0, 1/255}, {0, 127, 255}."""
    values = side.values
    if len(values) < 2 or values[0] < 0 or values[-1] == float("inf"):
        return
    unit = next(value for value in values if value > 0)
    for step in dict.fromkeys((unit, 255 / (side.size - 1), values[-1] / (len(values) - 1))):
        exact = all(abs(value / step - round(value / step)) < 0.05 for value in values)
        if exact and step != 1 and round(values[-1] / step) < side.size:
            scale = f"by {step:g}" if step > 1 else f"down by {1 / step:g}"
            message = f"{side.holds}: labels scaled {scale}, where the metrics want 0 to {side.size - 1}."
            binary = side.size == 2
            remedy = f"{side.name} > 0" if binary else f"({side.name} / {step:g}).round()"
            yield side.reading("scaled_mask", message, remedy, partial(_unscaled, step=step))
            return


def _unscaled(labels: Tensor, step: float) -> Tensor:
    return (labels / step).round().to(torch.int64)


def _overflow(side: Side, foreground: list[float]) -> Iterator[Reading]:
    """Values that a cast to a small integer dtype has wrapped around."""
    name, values, size = side.name, side.values, side.size
    lowest = values[0] if values else 0.0
    if lowest < -(2**30):
        message = f"{name} holds {lowest:g}: NaN or infinity that was cast to an integer."
        yield Reading("overflow", message, f"assert torch.isfinite({name}).all()  # before the cast", side.batch)
    if side.dtype == torch.int8 and lowest < 0 and not foreground:
        message = (
            f"{name} is int8 and holds {side.shown}: a mask of {{0, 255}} that overflowed in the cast (255 becomes -1)."
        )
        yield side.reading("overflow", message, f"{name} != 0", lambda x: x != 0)
    wrapped = [256 - value for value in values if value]
    if side.dtype == torch.uint8 and wrapped and len(wrapped) > 1 and max(wrapped) < size:
        message = f"{name} is uint8 and holds {side.shown}: labels times 255 that overflowed in the cast."
        yield side.reading("overflow", message, f"(256 - {name}.int()) % 256", lambda x: (256 - x) % 256)


def _ignorable(side: Side, wrong: list[float], number: str) -> Iterator[Reading]:
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
    yield Reading("ignore_label", message, remedy, side.batch.edited(ignore_index=ignored))


def _other_labels(side: Side, wrong: list[float], number: str) -> Iterator[Reading]:
    """More labels than the task has."""
    name, values, size, batch = side.name, side.values, side.size, side.batch
    message = f"{side.holds} where only 0 to {size - 1} are labels: wrong in {number}."
    if isinstance(batch.views, MaskViews):
        if side.dtype == torch.uint8 and name == "preds" and len(values) > 16:
            text = f"preds are uint8 with {side.shown}: a picture of probabilities, scaled by 255."
            yield side.reading("scaled_preds", text, "preds / 255", lambda x: x / 255)
        text = f"{message} A label map of several classes was given as a mask."
        yield side.reading("label_map_as_mask", text, f"{name} > 0  # or task='multiclass'", lambda x: x > 0)
        for label in [value for value in values if value > 0][:_SHOWN]:
            remedy = f"{name} == {label:g}  # or task='multiclass'"
            yield side.reading("label_map_as_mask", text, remedy, partial(torch.eq, other=label))
        return
    most = values[-1] if values else 0
    if _both_labels(batch.views) and wrong and wrong[0] >= 0 and size <= most <= _MOST_TIMES * size:
        yield _more_classes(batch, message, most)
    if 1 < len(values) <= size:
        text = f"{message} The {len(values)} values want to be numbered from 0."
        known = torch.tensor(values, dtype=torch.float64)
        remedy = f"torch.searchsorted(torch.tensor({[int(value) for value in values]}), {name})"
        yield side.reading(
            "labels_out_of_range", text, remedy, lambda x: torch.searchsorted(known, x.double().contiguous())
        )
    remedy = f"{name}[({name} < 0) | ({name} >= {size})].unique()  # which they are"
    yield Reading("labels_out_of_range", message, remedy, batch, tested=False)


def _both_labels(views: LabelViews) -> bool:
    return views.preds_form is views.target_form is Form.LABELS


def _infinite(batch: Batch) -> list[Finding]:
    """Infinite scores: they can be compared, but not averaged or trained with."""
    if math.inf not in map(abs, batch.ranges["preds"]):
        return []
    views = batch.shown("preds")
    share = sum(int(entries.isinf().sum()) for entries, _ in _boxes(views, "preds")) / views.preds.numel()
    message = (
        f"preds are infinite in {share:.2%} of the entries; hard scores can take that, soft scores and losses can't."
    )
    remedy = "preds = preds.nan_to_num()  # and look for an overflow, in half precision above all"
    return [Finding(code="infinite", severity="warning", message=message, remedy=remedy)]
