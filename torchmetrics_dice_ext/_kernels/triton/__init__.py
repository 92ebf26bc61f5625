"""Floor 1: the Triton backend (NVIDIA GPUs; CPU tensors with TRITON_INTERPRET=1); it equals `reference` in every count.

One launch reads every input once, whatever its dtype and strides. Nothing here waits for the device or copies to it.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from torchmetrics_dice_ext._faults import NUM_FAULTS, TOLERANCE, Fault
from torchmetrics_dice_ext._views import PREDS_FAULT, TARGET_FAULT, Form, LabelViews, MaskViews, Views
from torchmetrics_dice_ext._void import void_labels, void_values

OLDEST = (3, 4)  # the oldest Triton that compiles all of this
MOST_AXES = 3  # spatial axes left where neighbours were joined
WIDE = 1 << 30  # voxels from which 32 bits are too few to number those of a sample

THREADS = 128  # of a program
TILE = 512  # voxels of a tile, and up to four times as many where threads keep little for each
SMALL_TILE = 256  # where a sample has no more voxels than that
MOST_TILES = 255  # of a program: some counters have eight bits
PROGRAMS = 16  # for each multiprocessor
LANES = 32  # classes or labels, at most, that threads read side by side

MOST_BINNED = 254  # classes that histograms on the chip can hold
MOST_TABLES = 32  # between which the traffic of more classes than that is divided
TABLE_BYTES = 1 << 24  # that these may take together
REGIONS = 8  # that one launch counts

Ints = tuple[int, ...]
Space = tuple[Ints, tuple[Ints, ...]]


def unsupported_reason(views: Views) -> str | None:
    """Why these views can't be counted here, or None."""
    device = views.preds.device
    reason = _unusable(device.index) if device.type == "cuda" else _uninterpretable(device)
    if reason is not None:
        return reason
    if any(tensor is not None and tensor.is_neg() for tensor in (views.preds, views.target, views.mask)):
        return "A tensor is negated lazily, its memory holds other values: `.resolve_neg()` it."
    if len(views.space) > 1 + MOST_AXES and len(_space(views)[0]) > MOST_AXES:
        return f"The tensors lie so differently in memory that more than {MOST_AXES} spatial axes can't be joined."
    return None


@functools.cache
def _unusable(index: int) -> str | None:
    """Why Triton can't be used on a GPU, or None."""
    if torch.version.hip is not None:
        return "AMD GPUs are untested."
    major, minor = torch.cuda.get_device_capability(index)
    if major < 8:
        return f"The GPU has compute capability {major}.{minor}, less than 8.0."
    return _missing() or _unable_to_start()


def _unable_to_start() -> str | None:
    """Why Triton can't launch kernels, or None: its launcher needs a C compiler and a folder to write to."""
    try:
        driver: Any = importlib.import_module("triton.runtime").driver
        driver.active.get_current_target()
    except Exception as error:  # of many kinds: no compiler, no headers, no driver
        return f"Triton can't start ({error})."
    return None


@functools.cache
def _missing() -> str | None:
    """Why there is no Triton to use, or None."""
    try:
        triton: Any = importlib.import_module("triton")
    except ModuleNotFoundError:
        return "Triton is not installed."
    except ImportError as error:
        return f"Triton can't be imported ({error})."
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < OLDEST:
        return f"Triton {triton.__version__} is older than {'.'.join(map(str, OLDEST))}."
    return None


def _uninterpretable(device: torch.device) -> str | None:
    """Why tensors that are on no CUDA device can't be counted by Triton's interpreter, or None."""
    if device.type != "cpu":
        return f"The tensors are on {device}, not on a CUDA device."
    if os.environ.get("TRITON_INTERPRET") != "1":
        return "The tensors are on the CPU; Triton takes them with TRITON_INTERPRET=1, slowly."
    loaded = sys.modules.get(f"{__name__}.device")
    if loaded is not None and hasattr(loaded.count_labels, "device_caches"):
        return "TRITON_INTERPRET was set when Triton had been in use without it."
    return _missing()


@functools.cache
def _device() -> ModuleType:
    return importlib.import_module(f"{__name__}.device")


def count_views(views: Views) -> tuple[Tensor, Tensor]:
    """Counts `(N, K, 4)` and faults `(NUM_FAULTS,)` of canonical views."""
    if 0 in views.space:
        counts, faults, _ = _outputs(views)
        return counts, faults
    with _on(views.preds.device):
        return _count_masks(views) if isinstance(views, MaskViews) else _count_labels(views)


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """What is launched inside goes to this device."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


def _outputs(views: Views, tables: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Zeros in one piece: counts `(N, K, 4)`, faults `(NUM_FAULTS,)`, and tables of counts, the first `counts`."""
    shape = (views.space[0], views.num_outputs, 4)
    size = math.prod(shape)
    buffer = torch.zeros(tables * size + NUM_FAULTS, dtype=torch.int64, device=views.preds.device)
    faults, stacked = buffer[-NUM_FAULTS:], buffer[:-NUM_FAULTS].view(tables, *shape)
    return stacked[0], faults, stacked


# How the voxels lie in memory, and how they are shared out.


def _space(views: Views) -> Space:
    """Spatial sizes, and the steps of preds, target and mask along them."""
    mask = views.target if views.mask is None else views.mask
    return _join(views.space[1:], views.preds.stride(), views.target.stride(), mask.stride())


@functools.lru_cache(maxsize=1024)
def _join(sizes: Ints, *strides: Ints) -> Space:
    """As few axes as can be, innermost first: those that all tensors hold in one row are joined.

    They may be taken in any order: sums have none.
    """
    steps = [stride[-len(sizes) :] for stride in strides]
    axes: list[list[int]] = []
    for size, *step in sorted(zip(sizes, *steps, strict=True), key=lambda axis: axis[1:]):
        if size == 1:
            continue
        if axes and all(inner * axes[-1][0] == outer for inner, outer in zip(axes[-1][1:], step, strict=True)):
            axes[-1][0] *= size
        else:
            axes.append([size, *step])
    joined, *joined_steps = zip(*(axes or [[1] * (1 + len(steps))]), strict=True)
    return joined, tuple(joined_steps)


def _row(tensor: Tensor, steps: Ints, size: int) -> int:
    """How many of `size` classes threads should read side by side; 1 where voxels lie closer together than classes."""
    if size == 1 or (tensor.stride(1) >= steps[0] and math.prod(tensor.shape[2:]) > 1):
        return 1
    return min(LANES, _power_of_two(size))


def _tile(tensor: Tensor, voxels: int) -> int:
    """Voxels of a tile: a thread reads 16 bytes of them, and at least 4 voxels."""
    return SMALL_TILE if voxels <= SMALL_TILE else max(TILE, 16 * THREADS // tensor.itemsize)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _programs(device: torch.device, rows: int, voxels: int, tile: int) -> int:
    """Programs for each of `rows` rows of voxels: enough to fill the device, all with about as many tiles."""
    tiles = -(-voxels // tile)
    filling = max(1, PROGRAMS * _multiprocessors(device) // rows)
    return -(-tiles // min(MOST_TILES, -(-tiles // filling)))


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


# Labels.


def _count_labels(views: LabelViews) -> tuple[Tensor, Tensor]:
    samples, size = views.space[0], views.num_classes
    if views.regions is not None:
        counts, faults, _ = _outputs(views)
        for first in range(0, len(views.regions), REGIONS):
            words = _region_words(views.regions[first : first + REGIONS], size)
            _launch_labels(views, counts[:, first:], faults, "REGIONS", words=words, report=first == 0)
        return counts, faults
    if size <= MOST_BINNED:
        counts, faults, _ = _outputs(views)
        _launch_labels(views, counts, faults, "HISTOGRAMS")
        return counts, faults
    counts, faults, tables = _outputs(views, max(1, min(MOST_TABLES, TABLE_BYTES // (32 * samples * size))))
    _launch_labels(views, counts, faults, "ATOMICS", tables=tables.shape[0])
    counts = tables.sum(0) if tables.shape[0] > 1 else counts
    counts[:, :, 1:3] += counts[:, :, :1]
    counts[:, :, 3] = counts[:, :, 2].sum(1, keepdim=True)
    return counts, faults


def _launch_labels(
    views: LabelViews,
    counts: Tensor,
    faults: Tensor,
    method: str,
    *,
    tables: int = 1,
    words: tuple[Ints, ...] = (),
    report: bool = True,
) -> None:
    """Add to the counts and the faults of label views, in one reading."""
    device, size, preds, target = _device(), views.num_classes, views.preds, views.target
    mask = target if views.mask is None else views.mask
    sizes, (preds_steps, target_steps, mask_steps) = _space(views)
    voxels = math.prod(sizes)
    row = _row(preds, preds_steps, size) if views.preds_form is Form.SCORES else 1
    little = views.preds_form is views.target_form is Form.LABELS and method != "REGIONS"
    most = 4 * TILE if little else TILE
    tile = min(_tile(preds, voxels), max(THREADS, min(most, 8 * TILE // row)))
    programs = _programs(preds.device, views.space[0], voxels, tile)
    device.count_labels[(views.space[0] * programs,)](
        preds,
        target,
        mask,
        counts,
        faults,
        sizes,
        _strides(preds, views.preds_form, preds_steps),
        _strides(target, views.target_form, target_steps),
        (mask.stride(0), 0, *mask_steps),
        counts.stride(0),
        views.space[0] * counts.stride(0),
        tables,
        voxels,
        programs,
        SIZE=size,
        PREDS_FORM=views.preds_form.name,
        TARGET_FORM=views.target_form.name,
        ROW=row,
        HAS_MASK=views.mask is not None,
        IGNORED=_ignored_labels(views.ignore_index, views.target_form, target.dtype, size),
        KINDS=(int(PREDS_FAULT[views.preds_form]), int(TARGET_FAULT[views.target_form]), int(Fault.TARGET_FRACTION)),
        METHOD=method,
        WORDS=words,
        REPORT=report,
        BINS=max(16, _power_of_two(size + 2)) if method == "HISTOGRAMS" else 1,
        WIDE=voxels >= WIDE,
        BLOCK=tile,
        num_warps=THREADS // 32,
        enable_fp_fusion=False,  # nothing to fuse; Triton 3.9 asks to be told
    )


def _strides(tensor: Tensor, form: Form, steps: Ints) -> Ints:
    """Along the samples, the classes and the spatial axes."""
    return (tensor.stride(0), 0 if form is Form.LABELS else tensor.stride(1), *steps)


@functools.lru_cache(maxsize=1024)
def _ignored_labels(ignore_index: Ints, form: Form, dtype: torch.dtype, size: int) -> tuple[float, ...]:
    """The ignored values to look for in target."""
    if form is Form.ONE_HOT:
        return tuple(void_labels(form, dtype, size, ignore_index))
    return _ignored_values(ignore_index, dtype)


@functools.lru_cache(maxsize=1024)
def _ignored_values(ignore_index: Ints, dtype: torch.dtype) -> tuple[float, ...]:
    """The ignored values that a dtype can hold, as the kernels see them."""
    values = void_values(ignore_index, dtype)
    return tuple(map(float, values)) if dtype.is_floating_point else tuple(values)


@functools.lru_cache(maxsize=1024)
def _region_words(regions: tuple[Ints, ...], size: int) -> tuple[Ints, ...]:
    """For every region one bit for each label, 32 to an int32."""
    rows = []
    for labels in regions:
        bits = sum(1 << label for label in labels)
        words = [bits >> place & 0xFFFFFFFF for place in range(0, size, 32)]
        rows.append(tuple(word - (word >> 31 << 32) for word in words))
    return tuple(rows)


# Masks.


_FLOAT_KINDS = tuple(map(int, (Fault.PREDS_NAN, Fault.PREDS_PROBABILITY, Fault.TARGET_BINARY, Fault.TARGET_FRACTION)))
_INT_KINDS = tuple(map(int, (Fault.PREDS_NAN, Fault.PREDS_BINARY, Fault.TARGET_BINARY, Fault.TARGET_FRACTION)))


def _count_masks(views: MaskViews) -> tuple[Tensor, Tensor]:
    counts, faults, _ = _outputs(views)
    if not views.preds.is_floating_point():
        _launch_masks(views, counts, faults, 0, views.num_classes, 0.0)
        return counts, faults
    cutoffs = _rounded_all(views.cutoffs, views.preds.dtype)
    first = 0
    for cutoff, run in itertools.groupby(cutoffs if len(cutoffs) > 1 else cutoffs * views.num_classes):
        length = len(list(run))
        _launch_masks(views, counts, faults, first, length, cutoff)
        first += length
    return counts, faults


def _launch_masks(views: MaskViews, counts: Tensor, faults: Tensor, first: int, labels: int, cutoff: float) -> None:
    """Add to the counts and the faults of the labels from `first` on that share a cutoff."""
    preds, target = views.preds, views.target
    if labels < views.num_classes:
        counts, preds, target = (tensor.narrow(1, first, labels) for tensor in (counts, preds, target))
    mask = target if views.mask is None else views.mask
    sizes, (preds_steps, target_steps, mask_steps) = _space(views)
    voxels = math.prod(sizes)
    row = _row(preds, preds_steps, labels)
    tile = min(_tile(preds, voxels), 4 * TILE // row)
    rows = views.space[0] * -(-labels // row)
    programs = _programs(preds.device, rows, voxels, tile)
    floating = preds.is_floating_point()
    _device().count_masks[(rows * programs,)](
        preds,
        target,
        mask,
        counts,
        faults,
        sizes,
        (preds.stride(0), preds.stride(1), *preds_steps),
        (target.stride(0), target.stride(1), *target_steps),
        (mask.stride(0), 0, *mask_steps),
        counts.stride(0),
        labels,
        voxels,
        programs,
        cutoff,
        BOUNDS=_rounded_all((-TOLERANCE, 1 + TOLERANCE), preds.dtype) if floating and views.probabilities else (),
        HAS_MASK=views.mask is not None,
        IGNORED=_ignored_values(views.ignore_index, target.dtype),
        KINDS=_FLOAT_KINDS if floating else _INT_KINDS,
        WIDE=voxels >= WIDE,
        BLOCK=tile,
        ROW=row,
        num_warps=THREADS // 32,
        enable_fp_fusion=False,  # nothing to fuse; Triton 3.9 asks to be told
    )


@functools.lru_cache(maxsize=1024)
def _rounded_all(values: tuple[float, ...], dtype: torch.dtype) -> tuple[float, ...]:
    return tuple(_rounded(value, dtype) for value in values)


def _rounded(value: float, dtype: torch.dtype) -> float:
    """The value as PyTorch compares it with tensors of a float dtype."""
    return torch.tensor(value, dtype=torch.float64, device="cpu").to(dtype).item()
