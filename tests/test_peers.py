"""Equality with torchmetrics, MONAI and scikit-learn wherever they mean the same, and their traps avoided."""

import math

import numpy as np
import oracle
import pytest
import torch
import torchmetrics.classification as tm
import torchmetrics.segmentation as tms
from cases import AVERAGES, CLASS_SUFFIX, FUNCTION, LEVELS, multiclass_batch, one_hot, to_numpy
from torch import Tensor
from torchmetrics import Metric, MetricCollection

import torchmetrics_dice_ext as tde
from torchmetrics_dice_ext import functional

TM_CLASS = {
    "dice": ("F1Score", {}),
    "jaccard": ("JaccardIndex", {}),
    "precision": ("Precision", {}),
    "recall": ("Recall", {}),
    "specificity": ("Specificity", {}),
    "fbeta": ("FBetaScore", {"beta": 2.0}),
}
TM_SAMPLEWISE = ("dice", "precision", "recall", "specificity", "fbeta")  # its Jaccard has no multidim_average
OURS = {"fbeta": {"beta": 2.0}}
CLASSES = 4


def close(ours: Tensor, theirs: object) -> None:
    theirs = torch.as_tensor(theirs, dtype=ours.dtype)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, equal_nan=True)


def maps(seed: int, absent: tuple[int, ...] = (), void: bool = False) -> tuple[Tensor, Tensor]:
    """(preds, target), (4, 9, 8) labels; every class in every sample, but for the absent ones."""
    g = torch.Generator().manual_seed(seed)
    present = torch.tensor([c for c in range(CLASSES) if c not in absent])
    target = present[torch.randint(0, len(present), (4, 9, 8), generator=g)]
    noise = present[torch.randint(0, len(present), (4, 9, 8), generator=g)]
    preds = torch.where(torch.rand(target.shape, generator=g) < 0.6, target, noise)
    if void:
        target = torch.where(torch.rand(target.shape, generator=g) < 0.2, 255, target)
    assert all((target == c).flatten(1).any(1).all() and (preds == c).flatten(1).any(1).all() for c in present.tolist())
    return preds, target


def ours(score: str, preds: Tensor, target: Tensor, task: str = "multiclass", **options) -> Tensor:
    sizes = {"multiclass": {"num_classes": CLASSES}, "multilabel": {"num_labels": 3}, "binary": {}}[task]
    return getattr(functional, FUNCTION[score])(preds, target, task=task, **sizes, **OURS.get(score, {}), **options)


def masks(seed: int, num_labels: int | None = None, void: bool = False) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shape = (4, 9, 8) if num_labels is None else (4, num_labels, 9, 8)
    target = torch.randint(0, 2, shape, generator=g)
    preds = (0.3 * target + torch.rand(shape, generator=g)).clamp(0, 1)
    if void:
        target = torch.where(torch.rand(shape, generator=g) < 0.2, -1, target)
    return preds, target


class TestTorchmetricsClassification:
    """Where every class occurs, in the target and in the predictions, the two mean the same.

    They differ where a denominator is 0: torchmetrics writes 0 and drops from "macro" the classes that occur nowhere;
    here the class is nan and skipped, or has the value of ``zero_division`` and is averaged.
    """

    @pytest.mark.parametrize("void", [False, True])
    @pytest.mark.parametrize("average", AVERAGES)
    @pytest.mark.parametrize("score", TM_CLASS)
    def test_multiclass(self, score, average, void):
        preds, target = maps(1, void=void)
        name, options = TM_CLASS[score]
        ignore = {"ignore_index": 255} if void else {}
        theirs = getattr(tm, "Multiclass" + name)(num_classes=CLASSES, average=average, **ignore, **options)
        close(ours(score, preds, target, average=average, **ignore), theirs(preds, target))

    @pytest.mark.parametrize("average", AVERAGES)
    @pytest.mark.parametrize("score", TM_SAMPLEWISE)
    def test_multiclass_samplewise(self, score, average):
        """torchmetrics returns one value per sample; here it is their mean."""
        preds, target = maps(2)
        name, options = TM_CLASS[score]
        metric = getattr(tm, "Multiclass" + name)
        theirs = metric(num_classes=CLASSES, average=average, multidim_average="samplewise", **options)
        result = ours(score, preds, target, average=average, aggregation_level="samplewise")
        close(result, theirs(preds, target).mean(0))

    @pytest.mark.parametrize("score", TM_CLASS)
    def test_multiclass_logits(self, score):
        preds, target = maps(3)
        logits = one_hot(preds, CLASSES) + torch.rand((4, CLASSES, 9, 8), generator=torch.Generator().manual_seed(0))
        name, options = TM_CLASS[score]
        theirs = getattr(tm, "Multiclass" + name)(num_classes=CLASSES, average="macro", **options)
        close(ours(score, logits, target), theirs(logits, target))

    @pytest.mark.parametrize("score", ["dice", "jaccard", "fbeta"])
    def test_absent_classes_where_union_denominators_agree(self, score):
        """A class that occurs nowhere is left out by both; with average "none" theirs is 0, ours nan."""
        preds, target = maps(4, absent=(2,))
        name, options = TM_CLASS[score]
        theirs = getattr(tm, "Multiclass" + name)(num_classes=CLASSES, average="macro", **options)
        close(ours(score, preds, target), theirs(preds, target))
        vector = ours(score, preds, target, average="none")
        assert vector[2].isnan()
        theirs = getattr(tm, "Multiclass" + name)(num_classes=CLASSES, average="none", **options)
        close(ours(score, preds, target, average="none", zero_division=0.0), theirs(preds, target))

    @pytest.mark.parametrize("from_logits", [False, True])
    @pytest.mark.parametrize("threshold", [0.25, 0.5, 0.8])
    @pytest.mark.parametrize("void", [False, True])
    @pytest.mark.parametrize("score", TM_CLASS)
    def test_binary(self, score, void, threshold, from_logits):
        preds, target = masks(5, void=void)
        preds = torch.logit(preds, eps=1e-6) if from_logits else preds
        name, options = TM_CLASS[score]
        ignore = {"ignore_index": -1} if void else {}
        theirs = getattr(tm, "Binary" + name)(threshold=threshold, **ignore, **options)
        result = ours(score, preds, target, task="binary", threshold=threshold, from_logits=from_logits, **ignore)
        close(result, theirs(preds, target))

    @pytest.mark.parametrize("average", AVERAGES)
    @pytest.mark.parametrize("void", [False, True])
    @pytest.mark.parametrize("score", TM_CLASS)
    def test_multilabel(self, score, void, average):
        preds, target = masks(6, 3, void=void)
        name, options = TM_CLASS[score]
        ignore = {"ignore_index": -1} if void else {}
        theirs = getattr(tm, "Multilabel" + name)(num_labels=3, average=average, **ignore, **options)
        close(ours(score, preds, target, task="multilabel", average=average, **ignore), theirs(preds, target))


class TestTorchmetricsSegmentation:
    """DiceScore means the same but for its defaults (samplewise), and "micro", where it still warns."""

    @pytest.mark.filterwarnings("ignore:DiceScore metric currently defaults:UserWarning")
    @pytest.mark.parametrize("include_background", [True, False])
    @pytest.mark.parametrize("level", ["global", "samplewise"])
    @pytest.mark.parametrize("average", AVERAGES)
    @pytest.mark.parametrize("input_format", ["index", "one-hot", "mixed"])
    @pytest.mark.parametrize("absent", [(), (2,)])
    def test_dice_score(self, absent, input_format, average, level, include_background):
        preds, target = maps(7, absent)
        theirs = tms.DiceScore(
            CLASSES,
            average=average,
            aggregation_level=level,
            include_background=include_background,
            input_format=input_format,
        )
        metric = tde.MulticlassDiceScore(
            CLASSES,
            average=average,
            aggregation_level=level,
            include_background=include_background,
            input_format="one-hot" if input_format == "one-hot" else "auto",
        )
        if input_format != "index":
            preds = one_hot(preds, CLASSES)
        if input_format == "one-hot":
            target = one_hot(target, CLASSES)
        for part in (slice(0, 1), slice(1, 4)):
            metric.update(preds[part], target[part])
            theirs.update(preds[part], target[part])
        wanted = theirs.compute()
        if average == "none" and absent:  # torchmetrics keeps nan or writes 0, by level; the present classes agree
            present = torch.tensor([c not in absent for c in range(0 if include_background else 1, CLASSES)])
            close(metric.compute()[present], wanted.squeeze()[present])
            assert metric.compute()[~present].isnan().all()
        else:
            close(metric.compute(), wanted.squeeze())

    @pytest.mark.parametrize("include_background", [True, False])
    @pytest.mark.parametrize("weight_type", ["square", "simple", "linear"])
    @pytest.mark.parametrize("input_format", ["index", "one-hot"])
    def test_generalized_dice(self, input_format, weight_type, include_background):
        """Where each class is in each target: for the others torchmetrics takes weights from other samples."""
        preds, target = maps(8)
        options = {"weight_type": weight_type, "include_background": include_background}
        theirs = tms.GeneralizedDiceScore(CLASSES, input_format=input_format, **options)
        result = ours("generalized_dice", preds, target, aggregation_level="samplewise", **options)
        if input_format == "one-hot":
            preds, target = one_hot(preds, CLASSES), one_hot(target, CLASSES)
        close(result, theirs(preds, target))

    def test_mean_iou(self):
        preds, target = maps(9)
        theirs = tms.MeanIoU(num_classes=CLASSES, input_format="index", per_class=True)
        result = ours("jaccard", preds, target, average="none", aggregation_level="samplewise")
        close(result, theirs(preds, target))


class TestMonai:
    """MONAI scores samples: ``aggregation_level="samplewise"``.

    Its ``ignore_empty=True`` drops classes without target, false positives included; here they score 0. Its
    ``ignore_empty=False`` is ``zero_division=1.0``.
    """

    @pytest.fixture(autouse=True)
    def _needs_monai(self):
        self.monai = pytest.importorskip("monai.metrics")

    @pytest.mark.parametrize("include_background", [True, False])
    @pytest.mark.parametrize("score", ["dice", "jaccard"])
    @pytest.mark.parametrize("absent", [(), (2,)])
    def test_dice_and_iou_with_empty_classes_as_one(self, absent, score, include_background):
        preds, target = maps(10, absent)
        preds[0, 0, 0] = 2  # a false positive, where class 2 is absent
        metric = {"dice": self.monai.DiceMetric, "jaccard": self.monai.MeanIoU}[score]
        options = {"include_background": include_background, "ignore_empty": False}
        p, t = one_hot(preds, CLASSES).float(), one_hot(target, CLASSES).float()
        mine = {"include_background": include_background, "zero_division": 1.0, "aggregation_level": "samplewise"}
        per_class, mean = metric(reduction="mean_batch", **options), metric(reduction="mean", **options)
        per_class(p, t)
        mean(p, t)
        close(ours(score, preds, target, average="none", **mine), per_class.aggregate())
        close(ours(score, preds, target, average="macro", **mine), mean.aggregate().squeeze())

    def test_ignore_empty_where_every_class_is_there(self):
        preds, target = maps(11)
        metric = self.monai.DiceMetric(reduction="mean_batch", ignore_empty=True)
        metric(one_hot(preds, CLASSES), one_hot(target, CLASSES))
        close(ours("dice", preds, target, average="none", aggregation_level="samplewise"), metric.aggregate())

    def test_ignore_empty_hides_false_positives_and_nan_does_not(self):
        preds, target = maps(12, absent=(2,))
        preds[0, 0, 0] = 2
        metric = self.monai.DiceMetric(reduction="mean_batch", ignore_empty=True)
        metric(one_hot(preds, CLASSES), one_hot(target, CLASSES))
        result = ours("dice", preds, target, average="none", aggregation_level="samplewise")
        assert result[2] == 0.0
        assert metric.aggregate()[2] == 0.0  # MONAI writes 0 for "no sample had one"
        assert ours("dice", preds[1:], target[1:], average="none", aggregation_level="samplewise")[2].isnan()

    @pytest.mark.parametrize("include_background", [True, False])
    @pytest.mark.parametrize(
        ("weight_type", "theirs"), [("square", "square"), ("simple", "simple"), ("linear", "uniform")]
    )
    @pytest.mark.parametrize("absent", [(), (2,), (1, 2, 3)])
    def test_generalized_dice(self, absent, weight_type, theirs, include_background):
        preds, target = maps(13, absent)
        preds[0, 0, :2] = 2
        metric = self.monai.GeneralizedDiceScore(
            include_background=include_background, weight_type=theirs, reduction="mean"
        )
        metric(one_hot(preds, CLASSES).float(), one_hot(target, CLASSES).float())
        result = ours(
            "generalized_dice",
            preds,
            target,
            weight_type=weight_type,
            include_background=include_background,
            aggregation_level="samplewise",
            zero_division=1.0,
        )
        close(result, metric.aggregate().squeeze())

    @pytest.mark.parametrize(
        ("score", "name"), [("precision", "precision"), ("recall", "sensitivity"), ("specificity", "specificity")]
    )
    def test_confusion_matrix_metrics(self, score, name):
        preds, target = maps(14)
        metric = self.monai.ConfusionMatrixMetric(metric_name=name, compute_sample=True, reduction="mean_batch")
        metric(one_hot(preds, CLASSES), one_hot(target, CLASSES))
        close(ours(score, preds, target, average="none", aggregation_level="samplewise"), metric.aggregate()[0])

    @pytest.mark.parametrize("squared", [False, True])
    @pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
    def test_the_oracle_knows_soft_dice(self, task, squared):
        losses = pytest.importorskip("monai.losses")
        g = torch.Generator().manual_seed(15)
        logits = torch.randn((3, 1 if task == "binary" else CLASSES, 6, 5), generator=g, dtype=torch.float64)
        if task == "multiclass":
            target = torch.randint(0, CLASSES, (3, 6, 5), generator=g)
            hot, sizes = one_hot(target, CLASSES), {"num_classes": CLASSES}
            activation = {"softmax": True}
        else:
            target = hot = torch.randint(0, 2, logits.shape, generator=g)
            sizes, activation = {}, {"sigmoid": True}
        loss = losses.DiceLoss(smooth_nr=0, smooth_dr=0, squared_pred=squared, reduction="none", **activation)
        counts = oracle.soft_counts(
            to_numpy(logits), to_numpy(target), task=task, from_logits=True, squared=squared, **sizes
        )
        wanted = 1 - loss(logits, hot.double()).flatten(1).numpy()
        np.testing.assert_allclose(
            2 * counts.intersection / (counts.pred_cardinality + counts.target_cardinality), wanted
        )


class TestScikitLearn:
    """Its ``labels`` and ``zero_division`` mean the same; its specificity is the recall of the other class."""

    @pytest.fixture(autouse=True)
    def _needs_scikit_learn(self):
        self.sklearn = pytest.importorskip("sklearn.metrics")

    def theirs(self, score: str, preds: Tensor, target: Tensor, **options) -> object:
        if score == "fbeta":
            return self.sklearn.fbeta_score(target.numpy(), preds.numpy(), beta=2.0, **options)
        return getattr(self.sklearn, {"dice": "f1"}.get(score, score) + "_score")(
            target.numpy(), preds.numpy(), **options
        )

    @pytest.mark.parametrize("void", [False, True])
    @pytest.mark.parametrize("average", AVERAGES)
    @pytest.mark.parametrize("score", ["dice", "jaccard", "precision", "recall", "fbeta"])
    def test_multiclass(self, score, average, void):
        preds, target = maps(16, void=void)
        result = ours(score, preds, target, average=average, ignore_index=255)
        valid = target != 255
        wanted = self.theirs(
            score,
            preds[valid],
            target[valid],
            average=None if average == "none" else average,
            labels=list(range(CLASSES)),
        )
        close(result, wanted)

    @pytest.mark.parametrize("zero_division", [0.0, 1.0, float("nan")])
    @pytest.mark.parametrize("average", ["macro", "none"])
    @pytest.mark.parametrize("score", ["dice", "precision", "recall", "fbeta"])
    def test_zero_division(self, score, average, zero_division):
        preds, target = maps(17, absent=(2,))
        target[:, 0, 0], preds[preds == 3] = 3, 0  # class 2 occurs nowhere, class 3 in the target alone
        wanted = self.theirs(
            score,
            preds.flatten(),
            target.flatten(),
            average=None if average == "none" else average,
            labels=list(range(CLASSES)),
            zero_division=zero_division,
        )
        mine = "nan" if math.isnan(zero_division) else zero_division
        close(ours(score, preds, target, average=average, zero_division=mine), wanted)

    @pytest.mark.parametrize("average", AVERAGES)
    @pytest.mark.parametrize("score", ["dice", "jaccard", "precision", "recall", "fbeta"])
    def test_multilabel(self, score, average):
        preds, target = masks(18, 3)
        flat = [(t.movedim(1, -1).reshape(-1, 3)) for t in ((preds > 0.5).long(), target)]
        wanted = self.theirs(score, *flat, average=None if average == "none" else average)
        close(ours(score, preds, target, task="multilabel", average=average), wanted)

    def test_specificity_is_the_recall_of_the_other_class(self):
        preds, target = masks(19)
        wanted = self.sklearn.recall_score(target.flatten(), (preds > 0.5).flatten(), pos_label=0)
        close(ours("specificity", preds, target, task="binary"), wanted)


def state_size(metric: Metric) -> int:
    """Numbers held in all states."""
    return sum(state.numel() for state in metric.metric_state.values())


class TestTraps:
    """One test per pain that users of the other packages report."""

    @pytest.mark.parametrize("channel", [False, True])
    def test_binary_probabilities_are_thresholded(self, channel):
        target = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]])
        shape = (1, 1, 2, 4) if channel else (1, 2, 4)
        perfect = (target * 0.8 + 0.1).reshape(shape)
        score = functional.dice_score
        assert score(perfect, target.reshape(shape), task="binary") == 1.0
        assert score(1 - perfect, target.reshape(shape), task="binary") == 0.0
        assert score(torch.zeros(shape), target.reshape(shape), task="binary") == 0.0
        assert score(torch.ones(shape), target.reshape(shape), task="binary").item() == pytest.approx(2 * 3 / (8 + 3))

    def test_nested_masks_are_not_argmaxed(self):
        target = torch.tensor([[[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 1, 0]]])
        result = functional.dice_score(target * 0.9, target, task="multilabel", num_labels=3, average="none")
        assert result.tolist() == [1.0, 1.0, 1.0]

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
    @pytest.mark.parametrize("scaled", ["preds", "target", "both"])
    def test_masks_of_0_and_255_are_refused(self, scaled, dtype):
        mask = torch.tensor([[0, 1, 1, 0]])
        big = (mask * 255).to(dtype)
        preds = big if scaled != "target" else mask.to(dtype)
        target = big if scaled != "preds" else mask.to(dtype)
        with pytest.raises(ValueError, match="255"):
            functional.dice_score(preds, target, task="binary")
        metric = tde.DiceScore(task="binary")
        with pytest.raises(ValueError, match="255"):
            metric.update(preds, target)

    def test_labels_need_no_option(self):
        preds, target = maps(20)
        assert functional.dice_score(target, target, task="multiclass", num_classes=CLASSES) == 1.0
        with pytest.raises(ValueError, match="num_classes"):
            functional.dice_score(torch.rand(2, 3, 4, 4), target[:2, :4, :4], task="multiclass", num_classes=5)
        assert 0 < functional.dice_score(preds, target, task="multiclass", num_classes=CLASSES) < 1

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int16, torch.float32])
    def test_labels_of_any_dtype(self, dtype):
        labels = torch.tensor([[0, 1, 1, 0]])
        preds = torch.tensor([[0, 1, 0, 0]])
        wanted = functional.dice_score(preds, labels, task="binary")
        assert torch.equal(functional.dice_score(preds.to(dtype), labels.to(dtype), task="binary"), wanted)

    def test_void_255_is_an_option_away(self):
        batch = multiclass_batch(21, void=255)
        with pytest.raises(ValueError, match="ignore_index=255"):
            functional.dice_score(batch.preds, batch.target, task="multiclass", num_classes=4)
        options = {"task": "multiclass", "num_classes": 4, "ignore_index": 255}
        assert 0 < functional.dice_score(batch.preds, batch.target, **options) < 1

    def test_void_voxels_keep_false_positives_elsewhere(self):
        """Ignoring a value is not dropping a class; IoU doesn't become recall; no ignored class is averaged as 0."""
        target = torch.tensor([[0, 0, 0, 1, 1, 1, 255, 255]])
        preds = torch.tensor([[1, 0, 0, 1, 1, 0, 1, 1]])
        options = {"task": "multiclass", "num_classes": 2, "ignore_index": 255, "average": "none"}
        assert functional.jaccard_index(preds, target, **options).tolist() == pytest.approx([2 / 4, 2 / 4])
        assert functional.recall(preds, target, **options).tolist() == pytest.approx([2 / 3, 2 / 3])
        options |= {"ignore_index": 0, "average": "none"}
        vector = functional.dice_score(preds, torch.where(target == 255, 0, target), **options)
        assert vector[0].isnan()
        options["average"] = "macro"
        macro = functional.dice_score(preds, torch.where(target == 255, 0, target), **options)
        assert macro == vector[1] > 0

    @pytest.mark.parametrize("level", ["global", "samplewise"])
    @pytest.mark.parametrize("suffix", CLASS_SUFFIX.values())
    def test_the_state_does_not_grow(self, suffix, level):
        preds, target = maps(22)
        metric = getattr(tde, "Multiclass" + suffix)(CLASSES, aggregation_level=level)
        metric.update(preds, target)
        once = state_size(metric)
        for _ in range(60):
            metric.update(preds, target)
        assert state_size(metric) == once <= 20 * CLASSES + 40

    @pytest.mark.parametrize("num_classes", [CLASSES, 50])
    def test_the_state_of_cases_grows_with_their_number_alone(self, num_classes):
        """Counts of each class for every case and its id, with room for as many again."""
        preds, target = maps(22)
        metric = tde.MulticlassDiceScore(num_classes, aggregation_level="casewise")
        for number in range(0, 400, 4):
            metric.update(preds, target, case_ids=range(number, number + 4))
        whole = state_size(metric)
        assert whole <= 2 * 400 * (4 * num_classes + 2) + 20 * num_classes + 40
        for number in range(0, 240, 4):
            metric.update(preds, target, case_ids=range(number, number + 4))
        assert state_size(metric) == whole

    def test_empty_classes_follow_one_option(self):
        preds, target = torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 0, 1, 1]])
        # class 0: right; class 1: half found; class 2: false positive where the target has none; class 3: nowhere
        options = {"task": "multiclass", "num_classes": 4, "average": "none"}
        of_class = {z: functional.dice_score(preds, target, **options, zero_division=z).tolist() for z in (0.0, 1.0)}
        assert of_class[0.0] == pytest.approx([1.0, 2 / 3, 0.0, 0.0])
        assert of_class[1.0] == pytest.approx([1.0, 2 / 3, 0.0, 1.0])
        skipped = functional.dice_score(preds, target, **options)
        assert skipped[:3].tolist() == pytest.approx([1.0, 2 / 3, 0.0])
        assert skipped[3].isnan()
        options["average"] = "macro"
        assert functional.dice_score(preds, target, **options).item() == pytest.approx((1 + 2 / 3 + 0) / 3)

    @pytest.mark.parametrize("suffix", CLASS_SUFFIX.values())
    @pytest.mark.parametrize("level", ["global", "samplewise"])
    def test_the_batch_size_changes_nothing(self, level, suffix):
        g = torch.Generator().manual_seed(23)
        preds, target = (torch.randint(0, 5, (24, 5, 4), generator=g) for _ in range(2))
        values = []
        for size in (1, 5, 12, 24):
            metric = getattr(tde, "Multiclass" + suffix)(5, aggregation_level=level)
            for p, t in zip(preds.split(size), target.split(size), strict=True):
                metric.update(p, t)
            values.append(metric.compute())
        assert all(torch.equal(values[0], value) for value in values)

    def test_compute_groups_keep_what_must_not_merge_apart(self):
        target = torch.tensor([[1, 1, 0, 0]])
        first, second = torch.tensor([[0.95, 0.95, 0.0, 0.0]]), torch.tensor([[0.7, 0.95, 0.6, 0.0]])
        members = {
            "low": tde.BinaryDiceScore(threshold=0.5),
            "high": tde.BinaryDiceScore(threshold=0.9),
            "jaccard": tde.BinaryJaccardIndex(threshold=0.5),
        }
        collection = MetricCollection({name: metric.clone() for name, metric in members.items()})
        for preds in (first, second, second):
            collection.update(preds, target)
            for metric in members.values():
                metric.update(preds, target)
        result = collection.compute()
        assert {name: value.item() for name, value in result.items()} == {
            name: metric.compute().item() for name, metric in members.items()
        }
        assert result["low"] != result["high"]
        groups = [set(group) for group in collection.compute_groups.values()]
        assert {"low", "jaccard"} in groups
        assert {"high"} in groups

    def test_classes_and_void_keep_apart_in_a_collection(self):
        preds, target = maps(24)
        collection = MetricCollection(
            {
                "all": tde.MulticlassDiceScore(CLASSES),
                "without 1": tde.MulticlassDiceScore(CLASSES, ignore_index=1),
                "void": tde.MulticlassDiceScore(CLASSES, ignore_index=255),
            }
        )
        perfect = torch.where(target == 1, 0, target)
        collection.update(perfect, perfect)
        collection.update(preds, target)
        result = collection.compute()
        alone = tde.MulticlassDiceScore(CLASSES, ignore_index=1)
        alone.update(perfect, perfect)
        alone.update(preds, target)
        assert result["all"] == result["void"] != result["without 1"]
        assert result["without 1"] == alone.compute()

    def test_merge_state_adds_and_refuses_other_counts(self):
        target = torch.tensor([[1, 1, 0, 0]])
        first, second = torch.tensor([[0.95, 0.2, 0.0, 0.0]]), torch.tensor([[0.7, 0.95, 0.6, 0.0]])
        a, b, both = tde.BinaryDiceScore(), tde.BinaryDiceScore(), tde.BinaryDiceScore()
        a.update(first, target)
        b.update(second, target)
        both.update(first, target)
        both.update(second, target)
        stale = a.compute()
        a.merge_state(b)
        assert a.compute() == both.compute() != stale
        assert a.update_count == both.update_count
        other = tde.BinaryDiceScore(threshold=0.9)
        other.update(second, target)
        before = a.compute()
        with pytest.raises((ValueError, RuntimeError)):
            a.merge_state(other)
        assert a.compute() == before

    def test_padding_duplicates_change_no_casewise_score(self):
        preds, target = maps(25)
        results = []
        for order in ([0, 1, 2, 3], [0, 1, 2, 3, 0]):
            metric = tde.MulticlassDiceScore(CLASSES, aggregation_level="casewise")
            metric.update(preds[order], target[order], case_ids=order)
            results.append(metric.compute())
        assert torch.equal(*results)

    def test_nan_logits_are_no_prediction(self):
        target = torch.zeros(1, 4, dtype=torch.int64)
        metric = tde.MulticlassDiceScore(2)
        with pytest.raises(ValueError, match=r"(?i)`preds`.*nan"):
            metric.update(torch.full((1, 2, 4), float("nan")), target)
        with pytest.raises(ValueError, match=r"(?i)`preds`.*nan"):
            functional.dice_score(torch.full((1, 4), float("nan")), target, task="binary", from_logits=True)

    def test_no_sigmoid_is_guessed_per_batch(self):
        """Logits in [0, 1]: the classification family of torchmetrics takes such a batch for probabilities."""
        logits, target = (
            torch.tensor([[0.1, 0.4, 0.3, 2.0], [-2.0, -1.0, 3.0, 0.2]]),
            torch.tensor([[1] * 4, [0, 0, 1, 1]]),
        )
        one = tde.BinaryDiceScore(from_logits=True)
        one.update(logits, target)
        several = tde.BinaryDiceScore(from_logits=True)
        for n in range(2):
            for v in range(4):
                several.update(logits[n : n + 1, v : v + 1], target[n : n + 1, v : v + 1])
        assert one.compute() == several.compute() == 1.0

    def test_per_class_values_have_names(self):
        preds, target = maps(26)
        names = ["background", "liver", "spleen", "left kidney"]
        metric = tde.MulticlassDiceScore(CLASSES, class_names=names, include_background=False)
        metric.update(preds, target)
        of_class = metric.per_class()
        assert list(of_class) == names[1:]
        assert torch.equal(of_class["spleen"], ours("dice", preds, target, average="none")[2])

    def test_slices_are_not_the_volume(self):
        target = torch.zeros(1, 3, 4, dtype=torch.int64)
        target[0, 1, :] = 1
        preds = target.clone()
        preds[0, 0, 0] = 1  # one false positive in an empty slice
        slices = tde.BinaryDiceScore(aggregation_level="samplewise")
        slices.update(preds[0], target[0])
        volume = tde.BinaryDiceScore(aggregation_level="casewise")
        volume.update(preds[0], target[0], case_ids=["patient"] * 3)
        assert slices.compute().item() == pytest.approx(0.5)
        assert volume.compute().item() == pytest.approx(8 / 9)
        whole = tde.BinaryDiceScore(aggregation_level="samplewise")
        whole.update(preds, target)
        assert torch.equal(whole.compute(), volume.compute())

    @pytest.mark.parametrize("level", LEVELS)
    def test_compute_before_any_update_is_nan(self, level):
        for metric in (
            tde.BinaryDiceScore(aggregation_level=level),
            tde.MulticlassGeneralizedDiceScore(3, aggregation_level=level),
            tde.MultilabelRecall(3, average="none", aggregation_level=level),
        ):
            with pytest.warns(UserWarning, match="before the ``update`` method"):
                value = metric.compute()
            assert value.isnan().all()
            assert value.shape == ((3,) if isinstance(metric, tde.MultilabelRecall) else ())

    def test_dice_cannot_exceed_one(self):
        """Shapes that broadcast, masks of other values, soft masks: each is refused, or means what it says."""
        mask = torch.ones(2, 8, 8, dtype=torch.int64)
        assert functional.dice_score(mask[:, None], mask, task="binary") == 1.0
        for preds, target in [
            (mask[:1, None], mask),
            (mask * 2, mask),
            (mask.float() * 0.7, mask.float() * 0.7),
            (mask[:, None].expand(2, 2, 8, 8), mask),
        ]:
            with pytest.raises(ValueError, match=r"`(preds|target)`"):
                functional.dice_score(preds, target, task="binary")

    def test_one_data_set_has_the_mean_dice_that_the_options_say(self):
        """Five numbers for one data set, each with its name."""
        preds, target = maps(27, absent=(3,))
        preds[0, 0, 0] = 3
        values = {
            (average, level, background, zero): ours(
                "dice",
                preds,
                target,
                average=average,
                aggregation_level=level,
                include_background=background,
                zero_division=zero,
            ).item()
            for average in ("macro", "micro", "weighted")
            for level in ("global", "samplewise")
            for background in (True, False)
            for zero in ("nan", 1.0)
        }
        assert len({round(v, 6) for v in values.values()}) >= 8
        assert values["macro", "samplewise", True, "nan"] != values["macro", "samplewise", True, 1.0]
        assert values["micro", "global", True, "nan"] == values["micro", "global", True, 1.0]
