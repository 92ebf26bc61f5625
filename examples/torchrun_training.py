"""A plain PyTorch loop on any number of processes: train with DistributedDataParallel, validate with a metric.

The data are 16 tiles of a photograph of coins (carried by scikit-image), the reference is what is brighter than its
surroundings. A `DistributedSampler` pads: 5 tiles on 2 processes become 6, one of them twice. The metric is casewise,
the number of a tile being its case, so that such a duplicate changes nothing.

Run it with `torchrun --nproc-per-node 2 examples/torchrun_training.py`, or on one process with `python`. Nothing is
downloaded.
"""

import os

import torch
import torch.distributed as dist
from scipy.ndimage import binary_fill_holes, binary_opening, gaussian_filter
from skimage import data
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, Subset, TensorDataset

from torchmetrics_dice_ext import BinaryDiceScore
from torchmetrics_dice_ext.losses import DiceLoss

TRAINED, EPOCHS = 11, 3


def tiles_of_coins() -> TensorDataset:
    """Images `(16, 1, 64, 96)`, masks `(16, 64, 96)`, and the number of each tile."""
    photograph = data.coins()[:256, :384].astype("float32")
    contrast = photograph - gaussian_filter(photograph, 25)
    coins = binary_opening(binary_fill_holes(contrast > 10), iterations=3)
    image, mask = torch.from_numpy(contrast / 32), torch.from_numpy(coins)
    images, masks = (side.unfold(0, 64, 64).unfold(1, 96, 96).reshape(-1, 64, 96) for side in (image, mask))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return TensorDataset(images[order].unsqueeze(1), masks[order], torch.arange(len(images)))


def network() -> nn.Module:
    """Return three convolutions: images to logits `(N, 1, H, W)`."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 1, 1)]
    return nn.Sequential(*layers)


def validate(net: nn.Module, batches: DataLoader, metric: BinaryDiceScore) -> Tensor:
    """Return the Dice of all processes' tiles together; every process calls it, also one without data."""
    metric.reset()
    with torch.inference_mode():
        for images, masks, numbers in batches:
            metric.update(net(images), masks, case_ids=numbers)
    return metric.compute()


def main() -> None:
    """Train, validate after each epoch on all processes, and at last on each process alone."""
    dist.init_process_group("gloo")
    tiles = tiles_of_coins()
    training, validation = Subset(tiles, range(TRAINED)), Subset(tiles, range(TRAINED, len(tiles)))
    shuffled = DistributedSampler(training)
    trained = DataLoader(training, batch_size=2, sampler=shuffled)
    validated = DataLoader(validation, batch_size=2, sampler=DistributedSampler(validation, shuffle=False))

    net = network()
    parallel, loss = DistributedDataParallel(net), DiceLoss("binary")
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    metric = BinaryDiceScore(from_logits=True, aggregation_level="casewise")
    for epoch in range(EPOCHS):
        shuffled.set_epoch(epoch)
        for images, masks, _ in trained:
            optimizer.zero_grad()
            loss(parallel(images), masks).backward()
            optimizer.step()
        dice = validate(net, validated, metric)
        if dist.get_rank() == 0:
            print(f"epoch {epoch}: Dice {dice:.3f}")

    alone = BinaryDiceScore(from_logits=True, aggregation_level="casewise", sync_on_compute=False)
    same = torch.equal(dice, validate(net, DataLoader(validation, batch_size=5), alone))
    if dist.get_rank() == 0:
        print(f"{dist.get_world_size()} processes and one alone, bit for bit the same: {'yes' if same else 'no'}")
    dist.destroy_process_group()


if __name__ == "__main__":
    if "RANK" not in os.environ:  # started by `python` instead of `torchrun`
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    main()
