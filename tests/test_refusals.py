"""What a refusal says: the values found and the way out; what is no fault; options that are taken or refused."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from cases import one_hot

import torchmetrics_dice_ext as tde
from torchmetrics_dice_ext import functional
from torchmetrics_dice_ext._counts import _offending_values
from torchmetrics_dice_ext._faults import MOST_LISTED, Fault
from torchmetrics_dice_ext._inputs import read_inputs
from torchmetrics_dice_ext._options import Counting

EITHER = (TypeError, ValueError)
NAN = float("nan")
ROW = torch.tensor([[0, 1, 2, 1]])
MAP = torch.tensor([[[0, 1, 1], [2, 0, 1]]])  # a label map (1, 2, 3)
HOT = one_hot(MAP, 3)
MESSAGES = {
    "one-hot preds channels-last": (HOT.movedim(1, -1), MAP, "multiclass", {}, "is it `class_dim=-1`?"),
    "one-hot target channels-last": (MAP, HOT.movedim(1, -1), "multiclass", {}, "is it `class_dim=-1`?"),
    "target in another order": (torch.rand(1, 3, 2, 5), torch.zeros(1, 2, 5, 3), "multiclass", {}, "`permute` one"),
    "multilabel in another order": (torch.rand(1, 3, 2, 5), torch.zeros(1, 2, 5, 3), "multilabel", {}, "`permute` one"),
    "masks in another order": (torch.rand(1, 4, 5), torch.zeros(1, 5, 4), "binary", {}, "`permute` one"),
    "binary channels-last": (torch.rand(1, 4, 5), torch.zeros(1, 4, 5, 1), "binary", {}, "`class_dim=-1`"),
    "float label map": (MAP.float().unsqueeze(1), MAP.unsqueeze(1), "multiclass", {}, "`preds.long()`"),
    "scaled preds": (torch.tensor([[0.0, 255.0]]), torch.tensor([[0, 1]]), "binary", {}, "use `preds > 0`"),
    "255 among others": (MAP, MAP + 253 * (MAP > 0), "multiclass", {}, "say `ignore_index=255`. Name void labels"),
    "scaled one-hot": (MAP, 255 * HOT, "multiclass", {}, "got 255 in 6 voxels. If 255 means foreground"),
    "mask for one-hot": (HOT, HOT, "multiclass", {"mask": MAP > 0}, "say `input_format='one-hot'`"),
    "mask of integers": (MAP, MAP, "multiclass", {"mask": MAP}, "use `mask.bool()`"),
    "void values of labels": (
        torch.tensor([[9, 7, 1]]), one_hot(torch.tensor([[0, 1, 1]]), 3), "multiclass", {"ignore_index": 0}, "got 7 in",
    ),
    "many values": (torch.arange(3, 40)[None], torch.zeros(1, 37), "multiclass", {}, "got 3, 4, 5, 6, 7, 8, 9, 10, …"),
    "fractions and NaN": (MAP, torch.tensor([[[NAN, NAN, 0.5], [NAN, 1, 2]]]), "multiclass", {}, "got 0.5, nan in 4"),
    "beyond int64": (ROW[:, :2], torch.tensor([[2**64 - 1, 7]], dtype=torch.uint64), "multiclass", {}, "got 7, 18446"),
}  # fmt: skip


@pytest.mark.parametrize("name", MESSAGES)
def test_errors_tell_the_way_out(name):
    preds, target, task, options, words = MESSAGES[name]
    sizes = {"multiclass": {"num_classes": 3}, "multilabel": {"num_labels": 3}, "binary": {}}[task]
    with pytest.raises(EITHER) as info:
        functional.dice_score(preds, target, task=task, **sizes, **options)
    assert words in str(info.value)


def test_values_of_void_voxels_are_not_told_by_soft_scores():
    preds = torch.full((1, 3, 2), 1 / 3)
    preds[0, :, 0], preds[0, :, 1] = 77.0, 2.0
    with pytest.raises(ValueError, match="got 2 in 1 voxel"):
        functional.soft_dice_score(preds, torch.tensor([[255, 0]]), task="multiclass", num_classes=3, ignore_index=255)


def test_raw_logits_are_refused_without_collecting_all_their_values():
    logits = torch.randn(1, 1 << 12, generator=torch.Generator().manual_seed(0))
    views = read_inputs(logits, logits > 0, None, Counting.of("binary"))
    least = sorted(logits[(logits < 0) | (logits > 1)].tolist())[: MOST_LISTED + 1]
    assert _offending_values(views, Fault.PREDS_PROBABILITY) == least


@pytest.mark.parametrize("function", [functional.overlap_counts, functional.which_backend])
@pytest.mark.parametrize("option", ["treshold", "average", "case_ids", "class_names"])
def test_counts_take_no_unknown_options(function, option):
    with pytest.raises(TypeError, match=rf"Unexpected options \['{option}'\]; this function takes .*'threshold'"):
        function(ROW % 2, ROW % 2, task="binary", **{option: 0.5})


def test_functions_know_the_options_of_metrics():
    names = ["air", "liver", "tumor"]
    with pytest.raises(ValueError, match=r"labels from 0 to 2 \(air, liver, tumor\), got 9 in 1 voxel"):
        functional.dice_score(MAP, MAP + 7 * (MAP > 1), "multiclass", num_classes=3, class_names=names)
    with pytest.raises(ValueError, match="`class_names` must hold 3 names"):
        functional.dice_score(MAP, MAP, "multiclass", num_classes=3, class_names=names[:2])
    assert functional.dice_score(MAP, MAP, "multiclass", num_classes=3, validate_args="eager") == 1


@pytest.mark.parametrize("metric", [tde.BinaryDiceScore, tde.MulticlassFBetaScore, tde.MultilabelTverskyIndex])
def test_the_score_is_no_option(metric):
    sizes = () if metric is tde.BinaryDiceScore else (3,)
    with pytest.raises(EITHER, match="score"):
        metric(*sizes, score="recall")


def test_numbers_of_numpy_and_tensors_are_options():
    metric = tde.MulticlassFBetaScore(
        3, beta=np.float32(2), zero_division=np.float32(0.5), ignore_index=torch.tensor(1)
    )
    metric.update(MAP, MAP)
    assert metric.compute() == 1
    names = np.array(["a", "b", "c"])
    assert all(type(name) is str for name in tde.MulticlassDiceScore(3, class_names=names).class_names)
    with pytest.raises(TypeError, match="`class_names` must be a sequence"):
        tde.MulticlassDiceScore(3, class_names={"a", "b", "c"})
    plus, minus = (tde.BinaryDiceScore(aggregation_level="samplewise", zero_division=zero) for zero in (0.0, -0.0))
    plus.merge_state(minus)


def test_ambiguity_is_seen_on_the_class_axis_that_was_named():
    apart = one_hot(MAP[:, :1], 3).movedim(1, 2)  # (1, 1, 3, 3), one-hot along axis 2
    for class_dim in (2, -2):
        with pytest.raises(ValueError, match="input_format"):
            functional.overlap_counts(apart, apart, task="multiclass", num_classes=3, class_dim=class_dim)
    rows = torch.tensor([[[[0, 1, 0], [1, 0, 1]]]])  # a label map (1, 1, 2, 3) whose rows sum to 1
    for preds in (rows, rows[:, 0]):
        assert functional.overlap_counts(preds, rows, task="multiclass", num_classes=2).support[0, 0] == 6


@pytest.mark.parametrize("way", ["function", "metric"])
def test_without_checks_two_one_hot_label_tensors_are_label_maps(way):
    options = {"task": "multiclass", "num_classes": 3, "validate_args": False}
    if way == "function":
        assert functional.dice_score(HOT, HOT, average="micro", **options) == 1
    else:
        metric = tde.DiceScore(average="micro", **options)
        metric.update(HOT, HOT)
        assert metric.compute() == 1


@pytest.mark.parametrize("ignore_index", [0, 1])
def test_hard_and_soft_scores_agree_on_what_is_void_in_a_malformed_voxel(ignore_index):
    target = torch.tensor([[[1, 0], [1, 1], [0, 0]]])
    refused = []
    for score in (functional.dice_score, functional.soft_dice_score):
        try:
            score(torch.rand(1, 3, 2), target, "multiclass", num_classes=3, ignore_index=ignore_index)
        except ValueError:
            refused.append(score)
    assert len(refused) in (0, 2)


def test_tensors_without_memory_are_left_to_torch(monkeypatch):
    monkeypatch.setenv("TORCHMETRICS_DICE_EXT_BACKEND", "auto")
    zeros = torch._efficientzerotensor((1, 3, 4))
    name, passed_over = functional.which_backend(zeros, ROW % 3, task="multiclass", num_classes=3)
    assert name == "reference"
    assert "no memory" in passed_over["cpu"] or "numba" in passed_over["cpu"]
    assert functional.overlap_counts(zeros, ROW % 3, task="multiclass", num_classes=3).pred_cardinality[0, 0] == 4


def test_a_default_device_of_the_user_does_not_matter():
    code = """
import torch, torchmetrics_dice_ext as tde
batches = [(torch.rand(2, 3, side, side), torch.randint(0, 3, (2, side, side))) for side in (5, 500)]
metrics = [tde.MulticlassDiceScore(3, aggregation_level=level) for level in ("global", "samplewise", "casewise")]
torch.set_default_device("meta")
for metric in metrics:
    cases = {"case_ids": [1, "a"]} if metric.aggregation_level == "casewise" else {}
    for preds, target in batches:
        metric.update(preds, target, **cases)
        tde.functional.dice_score(
            preds, target, "multiclass", num_classes=3, aggregation_level=metric.aggregation_level, **cases
        )
    assert 0 < metric.compute() < 1
    assert len(metric.per_class()) == 3
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("mode", ["eager", "deferred"])
def test_metrics_tell_what_the_classes_are_called(mode):
    metric = tde.MulticlassDiceScore(3, class_names=["air", "liver", "tumor"], validate_args=mode)
    with pytest.raises(ValueError, match=r"labels from 0 to 2 \(air, liver, tumor\)"):
        metric.update(MAP, MAP + 7) or metric.compute()


@pytest.mark.parametrize(
    ("task", "words"), [("binary", "excluded, got"), ("multilabel", r"excluded \(or one per label\)")]
)
def test_thresholds_lie_between_0_and_1(task, words):
    sizes = {"num_labels": 2} if task == "multilabel" else {}
    with pytest.raises(ValueError, match=f"`threshold` must be a number between 0 and 1, both {words}"):
        tde.DiceScore(task=task, threshold=1.0, **sizes)


def test_a_score_for_empty_classes_is_a_score():
    for wrong in (1.0001, -0.0001, True, None):
        with pytest.raises(ValueError, match="`zero_division` must be 'nan' or a number from 0 to 1"):
            tde.BinaryDiceScore(zero_division=wrong)
