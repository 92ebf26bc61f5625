"""Floor 0: a space of voxels cut into boxes, so that temporaries stay in the cache and small beside the inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

Box = tuple[slice, ...]


def tiles(space: tuple[int, ...], voxels: int) -> Iterator[Box]:
    """Boxes of at most `voxels` voxels that cover `space` `(N, *S)`, cut along the outermost axes."""
    if 0 in space:
        return
    if torch.compiler.is_compiling():  # the compiler fuses and tiles by itself
        yield tuple(slice(None) for _ in space)
        return
    axis, inner = len(space) - 1, 1
    while axis > 0 and inner * space[axis] <= voxels:
        inner *= space[axis]
        axis -= 1
    step = max(1, voxels // inner)
    for outer in itertools.product(*(range(size) for size in space[:axis])):
        for start in range(0, space[axis], step):
            whole = (slice(None) for _ in space[axis + 1 :])
            yield (*(slice(i, i + 1) for i in outer), slice(start, start + step), *whole)


def cut(tensor: Tensor, box: Box) -> Tensor:
    """The box of a `(N, *S)` tensor as `(n, v)`."""
    return tensor[box].flatten(1)


def cut_channels(tensor: Tensor, box: Box) -> Tensor:
    """The box of a `(N, C, *S)` tensor as `(n, C, v)`."""
    return tensor[with_channels(box)].flatten(2)


def with_channels(box: Box) -> Box:
    """The same box in `(N, C, *S)`, over all channels."""
    return (box[0], slice(None), *box[1:])
