"""Floor 6: the batch under examination: all of it as it came, a bounded sample, and yes-or-no planes to count."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchmetrics_dice_ext._counts import OverlapCounts, looks_one_hot
from torchmetrics_dice_ext._faults import NUM_FAULTS, Fault
from torchmetrics_dice_ext._inputs import read_inputs
from torchmetrics_dice_ext._kernels import reference
from torchmetrics_dice_ext._options import Counting
from torchmetrics_dice_ext._reductions import average_classes, score_classes
from torchmetrics_dice_ext._scores import dice
from torchmetrics_dice_ext._tiles import Box, tiles, with_channels
from torchmetrics_dice_ext._views import Form, LabelViews, MaskViews, Views

MOST_VOXELS = 1 << 21  # of the sample
MOST_ELEMENTS = 1 << 23  # of the sample: voxels times classes
MOST_CHECKED = 1 << 27  # a batch of fewer elements has every value checked, a larger one the values of the sample
KEPT_SAMPLES = 64  # so many samples are all in the sample, so that they can be told apart
MOST_CLASSES = MOST_ELEMENTS // KEPT_SAMPLES
_PIECE_ELEMENTS = 1 << 22

Edit = Callable[[Tensor], Tensor]


class Given(NamedTuple):
    """A batch as the user holds it, and the options that decide how it is read."""

    preds: Tensor
    target: Tensor
    mask: Tensor | None
    counting: Counting


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
        given: preds, target and mask in the user's layout and as they came; the options after all remedies.
        whole: Canonical views of everything, as it came.
        views: The sample after all remedies, on the CPU; integers and bools in int64.
        steps: The sample has every `steps[i]`-th entry of axis i of `(N, *S)`.
        repairs: Remedies of values, each a side and what becomes of its entries; they hold for any reading.
        moved: Whether a remedy has put preds of the sample in another order, place or meaning.
    """

    given: Given
    whole: Views
    views: Views
    steps: tuple[int, ...]
    repairs: tuple[tuple[str, Edit], ...] = ()
    moved: bool = False

    @classmethod
    def read(cls, given: Given, repairs: tuple[tuple[str, Edit], ...] = ()) -> Batch:
        """Read, sample and repair a batch.

        Raises:
            TypeError, ValueError: As `read_inputs`.
        """
        whole = read_inputs(*given)
        steps = _steps(whole.space, whole.num_classes)
        box = tuple(slice(_start(n, s), None, s) for n, s in zip(whole.space, steps, strict=True))
        return cls(given, whole, _repaired(_kept(_cut(whole, box)), repairs), steps, repairs)

    @property
    def counting(self) -> Counting:
        """The options that decide the reading."""
        return self.given.counting

    def reread(self, **counting: Any) -> Batch:
        """All of the batch read with other options; without its mask if that doesn't fit them.

        Raises:
            ValueError: The options don't fit the shapes, or preds have been moved since the batch was read.
        """
        if self.moved:
            raise ValueError("`preds` have been moved, which another reading would undo.")
        given = self.given._replace(counting=dataclasses.replace(self.counting, **counting))
        try:
            return Batch.read(given, self.repairs)
        except ValueError:
            if given.mask is None:
                raise
            return Batch.read(given._replace(mask=None), self.repairs)

    def edited(self, *, preds: Edit | None = None, target: Edit | None = None, **counting: Any) -> Batch:
        """The batch after a remedy: a function of the entries of a side, or other values of counting options."""
        options = dataclasses.replace(self.counting, **counting)
        repairs = tuple((name, edit) for name, edit in (("preds", preds), ("target", target)) if edit is not None)
        return dataclasses.replace(
            self,
            given=self.given._replace(counting=options),
            whole=_with_options(self.whole, options),
            views=_repaired(_with_options(self.views, options), repairs),
            repairs=self.repairs + repairs,
        )

    def with_preds_moved(self, move: Edit) -> Batch:
        """The sample after a remedy that depends on what the axes of its preds `(N, *S)` or `(N, K, *S)` mean."""
        return dataclasses.replace(self, views=_repaired(self.views, (("preds", move),)), moved=True)

    @property
    def all_checked(self) -> bool:
        """Whether every value is checked, and not those of the sample alone."""
        return max(self.whole.preds.numel(), self.whole.target.numel()) <= MOST_CHECKED

    @property
    def checked(self) -> Views:
        """The views whose values are checked; without their repairs where these are all of the batch."""
        return self.whole if self.all_checked and not self.moved else self.views

    def pieces(self) -> Iterator[Views]:
        """The values that are checked, after all remedies, in pieces, so that what checking needs is bounded."""
        for box in tiles(self.checked.space, max(1, _PIECE_ELEMENTS // self.checked.num_classes)):
            piece = _cut(self.checked, box)
            yield _repaired(_kept(piece), self.repairs) if self.repairs and self.checked is self.whole else piece

    @cached_property
    def faults(self) -> list[int]:
        """How many voxels of each kind of fault, as the metrics would count them."""
        total = torch.zeros(NUM_FAULTS, dtype=torch.int64)
        for piece in self.pieces():
            total += reference.count_views(piece)[1].cpu()
        if self.looks_one_hot:
            total[Fault.AMBIGUOUS] = self.whole.preds.numel()
        return total.tolist()

    @cached_property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Least and largest value of each side, void ones included; nan where there is none but NaN."""
        return {name: value_range(getattr(piece, name) for piece in self.pieces()) for name in ("preds", "target")}

    @property
    def looks_one_hot(self) -> bool:
        """Whether both sides are read as label maps, but each voxel sums to 1 over the class axis of both."""
        if not isinstance(self.whole, LabelViews) or self.whole.class_axis is None or not self.whole.preds.numel():
            return False
        axis = self.whole.class_axis
        box = tuple(slice(None, None, 1 if a == axis else step) for a, step in enumerate(self.steps))
        views = _repaired(_kept(_cut(self.whole, box)), self.repairs)
        return all(bool(looks_one_hot(side, axis)) for side in (views.preds, views.target))

    @property
    def sampled(self) -> bool:
        """Whether the sample leaves voxels out."""
        return any(step > 1 for step in self.steps)

    @cached_property
    def planes(self) -> Planes:
        """Planes of the sample."""
        views, everywhere = self.views, (slice(None),) * len(self.steps)
        if isinstance(views, MaskViews):
            preds, target, counted, _ = reference.mask_answers(views, everywhere)
        else:
            codes = reference.preds_codes(views, everywhere), reference.target_codes(views, everywhere)
            classes = torch.arange(views.num_classes, dtype=torch.int32).unsqueeze(1)
            preds, target = (side.unsqueeze(1) == classes for side in codes)
            counted = preds.any(1, keepdim=True) & target.any(1, keepdim=True)
        preds, target, counted = (side.unflatten(2, views.space[1:]) for side in (preds, target & counted, counted))
        void = torch.tensor(self.counting.void_outputs, dtype=torch.int64)
        scored = torch.ones(views.num_classes, dtype=torch.bool).index_fill(0, void, value=False)
        return Planes(preds, target, counted, scored, foreground=int(isinstance(views, LabelViews)))

    def axis(self, spatial: int) -> int:
        """The number of a spatial axis (0, 1, ...) in preds as the user holds them."""
        ndim = self.given.preds.ndim
        if self.counting.class_dim == 1 or ndim == len(self.steps):
            return spatial - (len(self.steps) - 1)
        return spatial + 1 + (spatial + 1 >= self.counting.class_dim % ndim)

    def place(self, axis: int, index: int) -> int:
        """Where in axis `axis` of `(N, *S)` the sample has its entry `index`."""
        return _start(self.whole.space[axis], self.steps[axis]) + index * self.steps[axis]


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
    most = min(MOST_VOXELS, max(KEPT_SAMPLES, MOST_ELEMENTS // max(1, classes)))
    steps = [1] * len(space)
    kept = list(space)
    while math.prod(kept) > most:
        axis = max(range(len(space)), key=lambda i: kept[i] if i or kept[0] > KEPT_SAMPLES else 1)
        steps[axis] += 1
        kept[axis] = math.ceil(space[axis] / steps[axis])
    return tuple(steps)


def _start(size: int, step: int) -> int:
    """The first entry of an axis in the sample: as much is left out before it as after the last one."""
    return (size - 1) % step // 2


def _cut(views: Views, box: Box) -> Views:
    """The box of `(N, *S)` of every tensor."""
    sides: dict[str, Any] = {}
    for name in ("preds", "target", "mask"):
        tensor: Tensor | None = getattr(views, name)
        if tensor is not None:
            sides[name] = tensor[box if tensor.ndim == len(box) else with_channels(box)]
    return dataclasses.replace(views, **sides)


def _kept(views: Views) -> Views:
    """Copies on the CPU; integers in int64, where every operation is to be had."""
    sides: dict[str, Any] = {}
    for name in ("preds", "target", "mask"):
        tensor: Tensor | None = getattr(views, name)
        if tensor is not None:
            plain = tensor.is_floating_point() or name == "mask"
            sides[name] = tensor.to("cpu", tensor.dtype if plain else torch.int64, copy=True)
    return dataclasses.replace(views, **sides)


def _repaired(views: Views, repairs: tuple[tuple[str, Edit], ...]) -> Views:
    """Such copies after edits of their sides; decisions become labels, and fractional one-hot preds scores."""
    sides: dict[str, Any] = {"preds": views.preds, "target": views.target}
    for name, edit in repairs:
        edited = edit(sides[name])
        sides[name] = edited.to(torch.int64) if edited.dtype == torch.bool else edited
    if isinstance(views, LabelViews) and sides["preds"].is_floating_point():
        sides["preds_form"] = Form.SCORES
    return dataclasses.replace(views, **sides)


def _with_options(views: Views, counting: Counting) -> Views:
    """The views under other options, as far as these leave their shapes alone."""
    if isinstance(views, LabelViews):
        return dataclasses.replace(views, num_classes=counting.num_classes, ignore_index=counting.ignore_index)
    options: dict[str, Any] = {"cutoffs": counting.cutoffs, "probabilities": not counting.from_logits}
    return dataclasses.replace(views, **options, ignore_index=counting.ignore_index)
