"""A small U-Net learns brain tissue from an average of 152 heads, scored by one `OverlapReport` in Lightning.

The MNI152 template (T1-weighted, 1 mm, carried by nilearn) is cut into axial slices, and each
voxel is labelled background, gray matter or white matter by the tissue maps that belong to it. The network trains on
blocks of slices and is validated on blocks in between, five slices away from the nearest that it has seen.

What it shows:

- named Dice and Jaccard per class, logged by one `self.log_dict(report)` and reset by Lightning every epoch;
- the same figures, bit for bit, from one process and from two that share the slices;
- a table, and a picture: the image, the reference, the prediction, where they differ, and the course of the training.

Run it with `make example`, or `python examples/brain_tissue.py --loss dice --epochs 12`. Nothing is downloaded.
"""

import argparse
import logging
import time
import warnings
from itertools import pairwise
from pathlib import Path

import lightning as L
import matplotlib.pyplot as plt
import numpy as np
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.strategies import DDPStrategy
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import SubFigure
from matplotlib.patches import Patch
from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from torchmetrics_dice_ext import OverlapReport

LOSSES = ("cross-entropy", "dice", "generalized-dice", "tversky")
CLASS_NAMES = ("background", "gray matter", "white matter")
CLASS_COLORS = ("#1b1b1f", "#5b8fd6", "#f2c14e")
ERROR_COLOR = "#ff3b6b"

FIRST_SLICE, BLOCKS = 30, 4  # axial slices 30 to 141 hold most of the brain: four blocks of 28
TRAINED, GAP, VALIDATED = 14, 5, 4  # a block: slices to train on, a gap, slices to validate on, a gap
FIELD = np.s_[10:186, 20:212]  # sagittal and coronal extent of the brain, in multiples of 8 voxels

for logger in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(logger).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", ".*does not have many workers")  # the slices lie in memory: workers would only copy
warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # Lightning calls what newer releases of torch rename


class BrainSlices(L.LightningDataModule):
    """Axial slices of the MNI152 template: images `(slices, 1, 176, 192)` and labels `(slices, 176, 192)`."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.batch_size = batch_size
        t1, gray, white = (
            load(resolution=1).get_fdata(dtype=np.float32)[FIELD]
            for load in (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)
        )
        labels = np.stack([1 - gray - white, gray, white]).argmax(axis=0)
        images = (t1 - t1.mean()) / t1.std()
        self.volume = TensorDataset(
            torch.from_numpy(np.moveaxis(images, -1, 0)[:, None].copy()),
            torch.from_numpy(np.moveaxis(labels, -1, 0).copy()),
        )
        starts = [FIRST_SLICE + block * (TRAINED + VALIDATED + 2 * GAP) for block in range(BLOCKS)]
        self.training = [start + i for start in starts for i in range(TRAINED)]
        self.validation = [start + TRAINED + GAP + i for start in starts for i in range(VALIDATED)]

    def train_dataloader(self) -> DataLoader:
        """All slices to train on, shuffled."""
        return DataLoader(Subset(self.volume, self.training), self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """This process's share of the held-out slices, none of them repeated to even out the shares."""
        share = self.validation[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(Subset(self.volume, share), self.batch_size)


def two_convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return two 3 x 3 convolutions, each normalised and rectified."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        convolution = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(out_channels, momentum=0.3), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """A U-Net: images `(N, 1, H, W)` to logits `(N, num_classes, H, W)`."""

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (12, 24, 48, 96)) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(two_convolutions(*pair) for pair in pairwise((1, *widths)))
        self.decoders = nn.ModuleList(two_convolutions(deep + skip, skip) for deep, skip in pairwise(widths[::-1]))
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        skips = [self.encoders[0](images)]
        for encoder in self.encoders[1:]:
            skips.append(encoder(nn.functional.max_pool2d(skips[-1], 2)))
        features = skips.pop()
        for decoder in self.decoders:
            features = decoder(torch.cat([nn.functional.interpolate(features, scale_factor=2), skips.pop()], dim=1))
        return self.head(features)


class TissueSegmenter(L.LightningModule):
    """The network, its loss, and the report that scores it."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.network = UNet(len(CLASS_NAMES))
        self.loss = loss
        self.report = OverlapReport(
            task="multiclass",
            num_classes=len(CLASS_NAMES),
            class_names=CLASS_NAMES,
            scores=("dice", "jaccard"),
            prefix="val/",
        )

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        return self.loss(self.network(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Count a batch; Lightning computes, synchronises and resets at the end of the epoch."""
        images, labels = batch
        self.report.update(self.network(images), labels)
        self.log_dict(self.report, prog_bar=True)

    def configure_optimizers(self) -> dict:
        """Return Adam with one cycle of the learning rate."""
        optimizer = torch.optim.Adam(self.parameters(), lr=5e-3)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class History(L.Callback):
    """The validation scores after every epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep what has just been logged."""
        if not trainer.sanity_checking:
            self.epochs.append({key: value.item() for key, value in trainer.callback_metrics.items()})


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar with the mean scores alone: the eight values of the report make a long line."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float]:
        """Return the values that end the line."""
        means = ("val/dice", "val/jaccard")
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key in means}


def trainer(processes: int = 1, **options: object) -> L.Trainer:
    """Return a deterministic trainer on the CPU that keeps no files; more than one process means DDP over gloo."""
    ddp = DDPStrategy(start_method="spawn", process_group_backend="gloo")
    return L.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy=ddp if processes > 1 else "auto",
        use_distributed_sampler=False,
        deterministic=True,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        **options,
    )


def validate(model: TissueSegmenter, slices: BrainSlices, processes: int) -> dict[str, float]:
    """Return the scores of the held-out slices, shared out to so many processes."""
    return trainer(processes, enable_progress_bar=False).validate(model, datamodule=slices, verbose=False)[0]


def print_table(scores: dict[str, float], title: str) -> None:
    """Print Dice and Jaccard of every class, and their mean."""
    print(f"\n{title}\n{'class':<16}{'Dice':>8}{'Jaccard':>10}")
    for row, key in [*((name, f"/{name}") for name in CLASS_NAMES), ("macro average", "")]:
        print(f"{row:<16}{scores[f'val/dice{key}']:>8.4f}{scores[f'val/jaccard{key}']:>10.4f}")


def draw(model: TissueSegmenter, slices: BrainSlices, scores: dict[str, float], history: History, path: Path) -> None:
    """Draw a held-out slice, what the network makes of it, and the course of the training."""
    figure = plt.figure(figsize=(10, 6), layout="constrained")
    pictures, curve = figure.subfigures(2, 1, height_ratios=(1.45, 1))
    draw_slice(model, slices, pictures)
    dice = " · ".join(f"{name} {scores[f'val/dice/{name}']:.3f}" for name in CLASS_NAMES)
    figure.suptitle(f"Dice over {len(slices.validation)} held-out slices: {dice}", fontsize="medium")

    axes = curve.subplots()
    epochs = range(1, len(history.epochs) + 1)
    for name, color in zip(CLASS_NAMES, CLASS_COLORS, strict=True):
        axes.plot(epochs, [epoch[f"val/dice/{name}"] for epoch in history.epochs], color=color, marker=".", label=name)
    mean = [epoch["val/dice"] for epoch in history.epochs]
    axes.plot(epochs, mean, color="0.5", linestyle="--", label="macro average")
    axes.set(xlabel="epoch", ylabel="Dice, held-out slices")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def draw_slice(model: TissueSegmenter, slices: BrainSlices, figure: SubFigure) -> None:
    """Draw image, reference, prediction and difference side by side, the front of the head up."""
    position = slices.validation[len(slices.validation) // 3]
    image, reference = slices.volume[position]
    with torch.inference_mode():
        logits = model.eval().network(image[None])
    t1, reference, prediction = image[0].numpy(), reference.numpy(), logits[0].argmax(dim=0).numpy()
    wrong = prediction != reference

    panels = figure.subplots(1, 4)
    gray = {"cmap": "gray", "vmin": t1.min(), "vmax": t1.max()}
    tissue = {"cmap": ListedColormap(CLASS_COLORS), "vmin": 0, "vmax": len(CLASS_NAMES) - 1}
    show(panels[0], f"T1, axial slice {position}", t1, **gray)
    show(panels[1], "reference", reference, **tissue)
    show(panels[2], "prediction", prediction, **tissue)
    title = f"different: {wrong.mean():.1%} of the voxels"
    show(panels[3], title, t1, **gray | {"vmax": 2 * t1.max()})
    show(panels[3], title, np.ma.masked_where(~wrong, wrong), cmap=ListedColormap([ERROR_COLOR]))
    patches = [Patch(color=color, label=name) for name, color in zip(CLASS_NAMES, CLASS_COLORS, strict=True)]
    patches.append(Patch(color=ERROR_COLOR, label="different"))
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)


def show(axes: Axes, title: str, picture: np.ndarray, **style: object) -> None:
    """Show a slice."""
    axes.imshow(picture.T, origin="lower", interpolation="none", **style)
    axes.set_title(title, fontsize="medium")
    axes.set_axis_off()


def loss_named(name: str) -> nn.Module:
    """Return the loss of that name: a module called with logits and labels."""
    if name == "cross-entropy":
        return nn.CrossEntropyLoss()
    from torchmetrics_dice_ext.losses import DiceLoss, GeneralizedDiceLoss, TverskyLoss

    overlap_losses = {"dice": DiceLoss, "generalized-dice": GeneralizedDiceLoss, "tversky": TverskyLoss}
    return overlap_losses[name]("multiclass", num_classes=len(CLASS_NAMES))


def main() -> None:
    """Train, validate on one process and on two, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss", choices=LOSSES, default=LOSSES[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "output" / "brain_tissue.png")
    args = parser.parse_args()

    L.seed_everything(0, verbose=False)
    slices, history = BrainSlices(), History()
    model = TissueSegmenter(loss_named(args.loss))
    started = time.perf_counter()
    trainer(max_epochs=args.epochs, callbacks=[history, ProgressBar(refresh_rate=7)]).fit(model, datamodule=slices)
    print(f"Trained on {len(slices.training)} slices with {args.loss} in {time.perf_counter() - started:.0f} s.")

    alone, together = (validate(model, slices, processes) for processes in (1, 2))
    print_table(alone, f"{len(slices.validation)} held-out slices")
    print(f"\nTwo processes give the same, bit for bit: {'yes' if together == alone else f'no, {together}'}")
    draw(model, slices, alone, history, args.output)
    print(f"Picture: {args.output}")


if __name__ == "__main__":
    main()
