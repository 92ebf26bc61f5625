"""A user's script with types: `make type` reads it in strict mode, and it does what its types say."""

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from torchmetrics_dice_ext import (
    BinaryDiceScore,
    DiceScore,
    MulticlassDiceScore,
    MulticlassFBetaScore,
    MulticlassGeneralizedDiceScore,
    MulticlassSoftDiceScore,
    MultilabelTverskyIndex,
    OverlapReport,
    diagnose,
)
from torchmetrics_dice_ext.functional import OverlapCounts, dice_score, overlap_counts, which_backend
from torchmetrics_dice_ext.losses import DiceLoss, GeneralizedDiceLoss, TverskyLoss, dice_loss


def test_metrics() -> None:
    made = DiceScore(task="multiclass", num_classes=3, average="none", ignore_index=255)
    metrics: list[Metric] = [
        made,
        BinaryDiceScore(threshold=0.3, from_logits=True, zero_division=1.0),
        MulticlassDiceScore(3, class_names=("background", "liver", "tumor"), validate_args="deferred"),
        MulticlassDiceScore(4, regions={"whole tumor": [1, 2, 3]}, aggregation_level="casewise"),
        MulticlassFBetaScore(3, beta=2.0, average="weighted"),
        MulticlassGeneralizedDiceScore(3, weight_type="simple"),
        MulticlassSoftDiceScore(3, squared=True),
        MultilabelTverskyIndex(2, alpha=0.3, beta=0.7, threshold=[0.5, 0.4]),
    ]
    assert isinstance(made, MulticlassDiceScore)
    assert all(isinstance(metric, Metric) for metric in metrics)


def test_results() -> None:
    logits, target, cases = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8)), ["a", "b"]
    metric = MulticlassDiceScore(3, aggregation_level="casewise")
    metric.update(logits, target, case_ids=cases)
    classes: dict[str, Tensor] = metric.per_class()
    low, high = metric.confidence_interval(level=0.9, seed=0)
    names: list[str] = [row["case"] for row in metric.per_case()]
    assert list(dict.fromkeys(names)) == cases
    assert low <= metric.compute() <= high
    report = OverlapReport("multiclass", scores=("dice", ("fbeta", {"beta": 2})), num_classes=3)
    report.update(logits, target)
    collection = MetricCollection({"dice": MulticlassDiceScore(3)})
    collection.update(logits, target)
    everything: dict[str, Tensor] = {**classes, **report.compute(), **collection.compute()}
    assert all(isinstance(value, Tensor) for value in everything.values())


def test_functions() -> None:
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    counts: OverlapCounts = overlap_counts(logits, target, task="multiclass", num_classes=3)
    score: Tensor = dice_score(logits, target, task="multiclass", num_classes=3, average=None)
    assert counts.support.shape == (2, 3)
    assert score.shape == (3,)
    name, passed_over = which_backend(logits, target, task="multiclass", num_classes=3)
    assert name not in passed_over
    assert diagnose(logits, target, task="multiclass", num_classes=3).findings is not None


def test_losses() -> None:
    logits, target = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randint(0, 3, (2, 8, 8))
    total: Tensor = DiceLoss("multiclass", num_classes=3)(logits, target)
    total = total + GeneralizedDiceLoss("multiclass", num_classes=3, weight_type="linear")(logits, target)
    total = total + TverskyLoss("multiclass", num_classes=3, alpha=0.3, beta=0.7)(logits, target)
    total = total + dice_loss(logits, target, task="multiclass", num_classes=3)
    total.backward()
    assert logits.grad is not None
