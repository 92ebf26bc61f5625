"""Floor 6: the batch under examination: all of it as it came, a bounded sample, and yes-or-no planes to count."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from torchmetrics_dice_ext._counts import OverlapCounts
from torchmetrics_dice_ext._faults import NUM_FAULTS, TOLERANCE, Fault
from torchmetrics_dice_ext._inputs import read_inputs
from torchmetrics_dice_ext._kernels import reference
from torchmetrics_dice_ext._options import Counting
from torchmetrics_dice_ext._reductions import average_classes, score_classes
from torchmetrics_dice_ext._scores import dice
from torchmetrics_dice_ext._views import Form, LabelViews, MaskViews, Views

MOST_VOXELS = 1 << 21  # of the sample
MOST_ELEMENTS = 1 << 23  # of the sample: voxels times classes
MOST_CHECKED = 1 << 27  # a batch of fewer elements has every value checked, a larger one the values of the sample
_PAIRED = 64  # samples that are kept whole rather than thinned out, so that they can be told apart
MOST_CLASSES = MOST_ELEMENTS // _PAIRED
_PIECE = 1 << 22

Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Planes:
    """Yes-or-no answers per voxel and class, `(N, K, *S)`; the equations take their counts.

    Attributes:
        preds: bool, where preds have the class.
        target: bool, where target has it and the voxel counts.
        counted: bool `(N, 1 or K, *S)`, neither void nor malformed.
        scored: bool `(K,)`, False for an ignored class.
        foreground: The first plane that isn't background, 1 for multiclass, else 0.
    """

    preds: Tensor
    target: Tensor
    counted: Tensor
    scored: Tensor
    foreground: int

    @cached_property
    def counts(self) -> OverlapCounts:
        """Counts over all samples, float64 `(K,)`."""
        axes = [0, *range(2, self.preds.ndim)]
        sides = (self.preds & self.target, self.preds & self.counted, self.target, self.counted.expand_as(self.preds))
        return OverlapCounts(*(side.sum(axes).double() for side in sides))

    @cached_property
    def class_dice(self) -> Tensor:
        """Dice per class `(K,)`, nan where a class is nowhere."""
        return score_classes(dice, self.counts, self.scored, math.nan)

    @cached_property
    def dice(self) -> float:
        """Dice, macro and global."""
        return float(average_classes(self.class_dice, self.counts, "macro", math.nan))

    @cached_property
    def foreground_dice(self) -> float:
        """Mean Dice of the classes that aren't background; nan where there are none."""
        return float(self.class_dice[self.foreground :].nanmean())

    def with_preds(self, preds: Tensor) -> Planes:
        """Other predictions for the same target."""
        return dataclasses.replace(self, preds=preds)

    def only(self, classes: list[int]) -> Planes:
        """Some of the classes, all of them taken for foreground."""
        counted = self.counted if self.counted.shape[1] == 1 else self.counted[:, classes]
        return Planes(self.preds[:, classes], self.target[:, classes], counted, self.scored[classes], 0)

    def of(self, samples: list[int]) -> Planes:
        """Some of the samples."""
        sides = self.preds[samples], self.target[samples], self.counted[samples]
        return Planes(*sides, self.scored, self.foreground)


@dataclass(frozen=True)
class Batch:
    """One batch as the metrics would read it; build it with `Batch.read`.

    Attributes:
        given: preds, target and mask as tensors in the user's layout.
        counting: The options that decide the reading.
        whole: Canonical views of everything.
        views: The sample, on the CPU; integers and bools in int64.
        steps: The sample has every `steps[i]`-th entry of axis i of `(N, *S)`.
        edits: The sides whose values in the sample a remedy has changed.
    """

    given: tuple[Tensor, Tensor, Tensor | None]
    counting: Counting
    whole: Views
    views: Views
    steps: tuple[int, ...]
    edits: frozenset[str] = frozenset()

    @classmethod
    def read(cls, preds: Tensor, target: Tensor, mask: Tensor | None, counting: Counting) -> Batch:
        """Read and sample a batch.

        Raises:
            TypeError, ValueError: As `read_inputs`.
        """
        whole = read_inputs(preds, target, mask, counting)
        steps = _steps(whole.space, whole.num_classes)
        box = tuple(slice((n - 1) % s // 2, None, s) for n, s in zip(whole.space, steps, strict=True))
        views = _cut(whole, box, _keep)
        if views.mask is not None:
            views = dataclasses.replace(views, mask=views.mask.bool())
        return cls((preds, target, mask), counting, whole, views, steps)

    def reread(self, **counting: Any) -> Batch:
        """All of the batch read with other options; without its mask if that doesn't fit them.

        Raises:
            ValueError: The options don't fit the shapes.
        """
        preds, target, mask = self.given
        options = dataclasses.replace(self.counting, **counting)
        try:
            return Batch.read(preds, target, mask, options)
        except ValueError:
            if mask is None:
                raise
            return Batch.read(preds, target, None, options)

    def edited(self, *, preds: Edit | None = None, target: Edit | None = None, **counting: Any) -> Batch:
        """The sample after a remedy: functions of the sampled tensors, or other values of counting options."""
        options = dataclasses.replace(self.counting, **counting)
        changes: dict[str, Any] = {"ignore_index": options.ignore_index}
        if isinstance(self.views, MaskViews):
            cutoffs = options.thresholds
            if options.from_logits:
                cutoffs = tuple(math.log(threshold / (1 - threshold)) for threshold in cutoffs)
            changes |= {"cutoffs": cutoffs, "probabilities": not options.from_logits}
        else:
            changes["num_classes"] = options.num_classes
        edits = {name: edit for name, edit in (("preds", preds), ("target", target)) if edit is not None}
        for name, edit in edits.items():
            tensor = edit(getattr(self.views, name))
            changes[name] = tensor.to(torch.int64) if tensor.dtype == torch.bool else tensor
        views = dataclasses.replace(self.views, **changes)
        return dataclasses.replace(self, counting=options, views=views, edits=self.edits | edits.keys())

    def faults(self) -> Tensor:
        """How many voxels of each kind of fault, as the metrics would count them."""
        total = torch.zeros(NUM_FAULTS, dtype=torch.int64)
        for piece in _pieces(self.whole if self.all_checked else self.views):
            total += reference.count_views(piece)[1].cpu()
        if self.looks_one_hot:
            total[Fault.AMBIGUOUS] = self.whole.preds.numel()
        return total

    @property
    def all_checked(self) -> bool:
        """Whether every value is checked, and not those of the sample alone."""
        return max(self.whole.preds.numel(), self.whole.target.numel()) <= MOST_CHECKED

    def shown(self, name: str) -> Views:
        """The views that show most of a side: everything, or the sample where that was edited or alone is checked."""
        if name in self.edits or not self.all_checked:
            return self.views
        return dataclasses.replace(self.whole, ignore_index=self.views.ignore_index)

    @cached_property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Least and largest value of each side, void ones included; nan where there is none but NaN."""
        sides = ("preds", "target")
        return {name: value_range(getattr(piece, name) for piece in _pieces(self.shown(name))) for name in sides}

    @property
    def looks_one_hot(self) -> bool:
        """Whether both sides are read as label maps, but each voxel sums to 1 over the class axis of both."""
        if not isinstance(self.whole, LabelViews) or self.whole.class_axis is None or not self.whole.preds.numel():
            return False
        axis = self.whole.class_axis
        steps = list(self.steps)
        steps[axis] = 1
        sides = [
            side[tuple(slice(None, None, step) for step in steps)] for side in (self.whole.preds, self.whole.target)
        ]
        sides = [side.to(torch.int64) for side in sides]
        return all(bool((side >= 0).all()) and bool((side.sum(axis) == 1).all()) for side in sides)

    @property
    def sampled(self) -> bool:
        """Whether the sample leaves voxels out."""
        return any(step > 1 for step in self.steps)

    @cached_property
    def planes(self) -> Planes:
        """Planes of the sample."""
        if isinstance(self.views, MaskViews):
            return _planes_of_masks(self.views)
        planes = _planes_of_labels(self.views)
        ignored = [label for label in self.counting.ignore_index if 0 <= label < self.counting.num_classes]
        void = torch.tensor(ignored, dtype=torch.int64)
        return dataclasses.replace(planes, scored=planes.scored.index_fill(0, void, value=False))

    def axis(self, spatial: int) -> int:
        """The number of a spatial axis (0, 1, ...) in preds as the user holds them."""
        ndim = self.given[0].ndim
        if self.counting.class_dim == 1 or ndim == len(self.steps):
            return spatial - (len(self.steps) - 1)
        return spatial + 1 + (spatial + 1 >= self.counting.class_dim % ndim)


def value_range(pieces: Iterable[Tensor]) -> tuple[float, float]:
    """Least and largest value that isn't NaN; nan where there is none."""
    least, most = math.inf, -math.inf
    for piece in pieces:
        values = piece if piece.is_floating_point() or piece.element_size() == 1 else piece.to(torch.int64)
        if values.numel() and bool(torch.aminmax(values).min.isnan()):
            values = values[~values.isnan()]
        if values.numel():
            low, high = torch.aminmax(values)
            least, most = min(least, float(low)), max(most, float(high))
    return (least, most) if least <= most else (math.nan, math.nan)


def _steps(space: tuple[int, ...], classes: int) -> tuple[int, ...]:
    """How far to step along each axis of `(N, *S)`: the longest is thinned out until the sample is small enough."""
    most = min(MOST_VOXELS, max(_PAIRED, MOST_ELEMENTS // max(1, classes)))
    steps = [1] * len(space)
    kept = list(space)
    while math.prod(kept) > most:
        axis = max(range(len(space)), key=lambda i: kept[i] if i or kept[0] > _PAIRED else 1)
        steps[axis] += 1
        kept[axis] = math.ceil(space[axis] / steps[axis])
    return tuple(steps)


def _cut(views: Views, box: tuple[slice, ...], keep: Edit) -> Views:
    """The box of `(N, *S)` of every tensor."""
    sides: dict[str, Any] = {}
    for name in ("preds", "target", "mask"):
        tensor: Tensor | None = getattr(views, name)
        if tensor is not None:
            channels = (slice(None),) * (tensor.ndim - len(box))
            sides[name] = keep(tensor[(box[0], *channels, *box[1:])])
    return dataclasses.replace(views, **sides)


def _keep(tensor: Tensor) -> Tensor:
    """A copy of a sample on the CPU; integers in int64, where every operation is to be had."""
    if tensor.device.type != "cpu":
        tensor = tensor.contiguous().cpu()
    return tensor.clone() if tensor.is_floating_point() else tensor.to(torch.int64, copy=True)


def _pieces(views: Views) -> Iterator[Views]:
    """The batch in pieces along its two outermost axes, so that what checking needs is bounded."""
    space = views.space
    inner = max(1, math.prod(space[2:]) * views.num_classes)
    rows = max(1, _PIECE // inner)
    samples = max(1, rows // max(1, space[1]))
    for n, row in itertools.product(range(0, space[0], samples), range(0, space[1], rows)):
        box = (slice(n, n + samples), slice(row, row + rows), *(slice(None) for _ in space[2:]))
        yield _cut(views, box, lambda tensor: tensor)


def _planes_of_labels(views: LabelViews) -> Planes:
    preds, proper_preds = _class_planes(views.preds, views.preds_form, views.num_classes)
    target, proper_target = _class_planes(views.target, views.target_form, views.num_classes)
    counted = proper_preds & proper_target
    for label in reference.void_values(views.ignore_index, views.target.dtype):
        if views.target_form is Form.LABELS:
            counted = counted & (views.target != label)
        elif 0 <= label < views.num_classes:
            counted = counted & ~target[:, label]
    if views.mask is not None:
        counted = counted & views.mask
    counted = counted.unsqueeze(1)
    return Planes(preds, target & counted, counted, torch.ones(views.num_classes, dtype=torch.bool), 1)


def _class_planes(tensor: Tensor, form: Form, size: int) -> tuple[Tensor, Tensor]:
    """Planes `(N, C, *S)`, and where `(N, *S)` exactly one of them is meant."""
    if form is Form.ONE_HOT:
        planes = tensor == 1
        return planes, (planes | (tensor == 0)).all(1) & (planes.sum(1) == 1)
    proper = torch.ones((), dtype=torch.bool)
    if form is Form.SCORES:
        best, tensor = tensor.max(1)
        proper = ~best.isnan()
    classes = torch.arange(size).view(1, size, *(1 for _ in tensor.shape[1:]))
    planes = tensor.unsqueeze(1) == classes
    return planes, planes.any(1) & proper


def _planes_of_masks(views: MaskViews) -> Planes:
    preds, target = views.preds, views.target
    counted = (target == 0) | (target == 1)
    if preds.is_floating_point():
        counted = counted & ~preds.isnan()
        if views.probabilities:
            counted = counted & (preds >= -TOLERANCE) & (preds <= 1 + TOLERANCE)
        if len(set(views.cutoffs)) == 1:
            planes = preds > views.cutoffs[0]
        else:
            planes = torch.stack([preds[:, label] > cutoff for label, cutoff in enumerate(views.cutoffs)], dim=1)
    else:
        counted = counted & ((preds == 0) | (preds == 1))
        planes = preds == 1
    for value in reference.void_values(views.ignore_index, target.dtype):
        counted = counted & (target != value)
    if views.mask is not None:
        counted = counted & views.mask.unsqueeze(1)
    return Planes(planes, (target == 1) & counted, counted, torch.ones(views.num_classes, dtype=torch.bool), 0)
