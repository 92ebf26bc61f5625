"""Floor 1: a batch is cut into parts, which the threads of PyTorch take one after the other; imported only with numba.

They are the very threads of its OpenMP team, which wait awake for a moment after each of its operations: they are there
at once, and no others compete with them. Where that team can't be called a pool of threads takes its place.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import ctypes
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import carray
from torch import Tensor

from torchmetrics_dice_ext._faults import NUM_FAULTS
from torchmetrics_dice_ext._kernels.cpu.jit import address_of, call, claim
from torchmetrics_dice_ext._kernels.cpu.plans import plan_of
from torchmetrics_dice_ext._views import Views

GRAIN = 1 << 17  # items that are worth a part
UNSHARED = 256  # voxels, from a multiple of it on, that are never shared out
PARTS = 4  # of each thread, so that none waits for long for another

# a job, in int64 words: the next part that nobody has taken yet, and what the driver is called with
NEXT, COUNT, DRIVER, WORDS, COUNTS, COUNTS_BYTES, FAULTS, PLACES = range(8)


def take_parts(job):
    """Take parts of a job until none is left; each has its own counts of its first sample, and its own faults."""
    parts = carray(job, (PLACES,))[COUNT]
    words = carray(job, (PLACES + parts + 1,))
    part = claim(words.ctypes.data)
    while part < parts:
        counts = words[COUNTS] + part * words[COUNTS_BYTES]
        faults = words[FAULTS] + part * NUM_FAULTS * 8
        call(words[DRIVER], words[WORDS], counts, faults, words[PLACES + part], words[PLACES + part + 1])
        part = claim(words.ctypes.data)


def count(views: Views, counts: Tensor, faults: Tensor) -> None:
    """Add the counts and faults of views that aren't empty."""
    plan = plan_of(views)
    words = plan.words_of(views, counts)
    voxels, threads = plan.samples * plan.voxels, torch.get_num_threads()
    parts = min(PARTS * threads, views.preds.numel() // GRAIN) if threads > 1 else 1
    if parts <= 1:
        job = np.array([0, 1, plan.driver, words.ctypes.data, counts.data_ptr(), 0, faults.data_ptr(), 0, voxels])
        _take_parts()(job.ctypes.data)
        return
    places = [voxels * part // parts // UNSHARED * UNSHARED for part in range(parts)]
    first_counts = torch.zeros(parts, plan.outputs, 4, dtype=torch.int64, device="cpu")
    fault_counts = torch.zeros(parts, NUM_FAULTS, dtype=torch.int64, device="cpu")
    of_counts = first_counts.data_ptr(), first_counts[0].nbytes
    job = np.array([0, parts, plan.driver, words.ctypes.data, *of_counts, fault_counts.data_ptr(), *places, voxels])
    _run(min(threads, parts), job, words, views, counts, first_counts, fault_counts)
    samples = torch.tensor([place // plan.voxels for place in places], device="cpu")
    counts.index_add_(0, samples, first_counts)
    faults += fault_counts.sum(0)


def _run(threads: int, job: Any, *memory: object) -> None:
    """Let so many threads take the parts of a job."""
    team, work = _openmp(), _take_parts()
    if team is not None:
        team(work, job.ctypes.data, threads, 0)
        return

    def take(*_held: object) -> None:
        work(job.ctypes.data)

    # they hold on to all memory that the job points to, should this thread be interrupted
    others = [_pool().submit(take, memory) for _ in range(threads - 1)]
    take()
    for other in others:
        other.result()


@functools.cache
def _take_parts() -> Any:
    """`take_parts`, as C sees it; it runs without the interpreter's lock."""
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address_of(take_parts, "int64"))


@functools.cache
def _openmp() -> Any:
    """The entry to the OpenMP library that PyTorch is linked to; None if there is none, or if its threads are lost."""
    if _forked or not torch.backends.openmp.is_available():
        return None
    try:
        entry = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError):
        return None
    entry.argtypes, entry.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return entry


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="torchmetrics_dice_ext")


_forked = False


def _lose_threads() -> None:
    """A forked process has none of the threads of its parent: OpenMP would wait for its own for ever."""
    global _forked
    _forked = True
    _openmp.cache_clear()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lose_threads)
