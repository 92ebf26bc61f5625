"""Floor 1: from canonical views to the words that describe them to the drivers; imported only where numba is there."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchmetrics_dice_ext._faults import TOLERANCE, Fault
from torchmetrics_dice_ext._kernels.cpu import words as w
from torchmetrics_dice_ext._kernels.cpu.drivers import count_labels, count_masks
from torchmetrics_dice_ext._kernels.cpu.jit import address_of
from torchmetrics_dice_ext._kernels.cpu.stages import STAGES
from torchmetrics_dice_ext._views import PREDS_FAULT, TARGET_FAULT, Form, LabelViews, Views
from torchmetrics_dice_ext._void import void_labels, void_values

MOST_PAIRED = 128  # classes up to which pairs of labels are counted, in a table that stays in the cache

_FLOATS = {torch.float64: (52, 1023), torch.float32: (23, 127), torch.float16: (10, 15), torch.bfloat16: (7, 127)}
_HALVES = (torch.float16, torch.bfloat16)
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

Regions = tuple[tuple[int, ...], ...]
Layout = tuple[torch.dtype, tuple[int, ...]]  # dtype and strides
Layouts = tuple[Layout, Layout, Layout | None]  # of preds, target, mask


class Plan(NamedTuple):
    """A batch's words but for addresses: what batches of one shape and one set of options have in common."""

    driver: int
    words: Any
    samples: int
    voxels: int
    outputs: int

    def words_of(self, views: Views, counts: Tensor) -> Any:
        """The words of these views."""
        words = self.words.copy()
        words[w.COUNTS] = counts.data_ptr()
        words[w.PREDS + w.ADDRESS] = views.preds.data_ptr()
        words[w.TARGET + w.ADDRESS] = views.target.data_ptr()
        if views.mask is not None:
            words[w.MASK + w.ADDRESS] = views.mask.data_ptr()
        return words


class SideReading(NamedTuple):
    """How a side is read: the stage, its NumPy item, and the words that say more."""

    stage: str
    item: str
    words: dict[int, int]


def plan_of(views: Views) -> Plan:
    """The plan of a batch; after the first batch of its kind a look-up."""
    preds, target, mask = views.preds, views.target, views.mask
    layouts: Layouts = (
        (preds.dtype, preds.stride()),
        (target.dtype, target.stride()),
        None if mask is None else (mask.dtype, mask.stride()),
    )
    if isinstance(views, LabelViews):
        forms = views.preds_form, views.target_form
        return _label_plan(preds.shape, layouts, forms, views.num_classes, views.ignore_index, views.regions)
    return _mask_plan(preds.shape, layouts, views.cutoffs, views.probabilities, views.ignore_index)


@functools.lru_cache(maxsize=1024)
def _label_plan(
    shape: tuple[int, ...],
    layouts: Layouts,
    forms: tuple[Form, Form],
    size: int,
    ignore_index: tuple[int, ...],
    regions: Regions | None,
) -> Plan:
    space = shape if forms[0] is Form.LABELS else (shape[0], *shape[2:])
    voxels = math.prod(space[1:])
    head = {
        w.OUTPUTS: size if regions is None else len(regions),
        w.PREDS_FAULT: PREDS_FAULT[forms[0]],
        w.TARGET_FAULT: TARGET_FAULT[forms[1]],
        w.MEMBERS: 0 if regions is None else _members(regions, size),
        w.PAIRED: size <= MOST_PAIRED and voxels >= size * size,
    }
    preds = _label_reading(forms[0], layouts[0][0], size, ())
    target = _label_reading(forms[1], layouts[1][0], size, ignore_index)
    return _plan(count_labels, "int16", space, head, (preds, target), layouts)


@functools.lru_cache(maxsize=1024)
def _mask_plan(
    shape: tuple[int, ...],
    layouts: Layouts,
    cutoffs: tuple[float, ...],
    probabilities: bool,
    ignore_index: tuple[int, ...],
) -> Plan:
    dtype = layouts[0][0]
    preds, fault = _element_reading(dtype, ()), Fault.PREDS_BINARY
    if dtype.is_floating_point:
        preds, fault = _threshold_reading(dtype, cutoffs, probabilities), Fault.PREDS_PROBABILITY
    head = {w.OUTPUTS: shape[1], w.PREDS_FAULT: fault, w.TARGET_FAULT: Fault.TARGET_BINARY}
    target = _element_reading(layouts[1][0], ignore_index)
    return _plan(count_masks, "uint8", (shape[0], *shape[2:]), head, (preds, target), layouts)


def _plan(
    driver: Any,
    code: str,
    space: tuple[int, ...],
    head: dict[int, int],
    readings: tuple[SideReading, SideReading],
    layouts: Layouts,
) -> Plan:
    axes = _axes(space[1:], layouts)
    words = np.zeros(w.SPACE + w.AXIS * len(axes), dtype=np.int64)
    voxels = math.prod(space[1:])
    _fill(words, 0, {**head, w.VOXELS: voxels, w.AXES: len(axes)})
    for side, (layout, reading) in enumerate(
        zip(layouts, (*readings, SideReading("unmask", "uint8", {})), strict=True)
    ):
        if layout is None:
            continue
        item, strides, step = layout[0].itemsize, layout[1], axes[0][1 + side]
        place = {w.ITEM: item, w.SAMPLE_STRIDE: item * strides[0], w.CHANNEL_STRIDE: strides[1], w.STEP: step}
        functions = {w.FUNCTION: _stage(reading.stage, reading.item, code)}
        if step != 1:
            functions = {w.FUNCTION: _stage("gather", f"uint{8 * item}", code), w.INNER: functions[w.FUNCTION]}
        _fill(words, w.PREDS + w.SIDE * side, {w.ROWS: 1, **reading.words, **place, **functions})
        for number, axis in enumerate(axes):
            words[w.SPACE + w.AXIS * number + 1 + side] = item * axis[1 + side]
    for number, axis in enumerate(axes):
        words[w.SPACE + w.AXIS * number] = axis[0]
    return Plan(_driver(driver), words, space[0], voxels, head[w.OUTPUTS])


def _fill(words: Any, start: int, values: dict[int, int]) -> None:
    for word, value in values.items():
        words[start + word] = value


def _axes(sizes: tuple[int, ...], layouts: Layouts) -> list[list[int]]:
    """Size and strides in preds, target and mask of each spatial axis, innermost first, as few axes as can be.

    Axes are joined where all tensors hold them in one row. They may be taken in any order, for sums have none.
    """
    strides = [(0,) * len(sizes) if layout is None else layout[1][-len(sizes) :] for layout in layouts]
    axes: list[list[int]] = []
    for size, *steps in sorted(zip(sizes, *strides, strict=True), key=lambda axis: axis[1]):
        if size == 1:
            continue
        if axes and all(inner * axes[-1][0] == outer for inner, outer in zip(axes[-1][1:], steps, strict=True)):
            axes[-1][0] *= size
        else:
            axes.append([size, *steps])
    return axes or [[1, 1, 1, 1]]


@functools.cache
def _label_reading(form: Form, dtype: torch.dtype, size: int, ignore_index: tuple[int, ...]) -> SideReading:
    bits, half = 8 * dtype.itemsize, "half_" if dtype in _HALVES else ""
    words = {w.SIZE: size, **_float_words(dtype)}
    if form is Form.SCORES:
        return SideReading("scores", f"int{bits}" if half else f"float{bits}", {**words, w.ROWS: size})
    if form is Form.ONE_HOT:
        words |= {w.ROWS: size, **_items(dtype, size, ()), **_ignored(void_labels(form, dtype, size, ignore_index))}
        return SideReading("one_hot", f"uint{bits}", words)
    ignored = void_values(ignore_index, dtype)
    if dtype.is_floating_point:
        item = f"uint{bits}" if half else f"float{bits}"
        return SideReading(f"{half}whole_labels", item, {**words, **_ignored(ignored)})
    if dtype.is_signed and size > 1 << bits - 1:  # what is negative doesn't lie past the last label
        return SideReading("whole_labels", f"int{bits}", {**words, **_ignored(ignored)})
    return SideReading("labels", f"uint{bits}", {**words, **_items(dtype, size, ignored)})


@functools.cache
def _element_reading(dtype: torch.dtype, ignore_index: tuple[int, ...]) -> SideReading:
    values = void_values(ignore_index, dtype)
    if dtype.is_floating_point:
        integer = _INTEGERS[dtype.itemsize]
        held = [torch.tensor(float(value), dtype=dtype, device="cpu") for value in values]
        values = [int(one.view(integer)) for one, value in zip(held, values, strict=True) if float(one) == value]
    return SideReading("elements", f"uint{8 * dtype.itemsize}", {**_float_words(dtype), **_items(dtype, 2, values)})


@functools.cache
def _threshold_reading(dtype: torch.dtype, cutoffs: tuple[float, ...], probabilities: bool) -> SideReading:
    low, high = (-TOLERANCE, 1 + TOLERANCE) if probabilities else (-math.inf, math.inf)
    bounds = torch.tensor([low, high, *cutoffs], dtype=dtype, device="cpu")  # rounded, as PyTorch compares them
    bits = bounds.view(_INTEGERS[dtype.itemsize])
    magnitude = torch.iinfo(bits.dtype).max
    # by its bits what is negative is larger than all numbers that aren't, and so is NaN
    items = [-1 if probabilities else magnitude, int(bits[1])]
    words = {**_float_words(dtype), w.ITEMS: _kept(np.array(items, dtype=f"int{8 * dtype.itemsize}"))}
    kind = "int" if dtype in _HALVES else "float"
    if dtype in _HALVES:
        bounds = torch.where(bits < 0, -(bits & magnitude), bits)
    words[w.BOUNDS] = _kept(np.array(bounds.to(torch.float64).tolist()))
    return SideReading("threshold", f"{kind}{8 * dtype.itemsize}", words)


def _float_words(dtype: torch.dtype) -> dict[int, int]:
    mantissa, bias = _FLOATS.get(dtype, (0, 0))
    return {w.MANTISSA: mantissa, w.BIAS: bias, w.NAN_ABOVE: 2 * bias + 1 << mantissa if dtype in _HALVES else 0}


def _items(dtype: torch.dtype, size: int, ignored: Sequence[int]) -> dict[int, int]:
    """Constants of the unsigned dtype of these items: see ITEMS."""
    bits = 8 * dtype.itemsize
    mantissa, bias = _FLOATS.get(dtype, (0, 0))
    one, magnitude = (bias << mantissa, (1 << bits - 1) - 1) if mantissa else (1, (1 << bits) - 1)
    items = [one, magnitude, min(size, (1 << bits) - 1), *(value % (1 << bits) for value in ignored)]
    return {w.ITEMS: _kept(np.array(items, dtype=f"uint{bits}")), w.NUM_IGNORED: len(ignored)}


def _ignored(labels: Sequence[int]) -> dict[int, int]:
    return {w.IGNORED: _kept(np.array(labels, dtype=np.float64)), w.NUM_IGNORED: len(labels)}


@functools.cache
def _members(regions: Regions, size: int) -> int:
    """The address of a table uint8 `(C, R)`: which label is in which region."""
    members = np.zeros((size, len(regions)), dtype=np.uint8)
    for region, labels in enumerate(regions):
        members[list(labels), region] = 1
    return _kept(members)


@functools.cache
def _stage(name: str, item: str, code: str) -> int:
    """The address of a stage for these items and codes."""
    return address_of(STAGES[name], "int64", item, code, words=2)


@functools.cache
def _driver(function: Any) -> int:
    """The address of a driver."""
    return address_of(function, "int64", "int64", "int64", words=2)


_KEPT: list[Any] = []


def _kept(array: Any) -> int:
    """The address of an array that stays for good, as words that name it may."""
    _KEPT.append(array)
    return int(array.ctypes.data)
