"""The guard against waiting for the device catches what waits, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from host_sync import HostSyncError, no_host_sync
from torch import Tensor


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: float(x[0]),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x[x > 1],
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: torch.bincount(x),
        lambda x: x.masked_select(x > 1),
        lambda x: torch.equal(x, x),
        lambda x: torch.allclose(x, x),
        lambda x: x.repeat_interleave(x),
        lambda x: x.to("meta"),
        lambda x: torch.zeros(3, dtype=torch.long).index_put_((x > 1,), torch.tensor(1)),
        lambda x: 2 in x,
    ],
)
def test_the_guard_catches_what_waits(waits: Callable[[Tensor], Any]) -> None:
    with no_host_sync(), pytest.raises(HostSyncError):
        waits(torch.tensor([1, 2, 3]))
    assert torch.tensor([3]).item() == 3


def test_the_guard_lets_pass_what_does_not_wait() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0]])
    with no_host_sync() as guard:
        total = (values.max(1).indices + values.gt(1).sum(1)).masked_fill(values[:, 0] > 9, 0)
        values[:, 1:].scatter_add(1, torch.zeros(1, 2, dtype=torch.long), values[:, :2])
    assert guard.seen > 3
    assert total.tolist() == [4]
