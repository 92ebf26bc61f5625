"""Soft counts and soft scores against NumPy: probabilities, void and malformed voxels, bounds, tiles."""

import math
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from cases import FLOAT_DTYPES, some, to_numpy
from host_sync import no_host_sync
from torch import Tensor

from torchmetrics_dice_ext import _soft_counts
from torchmetrics_dice_ext._faults import NUM_FAULTS, Fault
from torchmetrics_dice_ext._inputs import read_inputs
from torchmetrics_dice_ext._options import Counting, Readout
from torchmetrics_dice_ext._readout import Score, read_out
from torchmetrics_dice_ext._soft_counts import count_soft
from torchmetrics_dice_ext._tiles import cut, cut_channels, tiles
from torchmetrics_dice_ext.functional import soft_dice_score

TASKS = ("binary", "multiclass", "multilabel")
CHANNELS = {"binary": 1, "multiclass": 3, "multilabel": 2}
each_task = pytest.mark.parametrize("task", TASKS)


def sized(task: str) -> dict[str, int]:
    return {"multiclass": {"num_classes": 3}, "multilabel": {"num_labels": 2}}.get(task, {})


def batch(task: str, from_logits: bool, space: tuple[int, ...] = (5, 7), samples: int = 3) -> tuple[Tensor, Tensor]:
    """Float64 logits or probabilities, and a target as labels or masks."""
    g = torch.Generator().manual_seed(TASKS.index(task))
    shape = (samples, *space) if task == "binary" else (samples, CHANNELS[task], *space)
    logits = 2 * torch.randn(shape, generator=g, dtype=torch.float64)
    if task == "multiclass":
        return (logits if from_logits else logits.softmax(1)), torch.randint(0, 3, (samples, *space), generator=g)
    return (logits if from_logits else logits.sigmoid()), torch.randint(0, 2, shape, generator=g)


def count(
    preds: Tensor, target: Tensor, task: str, mask: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    soft_target = options.pop("soft_target", False)
    counting = Counting.of(task, soft=True, **sized(task), **options)  # type: ignore[arg-type]
    return count_soft(read_inputs(preds, target, mask, counting), counting, soft_target=soft_target)


def expected(preds: Tensor, target: Tensor, task: str, mask: Tensor | None = None, **options: Any) -> np.ndarray:
    options = {"num_classes": CHANNELS[task], "mask": None if mask is None else to_numpy(mask), **options}
    counts = oracle.soft_counts(to_numpy(preds), to_numpy(target), task=task, **options)
    columns = (counts.intersection, counts.pred_cardinality, counts.target_cardinality, counts.support)
    return np.stack(columns, axis=-1)


@each_task
@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("space", [(5, 7), (), (3, 4, 2)])
def test_counts_are_sums_over_voxels(task: str, from_logits: bool, squared: bool, space: tuple[int, ...]) -> None:
    preds, target = batch(task, from_logits, space)
    counts, faults = count(preds, target, task, from_logits=from_logits, squared=squared)
    assert counts.dtype == torch.float64
    assert faults.tolist() == [0] * NUM_FAULTS
    np.testing.assert_allclose(
        counts, expected(preds, target, task, from_logits=from_logits, squared=squared), rtol=1e-12
    )


@each_task
def test_void_voxels_are_left_out_whatever_they_hold(task: str) -> None:
    preds, target = batch(task, from_logits=True)
    mask = ~some((3, 5, 7), torch.Generator().manual_seed(1))
    target[0, ..., 0] = 255
    wanted = expected(preds, target, task, mask, from_logits=True, ignore_index=255)
    everywhere = mask if task != "multilabel" else mask.unsqueeze(1).expand_as(target)
    void = (target == 255) | ~everywhere
    spoiled = preds.clone()
    if task == "multiclass":
        spoiled.movedim(1, -1)[void] = torch.tensor([math.nan, math.inf, -math.inf], dtype=torch.float64)
    else:
        spoiled[void] = math.nan
    counts, faults = count(spoiled, target, task, mask, from_logits=True, ignore_index=255)
    assert faults.sum() == 0
    np.testing.assert_allclose(counts, wanted, rtol=1e-12)


@pytest.mark.parametrize("ignored", [2, (0, 255), -1])
def test_ignored_classes_are_void_in_one_hot_targets_too(ignored: Any) -> None:
    preds, labels = batch("multiclass", from_logits=True)
    one_hot = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
    for dtype in (torch.int64, torch.float32, torch.bool):
        counts, _ = count(preds, one_hot.to(dtype), "multiclass", from_logits=True, ignore_index=ignored)
        assert torch.equal(counts, count(preds, labels, "multiclass", from_logits=True, ignore_index=ignored)[0])
    np.testing.assert_allclose(
        counts, expected(preds, labels, "multiclass", from_logits=True, ignore_index=ignored), rtol=1e-12
    )


@each_task
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.uint64], ids=str)
def test_void_values_that_no_target_holds(task: str, dtype: torch.dtype) -> None:
    preds, target = batch(task, from_logits=True)
    strange = (2**70, 2**63, -(2**70), -1)  # of which a uint64 of the same bits is none
    counts, faults = count(preds, target.to(dtype), task, from_logits=True, ignore_index=strange)
    assert faults.sum() == 0
    np.testing.assert_allclose(counts, expected(preds, target, task, from_logits=True), rtol=1e-12)


def test_the_largest_uint64_is_not_void_because_its_bits_are_those_of_minus_1() -> None:
    preds, target = batch("multiclass", from_logits=True)
    target[0, 0, 0] = -1
    target = target.view(torch.uint64)
    for ignored, faulty in ((-1, 1), (2**64 - 1, 0)):
        faults = count(preds, target, "multiclass", from_logits=True, ignore_index=ignored)[1]
        assert faults[Fault.TARGET_LABEL] == faults.sum() == faulty


def test_regions_are_unions_of_their_labels() -> None:
    preds, labels = batch("multiclass", from_logits=True)
    counts, _ = count(preds, labels, "multiclass", from_logits=True, regions={"all": [0, 1, 2], "some": [0, 2]})
    p = preds.softmax(1)
    for region, members in enumerate(((0, 1, 2), (0, 2))):
        union = sum(p[:, label] for label in members)
        inside = sum((labels == label).double() for label in members)
        sums = [(union * inside).sum((1, 2)), union.sum((1, 2)), inside.sum((1, 2)), torch.full((3,), 35.0)]  # type: ignore[operator, union-attr]
        torch.testing.assert_close(counts[:, region], torch.stack(sums, -1).double(), rtol=1e-12, atol=0)


def test_the_probability_of_a_region_never_passes_1() -> None:
    logits = torch.randn(9999, 3, generator=torch.Generator().manual_seed(0))
    assert (logits.softmax(1).sum(1) > 1).any()
    labels = torch.zeros(9999, dtype=torch.int64)
    counts, _ = count(logits, labels, "multiclass", from_logits=True, regions={"all": [0, 1, 2], "some": [0, 2]})
    assert (counts[:, 0, 1] <= 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_is_summed_in_high_precision(dtype: torch.dtype) -> None:
    preds = torch.full((1, 3, 300, 300), 0.1, dtype=dtype)  # 90,000 voxels: a float16 sum would be infinite
    target = torch.ones(1, 300, 300, dtype=torch.uint8)
    counts, _ = count(preds, target, "multiclass")
    torch.testing.assert_close(counts[0, 1, 0], preds[0, 0, 0, 0].double() * 90_000, rtol=1e-6, atol=0)


def test_layout_and_class_dim_change_nothing() -> None:
    preds, target = batch("multiclass", from_logits=True)
    reference, _ = count(preds, target, "multiclass", from_logits=True)
    last = preds.movedim(1, -1)
    for given in (last, last.contiguous()):
        assert torch.equal(count(given, target, "multiclass", from_logits=True, class_dim=-1)[0], reference)
    strided = torch.empty(3, 3, 5, 14, dtype=torch.float64)[..., ::2].copy_(preds)
    assert torch.equal(count(strided, target, "multiclass", from_logits=True)[0], reference)


@each_task
@pytest.mark.parametrize("elements", [1, 9, 10**6])
def test_counts_do_not_depend_on_the_tiles(task: str, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    preds, target = batch(task, from_logits=True)
    whole, _ = count(preds, target, task, from_logits=True)
    monkeypatch.setattr(_soft_counts, "_TILE_ON_CPU", elements)
    torch.testing.assert_close(count(preds, target, task, from_logits=True)[0], whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("space", [(3, 4, 5), (1, 1), (7, 0), (2, 300), (65, 3, 2, 2)])
@pytest.mark.parametrize("voxels", [1, 7, 64, 10**6])
def test_tiles_cover_every_voxel_once(space: tuple[int, ...], voxels: int) -> None:
    seen = torch.zeros(space)
    channels = seen.unsqueeze(1).expand(space[0], 2, *space[1:])
    for box in tiles(space, voxels):
        assert cut(seen, box).numel() <= voxels
        assert cut_channels(channels, box).shape[1:] == (2, cut(seen, box).shape[1])
        seen[box] += 1
    assert (seen == 1).all()


MALFORMED: dict[str, tuple[str, Fault, Any]] = {
    "nan logit": ("multiclass", Fault.PREDS_NAN, lambda p, t: p[0, 1, 2, 3].fill_(math.nan)),
    "nan in masks": ("multilabel", Fault.PREDS_NAN, lambda p, t: p[0, 1, 2, 3].fill_(math.nan)),
    "label": ("multiclass", Fault.TARGET_LABEL, lambda p, t: t[0, 2, 3].fill_(3)),
    "negative label": ("multiclass", Fault.TARGET_LABEL, lambda p, t: t[0, 2, 3].fill_(-1)),
    "mask value": ("binary", Fault.TARGET_BINARY, lambda p, t: t[0, 2, 3].fill_(2)),
}


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.parametrize("float_target", [False, True])
def test_a_malformed_voxel_is_a_fault_and_in_no_count(case: str, float_target: bool) -> None:
    task, fault, spoil = MALFORMED[case]
    preds, target = batch(task, from_logits=True)
    mask = torch.ones(3, 5, 7, dtype=torch.bool)
    mask[0, 2, 3] = False
    without, _ = count(preds, target, task, mask, from_logits=True)
    spoil(preds, target)
    counts, faults = count(preds, target.double() if float_target else target, task, from_logits=True)
    assert faults.nonzero().tolist() == [[fault]]
    assert faults.sum() == 1
    touched = slice(1, None) if task == "multilabel" else slice(None)  # for label 0 that voxel counts
    torch.testing.assert_close(counts[:, touched], without[:, touched], rtol=1e-12, atol=0)


@each_task
def test_probabilities_and_fractions_out_of_bounds_are_faults(task: str) -> None:
    preds, target = batch(task, from_logits=False)
    preds[0, 0, 0] = 1 + 1e-5  # rounding, clamped
    assert count(preds, target, task)[1].sum() == 0
    preds[0, 0, 0, ...] = 1.5
    assert count(preds, target, task)[1][Fault.PREDS_PROBABILITY] > 0
    assert count(preds, target, task, from_logits=True)[1].sum() == 0
    shape = preds.shape
    half = torch.full(shape, 0.5)
    fault = Fault.TARGET_ONE_HOT if task == "multiclass" else Fault.TARGET_FRACTION
    assert count(half, half, task)[1][fault] == (3 * 35 if task == "multiclass" else half.numel())
    assert count(half, half, task, soft_target=True)[1].sum() == 0
    assert count(half, half + 1, task, soft_target=True)[1][Fault.TARGET_FRACTION] > 0


def test_an_unsigned_target_does_not_match_a_negative_ignore_index() -> None:
    preds, target = torch.rand(1, 4), torch.tensor([[255, 1, 0, 1]], dtype=torch.uint8)
    assert count(preds, target, "binary", ignore_index=-1)[1][Fault.TARGET_BINARY] == 1


def test_infinite_logits_are_certain() -> None:
    logits = torch.tensor([[math.inf, 0.0], [-math.inf, 0.0], [0.0, -math.inf]]).T.reshape(1, 2, 3).contiguous()
    counts, faults = count(logits[:, 0], torch.ones(1, 3, dtype=torch.int64), "binary", from_logits=True)
    assert counts[0, 0, 0] == 1.5  # 1 + 0 + 0.5
    three = torch.tensor([math.inf, 0.0, -math.inf]).view(1, 3, 1)
    counts, faults = count(three, torch.zeros(1, 1, dtype=torch.int64), "multiclass", from_logits=True)
    assert counts[0, :, 1].tolist() == [1.0, 0.0, 0.0]
    assert faults.sum() == 0


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("squared", [False, True])
def test_rounding_never_lifts_a_score_above_1(dtype: torch.dtype, squared: bool) -> None:
    g = torch.Generator().manual_seed(0)
    for _ in range(200):
        target = torch.randint(0, 2, (1, int(torch.randint(1, 5000, (), generator=g))), generator=g)
        nearly = (target - torch.rand(target.shape, generator=g) * 2.0**-24).abs().to(dtype)
        i, p, t, _ = count(nearly, target, "binary", squared=squared)[0][0, 0]
        assert 2 * i <= p + t
        assert squared or i <= min(p, t)


def test_decisions_are_no_probabilities() -> None:
    labels = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"must be probabilities or logits of a float dtype, got torch\.int64: hard"):
        count(labels, labels, "binary")


def test_a_soft_target_has_a_class_axis() -> None:
    with pytest.raises(ValueError, match=r"must have preds' shape \(3, 3, 5, 7\) with `soft_target=True`"):
        count(*batch("multiclass", from_logits=True), "multiclass", from_logits=True, soft_target=True)


def test_soft_targets_count_their_shares() -> None:
    preds, _ = batch("multiclass", from_logits=True)
    target = torch.rand(preds.shape, generator=torch.Generator().manual_seed(2)).softmax(1)
    target[0, :, 0, 0] = torch.tensor([0.0, 1.0, 0.0])  # one-hot of a void class
    for squared in (False, True):
        options: dict[str, Any] = {"from_logits": True, "soft_target": True, "squared": squared, "ignore_index": 1}
        counts, faults = count(preds, target, "multiclass", **options)
        p, t = preds.softmax(1).flatten(2).clone(), target.double().flatten(2).clone()
        p[0, :, 0] = t[0, :, 0] = 0
        power = 2 if squared else 1
        sums = [(p * t).sum(2), (p**power).sum(2), (t**power).sum(2)]
        torch.testing.assert_close(counts[..., :3], torch.stack(sums, -1), rtol=1e-12, atol=0)
        assert faults.sum() == 0


@each_task
def test_counting_never_waits_for_the_device(task: str) -> None:
    preds, target = batch(task, from_logits=True)
    with no_host_sync() as guard:
        count(preds, target, task, from_logits=True, ignore_index=255)
    assert guard.seen > 0


@each_task
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("level", ["global", "samplewise"])
@pytest.mark.usefixtures("double_results")
def test_soft_dice_score_is_its_formula(task: str, squared: bool, level: str) -> None:
    preds, target = batch(task, from_logits=True)
    options: dict[str, Any] = {"from_logits": True, "squared": squared}
    value = soft_dice_score(preds, target, task, aggregation_level=level, **sized(task), **options)  # type: ignore[arg-type]
    wanted = oracle.soft_counts(to_numpy(preds), to_numpy(target), task=task, num_classes=CHANNELS[task], **options)
    assert value.item() == pytest.approx(oracle.evaluate("dice", wanted, aggregation_level=level), rel=1e-12)


@each_task
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_soft_dice_is_read_from_soft_counts(task: str, squared: bool, average: str) -> None:
    preds, target = batch(task, from_logits=True)
    counting = Counting.of(task, soft=True, from_logits=True, **sized(task))  # type: ignore[arg-type]
    counts, _ = count(preds, target, task, from_logits=True, squared=squared)
    value, _ = read_out(counts.sum(0), Score.of("dice"), counting, Readout.of(counting, average=average))
    wanted = oracle.soft_counts(
        to_numpy(preds),
        to_numpy(target),
        task=task,
        num_classes=CHANNELS[task],
        from_logits=True,
        squared=squared,
    )
    assert value.item() == pytest.approx(oracle.evaluate("dice", wanted, average=average), rel=1e-12)
