"""Floor 6: a picture of a diagnosis, drawn by matplotlib (optional extra)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchmetrics_dice_ext._diagnosis._batch import Batch
from torchmetrics_dice_ext._views import Form, LabelViews, MaskViews

_BINS = 64
_MOST_BARS = 32  # classes, those with most voxels
_MISSED, _INVENTED, _CONFUSED = "#ff3b6b", "#35b5ff", "#ffb000"


def draw(batch: Batch | None, title: str, report: str) -> Any:
    """Preds, target, their difference and the histogram of the preds; the report where there is no batch to draw."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ModuleNotFoundError('plot() needs matplotlib: `pip install "torchmetrics-dice-ext[plot]"`.') from error
    if batch is None or not batch.views.target.numel():
        figure = pyplot.figure(figsize=(10, 5), layout="constrained")
        figure.text(0.02, 0.98, report, va="top", family="monospace", fontsize=8)
        return figure
    preds, target, where = _plane(batch)
    figure, axes = pyplot.subplots(1, 4, figsize=(16, 4.2), layout="constrained", width_ratios=(1, 1, 1, 1.3))
    most = max(
        1, batch.views.num_classes - 1 if isinstance(batch.views, LabelViews) else int(max(preds.max(), target.max()))
    )
    for ax, image, title in zip(axes, (preds, target), ("preds", "target"), strict=False):
        ax.imshow(
            image.numpy(), vmin=0, vmax=most, cmap="gray" if most == 1 else "nipy_spectral", interpolation="nearest"
        )
        ax.set_title(title)
    _draw_difference(axes[2], preds, target)
    for ax in axes[:3]:
        ax.set_xticks([])
        ax.set_yticks([])
    axes[0].set_xlabel(where)
    views = batch.views
    decided = isinstance(views, LabelViews) and views.preds_form is not Form.SCORES
    if decided or not views.preds.is_floating_point():
        _draw_sizes(axes[3], batch)
    else:
        _draw_scores(axes[3], batch)
    figure.suptitle(title)
    return figure


def _plane(batch: Batch) -> tuple[Tensor, Tensor, str]:
    """Label images `(H, W)` of the plane with most foreground on both sides, and where it lies."""
    planes = batch.planes
    first = planes.foreground
    size = planes.preds.shape[1] - first
    code = torch.arange(1, size + 1).view(1, size, *(1 for _ in planes.preds.shape[2:]))
    sides = [((side & planes.counted)[:, first:] * code).amax(1) for side in (planes.preds, planes.target)]
    place: list[int] = []
    while sides[0].ndim > 2 or (len(place) < 1 and sides[0].ndim == 2):
        filled = sum((side > 0).flatten(1).sum(1) for side in sides)
        index = int(torch.as_tensor(filled).argmax())
        place.append(index)
        sides = [side[index] for side in sides]
    images = [side if side.ndim == 2 else side.view(1, -1) for side in sides]
    where = [f"sample {batch.place(0, place[0])}"]
    where += [f"axis {batch.axis(axis - 1)}: {batch.place(axis, index)}" for axis, index in enumerate(place[1:], 1)]
    return images[0], images[1], ", ".join(where)


def _draw_difference(ax: Any, preds: Tensor, target: Tensor) -> None:
    from matplotlib.colors import ListedColormap

    kind = torch.zeros_like(preds)
    kind[(preds > 0) & (preds == target)] = 1
    kind[(preds == 0) & (target > 0)] = 2
    kind[(preds > 0) & (target == 0)] = 3
    kind[(preds > 0) & (target > 0) & (preds != target)] = 4
    colors = ListedColormap(["#1b1b1f", "#d8d8d8", _MISSED, _INVENTED, _CONFUSED])
    ax.imshow(kind.numpy(), vmin=0, vmax=4, cmap=colors, interpolation="nearest")
    ax.set_title("difference")
    names = {"missed": _MISSED, "invented": _INVENTED, "another class": _CONFUSED}
    for place, (name, color) in enumerate(names.items()):
        ax.text(0.02 + 0.3 * place, -0.06, name, color=color, transform=ax.transAxes, fontsize=9, weight="bold")


def _draw_sizes(ax: Any, batch: Batch) -> None:
    """How many voxels the largest classes have on each side."""
    n = batch.planes.counts
    largest = (n.pred_cardinality + n.target_cardinality).topk(min(_MOST_BARS, len(n.support))).indices.sort().values
    for offset, name, voxels in ((-0.2, "preds", n.pred_cardinality), (0.2, "target", n.target_cardinality)):
        ax.bar([k + offset for k in range(len(largest))], voxels[largest].tolist(), 0.4, label=name)
    ax.set_xticks(range(len(largest)), [str(int(label)) for label in largest], rotation=90 if len(largest) > 10 else 0)
    ax.set_title("voxels per class")
    ax.set_yscale("symlog")
    ax.legend()


def _draw_scores(ax: Any, batch: Batch) -> None:
    """Probabilities or logits with the threshold, or winning scores."""
    views = batch.views
    values = (views.preds if isinstance(views, MaskViews) else views.preds.amax(1)).double()
    values = values[values.isfinite()]
    ax.hist(values.numpy(), bins=_BINS, color="#5b8fd6", log=bool(values.numel()))
    ax.set_title("preds" if isinstance(views, MaskViews) else "winning scores")
    for cutoff in dict.fromkeys(views.cutoffs) if isinstance(views, MaskViews) else ():
        ax.axvline(cutoff, color=_MISSED, label=f"threshold {cutoff:.3g}")
        ax.legend()
