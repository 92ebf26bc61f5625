"""Floor 5: pictures of scores, drawn by matplotlib (optional extra)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def draw(val: Any, names: Sequence[str], title: str, ax: Any) -> tuple[Any, Any]:
    """Bars for one value, curves over steps for a sequence; a value is a scalar, a vector or a dict of scalars."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ModuleNotFoundError('plot() needs matplotlib: `pip install "torchmetrics-dice-ext[plot]"`.') from error
    ax = pyplot.subplots()[1] if ax is None else ax
    if isinstance(val, Sequence):
        steps = [_by_name(value, names, title) for value in val]
        for name in steps[0] if steps else ():
            ax.plot(range(len(steps)), [step[name] for step in steps], marker="o", label=name)
        ax.set_xlabel("step")
        ax.legend()
    else:
        scores = _by_name(val, names, title)
        ax.bar(list(scores), list(scores.values()))
    ax.set_ylim(0.0, 1.0)
    ax.set_title(title)
    return ax.figure, ax


def _by_name(value: Any, names: Sequence[str], title: str) -> dict[str, float]:
    if isinstance(value, Mapping):
        return {name: float(score) for name, score in value.items()}
    if value.ndim == 0:
        return {title: float(value)}
    return dict(zip(names, value.tolist(), strict=True))
