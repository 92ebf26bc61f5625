"""Floor 5: the factories that choose a metric class by task."""

from __future__ import annotations

from typing import Any, ClassVar

from torchmetrics_dice_ext._options import TASKS, Task, one_of
from torchmetrics_dice_ext.metrics._base import OverlapMetric


class TaskFactory:
    """``X(task, ...)`` makes ``BinaryX(...)``, ``MulticlassX(num_classes, ...)`` or ``MultilabelX(num_labels, ...)``.

    Args:
        task: "binary", "multiclass" or "multilabel".
        num_classes: C, for the multiclass task alone.
        num_labels: L, for the multilabel task alone.
        **options: As the class of the task takes them.

    Raises:
        ValueError: An unknown task, a size that is missing or does not belong to the task, or a wrong option.
    """

    binary: ClassVar[type[OverlapMetric]]
    multiclass: ClassVar[type[OverlapMetric]]
    multilabel: ClassVar[type[OverlapMetric]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """The docstring of a factory goes on with what all factories take."""
        super().__init_subclass__(**kwargs)
        common = (TaskFactory.__doc__ or "").partition("\n\n")[2]
        cls.__doc__ = f"{cls.__doc__}\n\n{common}"

    def __new__(  # type: ignore[misc]
        cls, task: Task, *, num_classes: int | None = None, num_labels: int | None = None, **options: Any
    ) -> OverlapMetric:
        """Make the metric of a task."""
        sizes = {"multiclass": num_classes, "multilabel": num_labels}
        size = sizes.pop(one_of("task", task, TASKS), None)
        if any(other is not None for other in sizes.values()):
            raise ValueError(
                f"`num_classes` belongs to task 'multiclass', `num_labels` to task 'multilabel', got task {task!r} with"
                f" num_classes={num_classes}, num_labels={num_labels}."
            )
        metric: type[OverlapMetric] = getattr(cls, task)
        return metric(**options) if task == "binary" else metric(size, **options)  # type: ignore[arg-type]
