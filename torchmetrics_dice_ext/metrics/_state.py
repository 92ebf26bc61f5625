"""Floor 5: the state of a metric: how it is named, kept, added to, exchanged between processes, saved and loaded.

The NAME of a state carries a fingerprint of what is counted: torchmetrics compares names when it forms compute groups,
and looks states up by name when it loads or merges, so that only metrics that count alike share, load or merge.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from torchmetrics_dice_ext._cases import CaseTable
from torchmetrics_dice_ext._observations import Reading
from torchmetrics_dice_ext._options import ValidateArgs, validation_mode
from torchmetrics_dice_ext.metrics import _exchange, _ledger


class CountState(Metric):
    """What metrics have seen of a reading: one vector (`_ledger`); casewise also one row of counts per case (`_cases`).

    Args:
        reading: What is counted.
        validate_args: When malformed values are refused.
        **kwargs: Metric's own options.
    """

    def __init__(self, reading: Reading, validate_args: ValidateArgs, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._reading, self.validate_args = reading, validation_mode(validate_args)
        self._table: CaseTable | None = None  # the table that this metric may write to, see `_table_of`
        self._table_before: CaseTable | None = None  # that of the updates before the one that `forward` is at
        self._in_forward = False
        prefix = f"{_PREFIX}{reading.fingerprint}_{self.validate_args}".lower()
        self._ledger_name, self._rows_name, self._keys_name = prefix, f"{prefix}_rows", f"{prefix}_keys"
        for name, state in self._blank_states().items():
            self.add_state(name, state, dist_reduce_fx=_ledger.add if name == self._ledger_name else None)

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
        if self.dist_sync_on_step:  # the whole state is set aside, and may have to be taken back
            self._table = None
        self._in_forward, self._table_before = True, self._table
        try:
            return super().forward(*args, **kwargs)
        except BaseException:
            self.__dict__.update(before)
            raise
        finally:
            self._in_forward, self._table_before = False, None

    @contextmanager
    def sync_context(
        self,
        dist_sync_fn: Callable[..., Any] | None = None,
        process_group: Any = None,
        should_sync: bool = True,
        should_unsync: bool = True,
        distributed_available: Callable[..., bool] | None = None,
    ) -> Generator[None, None, None]:
        """As `Metric.sync_context`, but also an exception inside leaves the metric unsynchronised."""
        self.sync(dist_sync_fn, process_group, should_sync, distributed_available)
        try:
            yield
        finally:
            self.unsync(should_unsync=self._is_synced and should_unsync)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the counts of another metric, or of its `metric_state`, as if its updates had followed.

        Raises:
            ValueError: It counts otherwise (by other options than those of the read-out), or is no state.
            TorchMetricsUserError: This metric is synchronised.
        """
        if self._is_synced:
            raise TorchMetricsUserError("A metric can't be added to while it is synchronised: call `unsync` first.")
        if not isinstance(incoming_state, (dict, Metric)):
            raise ValueError(f"`incoming_state` must be a metric or a metric_state, got {type(incoming_state)}.")
        states = incoming_state.metric_state if isinstance(incoming_state, Metric) else incoming_state
        own = self._renamed(states)
        misfit = self._misfit(own)
        if misfit is not None:
            came = (
                incoming_state._identity if isinstance(incoming_state, CountState) else f"the states {sorted(states)}"
            )
            raise ValueError(f"`incoming_state` must hold {self._identity}, got {came}{misfit}.")
        later = {name: state.to(getattr(self, name).device) for name, state in own.items()}
        self._append(self._states, later)
        self._computed = None
        self._update_count += int(later[self._ledger_name][_ledger.UPDATES])

    @property
    def metric_state(self) -> dict[str, Any]:
        """The states by name; they stay as they are whatever comes."""
        self._table = None  # from now on somebody else may hold it
        return self._states

    @property
    def _states(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._defaults}

    def _blank_states(self) -> dict[str, Tensor]:
        """The states of nothing, by name."""
        reading = self._reading
        states = {self._ledger_name: _ledger.empty(reading.summary_shape, reading.summary_dtype)}
        if reading.level == "casewise":
            states[self._rows_name] = torch.zeros(0, reading.counting.num_outputs, 4, dtype=reading.counts_dtype)
            states[self._keys_name] = torch.zeros(0, dtype=torch.int64, device="cpu")
        return states

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

    def _append(self, earlier: dict[str, Any], later: dict[str, Any]) -> None:
        setattr(self, self._ledger_name, _ledger.append(earlier[self._ledger_name], later[self._ledger_name]))
        if self._reading.level == "casewise":
            table = self._table_of(earlier)
            table.add_table(later[self._rows_name], later[self._keys_name])
            self._show(table)

    def _copy_state_dict(self) -> dict[str, Any]:
        if self._in_forward and not self.dist_sync_on_step:  # set aside while a batch is by itself; nobody writes to it
            return self._states
        return super()._copy_state_dict()

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        self._append(incoming_state, self._states)

    def _sync_dist(self, dist_sync_fn: Callable[..., list[Tensor]], process_group: Any = None) -> None:  # type: ignore[override]
        group, ledger = process_group or self.process_group, getattr(self, self._ledger_name)
        if self._reading.level == "casewise":
            rows, keys = getattr(self, self._rows_name), getattr(self, self._keys_name)
            ledger, table = _exchange.merge_cases(ledger, rows, keys, dist_sync_fn, group)
            self._show(table)
        else:
            ledger = _exchange.add_ledgers(ledger, dist_sync_fn, group)
        setattr(self, self._ledger_name, ledger)

    @contextmanager
    def _synced(self) -> Generator[None, None, None]:
        if self._is_synced:
            yield
            return
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync
        ):
            yield

    def _renamed(self, states: dict[str, Any]) -> dict[str, Any]:
        """The states that count as this metric does, whatever their validation mode, by this metric's names."""
        matches = ((_STATE.fullmatch(name), state) for name, state in states.items())
        alike = ((match, state) for match, state in matches if match and match[1] == self._reading.fingerprint)
        return {self._ledger_name + (match[2] or ""): state for match, state in alike}

    def _misfit(self, own: dict[str, Any]) -> str | None:
        """What is wrong with states by this metric's names; None where they can be added or loaded."""
        for name, blank in self._blank_states().items():
            state = own.get(name)
            if not isinstance(state, Tensor):
                return f", where {name!r} is no tensor" if own else ""
            growing = name != self._ledger_name
            if state.dtype != blank.dtype or state.shape[growing:] != blank.shape[growing:]:
                return f", where {name!r} has shape {tuple(state.shape)} of {state.dtype}"
        return None

    @property
    def _identity(self) -> str:
        """This metric's counts in words, for errors."""
        return f"counts {self._reading.fingerprint!r} of {self._reading.counting} at level {self._reading.level!r}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        error_msgs = args[-1]
        found = {name[len(prefix) :]: name for name in state_dict if name.startswith(prefix + _PREFIX)}
        states = {name: state_dict.pop(full_name) for name, full_name in found.items()}
        own = self._renamed(states)
        misfit = self._misfit(own) if states else None
        if misfit is not None:
            message = f"The checkpoint must hold {self._identity}, got the states {sorted(states)}{misfit}."
            error_msgs += [message] * (message not in error_msgs)  # once for all members of a report
            own = {}
        for name, state in own.items():
            state_dict[prefix + name] = state.to(getattr(self, name).device)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if own:
            self._update_count = int(getattr(self, self._ledger_name)[_ledger.UPDATES])
            self._computed = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a state keeps its dtype, also where a wrapper casts it: it only moves.

        Raises:
            ValueError: A compute group hands on the state of a metric that counts or validates otherwise.
        """
        if _STATE.fullmatch(name):
            if not name.startswith(self._ledger_name):
                raise ValueError(
                    f"A compute group must hold metrics that count and validate alike; this one keeps"
                    f" {self._identity} with validate_args={self.validate_args!r}."
                )
            current = self.__dict__.get(name)
            if current is not None and isinstance(value, Tensor) and value.dtype != current.dtype:
                value = current.to(value.device)
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """All but what can be made again; a copy may share the states, which are then no longer this metric's own."""
        self._table = None
        return {**super().__getstate__(), "_table": None, "_table_before": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ()) -> Any:
        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_dtype, exclude_state=[*exclude_state, self._keys_name])

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


_PREFIX = "overlap_"
_STATE = re.compile(rf"{_PREFIX}([0-9a-f]{{16}})_(?:true|false|eager|deferred)(_rows|_keys)?")
