"""Floor 1: the compiled CPU backend (numba, an optional extra); it equals `reference` in every count and fault.

Inputs are read where they lie, whatever their dtype and strides, in tiles that stay in the cache. It takes as many
threads as PyTorch does in this process, and one for small inputs.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from torchmetrics_dice_ext._faults import NUM_FAULTS
from torchmetrics_dice_ext._views import LabelViews, Views

MOST_CLASSES = 1 << 14  # codes have 16 bits


def unsupported_reason(views: Views) -> str | None:
    """Why these views can't be counted here, or None."""
    for tensor in (views.preds, views.target, views.mask):
        if tensor is None:
            continue
        if not tensor.is_cpu:
            return f"The tensors are on {tensor.device}, not on the CPU."
        if tensor.is_neg():
            return "A tensor is negated lazily, its memory holds other values: `.resolve_neg()` it."
        if tensor._is_zerotensor():
            return "A tensor has no memory of its own (torch._efficientzerotensor): `.clone()` it."
    if isinstance(views, LabelViews) and views.num_classes > MOST_CLASSES:
        return f"There are {views.num_classes} classes, more than {MOST_CLASSES}."
    return _unusable()


@functools.cache
def _unusable() -> str | None:
    """Why numba can't be used here, or None."""
    remedy = 'install it with `pip install "torchmetrics-dice-ext[cpu]"`.'
    try:
        numba: Any = importlib.import_module("numba")
    except ModuleNotFoundError:
        return f"numba is not installed: {remedy}"
    except ImportError as error:
        return f"numba can't be imported ({error}): {remedy}"
    return "numba's compiler is switched off (NUMBA_DISABLE_JIT)." if numba.config.DISABLE_JIT else None


def count_views(views: Views) -> tuple[Tensor, Tensor]:
    """Counts `(N, K, 4)` and faults `(NUM_FAULTS,)` of canonical views."""
    counts = torch.zeros(views.preds.shape[0], views.num_outputs, 4, dtype=torch.int64, device="cpu")
    faults = torch.zeros(NUM_FAULTS, dtype=torch.int64, device="cpu")
    if views.preds.numel():
        _threads().count(views, counts, faults)
    return counts, faults


@functools.cache
def _threads() -> ModuleType:
    return importlib.import_module("torchmetrics_dice_ext._kernels.cpu.threads")
