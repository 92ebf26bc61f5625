"""Floor 6: the malformed side of a batch: its values, in words too, and guesses at what they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from torchmetrics_dice_ext._diagnosis._batch import Batch, Edit
from torchmetrics_dice_ext._kernels.reference import valid_entries
from torchmetrics_dice_ext._views import LabelViews

_SHOWN_VALUES = 8
_MOST_DISTINCT = 1024  # values that are told apart


@dataclass(frozen=True)
class Guess:
    """One explanation of malformed values, and the batch read by it."""

    code: str
    message: str
    remedy: str
    batch: Batch
    tested: bool = True


@dataclass(frozen=True)
class FaultySide:
    """The malformed side of a batch."""

    name: str
    batch: Batch

    @cached_property
    def values(self) -> list[float]:
        """Distinct values but void ones and NaN, ascending; where there are very many, the extremes and some others."""
        known = torch.zeros(0)
        for entries, valid in entries_of(self.batch, self.name):
            kept = valid & (entries == entries)
            values = entries.flatten() if bool(kept.all()) else entries[kept]
            known = known.to(values)
            if len(known) <= _MOST_DISTINCT:
                values = values[~torch.isin(values, known)]
            elif values.numel():
                values = torch.stack(torch.aminmax(values))
            known = torch.cat((known, values)).unique()
        return [float(value) for value in known.tolist()]

    @property
    def dtype(self) -> torch.dtype:
        """As the user holds it."""
        return (self.batch.given.target if self.name == "target" else self.batch.given.preds).dtype

    @property
    def size(self) -> int:
        """How many labels are allowed: 0 and 1 for masks."""
        return self.batch.counting.num_classes if isinstance(self.batch.views, LabelViews) else 2

    @property
    def holds(self) -> str:
        """The side and its values in words."""
        return f"{self.name} {'holds' if self.name == 'target' else 'hold'} {self.shown}"

    @property
    def shown(self) -> str:
        """The values in words."""
        if len(self.values) <= _SHOWN_VALUES:
            return "{" + ", ".join(f"{value:g}" for value in self.values) + "}"
        number = f"{len(self.values)} " if len(self.values) <= _MOST_DISTINCT else ""
        return f"{number}values from {self.values[0]:g} to {self.values[-1]:g}"

    def guess(self, code: str, message: str, remedy: str, edit: Edit) -> Guess:
        """A guess that changes this side."""
        edited = self.batch.edited(target=edit) if self.name == "target" else self.batch.edited(preds=edit)
        return Guess(code, message, f"{self.name} = {remedy}", edited)


def entries_of(batch: Batch, name: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The entries `(n, c, v)` of a side in pieces, and where they aren't void."""
    for piece in batch.pieces():
        side = piece.target if name == "target" else piece.preds
        entries = side.flatten(1).unsqueeze(1) if side.ndim == len(piece.space) else side.flatten(2)
        if not entries.is_floating_point():
            entries = entries.to(torch.int64)
        elif entries.element_size() < 4:
            entries = entries.to(torch.float32)
        everywhere = (slice(None),) * len(piece.space)
        yield entries, valid_entries(piece, everywhere).expand_as(entries)
