"""Floor 0: every option, validated once and kept in frozen dataclasses.

`Counting` says what is counted: two metrics may share counts exactly when theirs are equal.
`Readout` says what is made of the counts: it can differ freely between metrics that share them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

Task = Literal["binary", "multiclass", "multilabel"]
InputFormat = Literal["auto", "one-hot", "index"]
Average = Literal["macro", "micro", "weighted", "none"]
AggregationLevel = Literal["global", "samplewise", "casewise"]
ValidateArgs = bool | Literal["eager", "deferred"]

TASKS: tuple[Task, ...] = ("binary", "multiclass", "multilabel")
LEVELS: tuple[AggregationLevel, ...] = ("global", "samplewise", "casewise")
AVERAGES: tuple[Average, ...] = ("macro", "micro", "weighted", "none")
FORMATS: tuple[InputFormat, ...] = ("auto", "one-hot", "index")


@dataclass(frozen=True, kw_only=True)
class Counting:
    """What is counted; build it with `Counting.of`.

    Attributes:
        task: How a voxel is labelled.
        num_classes: C classes, L labels, or 1 for the binary task.
        thresholds: One per label; empty for multiclass.
        from_logits: Whether float preds are logits (binary, multilabel, soft multiclass).
        class_dim: The class axis as the user counts it.
        input_format: How two label tensors of one shape are read (multiclass).
        ignore_index: Target values that are void, ascending.
        regions: For each region its labels, ascending; None where classes are counted.
        soft: Whether probabilities are summed instead of decisions counted.
        squared: Whether soft cardinalities are sums of squares.
    """

    task: Task
    num_classes: int
    thresholds: tuple[float, ...] = ()
    from_logits: bool = False
    class_dim: int = 1
    input_format: InputFormat = "auto"
    ignore_index: tuple[int, ...] = ()
    regions: tuple[tuple[int, ...], ...] | None = None
    soft: bool = False
    squared: bool = False

    @classmethod
    def of(
        cls,
        task: Task,
        *,
        num_classes: int | None = None,
        num_labels: int | None = None,
        threshold: float | Sequence[float] | None = None,
        from_logits: bool = False,
        class_dim: int = 1,
        input_format: InputFormat | None = None,
        ignore_index: int | Collection[int] | None = None,
        regions: Mapping[str, Sequence[int]] | None = None,
        soft: bool = False,
        squared: bool = False,
    ) -> Counting:
        """Check every counting option of a task; an option that the task has no use for is refused."""
        task = one_of("task", task, TASKS)
        _belongs("num_classes", num_classes, task, ("multiclass",))
        _belongs("num_labels", num_labels, task, ("multilabel",))
        _belongs("threshold", threshold, task, () if soft else ("binary", "multilabel"))
        _belongs("from_logits", from_logits or None, task, TASKS if soft else ("binary", "multilabel"))
        _belongs("input_format", input_format, task, ("multiclass",))
        _belongs("regions", regions, task, ("multiclass",))
        size = 1
        if task == "multiclass":
            size = _count("num_classes", num_classes, 2)
        elif task == "multilabel":
            size = _count("num_labels", num_labels, 1)
        return cls(
            task=task,
            num_classes=size,
            thresholds=() if task == "multiclass" or soft else _thresholds(threshold, task, size),
            from_logits=flag("from_logits", from_logits),
            class_dim=_class_dim(class_dim),
            input_format=one_of("input_format", "auto" if input_format is None else input_format, FORMATS),
            ignore_index=_ignore_index(ignore_index),
            regions=None if regions is None else _regions(regions, size),
            soft=soft,
            squared=flag("squared", squared),
        )

    @property
    def num_outputs(self) -> int:
        """How many classes, labels or regions are counted."""
        return self.num_classes if self.regions is None else len(self.regions)

    @property
    def cutoffs(self) -> tuple[float, ...]:
        """Above which value a float pred is positive, one per label: the thresholds, of logits their logits."""
        if not self.from_logits:
            return self.thresholds
        return tuple(math.log(threshold / (1 - threshold)) for threshold in self.thresholds)

    @property
    def void_outputs(self) -> tuple[int, ...]:
        """Which classes or regions consist of ignored labels alone: they have no score."""
        if self.task != "multiclass":
            return ()
        outputs = self.regions or tuple((label,) for label in range(self.num_classes))
        return tuple(i for i, labels in enumerate(outputs) if set(labels) <= set(self.ignore_index))


@dataclass(frozen=True, kw_only=True)
class Readout:
    """What is made of counts; build it with `Readout.of`.

    Attributes:
        average: How classes become one number, of a score that has no way of its own.
        include_background: Whether class 0 is scored.
        zero_division: The score where a denominator is 0; nan means that averages skip it.
        class_names: Names of the scored classes, background included; None for their numbers.
    """

    average: Average = "macro"
    include_background: bool = True
    zero_division: float = math.nan
    class_names: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls,
        counting: Counting,
        *,
        average: Average | None = "macro",
        include_background: bool = True,
        zero_division: float | Literal["nan"] = "nan",
        class_names: Sequence[str] | None = None,
        regions: Mapping[str, Sequence[int]] | None = None,
    ) -> Readout:
        """Check every read-out option; the names of regions stand in for class names."""
        names = class_names
        if regions is not None:
            if class_names is not None:
                raise ValueError("`class_names` can't go with `regions`: the regions bring their own names.")
            if not include_background:
                raise ValueError(
                    "`include_background=False` can't go with `regions`: leave label 0 out of the regions instead."
                )
            names = tuple(regions)
        if not flag("include_background", include_background) and counting.task != "multiclass":
            raise ValueError(
                f"`include_background=False` is for the multiclass task; task {counting.task!r} has no background."
            )
        return cls(
            average=one_of("average", "none" if average is None else average, AVERAGES),
            include_background=include_background,
            zero_division=_zero_division(zero_division),
            class_names=None if names is None else _names(names, counting, "regions" if regions else "class_names"),
        )

    def names(self, counting: Counting) -> tuple[str, ...]:
        """Names of the scored classes: `class_names`, else "foreground" or the class numbers."""
        if self.class_names is not None:
            names = self.class_names
        elif counting.task == "binary":
            names = ("foreground",)
        else:
            names = tuple(str(index) for index in range(counting.num_outputs))
        return names if self.include_background else names[1:]


def one_of(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """That one of `allowed` which `value` equals."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"`{name}` must be one of {tuple(allowed)}, got {value!r}.")
    return allowed[allowed.index(value)]


def flag(name: str, value: Any) -> bool:
    """`value` if it is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False, got {value!r} of type {type(value).__name__}.")
    return value


def number(name: str, value: Any, expected: str, accepts: Callable[[float], bool]) -> float:
    """`value` as a finite float that `accepts` accepts."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"`{name}` must be {expected}, got {value!r} of type {type(value).__name__}.")
    converted = _as_float(value)
    if not math.isfinite(converted) or not accepts(converted):
        raise ValueError(f"`{name}` must be {expected}, got {value!r}.")
    return converted


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def integer(name: str, value: Any, expected: str = "an integer") -> int:
    """`value` as an int; bools are no integers here."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be {expected}, got {value!r} of type {type(value).__name__}.") from None


def validation_mode(value: Any) -> ValidateArgs:
    """`validate_args` as the user gave it, checked."""
    if not isinstance(value, bool) and value not in ("eager", "deferred"):
        raise ValueError(f"`validate_args` must be one of (True, False, 'eager', 'deferred'), got {value!r}.")
    return value  # type: ignore[no-any-return]


def _belongs(name: str, value: Any, task: Task, tasks: Sequence[Task]) -> None:
    if value is not None and task not in tasks:
        where = f"it belongs to task {' or '.join(map(repr, tasks))}" if tasks else "soft scores never threshold"
        raise ValueError(f"`{name}` has no meaning for task {task!r} ({where}), got `{name}={value!r}`.")


def _count(name: str, value: Any, least: int) -> int:
    if value is None:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got None: say how many there are.")
    count = integer(name, value)
    if count < least:
        hint = " For one foreground class use task='binary'." if name == "num_classes" else ""
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value}.{hint}")
    return count


def _thresholds(threshold: Any, task: Task, size: int) -> tuple[float, ...]:
    if threshold is None:
        threshold = 0.5
    if hasattr(threshold, "tolist"):
        threshold = threshold.tolist()
    values = threshold if task == "multilabel" and isinstance(threshold, (list, tuple)) else [threshold] * size
    if len(values) != size:
        raise ValueError(f"`threshold` must be one number or one per label ({size}), got {len(values)}: {threshold!r}.")
    expected = "a number between 0 and 1, both excluded" + (" (or one per label)" if task == "multilabel" else "")
    return tuple(number("threshold", value, expected, lambda t: 0 < t < 1) for value in values)


def _class_dim(value: Any) -> int:
    axis = integer("class_dim", value)
    if axis == 0:
        raise ValueError(
            "`class_dim` must name the class axis, got 0: that is the batch axis. Use 1, or -1 for channels-last."
        )
    return axis


def _ignore_index(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    if hasattr(value, "tolist"):
        value = value.tolist()
    values = value if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else [value]
    return tuple(sorted({integer("ignore_index", v) for v in values}))


def _regions(regions: Any, num_classes: int) -> tuple[tuple[int, ...], ...]:
    if not isinstance(regions, Mapping) or not regions:
        raise ValueError(
            f"`regions` must map names to lists of labels, such as {{'whole tumor': [1, 2, 3]}}, got {regions!r}."
        )
    return tuple(_region(name, labels, num_classes) for name, labels in regions.items())


def _region(name: Any, labels: Any, num_classes: int) -> tuple[int, ...]:
    if isinstance(labels, (str, bytes)) or not isinstance(labels, Iterable):
        raise TypeError(f"`regions[{name!r}]` must be a list of labels, got {labels!r}.")
    members = [integer(f"regions[{name!r}]", label) for label in labels]
    if not members:
        raise ValueError(f"`regions[{name!r}]` must name at least one label, got none.")
    unknown = [label for label in members if not 0 <= label < num_classes]
    if unknown:
        raise ValueError(f"`regions[{name!r}]` must hold labels from 0 to {num_classes - 1}, got {unknown}.")
    if len(set(members)) != len(members):
        raise ValueError(f"`regions[{name!r}]` must name each label once, got {members}.")
    return tuple(sorted(members))


def _zero_division(value: Any) -> float:
    if isinstance(value, str) and value == "nan":
        return math.nan
    score = _as_float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.inf
    if not (math.isnan(score) or 0 <= score <= 1):
        raise ValueError(f"`zero_division` must be 'nan' or a number from 0 to 1, got {value!r}.")
    return score + 0.0  # never -0.0


def _names(names: Any, counting: Counting, option: str) -> tuple[str, ...]:
    if isinstance(names, (str, AbstractSet)) or not isinstance(names, Iterable):
        raise TypeError(f"`{option}` must be a sequence of strings, got {names!r}.")
    given = tuple(names)
    strangers = [name for name in given if not isinstance(name, str)]
    if strangers:
        raise TypeError(f"`{option}` must hold strings, got {strangers}.")
    plain = tuple(str.__str__(name) for name in given)  # not of a subclass
    if len(plain) != counting.num_outputs:
        raise ValueError(
            f"`{option}` must hold {counting.num_outputs} names, one per class, got {len(plain)}: {plain}."
        )
    repeated = sorted({name for name in plain if plain.count(name) > 1})
    if repeated:
        raise ValueError(f"`{option}` must differ from each other, got {repeated} more than once.")
    dotted = [name for name in plain if "." in name or not name]
    if dotted:
        raise ValueError(f"`{option}` can't be empty or hold a '.' (torch module names forbid it), got {dotted}.")
    return plain
