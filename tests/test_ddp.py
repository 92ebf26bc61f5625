"""One, two and three gloo processes give what one process gives, bit by bit, and none ever hangs.

Starting processes takes seconds, so each world is started once and runs every check; the tests then look at what the
ranks brought back.
"""

from __future__ import annotations

import functools
import io
import os
import re
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import LEVELS, fed, same, same_dict
from ddp import RanksFailedError, launch
from torch import Tensor, distributed
from torch.utils.data import DistributedSampler
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassF1Score
from torchmetrics.utilities.distributed import gather_all_tensors
from torchmetrics.wrappers import ClasswiseWrapper

import torchmetrics_dice_ext as package

pytestmark = [pytest.mark.ddp, pytest.mark.slow, pytest.mark.timeout(450)]

Batch = dict[str, Any]
Factory = Callable[..., Metric]
WORLDS = (1, 2, 3)
SHARES = {1: [range(7)], 2: [range(5), range(5, 7)], 3: [range(1), range(1, 5), range(5, 7)]}
every_world = pytest.mark.parametrize("world", WORLDS)
each_level = pytest.mark.parametrize("level", LEVELS)


def batches(task: str = "multiclass", level: str = "global", ids: type = str) -> list[Batch]:
    """Return seven batches of one to four samples, whose cases go across batches."""
    draw = torch.Generator().manual_seed(29)
    found: list[Batch] = []
    for size in (2, 1, 4, 3, 1, 2, 3):
        channels = (size, 3, 4, 5)
        if task == "multiclass":
            preds, target = torch.randn(channels, generator=draw), torch.randint(0, 3, (size, 4, 5), generator=draw)
        elif task == "multilabel":
            preds, target = torch.rand(channels, generator=draw), torch.randint(0, 2, channels, generator=draw)
        else:
            preds = torch.rand(size, 4, 5, generator=draw)
            target = torch.randint(0, 2, (size, 4, 5), generator=draw)
        numbers = torch.randint(0, 6, (size,), generator=draw).tolist()
        names = [10**number - 3 if ids is int else "case " * number + str(number) for number in numbers]
        extra = {"case_ids": names} if level == "casewise" else {}
        found.append({"preds": preds, "target": target, **extra})
    return found


def share(seen: list[Batch], rank: int, world: int) -> list[Batch]:
    return [seen[number] for number in SHARES[world][rank]]


def dice(level: str = "global", **options: Any) -> Metric:
    return package.MulticlassDiceScore(3, aggregation_level=level, **options)


METRICS: dict[str, tuple[str, Factory]] = {
    "dice": ("multiclass", lambda **o: package.MulticlassDiceScore(3, **o)),
    "dice of each class": ("multiclass", lambda **o: package.MulticlassDiceScore(3, average="none", **o)),
    "jaccard micro": ("multiclass", lambda **o: package.MulticlassJaccardIndex(3, average="micro", **o)),
    "precision weighted": ("multiclass", lambda **o: package.MulticlassPrecision(3, average="weighted", **o)),
    "recall without background": ("multiclass", lambda **o: package.MulticlassRecall(3, include_background=False, **o)),
    "generalized dice": ("multiclass", lambda **o: package.MulticlassGeneralizedDiceScore(3, **o)),
    "void": ("multiclass", lambda **o: package.MulticlassTverskyIndex(3, alpha=0.3, beta=0.7, ignore_index=1, **o)),
    "regions": ("multiclass", lambda **o: package.MulticlassDiceScore(3, regions={"a": [1, 2], "b": [2]}, **o)),
    "deferred": ("multiclass", lambda **o: package.MulticlassDiceScore(3, validate_args="deferred", **o)),
    "binary specificity": ("binary", lambda **o: package.BinarySpecificity(**o)),
    "binary generalized dice": ("binary", lambda **o: package.BinaryGeneralizedDiceScore(**o)),
    "binary volumes": ("binary", lambda **o: package.BinaryVolumetricSimilarity(threshold=0.25, **o)),
    "multilabel f2": ("multilabel", lambda **o: package.MultilabelFBetaScore(3, beta=2.0, average="none", **o)),
    "multilabel dice": ("multilabel", lambda **o: package.MultilabelDiceScore(3, threshold=[0.2, 0.5, 0.7], **o)),
}


# What the ranks do. Each check returns what the tests look at.

CHECKS: dict[str, Callable[..., Any]] = {}


def on_ranks(check: Callable[..., Any]) -> Callable[..., Any]:
    CHECKS[check.__name__] = check
    return check


COLLECTIVES = (
    *("all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "all_to_all", "all_to_all_single"),
    *("barrier", "monitored_barrier", "broadcast", "broadcast_object_list", "gather", "gather_object", "reduce"),
    *("reduce_scatter", "reduce_scatter_tensor", "scatter", "scatter_object_list", "send", "recv", "isend", "irecv"),
)


class Collectives:
    """Write down every call that torch.distributed gets."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.originals = {name: getattr(distributed, name) for name in COLLECTIVES}

    def __enter__(self) -> Collectives:
        for name, original in self.originals.items():

            @functools.wraps(original)
            def counted(*args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
                self.names.append(_name)
                return _original(*args, **kwargs)

            setattr(distributed, name, counted)
        return self

    def __exit__(self, *_: object) -> None:
        for name, original in self.originals.items():
            setattr(distributed, name, original)


@on_ranks
def values(rank: int, world: int) -> Any:
    found = {}
    for level in LEVELS:
        for name, (task, factory) in METRICS.items():
            metric = fed(factory(aggregation_level=level), share(batches(task, level), rank, world))
            found[level, name] = (metric.compute(), metric.per_class())
    return found


@on_ranks
def soft_values(rank: int, world: int) -> Any:
    found = {}
    for level in LEVELS:
        metric = package.BinarySoftDiceScore(aggregation_level=level)
        found[level] = fed(metric, share(batches("binary", level), rank, world)).compute()
    return found


@on_ranks
def values_by_forward(rank: int, world: int) -> Any:
    found = {}
    for level in LEVELS:
        metric = dice(level)
        mine = share(batches(level=level), rank, world)
        found[level] = ([metric(**batch) for batch in mine], metric.compute())
    return found


@on_ranks
def compute_update_compute(rank: int, world: int) -> Any:
    found = {}
    for level in LEVELS:
        metric = dice(level)
        mine = share(batches(level=level), rank, world)
        metric.update(**mine[0])
        early = metric.compute()
        fed(metric, mine[1:])
        if len(mine) == 1:
            metric.update(**{key: value[:0] for key, value in mine[0].items()})
        late = metric.compute()
        metric.reset()
        fed(metric, mine)
        found[level] = (early, late, metric.compute(), metric.update_count)
    return found


@on_ranks
def idle_rank(rank: int, world: int) -> Any:
    """Rank 0 sees nothing at all, unless it is alone."""
    found = {}
    for level in LEVELS:
        metric = dice(level, average="none")
        if world == 1 or rank > 0:
            fed(metric, share(batches(level=level), max(rank - 1, 0), max(world - 1, 1)))
        found[level] = (metric.compute(), metric.per_class(), rows(metric))
    return found


def rows(metric: Metric) -> str:
    return repr(metric.per_case()) if metric.aggregation_level == "casewise" else ""


@on_ranks
def no_updates(rank: int, world: int) -> Any:
    found = {}
    for level in LEVELS:
        metric = dice(level)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[level] = (metric.compute(), metric.per_class(), rows(metric))
        metric.reset()
        fed(metric, share(batches(level=level), rank, world))
        found[level, "then"] = metric.compute()
    return found


@on_ranks
def deferred_fault(rank: int, world: int) -> Any:
    """The last rank sees seven labels out of range."""
    found = {}
    for level in LEVELS:
        metric = dice(level, validate_args="deferred")
        mine = share(batches(level=level), rank, world)
        fed(metric, mine)
        if rank == world - 1:
            wrong = {**mine[0], "target": mine[0]["target"].clone()}
            wrong["target"].view(-1)[:7] = 9
            metric.update(**wrong)
        messages = []
        for ask in (metric.compute, metric.compute, metric.per_class):
            try:
                messages.append(f"no error but {ask()}")
            except ValueError as error:
                messages.append(str(error))
        metric.reset()
        found[level] = (messages, fed(metric, mine).compute())
    return found


@on_ranks
def eager_fault(rank: int, world: int) -> Any:
    """The last rank's update is refused, and goes on as if it had not been."""
    found = {}
    for level in LEVELS:
        metric = dice(level, validate_args="eager")
        mine = share(batches(level=level), rank, world)
        fed(metric, mine[:1])
        refused = 0
        for step in (metric.update, metric.forward):
            if rank == world - 1:
                try:
                    step(**{**mine[0], "target": mine[0]["target"] + 100})
                except ValueError:
                    refused += 1
        found[level] = (refused, fed(metric, mine[1:]).compute())
    return found


@on_ranks
def step_sync(rank: int, world: int) -> Any:
    """Every rank takes as many steps as the others, each with one batch of its own."""
    found = {}
    for level in LEVELS:
        metric = dice(level, dist_sync_on_step=True)
        seen = batches(level=level)
        steps = [metric(**seen[step * world + rank]) for step in range(6 // world)]
        found[level] = (steps, metric.compute(), metric.update_count)
    return found


@on_ranks
def step_sync_fault(rank: int, world: int) -> Any:
    metric = dice(dist_sync_on_step=True, validate_args="deferred")
    healthy = batches()[rank]
    wrong = {**healthy, "target": healthy["target"] + (100 if rank == world - 1 else 0)}
    return metric(**healthy), metric(**wrong)


@on_ranks
def no_sync_on_compute(rank: int, world: int) -> Any:
    found = {}
    for level in LEVELS:
        metric = dice(level, sync_on_compute=False)
        fed(metric, share(batches(level=level), rank, world))
        with Collectives() as seen:
            found[level] = (metric.compute(), metric.per_class())
        found[level, "collectives"] = seen.names
    return found


@on_ranks
def process_groups(rank: int, world: int) -> Any:
    """Ranks 0 and 1 form the one group, rank 2 the other one."""
    teams = [[number for number in range(world) if number < 2], [number for number in range(world) if number >= 2]]
    groups = [distributed.new_group(team) for team in teams if team]
    mine = groups[0] if rank < 2 else groups[1]
    found = {}
    for level in LEVELS:
        metric = dice(level, process_group=mine)
        found[level] = fed(metric, share(batches(level=level), rank, world)).compute()
    return found


class Gather:
    """A gathering function of the user's own, that writes down its calls."""

    def __init__(self, local: bool) -> None:
        self.local = local
        self.calls = 0

    def __call__(self, result: Tensor, group: Any = None) -> list[Tensor]:
        self.calls += 1
        return [result] if self.local else gather_all_tensors(result, group)


@on_ranks
def own_gather(rank: int, world: int) -> Any:
    found = {}
    for level in LEVELS:
        for local in (False, True):
            gather = Gather(local)
            metric = dice(level, dist_sync_fn=gather)
            value = fed(metric, share(batches(level=level), rank, world)).compute()
            found[level, local] = (value, gather.calls)
    return found


@on_ranks
def sync_and_unsync(rank: int, world: int) -> Any:
    found = {}
    for level in LEVELS:
        metric = dice(level)
        mine = share(batches(level=level), rank, world)
        fed(metric, mine[:1])
        before = repr(metric.metric_state)
        metric.sync()
        synced = repr(metric.metric_state)
        refusals = []
        for step in (metric.sync, lambda m=metric, b=mine[0]: m(**b)):
            try:
                step()
            except Exception as error:
                refusals.append(type(error).__name__)
        metric.unsync()
        restored = repr(metric.metric_state) == before
        with metric.sync_context(None, None, True, True, None):  # by position, as torchmetrics has them
            again = repr(metric.metric_state) == synced
        restored = restored and repr(metric.metric_state) == before
        found[level] = (restored, again, synced, refusals, fed(metric, mine[1:]).compute())
    return found


@on_ranks
def everywhere_the_same(rank: int, world: int) -> Any:
    """Casewise read-outs over cases that lie on several ranks."""
    found = {}
    for ids in (str, int):
        metric = dice("casewise", average="none", class_names=["a", "b", "c"])
        fed(metric, share(batches(level="casewise", ids=ids), rank, world))
        state = torch.get_rng_state()
        interval = metric.confidence_interval(level=0.8, n_resamples=200, seed=3)
        untouched = torch.equal(state, torch.get_rng_state())
        found[ids.__name__] = (metric.compute(), metric.per_class(), repr(metric.per_case()), interval, untouched)
        scalar = fed(dice("casewise"), share(batches(level="casewise", ids=ids), rank, world))
        found[ids.__name__, "scalar"] = scalar.confidence_interval(n_resamples=100, seed=0)
    return found


@on_ranks
def one_rank_has_all_cases(rank: int, world: int) -> Any:
    found = {}
    for ids in (str, int):
        metric = dice("casewise", average="none")
        if rank == world - 1:
            fed(metric, batches(level="casewise", ids=ids))
        found[ids.__name__] = (metric.compute(), repr(metric.per_case()))
    return found


@on_ranks
def collectives(rank: int, world: int) -> Any:
    """Count the collectives of the first compute, and of a second one that has nothing new."""
    metrics: dict[Any, tuple[Any, str]] = {level: (dice(level), level) for level in LEVELS}
    metrics["deferred"] = (dice(validate_args="deferred"), "global")
    metrics["binary generalized"] = (package.BinaryGeneralizedDiceScore(), "global")
    metrics["F1"] = (MulticlassF1Score(3), "global")
    metrics["report"] = (report(), "global")
    metrics["samplewise report"] = (report(aggregation_level="samplewise"), "samplewise")
    metrics["casewise report"] = (report(aggregation_level="casewise"), "casewise")
    metrics["collection"] = (five_scores(), "global")
    found = {}
    for name, (metric, level) in metrics.items():
        task = "binary" if name == "binary generalized" else "multiclass"
        fed(metric, share(batches(task, level), rank, world))
        with Collectives() as update:
            fed(metric, share(batches(task, level), rank, world))
        with Collectives() as first:
            metric.compute()
        with Collectives() as second:
            metric.compute()
        found[name] = (len(update.names), len(first.names), len(second.names))
    return found


def report(**options: Any) -> MetricCollection:
    return package.OverlapReport(
        task="multiclass",
        num_classes=3,
        scores=("dice", "jaccard", ("fbeta", {"beta": 2.0})),
        class_names=["a", "b", "c"],
        **options,
    )


def five_scores() -> MetricCollection:
    return MetricCollection(
        {
            "dice": package.MulticlassDiceScore(3),
            "jaccard": package.MulticlassJaccardIndex(3, average="none"),
            "precision": package.MulticlassPrecision(3, average="weighted"),
            "recall": package.MulticlassRecall(3, average="micro"),
            "f2": package.MulticlassFBetaScore(3, beta=2.0),
        }
    )


@on_ranks
def collection_values(rank: int, world: int) -> Any:
    collection = five_scores()
    found = []
    for epoch in range(2):
        mine = share(batches()[::-1] if epoch else batches(), rank, world)
        fed(collection, mine[:1])
        early = collection.compute()
        fed(collection, mine[1:])
        if len(mine) == 1:
            collection.update(mine[0]["preds"][:0], mine[0]["target"][:0])
        found.append((early, collection.compute(), len(collection.compute_groups)))
        collection.reset()
    return found


@on_ranks
def report_values(rank: int, world: int) -> Any:
    found = {}
    for level in LEVELS:
        one = report(aggregation_level=level)
        fed(one, share(batches(level=level), rank, world))
        first = one.compute()
        one.reset()
        fed(one, share(batches(level=level), rank, world)[:1])
        found[level] = (first, one.compute())
        members = {name: metric.compute() for name, metric in one.items()}
        found[level, "members"] = members
    return found


@on_ranks
def idle_rank_in_a_collection(rank: int, world: int) -> Any:
    """Rank 0 sees nothing, unless it is alone: its compute groups have not even been formed."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, one in (("collection", five_scores()), ("report", report())):
            if world == 1 or rank > 0:
                fed(one, share(batches(), max(rank - 1, 0), max(world - 1, 1)))
            found[name] = one.compute()
    return found


@on_ranks
def synced_by_hand(rank: int, world: int) -> Any:
    """With sync_on_compute=False a metric synced by hand computes over all ranks, and then is local again."""
    found = {}
    for level in LEVELS:
        metric = dice(level, sync_on_compute=False, compute_with_cache=False)
        fed(metric, share(batches(level=level), rank, world))
        metric.sync()
        classes = metric.per_class()
        together = metric.compute()
        found[level] = (classes, together, metric.compute())
    return found


@on_ranks
def report_fault(rank: int, world: int) -> Any:
    one = report(validate_args="deferred")
    mine = share(batches(), rank, world)
    fed(one, mine)
    if rank == world - 1:
        one.update(mine[0]["preds"], mine[0]["target"] + 100)
    try:
        message = f"no error but {one.compute()}"
    except ValueError as error:
        message = str(error)
    one.reset()
    fed(one, mine)
    return message, one.compute()


@on_ranks
def wrapped(rank: int, world: int) -> Any:
    metric = ClasswiseWrapper(dice(average="none"), labels=["a", "b", "c"], prefix="dice/")
    return fed(metric, share(batches(), rank, world)).compute()


@on_ranks
def padded_by_the_sampler(rank: int, world: int) -> Any:
    """Seven cases of one batch each: on 2 and 3 ranks the sampler repeats some of them."""
    sampler = DistributedSampler(range(7), num_replicas=world, rank=rank, shuffle=False)
    seen = batches()
    metric = dice("casewise", average="none")
    for number in sampler:
        metric.update(**seen[number], case_ids=[f"case {number}"] * len(seen[number]["target"]))
    return metric.compute(), len(sampler)


@on_ranks
def save(rank: int, world: int) -> Any:
    """Save half an epoch inside sync_context, then go on as if nothing had been."""
    found = {}
    for level in LEVELS:
        metric = dice(level)
        metric.persistent(True)
        mine = share(batches(level=level), rank, world)
        fed(metric, mine[:1])
        with metric.sync_context():
            state = metric.state_dict()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        found[level] = (buffer.getvalue(), fed(metric, mine[1:]).compute())
    return found


@on_ranks
def resume(rank: int, world: int, saved: dict[str, bytes]) -> Any:
    """Load on rank 0 alone what two ranks have saved, then see every batch."""
    found = {}
    for level in LEVELS:
        metric = dice(level)
        metric.persistent(True)
        if rank == 0:
            metric.load_state_dict(torch.load(io.BytesIO(saved[level]), weights_only=True))
        fed(metric, share(batches(level=level), rank, world))
        found[level] = (metric.compute(), metric.per_class(), rows(metric))
    return found


def run_checks(rank: int, world: int, saved: dict[str, bytes]) -> dict[str, tuple[bool, Any]]:
    """Run every check on this rank; after a broken group there is no use in trying the others."""
    found: dict[str, tuple[bool, Any]] = {}
    for name, check in CHECKS.items():
        extra = (saved,) if check is resume else ()
        if check is resume and not saved:
            continue
        try:
            found[name] = (True, check(rank, world, *extra))
            distributed.barrier()
        except RuntimeError:
            found[name] = (False, traceback.format_exc())
            if "gloo" in found[name][1]:
                break
        except Exception:
            found[name] = (False, traceback.format_exc())
    return found


@functools.cache
def outcomes(world: int) -> list[dict[str, tuple[bool, Any]]]:
    saved = {} if world == 2 else {level: state for level, (state, _) in results(2, "save")[0].items()}
    try:
        return launch(run_checks, world, saved, timeout=200.0, group_timeout=60.0)
    except RanksFailedError as error:  # kept, so that no other test starts this world in vain
        return [{"launch": (False, str(error))}] * world


def results(world: int, check: str) -> list[Any]:
    """Return what `check` gave on each rank, or fail with the tracebacks of the ranks."""
    broken = (False, "the group was broken before this check")
    found = [outcome.get(check, outcome.get("launch", broken)) for outcome in outcomes(world)]
    errors = [f"rank {rank}: {value}" for rank, (fine, value) in enumerate(found) if not fine]
    if errors:
        pytest.fail("\n".join(errors), pytrace=False)
    return [value for _, value in found]


def early(world: int, level: str = "global") -> list[Batch]:
    """Return the first batch of every rank."""
    seen = batches(level=level)
    return [seen[numbers[0]] for numbers in SHARES[world]]


# What the tests see


@every_world
@each_level
@pytest.mark.parametrize("name", METRICS)
def test_one_process_and_several_agree_bit_by_bit(world: int, level: str, name: str) -> None:
    task, factory = METRICS[name]
    wanted = fed(factory(aggregation_level=level), batches(task, level))
    for found in results(world, "values"):
        value, classes = found[level, name]
        assert same(value, wanted.compute())
        assert same_dict(classes, wanted.per_class())


@every_world
@each_level
def test_soft_sums_agree_closely(world: int, level: str) -> None:
    wanted = fed(package.BinarySoftDiceScore(aggregation_level=level), batches("binary", level)).compute()
    for found in results(world, "soft_values"):
        assert torch.allclose(found[level], wanted, rtol=1e-6, atol=0)


@every_world
@each_level
def test_forward_gives_each_rank_its_own_batch(world: int, level: str) -> None:
    seen = batches(level=level)
    for rank, found in enumerate(results(world, "values_by_forward")):
        steps, value = found[level]
        mine = share(seen, rank, world)
        assert len(steps) == len(mine)
        assert all(same(step, fed(dice(level), [batch]).compute()) for step, batch in zip(steps, mine, strict=True))
        assert same(value, fed(dice(level), seen).compute())


@every_world
@each_level
def test_compute_update_and_compute_again(world: int, level: str) -> None:
    whole = fed(dice(level), batches(level=level)).compute()
    for rank, found in enumerate(results(world, "compute_update_compute")):
        first, late, again, updates = found[level]
        assert same(first, fed(dice(level), early(world, level)).compute())
        assert same(late, whole)
        assert same(again, whole)
        assert updates == len(SHARES[world][rank])


@every_world
@each_level
def test_a_rank_without_data(world: int, level: str) -> None:
    wanted = fed(dice(level, average="none"), batches(level=level))
    for found in results(world, "idle_rank"):
        value, classes, cases = found[level]
        assert same(value, wanted.compute())
        assert same_dict(classes, wanted.per_class())
        assert cases == rows(wanted)


@every_world
@each_level
def test_no_data_on_any_rank(world: int, level: str) -> None:
    for found in results(world, "no_updates"):
        value, classes, cases = found[level]
        assert value.isnan()
        assert len(classes) == 3
        assert all(score.isnan() for score in classes.values())
        assert cases == ("[]" if level == "casewise" else "")
        assert same(found[level, "then"], fed(dice(level), batches(level=level)).compute())


@every_world
@each_level
def test_a_fault_on_one_rank_is_told_by_all(world: int, level: str) -> None:
    whole = fed(dice(level), batches(level=level)).compute()
    told = set()
    for found in results(world, "deferred_fault"):
        messages, value = found[level]
        assert len(messages) == 3
        told |= set(messages)
        assert same(value, whole)
    (message,) = told
    assert "target" in message
    assert re.search(r"\b7\b", message)
    assert re.search(rf"update\D{{0,20}}\b{len(SHARES[world][-1]) + 1}\b", message), message
    assert "no error" not in message


@every_world
@each_level
def test_a_refused_update_of_one_rank_harms_no_other(world: int, level: str) -> None:
    whole = fed(dice(level), batches(level=level)).compute()
    for rank, found in enumerate(results(world, "eager_fault")):
        refused, value = found[level]
        assert refused == (2 if rank == world - 1 else 0)
        assert same(value, whole)


@every_world
@each_level
def test_dist_sync_on_step(world: int, level: str) -> None:
    seen = batches(level=level)[:6]
    for found in results(world, "step_sync"):
        steps, value, updates = found[level]
        for number, step in enumerate(steps):
            assert same(step, fed(dice(level), seen[number * world : (number + 1) * world]).compute())
        assert same(value, fed(dice(level), seen).compute())
        assert updates == 6 // world


@every_world
def test_dist_sync_on_step_gives_every_rank_nan_for_a_malformed_step(world: int) -> None:
    for healthy, malformed in results(world, "step_sync_fault"):
        assert same(healthy, fed(dice(), batches()[:world]).compute())
        assert malformed.isnan()


@every_world
@each_level
def test_sync_on_compute_false_keeps_to_its_own_rank(world: int, level: str) -> None:
    for rank, found in enumerate(results(world, "no_sync_on_compute")):
        wanted = fed(dice(level), share(batches(level=level), rank, world))
        value, classes = found[level]
        assert same(value, wanted.compute())
        assert same_dict(classes, wanted.per_class())
        assert found[level, "collectives"] == []


@every_world
@each_level
def test_a_process_group_keeps_to_itself(world: int, level: str) -> None:
    seen = batches(level=level)
    team = [batch for rank in range(min(world, 2)) for batch in share(seen, rank, world)]
    for rank, found in enumerate(results(world, "process_groups")):
        mine = team if rank < 2 else share(seen, rank, world)
        assert same(found[level], fed(dice(level), mine).compute())


@every_world
@each_level
def test_a_gathering_function_of_the_users_own_is_used(world: int, level: str) -> None:
    seen = batches(level=level)
    for rank, found in enumerate(results(world, "own_gather")):
        value, calls = found[level, False]
        assert calls > 0
        assert same(value, fed(dice(level), seen).compute())
        value, calls = found[level, True]
        assert calls > 0
        assert same(value, fed(dice(level), share(seen, rank, world)).compute())


@every_world
@each_level
def test_sync_and_unsync_by_hand(world: int, level: str) -> None:
    synced_states = set()
    for found in results(world, "sync_and_unsync"):
        restored, again, synced, refusals, value = found[level]
        assert restored
        assert again
        assert refusals == ["TorchMetricsUserError"] * 2
        synced_states.add(synced)
        assert same(value, fed(dice(level), batches(level=level)).compute())
    assert len(synced_states) == 1


@every_world
@pytest.mark.parametrize("ids", [str, int], ids=["strings", "ints"])
def test_read_outs_are_the_same_on_every_rank(world: int, ids: type) -> None:
    seen = batches(level="casewise", ids=ids)
    wanted = fed(dice("casewise", average="none", class_names=["a", "b", "c"]), seen)
    low, high = wanted.confidence_interval(level=0.8, n_resamples=200, seed=3)
    scalar_low, scalar_high = fed(dice("casewise"), seen).confidence_interval(n_resamples=100, seed=0)
    for found in results(world, "everywhere_the_same"):
        value, classes, cases, interval, untouched = found[ids.__name__]
        assert same(value, wanted.compute())
        assert same_dict(classes, wanted.per_class())
        assert cases == repr(wanted.per_case())
        assert same(interval[0], low)
        assert same(interval[1], high)
        assert untouched
        scalar = found[ids.__name__, "scalar"]
        assert same(scalar[0], scalar_low)
        assert same(scalar[1], scalar_high)


@every_world
@pytest.mark.parametrize("ids", [str, int], ids=["strings", "ints"])
def test_one_rank_may_have_all_cases(world: int, ids: type) -> None:
    wanted = fed(dice("casewise", average="none"), batches(level="casewise", ids=ids))
    for found in results(world, "one_rank_has_all_cases"):
        value, cases = found[ids.__name__]
        assert same(value, wanted.compute())
        assert cases == repr(wanted.per_case())


@every_world
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("global", 1),
        ("samplewise", 1),
        ("casewise", 2),
        ("deferred", 1),
        ("binary generalized", 1),
        ("report", 1),
        ("samplewise report", 1),
        ("casewise report", 2),
        ("collection", 5),
    ],
)
def test_collectives_of_a_compute(world: int, name: str, most: int) -> None:
    for found in results(world, "collectives"):
        update, first, second = found[name]
        assert update == 0
        assert 1 <= first <= most
        assert second == 0


@every_world
def test_torchmetrics_f1_needs_twelve(world: int) -> None:
    assert {found["F1"] for found in results(world, "collectives")} == {(0, 12, 0)}


@every_world
def test_a_collection(world: int) -> None:
    for found in results(world, "collection_values"):
        for epoch, (first, late, groups) in enumerate(found):
            seen = batches()[::-1] if epoch else batches()
            starts = [seen[numbers[0]] for numbers in SHARES[world]]
            for value, so_far in ((first, starts), (late, seen)):
                wanted = {name: fed(metric, so_far).compute() for name, metric in five_scores().items()}
                assert same_dict(value, wanted)
            assert groups == 1


@every_world
@each_level
def test_a_report(world: int, level: str) -> None:
    whole = fed(report(aggregation_level=level), batches(level=level)).compute()
    part = fed(report(aggregation_level=level), early(world, level)).compute()
    assert whole["dice"].isfinite()
    for found in results(world, "report_values"):
        assert same_dict(found[level][0], whole)
        assert same_dict(found[level][1], part)
        assert same_dict(found[level, "members"], part)


@every_world
def test_a_rank_without_data_in_a_collection_and_a_report(world: int) -> None:
    wanted = {name: fed(metric, batches()).compute() for name, metric in five_scores().items()}
    for found in results(world, "idle_rank_in_a_collection"):
        assert same_dict(found["collection"], wanted)
        assert same_dict(found["report"], fed(report(), batches()).compute())


@every_world
@each_level
def test_a_metric_synced_by_hand_computes_over_all_ranks(world: int, level: str) -> None:
    wanted = fed(dice(level), batches(level=level))
    for rank, found in enumerate(results(world, "synced_by_hand")):
        classes, together, local = found[level]
        assert same_dict(classes, wanted.per_class())
        assert same(together, wanted.compute())
        assert same(local, fed(dice(level), share(batches(level=level), rank, world)).compute())


@every_world
def test_a_fault_in_a_report_is_told_by_all(world: int) -> None:
    whole = fed(report(), batches()).compute()
    found = results(world, "report_fault")
    assert len({message for message, _ in found}) == 1
    for message, value in found:
        assert "target" in message
        assert "no error" not in message
        assert same_dict(value, whole)


@every_world
def test_a_classwise_wrapper(world: int) -> None:
    wanted = fed(dice(average="none"), batches()).compute()
    for found in results(world, "wrapped"):
        assert list(found) == ["dice/a", "dice/b", "dice/c"]
        assert same(torch.stack(list(found.values())), wanted)


@every_world
def test_cases_that_a_sampler_repeats_change_nothing(world: int) -> None:
    wanted = dice("casewise", average="none")
    for number, batch in enumerate(batches()):
        wanted.update(**batch, case_ids=[f"case {number}"] * len(batch["target"]))
    found = results(world, "padded_by_the_sampler")
    assert sum(length for _, length in found) == {1: 7, 2: 8, 3: 9}[world]
    assert all(same(value, wanted.compute()) for value, _ in found)


@every_world
@each_level
def test_saving_inside_sync_context_saves_all_ranks_and_disturbs_none(world: int, level: str) -> None:
    wanted = fed(dice(level), early(world, level))
    for found in results(world, "save"):
        state, value = found[level]
        restored = dice(level)
        restored.persistent(True)
        restored.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
        assert same(restored.compute(), wanted.compute())
        assert rows(restored) == rows(wanted)
        assert restored.update_count == world
        assert same(value, fed(dice(level), batches(level=level)).compute())


@pytest.mark.parametrize("world", [1, 3])
@each_level
def test_what_two_ranks_saved_rank_0_of_another_world_takes_up(world: int, level: str) -> None:
    wanted = fed(dice(level), [*early(2, level), *batches(level=level)])
    for found in results(world, "resume"):
        value, classes, cases = found[level]
        assert same(value, wanted.compute())
        assert same_dict(classes, wanted.per_class())
        assert cases == rows(wanted)


# A rank that is lost


def lose_a_rank(rank: int, world: int, how: str) -> tuple[float, str]:
    metric = dice()
    fed(metric, share(batches(), rank, world))
    distributed.barrier()
    if rank == 1 and how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 1:
        time.sleep(9.0)
        return 0.0, "late"
    return metric.compute().item(), "computed"


@pytest.mark.parametrize("how", ["killed", "stuck"])
def test_a_lost_rank_ends_the_job_with_an_error(how: str) -> None:
    with pytest.raises(RanksFailedError) as caught:
        launch(lose_a_rank, 2, how, timeout=120.0, group_timeout=4.0)
    first = caught.value.outcomes[0]
    assert first.value is None
    assert "RuntimeError" in (first.error or "") or "DistBackendError" in (first.error or "")
    assert "compute" in (first.error or "")
    if how == "killed":
        assert caught.value.outcomes[1].error == f"died with exit code {-signal.SIGKILL}"
