"""Floor 4: counts by case, the table behind level "casewise".

A table is two tensors, so that it can be a metric's state: `rows` `(capacity, K, 4)` on the metric's device, which grow
geometrically, and `keys`, a CPU vector of int64 words that spell the case ids in the order of their rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor

from torchmetrics_dice_ext._options import integer

CaseId = int | str

_INT = 1  # an int is spelled (1, value), a string (2 + its bytes, 8 bytes a word ...); a 0 ends the keys
_STRING = 2
_WORD = 8


class CaseTable:
    """Counts by case id, in place.

    Args:
        rows: `(capacity, K, 4)`, copied.
        keys: Spelled ids of the first rows, copied.
    """

    def __init__(self, rows: Tensor, keys: Tensor) -> None:
        self.rows, self.keys = rows.clone(), keys.clone()
        self._places = {case: place for place, case in enumerate(spelled_cases(keys))}
        self._words = sum(len(_spell(case)) for case in self._places)

    def add(self, cases: Sequence[CaseId], counts: Tensor) -> None:
        """Add counts `(N, K, 4)` to the rows of N cases; a case that is new gets a row."""
        known = len(self._places)
        places = [self._places.setdefault(case, len(self._places)) for case in cases]
        new = dict.fromkeys(case for case, place in zip(cases, places, strict=True) if place >= known)
        words = [word for case in new for word in _spell(case)]
        self.keys = _with_room(self.keys, self._words + len(words) + 1)
        self.keys[self._words : self._words + len(words)] = torch.tensor(words, dtype=torch.int64, device="cpu")
        self._words += len(words)
        self.rows = _with_room(self.rows, len(self._places))
        index = torch.tensor(places, dtype=torch.int64, device="cpu")
        if counts.device.type == "cuda":  # from pinned memory, so that nobody waits
            index = index.pin_memory()
        self.rows.index_add_(0, index.to(counts.device, non_blocking=True), counts.to(self.rows.dtype))

    def add_table(self, rows: Tensor, keys: Tensor) -> None:
        """Add another table."""
        cases = spelled_cases(keys)
        self.add(cases, rows[: len(cases)])


def read_case_ids(case_ids: Any, samples: int) -> list[CaseId]:
    """N ids as Python ints or strings.

    Raises:
        TypeError: No sequence of ints or strings.
        ValueError: Missing, or not one per sample.
    """
    if case_ids is None:
        raise ValueError("`case_ids` must name the case of each sample at `aggregation_level='casewise'`, got None.")
    values = case_ids.tolist() if hasattr(case_ids, "tolist") else case_ids
    if isinstance(values, (str, bytes, int, AbstractSet)) or not hasattr(values, "__iter__"):
        raise TypeError(f"`case_ids` must be a sequence of ints or strings, one per sample, got {case_ids!r}.")
    ids = [
        str.__str__(value) if isinstance(value, str) else integer("case_ids", value, "ints or strings")
        for value in values
    ]
    if len(ids) != samples:
        raise ValueError(f"`case_ids` must hold one id per sample, {samples}, got {len(ids)}.")
    unfit = [case for case in ids if isinstance(case, int) and not -(2**63) <= case < 2**63]
    if unfit:
        raise ValueError(f"`case_ids` must fit int64, got {unfit[:3]}: pass them as strings.")
    return ids


def spelled_cases(keys: Tensor) -> list[CaseId]:
    """The case ids that keys spell."""
    words = keys.tolist() if keys.numel() else []
    cases: list[CaseId] = []
    at = 0
    while at < len(words) and words[at]:
        if words[at] == _INT:
            cases.append(words[at + 1])
            at += 2
        else:
            size = words[at] - _STRING
            end = at + 1 + -(-size // _WORD)
            text = b"".join(word.to_bytes(_WORD, "little", signed=True) for word in words[at + 1 : end])
            cases.append(text[:size].decode("utf-8", "surrogatepass"))
            at = end
    return cases


def in_order(cases: Sequence[CaseId]) -> list[int]:
    """The places of cases in ascending order, ints before strings."""
    return sorted(range(len(cases)), key=lambda place: (isinstance(cases[place], str), cases[place]))


def _spell(case: CaseId) -> list[int]:
    if isinstance(case, int):
        return [_INT, case]
    text = case.encode("utf-8", "surrogatepass")
    words = (text[at : at + _WORD].ljust(_WORD, b"\0") for at in range(0, len(text), _WORD))
    return [_STRING + len(text), *(int.from_bytes(word, "little", signed=True) for word in words)]


def _with_room(tensor: Tensor, size: int) -> Tensor:
    """The tensor, or a copy of at least twice the length, with room for `size` entries that may be written in place."""
    frozen = tensor.is_inference() and not torch.is_inference_mode_enabled()
    if tensor.shape[0] >= size and not frozen:
        return tensor
    length = tensor.shape[0] if tensor.shape[0] >= size else max(size, 2 * tensor.shape[0])
    grown = tensor.new_zeros((length, *tensor.shape[1:]))
    grown[: tensor.shape[0]] = tensor
    return grown
