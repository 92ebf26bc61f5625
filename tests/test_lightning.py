"""Lightning logs metrics, collections and reports: the right values, reset by themselves, on one and two devices."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("lightning")
import lightning
from lightning_script import EPOCHS, NAMES, Segmenter, even_loader, odd_loader, run, train_loader
from torch.utils.data import DataLoader, TensorDataset

from torchmetrics_dice_ext import MulticlassDiceScore, MulticlassJaccardIndex, OverlapReport

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*_pytree.*"),
]
SCRIPT = Path(__file__).with_name("lightning_script.py")


def counts(pairs: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[int, int, int]]:
    """Return intersection, predicted and true voxels of each class over `pairs`, counted one class at a time."""
    seen = list(pairs)
    return [
        (
            sum(int(((preds == label) & (target == label)).sum()) for preds, target in seen),
            sum(int((preds == label).sum()) for preds, _ in seen),
            sum(int((target == label).sum()) for _, target in seen),
        )
        for label in range(3)
    ]


def dice(pairs: Iterable[tuple[Tensor, Tensor]]) -> list[float | None]:
    return [2 * i / (p + t) if p + t else None for i, p, t in counts(pairs)]


def jaccard(pairs: Iterable[tuple[Tensor, Tensor]]) -> list[float | None]:
    return [i / (p + t - i) if p + t else None for i, p, t in counts(pairs)]


def recall(pairs: Iterable[tuple[Tensor, Tensor]]) -> list[float | None]:
    return [i / t if t else None for i, _, t in counts(pairs)]


def mean(values: Iterable[float | None]) -> float:
    present = [value for value in values if value is not None]
    return sum(present) / len(present)


def predictions(loader: DataLoader[Any], phase: int) -> list[tuple[Tensor, Tensor]]:
    """Return (labels predicted, labels) of every sample by itself."""
    model = Segmenter()
    model.phase.fill_(phase)
    with torch.no_grad():
        return [
            (model(image[None]).argmax(1), label[None])
            for images, labels, _ in loader
            for image, label in zip(images, labels, strict=True)
        ]


@functools.cache
def expected(stage: str, phase: int) -> dict[str, float]:
    """Return all that one epoch must log, worked out without the package."""
    even, odd = predictions(even_loader(), phase), predictions(odd_loader(), phase)
    totals = counts(even)
    found = {
        "dice": mean(dice(even)),
        "collection/jaccard": mean(jaccard(even)),
        "collection/micro": 2 * sum(i for i, _, _ in totals) / sum(p + t for _, p, t in totals),
        "collection/samplewise": mean(mean(dice([pair])) for pair in even),
        "report/dice": mean(dice(even)),
        "report/jaccard": mean(jaccard(even)),
        "cases": mean(mean(dice([pair])) for pair in odd),
        "cases/dice": mean(mean(dice([pair])) for pair in odd),
        "cases/recall": mean(mean(recall([pair])) for pair in odd),
    }
    for number, name in enumerate(NAMES):
        found[f"report/dice/{name}"] = mean(dice(even)[number : number + 1])
        found[f"report/jaccard/{name}"] = mean(jaccard(even)[number : number + 1])
        found[f"cases/dice/{name}"] = mean(dice([pair])[number] for pair in odd)
        found[f"cases/recall/{name}"] = mean(recall([pair])[number] for pair in odd)
    return {f"{stage}/{name}": value for name, value in found.items()}


def assert_logged(logged: dict[str, float], stage: str, phase: int) -> None:
    wanted = expected(stage, phase)
    assert set(logged) == set(wanted)
    assert logged == pytest.approx(wanted, abs=1e-6)


def assert_run_is_right(found: dict[str, Any]) -> None:
    """Check fit epoch by epoch, then validate and test, which see the model of the last epoch."""
    assert len(found["fit"]) == EPOCHS
    for epoch, logged in enumerate(found["fit"]):
        assert_logged(logged, "val", epoch + 1)
    wanted = mean(dice(predictions(train_loader(), EPOCHS)))
    assert found["train"] == [{"train/dice_epoch": pytest.approx(wanted, abs=1e-6)}]
    for stage, task in (("val", "validate"), ("test", "test")):
        logged = {name: value for part in found[task] for name, value in part.items()}
        assert_logged(logged, stage, EPOCHS)


def test_the_epochs_differ() -> None:
    """A leak from one epoch into the next, or out of the sanity check, would show."""
    first, second, third = (expected("val", phase)["val/dice"] for phase in range(3))
    assert len({round(first, 3), round(second, 3), round(third, 3)}) == 3


def test_fit_validate_and_test_in_one_process(tmp_path: Path) -> None:
    found = run(1, str(tmp_path))
    assert found["world"] == 1
    assert_run_is_right(found)


def run_script(devices: int, folder: Path) -> dict[str, Any]:
    """Run the script in a session of its own, and end that session if it hangs."""
    out = folder / "logged.json"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), str(out), str(devices)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            pytest.fail(f"the script hung:\n{output}", pytrace=False)
    assert process.returncode == 0, output
    logged: dict[str, Any] = json.loads(out.read_text())
    return logged


@functools.cache
def on_two_devices() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return run_script(2, Path(folder))


@pytest.mark.ddp
def test_fit_validate_and_test_on_two_devices() -> None:
    found = on_two_devices()
    assert found["world"] == 2
    assert_run_is_right(found)


@pytest.mark.ddp
def test_two_devices_log_exactly_what_one_does(tmp_path: Path) -> None:
    alone, together = run(1, str(tmp_path)), on_two_devices()
    for task in ("fit", "train", "validate", "test"):
        assert together[task] == alone[task], task


class Plain(lightning.LightningModule):
    """Log what the test puts in, from validation steps alone."""

    def __init__(self, metric: torch.nn.Module, by: str) -> None:
        super().__init__()
        self.metric = metric
        self.by = by

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        logits, labels = batch
        if self.by == "forward":
            self.metric(logits, labels)
        else:
            self.metric.update(logits, labels)
        if isinstance(self.metric, OverlapReport):
            self.log_dict(self.metric)
        else:
            self.log("dice", self.metric, prog_bar=True)


def validate(model: lightning.LightningModule, folder: Path) -> dict[str, float]:
    draw = torch.Generator().manual_seed(8)
    dataset = torch.utils.data.TensorDataset(
        torch.randn(5, 3, 4, 4, generator=draw), torch.randint(0, 3, (5, 4, 4), generator=draw)
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
    )
    (logged,) = trainer.validate(model, DataLoader(dataset, batch_size=2), verbose=False)
    return dict(logged)


def all_of_validate() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(8)
    return torch.randn(5, 3, 4, 4, generator=draw), torch.randint(0, 3, (5, 4, 4), generator=draw)


@pytest.mark.parametrize("by", ["update", "forward"])
@pytest.mark.parametrize("level", ["global", "samplewise"])
def test_a_scalar_metric_logs_once_per_epoch_and_is_reset(by: str, level: str, tmp_path: Path) -> None:
    model = Plain(MulticlassDiceScore(3, aggregation_level=level), by)
    logits, labels = all_of_validate()
    preds = logits.argmax(1)
    rows = [[(preds[n], labels[n])] for n in range(5)]
    wanted = mean(dice([(preds, labels)])) if level == "global" else mean(mean(dice(row)) for row in rows)
    for _ in range(2):
        assert validate(model, tmp_path)["dice"] == pytest.approx(wanted, abs=1e-6)
        assert model.metric.update_count == 0


@pytest.mark.parametrize("by", ["update", "forward"])
def test_a_report_logs_named_values_and_is_reset(by: str, tmp_path: Path) -> None:
    report = OverlapReport(task="multiclass", num_classes=3, scores=("dice", "jaccard"), class_names=NAMES)
    model = Plain(report, by)
    logits, labels = all_of_validate()
    pairs = [(logits.argmax(1), labels)]
    wanted = {"dice": mean(dice(pairs)), "jaccard": mean(jaccard(pairs))}
    wanted.update({f"dice/{name}": dice(pairs)[number] or 0.0 for number, name in enumerate(NAMES)})
    wanted.update({f"jaccard/{name}": jaccard(pairs)[number] or 0.0 for number, name in enumerate(NAMES)})
    for _ in range(2):
        assert validate(model, tmp_path) == pytest.approx(wanted, abs=1e-6)
        assert all(metric.update_count == 0 for metric in report.values())


def test_a_deferred_fault_stops_the_epoch_with_its_error(tmp_path: Path) -> None:
    class Faulty(Plain):
        def validation_step(self, batch: list[Tensor], number: int) -> None:
            logits, labels = batch
            super().validation_step([logits, labels + 9 if number == 1 else labels], number)

    model = Faulty(MulticlassDiceScore(3, validate_args="deferred"), "update")
    with pytest.raises(ValueError, match="target"):
        validate(model, tmp_path)


def test_logging_by_value_gives_the_same(tmp_path: Path) -> None:
    """The way without Lightning's own handling: compute and reset at the end of the epoch."""

    class ByValue(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.metric = MulticlassJaccardIndex(3, average="none", class_names=NAMES)

        def validation_step(self, batch: list[Tensor], _: int) -> None:
            self.metric.update(*batch)

        def on_validation_epoch_end(self) -> None:
            self.log_dict({f"jaccard/{name}": value for name, value in self.metric.per_class().items()})
            self.metric.reset()

    logits, labels = all_of_validate()
    wanted = jaccard([(logits.argmax(1), labels)])
    model = ByValue()
    for _ in range(2):
        logged = validate(model, tmp_path)
        assert [logged[f"jaccard/{name}"] for name in NAMES] == pytest.approx(wanted, abs=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert all(value.isnan() for value in model.metric.per_class().values())


class Interrupted(lightning.LightningModule):
    """Counts its training batches; can save a checkpoint and die in the middle of the epoch."""

    def __init__(self, dies_after: int | None = None, checkpoint: Path | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.metric = MulticlassDiceScore(3)
        self.metric.persistent(True)
        self.dies_after, self.checkpoint = dies_after, checkpoint
        self.result: tuple[int, float] | None = None

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        preds, target = batch
        self.metric.update(preds, target)
        return self.layer(torch.ones(1, 1)).sum()

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        if batch_idx + 1 == self.dies_after:
            self.trainer.save_checkpoint(self.checkpoint)
            raise KeyError("killed")

    def on_train_epoch_end(self) -> None:
        self.result = (self.metric.update_count, self.metric.compute().item())
        self.metric.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint")
def test_killed_and_resumed_in_mid_epoch_it_goes_on_with_the_counts_it_had(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    preds, target = (torch.randint(0, 3, (12, 5), generator=generator) for _ in range(2))
    loader = DataLoader(TensorDataset(preds, target), batch_size=2)

    def trainer() -> lightning.Trainer:
        return lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    with pytest.raises(KeyError, match="killed"):
        trainer().fit(Interrupted(4, tmp_path / "middle.ckpt"), loader)
    resumed = Interrupted()
    trainer().fit(resumed, loader, ckpt_path=tmp_path / "middle.ckpt")
    wanted = MulticlassDiceScore(
        3
    )  # a plain loader is not resumable: Lightning begins it again for the batches that remain
    for batch in (0, 1, 2, 3, 0, 1):
        wanted.update(preds[2 * batch : 2 * batch + 2], target[2 * batch : 2 * batch + 2])
    assert resumed.result == (6, wanted.compute().item())
