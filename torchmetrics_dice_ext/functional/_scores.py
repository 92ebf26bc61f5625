"""Floor 4: the scores of one batch; their docstrings own the mathematics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor

from torchmetrics_dice_ext._options import Task
from torchmetrics_dice_ext._readout import Score
from torchmetrics_dice_ext.functional._compute import score

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from torchmetrics_dice_ext.functional._compute import ScoreOptions


def dice_score(preds: Tensor, target: Tensor, task: Task, **options: Unpack[ScoreOptions]) -> Tensor:
    r"""Dice score (Dice 1945, Sørensen 1948).

    .. math:: \frac{2I}{P + T}

    Args:
        preds: Binary `(N, ...)` or `(N, 1, ...)`, multilabel `(N, L, ...)`: float probabilities (or logits, with
            `from_logits`), or int or bool in {0, 1}. Multiclass `(N, C, ...)` float scores, of which the first maximum
            wins, integer labels `(N, ...)`, or one-hot. float64, float32, float16, bfloat16, any integer dtype, bool.
        target: Binary and multilabel {0, 1} of preds' shape, of any dtype; multiclass labels `(N, ...)` of an integer
            dtype, or floats that hold whole numbers, or one-hot.
        task: "binary", "multiclass" or "multilabel".
        **options: See the module's docstring.

    Returns:
        A scalar in [0, 1] or nan; with ``average="none"`` one per class `(C,)`.

    Raises:
        ValueError: Malformed values, shapes or options.
        TypeError: Wrong types or dtypes.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.functional import dice_score
        >>> preds, target = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 1, 2, 2]])
        >>> dice_score(preds, target, task="multiclass", num_classes=3, average="none")
        tensor([1.0000, 0.6667, 0.6667])
    """
    return score(Score.of("dice"), preds, target, task, options)


def jaccard_index(preds: Tensor, target: Tensor, task: Task, **options: Unpack[ScoreOptions]) -> Tensor:
    r"""Jaccard index, intersection over union (Jaccard 1901).

    .. math:: \frac{I}{P + T - I}

    Args:
        preds: As `dice_score` takes them.
        target: Likewise.
        task: Likewise.
        **options: See the module's docstring.

    Returns:
        As `dice_score`.

    Raises:
        ValueError: As `dice_score`.
        TypeError: As `dice_score`.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.functional import jaccard_index
        >>> preds, target = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 1, 2, 2]])
        >>> jaccard_index(preds, target, task="multiclass", num_classes=3)
        tensor(0.6667)
    """
    return score(Score.of("jaccard"), preds, target, task, options)


def precision(preds: Tensor, target: Tensor, task: Task, **options: Unpack[ScoreOptions]) -> Tensor:
    r"""Precision, the share of the prediction that is right (Taha and Hanbury 2015).

    .. math:: \frac{I}{P}

    Args:
        preds: As `dice_score` takes them.
        target: Likewise.
        task: Likewise.
        **options: See the module's docstring.

    Returns:
        As `dice_score`.

    Raises:
        ValueError: As `dice_score`.
        TypeError: As `dice_score`.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.functional import precision
        >>> preds, target = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 1, 2, 2]])
        >>> precision(preds, target, task="multiclass", num_classes=3)
        tensor(0.8333)
    """
    return score(Score.of("precision"), preds, target, task, options)


def recall(preds: Tensor, target: Tensor, task: Task, **options: Unpack[ScoreOptions]) -> Tensor:
    r"""Recall (sensitivity), the share of the target that is found (Taha and Hanbury 2015).

    .. math:: \frac{I}{T}

    Args:
        preds: As `dice_score` takes them.
        target: Likewise.
        task: Likewise.
        **options: See the module's docstring.

    Returns:
        As `dice_score`.

    Raises:
        ValueError: As `dice_score`.
        TypeError: As `dice_score`.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.functional import recall
        >>> preds, target = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 1, 2, 2]])
        >>> recall(preds, target, task="multiclass", num_classes=3)
        tensor(0.8333)
    """
    return score(Score.of("recall"), preds, target, task, options)


def specificity(preds: Tensor, target: Tensor, task: Task, **options: Unpack[ScoreOptions]) -> Tensor:
    r"""Specificity, the share of the voxels outside the class that are left out of it (Taha and Hanbury 2015).

    .. math:: \frac{V' - P - T + I}{V' - T}

    Args:
        preds: As `dice_score` takes them.
        target: Likewise.
        task: Likewise.
        **options: See the module's docstring.

    Returns:
        As `dice_score`.

    Raises:
        ValueError: As `dice_score`.
        TypeError: As `dice_score`.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.functional import specificity
        >>> preds, target = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 1, 2, 2]])
        >>> specificity(preds, target, task="multiclass", num_classes=3)
        tensor(0.8889)
    """
    return score(Score.of("specificity"), preds, target, task, options)


def fbeta_score(
    preds: Tensor, target: Tensor, task: Task, *, beta: float = 1.0, **options: Unpack[ScoreOptions]
) -> Tensor:
    r"""F-beta score (van Rijsbergen 1979); beta 1 is Dice.

    .. math:: \frac{(1 + \beta^2) I}{P + \beta^2 T}

    Args:
        preds: As `dice_score` takes them.
        target: Likewise.
        task: Likewise.
        beta: Weight of recall against precision, above 0.
        **options: See the module's docstring.

    Returns:
        As `dice_score`.

    Raises:
        ValueError: As `dice_score`.
        TypeError: As `dice_score`.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.functional import fbeta_score
        >>> preds, target = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 1, 2, 2]])
        >>> fbeta_score(preds, target, task="multiclass", num_classes=3)
        tensor(0.7778)
    """
    return score(Score.of("fbeta", beta=beta), preds, target, task, options)


def tversky_index(
    preds: Tensor, target: Tensor, task: Task, *, alpha: float = 0.5, beta: float = 0.5, **options: Unpack[ScoreOptions]
) -> Tensor:
    r"""Tversky index (Tversky 1977); alpha = beta = 0.5 is Dice, 1 is Jaccard.

    .. math:: \frac{I}{I + \alpha (P - I) + \beta (T - I)}

    Args:
        preds: As `dice_score` takes them.
        target: Likewise.
        task: Likewise.
        alpha: Weight of false positives, at least 0.
        beta: Weight of false negatives, at least 0; not both 0.
        **options: See the module's docstring.

    Returns:
        As `dice_score`.

    Raises:
        ValueError: As `dice_score`.
        TypeError: As `dice_score`.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.functional import tversky_index
        >>> preds, target = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 1, 2, 2]])
        >>> tversky_index(preds, target, task="multiclass", num_classes=3)
        tensor(0.7778)
    """
    return score(Score.of("tversky", alpha=alpha, beta=beta), preds, target, task, options)


def volumetric_similarity(preds: Tensor, target: Tensor, task: Task, **options: Unpack[ScoreOptions]) -> Tensor:
    r"""Volumetric similarity (Taha and Hanbury 2015): it compares sizes, not places.

    .. math:: 1 - \frac{|P - T|}{P + T}

    Args:
        preds: As `dice_score` takes them.
        target: Likewise.
        task: Likewise.
        **options: See the module's docstring.

    Returns:
        As `dice_score`.

    Raises:
        ValueError: As `dice_score`.
        TypeError: As `dice_score`.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.functional import volumetric_similarity
        >>> preds, target = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 1, 2, 2]])
        >>> volumetric_similarity(preds, target, task="multiclass", num_classes=3)
        tensor(0.7778)
    """
    return score(Score.of("volumetric_similarity"), preds, target, task, options)


def generalized_dice_score(
    preds: Tensor,
    target: Tensor,
    task: Task,
    *,
    weight_type: Literal["square", "simple", "linear"] = "square",
    **options: Unpack[ScoreOptions],
) -> Tensor:
    r"""Generalized Dice score (Crum 2006, Sudre 2017).

    .. math:: \frac{2 \sum_c w_c I_c}{\sum_c w_c (P_c + T_c)}

    A class without target in an observation gets the largest weight that a class with target has there; with no target
    at all the weights are 1. They come from the scored classes of that observation alone. The binary task counts
    background and foreground as two classes. There is no `average`.

    Args:
        preds: As `dice_score` takes them.
        target: Likewise.
        task: Likewise.
        weight_type: "square" w = 1/T², "simple" w = 1/T, "linear" w = 1.
        **options: See the module's docstring.

    Returns:
        As `dice_score`.

    Raises:
        ValueError: As `dice_score`.
        TypeError: As `dice_score`.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.functional import generalized_dice_score
        >>> preds, target = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 1, 2, 2]])
        >>> generalized_dice_score(preds, target, task="multiclass", num_classes=3)
        tensor(0.7826)
    """
    return score(Score.of("generalized_dice", weight_type=weight_type), preds, target, task, options)


def soft_dice_score(
    preds: Tensor, target: Tensor, task: Task, *, squared: bool = False, **options: Unpack[ScoreOptions]
) -> Tensor:
    r"""Soft Dice score of probabilities p, which are never thresholded (Milletari et al. 2016, V-Net).

    .. math:: \frac{2 \sum p t}{\sum p + \sum t} \quad \text{or, squared,} \quad \frac{2 \sum p t}{\sum p^2 + \sum t^2}

    Args:
        preds: Float probabilities; logits with ``from_logits=True``, which applies sigmoid, or softmax for multiclass.
        target: As `dice_score` takes it.
        task: Likewise.
        squared: Whether the denominator has squares.
        **options: See the module's docstring; there is no `threshold`.

    Returns:
        As `dice_score`.

    Raises:
        ValueError: As `dice_score`.
        TypeError: As `dice_score`; preds that are not float.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.functional import soft_dice_score
        >>> preds, target = torch.tensor([[0.9, 0.6, 0.1]]), torch.tensor([[1, 1, 0]])
        >>> soft_dice_score(preds, target, task="binary")
        tensor(0.8333)
    """
    return score(Score.of("dice"), preds, target, task, options, soft=True, squared=squared)
