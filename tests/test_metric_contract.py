"""One contract for every public metric: constants, copies, pickles, forward, dtypes, gradients, resets."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities.checks import check_forward_full_state_property
from torchmetrics.wrappers import ClasswiseWrapper

import torchmetrics_dice_ext as package

NUM_CLASSES = 3
PARAMETERS: dict[str, dict[str, Any]] = {
    "DiceScore": {},
    "JaccardIndex": {},
    "Precision": {},
    "Recall": {},
    "Specificity": {},
    "FBetaScore": {"beta": 2.0},
    "TverskyIndex": {"alpha": 0.3, "beta": 0.7},
    "VolumetricSimilarity": {},
    "GeneralizedDiceScore": {"weight_type": "square"},
    "SoftDiceScore": {},
}
TASKS = ("binary", "multiclass", "multilabel")
LEVELS = ("global", "samplewise", "casewise")
CASE_IDS = (["a", "b"], ["b", "c"], ["d", "a"])
RATIOS: dict[str, Callable[..., tuple[float, float]]] = {
    "DiceScore": lambda i, p, t, v: (2 * i, p + t),
    "SoftDiceScore": lambda i, p, t, v: (2 * i, p + t),
    "JaccardIndex": lambda i, p, t, v: (i, p + t - i),
    "Precision": lambda i, p, t, v: (i, p),
    "Recall": lambda i, p, t, v: (i, t),
    "Specificity": lambda i, p, t, v: (v - p - t + i, v - t),
    "FBetaScore": lambda i, p, t, v: (5 * i, p + 4 * t),
    "TverskyIndex": lambda i, p, t, v: (i, i + 0.3 * (p - i) + 0.7 * (t - i)),
    "VolumetricSimilarity": lambda i, p, t, v: (p + t - abs(p - t), p + t),
}


@dataclass(frozen=True)
class Case:
    """One public class at one aggregation level."""

    score: str
    task: str
    level: str

    @property
    def soft(self) -> bool:
        return self.score == "SoftDiceScore"

    @property
    def public_class(self) -> type[Metric]:
        found: type[Metric] = getattr(package, f"{self.task.capitalize()}{self.score}")
        return found

    @property
    def arguments(self) -> dict[str, Any]:
        size = {"binary": {}, "multiclass": {"num_classes": NUM_CLASSES}, "multilabel": {"num_labels": NUM_CLASSES}}
        return {**size[self.task], **PARAMETERS[self.score], "aggregation_level": self.level}

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


CASES = [Case(*names) for names in itertools.product(PARAMETERS, TASKS, LEVELS)]
every_metric = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.score}-{c.task}-{c.level}")
every_class = pytest.mark.parametrize(
    "case", [c for c in CASES if c.level == "global"], ids=lambda c: f"{c.score}-{c.task}"
)


def per_sample_counts(case: Case, batch: dict[str, Any]) -> np.ndarray:
    """Return (N, C, 4): intersection, predictions, targets and voxels, by plain comparisons."""
    preds, target = batch["preds"].double().numpy(), batch["target"].numpy()
    if case.task == "binary":
        preds, target = preds[:, None], target[:, None]
    elif case.task == "multiclass":
        target = np.stack([target == c for c in range(NUM_CLASSES)], axis=1)
        if not case.soft:
            winner = preds.argmax(axis=1)
            preds = np.stack([winner == c for c in range(NUM_CLASSES)], axis=1).astype(float)
    if case.task != "multiclass" and not case.soft:
        preds = (preds > 0.5).astype(float)
    flat_p = preds.reshape(*preds.shape[:2], -1)
    flat_t = target.astype(float).reshape(*target.shape[:2], -1)
    sums = [(flat_p * flat_t).sum(-1), flat_p.sum(-1), flat_t.sum(-1), np.ones_like(flat_p).sum(-1)]
    return np.stack(sums, axis=-1)


def generalized_dice(case: Case, counts: np.ndarray) -> float:
    if case.task == "binary":
        (i, p, t, v) = counts[0]
        counts = np.array([[v - p - t + i, v - p, v - t, v], [i, p, t, v]])
    inter, preds, target = counts[:, 0], counts[:, 1], counts[:, 2]
    finite = [1 / t**2 for t in target if t > 0]
    weights = np.array([1 / t**2 if t > 0 else max(finite, default=1.0) for t in target])
    return float(2 * (weights * inter).sum() / (weights * (preds + target)).sum())


def observation_score(case: Case, counts: np.ndarray) -> float:
    if case.score == "GeneralizedDiceScore":
        return generalized_dice(case, counts)
    ratios = [RATIOS[case.score](*row) for row in counts]
    scores = [numerator / denominator for numerator, denominator in ratios if denominator > 0]
    return float(np.mean(scores)) if scores else math.nan


def plain_score(case: Case, batches: list[dict[str, Any]], times: tuple[int, ...] | None = None) -> float:
    """Score `batches`, batch k taken `times[k]` times, by pooling, reducing classes and averaging observations."""
    observations: dict[Any, np.ndarray] = {}
    weights: dict[Any, int] = {}
    for number, batch in enumerate(batches):
        repeats = times[number] if times else 1
        for row, counts in enumerate(per_sample_counts(case, batch)):
            key: Any = (number, row)
            if case.level != "samplewise":
                key = batch["case_ids"][row] if case.level == "casewise" else "all"
            observations[key] = observations.get(key, np.zeros_like(counts)) + repeats * counts
            weights[key] = repeats if case.level == "samplewise" else 1
    scores = [observation_score(case, counts) for counts in observations.values()]
    return float(np.average(scores, weights=list(weights.values())))


def identical(left: Tensor, right: Tensor) -> bool:
    same_kind = left.dtype == right.dtype and left.shape == right.shape
    return same_kind and torch.equal(left.nan_to_num(nan=-1.0), right.nan_to_num(nan=-1.0))


def agree(case: Case, left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-6, atol=0) if case.soft else identical(left, right)


def fed(case: Case, batches: list[dict[str, Any]] | None = None, **options: Any) -> Metric:
    metric = case.make(**options)
    for batch in case.batches() if batches is None else batches:
        metric.update(**batch)
    return metric


def state_tensors(metric: Metric) -> list[Tensor]:
    found: list[Tensor] = []
    for value in metric.metric_state.values():
        found.extend([value] if isinstance(value, Tensor) else value)
    return found


DOUBLINGS = 28


@functools.cache
def beyond_float32(case: Case) -> Metric:
    """Return a metric that holds counts of 2**28 times one batch plus another one: float32 can't."""
    first, second, _ = case.batches()
    metric = fed(case, [first])
    for _ in range(DOUBLINGS):
        metric.merge_state(metric.clone())
    metric.update(**second)
    return metric


@every_metric
def test_value_is_that_of_the_plain_formula(case: Case) -> None:
    value = fed(case).compute()
    assert value.item() == pytest.approx(plain_score(case, case.batches()), abs=1e-6)
    assert 0.0 < value.item() < 1.0


@every_class
def test_factory_makes_the_class_of_the_task(case: Case) -> None:
    made = getattr(package, case.score)(task=case.task, **case.arguments)
    assert type(made) is case.public_class
    assert isinstance(made, Metric)


@every_class
def test_class_constants(case: Case) -> None:
    for owner in (case.public_class, case.make()):
        assert owner.higher_is_better is True
        assert owner.is_differentiable is False
        assert owner.full_state_update is False
        assert (owner.plot_lower_bound, owner.plot_upper_bound) == (0.0, 1.0)


@every_class
@pytest.mark.parametrize(
    "constant",
    ["higher_is_better", "is_differentiable", "full_state_update", "plot_lower_bound", "plot_upper_bound"],
)
def test_class_constants_cannot_be_set(case: Case, constant: str) -> None:
    metric = case.make()
    with pytest.raises(RuntimeError, match="Can't change const"):
        setattr(metric, constant, None)


@every_class
def test_unknown_keyword_is_refused_and_those_of_metric_are_taken(case: Case) -> None:
    with pytest.raises((TypeError, ValueError), match="no_such_option"):
        case.make(no_such_option=1)
    metric = case.make(sync_on_compute=False, dist_sync_on_step=True, compute_with_cache=False)
    assert (metric.sync_on_compute, metric.dist_sync_on_step, metric.compute_with_cache) == (False, True, False)


@every_metric
def test_forward_gives_the_batch_and_accumulates(case: Case) -> None:
    metric = case.make()
    for number, batch in enumerate(case.batches(), start=1):
        assert identical(metric(**batch), fed(case, [batch]).compute())
        assert metric.update_count == number
    assert agree(case, metric.compute(), fed(case).compute())
    assert metric.compute().item() == pytest.approx(plain_score(case, case.batches()), abs=1e-6)


@every_class
def test_forward_and_update_mix(case: Case) -> None:
    first, second, third = case.batches()
    metric = case.make()
    metric.update(**first)
    metric(**second)
    metric.update(**third)
    assert agree(case, metric.compute(), fed(case).compute())


@every_class
def test_full_state_and_reduced_state_forward_agree(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    check_forward_full_state_property(
        case.public_class, case.arguments, case.batches()[0], num_update_to_compare=[2, 3], reps=2
    )
    assert "Partial state for 3 steps" in capsys.readouterr().out


@every_metric
@pytest.mark.parametrize(
    "copied",
    [lambda m: m.clone(), copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))],
    ids=["clone", "deepcopy", "copy", "pickle"],
)
def test_copies_carry_the_state_and_go_their_own_way(case: Case, copied: Callable[[Metric], Metric]) -> None:
    first, second, third = case.batches()
    metric = fed(case, [first], compute_with_cache=False)
    twin = copied(metric)
    before = metric.compute()
    assert type(twin) is case.public_class
    assert identical(twin.compute(), before)
    if copied is copy.copy:
        return
    for batch in (second, third):
        twin.update(**batch)
    assert twin.update_count == 3
    assert agree(case, twin.compute(), fed(case).compute())
    assert metric.update_count == 1
    assert identical(metric.compute(), before)


@every_class
def test_a_fresh_metric_can_be_pickled_and_used(case: Case) -> None:
    metric = pickle.loads(pickle.dumps(case.make()))
    for batch in case.batches():
        metric.update(**batch)
    assert identical(metric.compute(), fed(case).compute())


@every_metric
def test_hash_tells_metrics_apart(case: Case) -> None:
    metric, other = fed(case), fed(case)
    assert hash(metric) == hash(metric)
    assert hash(metric) != hash(other)
    assert len({metric, other, metric}) == 2


@every_metric
def test_state_dict_is_empty_by_default(case: Case) -> None:
    assert dict(case.make().state_dict()) == {}
    assert dict(fed(case).state_dict()) == {}
    assert list(fed(case).parameters()) == []


@every_metric
def test_results_are_tensors_of_the_default_dtype_on_the_device(case: Case) -> None:
    metric = fed(case)
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


@every_metric
@pytest.mark.usefixtures("double_by_default")
def test_results_follow_the_default_dtype(case: Case) -> None:
    value = fed(case).compute()
    assert value.dtype == torch.float64
    tolerance = 1e-7 if case.soft else 1e-13
    assert value.item() == pytest.approx(plain_score(case, case.batches()), abs=tolerance)


@every_metric
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
    assert agree(case, metric.compute(), fed(case, twice).compute())


@every_metric
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_half_precision_inputs_count_as_their_exact_values(case: Case, dtype: torch.dtype) -> None:
    halved = [{**batch, "preds": batch["preds"].to(dtype)} for batch in case.batches()]
    widened = [{**batch, "preds": batch["preds"].double()} for batch in halved]
    value = fed(case, halved).compute()
    assert value.dtype == torch.get_default_dtype()
    assert agree(case, value, fed(case, widened).compute())
    assert value.item() == pytest.approx(plain_score(case, widened), abs=1e-6)


@every_metric
def test_update_drops_the_cached_result(case: Case) -> None:
    first, second, third = case.batches()
    metric = fed(case, [first])
    assert metric.compute() is metric.compute()
    metric.update(**second)
    metric.update(**third)
    assert agree(case, metric.compute(), fed(case).compute())


@every_metric
def test_a_result_changed_in_place_by_its_reader_harms_nothing(case: Case) -> None:
    metric = fed(case)
    before = metric.compute().clone()
    metric.compute().fill_(9.0)
    metric.update(**{key: value[:0] for key, value in case.batches()[0].items()})
    assert identical(metric.compute(), before)


@every_metric
def test_reset_forgets_everything(case: Case) -> None:
    metric = fed(case)
    metric.compute()
    metric.reset()
    assert metric.update_count == 0
    assert not metric.update_called
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert metric.compute().isnan()
    last = case.batches()[-1]
    metric.update(**last)
    assert identical(metric.compute(), fed(case, [last]).compute())
    assert metric.update_count == 1


@every_metric
def test_compute_before_any_update_warns_and_is_nan(case: Case) -> None:
    metric = case.make()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        value = metric.compute()
    assert value.isnan()
    assert value.dtype == torch.get_default_dtype()


@every_metric
def test_updates_in_and_out_of_inference_mode_mix(case: Case) -> None:
    first, second, third = case.batches()
    metric = case.make()
    with torch.inference_mode():
        metric.update(**first)
        metric(**second)
    metric.update(**third)
    assert agree(case, metric.compute(), fed(case).compute())
    with torch.inference_mode():
        metric.reset()
    metric.update(**first)
    metric(**second)
    assert agree(case, metric.compute(), fed(case, [first, second]).compute())


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
HARD_CASES = [c for c in CASES if not c.soft and c.score in ("DiceScore", "GeneralizedDiceScore", "Specificity")]


@pytest.mark.parametrize("case", HARD_CASES, ids=lambda c: f"{c.score}-{c.task}-{c.level}")
def test_counts_beyond_float32_are_exact(case: Case) -> None:
    metric = beyond_float32(case).clone()
    wanted = plain_score(case, case.batches()[:2], times=(2**DOUBLINGS, 1))
    assert metric.compute().item() == pytest.approx(wanted, abs=1e-6)
    assert metric.update_count == 2**DOUBLINGS + 1
    if case.level == "global":
        (state,) = state_tensors(metric)
        assert state.dtype == torch.int64
        assert state.max() > 2**32


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS.keys())
@pytest.mark.parametrize("case", HARD_CASES, ids=lambda c: f"{c.score}-{c.task}-{c.level}")
def test_casts_leave_counts_exact(case: Case, cast: Callable[[Metric], Any]) -> None:
    metric = beyond_float32(case).clone()
    before = [state.clone() for state in state_tensors(metric)]
    untouched = metric.clone()
    cast(metric)
    after = state_tensors(metric)
    assert [state.dtype for state in after] == [state.dtype for state in before]
    assert all(torch.equal(left, right) for left, right in zip(before, after, strict=True))
    last = case.batches()[-1]
    for one in (metric, untouched):
        one.update(**last)
    assert identical(metric.compute(), untouched.compute())
    metric.reset()
    assert all(not state.is_floating_point() for state in state_tensors(metric))
    metric.update(**last)
    assert identical(metric.compute(), fed(case, [last]).compute())


SOFT_CASES = [c for c in CASES if c.soft]


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS.keys())
@pytest.mark.parametrize("case", SOFT_CASES, ids=lambda c: f"{c.score}-{c.task}-{c.level}")
def test_casts_leave_soft_sums_in_double(case: Case, cast: Callable[[Metric], Any]) -> None:
    first, second, third = case.batches()
    metric = fed(case, [first])
    cast(metric)
    for batch in (second, third):
        metric.update(**batch)
    assert metric.compute().dtype == torch.float32
    assert metric.compute().item() == pytest.approx(plain_score(case, case.batches()), abs=1e-6)


@every_class
def test_wrong_use_of_a_synced_metric_is_refused_as_by_torchmetrics(case: Case) -> None:
    metric = fed(case)
    with pytest.raises(Exception, match="already been un-synced"):
        metric.unsync()
    metric.sync(distributed_available=lambda: True, dist_sync_fn=lambda state, group: [state])
    with pytest.raises(Exception, match="already been synced"):
        metric.sync(distributed_available=lambda: True, dist_sync_fn=lambda state, group: [state])
    with pytest.raises(Exception, match="shouldn't be synced"):
        metric(**case.batches()[0])
    metric.unsync()
    assert agree(case, metric.compute(), fed(case).compute())


def test_a_cached_result_keeps_the_default_dtype() -> None:
    metric = package.BinaryDiceScore()
    metric.update(torch.tensor([[0.9, 0.2]]), torch.tensor([[1, 1]]))
    metric.compute()
    assert metric.set_dtype(torch.float16).compute().dtype == torch.float32
