"""Floor 6: shapes that don't fit: which small change makes them fit, and what Dice it gives."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from torchmetrics_dice_ext._counts import looks_one_hot
from torchmetrics_dice_ext._diagnosis._batch import MOST_CHECKED, Batch, Given
from torchmetrics_dice_ext._diagnosis._report import Finding
from torchmetrics_dice_ext._inputs import FLOATS, read_inputs
from torchmetrics_dice_ext._kernels.reference import count_views
from torchmetrics_dice_ext._options import Counting, Task
from torchmetrics_dice_ext._views import Form, LabelViews

_TRIED_CHANGES = 12  # that are compared by their Dice
_RESIZED_ELEMENTS = 1 << 25
_LEAST_VOXELS = 64  # voxels that aren't one-hot by chance
CLOSE = 0.1  # differences of Dice below which the likelier explanation wins


@dataclass(frozen=True)
class Change:
    """One small change of a batch that may make its shapes fit."""

    code: str
    cause: str
    remedy: str
    apply: Callable[[Given], Given]


Changes = tuple[Change, ...]


def read_shapes(given: Given) -> tuple[Batch | None, list[Finding]]:
    """The batch if its shapes fit, else a finding and the batch after the change that explains the misfit."""
    try:
        return Batch.read(given), []
    except (TypeError, ValueError) as error:
        refusal = str(error)
    if given.mask is not None and _fits(given._replace(mask=None), ()):
        message = f"{refusal} What follows leaves the mask aside."
        finding = Finding(
            code="bad_mask", severity="error", message=message, remedy="mask = mask.reshape(target.shape)"
        )
        return Batch.read(given._replace(mask=None)), [finding]
    wrong_argmax = _argmax_axis(given)
    if wrong_argmax is not None:
        return None, [wrong_argmax]
    mask = None if given.mask is None else given.mask.to("meta")
    outline = given._replace(preds=given.preds.to("meta"), target=given.target.to("meta"), mask=mask)
    for number in (1, 2):
        fitting = [changes for changes in _combinations(given, number) if _fits(outline, changes)]
        if fitting:
            return _choose(given, fitting)
    remedy = "print(preds.shape, target.shape)  # the model's output against what the loader returns"
    same_space = given.preds.shape[-1:] == given.target.shape[-1:]
    code = "batch_axis" if same_space and given.preds.shape[:1] != given.target.shape[:1] else "unequal_shapes"
    return None, [Finding(code=code, severity="error", message=refusal, remedy=remedy)]


def _choose(given: Given, fitting: list[Changes]) -> tuple[Batch, list[Finding]]:
    """The first change that comes close to the best Dice; changes are listed by how likely they are."""
    resized = [changes for changes in fitting if changes[0].code == "unequal_shapes"]
    fitting = [changes for changes in fitting if changes not in resized] or resized[:1]
    batches = [Batch.read(_apply(given, changes)) for changes in fitting[:_TRIED_CHANGES]]
    figures = [_rate(batch) for batch in batches]
    best = next(i for i, figure in enumerate(figures) if figure >= max(figures) - CLOSE)
    finding = Finding(
        code=fitting[best][0].code,
        severity="error",
        message=" ".join(change.cause for change in fitting[best]),
        remedy="\n".join(change.remedy for change in fitting[best]),
        dice_after=batches[best].planes.dice,
    )
    return batches[best], [finding]


def _rate(batch: Batch) -> float:
    """Dice of the sample, and 1 more where all its values are well formed."""
    figure = batch.planes.dice
    return (figure if figure == figure else 0.0) + (not bool(count_views(batch.views)[1].any()))


def _apply(given: Given, changes: Changes) -> Given:
    for change in changes:
        given = change.apply(given)
    return given


def _fits(outline: Given, changes: Changes) -> bool:
    """Whether a batch of these shapes can be read after the changes."""
    try:
        read_inputs(*_apply(outline, changes))
    except (TypeError, ValueError, IndexError, RuntimeError):  # the last two: an axis that another change took away
        return False
    return True


def _combinations(given: Given, number: int) -> Iterator[Changes]:
    options, sides = list(_option_changes(given)), [list(_side_changes(side)) for side in _sides(given)]
    if number == 1:
        yield from ((change,) for change in itertools.chain(options, *sides))
    else:
        yield from itertools.chain(itertools.product(*sides), *(itertools.product(side, options) for side in sides))


def _argmax_axis(given: Given) -> Finding | None:
    """Label maps that still have the class axis, and lack another one: argmax over the wrong axis."""
    preds, target, _, counting = given
    spatial, size = list(target.shape[1:]), counting.num_classes
    if counting.task != "multiclass" or preds.dtype in FLOATS or preds.ndim != target.ndim or preds.ndim < 2:
        return None
    without_one = [[size, *spatial[:i], *spatial[i + 1 :]] for i in range(len(spatial))]
    lost = next((i for i, shape in enumerate(without_one) if shape == list(preds.shape[1:])), None)
    if preds.shape[0] == target.shape[0] and lost is not None:
        axis = lost + 2
    elif list(preds.shape) == [size, *spatial] and target.shape[0] != size:
        axis = 0
    else:
        return None
    message = (
        f"`preds` are integers of shape {tuple(preds.shape)} for a target of {tuple(target.shape)}: the class axis of"
        f" {size} is still there, and axis {axis} of the scores is gone. They come from an argmax over the wrong axis."
    )
    return Finding(code="argmax_axis", severity="error", message=message, remedy="preds = scores.argmax(dim=1)")


def _option_changes(given: Given) -> Iterator[Change]:
    """Options that would fit the shapes better: the class axis, the number of classes, the task."""
    preds, target, _, counting = given
    size = counting.num_classes
    shapes = f"preds of shape {tuple(preds.shape)} and target of {tuple(target.shape)}"
    if counting.task != "binary":
        name = "num_classes" if counting.task == "multiclass" else "num_labels"
        axes = [*range(2, preds.ndim), 1] if preds.ndim > 1 else []
        for axis in sorted((a for a in axes if preds.shape[a] == size), key=lambda a: a != preds.ndim - 1):
            dim = -1 if axis == preds.ndim - 1 and axis > 1 else axis
            cause = f"Axis {axis} of preds {tuple(preds.shape)} has {size} entries, not axis {counting.class_dim}."
            yield _option("class_axis", cause, f"class_dim={dim}", counting, class_dim=dim)
        kept = preds.shape[counting.class_dim] if -preds.ndim <= counting.class_dim < preds.ndim else 0
        if kept != size and kept >= (2 if counting.task == "multiclass" else 1):
            cause = (
                f"`{name}` is {size}, but axis {counting.class_dim} of preds {tuple(preds.shape)} has {kept} entries."
            )
            thresholds = counting.thresholds[:1] * kept
            yield _option("num_classes", cause, f"{name}={kept}", counting, num_classes=kept, thresholds=thresholds)
        if counting.input_format != "auto":
            cause = f"`input_format={counting.input_format!r}` doesn't describe {shapes}."
            yield _option("input_format", cause, 'input_format="auto"', counting, input_format="auto")
    tasks: tuple[tuple[Task, int], ...] = (("binary", 1), ("multiclass", preds.shape[1] if preds.ndim > 1 else 0))
    for task, channels in tasks:
        if task == counting.task or channels < 1 + (task == "multiclass"):
            continue
        text = f'task="{task}"' + (f", num_classes={channels}" if task == "multiclass" else "")
        cause = f"{shapes[0].upper()}{shapes[1:]} belong to another task than {counting.task!r}."
        changed = Counting.of(
            task, num_classes=channels if task == "multiclass" else None, ignore_index=counting.ignore_index
        )
        yield _option("wrong_task", cause, text, changed)


def _sides(given: Given) -> tuple[_OneSide, _OneSide]:
    preds, target, _, counting = given
    return _OneSide("preds", preds, target, counting), _OneSide("target", target, preds, counting)


def _option(code: str, cause: str, remedy: str, base: Counting, **options: object) -> Change:
    counting = dataclasses.replace(base, **options)  # type: ignore[arg-type]
    return Change(
        code, cause, f"diagnose(preds, target, {remedy}, ...)", lambda given: given._replace(counting=counting)
    )


@dataclass(frozen=True)
class _OneSide:
    """One tensor of the batch, and the other one."""

    name: str
    tensor: Tensor
    other: Tensor
    counting: Counting

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def change(self, code: str, cause: str, remedy: str, edit: Callable[[Tensor], Tensor]) -> Change:
        """A change of this tensor."""
        text = f"`{self.name}` of shape {self.shape} {cause} (the other side has {tuple(self.other.shape)})."

        def apply(given: Given) -> Given:
            if self.name == "preds":
                return given._replace(preds=edit(given.preds))
            return given._replace(target=edit(given.target))

        return Change(code, text, f"{self.name} = {remedy}", apply)


def _side_changes(side: _OneSide) -> Iterator[Change]:
    """Small changes of one tensor, the likeliest first."""
    shape, task = side.shape, side.counting.task
    for axis in (a for a in range(len(shape)) if shape[a] == 1):
        drop = partial(torch.squeeze, dim=axis)
        yield side.change("channel_axis", f"has a singleton axis {axis} too many", f"{side.name}.squeeze({axis})", drop)
    yield side.change(
        "batch_axis", "lacks the batch axis", f"{side.name}.unsqueeze(0)", partial(torch.unsqueeze, dim=0)
    )
    if side.name == "preds" and task == "multiclass" and side.tensor.dtype in FLOATS:
        narrow = partial(Tensor.to, dtype=torch.int16)
        yield side.change("float_labels", "holds label maps in a float dtype", "preds.long()", narrow)
    if side.name == "target" and task == "multilabel" and len(shape) == side.other.ndim - 1:
        yield from _label_map_change(side)
    yield from _channel_changes(side)
    if side.name == "preds" and min(len(shape), side.other.ndim) > 2 and side.tensor.numel():
        yield from _spatial_changes(side)


def _label_map_change(side: _OneSide) -> Iterator[Change]:
    size, ones = side.counting.num_classes, (1,) * (len(side.shape) - 1)
    if side.tensor.numel() * size <= MOST_CHECKED:
        classes = torch.arange(size).view(1, size, *ones)

        def one_hot(target: Tensor) -> Tensor:
            labels = target if target.is_floating_point() else target.to(torch.int64)
            return labels.unsqueeze(1) == classes.to(target.device)

        text = f"target.unsqueeze(1) == torch.arange({size}).view{(1, size, *ones)}"
        cause = "is a label map, where multilabel takes one mask per label"
        yield side.change("label_map_target", cause, text, one_hot)


def _channel_changes(side: _OneSide) -> Iterator[Change]:
    """The class axis elsewhere, and single channels of one-hot masks and of pictures."""
    shape = side.shape
    for axis in range(2, len(shape)):
        if shape[axis] in (1, 2, 3, 4, side.counting.num_classes):
            edit = partial(torch.movedim, source=axis, destination=1)
            yield side.change("class_axis", f"has its channels on axis {axis}", f"{side.name}.movedim({axis}, 1)", edit)
    for axis in (1, -1) if len(shape) > 1 and side.counting.task != "multilabel" else ():
        index = {2: 1, 3: 0, 4: 0}.get(shape[axis])
        if index is not None:
            text = f"{side.name}[:, {index}]" if axis == 1 else f"{side.name}[..., {index}]"
            cause = "has one channel per class" if index else "has the channels of a picture"
            yield side.change("channel_axis", cause, text, partial(torch.select, dim=axis, index=index))


def _spatial_changes(side: _OneSide) -> Iterator[Change]:
    """Preds with two spatial axes exchanged, or of another size than the target."""
    shape, wanted = side.shape, tuple(side.other.shape)
    for one, two in itertools.combinations(range(-min(len(shape), len(wanted)) + 1, 0), 2):
        if shape[one] == wanted[two] != shape[two] == wanted[one]:
            swap = partial(torch.transpose, dim0=one, dim1=two)
            yield side.change(
                "transposed", f"has axes {one} and {two} exchanged", f"preds.transpose({one}, {two})", swap
            )
    for spatial in (len(wanted) - 1, len(wanted) - 2):
        size = wanted[-spatial:]
        entries = side.tensor.numel() // max(1, math.prod(shape[-spatial:])) * math.prod(size)
        if spatial < len(shape) and shape[-spatial:] != size and entries <= _RESIZED_ELEMENTS:
            shown = size[1:] if len(size) > 1 and size[0] == shape[-spatial] == 1 else size
            text = f"torch.nn.functional.interpolate(logits, size={shown})"
            edit = partial(_resize, size=size)
            yield side.change("unequal_shapes", f"differs from the target's size {shown}", text, edit)


def _resize(tensor: Tensor, size: tuple[int, ...]) -> Tensor:
    """Nearest neighbours along the last axes."""
    for axis, entries in zip(range(-len(size), 0), size, strict=True):
        position = (torch.arange(entries, device=tensor.device) + 0.5) * tensor.shape[axis] / entries
        tensor = tensor.index_select(axis, position.long())
    return tensor


def find_one_hot_labels(batch: Batch) -> tuple[Finding, Batch] | None:
    """One-hot integers that are read as label maps, and the batch read as one-hot along the axis that tells."""
    preds, counting, views = batch.given.preds, batch.counting, batch.views
    if not isinstance(views, LabelViews) or not views.preds_form is views.target_form is Form.LABELS:
        return None
    for axis in (a for a in range(preds.ndim - 1, 0, -1) if preds.shape[a] == counting.num_classes):
        dim = -1 if axis == preds.ndim - 1 else axis
        try:
            after = batch.reread(class_dim=dim, input_format="one-hot")
        except ValueError:
            continue
        sides = after.views.preds, after.views.target
        used = int(after.planes.target.transpose(0, 1).flatten(1).any(1).sum())
        if (
            used < 2
            or sides[1].numel() < _LEAST_VOXELS * counting.num_classes
            or not all(bool(looks_one_hot(s, 1)) for s in sides)
        ):
            continue
        same_axis = axis == counting.class_dim % preds.ndim
        options = 'input_format="one-hot"' if same_axis else f'class_dim={dim}, input_format="one-hot"'
        without_mask, no_mask = about_mask(batch, after)
        message = (
            f"each voxel of preds and target sums to 1 over axis {axis}, which has {counting.num_classes} entries: they"
            " are one-hot, and were read as label maps."
        )
        finding = Finding(
            code="one_hot_as_labels",
            severity="error",
            message=message + without_mask,
            remedy=f"diagnose(preds, target, {options}{no_mask}, ...)  # the metrics take the same options",
            dice_before=batch.planes.dice,
            dice_after=after.planes.dice,
        )
        return finding, after
    return None


def about_mask(batch: Batch, after: Batch) -> tuple[str, str]:
    """That a mask has been left aside, if it has: in words, and as an option."""
    if after.given.mask is batch.given.mask:
        return "", ""
    return " Their mask has the class axis too, and is left aside.", ", mask=None"


def find_one_hot_masks(batch: Batch) -> tuple[Finding, Batch] | None:
    """Binary masks that are one-hot along an axis taken for a spatial one, and the batch with that axis for classes."""
    preds, target, mask, _ = batch.given
    if batch.counting.task != "binary" or preds.shape != target.shape or target.ndim != len(batch.steps):
        return None
    planes = batch.planes
    for axis in dict.fromkeys((1, target.ndim - 1)):
        classes = planes.target.movedim(axis + 1, 1).flatten(2)
        whole = batch.steps[axis] == 1 and bool(planes.counted.all()) and mask is None
        used = int(classes.any(2).any(0).sum())
        if not whole or classes.shape[2] < _LEAST_VOXELS or used < 2 or not bool((classes.sum(1) == 1).all()):
            continue
        size, dim = target.shape[axis], 1 if axis == 1 else -1
        counting = Counting.of("multiclass", num_classes=size, class_dim=dim, input_format="one-hot")
        after = Batch.read(Given(preds, target, None, counting), batch.repairs)
        message = (
            f"target of shape {tuple(target.shape)} is one-hot along axis {axis}, which task 'binary' takes for a"
            " spatial axis: background counts as if it were foreground."
        )
        options = f'task="multiclass", num_classes={size}, class_dim={dim}, input_format="one-hot"'
        remedy = f"diagnose(preds, target, {options}, ...)  # or one channel of both with task='binary'"
        figures = {"dice_before": planes.dice, "dice_after": after.planes.dice}
        finding = Finding(code="one_hot_as_masks", severity="error", message=message, remedy=remedy, **figures)
        return finding, after
    return None
