"""Floor 5: the losses as modules."""

from __future__ import annotations

from collections.abc import Callable
from inspect import cleandoc
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from torchmetrics_dice_ext._options import Task
from torchmetrics_dice_ext._readout import Score
from torchmetrics_dice_ext.losses._compute import loss_of_batch
from torchmetrics_dice_ext.losses._setting import LossOptions, Setting

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class _OverlapLoss(nn.Module):
    """A loss with its options, checked once; no state but the class weights, which move with the module.

    Args:
        task: "binary", "multiclass" or "multilabel".
        num_classes: C, for task "multiclass".
        num_labels: L, for task "multilabel".

    Shape:
        - preds: float logits, or probabilities with ``from_logits=False``: `(N, C, ...)`, binary `(N, ...)`.
        - target: labels `(N, ...)`, or {0, 1} of preds' shape, with ``soft_target=True`` shares in [0, 1].
        - mask: bool `(N, ...)`, True where a voxel counts; given to the call by name.
        - loss: a scalar in [0, 1]; with ``average="none"`` one per class, `(C,)`.

    Raises:
        ValueError: Malformed values, shapes or options.
        TypeError: Wrong types or dtypes, and unknown options.
    """

    class_weights: Tensor

    def __init_subclass__(cls) -> None:
        """Put what all losses have in common into the docstring of each, before its example."""
        super().__init_subclass__()
        if cls.__doc__:
            own, _, example = cleandoc(cls.__doc__).partition("Example:")
            common = [cleandoc(of.__doc__ or "").partition("\n\n")[2] for of in (_OverlapLoss, LossOptions)]
            cls.__doc__ = "\n\n".join((own.rstrip(), *common, f"Example:{example}"))

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self._setting = setting
        self.register_buffer("class_weights", setting.weights_on(torch.device("cpu")), persistent=False)

    def forward(self, preds: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The loss of one batch; the class has the shapes."""
        return loss_of_batch(preds, target, mask, self._setting, self.class_weights)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Weights follow the module to its device but not to its dtype, in which they would be rounded."""
        self.class_weights = self.class_weights.float()  # which every device can hold
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.class_weights = self._setting.weights_on(self.class_weights.device)
        return self

    def extra_repr(self) -> str:
        """The task, and the options that differ from their defaults."""
        counting = self._setting.counting
        size = {"multiclass": "num_classes", "multilabel": "num_labels"}.get(counting.task)
        sizes = {} if size is None else {size: counting.num_classes}
        shown = {"task": counting.task, **sizes, **self._setting.changed}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())


class DiceLoss(_OverlapLoss):
    """Dice loss of a batch; `dice_loss` has the formula.

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
        super().__init__(Setting.of(Score.of("dice"), task, num_classes, num_labels, options))


class GeneralizedDiceLoss(_OverlapLoss):
    """Generalized Dice loss of a batch; `generalized_dice_loss` has the formula.

    A class weighs 1/T² by its target volume T with ``weight_type="square"``, 1/T with "simple", 1 with "linear".

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.losses import GeneralizedDiceLoss
        >>> loss = GeneralizedDiceLoss("multiclass", num_classes=2, weight_type="simple")
        >>> logits = torch.zeros(1, 2, 8, requires_grad=True)
        >>> loss(logits, torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1]]))
        tensor(0.5714, grad_fn=...)
    """

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
        super().__init__(Setting.of(score, task, num_classes, num_labels, options))


class TverskyLoss(_OverlapLoss):
    """Tversky loss of a batch; `tversky_loss` has the formula.

    False positives weigh `alpha`, false negatives `beta`; `gamma` other than 1 makes the loss focal.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.losses import TverskyLoss
        >>> loss = TverskyLoss("binary", alpha=0.3, beta=0.7)
        >>> loss(torch.zeros(1, 8, requires_grad=True), torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1]]))
        tensor(0.6154, grad_fn=...)
    """

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
        super().__init__(Setting.of(score, task, num_classes, num_labels, options, gamma))
