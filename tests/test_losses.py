"""Losses against NumPy and MONAI, their gradients, bounds, dtypes and modes; and why other losses leave [0, 1]."""

import copy
import inspect
import itertools
import math
import pickle
import re
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from cases import AVERAGES, FLOAT_DTYPES, to_numpy
from ddp import launch
from host_sync import no_host_sync
from test_soft import TASKS, batch, each_task, sized
from torch import Tensor, nn

from torchmetrics_dice_ext._inputs import read_inputs
from torchmetrics_dice_ext._options import Counting, Readout
from torchmetrics_dice_ext._readout import Score, read_out
from torchmetrics_dice_ext._soft_counts import count_soft
from torchmetrics_dice_ext.losses import (
    DiceLoss,
    GeneralizedDiceLoss,
    LossOptions,
    TverskyLoss,
    dice_loss,
    generalized_dice_loss,
    tversky_loss,
)

LOSSES: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "dice": (DiceLoss, {}),
    "dice squared": (DiceLoss, {"squared": True}),
    "generalized dice": (GeneralizedDiceLoss, {}),
    "generalized dice simple": (GeneralizedDiceLoss, {"weight_type": "simple"}),
    "generalized dice linear": (GeneralizedDiceLoss, {"weight_type": "linear"}),
    "tversky": (TverskyLoss, {"alpha": 0.3, "beta": 0.7}),
    "focal tversky": (TverskyLoss, {"alpha": 0.3, "beta": 0.7, "gamma": 0.75}),
}
each_loss = pytest.mark.parametrize("name", LOSSES)
each_average = pytest.mark.parametrize("average", AVERAGES)
each_level = pytest.mark.parametrize("level", ["samplewise", "global"])


def make(name: str, task: str, **options: Any) -> nn.Module:
    loss, parameters = LOSSES[name]
    return loss(task, **sized(task), **parameters, **options)


def gradient(loss: nn.Module, preds: Tensor, target: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
    preds = preds.detach().clone().requires_grad_()
    value = loss(preds, target, **given)
    value.sum().backward()
    assert preds.grad is not None
    return value.detach(), preds.grad


# against NumPy


def oracle_loss(
    name: str,
    counts: oracle.Counts,
    task: str,
    *,
    average: str = "macro",
    level: str = "samplewise",
    smooth: float = 0.0,
    weights: Any = None,
    background: bool = True,
) -> Any:
    """The loss of a batch of soft counts, class by class and observation by observation."""
    parameters = dict(LOSSES[name][1])
    gamma, kind = parameters.pop("gamma", 1.0), parameters.pop("weight_type", "square")
    alpha, beta = parameters.get("alpha", 0.5), parameters.get("beta", 0.5)
    found = []
    for rows in oracle.observations(counts, level).values():
        if name.startswith("generalized") and task == "binary":
            i, p, t, v = rows[0]
            rows = [(v - p - t + i, v - p, v - t, v), rows[0]]
        rows = rows if background else rows[1:]
        w = np.ones(len(rows)) if weights is None else np.array(weights)[-len(rows) :]
        takes_part = [v > 0 and (t > 0 or smooth > 0) for _, _, t, v in rows]

        def fraction(i: float, p: float, t: float) -> tuple[float, float]:
            if name.startswith(("tversky", "focal")):
                return i, i + alpha * (p - i) + beta * (t - i)
            return 2 * i, p + t

        def loss_of(i: float, p: float, t: float) -> float:
            numerator, denominator = fraction(i, p, t)
            return (1 - (numerator + smooth) / (denominator + smooth)) ** gamma

        kept = [c for c, counted in enumerate(takes_part) if counted]
        if name.startswith("generalized"):
            power = {"square": 2, "simple": 1, "linear": 0}[kind]
            most = max((rows[c][2] ** -power for c in kept if rows[c][2] > 0), default=1.0)
            by_volume = {c: w[c] * (rows[c][2] ** -power if rows[c][2] > 0 else most) for c in kept}
            parts = np.array([np.array(fraction(*rows[c][:3])) * by_volume[c] for c in kept]).sum(axis=0) + smooth
            found.append(1 - parts[0] / parts[1] if kept else math.nan)
        elif average == "micro":
            sums = [sum(w[c] * rows[c][k] for c in kept) for k in range(3)]
            found.append(loss_of(*sums) if kept else math.nan)
        elif average == "none":
            found.append([loss_of(*rows[c][:3]) if c in kept else math.nan for c in range(len(rows))])
        else:
            importance = [w[c] * (rows[c][2] if average == "weighted" else 1) for c in kept]
            total = sum(k * loss_of(*rows[c][:3]) for k, c in zip(importance, kept, strict=True))
            found.append(total / sum(importance) if sum(importance) else math.nan)
    per_class = np.array(found, dtype=float).reshape(len(found), -1)
    means = [np.mean(column[~np.isnan(column)]) if (~np.isnan(column)).any() else 0.0 for column in per_class.T]
    return means if average == "none" else means[0]


def sparse(task: str, from_logits: bool = True) -> tuple[Tensor, Tensor]:
    """A batch whose first sample has no target but background, and whose second lacks one class."""
    preds, target = batch(task, from_logits)
    target[0] = 0
    target[1][target[1] == 2] = 1
    return preds, target


@each_loss
@each_task
@each_level
@pytest.mark.parametrize("smooth", [0.0, 0.5])
def test_losses_are_their_formulas(name: str, task: str, level: str, smooth: float) -> None:
    preds, target = sparse(task)
    counts = oracle.soft_counts(
        to_numpy(preds),
        to_numpy(target),
        task=task,
        num_classes=3,
        from_logits=True,
        squared="squared" in name,
    )
    one = task == "binary" or name.startswith("generalized")
    for average in AVERAGES[:1] if one else AVERAGES:
        value = make(name, task, average=average, aggregation_level=level, smooth=smooth)(preds, target)
        wanted = oracle_loss(name, counts, task, average=average, level=level, smooth=smooth)
        np.testing.assert_allclose(value, wanted, rtol=1e-10)


@pytest.mark.parametrize(
    ("name", "average"),
    [("generalized dice", "macro"), *((name, a) for name in ("dice", "focal tversky") for a in AVERAGES[:3])],
)
@pytest.mark.parametrize("background", [True, False])
def test_class_weights_weight_the_average(name: str, average: str, background: bool) -> None:
    preds, target = sparse("multiclass")
    counts = oracle.soft_counts(to_numpy(preds), to_numpy(target), task="multiclass", num_classes=3, from_logits=True)
    weights = [0.2, 3.0, 1.0]
    loss = make(name, "multiclass", average=average, class_weights=weights, include_background=background)
    wanted = oracle_loss(name, counts, "multiclass", average=average, weights=weights, background=background)
    assert loss(preds, target).item() == pytest.approx(wanted, rel=1e-12)
    equal = make(name, "multiclass", average=average, class_weights=torch.full((3,), 0.25))
    assert torch.equal(equal(preds, target), make(name, "multiclass", average=average)(preds, target))


WEIGHTED: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (GeneralizedDiceLoss, {}),
    (GeneralizedDiceLoss, {"smooth": 0.5}),
    *((DiceLoss, {"average": average}) for average in AVERAGES[:3]),
    (DiceLoss, {"average": "micro", "smooth": 0.5}),
]


@pytest.mark.parametrize(("loss", "options"), WEIGHTED)
@pytest.mark.parametrize("scale", [1e39, 1e308, 1e-46, 5e-324])
def test_only_the_ratios_of_class_weights_matter(loss: Any, options: dict[str, Any], scale: float) -> None:
    preds, target = sparse("multiclass")
    wanted = gradient(loss("multiclass", 3, **options), preds, target)
    assert wanted[0] > 0.1
    given = gradient(loss("multiclass", 3, class_weights=[scale] * 3, **options), preds, target)
    assert torch.equal(given[0], wanted[0])
    assert torch.equal(given[1], wanted[1])
    heavy = loss("multiclass", 3, class_weights=[1e39, 1.0, 1.0], **options)(preds, target)
    alone = loss("multiclass", 3, class_weights=[1.0, 0.0, 0.0], **options)(preds, target)
    torch.testing.assert_close(heavy, alone, rtol=1e-15, atol=0)


@pytest.mark.parametrize(("loss", "options"), WEIGHTED)
def test_class_weights_keep_their_digits_in_any_dtype_of_the_module(loss: Any, options: dict[str, Any]) -> None:
    preds, target = sparse("multiclass")
    weights = {"class_weights": np.array([0.1, 0.37, 0.77])}
    function = dice_loss if loss is DiceLoss else generalized_dice_loss
    wanted = function(preds, target, "multiclass", 3, **weights, **options)  # type: ignore[operator]
    module = loss("multiclass", 3, **weights, **options)
    for moved in (module, module.half(), module.to(torch.bfloat16), module.double(), nn.Sequential(module).half()[0]):
        assert torch.equal(moved(preds, target), wanted)
    assert module.to("meta").class_weights.device.type == "meta"


SCORE_OF_LOSS = {"dice": dice_loss, "generalized_dice": generalized_dice_loss, "tversky": tversky_loss}


@pytest.mark.parametrize(
    ("task", "name", "squared"),
    [
        (task, name, squared)
        for task, name, squared in itertools.product(TASKS, SCORE_OF_LOSS, (False, True))
        if (task, name, squared) != ("binary", "generalized_dice", True)  # needs the background's squares too
    ],
)
def test_one_minus_the_loss_is_the_soft_score(task: str, name: str, squared: bool) -> None:
    preds, target = batch(task, from_logits=True)
    counting = Counting.of(task, soft=True, from_logits=True, squared=squared, **sized(task))  # type: ignore[arg-type]
    counts, _ = count_soft(read_inputs(preds, target, None, counting), counting)
    options: dict[str, Any] = {**sized(task), "squared": squared}
    for average in AVERAGES[:1] if task == "binary" or name == "generalized_dice" else AVERAGES[:3]:
        for level, rows in (("global", counts.sum(0, keepdim=True)), ("samplewise", counts)):
            readout = Readout.of(counting, average=average)  # type: ignore[arg-type]
            score = read_out(rows, Score.of(name), counting, readout)[0].mean()
            value = SCORE_OF_LOSS[name](preds, target, task, average=average, aggregation_level=level, **options)
            assert 1 - value.item() == pytest.approx(score.item(), abs=1e-15)


def test_functions_and_modules_agree() -> None:
    preds, target = sparse("multiclass")
    mask = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0)) > 0.3
    options: dict[str, Any] = {"ignore_index": 1, "average": "micro", "class_dim": -1}
    preds = preds.movedim(1, -1)
    for module, function, parameters in (
        (DiceLoss, dice_loss, {}),
        (TverskyLoss, tversky_loss, {"alpha": 0.2, "beta": 1.0, "gamma": 2.0}),
    ):
        value = module("multiclass", 3, **options, **parameters)(preds, target, mask=mask)
        assert torch.equal(value, function(preds, target, "multiclass", 3, mask=mask, **options, **parameters))
    value = GeneralizedDiceLoss("multilabel", num_labels=3, weight_type="simple")(*sparse_labels())
    assert torch.equal(value, generalized_dice_loss(*sparse_labels(), "multilabel", num_labels=3, weight_type="simple"))


def sparse_labels() -> tuple[Tensor, Tensor]:
    preds, labels = sparse("multiclass")
    return preds, nn.functional.one_hot(labels, 3).movedim(-1, 1)


# against MONAI


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_losses_equal_monai_where_every_class_is_present(task: str, background: bool, pooled: bool) -> None:
    losses = pytest.importorskip("monai.losses")
    preds, target = batch(task, from_logits=True)
    common: dict[str, Any] = {"batch": pooled, "smooth_nr": 0.0, "smooth_dr": 0.0}
    ours: dict[str, Any] = {"aggregation_level": "global" if pooled else "samplewise"}
    if task == "multiclass":
        common |= {"softmax": True, "to_onehot_y": True, "include_background": background}
        ours["include_background"] = background
        theirs_target = target.unsqueeze(1)
    else:
        common["sigmoid"] = True
        theirs_target = target.double()
    pairs = [
        (losses.DiceLoss(**common), make("dice", task, **ours)),
        (losses.DiceLoss(squared_pred=True, **common), make("dice squared", task, **ours)),
        (losses.TverskyLoss(alpha=0.3, beta=0.7, **common), make("tversky", task, **ours)),
        (losses.GeneralizedDiceLoss(**common), make("generalized dice", task, **ours)),
        (losses.GeneralizedDiceLoss(w_type="simple", **common), make("generalized dice simple", task, **ours)),
        (losses.GeneralizedDiceLoss(w_type="uniform", **common), make("generalized dice linear", task, **ours)),
    ]
    for theirs, mine in pairs:
        value, slope = gradient(mine, preds, target)
        wanted, wanted_slope = gradient(theirs, preds, theirs_target)
        torch.testing.assert_close(value, wanted, rtol=1e-6, atol=0)  # some of MONAI's sums are float32
        torch.testing.assert_close(slope, wanted_slope, rtol=1e-5, atol=1e-9)


def test_with_smoothing_absent_classes_take_part_as_in_monai() -> None:
    losses = pytest.importorskip("monai.losses")
    preds, target = sparse("multiclass")
    theirs = losses.DiceLoss(softmax=True, to_onehot_y=True, smooth_nr=0.5, smooth_dr=0.5)
    value, slope = gradient(make("dice", "multiclass", smooth=0.5), preds, target)
    wanted, wanted_slope = gradient(theirs, preds, target.unsqueeze(1))
    torch.testing.assert_close(value, wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(slope, wanted_slope, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(("kind", "theirs"), [("square", "square"), ("simple", "simple"), ("linear", "uniform")])
@pytest.mark.parametrize("smooth", [1e-5, 1.0])
def test_smoothing_is_added_to_the_ratio_of_generalized_dice_as_in_monai(
    smooth: float, kind: str, theirs: str, background: bool, pooled: bool
) -> None:
    losses = pytest.importorskip("monai.losses")
    preds, target = sparse("multiclass") if background or pooled else batch("multiclass", from_logits=True)
    options: dict[str, Any] = {"include_background": background}
    level = "global" if pooled else "samplewise"
    mine = GeneralizedDiceLoss("multiclass", 3, weight_type=kind, smooth=smooth, aggregation_level=level, **options)  # type: ignore[arg-type]
    options |= {"softmax": True, "to_onehot_y": True, "smooth_nr": smooth, "smooth_dr": smooth}
    value, slope = gradient(mine, preds, target)
    wanted, wanted_slope = gradient(
        losses.GeneralizedDiceLoss(w_type=theirs, batch=pooled, **options), preds, target.unsqueeze(1)
    )
    torch.testing.assert_close(value, wanted, rtol=1e-6, atol=0)  # MONAI's weights are float32
    torch.testing.assert_close(slope, wanted_slope, rtol=1e-5, atol=1e-9)


def test_smoothed_tversky_equals_monai() -> None:
    losses = pytest.importorskip("monai.losses")
    preds, target = sparse("multiclass")
    common = {"softmax": True, "to_onehot_y": True, "smooth_nr": 0.5, "smooth_dr": 0.5}
    pairs = [
        (losses.TverskyLoss(alpha=0.3, beta=0.7, **common), make("tversky", "multiclass", smooth=0.5)),
        (losses.DiceLoss(jaccard=True, **common), TverskyLoss("multiclass", 3, alpha=1, beta=1, smooth=0.25)),
    ]
    for theirs, mine in pairs:
        torch.testing.assert_close(mine(preds, target), theirs(preds, target.unsqueeze(1)), rtol=1e-6, atol=0)


# gradients


@each_loss
@each_task
@pytest.mark.parametrize("from_logits", [False, True])
def test_gradients_are_those_of_the_formula(name: str, task: str, from_logits: bool) -> None:
    preds, target = sparse(task, from_logits)
    preds = (preds if from_logits else preds * 0.9 + 0.05).requires_grad_()
    target[..., 0] = 255
    loss = make(name, task, from_logits=from_logits, ignore_index=255)
    assert torch.autograd.gradcheck(lambda p: loss(p, target), (preds,), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda p: loss(p, target), (preds,), fast_mode=True)


@each_average
@each_level
@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_gradients_of_every_average(average: str, level: str, smooth: float) -> None:
    preds, target = sparse("multiclass")
    losses = [make("focal tversky", "multiclass", average=average, aggregation_level=level, smooth=smooth)]
    if average == "macro":
        losses.append(make("generalized dice", "multiclass", aggregation_level=level, smooth=smooth))
    for loss in losses:
        assert torch.autograd.gradcheck(lambda p, loss=loss: loss(p, target), (preds.requires_grad_(),), fast_mode=True)


def test_gradients_by_tiles_and_layouts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    preds, target = sparse("multiclass")
    loss = make("dice squared", "multiclass")
    _, whole = gradient(loss, preds, target)
    last = preds.movedim(1, -1).contiguous()
    _, of_last = gradient(make("dice squared", "multiclass", class_dim=-1), last, target)
    torch.testing.assert_close(of_last.movedim(-1, 1), whole, rtol=1e-12, atol=1e-18)
    monkeypatch.setattr("torchmetrics_dice_ext._soft_counts._TILE_ON_CPU", 9)
    torch.testing.assert_close(gradient(loss, preds, target)[1], whole, rtol=1e-12, atol=1e-18)
    assert torch.autograd.gradgradcheck(lambda p: loss(p, target), (preds.requires_grad_(),), fast_mode=True)


@each_loss
@each_task
@pytest.mark.parametrize("held", [0.3, math.nan, math.inf, -math.inf, 1e30])
def test_void_voxels_have_no_gradient_whatever_they_hold(name: str, task: str, held: float) -> None:
    preds, target = batch(task, from_logits=True)
    loss = make(name, task, ignore_index=(7, 255))
    mask = torch.ones(3, 5, 7, dtype=torch.bool)
    mask[:, 1] = False
    target[..., 2, :] = 255
    target[..., 3, :] = 7
    preds[..., 1:4, :] = held
    value, slope = gradient(loss, preds, target, mask=mask)
    rows = [0, 4]
    wanted, wanted_slope = gradient(loss, preds[..., rows, :], target[..., rows, :])
    assert torch.equal(slope[..., 1:4, :], torch.zeros_like(slope[..., 1:4, :]))
    torch.testing.assert_close(slope[..., rows, :], wanted_slope, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)


def test_backward_keeps_inputs_only() -> None:
    kept: list[Tensor] = []
    preds, target = torch.randn(1, 5, 40, 40, requires_grad=True), torch.randint(0, 5, (1, 40, 40))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        DiceLoss("multiclass", 5)(preds, target)
    large = {t.untyped_storage().data_ptr() for t in kept if t.numel() > 100}
    assert large == {preds.untyped_storage().data_ptr(), target.untyped_storage().data_ptr()}


# bounds


EXTREMES = (0.0, 1.0, -1.0, 30.0, -30.0, 88.8, 1e4, -1e4, 6e4, -6e4)


@each_loss
@each_task
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("smooth", [0.0, 1e-5, 1.0])
def test_extremes_are_bounded_and_have_finite_gradients(
    name: str, task: str, dtype: torch.dtype, smooth: float
) -> None:
    g = torch.Generator().manual_seed(3)
    for space, share in itertools.product([(1,), (3, 7)], [0.0, 0.5, 1.0]):
        _, target = batch(task, True, space, samples=2)
        target = target * (torch.rand(target.shape, generator=g) < share)
        shape = target.shape if task != "multiclass" else (2, 3, *space)
        for size in (*EXTREMES, math.inf):
            logits = size * torch.randn(shape, generator=g).sign() if math.isinf(size) else torch.full(shape, size)
            for given in (logits, logits * torch.randn(shape, generator=g)):
                if given.isnan().any():
                    continue
                value, slope = gradient(make(name, task, smooth=smooth), given.to(dtype).clamp(-6e4, 6e4), target)
                assert 0 <= value <= 1
                assert value.dtype == torch.promote_types(dtype, torch.float32)
                assert slope.isfinite().all()
                assert slope.dtype == dtype


@each_loss
@each_task
def test_perfect_predictions_reach_0_and_inverted_ones_1(name: str, task: str) -> None:
    _, target = batch(task, from_logits=True)
    shares = target if task != "multiclass" else nn.functional.one_hot(target, 3).movedim(-1, 1)
    perfect = make(name, task, from_logits=False)
    for probabilities in (shares.float(), shares.double(), shares.half()):
        value, slope = gradient(perfect, probabilities, target)
        assert value == 0
        assert slope.isfinite().all()
    inverted = 1 - shares if task != "multiclass" else shares.roll(1, 1)
    value, slope = gradient(perfect, inverted.float(), target)
    assert value == 1
    assert slope.isfinite().all()


@each_loss
def test_no_batch_leaves_the_bounds(name: str) -> None:
    g = torch.Generator().manual_seed(4)
    for trial in range(60):
        target = torch.randint(0, 2, (2, 3, int(torch.randint(1, 400, (), generator=g))), generator=g)
        near = (target - torch.rand(target.shape, generator=g) * 2.0**-22).abs()
        for dtype in (torch.float64, torch.float32, torch.float16):
            level = ("samplewise", "global")[trial % 2]
            loss = make(name, "multiclass", from_logits=False, aggregation_level=level, soft_target=True)
            assert 0 <= loss(near.to(dtype), target) <= 1


@each_loss
@each_task
@each_level
def test_nothing_left_is_0_with_a_graph(name: str, task: str, level: str) -> None:
    loss = make(name, task, ignore_index=255, aggregation_level=level)
    preds, target = batch(task, from_logits=True)
    nothing = [
        (preds, torch.full_like(target, 255)),
        (preds[:0], target[:0]),
        (preds[..., :0], target[..., :0]),
    ]
    if task == "multilabel" or (task == "binary" and not name.startswith("generalized")):
        nothing.append((preds, torch.zeros_like(target)))
    for given in nothing:
        value, slope = gradient(loss, *given)
        assert value == 0
        assert torch.equal(slope, torch.zeros_like(given[0]))


def test_a_sample_with_nothing_left_does_not_count_in_the_mean() -> None:
    preds, target = batch("binary", from_logits=True)
    alone = dice_loss(preds[1:], target[1:], "binary")
    target[0] = 0
    assert dice_loss(preds, target, "binary").item() == pytest.approx(alone.item(), abs=1e-15)


def test_a_focal_exponent_below_1_stays_finite_at_perfection() -> None:
    logits = torch.tensor([[200.0, -200.0, 200.0]])
    value, slope = gradient(TverskyLoss("binary", gamma=0.1), logits, torch.tensor([[1, 0, 1]]))
    assert value == 0
    assert slope.tolist() == [[0.0, 0.0, 0.0]]


# what users met


def test_forum_sum_over_classes_divided_by_the_batch_alone() -> None:
    """Question 3: a Dice of 1.9096 from randn(3, 9, 64, 64, 64) and targets {0, 1}.

    V-Net's Dice of every class is right, 0.2122. They are summed over 9 classes, then divided by 3, the batch, once.
    """
    torch.manual_seed(0)
    preds, target = torch.randn(3, 9, 64, 64, 64), torch.randint(0, 2, (3, 9, 64, 64, 64))
    p, t = preds.softmax(1).flatten(2), target.flatten(2)
    of_class = 2 * (p * t).sum(2) / ((p * p).sum(2) + t.sum(2))
    assert (of_class.sum() / len(p)).item() == pytest.approx(1.9096, abs=2e-3)
    value = dice_loss(p, t, "multilabel", num_labels=9, from_logits=False, squared=True)
    assert 1 - value.item() == pytest.approx(1.9096 / 9, abs=2e-4)


def test_forum_generalized_dice_of_raw_outputs() -> None:
    """Question 3: a Generalized Dice loss of 1.0013 from the same tensors.

    The outputs of the network came without softmax: their "volumes" are sums of negative and positive numbers, so that
    the overlap is negative as often as not.
    """
    losses = []
    for seed in range(8):
        g = torch.Generator().manual_seed(seed)
        preds = torch.randn(3, 9, 16, 16, 16, generator=g)
        labels = torch.randint(0, 9, (3, 16, 16, 16), generator=g)
        t = nn.functional.one_hot(labels, 9).movedim(-1, 1).float()
        i, p, volume = (side.sum((0, 2, 3, 4)) for side in (preds * t, preds, t))
        w = 1 / volume**2
        losses.append(1 - (2 * (w * i).sum() / (w * (p + volume)).sum()).item())
        value = generalized_dice_loss(preds, labels, "multiclass", 9, aggregation_level="global")
        assert 0 <= value <= 1
        with pytest.raises(ValueError, match=r"(?s)probabilities from 0 to 1, got .* say `from_logits=True`"):
            generalized_dice_loss(preds, labels, "multiclass", 9, from_logits=False)
    assert max(losses) > 1


def test_forum_negative_loss_from_masks_of_255() -> None:
    """Question 5: with a mask of {0, 255} the naive loss falls towards -1, and better predictions make it worse."""
    p = torch.full((1, 100), 0.9)
    target = torch.full((1, 100), 255)
    naive = 1 - 2 * (p * target).sum() / (p.sum() + target.sum())
    assert naive < -0.79
    with pytest.raises(ValueError, match=r"got 255 in 100 voxels\. If 255 means foreground .* use `target > 0`"):
        dice_loss(p, target, "binary", from_logits=False)
    assert dice_loss(p, target > 0, "binary", from_logits=False).item() == pytest.approx(1 - 1.8 / 1.9)


def test_forum_negative_loss_from_a_tiny_denominator() -> None:
    """Question 5: smoothing the numerator by 1 and the denominator by 1e-6 gives an empty mask a loss of -10⁶."""
    p, target = torch.zeros(1, 100), torch.zeros(1, 100, dtype=torch.int64)
    naive = 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1e-6)
    assert naive < -9e5
    assert dice_loss(p, target, "binary", from_logits=False) == 0
    assert dice_loss(p, target, "binary", from_logits=False, smooth=1e-6) == 0


def test_forum_loss_of_float16_sums() -> None:
    """Question 5: float16 sums of more than 65,504 voxels are infinite."""
    p, target = torch.ones(1, 300, 300, dtype=torch.float16), torch.ones(1, 300, 300, dtype=torch.uint8)
    total = p.flatten().sum(dtype=torch.float16)
    assert (1 - 2 * total / (total + total)).isnan()
    assert dice_loss(p, target, "binary", from_logits=False) == 0


# modes


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing_but_the_network(name: str, dtype: torch.dtype) -> None:
    _, target = sparse("multiclass")
    features = torch.randn(3, 3, 5, 7, generator=torch.Generator().manual_seed(5))
    network = nn.Conv2d(3, 3, 1)
    with torch.autocast("cpu", dtype=dtype):
        logits = network(features)
        assert logits.dtype == dtype
        value = make(name, "multiclass")(logits, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, make(name, "multiclass")(logits.float(), target))
    value.backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())  # type: ignore[union-attr]


COMPILED = [
    ("dice squared", "aot_eager"),
    ("generalized dice", "aot_eager"),
    pytest.param("focal tversky", "inductor", marks=pytest.mark.slow),
]
whatever_dynamo_warns_of = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:Guards may run slower:RuntimeWarning"
)
not_by_torch_2_4 = pytest.mark.skipif(torch.__version__ < (2, 5), reason="its compiler can't trace the backward pass")


@whatever_dynamo_warns_of
@not_by_torch_2_4
@pytest.mark.parametrize(("name", "backend"), COMPILED)
def test_compiled_losses_equal_eager_ones(name: str, backend: str) -> None:
    preds, target = sparse("multiclass")
    target[2, 0] = 255
    preds = preds.float()
    loss = make(name, "multiclass", ignore_index=255)
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    value, slope = gradient(compiled, preds, target)  # type: ignore[arg-type]
    wanted, wanted_slope = gradient(loss, preds, target)
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(slope, wanted_slope)
    target[0, 0] = 99
    value, slope = gradient(compiled, preds, target)  # type: ignore[arg-type]
    assert value.isnan()
    assert not slope.any()


@whatever_dynamo_warns_of
@not_by_torch_2_4
def test_functions_compile_too() -> None:
    preds, target = sparse("multilabel")

    def total(preds: Tensor, target: Tensor) -> Tensor:
        return sum(f(preds, target, "multilabel", num_labels=2) for f in (dice_loss, tversky_loss))  # type: ignore[return-value]

    torch.compiler.reset()
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(preds, target), total(preds, target))


def test_transforms_of_torch_func_say_that_they_are_not_supported() -> None:
    preds, target = sparse("multiclass")
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda p: dice_loss(p, target, "multiclass", 3))(preds)


@each_task
@pytest.mark.parametrize("validate_args", ["deferred", False])
def test_losses_never_wait_for_the_device(task: str, validate_args: Any) -> None:
    preds, target = batch(task, from_logits=True)
    losses = [make(name, task, ignore_index=255, validate_args=validate_args) for name in LOSSES]
    with no_host_sync() as guard:
        sum(loss(preds.requires_grad_(), target) for loss in losses).backward()  # type: ignore[union-attr]
    assert guard.seen > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_loss
def test_cuda_graphs_replay_losses(name: str) -> None:
    preds, target = (tensor.cuda() for tensor in sparse("multiclass"))
    preds = preds.float().requires_grad_()
    loss = make(name, "multiclass").cuda()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            loss(preds, target).backward()
    torch.cuda.current_stream().wait_stream(side)
    preds.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = loss(preds, target)
        value.backward()
    with torch.no_grad():
        preds.copy_(preds.flip(0))
    graph.replay()
    wanted, wanted_slope = gradient(loss, preds, target)
    torch.testing.assert_close(value.detach(), wanted)
    torch.testing.assert_close(preds.grad, wanted_slope)


def test_modules_travel() -> None:
    preds, target = sparse("multiclass")
    loss = TverskyLoss("multiclass", 3, alpha=0.1, beta=2.0, class_weights=[1.0, 2.0, 0.5])
    assert not loss.state_dict()
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(preds, target), loss(preds, target))


def test_a_loss_shows_what_differs_from_the_defaults() -> None:
    shown = [
        "DiceLoss(task='binary')",
        "DiceLoss(task='multiclass', num_classes=3, squared=True, smooth=1.0)",
        "DiceLoss(task='multilabel', num_labels=2, average='micro', class_weights=(1.0, 2.0), sync=True)",
        "GeneralizedDiceLoss(task='multiclass', num_classes=3, weight_type='simple', include_background=False)",
        "TverskyLoss(task='multiclass', num_classes=3, alpha=0.1, gamma=2.0, ignore_index=(0, 255), class_dim=-1)",
        "TverskyLoss(task='binary', from_logits=False, aggregation_level='global', soft_target=True)",
        "TverskyLoss(task='binary', beta=1.0, validate_args='deferred')",
    ]
    for text in shown:
        assert repr(eval(text)) == text
    assert (
        repr(DiceLoss("multiclass", 3, smooth=0, average="macro", class_dim=1))
        == "DiceLoss(task='multiclass', num_classes=3)"
    )


@pytest.mark.parametrize("loss", [DiceLoss, GeneralizedDiceLoss, TverskyLoss])
def test_the_docstring_of_a_loss_explains_all_that_it_takes(loss: type[nn.Module]) -> None:
    text = loss.__doc__
    assert text is not None
    for section in ("Args:", "Shape:", "Raises:", "Options (keyword-only, the same for all):", "Example:"):
        assert text.count(f"\n\n{section}\n") == 1
    taken = inspect.signature(loss).parameters.keys() - {"options"} | LossOptions.__optional_keys__
    assert [name for name in taken if not re.search(rf"\b{name}\b", text)] == []


# malformed input


@each_task
def test_malformed_values_are_refused_made_nan_or_left_out(task: str) -> None:
    preds, target = batch(task, from_logits=True)
    target.view(-1)[0] = 9
    with pytest.raises(ValueError, match=r"got 9 in 1 voxel\."):
        make("dice", task)(preds, target)
    value, slope = gradient(make("dice", task, validate_args="deferred"), preds, target)
    assert value.isnan()
    assert not slope.any()
    value, slope = gradient(make("dice", task, validate_args=False), preds, target)
    wanted, wanted_slope = gradient(make("dice", task, ignore_index=9), preds, target)
    assert torch.equal(value, wanted)
    assert torch.equal(slope, wanted_slope)


@each_task
def test_fractions_are_refused_unless_meant(task: str) -> None:
    preds, _ = batch(task, from_logits=True)
    shares = torch.rand(preds.shape, generator=torch.Generator().manual_seed(6))
    with pytest.raises(ValueError, match="For fractions meant as shares say `soft_target=True`"):
        make("dice", task)(preds, shares)
    for name in LOSSES:
        loss = make(name, task, soft_target=True)
        assert 0 <= loss(preds, shares) <= 1
        assert torch.autograd.gradcheck(lambda p, loss=loss: loss(p, shares), (preds.requires_grad_(),), fast_mode=True)
    with pytest.raises(ValueError, match=r"must hold shares from 0 to 1 \(`soft_target=True`\), got other values in"):
        make("dice", task, soft_target=True)(preds, shares + 0.5)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"average": "mean"}, ValueError, "`average` must be one of"),
        ({"aggregation_level": "casewise"}, ValueError, "`aggregation_level` must be one of ('samplewise', 'global')"),
        ({"smooth": -1.0}, ValueError, "`smooth` must be a number of at least 0"),
        ({"squared": 1}, TypeError, "`squared` must be True or False"),
        ({"sync": "yes"}, TypeError, "`sync` must be True or False"),
        ({"validate_args": "later"}, ValueError, "`validate_args` must be one of"),
        ({"class_weights": [1.0]}, ValueError, "`class_weights` must hold 3 numbers, one per class, got 1"),
        ({"class_weights": [1.0, -1.0, 0.0]}, ValueError, "`class_weights` must be numbers of at least 0, got -1.0"),
        ({"class_weights": [0.0, 0.0, 0.0]}, ValueError, "`class_weights` can't all be 0"),
        ({"class_weights": [1.0, 0.0, 0.0], "include_background": False}, ValueError, "can't all be 0 for the classes"),
        ({"class_weights": [0.0, 1.0, 0.0], "ignore_index": 1}, ValueError, "can't all be 0 for the classes"),
        ({"smooth": 10**400}, ValueError, "`smooth` must be a number of at least 0"),
        ({"class_weights": 2.0}, TypeError, "`class_weights` must be a sequence of 3 numbers"),
        ({"class_weights": [1.0, 2.0, 3.0], "average": "none"}, ValueError, "which `average='none'` has none of"),
        ({"gamma": 0.0}, ValueError, "`gamma` must be a number above 0"),
        ({"alpha": 0.3, "beta": 0.7, "squared": True}, ValueError, "`squared=True` needs `alpha` equal to `beta`"),
        ({"threshold": 0.5}, TypeError, "`threshold`: not needed, probabilities are never thresholded."),
        ({"input_format": "index"}, TypeError, "`input_format`: not needed, a target of preds' shape is one-hot."),
        ({"regions": {"all": [1, 2]}}, TypeError, "`regions`: `task='multilabel'` on unions of probabilities."),
        ({"weight_type": "square"}, TypeError, "Unexpected options ['weight_type']; a tversky loss takes ['aggregat"),
    ],
)
def test_options_are_checked(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        TverskyLoss("multiclass", 3, **options)
    assert text in str(raised.value)


def test_unknown_options_are_refused_with_those_that_are_known_and_the_way_out() -> None:
    options: dict[str, Any] = {"softmax": True, "reduction": "mean", "colour": "red"}
    taken = sorted(LossOptions.__optional_keys__)
    for refused in (
        lambda: DiceLoss("multiclass", 3, **options),
        lambda: dice_loss(torch.zeros(1, 3, 2), torch.zeros(1, 2), "multiclass", 3, **options),
    ):
        with pytest.raises(TypeError) as raised:
            refused()
        assert str(raised.value) == (
            f"Unexpected options ['colour', 'reduction', 'softmax']; a dice loss takes {taken}."
            " `reduction`: not needed, the loss is a mean over samples, with `average='none'` one for each class."
            " `softmax`: `from_logits=True`, the default."
        )
    with pytest.raises(TypeError, match=r"Unexpected options \['gamma'\]; a dice loss takes"):
        DiceLoss("multiclass", 3, gamma=2.0)  # type: ignore[call-arg]
    known = sorted([*taken, "alpha", "beta", "gamma"])
    with pytest.raises(TypeError, match=re.escape(f"a tversky loss takes {known}. `batch`: `aggregation_level='glob")):
        TverskyLoss("binary", batch=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=re.escape(f"dice loss takes {sorted([*taken, 'weight_type'])}. `w_type`: `we")):
        GeneralizedDiceLoss("binary", w_type="simple")  # type: ignore[call-arg]


def test_options_without_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="`average` has no meaning for a generalized_dice loss of task 'multiclass'"):
        GeneralizedDiceLoss("multiclass", 3, average="micro")
    with pytest.raises(ValueError, match="`average` has no meaning for a dice loss of task 'binary'"):
        DiceLoss("binary", average="none")
    with pytest.raises(ValueError, match="which task 'binary' has none of"):
        DiceLoss("binary", class_weights=[1.0])
    with pytest.raises(ValueError, match="can't go with the binary Generalized Dice loss"):
        GeneralizedDiceLoss("binary", squared=True)


@each_loss
@each_task
def test_decisions_are_no_predictions_of_a_loss(name: str, task: str) -> None:
    _, target = batch(task, from_logits=True)
    text = (
        r"`preds` of a loss must be logits or probabilities of a float dtype, got torch\.int64: decisions have no grad"
    )
    with pytest.raises(TypeError, match=text):
        make(name, task)(target, target)


# over ranks


SYNCHRONISED = list(itertools.product(("dice squared", "generalized dice"), ("samplewise", "global")))


def _step(name: str, level: str, samples: slice, parallel: bool) -> tuple[float, Tensor]:
    """Loss and gradient of a small model, which DistributedDataParallel averages over the ranks if there are any."""
    torch.manual_seed(0)
    network = nn.Conv2d(3, 3, 1).double()
    model = nn.parallel.DistributedDataParallel(network) if parallel else network
    features, target = sparse("multiclass")
    loss = make(name, "multiclass", sync=True, aggregation_level=level)
    value = loss(model(features[samples]), target[samples])
    value.backward()
    assert network.weight.grad is not None
    return value.item(), network.weight.grad


def _steps_on_ranks(rank: int, world: int) -> list[tuple[float, Tensor]]:
    """The last rank has fewer samples."""
    del world
    return [_step(*case, slice(0, 2) if rank == 0 else slice(2, 3), parallel=True) for case in SYNCHRONISED]


@pytest.mark.ddp
def test_synchronised_ranks_give_the_gradient_of_the_whole_batch() -> None:
    for of_rank in launch(_steps_on_ranks, 2, timeout=120):
        for case, (value, slope) in zip(SYNCHRONISED, of_rank, strict=True):
            wanted, wanted_slope = _step(*case, slice(None), parallel=False)
            assert value == pytest.approx(wanted, abs=1e-14)
            torch.testing.assert_close(slope, wanted_slope, rtol=1e-10, atol=1e-14)


def _with_a_malformed_batch_on_rank_1(rank: int, world: int) -> list[Any]:
    """For each level: the deferred loss and its steepest slope, and what the eager one raises."""
    del world
    found: list[Any] = []
    for level in ("samplewise", "global"):
        logits, target = batch("multiclass", from_logits=True)
        target[0, 0, 0] = 7 if rank == 1 else target[0, 0, 0]
        deferred, eager = (
            DiceLoss("multiclass", 3, sync=True, aggregation_level=level, validate_args=mode)
            for mode in ("deferred", "eager")
        )
        value = deferred(logits.requires_grad_(), target)
        value.backward()
        with pytest.raises(ValueError, match=r"malformed|labels") as refusal:
            eager(logits, target)
        found.append((value.item(), logits.grad.abs().max().item(), str(refusal.value)))
    return found


@pytest.mark.ddp
def test_a_malformed_batch_on_one_rank_is_known_to_all() -> None:
    for rank, found in enumerate(launch(_with_a_malformed_batch_on_rank_1, 2, timeout=120)):
        for value, slope, refusal in found:
            assert math.isnan(value)
            assert slope == 0
            assert ("another rank" in refusal, "got 7 in 1 voxel" in refusal) == (rank == 0, rank == 1)
