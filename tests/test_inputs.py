"""What update and the functions accept, what they refuse and in which words, and what a refusal leaves behind."""

import math

import numpy as np
import pytest
import torch
from cases import (
    FLOAT_DTYPES,
    INT_DTYPES,
    LEVELS,
    PARAMETERS,
    Batch,
    layouts,
    mask_batch,
    multiclass_batch,
    one_hot,
    oracle_counts,
)
from test_scores import call, metric_for
from torch import Tensor

import torchmetrics_dice_ext as tde
from torchmetrics_dice_ext import functional

MULTICLASS = {"task": "multiclass", "num_classes": 3}
NAN, INF = float("nan"), float("inf")


def counts_of(preds, target, **options) -> list[list[list[int]]]:
    return [part.tolist() for part in functional.overlap_counts(preds, target, **options)]


def truth_of(batch: Batch, task: str, **options) -> list[list[list[int]]]:
    return [part.tolist() for part in oracle_counts(task, batch, options)]


def labels(seed: int = 0, shape: tuple[int, ...] = (2, 6, 5), num_classes: int = 3) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, num_classes, shape, generator=g), torch.randint(0, num_classes, shape, generator=g)


def each_dtype(of_preds: tuple[torch.dtype, ...], of_target: tuple[torch.dtype, ...]) -> pytest.MarkDecorator:
    """Each dtype of preds beside a target of int64, and of target beside the first of preds: sides are read apart."""
    pairs = dict.fromkeys([*((preds, torch.int64) for preds in of_preds), *((of_preds[0], t) for t in of_target)])
    return pytest.mark.parametrize(("preds_dtype", "target_dtype"), list(pairs), ids=str)


@each_dtype(INT_DTYPES, INT_DTYPES + FLOAT_DTYPES)
def test_labels_of_every_dtype(preds_dtype, target_dtype):
    preds, target = labels()
    wanted = truth_of(Batch(preds, target, None, "labels", "labels", 2), "multiclass", num_classes=3)
    assert counts_of(preds.to(preds_dtype), target.to(target_dtype), **MULTICLASS) == wanted


@each_dtype(FLOAT_DTYPES, INT_DTYPES + FLOAT_DTYPES)
def test_logits_and_labels_of_every_dtype(preds_dtype, target_dtype):
    batch = multiclass_batch(5, num_classes=3, preds_dtype=preds_dtype, target_dtype=target_dtype)
    assert counts_of(batch.preds, batch.target, **MULTICLASS) == truth_of(batch, "multiclass", num_classes=3)


@each_dtype((*INT_DTYPES, torch.bool), (torch.bool, *INT_DTYPES, *FLOAT_DTYPES))
@pytest.mark.parametrize("num_labels", [None, 3])
def test_decisions_of_every_dtype(num_labels, preds_dtype, target_dtype):
    batch = mask_batch(6, (2, (5, 4)), num_labels, preds="decisions")
    options = {} if num_labels is None else {"num_labels": num_labels}
    task = "binary" if num_labels is None else "multilabel"
    result = counts_of(batch.preds.to(preds_dtype), batch.target.to(target_dtype), task=task, **options)
    assert result == truth_of(batch, task, **options)


@each_dtype(FLOAT_DTYPES, (torch.bool, *INT_DTYPES, *FLOAT_DTYPES))
@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("num_labels", [None, 2])
def test_probabilities_and_logits_of_every_dtype(num_labels, from_logits, preds_dtype, target_dtype):
    kind = "logits" if from_logits else "probabilities"
    batch = mask_batch(8, (2, (5, 4)), num_labels, preds=kind, preds_dtype=preds_dtype, target_dtype=target_dtype)
    options = {"from_logits": from_logits} | ({} if num_labels is None else {"num_labels": num_labels})
    task = "binary" if num_labels is None else "multilabel"
    assert counts_of(batch.preds, batch.target, task=task, **options) == truth_of(batch, task, **options)


@pytest.mark.parametrize("ignore_index", [255, -1, -(2**31), 2**40, 2**15])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.float32, torch.uint16])
def test_ignore_index_is_any_value_whatever_the_dtype_can_hold(ignore_index, dtype):
    preds, target = labels(1)
    whole = target.clone()
    holds = (torch.tensor(ignore_index, dtype=torch.int64).to(dtype).double() == ignore_index).item()
    if holds:
        whole[0, :2] = ignore_index
    batch = Batch(preds, whole, None, "labels", "labels", 2)
    result = counts_of(preds, whole.to(dtype), **MULTICLASS, ignore_index=ignore_index)
    assert result == truth_of(batch, "multiclass", num_classes=3, ignore_index=ignore_index)
    assert result[3][0] == [20 if holds else 30] * 3


@pytest.mark.parametrize("side", ["preds", "target"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_errors_list_the_values_of_voxels_that_count_and_no_others(task, side):
    """A masked voxel and a void one hold stranger values; a void label is strange in preds."""
    tensors = {"preds": torch.tensor([[0, 1, 1, 0, 1]]), "target": torch.tensor([[0, 1, 1, 0, 255]])}
    tensors[side][0, :4] = torch.tensor([0, 255 if side == "preds" else 7, 1, 77])
    tensors["preds"][0, 4] = 66
    mask = torch.tensor([[True, True, True, False, True]])
    options = {"multiclass": {"num_classes": 2}, "multilabel": {"num_labels": 2}}.get(task, {})
    if task == "multilabel":
        tensors = {name: torch.stack((tensor, torch.zeros_like(tensor)), dim=1) for name, tensor in tensors.items()}
    with pytest.raises(ValueError, match=f"`{side}` must .*, got {255 if side == 'preds' else 7} in 1 voxel\\."):
        functional.overlap_counts(**tensors, task=task, mask=mask, ignore_index=255, **options)


@pytest.mark.parametrize("dtype", INT_DTYPES, ids=str)
@pytest.mark.parametrize("which", ["preds", "target"])
def test_labels_at_the_ends_of_a_dtype_are_seen_as_they_are(which, dtype):
    """The largest uint64 is not -1: neither for `ignore_index` nor in the message."""
    for end in (torch.iinfo(dtype).max, torch.iinfo(dtype).min):
        if 0 <= end < 3:
            continue
        tensors = {"preds": torch.tensor([[0, 1, 2, 0]]), "target": torch.tensor([[0, 1, 2, 0]])}
        tensors[which] = torch.tensor([[0, 1, 2, end]], dtype=dtype)
        with pytest.raises(ValueError, match=f"`{which}`") as info:
            functional.overlap_counts(**tensors, **MULTICLASS, ignore_index=-1)
        assert_says(str(info.value), [str(end), "1"])


@pytest.mark.parametrize("ignore_index", [2**63, 2**64 - 1, -(2**63), -(2**70), [2**70, -1]])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.uint64, torch.float32], ids=str)
def test_void_values_that_no_target_holds(dtype, ignore_index):
    preds, target = labels(23)
    wanted = truth_of(Batch(preds, target, None, "labels", "labels", 2), "multiclass", num_classes=3)
    assert counts_of(preds, target.to(dtype), **MULTICLASS, ignore_index=ignore_index) == wanted


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
@pytest.mark.parametrize("target_form", ["labels", "one-hot"])
def test_one_hot_is_told_by_shape(dtype, target_form):
    preds, target = labels(2)
    wanted = truth_of(Batch(preds, target, None, "labels", "labels", 2), "multiclass", num_classes=3)
    if target_form == "labels":
        assert counts_of(one_hot(preds, 3).to(dtype), target, **MULTICLASS) == wanted
    else:
        assert counts_of(preds, one_hot(target, 3).to(dtype), **MULTICLASS) == wanted
        assert counts_of(one_hot(preds, 3).float(), one_hot(target, 3).to(dtype), **MULTICLASS) == wanted


@pytest.mark.parametrize("dtype", [torch.bool, *INT_DTYPES, *FLOAT_DTYPES], ids=str)
def test_one_hot_targets_of_every_dtype(dtype):
    batch = multiclass_batch(9, num_classes=3, target="one-hot", target_dtype=dtype)
    assert counts_of(batch.preds, batch.target, **MULTICLASS) == truth_of(batch, "multiclass", num_classes=3)


def test_two_one_hot_tensors_need_the_option():
    preds, target = labels(3, (2, 5, 4))
    wanted = truth_of(Batch(preds, target, None, "labels", "labels", 2), "multiclass", num_classes=3)
    p, t = one_hot(preds, 3), one_hot(target, 3)
    assert counts_of(p, t, **MULTICLASS, input_format="one-hot") == wanted
    with pytest.raises(ValueError, match="input_format") as info:
        functional.overlap_counts(p, t, **MULTICLASS)
    assert "one-hot" in str(info.value)
    assert "index" in str(info.value)


def test_two_int_tensors_of_one_shape_are_labels():
    preds, target = labels(4, (2, 3, 4))  # an axis of C entries where the class axis would be
    assert (target.sum(1) != 1).any()
    wanted = truth_of(Batch(preds, target, None, "labels", "labels", 2), "multiclass", num_classes=3)
    assert counts_of(preds, target, **MULTICLASS) == wanted
    assert counts_of(preds, target, **MULTICLASS, input_format="index") == wanted


def test_labels_that_look_one_hot_are_labels_where_the_option_says_so():
    target = one_hot(labels(5, (2, 4))[0], 3)
    preds = one_hot(labels(6, (2, 4))[0], 3)
    wanted = truth_of(Batch(preds, target, None, "labels", "labels", 2), "multiclass", num_classes=3)
    assert counts_of(preds, target, **MULTICLASS, input_format="index") == wanted


@pytest.mark.parametrize("spatial", [(), (7,), (5, 4), (3, 4, 2), (2, 3, 1, 2, 3)])
@pytest.mark.parametrize("preds_form", ["scores", "labels", "channel", "one-hot"])
@pytest.mark.parametrize("target_form", ["labels", "channel", "one-hot"])
def test_spatial_axes_and_singleton_channels(spatial, preds_form, target_form):
    batch = multiclass_batch(10, (3, spatial), 4, preds=preds_form, target=target_form)
    options = {"num_classes": 4}
    if preds_form == target_form == "one-hot":
        options["input_format"] = "one-hot"
    result = counts_of(batch.preds, batch.target, task="multiclass", **options)
    assert result == truth_of(batch, "multiclass", num_classes=4)


@pytest.mark.parametrize("spatial", [(), (7,), (5, 4), (3, 4, 2)])
@pytest.mark.parametrize("preds_channel", [False, True])
@pytest.mark.parametrize("target_channel", [False, True])
@pytest.mark.parametrize("mask_channel", [False, True])
def test_binary_singleton_channels(spatial, preds_channel, target_channel, mask_channel):
    batch = mask_batch(
        12, (3, spatial), masked=True, preds_channel=preds_channel, target_channel=target_channel, preds="logits"
    )
    mask = batch.mask.unsqueeze(1) if mask_channel else batch.mask
    result = counts_of(batch.preds, batch.target, task="binary", from_logits=True, mask=mask)
    assert result == truth_of(batch, "binary", from_logits=True)


@pytest.mark.parametrize("mask_channel", [False, True])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("class_dim", [1, -1])
def test_masks_have_no_class_axis(task, class_dim, mask_channel):
    if task == "multiclass":
        batch = multiclass_batch(13, masked=True, class_dim=class_dim)
        options = {"num_classes": 4, "class_dim": class_dim}
    else:
        batch = mask_batch(13, num_labels=4, masked=True, class_dim=class_dim)
        options = {"num_labels": 4, "class_dim": class_dim}
    mask = batch.mask.unsqueeze(1) if mask_channel else batch.mask
    assert counts_of(batch.preds, batch.target, task=task, mask=mask, **options) == truth_of(batch, task, **options)


@pytest.mark.parametrize("options", [MULTICLASS, {**MULTICLASS, "class_dim": -1}, {"task": "binary"}], ids=str)
@pytest.mark.parametrize("slices", [(1, 6, 5), (6, 5, 1)], ids=str)
@pytest.mark.parametrize("channels", [(), (1,)], ids=str)
def test_masks_of_volumes_of_one_slice(options, slices, channels):
    preds, target = labels(24, num_classes=options.get("num_classes", 2))
    mask = torch.rand(preds.shape, generator=torch.Generator().manual_seed(25)) < 0.7
    wanted = counts_of(preds, target, mask=mask, **options)
    preds, target, mask = (x.reshape(2, *channels, *slices) for x in (preds, target, mask))
    for shape in (mask.shape, (2, *slices), (2, 1, *slices)):
        assert counts_of(preds, target, mask=mask.reshape(shape), **options) == wanted


@pytest.mark.parametrize("class_dim", [1, 2, 3, -1, -2, -3])
@pytest.mark.parametrize("target_form", ["labels", "one-hot"])
def test_class_dim_names_any_axis_but_the_first(class_dim, target_form):
    batch = multiclass_batch(14, (2, (5, 4)), 3, class_dim=class_dim, target=target_form)
    options = {"num_classes": 3, "class_dim": class_dim}
    result = counts_of(batch.preds, batch.target, task="multiclass", **options)
    assert result == truth_of(batch, "multiclass", **options)


each_layout = pytest.mark.parametrize("layout", ["every other", "reversed", "crop"])


@each_layout
@pytest.mark.parametrize("preds_form", ["scores", "labels", "one-hot"])
def test_multiclass_views(preds_form, layout):
    batch = multiclass_batch(15, (2, (4, 5, 3)), 3, preds=preds_form, void=255, masked=True)
    preds, target, mask = (layouts(t)[layout] for t in (batch.preds, batch.target, batch.mask))
    assert not preds.is_contiguous()
    assert not target.is_contiguous()
    result = counts_of(preds, target, **MULTICLASS, mask=mask, ignore_index=255)
    assert result == truth_of(batch, "multiclass", num_classes=3, ignore_index=255)


@each_layout
@pytest.mark.parametrize("num_labels", [None, 3])
def test_binary_and_multilabel_views(num_labels, layout):
    batch = mask_batch(16, (2, (4, 5, 3)), num_labels, void=255, masked=True)
    preds, target, mask = (layouts(t)[layout] for t in (batch.preds, batch.target, batch.mask))
    options = {"ignore_index": 255} | ({} if num_labels is None else {"num_labels": num_labels})
    task = "binary" if num_labels is None else "multilabel"
    assert counts_of(preds, target, task=task, mask=mask, **options) == truth_of(batch, task, **options)


def test_expanded_tensors_are_counted_in_full():
    preds = torch.tensor([[0, 1, 1]]).expand(4, 3)
    target = torch.tensor([[0], [1], [1], [0]]).expand(4, 3)
    batch = Batch(preds, target, None, "labels", "labels", 1)
    assert counts_of(preds, target, **MULTICLASS) == truth_of(batch, "multiclass", num_classes=3)
    assert counts_of(preds, target, task="binary") == truth_of(Batch(preds, target, None, "decisions"), "binary")


def test_memory_format_channels_last_is_only_a_layout():
    batch = multiclass_batch(18, (2, (6, 5)), 4)
    preds = batch.preds.to(memory_format=torch.channels_last)
    assert counts_of(preds, batch.target, task="multiclass", num_classes=4) == truth_of(
        batch, "multiclass", num_classes=4
    )


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_monai_meta_tensors(task):
    meta = pytest.importorskip("monai.data").MetaTensor
    if task == "multiclass":
        batch, options = multiclass_batch(19, target_dtype=torch.float32), {"num_classes": 4}
    else:
        labels_option = {"num_labels": 3} if task == "multilabel" else {}
        batch, options = mask_batch(19, num_labels=labels_option.get("num_labels")), labels_option
    preds, target = meta(batch.preds), meta(batch.target)
    result = functional.overlap_counts(preds, target, task=task, **options)
    assert [part.tolist() for part in result] == truth_of(batch, task, **options)
    assert all(type(part) is Tensor for part in result)
    metric = metric_for("dice", task, **options)
    metric.update(preds, target)
    assert type(metric.compute()) is Tensor
    assert metric.compute().item() == pytest.approx(call("dice", task, batch, **options).item())
    assert all(type(value) is Tensor for value in metric.per_class().values())


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_tensors_that_require_grad_leave_no_graph(task):
    if task == "multiclass":
        batch, options = multiclass_batch(20), {"num_classes": 4}
    else:
        options = {"num_labels": 3} if task == "multilabel" else {}
        batch = mask_batch(20, num_labels=options.get("num_labels"))
    preds = batch.preds.clone().requires_grad_() * 1.0
    metric = metric_for("dice", task, **options)
    value = metric(preds, batch.target)
    assert not value.requires_grad
    assert not metric.compute().requires_grad
    assert not any(state.requires_grad for state in metric.metric_state.values() if isinstance(state, Tensor))
    assert preds.requires_grad
    assert [p.tolist() for p in functional.overlap_counts(preds, batch.target, task=task, **options)] == truth_of(
        batch, task, **options
    )


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_inputs_are_left_as_they_were(task):
    if task == "multiclass":
        batch, options = multiclass_batch(21, void=255, masked=True), {"num_classes": 4, "ignore_index": 255}
    else:
        options = {"ignore_index": 255} | ({"num_labels": 3} if task == "multilabel" else {})
        batch = mask_batch(21, num_labels=options.get("num_labels"), void=255, masked=True)
    before = [t.clone() for t in (batch.preds, batch.target, batch.mask)]
    metric = metric_for("dice", task, **options)
    metric.update(batch.preds, batch.target, mask=batch.mask)
    metric(batch.preds, batch.target, mask=batch.mask)
    for now, then in zip((batch.preds, batch.target, batch.mask), before, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("garbage", [NAN, INF, -INF, 1e30, -3.0])
def test_preds_at_void_voxels_are_never_looked_at(garbage):
    target = torch.tensor([[1, 0, 255, 1]])
    preds = torch.tensor([[0.9, 0.1, garbage, 0.2]])
    assert counts_of(preds, target, task="binary", ignore_index=255) == [[[1]], [[1]], [[2]], [[3]]]
    mask = torch.tensor([[True, True, False, True]])
    assert counts_of(preds, target, task="binary", mask=mask) == [[[1]], [[1]], [[2]], [[3]]]


def test_targets_at_masked_voxels_are_never_looked_at():
    mask = torch.tensor([[True, True, False]])
    for value in (99, -4):
        target = torch.tensor([[1, 2, value]])
        assert counts_of(torch.tensor([[1, 0, 0]]), target, **MULTICLASS, mask=mask)[3] == [[2, 2, 2]]
    for value in (NAN, 0.5, INF):
        target = torch.tensor([[1.0, 2.0, value]])
        assert counts_of(torch.tensor([[1, 0, 0]]), target, **MULTICLASS, mask=mask)[3] == [[2, 2, 2]]


@pytest.mark.parametrize("preds", [1.00005, -0.00005])
def test_probabilities_may_round_past_their_bounds(preds):
    tensor = torch.tensor([[preds, 0.5]])
    assert counts_of(tensor, torch.tensor([[1, 0]]), task="binary")[3] == [[2]]


def test_the_same_logits_mean_the_same_in_every_batch():
    """Values never decide what a tensor is: not even where all of them look like probabilities."""
    logits, target = torch.tensor([[0.2, 0.4, 3.0, -2.0]]), torch.tensor([[1, 1, 1, 0]])
    together = tde.BinaryDiceScore(from_logits=True)
    together.update(logits, target)
    apart = tde.BinaryDiceScore(from_logits=True)
    apart.update(logits[:, :2], target[:, :2])
    apart.update(logits[:, 2:], target[:, 2:])
    assert together.compute().item() == apart.compute().item() == 1.0


# What is refused: (task, options, preds, target, extra of update, error, words of the message)

ROW = torch.tensor([[0, 1, 2, 1]])
BINARY_ROW = torch.tensor([[0, 1, 1, 0]])
LOGITS = torch.zeros(1, 3, 4)
SCALED = ("scaled", "/ 255", "// 255", "divide", "> 0")
FROM_NUMPY = ("torch.from_numpy", "torch.as_tensor", "torch.tensor")
C3, L2 = {"num_classes": 3}, {"num_labels": 2}


def _values(*values: float) -> Tensor:
    return torch.tensor([values])


VALUE_FAULTS = {
    "a label too large": ("multiclass", C3, ROW, _values(0, 7, 7, 1), ["`target`", "7", "2", "ignore_index"]),
    "a label too large beside logits": ("multiclass", C3, LOGITS, _values(0, 1, 3, 1), ["`target`", "3"]),
    "a negative label": ("multiclass", C3, ROW, _values(0, 1, -4, 1), ["`target`", "-4"]),
    "several wrong labels": ("multiclass", C3, ROW, _values(5, 6, -1, 1), ["`target`", "5", "6", "-1", "3"]),
    "void that nobody named": ("multiclass", C3, ROW, _values(0, 255, 2, 1), ["`target`", "ignore_index=255"]),
    "void in bytes": ("multiclass", C3, LOGITS, _values(0, 255, 2, 1).byte(), ["`target`", "ignore_index=255"]),
    "another void value": (
        "multiclass",
        C3 | {"ignore_index": -1},
        ROW,
        _values(0, 255, -1, 1),
        ["`target`", "255", "1"],
    ),
    "a mask scaled by 255": ("multiclass", {"num_classes": 2}, ROW % 2, _values(0, 255, 255, 0), ["`target`", SCALED]),
    "a wrong label in preds": ("multiclass", C3, _values(0, 1, 9, 9), ROW, ["`preds`", "9"]),
    "a negative label in preds": ("multiclass", C3, _values(0, 1, -2, 1), ROW, ["`preds`", "-2"]),
    "a fractional label": ("multiclass", C3, ROW, _values(0.0, 1.5, 2.0, 1.0), ["`target`", "1.5"]),
    "a target of nan": ("multiclass", C3, LOGITS, _values(0.0, NAN, 2.0, 1.0), ["`target`", ("nan", "NaN")]),
    "a target of inf": ("multiclass", C3, LOGITS, _values(0.0, INF, 2.0, 1.0), ["`target`", "inf"]),
    "nan logits": (
        "multiclass",
        C3,
        torch.tensor([[[0.0, 1, 1, 1], [1, NAN, 0, 0], [0, 0, 0, 2]]]),
        ROW,
        ["`preds`", ("NaN", "nan"), "1"],
    ),
    "half nan logits": ("multiclass", C3, (LOGITS * NAN).half(), ROW, ["`preds`", ("NaN", "nan")]),
    "two ones in a one-hot target": (
        "multiclass",
        C3,
        LOGITS,
        torch.tensor([[[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]]]),
        ["`target`", "one-hot"],
    ),
    "no one in a one-hot target": (
        "multiclass",
        C3,
        LOGITS,
        torch.tensor([[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]]),
        ["`target`", "one-hot"],
    ),
    "soft one-hot target": ("multiclass", C3, LOGITS, torch.full((1, 3, 4), 1 / 3), ["`target`", "one-hot"]),
    "a two in a one-hot target": (
        "multiclass",
        C3,
        LOGITS,
        torch.tensor([[[2, 0, 0, 1], [-1, 1, 0, 0], [0, 0, 1, 0]]]),
        ["`target`", "one-hot"],
    ),
    "one-hot preds that are not": (
        "multiclass",
        C3,
        torch.tensor([[[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]]]),
        ROW,
        ["`preds`", "one-hot"],
    ),
    "binary mask of 255": ("binary", {}, BINARY_ROW, BINARY_ROW.byte() * 255, ["`target`", "255", SCALED]),
    "binary preds of 255": ("binary", {}, BINARY_ROW.byte() * 255, BINARY_ROW, ["`preds`", "255"]),
    "binary target of two": ("binary", {}, BINARY_ROW.float(), _values(0, 2, 1, 0), ["`target`", "2"]),
    "binary target with one 255": ("binary", {}, BINARY_ROW, _values(0, 1, 255, 0), ["`target`", "ignore_index=255"]),
    "soft binary target": ("binary", {}, BINARY_ROW.float(), _values(0.0, 0.25, 1, 0), ["`target`", "0.25"]),
    "nan binary target": ("binary", {}, BINARY_ROW.float(), _values(0.0, NAN, 1, 0), ["`target`", ("nan", "NaN")]),
    "nan probabilities": ("binary", {}, _values(0.5, NAN, 0.5, 0), BINARY_ROW, ["`preds`", ("nan", "NaN")]),
    "nan binary logits": (
        "binary",
        {"from_logits": True},
        _values(5.0, NAN, 0.5, 0),
        BINARY_ROW,
        ["`preds`", ("nan", "NaN")],
    ),
    "logits as probabilities": ("binary", {}, _values(0.5, 3.25, -1, 0), BINARY_ROW, ["`preds`", "from_logits=True"]),
    "probabilities below 0": ("binary", {}, _values(0.5, -0.001, 1, 0), BINARY_ROW, ["`preds`", "from_logits=True"]),
    "probabilities above 1": ("binary", {}, _values(0.5, 1.001, 1, 0), BINARY_ROW, ["`preds`", "from_logits=True"]),
    "infinite probabilities": ("binary", {}, _values(0.5, INF, 1, 0), BINARY_ROW, ["`preds`", "from_logits=True"]),
    "binary decisions of 2": ("binary", {}, _values(0, 2, 1, 0), BINARY_ROW, ["`preds`", "2"]),
    "binary decisions of -1": ("binary", {}, _values(0, -1, 1, 0), BINARY_ROW, ["`preds`", "-1"]),
    "multilabel target of 255": (
        "multilabel",
        L2,
        torch.zeros(1, 2, 3),
        torch.tensor([[[0, 255, 0], [0, 0, 255]]]),
        ["`target`", "255", SCALED],
    ),
    "multilabel target of 3": (
        "multilabel",
        L2,
        torch.zeros(1, 2, 3),
        torch.tensor([[[0, 3, 0], [0, 0, 1]]]),
        ["`target`", "3"],
    ),
    "multilabel logits as probabilities": (
        "multilabel",
        L2,
        torch.full((1, 2, 3), -4.0),
        torch.ones(1, 2, 3).long(),
        ["`preds`", "from_logits=True"],
    ),
    "multilabel nan": (
        "multilabel",
        L2 | {"from_logits": True},
        torch.full((1, 2, 3), NAN),
        torch.ones(1, 2, 3),
        ["`preds`", ("nan", "NaN")],
    ),
    "multilabel decisions of 2": (
        "multilabel",
        L2,
        torch.full((1, 2, 3), 2),
        torch.ones(1, 2, 3).long(),
        ["`preds`", "2"],
    ),
}

SHAPE_FAULTS = {
    "another width": (
        "binary",
        {},
        torch.zeros(2, 4, 4),
        torch.zeros(2, 4, 5),
        ["`preds`", "`target`", "4, 4", "4, 5"],
    ),
    "another number of samples": ("binary", {}, torch.zeros(1, 4, 4), torch.zeros(2, 4, 4), ["`preds`", "`target`"]),
    "another number of axes": ("binary", {}, torch.zeros(4, 4), torch.zeros(1, 4, 4), ["`preds`", "`target`"]),
    "a target that would broadcast": ("binary", {}, torch.zeros(2, 4, 4), torch.zeros(2, 4, 1), ["`target`", "4, 1"]),
    "two channels for binary": ("binary", {}, torch.zeros(2, 2, 4, 4), torch.zeros(2, 4, 4), ["`preds`", "2, 2, 4, 4"]),
    "no axis at all": ("binary", {}, torch.tensor(0.5), torch.tensor(1), ["`preds`"]),
    "labels of unequal shape": ("multiclass", C3, ROW, ROW[:, :3], ["`preds`", "`target`", "(1, 4)", "(1, 3)"]),
    "labels that would broadcast": (
        "multiclass",
        C3,
        torch.zeros(2, 1, 4, 4).long(),
        torch.zeros(1, 4, 4).long(),
        ["`preds`", "`target`"],
    ),
    "classes in the last axis": (
        "multiclass",
        C3,
        torch.zeros(2, 5, 4, 3),
        torch.zeros(2, 5, 4).long(),
        ["`preds`", "(2, 5, 4, 3)", "class_dim", "-1"],
    ),
    "classes in the third axis": (
        "multiclass",
        C3,
        torch.zeros(2, 5, 3, 4),
        torch.zeros(2, 5, 4).long(),
        ["`preds`", "class_dim", "2"],
    ),
    "three channels for five classes": (
        "multiclass",
        {"num_classes": 5},
        LOGITS,
        ROW,
        ["`preds`", "num_classes", "5", "3"],
    ),
    "scores without classes": ("multiclass", C3, torch.zeros(1, 4), ROW, ["`preds`", "3"]),
    "scores beside a smaller target": (
        "multiclass",
        C3,
        torch.zeros(2, 3, 5, 4),
        torch.zeros(2, 5, 3).long(),
        ["`target`", "(2, 3, 5, 4)", "(2, 5, 3)"],
    ),
    "a one-hot target of another count": (
        "multiclass",
        C3,
        ROW,
        torch.zeros(1, 4, 4).long(),
        ["`target`", "3", "4"],
    ),
    "index format and one-hot preds": (
        "multiclass",
        C3 | {"input_format": "index"},
        one_hot(ROW, 3),
        ROW,
        ["`preds`"],
    ),
    "one-hot format and labels": ("multiclass", C3 | {"input_format": "one-hot"}, ROW, ROW, ["input_format"]),
    "labels that look one-hot": (
        "multiclass",
        C3,
        one_hot(ROW, 3),
        one_hot(ROW, 3),
        ["input_format", "one-hot", "index"],
    ),
    "multilabel with a label too many": (
        "multilabel",
        L2,
        torch.zeros(1, 3, 4),
        torch.zeros(1, 3, 4).long(),
        ["num_labels", "2", "3"],
    ),
    "multilabel target without labels": (
        "multilabel",
        L2,
        torch.zeros(1, 2, 4),
        torch.zeros(1, 4).long(),
        ["`target`", "(1, 2, 4)", "(1, 4)"],
    ),
    "multilabel labels in the last axis": (
        "multilabel",
        L2,
        torch.zeros(1, 5, 4, 2),
        torch.zeros(1, 5, 4, 2).long(),
        ["class_dim", "-1"],
    ),
    "a mask of another shape": (
        "multiclass",
        C3,
        LOGITS,
        ROW,
        ["`mask`", "(1, 3)", "(1, 4)"],
        {"mask": torch.ones(1, 3).bool()},
    ),
    "a mask with classes": (
        "multiclass",
        C3,
        LOGITS,
        ROW,
        ["`mask`", "(1, 3, 4)"],
        {"mask": torch.ones(1, 3, 4).bool()},
    ),
    "a mask that would broadcast": (
        "binary",
        {},
        torch.zeros(2, 3),
        torch.zeros(2, 3),
        ["`mask`"],
        {"mask": torch.ones(1, 3).bool()},
    ),
}

TYPE_FAULTS = {
    "complex preds": ("binary", {}, torch.zeros(1, 4).cfloat(), BINARY_ROW, ["`preds`", "complex64"]),
    "complex target": ("multiclass", C3, ROW, ROW.cdouble(), ["`target`", "complex128"]),
    "float8 preds": ("binary", {}, torch.zeros(1, 4).to(torch.float8_e4m3fn), BINARY_ROW, ["`preds`", "float8"]),
    "float8 target": ("multiclass", C3, ROW, ROW.to(torch.float8_e5m2), ["`target`", "float8"]),
    "NumPy preds": ("multiclass", C3, ROW.numpy(), ROW, ["`preds`", FROM_NUMPY]),
    "NumPy target": ("binary", {}, torch.zeros(1, 4), np.zeros((1, 4)), ["`target`", FROM_NUMPY]),
    "a list": ("binary", {}, [[0.5, 0.1]], BINARY_ROW, ["`preds`", "list"]),
    "nothing": ("multilabel", L2, torch.zeros(1, 2, 4), None, ["`target`", "None"]),
    "an int mask": ("binary", {}, BINARY_ROW, BINARY_ROW, ["`mask`", "bool"], {"mask": BINARY_ROW}),
    "a NumPy mask": ("binary", {}, BINARY_ROW, BINARY_ROW, ["`mask`"], {"mask": np.ones((1, 4), dtype=bool)}),
}

FAULTS = {
    name: (task, options, preds, target, extra[0] if extra else {}, error, words)
    for faults, error in ((VALUE_FAULTS, ValueError), (SHAPE_FAULTS, ValueError), (TYPE_FAULTS, TypeError))
    for name, (task, options, preds, target, words, *extra) in faults.items()
}


def assert_says(text: str, words) -> None:
    for word in words:
        options = word if isinstance(word, tuple) else (word,)
        assert any(option in text for option in options), f"{word!r} is not in: {text}"


def healthy(task: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A good batch for the metrics of FAULTS: 1 sample (of another size)."""
    g = torch.Generator().manual_seed(seed)
    if task == "multiclass":
        return torch.randint(0, 2, (2, 7), generator=g), torch.randint(0, 2, (2, 7), generator=g)
    shape = (2, 2, 7) if task == "multilabel" else (2, 7)
    return torch.randint(0, 2, shape, generator=g), torch.randint(0, 2, shape, generator=g)


def feed_healthy(metric, task: str, options: dict, level: str, seed: int) -> None:
    preds, target = healthy(task, seed)
    if options.get("input_format") == "one-hot":
        preds, target = one_hot(preds, options["num_classes"]), one_hot(target, options["num_classes"])
    metric.update(preds, target, **case_ids_for(level, len(preds)))


def case_ids_for(level: str, samples: int) -> dict[str, list[int]]:
    return {"case_ids": [5 - n for n in range(samples)]} if level == "casewise" else {}


def snapshot(metric) -> tuple:
    """Everything of a metric that its user can see, bit by bit."""
    state = {
        name: [t.clone() for t in value] if isinstance(value, list) else value.clone()
        for name, value in metric.metric_state.items()
    }
    copy = metric.clone()
    value = copy.compute() if metric.update_called else torch.tensor(NAN)
    return state, metric.update_count, metric.update_called, value


def assert_unchanged(before: tuple, after: tuple) -> None:
    state, count, called, value = before
    state_after, count_after, called_after, value_after = after
    assert (count, called) == (count_after, called_after)
    assert state.keys() == state_after.keys()
    for name, then in state.items():
        now = state_after[name]
        pairs = [(then, now)] if isinstance(then, Tensor) else zip(then, now, strict=True)
        for a, b in pairs:
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(value, value_after, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("fault", FAULTS)
def test_functions_refuse(fault):
    task, options, preds, target, extra, error, words = FAULTS[fault]
    for function in (functional.dice_score, functional.overlap_counts):
        with pytest.raises(error) as info:
            function(preds, target, task=task, **options, **extra)
        assert_says(str(info.value), words)


ONE_FAULT_OF_A_KIND = ("a label too large", "another width", "complex preds")


@pytest.mark.parametrize(
    ("fault", "level", "way"),
    [
        (fault, level, way)
        for fault in FAULTS
        for level in LEVELS
        for way in ("update", "forward")
        if (level, way) == ("global", "update") or fault in ONE_FAULT_OF_A_KIND
    ],
)
def test_metrics_refuse_and_stay_as_they_were(fault, level, way):
    task, options, preds, target, extra, error, words = FAULTS[fault]
    metric = metric_for("dice", task, **options, aggregation_level=level)
    bring = metric.update if way == "update" else metric
    samples = preds.shape[0] if isinstance(preds, (Tensor, np.ndarray)) and preds.ndim else 1
    for step in range(3):  # on the fresh metric, after one update, after forward
        before = snapshot(metric)
        with pytest.raises(error) as info:
            bring(preds, target, **extra, **case_ids_for(level, samples))
        assert_says(str(info.value), words)
        assert_unchanged(before, snapshot(metric))
        if step == 0:
            feed_healthy(metric, task, options, level, 1)
        elif step == 1:
            p, t = healthy(task, 2)
            if options.get("input_format") == "one-hot":
                p, t = one_hot(p, 3), one_hot(t, 3)
            metric(p, t, **case_ids_for(level, len(p)))
    undisturbed = metric_for("dice", task, **options, aggregation_level=level)
    feed_healthy(undisturbed, task, options, level, 1)
    feed_healthy(undisturbed, task, options, level, 2)
    feed_healthy(undisturbed, task, options, level, 3)
    feed_healthy(metric, task, options, level, 3)
    torch.testing.assert_close(metric.compute(), undisturbed.compute(), rtol=0, atol=0)
    assert metric.update_count == undisturbed.update_count == 3


def test_a_refused_batch_leaves_the_cached_result_right():
    metric = tde.BinaryDiceScore()
    metric.update(BINARY_ROW, torch.tensor([[0, 1, 0, 0]]))
    value = metric.compute().clone()
    with pytest.raises(ValueError, match="`target`"):
        metric.update(BINARY_ROW, BINARY_ROW * 255)
    assert torch.equal(metric.compute(), value)
    with pytest.raises(ValueError, match="`target`"):
        metric(BINARY_ROW, BINARY_ROW * 255)
    assert torch.equal(metric.compute(), value)


def test_the_message_lists_the_values_and_counts_the_voxels():
    target = torch.zeros(1, 200, dtype=torch.int64)
    target[0, :137] = 41
    target[0, 137:150] = 17
    with pytest.raises(ValueError, match="`target`") as info:
        functional.dice_score(torch.zeros(1, 200, dtype=torch.int64), target, **MULTICLASS)
    assert_says(str(info.value), ["17", "41", "150", "voxel", ("[0, 3)", "0 to 2")])


def test_the_message_stays_short_whatever_comes():
    target = torch.arange(5000).reshape(1, -1)
    with pytest.raises(ValueError, match="`target`") as info:
        functional.dice_score(torch.zeros_like(target), target, **MULTICLASS)
    assert len(str(info.value)) < 1000
    assert "4997" in str(info.value)


@pytest.mark.parametrize("which", ["preds", "target", "mask"])
def test_two_devices(which):
    tensors = {"preds": LOGITS, "target": ROW, "mask": torch.ones(1, 4).bool()}
    tensors[which] = tensors[which].to("meta")
    metric = tde.MulticlassDiceScore(3)
    for bring in (metric.update, lambda *a, **k: functional.dice_score(*a, **k, **MULTICLASS)):
        with pytest.raises((ValueError, TypeError), match="device") as info:
            bring(tensors["preds"], tensors["target"], mask=tensors["mask"])
        assert_says(str(info.value), ["cpu", "meta", f"`{which}`"])
    assert metric.update_count == 0


def test_mask_and_case_ids_are_keywords():
    metric = tde.MulticlassDiceScore(3)
    with pytest.raises(TypeError):
        metric.update(ROW, ROW, torch.ones(1, 4).bool())
    assert metric.update_count == 0


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("fault", VALUE_FAULTS)
def test_without_checks_no_score_leaves_its_bounds(fault, level):
    task, options, preds, target, extra, _, _ = FAULTS[fault]
    for score in PARAMETERS:
        metric = metric_for(score, task, **options, aggregation_level=level, validate_args=False)
        metric.update(preds, target, **extra, **case_ids_for(level, preds.shape[0]))
        value = metric.compute().item()
        assert math.isnan(value) or 0.0 <= value <= 1.0
    counts = functional.overlap_counts(preds, target, task=task, **options, validate_args=False)
    intersection, pred_cardinality, target_cardinality, support = counts
    assert (intersection >= 0).all()
    assert (intersection <= torch.minimum(pred_cardinality, target_cardinality)).all()
    assert (torch.maximum(pred_cardinality, target_cardinality) <= support).all()


@pytest.mark.parametrize("fault", [name for name in SHAPE_FAULTS if name != "labels that look one-hot"])
def test_shapes_are_refused_without_checks_too(fault):
    """But for labels that look one-hot, whose values tell it: without checks they are labels."""
    task, options, preds, target, extra, error, words = FAULTS[fault]
    with pytest.raises(error) as info:
        functional.dice_score(preds, target, task=task, **options, **extra, validate_args=False)
    assert_says(str(info.value), words)


@pytest.mark.parametrize("fault", TYPE_FAULTS)
def test_types_are_refused_without_checks_too(fault):
    task, options, preds, target, extra, _, words = FAULTS[fault]
    with pytest.raises(TypeError) as info:
        functional.dice_score(preds, target, task=task, **options, **extra, validate_args=False)
    assert_says(str(info.value), words)


def test_checks_off_and_on_agree_on_good_batches():
    batch = multiclass_batch(22, void=255, masked=True)
    options = {"task": "multiclass", "num_classes": 4, "ignore_index": 255, "mask": batch.mask}
    on = functional.overlap_counts(batch.preds, batch.target, **options)
    off = functional.overlap_counts(batch.preds, batch.target, **options, validate_args=False)
    assert all(torch.equal(a, b) for a, b in zip(on, off, strict=True))


EITHER = (ValueError, TypeError)
OPTION_FAULTS = [
    ("MulticlassDiceScore", {"num_classes": 1}, ValueError, ["`num_classes`", "1"]),
    ("MulticlassDiceScore", {"num_classes": 0}, ValueError, ["`num_classes`", "0"]),
    ("MulticlassDiceScore", {"num_classes": -3}, ValueError, ["`num_classes`", "-3"]),
    ("MulticlassDiceScore", {"num_classes": 2.5}, EITHER, ["`num_classes`", "2.5"]),
    ("MulticlassDiceScore", {"num_classes": "3"}, EITHER, ["`num_classes`", "'3'"]),
    ("MulticlassDiceScore", {"num_classes": None}, EITHER, ["`num_classes`", "None"]),
    ("MultilabelDiceScore", {"num_labels": 0}, ValueError, ["`num_labels`", "0"]),
    ("MultilabelDiceScore", {"num_labels": 1.0}, EITHER, ["`num_labels`", "1.0"]),
    ("MulticlassDiceScore", {"num_classes": 3, "average": "mean"}, ValueError, ["`average`", "'mean'", "macro"]),
    ("MultilabelDiceScore", {"num_labels": 3, "average": "binary"}, ValueError, ["`average`", "'binary'", "micro"]),
    ("MulticlassDiceScore", {"num_classes": 3, "average": 1}, EITHER, ["`average`", "1"]),
    ("BinaryDiceScore", {"average": "macro"}, EITHER, ["average"]),
    ("BinaryJaccardIndex", {"average": "none"}, EITHER, ["average"]),
    ("MulticlassGeneralizedDiceScore", {"num_classes": 3, "average": "macro"}, EITHER, ["average"]),
    ("MultilabelGeneralizedDiceScore", {"num_labels": 3, "average": "micro"}, EITHER, ["average"]),
    ("BinaryGeneralizedDiceScore", {"average": "macro"}, EITHER, ["average"]),
    ("BinaryDiceScore", {"aggregation_level": "voxel"}, ValueError, ["`aggregation_level`", "'voxel'", "samplewise"]),
    ("BinaryDiceScore", {"zero_division": -0.1}, ValueError, ["`zero_division`", "-0.1"]),
    ("BinaryDiceScore", {"zero_division": 1.5}, ValueError, ["`zero_division`", "1.5"]),
    ("BinaryDiceScore", {"zero_division": "zero"}, EITHER, ["`zero_division`", "'zero'", "nan"]),
    ("BinaryDiceScore", {"threshold": 0}, ValueError, ["`threshold`", "0"]),
    ("BinaryDiceScore", {"threshold": 1.0}, ValueError, ["`threshold`", "1.0"]),
    ("BinaryDiceScore", {"threshold": -2.0}, ValueError, ["`threshold`", "-2.0"]),
    ("BinaryDiceScore", {"threshold": NAN}, ValueError, ["`threshold`", "nan"]),
    ("BinaryDiceScore", {"threshold": "0.5"}, EITHER, ["`threshold`", "'0.5'"]),
    ("BinaryDiceScore", {"threshold": [0.5, 0.5]}, EITHER, ["`threshold`"]),
    ("MultilabelDiceScore", {"num_labels": 3, "threshold": [0.5, 0.5]}, ValueError, ["`threshold`", "3", "2"]),
    ("MultilabelDiceScore", {"num_labels": 2, "threshold": [0.5, 1.5]}, ValueError, ["`threshold`", "1.5"]),
    ("BinaryDiceScore", {"from_logits": "yes"}, EITHER, ["`from_logits`", "'yes'"]),
    ("MulticlassDiceScore", {"num_classes": 3, "threshold": 0.5}, EITHER, ["threshold"]),
    ("MulticlassDiceScore", {"num_classes": 3, "from_logits": True}, EITHER, ["from_logits"]),
    ("MulticlassDiceScore", {"num_classes": 3, "input_format": "onehot"}, ValueError, ["`input_format`", "one-hot"]),
    ("MulticlassDiceScore", {"num_classes": 3, "class_dim": 0}, ValueError, ["`class_dim`", "0"]),
    ("MulticlassDiceScore", {"num_classes": 3, "class_dim": "last"}, EITHER, ["`class_dim`", "'last'"]),
    ("MulticlassDiceScore", {"num_classes": 3, "include_background": "no"}, EITHER, ["`include_background`", "'no'"]),
    ("MultilabelDiceScore", {"num_labels": 3, "include_background": False}, EITHER, ["include_background"]),
    ("BinaryDiceScore", {"include_background": False}, EITHER, ["include_background"]),
    ("BinaryDiceScore", {"ignore_index": "void"}, EITHER, ["`ignore_index`", "'void'"]),
    ("BinaryDiceScore", {"ignore_index": 1.5}, EITHER, ["`ignore_index`", "1.5"]),
    ("MulticlassDiceScore", {"num_classes": 3, "ignore_index": [1, "x"]}, EITHER, ["`ignore_index`", "'x'"]),
    ("MulticlassDiceScore", {"num_classes": 3, "class_names": ["a", "b"]}, ValueError, ["`class_names`", "3", "2"]),
    (
        "MulticlassDiceScore",
        {"num_classes": 3, "include_background": False, "class_names": ["a", "b"]},
        ValueError,
        ["`class_names`", "3", "2"],
    ),
    ("MulticlassDiceScore", {"num_classes": 3, "class_names": ["a", "b", "a"]}, ValueError, ["`class_names`", "'a'"]),
    ("MulticlassDiceScore", {"num_classes": 2, "class_names": ["a", "b.c"]}, ValueError, ["`class_names`", "b.c", "."]),
    ("MulticlassDiceScore", {"num_classes": 2, "class_names": ["a", 3]}, EITHER, ["`class_names`", "3"]),
    ("MulticlassDiceScore", {"num_classes": 3, "class_names": "abc"}, EITHER, ["`class_names`"]),
    ("MultilabelDiceScore", {"num_labels": 2, "class_names": ["a"]}, ValueError, ["`class_names`", "2", "1"]),
    ("MulticlassFBetaScore", {"num_classes": 3, "beta": -1.0}, ValueError, ["`beta`", "-1.0"]),
    ("BinaryFBetaScore", {"beta": NAN}, ValueError, ["`beta`", "nan"]),
    ("BinaryFBetaScore", {"beta": 0.0}, ValueError, ["`beta`", "0.0"]),
    ("BinaryFBetaScore", {"beta": 1e-200}, ValueError, ["`beta`", "1e-200", "finite square"]),
    ("BinaryFBetaScore", {"beta": 1e200}, ValueError, ["`beta`", "1e+200", "finite square"]),
    ("BinaryTverskyIndex", {"alpha": 0.0, "beta": 0.0}, ValueError, ["`alpha`", "`beta`"]),
    ("BinaryFBetaScore", {"beta": "2"}, EITHER, ["`beta`", "'2'"]),
    ("BinaryTverskyIndex", {"alpha": -0.5}, ValueError, ["`alpha`", "-0.5"]),
    ("BinaryTverskyIndex", {"beta": -0.5}, ValueError, ["`beta`", "-0.5"]),
    ("BinaryTverskyIndex", {"alpha": float("inf")}, ValueError, ["`alpha`", "inf"]),
    ("BinaryGeneralizedDiceScore", {"weight_type": "cubic"}, ValueError, ["`weight_type`", "'cubic'", "square"]),
    ("BinaryDiceScore", {"beta": 2.0}, EITHER, ["beta"]),
    ("BinaryDiceScore", {"validate_args": "sometimes"}, EITHER, ["`validate_args`", "'sometimes'"]),
    ("BinaryDiceScore", {"tresh": 0.5}, EITHER, ["tresh"]),
    ("MulticlassRecall", {"num_classes": 3, "top_k": 2}, EITHER, ["top_k"]),
    ("MulticlassDiceScore", {"num_classes": 3, "regions": {"a": [1, 3]}}, ValueError, ["`regions", "3"]),
    ("MulticlassDiceScore", {"num_classes": 3, "regions": {"a": []}}, ValueError, ["`regions", "'a'"]),
    ("MulticlassDiceScore", {"num_classes": 3, "regions": {}}, ValueError, ["`regions`"]),
    ("MulticlassDiceScore", {"num_classes": 3, "regions": {"a.b": [1]}}, ValueError, ["`regions`", "a.b"]),
    ("MulticlassDiceScore", {"num_classes": 3, "regions": [[1], [2]]}, EITHER, ["`regions`"]),
    (
        "MulticlassDiceScore",
        {"num_classes": 3, "regions": {"a": [1]}, "class_names": ["x", "y", "z"]},
        ValueError,
        ["`regions", "`class_names"],
    ),
    (
        "MulticlassDiceScore",
        {"num_classes": 3, "regions": {"a": [1]}, "include_background": False},
        ValueError,
        ["`regions`", "`include_background"],
    ),
    ("MulticlassDiceScore", {"num_classes": 3, "regions": {"a": [1, 1]}}, ValueError, ["`regions['a']`", "[1, 1]"]),
    ("MulticlassDiceScore", {"num_classes": 3, "regions": {"a": "12"}}, TypeError, ["`regions['a']`", "'12'"]),
    ("BinaryDiceScore", {"threshold": True}, TypeError, ["`threshold`", "True"]),
    ("MulticlassDiceScore", {"num_classes": 3, "input_format": ""}, ValueError, ["`input_format`", "got ''"]),
    ("BinaryDiceScore", {"zero_division": 10**400}, ValueError, ["`zero_division`", "from 0 to 1"]),
    ("BinaryFBetaScore", {"beta": 10**400}, ValueError, ["`beta`", "finite square"]),
    ("OverlapReport", {"task": "binary", "scores": [("dice", {"name": 1})]}, ValueError, ["'dice'", "['name']"]),
    ("DiceScore", {"task": "segmentation"}, ValueError, ["segmentation", "multiclass"]),
    ("DiceScore", {"task": "binary", "num_classes": 2}, ValueError, ["`num_classes`", "'binary'"]),
    ("DiceScore", {"task": "multiclass"}, EITHER, ["num_classes"]),
    ("DiceScore", {"task": "multilabel"}, EITHER, ["num_labels"]),
]


@pytest.mark.parametrize(("name", "options", "error", "words"), OPTION_FAULTS, ids=lambda value: str(value)[:60])
def test_options_that_are_refused(name, options, error, words):
    with pytest.raises(error) as info:
        getattr(tde, name)(**options)
    assert_says(str(info.value), words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "multiclass", "num_classes": 3, "average": "mean"}, ["`average`", "'mean'"]),
        ({"task": "multiclass", "num_classes": 1}, ["`num_classes`", "1"]),
        ({"task": "multiclass"}, ["num_classes"]),
        ({"task": "multilabel"}, ["num_labels"]),
        ({"task": "cells", "num_classes": 3}, ["cells", "multiclass"]),
        ({"task": "binary", "threshold": 1.5}, ["`threshold`", "1.5"]),
        ({"task": "binary", "average": "macro"}, ["average"]),
        ({"task": "binary", "zero_division": 2}, ["`zero_division`", "2"]),
        ({"task": "binary", "validate_args": "deferred"}, ["`validate_args`", "deferred"]),
        ({"task": "multiclass", "num_classes": 3, "aggregation_level": "x"}, ["`aggregation_level`", "'x'"]),
        ({"task": "multiclass", "num_classes": 3, "threshold": 0.5}, ["`threshold`", "'binary' or 'multilabel'"]),
        ({"task": "multiclass", "num_classes": 3, "from_logits": True}, ["`from_logits`", "'binary' or 'multilabel'"]),
        ({"task": "multiclass", "num_classes": 3, "num_labels": 3}, ["`num_labels`", "'multilabel'"]),
        ({"task": "binary", "num_classes": 2}, ["`num_classes`", "'binary'", "'multiclass'"]),
        ({"task": "binary", "input_format": "index"}, ["`input_format`", "'multiclass'"]),
        ({"task": "binary", "regions": {"a": [1]}}, ["`regions`", "'multiclass'"]),
        ({"task": "binary", "include_background": False}, ["`include_background=False`", "'binary'"]),
        ({"task": "binary", "case_ids": [0]}, ["`case_ids`", "casewise", "'global'"]),
        ({"task": "binary", "top_k": 1}, ["top_k", "zero_division"]),
    ],
    ids=str,
)
def test_options_that_functions_refuse(options, words):
    with pytest.raises(EITHER) as info:
        functional.dice_score(ROW % 2, ROW % 2, **options)
    assert_says(str(info.value), words)


def test_soft_scores_have_no_threshold():
    with pytest.raises(ValueError, match=r"`threshold` has no meaning .*soft scores never threshold"):
        functional.soft_dice_score(torch.rand(1, 4), ROW % 2, task="binary", threshold=0.5)


def test_options_as_tensors_and_nan():
    preds, target = torch.tensor([[[0.3], [0.6]]]), torch.tensor([[[1], [0]]])
    for threshold in ([0.25, 0.75], torch.tensor([0.25, 0.75])):
        metric = tde.MultilabelDiceScore(2, threshold=threshold, average="none", zero_division=NAN)
        metric.update(preds, target)
        np.testing.assert_equal(metric.compute().numpy(), np.array([1.0, NAN], dtype=np.float32))


def test_options_that_equal_strings_are_these_strings():
    word = type("Word", (str,), {"__repr__": lambda self: "Word"})
    options = {"task": "multiclass", "input_format": "index", "aggregation_level": "samplewise", "average": "micro"}
    one, other = (tde.DiceScore(num_classes=3, **{k: kind(v) for k, v in options.items()}) for kind in (str, word))
    assert one.metric_state.keys() == other.metric_state.keys()


def test_options_after_the_first_are_keywords():
    with pytest.raises(TypeError):
        tde.MulticlassDiceScore(3, "macro")
    with pytest.raises(TypeError):
        tde.MultilabelDiceScore(3, 0.5)
    with pytest.raises(TypeError):
        functional.dice_score(ROW, ROW, "multiclass", 3)


def test_class_axis_of_two_fitting_sizes_is_taken_where_the_option_says():
    preds = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    target = labels(8, (2, 3, 3))[0]
    for class_dim in (1, 2, 3):
        batch = Batch(preds, target, None, "scores", "labels", 2)
        options = {"num_classes": 3, "class_dim": class_dim}
        assert counts_of(preds, target, task="multiclass", **options) == truth_of(batch, "multiclass", **options)
