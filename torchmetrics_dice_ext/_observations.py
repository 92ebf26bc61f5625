"""Floor 4: aggregation levels: what one observation is, and how observations become results.

A `Reading` is everything asked of the counts. For each of its scores it gives a `Result`: the average over classes and
the scores of the classes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from torchmetrics_dice_ext._counts import count_views
from torchmetrics_dice_ext._options import AggregationLevel, Counting, Readout
from torchmetrics_dice_ext._readout import Score, read_out
from torchmetrics_dice_ext._reductions import mean_of_fixed_point, to_fixed_point
from torchmetrics_dice_ext._soft_counts import count_soft
from torchmetrics_dice_ext._views import Views


def count_batch(views: Views, counting: Counting, *, validate: bool = True) -> tuple[Tensor, Tensor]:
    """Counts `(N, K, 4)` and faults `(NUM_FAULTS,)`, hard or soft as the counting says."""
    if counting.soft:
        return count_soft(views, counting)
    return count_views(views, validate=validate)


class Result(NamedTuple):
    """Float64 results of one score: the `average` over classes `(...)`, and the scores of the `classes` `(..., K')`."""

    average: Tensor
    classes: Tensor


@dataclass(frozen=True)
class Reading:
    """What is counted, what is read from it, and at which level.

    Attributes:
        counting: What is counted.
        level: What one observation is.
        scores: The scores read, each with its options.
    """

    counting: Counting
    level: AggregationLevel
    scores: tuple[tuple[Score, Readout], ...]

    @property
    def fingerprint(self) -> str:
        """Names the counts: equal for two readings exactly when they may share, add and exchange their states.

        Global and casewise counts don't depend on what is read out; samplewise sums are sums of what is read out.
        """
        summed = [(s, r.average, r.include_background, r.zero_division) for s, r in self.scores]
        identity = (self.counting, self.level, summed if self.level == "samplewise" else None)
        return hashlib.sha256(repr(identity).encode()).hexdigest()[:16]

    @property
    def summary_shape(self) -> tuple[int, ...]:
        """Shape of the fixed-size summary of observations; see `summarise`."""
        if self.level == "casewise":
            return (0,)
        if self.level == "global":
            return (self.counting.num_outputs, 4)
        return (sum(1 + len(readout.names(self.counting)) for _, readout in self.scores), 3)

    @property
    def counts_dtype(self) -> torch.dtype:
        """Dtype of counts."""
        return torch.float64 if self.counting.soft else torch.int64

    @property
    def summary_dtype(self) -> torch.dtype:
        """Dtype of summaries."""
        return self.counts_dtype if self.level == "global" else torch.int64

    def summarise(self, counts: Tensor) -> Tensor:
        """Counts `(N, K, 4)` of N observations as a summary; summaries of disjoint data add up exactly."""
        if self.level == "global":
            return counts.sum(0)
        return to_fixed_point(_joined(self.observe(counts))).sum(0).to(counts.device)

    def conclude(self, summary: Tensor) -> list[Result]:
        """Results from the sum of all summaries, or casewise from the counts `(cases, K, 4)`."""
        summary = summary.cpu()
        if self.level == "global":
            return self.observe(summary)
        if self.level == "casewise":
            summary = to_fixed_point(_joined(self.observe(summary))).sum(0)
        means = mean_of_fixed_point(summary).split([1 + len(r.names(self.counting)) for _, r in self.scores])
        return [Result(mean[0], mean[1:]) for mean in means]

    def observe(self, counts: Tensor) -> list[Result]:
        """Results of each observation by itself from counts `(..., K, 4)`."""
        return [Result(*read_out(counts, score, self.counting, readout)) for score, readout in self.scores]


def _joined(results: list[Result]) -> Tensor:
    """`(..., rows of a summary)`: for every score its average, then its class scores."""
    return torch.cat([part for result in results for part in (result.average.unsqueeze(-1), result.classes)], dim=-1)
