"""Floor 1: the reference backend, plain torch on any device; it defines what the other backends must equal.

Works in tiles, so that its temporaries stay in the cache and small beside the inputs, and only with operations that
neither wait for a device nor depend on the order of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchmetrics_dice_ext._faults import NUM_FAULTS, TOLERANCE, Fault
from torchmetrics_dice_ext._tiles import Box, cut, cut_channels, tiles
from torchmetrics_dice_ext._views import PREDS_FAULT, TARGET_FAULT, Form, LabelViews, MaskViews, Views
from torchmetrics_dice_ext._void import is_value, void_labels, void_values

TILES = 1 << 16, 1 << 17  # voxels of a tile, or answers of all labels to them, at least and at most
SCORE_TILES = 1 << 15, 1 << 17  # of one whose labels are sought among scores
BLOCKS = 1 << 17, 1 << 20  # scores of which the first maximum is sought at once
SHARE = 2000  # bytes of preds for each voxel of a tile between the two: temporaries are small beside a large input
MAX_PAIRS = 1 << 20  # entries of the table of label pairs that are worth keeping

_HALVES = (torch.float16, torch.bfloat16)


def unsupported_reason(views: Views) -> str | None:
    """None: the reference takes everything."""
    del views
    return None


def count_views(views: Views) -> tuple[Tensor, Tensor]:
    """Counts `(N, K, 4)` and faults `(NUM_FAULTS,)` of canonical views."""
    if isinstance(views, MaskViews):
        return _count_masks(views)
    return _count_labels(views)


def _tile_of(views: Views) -> int:
    """How many voxels, or answers to them, make a tile."""
    scores = isinstance(views, LabelViews) and views.preds_form is Form.SCORES
    return _at_once(views, SCORE_TILES if scores else TILES, SHARE)


def _at_once(views: Views, bounds: tuple[int, int], share: int) -> int:
    """How many elements to take at once, one for each `share` bytes of preds."""
    least, most = bounds
    return min(most, max(least, views.preds.nbytes // share))


# Codes of a voxel: its label 0 .. C - 1; -1 and C for labels that are too small and too large, and for all else that is
# malformed; in target also C + 1 where it is void, and C + 2 for a fraction. A table has the code c at c + 1.


def _count_labels(views: LabelViews) -> tuple[Tensor, Tensor]:
    samples, size, device = views.space[0], views.num_classes, views.preds.device
    rows, columns = size + 4, size + 2
    if samples * rows * columns > MAX_PAIRS:
        return _count_labels_apart(views)
    pairs = torch.zeros(samples, rows, columns, dtype=torch.int64, device=device)
    first = (torch.arange(samples, dtype=torch.int32, device=device).unsqueeze(1) * rows + 1) * columns + 1
    for box in tiles(views.space, _tile_of(views)):
        preds, target = preds_codes(views, box), target_codes(views, box)
        _tally(pairs, torch.add(preds, target, alpha=columns).add_(first[box[0]]))
    of_preds, of_target = pairs.sum((0, 1)) - pairs[:, size + 2].sum(0), pairs.sum((0, 2))
    confusion = pairs[:, 1 : size + 1, 1 : size + 1]
    counts = _class_counts(confusion) if views.regions is None else _region_counts(confusion, views.regions)
    return counts, _label_faults(views, of_preds, of_target)


def _count_labels_apart(views: LabelViews) -> tuple[Tensor, Tensor]:
    """The same without a table of pairs, which would be large: of preds and target each by itself."""
    samples, size, device = views.space[0], views.num_classes, views.preds.device
    void, codes = size + 1, size + 4
    counts = torch.zeros(samples, 3, codes, dtype=torch.int64, device=device)
    of_preds, of_target = (torch.zeros(codes, dtype=torch.int64, device=device) for _ in range(2))
    regions = [_members(labels, codes, device) for labels in views.regions or ()]
    region_counts = torch.zeros(samples, len(regions), 4, dtype=torch.int64, device=device)
    first = torch.arange(samples, device=device).unsqueeze(1) * 3 * codes + 1
    for box in tiles(views.space, _tile_of(views)):
        preds, target = preds_codes(views, box), target_codes(views, box)
        _tally(of_preds, torch.where(target == void, void, preds) + 1)
        _tally(of_target, target + 1)
        valid = (preds >= 0) & (preds < size) & (target >= 0) & (target < size)
        preds, target = torch.where(valid, preds, void), torch.where(valid, target, void)
        for side, code in enumerate((torch.where(preds == target, preds, void), preds, target)):
            _tally(counts, first[box[0]] + side * codes + code)
        for region, members in enumerate(regions):
            on_preds, on_target = members[preds + 1], members[target + 1]
            sides = (on_preds & on_target, on_preds, on_target, valid)
            region_counts[box[0], region] += torch.stack([side.sum(1) for side in sides], dim=-1)
    faults = _label_faults(views, of_preds, of_target)
    if views.regions is not None:
        return region_counts, faults
    counts = counts[..., 1 : size + 1].movedim(1, 2)
    support = counts[..., 2].sum(1, keepdim=True).expand(samples, size)
    return torch.cat((counts, support.unsqueeze(-1)), dim=-1), faults


def _tally(table: Tensor, key: Tensor) -> None:
    """Add 1 to the table at each key."""
    key = key.flatten()
    table.view(-1).index_add_(0, key, torch.ones((), dtype=table.dtype, device=table.device).expand_as(key))


def _class_counts(confusion: Tensor) -> Tensor:
    target, preds = confusion.sum(2), confusion.sum(1)
    support = target.sum(1, keepdim=True).expand_as(target)
    return torch.stack((confusion.diagonal(dim1=1, dim2=2), preds, target, support), dim=-1)


def _region_counts(confusion: Tensor, regions: tuple[tuple[int, ...], ...]) -> Tensor:
    counts, size = _class_counts(confusion), confusion.shape[1]
    rows = []
    for labels in regions:
        members = _members(labels, size + 2, confusion.device)[1:-1]
        both = (confusion * (members & members.unsqueeze(1))).sum((1, 2))
        preds, target = ((counts[..., side] * members).sum(1) for side in (1, 2))
        rows.append(torch.stack((both, preds, target, counts[:, 0, 3]), dim=-1))
    return torch.stack(rows, dim=1)


def _members(labels: tuple[int, ...], codes: int, device: torch.device) -> Tensor:
    """Which codes belong to a region, as a table bool `(codes,)`."""
    members = torch.zeros(codes, dtype=torch.bool, device=device)
    for label in labels:
        members[label + 1] = True
    return members


def _label_faults(views: LabelViews, of_preds: Tensor, of_target: Tensor) -> Tensor:
    """Faults from how many voxels have each code; of preds, where target is not void."""
    size = views.num_classes
    faults = torch.zeros(NUM_FAULTS, dtype=torch.int64, device=of_preds.device)
    faults[PREDS_FAULT[views.preds_form]] = of_preds[0] + of_preds[size + 1]
    faults[TARGET_FAULT[views.target_form]] = of_target[0] + of_target[size + 1]
    faults[Fault.TARGET_FRACTION] = of_target[size + 3]
    return faults


def preds_codes(views: LabelViews, box: Box) -> Tensor:
    """Codes int32 `(n, v)` of preds."""
    size = views.num_classes
    if views.preds_form is Form.SCORES:
        scores = cut_channels(views.preds, box)
        most = _at_once(views, BLOCKS, SHARE // 8)
        blocks = scores.split(max(1, most // (size * max(1, scores.shape[0]))), dim=2)
        codes = [_first_maximum(block) for block in blocks]
        return codes[0] if len(codes) == 1 else torch.cat(codes, dim=1)
    if views.preds_form is Form.ONE_HOT:
        label, proper = _read_one_hot(cut_channels(views.preds, box))
        return torch.where(proper, label, -1)
    return _integer_codes(cut(views.preds, box), size)


def target_codes(views: LabelViews, box: Box) -> Tensor:
    """Codes int32 `(n, v)` of target."""
    size = views.num_classes
    if views.target_form is Form.ONE_HOT:
        values, proper = _read_one_hot(cut_channels(views.target, box))
        codes = torch.where(proper, values, -1)
    else:
        values = _comparable(cut(views.target, box))
        if values.is_floating_point():
            fraction = values != values.trunc()
            codes = _integer_codes(torch.where(fraction, 0, values), size)
            codes = torch.where(fraction, size + 2, codes)
        else:
            codes = _integer_codes(values, size)
    for value in void_labels(views.target_form, views.target.dtype, size, views.ignore_index):
        codes = torch.where(is_value(values, value), size + 1, codes)
    return codes if views.mask is None else torch.where(cut(views.mask, box), codes, size + 1)


def _first_maximum(scores: Tensor) -> Tensor:
    """The first maximum int32 `(n, v)` of scores `(n, C, v)`; C where there is a NaN.

    `max(1)` is many times slower than `amax(1)` on a CPU. So each maximum is marked, and where C - c stands for mark c
    the largest is the first; with NaN nothing is marked. Marks are floats, for comparisons to bool are slow.
    """
    size = scores.shape[1]
    if scores.dtype in _HALVES:
        scores = scores.to(torch.float32)
    if scores.stride(2) != 1:
        scores = scores.contiguous()
    best = scores.amax(1, keepdim=True)
    if torch.compiler.is_compiling():
        marks = (scores == best).to(scores.dtype)
    else:
        marks = torch.eq(scores, best, out=torch.empty(scores.shape, dtype=scores.dtype, device=scores.device))
    marks *= torch.arange(size, 0, -1, dtype=scores.dtype, device=scores.device).unsqueeze(1)
    return size - marks.amax(1).to(torch.int32)


def _read_one_hot(entries: Tensor) -> tuple[Tensor, Tensor]:
    """The first class int32 `(n, v)` that is 1, -1 where none is, and whether it is one-hot, of `(n, C, v)`."""
    ones, zeros = _comparable(entries) == 1, _comparable(entries) == 0
    found, first = ones.to(torch.uint8).max(1)
    return torch.where(found == 1, first, -1).to(torch.int32), (ones | zeros).all(1) & (ones.sum(1) == 1)


def _integer_codes(values: Tensor, size: int) -> Tensor:
    """Codes int32 of whole numbers."""
    if values.dtype in _HALVES:
        values = values.to(torch.float32)  # where C is exact
    if values.element_size() > 2 or values.is_floating_point():
        return _comparable(values).clamp(-1, size).to(torch.int32)
    return values.to(torch.int32).clamp_(-1, size)


def valid_entries(views: Views, box: Box) -> Tensor:
    """Where a box is not void, bool `(n, 1, v)`, of mask views `(n, L, v)`."""
    if isinstance(views, LabelViews):
        return (target_codes(views, box) != views.num_classes + 1).unsqueeze(1)
    return _not_void(_comparable(cut_channels(views.target, box)), views, box)


def _not_void(target: Tensor, views: MaskViews, box: Box) -> Tensor:
    """Where the entries of a box of target `(n, L, v)` are not void."""
    valid = torch.ones_like(target, dtype=torch.bool)
    if views.mask is not None:
        valid = valid & cut(views.mask, box).unsqueeze(1)
    for value in void_values(views.ignore_index, views.target.dtype):
        valid = valid & ~is_value(target, value)
    return valid


def _comparable(values: Tensor) -> Tensor:
    """The values in a dtype with all operations and the same order; uint64 beyond int64 become negative."""
    if values.dtype in (torch.uint16, torch.uint32, torch.uint64, torch.bool):
        return values.to(torch.int64)
    return values


def _count_masks(views: MaskViews) -> tuple[Tensor, Tensor]:
    samples, labels, device = views.preds.shape[0], views.num_outputs, views.preds.device
    faults = torch.zeros(NUM_FAULTS, dtype=torch.int64, device=device)
    counts = torch.zeros(samples, labels, 4, dtype=torch.int64, device=device)
    for box in tiles(views.space, max(1, _tile_of(views) // max(1, labels))):
        preds, ones, counted, wrong = mask_answers(views, box)
        for kind, where in wrong.items():
            faults[kind] += where.sum()
        preds, ones = preds & counted, ones & counted
        counts[box[0]] += torch.stack([side.sum(2) for side in (preds & ones, preds, ones, counted)], dim=-1)
    return counts, faults


def mask_answers(views: MaskViews, box: Box) -> tuple[Tensor, Tensor, Tensor, dict[Fault, Tensor]]:
    """Where a box of preds and of target is positive, where it counts, and where each kind of fault is, `(n, L, v)`."""
    target = _comparable(cut_channels(views.target, box))
    ones = target == 1
    proper = ones | (target == 0)
    valid = _not_void(target, views, box)
    preds, kinds = _positives(_comparable(cut_channels(views.preds, box)), views)
    if target.is_floating_point():
        fraction = target != target.trunc()
        kinds |= {Fault.TARGET_FRACTION: fraction, Fault.TARGET_BINARY: ~(proper | fraction)}
    else:
        kinds[Fault.TARGET_BINARY] = ~proper
    counted, wrong = valid, {}
    for kind, where in kinds.items():
        wrong[kind] = where & valid
        counted = counted & ~wrong[kind]
    return preds, ones, counted, wrong


def _positives(preds: Tensor, views: MaskViews) -> tuple[Tensor, dict[Fault, Tensor]]:
    """Where `(n, L, v)` preds are positive, and where each kind of fault is."""
    if not preds.is_floating_point():
        ones = preds == 1
        return ones, {Fault.PREDS_BINARY: ~(ones | (preds == 0))}
    faults = {Fault.PREDS_NAN: preds.isnan()}
    if views.probabilities:
        faults[Fault.PREDS_PROBABILITY] = (preds < -TOLERANCE) | (preds > 1 + TOLERANCE)
    if len(set(views.cutoffs)) == 1:
        return preds > views.cutoffs[0], faults
    return torch.stack([preds[:, label] > cutoff for label, cutoff in enumerate(views.cutoffs)], dim=1), faults
