"""Floor 0: canonical views of inputs, as every backend takes them.

`_inputs` makes them without a copy; `_kernels` count them. Spatial axes are written `*S`; there is at least one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from torchmetrics_dice_ext._faults import Fault


class Form(Enum):
    """How a tensor tells the class of a voxel."""

    SCORES = "scores"  # float (N, C, *S), the first maximum wins
    LABELS = "labels"  # (N, *S), whole numbers
    ONE_HOT = "one-hot"  # (N, C, *S), exactly one 1


PREDS_FAULT = {Form.SCORES: Fault.PREDS_NAN, Form.LABELS: Fault.PREDS_LABEL, Form.ONE_HOT: Fault.PREDS_ONE_HOT}
TARGET_FAULT = {Form.LABELS: Fault.TARGET_LABEL, Form.ONE_HOT: Fault.TARGET_ONE_HOT}


@dataclass(frozen=True, kw_only=True)
class LabelViews:
    """Each voxel has one of C classes.

    Attributes:
        preds: In the form `preds_form`.
        target: In the form `target_form`, never SCORES.
        mask: bool `(N, *S)`, True where a voxel counts; None where all do.
        num_classes: C.
        ignore_index: Target labels that are void.
        regions: Unions of labels to count instead of classes.
        class_axis: Where two label tensors also have the shape of one-hot tensors, their class axis.
    """

    preds: Tensor
    preds_form: Form
    target: Tensor
    target_form: Form
    mask: Tensor | None
    num_classes: int
    ignore_index: tuple[int, ...]
    regions: tuple[tuple[int, ...], ...] | None
    class_axis: int | None

    @property
    def space(self) -> tuple[int, ...]:
        """`(N, *S)`."""
        return tuple(
            self.preds.shape if self.preds_form is Form.LABELS else (self.preds.shape[0], *self.preds.shape[2:])
        )

    @property
    def num_outputs(self) -> int:
        """Classes or regions to count."""
        return self.num_classes if self.regions is None else len(self.regions)


@dataclass(frozen=True, kw_only=True)
class MaskViews:
    """Each voxel has L yes-or-no answers; a binary task has one.

    Attributes:
        preds: `(N, L, *S)`: float to be compared, or whole numbers {0, 1}.
        target: `(N, L, *S)` in {0, 1}.
        mask: bool `(N, *S)`, True where a voxel counts; None where all do.
        cutoffs: A float preds element is positive above its label's cutoff.
        probabilities: Whether float preds must lie in [0, 1].
        ignore_index: Target values whose elements are void.
    """

    preds: Tensor
    target: Tensor
    mask: Tensor | None
    cutoffs: tuple[float, ...]
    probabilities: bool
    ignore_index: tuple[int, ...]

    @property
    def space(self) -> tuple[int, ...]:
        """`(N, *S)`."""
        return (self.preds.shape[0], *self.preds.shape[2:])

    @property
    def num_classes(self) -> int:
        """L."""
        return self.preds.shape[1]

    @property
    def num_outputs(self) -> int:
        """Labels to count."""
        return self.preds.shape[1]


Views = LabelViews | MaskViews
