"""Shards of a data set are evaluated in separate processes that know nothing of each other, and their metrics merged.

The way of map-reduce engines (Ray, Dask, Spark): each worker returns its metric, the driver adds them up with
`merge_state`. The result is that of one process over all data, bit for bit, whatever the shards.

Run it with `python examples/merge_shards.py`.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import torch
from skimage import data
from torch import Tensor

from torchmetrics_dice_ext import BinaryDiceScore

SHARDS = 4


def tiles_of_coins() -> tuple[Tensor, Tensor]:
    """Probabilities and masks `(16, 64, 96)`: tiles of a photograph of coins, segmented by two thresholds."""
    image = torch.from_numpy(data.coins()[:256, :384].copy()).float() / 255
    tiles = image.unfold(0, 64, 64).unfold(1, 96, 96).reshape(-1, 64, 96)
    return tiles.clamp(0.01, 0.99), tiles > 0.45


def evaluate(shard: int) -> BinaryDiceScore:
    """Return the metric of one shard; it travels by pickle."""
    probabilities, masks = tiles_of_coins()
    metric = BinaryDiceScore(aggregation_level="samplewise")
    for probability, mask in zip(probabilities[shard::SHARDS], masks[shard::SHARDS], strict=True):
        metric.update(probability[None], mask[None])
    return metric


def main() -> None:
    """Evaluate the shards in two processes, merge, and compare with one process."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        first, *others = pool.map(evaluate, range(SHARDS))
    for other in others:
        first.merge_state(other)

    whole = BinaryDiceScore(aggregation_level="samplewise")
    whole.update(*tiles_of_coins())
    print(f"{SHARDS} shards, {first.update_count} updates: Dice {first.compute():.6f}")
    print(f"one process, {whole.update_count} update:  Dice {whole.compute():.6f}")
    print(f"the same, bit for bit: {'yes' if torch.equal(first.compute(), whole.compute()) else 'no'}")


if __name__ == "__main__":
    main()
