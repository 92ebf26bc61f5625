"""How it is measured: time of all contenders in turns, and peak memory."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.contenders import FLOOR, OURS, Batch, Case, Update, contenders, gate

SETS_BYTES = 1 << 30  # what the rotated batches of a case may take
LEAST_SECONDS = 2e-3  # what one time stands for; shorter updates are repeated
LEAST_BYTES = 1 << 21  # of preds; below, memory is too coarse to be measured
PACKAGES = ("torch", "torchmetrics", "torchmetrics-dice-ext", "monai", "mikan-rs", "numba", "triton")


def measure(case: Case, device: str, seconds: float, few: bool = False) -> dict[str, dict[str, Any]]:
    """Milliseconds (median, and the quartiles) and peak extra memory of every contender's update."""
    first = case.batch(0, device)
    backend = gate(case, first)
    held = sum(tensor.nbytes for tensor in first)
    batches = [first] + [case.batch(seed, device) for seed in range(1, max(1, min(4, SETS_BYTES // held)))]
    updates = {name: make() for name, make in contenders(case, device, few).items()}
    repeats = {}
    for name, update in updates.items():
        update(*first)  # whatever is set up once
        repeats[name] = max(1, math.ceil(LEAST_SECONDS / _time(update, batches[:1], device)))
    times: dict[str, list[float]] = {name: [] for name in updates}
    order, end, turn = list(updates), time.perf_counter() + seconds, 0
    while turn < 3 or (time.perf_counter() < end and turn < 100):
        random.shuffle(order)
        for name in order:
            mine = [batches[(turn + k) % len(batches)] for k in range(repeats[name])]
            times[name].append(_time(updates[name], mine, device) / len(mine))
        turn += 1
    logits = first[0].nbytes
    results: dict[str, dict[str, Any]] = {}
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        memory = None
        if name != FLOOR and logits >= LEAST_BYTES:
            memory = peak_extra_memory(lambda update=updates[name]: update(*first), device)
        results[name] = {"ms": median * 1e3, "low_ms": low * 1e3, "high_ms": high * 1e3, "turns": turn}
        results[name] |= {"extra_bytes": memory, "extra_over_preds": None if memory is None else memory / logits}
    results[OURS]["backend"] = backend
    for result in results.values():
        result["over_floor"] = result["ms"] / results[FLOOR]["ms"]
        result["over_ours"] = result["ms"] / results[OURS]["ms"]
    return results


def _time(update: Update, batches: list[Batch], device: str) -> float:
    """Seconds for an update on each of the batches."""
    _wait(device)
    start = time.perf_counter()
    for batch in batches:
        update(*batch)
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def peak_extra_memory(run: Callable[[], Any], device: str) -> int | None:
    """Bytes that `run` needs at its peak beyond what is held before; None where the system doesn't tell."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    if sys.platform != "linux":
        return None
    ctypes.CDLL(None).malloc_trim(0)  # so that what was freed before is asked for again
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = _resident("VmRSS")
    run()
    return max(0, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def setting(device: str) -> dict[str, Any]:
    """The machine and the versions."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if device != "cpu" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads() if device == "cpu" else None,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": found,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
