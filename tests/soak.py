"""Flat memory and flat time over many updates and many epochs, in two processes, with the right result at the end.

`python tests/soak.py --updates 100000 --epochs 1000` tells memory and time of a step in ten windows. It fails where the
last seven windows add 2 MiB (30 bytes for each of 70,000 updates; before that gloo's own buffers grow, as bare
`all_reduce` calls show), or where they take 30 % more time than the first three. Time is that of the fastest tenth of
the steps of a window: what grows with the number of steps slows all of them, a busy machine only some.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oracle
import torch
from cases import Batch, concatenate, expected, multiclass_batch, oracle_counts
from ddp import launch
from torchmetrics import MetricCollection

import torchmetrics_dice_ext as tde

LEVELS = ("global", "samplewise", "casewise")
OPTIONS = {"num_classes": 4, "ignore_index": 255}
WORLD, POOL, WINDOWS = 2, 7, 10
WARM = 3  # windows
MOST_GROWTH = 2.0  # MiB
MOST_SLOWING = 1.3
Windows = list[tuple[float, float]]


@dataclass(frozen=True)
class Report:
    """What one rank saw: MiB and seconds of a step in every window, and how far the results are off."""

    windows: Windows
    error: float


def pool(rank: int) -> list[tuple[Batch, list[str]]]:
    """The batches of a rank and the cases of their samples."""
    batches = [multiclass_batch(POOL * rank + n, (2, (9, 11)), 4, void=255) for n in range(POOL)]
    return [(batch, [f"case {(rank + n + sample) % 5}" for sample in range(2)]) for n, batch in enumerate(batches)]


def order(steps: int) -> Iterator[int]:
    """Which batch of the pool comes at every step: some more often than others."""
    return (step % POOL if step % 3 else 0 for step in range(steps))


def wanted(level: str, times: Counter[int]) -> float:
    """The Dice score after every batch has come so many times on every rank."""
    counts, ids, repeats = [], [], []
    for rank in range(WORLD):
        for n, (batch, cases) in enumerate(pool(rank)):
            counts.append(oracle_counts("multiclass", batch, OPTIONS))
            ids += cases
            repeats += [times[n]] * len(cases)
    seen = concatenate(counts)
    if level != "samplewise":
        total = oracle.Counts(*(part * torch.tensor(repeats).unsqueeze(1).numpy() for part in seen))
        return float(expected("dice", "multiclass", total, OPTIONS, {"aggregation_level": level}, tuple(ids)))
    scores = [
        float(expected("dice", "multiclass", oracle.Counts(*(part[n : n + 1] for part in seen)), OPTIONS, {}))
        for n in range(len(ids))
    ]
    return math.fsum(score * number for score, number in zip(scores, repeats, strict=True)) / sum(repeats)


def mebibytes() -> float:
    """Memory of this process."""
    gc.collect()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def watched(steps: int, step: Callable[[int], None]) -> Windows:
    """Memory after, and seconds of a fast step within, each of ten windows."""
    windows, batches = [], list(order(steps))
    for window in range(WINDOWS):
        seconds = []
        for n in batches[window * steps // WINDOWS : (window + 1) * steps // WINDOWS]:
            start = time.perf_counter()
            step(n)
            seconds.append(time.perf_counter() - start)
        windows.append((mebibytes(), sorted(seconds)[len(seconds) // 10]))
    return windows


def many_updates(rank: int, world: int, level: str, updates: int) -> Report:
    torch.set_default_dtype(torch.float64)
    metric, batches = tde.MulticlassDiceScore(**OPTIONS, aggregation_level=level), pool(rank)

    def step(n: int) -> None:
        batch, cases = batches[n]
        metric.update(batch.preds, batch.target, **({"case_ids": cases} if level == "casewise" else {}))

    windows = watched(updates, step)
    assert metric.update_count == updates
    return Report(windows, abs(metric.compute().item() - wanted(level, Counter(order(updates)))))


def many_epochs(rank: int, world: int, epochs: int) -> Report:
    torch.set_default_dtype(torch.float64)
    report = {"task": "multiclass", "scores": ("dice", "recall"), **OPTIONS}
    members: dict[str, Any] = {level: tde.MulticlassDiceScore(**OPTIONS, aggregation_level=level) for level in LEVELS}
    members |= {"jaccard": tde.MulticlassJaccardIndex(**OPTIONS), "report": tde.OverlapReport(**report)}
    collection, alone, batches = MetricCollection(members), tde.OverlapReport(**report), pool(rank)
    results: list[dict[str, float]] = []

    def step(n: int) -> None:
        collection.reset()
        alone.reset()
        for batch, cases in batches[:3]:
            collection.update(batch.preds, batch.target, case_ids=cases)
            alone.update(batch.preds, batch.target)
        found = {**collection.compute(), **{f"alone/{key}": value for key, value in alone.compute().items()}}
        results.append({key: value.item() for key, value in found.items()})
        del results[1:-1]  # the first and the last

    windows, times = watched(epochs, step), Counter(range(3))
    assert results[0] == results[-1], "epochs of the same batches differ"
    errors = [abs(results[-1][level] - wanted(level, times)) for level in LEVELS]
    return Report(windows, max(*errors, abs(results[-1]["alone/dice"] - wanted("global", times))))


def told(name: str, reports: list[Report]) -> list[str]:
    """Print the figures of all ranks; what is wrong with them."""
    wrong = []
    for rank, report in enumerate(reports):
        memory, seconds = zip(*report.windows, strict=True)
        growth = max(memory[WARM:]) - memory[WARM - 1]
        slowing = statistics.median(seconds[WARM:]) / statistics.median(seconds[:WARM])
        print(f"{name}, rank {rank}: {growth:+.2f} MiB, time x {slowing:.2f}, result off by {report.error:.0e}")
        print("  MiB         " + " ".join(f"{value:8.2f}" for value in memory))
        print("  microseconds" + " ".join(f"{1e6 * value:8.0f}" for value in seconds), flush=True)
        bounds = {"memory": growth < MOST_GROWTH, "time": slowing < MOST_SLOWING, "result": report.error < 1e-12}
        wrong += [f"{name}, rank {rank}: {what}" for what, fine in bounds.items() if not fine]
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=1_000)
    options = parser.parse_args()
    patience = {"timeout": 4 * 3600.0, "group_timeout": 3600.0}
    wrong = []
    for level in LEVELS:
        reports = launch(many_updates, WORLD, level, options.updates, **patience)
        wrong += told(f"{options.updates} updates, {level}", reports)
    wrong += told(f"{options.epochs} epochs", launch(many_epochs, WORLD, options.epochs, **patience))
    raise SystemExit("FAILED: " + "; ".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
