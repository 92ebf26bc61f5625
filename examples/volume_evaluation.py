"""Volumes that arrive as slices, in any order and on any process, are scored volume by volume.

Eight subjects are made of the MNI152 template by smooth deformation and noise. A classifier from scikit-learn tells
gray and white matter from brightness in one subject; the other seven are predicted, and their slices are fed in
shuffled batches to a casewise `OverlapReport` on two processes.

What it shows:

- a table by case (CSV), the worst cases, and confidence intervals of the mean over cases;
- that two processes give what one gives, bit for bit;
- that slices taken for samples give another number: a slice at the rim of the brain counts as much as one through its
  middle.

Run it with `python examples/volume_evaluation.py`. Nothing is downloaded.
"""

import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
from scipy.ndimage import gaussian_filter, map_coordinates
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor

from torchmetrics_dice_ext import MulticlassDiceScore, OverlapReport

CLASS_NAMES = ("background", "gray matter", "white matter")
SUBJECTS, BATCH, PROCESSES = 8, 16, 2
OUTPUT = Path(__file__).parent / "output"

Slices = tuple[Tensor, Tensor, list[str]]  # predicted labels and reference `(slices, H, W)`, and the case of each slice


def make_subject(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels `(66, 78, 63)` of the template at 3 mm, deformed and noisy by so much as the seed says."""
    random = np.random.default_rng(seed)
    t1, gray, white = (
        load(resolution=3).get_fdata(dtype=np.float32)
        for load in (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)
    )
    labels = np.stack([1 - gray - white, gray, white]).argmax(axis=0)
    bend = [gaussian_filter(random.normal(size=t1.shape), 6) * 150 for _ in range(3)]
    where = [axis + shift for axis, shift in zip(np.indices(t1.shape), bend, strict=True)]
    image = map_coordinates(t1, where, order=1) + random.normal(scale=0.03 + 0.01 * seed, size=t1.shape)
    return image.astype(np.float32), map_coordinates(labels, where, order=0)


def features(image: np.ndarray) -> np.ndarray:
    """Brightness of each voxel at three scales, `(voxels, 3)`."""
    return np.stack([gaussian_filter(image, scale).ravel() for scale in (0.5, 1, 2)], axis=1)


def predict_slices() -> Slices:
    """Learn from the first subject; return the axial slices of the others, shuffled."""
    image, labels = make_subject(0)
    classifier = HistGradientBoostingClassifier(max_iter=30, random_state=0).fit(features(image), labels.ravel())
    preds, target, cases = [], [], []
    for seed in range(1, SUBJECTS):
        image, labels = make_subject(seed)
        predicted = classifier.predict(features(image)).reshape(labels.shape)
        preds.append(np.moveaxis(predicted, -1, 0))
        target.append(np.moveaxis(labels, -1, 0))
        cases += [f"subject {seed}"] * labels.shape[-1]
    order = np.random.default_rng(0).permutation(len(cases))
    preds, target = (torch.from_numpy(np.concatenate(side)[order].astype(np.uint8)) for side in (preds, target))
    return preds, target, [cases[place] for place in order]


def evaluate(slices: Slices, rank: int = 0, processes: int = 1) -> OverlapReport:
    """Return the report of this process's share of the slices, fed in batches."""
    preds, target, cases = (side[rank::processes] for side in slices)
    report = OverlapReport(
        task="multiclass",
        scores=("dice", "jaccard"),
        num_classes=len(CLASS_NAMES),
        class_names=CLASS_NAMES,
        include_background=False,
        aggregation_level="casewise",
    )
    for start in range(0, len(cases), BATCH):
        batch = slice(start, start + BATCH)
        report.update(preds[batch], target[batch], case_ids=cases[batch])
    return report


def on_rank(rank: int, slices: Slices, store: str) -> None:
    """Evaluate on one of several processes; the first one keeps what all have found."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    report = evaluate(slices, rank, PROCESSES)
    found = {"scores": report.compute(), "cases": report.per_case(worst_first=True)}
    found["intervals"] = report.confidence_interval(seed=0)
    if rank == 0:
        torch.save(found, OUTPUT / "volumes.pt")
    dist.destroy_process_group()


def slicewise_dice(slices: Slices) -> Tensor:
    """Return what comes out where each slice is taken for a sample."""
    metric = MulticlassDiceScore(
        len(CLASS_NAMES), average="none", include_background=False, aggregation_level="samplewise"
    )
    metric.update(*slices[:2])
    return metric.compute()


def draw(rows: list[dict], scores: dict[str, Tensor], path: Path) -> None:
    """Draw the Dice of each case, by class, with the means."""
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for place, name in enumerate(CLASS_NAMES[1:]):
        values = [row["dice"] for row in rows if row["class"] == name]
        axes.scatter(
            np.linspace(-0.15, 0.15, len(values)) + place, sorted(values), label="a case" if not place else None
        )
        mean = float(scores[f"dice/{name}"])
        axes.hlines(mean, place - 0.25, place + 0.25, color="black", label="mean over cases" if not place else None)
    axes.set_xticks(range(len(CLASS_NAMES) - 1), CLASS_NAMES[1:])
    axes.set_ylabel("Dice of the volume")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Predict, evaluate on one process and on two, print, write and draw."""
    OUTPUT.mkdir(exist_ok=True)
    slices = predict_slices()
    store = OUTPUT / "rendezvous"
    store.unlink(missing_ok=True)
    multiprocessing.spawn(on_rank, (slices, str(store.resolve())), nprocs=PROCESSES)
    found = torch.load(OUTPUT / "volumes.pt", weights_only=True)
    scores, rows, intervals = found["scores"], found["cases"], found["intervals"]

    with (OUTPUT / "cases.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    draw(rows, scores, OUTPUT / "volumes.png")

    print(f"{len(slices[2])} slices of {SUBJECTS - 1} volumes\n{'':<24}{'mean over cases':>16}{'95 % interval':>18}")
    for key, value in scores.items():
        low, high = intervals[key]
        print(f"{key:<24}{value:>16.4f}{low:>11.4f} {high:.4f}")
    worst = rows[0]
    print(f"worst: {worst['class']} of {worst['case']}, Dice {worst['dice']:.4f}")
    alone = evaluate(slices).compute()
    agree = all(torch.equal(alone[key], scores[key]) for key in alone)
    print(f"two processes give what one gives, bit for bit: {'yes' if agree else 'no'}")
    for name, value in zip(CLASS_NAMES[1:], slicewise_dice(slices), strict=True):
        print(f"slices taken for samples: {name} {value:.4f} instead of {scores[f'dice/{name}']:.4f}")
    print(f"Table: {OUTPUT / 'cases.csv'}\nPicture: {OUTPUT / 'volumes.png'}")


if __name__ == "__main__":
    main()
