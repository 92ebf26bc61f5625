"""Start a few gloo processes on 127.0.0.1, run one function on every rank, and bring back what each returned."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import distributed


@dataclass(frozen=True)
class Outcome:
    """What became of one rank: a value, or the traceback of what it raised, or neither if it died."""

    rank: int
    value: Any = None
    error: str | None = None


class RanksFailedError(RuntimeError):
    """Tell the traceback of every rank that failed; `outcomes` holds all ranks."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        self.outcomes = outcomes
        failed = [outcome for outcome in outcomes if outcome.error is not None]
        super().__init__("\n".join(f"rank {outcome.rank}:\n{outcome.error}" for outcome in failed))


def _rank_main(
    rank: int, world: int, port: int, group_timeout: float, channel: Connection, function: Callable[..., Any], args: Any
) -> None:
    """Join the group, run `function(rank, world, *args)` and send its value or its traceback as bytes."""
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    try:
        store = distributed.TCPStore("127.0.0.1", port, world, is_master=False, timeout=timedelta(seconds=120))
        store.set(f"imported/{rank}", "yes")  # only from here on does the time-out of the group count
        store.wait([f"imported/{other}" for other in range(world)], timedelta(seconds=120))
        distributed.init_process_group(
            "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=group_timeout)
        )
        outcome = Outcome(rank, value=function(rank, world, *args))
    except BaseException:
        outcome = Outcome(rank, error=traceback.format_exc())
    channel.send_bytes(pickle.dumps(outcome))
    channel.close()
    if outcome.error is None:
        distributed.destroy_process_group()


def _collect(ranks: list[BaseProcess], channels: list[Connection], deadline: float) -> list[Outcome]:
    """Wait until every rank has reported or died, or until `deadline`."""
    outcomes: dict[int, Outcome] = {}
    while len(outcomes) < len(ranks) and time.monotonic() < deadline:
        open_channels = {channels[rank]: rank for rank in range(len(ranks)) if rank not in outcomes}
        for ready in wait(list(open_channels), timeout=max(0.0, deadline - time.monotonic())):
            rank = open_channels[ready]
            try:
                outcomes[rank] = pickle.loads(ready.recv_bytes())
            except EOFError:
                ranks[rank].join(10)
                outcomes[rank] = Outcome(rank, error=f"died with exit code {ranks[rank].exitcode}")
    late = [
        Outcome(rank, error="still running at the time limit") for rank in range(len(ranks)) if rank not in outcomes
    ]
    return sorted([*outcomes.values(), *late], key=lambda outcome: outcome.rank)


def _end(ranks: list[BaseProcess], patience: float) -> None:
    """End what still runs, each process by its own handle."""
    for process in ranks:
        process.join(patience)
        if process.is_alive():
            process.kill()
            process.join(10)


def launch(
    function: Callable[..., Any], world: int, *args: Any, timeout: float = 120.0, group_timeout: float = 40.0
) -> list[Any]:
    """Run `function(rank, world, *args)` on `world` ranks and return their values, rank by rank.

    Raises:
        RanksFailedError: if a rank raised, died, or was still running after `timeout` seconds.
    """
    context = multiprocessing.get_context("spawn")
    store = distributed.TCPStore("127.0.0.1", 0, world, is_master=True, wait_for_workers=False)
    pipes = [context.Pipe(duplex=False) for _ in range(world)]
    ranks = [
        context.Process(
            target=_rank_main,
            args=(rank, world, store.port, group_timeout, pipes[rank][1], function, args),
            daemon=True,
        )
        for rank in range(world)
    ]
    try:
        for process, (_, sender) in zip(ranks, pipes, strict=True):
            process.start()
            sender.close()
        outcomes = _collect(ranks, [receiver for receiver, _ in pipes], time.monotonic() + timeout)
    finally:
        started = [process for process in ranks if process.pid is not None]
        _end(started, patience=5.0)
    if any(outcome.error is not None for outcome in outcomes):
        raise RanksFailedError(outcomes)
    return [outcome.value for outcome in outcomes]
