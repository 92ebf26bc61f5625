"""Floor 5: the ledger, a metric's state in one vector.

`[updates | faults by kind | first faulty update by kind | summary of the observations]`. Ledgers of disjoint data add
up, but for the first faulty updates, of which the least one counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from torchmetrics_dice_ext._faults import NUM_FAULTS, Fault, describe

UPDATES = 0
FAULTS = slice(1, 1 + NUM_FAULTS)
FIRST = slice(1 + NUM_FAULTS, 1 + 2 * NUM_FAULTS)
SUMMARY = slice(1 + 2 * NUM_FAULTS, None)
NEVER = 2**62  # exact in float64 too


def empty(summary_shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The ledger of nothing."""
    ledger = torch.zeros(1 + 2 * NUM_FAULTS + math.prod(summary_shape), dtype=dtype)
    ledger[FIRST] = NEVER
    return ledger


def enter(ledger: Tensor, faults: Tensor | None, summary: Tensor | None) -> Tensor:
    """The ledger after one more update; `faults` is None where there can't be any. Waits for no device."""
    updates, found, first, total = ledger[:1] + 1, ledger[FAULTS], ledger[FIRST], ledger[SUMMARY]
    if faults is not None:
        found, first = found + faults, torch.where(faults > 0, torch.minimum(first, updates), first)
    if summary is not None:
        total = total + summary.flatten()
    return torch.cat((updates, found, first, total))


def add(ledgers: Tensor) -> Tensor:
    """The sum of ledgers `(R, ...)` that were kept side by side."""
    total = ledgers.sum(0)
    total[FIRST] = ledgers[:, FIRST].amin(0)
    return total


def append(earlier: Tensor, later: Tensor) -> Tensor:
    """The ledger of two that follow each other: the updates of the later one are numbered on."""
    later = later.clone()
    later[FIRST] = torch.where(later[FIRST] < NEVER, later[FIRST] + earlier[UPDATES], NEVER)
    return add(torch.stack((earlier, later)))


def complaint(ledger: Tensor, num_classes: int, class_names: Sequence[str]) -> str | None:
    """What the faults in a ledger say, one line per kind; None where there are none. Waits for the device."""
    faults, first = ledger[FAULTS].tolist(), ledger[FIRST].tolist()
    lines = [
        f"{describe(Fault(kind), int(voxels), num_classes, (), class_names)} First in update {int(first[kind])}."
        for kind, voxels in enumerate(faults)
        if voxels
    ]
    return "\n".join(lines) or None
