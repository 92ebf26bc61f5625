"""Time and memory of an update, against one read of the inputs, torchmetrics, and MONAI and mikan-rs where installed.

``python -m benchmarks`` checks the counts of each case against the reference backend, then lets all contenders take
turns on the same random batches, and writes benchmarks/results/<device>.json and .md and, for the CPU, the table of the
README. ``--plots`` sweeps over voxels and classes instead.
"""

from __future__ import annotations

import argparse
import warnings

import torch

from benchmarks.contenders import Case, cases
from benchmarks.measuring import measure, setting
from benchmarks.reporting import plot, publish, save, table

VOXELS = [10**exponent for exponent in range(4, 9)]
CLASSES = [2, 4, 8, 14, 21, 40, 118]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", default="", help="a part of the names of the cases to measure; nothing is written")
    parser.add_argument("--seconds", type=float, default=10.0, help="time per case")
    parser.add_argument("--threads", type=int, default=0, help="threads, if not as many as PyTorch takes by itself")
    parser.add_argument("--plots", action="store_true", help="sweep over voxels and classes, and plot")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.plots and args.only:
        parser.error("--plots sweeps over its own cases, --only has no meaning there")
    if args.plots:
        sweep(args.device, args.seconds)
        return
    results = {}
    for case in cases(args.device):
        if args.only in case.name:
            results[case.name] = measure(case, args.device, args.seconds)
            print(table(setting(args.device), {case.name: results[case.name]}).split("\n\n")[0], flush=True)
    if args.only:
        return
    print(f"Written to {save(args.device, setting(args.device), results)}")
    if args.device == "cpu":
        publish(setting(args.device), results)


def sweep(device: str, seconds: float) -> None:
    """Time and memory against voxels and against classes."""
    lines = {
        "voxels": {voxels: Case(f"{voxels} voxels", "multiclass", (1, 4, voxels)) for voxels in VOXELS},
        "classes": {size: Case(f"{size} classes", "multiclass", (1, size, 1 << 18)) for size in CLASSES},
    }
    for axis, points in lines.items():
        measured = {at: measure(case, device, seconds, few=True) for at, case in points.items()}
        save(f"{device}-{axis}", setting(device), {case.name: measured[at] for at, case in points.items()})
        plot(device, axis, measured)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
