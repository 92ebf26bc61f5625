"""OverlapReport: many named scores from one state and one update per batch."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import LEVELS, fed, same, same_dict
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.wrappers import BootStrapper, ClasswiseWrapper, MetricTracker, MinMaxMetric, Running

import torchmetrics_dice_ext as package
from torchmetrics_dice_ext import (
    BinaryDiceScore,
    BinaryJaccardIndex,
    MulticlassDiceScore,
    MulticlassFBetaScore,
    MulticlassGeneralizedDiceScore,
    MulticlassJaccardIndex,
    MulticlassPrecision,
    MulticlassRecall,
    MulticlassSpecificity,
    MulticlassTverskyIndex,
    MulticlassVolumetricSimilarity,
    MultilabelDiceScore,
    MultilabelRecall,
    OverlapReport,
)

Batch = dict[str, Any]
NAMES = ["air", "liver", "spleen", "left kidney"]
each_level = pytest.mark.parametrize("level", LEVELS)
SCORES: tuple[Any, ...] = ("dice", "jaccard", ("fbeta", {"beta": 2.0}), "precision", "recall", "specificity")
CLASSES: dict[str, Callable[..., Metric]] = {
    "dice": MulticlassDiceScore,
    "jaccard": MulticlassJaccardIndex,
    "fbeta": functools.partial(MulticlassFBetaScore, beta=2.0),
    "precision": MulticlassPrecision,
    "recall": MulticlassRecall,
    "specificity": MulticlassSpecificity,
}


def batches(level: str = "global", task: str = "multiclass") -> list[Batch]:
    draw = torch.Generator().manual_seed(23)
    found: list[Batch] = []
    for ids in (["a", "b", "b"], ["c", "a", "d"], ["d", "b", "a"]):
        if task == "multiclass":
            preds = torch.randn(3, 4, 5, 6, generator=draw)
            target = torch.randint(0, 4, (3, 5, 6), generator=draw)
        elif task == "multilabel":
            preds = torch.rand(3, 4, 5, 6, generator=draw)
            target = torch.randint(0, 2, (3, 4, 5, 6), generator=draw)
        else:
            preds, target = torch.rand(3, 5, 6, generator=draw), torch.randint(0, 2, (3, 5, 6), generator=draw)
        extra = {"case_ids": ids} if level == "casewise" else {}
        found.append({"preds": preds, "target": target, **extra})
    return found


def report(**options: Any) -> OverlapReport:
    given = {"task": "multiclass", "num_classes": 4, "scores": SCORES, "class_names": NAMES}
    return OverlapReport(**{**given, **options})


def by_single_metrics(
    classes: dict[str, Callable[..., Metric]], seen: list[Batch], averaged: bool = True, **options: Any
) -> dict[str, Tensor]:
    """Return what a report of `classes` must say, from one metric per score and one for its classes."""
    found: dict[str, Tensor] = {}
    for name, make in classes.items():
        if averaged:
            found[name] = fed(make(**options), seen).compute()
        each = fed(make(**{**options, "average": "none"}), seen)
        assert each.compute().shape == (len(each.per_class()),)
        found.update({f"{name}/{label}": value for label, value in each.per_class().items()})
    return found


@each_level
@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_a_report_says_what_single_metrics_say(level: str, average: str) -> None:
    options = {"class_names": NAMES, "average": average, "aggregation_level": level}
    found = fed(report(average=average, aggregation_level=level), batches(level)).compute()
    wanted = by_single_metrics(CLASSES, batches(level), num_classes=4, **options)
    assert len(wanted) == 6 * 5
    assert same_dict(found, wanted)


def test_values_are_those_counted_by_hand() -> None:
    preds = torch.tensor([[0, 0, 1, 1, 2, 2]])
    target = torch.tensor([[0, 1, 1, 1, 1, 2]])
    one = OverlapReport(
        task="multiclass", num_classes=3, scores=("dice", "recall"), class_names=["air", "liver", "spleen"]
    )
    one.update(preds, target)
    found = {name: value.item() for name, value in one.compute().items()}
    assert found == pytest.approx(
        {
            "dice": (2 / 3 + 4 / 6 + 2 / 3) / 3,
            "dice/air": 2 / 3,
            "dice/liver": 4 / 6,
            "dice/spleen": 2 / 3,
            "recall": (1 + 2 / 4 + 1) / 3,
            "recall/air": 1.0,
            "recall/liver": 2 / 4,
            "recall/spleen": 1.0,
        }
    )


def test_values_are_scalars_of_the_default_dtype() -> None:
    for value in fed(report(), batches()).compute().values():
        assert isinstance(value, Tensor)
        assert value.ndim == 0
        assert value.dtype == torch.get_default_dtype()


def test_classes_without_names_are_numbered() -> None:
    found = fed(report(class_names=None, scores=("dice",)), batches()).compute()
    assert set(found) == {"dice", "dice/0", "dice/1", "dice/2", "dice/3"}


def test_average_none_gives_the_classes_alone() -> None:
    for average in ("none", None):
        found = fed(report(average=average), batches()).compute()
        options = {"num_classes": 4, "class_names": NAMES}
        assert same_dict(found, by_single_metrics(CLASSES, batches(), averaged=False, **options))


def test_without_background_it_is_not_listed() -> None:
    found = fed(report(include_background=False), batches()).compute()
    wanted = by_single_metrics(CLASSES, batches(), num_classes=4, class_names=NAMES, include_background=False)
    assert "dice/air" not in wanted
    assert "dice/liver" in wanted
    assert same_dict(found, wanted)


@each_level
def test_regions(level: str) -> None:
    regions = {"body": [1, 2, 3], "organs": [1, 2], "kidney": [3]}
    found = fed(report(regions=regions, class_names=None, aggregation_level=level), batches(level)).compute()
    wanted = by_single_metrics(CLASSES, batches(level), num_classes=4, regions=regions, aggregation_level=level)
    assert {"dice", "dice/body", "dice/organs", "dice/kidney"} <= set(wanted)
    assert same_dict(found, wanted)


@each_level
def test_multilabel(level: str) -> None:
    one = OverlapReport(
        task="multilabel",
        num_labels=4,
        scores=("dice", "recall"),
        class_names=NAMES,
        threshold=[0.2, 0.5, 0.5, 0.8],
        aggregation_level=level,
    )
    wanted = by_single_metrics(
        {"dice": MultilabelDiceScore, "recall": MultilabelRecall},
        batches(level, "multilabel"),
        num_labels=4,
        class_names=NAMES,
        threshold=[0.2, 0.5, 0.5, 0.8],
        aggregation_level=level,
    )
    assert same_dict(fed(one, batches(level, "multilabel")).compute(), wanted)


@each_level
def test_binary_has_one_value_per_score(level: str) -> None:
    one = OverlapReport(task="binary", scores=("dice", "jaccard"), threshold=0.3, aggregation_level=level)
    seen = batches(level, "binary")
    wanted = {
        "dice": fed(BinaryDiceScore(threshold=0.3, aggregation_level=level), seen).compute(),
        "jaccard": fed(BinaryJaccardIndex(threshold=0.3, aggregation_level=level), seen).compute(),
    }
    assert same_dict(fed(one, seen).compute(), wanted)


def test_scores_with_parameters() -> None:
    one = report(
        scores=(
            ("tversky", {"alpha": 0.2, "beta": 0.8}),
            ("fbeta", {"beta": 0.5}),
            ("generalized_dice", {"weight_type": "simple"}),
            "volumetric_similarity",
        )
    )
    found = fed(one, batches()).compute()
    wanted = {
        "tversky": MulticlassTverskyIndex(4, alpha=0.2, beta=0.8),
        "fbeta": MulticlassFBetaScore(4, beta=0.5),
        "generalized_dice": MulticlassGeneralizedDiceScore(4, weight_type="simple"),
        "volumetric_similarity": MulticlassVolumetricSimilarity(4),
    }
    for name, metric in wanted.items():
        assert same(found[name], fed(metric, batches()).compute()), name
        if name != "generalized_dice":
            for label, value in zip(NAMES, metric.per_class().values(), strict=True):
                assert same(found[f"{name}/{label}"], value)


def test_options_reach_the_counting() -> None:
    seen = batches()
    for batch in seen:
        batch["target"][0, 0] = 255
        batch["mask"] = torch.arange(6).expand(3, 5, 6) > 0
        batch["preds"] = batch["preds"].movedim(1, -1)
    options = {"num_classes": 4, "class_names": NAMES, "ignore_index": 255, "class_dim": -1, "zero_division": 1.0}
    found = fed(report(ignore_index=255, class_dim=-1, zero_division=1.0), seen).compute()
    assert same_dict(found, by_single_metrics(CLASSES, seen, **options))


# One update per batch


@each_level
def test_one_update_per_batch_from_the_first_one_on(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    owners = {
        next(kind for kind in type(metric).__mro__ if "update" in vars(kind))
        for metric in report(aggregation_level=level).values()
    }
    for owner in owners:
        original = owner.update

        @functools.wraps(original)
        def counted(self: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            calls.append(type(self).__name__)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(owner, "update", counted)
    one = report(aggregation_level=level)
    for number, batch in enumerate(batches(level), start=1):
        one.update(**batch)
        assert len(calls) == number
    one.compute()
    one.reset()
    one.update(**batches(level)[0])
    assert len(calls) == 4
    clone = one.clone(prefix="again/")
    clone.update(**batches(level)[1])
    assert len(calls) == 5


@each_level
def test_all_members_read_one_state(level: str) -> None:
    one = fed(report(aggregation_level=level), batches(level))
    assert len(one.compute_groups) == 1
    members = list(one.values(copy_state=False))
    assert len(members) == 6 * 5
    first = members[0].metric_state
    for member in members[1:]:
        assert all(value is first[name] for name, value in member.metric_state.items() if isinstance(value, Tensor))
    assert {member.update_count for member in members} == {3}


# Life


@each_level
def test_reset_after_compute(level: str) -> None:
    one = fed(report(aggregation_level=level), batches(level)[:2])
    one.compute()
    one.reset()
    last = batches(level)[2:]
    assert same_dict(fed(one, last).compute(), fed(report(aggregation_level=level), last).compute())


@each_level
def test_reset_of_the_members_one_by_one(level: str) -> None:
    """As Lightning does it after an epoch."""
    one = fed(report(aggregation_level=level), batches(level)[:2])
    one.compute()
    for metric in one.values(copy_state=False):
        metric.reset()
    last = batches(level)[2:]
    assert same_dict(fed(one, last).compute(), fed(report(aggregation_level=level), last).compute())


@each_level
def test_compute_update_and_compute_again(level: str) -> None:
    one = report(aggregation_level=level)
    for number, batch in enumerate(batches(level), start=1):
        one.update(**batch)
        wanted = fed(report(aggregation_level=level), batches(level)[:number]).compute()
        assert same_dict(one.compute(), wanted)
        assert same_dict(one.compute(), wanted)


@each_level
def test_the_members_compute_what_the_report_says(level: str) -> None:
    one = fed(report(aggregation_level=level), batches(level))
    by_members = {name: metric.compute() for name, metric in one.items()}
    assert same_dict(by_members, one.compute())
    fed(one, batches(level)[:1])
    changed = {name: metric.compute() for name, metric in one.items()}
    assert not same(changed["dice"], by_members["dice"])
    assert same_dict(one.compute(), changed)


@each_level
def test_forward_gives_the_batch_and_accumulates(level: str) -> None:
    one = report(aggregation_level=level)
    for batch in batches(level):
        assert same_dict(one(**batch), fed(report(aggregation_level=level), [batch]).compute())
    assert same_dict(one.compute(), fed(report(aggregation_level=level), batches(level)).compute())


@each_level
def test_forward_and_update_mix(level: str) -> None:
    first, second, third = batches(level)
    one = report(aggregation_level=level)
    one.update(**first)
    one(**second)
    one.update(**third)
    assert same_dict(one.compute(), fed(report(aggregation_level=level), batches(level)).compute())


def test_nothing_seen_is_nan_everywhere() -> None:
    one = report()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        found = one.compute()
    assert len(found) == 30
    assert all(value.isnan() for value in found.values())


def test_prefix_and_postfix() -> None:
    plain = fed(report(), batches()).compute()
    one = fed(report(prefix="val/", postfix="@1"), batches())
    assert same_dict(one.compute(), {f"val/{name}@1": value for name, value in plain.items()})
    assert set(one.keys()) == {f"val/{name}@1" for name in plain}


@each_level
def test_clones_go_their_own_way(level: str) -> None:
    first, second, third = batches(level)
    one = fed(report(aggregation_level=level), [first])
    clone = one.clone(prefix="test/")
    assert isinstance(clone, OverlapReport)
    fed(clone, [second])
    fed(one, [third])
    wanted = fed(report(aggregation_level=level), [first, second]).compute()
    assert same_dict(clone.compute(), {f"test/{name}": value for name, value in wanted.items()})
    assert same_dict(one.compute(), fed(report(aggregation_level=level), [first, third]).compute())


@each_level
def test_pickled_in_mid_epoch_it_goes_on(level: str) -> None:
    first, second, third = batches(level)
    one = fed(report(aggregation_level=level), [first, second])
    one.compute()
    resumed = fed(pickle.loads(pickle.dumps(one)), [third])
    assert same_dict(resumed.compute(), fed(report(aggregation_level=level), batches(level)).compute())


@each_level
def test_a_persistent_report_comes_back(level: str) -> None:
    first, second, third = batches(level)
    one = fed(report(aggregation_level=level), [first, second])
    assert dict(one.state_dict()) == {}
    one.persistent(True)
    restored = report(aggregation_level=level)
    restored.persistent(True)
    restored.load_state_dict(one.state_dict())
    assert same_dict(restored.compute(), one.compute())
    assert same_dict(
        fed(restored, [third]).compute(), fed(report(aggregation_level=level), [first, second, third]).compute()
    )


def test_nested_in_another_collection_its_members_are_ordinary_metrics() -> None:
    collection = MetricCollection({"organs": report(scores=("dice", "jaccard")), "recall": MulticlassRecall(4)})
    seen = batches()
    for number, batch in enumerate(seen, start=1):
        collection.update(**batch)
        found = collection.compute()
        wanted = fed(report(scores=("dice", "jaccard")), seen[:number]).compute()
        assert len(found) == 11
        for name, value in wanted.items():
            (key,) = (one for one in found if one.startswith("organs") and one.endswith(name))
            assert same(found[key], value)
        assert same(found["recall"], fed(MulticlassRecall(4), seen[:number]).compute())
    assert len(collection.compute_groups) == 1


def test_a_tracker_of_a_report() -> None:
    tracker = MetricTracker(report(scores=("dice",)), maximize=True)
    wanted = []
    for batch in batches():
        tracker.increment()
        tracker.update(**batch)
        wanted.append({name: value.item() for name, value in tracker.compute().items()})
        assert wanted[-1] == pytest.approx(
            {name: v.item() for name, v in fed(report(scores=("dice",)), [batch]).compute().items()}
        )
    best, step = tracker.best_metric(return_step=True)
    for name in wanted[0]:
        values = [epoch[name] for epoch in wanted]
        assert best[name] == pytest.approx(max(values))
        assert step[name] == values.index(max(values))


def test_moved_and_cast_its_counts_stay() -> None:
    one = fed(report(), batches()[:2])
    one.set_dtype(torch.float16)
    one.to(torch.bfloat16)
    fed(one, batches()[2:])
    assert same_dict(one.compute(), fed(report(), batches()).compute())


def test_a_refused_batch_changes_nothing() -> None:
    one = report()
    wrong = {**batches()[1], "target": batches()[1]["target"] + 70}
    for number, batch in enumerate(batches(), start=1):
        for step in (one.update, one):
            with pytest.raises(ValueError, match="target"):
                step(**wrong)
        one.update(**batch)
        assert same_dict(one.compute(), fed(report(), batches()[:number]).compute())


def test_deferred_faults_are_told_until_reset() -> None:
    one = fed(report(validate_args="deferred"), batches()[:1])
    wrong = {**batches()[1], "target": batches()[1]["target"] + 70}
    assert all(value.isnan() for value in one(**wrong).values())
    for _ in range(2):
        with pytest.raises(ValueError, match="target"):
            one.compute()
    one.reset()
    assert same_dict(fed(one, batches()).compute(), fed(report(), batches()).compute())


# Cases


def test_per_case_has_one_column_per_score() -> None:
    one = fed(report(aggregation_level="casewise", scores=("dice", ("fbeta", {"beta": 2.0}))), batches("casewise"))
    rows = one.per_case()
    dice = fed(MulticlassDiceScore(4, class_names=NAMES, aggregation_level="casewise"), batches("casewise")).per_case()
    fbeta = fed(
        MulticlassFBetaScore(4, beta=2.0, class_names=NAMES, aggregation_level="casewise"), batches("casewise")
    ).per_case()
    assert len(rows) == 4 * 4
    shared = ("case", "class", "intersection", "pred_cardinality", "target_cardinality", "support")
    for row, dice_row, fbeta_row in zip(rows, dice, fbeta, strict=True):
        assert set(row) == {*shared, "dice", "fbeta"}
        assert [row[key] for key in shared] == [dice_row[key] for key in shared]
        assert row["dice"] == dice_row["score"]
        assert row["fbeta"] == fbeta_row["score"]


def test_per_case_fits_a_data_frame() -> None:
    pandas = pytest.importorskip("pandas")
    one = fed(report(aggregation_level="casewise", scores=("dice", "jaccard")), batches("casewise"))
    frame = pandas.DataFrame(one.per_case())
    means = frame.groupby("class")[["dice", "jaccard"]].mean()
    found = one.compute()
    for name in NAMES:
        assert found[f"dice/{name}"].item() == pytest.approx(means["dice"][name], abs=1e-6)
        assert found[f"jaccard/{name}"].item() == pytest.approx(means["jaccard"][name], abs=1e-6)
    assert found["dice"].item() == pytest.approx(frame.groupby("case")["dice"].mean().mean(), abs=1e-6)


def test_case_ids_are_needed_casewise_and_refused_elsewhere() -> None:
    with pytest.raises((TypeError, ValueError), match="case_ids"):
        report(aggregation_level="casewise").update(**batches("global")[0])
    with pytest.raises((TypeError, ValueError), match="case_ids"):
        MulticlassDiceScore(4).update(**batches("casewise")[0])


# What is refused


@pytest.mark.parametrize(
    "scores",
    [
        ("dice", "dice"),
        ("dice", "jaccard", "dice"),
        (("fbeta", {"beta": 1.0}), ("fbeta", {"beta": 2.0})),
        ("dice", ("dice", {})),
        ("dices",),
        (),
        (("fbeta", {"gamma": 1.0}),),
        ("dice", 3),
    ],
    ids=str,
)
def test_unusable_scores_are_refused(scores: tuple[Any, ...]) -> None:
    with pytest.raises((TypeError, ValueError), match=r"score|gamma"):
        report(scores=scores)


@pytest.mark.parametrize(
    "options",
    [
        {"class_names": ["a", "b"]},
        {"class_names": ["a", "b", "c", "a"]},
        {"class_names": ["a", "b", "c", "d.e"]},
        {"class_names": NAMES, "regions": {"x": [1]}},
        {"task": "multiclasses"},
        {"num_classes": None},
        {"no_such_option": 1},
        {"average": "mean"},
    ],
    ids=str,
)
def test_unusable_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        report(**options)


def test_scores_without_parameters_have_those_of_their_classes() -> None:
    scores = {"fbeta": "FBetaScore", "tversky": "TverskyIndex", "generalized_dice": "GeneralizedDiceScore"}
    report = fed(OverlapReport("multiclass", tuple(scores), num_classes=4), batches())
    for name, of in scores.items():
        alone = fed(getattr(package, of)("multiclass", num_classes=4), batches())
        assert same(report.compute()[name], alone.compute())


def test_a_binary_report_has_no_average() -> None:
    with pytest.raises(ValueError, match="`average` has no meaning for task 'binary', got 'none'"):
        OverlapReport("binary", average="none")


def test_merging_adds_up_and_lets_the_members_know() -> None:
    seen = batches()
    whole, first, second = fed(report(), seen), fed(report(), seen[:1]), fed(report(), seen[1:])
    first.compute()
    first.merge_state(second)
    assert same_dict(first.compute(), whole.compute())
    assert {member.update_count for member in first.values(copy_state=False)} == {len(seen)}


def test_intervals_are_those_of_the_metrics() -> None:
    pytest.importorskip("scipy")
    options, seen = {"aggregation_level": "casewise", "class_names": NAMES}, batches("casewise")
    cases = fed(report(**options), seen)
    metric = fed(MulticlassRecall(4, **options), seen)
    intervals = cases.confidence_interval(n_resamples=200, seed=3)
    assert intervals.keys() == cases.compute().keys()
    assert intervals["recall"] == metric.confidence_interval(n_resamples=200, seed=3)
    assert all(low <= high for low, high in intervals.values())


def test_a_report_is_a_collection_and_no_metric() -> None:
    """Wrappers that ask for a `Metric` say so, instead of going wrong at the first update."""
    assert isinstance(report(), MetricCollection)
    for wrapper in (BootStrapper, ClasswiseWrapper, MinMaxMetric, Running):
        with pytest.raises(ValueError, match=r"instance of `?torchmetrics\.Metric`? but .*OverlapReport"):
            wrapper(report())


@pytest.mark.parametrize("naming", [{"prefix": "val/"}, {"postfix": "/val"}])
def test_a_clone_has_its_own_keys_also_of_a_kept_result(naming: dict[str, str]) -> None:
    metric = fed(report(), batches())
    kept = metric.compute()
    renamed = metric.clone(**naming)
    assert list(renamed.compute()) == list(renamed.keys())
    assert same_dict(dict(zip(kept, renamed.compute().values(), strict=True)), kept)
    metric.prefix = "late/"
    assert all(key.startswith("late/") for key in metric.compute())


def test_keys_and_results_are_in_the_order_that_was_asked_for() -> None:
    metric = OverlapReport("multiclass", ("recall", "dice"), num_classes=11)
    metric.update(torch.tensor([[0, 10]]), torch.tensor([[0, 9]]))
    assert list(metric.keys()) == list(metric.compute()) == list(metric.clone().keys())
    assert list(metric.keys())[:3] == ["recall", "recall/0", "recall/1"]
    assert list(metric.keys())[-2:] == ["dice/9", "dice/10"]


def test_a_report_takes_no_further_metrics_and_merges_with_reports_alone() -> None:
    metric = report()
    with pytest.raises(TypeError, match="one MetricCollection"):
        metric.add_metrics({"more": MulticlassRecall(4)})
    with pytest.raises(TypeError, match="one MetricCollection"):
        metric["more"] = MulticlassRecall(4)
    for stranger in (MulticlassDiceScore(4), MetricCollection([MulticlassDiceScore(4)]), {}):
        with pytest.raises(ValueError, match="must be an OverlapReport"):
            metric.merge_state(stranger)


@each_level
def test_its_state_is_saved_once_and_loads_into_another_read_out(level: str) -> None:
    options = {"aggregation_level": level, "num_classes": 4}
    saved = OverlapReport("multiclass", ("jaccard", "dice"), class_names=NAMES, **options)
    saved.persistent(True)
    fed(saved, batches(level))
    state = saved.state_dict()
    assert len(state) == (3 if level == "casewise" else 1)
    given: dict[str, Any] = {}
    saved.state_dict(given, "module.")  # by position, as `Metric.state_dict` takes them
    assert list(given) == [f"module.{name}" for name in state]
    if level == "samplewise":  # what is read out is part of what is summed
        other = OverlapReport("multiclass", ("dice",), **options)
        with pytest.raises(RuntimeError, match="The checkpoint must hold counts") as info:
            other.load_state_dict(state)
        assert str(info.value).count("must hold") == 1
        other = OverlapReport("multiclass", ("jaccard", "dice"), validate_args="deferred", **options)
    else:
        other = OverlapReport("multiclass", ("recall", "dice"), average="micro", **options)
    module = torch.nn.ModuleDict({"report": other})
    module.load_state_dict({f"report.{name}": value for name, value in state.items()})
    fed(saved, batches(level)), fed(other, batches(level))
    assert same(saved["dice/liver"].compute(), other["dice/1"].compute())
    assert same(saved.compute()["dice/liver"], other.compute()["dice/1"])
    assert other["dice/1"].update_count == 6


def test_plots_say_which_score_they_show() -> None:
    pytest.importorskip("matplotlib")
    titles = [axes.get_title() for _, axes in fed(report(scores=("dice",)), batches()).plot()]
    assert titles == ["dice", *(f"dice/{name}" for name in NAMES)]


def test_scores_may_come_from_a_file_of_settings() -> None:
    assert "fbeta" in OverlapReport("binary", ["dice", ["fbeta", {"beta": 2}]])


def test_a_member_has_the_classes_of_its_score() -> None:
    metric = fed(report(), batches())
    for name, single in (("recall", MulticlassRecall), ("dice", MulticlassDiceScore)):
        classes = fed(single(4, class_names=NAMES), batches()).per_class()
        assert same_dict(metric[name].per_class(), classes)
