"""Floor 0: what `ignore_index` means in the dtype and the form of a target."""

from __future__ import annotations

import torch
from torch import Tensor

from torchmetrics_dice_ext._views import Form

_DIGITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


def void_values(ignore_index: tuple[int, ...], dtype: torch.dtype) -> list[int]:
    """The ignored values that a dtype can hold, as int64 shows them."""
    if dtype.is_floating_point:
        spare = [(value, max(0, value.bit_length() - _DIGITS[dtype])) for value in ignore_index]
        return [
            value for value, bits in spare if value >> bits << bits == value and abs(value) <= torch.finfo(dtype).max
        ]
    least, most = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return [value - (1 << 64) * (value >= 1 << 63) for value in ignore_index if least <= value <= most]


def void_labels(form: Form, dtype: torch.dtype, size: int, ignore_index: tuple[int, ...]) -> list[int]:
    """The ignored labels that a target can hold; a one-hot one holds classes alone."""
    if form is Form.ONE_HOT:
        return [value for value in ignore_index if 0 <= value < size]
    return void_values(ignore_index, dtype)


def is_value(values: Tensor, value: int) -> Tensor:
    """Where values equal one of `void_values`, which as an int can be too large for torch."""
    return values == (float(value) if values.is_floating_point() else value)
