"""Every score, average and level of every task, in every input form, against the oracle."""

import math

import numpy as np
import oracle
import pytest
import torch
from cases import (
    AVERAGES,
    CLASS_SUFFIX,
    FLOAT_DTYPES,
    FUNCTION,
    LEVELS,
    PARAMETERS,
    Batch,
    Stream,
    concatenate,
    expected,
    mask_batch,
    multiclass_batch,
    oracle_counts,
    stream_counts,
    streams,
    to_numpy,
)

import torchmetrics_dice_ext as tde
from torchmetrics_dice_ext import functional

PREFIX = {"binary": "Binary", "multiclass": "Multiclass", "multilabel": "Multilabel"}
TOLERANCE = 1e-12

STREAMS = [(group, name) for group in ("multiclass", "regions", "binary", "multilabel") for name in streams(group)]
READ_IN_ANOTHER_WAY = {
    "multiclass": {
        "one-hot and labels",
        "labels and one-hot",
        "logits and one-hot",
        "two one-hot",
        "channels-last",
        "channels-last volumes",
        "singleton channels",
        "logits and a singleton channel",
        "points",
        "lines",
        "four axes",
        "past a tile",
        "mask",
        "mask and void",
        "ragged shapes",
    },
    "regions": set(),
    "binary": {
        "low threshold",
        "threshold that bf16 rounds",
        "logits",
        "logits with a threshold",
        "decisions",
        "bool decisions",
        "void elements",
        "mask",
        "both channels",
        "preds channel",
        "target channel",
        "points",
        "volumes",
        "past a tile",
    },
    "multilabel": {
        "threshold per label",
        "logits",
        "logits, threshold per label",
        "decisions",
        "void elements",
        "mask",
        "channels-last",
        "points",
        "volumes",
    },
}
"""Streams with nothing of their own but how inputs become counts: scores see the counts alone, so two are enough."""
each_stream_and_score = pytest.mark.parametrize(
    ("group", "name", "score"),
    [
        (group, name, score)
        for group, name in STREAMS
        for score in (("dice", "generalized_dice") if name in READ_IN_ANOTHER_WAY[group] else PARAMETERS)
    ],
)

pytestmark = pytest.mark.usefixtures("double_results")


def averages_of(task: str, score: str) -> tuple[str | None, ...]:
    """The averages that a metric takes; None where it takes no such option."""
    return (None,) if task == "binary" or score == "generalized_dice" else AVERAGES


def option_of(average: str | None) -> dict[str, str]:
    return {} if average is None else {"average": average}


def metric_for(score: str, task: str, **options):
    return getattr(tde, PREFIX[task] + CLASS_SUFFIX[score])(**options)


def call(score: str, task: str, batch: Batch, **options) -> torch.Tensor:
    return getattr(functional, FUNCTION[score])(batch.preds, batch.target, task=task, mask=batch.mask, **options)


def feed(metric, stream: Stream, level: str = "global") -> None:
    """Update with every batch, moved to the metric's device."""
    casewise = level == "casewise"
    for batch, ids in zip(stream.batches, stream.case_ids, strict=True):
        mask = None if batch.mask is None else batch.mask.to(metric.device)
        extra = {"case_ids": list(ids)} if casewise else {}
        metric.update(batch.preds.to(metric.device), batch.target.to(metric.device), mask=mask, **extra)


def truth(score: str, group: str, name: str, *, average=None, aggregation_level="global", which=None, **readout):
    """The oracle's value for a stream, or for one batch of it."""
    stream = streams(group)[name]
    of_batches = stream_counts(group, name, background=group == "binary" and score == "generalized_dice")
    counts = concatenate(list(of_batches)) if which is None else of_batches[which]
    cases = tuple(case for ids in stream.case_ids for case in ids) if which is None else stream.case_ids[which]
    if average is None:
        average = "macro"  # binary: the macro average of one class is its score
    readout = {**stream.readout, "average": average, "aggregation_level": aggregation_level, **readout}
    return expected(score, stream.task, counts, stream.options, {**PARAMETERS[score], **readout}, cases)


def assert_reported(result: torch.Tensor, wanted, context: object = "") -> None:
    """torchmetrics makes a number of what compute() returns as a vector of one entry."""
    assert_same(result, np.squeeze(wanted) if np.size(wanted) == 1 else wanted, context)


def assert_same(result: torch.Tensor, wanted, context: object = "") -> None:
    assert isinstance(result, torch.Tensor)
    assert result.dtype == torch.get_default_dtype()
    assert tuple(result.shape) == np.shape(wanted), context
    np.testing.assert_allclose(to_numpy(result), wanted, rtol=0, atol=TOLERANCE, err_msg=str(context))


@pytest.mark.parametrize("level", LEVELS)
@each_stream_and_score
def test_metric_over_batches(group, name, score, level):
    stream = streams(group)[name]
    for average in averages_of(stream.task, score):
        metric = metric_for(
            score,
            stream.task,
            **stream.options,
            **stream.readout,
            **option_of(average),
            **PARAMETERS[score],
            aggregation_level=level,
        )
        feed(metric, stream, level)
        assert_reported(metric.compute(), truth(score, group, name, average=average, aggregation_level=level), average)


@pytest.mark.parametrize("level", ["global", "samplewise"])
@each_stream_and_score
def test_function_of_each_batch(group, name, score, level):
    stream = streams(group)[name]
    for average in averages_of(stream.task, score):
        for which, batch in enumerate(stream.batches):
            options = {**stream.options, **stream.readout, **option_of(average), **PARAMETERS[score]}
            result = call(score, stream.task, batch, **options, aggregation_level=level)
            wanted = truth(score, group, name, average=average, aggregation_level=level, which=which)
            assert_same(result, wanted, (average, which))


@pytest.mark.parametrize(("group", "name"), STREAMS)
def test_overlap_counts_are_exact(group, name):
    stream = streams(group)[name]
    for batch, wanted in zip(stream.batches, stream_counts(group, name), strict=True):
        counts = functional.overlap_counts(
            batch.preds, batch.target, task=stream.task, mask=batch.mask, **stream.options
        )
        assert counts._fields == ("intersection", "pred_cardinality", "target_cardinality", "support")
        for result, truth_part in zip(counts, wanted, strict=True):
            assert result.dtype == torch.int64
            assert result.tolist() == truth_part.tolist()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("score", PARAMETERS)
@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("multiclass", "logits with void voxels"),
        ("multiclass", "empty batches"),
        ("regions", "regions and a mask"),
        ("binary", "empty samples"),
        ("multilabel", "mask"),
    ],
)
def test_forward_returns_the_batch_and_keeps_the_rest(group, name, score, level):
    stream = streams(group)[name]
    metric = metric_for(score, stream.task, **stream.options, **PARAMETERS[score], aggregation_level=level)
    casewise = level == "casewise"
    average = averages_of(stream.task, score)[0]
    for which, (batch, ids) in enumerate(zip(stream.batches, stream.case_ids, strict=True)):
        extra = {"case_ids": list(ids)} if casewise else {}
        value = metric(batch.preds, batch.target, mask=batch.mask, **extra)
        assert_same(value, truth(score, group, name, average=average, aggregation_level=level, which=which), which)
    assert metric.update_count == len(stream.batches)
    assert_reported(metric.compute(), truth(score, group, name, average=average, aggregation_level=level))


ZERO_DIVISION_STREAMS = [
    ("multiclass", "labels with a class that is nowhere"),
    ("multiclass", "two classes"),
    ("multiclass", "several void values"),
    ("multiclass", "a void sample"),
    ("multiclass", "one voxel"),
    ("multiclass", "nothing"),
    ("multiclass", "void without background"),
    ("regions", "a void region"),
    ("regions", "regions of labels"),
    ("binary", "everything empty"),
    ("binary", "empty samples"),
    ("binary", "a void sample"),
    ("binary", "nothing"),
    ("multilabel", "empty samples"),
    ("multilabel", "a void sample"),
    ("multilabel", "void background"),
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("zero_division", ["nan", 0.0, 0.25, 1.0])
@pytest.mark.parametrize(("group", "name"), ZERO_DIVISION_STREAMS)
def test_zero_division(group, name, zero_division, level):
    stream = streams(group)[name]
    for score in PARAMETERS:
        for average in averages_of(stream.task, score):
            options = {**stream.options, **stream.readout, **option_of(average), **PARAMETERS[score]}
            metric = metric_for(score, stream.task, **options, aggregation_level=level, zero_division=zero_division)
            feed(metric, stream, level)
            wanted = truth(score, group, name, average=average, aggregation_level=level, zero_division=zero_division)
            assert_reported(metric.compute(), wanted, (score, average))


@pytest.mark.parametrize("zero_division", ["nan", 0, 0.25, 1.0])
def test_weighted_without_any_target_takes_zero_division(zero_division):
    preds, target = torch.tensor([[1, 2, 2, 0]]), torch.full((1, 4), 0)
    result = functional.dice_score(
        preds,
        target,
        task="multiclass",
        num_classes=3,
        include_background=False,
        average="weighted",
        zero_division=zero_division,
    )
    assert_same(result, float("nan") if zero_division == "nan" else zero_division)


def test_weighted_without_any_scored_class_is_nan():
    target = torch.tensor([[1, 2, 2, 1]])
    result = functional.dice_score(
        target,
        target,
        task="multiclass",
        num_classes=3,
        include_background=False,
        ignore_index=[1, 2],
        average="weighted",
        zero_division=1.0,
    )
    assert_same(result, float("nan"))


@pytest.mark.parametrize("zero_division", ["nan", 0.0, 1.0])
@pytest.mark.parametrize("average", AVERAGES)
def test_an_observation_without_valid_voxels_has_no_score(average, zero_division):
    preds = torch.tensor([[0, 1, 1, 2], [2, 2, 1, 0]])
    target = torch.tensor([[0, 1, 2, 2], [255, 255, 255, 255]])
    options = {"task": "multiclass", "num_classes": 3, "ignore_index": 255, "average": average}
    options |= {"zero_division": zero_division, "aggregation_level": "samplewise"}
    both = functional.dice_score(preds, target, **options)
    first = functional.dice_score(preds[:1], target[:1], **options)
    second = functional.dice_score(preds[1:], target[1:], **options)
    assert torch.equal(both, first)
    assert second.isnan().all()


BETAS = (0.25, 0.5, 1.0, 2.0, 5.0)
SOME_STREAMS = [
    ("multiclass", "labels with a class that is nowhere"),
    ("multiclass", "logits with void voxels"),
    ("binary", "probabilities"),
    ("multilabel", "void elements"),
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("group", "name"), SOME_STREAMS)
@pytest.mark.parametrize(
    ("score", "parameters"),
    [("fbeta", {"beta": beta}) for beta in BETAS]
    + [("tversky", {"alpha": a, "beta": b}) for a, b in [(0.5, 0.5), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.1, 3.0)]]
    + [("generalized_dice", {"weight_type": w}) for w in ("square", "simple", "linear")],
)
def test_parameters_of_scores(group, name, score, parameters, level):
    stream = streams(group)[name]
    metric = metric_for(score, stream.task, **stream.options, **parameters, aggregation_level=level)
    feed(metric, stream, level)
    assert_reported(metric.compute(), truth(score, group, name, aggregation_level=level, **parameters))


@pytest.mark.parametrize(("group", "name"), SOME_STREAMS)
@pytest.mark.parametrize(
    ("score", "default"),
    [
        ("fbeta", {"beta": 1.0}),
        ("tversky", {"alpha": 0.5, "beta": 0.5}),
        ("generalized_dice", {"weight_type": "square"}),
    ],
)
def test_default_parameters_of_scores(group, name, score, default):
    stream = streams(group)[name]
    metric = metric_for(score, stream.task, **stream.options)
    feed(metric, stream)
    assert_reported(metric.compute(), truth(score, group, name, **default))


def test_defaults_are_macro_global_nan_with_background():
    stream = streams("multiclass")["labels with a class that is nowhere"]
    metric = tde.MulticlassDiceScore(5)
    feed(metric, stream)
    wanted = truth(
        "dice",
        "multiclass",
        "labels with a class that is nowhere",
        average="macro",
        aggregation_level="global",
        include_background=True,
        zero_division="nan",
    )
    assert_reported(metric.compute(), wanted)


@pytest.mark.parametrize("score", [s for s in PARAMETERS if s != "generalized_dice"])
def test_average_none_and_the_word_none_are_one(score):
    stream = streams("multiclass")["logits with void voxels"]
    by_value = metric_for(score, "multiclass", **stream.options, average=None)
    by_word = metric_for(score, "multiclass", **stream.options, average="none")
    feed(by_value, stream)
    feed(by_word, stream)
    assert by_value.compute().shape == (4,)
    assert torch.equal(by_value.compute(), by_word.compute())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("score", PARAMETERS)
@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("multiclass", "several void values"),
        ("multiclass", "without background"),
        ("multiclass", "void without background"),
        ("multiclass", "a void sample"),
        ("regions", "regions and void voxels"),
        ("regions", "a void region"),
        ("binary", "a void sample"),
        ("multilabel", "a void sample"),
    ],
)
def test_per_class(group, name, score, level):
    stream = streams(group)[name]
    metric = metric_for(score, stream.task, **stream.options, **stream.readout, aggregation_level=level)
    feed(metric, stream, level)
    of_class = metric.per_class()
    if stream.task == "binary":
        names = ["foreground"]
        of_class = {key: value for key, value in of_class.items() if key in names}
    elif "regions" in stream.options:
        names = list(stream.options["regions"])
    else:
        first = 0 if stream.readout.get("include_background", True) else 1
        names = [str(c) for c in range(first, stream.options.get("num_classes", stream.options.get("num_labels")))]
    assert list(of_class) == names
    per_class_score = "dice" if score == "generalized_dice" else score  # Generalized Dice is one number by definition
    parameters = {} if score == "generalized_dice" else {**defaults_of(score)}
    counts = concatenate(list(stream_counts(group, name)))
    cases = tuple(case for ids in stream.case_ids for case in ids)
    readout = {**stream.readout, "average": "none", "aggregation_level": level, **parameters}
    wanted = expected(per_class_score, stream.task, counts, stream.options, readout, cases)
    for value, number in zip(of_class.values(), wanted, strict=True):
        assert_same(value, number)


def defaults_of(score: str) -> dict[str, float]:
    return {"fbeta": {"beta": 1.0}, "tversky": {"alpha": 0.5, "beta": 0.5}}.get(score, {})


@pytest.mark.parametrize("average", AVERAGES)
def test_per_class_does_not_depend_on_the_average(average):
    stream = streams("multiclass")["labels"]
    metric = metric_for("dice", "multiclass", **stream.options, average=average, aggregation_level="samplewise")
    feed(metric, stream, "samplewise")
    wanted = truth("dice", "multiclass", "labels", average="none", aggregation_level="samplewise")
    assert_same(torch.stack(list(metric.per_class().values())), wanted)


def test_class_names_name_the_classes_in_order():
    stream = streams("multiclass")["logits"]
    names = ["background", "liver", "left kidney", "spleen"]
    metric = metric_for("dice", "multiclass", **stream.options, class_names=names)
    feed(metric, stream)
    assert list(metric.per_class()) == names
    wanted = truth("dice", "multiclass", "logits", average="none")
    assert_same(metric.per_class()["spleen"], wanted[3])
    without = metric_for("dice", "multiclass", **stream.options, class_names=names, include_background=False)
    feed(without, stream)
    assert list(without.per_class()) == names[1:]
    assert_same(without.per_class()["liver"], wanted[1])


@pytest.mark.parametrize(("group", "name"), [("multiclass", "labels"), ("binary", "logits"), ("multilabel", "mask")])
@pytest.mark.parametrize("score", PARAMETERS)
def test_factories_make_the_metric_of_the_task(group, name, score):
    stream = streams(group)[name]
    factory = getattr(tde, CLASS_SUFFIX[score])
    made = factory(task=stream.task, **stream.options, **PARAMETERS[score])
    assert type(made) is getattr(tde, PREFIX[stream.task] + CLASS_SUFFIX[score])
    feed(made, stream)
    assert_same(made.compute(), truth(score, group, name))


@pytest.mark.parametrize("score", PARAMETERS)
def test_results_have_the_default_dtype(score):
    stream = streams("multiclass")["logits"]
    torch.set_default_dtype(torch.float32)
    metric = metric_for(score, "multiclass", **stream.options, **PARAMETERS[score])
    feed(metric, stream)
    result = metric.compute()
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(float(truth(score, "multiclass", "logits")), abs=1e-7)
    assert call(score, "multiclass", stream.batches[0], **stream.options).dtype == torch.float32
    assert all(value.dtype == torch.float32 and value.ndim == 0 for value in metric.per_class().values())


@pytest.mark.parametrize(
    ("group", "name"), [("multiclass", "logits with void voxels"), ("binary", "void elements"), ("multilabel", "mask")]
)
@pytest.mark.parametrize("level", LEVELS)
def test_reset_forgets_everything(group, name, level):
    stream = streams(group)[name]
    metric = metric_for("dice", stream.task, **stream.options, aggregation_level=level)
    feed(metric, stream, level)
    metric.reset()
    feed(metric, stream, level)
    assert_reported(metric.compute(), truth("dice", group, name, aggregation_level=level))


def test_casewise_takes_ints_strings_and_tensors():
    stream = streams("multiclass")["logits"]
    wanted = truth("dice", "multiclass", "logits", aggregation_level="casewise")
    number = {"case 0": 7, "case 1": -3, "case 2": 2**40}
    for convert in (
        list,
        tuple,
        lambda ids: [number[i] for i in ids],
        lambda ids: torch.tensor([number[i] for i in ids]),
    ):
        metric = tde.MulticlassDiceScore(4, aggregation_level="casewise")
        for batch, ids in zip(stream.batches, stream.case_ids, strict=True):
            metric.update(batch.preds, batch.target, case_ids=convert(ids))
        assert_reported(metric.compute(), wanted)


def test_slices_of_a_volume_are_one_case():
    volume = multiclass_batch(3, (2, (6, 5, 4)), 3)
    slices = tde.MulticlassDiceScore(3, aggregation_level="casewise")
    for n in (1, 0):
        for z in range(6):
            slices.update(volume.preds[n, :, z][None], volume.target[n, z][None], case_ids=[f"patient {n}"])
    whole = functional.dice_score(
        volume.preds, volume.target, task="multiclass", num_classes=3, aggregation_level="samplewise"
    )
    assert torch.equal(slices.compute(), whole)


def test_a_case_that_comes_twice_whole_changes_nothing():
    batch = multiclass_batch(4, (5, (6, 5)), 3)
    once = tde.MulticlassDiceScore(3, aggregation_level="casewise")
    twice = tde.MulticlassDiceScore(3, aggregation_level="casewise")
    once.update(batch.preds, batch.target, case_ids=[1, 2, 2, 3, 1])
    twice.update(batch.preds, batch.target, case_ids=[1, 2, 2, 3, 1])
    again = [0, 4]
    twice.update(batch.preds[again], batch.target[again], case_ids=[1, 1])
    assert torch.equal(once.compute(), twice.compute())


def test_counts_pass_what_float32_can_count():
    side = 4099  # side * side > 2 ** 24
    ones = torch.ones((1, side, side), dtype=torch.uint8)
    almost = ones.clone()
    almost[0, 0, 0] = 0
    counts = functional.overlap_counts(almost, ones, task="binary")
    assert [part.item() for part in counts] == [side**2 - 1, side**2 - 1, side**2, side**2]
    metric = tde.BinaryRecall()
    for _ in range(2):
        metric.update(almost, ones)
    assert metric.compute().item() == (2 * side**2 - 2) / (2 * side**2) != 1.0


def test_perfect_agreement_is_exactly_one():
    for seed in range(200):
        batch = mask_batch(seed, (1, (1 + seed % 23,)), preds="decisions", preds_dtype=torch.int64)
        for beta in BETAS:
            value = functional.fbeta_score(batch.target, batch.target, task="binary", beta=beta)
            assert value.item() == 1.0 or (math.isnan(value.item()) and batch.target.sum() == 0)
        for alpha, beta in [(0.1, 0.7), (1 / 3, 2 / 3), (0.3, 0.3)]:
            value = functional.tversky_index(batch.target, batch.target, task="binary", alpha=alpha, beta=beta)
            assert value.item() == 1.0 or (math.isnan(value.item()) and batch.target.sum() == 0)


def test_generalized_dice_of_a_sample_without_target_beside_one_with_it():
    """Its classes weigh alike, whatever the other sample's weights are: what it predicts is wrong."""
    preds = torch.tensor([[[1, 1], [0, 1]], [[1, 0], [0, 0]]])
    target = torch.tensor([[[1, 0], [1, 1]], [[0, 0], [0, 0]]])
    batch, options = Batch(preds, target, None, "decisions", "labels", 1), {"num_labels": 2}
    wanted = expected(
        "generalized_dice",
        "multilabel",
        oracle_counts("multilabel", batch, options),
        options,
        {"aggregation_level": "samplewise"},
    )
    assert_same(call("generalized_dice", "multilabel", batch, aggregation_level="samplewise", **options), wanted)


def test_generalized_dice_of_one_voxel_and_of_none():
    one = Batch(torch.tensor([[[1]]]), torch.tensor([[[1]]]), None, "decisions", "labels", 1)
    options = {"num_labels": 1, "zero_division": 0.5}
    assert call("generalized_dice", "multilabel", one, **options) == 1
    assert call("generalized_dice", "multilabel", one, ignore_index=1, **options).isnan()
    assert call(
        "generalized_dice", "multilabel", one, ignore_index=1, aggregation_level="samplewise", **options
    ).isnan()
    void = Batch(torch.tensor([[1, 2]]), torch.tensor([[0, 0]]), None, "labels", "labels", 1)
    options = {"num_classes": 3, "ignore_index": 0, "zero_division": 0.5}
    assert call("generalized_dice", "multiclass", void, **options).isnan()


@pytest.mark.parametrize("shape", [(1, (1,)), (2, (63,)), (1, (100, 3)), (2, (3, 333)), (1, (4, 5, 50))])
@pytest.mark.parametrize("num_classes", [2, 3, 9, 33])
def test_odd_sizes_and_class_numbers(shape, num_classes):
    batch = multiclass_batch(17, shape, num_classes, void=255)
    options = {"num_classes": num_classes, "ignore_index": 255}
    counts = functional.overlap_counts(batch.preds, batch.target, task="multiclass", **options)
    for result, wanted in zip(counts, oracle_counts("multiclass", batch, options), strict=True):
        assert result.tolist() == wanted.tolist()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("num_classes", [2, 5, 14])
def test_the_first_of_several_maxima_wins(dtype, num_classes):
    g = torch.Generator().manual_seed(num_classes)
    preds = torch.randint(0, 2, (2, num_classes, 6, 7), generator=g).to(dtype)
    preds[0, :, 0] = 0.5  # all classes tie
    preds[0, :, 1] = float("-inf")
    target = torch.randint(0, num_classes, (2, 6, 7), generator=g)
    counts = functional.overlap_counts(preds, target, task="multiclass", num_classes=num_classes)
    batch = Batch(preds, target, None, "scores", "labels", 2)
    for result, wanted in zip(counts, oracle_counts("multiclass", batch, {"num_classes": num_classes}), strict=True):
        assert result.tolist() == wanted.tolist()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("threshold", [0.5, 0.1, 0.3, 0.999, 1e-6])
def test_thresholds_are_compared_in_the_dtype_of_preds(dtype, from_logits, threshold):
    """The values next to the threshold, and the threshold itself as this dtype holds it."""
    value = math.log(threshold / (1 - threshold)) if from_logits else threshold
    at = torch.tensor(value, dtype=torch.float64).to(dtype)
    up, down = (torch.nextafter(at.float(), torch.tensor(x).float()) for x in (9.0, -9.0))
    preds = torch.stack([at, up.to(dtype), down.to(dtype), at * 2 if at != 0 else at + 1]).reshape(1, 4)
    if not from_logits:
        preds = preds.clamp(0, 1)
    target = torch.ones((1, 4), dtype=torch.int64)
    counts = functional.overlap_counts(preds, target, task="binary", threshold=threshold, from_logits=from_logits)
    assert counts.pred_cardinality.item() == int((preds > value).sum())


def test_infinite_logits_are_decided():
    preds = torch.tensor([[float("inf"), float("-inf"), 0.0, 1e30]])
    target = torch.tensor([[1, 0, 0, 1]])
    assert functional.dice_score(preds, target, task="binary", from_logits=True).item() == 1.0


def test_oracle_covers_every_score():
    assert set(oracle.SCORES) == set(PARAMETERS) == set(CLASS_SUFFIX) == set(FUNCTION)


def test_streams_of_another_way_of_reading_exist():
    """A stream of another name would be scored in full, and nobody would see why."""
    assert {(group, name) for group, names in READ_IN_ANOTHER_WAY.items() for name in names} <= set(STREAMS)
