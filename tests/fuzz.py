"""Random data, options, splits, levels and backends against the oracle, and malformed data against its refusal.

`python tests/fuzz.py --minutes 30` draws cases 0, 1, 2, ... and stops by itself; `--seed` says where to start,
`--cases` how many to draw, `--case SEED` repeats one. Each failure prints a reproducer; then the exit status is 1.
"""

from __future__ import annotations

import argparse
import itertools
import os
import pickle
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from math import inf
from typing import Any
from unittest import mock

import numpy as np
import oracle
import torch
from cases import CLASS_SUFFIX, FUNCTION, Batch, concatenate, expected, oracle_counts, to_numpy
from fuzz_data import LAYOUTS, MARKED, draw_batch, draw_counting, draw_wrong, holds, laid_out, void_values
from torch import Tensor

import torchmetrics_dice_ext as tde
from torchmetrics_dice_ext import functional

SUFFIX = {**CLASS_SUFFIX, "soft_dice": "SoftDiceScore"}
FUNCTIONS = {**FUNCTION, "soft_dice": "soft_dice_score"}
LEVELS = ("global", "samplewise", "casewise")
MOST_TEXT = 4000  # characters of a reproducer that spells its tensors


@dataclass(frozen=True)
class Case:
    """A data set and the options to score it: all that a check looks at, so that its literal repeats a failure.

    `wrong` is a batch that has to be refused; `repaired` is what is left of it where it is counted nevertheless, None
    where it can't be counted at all.
    """

    task: str
    score: str
    batches: tuple[Batch, ...]
    counting: dict[str, Any] = field(default_factory=dict)
    readout: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    level: str = "global"
    ids: str = "strings"
    validate_args: bool | str = True
    layout: str = "contiguous"
    backends: tuple[str, ...] = ("reference",)
    plan: int = 0
    wrong: Batch | None = None
    repaired: Batch | None = None

    @property
    def options(self) -> dict[str, Any]:
        return {**self.counting, **self.readout, **self.parameters, "aggregation_level": self.level}

    @property
    def soft(self) -> bool:
        return self.score == "soft_dice"

    def metric(self, **options: Any) -> Any:
        return getattr(tde, SUFFIX[self.score])(task=self.task, **{**self.options, **options})

    def case_ids(self, first: int, batch: Batch) -> Any:
        """Ids of the samples of a batch, of which the first is the `first` of all."""
        numbers = [(first + n) * 5 % 3 for n in range(len(batch.target))]
        if self.ids == "tensor":
            return torch.tensor(numbers, dtype=torch.int64)
        return [f"case {n}" for n in numbers] if self.ids == "strings" else numbers

    @cached_property
    def pieces(self) -> list[tuple[Batch, Any]]:
        """The batches as they lie in memory, with their case ids."""
        firsts = itertools.accumulate((len(batch.target) for batch in self.batches), initial=0)
        return [(laid_out(b, self.layout), self.case_ids(n, b)) for b, n in zip(self.batches, firsts, strict=False)]

    def truth(self, batch: Batch, background: bool = False) -> oracle.Counts:
        void = [value for value in void_values(self.counting) if holds(torch.int64, value)]
        options = {**self.counting, "ignore_index": [*void, MARKED]}
        if not self.soft:
            return oracle_counts(self.task, batch, options, background)
        keys = ("num_classes", "class_dim", "from_logits", "ignore_index")
        kept = {key: options[key] for key in keys if key in options} | self.parameters
        mask = None if batch.mask is None else to_numpy(batch.mask)
        with np.errstate(invalid="ignore"):
            preds, target = to_numpy(batch.preds), to_numpy(batch.target)
            return oracle.soft_counts(preds, target, task=self.task, target_kind=batch.target_kind, mask=mask, **kept)

    def wanted(self, batches: Iterable[Batch], **readout: Any) -> np.ndarray:
        """The oracle's result for batches that follow each other."""
        readout = {**self.readout, "aggregation_level": self.level, **readout}
        name = "generalized_dice" if self.score == "generalized_dice" and readout.get("average") != "none" else "dice"
        name = self.score if self.score not in ("generalized_dice", "soft_dice") else name
        counts = [self.truth(b, self.task == "binary" and name == "generalized_dice") for b in batches]
        firsts = itertools.accumulate((len(batch.target) for batch in batches), initial=0)
        ids = [str(i) for b, n in zip(batches, firsts, strict=False) for i in self.case_ids(n, b)]
        parameters = {} if name == "dice" else self.parameters
        return expected(name, self.task, concatenate(counts), self.counting, {**readout, **parameters}, tuple(ids))


# Checks


def feed(metric: Any, case: Case, batch: Batch, ids: Any, forward: bool = False) -> None:
    extra = {"case_ids": ids} if case.level == "casewise" else {}
    (metric if forward else metric.update)(batch.preds, batch.target, mask=batch.mask, **extra)


def fed(metric: Any, case: Case, pieces: Iterable[tuple[Batch, Any]]) -> Any:
    for batch, ids in pieces:
        feed(metric, case, batch, ids)
    return metric


def call(case: Case, batch: Batch, ids: Any) -> Tensor:
    extra = {"case_ids": ids} if case.level == "casewise" else {}
    function = getattr(functional, FUNCTIONS[case.score])
    return function(batch.preds, batch.target, case.task, mask=batch.mask, **case.options, **extra)


def use(backend: str) -> None:
    os.environ["TORCHMETRICS_DICE_EXT_BACKEND"] = backend


def assert_score(case: Case, result: Tensor, wanted: Any, of: str) -> None:
    got, wanted = np.atleast_1d(to_numpy(result)), np.atleast_1d(wanted)
    assert result.dtype == torch.get_default_dtype(), f"{of}: {result.dtype}"
    assert ((got >= 0) & (got <= 1) | np.isnan(got)).all(), f"{of}: {got} is outside [0, 1]"
    close = got.shape == wanted.shape and np.allclose(
        got, wanted, rtol=0, atol=1e-5 if case.soft else 1e-9, equal_nan=True
    )
    assert close, f"{of}: got {got.tolist()}, wanted {wanted.tolist()}"


def assert_same(case: Case, result: Tensor, first: Tensor, of: str) -> None:
    """The same bits; soft sums may be rounded otherwise."""
    got, wanted = to_numpy(result), to_numpy(first)
    same = np.allclose(got, wanted, 0, 1e-6, equal_nan=True) if case.soft else np.array_equal(got, wanted, True)
    assert (same, got.shape) == (True, wanted.shape), f"{of}: got {got.tolist()}, before {wanted.tolist()}"


def check_counts(case: Case) -> None:
    """Every backend counts as the oracle does, also what is left of a malformed batch that nobody refuses."""
    pairs = [] if case.soft else [(batch, batch, True) for batch in case.batches]
    if case.wrong is not None and case.repaired is not None and not case.soft:
        pairs.append((case.wrong, case.repaired, False))
    for (batch, counted, checked), backend in itertools.product(pairs, case.backends):
        use(backend)
        seen = laid_out(batch, case.layout)
        got = functional.overlap_counts(
            seen.preds, seen.target, case.task, mask=seen.mask, validate_args=checked, **case.counting
        )
        for name, ours, theirs in zip(got._fields, got, case.truth(counted), strict=True):
            assert ours.dtype == torch.int64
            assert np.array_equal(ours, theirs), f"{name} of {backend}: {ours.tolist()}, wanted {theirs.tolist()}"


def check_score(case: Case) -> None:
    """Function, metric, report and the scores of classes give the oracle's score."""
    of_one = call(case, *case.pieces[0])
    assert_score(case, of_one, case.wanted(case.batches[:1]), "function")
    assert_same(case, fed(case.metric(), case, case.pieces[:1]).compute(), of_one.squeeze(), "metric of one batch")
    metric = fed(case.metric(validate_args=case.validate_args), case, case.pieces)
    assert_score(case, metric.compute(), case.wanted(case.batches), "metric")
    assert_score(
        case, torch.stack([*metric.per_class().values()]), case.wanted(case.batches, average="none"), "classes"
    )
    if case.soft or case.plan % 4:
        return
    report = tde.OverlapReport(
        case.task, [(case.score, case.parameters)], **case.counting, **case.readout, aggregation_level=case.level
    )
    result = fed(report, case, case.pieces).compute()
    for name, value in metric.per_class().items():
        key = case.score if case.task == "binary" else f"{case.score}/{name}"
        if (case.task, case.score) != ("binary", "generalized_dice"):
            assert_same(case, result.pop(key), value, f"report {key}")
    for key, value in result.items():
        assert_same(case, value, metric.compute(), f"report {key}")


def check_splits(case: Case) -> None:
    """Any split, order, backend, number of ranks and way to feed a metric gives the same bits."""
    r = random.Random(case.plan)
    whole = fed(case.metric(), case, case.pieces)
    parts = []
    for batch, ids in case.pieces:
        samples = len(batch.target)
        if r.random() < 0.5:
            order = r.sample(range(samples), samples)
            batch, ids = cut(batch, order), ids[order] if case.ids == "tensor" else [ids[n] for n in order]
        edges = sorted({0, samples, *(r.randint(0, samples) for _ in range(r.randint(0, 3)))})
        spans = [slice(a, b) for a, b in itertools.pairwise(edges)] or [slice(0, samples)]
        parts += [(cut(batch, span), ids[span]) for span in spans]
    r.shuffle(parts)
    ranks = [case.metric(validate_args=r.choice((True, False, "eager", "deferred"))) for _ in range(r.randint(1, 3))]
    for batch, ids in parts:
        use(r.choice(case.backends))
        rank = r.randrange(len(ranks))
        feed(ranks[rank], case, batch, ids, forward=r.random() < 0.3)
        if r.random() < 0.1:
            ranks[rank] = pickle.loads(pickle.dumps(ranks[rank]))
    r.shuffle(ranks)
    for other in ranks[1:]:
        ranks[0].merge_state(other if r.random() < 0.5 else other.metric_state)
    assert ranks[0].update_count == len(parts)
    assert_same(case, ranks[0].compute(), whole.compute(), f"{len(parts)} parts on {len(ranks)} ranks")


def cut(batch: Batch, samples: Any) -> Batch:
    mask = None if batch.mask is None else batch.mask[samples]
    return replace(batch, preds=batch.preds[samples], target=batch.target[samples], mask=mask)


def check_refusal(case: Case) -> None:
    """Eager: nothing happened. Deferred: compute refuses until reset. Off: the rest is counted."""
    if case.wrong is None:
        return
    wrong = case.wrong if case.repaired is None else laid_out(case.wrong, case.layout)
    ids = case.case_ids(sum(batch.num_samples for batch in case.batches), case.batches[-1])
    eager, deferred, off = (
        fed(case.metric(validate_args=mode), case, case.pieces) for mode in ("eager", "deferred", False)
    )
    result, before = eager.compute(), pickle.dumps((eager.metric_state, eager.update_count))
    for forward in (False, True):
        assert refuses(feed, eager, case, wrong, ids, forward), "taken by an eager metric"
        assert pickle.dumps((eager.metric_state, eager.update_count)) == before, "an eager refusal leaves traces"
    eager._computed = None
    assert_same(case, eager.compute(), result, "after an eager refusal")
    assert refuses(call, case, wrong, ids), "taken by a function"
    if case.repaired is None:
        assert refuses(feed, deferred, case, wrong, ids), "taken by a deferred metric"
        assert refuses(feed, off, case, wrong, ids), "taken without validation"
        return
    feed(deferred, case, wrong, ids)
    assert all(refuses(deferred.compute) for _ in range(2)), "computed by a deferred metric"
    deferred.reset()
    assert_same(case, fed(deferred, case, case.pieces).compute(), result, "after a deferred refusal and reset")
    feed(off, case, wrong, ids)
    assert_score(case, off.compute(), case.wanted((*case.batches, case.repaired)), "without validation")


def refuses(function: Any, *args: Any, **options: Any) -> bool:
    """Whether a call raises what says which argument is wrong."""
    try:
        function(*args, **options)
    except (ValueError, TypeError) as error:
        return any(f"`{name}`" in str(error) for name in ("preds", "target", "mask"))
    return False


CHECKS = {"counts": check_counts, "score": check_score, "splits": check_splits, "refusal": check_refusal}


def check(name: str, case: Case) -> None:
    """One check of one case; raises what is wrong."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.dict(os.environ):
            use(case.backends[0])
            CHECKS[name](case)
    finally:
        torch.set_default_dtype(before)


# Drawing


def draw_case(seed: int, backends: tuple[str, ...]) -> tuple[Case, str]:
    """A case, and what is wrong in its malformed batch if it has one."""
    r, g = random.Random(seed), torch.Generator().manual_seed(seed)
    task, score = r.choice(("binary", "multiclass", "multiclass", "multilabel")), r.choice(list(SUFFIX))
    soft, axes = score == "soft_dice", r.choice((0, 1, 1, 2, 2, 3))
    counting = draw_counting(r, task, soft, axes)
    size = counting.get("num_classes", counting.get("num_labels", 1))
    batches = [draw_batch(r, g, task, counting, draw_space(r, axes, size), soft) for _ in range(r.choice((1, 1, 2, 3)))]
    readout: dict[str, Any] = {"zero_division": r.choice(("nan", "nan", 0.0, 1.0, r.random()))}
    if task != "binary" and score != "generalized_dice":
        readout["average"] = r.choice(("macro", "micro", "weighted", "none"))
    if task == "multiclass" and "regions" not in counting and r.random() < 0.3:
        readout["include_background"] = False
    spoiled = draw_wrong(r, batches[-1], task, counting, soft) if r.random() < 0.3 else None
    what, wrong, repaired = spoiled or ("", None, None)
    voxels = sum(batch.target.numel() for batch in batches)
    slow = r.random() < 0.1 and voxels < 300  # Triton's interpreter
    case = Case(
        task, score, tuple(batches), counting, readout, draw_parameters(r, score),
        level=r.choice(LEVELS), ids=r.choice(("strings", "ints", "tensor")),
        validate_args=r.choice((True, "eager", "deferred", False)), layout=r.choice(LAYOUTS),
        backends=tuple(name for name in backends if slow or name != "triton"), plan=r.randrange(10**6),
        wrong=wrong, repaired=repaired,
    )  # fmt: skip
    return case, what


def draw_parameters(r: random.Random, score: str) -> dict[str, Any]:
    if score == "fbeta":
        return {"beta": r.choice((1.0, 2.0, r.uniform(1e-3, 1e3)))}
    if score == "tversky":
        return {"alpha": r.choice((0.0, 0.3, 1.0, r.uniform(0, 10))), "beta": r.choice((0.7, r.uniform(1e-3, 10)))}
    if score == "generalized_dice":
        return {"weight_type": r.choice(("square", "simple", "linear"))}
    return {"squared": r.random() < 0.5} if score == "soft_dice" else {}


def draw_space(r: random.Random, axes: int, size: int) -> tuple[int, ...]:
    """(N, *S): mostly small and odd, at times empty or longer than a tile."""
    if axes == 1 and r.random() < 0.05:
        return r.choice((1, 2)), r.choice((63, 511, 513, 2051)) // (1 + size // 4)
    space = [r.choice((1, 1, 2, 3, 4, 7)), *(r.choice((1, 2, 3, 5, 7, 8)) for _ in range(axes))]
    if r.random() < 0.05:
        space[r.randrange(len(space))] = 0
    while np.prod(space) * size > 2000:
        space[space.index(max(space))] //= 2
    return tuple(space)


# Failures


def failure(name: str, case: Case) -> str | None:
    """What a check says about a case; None where nothing is wrong."""
    try:
        check(name, case)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def smaller(name: str, case: Case) -> Iterator[Case]:
    """Simpler cases: fewer batches, samples and voxels, fewer options."""
    if case.wrong is not None and name != "refusal":
        yield replace(case, wrong=None, repaired=None)
    for n in range(len(case.batches) if len(case.batches) > 1 else 0):
        yield replace(case, batches=case.batches[:n] + case.batches[n + 1 :])
    if len(case.backends) > 1:
        yield from (replace(case, backends=(backend,)) for backend in case.backends)
    plain = {"layout": "contiguous", "level": "global", "ids": "ints", "readout": {}, "validate_args": True, "plan": 0}
    for key, value in plain.items():
        if getattr(case, key) != value:
            yield replace(case, **{key: value})
    for n, batch in enumerate(case.batches):
        for axis in range(1 + (batch.spatial_ndim or 0)):
            for half in halves(case, batch, axis):
                yield replace(case, batches=(*case.batches[:n], half, *case.batches[n + 1 :]))


def halves(case: Case, batch: Batch, axis: int) -> Iterator[Batch]:
    """Both halves of a batch along an axis of its space (N, *S)."""
    found = {}
    for half in (0, 1):
        for name, kind in (("preds", batch.preds_kind), ("target", batch.target_kind), ("mask", "mask")):
            tensor = getattr(batch, name)
            if tensor is None:
                continue
            axes = list(range(tensor.ndim))
            if len(axes) > 1 + (batch.spatial_ndim or 0):
                channels = (kind in ("scores", "one-hot") and case.task == "multiclass") or case.task == "multilabel"
                axes.pop(case.counting.get("class_dim", 1) if channels and kind != "mask" else 1)
            middle = tensor.shape[axes[axis]] // 2
            if middle == 0:
                return
            length = tensor.shape[axes[axis]] - middle if half else middle
            found[name] = tensor.narrow(axes[axis], middle if half else 0, length).contiguous()
        yield replace(batch, **found)


def shrink(name: str, case: Case) -> Case:
    """The case with all left out that its failure doesn't need."""
    while (less := next((c for c in smaller(name, case) if failure(name, c)), None)) is not None:
        case = less
    return case


def literal(value: Any) -> str:
    """Python code for a case and all that it holds."""
    if isinstance(value, Tensor):
        code = f"torch.tensor({value.tolist()}, dtype={value.dtype})"
        return code if value.numel() else f"torch.zeros({tuple(value.shape)}, dtype={value.dtype})"
    if isinstance(value, np.ndarray):
        return f"{literal(torch.from_numpy(value))}.numpy()"
    if isinstance(value, tuple):
        return f"({''.join(f'{literal(entry)}, ' for entry in value).rstrip(' ')})"
    if isinstance(value, (Batch, Case)):
        inner = ", ".join(f"{f.name}={literal(getattr(value, f.name))}" for f in fields(value))
        return f"{type(value).__name__}({inner})"
    return repr(value)


def reproducer(name: str, case: Case) -> str:
    """A few lines that fail as the case does, to be run in this directory."""
    imports = "from math import inf, nan\nimport torch\nfrom fuzz import Batch, Case, check\n"
    code = f"{imports}check({name!r}, {literal(case)})"
    return code if len(code) < MOST_TEXT else f"# too large to be spelled: {len(code)} characters"


# Running


def features(case: Case, what: str) -> Iterator[str]:
    """What a case shows, for the tally."""
    yield from (f"task: {case.task}", f"score: {case.score}", f"level: {case.level}", f"layout: {case.layout}")
    yield from (f"backend: {name}" for name in case.backends)
    yield from (f"option: {key}" for key in case.options if key not in ("num_classes", "num_labels"))
    yield f"average: {case.readout.get('average')}"
    yield f"validate_args: {case.validate_args}"
    for batch in case.batches:
        yield f"axes: {batch.spatial_ndim}"
        yield f"preds: {batch.preds_kind}"
        yield from (f"dtype: {str(dtype).removeprefix('torch.')}" for dtype in {batch.preds.dtype, batch.target.dtype})
        yield f"target: {batch.target_kind}"
        yield from ["mask: yes"] * (batch.mask is not None) + ["empty: yes"] * (not batch.target.numel())
    if case.wrong is not None:
        yield f"malformed: {what.partition(' hold')[0]}"


def fuzz(seeds: Iterable[int], backends: tuple[str, ...], seconds: float = inf) -> int:
    """Draw and check cases until time is up; how many failed."""
    start, cases, failed = time.monotonic(), 0, 0
    tally: Counter[str] = Counter()
    for seed in seeds:
        if time.monotonic() - start > seconds:
            break
        case, what = draw_case(seed, backends)
        found = [name for name in CHECKS if failure(name, case)]
        if found:
            name = found[0]
            least = shrink(name, case)
            print(f"\nFAILED: {', '.join(found)} of case {seed}. {failure(name, least)}")
            print(f"# python tests/fuzz.py --case {seed}")
            print(reproducer(name, least), flush=True)
        cases, failed = cases + 1, failed + bool(found)
        tally.update(set(features(case, what)))
    spent = time.monotonic() - start
    groups = itertools.groupby(sorted(tally), key=lambda feature: feature.partition(": ")[0])
    for group, names in groups:
        print(f"{group}: " + ", ".join(f"{name.partition(': ')[2]} {tally[name]}" for name in names))
    print(f"{cases} cases in {spent:.0f} s, {cases / max(spent, 1e-9):.1f} a second: {failed} failed.")
    return failed


def usable_backends() -> tuple[str, ...]:
    """The backends that count a small tensor on the CPU here."""
    found = []
    for name in ("reference", "cpu", "triton"):
        use(name)
        try:
            functional.overlap_counts(torch.ones(1, 2), torch.ones(1, 2), "binary")
        except (RuntimeError, ImportError) as error:
            print(f"without {name}: {error}")
        else:
            found.append(name)
    return tuple(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=inf)
    parser.add_argument("--cases", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int)
    options = parser.parse_args()
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when its backend is imported
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    seeds: Iterable[int] = itertools.count(options.seed)
    if options.cases is not None:
        seeds = itertools.islice(seeds, options.cases)
    if options.case is not None:
        seeds = [options.case]
    sys.exit(bool(fuzz(seeds, usable_backends(), 60 * options.minutes)))


if __name__ == "__main__":
    main()
