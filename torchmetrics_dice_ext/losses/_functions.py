"""Floor 5: the losses as functions; they own the mathematics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor

from torchmetrics_dice_ext._options import Task
from torchmetrics_dice_ext._readout import Score
from torchmetrics_dice_ext.losses._compute import loss_of_batch
from torchmetrics_dice_ext.losses._setting import LossOptions, Setting

if TYPE_CHECKING:
    from typing_extensions import Unpack


def dice_loss(
    preds: Tensor,
    target: Tensor,
    task: Task,
    num_classes: int | None = None,
    num_labels: int | None = None,
    *,
    mask: Tensor | None = None,
    **options: Unpack[LossOptions],
) -> Tensor:
    r"""Dice loss (Milletari 2016, who squares p in the denominator: ``squared=True``).

    .. math:: 1 - \frac{2 \sum_v p_v t_v}{\sum_v p_v + \sum_v t_v}

    A class without target voxels is left out; with ``smooth > 0`` it takes part.

    Args:
        preds: Float logits, or probabilities with ``from_logits=False``: `(N, C, ...)`, binary `(N, ...)`.
        target: Labels `(N, ...)`, or {0, 1} of preds' shape.
        task: "binary", "multiclass" or "multilabel".
        num_classes: C, for task "multiclass".
        num_labels: L, for task "multilabel".
        mask: bool `(N, ...)`, True where a voxel counts.
        **options: Those of `DiceLoss`.

    Returns:
        A scalar in [0, 1]; with ``average="none"`` one per class `(C,)`.

    Raises:
        ValueError: Malformed values, shapes or options.
        TypeError: Wrong types or dtypes.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.losses import dice_loss
        >>> preds = torch.tensor([[0.8, 0.6, 0.3, 0.1]])
        >>> dice_loss(preds, torch.tensor([[1, 1, 0, 0]]), "binary", from_logits=False)
        tensor(0.2632)
    """
    return loss_of_batch(preds, target, mask, Setting.of(Score.of("dice"), task, num_classes, num_labels, options))


def generalized_dice_loss(
    preds: Tensor,
    target: Tensor,
    task: Task,
    num_classes: int | None = None,
    num_labels: int | None = None,
    *,
    mask: Tensor | None = None,
    weight_type: Literal["square", "simple", "linear"] = "square",
    **options: Unpack[LossOptions],
) -> Tensor:
    r"""Generalized Dice loss (Sudre 2017).

    .. math:: 1 - \frac{2 \sum_c w_c I_c + s}{\sum_c w_c (P_c + T_c) + s}
        \quad I_c = \sum_v p_{cv} t_{cv},\; P_c = \sum_v p_{cv},\; T_c = \sum_v t_{cv}

    The weights come from the target volumes of each observation. A class without target voxels is left out instead of
    being given an infinite weight; with ``smooth > 0`` it takes part with the largest weight of the others. The binary
    task counts background and foreground as two classes. There is no `average`.

    `smooth` is s, beside sums that with "square" are of the order of 1/T: there 1 is so much that the loss is near 0.

    Args:
        preds: As `dice_loss` takes them.
        target: Likewise.
        task: Likewise.
        num_classes: Likewise.
        num_labels: Likewise.
        mask: Likewise.
        weight_type: "square" w = 1/T², "simple" w = 1/T, "linear" w = 1.
        **options: Those of `DiceLoss`.

    Returns:
        A scalar in [0, 1].

    Raises:
        ValueError: As `dice_loss`.
        TypeError: As `dice_loss`.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.losses import generalized_dice_loss
        >>> preds = torch.tensor([[0.8, 0.6, 0.3, 0.1]])
        >>> generalized_dice_loss(preds, torch.tensor([[1, 1, 1, 0]]), "binary", from_logits=False)
        tensor(0.4167)
    """
    score = Score.of("generalized_dice", weight_type=weight_type)
    return loss_of_batch(preds, target, mask, Setting.of(score, task, num_classes, num_labels, options))


def tversky_loss(
    preds: Tensor,
    target: Tensor,
    task: Task,
    num_classes: int | None = None,
    num_labels: int | None = None,
    *,
    mask: Tensor | None = None,
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: float = 1.0,
    **options: Unpack[LossOptions],
) -> Tensor:
    r"""Tversky loss (Salehi 2017), focal with ``gamma`` other than 1 (Abraham and Khan 2019).

    .. math:: \left(1 - \frac{I}{I + \alpha (P - I) + \beta (T - I)}\right)^\gamma
        \quad I = \sum_v p_v t_v,\; P = \sum_v p_v,\; T = \sum_v t_v

    The exponent is that of a class's loss, before the mean over classes. Abraham and Khan call its inverse gamma.

    Args:
        preds: As `dice_loss` takes them.
        target: Likewise.
        task: Likewise.
        num_classes: Likewise.
        num_labels: Likewise.
        mask: Likewise.
        alpha: Weight of false positives, at least 0.
        beta: Weight of false negatives, at least 0; not both 0. With ``squared=True`` the two must be equal.
        gamma: Focal exponent, above 0.
        **options: Those of `DiceLoss`.

    Returns:
        As `dice_loss`.

    Raises:
        ValueError: As `dice_loss`.
        TypeError: As `dice_loss`.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.losses import tversky_loss
        >>> preds = torch.tensor([[0.8, 0.6, 0.3, 0.1]])
        >>> tversky_loss(preds, torch.tensor([[1, 1, 0, 0]]), "binary", from_logits=False, alpha=0.3, beta=0.7)
        tensor(0.2784)
    """
    score = Score.of("tversky", alpha=alpha, beta=beta)
    return loss_of_batch(preds, target, mask, Setting.of(score, task, num_classes, num_labels, options, gamma))
