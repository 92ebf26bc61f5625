"""A tiny segmentation run in Lightning; as a script, `lightning_script.py OUT DEVICES` writes its log as JSON."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection

from torchmetrics_dice_ext import MulticlassDiceScore, MulticlassJaccardIndex, OverlapReport

NAMES = ["air", "liver", "spleen"]
EPOCHS = 2
EVEN, ODD = 8, 7
BATCH_SIZE = 2


def data(size: int, seed: int) -> TensorDataset:
    """Return `size` images, their labels and the number of each, which is its case."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 1, 6, 5, generator=draw)
    labels = ((images[:, 0] > -0.4).long() + (images[:, 0] > 0.5).long()).roll(1, dims=-1)
    return TensorDataset(images, labels, torch.arange(size))


def train_loader() -> DataLoader[Any]:
    return DataLoader(data(EVEN, seed=1), batch_size=BATCH_SIZE)


def even_loader() -> DataLoader[Any]:
    """Return what a sampler on two devices divides without padding."""
    return DataLoader(data(EVEN, seed=2), batch_size=BATCH_SIZE)


def odd_loader() -> DataLoader[Any]:
    """Return what a sampler on two devices pads."""
    return DataLoader(data(ODD, seed=3), batch_size=BATCH_SIZE)


class Segmenter(lightning.LightningModule):
    """A convolution that never learns; what it predicts changes from epoch to epoch all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([-1.0, 0.3, 1.0]).view(3, 1, 1, 1))
            self.layer.bias.copy_(torch.tensor([0.0, 0.2, 0.0]))
        self.register_buffer("phase", torch.zeros(()))
        self.train_dice = MulticlassDiceScore(3)
        for stage in ("val", "test"):
            self.add_module(f"{stage}_even", self.metrics(stage))
            self.add_module(f"{stage}_odd", self.casewise_metrics(stage))

    @staticmethod
    def metrics(stage: str) -> nn.ModuleDict:
        collection = MetricCollection(
            {
                "jaccard": MulticlassJaccardIndex(3),
                "micro": MulticlassDiceScore(3, average="micro"),
                "samplewise": MulticlassDiceScore(3, aggregation_level="samplewise"),
            },
            prefix=f"{stage}/collection/",
        )
        report = OverlapReport(
            task="multiclass",
            num_classes=3,
            scores=("dice", "jaccard"),
            class_names=NAMES,
            prefix=f"{stage}/report/",
        )
        return nn.ModuleDict({"dice": MulticlassDiceScore(3), "collection": collection, "report": report})

    @staticmethod
    def casewise_metrics(stage: str) -> nn.ModuleDict:
        report = OverlapReport(
            task="multiclass",
            num_classes=3,
            scores=("dice", "recall"),
            class_names=NAMES,
            aggregation_level="casewise",
            prefix=f"{stage}/cases/",
        )
        return nn.ModuleDict({"dice": MulticlassDiceScore(3, aggregation_level="casewise"), "report": report})

    def forward(self, images: Tensor) -> Tensor:
        shift = torch.tensor([0.5, -0.1, -0.4], device=images.device).view(3, 1, 1)
        return self.layer(images) + self.phase * shift

    def on_train_epoch_start(self) -> None:
        self.phase.fill_(self.current_epoch + 1)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        images, labels, _ = batch
        logits = self(images)
        self.train_dice(logits, labels)
        self.log("train/dice", self.train_dice, on_step=True, on_epoch=True)
        return nn.functional.cross_entropy(logits, labels)

    def evaluate(self, stage: str, batch: list[Tensor], loader: int) -> None:
        images, labels, numbers = batch
        logits = self(images)
        if loader == 0:
            even = getattr(self, f"{stage}_even")
            for metric in even.values():
                metric.update(logits, labels)
            self.log(f"{stage}/dice", even["dice"], add_dataloader_idx=False)
            self.log_dict(even["collection"], add_dataloader_idx=False)
            self.log_dict(even["report"], add_dataloader_idx=False)
        else:
            odd = getattr(self, f"{stage}_odd")
            for metric in odd.values():
                metric.update(logits, labels, case_ids=numbers)
            self.log(f"{stage}/cases", odd["dice"], add_dataloader_idx=False)
            self.log_dict(odd["report"], add_dataloader_idx=False)

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.evaluate("val", batch, dataloader_idx)

    def test_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.evaluate("test", batch, dataloader_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Diary(lightning.Callback):
    """Write down what was logged at the end of every epoch, the sanity check left out."""

    def __init__(self) -> None:
        self.validation: list[dict[str, float]] = []
        self.training: list[dict[str, float]] = []

    @staticmethod
    def logged(trainer: lightning.Trainer, stage: str) -> dict[str, float]:
        return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(stage)}

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.validation.append(self.logged(trainer, "val"))

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.training.append(self.logged(trainer, "train/dice_epoch"))

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.training.append(self.logged(trainer, "train/dice_epoch"))


def run(devices: int, root: str) -> dict[str, Any]:
    """Fit, validate and test on `devices` processes and return all that was logged."""
    diary = Diary()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=EPOCHS,
        num_sanity_val_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=root,
        callbacks=[diary],
    )
    model = Segmenter()
    loaders = [even_loader(), odd_loader()]
    trainer.fit(model, train_loader(), loaders)
    validated = trainer.validate(model, loaders, verbose=False)
    tested = trainer.test(model, loaders, verbose=False)
    return {
        "fit": diary.validation,
        "train": diary.training[-1:],
        "validate": validated,
        "test": tested,
        "rank": trainer.global_rank,
        "world": trainer.world_size,
    }


if __name__ == "__main__":
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logged = run(int(sys.argv[2]), root=str(out.parent))
    if logged["rank"] == 0:
        out.write_text(json.dumps(logged))
