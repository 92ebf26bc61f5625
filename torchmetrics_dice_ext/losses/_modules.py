"""Floor 5: the losses as modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from torchmetrics_dice_ext._options import Task
from torchmetrics_dice_ext._readout import Score
from torchmetrics_dice_ext.losses._compute import loss_of_batch
from torchmetrics_dice_ext.losses._setting import LossOptions, Setting

if TYPE_CHECKING:
    from typing_extensions import Unpack


class _OverlapLoss(nn.Module):
    """A loss with its options, checked once; no state but the class weights, which move with the module."""

    class_weights: Tensor

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self._setting = setting
        self.register_buffer("class_weights", setting.weights_on(torch.device("cpu")), persistent=False)

    def forward(self, preds: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The loss of one batch."""
        return loss_of_batch(preds, target, mask, self._setting, self.class_weights)

    def extra_repr(self) -> str:
        """What is scored."""
        setting = self._setting
        return (
            f"task={setting.counting.task!r}, average={setting.readout.average!r}, aggregation_level={setting.level!r}"
        )


class DiceLoss(_OverlapLoss):
    """Module of `dice_loss`, which owns the formula; the package's docstring explains the options.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.losses import DiceLoss
        >>> loss = DiceLoss("multiclass", num_classes=3, include_background=False)
        >>> logits = torch.zeros(2, 3, 8, 8, requires_grad=True)
        >>> loss(logits, torch.ones(2, 8, 8, dtype=torch.int64))
        tensor(0.5000, grad_fn=...)
    """

    def __init__(
        self,
        task: Task,
        num_classes: int | None = None,
        num_labels: int | None = None,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(Setting.of(Score.of("dice"), task, num_classes, num_labels, **options))


class GeneralizedDiceLoss(_OverlapLoss):
    """Module of `generalized_dice_loss`, which owns the formula; the package's docstring explains the options."""

    def __init__(
        self,
        task: Task,
        num_classes: int | None = None,
        num_labels: int | None = None,
        *,
        weight_type: Literal["square", "simple", "linear"] = "square",
        **options: Unpack[LossOptions],
    ) -> None:
        score = Score.of("generalized_dice", weight_type=weight_type)
        super().__init__(Setting.of(score, task, num_classes, num_labels, **options))


class TverskyLoss(_OverlapLoss):
    """Module of `tversky_loss`, which owns the formula; the package's docstring explains the options."""

    def __init__(
        self,
        task: Task,
        num_classes: int | None = None,
        num_labels: int | None = None,
        *,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 1.0,
        **options: Unpack[LossOptions],
    ) -> None:
        score = Score.of("tversky", alpha=alpha, beta=beta)
        super().__init__(Setting.of(score, task, num_classes, num_labels, gamma=gamma, **options))
