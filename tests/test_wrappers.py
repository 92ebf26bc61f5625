"""torchmetrics' wrappers, metric arithmetic and plots around the metrics, each with a value worked out apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.wrappers import (
    BootStrapper,
    ClasswiseWrapper,
    MetricTracker,
    MinMaxMetric,
    MultioutputWrapper,
    MultitaskWrapper,
    Running,
)

from torchmetrics_dice_ext import (
    BinaryDiceScore,
    BinaryJaccardIndex,
    MulticlassDiceScore,
    MulticlassJaccardIndex,
    MulticlassRecall,
)

NAMES = ["air", "liver", "spleen"]


def batches() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(5)
    shape = (4, 3, 6)
    return [(torch.randint(0, 3, shape, generator=draw), torch.randint(0, 3, shape, generator=draw)) for _ in range(5)]


def plain_dice(pairs: list[tuple[Tensor, Tensor]], classes: tuple[int, ...] = (0, 1, 2)) -> list[float]:
    """Return Dice per class over all of `pairs`, by counting one class at a time."""
    found = []
    for label in classes:
        hits = sum(int(((preds == label) & (target == label)).sum()) for preds, target in pairs)
        sizes = sum(int((preds == label).sum() + (target == label).sum()) for preds, target in pairs)
        found.append(2 * hits / sizes if sizes else math.nan)
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


# ClasswiseWrapper


@pytest.mark.parametrize("average", ["none", None])
def test_classwise_wrapper_names_the_classes(average: str | None) -> None:
    metric = ClasswiseWrapper(MulticlassDiceScore(3, average=average), labels=NAMES, prefix="dice/")
    for pair in batches():
        metric.update(*pair)
    values = metric.compute()
    assert list(values) == [f"dice/{name}" for name in NAMES]
    assert [value.item() for value in values.values()] == pytest.approx(plain_dice(batches()))
    assert all(isinstance(value, Tensor) and value.ndim == 0 for value in values.values())


def test_classwise_wrapper_of_a_metric_without_background() -> None:
    inner = MulticlassDiceScore(3, average="none", include_background=False, class_names=NAMES)
    metric = ClasswiseWrapper(inner, labels=NAMES[1:])
    batch_values = metric(*batches()[0])
    assert [value.item() for value in batch_values.values()] == pytest.approx(plain_dice(batches()[:1], (1, 2)))
    assert list(batch_values) == ["multiclassdicescore_liver", "multiclassdicescore_spleen"]


def test_classwise_wrapper_in_a_collection_takes_case_ids() -> None:
    collection = MetricCollection(
        {
            "cases": ClasswiseWrapper(
                MulticlassDiceScore(3, average="none", aggregation_level="casewise"), labels=NAMES, prefix="cases/"
            ),
            "all": ClasswiseWrapper(MulticlassDiceScore(3, average="none"), labels=NAMES, prefix="all/"),
        }
    )
    for preds, target in batches():
        collection.update(preds, target, case_ids=["a", "b", "a", "b"])
    values = collection.compute()
    by_case = [[(preds[row::2], target[row::2]) for preds, target in batches()] for row in range(2)]
    for number, name in enumerate(NAMES):
        assert values[f"all/{name}"].item() == pytest.approx(plain_dice(batches())[number])
        wanted = mean([plain_dice(case)[number] for case in by_case])
        assert values[f"cases/{name}"].item() == pytest.approx(wanted)


def test_classwise_wrapper_resets_its_metric() -> None:
    metric = ClasswiseWrapper(MulticlassDiceScore(3, average="none"), labels=NAMES, prefix="")
    metric.update(*batches()[0])
    metric.compute()
    metric.reset()
    metric.update(*batches()[1])
    assert [value.item() for value in metric.compute().values()] == pytest.approx(plain_dice(batches()[1:2]))


# BootStrapper


@pytest.mark.parametrize("strategy", ["poisson", "multinomial"])
def test_bootstrapper_of_a_global_metric(strategy: str) -> None:
    torch.manual_seed(0)
    metric = BootStrapper(MulticlassDiceScore(3), num_bootstraps=40, raw=True, sampling_strategy=strategy)
    for pair in batches():
        metric.update(*pair)
    values = metric.compute()
    assert values["raw"].shape == (40,)
    assert values["mean"].item() == pytest.approx(mean(plain_dice(batches())), abs=0.03)
    assert 0.0 < values["std"] < 0.1
    assert values["raw"].unique().numel() > 20


def test_bootstrapper_resamples_as_by_hand() -> None:
    """The seed of torch gives the rows of every resample, so that each value can be recounted."""
    metric = BootStrapper(MulticlassDiceScore(3), num_bootstraps=6, raw=True, sampling_strategy="multinomial")
    preds, target = batches()[0]
    torch.manual_seed(21)
    metric.update(preds, target)
    torch.manual_seed(21)
    rows = [torch.multinomial(torch.ones(4), 4, replacement=True) for _ in range(6)]
    wanted = [mean(plain_dice([(preds[row], target[row])])) for row in rows]
    assert metric.compute()["raw"].tolist() == pytest.approx(wanted)


def test_bootstrapper_resamples_cases_with_their_ids() -> None:
    """Tensor ids go along with their samples: no case is ever mixed with another one's voxels."""
    preds, target = batches()[0]
    ids = torch.tensor([10, 11, 12, 13])
    metric = BootStrapper(
        MulticlassDiceScore(3, aggregation_level="casewise"),
        num_bootstraps=8,
        raw=True,
        sampling_strategy="multinomial",
    )
    torch.manual_seed(4)
    metric.update(preds, target, case_ids=ids)
    torch.manual_seed(4)
    rows = [torch.multinomial(torch.ones(4), 4, replacement=True) for _ in range(8)]
    each = [mean(plain_dice([(preds[n : n + 1], target[n : n + 1])])) for n in range(4)]
    wanted = [mean([each[n] for n in sorted(set(row.tolist()))]) for row in rows]
    assert metric.compute()["raw"].tolist() == pytest.approx(wanted)


def test_bootstrapper_takes_a_mask_along() -> None:
    preds, target = batches()[0]
    mask = torch.rand(preds.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    metric = BootStrapper(MulticlassDiceScore(3), num_bootstraps=5, raw=True, sampling_strategy="multinomial")
    torch.manual_seed(9)
    metric.update(preds, target, mask=mask)
    torch.manual_seed(9)
    rows = [torch.multinomial(torch.ones(4), 4, replacement=True) for _ in range(5)]
    wanted = [mean(plain_dice([(preds[row][mask[row]], target[row][mask[row]])])) for row in rows]
    assert metric.compute()["raw"].tolist() == pytest.approx(wanted)


# MetricTracker


def test_tracker_finds_the_best_epoch() -> None:
    tracker = MetricTracker(MulticlassDiceScore(3), maximize=True)
    wanted = []
    for preds, target in batches():
        tracker.increment()
        tracker.update(preds, target)
        wanted.append(mean(plain_dice([(preds, target)])))
    assert tracker.compute_all().tolist() == pytest.approx(wanted)
    best, step = tracker.best_metric(return_step=True)
    assert best == pytest.approx(max(wanted))
    assert step == wanted.index(max(wanted))


def test_tracker_of_a_collection() -> None:
    collection = MetricCollection({"dice": MulticlassDiceScore(3), "recall": MulticlassRecall(3, average="micro")})
    tracker = MetricTracker(collection, maximize=True)
    wanted_dice, wanted_recall = [], []
    for preds, target in batches()[:3]:
        tracker.increment()
        tracker.update(preds, target)
        wanted_dice.append(mean(plain_dice([(preds, target)])))
        wanted_recall.append((preds == target).double().mean().item())
    best, step = tracker.best_metric(return_step=True)
    assert best == pytest.approx({"dice": max(wanted_dice), "recall": max(wanted_recall)})
    assert step == {
        "dice": wanted_dice.index(max(wanted_dice)),
        "recall": wanted_recall.index(max(wanted_recall)),
    }


# MinMaxMetric


def test_min_max_follows_the_running_value() -> None:
    metric = MinMaxMetric(MulticlassDiceScore(3))
    seen: list[float] = []
    for number, pair in enumerate(batches(), start=1):
        metric.update(*pair)
        seen.append(mean(plain_dice(batches()[:number])))
        values = metric.compute()
        wanted = {"raw": seen[-1], "min": min(seen), "max": max(seen)}
        assert {name: value.item() for name, value in values.items()} == pytest.approx(wanted)


# Running


@pytest.mark.parametrize("method", ["update", "forward"])
@pytest.mark.parametrize("level", ["global", "samplewise"])
def test_running_covers_the_last_batches_alone(method: str, level: str) -> None:
    metric = Running(MulticlassDiceScore(3, aggregation_level=level), window=2)
    for number, pair in enumerate(batches(), start=1):
        batch_value = getattr(metric, method)(*pair)
        window = batches()[max(0, number - 2) : number]
        rows = [[(preds[n], target[n])] for preds, target in window for n in range(4)]
        pools = [window] if level == "global" else rows
        assert metric.compute().item() == pytest.approx(mean([nanmean(plain_dice(pool)) for pool in pools]))
        if method == "forward" and level == "global":
            assert batch_value.item() == pytest.approx(mean(plain_dice([pair])))


def nanmean(values: list[float]) -> float:
    return mean([value for value in values if not math.isnan(value)])


def test_running_over_cases() -> None:
    metric = Running(MulticlassDiceScore(3, aggregation_level="casewise"), window=2)
    names = [["a", "a", "b", "b"], ["b", "b", "c", "d"], ["c", "c", "d", "e"]]
    for (preds, target), ids in zip(batches(), names, strict=False):
        metric.update(preds, target, case_ids=ids)
    cases: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for (preds, target), ids in list(zip(batches(), names, strict=False))[1:]:
        for row, name in enumerate(ids):
            cases.setdefault(name, []).append((preds[row], target[row]))
    assert set(cases) == {"b", "c", "d", "e"}
    assert metric.compute().item() == pytest.approx(mean([nanmean(plain_dice(case)) for case in cases.values()]))


# MultitaskWrapper, MultioutputWrapper


def test_multitask_wrapper() -> None:
    metric = MultitaskWrapper(
        {"organ": MulticlassDiceScore(3), "lesion": MetricCollection([BinaryDiceScore(), BinaryJaccardIndex()])}
    )
    (preds, target), (other_preds, other_target) = batches()[:2]
    lesion = (other_preds > 0).int(), (other_target > 0).int()
    metric.update({"organ": preds, "lesion": lesion[0]}, {"organ": target, "lesion": lesion[1]})
    values = metric.compute()
    wanted = plain_dice([lesion], (1,))[0]
    assert values["organ"].item() == pytest.approx(mean(plain_dice([(preds, target)])))
    assert values["lesion"]["BinaryDiceScore"].item() == pytest.approx(wanted)
    assert values["lesion"]["BinaryJaccardIndex"].item() == pytest.approx(wanted / (2 - wanted))


@pytest.mark.parametrize("remove_nans", [True, False])
def test_multioutput_wrapper(remove_nans: bool) -> None:
    """Two heads side by side in the last axis, each scored by itself."""
    metric = MultioutputWrapper(BinaryDiceScore(), num_outputs=2, remove_nans=remove_nans)
    draw = torch.Generator().manual_seed(2)
    pairs = [(torch.rand(30, 2, generator=draw), torch.randint(0, 2, (30, 2), generator=draw)) for _ in range(2)]
    for preds, target in pairs:
        metric.update(preds, target)
    wanted = [plain_dice([((p[:, n] > 0.5).int(), t[:, n]) for p, t in pairs], (1,))[0] for n in range(2)]
    assert metric.compute().tolist() == pytest.approx(wanted)
    assert wanted[0] != wanted[1]


# Input transformers


def test_lambda_input_transformer() -> None:
    wrappers = pytest.importorskip("torchmetrics.wrappers")
    metric = wrappers.LambdaInputTransformer(
        BinaryDiceScore(), transform_pred=lambda preds: preds / 100, transform_target=lambda target: target // 255
    )
    preds = torch.tensor([[90.0, 20.0, 60.0, 55.0]])
    metric.update(preds, torch.tensor([[255, 255, 0, 255]]))
    assert metric.compute().item() == pytest.approx(2 * 2 / (3 + 3))
    assert metric(preds[:, :2], torch.tensor([[255, 0]])).item() == 1.0
    assert metric.compute().item() == pytest.approx(2 * 3 / (4 + 4))


def test_binary_target_transformer() -> None:
    wrappers = pytest.importorskip("torchmetrics.wrappers")
    metric = wrappers.BinaryTargetTransformer(BinaryJaccardIndex(), threshold=0.3)
    metric.update(torch.tensor([[0.9, 0.8, 0.1, 0.2]]), torch.tensor([[0.4, 0.2, 0.9, 0.0]]))
    assert metric.compute().item() == pytest.approx(1 / 3)


# Arithmetic


def test_sums_products_and_scalings_of_metrics() -> None:
    dice, jaccard = MulticlassDiceScore(3), MulticlassJaccardIndex(3)
    both = 0.25 * dice + jaccard * 0.75
    loss = 1 - dice
    product = dice * jaccard
    for pair in batches():
        both.update(*pair)
    wanted_dice = plain_dice(batches())
    wanted_jaccard = mean([value / (2 - value) for value in wanted_dice])
    assert both.compute().item() == pytest.approx(0.25 * mean(wanted_dice) + 0.75 * wanted_jaccard)
    assert loss.compute().item() == pytest.approx(1 - mean(wanted_dice))
    assert product.compute().item() == pytest.approx(mean(wanted_dice) * wanted_jaccard)


def test_arithmetic_of_vectors_and_forward() -> None:
    first, second = MulticlassDiceScore(3, average="none"), MulticlassRecall(3, average="none")
    total = first + second
    batch_value = total(*batches()[0])
    total.update(*batches()[1])
    preds, target = batches()[0]
    recall = [((preds == c) & (target == c)).sum().item() / (target == c).sum().item() for c in range(3)]
    wanted = [one + other for one, other in zip(plain_dice(batches()[:1]), recall, strict=True)]
    assert batch_value.tolist() == pytest.approx(wanted)
    assert first.compute().tolist() == pytest.approx(plain_dice(batches()[:2]))


# Plots


@pytest.fixture
def pyplot() -> Iterator[Any]:
    matplotlib = pytest.importorskip("matplotlib")
    before = matplotlib.get_backend()
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    yield plt
    plt.close("all")
    matplotlib.use(before)


def after_all(metric: Metric) -> Metric:
    for pair in batches():
        metric.update(*pair)
    return metric


def texts(axes: Any) -> set[str]:
    """Return every word on a drawn plot."""
    axes.figure.canvas.draw()
    legend = axes.get_legend()
    found = {label.get_text() for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]}
    found |= {text.get_text() for text in (legend.get_texts() if legend else [])}
    return found | {text.get_text() for text in axes.texts} | {axes.get_xlabel(), axes.get_ylabel(), axes.get_title()}


def drawn(axes: Any) -> list[float]:
    """Return the heights of the points and bars of a plot."""
    points = [float(y) for line in axes.lines for y in torch.as_tensor(line.get_ydata()).flatten()]
    return points + [float(bar.get_height()) for bar in axes.patches]


def close_to_all(found: list[float], wanted: list[float]) -> bool:
    return all(any(math.isclose(one, other, abs_tol=1e-6) for one in found) for other in wanted)


def test_plot_of_a_scalar(pyplot: Any) -> None:
    figure, axes = after_all(MulticlassDiceScore(3)).plot()
    assert isinstance(figure, pyplot.Figure)
    assert close_to_all(drawn(axes), [mean(plain_dice(batches()))])
    low, high = axes.get_ylim()
    assert low <= 0.0
    assert high >= 1.0


def test_plot_of_classes_carries_their_names(pyplot: Any) -> None:
    metric = after_all(MulticlassDiceScore(3, average="none", class_names=NAMES))
    _, axes = metric.plot()
    assert set(NAMES) <= texts(axes)
    assert close_to_all(drawn(axes), plain_dice(batches()))


def test_plot_without_background_carries_the_right_names(pyplot: Any) -> None:
    metric = after_all(MulticlassDiceScore(3, average="none", class_names=NAMES, include_background=False))
    _, axes = metric.plot()
    assert {"liver", "spleen"} <= texts(axes)
    assert "air" not in texts(axes)
    assert close_to_all(drawn(axes), plain_dice(batches(), (1, 2)))


def test_plot_of_regions_carries_their_names(pyplot: Any) -> None:
    metric = after_all(MulticlassDiceScore(3, average="none", regions={"body": [1, 2], "inner": [2]}))
    _, axes = metric.plot()
    assert {"body", "inner"} <= texts(axes)
    body = [((preds > 0).int(), (target > 0).int()) for preds, target in batches()]
    assert close_to_all(drawn(axes), [plain_dice(body, (1,))[0], plain_dice(batches(), (2,))[0]])


def test_plot_of_several_steps_draws_curves_with_names(pyplot: Any) -> None:
    metric = MulticlassDiceScore(3, average="none", class_names=NAMES)
    steps = [metric(*pair) for pair in batches()]
    _, axes = metric.plot(steps)
    assert set(NAMES) <= texts(axes)
    curves = [torch.as_tensor(line.get_ydata()).flatten().tolist() for line in axes.lines]
    by_class = list(zip(*(plain_dice([pair]) for pair in batches()), strict=True))
    assert len([curve for curve in curves if len(curve) == 5]) == 3
    for wanted in by_class:
        assert any(len(curve) == 5 and curve == pytest.approx(wanted) for curve in curves)


def test_plot_on_given_axes_and_of_a_given_value(pyplot: Any) -> None:
    _, axes = pyplot.subplots()
    metric = MulticlassDiceScore(3, average="none", class_names=NAMES)
    _, returned = metric.plot(torch.tensor([0.25, 0.5, 0.75]), ax=axes)
    assert returned is axes
    assert close_to_all(drawn(axes), [0.25, 0.5, 0.75])


def test_plot_of_scalars_over_steps(pyplot: Any) -> None:
    metric = MulticlassDiceScore(3)
    steps = [metric(*pair) for pair in batches()]
    _, axes = metric.plot(steps)
    (curve,) = [torch.as_tensor(line.get_ydata()).flatten().tolist() for line in axes.lines]
    assert curve == pytest.approx([mean(plain_dice([pair])) for pair in batches()])
