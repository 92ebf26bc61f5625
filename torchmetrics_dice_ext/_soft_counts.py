"""Floor 2: canonical views -> soft overlap counts, differentiable in preds, and fault counts.

In a voxel a class has the probability p that preds give it and the share t that the target gives it (0 or 1, a fraction
in a soft target): I = Σpt, P = Σp, T = Σt; squared, P = Σp² and T = Σt².

Both ways run tile by tile: the backward pass computes the probabilities of a tile once more instead of keeping those of
all, and needs nothing else but the gradients of the sums. Nothing of the inputs' size is made but the gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from torchmetrics_dice_ext._counts import widened
from torchmetrics_dice_ext._faults import NUM_FAULTS, TOLERANCE, Fault
from torchmetrics_dice_ext._options import Counting
from torchmetrics_dice_ext._tiles import Box, cut, cut_channels, tiles, with_channels
from torchmetrics_dice_ext._views import Form, LabelViews, Views
from torchmetrics_dice_ext._void import is_value, void_values

_TILE_ON_CPU = 1 << 18  # elements of preds: a tile and its temporaries stay in the cache
_TILE = 1 << 22  # on a device that has to be kept busy


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """How values are read.

    Attributes:
        activation: What makes probabilities of preds.
        num_classes: C.
        exclusive: Whether a voxel has one class, so that its void and its faults are those of the whole voxel.
        label_map: Whether target is `(N, *S)`; else it is `(N, C, *S)`.
        soft_target: Whether the target holds shares in [0, 1] instead of exactly {0, 1}.
        squared: Whether P and T are sums of squares.
        ignore_index: Target values that are void.
        regions: Unions of labels to count instead of classes.
    """

    activation: Literal["softmax", "sigmoid", "identity"]
    num_classes: int
    exclusive: bool
    label_map: bool
    soft_target: bool
    squared: bool
    ignore_index: tuple[int, ...]
    regions: tuple[tuple[int, ...], ...] | None

    @classmethod
    def of(cls, views: Views, counting: Counting, soft_target: bool) -> _Rule:
        exclusive = isinstance(views, LabelViews)
        activation: Literal["softmax", "sigmoid"] = "softmax" if exclusive else "sigmoid"
        return cls(
            activation=activation if counting.from_logits else "identity",
            num_classes=views.num_classes,
            exclusive=exclusive,
            label_map=isinstance(views, LabelViews) and views.target_form is Form.LABELS,
            soft_target=soft_target,
            squared=counting.squared,
            ignore_index=counting.ignore_index,
            regions=counting.regions,
        )


def count_soft(views: Views, counting: Counting, *, soft_target: bool = False) -> tuple[Tensor, Tensor]:
    """Soft counts `(N, K, 4)` in the order of `OverlapCounts`, and faults int64 `(NUM_FAULTS,)`.

    The counts are float64 where the device has it, the probabilities at least float32. Counts of classes have a
    gradient where ``views.preds`` asks for one, exactly 0 in void and malformed voxels, whatever they hold. Never waits
    for the views' device. A malformed voxel is in the faults, and in no count.

    Args:
        views: Float preds, and a target in {0, 1} or as labels.
        counting: The options that decide the reading: ``from_logits`` applies softmax or sigmoid; ``squared`` makes
            P = Σp² and T = Σt², as in V-Net.
        soft_target: Take shares in [0, 1] as target along the class axis. Values outside are a `Fault.TARGET_FRACTION`.

    Raises:
        TypeError: Preds that hold decisions, not probabilities.
        ValueError: A soft target without a class axis.
    """
    if not views.preds.is_floating_point():
        raise TypeError(
            f"`preds` of a soft score must be probabilities or logits of a float dtype, got {views.preds.dtype}:"
            f" hard predictions have hard scores, such as DiceScore."
        )
    rule = _Rule.of(views, counting, soft_target)
    if soft_target and rule.label_map:
        raise ValueError(
            f"`target` must have preds' shape {tuple(views.preds.shape)} with `soft_target=True`, a share for every"
            f" class, got a label map of shape {tuple(views.target.shape)}."
        )
    preds = views.preds if rule.regions is None else views.preds.detach()
    return _SoftCounts.apply(preds, views.target, views.mask, rule)  # type: ignore[no-any-return, no-untyped-call]


class _SoftCounts(torch.autograd.Function):
    """Soft counts and faults, with a gradient in closed form that can itself be differentiated."""

    @staticmethod
    def forward(ctx: Any, preds: Tensor, target: Tensor, mask: Tensor | None, rule: _Rule) -> tuple[Tensor, Tensor]:
        ctx.rule = rule
        ctx.save_for_backward(preds, target, mask)
        outputs = rule.num_classes if rule.regions is None else len(rule.regions)
        counts = torch.zeros(preds.shape[0], outputs, 4, dtype=_sum_dtype(preds), device=preds.device)
        faults = torch.zeros(NUM_FAULTS, dtype=torch.int64, device=preds.device)
        for box in _boxes(preds):
            tile = _read_tile(preds, target, mask, rule, box)
            for kind, wrong in tile.wrong.items():
                faults[kind] += (wrong & tile.valid).sum()
            counts[box[0]] += _sum_tile(tile, rule)
        ctx.mark_non_differentiable(faults)
        intersection, pred_cardinality, target_cardinality, support = counts.unbind(-1)
        if rule.squared:
            most = (pred_cardinality + target_cardinality) / 2
        else:
            most = torch.minimum(pred_cardinality, target_cardinality)
        intersection = torch.minimum(intersection, most)  # as in exact arithmetic, so that no score passes 1
        return torch.stack((intersection, pred_cardinality, target_cardinality, support), dim=-1), faults

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        preds, target, mask = ctx.saved_tensors
        gradient = torch.empty_like(preds)
        for box in _boxes(preds):
            tile = _read_tile(preds, target, mask, ctx.rule, box)
            place = with_channels(box)
            gradient[place] = _tile_gradient(tile, grads[0][box[0]], ctx.rule).reshape(gradient[place].shape)
        return gradient, None, None, None


class _Tile(NamedTuple):
    """Some voxels.

    Attributes:
        p: Probabilities `(n, C, v)` in [0, 1], finite also in voxels that don't count.
        t: Shares `(n, C, v)` in [0, 1], 0 in voxels that don't count.
        weight: 1 where a voxel counts, else 0; `(n, 1, v)`, or `(n, C, v)` where classes are not exclusive.
        valid: Where a voxel is not void, of that shape.
        wrong: Where each kind of fault is, of that shape; also in void voxels.
    """

    p: Tensor
    t: Tensor
    weight: Tensor
    valid: Tensor
    wrong: Mapping[Fault, Tensor]


def _boxes(preds: Tensor) -> list[Box]:
    elements = _TILE_ON_CPU if preds.device.type == "cpu" else _TILE
    return list(tiles((preds.shape[0], *preds.shape[2:]), max(1, elements // preds.shape[1])))


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _sum_tile(tile: _Tile, rule: _Rule) -> Tensor:
    """Counts `(n, K, 4)` of a tile."""
    p, t, weight = tile.p, tile.t, tile.weight
    if rule.regions is not None:
        p, t = (torch.stack([_union(x, labels) for labels in rule.regions], 1) for x in (p, t))
        p = p.clamp(max=1)
    p_mass, t_mass = (p * p, t * t) if rule.squared else (p, t)
    sums = (p * t).sum(2), (p_mass * weight).sum(2), t_mass.sum(2), weight.sum(2).expand(t.shape[:2])
    return torch.stack(sums, dim=-1).to(_sum_dtype(p))


def _union(values: Tensor, labels: tuple[int, ...]) -> Tensor:
    """Sum `(n, v)` of some classes of `(n, C, v)`."""
    return torch.stack([values[:, label] for label in labels]).sum(0)


def _tile_gradient(tile: _Tile, grad: Tensor, rule: _Rule) -> Tensor:
    """The gradient by the values `(n, C, v)` of a tile, given that by the counts `(n, C, 4)`."""
    p = tile.p
    by_intersection, by_cardinality = (side.unsqueeze(-1).to(p.dtype) for side in grad.unbind(-1)[:2])
    by_p = by_intersection * tile.t + by_cardinality * tile.weight * (2 * p if rule.squared else 1)
    if rule.activation == "softmax":
        return p * (by_p - (p * by_p).sum(1, keepdim=True))
    return by_p * p * (1 - p) if rule.activation == "sigmoid" else by_p


def _read_tile(preds: Tensor, target: Tensor, mask: Tensor | None, rule: _Rule, box: Box) -> _Tile:
    p, wrong = _read_probabilities(cut_channels(preds, box), rule)
    t, void, wrong_target = (_read_label_map if rule.label_map else _read_shares)(target, rule, box)
    valid = ~void if mask is None else ~void & cut(mask, box).unsqueeze(1)
    wrong = {**wrong, **wrong_target}
    counted = valid
    for where in wrong.values():
        counted = counted & ~where
    weight = counted.to(p.dtype)
    return _Tile(p, t.to(p.dtype) * weight, weight, valid, wrong)


def _read_probabilities(values: Tensor, rule: _Rule) -> tuple[Tensor, dict[Fault, Tensor]]:
    """Probabilities of values `(n, C, v)`, and where each kind of fault is."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    wrong = {Fault.PREDS_NAN: values.amax(1, keepdim=True).isnan() if rule.exclusive else values.isnan()}
    values = values.nan_to_num(0.0)  # infinite logits become the largest finite ones
    if rule.activation == "softmax":
        return values.softmax(1), wrong
    if rule.activation == "sigmoid":
        return values.sigmoid(), wrong
    outside = (values < -TOLERANCE) | (values > 1 + TOLERANCE)
    wrong[Fault.PREDS_PROBABILITY] = (outside.any(1, keepdim=True) if rule.exclusive else outside) & ~wrong[
        Fault.PREDS_NAN
    ]
    return values.clamp(0, 1), wrong


def _read_label_map(target: Tensor, rule: _Rule, box: Box) -> tuple[Tensor, Tensor, dict[Fault, Tensor]]:
    """Shares `(n, C, v)`, where voxels are void, and where each kind of fault is, `(n, 1, v)`."""
    labels = widened(cut(target, box)).unsqueeze(1)
    wrong = {Fault.TARGET_LABEL: (labels < 0) | (labels >= rule.num_classes)}
    if labels.is_floating_point():
        wrong[Fault.TARGET_FRACTION] = labels != labels.trunc()
        wrong[Fault.TARGET_LABEL] = wrong[Fault.TARGET_LABEL] & ~wrong[Fault.TARGET_FRACTION]
    classes = torch.arange(rule.num_classes, dtype=labels.dtype, device=labels.device).view(-1, 1)
    return labels == classes, _holds(labels, void_values(rule.ignore_index, target.dtype)), wrong


def _read_shares(target: Tensor, rule: _Rule, box: Box) -> tuple[Tensor, Tensor, dict[Fault, Tensor]]:
    """Shares `(n, C, v)`, where voxels are void, and where each kind of fault is, `(n, 1, v)` or `(n, C, v)`."""
    entries = widened(cut_channels(target, box))
    ones, zeros = entries == 1, entries == 0
    if rule.exclusive:
        void = torch.zeros_like(ones[:, :1])
        first = ones & (ones.cumsum(1) == 1) if rule.ignore_index else ones
        for label in set(rule.ignore_index) & set(range(rule.num_classes)):
            void = void | first[:, label].unsqueeze(1)
    else:
        void = _holds(entries, void_values(rule.ignore_index, target.dtype))
    if rule.soft_target:
        outside = ~((entries >= 0) & (entries <= 1))
        wrong = {Fault.TARGET_FRACTION: outside.any(1, keepdim=True) if rule.exclusive else outside}
        return torch.where(outside, 0, entries), void, wrong
    if rule.exclusive:
        one_hot = (ones | zeros).all(1, keepdim=True) & (ones.sum(1, keepdim=True) == 1)
        return ones, void, {Fault.TARGET_ONE_HOT: ~one_hot}
    whole = entries == entries.trunc() if entries.is_floating_point() else torch.ones_like(ones)
    return ones, void, {Fault.TARGET_FRACTION: ~whole, Fault.TARGET_BINARY: whole & ~ones & ~zeros}


def _holds(values: Tensor, wanted: Iterable[int]) -> Tensor:
    """Where values are among those wanted, which are `void_values`."""
    found = torch.zeros_like(values, dtype=torch.bool)
    for value in wanted:
        found = found | is_value(values, value)
    return found
