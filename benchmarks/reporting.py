"""What is written: JSON, a table, and plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.contenders import FLOOR, OURS

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
MARKS = "<!-- made by `python -m benchmarks` -->\n", "<!-- end -->\n"
SHORT = {
    "torchmetrics F1": "torchmetrics F1, unvalidated",
    "torchmetrics DiceScore": "torchmetrics DiceScore",
    "MONAI DiceMetric": "MONAI DiceMetric",
    "ours, torch alone": "ours, torch alone",
}
Results = dict[str, dict[str, dict[str, Any]]]  # case -> contender -> measures


def save(name: str, setting: dict[str, Any], results: Results) -> Path:
    """JSON, and a table beside it."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"setting": setting, "cases": results}, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(setting, results))
    return path


def table(setting: dict[str, Any], results: Results) -> str:
    """Markdown: time of our update, the others as multiples of ours, and extra memory as a share of preds."""
    names = [
        name for name in dict.fromkeys(name for case in results.values() for name in case) if name not in (OURS, FLOOR)
    ]
    head = ["update on", "ours", "of the floor", "extra memory", *(f"{name}, of ours" for name in names)]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for case, measures in results.items():
        ours = measures[OURS]
        share = ours["extra_over_preds"]
        row = [case, _milliseconds(ours), f"{ours['over_floor']:.1f}", "" if share is None else f"{share:.1%}"]
        for name in names:
            row.append(f"{measures[name]['over_ours']:.1f}" if name in measures else "")
        lines.append(f"| {' | '.join(row)} |")
    versions = ", ".join(f"{package} {version}" for package, version in setting["versions"].items())
    where = setting["device"] if setting["threads"] is None else f"{setting['device']}, {setting['threads']} threads"
    notes = f"{setting['date']}, {where}; {versions}. Times are medians, with the quartiles in brackets."
    return "\n".join([*lines, "", notes, ""])


def excerpt(setting: dict[str, Any], results: Results) -> str:
    """The table of the README: medians alone, against the main contenders."""
    head = ["inputs", "ours", "ours / floor", *SHORT.values()]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for case, measures in results.items():
        ours = measures[OURS]
        row = [case, f"{_two(ours['ms'])} ms", _two(ours["over_floor"])]
        row += [f"{_two(measures[name]['over_ours'])} x" if name in measures else "" for name in SHORT]
        lines.append(f"| {' | '.join(row)} |")
    shown = [package for package in ("torch", "torchmetrics", "monai") if package in setting["versions"]]
    versions = ", ".join(f"{package} {setting['versions'][package]}" for package in shown)
    notes = f"{setting['date']}, {setting['threads']} threads of an {setting['device']}, {versions}."
    return "\n".join([*lines, "", notes, ""])


def _two(value: float) -> str:
    """A number in two digits."""
    return f"{float(f'{value:.2g}'):g}"


def publish(setting: dict[str, Any], results: Results) -> None:
    """Put the excerpt into the README, between its marks."""
    before, rest = README.read_text().split(MARKS[0])
    README.write_text("".join([before, MARKS[0], excerpt(setting, results), MARKS[1], rest.split(MARKS[1], 1)[1]]))


def _milliseconds(measures: dict[str, Any]) -> str:
    return f"{measures['ms']:.3g} ms [{measures['low_ms']:.3g}, {measures['high_ms']:.3g}]"


def plot(name: str, axis: str, sweep: dict[int, dict[str, dict[str, Any]]]) -> None:
    """Time, and extra memory, of all contenders against voxels or classes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    for measure, label, scale in (("ms", "time of an update [ms]", 1), ("extra_bytes", "extra memory [MiB]", 2**20)):
        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        contenders = dict.fromkeys(contender for point in sweep.values() for contender in point)
        for color, contender in enumerate(contenders):
            points = {at: measures[contender][measure] for at, measures in sweep.items() if contender in measures}
            shown = {at: value / scale for at, value in points.items() if value}
            if shown:
                axes.plot(list(shown), list(shown.values()), color=f"C{color}", marker="o", label=contender)
        axes.set(xlabel=axis, ylabel=label, xscale="log", yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="small")
        figure.savefig(RESULTS / f"{name}-{axis}-{'time' if scale == 1 else 'memory'}.svg")
        plt.close(figure)
