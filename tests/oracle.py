"""The overlap metrics written down in NumPy, slowly and obviously: what every test compares the package with.

Nothing here is shared with the package, and nothing here is fast. The caller says what an array holds
(``"scores"``, ``"labels"`` or ``"one-hot"``); the oracle never guesses. Floats come as float64 arrays.
"""

import math
from dataclasses import dataclass

import numpy as np

NAN = float("nan")

SCORES = (
    "dice",
    "jaccard",
    "precision",
    "recall",
    "specificity",
    "fbeta",
    "tversky",
    "volumetric_similarity",
    "generalized_dice",
)


@dataclass(frozen=True)
class Counts:
    """Overlap counts of N observations and C classes, each an array of shape (N, C)."""

    intersection: np.ndarray
    pred_cardinality: np.ndarray
    target_cardinality: np.ndarray
    support: np.ndarray

    def __iter__(self):
        return iter((self.intersection, self.pred_cardinality, self.target_cardinality, self.support))


# From arrays to one row of values per voxel


def _void_values(ignore_index):
    if ignore_index is None:
        return ()
    return (ignore_index,) if isinstance(ignore_index, int) else tuple(ignore_index)


def _voxels(array):
    """(N, ...) -> (N, V)."""
    spatial = math.prod(array.shape[1:])
    return array.reshape(array.shape[0], spatial)


def _voxels_and_channels(array, class_dim):
    """(N, ..., C, ...) -> (N, V, C)."""
    channels_last = np.moveaxis(array, class_dim, -1)
    spatial = math.prod(channels_last.shape[1:-1])
    return channels_last.reshape(channels_last.shape[0], spatial, channels_last.shape[-1])


def _drop_channel(array, ndim):
    """(N, 1, ...) -> (N, ...), where there is one axis too many."""
    if array.ndim == ndim + 1:
        assert array.shape[1] == 1
        return array[:, 0]
    assert array.ndim == ndim
    return array


def first_maximum(values):
    """Index of the largest value; of several equal ones, the first."""
    best = 0
    for index in range(1, len(values)):
        if values[index] > values[best]:
            best = index
    return best


def labels_of(array, kind, class_dim=1, spatial_ndim=None):
    """Scores, one-hot or labels -> the label of every voxel, (N, V)."""
    if kind == "labels":
        if spatial_ndim is not None:
            array = _drop_channel(array, 1 + spatial_ndim)
        return _voxels(array)
    rows = _voxels_and_channels(array, class_dim)
    labels = np.zeros(rows.shape[:2], dtype=np.int64)
    for n in range(rows.shape[0]):
        for v in range(rows.shape[1]):
            labels[n, v] = first_maximum(rows[n, v])
    return labels


def _valid(target, ignore_index, mask):
    """Voxels (N, V) that count: neither a void value in the target nor masked out."""
    valid = np.ones(target.shape, dtype=bool)
    for value in _void_values(ignore_index):
        valid &= target != value
    if mask is not None:
        valid &= _voxels(mask).astype(bool)
    return valid


# Counts


def _count(pred_is, target_is, valid):
    """One class of one sample, voxel by voxel."""
    intersection = pred_cardinality = target_cardinality = support = 0
    for p, t, v in zip(pred_is.tolist(), target_is.tolist(), valid.tolist(), strict=True):
        if not v:
            continue
        support += 1
        pred_cardinality += bool(p)
        target_cardinality += bool(t)
        intersection += bool(p) and bool(t)
    return intersection, pred_cardinality, target_cardinality, support


def _stack(samples, num_classes):
    """List over samples of lists over classes of four counts -> Counts."""
    table = np.array(samples, dtype=np.int64).reshape(len(samples), num_classes, 4)
    return Counts(*(table[:, :, i] for i in range(4)))


def multiclass_counts(
    preds,
    target,
    *,
    num_classes,
    preds_kind="scores",
    target_kind="labels",
    class_dim=1,
    ignore_index=None,
    mask=None,
    regions=None,
    spatial_ndim=None,
):
    """Counts of every class, or of every region (union of labels) if regions are given."""
    preds = labels_of(preds, preds_kind, class_dim, spatial_ndim)
    target = labels_of(target, target_kind, class_dim, spatial_ndim)
    valid = _valid(target, ignore_index, mask)
    groups = [[c] for c in range(num_classes)] if regions is None else list(regions.values())
    samples = []
    for p, t, v in zip(preds, target, valid, strict=True):
        samples.append([_count(np.isin(p, group), np.isin(t, group), v) for group in groups])
    return _stack(samples, len(groups))


def binary_counts(
    preds, target, *, preds_kind="scores", cut=0.5, ignore_index=None, mask=None, spatial_ndim=None, background=False
):
    """Counts of the foreground, and before it of the background where that is asked for.

    ``cut`` is what a float prediction has to exceed, already in the precision in which it is compared.
    """
    if spatial_ndim is not None:
        preds, target = (_drop_channel(array, 1 + spatial_ndim) for array in (preds, target))
    preds, target = _voxels(preds), _voxels(target)
    valid = _valid(target, ignore_index, mask)
    positive = preds > cut if preds_kind == "scores" else preds == 1
    samples = []
    for p, t, v in zip(positive, target == 1, valid, strict=True):
        foreground = _count(p, t, v)
        samples.append([_count(~p, ~t, v), foreground] if background else [foreground])
    return _stack(samples, 2 if background else 1)


def multilabel_counts(
    preds, target, *, num_labels, preds_kind="scores", cuts=0.5, class_dim=1, ignore_index=None, mask=None
):
    """Counts of every label; an element of the target with a void value is void for its own label alone."""
    cuts = np.broadcast_to(np.asarray(cuts, dtype=np.float64), (num_labels,))
    preds, target = _voxels_and_channels(preds, class_dim), _voxels_and_channels(target, class_dim)
    samples = []
    for n in range(preds.shape[0]):
        labels = []
        for label in range(num_labels):
            p, t = preds[n, :, label], target[n, :, label]
            valid = _valid(t[None], ignore_index, None)[0]
            if mask is not None:
                valid &= _voxels(mask)[n].astype(bool)
            labels.append(_count(p > cuts[label] if preds_kind == "scores" else p == 1, t == 1, valid))
        samples.append(labels)
    return _stack(samples, num_labels)


def _sigmoid(values):
    values = np.where(np.isnan(values), 0.0, values)
    return np.where(values >= 0, 1 / (1 + np.exp(-np.abs(values))), 1 - 1 / (1 + np.exp(-np.abs(values))))


def soft_counts(
    preds,
    target,
    *,
    task,
    num_classes=1,
    target_kind="labels",
    class_dim=1,
    from_logits=False,
    squared=False,
    ignore_index=None,
    mask=None,
):
    """Counts of probabilities instead of decisions: I = sum of p t, P = sum of p (or p squared), T = sum of t."""
    if task == "binary":
        rows, truth = _voxels(preds)[:, :, None], (_voxels(target) == 1)[:, :, None]
        valid = _valid(_voxels(target), ignore_index, mask)[:, :, None]
    elif task == "multilabel":
        rows, truth = _voxels_and_channels(preds, class_dim), _voxels_and_channels(target, class_dim)
        valid = np.ones(truth.shape, dtype=bool)
        for value in _void_values(ignore_index):
            valid &= truth != value
        if mask is not None:
            valid &= _voxels(mask).astype(bool)[:, :, None]
        truth = truth == 1
    else:
        rows = _voxels_and_channels(preds, class_dim)
        labels = labels_of(target, target_kind, class_dim)
        truth = np.stack([labels == c for c in range(num_classes)], axis=-1)
        valid = np.repeat(_valid(labels, ignore_index, mask)[:, :, None], num_classes, axis=2)
    if from_logits and task == "multiclass":
        shifted = np.exp(rows - rows.max(axis=-1, keepdims=True))
        rows = shifted / shifted.sum(axis=-1, keepdims=True)
    elif from_logits:
        rows = _sigmoid(rows)
    p = np.where(valid, rows, 0.0)
    t = np.where(valid, truth, False).astype(np.float64)
    return Counts((p * t).sum(1), (p * p if squared else p).sum(1), t.sum(1), valid.sum(1))


# Scores


def score(name, intersection, pred_cardinality, target_cardinality, support, zero_division=NAN, **parameters):
    """One score of one class (or of pooled counts)."""
    i, p, t, v = (float(x) for x in (intersection, pred_cardinality, target_cardinality, support))
    if v == 0:
        return NAN
    if name == "dice":
        numerator, denominator = 2 * i, p + t
    elif name == "jaccard":
        numerator, denominator = i, p + t - i
    elif name == "precision":
        numerator, denominator = i, p
    elif name == "recall":
        numerator, denominator = i, t
    elif name == "specificity":
        numerator, denominator = v - p - t + i, v - t
    elif name == "fbeta":
        b2 = parameters.get("beta", 1.0) ** 2
        numerator, denominator = (1 + b2) * i, p + b2 * t
    elif name == "tversky":
        alpha, beta = parameters.get("alpha", 0.5), parameters.get("beta", 0.5)
        numerator, denominator = i, i + alpha * (p - i) + beta * (t - i)
    elif name == "volumetric_similarity":
        numerator, denominator = p + t - abs(p - t), p + t
    else:
        raise ValueError(name)
    return numerator / denominator if denominator != 0 else zero_division


def generalized_dice(counts_of_classes, weight_type="square", zero_division=NAN):
    """Generalized Dice of one observation: a list of (I, P, T, V') over its scored classes."""
    scored = [c for c in counts_of_classes if c[3] > 0]
    if not scored:
        return NAN
    power = {"square": 2, "simple": 1, "linear": 0}[weight_type]
    finite = [1.0 / float(t) ** power for _, _, t, _ in scored if t > 0]
    largest = max(finite, default=1.0)
    weights = [1.0 / float(t) ** power if t > 0 else largest for _, _, t, _ in scored]
    numerator = sum(2 * w * i for w, (i, _, _, _) in zip(weights, scored, strict=True))
    denominator = sum(w * (p + t) for w, (_, p, t, _) in zip(weights, scored, strict=True))
    return numerator / denominator if denominator != 0 else zero_division


# Averages over classes, and over observations


def scored_classes(num_classes, include_background=True, ignore_index=None, regions=None):
    """For every entry of the result: is it scored (True), or nan because its label is void (False)?"""
    void = set(_void_values(ignore_index))
    if regions is not None:
        return {r: not set(labels) <= void for r, labels in enumerate(regions.values())}
    return {c: c not in void for c in range(0 if include_background else 1, num_classes)}


def observation_score(name, observation, entries, average, zero_division=NAN, **parameters):
    """The score of one observation: a list of (I, P, T, V') per class, and which entries of it are scored."""
    alive = [c for c, is_scored in entries.items() if is_scored and observation[c][3] > 0]
    if name == "generalized_dice":
        return generalized_dice([observation[c] for c in alive], parameters.get("weight_type", "square"), zero_division)
    if average == "micro":
        pooled = [sum(observation[c][k] for c in alive) for k in range(4)]
        return score(name, *pooled, zero_division, **parameters)
    of_class = {c: score(name, *observation[c], zero_division, **parameters) if c in alive else NAN for c in entries}
    if average in ("none", None):
        return np.array(list(of_class.values()))
    kept = [c for c in alive if not math.isnan(of_class[c])]
    if average == "macro":
        return sum(of_class[c] for c in kept) / len(kept) if kept else NAN
    assert average == "weighted"
    if not alive:
        return NAN
    total = sum(observation[c][2] for c in kept)
    if total == 0:
        return zero_division
    return sum(float(observation[c][2]) * of_class[c] for c in kept) / float(total)


def nanmean(values):
    """Mean of what is not nan, nan if nothing is left."""
    kept = [v for v in values if not math.isnan(v)]
    return sum(kept) / len(kept) if kept else NAN


def observations(counts, aggregation_level="global", case_ids=None):
    """Counts (N, C) -> for every observation, in order of first appearance, a list over classes of (I, P, T, V')."""
    num_samples, num_classes = counts.intersection.shape
    if aggregation_level == "global":
        groups = {0: list(range(num_samples))}
    elif aggregation_level == "samplewise":
        groups = {n: [n] for n in range(num_samples)}
    else:
        groups = {}
        for n, case in enumerate(case_ids):
            groups.setdefault(case, []).append(n)
    return {
        key: [tuple(sum(part[n, c].item() for n in members) for part in counts) for c in range(num_classes)]
        for key, members in groups.items()
    }


def evaluate(
    name,
    counts,
    *,
    average="macro",
    aggregation_level="global",
    case_ids=None,
    include_background=True,
    ignore_index=None,
    void_classes=True,
    regions=None,
    zero_division=NAN,
    **parameters,
):
    """Counts of all samples -> the number (or the vector over classes) that the metric reports.

    ``void_classes=False`` (binary, multilabel): ignored values make elements void and never a whole class.
    """
    entries = scored_classes(
        counts.intersection.shape[1], include_background, ignore_index if void_classes else None, regions
    )
    if zero_division == "nan":
        zero_division = NAN
    scores = [
        observation_score(name, observation, entries, average, zero_division, **parameters)
        for observation in observations(counts, aggregation_level, case_ids).values()
    ]
    if average in ("none", None) and name != "generalized_dice":
        return np.array([nanmean([s[k].item() for s in scores]) for k in range(len(entries))])
    return np.float64(nanmean(scores))
