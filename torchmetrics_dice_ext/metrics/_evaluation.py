"""Floor 5: what casewise metrics tell beside the mean: rows by case, confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchmetrics_dice_ext._cases import CaseId, in_order
from torchmetrics_dice_ext._counts import OverlapCounts
from torchmetrics_dice_ext._observations import Reading
from torchmetrics_dice_ext._options import integer, number

if TYPE_CHECKING:
    import numpy as np


def case_rows(
    reading: Reading, cases: Sequence[CaseId], counts: Tensor, score_columns: Sequence[str], worst_first: bool
) -> list[dict[str, Any]]:
    """One row per case and scored class: case, class, the counts, and one column per score of the reading."""
    results = reading.observe(counts)
    readout = reading.scores[0][1]
    first = 0 if readout.include_background else 1
    rows = []
    for place in in_order(cases):
        for index, name in enumerate(readout.names(reading.counting)):
            scores = [result.classes[place, index].item() for result in results]
            rows.append(
                {
                    "case": cases[place],
                    "class": name,
                    **dict(zip(OverlapCounts._fields, counts[place, first + index].tolist(), strict=True)),
                    **dict(zip(score_columns, scores, strict=True)),
                }
            )
    if worst_first:
        rows.sort(key=lambda row: math.inf if math.isnan(row[score_columns[0]]) else row[score_columns[0]])
    return rows


def confidence_interval(scores: Tensor, level: float, n_resamples: int, seed: int | None) -> tuple[Tensor, Tensor]:
    """Percentile bootstrap of the mean over cases: low and high `(...)` of scores `(cases, ...)`.

    Cases without a score (nan) are left out; none left give nan, a single one gives itself. The scores are sorted
    first, so that the order of cases doesn't matter.
    """
    try:
        import numpy as np
        from scipy.stats import bootstrap
    except ImportError as error:
        raise ModuleNotFoundError(
            'confidence_interval() needs scipy: `pip install "torchmetrics-dice-ext[stats]"`.'
        ) from error
    level = number("level", level, "a number between 0 and 1, both excluded", lambda value: 0 < value < 1)
    if integer("n_resamples", n_resamples) < 1:
        raise ValueError(f"`n_resamples` must be at least 1, got {n_resamples}.")
    bounds = []
    columns = scores.unsqueeze(1) if scores.ndim == 1 else scores
    for column in columns.unbind(1):
        sample: np.ndarray[Any, Any] = column[~column.isnan()].sort().values.numpy()
        if len(sample) < 2:  # nothing to resample
            bounds.append((sample.item(),) * 2 if len(sample) else (math.nan,) * 2)
            continue
        result = bootstrap(
            (sample,),
            np.mean,
            confidence_level=level,
            n_resamples=n_resamples,
            method="percentile",
            batch=max(1, _BATCH // len(sample)),
            random_state=np.random.default_rng(seed),
        )
        bounds.append(tuple(result.confidence_interval))
    low, high = torch.tensor(bounds, dtype=torch.float64, device="cpu").unbind(1)
    return low.reshape(scores.shape[1:]), high.reshape(scores.shape[1:])


_BATCH = 1 << 20  # resampled scores held at once
