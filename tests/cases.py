"""Named inputs with fixed seeds: streams of batches as users hold them, and what the oracle counts in them."""

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import oracle
import torch
from torch import Tensor

SHAPES = {
    "plane": (3, (7, 5)),
    "volume": (2, (3, 5, 4)),
    "line": (4, (13,)),
    "point": (9, ()),
    "one voxel": (1, (1, 1)),
    "four axes": (2, (2, 3, 2, 2)),
    "past a tile": (1, (2051,)),
    "no samples": (0, (4, 3)),
    "no voxels": (2, (0, 3)),
}

FLOAT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SIGNED_DTYPES = (torch.int8, torch.int16, torch.int32, torch.int64)
UNSIGNED_DTYPES = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
INT_DTYPES = SIGNED_DTYPES + UNSIGNED_DTYPES

LEVELS = ("global", "samplewise", "casewise")
AVERAGES = ("macro", "micro", "weighted", "none")

PARAMETERS: dict[str, dict[str, Any]] = {
    "dice": {},
    "jaccard": {},
    "precision": {},
    "recall": {},
    "specificity": {},
    "fbeta": {"beta": 2.0},
    "tversky": {"alpha": 0.3, "beta": 0.7},
    "volumetric_similarity": {},
    "generalized_dice": {"weight_type": "square"},
}
CLASS_SUFFIX = {
    "dice": "DiceScore",
    "jaccard": "JaccardIndex",
    "precision": "Precision",
    "recall": "Recall",
    "specificity": "Specificity",
    "fbeta": "FBetaScore",
    "tversky": "TverskyIndex",
    "volumetric_similarity": "VolumetricSimilarity",
    "generalized_dice": "GeneralizedDiceScore",
}
FUNCTION = {
    "dice": "dice_score",
    "jaccard": "jaccard_index",
    "precision": "precision",
    "recall": "recall",
    "specificity": "specificity",
    "fbeta": "fbeta_score",
    "tversky": "tversky_index",
    "volumetric_similarity": "volumetric_similarity",
    "generalized_dice": "generalized_dice_score",
}


@dataclass(frozen=True)
class Batch:
    """One batch; the kinds tell the oracle what the tensors hold."""

    preds: Tensor
    target: Tensor
    mask: Tensor | None = None
    preds_kind: str = "scores"
    target_kind: str = "labels"
    spatial_ndim: int | None = None

    @property
    def num_samples(self) -> int:
        return self.preds.shape[0]


@dataclass(frozen=True)
class Stream:
    """Batches that one metric sees one after the other, with the options for them."""

    task: str
    batches: tuple[Batch, ...]
    options: dict[str, Any] = field(default_factory=dict)
    """What is counted: num_classes, threshold, ignore_index, regions, ..."""
    readout: dict[str, Any] = field(default_factory=dict)
    """What is read out of the counts: include_background, zero_division."""

    @property
    def case_ids(self) -> tuple[tuple[str, ...], ...]:
        """Three cases whose samples are spread over the batches."""
        ids, seen = [], 0
        for batch in self.batches:
            ids.append(tuple(f"case {(seen + n) * 5 % 3}" for n in range(batch.num_samples)))
            seen += batch.num_samples
        return tuple(ids)


def same(left: Tensor, right: Tensor) -> bool:
    """Of one dtype and shape, and equal bit by bit; nan equals nan."""
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and torch.equal(left.isnan(), right.isnan())
        and torch.equal(left.nan_to_num(), right.nan_to_num())
    )


def same_dict(left: Mapping[Any, Tensor], right: Mapping[Any, Tensor]) -> bool:
    return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)


def fed(metric: Any, seen: Iterable[Mapping[str, Any]]) -> Any:
    """The metric after an update with each of these batches, which are arguments by name."""
    for batch in seen:
        metric.update(**batch)
    return metric


def layouts(tensor: Tensor) -> dict[str, Tensor]:
    """The same values, laid out in memory in other ways."""
    wide = torch.stack([tensor, tensor], dim=-1)
    order = list(range(tensor.ndim))
    padded = torch.zeros([size + 3 for size in tensor.shape], dtype=tensor.dtype)
    crop = padded[tuple(slice(1, 1 + size) for size in tensor.shape)]
    crop.copy_(tensor)
    return {
        "contiguous": tensor,
        "channels-last": tensor.movedim(1, -1).contiguous().movedim(-1, 1),
        "samples last": tensor.movedim(0, -1).contiguous().movedim(-1, 0),
        "reversed": tensor.permute(order[::-1]).contiguous().permute(order[::-1]),
        "every other": wide[..., 1],
        "crop": crop,
    }


def to_numpy(tensor: Tensor) -> np.ndarray:
    """The same values as float64, int64 or bool."""
    tensor = tensor.detach().as_subclass(Tensor).cpu()
    if tensor.dtype == torch.bool:
        return tensor.numpy()
    return tensor.to(torch.float64 if tensor.is_floating_point() else torch.int64).numpy()


def cut(threshold: float, dtype: torch.dtype, from_logits: bool) -> float:
    """What a prediction has to exceed, in the dtype in which PyTorch compares it."""
    value = math.log(threshold / (1 - threshold)) if from_logits else threshold
    return torch.tensor(value, dtype=torch.float64).to(dtype).item()


def oracle_counts(task: str, batch: Batch, options: dict[str, Any], background: bool = False) -> oracle.Counts:
    """Counts (N, C) of one batch."""
    preds, target = to_numpy(batch.preds), to_numpy(batch.target)
    shared = {"mask": None if batch.mask is None else to_numpy(batch.mask), "ignore_index": options.get("ignore_index")}
    if task == "multiclass":
        return oracle.multiclass_counts(
            preds,
            target,
            num_classes=options["num_classes"],
            preds_kind=batch.preds_kind,
            target_kind=batch.target_kind,
            class_dim=options.get("class_dim", 1),
            regions=options.get("regions"),
            spatial_ndim=batch.spatial_ndim,
            **shared,
        )
    threshold, from_logits = options.get("threshold", 0.5), options.get("from_logits", False)
    dtype = batch.preds.dtype if batch.preds.is_floating_point() else torch.float64
    if task == "binary":
        return oracle.binary_counts(
            preds,
            target,
            preds_kind=batch.preds_kind,
            cut=cut(threshold, dtype, from_logits),
            spatial_ndim=batch.spatial_ndim,
            background=background,
            **shared,
        )
    thresholds = threshold if isinstance(threshold, (list, tuple)) else [threshold] * options["num_labels"]
    return oracle.multilabel_counts(
        preds,
        target,
        num_labels=options["num_labels"],
        preds_kind=batch.preds_kind,
        cuts=[cut(t, dtype, from_logits) for t in thresholds],
        class_dim=options.get("class_dim", 1),
        **shared,
    )


def concatenate(counts: list[oracle.Counts]) -> oracle.Counts:
    """Counts of several batches as of one."""
    return oracle.Counts(*(np.concatenate(parts) for parts in zip(*counts, strict=True)))


def expected(
    name: str,
    task: str,
    counts: oracle.Counts,
    options: dict[str, Any],
    readout: dict[str, Any],
    case_ids: tuple[str, ...] | None = None,
) -> np.ndarray:
    """What the metric called ``name`` has to report for these counts."""
    return oracle.evaluate(
        name,
        counts,
        case_ids=case_ids,
        ignore_index=options.get("ignore_index"),
        void_classes=task == "multiclass",
        regions=options.get("regions"),
        **readout,
    )


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(low: int, high: int, shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    """Integers in [low, high)."""
    return torch.randint(low, high, shape, generator=g)


def some(shape: tuple[int, ...], g: torch.Generator, share: float = 0.2) -> Tensor:
    """A bool tensor, True at about this share of its elements."""
    return torch.rand(shape, generator=g) < share


def one_hot(labels: Tensor, num_classes: int, class_dim: int = 1) -> Tensor:
    """(N, ...) -> (N, C, ...), int64."""
    return (labels.unsqueeze(-1) == torch.arange(num_classes)).long().movedim(-1, class_dim)


def multiclass_batch(
    seed: int,
    shape: str | tuple[int, tuple[int, ...]] = "plane",
    num_classes: int = 4,
    *,
    preds: str = "scores",
    target: str = "labels",
    class_dim: int = 1,
    preds_dtype: torch.dtype | None = None,
    target_dtype: torch.dtype = torch.int64,
    absent: tuple[int, ...] = (),
    never: tuple[int, ...] = (),
    void: int | None = None,
    void_sample: int | None = None,
    masked: bool = False,
) -> Batch:
    """Predictions that are right more often than not, with ties between classes.

    ``absent`` classes are not in the target, ``never`` ones are in neither. Void and masked voxels hold garbage.
    ``preds`` and ``target`` are "scores", "labels", "channel" (labels with a singleton axis) or "one-hot".
    """
    samples, spatial = SHAPES[shape] if isinstance(shape, str) else shape
    g = generator(seed)
    present = torch.tensor([c for c in range(num_classes) if c not in absent + never])
    truth = present[draw(0, len(present), (samples, *spatial), g)]
    # multiples of 1/4 are exact in every float dtype; channels: last axis for now
    scores = draw(-4, 5, (samples, *spatial, num_classes), g) / 4 + 0.75 * one_hot(truth, num_classes, -1)
    for c in never:
        scores[..., c] = -9.0
    excluded = torch.zeros((samples, *spatial), dtype=torch.bool)
    mask = None
    if void is not None:
        excluded = some(excluded.shape, g)
        if void_sample is not None:
            excluded[void_sample] = True
        truth = torch.where(excluded, void, truth)
    if masked:
        mask = ~some(excluded.shape, g)
        truth = torch.where(mask, truth, 99)
        excluded = excluded | ~mask
    guess = scores.max(-1).indices
    if preds == "scores":
        scores[excluded] = float("nan")
        p = scores.movedim(-1, class_dim).to(preds_dtype or torch.float32)
    elif preds == "one-hot":
        rows = one_hot(guess, num_classes, -1)
        rows[excluded] = 0
        p = rows.movedim(-1, class_dim).to(preds_dtype or torch.int64)
    else:
        guess = torch.where(excluded, 77, guess).to(preds_dtype or torch.int64)
        p = guess.unsqueeze(1) if preds == "channel" else guess
    if target == "one-hot":
        t = one_hot(truth, num_classes, class_dim).to(target_dtype)
    else:
        t = truth.to(target_dtype)
        t = t.unsqueeze(1) if target == "channel" else t
    kinds = {"scores": "scores", "one-hot": "one-hot", "labels": "labels", "channel": "labels"}
    return Batch(p, t, mask, kinds[preds], kinds[target], len(spatial))


def mask_batch(
    seed: int,
    shape: str | tuple[int, tuple[int, ...]] = "plane",
    num_labels: int | None = None,
    *,
    preds: str = "probabilities",
    class_dim: int = 1,
    preds_dtype: torch.dtype = torch.float32,
    target_dtype: torch.dtype = torch.int64,
    preds_channel: bool = False,
    target_channel: bool = False,
    empty: tuple[int, ...] = (),
    void: int | None = None,
    void_sample: int | None = None,
    masked: bool = False,
) -> Batch:
    """Binary (``num_labels=None``) or multilabel: probabilities, logits or decisions, some exactly on a threshold.

    ``empty`` samples have neither target nor prediction. Void and masked elements hold garbage.
    """
    samples, spatial = SHAPES[shape] if isinstance(shape, str) else shape
    g = generator(seed)
    channels = () if num_labels is None else (num_labels,)
    full = (samples, *spatial, *channels)
    truth = some(full, g, 0.4).long()
    eighths = (draw(0, 7, full, g) + 2 * truth).clamp(0, 8)
    for n in empty:
        truth[n], eighths[n] = 0, 0
    excluded = torch.zeros(full, dtype=torch.bool)
    mask = None
    if void is not None:
        excluded = some(full, g)
        if void_sample is not None:
            excluded[void_sample] = True
        truth = torch.where(excluded, void, truth)
    if masked:
        mask = ~some((samples, *spatial), g)
        outside = ~mask if num_labels is None else (~mask).unsqueeze(-1).expand(full)
        truth = torch.where(outside, 99, truth)
        excluded = excluded | outside
    if preds == "decisions":
        p = (eighths > 4).long()
        if preds_dtype != torch.bool:
            p = torch.where(excluded, 7, p)
    else:
        p = eighths / 8 if preds == "probabilities" else (eighths - 4) / 2
        p[excluded] = float("nan")
    p, t = p.to(preds_dtype), truth.to(target_dtype)
    if num_labels is not None:
        p, t = p.movedim(-1, class_dim), t.movedim(-1, class_dim)
    p = p.unsqueeze(1) if preds_channel else p
    t = t.unsqueeze(1) if target_channel else t
    return Batch(p, t, mask, "decisions" if preds == "decisions" else "scores", "labels", len(spatial))


def _sizes(spatial: tuple[int, ...], *samples: int) -> list[tuple[int, tuple[int, ...]]]:
    return [(n, spatial) for n in samples]


def _multiclass_streams() -> dict[str, Stream]:
    def stream(shapes, num_classes=4, options=None, readout=None, **batch):
        batches = tuple(multiclass_batch(7 * k + 1, s, num_classes, **batch) for k, s in enumerate(shapes))
        return Stream("multiclass", batches, {"num_classes": num_classes, **(options or {})}, readout or {})

    planes = _sizes((7, 5), 3, 1, 2)
    return {
        "logits": stream(planes),
        "logits with void voxels": stream(planes, options={"ignore_index": 255}, void=255),
        "a void sample": stream(planes, options={"ignore_index": -1}, void=-1, void_sample=0),
        "bf16 with ties": stream(_sizes((3, 5, 4), 2, 1), preds_dtype=torch.bfloat16, absent=(3,)),
        "labels": stream(planes, 5, preds="labels", preds_dtype=torch.uint8, target_dtype=torch.int16, absent=(2,)),
        "labels with a class that is nowhere": stream(planes, 5, preds="labels", absent=(0,), never=(3, 4)),
        "one-hot and labels": stream(planes, preds="one-hot", target_dtype=torch.int32),
        "labels and one-hot": stream(planes, preds="labels", target="one-hot", target_dtype=torch.bool),
        "logits and one-hot": stream(planes, target="one-hot", target_dtype=torch.float32),
        "two one-hot": stream(planes, preds="one-hot", target="one-hot", options={"input_format": "one-hot"}),
        "channels-last": stream(planes, options={"class_dim": -1, "ignore_index": 255}, class_dim=-1, void=255),
        "channels-last volumes": stream(_sizes((2, 5, 3), 2, 2), options={"class_dim": -1}, class_dim=-1),
        "singleton channels": stream(planes, preds="channel", target="channel"),
        "logits and a singleton channel": stream(planes, target="channel", target_dtype=torch.uint8),
        "points": stream(_sizes((), 9, 1, 5)),
        "lines": stream(_sizes((13,), 4, 2), options={"ignore_index": 200}, void=200, target_dtype=torch.uint8),
        "four axes": stream([SHAPES["four axes"]] * 2, 3),
        "past a tile": stream(["past a tile", "past a tile"], 3),
        "one voxel": stream(["one voxel"] * 4),
        "several void values": stream(planes, options={"ignore_index": [-7, 2]}, void=-7),
        "void background": stream(planes, options={"ignore_index": (0, 255)}, void=255),
        "mask": stream(planes, masked=True, target_dtype=torch.float32),
        "mask and void": stream(planes, options={"ignore_index": 9}, masked=True, void=9, preds="labels"),
        "without background": stream(planes, absent=(2,), readout={"include_background": False}),
        "void without background": stream(
            planes, options={"ignore_index": [1, 255]}, void=255, readout={"include_background": False}
        ),
        "empty batches": stream(["no samples", "plane", "no voxels", "no samples", "line"]),
        "nothing": stream(["no samples", "no voxels"]),
        "two classes": stream(planes, 2, absent=(1,)),
        "many classes": stream(_sizes((6, 7), 2, 1), 23, absent=(0, 5, 22), never=(7, 8)),
        "ragged shapes": stream(["plane", "one voxel", "volume", "line", "point"]),
    }


REGIONS = {"whole": [1, 2, 3], "core": [1, 3], "rest": [0, 4], "edge": [2]}


def _region_streams() -> dict[str, Stream]:
    def stream(regions, options=None, **batch):
        batches = tuple(multiclass_batch(5 * k + 2, s, 5, **batch) for k, s in enumerate(_sizes((6, 5), 2, 1, 2)))
        return Stream("multiclass", batches, {"num_classes": 5, "regions": regions, **(options or {})}, {})

    return {
        "regions of logits": stream(REGIONS),
        "regions of labels": stream(REGIONS, preds="labels", absent=(2,)),
        "regions and void voxels": stream(REGIONS, options={"ignore_index": 255}, void=255),
        "a void region": stream(REGIONS, options={"ignore_index": [2, 255]}, void=255, never=(2,)),
        "regions and a mask": stream(REGIONS, masked=True, preds="one-hot"),
    }


def _binary_streams() -> dict[str, Stream]:
    def stream(shapes, options=None, **batch):
        batches = tuple(mask_batch(11 * k + 3, s, **batch) for k, s in enumerate(shapes))
        return Stream("binary", batches, options or {}, {})

    planes = _sizes((7, 5), 3, 1, 2)
    return {
        "probabilities": stream(planes),
        "low threshold": stream(planes, {"threshold": 0.125}, preds_dtype=torch.float64),
        "threshold that bf16 rounds": stream(planes, {"threshold": 0.3}, preds_dtype=torch.bfloat16),
        "logits": stream(planes, {"from_logits": True}, preds="logits"),
        "logits with a threshold": stream(
            planes, {"from_logits": True, "threshold": 0.8}, preds="logits", preds_dtype=torch.float16
        ),
        "decisions": stream(planes, preds="decisions", preds_dtype=torch.uint8, target_dtype=torch.bool),
        "bool decisions": stream(planes, preds="decisions", preds_dtype=torch.bool, target_dtype=torch.float32),
        "void elements": stream(planes, {"ignore_index": 255}, void=255),
        "void background": stream(planes, {"ignore_index": [0, 9]}, void=9),
        "a void sample": stream(planes, {"ignore_index": -1}, void=-1, void_sample=0),
        "mask": stream(planes, masked=True),
        "empty samples": stream(planes, empty=(0,)),
        "everything empty": stream(_sizes((4, 3), 1, 1), empty=(0,)),
        "both channels": stream(planes, preds_channel=True, target_channel=True),
        "preds channel": stream(planes, preds_channel=True),
        "target channel": stream(planes, target_channel=True),
        "points": stream(_sizes((), 9, 1, 4)),
        "volumes": stream(["volume", "four axes"]),
        "past a tile": stream(["past a tile"]),
        "one voxel": stream(["one voxel"] * 3),
        "empty batches": stream(["no samples", "plane", "no voxels"]),
        "nothing": stream(["no samples"]),
    }


def _multilabel_streams() -> dict[str, Stream]:
    def stream(shapes, num_labels=3, options=None, **batch):
        batches = tuple(mask_batch(13 * k + 5, s, num_labels, **batch) for k, s in enumerate(shapes))
        return Stream("multilabel", batches, {"num_labels": num_labels, **(options or {})}, {})

    planes = _sizes((7, 5), 3, 1, 2)
    return {
        "probabilities": stream(planes),
        "threshold per label": stream(planes, options={"threshold": [0.125, 0.5, 0.875]}),
        "logits": stream(planes, options={"from_logits": True}, preds="logits"),
        "logits, threshold per label": stream(
            planes,
            options={"from_logits": True, "threshold": [0.3, 0.5, 0.8]},
            preds="logits",
            preds_dtype=torch.float16,
        ),
        "decisions": stream(planes, preds="decisions", preds_dtype=torch.int16, target_dtype=torch.uint8),
        "void elements": stream(planes, options={"ignore_index": 255}, void=255),
        "void background": stream(planes, options={"ignore_index": [0, -5]}, void=-5),
        "a void sample": stream(planes, options={"ignore_index": -1}, void=-1, void_sample=0),
        "mask": stream(planes, masked=True),
        "empty samples": stream(planes, empty=(0,)),
        "channels-last": stream(planes, options={"class_dim": -1}, class_dim=-1, masked=True),
        "one label": stream(planes, 1),
        "many labels": stream(_sizes((5, 3), 2, 1), 19),
        "points": stream(_sizes((), 9, 1, 4)),
        "volumes": stream(["volume", "four axes"], 2, preds_dtype=torch.bfloat16),
        "empty batches": stream(["no samples", "plane", "no voxels"]),
        "nothing": stream(["no samples"]),
    }


@functools.cache
def streams(task: str) -> dict[str, Stream]:
    """Every stream of a task ("multiclass", "regions", "binary", "multilabel")."""
    return {
        "multiclass": _multiclass_streams,
        "regions": _region_streams,
        "binary": _binary_streams,
        "multilabel": _multilabel_streams,
    }[task]()


@functools.cache
def stream_counts(task: str, name: str, background: bool = False) -> tuple[oracle.Counts, ...]:
    """The oracle's counts of every batch of a stream."""
    stream = streams(task)[name]
    return tuple(oracle_counts(stream.task, batch, stream.options, background) for batch in stream.batches)
