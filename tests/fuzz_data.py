"""Random batches and options for `fuzz.py`: any shape, dtype, form and layout, void values, masks, malformed values."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from cases import FLOAT_DTYPES, INT_DTYPES, Batch, cut, one_hot, to_numpy
from torch import Tensor

MARKED = -987_654  # in repaired targets: void, where malformed elements were
LAYOUTS = ("contiguous", "contiguous", "channels-last", "reversed", "strided", "offset", "expanded")
DTYPES = (torch.bool, *INT_DTYPES, *FLOAT_DTYPES)
STRANGE = (-1, 2, 3, 7, 77, 255, -128, 300, 2**31, 2**40)
VOID = (255, 255, -1, 9, 200, 2**31, 2**40, -(2**63), 2**63, 2**70)
NAN, INF = math.nan, math.inf
Shape = tuple[int, ...]
Drawn = tuple[Tensor, Tensor, str, str]  # preds, target and their kinds


def holds(dtype: torch.dtype, value: int) -> bool:
    """Whether tensors of a dtype, and of int64, hold a whole number exactly."""
    if not -(2**63) <= value < 2**63:
        return False
    if dtype.is_floating_point:
        return torch.tensor(float(value), dtype=torch.float64).to(dtype).item() == value
    return value in (0, 1) if dtype == torch.bool else torch.iinfo(dtype).min <= value <= torch.iinfo(dtype).max


def void_values(options: dict[str, Any]) -> list[int]:
    values = options.get("ignore_index", [])
    return [values] if isinstance(values, int) else list(values)


def draw_counting(r: random.Random, task: str, soft: bool, axes: int) -> dict[str, Any]:
    """What is counted, for data of so many spatial axes."""
    size, options = r.choice((2, 2, 3, 4, 5, 7, 17, 40)), {}
    if task == "multiclass":
        options |= {"num_classes": size, "input_format": r.choice(("auto", "auto", "one-hot", "index"))}
    elif task == "multilabel":
        size -= 1
        options["num_labels"] = size
    if task != "multiclass" and not soft and r.random() < 0.6:
        thresholds = [r.choice((0.5, 0.3, 0.125, 1e-6, 0.999, r.uniform(0.01, 0.99))) for _ in range(size)]
        options["threshold"] = thresholds if task == "multilabel" and r.random() < 0.5 else thresholds[0]
    if (soft or task != "multiclass") and r.random() < 0.4:
        options["from_logits"] = True
    if task != "binary" and r.random() < 0.4:
        options["class_dim"] = r.choice((-1, r.randint(1, 1 + axes)))
    if r.random() < 0.5:
        values = [r.choice((*VOID, *range(size))) for _ in range(r.choice((1, 1, 2, 3)))]
        options["ignore_index"] = values[0] if len(values) == 1 else values
    if task == "multiclass" and not soft and r.random() < 0.25:
        names = ("whole", "core", "rest", "edge")[: r.randint(1, 4)]
        options["regions"] = {name: r.sample(range(size), r.randint(1, size)) for name in names}
    return options


def draw_batch(
    r: random.Random, g: torch.Generator, task: str, options: dict[str, Any], space: Shape, soft: bool
) -> Batch:
    """One well-formed batch of `space` (N, *S), in any form and dtype; void and masked elements hold anything."""
    mask = torch.rand(space, generator=g) < 0.8 if r.random() < 0.3 else None
    draw = _draw_labels if task == "multiclass" else _draw_masks
    preds, target, *kinds = draw(r, g, options, space, mask, soft)
    if mask is not None and r.random() < 0.2:
        mask = mask.unsqueeze(1)
    return Batch(preds, target, mask, *kinds, len(space) - 1)


def _draw_labels(
    r: random.Random, g: torch.Generator, options: dict[str, Any], space: Shape, mask: Tensor | None, soft: bool
) -> Drawn:
    size, class_dim, input_format = options["num_classes"], options.get("class_dim", 1), options["input_format"]
    forms = ["labels", "channel"] + ["one-hot"] * (input_format != "index")
    target_form, preds_form = r.choice(forms), "scores" if soft else r.choice(("scores", *forms))
    if (preds_form == "one-hot") == (target_form == "one-hot") != (input_format == "one-hot"):
        preds_form = "scores"  # two tensors of one shape: the option says how they are read
    dtypes = [dtype for dtype in DTYPES if dtype != torch.bool and holds(dtype, size - 1)]
    target_dtype = r.choice(DTYPES if target_form == "one-hot" else dtypes)
    shared = (min(1, space[0]), *space[1:]) if r.random() < 0.2 else space  # one target for all samples

    present = torch.tensor(r.sample(range(size), r.randint(1, size)))
    truth = present[torch.randint(len(present), shared, generator=g)]
    limit = torch.bool if target_form == "one-hot" else target_dtype
    void = [v for v in void_values(options) if (0 <= v < size if limit == torch.bool else holds(target_dtype, v))]
    if void:
        truth = torch.where(torch.rand(shared, generator=g) < 0.2, r.choice(void), truth)
    truth = truth.expand(space).clone()
    outside = torch.zeros(space, dtype=torch.bool) if mask is None else ~mask
    excluded = outside | torch.isin(truth, torch.tensor(void, dtype=torch.int64))

    wrong = torch.rand(space, generator=g) < r.choice((0.0, 0.3, 1.0))
    guess = torch.where(wrong | (truth < 0) | (truth >= size), torch.randint(size, space, generator=g), truth)
    if preds_form == "scores":
        preds = _draw_scores(r, g, guess, size, soft and not options.get("from_logits", False), soft)
        preds[excluded] = r.choice((NAN, NAN, 0.0))
        preds = preds.to(r.choice(FLOAT_DTYPES)).movedim(-1, class_dim)
    elif preds_form == "one-hot":
        preds = one_hot(guess, size, -1)
        preds[excluded] = r.randint(0, 1)
        preds = preds.to(r.choice((torch.bool, *INT_DTYPES))).movedim(-1, class_dim)
    else:
        preds = _spoiled(r, guess, excluded, r.choice([dtype for dtype in dtypes if not dtype.is_floating_point]))
    if target_form == "one-hot":
        target = one_hot(truth, size, -1)
        target[outside] = r.randint(0, 1)
        target = target.to(target_dtype).movedim(-1, class_dim)
    else:
        target = _spoiled(r, truth, outside, target_dtype)
    if preds_form in ("labels", "channel") and _ambiguous(preds, target, options):
        return _draw_labels(r, g, options, space, mask, soft)
    preds = preds.unsqueeze(1) if preds_form == "channel" else preds
    target = target.unsqueeze(1) if target_form == "channel" else target
    kinds = {"channel": "labels"}
    return preds, target, kinds.get(preds_form, preds_form), kinds.get(target_form, target_form)


def _draw_scores(
    r: random.Random, g: torch.Generator, guess: Tensor, size: int, probabilities: bool, finite: bool
) -> Tensor:
    """`(N, *S, C)`, highest more often than not at `guess`, with ties."""
    shape = (*guess.shape, size)
    values = r.choice(
        (
            torch.randint(-4, 5, shape, generator=g) / 4,
            2 * torch.randn(shape, generator=g, dtype=torch.float64),
            torch.zeros(shape),
            torch.tensor((INF, -INF, 1e4, -1e4, 1e-7, 0.0, -0.0, 1.0))[torch.randint(8, shape, generator=g)],
        )[: 3 if finite else 4]
    )
    values = values + r.choice((0.0, 0.75, 3.0)) * one_hot(guess, size, -1)
    return values.softmax(-1) if probabilities else values.to(torch.float64)


def _ambiguous(preds: Tensor, target: Tensor, options: dict[str, Any]) -> bool:
    """Whether two label maps, or a sample of them by itself, could be one-hot tensors as well, which is refused."""
    axis = options.get("class_dim", 1)
    axis += preds.ndim if axis < 0 else 0
    if options["input_format"] != "auto" or not 0 < axis < preds.ndim or preds.shape[axis] != options["num_classes"]:
        return False
    maps = [to_numpy(x.to(torch.int64)) for x in (preds, target)]
    samples = zip(*maps, strict=True)
    return any(all((x.sum(axis - 1) == 1).all() and (x >= 0).all() for x in pair) for pair in samples if pair[0].size)


def _draw_masks(
    r: random.Random, g: torch.Generator, options: dict[str, Any], space: Shape, mask: Tensor | None, soft: bool
) -> Drawn:
    labels = options.get("num_labels")
    full = space if labels is None else (*space, labels)
    shared = (min(1, space[0]), *full[1:]) if r.random() < 0.2 else full
    target_dtype, decisions = r.choice(DTYPES), not soft and r.random() < 0.3
    truth = (torch.rand(shared, generator=g) < r.choice((0.4, 0.4, 0.0))).long()
    void = [value for value in void_values(options) if holds(target_dtype, value)]
    if void:
        truth = torch.where(torch.rand(shared, generator=g) < 0.2, r.choice(void), truth)
    truth = truth.expand(full).clone()
    outside = torch.zeros(full, dtype=torch.bool)
    if mask is not None:
        outside = outside | (~mask if labels is None else ~mask.unsqueeze(-1))
    excluded = outside | torch.isin(truth, torch.tensor(void, dtype=torch.int64))
    guess = torch.where(torch.rand(full, generator=g) < r.choice((0.0, 0.3)), 1 - truth, truth) == 1
    if decisions:
        preds = _spoiled(r, guess, excluded, r.choice((torch.bool, *INT_DTYPES)))
    else:
        dtype = r.choice(FLOAT_DTYPES)
        preds = _draw_floats(r, g, guess, options, dtype, soft)
        preds[excluded] = r.choice((NAN, NAN, 0.0))
        preds = preds.to(dtype)
    target = _spoiled(r, truth, outside, target_dtype)
    if labels is not None:
        preds, target = (x.movedim(-1, options.get("class_dim", 1)) for x in (preds, target))
    else:
        preds, target = (x.unsqueeze(1) if r.random() < 0.3 else x for x in (preds, target))
    return preds, target, "decisions" if decisions else "scores", "labels"


def _draw_floats(
    r: random.Random, g: torch.Generator, guess: Tensor, options: dict[str, Any], dtype: torch.dtype, finite: bool
) -> Tensor:
    """Probabilities or logits around the thresholds, float64 values that the dtype holds."""
    from_logits, threshold = options.get("from_logits", False), options.get("threshold", 0.5)
    thresholds = threshold if isinstance(threshold, list) else [threshold]
    cuts = torch.tensor([cut(value, dtype, from_logits) for value in thresholds], dtype=dtype).expand(guess.shape)
    up, down = (torch.nextafter(cuts.float(), torch.tensor(end)) for end in (INF, -INF))
    near = r.choice((cuts, up, down))
    values = torch.where(torch.rand(guess.shape, generator=g) < 0.2, near, torch.rand(guess.shape, generator=g))
    if from_logits:
        values = torch.where(values == near, values, r.choice((16 * values - 8, torch.where(guess, 3.0, -3.0))))
        if not finite and r.random() < 0.2:
            values[torch.rand(guess.shape, generator=g) < 0.2] = r.choice((INF, -INF))
    elif r.random() < 0.5:
        values = torch.where(guess, r.choice((1.0, 0.75)), values)
    return values.to(torch.float64)


def _spoiled(r: random.Random, values: Tensor, where: Tensor, dtype: torch.dtype) -> Tensor:
    """Whole values in a dtype, but anything that it can hold at some places."""
    garbage = [value for value in STRANGE if holds(dtype, value)] + [NAN, 0.5, INF] * dtype.is_floating_point
    wide = torch.float64 if dtype.is_floating_point else torch.int64
    return torch.where(where, r.choice(garbage or [0]), values.to(wide)).to(dtype)


# What is wrong


def draw_wrong(
    r: random.Random, batch: Batch, task: str, options: dict[str, Any], soft: bool
) -> tuple[str, Batch, Batch | None] | None:
    """What is wrong, the batch with it, and what may be counted of that; None where a batch can't be spoiled."""
    if r.random() < 0.3:
        return _misshapen(r, batch)
    preds, target = batch.preds.clone(), batch.target.clone()
    wide = torch.float64 if target.is_floating_point() else torch.int64
    repaired = replace(batch, target=target.to(wide) if task == "multilabel" else target)
    valid = _valid(batch, task, options)
    places = valid.nonzero().tolist()
    if not places:
        return None
    place = tuple(r.choice(places))
    side = r.choice(("preds", "target"))
    tensor, kind = (preds, batch.preds_kind) if side == "preds" else (target, batch.target_kind)
    channels = task == "multilabel" or kind == "one-hot" or (kind == "scores" and task == "multiclass")
    entries = _by_voxel(tensor, channels, batch, options)
    values: list[float] = []
    if task == "multiclass" and kind == "one-hot":
        known = side == "target" and any(0 <= value < entries.shape[-1] for value in void_values(options))
        values = [] if known else [r.randint(0, 1)]  # no class, or all; beside void classes the voxel may be void
    elif kind == "scores":
        probabilities = not options.get("from_logits", False) and (soft or task != "multiclass")
        values = [NAN, *((1.5, -0.5, INF) if probabilities else ())]
        place = (*place, r.randrange(entries.shape[-1])) if task == "multiclass" else place
    else:
        known = range(options["num_classes"]) if task == "multiclass" else (0, 1)
        unfit = () if side == "preds" else void_values(options)
        values = [v for v in (*STRANGE, len(known)) if holds(tensor.dtype, v) and v not in known and v not in unfit]
        values += [0.5, NAN, INF] * tensor.is_floating_point()
    if not values:
        return None
    value = r.choice(values)
    entries[place] = value
    if task == "multilabel":
        _by_voxel(repaired.target, True, batch, options)[place] = MARKED
    else:
        mask = torch.ones(valid.shape, dtype=torch.bool) if batch.mask is None else batch.mask.reshape(valid.shape)
        mask = mask.clone()
        mask[place[: valid.ndim]] = False
        repaired = replace(repaired, mask=mask)
    what = "not one-hot" if task == "multiclass" and kind == "one-hot" else f"{kind} hold {value:g}"
    return f"{side}: {what}", replace(batch, preds=preds, target=target), repaired


def _valid(batch: Batch, task: str, options: dict[str, Any]) -> Tensor:
    """Where elements count, `(N, *S)`, for multilabel `(N, *S, L)`."""
    entries = _by_voxel(batch.target, task == "multilabel" or batch.target_kind == "one-hot", batch, options)
    values = to_numpy(entries).argmax(-1) if batch.target_kind == "one-hot" else to_numpy(entries)
    found = ~torch.from_numpy(np.isin(values, [value for value in void_values(options) if holds(torch.int64, value)]))
    if batch.mask is None:
        return found
    mask = batch.mask.reshape(found.shape[: 1 + (batch.spatial_ndim or 0)])
    return found & (mask.unsqueeze(-1) if task == "multilabel" else mask)


def _by_voxel(tensor: Tensor, channels: bool, batch: Batch, options: dict[str, Any]) -> Tensor:
    """A view `(N, *S, C)` of what has channels, `(N, *S)` of what has none."""
    if channels:
        return tensor.movedim(options.get("class_dim", 1), -1)
    return tensor.squeeze(1) if tensor.ndim > 1 + (batch.spatial_ndim or 0) else tensor


def _misshapen(r: random.Random, batch: Batch) -> tuple[str, Batch, None]:
    """A batch of wrong types or shapes."""
    side = r.choice(("preds", "target"))
    tensor: Tensor = getattr(batch, side)
    samples, more = len(tensor), (len(tensor) + 1, *tensor.shape[1:])
    found: dict[str, Any] = {
        "complex": {side: tensor.to(torch.complex64)},
        "float8": {side: tensor.to(torch.float32).to(torch.float8_e5m2)},
        "NumPy": {side: to_numpy(tensor)},
        "a list": {side: tensor.tolist()},
        "one sample too many": {side: tensor.new_zeros(more)},
        "a mask of numbers": {"mask": torch.ones(samples, dtype=torch.int64)},
        "a mask of one sample too many": {"mask": torch.ones(more, dtype=torch.bool)},
    }
    kind = r.choice(list(found))
    return kind, replace(batch, **found[kind]), None


# How tensors lie in memory


def laid_out(batch: Batch, layout: str) -> Batch:
    """The same batch in another layout."""
    mask = None if batch.mask is None else _lay(batch.mask, layout)
    return replace(batch, preds=_lay(batch.preds, layout), target=_lay(batch.target, layout), mask=mask)


def _lay(tensor: Tensor, layout: str) -> Tensor:
    if layout == "channels-last" and tensor.ndim > 2:
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "reversed":
        axes = tuple(reversed(range(tensor.ndim)))
        return tensor.permute(axes).contiguous().permute(axes)
    if layout == "strided":
        return tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1] + 3)[..., 1:-2:2].copy_(tensor)
    if layout == "offset":
        return tensor.new_zeros(tensor.numel() + 1)[1:].view(tensor.shape).copy_(tensor)
    if layout == "expanded" and len(tensor) and (to_numpy(tensor) == to_numpy(tensor[:1])).all():
        return tensor[:1].expand_as(tensor)
    return tensor.contiguous()
