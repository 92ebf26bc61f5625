"""Peak extra memory and time of forward + backward at (1, 14, 96³), against MONAI's losses on the same tensors.

``python -m benchmarks.losses`` measures each loss in its own process, on the CPU or with ``--device cuda`` on the GPU,
prints a table, and writes benchmarks/results/losses-<device>.json. A loss or a gradient that differs from its peer's
stops the run.
Memory is what a step needs at its peak beside preds and target; the gradient alone is as large as the logits.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.measuring import peak_extra_memory, setting
from benchmarks.reporting import RESULTS

CLASSES, EDGE, REPEATS = 14, 96, 7
MIB = 2**20
PEERS = {"monai DiceLoss": "DiceLoss", "monai GeneralizedDiceLoss": "GeneralizedDiceLoss"}
LOSSES = (*PEERS.values(), "TverskyLoss", *PEERS)


def loss_named(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of that name, without smoothing so that peers agree."""
    if name in PEERS:
        import monai.losses

        return getattr(monai.losses, PEERS[name])(softmax=True, to_onehot_y=True, smooth_nr=0.0, smooth_dr=0.0)
    from torchmetrics_dice_ext import losses

    return getattr(losses, name)("multiclass", num_classes=CLASSES)


def make_batch(edge: int, device: str) -> tuple[Tensor, Tensor]:
    """Logits `(1, C, edge³)` and labels `(1, 1, edge³)` that hold every class."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, CLASSES, edge, edge, edge, generator=generator)
    labels = torch.randint(0, CLASSES, (1, 1, edge, edge, edge), generator=generator)
    return logits.to(device).requires_grad_(), labels.to(device)


def step(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> float:
    """One forward and backward pass; returns the loss."""
    value = loss(logits, labels)
    value.backward()
    logits.grad = None
    return value.item()


def measure(name: str, device: str) -> dict[str, float]:
    """Value, size of the gradient, time and memory of one loss."""
    loss = loss_named(name)
    step(loss, *make_batch(16, device))  # whatever is set up once
    batch = make_batch(EDGE, device)
    (gradient,) = torch.autograd.grad(loss(*batch), batch[:1])
    norm = gradient.norm().item()
    del gradient
    memory = peak_extra_memory(lambda: step(loss, *batch), device)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        value = step(loss, *batch)  # .item() waits for the device
        times.append(time.perf_counter() - start)
    return {
        "loss": value,
        "gradient_norm": norm,
        "median_ms": statistics.median(times) * 1e3,
        "spread_ms": (max(times) - min(times)) * 1e3,
        "peak_extra_mib": math.nan if memory is None else memory / MIB,
        "peak_extra_over_logits": math.nan if memory is None else memory / batch[0].nbytes,
    }


def main() -> None:
    """Measure all losses and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", choices=LOSSES, help="measure one loss in this process and print its JSON")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args.device)))
        return
    rows = {}
    for name in LOSSES:
        command = [sys.executable, "-m", "benchmarks.losses", "--device", args.device, "--only", name]
        rows[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{name:28}" + "".join(f" {key} {value:9.4g} " for key, value in rows[name].items()))
    for peer, ours in PEERS.items():
        for what in ("loss", "gradient_norm"):
            if not math.isclose(rows[peer][what], rows[ours][what], rel_tol=1e-4):
                raise SystemExit(f"{what} of {ours}: {rows[ours][what]}, of its peer: {rows[peer][what]}.")
    written = {"setting": {"shape": [1, CLASSES, EDGE, EDGE, EDGE], **setting(args.device)}, "losses": rows}
    RESULTS.mkdir(exist_ok=True)
    result = RESULTS / f"losses-{args.device}.json"
    result.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
