"""Floor 1: the reference backend, plain torch on any device; it defines what the other backends must equal.

Works in tiles, so that its temporaries stay in the cache and small beside the inputs, and only with operations that
neither wait for a device nor depend on the order of threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from torchmetrics_dice_ext._faults import NUM_FAULTS, TOLERANCE, Fault
from torchmetrics_dice_ext._views import Form, LabelViews, MaskViews, Views

TILE = 1 << 16  # voxels of a tile
MAX_PAIRS = 1 << 20  # entries of the table of label pairs that are worth keeping

Box = tuple[slice, ...]


def unsupported_reason(views: Views) -> str | None:
    """None: the reference takes everything."""
    del views
    return None


def count_views(views: Views) -> tuple[Tensor, Tensor]:
    """Counts `(N, K, 4)` and faults `(NUM_FAULTS,)` of canonical views."""
    if isinstance(views, MaskViews):
        return _count_masks(views)
    return _count_labels(views)


def _tiles(space: tuple[int, ...]) -> Iterator[Box]:
    """Boxes of at most TILE voxels that cover `space`, cut along the outermost axes."""
    if 0 in space:
        return
    if torch.compiler.is_compiling():  # the compiler fuses and tiles by itself
        yield tuple(slice(None) for _ in space)
        return
    axis, inner = len(space) - 1, 1
    while axis > 0 and inner * space[axis] <= TILE:
        inner *= space[axis]
        axis -= 1
    step = max(1, TILE // inner)
    for outer in itertools.product(*(range(size) for size in space[:axis])):
        for start in range(0, space[axis], step):
            yield (*(slice(i, i + 1) for i in outer), slice(start, start + step), *(slice(None) for _ in space[axis + 1 :]))


def _cut(tensor: Tensor, box: Box) -> Tensor:
    """The box of a `(N, *S)` tensor as `(n, v)`."""
    return tensor[box].flatten(1)


def _cut_channels(tensor: Tensor, box: Box) -> Tensor:
    """The box of a `(N, C, *S)` tensor as `(n, C, v)`."""
    return tensor[(box[0], slice(None), *box[1:])].flatten(2)


# --- labels ---------------------------------------------------------------------------------------------------------


def _count_labels(views: LabelViews) -> tuple[Tensor, Tensor]:
    samples, size, device = views.space[0], views.num_classes, views.preds.device
    faults = torch.zeros(NUM_FAULTS, dtype=torch.int64, device=device)
    pairs = views.regions is not None or samples * size * size <= MAX_PAIRS
    # one entry per (sample, target, preds), or three histograms per sample; one more entry takes what must not count
    table = torch.zeros(samples * size * (size if pairs else 4) + 1, dtype=torch.int64, device=device)
    for box in _tiles(views.space):
        preds, target, counted = _read_labels(views, box, faults)
        sample = torch.arange(samples, device=device)[box[0]].unsqueeze(1)
        if pairs:
            _tally(table, (sample * size + target) * size + preds, counted)
        else:
            _tally(table, (sample * 4 + 0) * size + target, counted & (preds == target))
            _tally(table, (sample * 4 + 1) * size + preds, counted)
            _tally(table, (sample * 4 + 2) * size + target, counted)
    if not pairs:
        counts = table[:-1].view(samples, 4, size)
        counts[:, 3] = counts[:, 2].sum(1, keepdim=True)
        return counts.movedim(1, 2).contiguous(), faults
    confusion = table[:-1].view(samples, size, size)
    return (_class_counts(confusion) if views.regions is None else _region_counts(confusion, views.regions)), faults


def _tally(table: Tensor, key: Tensor, counted: Tensor) -> None:
    """Add 1 at each counted key; the last entry of the table takes the others."""
    key = torch.where(counted, key, table.numel() - 1).flatten()
    table.scatter_add_(0, key, torch.ones_like(key))


def _class_counts(confusion: Tensor) -> Tensor:
    target, preds = confusion.sum(2), confusion.sum(1)
    support = target.sum(1, keepdim=True).expand_as(target)
    return torch.stack((confusion.diagonal(dim1=1, dim2=2), preds, target, support), dim=-1)


def _region_counts(confusion: Tensor, regions: tuple[tuple[int, ...], ...]) -> Tensor:
    counts = _class_counts(confusion)
    rows = []
    for labels in regions:
        members = list(labels)
        both = sum(confusion[:, t, p] for t, p in itertools.product(members, members))
        preds, target = (sum(counts[:, label, side] for label in members) for side in (1, 2))
        rows.append(torch.stack((both, preds, target, counts[:, 0, 3]), dim=-1))  # type: ignore[arg-type]
    return torch.stack(rows, dim=1)


def _read_labels(views: LabelViews, box: Box, faults: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Labels int64 `(n, v)` of both sides, and where they count; adds the faults found."""
    size = views.num_classes
    preds, preds_faults = _decode(views.preds, views.preds_form, box, size)
    target, target_faults = _decode(views.target, views.target_form, box, size)
    counted = torch.ones_like(target, dtype=torch.bool) if views.mask is None else _cut(views.mask, box)
    for label in views.ignore_index:
        counted = counted & (target != label)
    valid = counted
    for kinds, side in ((_PREDS_KINDS, preds_faults), (_TARGET_KINDS, target_faults)):
        for name, wrong in side.items():
            wrong = wrong & valid
            faults[kinds[name]] += wrong.sum()
            counted = counted & ~wrong
    return preds, target, counted


_PREDS_KINDS = {"nan": Fault.PREDS_NAN, "label": Fault.PREDS_LABEL, "one-hot": Fault.PREDS_ONE_HOT}
_TARGET_KINDS = {"fraction": Fault.TARGET_FRACTION, "label": Fault.TARGET_LABEL, "one-hot": Fault.TARGET_ONE_HOT}


def _decode(tensor: Tensor, form: Form, box: Box, size: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Labels int64 `(n, v)`, and where each kind of fault is."""
    if form is Form.SCORES:
        best, label = _cut_channels(tensor, box).max(1)
        return label, {"nan": best.isnan()}
    if form is Form.ONE_HOT:
        entries = _widen(_cut_channels(tensor, box))
        ones = entries == 1
        proper = (ones | (entries == 0)).all(1) & (ones.sum(1) == 1)
        return ones.to(torch.uint8).max(1).indices, {"one-hot": ~proper}
    values = _cut(tensor, box)
    wrong = {}
    if values.is_floating_point():
        fraction = values != values.trunc()
        wrong["fraction"] = fraction
        values = torch.where(fraction, -(2.0**62), values.double().clamp(-(2.0**62), 2.0**62))
    label = values.to(torch.int64)
    outside = (label < 0) | (label >= size)
    wrong["label"] = outside & ~wrong["fraction"] if wrong else outside
    return label, wrong


# --- masks ----------------------------------------------------------------------------------------------------------


def _count_masks(views: MaskViews) -> tuple[Tensor, Tensor]:
    samples, labels, device = views.preds.shape[0], views.num_outputs, views.preds.device
    faults = torch.zeros(NUM_FAULTS, dtype=torch.int64, device=device)
    counts = torch.zeros(samples, labels, 4, dtype=torch.int64, device=device)
    for box in _tiles(views.space):
        target = _widen(_cut_channels(views.target, box))
        counted = torch.ones_like(target, dtype=torch.bool)
        if views.mask is not None:
            counted = counted & _cut(views.mask, box).unsqueeze(1)
        for value in views.ignore_index:
            counted = counted & (target != value)
        preds, preds_faults = _positives(_cut_channels(views.preds, box), views)
        wrong_target = (target != 0) & (target != 1)
        kinds = {**preds_faults, Fault.TARGET_BINARY: wrong_target}
        if target.is_floating_point():
            fraction = target != target.trunc()
            kinds |= {Fault.TARGET_FRACTION: fraction, Fault.TARGET_BINARY: wrong_target & ~fraction}
        valid = counted
        for kind, wrong in kinds.items():
            wrong = wrong & valid
            faults[kind] += wrong.sum()
            counted = counted & ~wrong
        preds, positive = preds & counted, (target == 1) & counted
        sides = torch.stack([side.sum(2) for side in (preds & positive, preds, positive, counted)], dim=-1)
        counts[box[0]] += sides
    return counts, faults


def _widen(values: Tensor) -> Tensor:
    """The values in a dtype that can be compared with any option."""
    return values.to(torch.float64 if values.is_floating_point() else torch.int64)


def _positives(preds: Tensor, views: MaskViews) -> tuple[Tensor, dict[Fault, Tensor]]:
    """Where `(n, L, v)` preds are positive, and where each kind of fault is."""
    if not preds.is_floating_point():
        preds = _widen(preds)
        return preds == 1, {Fault.PREDS_BINARY: (preds != 0) & (preds != 1)}
    faults = {Fault.PREDS_NAN: preds.isnan()}
    if views.probabilities:
        faults[Fault.PREDS_PROBABILITY] = (preds < -TOLERANCE) | (preds > 1 + TOLERANCE)
    if len(set(views.cutoffs)) == 1:
        return preds > views.cutoffs[0], faults
    return torch.stack([preds[:, label] > cutoff for label, cutoff in enumerate(views.cutoffs)], dim=1), faults
