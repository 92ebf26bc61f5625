"""Floor 6: preds and target that fit each other, but not in this order, place or meaning."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from torchmetrics_dice_ext._counts import OverlapCounts
from torchmetrics_dice_ext._diagnosis._batch import KEPT_SAMPLES, Batch, Planes
from torchmetrics_dice_ext._diagnosis._evidence import (
    GAIN,
    HIGH,
    SMALL_GAIN,
    Proposal,
    best_assignment,
    largest,
    overlaps_of_shifts,
)
from torchmetrics_dice_ext._reductions import divide
from torchmetrics_dice_ext._scores import dice
from torchmetrics_dice_ext._views import Form, MaskViews

_REACH = 8  # shifts up to 1/8 of an axis
_PERMUTED_CLASSES = 256  # classes, the largest, whose numbers are compared
_EACH = 0.5  # least Dice of every sample that is said to be shuffled
Axes = tuple[int, ...]


def propose_alignments(batch: Batch) -> Iterator[Proposal]:
    """What could be exchanged between preds and target; nothing where Dice is high already."""
    planes = batch.planes
    if not planes.foreground_dice < 1 - SMALL_GAIN or not bool((planes.preds & planes.counted).any()):
        return
    for propose in (_class_axis, _inverted, _permuted_classes, _shuffled_samples, _orientation, _shifted):
        proposal = propose(batch)
        if proposal is not None:
            yield proposal


def _class_axis(batch: Batch) -> Proposal | None:
    """Scores with several axes of C entries, of which another one is the class axis."""
    counting, preds = batch.counting, batch.given.preds
    if counting.task == "binary" or not preds.is_floating_point():
        return None
    used = counting.class_dim % preds.ndim
    best: Proposal | None = None
    for axis in (a for a in range(1, preds.ndim) if preds.shape[a] == counting.num_classes and a != used):
        dim = -1 if axis == preds.ndim - 1 else axis
        try:
            after = batch.reread(class_dim=dim)
        except ValueError:
            continue
        if after.given.mask is not batch.given.mask:
            continue
        seen = f"axis {axis} of preds {tuple(preds.shape)} has {counting.num_classes} entries too"
        message = f"{seen}, and fits the target better."
        remedy = f"diagnose(preds, target, class_dim={dim}, ...)  # the metrics take the same option"
        proposal = Proposal("class_axis", message, remedy, after, batch.planes, after.planes, math.log(preds.ndim))
        if best is None or proposal.after.foreground_dice > best.after.foreground_dice:
            best = proposal
    return best


def _inverted(batch: Batch) -> Proposal | None:
    """Masks whose foreground and background are exchanged."""
    views, planes = batch.views, batch.planes
    if not isinstance(views, MaskViews):
        return None
    opposite = planes.with_preds(~planes.preds)
    labels = [int(k) for k in torch.nonzero(opposite.class_dice > planes.class_dice + GAIN).flatten()]
    if not labels:
        return None
    if not views.preds.is_floating_point():
        code, inverse = "preds == 0", (views.preds == 0).to(torch.int64)
    elif batch.counting.from_logits:
        code, inverse = "-preds", -views.preds
    else:
        code, inverse = "1 - preds", 1 - views.preds
    after = batch.with_preds_moved(lambda preds: preds.index_copy(1, torch.tensor(labels), inverse[:, labels]))
    remedy = f"preds = {code}"
    if len(labels) < views.num_classes:
        chosen = _classes_as_code(batch, str(labels))
        remedy = f"preds = preds.clone()\n{chosen} = {code.replace('preds', chosen)}"
    message = "preds are high where target is 0: foreground and background are exchanged on one of the two sides."
    choices = views.num_classes * math.log(2)
    return Proposal("inverted", message, remedy, after, planes.only(labels), after.planes.only(labels), choices)


def _pairwise_dice(preds: Tensor, target: Tensor) -> Tensor:
    """Dice `(A, B)` of every pair of rows of bool `(A, V)` and `(B, V)`."""
    intersection = (preds.float() @ target.float().T).double()
    sizes = preds.sum(1).double().unsqueeze(1), target.sum(1).double().unsqueeze(0)
    support = torch.full_like(intersection, preds.shape[1])
    return divide(dice(OverlapCounts(intersection, sizes[0], sizes[1], support)), 0.0)


def _assign(scores: Tensor) -> list[int]:
    """The row of each column; rows stay where they are unless a move gains something."""
    return best_assignment((scores + 1e-6 * torch.eye(len(scores))).tolist())


def _permuted_classes(batch: Batch) -> Proposal | None:
    """Classes that have each other's numbers."""
    planes = batch.planes
    size = planes.preds.shape[1]
    if size < 2:
        return None
    voxels = planes.counts.pred_cardinality + planes.counts.target_cardinality
    classes = sorted(voxels.topk(min(_PERMUTED_CLASSES, size)).indices.tolist())
    part = planes.only(classes)
    flat = ((side & part.counted).transpose(0, 1).flatten(1) for side in (part.preds, part.target))
    scores = _pairwise_dice(*flat)
    source = _assign(scores)
    places = _convincing_moves(scores, source, part)
    if not places:
        return None
    moved, order = [classes[t] for t in places], list(range(size))
    for t in places:
        order[classes[t]] = classes[source[t]]
    after = batch.with_preds_moved(lambda preds: _renumber(preds, batch, order))
    pairs = ", ".join(
        f"{classes[t]} as {classes[source[t]]} (Dice {scores[t, t]:.2f} -> {scores[source[t], t]:.2f})"
        for t in places[:6]
    )
    message = f"classes have each other's numbers; preds show target class {pairs}{', …' if len(moved) > 6 else ''}."
    present = planes.target.flatten(2).any(2)[:, moved]
    trusted = size == 2 or (int(present.sum()) > 2 and bool(present.any(0).all()))
    choices = math.lgamma(size + 1) - math.lgamma(size - len(moved) + 1)
    sides = planes.only(moved), after.planes.only(moved)
    return Proposal("permuted_classes", message, _renumbering(batch, order), after, *sides, choices, trusted)


def _convincing_moves(scores: Tensor, source: list[int], planes: Planes) -> list[int]:
    """The classes of those cycles in which some class gains a lot."""
    moved: list[int] = []
    for start in range(len(source)):
        cycle, t = [start], source[start]
        while t != start:
            cycle.append(t)
            t = source[t]
        gains = [bool(scores[source[t], t] - scores[t, t] >= GAIN and scores[source[t], t] >= HIGH) for t in cycle]
        if len(cycle) > 1 and start == min(cycle) and any(gains) and bool(planes.scored[cycle].all()):
            moved += cycle
    return sorted(moved)


def _renumber(preds: Tensor, batch: Batch, order: list[int]) -> Tensor:
    """Preds whose class `order[t]` is called t."""
    if preds.ndim > len(batch.steps):
        return preds[:, order]
    table = torch.tensor(order).argsort()
    inside = (preds >= 0) & (preds < len(order))
    return torch.where(inside, table[torch.where(inside, preds, 0).long()], preds)


def _renumbering(batch: Batch, order: list[int]) -> str:
    """`_renumber` as the user's code."""
    if getattr(batch.views, "preds_form", None) is Form.LABELS:
        table = _as_code(torch.tensor(order).argsort().tolist())
        return f"preds = torch.as_tensor({table}, device=preds.device)[preds.long()]"
    return f"preds = {_classes_as_code(batch, _as_code(order))}"


def _classes_as_code(batch: Batch, classes: str) -> str:
    """Some classes of preds in the user's layout."""
    dim = batch.counting.class_dim
    before, after = (":, " * dim, "") if dim > 0 else ("..., ", ", :" * (-dim - 1))
    return f"preds[{before}{classes}{after}]"


def _as_code(order: list[int]) -> str:
    """A permutation, that of many classes by what it changes."""
    if len(order) <= _PERMUTED_CLASSES:
        return str(order)
    moved = {t: s for t, s in enumerate(order) if t != s}
    places, sources = list(moved), list(moved.values())
    return f"torch.arange({len(order)}).index_copy(0, torch.tensor({places}), torch.tensor({sources}))"


def _shuffled_samples(batch: Batch) -> Proposal | None:
    """Samples of a batch that come in another order on one side."""
    planes = batch.planes
    samples = planes.preds.shape[0]
    if not 1 < samples <= KEPT_SAMPLES or batch.steps[0] > 1:
        return None
    first = planes.foreground
    preds, target = ((side & planes.counted)[:, first:].flatten(1) for side in (planes.preds, planes.target))
    scores = _pairwise_dice(preds, target)
    order = _assign(scores)
    moved = [n for n in range(samples) if order[n] != n]
    if not moved:
        return None
    after = batch.with_preds_moved(lambda x: x[order])
    message = "preds belong to the targets of other samples of the batch: images and masks come in different orders."
    remedy = f"preds = preds[{order}]  # and look for a loader or a glob that sorts or shuffles only one of the two"
    sides = planes.of(moved), after.planes.of(moved)
    trusted = min(float(scores[order[n], n]) for n in moved) >= _EACH  # not a few lucky pairs among many
    return Proposal("shuffled_samples", message, remedy, after, *sides, math.lgamma(samples + 1), trusted)


def _orientation(batch: Batch) -> Proposal | None:
    """Flips, transposes and rotations by 90° between the two sides."""
    planes = batch.planes
    ndim = len(batch.steps) - 1
    view = planes.only(largest(planes))
    symmetries = list(_symmetries(batch))
    if not symmetries:
        return None

    def moved(tensor: Tensor, symmetry: tuple[Axes, Axes]) -> Tensor:
        order, flips = symmetry
        lead = tensor.ndim - ndim
        return tensor.permute(*range(lead), *(lead + a for a in order)).flip([lead + a for a in flips])

    best = max(symmetries, key=lambda symmetry: view.with_preds(moved(view.preds, symmetry)).foreground_dice)
    after = batch.with_preds_moved(lambda preds: moved(preds, best))
    code, message, remedy = _name_symmetry(batch, *best)
    return Proposal(code, message, remedy, after, planes, after.planes, math.log(len(symmetries)))


def _symmetries(batch: Batch) -> Iterator[tuple[Axes, Axes]]:
    """(order of the spatial axes, axes flipped afterwards), all that keep the shape; above 3 axes flips alone."""
    space, steps = batch.whole.space[1:], batch.steps[1:]
    axes = tuple(range(len(space)))
    long = [a for a in axes if space[a] > 1]
    for order in itertools.permutations(axes) if len(long) <= 3 and len(axes) <= 4 else (axes,):
        if any((space[a], steps[a]) != (space[b], steps[b]) for a, b in zip(axes, order, strict=True)):
            continue
        if any(a != b and space[a] == 1 for a, b in zip(axes, order, strict=True)):
            continue
        for number in range(min(len(long), 3) + 1):
            for flips in itertools.combinations(long, number):
                if order != axes or flips:
                    yield order, flips


def _name_symmetry(batch: Batch, order: Axes, flips: Axes) -> tuple[str, str, str]:
    """Code, message and remedy of a symmetry."""
    dims = [batch.axis(a) for a in range(len(order))]
    flipped = ", ".join(str(dims[a]) for a in flips)
    swapped = [a for a in range(len(order)) if order[a] != a]
    plane = len(swapped) == 2
    if not swapped:
        return "flipped", f"preds and target are mirror images along axis {flipped}.", f"preds = preds.flip({flipped})"
    if plane and len(flips) == 1 and flips[0] in swapped:
        one, two = sorted(dims[a] for a in swapped)
        turns = 1 if flips[0] == swapped[0] else 3
        message = f"preds and target are rotated against each other by {90 if turns == 1 else 270}°."
        return "rotated", message, f"preds = torch.rot90(preds, {turns}, dims=({one}, {two}))"
    if plane and not flips:
        one, two = sorted(dims[a] for a in swapped)
        return (
            "transposed",
            f"preds and target have axes {one} and {two} exchanged.",
            f"preds = preds.transpose({one}, {two})",
        )
    lead = batch.given.preds.ndim
    where = dict(zip((d % lead for d in dims), (dims[a] % lead for a in order), strict=True))
    permuted = ", ".join(str(where.get(d, d)) for d in range(lead))
    remedy = f"preds = preds.permute({permuted})" + (f".flip({flipped})" if flips else "")
    message = (
        f"preds and target have their axes in different orders{f', and axis {flipped} mirrored' if flips else ''}."
    )
    return "transposed", message, remedy


def _shifted(batch: Batch) -> Proposal | None:
    """One small shift for all samples."""
    planes = batch.planes
    classes = largest(planes)
    preds, target = ((side & planes.counted)[:, classes] for side in (planes.preds, planes.target))
    overlaps = overlaps_of_shifts(preds.flatten(0, 1), target.flatten(0, 1))
    reach = [size // _REACH for size in overlaps.shape]
    near = overlaps.roll(reach, list(range(overlaps.ndim)))
    near = near[tuple(slice(0, 2 * r + 1) for r in reach)]
    place = torch.unravel_index(near.argmax(), near.shape)
    shift = [int(i) - r for i, r in zip(place, reach, strict=True)]
    if not any(shift):
        return None
    dims = list(range(-len(shift), 0))
    after = batch.with_preds_moved(lambda preds: preds.roll(shift, dims))
    steps = batch.steps[1:]
    voxels = {batch.axis(a): s * steps[a] for a, s in enumerate(shift) if s}
    about = "about " if any(step > 1 for step in steps) else ""
    where = " and ".join(f"{-s} voxel{'s' * (abs(s) != 1)} along axis {a}" for a, s in voxels.items())
    message = f"preds are shifted against target, by {about}{where}."
    remedy = f"preds = preds.roll({tuple(voxels.values())}, {tuple(voxels)})  # or crop and pad both sides alike"
    return Proposal("shifted", message, remedy, after, planes, after.planes, math.log(near.numel()))
