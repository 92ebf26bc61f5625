"""`diagnose` names every fault planted into real and synthetic data, its remedies run, healthy data is left alone."""

import functools
import math
import re
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from torchmetrics_dice_ext import diagnose
from torchmetrics_dice_ext._diagnosis._batch import MOST_VOXELS, Planes
from torchmetrics_dice_ext._diagnosis._evidence import best_assignment, consistency
from torchmetrics_dice_ext.functional import dice_score

NAN, INF = float("nan"), float("inf")


class Scene(NamedTuple):
    """One honest batch per task: probabilities and masks, logits and labels, probabilities and overlapping masks."""

    binary: tuple[Tensor, Tensor]
    multiclass: tuple[Tensor, Tensor]
    multilabel: tuple[Tensor, Tensor]


OPTIONS = {
    "binary": {"task": "binary"},
    "multiclass": {"task": "multiclass", "num_classes": 4},
    "multilabel": {"task": "multilabel", "num_labels": 3},
}


def blurred(masks: Tensor, seed: int) -> Tensor:
    """Probabilities of a good, but not perfect, model for masks `(N, K, H, W)`."""
    noise = torch.rand(masks.shape, generator=torch.Generator().manual_seed(seed))
    return 0.02 + 0.86 * F.avg_pool2d(masks.float(), 3, 1, 1) + 0.1 * noise


def scene_of(labels: Tensor, seed: int) -> Scene:
    """A scene around label maps `(N, H, W)` of four classes."""
    classes = F.one_hot(labels, 4).movedim(-1, 1)
    nested = torch.stack([labels > 0, labels > 1, labels == 3], dim=1).to(torch.uint8)
    noise = torch.randn(classes.shape, generator=torch.Generator().manual_seed(seed))
    logits = 9 * F.avg_pool2d(classes.float(), 3, 1, 1) + 0.5 * noise
    return Scene((blurred(nested[:, :1], seed), nested[:, 0]), (logits, labels), (blurred(nested, seed), nested))


@functools.cache
def scene(name: str) -> Scene:
    if name == "brain":
        datasets = pytest.importorskip("nilearn.datasets")
        loaders = (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
        gray, white = (load(resolution=2).get_fdata(dtype=np.float32)[..., 20:70:7] for load in loaders)
        labels = np.stack([1 - gray - white, gray, white]).argmax(0)
        labels[(labels == 2) & (np.arange(labels.shape[0])[:, None, None] < 50)] = 3  # white matter of one side
        return scene_of(torch.from_numpy(np.moveaxis(labels, -1, 0).copy()), 1)
    if name == "coins":
        image = torch.from_numpy(pytest.importorskip("skimage.data").coins()).float()
        levels = F.avg_pool2d(image[None, None], 5, 1, 2)[0, 0]
        labels = sum((levels > cut).long() for cut in (105, 140, 170))
        return scene_of(torch.stack([labels[:150, :190], labels[150:300, :190], labels[:150, 190:380]]), 2)
    g = torch.Generator().manual_seed(3)
    field = F.avg_pool2d(torch.randn(5, 1, 88, 76, generator=g), 9, 1)
    field = F.avg_pool2d(field, 9, 1)[:, 0]
    cuts = field.quantile(torch.tensor([0.5, 0.7, 0.85]))
    return scene_of(torch.bucketize(field, cuts), 3)


class Fault(NamedTuple):
    code: str
    task: str
    plant: Callable[[Tensor, Tensor], tuple]  # preds, target -> preds, target[, options]
    severity: str = "error"


def one_hot(labels: Tensor, size: int = 4) -> Tensor:
    return F.one_hot(labels.long(), size).movedim(-1, 1)


def exclusive(masks: Tensor) -> Tensor:
    """Probabilities of three classes that exclude each other."""
    return blurred(one_hot(masks.sum(1) % 3, 3), 0)


def channel(k: int) -> Tensor:
    return (torch.arange(4) == k).view(4, 1, 1)


def some(shape: tuple[int, ...], share: float) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(9)) < share


def rolled(x: Tensor) -> Tensor:
    """Six times as many samples."""
    return torch.cat([x.roll(11 * k, -1) for k in range(6)])


def square(p: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    size = min(t.shape[-2:])
    return p[..., :size, :size], t[..., :size, :size]


def compressed(t: Tensor) -> Tensor:
    """A mask of 0 and 255 as JPEG gives it back, near these."""
    return (
        t.int() * 255 - torch.where(t > 0, 1, -1) * torch.tensor([0, 1, 2])[torch.arange(t.numel()) % 3].view_as(t)
    ).byte()


def confident(p: Tensor) -> Tensor:
    """Probabilities that span nearly [0, 1], as trained models give them."""
    return ((p - 0.5) * 12).sigmoid()


FAULTS = {
    # types
    "NumPy preds": Fault("not_a_tensor", "multiclass", lambda p, t: (p.numpy(), t)),
    "NumPy with negative strides": Fault("not_a_tensor", "binary", lambda p, t: (p.numpy()[::-1], t.flip(0))),
    "big-endian NumPy": Fault("not_a_tensor", "binary", lambda p, t: (p.numpy().astype(">f4"), t)),
    "a list": Fault("not_a_tensor", "binary", lambda p, t: (p, t.tolist())),
    "complex preds": Fault("wrong_dtype", "binary", lambda p, t: (p.to(torch.complex64), t)),
    "float8": Fault("wrong_dtype", "binary", lambda p, t: (p.to(torch.float8_e4m3fn), t)),
    "sparse target": Fault("not_dense", "binary", lambda p, t: (p, t.to_sparse())),
    "no target": Fault("missing_input", "binary", lambda p, t: (p, None)),
    "ragged lists": Fault("unreadable", "binary", lambda p, t: (p, [[1, 2], [3]])),
    "a float mask": Fault("bad_mask", "binary", lambda p, t: (p, t, {"mask": t.float()})),
    "a mask of another shape": Fault("bad_mask", "binary", lambda p, t: (p, t, {"mask": torch.ones(2, 5) > 0})),
    "preds are target": Fault("same_storage", "binary", lambda p, t: (t, t)),
    # shapes
    "another size": Fault("unequal_shapes", "multiclass", lambda p, t: (F.interpolate(p, scale_factor=0.5), t)),
    "another batch size": Fault("batch_axis", "binary", lambda p, t: (p[1:], t)),
    "no batch axis": Fault("batch_axis", "multiclass", lambda p, t: (p[0], t[:1])),
    "channels-last scores": Fault("class_axis", "multiclass", lambda p, t: (p.movedim(1, -1), t)),
    "channels-last masks": Fault("class_axis", "multilabel", lambda p, t: (p, t.movedim(1, -1))),
    "channels-first where last is said": Fault("class_axis", "multiclass", lambda p, t: (p, t, {"class_dim": -1})),
    "a picture as mask": Fault("channel_axis", "binary", lambda p, t: (p, torch.stack([t] * 3, -1))),
    "two channels for one": Fault("wrong_task", "binary", lambda p, t: (torch.cat([1 - p, p], 1), t)),
    "a label map for exclusive masks": Fault("wrong_task", "multilabel", lambda p, t: (exclusive(t), t.sum(1) % 3)),
    "a label map for masks": Fault(
        "label_map_target",
        "multilabel",
        lambda p, t: (exclusive(t).index_fill(1, torch.tensor([0]), 0.95), t.sum(1) % 3),
    ),
    "one channel for classes": Fault("wrong_task", "multiclass", lambda p, t: (p.softmax(1)[:, 1:2], (t == 1).long())),
    "too many classes": Fault("num_classes", "multiclass", lambda p, t: (p, t, {"num_classes": 5})),
    "too many labels": Fault("num_classes", "multilabel", lambda p, t: (p, t, {"num_labels": 4})),
    "float labels": Fault("float_labels", "multiclass", lambda p, t: (p.argmax(1).float(), t)),
    "argmax over a spatial axis": Fault("argmax_axis", "multiclass", lambda p, t: (p.argmax(-1), t)),
    "argmax over the batch": Fault("argmax_axis", "multiclass", lambda p, t: (p.argmax(0), t)),
    "one-hot said to be labels": Fault(
        "input_format", "multiclass", lambda p, t: (p, one_hot(t), {"input_format": "index"})
    ),
    "axes exchanged": Fault("transposed", "multiclass", lambda p, t: (p.transpose(-1, -2), t)),
    # values
    "a mask of 0 and 255": Fault("scaled_mask", "binary", lambda p, t: (p, t * 255)),
    "masks of 0 and 255": Fault("scaled_mask", "multilabel", lambda p, t: (p, t * 255)),
    "a JPEG mask": Fault("scaled_mask", "binary", lambda p, t: (p, compressed(t))),
    "labels times 85 as preds": Fault("scaled_mask", "multiclass", lambda p, t: (p.argmax(1) * 85, t)),
    "a mask divided by 255": Fault("scaled_mask", "binary", lambda p, t: (p, t / 255)),
    "labels times 85": Fault("scaled_mask", "multiclass", lambda p, t: (p, (t * 85).to(torch.uint8))),
    "hard preds of 0 and 255": Fault("scaled_mask", "binary", lambda p, t: ((p > 0.5).to(torch.uint8) * 255, t)),
    "probabilities times 255": Fault("scaled_preds", "binary", lambda p, t: (p * 255, t)),
    "probabilities in uint8": Fault("scaled_preds", "binary", lambda p, t: ((p * 255).to(torch.uint8), t)),
    "percents": Fault("scaled_preds", "multilabel", lambda p, t: (p * 100, t)),
    "labels out of range": Fault(
        "labels_out_of_range", "multiclass", lambda p, t: (p, torch.tensor([0, 2, 41, 77])[t])
    ),
    "one class too few": Fault("labels_out_of_range", "multiclass", lambda p, t: (p.argmax(1), t, {"num_classes": 3})),
    "a label map as a mask": Fault(
        "label_map_as_mask", "binary", lambda p, t: (p, t.long() * torch.arange(1, 5)[some(t.shape, 0.5).long()])
    ),
    "one large label as a mask": Fault(
        "label_map_as_mask", "binary", lambda p, t: (p, torch.where(t > 0, 5998231, 7 * some(t.shape, 0.5)))
    ),
    "labels out of range in uint8": Fault(
        "labels_out_of_range", "multiclass", lambda p, t: (p, torch.tensor([0, 2, 41, 77]).byte()[t])
    ),
    "void 255": Fault("ignore_label", "multiclass", lambda p, t: (p, torch.where(some(t.shape, 0.1), 255, t))),
    "void -1": Fault("ignore_label", "multilabel", lambda p, t: (p, torch.where(some(t.shape, 0.1), -1, t.long()))),
    "labels from 1": Fault("labels_from_one", "multiclass", lambda p, t: (p, t + 1)),
    "both from 1": Fault("labels_from_one", "multiclass", lambda p, t: (p.argmax(1) + 1, t + 1)),
    "a mask of 1 and 2": Fault("labels_from_one", "binary", lambda p, t: (p, t + 1)),
    "one-hot labels": Fault("one_hot_as_labels", "multiclass", lambda p, t: (one_hot(p.argmax(1)), one_hot(t))),
    "one-hot labels, classes last": Fault(
        "one_hot_as_labels", "multiclass", lambda p, t: (F.one_hot(p.argmax(1), 4), F.one_hot(t.long(), 4))
    ),
    "one-hot labels, classes first where last is said": Fault(
        "one_hot_as_labels", "multiclass", lambda p, t: (one_hot(p.argmax(1)), one_hot(t), {"class_dim": -1})
    ),
    "one-hot labels said to be label maps": Fault(
        "one_hot_as_labels", "multiclass", lambda p, t: (one_hot(p.argmax(1)), one_hot(t), {"input_format": "index"})
    ),
    "one-hot labels with a mask of their shape": Fault(
        "one_hot_as_labels", "multiclass", lambda p, t: (one_hot(p.argmax(1)), one_hot(t), {"mask": one_hot(t) >= 0})
    ),
    "one-hot masks": Fault("one_hot_as_masks", "binary", lambda p, t: (torch.cat([1 - p, p], 1), one_hot(t, 2))),
    "overlapping one-hot": Fault("not_one_hot", "multiclass", lambda p, t: (p, one_hot(t) | channel(2))),
    "one-hot without background": Fault("not_one_hot", "multiclass", lambda p, t: (p, one_hot(t) * ~channel(0))),
    "interpolated mask": Fault(
        "fractional_mask", "binary", lambda p, t: (p, F.avg_pool2d(t[:, None].float(), 3, 1, 1))
    ),
    "interpolated one-hot": Fault(
        "fractional_mask", "multiclass", lambda p, t: (p, F.avg_pool2d(one_hot(t).float(), 3, 1, 1))
    ),
    "interpolated labels": Fault(
        "fractional_mask", "multiclass", lambda p, t: (p, F.avg_pool2d(t[:, None].float(), 3, 1, 1))
    ),
    "interpolated mask, hard preds": Fault(
        "fractional_mask", "binary", lambda p, t: (p > 0.5, F.avg_pool2d(t[:, None].float(), 3, 1, 1))
    ),
    "swapped arguments": Fault("swapped_arguments", "binary", lambda p, t: (t, p)),
    "swapped logits": Fault("swapped_arguments", "binary", lambda p, t: (t, p.logit(), {"from_logits": True})),
    "swapped logits for probabilities": Fault("swapped_arguments", "binary", lambda p, t: (t.bool(), p.logit())),
    "swapped float masks": Fault("swapped_arguments", "multilabel", lambda p, t: (t.float(), p)),
    "swapped labels and scores": Fault("swapped_arguments", "multiclass", lambda p, t: (t, p)),
    "swapped labels and probabilities": Fault("swapped_arguments", "multiclass", lambda p, t: (t, p.softmax(1))),
    "swapped one-hot and scores": Fault("swapped_arguments", "multiclass", lambda p, t: (one_hot(t).float(), p)),
    "255 as int8": Fault("overflow", "binary", lambda p, t: (p, (t.long() * 255).to(torch.int8))),
    "labels times 255 as uint8": Fault("overflow", "multiclass", lambda p, t: (p, (t * 255).to(torch.uint8))),
    "NaN cast to integers": Fault(
        "overflow", "binary", lambda p, t: (p, torch.where(some(t.shape, 0.1), -(2**63), t.long()))
    ),
    "NaN preds": Fault("nan", "multiclass", lambda p, t: (torch.where(some(p.shape, 0.05), NAN, p), t)),
    "NaN target": Fault("nan", "binary", lambda p, t: (p, torch.where(some(t.shape, 0.05), NAN, t.float()))),
    "infinite probabilities": Fault("infinite", "binary", lambda p, t: (torch.where(p > 0.7, INF, p), t)),
    "infinite target": Fault("infinite", "binary", lambda p, t: (p, torch.where(some(t.shape, 0.05), INF, t.float()))),
    "infinite scores": Fault("infinite", "multiclass", lambda p, t: (torch.where(p > 9, INF, p), t), "warning"),
    # activations
    "logits for probabilities": Fault("logits_as_probabilities", "binary", lambda p, t: (p.logit(), t)),
    "logits for label probabilities": Fault("logits_as_probabilities", "multilabel", lambda p, t: (p.logit(), t)),
    "probabilities for logits": Fault("probabilities_as_logits", "binary", lambda p, t: (p, t, {"from_logits": True})),
    "label probabilities for logits": Fault(
        "probabilities_as_logits", "multilabel", lambda p, t: (confident(p), t, {"from_logits": True})
    ),
    "probabilities that overshoot": Fault("probabilities_out_of_range", "binary", lambda p, t: (p * 1.15 - 0.05, t)),
    "a few stray probabilities": Fault(
        "probabilities_out_of_range", "binary", lambda p, t: (torch.where(some(p.shape, 0.002), 5.0, p), t)
    ),
    "sigmoid twice": Fault("sigmoid_twice", "binary", lambda p, t: (confident(p).sigmoid(), t)),
    "sigmoid twice in half precision": Fault(
        "sigmoid_twice", "multilabel", lambda p, t: (confident(p).sigmoid().half(), t)
    ),
    "softmax twice": Fault("softmax_twice", "multiclass", lambda p, t: (p.softmax(1).softmax(1), t), "warning"),
    "softmax over a spatial axis": Fault("softmax_axis", "multiclass", lambda p, t: (p.softmax(-1), t)),
    "softmax over the batch": Fault("softmax_axis", "multiclass", lambda p, t: (p.softmax(0), t)),
    "softmax over pixels": Fault("softmax_axis", "binary", lambda p, t: (p.logit().softmax(-1), t)),
    "softmax over one channel": Fault("softmax_axis", "binary", lambda p, t: (p.softmax(1), t), "warning"),
    "an underconfident model": Fault("threshold", "binary", lambda p, t: (p * 0.3, t), "warning"),
    "an overconfident label": Fault(
        "threshold", "multilabel", lambda p, t: (p ** torch.tensor([1, 0.1, 1]).view(3, 1, 1), t), "warning"
    ),
    # places and meanings
    "inverted mask": Fault("inverted", "binary", lambda p, t: (p, 1 - t)),
    "inverted logits": Fault("inverted", "binary", lambda p, t: (-p.logit(), t, {"from_logits": True})),
    "inverted bools": Fault("inverted", "binary", lambda p, t: (p < 0.5, t)),
    "inverted integers": Fault("inverted", "binary", lambda p, t: ((p < 0.5).byte(), t)),
    "one inverted label": Fault(
        "inverted", "multilabel", lambda p, t: (torch.cat([p[:, :1], 1 - p[:, 1:2], p[:, 2:]], 1), t)
    ),
    "classes renumbered in scores": Fault("permuted_classes", "multiclass", lambda p, t: (p[:, [0, 2, 3, 1]], t)),
    "classes renumbered in labels": Fault(
        "permuted_classes", "multiclass", lambda p, t: (torch.tensor([0, 3, 1, 2])[p.argmax(1)], t)
    ),
    "classes renumbered, channels-last": Fault(
        "permuted_classes", "multiclass", lambda p, t: (p[:, [0, 2, 3, 1]].movedim(1, -1), t, {"class_dim": -1})
    ),
    "labels reordered": Fault("permuted_classes", "multilabel", lambda p, t: (p[:, [2, 0, 1]], t)),
    "samples shuffled": Fault("shuffled_samples", "multiclass", lambda p, t: (p.roll(1, 0), t)),
    "many samples shuffled": Fault(
        "shuffled_samples", "binary", lambda p, t: (rolled(p).roll(3 * len(p), 0), rolled(t))
    ),
    "masks shuffled": Fault("shuffled_samples", "binary", lambda p, t: (p, t.roll(len(t) // 2, 0))),
    "shifted": Fault("shifted", "multiclass", lambda p, t: (p.roll((5, -6), (-2, -1)), t)),
    "shifted mask": Fault("shifted", "binary", lambda p, t: (p, t.roll((-7, 6), (-2, -1)))),
    "leakage": Fault("perfect", "multiclass", lambda p, t: (t.clone(), t), "warning"),
    # outcomes
    "one value": Fault("constant_preds", "binary", lambda p, t: (torch.full_like(p, 0.3), t), "warning"),
    "one class": Fault("constant_preds", "multiclass", lambda p, t: (torch.full_like(t, 2), t), "warning"),
    "all background": Fault("all_background", "multiclass", lambda p, t: (p - 99 * ~channel(0), t), "warning"),
    "probabilities cast to integers": Fault("all_background", "binary", lambda p, t: (p.long(), t), "warning"),
    "a class never predicted": Fault(
        "class_never_predicted", "multiclass", lambda p, t: (p - 99 * channel(3), t), "warning"
    ),
    "a class absent in the target": Fault(
        "class_absent", "multiclass", lambda p, t: (p, torch.where(t == 3, 0, t)), "info"
    ),
    "an empty target": Fault("class_absent", "binary", lambda p, t: (p * 0.4, t * 0), "info"),
    "everything void": Fault("nothing_counted", "binary", lambda p, t: (p, t * 0 + 7, {"ignore_index": 7}), "warning"),
    "no voxels": Fault("nothing_counted", "multiclass", lambda p, t: (p[:0], t[:0]), "warning"),
}
SCENES = ("brain", "coins", "fields")


@pytest.mark.parametrize("place", SCENES)
@pytest.mark.parametrize("name", FAULTS)
def test_the_first_finding_names_a_planted_fault(name, place):
    fault = FAULTS[name]
    honest = getattr(scene(place), fault.task)
    preds, target, *more = fault.plant(*honest)
    options = {**OPTIONS[fault.task], **(more[0] if more else {})}

    diagnosis = diagnose(preds, target, **options)

    first = diagnosis.findings[0]
    assert (first.code, first.severity) == (fault.code, fault.severity), str(diagnosis)
    assert first.code in str(diagnosis)
    assert first.remedy in str(diagnosis).replace("\n             ", "\n")
    if first.dice_after is not None and first.code not in ("nan", "infinite", "overflow", "threshold"):
        assert first.dice_after > float(dice_score(*honest, **OPTIONS[fault.task])) - 0.3, str(diagnosis)


ABOUT_SHAPES = {  # and types: findings whose remedy is more than advice
    *("not_a_tensor", "wrong_dtype", "not_dense", "batch_axis", "class_axis", "channel_axis", "wrong_task"),
    *("num_classes", "float_labels", "label_map_target", "transposed", "input_format"),
    *("one_hot_as_labels", "one_hot_as_masks"),
}
CODE = ABOUT_SHAPES | {
    *("scaled_mask", "scaled_preds", "labels_out_of_range", "label_map_as_mask", "ignore_label", "labels_from_one"),
    *("fractional_mask", "logits_as_probabilities", "probabilities_as_logits", "probabilities_out_of_range"),
    *("threshold", "inverted", "permuted_classes", "shuffled_samples", "shifted"),
}
RUNNABLE = [n for n, fault in FAULTS.items() if fault.code in CODE and n != "another batch size"]  # whose is advice
ANY_LAYOUT = [n for n in RUNNABLE if FAULTS[n].code not in ABOUT_SHAPES]


@pytest.mark.parametrize(("name", "class_dim"), [(name, 1) for name in RUNNABLE] + [(name, -1) for name in ANY_LAYOUT])
def test_remedies_are_code_that_leads_to_the_dice_they_promise(name, class_dim):
    fault = FAULTS[name]
    preds, target, *more = fault.plant(*getattr(scene("fields"), fault.task))
    options = {**OPTIONS[fault.task], **(more[0] if more else {})}
    if class_dim == -1 and "class_dim" not in options:
        options["class_dim"] = -1
        preds, target = (side.movedim(1, -1) if side.ndim == 4 else side for side in (preds, target))
    first = diagnose(preds, target, **options).findings[0]

    after, options = follow(first.remedy, preds, target, options)

    assert first.code == fault.code
    assert not [f for f in diagnose(*after, **options).findings if f.severity == "error"]
    if first.dice_after is not None:
        assert float(dice_score(*after, **options)) == pytest.approx(first.dice_after, abs=2e-3)


def follow(remedy: str, preds, target, options: dict) -> tuple[tuple[Tensor, Tensor], dict]:
    """Do as a remedy says: run it, or take the options it names."""
    call = re.match(r"diagnose\(preds, target, (.*), \.\.\.\)", remedy)
    if call:
        changed = eval(f"dict({call[1]})")
        options = {
            key: value for key, value in options.items() if "task" not in changed or key == "ignore_index"
        } | changed
    else:
        names = {"torch": torch, "preds": preds, "target": target}
        exec(remedy, names)
        preds, target = names["preds"], names["target"]
    return (preds, target), options


ORIENTATIONS = {
    "flipped": (("flipped", lambda x: x.flip(-1)), ("flipped", lambda x: x.flip((-2, -1)))),
    "rotated": (("rotated", lambda x: x.rot90(1, (-2, -1))), ("rotated", lambda x: x.rot90(3, (-2, -1)))),
    "transposed": (("transposed", lambda x: x.mT), ("transposed", lambda x: x.mT.flip((-2, -1)))),
}


@pytest.mark.parametrize(
    ("task", "place"),
    [
        ("multiclass", "brain"),
        ("multiclass", "coins"),
        ("binary", "coins"),
        ("binary", "fields"),
    ],  # a brain is symmetric
)
@pytest.mark.parametrize(("code", "turn"), [case for cases in ORIENTATIONS.values() for case in cases])
def test_orientations(task, place, code, turn):
    preds, target = square(*getattr(scene(place), task))
    diagnosis = diagnose(turn(preds), target, **OPTIONS[task])
    first = diagnosis.findings[0]
    assert first.code == code, str(diagnosis)
    assert first.dice_after == pytest.approx(float(dice_score(preds, target, **OPTIONS[task])), abs=1e-6)
    (after, _), _ = follow(first.remedy, turn(preds), target, {})
    assert torch.equal(after, preds)


@pytest.mark.parametrize(
    ("order", "flips"),
    [((0, 1, 2), (0,)), ((1, 0, 2), ()), ((0, 2, 1), (2,)), ((1, 2, 0), (1,)), ((2, 1, 0), (0, 1, 2))],
)
@pytest.mark.parametrize("class_dim", [1, -1])
def test_orientations_of_volumes(order, flips, class_dim):
    g = torch.Generator().manual_seed(4)
    field = F.avg_pool3d(torch.randn(1, 1, 20, 20, 20, generator=g), 5, 1, 2)[:, 0]
    target = (field > 0.02).long() + (field > 0.1)
    preds = one_hot(target, 3).float() + 0.5 * torch.randn(1, 3, 20, 20, 20, generator=g)
    turned = preds.permute(0, 1, *(axis + 2 for axis in order)).flip([axis + 2 for axis in flips])
    if class_dim == -1:
        preds, turned = preds.movedim(1, -1), turned.movedim(1, -1)
    first = diagnose(turned, target, task="multiclass", num_classes=3, class_dim=class_dim).findings[0]
    assert first.code in ("flipped", "transposed", "rotated")
    (after, _), _ = follow(first.remedy, turned, target, {})
    assert torch.equal(after, preds)


def test_class_axis_where_two_axes_have_the_size():
    g = torch.Generator().manual_seed(5)
    target = torch.randint(0, 6, (40, 6, 9), generator=g)
    preds = one_hot(target, 6).float().movedim(1, 2) + 0.2 * torch.randn(40, 6, 6, 9, generator=g)
    first = diagnose(preds, target, task="multiclass", num_classes=6).findings[0]
    assert (first.code, first.severity) == ("class_axis", "error")
    assert "class_dim=2" in first.remedy


def test_another_class_axis_that_leaves_another_space():
    g = torch.Generator().manual_seed(0)
    target = torch.randint(0, 2, (2, 4, 6, 4), generator=g)
    target[:, 0] = 0
    target[:, 0, :2, 0] = 1
    preds = 0.1 + 0.8 * target
    preds[:, 0, 0, 0] = 0.1  # half of a small label is missed, which along the last axis hardly counts
    diagnosis = diagnose(preds, target, task="multilabel", num_labels=4)
    assert [f.code for f in diagnosis.findings if f.severity == "error"] == [], str(diagnosis)


def test_a_flip_of_nearly_symmetric_images():
    preds, target = scene("brain").binary
    diagnosis = diagnose(preds.flip(-1), target, task="binary")
    assert (diagnosis.findings[0].code, diagnosis.findings[0].severity) == ("flipped", "warning"), str(diagnosis)
    assert 0.8 < diagnosis.findings[0].dice_before < 0.9 < diagnosis.findings[0].dice_after


def test_background_that_carries_the_score():
    g = torch.Generator().manual_seed(0)
    target = torch.zeros(2, 64, 64, dtype=torch.long)
    target[:, 5:12, 5:12], target[:, 40:44, 40:44] = 1, 2
    preds = torch.where(torch.rand(target.shape, generator=g) < 0.03, torch.randint(1, 3, target.shape, generator=g), 0)
    diagnosis = diagnose(preds, target, task="multiclass", num_classes=3, class_names=("air", "liver", "tumor"))
    first = diagnosis.findings[0]
    assert first.code == "background_only"
    assert "include_background=False" in first.remedy
    assert first.dice_after < 0.1 < 0.3 < first.dice_before


def test_imbalance_between_macro_and_micro():
    target = torch.zeros(1, 128, 128, dtype=torch.long)
    target[:, 60:120] = 1
    target[:, 3, 3:7] = 2
    preds = torch.where(some(target.shape, 0.02), 1 - target.clamp(max=1), target)
    preds[:, 3, 3:7], preds[:, 90, 3:5] = 0, 2
    diagnosis = diagnose(preds, target, task="multiclass", num_classes=3, class_names=("air", "liver", "tumor"))
    (finding,) = [f for f in diagnosis.findings if f.code == "imbalance"]
    assert finding.severity == "info"
    assert re.search(
        r"class tumor is 0\.024% .* macro 0\.6\d\d .* micro 0\.9\d\d .* weighted 0\.9\d\d", finding.message
    )


def test_a_low_dice_that_nothing_explains():
    g = torch.Generator().manual_seed(0)
    preds, target = torch.rand(2, 2, 64, 64, generator=g)
    (finding,) = diagnose(preds, (target > 0.9).long(), task="binary").findings
    assert (finding.code, finding.severity) == ("low_dice", "info")
    assert "too much is predicted" in finding.message


def test_two_faults_are_both_found():
    preds, target = scene("fields").binary
    diagnosis = diagnose(preds.flip(-1), target * 255, task="binary")
    assert [f.code for f in diagnosis.findings] == ["scaled_mask", "flipped"]
    assert diagnosis.dice is None
    diagnosis = diagnose(-preds.logit().numpy(), target, task="binary", from_logits=True)
    assert {f.code for f in diagnosis.findings} == {"inverted", "not_a_tensor"}


@pytest.mark.parametrize("place", SCENES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_honest_batches_have_no_findings(place, dtype):
    binary, multiclass, multilabel = scene(place)
    batches = [
        (binary[0], binary[1], {"task": "binary"}),
        (binary[0][:, 0], binary[1].bool(), {"task": "binary"}),
        (binary[0].logit(), binary[1], {"task": "binary", "from_logits": True}),
        (confident(binary[0]), binary[1], {"task": "binary"}),
        (multiclass[0], multiclass[1].to(torch.uint8), OPTIONS["multiclass"]),
        (multiclass[0].softmax(1), multiclass[1], OPTIONS["multiclass"]),
        (multiclass[0].movedim(1, -1), multiclass[1], {**OPTIONS["multiclass"], "class_dim": -1}),
        (multiclass[0], one_hot(multiclass[1]), OPTIONS["multiclass"]),
        (multilabel[0], multilabel[1], OPTIONS["multilabel"]),
        (multilabel[0].logit(), multilabel[1], {**OPTIONS["multilabel"], "from_logits": True}),
    ]
    for preds, target, options in batches:
        diagnosis = diagnose(preds.to(dtype), target, **options)
        assert diagnosis.findings == (), str(diagnosis)
        assert diagnosis.dice > 0.8
        assert "nothing wrong found" in str(diagnosis)
    labels = multiclass[0].argmax(1)
    for preds, target in ((labels, multiclass[1]), (one_hot(labels), multiclass[1]), (labels, one_hot(multiclass[1]))):
        assert diagnose(preds, target, **OPTIONS["multiclass"]).findings == ()
    void = torch.where(some(multiclass[1].shape, 0.1), 255, multiclass[1])
    nan = torch.where((void == 255).unsqueeze(1), NAN, multiclass[0])
    assert diagnose(nan, void, **OPTIONS["multiclass"], ignore_index=255).findings == ()
    assert diagnose(nan, void, **OPTIONS["multiclass"], mask=void != 255).findings == ()


SIZES = st.one_of(st.integers(1, 6), st.integers(7, 40))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    task=st.sampled_from(sorted(OPTIONS)),
    samples=st.integers(1, 6),
    space=st.lists(SIZES, min_size=1, max_size=2),
    smooth=st.sampled_from([1, 3, 7]),
    bias=st.sampled_from([0.0, 0.5, 1.5]),
    quality=st.sampled_from([0.0, 0.3, 1.0, 4.0, 20.0]),
    lean=st.sampled_from([-2.0, 0.0, 2.0]),
    form=st.sampled_from(["logits", "probabilities", "decisions"]),
)
def test_honest_models_good_and_bad_raise_no_error(seed, task, samples, space, smooth, bias, quality, lean, form):
    g = torch.Generator().manual_seed(seed)

    def field() -> Tensor:
        x = torch.randn(samples, 4, *space, generator=g)
        if smooth > 1 and min(space) >= smooth:
            x = {1: F.avg_pool1d, 2: F.avg_pool2d}[len(space)](x, smooth, 1, smooth // 2)
        return x / (x.std() + 1e-6)

    truth, noise = field(), field()
    if task == "multiclass":
        target = (truth + bias * (torch.arange(4) == 0).view(4, *(1 for _ in space))).argmax(1)
        logits = quality * one_hot(target) + noise
        preds = {"logits": logits, "probabilities": logits.softmax(1), "decisions": logits.argmax(1)}[form]
    else:
        target = (truth > bias).long()
        logits = quality * (truth - bias) + noise + lean
        preds = {"logits": logits, "probabilities": logits.sigmoid(), "decisions": (logits > 0).long()}[form]
    options = dict(OPTIONS[task])
    if task == "binary":
        preds, target = preds[:, 0], target[:, 0]
    elif task == "multilabel":
        options["num_labels"] = 4
    if task != "multiclass" and form == "logits":
        options["from_logits"] = True
    diagnosis = diagnose(preds, target, **options)
    refused = {"one_hot_as_labels"}  # the metrics refuse label maps that look so, by chance in tiny ones
    assert not [f for f in diagnosis.findings if f.severity == "error" and f.code not in refused], str(diagnosis)


def test_detectors_that_find_the_wrong_place_raise_no_error():
    """One disc at a wrong place can be mended by a flip or a shift, and proves nothing."""
    for seed in range(150):
        g = torch.Generator().manual_seed(seed)
        size = [8, 16, 32, 64][seed % 4]
        y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        place = torch.rand(2, 1 + seed % 3, 2, 1, 1, generator=g) * size
        preds, target = (((y - p[:, 0]) ** 2 + (x - p[:, 1]) ** 2 < (size / 6) ** 2) for p in place)
        diagnosis = diagnose(preds, target, task="binary")
        assert not [f for f in diagnosis.findings if f.severity == "error"], str(diagnosis)


JUNK = [
    None,
    3,
    2.5,
    "abc",
    b"x",
    [],
    [[]],
    {},
    object(),
    torch.tensor(1.0),
    torch.empty(0),
    torch.empty(2, 0, 3),
    np.array(["a"]),
    np.array([object()]),
    np.float64(3),
    np.zeros((4, 4), ">f4")[::-1],
    np.zeros(3, "datetime64[s]"),
    np.zeros((2, 3, 3), np.uint16),
    torch.empty(2, 3, device="meta"),
    torch.randn(2, 3, 4, dtype=torch.complex64),
    torch.full((2, 3, 4), NAN),
    torch.full((2, 4), INF),
    torch.randint(0, 9, (2, 3, 4, 5)),
    torch.rand(2, 3, 4, 5).to_sparse(),
    torch.rand(1, 3, 4).to(torch.float8_e5m2),
    torch.tensor([[2**63 - 1, -(2**63)]]),
    torch.ones(2, 3, 4, dtype=torch.uint64),
    torch.rand(3, 3, 3, 3, 3, 3),
    torch.ones(2, 4) > 0,
    torch.tensor([[0, 1e-300, 1e10]], dtype=torch.float64),
    torch.tensor([[0, 5e-324, INF]], dtype=torch.float64),
    torch.tensor([[-1.7e308, 5e-324, 1.7e308]], dtype=torch.float64),
    torch.tensor([[0, 1, 1.7e308]], dtype=torch.float64),
]


@pytest.mark.parametrize("task", sorted(OPTIONS))
def test_no_data_of_any_kind_makes_it_raise(task):
    for preds in JUNK:
        for target in JUNK:
            diagnosis = diagnose(preds, target, **OPTIONS[task])
            assert str(diagnosis).startswith("Diagnosis: ")


class Touchy(Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError("hands off")


def unreadable(kind: str) -> Tensor:
    if kind == "fake":
        with FakeTensorMode():
            return torch.ones(5, 72, 60, dtype=torch.bool)
    mask = torch.ones(5, 72, 60, dtype=torch.bool, device="meta" if kind == "meta" else "cpu")
    if kind in ("no storage", "small storage"):
        mask.untyped_storage().resize_(100 * (kind == "small storage"))
    return mask.as_subclass(Touchy) if kind == "subclass" else mask


@pytest.mark.parametrize("kind", ["meta", "fake", "subclass", "no storage", "small storage"])
def test_tensors_that_cannot_be_read(kind):
    preds, target = scene("fields").binary
    (finding,) = diagnose(preds, target, task="binary", mask=unreadable(kind)).findings
    assert (finding.code, finding.severity) == ("bad_mask", "error")
    assert "got one that can't be read: " in finding.message
    (finding,) = diagnose(preds, unreadable(kind), task="binary").findings
    assert finding.code == "unreadable"


def test_wrong_options_are_refused():
    preds, target = scene("fields").binary
    with pytest.raises(ValueError, match=r"`task` must be one of"):
        diagnose(preds, target, task="segmentation")
    with pytest.raises(ValueError, match=r"`num_classes` must be an integer of at least 2, got None"):
        diagnose(preds, target, task="multiclass")
    with pytest.raises(ValueError, match=r"`class_names` must hold 3 names"):
        diagnose(preds, target, task="multilabel", num_labels=3, class_names=("a", "b"))
    for name, value in {
        "average": "mean",
        "aggregation_level": "batch",
        "zero_division": 2,
        "validate_args": "late",
        "include_background": False,
        "regions": {"a": [0]},
    }.items():
        with pytest.raises(ValueError, match=f"`{name}"):
            diagnose(preds, target, task="binary", **{name: value})
    for name, value in {
        "average": "mean",
        "aggregation_level": "batch",
        "threshold": [0.5, 0.5],
        "class_names": ["a"],
    }.items():
        with pytest.raises(ValueError, match=f"`{name}"):
            diagnose(preds, target, task="multilabel", num_labels=10**9, **{name: value})
    with pytest.raises(TypeError, match="`from_logits` must be True or False"):
        diagnose(*scene("fields").multiclass, **OPTIONS["multiclass"], from_logits="yes")


def test_options_of_metrics_and_losses_are_taken():
    options = {"average": None, "aggregation_level": "samplewise", "include_background": False, "zero_division": 1.0}
    options |= {"from_logits": True, "validate_args": "deferred", "regions": None}
    assert diagnose(*scene("fields").multiclass, **OPTIONS["multiclass"], **options).findings == ()


def test_regions_are_looked_at_as_labels():
    preds, target = scene("fields").multiclass
    regions = {"a": [1], "b": [1, 2], "c": [2, 3], "d": [0]}
    diagnosis = diagnose(preds - 99 * channel(3), target, **OPTIONS["multiclass"], regions=regions, ignore_index=1)
    assert "never predicted, though in the target: class 3 (" in diagnosis.findings[0].message
    assert "regions=((1,), (1, 2), (2, 3), (0,))" in str(diagnosis)


def test_what_an_option_settles_is_not_said():
    labels = torch.zeros(2, 64, 64, dtype=torch.long)
    labels[:, 5:12, 5:12] = 1
    preds = labels.roll(20, -1)
    settled = {"include_background": False}
    assert diagnose(preds, labels, task="multiclass", num_classes=3).findings[0].code == "background_only"
    diagnosis = diagnose(preds, labels, task="multiclass", num_classes=3, **settled)
    assert [f.code for f in diagnosis.findings] == ["low_dice"], str(diagnosis)
    empty = torch.rand(1, 64, 64) * 0.4, torch.zeros(1, 64, 64)
    assert diagnose(*empty, task="binary", zero_division=1.0).findings == ()
    preds, target = scene("fields").multiclass
    absent = preds, torch.where(target == 3, 0, target)
    assert diagnose(*absent, **OPTIONS["multiclass"], average="micro").findings == ()


@pytest.mark.parametrize(
    ("level", "case_ids", "says"),
    [
        ("casewise", None, "got None"),
        ("casewise", ["a"], "one id per sample, 5, got 1"),
        ("casewise", 7, "must be a sequence of ints or strings"),
        ("global", list("abcde"), "belong to `aggregation_level='casewise'`"),
        ("casewise", list("abcde"), None),
    ],
)
def test_case_ids(level, case_ids, says):
    preds, target = scene("fields").binary
    diagnosis = diagnose(preds, target, task="binary", aggregation_level=level, case_ids=case_ids)
    assert [f.code for f in diagnosis.findings] == ["bad_case_ids"] * (says is not None)
    assert says is None or says in diagnosis.findings[0].message


def test_any_default_device():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    batches = [
        (*fault.plant(*getattr(scene("fields"), fault.task)), fault)
        for fault in (FAULTS[name] for name in ("a list", "a label map for masks", "classes renumbered in labels"))
    ]
    torch.set_default_device("meta")
    try:
        for preds, target, fault in batches:
            diagnosis = diagnose(preds, target, **OPTIONS[fault.task])
            assert diagnosis.findings[0].code == fault.code
            pyplot.close(diagnosis.plot())
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("classes", [1000, 131072])
def test_many_classes_take_bounded_time(classes):
    g = torch.Generator().manual_seed(0)
    preds, target = torch.randint(0, classes, (2, 2, 64, 64), generator=g)
    start = time.process_time()
    assert diagnose(preds, target, task="multiclass", num_classes=classes).findings
    assert time.process_time() - start < 15


@pytest.mark.parametrize("classes", [10**6, 10**9])
@pytest.mark.parametrize(("task", "option"), [("multiclass", "num_classes"), ("multilabel", "num_labels")])
def test_absurdly_many_classes_are_not_looked_at(classes, task, option):
    target = torch.zeros(2, 8, 8, dtype=torch.long)
    start = time.process_time()
    diagnosis = diagnose(target, target, task=task, **{option: classes})
    assert time.process_time() - start < 1
    (finding,) = diagnosis.findings
    assert (finding.code, finding.severity) == ("too_many_classes", "warning")
    assert f"`{option}` is {classes:,}" in finding.message


@pytest.mark.parametrize("samples", [3, 30_000])
def test_consistency_is_a_sign_test_in_bounded_time(samples):
    target = some((samples, 1, 4, 4), 0.5)
    preds = target ^ (torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) < 0.2)
    better = target ^ (torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.1)
    sides = torch.ones_like(target), torch.ones(1, dtype=torch.bool), 0
    start = time.process_time()
    nats = consistency(Planes(preds, target, *sides), Planes(better, target, *sides))
    assert time.process_time() - start < 1
    more, fewer = int((preds ^ target).gt(better ^ target).sum()), int((preds ^ target).lt(better ^ target).sum())
    if samples == 3:
        n = more + fewer
        assert nats == pytest.approx(-math.log(sum(math.comb(n, k) for k in range(more, n + 1)) / 2**n) / 2)
    else:
        assert nats > 1000


def test_one_swap_among_many_classes():
    g = torch.Generator().manual_seed(0)
    target = torch.randint(0, 20, (20, 8, 8), generator=g).repeat_interleave(4, 1).repeat_interleave(4, 2) * 50
    preds = torch.where(target == 100, 150, torch.where(target == 150, 100, target))
    first = diagnose(preds, target, task="multiclass", num_classes=1000).findings[0]
    assert first.code == "permuted_classes"
    (after, _), _ = follow(first.remedy, preds, target, {})
    assert torch.equal(after, target)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_devices():
    preds, target = scene("fields").multiclass
    assert diagnose(preds.cuda(), target.cuda(), **OPTIONS["multiclass"]).findings == ()
    first = diagnose(preds.cuda(), target, **OPTIONS["multiclass"]).findings[0]
    assert (first.code, first.remedy) == ("two_devices", "target = target.to(preds.device)")
    assert diagnose(preds.flip(-1).cuda(), target.cuda(), **OPTIONS["multiclass"]).findings[0].code == "flipped"
    assert diagnose(preds.cuda(), 85 * target.cuda(), **OPTIONS["multiclass"]).findings[0].code == "scaled_mask"


def test_a_large_volume_is_looked_at_through_a_sample():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 512), torch.linspace(-1, 1, 512), indexing="ij")
    distance = ((x - 0.3) ** 2 + (y + 0.1) ** 2 - 0.2).unsqueeze(-1)
    preds = torch.sigmoid(-20 * distance).expand(1, 512, 512, 300)  # 78 million voxels in the memory of one slice
    target = (distance < 0.02).to(torch.uint8).expand(1, 512, 512, 300)
    start = time.process_time()
    diagnosis = diagnose(preds.flip(-2), target, task="binary")
    assert time.process_time() - start < 20
    assert diagnosis.findings[0].code == "flipped"
    seen, everything = (
        int(n.replace(",", "")) for n in re.search(r"looked at ([\d,]+) of ([\d,]+)", str(diagnosis)).groups()
    )
    assert everything == preds.numel()
    assert MOST_VOXELS / 4 < seen <= MOST_VOXELS
    assert "every (1, 4, 4, 3) along samples and spatial axes" in str(diagnosis)


def test_values_outside_the_sample_are_checked():
    target = torch.zeros(1, 1500, 1500, dtype=torch.uint8)
    target[:, 100:900, 200:700] = 1
    preds = target.float() * 0.8 + 0.1
    preds[0, 3, 4] = NAN
    diagnosis = diagnose(preds, target, task="binary")
    assert diagnosis.findings[0].code == "nan"
    assert "NaN in 1 voxel:" in diagnosis.findings[0].message


def test_outcomes_of_a_sample_say_so():
    target = torch.zeros(1, 1500, 1500, dtype=torch.uint8)
    target[:, 100:900, 200:700] = 1
    diagnosis = diagnose(target.float() * 0.3, target, task="binary", threshold=0.4)
    assert [f.code for f in diagnosis.findings] == ["threshold"]
    diagnosis = diagnose(target * 0, target, task="binary")
    assert diagnosis.findings[0].message.startswith("in the sample, preds are background everywhere")


def test_a_void_label_outside_the_sample_is_named():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 14, 96, 96, 96, generator=g)
    target = logits.argmax(1).byte()
    target[0, 11, 5, 5] = 255
    diagnosis = diagnose(logits, target, task="multiclass", num_classes=14)
    (finding,) = diagnosis.findings
    assert finding.code == "ignore_label", str(diagnosis)
    assert "target holds 15 values from 0 to 255; 255 in 1 voxel is no label" in finding.message
    assert finding.remedy.startswith("diagnose(preds, target, ignore_index=255, ...)")
    assert "target from 0 to 255" in str(diagnosis)


def test_all_labels_are_named_before_they_are_numbered():
    labels = torch.arange(2200).view(1, -1, 1).expand(1, 2200, 1000) // 800 * 20
    labels = labels.contiguous()
    labels[0, 1, :5] = torch.tensor([1, 70, 71, 72, 73])  # the sample has every other row, from row 0 on
    diagnosis = diagnose(one_hot(labels % 7, 8).float(), labels, task="multiclass", num_classes=8)
    assert "{0, 1, 20, 40, 70, 71, 72, 73}" in diagnosis.findings[0].message, str(diagnosis)
    assert "[0, 1, 20, 40, 70, 71, 72, 73]" in diagnosis.findings[0].remedy


def test_a_probability_outside_the_sample_is_judged():
    line = torch.linspace(-1, 1, 160)
    distance = line.view(-1, 1, 1) ** 2 + line.view(-1, 1) ** 2 + line**2
    target = (distance < 0.4)[None]
    preds = (8 * (0.4 - distance)).sigmoid()[None]
    preds[0, 11, 5, 5] = 5
    diagnosis = diagnose(preds, target, task="binary")
    first = diagnosis.findings[0]
    assert (first.code, first.remedy.split("  #")[0]) == ("probabilities_out_of_range", "preds = preds.clamp(0, 1)")
    assert re.search(r"from 9\.\S+ to 5, outside \[0, 1\] in 1 voxel: probabilities but for these few", first.message)
    preds[0, 11, 5, 5] = NAN
    assert "preds from 9." in str(diagnose(preds, target, task="binary"))


@pytest.mark.parametrize(("classes", "seen"), [((1, 2), "several classes in 1 voxel:"), ((), "no class in 1 voxel:")])
def test_one_hot_outside_the_sample_is_judged(classes, seen):
    target = one_hot(torch.arange(1500).view(1, -1, 1).expand(1, 1500, 1500) // 500, 3).contiguous()
    target[0, :, 1, 7] = 0  # the sample has every other row, from row 0 on
    target[0, list(classes), 1, 7] = 1
    diagnosis = diagnose(target.float(), target, task="multiclass", num_classes=3)
    assert diagnosis.findings[0].code == "not_one_hot"
    assert seen in diagnosis.findings[0].message


def test_inputs_stay_as_they_are():
    preds, target = scene("fields").multilabel
    given = preds.clone().requires_grad_(), target.clone()
    diagnose(*given, **OPTIONS["multilabel"])
    assert torch.equal(given[0], preds)
    assert torch.equal(given[1], target)
    assert given[0].requires_grad


def test_the_report():
    preds, target = scene("fields").binary
    report = str(diagnose(preds.flip(-1), target, task="binary", threshold=0.4)).splitlines()
    assert re.fullmatch(r"Diagnosis: 1 error \(Dice 0\.\d{3}\)", report[0])
    assert report[1:4] == [
        "  task='binary', thresholds=(0.4,)",
        "  preds: float32 (5, 1, 72, 60) on cpu",
        "  target: uint8 (5, 72, 60) on cpu",
    ]
    assert report[5:7] == ["  looked at all 21,600 voxels", ""]
    assert report[7:9] == ["1. error: flipped", "   why:      preds and target are mirror images along axis -1."]
    assert re.fullmatch(r"   Dice:     0\.\d{3} -> 0\.9\d\d", report[9])
    assert report[10:] == ["   way out:  preds = preds.flip(-1)"]
    assert max(len(line) for line in report) <= 120


@pytest.mark.parametrize(("n", "seed"), [(1, 0), (2, 1), (3, 2), (7, 3), (20, 4), (40, 5)])
def test_assignment_is_optimal(n, seed):
    optimize = pytest.importorskip("scipy.optimize")
    for scores in np.random.default_rng(seed).random((20, n, n)):
        rows = best_assignment(scores.tolist())
        assert sorted(rows) == list(range(n))
        best = scores[optimize.linear_sum_assignment(scores, maximize=True)].sum()
        assert sum(scores[row, column] for column, row in enumerate(rows)) == pytest.approx(best)


def test_pictures():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    binary, multiclass, multilabel = scene("fields")
    volume = torch.rand(1, 9, 8, 7)
    batches = [
        (*binary, OPTIONS["binary"]),
        (*multiclass, OPTIONS["multiclass"]),
        (multiclass[0].argmax(1), multiclass[1], OPTIONS["multiclass"]),
        (*multilabel, OPTIONS["multilabel"]),
        (volume, (volume > 0.5).long(), OPTIONS["binary"]),
        (volume[0, 0, 0], (volume[0, 0, 0] > 0.5).long(), OPTIONS["binary"]),
    ]
    for preds, target, options in batches:
        figure = diagnose(preds, target, **options).plot()
        figure.canvas.draw()
        assert [ax.get_title() for ax in figure.axes][:3] == ["preds", "target", "difference"]
        pyplot.close(figure)
    figure = diagnose(None, None, task="binary").plot()
    assert "missing_input" in figure.texts[0].get_text()
    pyplot.close(figure)


def test_a_picture_says_where_it_is_and_shows_the_largest_classes():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    target = torch.zeros(1, 3000, 40, 40, dtype=torch.uint8)
    target[:, 1000, 5:30, 5:30] = 1
    diagnosis = diagnose(target.float() * 0.3, target, task="binary")
    assert "(every (1, 3, 1, 1) along" in str(diagnosis)
    figure = diagnosis.plot()
    assert figure.axes[0].get_xlabel() == "sample 0, axis -3: 1000"
    pyplot.close(figure)

    labels = torch.arange(64 * 64).view(1, 64, 64).clamp(max=1500)
    figure = diagnose(labels, labels.roll(1, -1), task="multiclass", num_classes=2000).plot()
    assert len(figure.axes[3].patches) == 2 * 32
    assert [text.get_text() for text in figure.axes[3].get_xticklabels()][-1] == "1500"
    pyplot.close(figure)


def test_pictures_need_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "torchmetrics-dice-ext\[plot\]"'):
        diagnose(*scene("fields").binary, task="binary").plot()


def test_findings_are_ordered_and_carry_evidence():
    preds, target = scene("fields").multiclass
    diagnosis = diagnose(preds[:, [0, 2, 3, 1]].numpy(), target, **OPTIONS["multiclass"])
    assert [f.severity for f in diagnosis.findings] == ["error", "error"]
    first, second = diagnosis.findings
    assert (first.code, second.code) == ("not_a_tensor", "permuted_classes")
    assert (first.gain, first.evidence) == (0, "")
    assert second.gain > 0.3
    assert re.fullmatch(r"Dice 0\.\d{3} -> 0\.9\d\d", second.evidence)
    assert not math.isnan(second.dice_before)


def test_causes_come_before_what_follows_from_them():
    g = torch.Generator().manual_seed(0)
    preds, target = torch.rand(2, 1, 64, 64, generator=g) * 0.5, torch.rand(2, 1, 64, 64, generator=g) > 0.5
    diagnosis = diagnose(preds, target, task="binary", from_logits=True)
    assert [f.code for f in diagnosis.findings] == ["probabilities_as_logits", "all_background"]

    preds, target = scene("fields").binary
    first, second = diagnose(preds * 0.3, target, task="binary", from_logits=True).findings
    assert (first.code, second.code) == ("probabilities_as_logits", "threshold")
    assert first.dice_after == second.dice_before == 0
    assert "probabilities from" in second.message
    assert second.dice_after > 0.8


def test_a_batch_that_is_still_refused_has_no_dice():
    preds, target = scene("fields").binary
    masks = (preds[:, 0] > 0.5).to(torch.uint8) * 255, target * 255
    diagnosis = diagnose(*masks, task="binary")
    first, second = diagnosis.findings
    assert (first.code, second.code) == ("scaled_mask", "scaled_mask")
    assert (first.remedy, first.dice_after) == ("target = target > 0", None)
    assert second.dice_after == pytest.approx(float(dice_score(preds, target, task="binary")))
    first, second = diagnose(preds[0, 0], masks[1][:1], task="binary").findings
    assert (first.code, first.dice_after, second.code) == ("batch_axis", None, "scaled_mask")
    first, second, third = diagnose(masks[1].flip(-1), preds.logit(), task="binary").findings[:3]
    assert (first.code, second.code, third.code) == ("swapped_arguments", "scaled_mask", "logits_as_probabilities")


def test_a_remedy_that_mends_two_faults_is_told_once():
    preds, target = scene("fields").multiclass
    mixed = target * 85 + 0.4 * some(target.shape, 0.1)
    assert [f.code for f in diagnose(preds, mixed, **OPTIONS["multiclass"]).findings] == ["scaled_mask"]


def test_void_voxels_have_no_faults():
    binary, multiclass, _ = scene("fields")
    for (preds, target), task in ((binary, "binary"), (multiclass, "multiclass")):
        void = some(target.shape, 0.1)
        preds = torch.where(void.unsqueeze(1), NAN, preds)
        (finding,) = diagnose(preds, torch.where(void, 255, target), **OPTIONS[task]).findings
        assert finding.code == "ignore_label"
        assert finding.dice_after > 0.9


def test_a_batch_that_is_read_anew_is_repaired_anew():
    y, x = torch.meshgrid(torch.arange(1200), torch.arange(1200), indexing="ij")
    target = ((y - 500) ** 2 + (x - 600) ** 2 < 300**2).long()[None]
    preds = blurred(target[:, None], 0)
    preds, masks = torch.cat([1 - preds, preds], 1), (one_hot(target, 2) * 255).byte()
    for step in (1, 8):  # a sample, and all of a small batch
        batch = preds[..., ::step, ::step], masks[..., ::step, ::step]
        first, second = diagnose(*batch, task="binary").findings
        assert (first.code, second.code) == ("scaled_mask", "one_hot_as_masks")
        assert second.dice_after > 0.95
    first, _, second = diagnose((preds * 255).byte(), masks, task="binary").findings
    assert (first.code, second.code) == ("scaled_mask", "one_hot_as_masks")
    assert second.dice_after > 0.95
    for dim in (1, -1):
        labels = [(one_hot(side) * 200).movedim(1, dim) for side in scene("fields").multiclass[1:] * 2]
        labels[0] = labels[0].roll(1, -1 if dim == 1 else -2)
        codes = [finding.code for finding in diagnose(*labels, **OPTIONS["multiclass"]).findings[:3]]
        assert codes == ["scaled_mask", "scaled_mask", "one_hot_as_labels"]


def test_a_batch_that_is_read_anew_along_another_axis_is_repaired_anew():
    g = torch.Generator().manual_seed(5)
    target = torch.randint(0, 6, (40, 6, 9), generator=g)
    preds = one_hot(target, 6).float().movedim(1, 2) + 0.2 * torch.randn(40, 6, 6, 9, generator=g)
    codes = [f.code for f in diagnose(preds, target * 51, task="multiclass", num_classes=6).findings]
    assert codes == ["scaled_mask", "class_axis"]


def test_remedies_hold_one_after_the_other():
    preds, target = scene("fields").binary
    batch, options = ((preds < 0.5).byte() * 255, target * 255), {"task": "binary"}
    diagnosis = diagnose(*batch, **options)
    assert [f.code for f in diagnosis.findings] == ["scaled_mask", "scaled_mask", "inverted"]
    for finding in diagnosis.findings:
        batch, options = follow(finding.remedy, *batch, options)
    assert float(dice_score(*batch, **options)) == pytest.approx(diagnosis.findings[-1].dice_after)


@pytest.mark.parametrize("class_dim", [1, -1, 2])
def test_scores_per_class_are_shown_as_code(class_dim):
    multiclass, multilabel = scene("fields")[1:]
    batches = [
        (multiclass[0] - 99 * channel(3), multiclass[1], {**OPTIONS["multiclass"], "ignore_index": (1, 255)}),
        (multilabel[0] * torch.tensor([1, 1, 0]).view(3, 1, 1), multilabel[1], dict(OPTIONS["multilabel"])),
    ]
    batches[1][2]["threshold"] = [0.5, 0.4, 0.99]
    for preds, target, options in batches:
        names = {"preds": preds.movedim(1, class_dim), "mask": some(multiclass[1].shape, 0.9), "dice_score": dice_score}
        names["target"] = target.movedim(1, class_dim) if target.ndim == 4 else target
        options |= {"class_dim": class_dim}
        diagnosis = diagnose(names["preds"], names["target"], **options, mask=names["mask"])
        (finding,) = [f for f in diagnosis.findings if f.code == "class_never_predicted"]
        scores = eval(finding.remedy, names)
        assert scores[-1] == 0
        assert float(scores.nanmean()) == pytest.approx(finding.dice_before)


def test_infinity_and_nan_become_void_together():
    preds, target = scene("fields").binary
    target = torch.where(some(target.shape, 0.05), INF, torch.where(some(target.shape, 0.1), NAN, target.float()))
    (finding,) = diagnose(preds, target, task="binary").findings
    (preds, target), options = follow(finding.remedy, preds, target, {"task": "binary", "ignore_index": -1})
    assert float(dice_score(preds, target, **options)) == pytest.approx(finding.dice_after)


def test_a_graver_finding_says_what_it_was_seen_after():
    preds, target = scene("fields").binary
    first, second = diagnose(preds.flip(-1) * 0.8, target, task="binary", from_logits=True).findings[:2]
    assert (first.code, first.severity) == ("flipped", "error")
    assert (second.code, second.severity) == ("probabilities_as_logits", "warning")
    assert first.message.endswith(" Seen after the remedy of probabilities_as_logits.")
    assert second.dice_after == first.dice_before


def test_perfect_is_a_batch_as_it_was_given():
    target = scene("fields").multiclass[1]
    options = OPTIONS["multiclass"]
    assert [f.code for f in diagnose(target.clone(), target, **options).findings] == ["perfect"]
    for preds, changed in (
        (target + 1, target),
        (target.flip(-1), target),
        (target.clone(), target * 85),
        (target.clone(), torch.where(some(target.shape, 0.1), 255, target)),
        (target.clone().unsqueeze(-1), target.unsqueeze(1)),
    ):
        codes = {f.code for f in diagnose(preds, changed, **options).findings}
        assert codes
        assert "perfect" not in codes


def test_ranges_leave_nan_out():
    preds, target = scene("fields").binary
    preds = torch.where(some(preds.shape, 0.3), NAN, preds * 0.1)
    report = str(diagnose(preds, target, task="binary", threshold=0.99))
    assert "nan to nan" not in report
    outcome = diagnose(torch.where(preds.isnan(), NAN, 0.25 * some(preds.shape, 0.5)), target, task="binary")
    (finding,) = [f for f in outcome.findings if f.code == "all_background"]
    assert "preds lie from 0 to 0.25, the cutoff is 0.5" in finding.message
