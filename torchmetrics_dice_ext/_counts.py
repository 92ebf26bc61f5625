"""Floor 2: canonical views -> overlap counts and fault counts; the only place that chooses a backend."""

from __future__ import annotations

import functools
import importlib
import math
import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from torchmetrics_dice_ext._faults import MOST_LISTED, TOLERANCE, Fault, describe
from torchmetrics_dice_ext._kernels import reference
from torchmetrics_dice_ext._tiles import cut, cut_channels, tiles
from torchmetrics_dice_ext._views import LabelViews, Views

BACKENDS = ("triton", "cpu", "reference")  # in the order of preference


class OverlapCounts(NamedTuple):
    """Overlap counts, each of one shape whose last axis is the class axis.

    Attributes:
        intersection: I, valid voxels of the class on both sides.
        pred_cardinality: P, valid voxels of the class in preds.
        target_cardinality: T, valid voxels of the class in target.
        support: V', valid voxels seen.
    """

    intersection: Tensor
    pred_cardinality: Tensor
    target_cardinality: Tensor
    support: Tensor


def count_views(views: Views, *, validate: bool = True) -> tuple[Tensor, Tensor]:
    """Counts int64 `(N, K, 4)` in the order of `OverlapCounts`, and faults int64 `(NUM_FAULTS,)`.

    Never waits for the views' device. A malformed voxel is in the faults, and in no count. Label maps that look one-hot
    are a fault if `validate`, and label maps otherwise.
    """
    counts, faults = _backend(views).count_views(views)
    if validate and isinstance(views, LabelViews) and views.class_axis is not None and views.preds.numel():
        ambiguous = looks_one_hot(views.preds, views.class_axis) & looks_one_hot(views.target, views.class_axis)
        counts = counts * ~ambiguous
        faults = faults.clone()
        faults[Fault.AMBIGUOUS] += ambiguous * views.preds.numel()
    return counts, faults


def choose_backend(views: Views) -> tuple[str, dict[str, str]]:
    """The name of the backend that serves these views, and why each one preferred to it can't.

    Raises:
        RuntimeError: The backend named by TORCHMETRICS_DICE_EXT_BACKEND can't serve these views.
        ValueError: That variable names no backend.
    """
    wish = os.environ.get("TORCHMETRICS_DICE_EXT_BACKEND", "auto")
    if wish not in ("auto", *BACKENDS):
        raise ValueError(f"TORCHMETRICS_DICE_EXT_BACKEND must be one of {('auto', *BACKENDS)}, got {wish!r}.")
    passed_over: dict[str, str] = {}
    for name in BACKENDS if wish == "auto" else (wish,):
        reason = _module(name).unsupported_reason(views)
        if reason is None:
            return name, passed_over
        passed_over[name] = reason
    raise RuntimeError(f"TORCHMETRICS_DICE_EXT_BACKEND={wish} can't serve this input: {passed_over[wish]}")


def _backend(views: Views) -> ModuleType:
    if torch.compiler.is_compiling():  # plain torch is all that a graph can hold
        return reference
    return _module(choose_backend(views)[0])


@functools.cache
def _module(name: str) -> ModuleType:
    return importlib.import_module(f"torchmetrics_dice_ext._kernels.{name}")


def looks_one_hot(labels: Tensor, axis: int) -> Tensor:
    """Whether label maps would be one-hot along an axis, as a 0-d bool tensor."""
    if labels.dtype in (torch.uint16, torch.uint32, torch.uint64):  # which torch can neither sum nor compare
        labels = labels.to(torch.int64)
    return (labels.sum(axis, dtype=torch.int64) == 1).all() & (labels >= 0).all()


def refuse_faults(views: Views, faults: Tensor, class_names: Sequence[str] = ()) -> None:
    """Raise what the faults of a batch say, with the offending values; nothing where there are none.

    Waits for the device. The names of the C classes, if given, help to say what was expected.

    Raises:
        ValueError: There are faults.
    """
    found = [(Fault(kind), voxels) for kind, voxels in enumerate(faults.tolist()) if voxels]
    if found:
        lines = [
            describe(fault, voxels, views.num_classes, _offending_values(views, fault), class_names)
            for fault, voxels in found
        ]
        raise ValueError("\n".join([*lines, "`torchmetrics_dice_ext.diagnose` looks closer at such a batch."]))


def _offending_values(views: Views, fault: Fault) -> list[float]:
    """Distinct values that a fault is about, ascending, no more than are told; empty where the kind says enough."""
    if fault not in _WRONG:
        return []
    side = views.target if fault.name.startswith("TARGET") else views.preds
    flat = side.ndim == len(views.space)  # without a class axis
    found: list[float] = []
    nan = False
    for box in tiles(views.space, max(1, _CHUNK // (1 if flat else side.shape[1]))):
        values = cut(side, box).unsqueeze(1) if flat else cut_channels(side, box)
        values = widened(values)
        wrong = values[_WRONG[fault](values, views.num_classes) & reference.valid_entries(views, box)]
        nan = nan or bool(wrong.isnan().any())
        found = _least(torch.cat((wrong[~wrong.isnan()], values.new_tensor(found))))
    if side.dtype == torch.uint64:  # compared as int64
        found = sorted(value % 2**64 for value in found)
    return [*found, math.nan] if nan else found


def widened(values: Tensor) -> Tensor:
    """The values in a dtype that can be compared with any option; uint64 beyond int64 become negative."""
    return values.to(torch.promote_types(values.dtype, torch.float32) if values.is_floating_point() else torch.int64)


def _least(values: Tensor) -> list[float]:
    """The smallest distinct values, ascending, as many as a message lists and one more."""
    found: list[float] = []
    while values.numel() and len(found) <= MOST_LISTED:
        found.append(values.min().item())
        values = values[values > found[-1]]
    return found


_CHUNK = 1 << 20
_WRONG: dict[Fault, Callable[[Tensor, int], Tensor]] = {
    Fault.PREDS_PROBABILITY: lambda values, _: (values < -TOLERANCE) | (values > 1 + TOLERANCE),
    Fault.PREDS_LABEL: lambda values, size: (values < 0) | (values >= size),
    Fault.PREDS_BINARY: lambda values, _: (values != 0) & (values != 1),
    Fault.PREDS_ONE_HOT: lambda values, _: (values != 0) & (values != 1),
    Fault.TARGET_LABEL: lambda values, size: (values == values.trunc()) & ((values < 0) | (values >= size)),
    Fault.TARGET_FRACTION: lambda values, _: values != values.trunc(),
    Fault.TARGET_BINARY: lambda values, _: (values == values.trunc()) & (values != 0) & (values != 1),
    Fault.TARGET_ONE_HOT: lambda values, _: (values != 0) & (values != 1),
}
