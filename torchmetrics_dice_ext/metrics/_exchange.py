"""Floor 5: exchange of states between processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from torchmetrics_dice_ext._cases import CaseTable, spelled_cases
from torchmetrics_dice_ext.metrics import _ledger

Gather = Callable[..., list[Tensor]]


def add_ledgers(ledger: Tensor, gather: Gather, group: Any) -> Tensor:
    """The ledger of all processes, by one collective (and one more if there are faults).

    A sum costs the same whatever the number of processes. What it can't carry, the first faulty update, is fetched only
    where the sum shows a fault, which all processes see alike. A user's own `gather` is used as it is.
    """
    if gather is not gather_all_tensors:
        return _ledger.add(torch.stack(gather(ledger, group=group)))
    total = _on_backend(ledger, group).clone()
    dist.all_reduce(total, op=dist.ReduceOp.SUM, group=group)
    first = _on_backend(ledger, group)[_ledger.FIRST].clone()
    if total[_ledger.FAULTS].any():
        dist.all_reduce(first, op=dist.ReduceOp.MIN, group=group)
    total[_ledger.FIRST] = first
    return total.to(ledger.device)


def merge_cases(ledger: Tensor, rows: Tensor, keys: Tensor, gather: Gather, group: Any) -> tuple[Tensor, CaseTable]:
    """Ledger and case table of all processes, by two collectives: ledgers and sizes, then keys and rows."""
    row = rows.shape[1:]
    cases = len(spelled_cases(keys))
    words = torch.cat((keys.to(rows.device), rows[:cases].reshape(-1).view(torch.int64)))
    sizes = torch.tensor([keys.numel(), words.numel()], device=ledger.device)
    heads = torch.stack(_gather(torch.cat((ledger, sizes)), gather, group))
    lengths = heads[:, -2:].tolist()
    longest = max(length for _, length in lengths)
    padded = torch.cat((words, words.new_zeros(longest - words.numel())))
    merged = CaseTable(rows[:0], keys[:0])
    for (split, length), gathered in zip(lengths, _gather(padded, gather, group), strict=True):
        merged.add_table(
            gathered[split:length].view(rows.dtype).reshape(-1, *row).to(rows.device), gathered[:split].cpu()
        )
    return _ledger.add(heads[:, :-2]).to(ledger.device), merged


def _gather(tensor: Tensor, gather: Gather, group: Any) -> list[Tensor]:
    """Tensors of one shape from all processes."""
    if gather is not gather_all_tensors:
        return gather(tensor, group=group)
    tensor = _on_backend(tensor, group)
    gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, tensor, group=group)
    return gathered


def _on_backend(tensor: Tensor, group: Any) -> Tensor:
    """The tensor where the group's backend can reach it: NCCL takes CUDA tensors alone."""
    if tensor.device.type == "cpu" and dist.get_backend(group) == "nccl":
        return tensor.cuda()
    return tensor.contiguous()
