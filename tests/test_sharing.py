"""Compute groups: readers of the same counts share one update, metrics that count differently never do."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cases import LEVELS, same
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from torchmetrics_dice_ext import (
    BinaryDiceScore,
    BinaryGeneralizedDiceScore,
    BinaryJaccardIndex,
    BinaryPrecision,
    BinaryRecall,
    BinarySpecificity,
    BinaryVolumetricSimilarity,
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
    MultilabelFBetaScore,
    MultilabelJaccardIndex,
    MultilabelRecall,
)

Batch = dict[str, Any]


def multiclass_readers(**options: Any) -> dict[str, Metric]:
    """Every way to read multiclass counts, none of which counts anything else."""
    return {
        "dice": MulticlassDiceScore(4, **options),
        "dice micro": MulticlassDiceScore(4, average="micro", **options),
        "dice weighted": MulticlassDiceScore(4, average="weighted", **options),
        "dice each": MulticlassDiceScore(4, average="none", **options),
        "dice without background": MulticlassDiceScore(4, include_background=False, **options),
        "dice each without background": MulticlassDiceScore(4, average=None, include_background=False, **options),
        "dice named": MulticlassDiceScore(4, class_names=["air", "liver", "spleen", "colon"], **options),
        "dice zero": MulticlassDiceScore(4, zero_division=0.0, **options),
        "dice one": MulticlassDiceScore(4, zero_division=1.0, **options),
        "jaccard": MulticlassJaccardIndex(4, **options),
        "precision": MulticlassPrecision(4, **options),
        "recall": MulticlassRecall(4, average="none", **options),
        "specificity": MulticlassSpecificity(4, **options),
        "f2": MulticlassFBetaScore(4, beta=2.0, **options),
        "f half": MulticlassFBetaScore(4, beta=0.5, **options),
        "tversky": MulticlassTverskyIndex(4, alpha=0.3, beta=0.7, **options),
        "tversky turned": MulticlassTverskyIndex(4, alpha=0.7, beta=0.3, **options),
        "volumes": MulticlassVolumetricSimilarity(4, **options),
        "generalized": MulticlassGeneralizedDiceScore(4, weight_type="square", **options),
        "generalized simple": MulticlassGeneralizedDiceScore(4, weight_type="simple", **options),
    }


def binary_readers(**options: Any) -> dict[str, Metric]:
    return {
        "dice": BinaryDiceScore(**options),
        "dice one": BinaryDiceScore(zero_division=1.0, **options),
        "jaccard": BinaryJaccardIndex(**options),
        "precision": BinaryPrecision(**options),
        "recall": BinaryRecall(**options),
        "specificity": BinarySpecificity(**options),
        "volumes": BinaryVolumetricSimilarity(**options),
        "generalized": BinaryGeneralizedDiceScore(**options),
    }


def multilabel_readers(**options: Any) -> dict[str, Metric]:
    return {
        "dice": MultilabelDiceScore(3, **options),
        "dice each": MultilabelDiceScore(3, average="none", **options),
        "dice micro": MultilabelDiceScore(3, average="micro", **options),
        "jaccard": MultilabelJaccardIndex(3, class_names=["a", "b", "c"], **options),
        "recall": MultilabelRecall(3, **options),
        "f3": MultilabelFBetaScore(3, beta=3.0, **options),
    }


def region_readers(**options: Any) -> dict[str, Metric]:
    regions = {"whole": [1, 2, 3], "core": [1, 3]}
    return {
        "dice": MulticlassDiceScore(4, regions=regions, **options),
        "dice each": MulticlassDiceScore(4, regions=regions, average="none", **options),
        "jaccard": MulticlassJaccardIndex(4, regions=regions, **options),
    }


READERS: dict[str, Callable[..., dict[str, Metric]]] = {
    "multiclass": multiclass_readers,
    "binary": binary_readers,
    "multilabel": multilabel_readers,
    "regions": region_readers,
}


def batches(task: str, count: int = 3) -> list[Batch]:
    draw = torch.Generator().manual_seed(3)
    found: list[Batch] = []
    for number in range(count):
        if task == "binary":
            preds, target = torch.rand(2, 6, 7, generator=draw), torch.randint(0, 2, (2, 6, 7), generator=draw)
        elif task == "multilabel":
            preds, target = torch.rand(2, 3, 6, 7, generator=draw), torch.randint(0, 2, (2, 3, 6, 7), generator=draw)
        else:
            preds, target = torch.randn(2, 4, 6, 7, generator=draw), torch.randint(0, 4, (2, 6, 7), generator=draw)
        found.append({"preds": preds, "target": target, "case_ids": [f"case {number}", "shared"]})
    return found


def alone(metric: Metric, seen: list[Batch]) -> Tensor:
    """Return what a clone of `metric` computes by itself."""
    clone = metric.clone()
    clone.reset()
    for batch in seen:
        clone.update(**clone._filter_kwargs(**batch))
    value: Tensor = clone.compute()
    return value


def groups(collection: MetricCollection) -> list[set[str]]:
    return sorted((set(names) for names in collection.compute_groups.values()), key=sorted)


def assert_right(collection: MetricCollection, seen: list[Batch]) -> None:
    values = collection.compute()
    assert set(values) == set(collection.keys())
    for name, value in values.items():
        assert same(value, alone(collection[name], seen)), name


@pytest.mark.parametrize("level", ["global", "casewise"])
@pytest.mark.parametrize("task", READERS)
def test_readers_of_the_same_counts_share_one_update(task: str, level: str) -> None:
    members = READERS[task](aggregation_level=level)
    collection = MetricCollection(members)
    for batch in batches(task):
        collection.update(**batch)
        assert groups(collection) == [set(members)]
    assert_right(collection, batches(task))
    assert {metric.update_count for metric in collection.values()} == {3}


@pytest.mark.parametrize("level", ["global", "casewise"])
def test_from_the_second_batch_on_one_member_alone_is_updated(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()
    collection = MetricCollection(multiclass_readers(aggregation_level=level))
    for name, metric in collection.items(copy_state=False):

        def counted(*args: Any, _name: str = name, _update: Any = metric.update, **kwargs: Any) -> None:
            calls[_name] += 1
            _update(*args, **kwargs)

        monkeypatch.setattr(metric, "update", counted)
    first, *others = batches("multiclass", 5)
    collection.update(**first)
    calls.clear()
    for batch in others:
        collection.update(**batch)
    assert sorted(calls.values()) == [4]


@pytest.mark.parametrize("level", ["global", "casewise"])
def test_explicit_groups_share_from_the_first_batch_on(level: str) -> None:
    members = multiclass_readers(aggregation_level=level)
    collection = MetricCollection(members, compute_groups=[sorted(members)])
    assert groups(collection) == [set(members)]
    for batch in batches("multiclass"):
        collection.update(**batch)
    assert_right(collection, batches("multiclass"))


@pytest.mark.parametrize("task", READERS)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("compute_groups", [True, False])
def test_values_in_a_collection_are_those_of_each_alone(task: str, level: str, compute_groups: bool) -> None:
    collection = MetricCollection(READERS[task](aggregation_level=level), compute_groups=compute_groups)
    for epoch in range(2):
        seen = batches(task)[epoch:]
        for number, batch in enumerate(seen, start=1):
            collection.update(**batch)
            assert_right(collection, seen[:number])
        collection.reset()


@pytest.mark.parametrize("level", LEVELS)
def test_forward_of_a_collection_gives_the_batch_and_accumulates(level: str) -> None:
    collection = MetricCollection(multiclass_readers(aggregation_level=level))
    seen: list[Batch] = []
    for batch in batches("multiclass"):
        values = collection(**batch)
        seen.append(batch)
        for name, value in values.items():
            assert same(value, alone(collection[name], [batch])), name
    assert_right(collection, seen)


@pytest.mark.parametrize("level", ["global", "casewise"])
def test_forward_and_update_of_one_collection_mix(level: str) -> None:
    first, second, third = batches("multiclass")
    collection = MetricCollection(multiclass_readers(aggregation_level=level))
    collection.update(**first)
    collection(**second)
    collection.update(**third)
    assert_right(collection, [first, second, third])


def test_samplewise_scores_are_not_mixed_up() -> None:
    """The score is part of what is summed, so that only equal read-outs may share."""
    collection = MetricCollection(multiclass_readers(aggregation_level="samplewise"))
    perfect = torch.randint(0, 4, (2, 6, 7), generator=torch.Generator().manual_seed(0))
    seen = [{"preds": perfect, "target": perfect, "case_ids": ["x", "y"]}, *batches("multiclass")]
    for batch in seen:
        collection.update(**batch)
    together = [names for names in groups(collection) if len(names) > 1]
    assert all(names <= {"dice", "dice named"} for names in together)
    assert_right(collection, seen)


@dataclass(frozen=True)
class Pair:
    """Two metrics that count differently, a batch on which they agree and one on which they don't."""

    name: str
    left: Callable[..., Metric]
    right: Callable[..., Metric]
    agreed: Batch
    differing: Batch

    def members(self) -> dict[str, Metric]:
        return {"left": self.left(), "right": self.right()}


def of(metric: type[Metric], *args: Any, **options: Any) -> Callable[[], Metric]:
    return lambda: metric(*args, **options)


PROBABILITIES = torch.tensor([[0.95, 0.05, 0.99, 0.01]])
UNSURE = torch.tensor([[0.6, 0.7, 0.6, 0.3]])
BITS = torch.tensor([[1, 0, 1, 0]])
LABELS = torch.tensor([[0, 1, 2, 0, 1, 2]])
OTHERS = torch.tensor([[0, 2, 2, 1, 1, 0]])
VOID = torch.tensor([[0, 1, 2, 0, 1, 255]])
MULTILABEL_P = torch.tensor([[[0.95, 0.01], [0.05, 0.99]]])
MULTILABEL_Q = torch.tensor([[[0.6, 0.8], [0.3, 0.7]]])
MULTILABEL_T = torch.tensor([[[1, 0], [0, 1]]])
BOXED = torch.softmax(torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(5)), 1)
PERMUTED_TARGET = torch.tensor([[0, 1, 2], [2, 1, 0]])
DIAGONAL = torch.eye(3)[None]
PAIRS = [
    Pair(
        "threshold",
        of(BinaryDiceScore, threshold=0.5),
        of(BinaryDiceScore, threshold=0.9),
        {"preds": PROBABILITIES, "target": BITS},
        {"preds": UNSURE, "target": BITS},
    ),
    Pair(
        "nearby threshold",
        of(BinaryDiceScore, threshold=0.5),
        of(BinaryDiceScore, threshold=0.5000001),
        {"preds": PROBABILITIES, "target": BITS},
        {"preds": torch.full((1, 4), 0.50000005, dtype=torch.float64), "target": BITS},
    ),
    Pair(
        "threshold per label",
        of(MultilabelDiceScore, 2, threshold=[0.5, 0.5]),
        of(MultilabelDiceScore, 2, threshold=[0.5, 0.9]),
        {"preds": MULTILABEL_P, "target": MULTILABEL_T},
        {"preds": MULTILABEL_Q, "target": MULTILABEL_T},
    ),
    Pair(
        "from_logits",
        of(BinaryDiceScore),
        of(BinaryDiceScore, from_logits=True),
        {"preds": torch.tensor([[1.0, 0.0, 1.0, 0.0]]), "target": BITS},
        {"preds": torch.tensor([[0.4, 0.3, 0.6, 0.0]]), "target": BITS},
    ),
    Pair(
        "ignore_index or none",
        of(BinaryDiceScore),
        of(BinaryDiceScore, ignore_index=0),
        {"preds": BITS, "target": BITS},
        {"preds": torch.ones_like(BITS), "target": BITS},
    ),
    Pair(
        "one ignored and two",
        of(MulticlassDiceScore, 3, ignore_index=[255, 2]),
        of(MulticlassDiceScore, 3, ignore_index=255),
        {"preds": torch.tensor([[0, 1, 0]]), "target": torch.tensor([[0, 1, 255]])},
        {"preds": OTHERS, "target": VOID},
    ),
    Pair(
        "another ignored class",
        of(MulticlassJaccardIndex, 3, ignore_index=0),
        of(MulticlassJaccardIndex, 3, ignore_index=1),
        {"preds": torch.tensor([[2, 2]]), "target": torch.tensor([[2, 2]])},
        {"preds": torch.tensor([[0, 1, 2, 0, 0, 0]]), "target": LABELS},
    ),
    Pair(
        "num_classes",
        of(MulticlassSpecificity, 3),
        of(MulticlassSpecificity, 4),
        {"preds": LABELS, "target": LABELS},
        {"preds": OTHERS, "target": LABELS},
    ),
    Pair(
        "class_dim",
        of(MulticlassDiceScore, 3),
        of(MulticlassDiceScore, 3, class_dim=-1),
        {"preds": DIAGONAL, "target": torch.tensor([[0, 1, 2]])},
        {"preds": BOXED, "target": PERMUTED_TARGET},
    ),
    Pair(
        "regions or classes",
        of(MulticlassDiceScore, 3),
        of(MulticlassDiceScore, 3, regions={"0": [0], "1": [1], "2": [1, 2]}),
        {"preds": torch.tensor([[0, 0]]), "target": torch.tensor([[0, 0]])},
        {"preds": OTHERS, "target": LABELS},
    ),
    Pair(
        "labels of a region",
        of(MulticlassDiceScore, 3, regions={"a": [0], "b": [1, 2]}),
        of(MulticlassDiceScore, 3, regions={"a": [0], "b": [2]}),
        {"preds": torch.tensor([[0, 2]]), "target": torch.tensor([[0, 2]])},
        {"preds": OTHERS, "target": LABELS},
    ),
    Pair(
        "regions in another order",
        of(MulticlassDiceScore, 3, regions={"a": [0], "b": [2]}, average="none"),
        of(MulticlassDiceScore, 3, regions={"b": [2], "a": [0]}, average="none"),
        {"preds": torch.tensor([[0, 2]]), "target": torch.tensor([[0, 2]])},
        {"preds": torch.tensor([[0, 1, 2, 0, 1, 1]]), "target": LABELS},
    ),
    *(
        Pair(
            f"{one} and {other}",
            of(MulticlassDiceScore, 3, aggregation_level=one),
            of(MulticlassDiceScore, 3, aggregation_level=other),
            {"preds": LABELS, "target": LABELS, "case_ids": ["x"]},
            {
                "preds": torch.cat([OTHERS, OTHERS, torch.zeros_like(LABELS)]),
                "target": torch.cat([LABELS, OTHERS, LABELS.flip(1)]),
                "case_ids": ["x", "x", "y"],
            },
        )
        for one, other in itertools.combinations(LEVELS, 2)
    ),
]
each_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)


def empty(batch: Batch) -> Batch:
    return {key: value[:0] for key, value in batch.items()}


@each_pair
@pytest.mark.parametrize("first", ["agreed", "empty", "differing"])
def test_metrics_that_count_differently_never_share(pair: Pair, first: str) -> None:
    opening = {"agreed": pair.agreed, "empty": empty(pair.agreed), "differing": pair.differing}[first]
    collection = MetricCollection(pair.members())
    seen = [opening, pair.differing, pair.agreed, pair.differing]
    for number, batch in enumerate(seen, start=1):
        collection.update(**batch)
        assert groups(collection) == [{"left"}, {"right"}]
        assert_right(collection, seen[:number])


@each_pair
def test_the_pairs_are_what_they_claim(pair: Pair) -> None:
    """They agree on the one batch and not on the other."""
    agreed = [alone(metric, [pair.agreed]) for metric in pair.members().values()]
    differing = [alone(metric, [pair.differing]) for metric in pair.members().values()]
    assert torch.allclose(agreed[0], agreed[1], equal_nan=True)
    assert not torch.allclose(differing[0], differing[1], equal_nan=True)


MODES = [("eager", "deferred"), (True, False), ("eager", False), (True, "deferred"), ("deferred", False)]


@pytest.mark.parametrize("modes", MODES, ids=str)
@pytest.mark.parametrize("level", LEVELS)
def test_validation_modes_never_share(modes: tuple[Any, Any], level: str) -> None:
    left, right = (MulticlassDiceScore(3, validate_args=mode, aggregation_level=level) for mode in modes)
    collection = MetricCollection({"left": left, "right": right})
    batch = {"preds": LABELS, "target": LABELS, "case_ids": ["x"]}
    for opening in (empty(batch), batch, batch):
        collection.update(**opening)
        assert groups(collection) == [{"left"}, {"right"}]


def test_an_unchecked_metric_does_not_inherit_the_faults_of_its_neighbour() -> None:
    members = {mode: MulticlassDiceScore(3, validate_args=mode) for mode in ("deferred", False)}
    collection = MetricCollection({str(mode): metric for mode, metric in members.items()})
    collection.update(LABELS, LABELS)
    collection.update(LABELS, VOID)
    assert 0.0 <= members[False].compute() <= 1.0
    with pytest.raises(ValueError, match="target"):
        members["deferred"].compute()


@pytest.mark.slow
def test_ten_million_and_ninety_more_are_not_equal() -> None:
    """Counts of 10**7 and 10**7 + 90 lie within the tolerance by which torchmetrics compares states."""
    preds = torch.ones(1, 10**7 + 90, dtype=torch.float16)
    preds[:, 10**7 :] = 0.75
    target = torch.ones(1, 10**7 + 90, dtype=torch.uint8)
    members = {"loose": BinaryDiceScore(threshold=0.5), "tight": BinaryDiceScore(threshold=0.9)}
    collection = MetricCollection(members)
    collection.update(preds, target)
    assert groups(collection) == [{"loose"}, {"tight"}]
    for _ in range(3):
        collection.update(preds[:, -90:], target[:, -90:])
    total = 10**7 + 4 * 90
    values = collection.compute()
    assert values["loose"] == 1.0
    assert values["tight"].item() == pytest.approx(2 * 10**7 / (10**7 + total), abs=1e-7)
    assert values["tight"] < 1.0


def test_one_collection_forms_one_group_per_way_of_counting() -> None:
    collection = MetricCollection(
        {
            "dice": MulticlassDiceScore(3, ignore_index=255),
            "jaccard": MulticlassJaccardIndex(3, ignore_index=255, average="none"),
            "dice of all": MulticlassDiceScore(3, ignore_index=[255, 0]),
            "recall of all": MulticlassRecall(3, ignore_index=[0, 255]),
            "per sample": MulticlassDiceScore(3, ignore_index=255, aggregation_level="samplewise"),
            "per case": MulticlassDiceScore(3, ignore_index=255, aggregation_level="casewise"),
            "precision per case": MulticlassPrecision(3, ignore_index=255, aggregation_level="casewise"),
        }
    )
    seen = [
        {"preds": LABELS, "target": LABELS, "case_ids": ["x"]},
        {"preds": OTHERS, "target": VOID, "case_ids": ["y"]},
        {"preds": LABELS, "target": OTHERS, "case_ids": ["x"]},
    ]
    for batch in seen:
        collection.update(**batch)
    assert groups(collection) == sorted(
        [
            {"dice", "jaccard"},
            {"dice of all", "recall of all"},
            {"per sample"},
            {"per case", "precision per case"},
        ],
        key=sorted,
    )
    assert_right(collection, seen)


@pytest.mark.parametrize("method", ["update", "forward"])
def test_case_ids_reach_only_the_members_that_use_them(method: str) -> None:
    collection = MetricCollection(
        {
            "all": MulticlassDiceScore(4),
            "each sample": MulticlassDiceScore(4, aggregation_level="samplewise"),
            "each case": MulticlassDiceScore(4, aggregation_level="casewise"),
        }
    )
    seen = batches("multiclass")
    for batch in seen:
        getattr(collection, method)(batch["preds"], batch["target"], case_ids=batch["case_ids"])
    assert_right(collection, seen)
    assert len({value.item() for value in collection.compute().values()}) == 3


def test_mask_reaches_every_member() -> None:
    collection = MetricCollection(
        {
            "all": MulticlassDiceScore(4),
            "jaccard": MulticlassJaccardIndex(4),
            "each case": MulticlassDiceScore(4, aggregation_level="casewise"),
        }
    )
    seen = [{**batch, "mask": batch["target"] != 2} for batch in batches("multiclass")]
    for batch in seen:
        collection.update(**batch)
    assert_right(collection, seen)
    unmasked = alone(MulticlassDiceScore(4), batches("multiclass"))
    assert not same(collection.compute()["all"], unmasked)


def test_nested_collections_share_across_their_borders() -> None:
    inner = MetricCollection({"dice": MulticlassDiceScore(4), "jaccard": MulticlassJaccardIndex(4)}, prefix="in_")
    collection = MetricCollection({"inner": inner, "recall": MulticlassRecall(4), "f": multiclass_readers()["f2"]})
    seen = batches("multiclass")
    for batch in seen:
        collection.update(batch["preds"], batch["target"])
    assert len(collection.compute_groups) == 1
    values = collection.compute()
    assert len(values) == 4
    wanted = {
        "dice": MulticlassDiceScore(4),
        "jaccard": MulticlassJaccardIndex(4),
        "recall": MulticlassRecall(4),
        "f": multiclass_readers()["f2"],
    }
    for word, metric in wanted.items():
        (name,) = (key for key in values if key.endswith(word))
        assert same(values[name], alone(metric, seen))


def test_prefix_postfix_and_clones() -> None:
    first, second, third = batches("multiclass")
    collection = MetricCollection(multiclass_readers(), prefix="val/", postfix="/epoch")
    collection.update(**first)
    clone = collection.clone(prefix="test/")
    clone.update(**second)
    collection.update(**third)
    for one, prefix, seen in ((collection, "val/", [first, third]), (clone, "test/", [first, second])):
        values = one.compute()
        readers = multiclass_readers()
        assert set(values) == {f"{prefix}{name}/epoch" for name in readers}
        for name, metric in readers.items():
            assert same(values[f"{prefix}{name}/epoch"], alone(metric, seen)), name
        assert len(one.compute_groups) == 1


def test_a_member_taken_out_of_a_group_goes_its_own_way() -> None:
    first, second, third = batches("multiclass")
    collection = MetricCollection(multiclass_readers())
    collection.update(**first)
    taken = collection["jaccard"]
    taken.update(second["preds"], second["target"])
    assert same(taken.compute(), alone(MulticlassJaccardIndex(4), [first, second]))
    assert same(collection["dice"].compute(), alone(MulticlassDiceScore(4), [first]))
    collection.update(**third)
    assert same(collection["dice"].compute(), alone(MulticlassDiceScore(4), [first, third]))


def test_a_refused_batch_leaves_every_member_of_a_group_as_it_was() -> None:
    first, second, _ = batches("multiclass")
    collection = MetricCollection(multiclass_readers())
    collection.update(**first)
    wrong = {**second, "target": second["target"] + 100}
    with pytest.raises(ValueError, match="target"):
        collection.update(**wrong)
    collection.update(**second)
    assert_right(collection, [first, second])
    assert {metric.update_count for metric in collection.values()} == {2}


@pytest.mark.parametrize(
    "members",
    [
        {"a": BinaryDiceScore(threshold=0.3), "b": BinaryDiceScore(threshold=0.9)},
        {"a": BinaryDiceScore(), "b": BinaryDiceScore(validate_args="deferred")},
        {"a": BinaryDiceScore(aggregation_level="samplewise"), "b": BinaryRecall(aggregation_level="samplewise")},
    ],
    ids=["threshold", "validate_args", "samplewise"],
)
def test_explicit_groups_of_metrics_that_count_or_validate_differently_are_refused(members: dict[str, Metric]) -> None:
    collection = MetricCollection(members, compute_groups=[["a", "b"]])

    def use() -> None:  # torchmetrics hands the state on at the first update, 1.6 when it is read
        collection.update(torch.tensor([[0.5, 0.2]]), torch.tensor([[1, 0]]))
        collection.compute()

    with pytest.raises(ValueError, match="A compute group must hold metrics that count and validate alike"):
        use()
