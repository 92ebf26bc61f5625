"""Floor 6: `diagnose`, which takes a batch through all checks.

In this order: types, shapes, values, then what fits better (activations, order, place), then what the counts say. Each
finding's remedy is applied before the next check, so that one fault doesn't hide another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch

from torchmetrics_dice_ext._diagnosis._activations import explain_activations
from torchmetrics_dice_ext._diagnosis._alignment import propose_alignments
from torchmetrics_dice_ext._diagnosis._batch import MOST_CHECKED, Batch
from torchmetrics_dice_ext._diagnosis._evidence import judge
from torchmetrics_dice_ext._diagnosis._outcomes import find_low_dice, find_outcomes
from torchmetrics_dice_ext._diagnosis._report import Diagnosis, Finding, gravity, ranked
from torchmetrics_dice_ext._diagnosis._shapes import Given, find_one_hot_masks, read_shapes
from torchmetrics_dice_ext._diagnosis._types import on_one_device, read_mask, read_side, same_storage
from torchmetrics_dice_ext._diagnosis._values import check_values
from torchmetrics_dice_ext._options import Counting, InputFormat, Readout, Task

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
    mask: Any = None,
) -> Diagnosis:
    """Tell why the Dice of a batch is near zero, above one, or too good.

    Never raises on data of any kind, malformed tensors, NumPy arrays and lists included. Time and memory are bounded: a
    large batch is looked at through every k-th voxel of each axis, at most 2²¹ voxels and 2²³ voxels times classes, and
    the report says so. Remedies are tested on that sample. Up to 2²⁷ elements all values are checked.

    Args:
        preds: What a metric was given, or would be.
        target: Likewise.
        task: "binary", "multiclass" or "multilabel".
        num_classes: C, for task "multiclass".
        num_labels: L, for task "multilabel".
        class_names: Names for the report, one per class.
        ignore_index: Target values that are void.
        threshold: Binary and multilabel floats are positive above it (default 0.5; multilabel also one per label).
        from_logits: Whether binary and multilabel floats are logits.
        class_dim: The class axis.
        input_format: "auto" (default), "one-hot" or "index".
        mask: bool `(N, ...)`, True where a voxel counts.

    Returns:
        Findings, gravest first; none where the batch is healthy. `str()` makes a report of it, `plot()` a picture.

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
        num_labels=num_labels,
        threshold=threshold,
        from_logits=from_logits,
        class_dim=class_dim,
        input_format=input_format,
        ignore_index=ignore_index,
    )
    names = Readout.of(counting, class_names=class_names).names(counting)
    sides = read_side("preds", preds), read_side("target", target)
    mask, findings = read_mask(mask)
    findings += [*sides[0].findings, *sides[1].findings]
    facts = [_options_in_words(counting), *(side.fact for side in sides)]
    if sides[0].tensor is None or sides[1].tensor is None:
        return Diagnosis(findings=ranked(findings), dice=None, facts=tuple(facts))
    shared = same_storage(preds, target)
    first, second, mask, moved = on_one_device(sides[0].tensor, sides[1].tensor, mask)
    batch, misfits = read_shapes(Given(first, second, mask, counting))
    findings += moved + misfits
    if batch is None:
        return Diagnosis(findings=ranked(findings), dice=None, facts=tuple(facts))
    facts += [_values_in_words(batch), _sample_in_words(batch)]
    repaired, malformed = check_values(batch)
    findings += malformed
    refused = any(finding.severity == "error" for finding in findings)
    dice = None if refused else batch.planes.dice
    findings += [shared] if shared else _explanations(repaired, names)
    return Diagnosis(findings=ranked(findings), dice=dice, facts=tuple(facts), _batch=repaired)


def _explanations(batch: Batch, names: Sequence[str]) -> list[Finding]:
    """The best explanation of the score, then the best of what is left, then what the counts say."""
    findings: list[Finding] = []
    one_hot = find_one_hot_masks(batch)
    if one_hot is not None:
        findings.append(one_hot[0])
        batch = one_hot[1]
    for _ in range(_ROUNDS):
        found = list(_candidates(batch, {finding.code for finding in findings}))
        if not found:
            break
        finding, batch = min(found, key=lambda pair: gravity(pair[0]))
        findings.append(finding)
        if finding.code == "softmax_axis":  # what came out of it can't be repaired, nor judged
            return findings
    names = names if len(names) == batch.counting.num_classes else [str(k) for k in range(batch.counting.num_classes)]
    findings += find_outcomes(batch, names)
    return findings or list(find_low_dice(batch))


def _candidates(batch: Batch, known: set[str]) -> Iterator[tuple[Finding, Batch]]:
    """Explanations that the data bear out, with the batch after each."""
    for explained in explain_activations(batch):
        if explained[0].code not in known:
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
    """The range of the values looked at."""
    ranges = []
    for name, tensor in (("preds", batch.views.preds), ("target", batch.views.target)):
        known = tensor[tensor == tensor]
        if known.numel():
            low, high = torch.aminmax(known)
            ranges.append(f"{name} from {float(low):.4g} to {float(high):.4g}")
    return ", ".join(ranges) or "no values"


def _sample_in_words(batch: Batch) -> str:
    """How much was looked at."""
    voxels, everything = 1, 1
    for size, step in zip(batch.whole.space, batch.steps, strict=True):
        voxels, everything = voxels * -(-size // step), everything * size
    if not batch.sampled:
        return f"looked at all {everything:,} voxels"
    checked = max(batch.whole.preds.numel(), batch.whole.target.numel()) <= MOST_CHECKED
    values = "all values checked" if checked else "values checked there"
    return (
        f"looked at {voxels:,} of {everything:,} voxels (every {batch.steps} along samples and spatial axes), {values}"
    )
