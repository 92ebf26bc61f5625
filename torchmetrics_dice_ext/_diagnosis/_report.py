"""Floor 6: what `diagnose` hands back: findings, and the report that shows them."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from torchmetrics_dice_ext._diagnosis._batch import Batch

Severity = Literal["error", "warning", "info"]

_RANKS = {"error": 0, "warning": 1, "info": 2}
_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that explains the score of a batch.

    Attributes:
        code: Stable name of the kind of finding, such as "flipped".
        severity: "error": the metrics refuse the batch, or their score isn't the overlap that was meant; "warning": a
            valid score that is unlikely to be wanted; "info": worth knowing when the score is read.
        message: What was seen, with the figures.
        remedy: The way out, as code.
        dice_before: Dice (macro, global) after the remedies of the findings before this one; None where the metrics
            refuse the batch.
        dice_after: Dice after this remedy too, or of the well-formed voxels where it is to look for what malformed the
            others; None where that can't be tested, or where the metrics still refuse.
    """

    code: str
    severity: Severity
    message: str
    remedy: str
    dice_before: float | None = None
    dice_after: float | None = None

    @property
    def gain(self) -> float:
        """How much Dice the remedy brings, 0 where that can't be tested; a batch that is refused has none before."""
        if self.dice_after is None or math.isnan(self.dice_after):
            return 0.0
        return self.dice_after - (0.0 if self.dice_before is None or math.isnan(self.dice_before) else self.dice_before)

    @property
    def evidence(self) -> str:
        """Dice before and after the remedy in words, empty where it can't be tested."""
        if self.dice_after is None:
            return ""
        return f"Dice {self._change}"

    @property
    def _change(self) -> str:
        return f"{_figure(self.dice_before)} -> {_figure(self.dice_after)}"

    def __str__(self) -> str:
        rows = [("why", self.message), ("Dice", self._change if self.evidence else ""), ("way out", self.remedy)]
        return "\n".join(_row(name, text) for name, text in rows if text)


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What `diagnose` found in one batch; `str()` of it is a report to paste into an issue.

    Attributes:
        findings: Gravest first, then causes before what follows from them; empty where nothing is wrong.
        dice: Dice of the batch as it is (macro, global, on the voxels looked at); None where the metrics refuse it,
            nan where there is none.
        facts: What was looked at, in lines.
    """

    findings: tuple[Finding, ...]
    dice: float | None
    facts: tuple[str, ...]
    _batch: Batch | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        numbers = {severity: sum(f.severity == severity for f in self.findings) for severity in _RANKS}
        counted = [f"{n} {severity}{'s' * (n > 1 and severity != 'info')}" for severity, n in numbers.items() if n]
        lines = [f"Diagnosis: {', '.join(counted) or 'nothing wrong found'} (Dice {_figure(self.dice)})"]
        lines += [f"  {fact}" for fact in self.facts]
        for number, finding in enumerate(self.findings, 1):
            lines += ["", f"{number}. {finding.severity}: {finding.code}", str(finding)]
        return "\n".join(lines)

    def plot(self) -> Any:
        """Draw preds, target, where they differ, and the histogram of the preds with the threshold.

        Shows the plane of the sample that holds most foreground. A batch that can't be read is drawn as its report.

        Returns:
            A matplotlib `Figure`.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        from torchmetrics_dice_ext._diagnosis._picture import draw

        codes = ", ".join(finding.code for finding in self.findings)
        title = str(self).splitlines()[0] + (f": {codes}" if codes else "")
        with torch.device("cpu"):  # whatever device the user has made the default
            return draw(self._batch, title, str(self))


def ranked(findings: list[Finding]) -> tuple[Finding, ...]:
    """Gravest first, else as they were found; a finding says what lesser ones were remedied before it was seen."""
    told: list[Finding] = []
    for finding in findings:
        rank = _RANKS[finding.severity]
        lesser = [known.code for known in told if known.dice_after is not None and _RANKS[known.severity] > rank]
        text = f"{finding.message} Seen after the remedy of {', '.join(lesser)}." if lesser else finding.message
        told.append(dataclasses.replace(finding, message=text))
    return tuple(sorted(told, key=lambda finding: _RANKS[finding.severity]))


def gravity(finding: Finding) -> tuple[int, float]:
    """Smaller for graver findings, and for those that explain more."""
    return _RANKS[finding.severity], -round(finding.gain, 2)


def _figure(dice: float | None) -> str:
    return "refused" if dice is None else f"{dice:.3f}"


def _row(name: str, text: str) -> str:
    """A named paragraph; the lines of code stay as they are."""
    indent = " " * 13
    wrapped = [text] if name == "way out" else [textwrap.fill(text, _WIDTH - len(indent))]
    return f"   {name + ':':<10}" + textwrap.indent("\n".join(wrapped), indent).removeprefix(indent)
