"""Deferred validation: faults are counted and told by compute, and no update ever waits for the device."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cases import AVERAGES, LEVELS, fed, same
from host_sync import HostSyncError, no_host_sync
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from torchmetrics_dice_ext import (
    BinaryDiceScore,
    BinaryGeneralizedDiceScore,
    MulticlassDiceScore,
    MulticlassGeneralizedDiceScore,
    MulticlassJaccardIndex,
    MultilabelDiceScore,
    OverlapReport,
)

Batch = dict[str, Any]
each_level = pytest.mark.parametrize("level", LEVELS)
FAULTY_VOXELS = 7


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(17)


def multiclass_logits() -> Batch:
    draw = draws()
    return {
        "preds": torch.randn(2, 3, 4, 5, generator=draw),
        "target": torch.randint(0, 3, (2, 4, 5), generator=draw),
    }


def multiclass_labels() -> Batch:
    draw = draws()
    return {
        "preds": torch.randint(0, 3, (2, 4, 5), generator=draw),
        "target": torch.randint(0, 3, (2, 4, 5), generator=draw),
    }


def multiclass_one_hot() -> Batch:
    batch = multiclass_labels()
    one_hot = torch.nn.functional.one_hot(batch["target"], 3).movedim(-1, 1)
    return {**batch, "target": one_hot.contiguous()}


def binary() -> Batch:
    draw = draws()
    return {"preds": torch.rand(2, 4, 5, generator=draw), "target": torch.randint(0, 2, (2, 4, 5), generator=draw)}


def multilabel() -> Batch:
    draw = draws()
    return {
        "preds": torch.rand(2, 3, 4, 5, generator=draw),
        "target": torch.randint(0, 2, (2, 3, 4, 5), generator=draw),
    }


def spoil(batch: Batch, side: str, value: float, dtype: torch.dtype | None = None) -> Batch:
    """Put `value` into the first voxels of the second sample, in its first channel if it has any."""
    tensor = batch[side].clone() if dtype is None else batch[side].to(dtype)
    rows = tensor[1] if tensor.ndim == 3 else tensor[1, 0]
    rows.view(-1)[:FAULTY_VOXELS] = value
    return {**batch, side: tensor}


def spoil_one_hot(batch: Batch, side: str, value: int) -> Batch:
    """Make every channel of the first voxels of the second sample hold `value`."""
    tensor = batch[side].clone()
    tensor[1].view(3, -1)[:, :FAULTY_VOXELS] = value
    return {**batch, side: tensor}


@dataclass(frozen=True)
class Fault:
    """One kind of malformed values: seven voxels of it in an otherwise healthy batch."""

    name: str
    metric: Callable[..., Metric]
    healthy: Callable[[], Batch]
    broken: Callable[[Batch], Batch]
    words: str


def multiclass(**options: Any) -> Metric:
    return MulticlassDiceScore(3, **options)


def labels(**options: Any) -> Metric:
    return MultilabelDiceScore(3, **options)


NAN, INF = float("nan"), float("inf")
FAULTS = [
    Fault("label too high", multiclass, multiclass_logits, lambda b: spoil(b, "target", 3), "target"),
    Fault("label 255", multiclass, multiclass_logits, lambda b: spoil(b, "target", 255), "target"),
    Fault("label below 0", multiclass, multiclass_labels, lambda b: spoil(b, "target", -1), "target"),
    Fault("huge label", multiclass, multiclass_labels, lambda b: spoil(b, "target", 2**62), "target"),
    Fault("label of preds", multiclass, multiclass_labels, lambda b: spoil(b, "preds", 3), "preds"),
    Fault("negative preds", multiclass, multiclass_labels, lambda b: spoil(b, "preds", -5), "preds"),
    Fault(
        "fractional target", multiclass, multiclass_logits, lambda b: spoil(b, "target", 0.5, torch.float32), "target"
    ),
    Fault("nan target", multiclass, multiclass_logits, lambda b: spoil(b, "target", NAN, torch.float32), "target"),
    Fault("infinite target", multiclass, multiclass_logits, lambda b: spoil(b, "target", INF, torch.float64), "target"),
    Fault("nan logits", multiclass, multiclass_logits, lambda b: spoil(b, "preds", NAN), "NaN"),
    Fault("two-hot", multiclass, multiclass_one_hot, lambda b: spoil_one_hot(b, "target", 1), "one-hot"),
    Fault("none-hot", multiclass, multiclass_one_hot, lambda b: spoil_one_hot(b, "target", 0), "one-hot"),
    Fault("binary target", BinaryDiceScore, binary, lambda b: spoil(b, "target", 255), "target"),
    Fault(
        "fractional binary target",
        BinaryDiceScore,
        binary,
        lambda b: spoil(b, "target", 0.25, torch.float32),
        "target",
    ),
    Fault("nan probabilities", BinaryDiceScore, binary, lambda b: spoil(b, "preds", NAN), "NaN"),
    Fault("probabilities above 1", BinaryDiceScore, binary, lambda b: spoil(b, "preds", 3.5), "from_logits=True"),
    Fault("probabilities below 0", BinaryDiceScore, binary, lambda b: spoil(b, "preds", -0.5), "from_logits=True"),
    Fault("infinite probabilities", BinaryDiceScore, binary, lambda b: spoil(b, "preds", INF), "from_logits=True"),
    Fault(
        "binary labels of preds",
        BinaryDiceScore,
        lambda: {**binary(), "preds": binary()["target"]},
        lambda b: spoil(b, "preds", 2),
        "preds",
    ),
    Fault("multilabel target", labels, multilabel, lambda b: spoil(b, "target", 2), "target"),
    Fault("multilabel nan", labels, multilabel, lambda b: spoil(b, "preds", NAN), "NaN"),
    Fault("multilabel above 1", labels, multilabel, lambda b: spoil(b, "preds", 1.01), "from_logits=True"),
]
each_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)


def with_ids(batch: Batch, level: str, ids: Any = ("a", "b")) -> Batch:
    return {**batch, "case_ids": list(ids)} if level == "casewise" else batch


def message_of(metric: Metric) -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        metric.compute()
    return str(caught.value)


def assert_names_update(message: str, number: int) -> None:
    assert re.search(rf"update\D{{0,20}}\b{number}\b|\b{number}(st|nd|rd|th)? update", message), message


# Faults are told, with their kind, their number and their first update


@each_level
@each_fault
def test_compute_tells_kind_number_and_first_update(fault: Fault, level: str) -> None:
    healthy = with_ids(fault.healthy(), level)
    broken = with_ids(fault.broken(fault.healthy()), level)
    metric = fault.metric(validate_args="deferred", aggregation_level=level)
    metric.update(**healthy)
    assert metric.compute().isfinite()
    for batch in (healthy, broken, healthy):
        metric.update(**batch)
    message = message_of(metric)
    assert fault.words in message
    assert re.search(rf"\b{FAULTY_VOXELS}\b", message), message
    assert_names_update(message, 3)
    metric.update(**broken)
    message = message_of(metric)
    assert re.search(rf"\b{2 * FAULTY_VOXELS}\b", message), message
    assert_names_update(message, 3)


@each_level
def test_compute_raises_until_reset(level: str) -> None:
    healthy = with_ids(multiclass_logits(), level)
    broken = with_ids(spoil(multiclass_logits(), "target", 9), level)
    metric = MulticlassDiceScore(3, validate_args="deferred", aggregation_level=level)
    metric.update(**broken)
    for _ in range(3):
        message_of(metric)
    metric.update(**healthy)
    for _ in range(2):
        message_of(metric)
    with pytest.raises(ValueError, match="target"):
        metric.per_class()
    if level == "casewise":
        with pytest.raises(ValueError, match="target"):
            metric.per_case()
        with pytest.raises(ValueError, match="target"):
            metric.confidence_interval(seed=0)
    metric.reset()
    metric.update(**healthy)
    wanted = MulticlassDiceScore(3, aggregation_level=level)
    wanted.update(**healthy)
    assert same(metric.compute(), wanted.compute())


def test_each_kind_of_fault_is_told_with_its_own_first_update() -> None:
    metric = MulticlassDiceScore(3, validate_args="deferred")
    metric.update(**multiclass_logits())
    metric.update(**spoil(multiclass_logits(), "preds", NAN))
    wrong = spoil(multiclass_logits(), "target", 40)
    metric.update(**wrong)
    metric.update(**wrong)
    message = message_of(metric)
    assert "NaN" in message
    assert "target" in message
    assert re.search(r"\b7\b", message)
    assert re.search(r"\b14\b", message)
    assert_names_update(message, 2)
    assert_names_update(message, 3)


def test_the_first_update_is_counted_over_forward_too() -> None:
    metric = MulticlassDiceScore(3, validate_args="deferred")
    metric(**multiclass_logits())
    metric.update(**multiclass_logits())
    metric(**spoil(multiclass_logits(), "target", 40))
    assert_names_update(message_of(metric), 3)


def test_eager_and_deferred_name_the_way_out() -> None:
    """Deferred faults are counted on the device: there is their number, but not what they hold."""
    expected = "`target` must hold labels from 0 to 2, got"
    remedy = "Name void labels in `ignore_index`, or check `num_classes`."
    hints = {255: "If 255 is a void label, say `ignore_index=255`.", -1: remedy, 77: remedy}
    for wrong, hint in hints.items():
        batch = spoil(multiclass_labels(), "target", wrong)
        with pytest.raises(ValueError, match="target") as eager:
            MulticlassDiceScore(3, validate_args="eager").update(**batch)
        assert f"{expected} {wrong} in {FAULTY_VOXELS} voxels. {hint}" in str(eager.value)
        message = message_of(fed(MulticlassDiceScore(3, validate_args="deferred"), [batch]))
        assert f"{expected} other values in {FAULTY_VOXELS} voxels. {remedy}" in message


# forward


@each_level
@each_fault
def test_forward_gives_nan_for_a_malformed_batch_alone(fault: Fault, level: str) -> None:
    healthy = with_ids(fault.healthy(), level)
    broken = with_ids(fault.broken(fault.healthy()), level)
    metric = fault.metric(validate_args="deferred", aggregation_level=level)
    first = metric(**healthy)
    assert first.isfinite()
    assert metric(**broken).isnan()
    assert same(metric(**healthy), first)
    assert metric.update_count == 3
    message = message_of(metric)
    assert_names_update(message, 2)


def test_forward_gives_nan_for_every_class_and_member() -> None:
    broken = spoil(multiclass_logits(), "target", 9)
    vector = MulticlassDiceScore(3, average="none", validate_args="deferred")(**broken)
    assert vector.shape == (3,)
    assert vector.isnan().all()
    collection = MetricCollection(
        {
            "dice": MulticlassDiceScore(3, validate_args="deferred"),
            "jaccard": MulticlassJaccardIndex(3, validate_args="deferred"),
        }
    )
    assert all(value.isnan() for value in collection(**broken).values())
    with pytest.raises(ValueError, match="target"):
        collection.compute()


# Malformed voxels count for nothing


def states(metric: Metric) -> list[Tensor]:
    found: list[Tensor] = []
    for value in metric.metric_state.values():
        found.extend([value] if isinstance(value, Tensor) else value)
    return found


@each_level
@pytest.mark.parametrize(
    ("broken_side", "other_side", "faulty", "choices"),
    [
        ("target", "preds", 9, (0, 1, 2)),
        ("target", "preds", -3, (0, 1, 2)),
        ("preds", "target", 3, (0, 1, 2)),
        ("preds", "target", -1, (0, 1, 2)),
    ],
)
def test_what_stands_opposite_a_malformed_voxel_counts_for_nothing(
    level: str, broken_side: str, other_side: str, faulty: int, choices: tuple[int, ...]
) -> None:
    """The state is the same whatever the healthy side holds where the other one is malformed."""
    found = []
    for choice in choices:
        batch = spoil(spoil(multiclass_labels(), broken_side, faulty), other_side, choice)
        metric = MulticlassDiceScore(3, validate_args="deferred", aggregation_level=level)
        metric.update(**with_ids(batch, level))
        found.append(states(metric))
    for one in found[1:]:
        assert len(one) == len(found[0])
        assert all(torch.equal(left, right) for left, right in zip(found[0], one, strict=True))


@each_level
@pytest.mark.parametrize("value", [NAN, 2.0, -1.0])
def test_the_target_of_a_malformed_probability_counts_for_nothing(level: str, value: float) -> None:
    found = []
    for choice in (0, 1):
        metric = BinaryDiceScore(validate_args="deferred", aggregation_level=level)
        batch = spoil(spoil(binary(), "preds", value), "target", choice)
        metric.update(**with_ids(batch, level))
        found.append(states(metric))
    assert all(torch.equal(left, right) for left, right in zip(*found, strict=True))


def test_the_target_of_nan_logits_counts_for_nothing() -> None:
    found = []
    for choice in (0, 1, 2):
        metric = MulticlassDiceScore(3, validate_args="deferred")
        metric.update(**spoil(spoil(multiclass_logits(), "preds", NAN), "target", choice))
        found.append(states(metric))
    assert all(torch.equal(one[0], found[0][0]) for one in found)


@each_level
@each_fault
def test_a_void_voxel_is_never_a_fault(fault: Fault, level: str) -> None:
    healthy, broken = fault.healthy(), fault.broken(fault.healthy())
    voxels = torch.ones(2, 20, dtype=torch.bool)
    voxels[1, :FAULTY_VOXELS] = False
    mask = voxels.view(2, 4, 5)
    metric = fault.metric(validate_args="deferred", aggregation_level=level)
    metric.update(**with_ids({**broken, "mask": mask}, level))
    wanted = fault.metric(aggregation_level=level)
    wanted.update(**with_ids({**healthy, "mask": mask}, level))
    assert same(metric.compute(), wanted.compute())


# What is refused at once, and the other modes


@pytest.mark.parametrize(
    ("error", "changed", "words"),
    [
        (ValueError, {"target": torch.zeros(2, 4, 6, dtype=torch.long)}, "shape"),
        (ValueError, {"preds": torch.zeros(2, 4, 4, 5)}, "class"),
        (TypeError, {"preds": torch.zeros(2, 3, 4, 5, dtype=torch.complex64)}, "complex"),
        (TypeError, {"target": torch.zeros(2, 4, 5, dtype=torch.complex64)}, "complex"),
        (TypeError, {"target": torch.zeros(2, 4, 5).numpy()}, "from_numpy|as_tensor|torch.tensor"),
        (ValueError, {"mask": torch.ones(2, 4, 6, dtype=torch.bool)}, "mask"),
        (TypeError, {"mask": torch.ones(2, 4, 5)}, "mask"),
    ],
    ids=["target shape", "class axis", "preds dtype", "target dtype", "numpy", "mask shape", "mask dtype"],
)
@pytest.mark.parametrize("mode", ["deferred", "eager", False, True], ids=str)
def test_shapes_and_types_are_refused_at_once(mode: Any, error: type[Exception], changed: Batch, words: str) -> None:
    metric = MulticlassDiceScore(3, validate_args=mode)
    metric.update(**multiclass_logits())
    before = metric.compute()
    with pytest.raises(error, match=f"(?i){words}"):
        metric.update(**{**multiclass_logits(), **changed})
    with pytest.raises(error, match=f"(?i){words}"):
        metric(**{**multiclass_logits(), **changed})
    assert metric.update_count == 1
    assert same(metric.compute(), before)


@each_level
@pytest.mark.parametrize("mode", [True, "eager"], ids=str)
def test_true_is_eager_on_the_cpu(level: str, mode: Any) -> None:
    fault = FAULTS[0]
    healthy = with_ids(fault.healthy(), level)
    broken = with_ids(fault.broken(fault.healthy()), level)
    metric = fault.metric(validate_args=mode, aggregation_level=level)
    metric.update(**healthy)
    before = [state.clone() for state in states(metric)]
    for step in (metric.update, metric.forward):
        with pytest.raises(ValueError, match=re.escape(fault.words)):
            step(**broken)
        assert metric.update_count == 1
        assert all(torch.equal(left, right) for left, right in zip(before, states(metric), strict=True))
    metric.update(**healthy)
    wanted = fault.metric(aggregation_level=level)
    for _ in range(2):
        wanted.update(**healthy)
    assert same(metric.compute(), wanted.compute())


@each_level
@pytest.mark.parametrize(
    ("fault", "average"),
    [*((fault, "macro") for fault in FAULTS), *((FAULTS[0], average) for average in AVERAGES[1:])],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_without_validation_nothing_crashes_and_scores_stay_scores(fault: Fault, level: str, average: str) -> None:
    options = {} if fault.metric is BinaryDiceScore else {"average": average}
    metric = fault.metric(validate_args=False, aggregation_level=level, **options)
    batch_value = metric(**with_ids(fault.broken(fault.healthy()), level))
    metric.update(**with_ids(fault.broken(fault.healthy()), level))
    for value in (batch_value, metric.compute(), *metric.per_class().values()):
        assert (value.isnan() | ((value >= 0) & (value <= 1))).all()
    metric.reset()
    metric.update(**with_ids(fault.healthy(), level))
    wanted = fault.metric(aggregation_level=level, **options)
    wanted.update(**with_ids(fault.healthy(), level))
    assert same(metric.compute(), wanted.compute())


@each_level
def test_nothing_but_rubbish_is_no_score_without_validation(level: str) -> None:
    metric = MulticlassDiceScore(3, validate_args=False, aggregation_level=level)
    draw = draws()
    preds = torch.randint(-(2**62), 2**62, (2, 40), generator=draw)
    target = torch.randint(-(2**62), 2**62, (2, 40), generator=draw)
    metric.update(**with_ids({"preds": preds, "target": target}, level))
    value = metric.compute()
    assert value.isnan() or 0.0 <= value <= 1.0


# No update waits for the device


@pytest.fixture
def reference_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count with torch operations alone, which are the ones that an accelerator would run."""
    monkeypatch.setenv("TORCHMETRICS_DICE_EXT_BACKEND", "reference")


FORMS: dict[str, tuple[Callable[..., Metric], Callable[[], Batch]]] = {
    "multiclass logits": (multiclass, multiclass_logits),
    "multiclass half logits": (
        multiclass,
        lambda: {**multiclass_logits(), "preds": multiclass_logits()["preds"].half()},
    ),
    "multiclass labels": (multiclass, multiclass_labels),
    "multiclass uint8 labels": (multiclass, lambda: {k: v.to(torch.uint8) for k, v in multiclass_labels().items()}),
    "multiclass float target": (
        multiclass,
        lambda: {**multiclass_logits(), "target": multiclass_logits()["target"].float()},
    ),
    "multiclass one-hot": (multiclass, multiclass_one_hot),
    "multiclass channels-last": (
        lambda **options: MulticlassDiceScore(3, class_dim=-1, **options),
        lambda: {**multiclass_logits(), "preds": multiclass_logits()["preds"].movedim(1, -1)},
    ),
    "multiclass ignoring": (
        lambda **options: MulticlassDiceScore(3, ignore_index=[255, 0], **options),
        multiclass_logits,
    ),
    "multiclass masked": (multiclass, lambda: {**multiclass_logits(), "mask": multiclass_logits()["target"] > 0}),
    "regions": (
        lambda **options: MulticlassDiceScore(3, regions={"a": [1, 2], "b": [2]}, **options),
        multiclass_logits,
    ),
    "generalized": (lambda **options: MulticlassGeneralizedDiceScore(3, **options), multiclass_logits),
    "binary": (BinaryDiceScore, binary),
    "binary bool target": (BinaryDiceScore, lambda: {**binary(), "target": binary()["target"].bool()}),
    "binary logits": (lambda **options: BinaryDiceScore(from_logits=True, **options), binary),
    "binary generalized": (BinaryGeneralizedDiceScore, binary),
    "binary ignoring": (lambda **options: BinaryDiceScore(ignore_index=255, **options), binary),
    "multilabel": (labels, multilabel),
    "multilabel thresholds": (
        lambda **options: MultilabelDiceScore(3, threshold=[0.2, 0.5, 0.7], **options),
        multilabel,
    ),
    "empty batch": (multiclass, lambda: {key: value[:0] for key, value in multiclass_logits().items()}),
}


@pytest.mark.usefixtures("reference_backend")
@pytest.mark.parametrize(
    ("level", "ids"),
    [("global", None), ("samplewise", None), ("casewise", str), ("casewise", int)],
    ids=["global", "samplewise", "casewise, strings", "casewise, ints"],
)
@pytest.mark.parametrize("form", FORMS)
def test_no_update_waits(form: str, level: str, ids: type | None) -> None:
    make, batch_of = FORMS[form]
    metric = make(validate_args="deferred", aggregation_level=level)
    batch = batch_of()
    if ids is not None:
        batch["case_ids"] = [ids(number) for number in range(len(batch["target"]))]
    with no_host_sync() as guard:
        for _ in range(3):
            metric.update(**batch)
    assert guard.seen > 0
    wanted = make(aggregation_level=level)
    for _ in range(3):
        wanted.update(**batch)
    assert same(metric.compute(), wanted.compute())


@pytest.mark.usefixtures("reference_backend")
@each_level
@each_fault
def test_no_update_waits_on_a_malformed_batch(fault: Fault, level: str) -> None:
    metric = fault.metric(validate_args="deferred", aggregation_level=level)
    broken = with_ids(fault.broken(fault.healthy()), level)
    with no_host_sync() as guard:
        for _ in range(3):
            metric.update(**broken)
    assert guard.seen > 0
    assert_names_update(message_of(metric), 1)


@pytest.mark.usefixtures("reference_backend")
@each_level
def test_no_update_waits_without_validation(level: str) -> None:
    metric = MulticlassDiceScore(3, validate_args=False, aggregation_level=level)
    batch = with_ids(multiclass_logits(), level)
    with no_host_sync() as guard:
        metric.update(**batch)
        metric.update(**batch)
    assert guard.seen > 0
    assert metric.compute().isfinite()


@pytest.mark.usefixtures("reference_backend")
def test_no_update_of_a_report_waits() -> None:
    report = OverlapReport(
        task="multiclass",
        num_classes=3,
        scores=("dice", "jaccard"),
        class_names=["a", "b", "c"],
        validate_args="deferred",
    )
    with no_host_sync() as guard:
        report.update(**multiclass_logits())
        report.update(**multiclass_logits())
    assert guard.seen > 0
    assert report.compute()["dice"].isfinite()


@pytest.mark.usefixtures("reference_backend")
def test_eager_validation_is_what_waits() -> None:
    """The guard sees the waiting of eager validation, or it would prove nothing of the deferred one."""
    metric = MulticlassDiceScore(3, validate_args="eager")
    with no_host_sync(), pytest.raises(HostSyncError):
        metric.update(**multiclass_logits())
