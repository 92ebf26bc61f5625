"""Floor 6: `diagnose`, which takes a batch through all checks.

In this order: types, shapes, values, then what fits better (activations, order, place), then what the counts say. Each
finding's remedy is applied before the next check, so that one fault doesn't hide another.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence, Sized
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple

import torch

from torchmetrics_dice_ext._diagnosis._activations import explain_activations, find_threshold
from torchmetrics_dice_ext._diagnosis._alignment import propose_alignments
from torchmetrics_dice_ext._diagnosis._batch import MOST_CLASSES, Batch, Given
from torchmetrics_dice_ext._diagnosis._evidence import judge
from torchmetrics_dice_ext._diagnosis._outcomes import find_leak, find_low_dice, find_outcomes
from torchmetrics_dice_ext._diagnosis._report import Diagnosis, Finding, gravity, ranked
from torchmetrics_dice_ext._diagnosis._shapes import find_one_hot_labels, find_one_hot_masks, read_shapes
from torchmetrics_dice_ext._diagnosis._types import (
    check_case_ids,
    on_one_device,
    read_argument,
    read_mask,
    same_storage,
)
from torchmetrics_dice_ext._diagnosis._values import check_values
from torchmetrics_dice_ext._options import (
    LEVELS,
    AggregationLevel,
    Average,
    Counting,
    InputFormat,
    Readout,
    Task,
    ValidateArgs,
    flag,
    one_of,
    validation_mode,
)

_ROUNDS = 3  # faults that may lie on top of each other


def diagnose(
    preds: Any,
    target: Any,
    *,
    task: Task,
    num_classes: int | None = None,
    num_labels: int | None = None,
    class_names: Sequence[str] | None = None,
    ignore_index: int | Collection[int] | None = None,
    threshold: float | Sequence[float] | None = None,
    from_logits: bool = False,
    class_dim: int = 1,
    input_format: InputFormat | None = None,
    average: Average | None = "macro",
    aggregation_level: AggregationLevel = "global",
    include_background: bool = True,
    zero_division: float | Literal["nan"] = "nan",
    regions: Mapping[str, Sequence[int]] | None = None,
    validate_args: ValidateArgs = True,
    mask: Any = None,
    case_ids: Any = None,
) -> Diagnosis:
    """Tell why the Dice of a batch is near zero, above one, or too good.

    Takes a batch as a metric or a loss was given it. Never raises on data of any kind, malformed tensors, NumPy arrays
    and lists included. Time and memory are bounded: a large batch is looked at through every k-th voxel of each axis,
    at most 2²¹ voxels and 2²³ voxels times classes, and the report says so; one of more than 2¹⁷ classes is not looked
    at. Remedies are tested on that sample. Up to 2²⁷ elements all values are checked.

    The Dice in findings and report is macro and global, over all classes, whatever the options say.

    Args:
        preds: What a metric was given, or would be.
        target: Likewise.
        task: "binary", "multiclass" or "multilabel".
        num_classes: C, for task "multiclass".
        num_labels: L, for task "multilabel".
        class_names: Names for the report, one per class.
        ignore_index: Target values that are void.
        threshold: Binary and multilabel floats are positive above it (default 0.5; multilabel also one per label).
        from_logits: Whether binary and multilabel floats are logits; multiclass scores are argmaxed in either case.
        class_dim: The class axis.
        input_format: "auto" (default), "one-hot" or "index".
        average: As a metric takes it; what only macro averages suffer from is found for "macro" alone.
        aggregation_level: As a metric takes it, for `case_ids`; else it changes nothing.
        include_background: With False nothing is said of a background that carries the score.
        zero_division: With a number nothing is said of a foreground that is nowhere.
        regions: As a metric takes them; the labels themselves are looked at, not their unions.
        validate_args: As a metric takes it; it changes nothing.
        mask: bool `(N, ...)`, True where a voxel counts.
        case_ids: N ints or strings, with `aggregation_level="casewise"`.

    Returns:
        Findings, gravest first, else causes first; none where the batch is healthy. `str()` makes a report of it,
        `plot()` a picture.

    Raises:
        ValueError: Wrong options, such as an unknown task.
        TypeError: Options of wrong types.

    Example:
        >>> import torch
        >>> from torchmetrics_dice_ext import diagnose
        >>> mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
        >>> mask[:, 2:6, 2:6] = 255
        >>> diagnosis = diagnose(mask > 0, mask, task="binary")
        >>> diagnosis.findings[0].code, diagnosis.findings[0].remedy
        ('scaled_mask', 'target = target > 0')
    """
    counting = Counting.of(
        task,
        num_classes=num_classes,
        num_labels=_checkable(num_labels, threshold, class_names),
        threshold=threshold,
        from_logits=flag("from_logits", from_logits) and task != "multiclass",
        class_dim=class_dim,
        input_format=input_format,
        ignore_index=ignore_index,
        regions=regions,
    )
    readout = Readout.of(
        counting,
        average=average,
        include_background=include_background,
        zero_division=zero_division,
        class_names=class_names,
        regions=regions,
    )
    validation_mode(validate_args)
    if regions is not None:  # what is looked at are labels, which have no names then
        readout = dataclasses.replace(readout, class_names=None)
    setting = Setting(counting, readout, one_of("aggregation_level", aggregation_level, LEVELS))
    if counting.num_classes > MOST_CLASSES:
        return _too_many_classes("num_classes" if num_labels is None else "num_labels", num_classes or num_labels)
    with torch.device("cpu"):  # whatever device the user has made the default
        return _examine(preds, target, mask, case_ids, setting)


class Setting(NamedTuple):
    """The options, checked."""

    counting: Counting
    readout: Readout
    level: AggregationLevel


def _checkable(num_labels: Any, threshold: Any, class_names: Any) -> Any:
    """`num_labels`, or where these are too many to look at so few that one threshold for all is quick to check."""
    if not isinstance(num_labels, Integral) or not (threshold is None or isinstance(threshold, Real)):
        return num_labels
    return min(num_labels, max(MOST_CLASSES + 1, len(class_names) if isinstance(class_names, Sized) else 0))


def _too_many_classes(option: str, size: int | None) -> Diagnosis:
    message = f"`{option}` is {size:,}, where a batch is looked at up to {MOST_CLASSES:,}: this one wasn't."
    remedy = f"diagnose(preds, target, {option}=..., ...)  # as many as there are"
    finding = Finding(code="too_many_classes", severity="warning", message=message, remedy=remedy)
    return Diagnosis(findings=(finding,), dice=math.nan, facts=(f"{option}={size:,}",))


def _examine(preds: Any, target: Any, mask: Any, case_ids: Any, setting: Setting) -> Diagnosis:
    """Types, shapes and values, each after the remedies of those before it, then what explains the score."""
    facts = [_options_in_words(setting.counting)]
    counting = dataclasses.replace(setting.counting, regions=None)
    sides = read_argument("preds", preds), read_argument("target", target)
    mask, findings = read_mask(mask)
    findings += [*sides[0].findings, *sides[1].findings]
    facts += [side.fact for side in sides]
    if sides[0].tensor is None or sides[1].tensor is None:
        return Diagnosis(findings=ranked(findings), dice=None, facts=tuple(facts))
    shared = same_storage(preds, target)
    first, second, mask, moved = on_one_device(sides[0].tensor, sides[1].tensor, mask)
    batch, misfits = read_shapes(Given(first, second, mask, counting))
    if batch is None:
        return Diagnosis(findings=ranked(findings + moved + misfits), dice=None, facts=tuple(facts))
    facts += [_values_in_words(batch), _sample_in_words(batch)]
    findings += moved + check_case_ids(case_ids, setting.level, batch.whole.space[0]) + misfits
    repaired, malformed = check_values(batch)
    findings = _in_sequence(findings + malformed)
    refused = any(finding.severity == "error" for finding in findings)
    dice = None if refused else batch.planes.dice
    findings += [shared] if shared else _explanations(repaired, setting, as_given=not misfits and not malformed)
    return Diagnosis(findings=ranked(findings), dice=dice, facts=tuple(facts), _batch=repaired)


def _in_sequence(findings: list[Finding]) -> list[Finding]:
    """Refusals, of which only the last one's remedy leads to a score."""
    last = max((place for place, finding in enumerate(findings) if finding.severity == "error"), default=0)
    return [dataclasses.replace(finding, dice_after=None) for finding in findings[:last]] + findings[last:]


def _explanations(batch: Batch, setting: Setting, *, as_given: bool) -> list[Finding]:
    """What the values mean, then the best explanation of the score, then the best of what is left, then the counts."""
    findings: list[Finding] = []
    for find in (find_one_hot_masks, find_one_hot_labels):
        explained = find(batch)
        if explained is not None:
            findings.append(explained[0])
            batch = explained[1]
    for finding, after in explain_activations(batch):
        findings.append(finding)
        batch = after
        if finding.code == "softmax_axis":  # what came out of it can't be repaired, nor judged
            return findings
    for _ in range(_ROUNDS):
        found = list(_candidates(batch, {finding.code for finding in findings}))
        if not found:
            break
        finding, batch = min(found, key=lambda pair: gravity(pair[0]))
        findings.append(finding)
    as_given = as_given and not findings
    findings += find_outcomes(batch, setting.readout)
    if as_given:
        findings += find_leak(batch)
    return findings or list(find_low_dice(batch))


def _candidates(batch: Batch, known: set[str]) -> Iterator[tuple[Finding, Batch]]:
    """Explanations that the data bear out, with the batch after each."""
    explained = find_threshold(batch)
    if explained is not None and explained[0].code not in known:
        yield explained
    for proposal in propose_alignments(batch):
        finding = judge(proposal, batch.planes.dice)
        if finding is not None and finding.code not in known:
            yield finding, proposal.batch


def _options_in_words(counting: Counting) -> str:
    """Options that differ from their defaults."""
    usual = Counting(task=counting.task, num_classes=1, thresholds=(0.5,) * len(counting.thresholds))
    names = [field.name for field in dataclasses.fields(counting)]
    different = [name for name in names if getattr(counting, name) != getattr(usual, name)]
    return ", ".join((f"task={counting.task!r}", *(f"{name}={getattr(counting, name)!r}" for name in different)))


def _values_in_words(batch: Batch) -> str:
    """The range of the values that were checked."""
    ranges = [f"{name} from {low:.4g} to {high:.4g}" for name, (low, high) in batch.ranges.items() if low == low]
    return ", ".join(ranges) or "no values"


def _sample_in_words(batch: Batch) -> str:
    """How much was looked at."""
    voxels, everything = 1, 1
    for size, step in zip(batch.whole.space, batch.steps, strict=True):
        voxels, everything = voxels * -(-size // step), everything * size
    if not batch.sampled:
        return f"looked at all {everything:,} voxels"
    values = "all values checked" if batch.all_checked else "values checked there"
    return (
        f"looked at {voxels:,} of {everything:,} voxels (every {batch.steps} along samples and spatial axes), {values}"
    )
