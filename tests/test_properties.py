"""What has to hold for any data: bounds, symmetries, identities, and independence of batch split and order."""

import itertools
import math

import numpy as np
import pytest
import torch
from cases import AVERAGES, CLASS_SUFFIX, FUNCTION, LEVELS, PARAMETERS, same
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_scores import PREFIX
from torch import Tensor

import torchmetrics_dice_ext as tde
from torchmetrics_dice_ext import functional
from torchmetrics_dice_ext._reductions import mean_of_fixed_point, to_fixed_point

VOID = 255

prop = settings(max_examples=50, derandomize=True, deadline=None)


@st.composite
def label_maps(draw, max_classes: int = 6, void: bool = True, samples: int = 5) -> tuple[int, Tensor, Tensor]:
    """(num_classes, preds, target): any labels, agreeing in places, void in others; classes may be missing."""
    num_classes = draw(st.integers(2, max_classes))
    n, voxels = draw(st.integers(1, samples)), draw(st.integers(1, 12))
    rows = st.lists(st.integers(0, num_classes - 1), min_size=n * voxels, max_size=n * voxels)
    preds, target = (torch.tensor(draw(rows)).reshape(n, voxels) for _ in range(2))
    agreeing = torch.tensor(draw(st.lists(st.booleans(), min_size=n * voxels, max_size=n * voxels))).reshape(n, voxels)
    preds = torch.where(agreeing, target, preds)
    if void and draw(st.booleans()):
        kept = torch.tensor(draw(st.lists(st.booleans(), min_size=n * voxels, max_size=n * voxels)))
        target = torch.where(kept.reshape(n, voxels), target, VOID)
    return num_classes, preds, target


@st.composite
def readouts(draw) -> dict:
    zero_division = draw(st.sampled_from(["nan", 0.0, 1.0, 0.37]))
    options = {"zero_division": zero_division}
    if draw(st.booleans()):
        options["include_background"] = False
    return options


parameters = {
    "fbeta": st.fixed_dictionaries({"beta": st.floats(1e-3, 1e3)}),
    "tversky": st.fixed_dictionaries({"alpha": st.floats(1e-3, 1e3), "beta": st.floats(1e-3, 1e3)}),
    "generalized_dice": st.fixed_dictionaries({"weight_type": st.sampled_from(["square", "simple", "linear"])}),
}


LABELS = {"input_format": "index"}  # a drawn label map may look one-hot


def multiclass(score: str, preds: Tensor, target: Tensor, num_classes: int, **options) -> Tensor:
    function = getattr(functional, FUNCTION[score])
    options |= LABELS | {"num_classes": num_classes, "ignore_index": VOID}
    return function(preds, target, task="multiclass", **options)


def label_counts(preds: Tensor, target: Tensor, num_classes: int, **options) -> list[Tensor]:
    options |= LABELS | {"num_classes": num_classes}
    return list(functional.overlap_counts(preds, target, task="multiclass", **options))


@pytest.mark.parametrize("score", PARAMETERS)
@prop
@given(st.data())
def test_scores_lie_in_bounds_or_are_nan(score, data):
    num_classes, preds, target = data.draw(label_maps())
    options = data.draw(readouts()) | data.draw(parameters.get(score, st.just({})))
    options["aggregation_level"] = data.draw(st.sampled_from(["global", "samplewise"]))
    for average in (None,) if score == "generalized_dice" else AVERAGES:
        chosen = {} if average is None else {"average": average}
        value = multiclass(score, preds, target, num_classes, **options, **chosen)
        assert ((value >= 0) & (value <= 1) | value.isnan()).all()


@prop
@given(st.integers(0, 200), st.integers(0, 3), st.integers(0, 3), st.floats(1e-6, 1e6), st.floats(0, 1e6))
def test_rounding_leaves_the_bounds_for_no_parameter(both, only_pred, only_target, alpha, beta):
    """Near agreement, where a naive quotient of rounded sums passes 1."""
    assume(both + only_pred + only_target > 0)
    repeat = torch.tensor([both, only_pred, only_target])
    preds = torch.tensor([[1, 1, 0]]).repeat_interleave(repeat, dim=1)
    target = torch.tensor([[1, 0, 1]]).repeat_interleave(repeat, dim=1)
    for value in (
        functional.fbeta_score(preds, target, task="binary", beta=alpha),
        functional.tversky_index(preds, target, task="binary", alpha=alpha, beta=beta),
        functional.volumetric_similarity(preds, target, task="binary"),
        functional.generalized_dice_score(preds, target, task="binary"),
    ):
        assert math.isnan(value) or 0 <= value <= 1


@prop
@given(st.integers(1, 300), st.floats(1e-3, 1e3))
def test_perfect_agreement_is_exactly_one_whatever_the_parameters(voxels, beta):
    target = torch.ones(1, voxels, dtype=torch.int64)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert functional.fbeta_score(target, target, task="binary", beta=beta).item() == 1.0
        assert functional.tversky_index(target, target, task="binary", alpha=beta, beta=1 / beta).item() == 1.0
        assert functional.volumetric_similarity(target, target, task="binary").item() == 1.0
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("score", ["dice", "jaccard", "volumetric_similarity"])
@pytest.mark.parametrize("average", ["macro", "micro", "none"])
@pytest.mark.parametrize("level", ["global", "samplewise"])
@prop
@given(maps=label_maps(void=False))
def test_symmetric_scores(score, average, level, maps):
    num_classes, preds, target = maps
    options = {"average": average, "aggregation_level": level}
    there = multiclass(score, preds, target, num_classes, **options)
    back = multiclass(score, target, preds, num_classes, **options)
    assert same(there, back)


@pytest.mark.parametrize("level", ["global", "samplewise"])
@prop
@given(maps=label_maps(void=False))
def test_precision_is_recall_of_the_swapped_maps(level, maps):
    num_classes, preds, target = maps
    for average in ("macro", "micro", "none"):
        options = {"average": average, "aggregation_level": level}
        precision = multiclass("precision", preds, target, num_classes, **options)
        assert same(precision, multiclass("recall", target, preds, num_classes, **options))


@prop
@given(maps=label_maps(), data=st.data())
def test_dice_is_fbeta_of_one_and_tversky_of_a_half(maps, data):
    num_classes, preds, target = maps
    options = data.draw(readouts()) | {"average": data.draw(st.sampled_from(AVERAGES))}
    dice = multiclass("dice", preds, target, num_classes, **options)
    for other in (
        multiclass("fbeta", preds, target, num_classes, beta=1.0, **options),
        multiclass("tversky", preds, target, num_classes, alpha=0.5, beta=0.5, **options),
    ):
        torch.testing.assert_close(dice, other, rtol=1e-6, atol=1e-6, equal_nan=True)
    jaccard = multiclass("jaccard", preds, target, num_classes, **options)
    tversky = multiclass("tversky", preds, target, num_classes, alpha=1.0, beta=1.0, **options)
    torch.testing.assert_close(jaccard, tversky, rtol=1e-6, atol=1e-6, equal_nan=True)


@prop
@given(maps=label_maps(), average=st.sampled_from(["none", "micro"]))
def test_dice_and_jaccard_tell_the_same(maps, average):
    num_classes, preds, target = maps
    dice, jaccard = (
        multiclass(score, preds, target, num_classes, average=average).double() for score in ("dice", "jaccard")
    )
    torch.testing.assert_close(dice, 2 * jaccard / (1 + jaccard), rtol=1e-6, atol=1e-6, equal_nan=True)
    assert ((jaccard <= dice) | dice.isnan()).all()


@prop
@given(maps=label_maps(), data=st.data())
def test_classes_can_be_renamed(maps, data):
    num_classes, preds, target = maps
    order = torch.tensor(data.draw(st.permutations(range(num_classes))))
    renamed = torch.where(target == VOID, VOID, order[target.clamp(max=num_classes - 1)])
    for score in PARAMETERS:
        options = {} if score == "generalized_dice" else {"average": "macro"}
        before = multiclass(score, preds, target, num_classes, **options)
        after = multiclass(score, order[preds], renamed, num_classes, **options)
        torch.testing.assert_close(before, after, rtol=1e-6, atol=1e-6, equal_nan=True)
        if score != "generalized_dice":
            before = multiclass(score, preds, target, num_classes, average="none")
            after = multiclass(score, order[preds], renamed, num_classes, average="none")
            assert same(before, after[order])
            before = multiclass(score, preds, target, num_classes, average="micro")
            assert same(before, multiclass(score, order[preds], renamed, num_classes, average="micro"))


@prop
@given(maps=label_maps(), data=st.data())
def test_voxels_can_be_shuffled(maps, data):
    num_classes, preds, target = maps
    order = torch.tensor(data.draw(st.permutations(range(preds.shape[1]))))
    for score in PARAMETERS:
        for level in ("global", "samplewise"):
            before = multiclass(score, preds, target, num_classes, aggregation_level=level)
            after = multiclass(score, preds[:, order], target[:, order], num_classes, aggregation_level=level)
            assert same(before, after)


@prop
@given(maps=label_maps(), data=st.data())
def test_counts_add_up(maps, data):
    num_classes, preds, target = maps
    cut = data.draw(st.integers(0, preds.shape[1]))

    def counts(part: slice) -> list[Tensor]:
        return label_counts(preds[:, part], target[:, part], num_classes, ignore_index=VOID)

    whole, left, right = counts(slice(None)), counts(slice(0, cut)), counts(slice(cut, None))
    assert all(torch.equal(w, a + b) for w, a, b in zip(whole, left, right, strict=True))
    intersection, pred_cardinality, target_cardinality, support = whole
    assert torch.equal(pred_cardinality.sum(1), support[:, 0])
    assert torch.equal(target_cardinality.sum(1), support[:, 0])
    assert torch.equal(support[:, 0], (target != VOID).sum(1))
    assert torch.equal(intersection.sum(1), ((preds == target) & (target != VOID)).sum(1))


@prop
@given(maps=label_maps())
def test_micro_over_all_classes_is_accuracy(maps):
    num_classes, preds, target = maps
    valid = target != VOID
    for score in ("dice", "precision", "recall"):
        micro = multiclass(score, preds, target, num_classes, average="micro")
        if not valid.any():
            assert micro.isnan()
        else:
            accuracy = (preds == target)[valid].double().mean().to(micro.dtype)
            torch.testing.assert_close(micro, accuracy, rtol=1e-6, atol=1e-6)


@prop
@given(maps=label_maps(void=False))
def test_void_and_mask_are_two_ways_to_say_it(maps):
    num_classes, preds, target = maps
    mask = (torch.arange(target.numel()).reshape(target.shape) % 3) != 0
    by_value = label_counts(preds, torch.where(mask, target, -1), num_classes, ignore_index=-1)
    by_mask = label_counts(preds, target, num_classes, mask=mask)
    assert all(torch.equal(a, b) for a, b in zip(by_value, by_mask, strict=True))


@prop
@given(maps=label_maps(max_classes=2))
def test_two_classes_are_binary(maps):
    _, preds, target = maps
    for score in PARAMETERS:
        binary = getattr(functional, FUNCTION[score])(preds, target, task="binary", ignore_index=VOID)
        both = {} if score == "generalized_dice" else {"average": "none"}
        value = multiclass(score, preds, target, 2, **both)
        foreground = value if score == "generalized_dice" else value[1]
        assert same(binary, foreground)


@prop
@given(maps=label_maps(max_classes=4))
def test_one_hot_labels_as_multilabel_give_the_same_scores(maps):
    """One mask per class carries the same counts as a label map, but for the void voxels of all labels."""
    num_classes, preds, target = maps
    p = torch.stack([preds == c for c in range(num_classes)], 1).long()
    t = torch.stack([torch.where(target == VOID, VOID, (target == c).long()) for c in range(num_classes)], 1)
    for score in PARAMETERS:
        multilabel = getattr(functional, FUNCTION[score])(
            p, t, task="multilabel", num_labels=num_classes, ignore_index=VOID
        )
        assert same(multilabel, multiclass(score, preds, target, num_classes))


def _chunks(draw_cuts: list[int], samples: int) -> list[slice]:
    edges = [0, *sorted(min(cut, samples) for cut in draw_cuts), samples]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("score", PARAMETERS)
@settings(max_examples=25, derandomize=True, deadline=None)
@given(data=st.data())
def test_batch_split_and_order_change_no_bit(score, level, data):
    num_classes, preds, target = data.draw(label_maps(samples=7))
    options = data.draw(readouts())
    if score != "generalized_dice":
        options["average"] = data.draw(st.sampled_from(AVERAGES))
    samples = len(preds)
    cases = data.draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=samples, max_size=samples))
    order = torch.tensor(data.draw(st.permutations(range(samples))))
    cuts = data.draw(st.lists(st.integers(0, samples), max_size=4))

    def run(p: Tensor, t: Tensor, ids: list[str], parts: list[slice]) -> Tensor:
        metric = getattr(tde, PREFIX["multiclass"] + CLASS_SUFFIX[score])(
            num_classes, ignore_index=VOID, aggregation_level=level, **LABELS, **options
        )
        for part in parts:
            extra = {"case_ids": ids[part]} if level == "casewise" else {}
            metric.update(p[part], t[part], **extra)
        return metric.compute()

    whole = run(preds, target, cases, [slice(None)])
    shuffled = [cases[n] for n in order.tolist()]
    assert same(whole, run(preds, target, cases, _chunks(cuts, samples)))
    assert same(whole, run(preds[order], target[order], shuffled, _chunks(cuts, samples)))
    assert same(whole, run(preds[order], target[order], shuffled, [slice(n, n + 1) for n in range(samples)]))
    if level != "casewise":
        direct = multiclass(score, preds, target, num_classes, aggregation_level=level, **options)
        assert same(whole, direct.squeeze())  # torchmetrics drops the axis of a vector of one class


def test_fixed_point_keeps_all_its_bits():
    """Of one score, and of as many as are promised to fit."""
    scores = torch.tensor([0.0, 2**-52, 3 * 2**-52, 0.5 + 2**-52, 1 - 2**-52, 1.0], dtype=torch.float64)
    fixed = to_fixed_point(scores)
    assert fixed.dtype == torch.int64
    for sums in (fixed, fixed * 2**36):
        mean = mean_of_fixed_point(sums)
        assert mean.dtype == torch.float64
        assert torch.equal(mean, scores)


def test_many_samples_in_any_split_give_the_same_bits():
    """Enough different scores that a float mean would depend on the order of its terms."""
    g = torch.Generator().manual_seed(0)
    samples = 997
    preds, target = (torch.randint(0, 5, (samples, 37), generator=g) for _ in range(2))
    results = set()
    for size in (1, 7, 64, 500, samples):
        for order in (torch.arange(samples), torch.randperm(samples, generator=g)):
            metric = tde.MulticlassDiceScore(5, aggregation_level="samplewise")
            for part in order.split(size):
                metric.update(preds[part], target[part])
            results.add(np.float32(metric.compute().item()).tobytes())
    assert len(results) == 1


@prop
@given(maps=label_maps())
def test_one_sample_is_all_data(maps):
    num_classes, preds, target = maps
    for score in PARAMETERS:
        metrics = [
            getattr(tde, PREFIX["multiclass"] + CLASS_SUFFIX[score])(
                num_classes, ignore_index=VOID, aggregation_level=level, **LABELS
            )
            for level in LEVELS
        ]
        for metric, level in zip(metrics, LEVELS, strict=True):
            metric.update(preds[:1], target[:1], **({"case_ids": [1]} if level == "casewise" else {}))
        first, second, third = (metric.compute() for metric in metrics)
        assert same(second, third)
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6, equal_nan=True)


@prop
@given(
    st.lists(st.floats(-50, 50, width=32), min_size=8, max_size=8),
    st.floats(0.01, 0.99),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_logits_and_their_probabilities_agree_away_from_the_threshold(values, threshold, dtype):
    logits = torch.tensor([values], dtype=dtype)
    assume(((logits - math.log(threshold / (1 - threshold))).abs() > 1e-3).all())
    target = torch.ones(1, 8, dtype=torch.int64)
    by_logit = functional.overlap_counts(logits, target, task="binary", threshold=threshold, from_logits=True)
    by_probability = functional.overlap_counts(logits.sigmoid(), target, task="binary", threshold=threshold)
    assert torch.equal(by_logit.pred_cardinality, by_probability.pred_cardinality)


@prop
@given(maps=label_maps(max_classes=5), scale=st.sampled_from([0.125, 1.0, 64.0]), shift=st.integers(-8, 8))
def test_argmax_does_not_see_scale_and_shift(maps, scale, shift):
    num_classes, preds, target = maps
    logits = torch.stack([(preds == c).float() for c in range(num_classes)], 1)
    plain = label_counts(preds, target, num_classes, ignore_index=VOID)
    scaled = functional.overlap_counts(
        logits * scale + shift, target, task="multiclass", num_classes=num_classes, ignore_index=VOID
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, scaled, strict=True))
