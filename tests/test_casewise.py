"""Casewise: counts add up per case id, whatever the order and the batches; rows and intervals over the cases."""

from __future__ import annotations

import csv
import io
import itertools
import math
import pickle
import random
import re
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import same
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from torchmetrics_dice_ext import (
    BinaryDiceScore,
    MulticlassDiceScore,
    MulticlassJaccardIndex,
    MulticlassPrecision,
    MulticlassRecall,
    MultilabelDiceScore,
)

CASES = 6
CLASSES = 3
ROW_KEYS = ["case", "class", "intersection", "pred_cardinality", "target_cardinality", "support", "score"]
ID_KINDS: dict[str, Callable[[int], Any]] = {
    "strings": lambda number: f"patient {'x' * number}{number}",
    "ints": lambda number: number,
    "odd ints": lambda number: [2**62, -5, 0, 7, -(2**40), 3][number],
    "unicode": lambda number: "äßЖ語 ."[number],
}


def slices(seed: int = 0) -> list[tuple[Tensor, Tensor, int]]:
    """Return 20 slices (predicted labels, true labels, number of the case) of 6 volumes, shuffled.

    Case 4 lacks class 2 on both sides, case 5 is predicted perfectly.
    """
    draw = torch.Generator().manual_seed(seed)
    found = []
    for number in itertools.chain(range(CASES), torch.randint(0, CASES, (14,), generator=draw).tolist()):
        highest = 2 if number == 4 else CLASSES
        preds = torch.randint(0, highest, (4, 5), generator=draw)
        target = torch.randint(0, highest, (4, 5), generator=draw)
        found.append((preds, preds if number == 5 else target, number))
    order = torch.randperm(len(found), generator=draw).tolist()
    return [found[position] for position in order]


def feed(
    metric: Metric, seen: list[tuple[Tensor, Tensor, int]], size: int, ids: Callable[[int], Any] = lambda n: n
) -> Metric:
    for start in range(0, len(seen), size):
        part = seen[start : start + size]
        metric.update(
            torch.stack([preds for preds, _, _ in part]),
            torch.stack([target for _, target, _ in part]),
            case_ids=[ids(number) for _, _, number in part],
        )
    return metric


def counts(seen: list[tuple[Tensor, Tensor, int]]) -> dict[int, list[tuple[int, int, int, int]]]:
    """Return, per case, (intersection, predicted, true, all voxels) of each class, voxel by voxel."""
    totals = {number: [[0, 0, 0, 0] for _ in range(CLASSES)] for _, _, number in seen}
    for preds, target, number in seen:
        for pred, true in zip(preds.flatten().tolist(), target.flatten().tolist(), strict=True):
            for label in range(CLASSES):
                row = totals[number][label]
                row[0] += pred == label == true
                row[1] += pred == label
                row[2] += true == label
                row[3] += 1
    return {number: [tuple(row) for row in rows] for number, rows in totals.items()}


SCORES: dict[str, tuple[type[Metric], Callable[[int, int, int], tuple[int, int]]]] = {
    "dice": (MulticlassDiceScore, lambda i, p, t: (2 * i, p + t)),
    "jaccard": (MulticlassJaccardIndex, lambda i, p, t: (i, p + t - i)),
    "precision": (MulticlassPrecision, lambda i, p, t: (i, p)),
    "recall": (MulticlassRecall, lambda i, p, t: (i, t)),
}
each_score = pytest.mark.parametrize("score", SCORES)
each_kind = pytest.mark.parametrize("kind", ID_KINDS)


def class_score(score: str, row: tuple[int, int, int, int]) -> float:
    numerator, denominator = SCORES[score][1](*row[:3])
    return numerator / denominator if denominator else math.nan


def mean(values: list[float]) -> float:
    present = [value for value in values if not math.isnan(value)]
    return sum(present) / len(present) if present else math.nan


def case_score(score: str, rows: list[tuple[int, int, int, int]], average: str) -> float:
    if average == "micro":
        sums = tuple(sum(row[column] for row in rows) for column in range(4))
        return class_score(score, sums)
    values = [class_score(score, row) for row in rows]
    if average == "macro":
        return mean(values)
    weighted = [(value, row[2]) for value, row in zip(values, rows, strict=True) if not math.isnan(value)]
    return sum(value * weight for value, weight in weighted) / sum(weight for _, weight in weighted)


def casewise(**options: Any) -> MulticlassDiceScore:
    return MulticlassDiceScore(CLASSES, aggregation_level="casewise", **options)


# Values


@each_score
@each_kind
@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
@pytest.mark.parametrize("size", [1, 3, 20])
def test_the_score_is_the_mean_over_cases(score: str, kind: str, average: str, size: int) -> None:
    metric = SCORES[score][0](CLASSES, average=average, aggregation_level="casewise")
    feed(metric, slices(), size, ID_KINDS[kind])
    wanted = mean([case_score(score, rows, average) for rows in counts(slices()).values()])
    assert metric.compute().item() == pytest.approx(wanted, abs=1e-6)


@each_score
def test_each_class_is_averaged_over_the_cases_that_have_it(score: str) -> None:
    metric = SCORES[score][0](CLASSES, average="none", aggregation_level="casewise")
    feed(metric, slices(), 4)
    per_case = [[class_score(score, row) for row in rows] for rows in counts(slices()).values()]
    wanted = [mean([values[label] for values in per_case]) for label in range(CLASSES)]
    assert any(math.isnan(values[2]) for values in per_case)
    assert metric.compute().tolist() == pytest.approx(wanted, abs=1e-6)
    assert [value.item() for value in metric.per_class().values()] == pytest.approx(wanted, abs=1e-6)


def test_slices_as_samples_give_another_number() -> None:
    by_case = feed(casewise(), slices(), 4).compute()
    by_slice = MulticlassDiceScore(CLASSES, aggregation_level="samplewise")
    pooled = MulticlassDiceScore(CLASSES)
    for preds, target, _ in slices():
        by_slice.update(preds[None], target[None])
        pooled.update(preds[None], target[None])
    assert len({round(value.item(), 4) for value in (by_case, by_slice.compute(), pooled.compute())}) == 3


def test_zero_division_counts_absent_classes() -> None:
    rows = counts(slices())
    for value in (0.0, 1.0):
        wanted = mean(
            [
                mean([value if math.isnan(score) else score for score in (class_score("dice", row) for row in case)])
                for case in rows.values()
            ]
        )
        assert feed(casewise(zero_division=value), slices(), 4).compute().item() == pytest.approx(wanted, abs=1e-6)


def test_a_case_without_a_valid_voxel_has_no_score() -> None:
    metric = casewise(ignore_index=255, zero_division=1.0)
    feed(metric, slices(), 4)
    before = metric.compute()
    metric.update(torch.zeros(1, 4, 5).long(), torch.full((1, 4, 5), 255), case_ids=[99])
    assert same(metric.compute(), before)
    (row, *_) = [row for row in metric.per_case() if row["case"] == 99]
    assert row["support"] == 0
    assert math.isnan(row["score"])


def test_binary_and_multilabel_cases() -> None:
    draw = torch.Generator().manual_seed(1)
    probabilities = torch.rand(6, 2, 30, generator=draw)
    target = torch.randint(0, 2, (6, 2, 30), generator=draw)
    ids = ["a", "b", "a", "c", "c", "a"]
    dice: dict[str, list[float]] = {}
    for name in "abc":
        rows = [number for number, one in enumerate(ids) if one == name]
        hits, truth = (probabilities[rows] > 0.5).long(), target[rows]
        overlaps = (hits * truth).sum(dim=(0, 2)).tolist()
        sizes = (hits + truth).sum(dim=(0, 2)).tolist()
        dice[name] = [2 * overlap / size for overlap, size in zip(overlaps, sizes, strict=True)]
    both = MultilabelDiceScore(2, aggregation_level="casewise")
    first = BinaryDiceScore(aggregation_level="casewise")
    for start in (0, 2, 5):
        part = slice(start, {0: 2, 2: 5, 5: 6}[start])
        both.update(probabilities[part], target[part], case_ids=ids[part])
        first.update(probabilities[part, 0], target[part, 0], case_ids=ids[part])
    assert both.compute().item() == pytest.approx(mean([mean(values) for values in dice.values()]))
    assert first.compute().item() == pytest.approx(mean([values[0] for values in dice.values()]))
    assert [row["class"] for row in first.per_case()] == ["foreground"] * 3
    assert {row["case"]: row["score"] for row in first.per_case()} == pytest.approx(
        {name: values[0] for name, values in dice.items()}
    )


# Any order, any split, bit by bit


@each_score
@each_kind
def test_any_order_and_any_split_give_the_same_bits(score: str, kind: str) -> None:
    reference = SCORES[score][0](CLASSES, average="none", aggregation_level="casewise")
    feed(reference, slices(), 20, ID_KINDS[kind])
    for seed, size in itertools.product(range(5), (1, 3, 7)):
        shuffled = slices()
        random.Random(seed).shuffle(shuffled)
        metric = SCORES[score][0](CLASSES, average="none", aggregation_level="casewise")
        feed(metric, shuffled, size, ID_KINDS[kind])
        assert same(metric.compute(), reference.compute())
        assert repr(metric.per_case()) == repr(reference.per_case())


def test_a_split_inside_the_slices_gives_the_same_bits() -> None:
    whole = feed(casewise(), slices(), 20)
    halves = casewise()
    for part in (slice(0, 1), slice(1, 4)):
        feed(halves, [(preds[part], target[part], number) for preds, target, number in slices()], 6)
    assert same(halves.compute(), whole.compute())
    assert repr(halves.per_case()) == repr(whole.per_case())


def test_shapes_may_differ_from_batch_to_batch() -> None:
    metric = casewise()
    metric.update(torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1, 1]]), case_ids=["a"])
    metric.update(torch.tensor([[[0], [1]]]), torch.tensor([[[0], [2]]]), case_ids=["a"])
    (row,) = [row for row in metric.per_case() if row["class"] == "1"]
    assert [row[key] for key in ROW_KEYS[2:6]] == [1, 2, 2, 5]
    assert row["score"] == pytest.approx(0.5)


def test_many_cases_grow_and_stay_right() -> None:
    total = 1500
    order = list(range(total))
    random.Random(0).shuffle(order)
    metric = BinaryDiceScore(aggregation_level="casewise")
    for start in range(0, total, 50):
        numbers = order[start : start + 50]
        preds = torch.ones(50, 4, dtype=torch.long)
        target = torch.stack([(torch.arange(4) < number % 5).long() for number in numbers])
        metric.update(preds, target, case_ids=[f"case {number}" for number in numbers])
    wanted = mean([2 * (n % 5) / (4 + n % 5) for n in range(total)])
    assert metric.compute().item() == pytest.approx(wanted, abs=1e-6)
    rows = {row["case"]: row for row in metric.per_case()}
    assert len(rows) == total
    assert all(rows[f"case {n}"]["intersection"] == n % 5 for n in range(total))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["update", "forward"])
def test_a_batch_costs_the_same_after_ten_thousand_cases_as_after_a_hundred(method: str) -> None:
    def cost(cases: int) -> float:
        metric = MulticlassDiceScore(50, aggregation_level="casewise")
        voxels = torch.zeros(cases, 2, dtype=torch.long)
        metric.update(voxels, voxels, case_ids=[f"case {number}" for number in range(cases)])
        least = math.inf
        for number in range(12):
            start = time.process_time()
            getattr(metric, method)(voxels[:1], voxels[:1], case_ids=[f"new {number}"])
            least = min(least, time.process_time() - start)
        return least

    assert cost(10_000) < 5 * cost(100) + 1e-3


# Duplicates


@each_score
@pytest.mark.parametrize("average", ["macro", "none"])
def test_whole_cases_that_come_twice_change_no_score(score: str, average: str) -> None:
    make = SCORES[score][0]
    once = feed(make(CLASSES, average=average, aggregation_level="casewise"), slices(), 4)
    repeated = [*slices(), *(one for one in slices() if one[2] in (1, 4))]
    twice = feed(make(CLASSES, average=average, aggregation_level="casewise"), repeated, 4)
    assert same(twice.compute(), once.compute())
    assert same(torch.stack(list(twice.per_class().values())), torch.stack(list(once.per_class().values())))
    scores = [{(row["case"], row["class"]): row["score"] for row in metric.per_case()} for metric in (once, twice)]
    assert repr(scores[0]) == repr(scores[1])
    doubled = {row["case"] for row in twice.per_case() if row not in once.per_case() and row["score"] == row["score"]}
    assert doubled == {1, 4}


# Ids


@pytest.mark.parametrize(
    "convert",
    [
        list,
        tuple,
        torch.tensor,
        lambda numbers: torch.tensor(numbers, dtype=torch.int32),
        lambda numbers: torch.tensor(numbers, dtype=torch.uint8),
    ],
    ids=["list", "tuple", "int64 tensor", "int32 tensor", "uint8 tensor"],
)
def test_ids_may_come_as_lists_tuples_and_tensors(convert: Callable[[list[int]], Any]) -> None:
    metric = casewise()
    for preds, target, number in slices():
        metric.update(preds[None], target[None], case_ids=convert([number]))
    wanted = feed(casewise(), slices(), 20)
    assert same(metric.compute(), wanted.compute())
    assert repr(metric.per_case()) == repr(wanted.per_case())


@each_kind
def test_ids_come_back_as_they_were_given(kind: str) -> None:
    metric = feed(casewise(), slices(), 5, ID_KINDS[kind])
    wanted = {ID_KINDS[kind](number) for number in range(CASES)}
    found = {row["case"] for row in metric.per_case()}
    assert found == wanted
    assert {type(one) for one in found} == {type(one) for one in wanted}


SEQUENCE = "must be a sequence of ints or strings, one per sample"
WRONG_IDS: dict[str, tuple[Any, type[Exception], str]] = {
    "none": (None, ValueError, "must name the case of each sample at `aggregation_level='casewise'`, got None."),
    "empty": ([], ValueError, "must hold one id per sample, 2, got 0."),
    "too few": (["a"], ValueError, "must hold one id per sample, 2, got 1."),
    "too many": (["a", "b", "c"], ValueError, "must hold one id per sample, 2, got 3."),
    "short tensor": (torch.tensor([1]), ValueError, "must hold one id per sample, 2, got 1."),
    "long tensor": (torch.tensor([1, 2, 3]), ValueError, "must hold one id per sample, 2, got 3."),
    "scalar tensor": (torch.tensor(1), TypeError, f"{SEQUENCE}, got tensor(1)."),
    "one string": ("ab", TypeError, f"{SEQUENCE}, got 'ab'."),
    "a set": ({"a"}, TypeError, f"{SEQUENCE}, got {{'a'}}."),
    "one int": (3, TypeError, f"{SEQUENCE}, got 3."),
    "floats": ([1.5, 2.0], TypeError, "must be ints or strings, got 1.5 of type float."),
    "float tensor": (torch.tensor([1.0, 2.0]), TypeError, "must be ints or strings, got 1.0 of type float."),
    "bools": ([True, False], TypeError, "must be ints or strings, got True of type bool."),
    "nones": ([None, None], TypeError, "must be ints or strings, got None of type NoneType."),
    "lists": ([["a"], ["b"]], TypeError, "must be ints or strings, got ['a'] of type list."),
    "2d tensor": (torch.tensor([[1], [2]]), TypeError, "must be ints or strings, got [1] of type list."),
}


@pytest.mark.parametrize("mode", ["eager", "deferred", False], ids=str)
@pytest.mark.parametrize("method", ["update", "forward"])
def test_missing_and_wrong_ids_are_refused_at_once_in_every_mode(mode: Any, method: str) -> None:
    metric = feed(casewise(validate_args=mode), slices(), 4)
    before, rows = metric.compute(), repr(metric.per_case())
    preds, target = torch.zeros(2, 4, 5).long(), torch.zeros(2, 4, 5).long()
    for ids, error, words in WRONG_IDS.values():
        with pytest.raises(error, match=f"^`case_ids` {re.escape(words)}$"):
            getattr(metric, method)(preds, target, case_ids=ids)
        assert metric.update_count == 5
        assert same(metric.compute(), before)
        assert repr(metric.per_case()) == rows
    getattr(metric, method)(preds, target, case_ids=["a", "b"])
    assert len(metric.per_case()) == (CASES + 2) * CLASSES


@pytest.mark.parametrize("level", ["global", "samplewise"])
@pytest.mark.parametrize("method", ["update", "forward"])
def test_ids_at_another_level_are_refused(level: str, method: str) -> None:
    metric = MulticlassDiceScore(CLASSES, aggregation_level=level)
    preds, target = torch.zeros(2, 4, 5).long(), torch.zeros(2, 4, 5).long()
    metric.update(preds, target, case_ids=None)
    with pytest.raises((TypeError, ValueError), match=r"case_ids.*casewise|casewise.*case_ids"):
        getattr(metric, method)(preds, target, case_ids=["a", "b"])
    assert metric.update_count == 1


@pytest.mark.parametrize("level", ["global", "samplewise"])
def test_case_read_outs_at_another_level_are_refused(level: str) -> None:
    metric = MulticlassDiceScore(CLASSES, aggregation_level=level)
    metric.update(torch.zeros(2, 4, 5).long(), torch.zeros(2, 4, 5).long())
    for read_out in (lambda: metric.per_case(), lambda: metric.confidence_interval()):
        with pytest.raises((AttributeError, TypeError, ValueError, RuntimeError, TorchMetricsUserError), match="case"):
            read_out()


def test_an_empty_batch_adds_no_case() -> None:
    metric = feed(casewise(), slices(), 4)
    before = repr(metric.per_case())
    metric.update(torch.zeros(0, 4, 5).long(), torch.zeros(0, 4, 5).long(), case_ids=[])
    assert repr(metric.per_case()) == before
    assert metric.update_count == 6


# per_case


@each_score
def test_rows_hold_counts_and_scores(score: str) -> None:
    names = ["air", "liver", "spleen"]
    metric = SCORES[score][0](CLASSES, class_names=names, aggregation_level="casewise")
    feed(metric, slices(), 4)
    rows = metric.per_case()
    assert len(rows) == CASES * CLASSES
    wanted = {
        (case, names[label]): (*row, class_score(score, row))
        for case, table in counts(slices()).items()
        for label, row in enumerate(table)
    }
    for row in rows:
        assert list(row) == ROW_KEYS
        found = tuple(row[key] for key in ROW_KEYS[2:])
        assert found == pytest.approx(wanted[row["case"], row["class"]], abs=1e-6, nan_ok=True)
    assert len({(row["case"], row["class"]) for row in rows}) == len(rows)


def test_rows_without_background_and_of_regions() -> None:
    names = ["air", "liver", "spleen"]
    rows = feed(casewise(class_names=names, include_background=False), slices(), 4).per_case()
    assert {row["class"] for row in rows} == {"liver", "spleen"}
    assert len(rows) == CASES * 2
    table = counts(slices())
    for row in rows:
        assert row["intersection"] == table[row["case"]][names.index(row["class"])][0]
    rows = feed(casewise(regions={"body": [1, 2], "core": [2]}), slices(), 4).per_case()
    body = [row for row in rows if row["class"] == "body"]
    assert {row["case"]: row["pred_cardinality"] for row in body} == {n: t[1][1] + t[2][1] for n, t in table.items()}
    assert {row["class"] for row in rows} == {"body", "core"}


def test_worst_rows_come_first_and_those_without_a_score_last() -> None:
    metric = feed(casewise(ignore_index=0), slices(), 4)
    scores = [row["score"] for row in metric.per_case(worst_first=True)]
    known = [score for score in scores if not math.isnan(score)]
    assert known == sorted(known)
    assert 0 < len(known) < len(scores)
    assert all(math.isnan(score) for score in scores[len(known) :])


def test_ids_beyond_int64_are_to_be_strings() -> None:
    row = torch.tensor([[0, 1, 2]])
    for case in (2**63, -(2**63) - 1):
        with pytest.raises(ValueError, match=f"`case_ids` must fit int64, got .{case}.: pass them as strings"):
            casewise().update(row, row, case_ids=[case])
    metric = casewise()
    for case in (2**63 - 1, -(2**63), str(2**63)):
        metric.update(row, row, case_ids=[case])
    assert {row["case"] for row in metric.per_case()} == {2**63 - 1, -(2**63), str(2**63)}


def test_rows_without_names_are_numbered() -> None:
    assert {row["class"] for row in feed(casewise(), slices(), 4).per_case()} == {"0", "1", "2"}


def test_rows_are_plain_values_for_data_frames_and_csv() -> None:
    pandas = pytest.importorskip("pandas")
    metric = feed(casewise(), slices(), 4)
    rows = metric.per_case()
    for row in rows:
        assert all(type(row[key]) is int for key in ROW_KEYS[2:6])
        assert type(row["score"]) is float
    frame = pandas.DataFrame(rows)
    assert list(frame.columns) == ROW_KEYS
    assert all(frame[key].dtype == np.int64 for key in ROW_KEYS[2:6])
    assert frame["score"].dtype == np.float64
    assert frame.groupby("case")["score"].mean().mean() == pytest.approx(metric.compute().item(), abs=1e-6)
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=ROW_KEYS)
    writer.writeheader()
    writer.writerows(rows)
    file.seek(0)
    assert len(list(csv.DictReader(file))) == CASES * CLASSES


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_rows_of_nothing_are_none() -> None:
    assert casewise().per_case() == []


# confidence_interval


def perturbed(metric: Metric, total: int) -> tuple[Metric, list[float]]:
    """Feed `total` cases of 50 voxels, with as many errors as their number says, and return their Dice too."""
    scores = []
    for number in range(total):
        target = torch.ones(1, 50, dtype=torch.long)
        preds = target.clone()
        wrong = (number * 7) % 23
        preds[0, :wrong] = 0
        metric.update(preds, target, case_ids=[f"case {number}"])
        scores.append(2 * (50 - wrong) / (100 - wrong))
    return metric, scores


def test_the_interval_is_that_of_the_percentile_bootstrap() -> None:
    """Compared with a bootstrap by NumPy, and with the normal approximation, within what chance allows."""
    metric, scores = perturbed(BinaryDiceScore(aggregation_level="casewise"), 60)
    draw = np.random.default_rng(0)
    means = draw.choice(scores, size=(20_000, 60)).mean(axis=1)
    for level in (0.5, 0.8, 0.95):
        low, high = metric.confidence_interval(level=level, n_resamples=20_000, seed=1)
        wanted = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        width = wanted[1] - wanted[0]
        assert [low.item(), high.item()] == pytest.approx(wanted, abs=0.06 * width)
    error = statistics.stdev(scores) / math.sqrt(60)
    assert high.item() - low.item() == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_the_interval_of_each_class() -> None:
    metric = feed(casewise(average="none"), slices(), 4)
    low, high = metric.confidence_interval(level=0.9, n_resamples=500, seed=0)
    value = metric.compute()
    assert low.shape == high.shape == (CLASSES,)
    assert (low < value).all()
    assert (value < high).all()
    assert ((low >= 0) & (high <= 1)).all()
    assert low.dtype == high.dtype == torch.get_default_dtype()


def test_a_wider_level_gives_a_wider_interval() -> None:
    metric, _ = perturbed(BinaryDiceScore(aggregation_level="casewise"), 30)
    intervals = [metric.confidence_interval(level=level, seed=5) for level in (0.2, 0.5, 0.9, 0.99)]
    for (low, high), (wider_low, wider_high) in itertools.pairwise(intervals):
        assert wider_low < low < high < wider_high


@each_kind
def test_the_interval_depends_on_the_seed_and_not_on_the_order(kind: str) -> None:
    ids = ID_KINDS[kind]
    first = feed(casewise(), slices(), 20, ids).confidence_interval(n_resamples=300, seed=11)
    for seed in range(4):
        shuffled = slices()
        random.Random(seed).shuffle(shuffled)
        again = feed(casewise(), shuffled, 3, ids).confidence_interval(n_resamples=300, seed=11)
        assert same(again[0], first[0])
        assert same(again[1], first[1])
    other = feed(casewise(), slices(), 20, ids).confidence_interval(n_resamples=300, seed=12)
    assert not (same(other[0], first[0]) and same(other[1], first[1]))


@pytest.mark.parametrize("seed", [None, 0, 5])
def test_global_generators_stay_untouched(seed: int | None) -> None:
    metric = feed(casewise(), slices(), 4)
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    wanted = torch.rand(4), np.random.rand(4), random.random()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    metric.confidence_interval(n_resamples=50, seed=seed)
    assert torch.equal(torch.rand(4), wanted[0])
    assert np.array_equal(np.random.rand(4), wanted[1])
    assert random.random() == wanted[2]


def test_the_interval_leaves_the_metric_as_it_was() -> None:
    metric = feed(casewise(), slices(), 4)
    value, rows = metric.compute(), repr(metric.per_case())
    metric.confidence_interval(seed=0)
    assert metric.compute() is value
    assert repr(metric.per_case()) == rows
    assert metric.update_count == 5


def test_the_interval_of_one_case_and_of_equal_cases_is_a_point() -> None:
    metric = BinaryDiceScore(aggregation_level="casewise")
    for number in range(4):
        metric.update(torch.tensor([[1, 1, 0]]), torch.tensor([[1, 0, 0]]), case_ids=[number])
        low, high = metric.confidence_interval(n_resamples=50, seed=0)
        assert low.item() == pytest.approx(2 / 3)
        assert high.item() == pytest.approx(2 / 3)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_the_interval_of_nothing_is_nan() -> None:
    low, high = casewise().confidence_interval(seed=0)
    assert low.isnan()
    assert high.isnan()


@pytest.mark.parametrize(
    "options",
    [{"level": 0.0}, {"level": 1.0}, {"level": 95}, {"level": -0.5}, {"n_resamples": 0}, {"n_resamples": -3}],
    ids=str,
)
def test_unusable_intervals_are_refused(options: dict[str, Any]) -> None:
    metric = feed(casewise(), slices(), 4)
    with pytest.raises(ValueError, match=next(iter(options))):
        metric.confidence_interval(**options)


@pytest.mark.parametrize("case", ["ääää", "1234567ä", "\udcff as a file system gives it", "", "a\0", "日本語の症例"])
def test_any_string_names_a_case(case: str) -> None:
    metric = MulticlassDiceScore(2, aggregation_level="casewise")
    labels = torch.tensor([[0, 1], [1, 1]])
    metric.update(labels, labels, case_ids=[case, f"{case} again"])
    assert {row["case"] for row in pickle.loads(pickle.dumps(metric)).per_case()} == {case, f"{case} again"}
