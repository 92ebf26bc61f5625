"""One contract for every public metric: constants, copies, pickles, forward, dtypes, gradients, resets."""

from __future__ import annotations

import copy
import functools
import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from cases import (
    CLASS_SUFFIX,
    LEVELS,
    PARAMETERS,
    Batch,
    concatenate,
    expected,
    fed,
    oracle_counts,
    same,
    to_numpy,
)
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities.checks import check_forward_full_state_property
from torchmetrics.wrappers import ClasswiseWrapper

import torchmetrics_dice_ext as package

NUM_CLASSES = 3
SUFFIX = {**CLASS_SUFFIX, "soft_dice": "SoftDiceScore"}
TASKS = ("binary", "multiclass", "multilabel")
CASE_IDS = (["a", "b"], ["b", "c"], ["d", "a"])


@dataclass(frozen=True)
class Case:
    """One public class at one aggregation level."""

    score: str
    task: str
    level: str

    @property
    def soft(self) -> bool:
        return self.score == "soft_dice"

    @property
    def public_class(self) -> type[Metric]:
        found: type[Metric] = getattr(package, f"{self.task.capitalize()}{SUFFIX[self.score]}")
        return found

    @property
    def size(self) -> dict[str, int]:
        sizes = {"binary": {}, "multiclass": {"num_classes": NUM_CLASSES}, "multilabel": {"num_labels": NUM_CLASSES}}
        return sizes[self.task]

    @property
    def arguments(self) -> dict[str, Any]:
        return {**self.size, **PARAMETERS.get(self.score, {}), "aggregation_level": self.level}

    def make(self, **options: Any) -> Metric:
        return self.public_class(**{**self.arguments, **options})

    def batches(self) -> list[dict[str, Any]]:
        draw = torch.Generator().manual_seed(7)
        found = []
        for ids in CASE_IDS:
            if self.task == "binary":
                preds, target = torch.rand(2, 5, 8, generator=draw), torch.randint(0, 2, (2, 5, 8), generator=draw)
            elif self.task == "multiclass":
                preds = torch.randn(2, NUM_CLASSES, 5, 8, generator=draw).softmax(1)
                target = torch.randint(0, NUM_CLASSES, (2, 5, 8), generator=draw)
            else:
                preds = torch.rand(2, NUM_CLASSES, 5, 8, generator=draw)
                target = torch.randint(0, 2, (2, NUM_CLASSES, 5, 8), generator=draw)
            extra = {"case_ids": ids} if self.level == "casewise" else {}
            found.append({"preds": preds, "target": target, **extra})
        return found


CASES = [Case(*names) for names in itertools.product(SUFFIX, TASKS, LEVELS)]
ONE_OF_A_KIND = ("dice", "fbeta", "generalized_dice", "soft_dice")
"""The plain score, one with a parameter, one that reduces classes by itself, one whose state holds floats."""
every_metric = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.score}-{c.task}-{c.level}")
every_kind = pytest.mark.parametrize(
    "case", [c for c in CASES if c.score in ONE_OF_A_KIND], ids=lambda c: f"{c.score}-{c.task}-{c.level}"
)
every_class = pytest.mark.parametrize(
    "case", [c for c in CASES if c.level == "global"], ids=lambda c: f"{c.score}-{c.task}"
)


def true_counts(case: Case, given: dict[str, Any]) -> oracle.Counts:
    """Counts (N, C) of one batch, soft ones for soft scores."""
    batch = Batch(given["preds"], given["target"])
    if case.soft:
        sizes = {"num_classes": NUM_CLASSES} if case.task == "multiclass" else {}
        return oracle.soft_counts(to_numpy(batch.preds), to_numpy(batch.target), task=case.task, **sizes)
    both = case.task == "binary" and case.score == "generalized_dice"
    return oracle_counts(case.task, batch, case.size, background=both)


def true_score(case: Case, counts: oracle.Counts, ids: Iterable[str]) -> float:
    name = "dice" if case.soft else case.score
    readout = {**PARAMETERS.get(case.score, {}), "aggregation_level": case.level}
    return expected(name, case.task, counts, case.size, readout, tuple(ids)).item()


def true_value(case: Case, given: list[dict[str, Any]]) -> float:
    """What a metric must say after these batches."""
    return true_score(case, concatenate([true_counts(case, batch) for batch in given]), itertools.chain(*CASE_IDS))


def agree(case: Case, left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-6, atol=0) if case.soft else same(left, right)


def after(case: Case, batches: list[dict[str, Any]] | None = None, **options: Any) -> Metric:
    """A metric that has seen these batches, or all."""
    return fed(case.make(**options), case.batches() if batches is None else batches)


def state_tensors(metric: Metric) -> list[Tensor]:
    found: list[Tensor] = []
    for value in metric.metric_state.values():
        found.extend([value] if isinstance(value, Tensor) else value)
    return found


DOUBLINGS = 28


@functools.cache
def beyond_float32(case: Case) -> Metric:
    """Return a metric that holds counts of 2**28 times one batch plus two others: float32 can't."""
    first, second, third = case.batches()
    metric = after(case, [first])
    for _ in range(DOUBLINGS):
        metric.merge_state(metric.clone())
    metric.update(**second)
    metric.merge_state(after(case, [third]))
    return metric


@every_metric
def test_value_is_that_of_the_oracle(case: Case) -> None:
    value = after(case).compute()
    assert value.item() == pytest.approx(true_value(case, case.batches()), abs=1e-6)
    assert 0.0 < value.item() < 1.0


@every_class
def test_factory_makes_the_class_of_the_task(case: Case) -> None:
    made = getattr(package, SUFFIX[case.score])(task=case.task, **case.arguments)
    assert type(made) is case.public_class
    assert isinstance(made, Metric)


@every_class
def test_class_constants_and_that_they_cannot_be_set(case: Case) -> None:
    for owner in (case.public_class, case.make()):
        assert owner.higher_is_better is True
        assert owner.is_differentiable is False
        assert owner.full_state_update is False
        assert (owner.plot_lower_bound, owner.plot_upper_bound) == (0.0, 1.0)
    metric = case.make()
    for name in ("higher_is_better", "is_differentiable", "full_state_update", "plot_lower_bound", "plot_upper_bound"):
        with pytest.raises(RuntimeError, match="Can't change const"):
            setattr(metric, name, None)


@every_class
def test_average_is_none_where_a_score_has_none(case: Case) -> None:
    none = case.task == "binary" or "Generalized" in case.public_class.__name__
    assert case.make().average == (None if none else "macro")


def test_attributes_of_a_subclass_may_start_as_states_do() -> None:
    metric = package.BinaryDiceScore()
    metric.overlap_note = 1
    assert metric.overlap_note == 1


@every_class
def test_unknown_keyword_is_refused_and_those_of_metric_are_taken(case: Case) -> None:
    with pytest.raises((TypeError, ValueError), match="no_such_option"):
        case.make(no_such_option=1)
    metric = case.make(sync_on_compute=False, dist_sync_on_step=True, compute_with_cache=False)
    assert (metric.sync_on_compute, metric.dist_sync_on_step, metric.compute_with_cache) == (False, True, False)


@every_kind
def test_forward_gives_the_batch_and_accumulates(case: Case) -> None:
    metric = case.make()
    for number, batch in enumerate(case.batches(), start=1):
        assert same(metric(**batch), after(case, [batch]).compute())
        assert metric.update_count == number
    assert agree(case, metric.compute(), after(case).compute())
    assert metric.compute().item() == pytest.approx(true_value(case, case.batches()), abs=1e-6)


@every_class
def test_forward_and_update_mix(case: Case) -> None:
    first, second, third = case.batches()
    metric = case.make()
    metric.update(**first)
    metric(**second)
    metric.update(**third)
    assert agree(case, metric.compute(), after(case).compute())


@every_class
def test_full_state_and_reduced_state_forward_agree(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    check_forward_full_state_property(
        case.public_class, case.arguments, case.batches()[0], num_update_to_compare=[2, 3], reps=2
    )
    assert "Partial state for 3 steps" in capsys.readouterr().out


@every_kind
@pytest.mark.parametrize(
    "copied",
    [lambda m: m.clone(), copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))],
    ids=["clone", "deepcopy", "copy", "pickle"],
)
def test_copies_carry_the_state_and_go_their_own_way(case: Case, copied: Callable[[Metric], Metric]) -> None:
    first, second, third = case.batches()
    metric = after(case, [first], compute_with_cache=False)
    twin = copied(metric)
    before = metric.compute()
    assert type(twin) is case.public_class
    assert same(twin.compute(), before)
    for batch in (second, third):
        twin.update(**batch)
    assert twin.update_count == 3
    assert agree(case, twin.compute(), after(case).compute())
    assert metric.update_count == 1
    assert same(metric.compute(), before)
    idle = copied(metric)
    metric.update(**{**second, **{name: first[name] for name in first if name == "case_ids"}})
    assert same(idle.compute(), before)


@every_class
def test_a_fresh_metric_can_be_pickled_and_used(case: Case) -> None:
    metric = pickle.loads(pickle.dumps(case.make()))
    for batch in case.batches():
        metric.update(**batch)
    assert same(metric.compute(), after(case).compute())


@every_kind
def test_hash_tells_metrics_apart(case: Case) -> None:
    metric, other = after(case), after(case)
    assert hash(metric) == hash(metric)
    assert hash(metric) != hash(other)
    assert len({metric, other, metric}) == 2


@every_kind
def test_state_dict_is_empty_by_default(case: Case) -> None:
    assert dict(case.make().state_dict()) == {}
    assert dict(after(case).state_dict()) == {}
    assert list(after(case).parameters()) == []


@every_kind
def test_results_are_tensors_of_the_default_dtype_on_the_device(case: Case) -> None:
    metric = after(case)
    for value in (metric.compute(), *metric.per_class().values(), metric(**case.batches()[0])):
        assert isinstance(value, Tensor)
        assert value.ndim == 0
        assert value.dtype == torch.get_default_dtype()
        assert value.device == metric.device


@pytest.fixture
def double_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@every_kind
@pytest.mark.usefixtures("double_by_default")
def test_results_follow_the_default_dtype(case: Case) -> None:
    value = after(case).compute()
    assert value.dtype == torch.float64
    tolerance = 1e-7 if case.soft else 1e-13
    assert value.item() == pytest.approx(true_value(case, case.batches()), abs=tolerance)


@every_kind
def test_inputs_that_require_grad_are_detached(case: Case) -> None:
    metric = case.make()
    for step in (metric.update, metric.forward):
        for batch in case.batches():
            preds = batch["preds"].clone().requires_grad_()
            batch_value = step(**{**batch, "preds": preds})
            assert batch_value is None or not batch_value.requires_grad
            assert preds.grad is None
    assert not any(state.requires_grad for state in state_tensors(metric))
    assert not metric.compute().requires_grad
    twice = [*case.batches(), *case.batches()]
    assert agree(case, metric.compute(), after(case, twice).compute())


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_half_precision_inputs_count_as_their_exact_values(case: Case, dtype: torch.dtype) -> None:
    halved = [{**batch, "preds": batch["preds"].to(dtype)} for batch in case.batches()]
    widened = [{**batch, "preds": batch["preds"].double()} for batch in halved]
    value = after(case, halved).compute()
    assert value.dtype == torch.get_default_dtype()
    assert agree(case, value, after(case, widened).compute())
    assert value.item() == pytest.approx(true_value(case, widened), abs=1e-6)


@every_kind
def test_update_drops_the_cached_result(case: Case) -> None:
    first, second, third = case.batches()
    metric = after(case, [first])
    assert metric.compute() is metric.compute()
    metric.update(**second)
    metric.update(**third)
    assert agree(case, metric.compute(), after(case).compute())


@every_kind
def test_a_result_changed_in_place_by_its_reader_harms_nothing(case: Case) -> None:
    metric = after(case)
    before = metric.compute().clone()
    metric.compute().fill_(9.0)
    metric.update(**{key: value[:0] for key, value in case.batches()[0].items()})
    assert same(metric.compute(), before)


@every_kind
def test_reset_forgets_everything(case: Case) -> None:
    metric = after(case)
    metric.compute()
    metric.reset()
    assert metric.update_count == 0
    assert not metric.update_called
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert metric.compute().isnan()
    last = case.batches()[-1]
    metric.update(**last)
    assert same(metric.compute(), after(case, [last]).compute())
    assert metric.update_count == 1


@every_kind
def test_compute_before_any_update_warns_and_is_nan(case: Case) -> None:
    metric = case.make()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        value = metric.compute()
    assert value.isnan()
    assert value.dtype == torch.get_default_dtype()


@every_kind
def test_updates_in_and_out_of_inference_mode_mix(case: Case) -> None:
    first, second, third = case.batches()
    metric = case.make()
    with torch.inference_mode():
        metric.update(**first)
        metric(**second)
    metric.update(**third)
    assert agree(case, metric.compute(), after(case).compute())
    with torch.inference_mode():
        metric.reset()
    metric.update(**first)
    metric(**second)
    assert agree(case, metric.compute(), after(case, [first, second]).compute())


class Model(nn.Module):
    """Hold a metric as Lightning modules do."""

    def __init__(self, metric: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.metric = metric


CASTS: dict[str, Callable[[Metric], Any]] = {
    "half": lambda m: m.half(),
    "float": lambda m: m.float(),
    "double": lambda m: m.double(),
    "bfloat16": lambda m: m.bfloat16(),
    "type": lambda m: m.type(torch.float16),
    "set_dtype half": lambda m: m.set_dtype(torch.float16),
    "set_dtype bfloat16": lambda m: m.set_dtype(torch.bfloat16),
    "set_dtype float": lambda m: m.set_dtype(torch.float32),
    "to bfloat16": lambda m: m.to(torch.bfloat16),
    "to half": lambda m: m.to(torch.float16),
    "to cpu and dtype": lambda m: m.to("cpu", torch.float16),
    "module to bfloat16": lambda m: Model(m).to(torch.bfloat16),
    "module half": lambda m: Model(m).half(),
    "module double": lambda m: Model(m).double(),
    "collection set_dtype": lambda m: MetricCollection({"m": m}).set_dtype(torch.float16),
    "collection to bfloat16": lambda m: MetricCollection({"m": m}).to(torch.bfloat16),
    "classwise set_dtype": lambda m: ClasswiseWrapper(m).set_dtype(torch.float16),
    "classwise to bfloat16": lambda m: Model(ClasswiseWrapper(m)).to(torch.bfloat16),
    "wrapped in a module half": lambda m: Model(ClasswiseWrapper(m)).half(),
}


def at_every_level(score: str) -> pytest.MarkDecorator:
    """A multiclass metric at each level, on which alone it depends what a state is made of."""
    return pytest.mark.parametrize("case", [Case(score, "multiclass", level) for level in LEVELS], ids=LEVELS)


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.score in ("dice", "generalized_dice", "specificity")],
    ids=lambda c: f"{c.score}-{c.task}-{c.level}",
)
def test_counts_beyond_float32_are_exact(case: Case) -> None:
    metric = beyond_float32(case).clone()
    first, *others = (true_counts(case, batch) for batch in case.batches())
    times = 2**DOUBLINGS
    if case.level == "samplewise":  # of the same samples again and again the mean is the same
        of_first, *of_others = (true_score(case, counts, ()) for counts in (first, *others))
        wanted = (times * of_first + sum(of_others)) / (times + len(others))
    else:
        whole = concatenate([oracle.Counts(*(times * part for part in first)), *others])
        wanted = true_score(case, whole, itertools.chain(*CASE_IDS))
    assert metric.compute().item() == pytest.approx(wanted, abs=1e-6)
    assert metric.update_count == times + len(others)
    (state, *_) = state_tensors(metric)
    assert state.dtype == torch.int64
    if case.level == "global":
        classes = slice(-1, None) if case.task == "binary" else slice(None)  # the oracle's background goes before
        sums = np.stack([part[:, classes].sum(0) for part in whole], axis=-1)
        assert sums.max() > 2**32
        assert state[-sums.size :].tolist() == sums.flatten().tolist()
    elif case.level == "casewise":
        last = metric.class_names[-1]
        assert sum(row["support"] for row in metric.per_case() if row["class"] == last) == 80 * (times + len(others))
    else:
        assert state[-1] == 2 * (times + len(others))  # samples with a score


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS.keys())
@at_every_level("dice")
def test_casts_leave_counts_exact(case: Case, cast: Callable[[Metric], Any]) -> None:
    metric = beyond_float32(case).clone()
    before = [state.clone() for state in state_tensors(metric)]
    untouched = metric.clone()
    cast(metric)
    now = state_tensors(metric)
    assert [state.dtype for state in now] == [state.dtype for state in before]
    assert all(torch.equal(left, right) for left, right in zip(before, now, strict=True))
    last = case.batches()[-1]
    for one in (metric, untouched):
        one.update(**last)
    assert same(metric.compute(), untouched.compute())
    metric.reset()
    assert all(not state.is_floating_point() for state in state_tensors(metric))
    metric.update(**last)
    assert same(metric.compute(), after(case, [last]).compute())


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS.keys())
@at_every_level("soft_dice")
def test_casts_leave_soft_sums_in_double(case: Case, cast: Callable[[Metric], Any]) -> None:
    first, second, third = case.batches()
    metric = after(case, [first])
    cast(metric)
    for batch in (second, third):
        metric.update(**batch)
    assert metric.compute().dtype == torch.float32
    assert metric.compute().item() == pytest.approx(true_value(case, case.batches()), abs=1e-6)


@every_class
def test_wrong_use_of_a_synced_metric_is_refused_as_by_torchmetrics(case: Case) -> None:
    metric = after(case)
    with pytest.raises(Exception, match="already been un-synced"):
        metric.unsync()
    metric.sync(distributed_available=lambda: True, dist_sync_fn=lambda state, group: [state])
    with pytest.raises(Exception, match="already been synced"):
        metric.sync(distributed_available=lambda: True, dist_sync_fn=lambda state, group: [state])
    with pytest.raises(Exception, match="shouldn't be synced"):
        metric(**case.batches()[0])
    metric.unsync()
    assert agree(case, metric.compute(), after(case).compute())


def test_a_cached_result_keeps_the_default_dtype() -> None:
    metric = package.BinaryDiceScore()
    metric.update(torch.tensor([[0.9, 0.2]]), torch.tensor([[1, 1]]))
    metric.compute()
    assert metric.set_dtype(torch.float16).compute().dtype == torch.float32
