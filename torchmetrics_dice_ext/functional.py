"""Floor 4: the public functions; they own the mathematics.

All take one batch and the options of section "Options" below; stateful metrics over many batches have the same names in
`torchmetrics_dice_ext`.

Options (keyword-only):
    num_classes: C, for task "multiclass".
    num_labels: L, for task "multilabel".
    threshold: Binary and multilabel floats are positive above it (default 0.5; multilabel also one per label).
    from_logits: Whether binary and multilabel floats are logits (default False).
    class_dim: The class axis (default 1; -1 for channels-last).
    input_format: "auto" (default), "one-hot" or "index": how two integer tensors of one shape are read (multiclass).
    average: "macro" (default), "micro", "weighted" (by target cardinality) or "none": classes -> one number.
        Binary and Generalized Dice have none.
    aggregation_level: "global" (default) pools all counts; "samplewise" scores each sample, "casewise" each case, then
        takes the mean over those that have a score.
    include_background: Whether class 0 is scored (multiclass, default True).
    ignore_index: Target values that are void: left out on both sides.
    zero_division: Score of a class whose denominator is 0: "nan" (default, skipped by averages) or a number in [0, 1].
    regions: ``{name: labels}``, unions of labels to score instead of classes (multiclass).
    mask: bool `(N, ...)`, True where a voxel counts.
    case_ids: N ints or strings, for level "casewise".
    validate_args: True (default) refuses malformed values; False leaves their voxels out without a word.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor

from torchmetrics_dice_ext._cases import CaseTable, read_case_ids
from torchmetrics_dice_ext._counts import OverlapCounts as OverlapCounts
from torchmetrics_dice_ext._counts import choose_backend, refuse_faults
from torchmetrics_dice_ext._inputs import read_inputs
from torchmetrics_dice_ext._observations import Reading, count_batch
from torchmetrics_dice_ext._options import (
    LEVELS,
    AggregationLevel,
    Average,
    Counting,
    InputFormat,
    Readout,
    Task,
    flag,
    one_of,
)
from torchmetrics_dice_ext._readout import Score

if TYPE_CHECKING:
    from typing_extensions import Unpack


class CountingOptions(TypedDict, total=False):
    """Options of every function that counts; the module's docstring explains them."""

    num_classes: int | None
    num_labels: int | None
    threshold: float | Sequence[float]
    from_logits: bool
    class_dim: int
    input_format: InputFormat
    ignore_index: int | Collection[int] | None
    regions: Mapping[str, Sequence[int]] | None
    mask: Tensor | None
    validate_args: bool


class ScoreOptions(CountingOptions, total=False):
    """Options of every function that scores; the module's docstring explains them."""

    average: Average | None
    aggregation_level: AggregationLevel
    include_background: bool
    zero_division: float | Literal["nan"]
    case_ids: Sequence[int] | Sequence[str] | Tensor | None


def overlap_counts(preds: Tensor, target: Tensor, task: Task, **options: Unpack[CountingOptions]) -> OverlapCounts:
    """Overlap counts of every sample and class.

    Args:
        preds: Predictions as the task takes them, see the README's table.
        target: Reference, likewise.
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
    return OverlapCounts(*_count(preds, target, _counting(task, options), options).unbind(-1))


def dice_score(preds: Tensor, target: Tensor, task: Task, **options: Unpack[ScoreOptions]) -> Tensor:
    r"""Dice score (Dice 1945, Sørensen 1948).

    .. math:: \frac{2I}{P + T}

    Args:
        preds: Predictions as the task takes them, see the README's table.
        target: Reference, likewise.
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
    return _score(Score.of("dice"), preds, target, task, options)


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
    return _score(Score.of("jaccard"), preds, target, task, options)


def precision(preds: Tensor, target: Tensor, task: Task, **options: Unpack[ScoreOptions]) -> Tensor:
    r"""Precision, the share of the prediction that is right.

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
    return _score(Score.of("precision"), preds, target, task, options)


def recall(preds: Tensor, target: Tensor, task: Task, **options: Unpack[ScoreOptions]) -> Tensor:
    r"""Recall (sensitivity), the share of the target that is found.

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
    return _score(Score.of("recall"), preds, target, task, options)


def specificity(preds: Tensor, target: Tensor, task: Task, **options: Unpack[ScoreOptions]) -> Tensor:
    r"""Specificity, the share of the voxels outside the class that are left out of it.

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
    return _score(Score.of("specificity"), preds, target, task, options)


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
    return _score(Score.of("fbeta", beta=beta), preds, target, task, options)


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
    return _score(Score.of("tversky", alpha=alpha, beta=beta), preds, target, task, options)


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
    return _score(Score.of("volumetric_similarity"), preds, target, task, options)


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
    return _score(Score.of("generalized_dice", weight_type=weight_type), preds, target, task, options)


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
    return _score(Score.of("dice"), preds, target, task, options, soft=True, squared=squared)


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

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext.functional import which_backend
        >>> labels = torch.tensor([[0, 1, 1, 2]])
        >>> name, passed_over = which_backend(labels, labels, task="multiclass", num_classes=3)
        >>> name in ("triton", "cpu", "reference")
        True
    """
    return choose_backend(read_inputs(preds, target, options.get("mask"), _counting(task, options)))


_PER_CALL = frozenset({"mask", "case_ids", "validate_args"})
_COUNTING = frozenset(CountingOptions.__optional_keys__) - _PER_CALL
_READOUT = frozenset({"average", "include_background", "zero_division"})


def _counting(task: Task, options: Mapping[str, Any], **measure: bool) -> Counting:
    return Counting.of(task, **{name: options[name] for name in _COUNTING & options.keys()}, **measure)  # type: ignore[arg-type]


def _count(preds: Tensor, target: Tensor, counting: Counting, options: Mapping[str, Any]) -> Tensor:
    """Counts `(N, K, 4)` of a batch that is checked unless `validate_args` is False."""
    validate = flag("validate_args", options.get("validate_args", True))
    views = read_inputs(preds, target, options.get("mask"), counting)
    counts, faults = count_batch(views, counting)
    if validate:
        refuse_faults(views, faults)
    return counts


def _score(
    score: Score, preds: Tensor, target: Tensor, task: Task, options: Mapping[str, Any], **measure: bool
) -> Tensor:
    """The score of a batch; `measure` is empty or what `Counting.of` takes for soft counts."""
    strangers = sorted(options.keys() - _COUNTING - _READOUT - _PER_CALL - {"aggregation_level"})
    if strangers:
        raise TypeError(f"Unexpected options {strangers}; a score takes {sorted(ScoreOptions.__optional_keys__)}.")
    if "average" in options and (task == "binary" or score.reduces_classes):
        raise ValueError(f"`average` has no meaning for score {score.name!r} of task {task!r}: leave it out.")
    counting = _counting(task, options, **measure)
    readout = Readout.of(
        counting, regions=options.get("regions"), **{name: options[name] for name in _READOUT & options.keys()}
    )
    level = one_of("aggregation_level", options.get("aggregation_level", "global"), LEVELS)
    reading = Reading(counting, level, ((score, readout),))
    counts = _count(preds, target, counting, options)
    result = reading.conclude(_summary(reading, counts, options.get("case_ids")))[0]
    value = result.classes if readout.average == "none" else result.average
    return value.to(counts.device, torch.get_default_dtype())


def _summary(reading: Reading, counts: Tensor, case_ids: Any) -> Tensor:
    if reading.level == "casewise":
        cases = read_case_ids(case_ids, counts.shape[0])
        table = CaseTable(counts[:0], torch.zeros(0, dtype=torch.int64))
        table.add(cases, counts)
        return table.rows[: len(set(cases))]
    if case_ids is not None:
        raise ValueError(f"`case_ids` belong to `aggregation_level='casewise'`, got them at {reading.level!r}.")
    return reading.summarise(counts)
