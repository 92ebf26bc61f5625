"""Floor 4: the counts of one batch, and who counts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from torchmetrics_dice_ext._counts import OverlapCounts, choose_backend
from torchmetrics_dice_ext._inputs import read_inputs
from torchmetrics_dice_ext._options import Task
from torchmetrics_dice_ext.functional._compute import count, counting_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchmetrics_dice_ext.functional._compute import CountingOptions


def overlap_counts(preds: Tensor, target: Tensor, task: Task, **options: Unpack[CountingOptions]) -> OverlapCounts:
    """Overlap counts of every sample and class.

    Args:
        preds: As `dice_score` takes them.
        target: Likewise.
        task: "binary", "multiclass" or "multilabel".
        **options: See the module's docstring.

    Returns:
        Intersection, pred_cardinality, target_cardinality and support in voxels, each int64 `(N, C)`.

    Raises:
        ValueError: Malformed values, shapes or options.
        TypeError: Wrong types or dtypes.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.functional import overlap_counts
        >>> preds, target = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 1, 2, 2]])
        >>> overlap_counts(preds, target, task="multiclass", num_classes=3).intersection
        tensor([[1, 1, 1]])
    """
    return OverlapCounts(*count(preds, target, counting_of(task, options), options).unbind(-1))


def which_backend(
    preds: Tensor, target: Tensor, task: Task, **options: Unpack[CountingOptions]
) -> tuple[str, dict[str, str]]:
    """Tell which backend counts such an input: "triton", "cpu" or "reference" (torch alone).

    The environment variable `TORCHMETRICS_DICE_EXT_BACKEND` chooses one ("auto" by default).

    Args:
        preds: As `overlap_counts` takes them.
        target: Likewise.
        task: Likewise.
        **options: See the module's docstring.

    Returns:
        The backend's name, and for each one that is preferred to it the reason why it can't serve this input.

    Raises:
        RuntimeError: The variable names a backend that can't serve this input.
        ValueError: Shapes or options that don't fit, or a variable that names no backend.
        TypeError: Wrong types or dtypes.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.functional import which_backend
        >>> labels = torch.tensor([[0, 1, 1, 2]])
        >>> name, passed_over = which_backend(labels, labels, task="multiclass", num_classes=3)
        >>> name in ("triton", "cpu", "reference")
        True
    """
    return choose_backend(read_inputs(preds, target, options.get("mask"), counting_of(task, options)))
