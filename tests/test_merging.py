"""Merging, saving and resuming: shards add up to the whole, bit by bit, and strangers are refused."""

from __future__ import annotations

import io
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
from cases import LEVELS, fed, same
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection, SumMetric
from torchmetrics.utilities.exceptions import TorchMetricsUserError
from torchmetrics.wrappers import Running

from torchmetrics_dice_ext import (
    BinaryDiceScore,
    MulticlassDiceScore,
    MulticlassFBetaScore,
    MulticlassGeneralizedDiceScore,
    MulticlassJaccardIndex,
    MulticlassRecall,
    MultilabelDiceScore,
)

Batch = dict[str, Any]
each_level = pytest.mark.parametrize("level", LEVELS)
each_change_of_mode = pytest.mark.parametrize(
    "modes", [("eager", "deferred"), (True, False), ("deferred", False), (False, "eager")], ids=str
)
ID_KINDS: dict[str, list[list[Any]]] = {
    "strings": [["a", "b"], ["b", "long name of a case"], ["d", "a"], ["é", "a"]],
    "ints": [[1, 2], [2, 2**40], [-4, 1], [0, 1]],
}


def batches(level: str, ids: str = "strings") -> list[Batch]:
    draw = torch.Generator().manual_seed(11)
    found: list[Batch] = []
    for names in ID_KINDS[ids]:
        batch: Batch = {
            "preds": torch.randn(2, 3, 4, 5, generator=draw),
            "target": torch.randint(0, 3, (2, 4, 5), generator=draw),
        }
        found.append({**batch, "case_ids": names} if level == "casewise" else batch)
    return found


def dice(level: str, **options: Any) -> MulticlassDiceScore:
    return MulticlassDiceScore(3, aggregation_level=level, **options)


def assert_same_metric(left: Metric, right: Metric) -> None:
    assert same(left.compute(), right.compute())
    assert left.update_count == right.update_count
    left_classes, right_classes = left.per_class(), right.per_class()
    assert left_classes.keys() == right_classes.keys()
    assert all(same(left_classes[name], right_classes[name]) for name in left_classes)
    if left.aggregation_level == "casewise":
        assert repr(left.per_case()) == repr(right.per_case())


# Merging


@each_level
@pytest.mark.parametrize("ids", ID_KINDS)
@pytest.mark.parametrize("form", ["metric", "dict"])
def test_merging_adds(level: str, ids: str, form: str) -> None:
    seen = batches(level, ids)
    whole = fed(dice(level), seen)
    left, right = fed(dice(level), seen[:1]), fed(dice(level), seen[1:])
    left.merge_state(right if form == "metric" else right.metric_state)
    assert_same_metric(left, whole)


@each_level
def test_merging_leaves_the_other_metric_alone(level: str) -> None:
    seen = batches(level)
    left, right = fed(dice(level), seen[:2]), fed(dice(level), seen[2:])
    left.merge_state(right)
    left.update(**seen[0])
    assert_same_metric(right, fed(dice(level), seen[2:]))


@each_level
@pytest.mark.parametrize("form", ["metric", "dict"])
def test_merging_forgets_the_cached_result(level: str, form: str) -> None:
    seen = batches(level)
    left, right = fed(dice(level), seen[:2]), fed(dice(level), seen[2:])
    stale = left.compute()
    left.merge_state(right if form == "metric" else right.metric_state)
    assert not same(left.compute(), stale)
    assert same(left.compute(), fed(dice(level), seen).compute())


@each_level
def test_merging_is_the_same_in_any_order(level: str) -> None:
    seen = batches(level)
    parts = [fed(dice(level), [batch]) for batch in seen]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]):
        total = dice(level)
        for number in order:
            total.merge_state(parts[number])
        assert_same_metric(total, fed(dice(level), seen))
    pairs = [parts[0].clone(), parts[2].clone()]
    pairs[0].merge_state(parts[1])
    pairs[1].merge_state(parts[3])
    pairs[1].merge_state(pairs[0])
    assert_same_metric(pairs[1], fed(dice(level), seen))


@each_level
def test_merging_with_nothing_changes_nothing(level: str) -> None:
    seen = batches(level)
    metric = fed(dice(level), seen)
    metric.merge_state(dice(level))
    assert_same_metric(metric, fed(dice(level), seen))
    empty = dice(level)
    empty.merge_state(metric)
    assert_same_metric(empty, fed(dice(level), seen))


@each_level
def test_merging_with_itself_doubles(level: str) -> None:
    seen = batches(level)
    metric = fed(dice(level), seen)
    metric.merge_state(metric)
    assert_same_metric(metric, fed(dice(level), [*seen, *seen]))


@each_level
def test_update_and_forward_go_on_after_a_merge(level: str) -> None:
    seen = batches(level)
    metric = fed(dice(level), seen[:1])
    metric.merge_state(fed(dice(level), seen[1:2]))
    metric.update(**seen[2])
    assert same(metric(**seen[3]), fed(dice(level), seen[3:]).compute())
    assert_same_metric(metric, fed(dice(level), seen))


READ_OUTS: dict[str, Callable[..., Metric]] = {
    "another score": lambda **o: MulticlassJaccardIndex(3, **o),
    "another beta": lambda **o: MulticlassFBetaScore(3, beta=3.0, **o),
    "another average": lambda **o: MulticlassDiceScore(3, average="none", **o),
    "names": lambda **o: MulticlassDiceScore(3, class_names=["a", "b", "c"], **o),
    "no background": lambda **o: MulticlassDiceScore(3, include_background=False, **o),
    "zero division": lambda **o: MulticlassDiceScore(3, zero_division=1.0, **o),
    "generalized": lambda **o: MulticlassGeneralizedDiceScore(3, **o),
}


@pytest.mark.parametrize("level", ["global", "casewise"])
@pytest.mark.parametrize("other", READ_OUTS.values(), ids=READ_OUTS.keys())
@pytest.mark.parametrize("form", ["metric", "dict"])
def test_scores_of_one_way_of_counting_may_merge(level: str, other: Callable[..., Metric], form: str) -> None:
    seen = batches(level)
    reader = fed(other(aggregation_level=level), seen[:2])
    counted = fed(dice(level), seen[2:])
    reader.merge_state(counted if form == "metric" else counted.metric_state)
    assert_same_metric(reader, fed(other(aggregation_level=level), seen))


@each_level
@each_change_of_mode
def test_validation_modes_may_merge(level: str, modes: tuple[Any, Any]) -> None:
    seen = batches(level)
    left = fed(dice(level, validate_args=modes[0]), seen[:2])
    left.merge_state(fed(dice(level, validate_args=modes[1]), seen[2:]))
    assert_same_metric(left, fed(dice(level), seen))


STRANGERS: dict[str, Callable[[], Metric]] = {
    "ignore_index": lambda: MulticlassDiceScore(3, ignore_index=255),
    "num_classes": lambda: MulticlassDiceScore(4),
    "class_dim": lambda: MulticlassDiceScore(3, class_dim=-1),
    "regions": lambda: MulticlassDiceScore(3, regions={"a": [0], "b": [1], "c": [2]}),
    "samplewise": lambda: MulticlassDiceScore(3, aggregation_level="samplewise"),
    "casewise": lambda: MulticlassDiceScore(3, aggregation_level="casewise"),
    "task": lambda: MultilabelDiceScore(3),
    "binary": lambda: BinaryDiceScore(),
}
THRESHOLDS = {
    "threshold": (BinaryDiceScore(), BinaryDiceScore(threshold=0.6)),
    "from_logits": (BinaryDiceScore(), BinaryDiceScore(from_logits=True)),
    "threshold per label": (MultilabelDiceScore(2), MultilabelDiceScore(2, threshold=[0.5, 0.25])),
    "samplewise scores": (
        MulticlassDiceScore(3, aggregation_level="samplewise"),
        MulticlassJaccardIndex(3, aggregation_level="samplewise"),
    ),
    "samplewise averages": (
        MulticlassDiceScore(3, aggregation_level="samplewise"),
        MulticlassDiceScore(3, aggregation_level="samplewise", average="micro"),
    ),
    "samplewise zero_division": (
        MulticlassDiceScore(3, aggregation_level="samplewise"),
        MulticlassDiceScore(3, aggregation_level="samplewise", zero_division=1.0),
    ),
    "samplewise beta": (
        MulticlassFBetaScore(3, beta=1.0, aggregation_level="samplewise"),
        MulticlassFBetaScore(3, beta=2.0, aggregation_level="samplewise"),
    ),
    "regions": (
        MulticlassDiceScore(3, regions={"a": [0, 1]}),
        MulticlassDiceScore(3, regions={"a": [0, 2]}),
    ),
}
STRANGE_PAIRS = {
    **{name: (MulticlassDiceScore(3), make()) for name, make in STRANGERS.items()},
    **THRESHOLDS,
}
each_strange_pair = pytest.mark.parametrize("name", STRANGE_PAIRS)


@each_strange_pair
@pytest.mark.parametrize("form", ["metric", "dict"])
@pytest.mark.parametrize("turned", [False, True])
def test_another_way_of_counting_does_not_merge(name: str, form: str, turned: bool) -> None:
    left, right = (metric.clone() for metric in STRANGE_PAIRS[name])
    if turned:
        left, right = right, left
    before = repr(left.metric_state)
    with pytest.raises((ValueError, RuntimeError), match=r"(?i)count|configur|expected"):
        left.merge_state(right if form == "metric" else right.metric_state)
    assert left.update_count == 0
    assert repr(left.metric_state) == before


@pytest.mark.parametrize("stranger", [SumMetric(), 3, "state", None], ids=["SumMetric", "int", "str", "None"])
def test_only_metrics_and_their_states_merge(stranger: Any) -> None:
    metric = fed(dice("global"), batches("global"))
    with pytest.raises((ValueError, TypeError)):
        metric.merge_state(stranger)
    assert_same_metric(metric, fed(dice("global"), batches("global")))


def test_a_state_without_the_counts_does_not_merge() -> None:
    metric = fed(dice("global"), batches("global"))
    with pytest.raises(ValueError, match=r"(?i)state|expected"):
        metric.merge_state({})
    assert_same_metric(metric, fed(dice("global"), batches("global")))


@each_level
def test_faults_merge_too_and_the_first_update_that_had_them(level: str) -> None:
    seen = batches(level)
    wrong = {**seen[1], "target": seen[1]["target"] + 50}
    left = fed(dice(level, validate_args="deferred"), seen[:1])
    left.merge_state(fed(dice(level, validate_args="deferred"), [seen[2], wrong]))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"\b40\b.* First in update 3\."):  # as if its updates had followed
            left.compute()
    earlier = fed(dice(level, validate_args="deferred"), [wrong, seen[0]])
    earlier.merge_state(left)
    with pytest.raises(ValueError, match=r"\b80\b.* First in update 1\."):
        earlier.compute()
    left.reset()
    left.update(**seen[0])
    assert_same_metric(left, fed(dice(level), seen[:1]))


# Saving and loading


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """Return `state` as it comes back from disk where no code may run."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


@each_level
@pytest.mark.parametrize("ids", ID_KINDS)
def test_a_persistent_state_comes_back(level: str, ids: str) -> None:
    seen = batches(level, ids)
    metric = fed(dice(level), seen[:3])
    metric.persistent(True)
    state = saved(metric.state_dict())
    assert state
    restored = dice(level)
    restored.persistent(True)
    restored.load_state_dict(state)
    assert_same_metric(restored, metric)
    assert restored.update_called
    for one in (restored, metric):
        one.update(**seen[3])
    assert_same_metric(restored, fed(dice(level), seen))
    assert_same_metric(metric, fed(dice(level), seen))


@each_level
def test_a_saved_state_stays_as_it_was(level: str) -> None:
    seen = batches(level)
    metric = fed(dice(level), seen[:2])
    metric.persistent(True)
    state = metric.state_dict()
    metric.update(**seen[2])
    metric.reset()
    restored = dice(level)
    restored.persistent(True)
    restored.load_state_dict(state)
    restored.update(**seen[3])
    assert_same_metric(restored, fed(dice(level), [*seen[:2], seen[3]]))
    again = dice(level)
    again.persistent(True)
    again.load_state_dict(metric.state_dict())
    again.update(**seen[3])
    assert_same_metric(again, fed(dice(level), seen[3:]))


@each_level
def test_a_state_of_no_update_comes_back(level: str) -> None:
    metric = dice(level)
    metric.persistent(True)
    restored = fed(dice(level), batches(level))
    restored.persistent(True)
    restored.load_state_dict(saved(metric.state_dict()))
    assert restored.update_count == 0
    fed(restored, batches(level))
    assert_same_metric(restored, fed(dice(level), batches(level)))


@each_level
def test_loading_replaces_what_was_there_and_forgets_the_cached_result(level: str) -> None:
    seen = batches(level)
    metric = fed(dice(level), seen[:2])
    metric.persistent(True)
    other = fed(dice(level), seen[2:])
    other.persistent(True)
    stale = other.compute()
    other.load_state_dict(saved(metric.state_dict()))
    assert not same(other.compute(), stale)
    assert_same_metric(other, fed(dice(level), seen[:2]))


@each_level
def test_a_metric_in_a_module_comes_back_with_its_weights(level: str) -> None:
    seen = batches(level)

    def module() -> nn.Module:
        held = nn.Module()
        held.layer = nn.Linear(2, 1)
        held.metric = dice(level)
        held.metric.persistent(True)
        return held

    first, second = module(), module()
    fed(first.metric, seen[:2])
    second.load_state_dict(saved(first.state_dict()))
    assert torch.equal(first.layer.weight, second.layer.weight)
    assert_same_metric(second.metric, first.metric)


def test_a_collection_comes_back() -> None:
    def collection() -> MetricCollection:
        held = MetricCollection({"dice": MulticlassDiceScore(3), "jaccard": MulticlassJaccardIndex(3, average="none")})
        held.persistent(True)
        return held

    seen = batches("global")
    first, second = collection(), collection()
    for batch in seen[:2]:
        first.update(**batch)
    first.compute()  # torchmetrics 1.6 hands the state on to members when they are read
    second.load_state_dict(saved(first.state_dict()))
    for batch in seen[2:]:
        second.update(**batch)
    values = second.compute()
    assert same(values["dice"], fed(MulticlassDiceScore(3), seen).compute())
    assert same(values["jaccard"], fed(MulticlassJaccardIndex(3, average="none"), seen).compute())


@pytest.mark.parametrize("level", ["global", "casewise"])
@pytest.mark.parametrize("other", READ_OUTS.values(), ids=READ_OUTS.keys())
def test_a_state_may_be_read_out_in_another_way(level: str, other: Callable[..., Metric]) -> None:
    seen = batches(level)
    metric = fed(dice(level), seen)
    metric.persistent(True)
    reader = other(aggregation_level=level)
    reader.persistent(True)
    reader.load_state_dict(saved(metric.state_dict()))
    assert_same_metric(reader, fed(other(aggregation_level=level), seen))


@each_level
@each_change_of_mode
def test_a_state_may_be_loaded_under_another_validation_mode(level: str, modes: tuple[Any, Any]) -> None:
    seen = batches(level)
    metric = fed(dice(level, validate_args=modes[0]), seen[:2])
    metric.persistent(True)
    other = dice(level, validate_args=modes[1])
    other.persistent(True)
    other.load_state_dict(saved(metric.state_dict()))
    fed(other, seen[2:])
    assert_same_metric(other, fed(dice(level), seen))


@each_strange_pair
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("persistent", [True, False], ids=["into persistent", "into not persistent"])
def test_a_state_of_another_way_of_counting_is_refused(name: str, turned: bool, persistent: bool) -> None:
    left, right = (metric.clone() for metric in STRANGE_PAIRS[name])
    if turned:
        left, right = right, left
    right.persistent(True)
    left.persistent(persistent)
    with pytest.raises((ValueError, RuntimeError), match=r"(?i)count|configur"):
        left.load_state_dict(saved(right.state_dict()))


@each_level
def test_a_metric_that_is_not_persistent_takes_a_state_and_needs_none(level: str) -> None:
    seen = batches(level)
    metric = fed(dice(level), seen)
    restored = dice(level)
    restored.load_state_dict({})
    metric.persistent(True)
    restored.load_state_dict(saved(metric.state_dict()))
    assert_same_metric(restored, metric)
    metric.persistent(False)
    assert dict(metric.state_dict()) == {}


@each_level
def test_faults_are_saved_too(level: str) -> None:
    seen = batches(level)
    wrong = {**seen[1], "target": seen[1]["target"] + 50}
    metric = fed(dice(level, validate_args="deferred"), [seen[0], wrong])
    metric.persistent(True)
    restored = dice(level, validate_args="deferred")
    restored.persistent(True)
    restored.load_state_dict(saved(metric.state_dict()))
    with pytest.raises(ValueError, match=r"\b40\b"):
        restored.compute()


@each_level
@pytest.mark.parametrize("ids", ID_KINDS)
def test_pickled_in_mid_epoch_it_goes_on(level: str, ids: str) -> None:
    seen = batches(level, ids)
    metric = fed(dice(level), seen[:2])
    metric(**seen[2])
    resumed = pickle.loads(pickle.dumps(metric))
    resumed.update(**seen[3])
    assert_same_metric(resumed, fed(dice(level), seen))


@each_level
def test_saved_whole_it_comes_back(level: str) -> None:
    seen = batches(level)
    buffer = io.BytesIO()
    torch.save(fed(dice(level), seen[:2]), buffer)
    buffer.seek(0)
    resumed = torch.load(buffer, weights_only=False)
    fed(resumed, seen[2:])
    assert_same_metric(resumed, fed(dice(level), seen))


# Map and reduce over processes


def evaluate_shard(level: str, numbers: list[int]) -> Metric:
    """Evaluate the batches `numbers` in a process of its own."""
    every = batches(level)
    return fed(dice(level), [every[number] for number in numbers])


def evaluate_shard_to_state(level: str, numbers: list[int]) -> bytes:
    metric = evaluate_shard(level, numbers)
    buffer = io.BytesIO()
    torch.save({key: value.clone() for key, value in metric.metric_state.items()}, buffer)
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_shards_of_other_processes_add_up_to_the_whole() -> None:
    shards = [[2], [0, 3], [], [1]]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {level: [pool.submit(evaluate_shard, level, shard) for shard in shards] for level in LEVELS}
        states = [pool.submit(evaluate_shard_to_state, "global", shard) for shard in shards]
        for level in LEVELS:
            total = dice(level)
            for job in jobs[level]:
                total.merge_state(job.result(timeout=120))
            assert_same_metric(total, fed(dice(level), batches(level)))
        total = dice("global")
        for state in states:
            total.merge_state(torch.load(io.BytesIO(state.result(timeout=120)), weights_only=True))
        assert_same_metric(total, fed(dice("global"), batches("global")))


def test_recall_after_a_merge_is_that_of_the_sums() -> None:
    """Checked by hand: 3 of 4 voxels of class 1 are found in the one shard, 1 of 2 in the other."""
    one = MulticlassRecall(2, average="none")
    one.update(torch.tensor([[1, 1, 1, 0, 0]]), torch.tensor([[1, 1, 1, 1, 0]]))
    other = MulticlassRecall(2, average="none")
    other.update(torch.tensor([[1, 0, 1]]), torch.tensor([[1, 1, 0]]))
    one.merge_state(other)
    assert one.compute().tolist() == pytest.approx([1 / 2, 4 / 6])


def spoiled(states: dict[str, Any], name: str) -> dict[str, Any]:
    changes = {
        "floats": lambda key, state: state.float(),
        "an array": lambda key, state: state.numpy(),
        "another size": lambda key, state: state[:-1] if state.ndim == 1 else state[..., :-1],
        "no rows": lambda key, state: None if key.endswith("_rows") else state,
    }
    found = {key: changes[name](key, state) for key, state in states.items()}
    return {key: state for key, state in found.items() if state is not None}


@pytest.mark.parametrize("name", ["floats", "an array", "another size", "no rows"])
def test_spoiled_states_are_refused_whole(name: str) -> None:
    metric = fed(dice("casewise"), batches("casewise")[:1])
    before = {key: state.clone() for key, state in metric.metric_state.items()}
    other = fed(dice("casewise"), batches("casewise"))
    states = spoiled(dict(other.metric_state), name)
    with pytest.raises(ValueError, match="`incoming_state` must hold"):
        metric.merge_state(states)
    if name != "an array":
        metric.persistent(True)
        with pytest.raises(RuntimeError, match="The checkpoint must hold"):
            metric.load_state_dict(states)
    assert metric.update_count == 1
    assert all(torch.equal(before[key], state) for key, state in metric.metric_state.items())


def test_the_window_of_a_wrapper_is_no_state() -> None:
    running = Running(dice("global"), window=3)
    for batch in batches("global"):
        running.update(**batch)
    with pytest.raises(ValueError, match="`incoming_state` must hold"):
        dice("global").merge_state(running)


def test_the_refusal_says_how_the_other_metric_counts() -> None:
    with pytest.raises(ValueError, match=r"threshold.*0\.3.*got counts .*threshold.*0\.9"):
        BinaryDiceScore(threshold=0.3).merge_state(BinaryDiceScore(threshold=0.9))


def test_a_synchronised_metric_is_not_added_to() -> None:
    metric = fed(dice("global"), batches("global"))
    metric.sync(dist_sync_fn=lambda state, group: [state, state], distributed_available=lambda: True)
    with pytest.raises(TorchMetricsUserError, match="synchronised"):
        metric.merge_state(dice("global"))
    metric.unsync()
    metric.merge_state(metric)


def test_a_forward_that_fails_between_processes_changes_nothing() -> None:
    def broken(state: Tensor, group: Any) -> list[Tensor]:
        raise OSError("the other end is gone")

    options = {"dist_sync_on_step": True, "dist_sync_fn": broken, "distributed_available_fn": lambda: True}
    metric = fed(dice("casewise", **options), batches("casewise"))
    before = {key: state.clone() for key, state in metric.metric_state.items()}
    metric.update(**batches("casewise")[0])
    once_more = {key: state.clone() for key, state in metric.metric_state.items()}
    metric.update(**batches("casewise")[0])
    with pytest.raises(OSError, match="gone"):
        metric(**batches("casewise")[1])
    assert not torch.equal(before[metric._rows_name], once_more[metric._rows_name])
    twice = fed(dice("casewise"), [*batches("casewise"), batches("casewise")[0], batches("casewise")[0]])
    pairs = zip(metric.metric_state.values(), twice.metric_state.values(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)
