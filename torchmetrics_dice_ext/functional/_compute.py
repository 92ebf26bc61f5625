"""Floor 4: what all functions do with their options: read, count, score one batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from torchmetrics_dice_ext._cases import CaseTable, read_case_ids
from torchmetrics_dice_ext._counts import refuse_faults
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
    one_of,
    validation_mode,
)
from torchmetrics_dice_ext._readout import Score


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
    validate_args: bool | Literal["eager"]


class ScoreOptions(CountingOptions, total=False):
    """Options of every function that scores; the module's docstring explains them."""

    average: Average | None
    aggregation_level: AggregationLevel
    include_background: bool
    zero_division: float | Literal["nan"]
    class_names: Sequence[str] | None
    case_ids: Sequence[int] | Sequence[str] | Tensor | None


_COUNTING = frozenset(CountingOptions.__optional_keys__) - {"mask", "validate_args"}
_READOUT = frozenset({"average", "include_background", "zero_division", "class_names"})


def counting_of(task: Task, options: Mapping[str, Any], known: Any = CountingOptions, **measure: bool) -> Counting:
    """What is counted; options that are not among those known are refused."""
    strangers = sorted(options.keys() - known.__optional_keys__)
    if strangers:
        raise TypeError(f"Unexpected options {strangers}; this function takes {sorted(known.__optional_keys__)}.")
    return Counting.of(task, **{name: options[name] for name in _COUNTING & options.keys()}, **measure)  # type: ignore[arg-type]


def count(
    preds: Tensor, target: Tensor, counting: Counting, options: Mapping[str, Any], class_names: Sequence[str] = ()
) -> Tensor:
    """Counts `(N, K, 4)` of a batch that is checked unless `validate_args` is False."""
    validate = validation_mode(options.get("validate_args", True))
    if validate == "deferred":
        raise ValueError(
            "`validate_args` must be one of (True, 'eager', False), got 'deferred': no `compute` follows a function."
        )
    views = read_inputs(preds, target, options.get("mask"), counting)
    counts, faults = count_batch(views, counting, validate=bool(validate))
    if validate:
        refuse_faults(views, faults, class_names)
    return counts


def score(of: Score, preds: Tensor, target: Tensor, task: Task, options: Mapping[str, Any], **measure: bool) -> Tensor:
    """The score of a batch; `measure` is empty or what `Counting.of` takes for soft counts."""
    counting = counting_of(task, options, ScoreOptions, **measure)
    if "average" in options and (task == "binary" or of.reduces_classes):
        raise ValueError(f"`average` has no meaning for score {of.name!r} of task {task!r}: leave it out.")
    readout = Readout.of(
        counting, regions=options.get("regions"), **{name: options[name] for name in _READOUT & options.keys()}
    )
    level = one_of("aggregation_level", options.get("aggregation_level", "global"), LEVELS)
    reading = Reading(counting, level, ((of, readout),))
    counts = count(preds, target, counting, options, () if counting.regions else readout.class_names or ())
    result = reading.conclude(_summary(reading, counts, options.get("case_ids")))[0]
    value = result.classes if readout.average == "none" else result.average
    return value.to(counts.device, torch.get_default_dtype())


def _summary(reading: Reading, counts: Tensor, case_ids: Any) -> Tensor:
    if reading.level == "casewise":
        cases = read_case_ids(case_ids, counts.shape[0])
        table = CaseTable(counts[:0], torch.zeros(0, dtype=torch.int64, device="cpu"))
        table.add(cases, counts)
        return table.rows[: len(set(cases))]
    if case_ids is not None:
        raise ValueError(f"`case_ids` belong to `aggregation_level='casewise'`, got them at {reading.level!r}.")
    return reading.summarise(counts)
