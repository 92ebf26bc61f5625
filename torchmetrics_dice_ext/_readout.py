"""Floor 3: a score with its options, read from counts: (average, class scores)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchmetrics_dice_ext import _scores
from torchmetrics_dice_ext._counts import OverlapCounts
from torchmetrics_dice_ext._options import Counting, Readout, number, one_of
from torchmetrics_dice_ext._reductions import (
    Equation,
    as_overlap_counts,
    average_classes,
    score_classes,
    score_pooled,
    score_weighted,
    select,
    with_background,
)


@dataclass(frozen=True)
class Score:
    """A score by name, with its parameters checked; build it with `Score.of`."""

    name: str
    parameters: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, name: str, /, **parameters: Any) -> Score:
        """Check a score's name and parameters; defaults fill what is missing."""
        name = one_of("score", name, tuple(_EQUATIONS))
        known = _PARAMETERS.get(name, {})
        strangers = sorted(set(parameters) - set(known))
        if strangers:
            raise ValueError(f"Score {name!r} takes the parameters {tuple(known)}, got {strangers}.")
        values = {key: check(key, parameters.get(key, default)) for key, (default, check) in known.items()}
        if name == "tversky" and values["alpha"] == values["beta"] == 0:
            raise ValueError("`alpha` and `beta` can't both be 0: the Tversky index would be 1 whatever came.")
        return cls(name, tuple(values.items()))

    @property
    def equation(self) -> Equation:
        """The equation with its parameters set."""
        parameters = {} if self.reduces_classes else dict(self.parameters)
        return partial(_EQUATIONS[self.name], **parameters)

    @property
    def reduces_classes(self) -> bool:
        """Whether the score brings its own way from classes to one number."""
        return self.name == "generalized_dice"

    def weights(self, n: OverlapCounts, scored: Tensor) -> Tensor:
        """The class weights `(..., K)` of a score that reduces the classes itself; see `volume_weights`."""
        return _scores.volume_weights(n, scored, **dict(self.parameters))


_EQUATIONS: dict[str, Callable[..., _scores.Ratio]] = {
    "dice": _scores.dice,
    "jaccard": _scores.jaccard,
    "precision": _scores.precision,
    "recall": _scores.recall,
    "specificity": _scores.specificity,
    "fbeta": _scores.fbeta,
    "tversky": _scores.tversky,
    "volumetric_similarity": _scores.volumetric_similarity,
    "generalized_dice": _scores.dice,
}


def _fbeta_weight(name: str, value: Any) -> float:
    return number(name, value, "a number above 0 with a finite square", lambda v: v > 0 and 0 < v * v < float("inf"))


def _tversky_weight(name: str, value: Any) -> float:
    return number(name, value, "a finite number of at least 0", lambda v: v >= 0)


def _weight_type(name: str, value: Any) -> str:
    return str(one_of(name, value, ("square", "simple", "linear")))


_PARAMETERS: dict[str, dict[str, tuple[Any, Callable[[str, Any], Any]]]] = {
    "fbeta": {"beta": (1.0, _fbeta_weight)},
    "tversky": {"alpha": (0.5, _tversky_weight), "beta": (0.5, _tversky_weight)},
    "generalized_dice": {"weight_type": ("square", _weight_type)},
}


def read_out(counts: Tensor, score: Score, counting: Counting, readout: Readout) -> tuple[Tensor, Tensor]:
    """Average `(...)` and scores of the scored classes `(..., K')`, float64, of counts `(..., K, 4)`."""
    n = as_overlap_counts(counts)
    scored = torch.ones(counting.num_outputs, dtype=torch.bool, device=n.support.device)
    for output in counting.void_outputs:
        scored[output] = False
    if not readout.include_background:
        n, scored = select(n, slice(1, None)), scored[1:]
    equation, zero_division = score.equation, readout.zero_division
    classes = score_classes(equation, n, scored, zero_division)
    if score.reduces_classes:
        if counting.task == "binary":
            n, scored = with_background(n), scored.expand(2)
        return score_weighted(equation, n, scored, score.weights(n, scored), zero_division), classes
    if readout.average == "micro":
        return score_pooled(equation, n, scored, zero_division), classes
    return average_classes(classes, n, readout.average, zero_division), classes
