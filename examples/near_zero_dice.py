"""Why is my Dice near zero, or above one? The usual questions on a brain image, each answered by `diagnose`.

The MNI152 template (T1-weighted, average of 152 heads, carried by nilearn) is the image, its tissue maps are the
reference, and a real if simple model predicts: for each tissue a normal distribution of the intensity, fitted on other
slices than those it is tried on. Its honest Dice is what each faulty batch should have had.

Run it with `python examples/near_zero_dice.py`. Nothing is downloaded. Prints the reports and writes
`examples/output/near_zero_dice.png`, the picture of one of them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
from torch import Tensor
from torch.nn import functional as F

from torchmetrics_dice_ext import diagnose

CLASS_NAMES = ("background", "gray matter", "white matter")
TRAINED, TRIED = slice(20, 70, 2), slice(21, 70, 6)  # axial slices, 2 mm apart
OUTPUT = Path(__file__).parent / "output"


class Question(NamedTuple):
    """What somebody did to a batch, and how they call the metric."""

    asked: str
    done: str
    preds: Any
    target: Any
    options: dict[str, Any]


def load_slices(which: slice) -> tuple[Tensor, Tensor]:
    """Images `(N, 1, 99, 117)` and labels `(N, 99, 117)` of some axial slices."""
    loaders = (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)
    t1, gray, white = (load(resolution=2).get_fdata(dtype=np.float32)[..., which] for load in loaders)
    labels = np.stack([1 - gray - white, gray, white]).argmax(axis=0)
    image, target = (torch.from_numpy(np.moveaxis(volume, -1, 0).copy()) for volume in (t1, labels))
    return image.unsqueeze(1), target


def fit_and_predict() -> tuple[Tensor, Tensor]:
    """Logits `(N, 3, 99, 117)` of the intensity model, and the labels they should give."""
    image, labels = load_slices(TRAINED)
    tissues = [image.squeeze(1)[labels == label] for label in range(len(CLASS_NAMES))]
    mean, deviation = (
        torch.stack(moment).view(1, -1, 1, 1) for moment in zip(*((t.mean(), t.std()) for t in tissues), strict=True)
    )
    image, labels = load_slices(TRIED)
    smooth = F.avg_pool2d(image, 3, 1, 1)
    return -(((smooth - mean) / deviation) ** 2) / 2 - deviation.log(), labels


def questions(logits: Tensor, labels: Tensor) -> Iterator[Question]:
    """The questions behind this package, each as the batch that raises it."""
    tissue = {"task": "multiclass", "num_classes": 3, "class_names": CLASS_NAMES}
    brain, mask = logits.softmax(1)[:, 1:].sum(1), (labels > 0).to(torch.uint8)  # binary: brain or not
    binary = {"task": "binary"}

    asked = "Can a Dice score exceed 1?"
    yield Question(asked, "the mask comes from a PNG and holds 0 and 255", brain, mask * 255, binary)
    yield Question(asked, "the mask went through ToTensor, which divides by 255", brain, mask / 255.0, binary)
    yield Question(asked, "the PNG was read with three channels", brain, torch.stack([mask] * 3, dim=-1), binary)

    asked = "How do I feed dice_score?"
    yield Question(asked, "channels-last scores", logits.movedim(1, -1), labels, tissue)
    yield Question(asked, "argmax over the last axis", logits.argmax(-1), labels, tissue)
    yield Question(asked, "labels as the model's float output", logits.argmax(1).float(), labels, tissue)
    yield Question(asked, "labels from 1 to 3", logits, labels + 1, tissue)

    asked = "Dice and Generalized Dice, 3-D, multi-label, one-hot?"
    one_hot = [F.one_hot(side, 3).movedim(-1, 1) for side in (logits.argmax(1), labels)]
    yield Question(asked, "both sides one-hot in integers", *one_hot, tissue)
    classes_last = [side.movedim(1, -1) for side in one_hot]
    yield Question(asked, "both sides one-hot, as torch's one_hot makes them", *classes_last, tissue)
    yield Question(asked, "target before preds", labels, logits, tissue)
    yield Question(
        asked, "a label map for a multi-label task", logits.sigmoid(), labels, {"task": "multilabel", "num_labels": 3}
    )
    yield Question(asked, "softmax in the model and again in the loss", logits.softmax(1).softmax(1), labels, tissue)

    asked = "Why is my Dice near zero?"
    yield Question(asked, "images and masks flipped against each other", logits.flip(-1), labels, tissue)
    yield Question(asked, "the mask is rolled by 12 voxels", brain, mask.roll(12, dims=-2), binary)
    yield Question(
        asked,
        "masks sorted, images not",
        logits[torch.randperm(len(logits), generator=torch.Generator().manual_seed(0))],
        labels,
        tissue,
    )
    yield Question(asked, "background is 1 in the mask", brain, 1 - mask, binary)
    yield Question(asked, "gray and white matter have each other's number", logits[:, [0, 2, 1]], labels, tissue)
    yield Question(asked, "an underconfident model", brain * 0.4, mask, binary)
    yield Question(asked, "probabilities given as logits", brain, mask, {**binary, "from_logits": True})
    yield Question(asked, "probabilities cast to integers", brain.mul(0.99).long(), mask, binary)

    asked = "Negative Dice loss?"
    half = brain.half() * 100_000  # float16 ends at 65504, and inf / inf is NaN
    yield Question(asked, "logits given as probabilities", brain.clamp(0.01, 0.99).logit(), mask, binary)
    yield Question(asked, "NaN after an overflow in half precision", half / half.amax(), mask, binary)
    yield Question(
        asked,
        "the mask was resized with linear interpolation",
        brain,
        F.avg_pool2d(mask[:, None].float(), 3, 1, 1),
        binary,
    )
    yield Question("And a healthy batch?", "nothing wrong", logits, labels, tissue)


def main() -> None:
    """Print a report per question, and draw one."""
    mpl.use("Agg")
    asked = ""
    for question in questions(*fit_and_predict()):
        if question.asked != asked:
            asked = question.asked
            print(f"\n{'=' * 100}\n{asked}\n{'=' * 100}")
        diagnosis = diagnose(question.preds, question.target, **question.options)
        print(f"\n--- {question.done}\n{diagnosis}")
        if diagnosis.findings and diagnosis.findings[0].code == "flipped":
            OUTPUT.mkdir(exist_ok=True)
            diagnosis.plot().savefig(OUTPUT / "near_zero_dice.png", dpi=110)


if __name__ == "__main__":
    main()
