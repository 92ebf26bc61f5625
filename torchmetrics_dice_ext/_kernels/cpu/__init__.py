"""Floor 1: the compiled CPU backend (numba, an optional extra); it equals `reference` in every count and fault.

Inputs are read where they lie, whatever their dtype and strides, in tiles that stay in the cache. It takes as many
threads as PyTorch does in this process, and none for small inputs.
"""

from __future__ import annotations

import functools
import importlib
import os
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchmetrics_dice_ext._faults import NUM_FAULTS
from torchmetrics_dice_ext._views import LabelViews, Views

if TYPE_CHECKING:
    from torchmetrics_dice_ext._kernels.cpu.plans import Plan

GRAIN = 1 << 17  # items that are worth a thread
SHARE = 256  # voxels that are never shared out
MOST_CLASSES = 1 << 14  # the winner among half floats is kept in 16 bits


def unsupported_reason(views: Views) -> str | None:
    """Why these views can't be counted here, or None."""
    for tensor in (views.preds, views.target, views.mask):
        if tensor is None:
            continue
        if not tensor.is_cpu:
            return f"The tensors are on {tensor.device}, not on the CPU."
        if tensor.is_neg():
            return "A tensor is negated lazily, its memory holds other values: `.resolve_neg()` it."
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


@functools.cache
def _plans() -> ModuleType:
    return importlib.import_module("torchmetrics_dice_ext._kernels.cpu.plans")


def count_views(views: Views) -> tuple[Tensor, Tensor]:
    """Counts `(N, K, 4)` and faults `(NUM_FAULTS,)` of canonical views."""
    counts = torch.zeros(views.preds.shape[0], views.num_outputs, 4, dtype=torch.int64)
    faults = torch.zeros(NUM_FAULTS, dtype=torch.int64)
    items = views.preds.numel()
    if items:
        plan = _plans().plan_of(views)
        words = plan.words_of(views, counts)
        threads = min(torch.get_num_threads(), items // GRAIN)
        if threads > 1:
            _share(threads, plan, words, views, counts, faults)
        else:
            plan.driver(words, 0, plan.samples * plan.voxels, 0, faults.data_ptr())
    return counts, faults


def _share(threads: int, plan: Plan, words: Any, views: Views, counts: Tensor, faults: Tensor) -> None:
    """Share the voxels out between threads; two of them may meet within a sample."""
    voxels = plan.samples * plan.voxels
    places = [voxels * thread // threads // SHARE * SHARE for thread in range(threads)] + [voxels]
    first_counts = torch.zeros(threads, plan.outputs, 4, dtype=torch.int64)
    fault_counts = torch.zeros(threads, NUM_FAULTS, dtype=torch.int64)

    def work(thread: int, *_memory: object) -> None:
        first = first_counts[thread].data_ptr() if thread else 0
        plan.driver(words, places[thread], places[thread + 1], first, fault_counts[thread].data_ptr())

    # a job holds on to all memory that its words point to, should this thread be interrupted
    jobs = [_pool().submit(work, thread, views, counts) for thread in range(1, threads)]
    work(0)
    for thread, job in enumerate(jobs, 1):
        job.result()
        counts[places[thread] // plan.voxels] += first_counts[thread]
    faults += fault_counts.sum(0)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """The threads of this process; a forked process has lost them, and makes its own."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="torchmetrics_dice_ext")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
