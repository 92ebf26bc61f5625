"""Floor 0: the kinds of malformed values, and the words for them.

A voxel that is not void is checked on both sides. Each side reports at most one kind for it, and a voxel with a fault
on either side enters no count.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class Fault(IntEnum):
    """Kinds of malformed values; the value is the place in a vector of fault counts."""

    PREDS_NAN = 0
    PREDS_PROBABILITY = 1
    PREDS_LABEL = 2
    PREDS_BINARY = 3
    PREDS_ONE_HOT = 4
    TARGET_LABEL = 5
    TARGET_FRACTION = 6
    TARGET_BINARY = 7
    TARGET_ONE_HOT = 8
    AMBIGUOUS = 9


NUM_FAULTS = len(Fault)
MOST_LISTED = 8  # values in a message
TOLERANCE = 1e-4  # how far a probability may leave [0, 1]: sums of softmax outputs do, by rounding

_EXPECTED = {
    Fault.PREDS_NAN: "`preds` must hold numbers",
    Fault.PREDS_PROBABILITY: "`preds` must hold probabilities from 0 to 1",
    Fault.PREDS_LABEL: "`preds` must hold {labels}",
    Fault.PREDS_BINARY: "`preds` must hold 0 and 1 only",
    Fault.PREDS_ONE_HOT: "`preds` must be one-hot along the class axis",
    Fault.TARGET_LABEL: "`target` must hold {labels}",
    Fault.TARGET_FRACTION: "`target` must hold whole numbers",
    Fault.TARGET_BINARY: "`target` must hold 0 and 1 only",
    Fault.TARGET_ONE_HOT: "`target` must be one-hot along the class axis",
    Fault.AMBIGUOUS: "`preds` and `target` of one shape and without scores are label maps, but both look one-hot",
}
_FOUND = {
    Fault.PREDS_NAN: "NaN",
    Fault.PREDS_PROBABILITY: "values outside [0, 1]",
    Fault.PREDS_LABEL: "other values",
    Fault.PREDS_BINARY: "other values",
    Fault.PREDS_ONE_HOT: "no or several classes, or values other than 0 and 1,",
    Fault.TARGET_LABEL: "other values",
    Fault.TARGET_FRACTION: "fractions or NaN",
    Fault.TARGET_BINARY: "other values",
    Fault.TARGET_ONE_HOT: "no or several classes, or values other than 0 and 1,",
    Fault.AMBIGUOUS: "entries that sum to 1 over the class axis",
}
_REMEDY = {
    Fault.PREDS_NAN: "Look for a diverged loss or a division by zero in the model.",
    Fault.PREDS_PROBABILITY: "For logits say `from_logits=True`.",
    Fault.PREDS_LABEL: "Check `num_classes`, and that labels start at 0.",
    Fault.PREDS_BINARY: "Only float preds are thresholded; for label maps use task='multiclass'.",
    Fault.PREDS_ONE_HOT: "Float scores are argmaxed instead; label maps have no class axis.",
    Fault.TARGET_LABEL: "Name void labels in `ignore_index`, or check `num_classes`.",
    Fault.TARGET_FRACTION: "Resample masks with nearest-neighbour interpolation, or round them: `target.round()`.",
    Fault.TARGET_BINARY: "Binarise it, name void values in `ignore_index`, or use task='multiclass'.",
    Fault.TARGET_ONE_HOT: "Overlapping masks are task='multilabel'; label maps have no class axis.",
    Fault.AMBIGUOUS: "Say `input_format='one-hot'` or `input_format='index'`.",
}


def describe(
    fault: Fault, voxels: int, num_classes: int, values: Sequence[float] = (), class_names: Sequence[str] = ()
) -> str:
    """One fault in words: what was expected, what came, the way out."""
    names = f" ({', '.join(class_names)})" if class_names else ""
    expected = _EXPECTED[fault].format(labels=f"labels from 0 to {num_classes - 1}{names}")
    shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in values[:MOST_LISTED]]
    found = ", ".join(shown + ["…"] * (len(values) > MOST_LISTED)) or _FOUND[fault]
    count = f"{voxels} voxel{'s' if voxels != 1 else ''}"
    return f"{expected}, got {found} in {count}. {_remedy(fault, values)}"


def _remedy(fault: Fault, values: Sequence[float]) -> str:
    """The way out; 255 is a common label for void voxels, and where it stands alone a common foreground."""
    if 255 not in values:
        return _REMEDY[fault]
    side = "target" if fault.name.startswith("TARGET") else "preds"
    hints = [_REMEDY[fault]]
    if len(values) == 1:
        hints = [f"If 255 means foreground (a mask of {{0, 255}} scaled by 255), use `{side} > 0`."]
    if fault in (Fault.TARGET_LABEL, Fault.TARGET_BINARY):
        hints.insert(fault is Fault.TARGET_BINARY, "If 255 is a void label, say `ignore_index=255`.")
    return " ".join(hints)
