"""Floor 5: the one base of all metrics, from update() to compute(): counting, faults, state, sharing, synchronisation.

The NAME of a state carries a fingerprint of what is counted: torchmetrics compares names when it forms compute groups,
and looks states up by name when it loads or merges, so that only metrics that count alike share, load or merge.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from torchmetrics_dice_ext._cases import CaseTable, read_case_ids, spelled_cases
from torchmetrics_dice_ext._counts import refuse_faults
from torchmetrics_dice_ext._inputs import read_inputs
from torchmetrics_dice_ext._observations import Reading, Result, count_batch
from torchmetrics_dice_ext._options import AggregationLevel, Average, Readout, ValidateArgs, validation_mode
from torchmetrics_dice_ext.metrics import _exchange, _ledger
from torchmetrics_dice_ext.metrics._evaluation import case_rows, confidence_interval
from torchmetrics_dice_ext.metrics._plots import draw


class OverlapMetric(Metric):
    """A metric over overlap counts; the public classes say what is counted and which score is read.

    State: one vector (`_ledger`), whatever has been seen; casewise also one row of counts per case (`_cases`). `reset`
    empties it, `merge_state` adds that of another metric, ``persistent(True)`` makes it part of the state_dict.

    Synchronisation: `compute`, `per_class`, `per_case` and `confidence_interval` cost one collective each, casewise
    two. All ranks call them, also one without data.

    Args:
        reading: What is counted and what is read out.
        validate_args: When malformed values are refused; see `update`.
        shown: Which score of the reading, and which of its classes, `compute` gives; class None stands for the average,
            or for all classes with average "none".
        **kwargs: Metric's own options.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(
        self,
        reading: Reading,
        validate_args: ValidateArgs = True,
        shown: tuple[int, int | None] | None = (0, None),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._reading, self.validate_args, self._shown = reading, validation_mode(validate_args), shown
        self._table: CaseTable | None = None  # the table that this metric may write to, see `_table_of`
        self._table_before: CaseTable | None = None  # that of the updates before the one that `forward` is at
        self._in_forward = False
        prefix = f"{_PREFIX}{reading.fingerprint}_{self.validate_args}".lower()
        self._ledger_name, self._rows_name, self._keys_name = prefix, f"{prefix}_rows", f"{prefix}_keys"
        for name, state in self._blank_states().items():
            self.add_state(name, state, dist_reduce_fx=_ledger.add if name == self._ledger_name else None)

    def update(
        self,
        preds: Tensor,
        target: Tensor,
        *,
        mask: Tensor | None = None,
        case_ids: Sequence[int | str] | Tensor | None = None,
    ) -> None:
        """Count one batch.

        Args:
            preds: Predictions as the task takes them.
            target: Reference, likewise.
            mask: bool `(N, ...)`, True where a voxel counts.
            case_ids: N ints or strings, the case of each sample; for casewise metrics alone.

        Raises:
            ValueError: Shapes that don't fit; malformed values, if validation is eager (the default on the CPU). The
                metric is then as it was. Deferred validation (the default on accelerators) never waits for the device:
                malformed voxels are left out, and `compute` refuses.
            TypeError: Wrong types or dtypes.
        """
        views = read_inputs(preds, target, mask, self._reading.counting)
        cases = self._cases_of(case_ids, views.space[0])
        ledger: Tensor = getattr(self, self._ledger_name)
        if views.preds.device != ledger.device:
            raise ValueError(
                f"`preds` must be on the metric's device {ledger.device}, got {views.preds.device}:"
                f" use `metric.to({str(views.preds.device)!r})`."
            )
        counts, faults = count_batch(views, self._reading.counting)
        mode = self.validate_args
        if mode is True:
            mode = "eager" if ledger.device.type == "cpu" else "deferred"
        if mode == "eager":
            refuse_faults(views, faults, self._label_names)
        summary = None if cases is not None else self._reading.summarise(counts)
        setattr(self, self._ledger_name, _ledger.enter(ledger, faults if mode == "deferred" else None, summary))
        if cases is not None:
            table = self._table_of(self._states)
            table.add(cases, counts)
            self._show(table)

    def compute(self) -> Tensor:
        """The score: a scalar, with ``average="none"`` `(C,)`; nan where nothing has a score.

        torchmetrics makes a scalar of a vector of one class.

        Raises:
            ValueError: Validation is deferred and an update since the last reset had malformed values, on any rank.
        """
        return self._publish(self._shown_of(self._results()))

    def per_class(self) -> dict[str, Tensor]:
        """The score of each scored class by name, 0-d tensors; nan where a class has none.

        Without `class_names` the names are "0", "1", ..., and "foreground" for the binary task.
        """
        with self._synced():
            classes = self._publish(self._results()[0 if self._shown is None else self._shown[0]].classes)
        return dict(zip(self.class_names, classes.unbind(), strict=True))

    def per_case(self, *, worst_first: bool = False) -> list[dict[str, Any]]:
        """One row per case and scored class of a casewise metric, the same on every rank.

        Keys: case, class (its name), intersection, pred_cardinality, target_cardinality, support (voxels), score. Made
        for ``pandas.DataFrame(rows)`` or `csv.DictWriter`.

        Args:
            worst_first: Whether rows are in ascending order of score (nan last) instead of case.
        """
        which = 0 if self._shown is None else self._shown[0]
        return self._per_case((("score", which),), worst_first)

    def confidence_interval(
        self, level: float = 0.95, n_resamples: int = 1000, seed: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Percentile bootstrap of the mean over cases, of what `compute` gives, for a casewise metric.

        Args:
            level: Confidence level in (0, 1).
            n_resamples: Number of resamples.
            seed: With a seed the interval is the same on all ranks and for any order of cases. Global random generators
                stay untouched in any case.

        Returns:
            Low and high, each shaped as the result of `compute`; nan without a scored case.

        Raises:
            ModuleNotFoundError: scipy, the extra "stats", is missing.
        """
        with self._synced():
            self._refuse()
            scores = self._shown_of(self._reading.observe(self._case_counts()[1]))
        low, high = confidence_interval(scores, level, n_resamples, seed)
        return self._publish(low), self._publish(high)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw bars per class by name, or with several values their curves over steps; needs matplotlib.

        Args:
            val: What `compute`, `forward` or `per_class` gave, or a sequence of such; by default `per_class()` for a
                metric with average "none", else `compute()`.
            ax: A matplotlib axis to draw on.

        Returns:
            Figure and axis.
        """
        vector = self._shown is not None and self._shown[1] is None and self._readout.average == "none"
        if val is None:
            val = self.per_class() if vector else self.compute()
        return draw(val, self.class_names, type(self).__name__, ax)

    def reset(self) -> None:
        """Forget all updates."""
        for name, blank in self._blank_states().items():
            if getattr(self._defaults[name], "dtype", None) != blank.dtype:  # a wrapper has cast it
                self._defaults[name] = blank
        super().reset()
        self._table = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Update, and give the score of this batch alone; nan for a malformed batch where validation is deferred."""
        before = self.__dict__.copy()
        self._in_forward, self._table_before = True, self._table
        try:
            return super().forward(*args, **kwargs)
        except BaseException:
            self.__dict__.update(before)
            raise
        finally:
            self._in_forward, self._table_before = False, None

    @contextmanager
    def sync_context(self, *args: Any, should_unsync: bool = True, **kwargs: Any) -> Generator[None, None, None]:
        """As `Metric.sync_context`, but also an exception inside leaves the metric unsynchronised."""
        self.sync(*args, **kwargs)
        try:
            yield
        finally:
            self.unsync(should_unsync=self._is_synced and should_unsync)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the counts of another metric, or of its `metric_state`, as if its updates had followed.

        Raises:
            ValueError: It counts otherwise (by other options than those of the read-out), or is no state.
        """
        if not isinstance(incoming_state, (dict, Metric)):
            raise ValueError(f"`incoming_state` must be a metric or a metric_state, got {type(incoming_state)}.")
        states = incoming_state.metric_state if isinstance(incoming_state, Metric) else incoming_state
        own = self._renamed(states)
        if self._ledger_name not in own:
            raise ValueError(f"`incoming_state` must hold {self._identity}, got the states {sorted(states)}.")
        later = {name: state.to(getattr(self, name).device) for name, state in own.items()}
        self._append(self._states, later)
        self._computed = None
        self._update_count += int(later[self._ledger_name][_ledger.UPDATES])

    def _copy_state_dict(self) -> dict[str, Any]:
        if self._in_forward and not self.dist_sync_on_step:  # set aside while a batch is by itself; nobody writes to it
            return self._states
        return super()._copy_state_dict()

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        self._append(incoming_state, self._states)

    def _append(self, earlier: dict[str, Any], later: dict[str, Any]) -> None:
        setattr(self, self._ledger_name, _ledger.append(earlier[self._ledger_name], later[self._ledger_name]))
        if self._reading.level == "casewise":
            table = self._table_of(earlier)
            table.add_table(later[self._rows_name], later[self._keys_name])
            self._show(table)

    def _sync_dist(self, dist_sync_fn: Callable[..., list[Tensor]], process_group: Any = None) -> None:  # type: ignore[override]
        group, ledger = process_group or self.process_group, getattr(self, self._ledger_name)
        if self._reading.level == "casewise":
            rows, keys = getattr(self, self._rows_name), getattr(self, self._keys_name)
            ledger, table = _exchange.merge_cases(ledger, rows, keys, dist_sync_fn, group)
            self._show(table)
        else:
            ledger = _exchange.add_ledgers(ledger, dist_sync_fn, group)
        setattr(self, self._ledger_name, ledger)

    def _wrap_update(self, update: Callable[..., None]) -> Callable[..., None]:
        counted = super()._wrap_update(update)

        @functools.wraps(update)
        def all_or_nothing(*args: Any, **kwargs: Any) -> None:
            before = self._update_count, self._computed
            try:
                counted(*args, **kwargs)
            except BaseException:
                self._update_count, self._computed = before
                raise

        return all_or_nothing

    def _filter_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        if self._reading.level != "casewise":  # a collection hands case ids to all its members
            kwargs.pop("case_ids", None)
        return super()._filter_kwargs(**kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ()) -> Any:
        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_dtype, exclude_state=[*exclude_state, self._keys_name])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        error_msgs = args[-1]
        found = {name[len(prefix) :]: name for name in state_dict if name.startswith(prefix + _PREFIX)}
        states = {name: state_dict.pop(full_name) for name, full_name in found.items()}
        own = self._renamed(states)
        if states and self._ledger_name not in own:
            error_msgs.append(f"The checkpoint must hold {self._identity}, got the states {sorted(states)}.")
        for name, state in own.items():
            current = getattr(self, name)
            state_dict[prefix + name] = state.to(current.device, current.dtype)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self._ledger_name in own:
            self._update_count = int(getattr(self, self._ledger_name)[_ledger.UPDATES])
            self._computed = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a state keeps its dtype, also where a wrapper casts it: it only moves."""
        current = self.__dict__.get(name) if name.startswith(_PREFIX) else None
        if current is not None and isinstance(value, Tensor) and value.dtype != current.dtype:
            value = current.to(value.device)
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """All but what can be made again."""
        return {**super().__getstate__(), "_table": None, "_table_before": None}

    @property
    def aggregation_level(self) -> AggregationLevel:
        """What one observation is."""
        return self._reading.level

    @property
    def average(self) -> Average | None:
        """How classes become one number; None for a score that has no such choice."""
        return self._readout.average

    @property
    def num_classes(self) -> int:
        """Classes or labels that are told apart; 1 for the binary task."""
        return self._reading.counting.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the scored classes, labels or regions, in the order of a result with average "none"."""
        return self._readout.names(self._reading.counting)

    @property
    def _readout(self) -> Readout:
        return self._reading.scores[0 if self._shown is None else self._shown[0]][1]

    @property
    def _label_names(self) -> tuple[str, ...]:
        """Names of the C labels for errors; empty where none were given."""
        return () if self._reading.counting.regions else self._readout.class_names or ()

    @property
    def _identity(self) -> str:
        """This metric's counts in words, for errors."""
        return f"counts {self._reading.fingerprint!r} of {self._reading.counting} at level {self._reading.level!r}"

    def _blank_states(self) -> dict[str, Tensor]:
        """The states of nothing, by name."""
        reading = self._reading
        states = {self._ledger_name: _ledger.empty(reading.summary_shape, reading.summary_dtype)}
        if reading.level == "casewise":
            states[self._rows_name] = torch.zeros(0, reading.counting.num_outputs, 4, dtype=reading.counts_dtype)
            states[self._keys_name] = torch.zeros(0, dtype=torch.int64, device="cpu")
        return states

    def _renamed(self, states: dict[str, Any]) -> dict[str, Any]:
        """The states that count as this metric does, whatever their validation mode, by this metric's names."""
        counts = f"{_PREFIX}{self._reading.fingerprint}_"
        own = {}
        for name, state in states.items():
            if name.startswith(counts):
                suffix = next((end for end in ("_rows", "_keys") if name.endswith(end)), "")
                own[self._ledger_name + suffix] = state
        return own

    def _cases_of(self, case_ids: Any, samples: int) -> list[int | str] | None:
        if self._reading.level == "casewise":
            return read_case_ids(case_ids, samples)
        if case_ids is not None:
            raise ValueError(
                f"`case_ids` belong to `aggregation_level='casewise'`, got them at {self._reading.level!r}."
            )
        return None

    @property
    def metric_state(self) -> dict[str, Any]:
        """The states by name; they stay as they are whatever comes."""
        self._table = None  # from now on somebody else may hold it
        return self._states

    @property
    def _states(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._defaults}

    def _table_of(self, states: dict[str, Any]) -> CaseTable:
        """The case table of some states, safe to write to.

        States are shared with the members of a compute group: a metric writes only to tensors that it made itself.
        """
        rows, keys = states[self._rows_name], states[self._keys_name]
        for table in (self._table, self._table_before):
            if table is not None and table.rows is rows and table.keys is keys:
                return table
        return CaseTable(rows, keys)

    def _show(self, table: CaseTable) -> None:
        self._table = table
        setattr(self, self._rows_name, table.rows)
        setattr(self, self._keys_name, table.keys)

    @contextmanager
    def _synced(self) -> Generator[None, None, None]:
        if self._is_synced:
            yield
            return
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync
        ):
            yield

    def _results(self) -> list[Result]:
        """Results of all scores of the reading from the current state."""
        self._refuse()
        if self._reading.level == "casewise":
            summary = self._case_counts()[1]
        else:
            summary = getattr(self, self._ledger_name)[_ledger.SUMMARY].reshape(self._reading.summary_shape)
        results = self._reading.conclude(summary)
        if self._in_forward and getattr(self, self._ledger_name)[_ledger.FAULTS].any():
            return [Result(*(torch.full_like(part, math.nan) for part in result)) for result in results]
        return results

    def _shown_of(self, results: list[Result]) -> Tensor:
        """The part of the results that `compute` gives, class axis last; all of it where nothing is chosen."""
        if self._shown is None:
            return torch.cat([part for r in results for part in (r.average.unsqueeze(-1), r.classes)], dim=-1)
        which, index = self._shown
        if index is not None:
            return results[which].classes[..., index]
        return results[which].classes if self._readout.average == "none" else results[which].average

    def _per_case(self, columns: Sequence[tuple[str, int]], worst_first: bool) -> list[dict[str, Any]]:
        """Rows by case with the given columns: their names, and which scores of the reading they hold."""
        reading = replace(self._reading, scores=tuple(self._reading.scores[which] for _, which in columns))
        with self._synced():
            self._refuse()
            return case_rows(reading, *self._case_counts(), [name for name, _ in columns], worst_first)

    def _refuse(self) -> None:
        """Raise what is wrong with the current state."""
        ledger, size = getattr(self, self._ledger_name), self._reading.counting.num_classes
        complaint = _ledger.complaint(ledger, size, self._label_names)
        if complaint and not self._in_forward:
            raise ValueError(complaint)

    def _case_counts(self) -> tuple[list[int | str], Tensor]:
        """Case ids and their counts `(cases, K, 4)` on the CPU."""
        if self._reading.level != "casewise":
            raise ValueError(
                f"Cases are known at `aggregation_level='casewise'` alone, not at {self._reading.level!r}."
            )
        cases = spelled_cases(getattr(self, self._keys_name))
        return cases, getattr(self, self._rows_name)[: len(cases)].cpu()

    def _publish(self, value: Tensor) -> Tensor:
        return value.to(self.device, torch.get_default_dtype())


_PREFIX = "overlap_"
