"""What is measured: cases with their random batches, and who updates on them, each as its user has to write it."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torchmetrics.classification
import torchmetrics.segmentation
from torch import Tensor

import torchmetrics_dice_ext
from torchmetrics_dice_ext.functional import overlap_counts, which_backend

Batch = tuple[Tensor, Tensor]
Update = Callable[[Tensor, Tensor], Any]
BACKEND = "TORCHMETRICS_DICE_EXT_BACKEND"
OURS, TORCH_ALONE, FLOOR = "ours", "ours, torch alone", "floor"
LARGE = 1 << 28  # one-hot entries, int64 three times over, past which DiceScore and MeanIoU are left out


@dataclass(frozen=True)
class Case:
    """One kind of input: `(N, C, *S)` of scores, probabilities or labels of C classes."""

    name: str
    task: str
    shape: tuple[int, ...]
    preds: torch.dtype = torch.float32
    target: torch.dtype = torch.int64
    options: dict[str, Any] = field(default_factory=dict)
    channels_last: bool = False

    @property
    def num_classes(self) -> int:
        """C."""
        return self.shape[1]

    @property
    def space(self) -> tuple[int, ...]:
        """`(N, *S)`."""
        return (self.shape[0], *self.shape[2:])

    @property
    def counting(self) -> dict[str, Any]:
        """The options that say how many classes or labels there are."""
        name = {"multiclass": "num_classes", "multilabel": "num_labels"}.get(self.task)
        return {} if name is None else {name: self.num_classes}

    def batch(self, seed: int, device: str) -> Batch:
        """Blobs of labels, and predictions that are mostly right."""
        generator = torch.Generator(device).manual_seed(seed)

        def labels(size: int, shape: tuple[int, ...]) -> Tensor:
            coarse = torch.randint(0, size, [math.ceil(s / 8) for s in shape], generator=generator, device=device)
            for axis, length in enumerate(shape):
                coarse = coarse.repeat_interleave(8, axis).narrow(axis, 0, length)
            return coarse

        if self.task != "multiclass":
            shape = self.shape if self.task == "multilabel" else self.space
            target = labels(2, shape)
            noise = torch.rand(shape, generator=generator, device=device)
            return ((target + 2 * noise) / 3).to(self.preds), target.to(self.target)
        target = labels(self.num_classes, self.space)
        if not self.preds.is_floating_point:
            wrong = torch.rand(self.space, generator=generator, device=device) < 0.1
            return torch.where(wrong, labels(self.num_classes, self.space), target).to(self.preds), target.to(
                self.target
            )
        scores = torch.randn(self.shape, generator=generator, device=device).to(self.preds)
        scores.scatter_add_(1, target.unsqueeze(1), torch.full_like(scores[:, :1], 3))
        if self.channels_last:
            scores = scores.movedim(1, -1).contiguous().movedim(-1, 1)
        return scores, target.to(self.target)


def cases(device: str) -> list[Case]:
    """The cases of the table."""
    logits = {
        "logits (2, 4, 512²)": (2, 4, 512, 512),
        "logits (1, 14, 96³)": (1, 14, 96, 96, 96),
        "logits (4, 21, 256²)": (4, 21, 256, 256),
        "logits (1, 118, 64·128²)": (1, 118, 64, 128, 128),
        "small logits (2, 4, 32²)": (2, 4, 32, 32),
    }
    if device != "cpu":
        logits |= {"logits (1, 14, 160³)": (1, 14, 160, 160, 160), "logits (8, 21, 512²)": (8, 21, 512, 512)}
    found = [Case(name, "multiclass", shape) for name, shape in logits.items()]
    found += [
        Case("bf16 logits (1, 14, 96³)", "multiclass", (1, 14, 96, 96, 96), torch.bfloat16),
        Case("bf16 (1, 14, 96³), channels-last", "multiclass", (1, 14, 96, 96, 96), torch.bfloat16, channels_last=True),
        Case(
            "samplewise logits (8, 4, 256²)",
            "multiclass",
            (8, 4, 256, 256),
            options={"aggregation_level": "samplewise"},
        ),
    ]
    for dtype in (torch.uint8, torch.int64):
        for size in (14, 118):
            name = f"{str(dtype).removeprefix('torch.')} labels, C = {size}, 160³"
            found.append(Case(name, "multiclass", (1, size, 160, 160, 160), dtype, dtype))
    return [
        *found,
        Case("binary probabilities 160³", "binary", (1, 1, 160, 160, 160)),
        Case("binary probabilities 160³, uint8 target", "binary", (1, 1, 160, 160, 160), target=torch.uint8),
        Case("multilabel probabilities (2, 8, 256²)", "multilabel", (2, 8, 256, 256)),
    ]


def contenders(case: Case, device: str, few: bool = False) -> dict[str, Callable[[], Update]]:
    """Who takes part: for each name, what makes a fresh update. `few` leaves all but the main peers out."""
    makers: dict[str, Callable[[], Update]] = {
        FLOOR: lambda: _floor(case, device),
        OURS: lambda: _ours(case, "auto"),
        TORCH_ALONE: lambda: _ours(case, "reference"),
    }
    makers |= _torchmetrics(case)
    if importlib.util.find_spec("monai") and math.prod(case.shape) <= LARGE:
        makers["MONAI DiceMetric"] = lambda: _monai(case)
    if importlib.util.find_spec("mikan") and device == "cpu" and case.preds == torch.uint8:
        makers["mikan-rs"] = lambda: _mikan(case)
    main = (FLOOR, OURS, TORCH_ALONE, "torchmetrics F1", "torchmetrics DiceScore")
    return {name: make for name, make in makers.items() if name in main or not few}


def _floor(case: Case, device: str) -> Update:
    """One read of the inputs: by a maximum on the CPU, by a copy of as many bytes, read and written, elsewhere."""
    if device == "cpu":
        if case.task == "multiclass" and case.preds.is_floating_point:
            return lambda preds, target: preds.amax(1)
        return lambda preds, target: (preds.amax(), target.amax())
    preds, target = (
        torch.empty(tensor.nbytes // 2, dtype=torch.uint8, device=device) for tensor in case.batch(0, device)
    )
    source, place = torch.cat([preds, target]), torch.cat([preds, target])
    return lambda preds, target: place.copy_(source)


def _ours(case: Case, backend: str) -> Update:
    metric = torchmetrics_dice_ext.DiceScore(task=case.task, **case.counting, **case.options)

    def update(preds: Tensor, target: Tensor) -> None:
        os.environ[BACKEND] = backend
        metric.update(preds, target)

    return update


def _torchmetrics(case: Case) -> dict[str, Callable[[], Update]]:
    segmentation, classification = torchmetrics.segmentation, torchmetrics.classification
    samplewise = case.options.get("aggregation_level") == "samplewise"
    options = {"multidim_average": "samplewise"} if samplewise else {}
    f1 = {
        "multiclass": classification.MulticlassF1Score,
        "multilabel": classification.MultilabelF1Score,
        "binary": classification.BinaryF1Score,
    }[case.task]

    def of_f1(validate_args: bool) -> Update:
        return f1(**case.counting, **options, validate_args=validate_args).update

    def of_segmentation(name: str) -> Update:
        scores = case.task == "multiclass" and case.preds.is_floating_point
        form = "one-hot" if case.task != "multiclass" else "mixed" if scores else "index"
        metric = getattr(segmentation, name)(num_classes=case.num_classes, input_format=form)

        def update(preds: Tensor, target: Tensor) -> None:
            if case.task != "multiclass":
                preds = (preds > 0.5).long()
            elif not scores:
                preds = preds.long()
            target = target.long()
            if case.task == "binary":
                preds, target = preds.unsqueeze(1), target.unsqueeze(1)
            metric.reset()  # or its state grows with every call
            metric.update(preds, target)

        return update

    makers: dict[str, Callable[[], Update]] = {
        "torchmetrics F1": lambda: of_f1(False),
        "torchmetrics F1, validated": lambda: of_f1(True),
    }
    if math.prod(case.shape) <= LARGE:
        makers |= {
            "torchmetrics DiceScore": lambda: of_segmentation("DiceScore"),
            "torchmetrics MeanIoU": lambda: of_segmentation("MeanIoU"),
        }
    return makers


def _monai(case: Case) -> Update:
    from monai.metrics import DiceMetric
    from monai.networks.utils import one_hot

    metric = DiceMetric(include_background=True, num_classes=case.num_classes)

    def update(preds: Tensor, target: Tensor) -> None:
        if case.task == "multiclass":
            labels = preds.argmax(1, keepdim=True) if preds.is_floating_point() else preds.unsqueeze(1)
            preds, target = (one_hot(t, case.num_classes, dtype=torch.uint8) for t in (labels, target.unsqueeze(1)))
        else:
            preds = preds > 0.5
            if case.task == "binary":
                preds, target = preds.unsqueeze(1), target.unsqueeze(1)
        metric.reset()
        metric(preds, target)

    return update


def _mikan(case: Case) -> Update:
    from mikan import ArrayEvaluator

    labels, spacing = list(range(case.num_classes)), (1.0, 1.0, 1.0)
    return lambda preds, target: (
        ArrayEvaluator(target[0].numpy(), preds[0].numpy(), spacing).labels(labels).metrics("dice")
    )


def gate(case: Case, batch: Batch) -> str:
    """The name of the backend that serves a batch; stop unless it is a compiled one that counts as the reference does.

    Raises:
        SystemExit: It isn't.
    """
    options: dict[str, Any] = {"task": case.task, **case.counting}
    os.environ[BACKEND] = "reference"
    truth = torch.stack(overlap_counts(*batch, **options))
    os.environ[BACKEND] = "auto"
    backend, passed_over = which_backend(*batch, **options)
    if backend == "reference":
        raise SystemExit(f"{case.name}: nothing compiled serves it. {passed_over}")
    if not torch.equal(torch.stack(overlap_counts(*batch, **options)), truth):
        raise SystemExit(f"{case.name}: the counts of {backend!r} differ from the reference's.")
    return backend
