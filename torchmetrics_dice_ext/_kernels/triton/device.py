"""Floor 1: what the Triton backend runs on the device; importing this imports triton.

Both kernels read every input once and add whole numbers only, so no order of programs or threads can change a result.
A program takes every `programs`-th tile of one sample, keeps its counts on the chip, and adds them to the outputs once.

Spatial axes come innermost first; there are up to three. `strides` are those of the sample axis, the class axis and
the spatial axes. Arguments in capitals are constants of the compiled program.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: N803

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _offsets(index, sizes, strides, WIDE: tl.constexpr):
    """Where voxels lie, given their int64 number within the sample."""
    if len(sizes) == 1:
        offsets = index * strides[2]
    else:
        rest = index if WIDE else index.to(tl.int32)
        offsets = (rest % sizes[0]).to(tl.int64) * strides[2]
        rest = rest // sizes[0]
        if len(sizes) == 3:
            offsets += (rest % sizes[1]).to(tl.int64) * strides[3]
            rest = rest // sizes[1]
        offsets += rest.to(tl.int64) * strides[len(sizes) + 1]
    return offsets


@triton.jit
def _tiles(voxels, BLOCK: tl.constexpr):
    """How many tiles hold so many voxels."""
    return tl.cdiv(tl.cast(voxels, tl.int64), BLOCK)  # int32 voxels just below 2^31 would overflow


@triton.jit
def _number(values):
    """The same values in a dtype that is compared fast, with constants too; uint64 wraps around as in PyTorch."""
    dtype: tl.constexpr = values.dtype
    if dtype.is_floating():
        if dtype.primitive_bitwidth < 32:
            values = values.to(tl.float32)
    elif dtype.primitive_bitwidth < 32:
        values = values.to(tl.int32)
    elif (dtype == tl.uint32) or (dtype == tl.uint64):
        values = values.to(tl.int64)
    return values


@triton.jit
def _is_any(values, CONSTANTS: tl.constexpr):
    """Where values are among the constants; these must fit the dtype."""
    found = tl.zeros(values.shape, tl.int1)
    for i in tl.static_range(len(CONSTANTS)):
        found = found | (values == tl.full((), CONSTANTS[i], values.dtype))
    return found


@triton.jit
def _fractions(values):
    """Where values are no whole numbers, NaN among them; none in an integer dtype."""
    return values != tl.floor(values) if values.dtype.is_floating() else tl.zeros(values.shape, tl.int1)


# One side of a voxel: int32 labels, and where they are wrong.


@triton.jit
def _take_better(best, label, value, c):
    """Let class `c` win where its value is larger; NaN stays the best for good."""
    label = tl.where(value > best, c, label)
    if best.dtype == tl.float64:
        best = tl.where((value > best) | (value != value), value, best)
    else:
        best = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
    return best, label


@triton.jit
def _read_scores(pointers, inside, stride, SIZE: tl.constexpr, STEP: tl.constexpr = 8):
    """The first maximum; wrong where there is a NaN. Threads lie side by side along the voxels.

    The loop over few classes is written out whole, over many it is written out for STEP classes.
    """
    best = _number(tl.load(pointers, mask=inside, other=0.0))
    label = tl.zeros(best.shape, tl.int32)
    written: tl.constexpr = SIZE - 1 if SIZE <= 32 else (SIZE - 1) % STEP
    for c in tl.static_range(1, 1 + written):
        value = _number(tl.load(pointers + c * stride, mask=inside, other=0.0))
        best, label = _take_better(best, label, value, c)
    for start in range(1 + written, SIZE, STEP):
        for step in tl.static_range(STEP):
            value = _number(tl.load(pointers + (start + step) * stride, mask=inside, other=0.0))
            best, label = _take_better(best, label, value, start + step)
    return label, best != best


@triton.jit
def _read_score_rows(pointers, inside, stride, SIZE: tl.constexpr, ROW: tl.constexpr):
    """The first maximum; wrong where there is a NaN. Threads lie side by side along ROW classes.

    Scores of up to 32 bits become the upper halves of integers in the same order, NaN above all, and the class the
    lower half, the first one above the others: one maximum says it all.
    """
    if pointers.dtype.element_ty != tl.float64:
        top = tl.full(inside.shape, -(2**63), tl.int64)
        for start in range(0, SIZE, ROW):
            c = start + tl.arange(0, ROW)
            held = inside[:, None] & (c < SIZE)[None, :]
            value = _number(tl.load(pointers[:, None] + (c * stride)[None, :], mask=held, other=float("-inf")))
            bits = tl.where(value == 0, 0.0, value).to(tl.int32, bitcast=True)  # -0.0 is no less than 0.0
            order = tl.where(value != value, 0x7FFFFFFF, bits ^ ((bits >> 31) & 0x7FFFFFFF))
            top = tl.maximum(top, tl.max((order.to(tl.int64) << 32) | (0x7FFFFFFF - c)[None, :], axis=1))
        return 0x7FFFFFFF - (top & 0x7FFFFFFF).to(tl.int32), (top >> 32) == 0x7FFFFFFF
    best = tl.full(inside.shape, float("-inf"), tl.float64)
    label = tl.zeros(inside.shape, tl.int32)
    wrong = tl.zeros(inside.shape, tl.int1)
    for start in range(0, SIZE, ROW):
        c = start + tl.arange(0, ROW)
        held = inside[:, None] & (c < SIZE)[None, :]
        value = _number(tl.load(pointers[:, None] + (c * stride)[None, :], mask=held, other=float("-inf")))
        nan = value != value
        wrong = wrong | (tl.max(nan.to(tl.int32), axis=1) > 0)
        highest, place = tl.max(tl.where(nan, float("-inf"), value), axis=1, return_indices=True)
        label = tl.where(highest > best, start + place, label)
        best = tl.maximum(best, highest)
    return label, wrong


@triton.jit
def _take_entry(label, ones, wrong, value, c):
    """Take the entry of class `c`: the first 1, how many there are, and whether something is neither 1 nor 0."""
    one = value == 1
    label = tl.where(one & (ones == 0), c, label)
    return label, ones + one.to(tl.int32), wrong | ((value != 0) & (value != 1))


@triton.jit
def _read_one_hot(pointers, inside, stride, SIZE: tl.constexpr, STEP: tl.constexpr = 8):
    """The first class that is 1, else -1; wrong where not exactly one is 1 and the others 0.

    The loop is written out as that of `_read_scores` is, so that several loads are under way.
    """
    label = tl.full(inside.shape, -1, tl.int32)
    ones = tl.zeros(inside.shape, tl.int32)
    wrong = tl.zeros(inside.shape, tl.int1)
    written: tl.constexpr = SIZE if SIZE <= 16 else SIZE % STEP
    for c in tl.static_range(written):
        value = _number(tl.load(pointers + c * stride, mask=inside, other=0))
        label, ones, wrong = _take_entry(label, ones, wrong, value, c)
    for start in range(written, SIZE, STEP):
        for step in tl.static_range(STEP):
            value = _number(tl.load(pointers + (start + step) * stride, mask=inside, other=0))
            label, ones, wrong = _take_entry(label, ones, wrong, value, start + step)
    return label, wrong | (ones != 1)


@triton.jit
def _read_side(pointers, inside, stride, FORM: tl.constexpr, SIZE: tl.constexpr, ROW: tl.constexpr):
    """The values that `ignore_index` speaks of, the labels, where these are wrong, and where they are fractions."""
    if FORM == "SCORES":
        if ROW > 1:
            label, wrong = _read_score_rows(pointers, inside, stride, SIZE, ROW)
        else:
            label, wrong = _read_scores(pointers, inside, stride, SIZE)
        values = label
        fraction = tl.zeros(inside.shape, tl.int1)
    elif FORM == "ONE_HOT":
        values, wrong = _read_one_hot(pointers, inside, stride, SIZE)
        label = tl.maximum(values, 0)
        fraction = tl.zeros(inside.shape, tl.int1)
    else:
        values = _number(tl.load(pointers, mask=inside, other=0))
        fraction = _fractions(values)
        wrong = (values < 0) | (values >= SIZE) | fraction
        label = tl.where(wrong, 0, values).to(tl.int32)
        wrong = wrong & ~fraction
    return values, label, wrong, fraction


# Counting by class.


@triton.jit
def _add_where(pointer, amounts, where):
    """Add to one number in memory, where there is something to add."""
    tl.atomic_add(pointer + tl.zeros(amounts.shape, tl.int32), amounts.to(tl.int64), mask=where, sem="relaxed")


@triton.jit
def _add_histograms(counts, faults, preds_bins, target_bins, SIZE: tl.constexpr, KINDS: tl.constexpr):
    """Add a program's histograms to the counts of its sample, row by row, and to the faults."""
    row = tl.arange(0, target_bins.shape[0])[:, None]
    side = tl.arange(0, 4)[None, :]
    pairs = tl.reshape(preds_bins, (target_bins.shape[0], 2))
    hits = tl.sum(pairs * tl.arange(0, 2)[None, :], axis=1)[:, None]
    support = tl.sum(tl.where(tl.arange(0, target_bins.shape[0]) < SIZE, target_bins, 0), axis=0)
    amounts = tl.where(side == 0, hits, tl.where(side == 1, tl.sum(pairs, axis=1)[:, None], target_bins[:, None]))
    amounts = tl.where(side == 3, support, amounts)
    tl.atomic_add(counts + row * 4 + side, amounts.to(tl.int64), mask=(row < SIZE) & (amounts > 0), sem="relaxed")

    key = tl.arange(0, preds_bins.shape[0])
    _add_where(faults + KINDS[0], preds_bins, (key == 2 * SIZE) & (preds_bins > 0))
    key = tl.arange(0, target_bins.shape[0])
    _add_where(faults + KINDS[1], target_bins, (key == SIZE) & (target_bins > 0))
    _add_where(faults + KINDS[2], target_bins, (key == SIZE + 1) & (target_bins > 0))


@triton.jit
def _add_voxels(counts, preds, target, counted):
    """Add every voxel to a table of its sample: hits as I alone, others to P and T; the support is left out."""
    one = tl.full(counted.shape, 1, tl.int64)
    hit = preds == target
    tl.atomic_add(counts + preds.to(tl.int64) * 4 + tl.where(hit, 0, 1), one, mask=counted, sem="relaxed")
    tl.atomic_add(counts + target.to(tl.int64) * 4 + 2, one, mask=counted & ~hit, sem="relaxed")


# Counting by region.


@triton.jit
def _membership(label, WORDS: tl.constexpr):
    """int64 whose byte `r` is 1 where the label is in region `r`; a region has one bit per label, 32 to a word."""
    members = tl.zeros(label.shape, tl.int64)
    for region in tl.static_range(len(WORDS)):
        word = tl.full(label.shape, WORDS[region][0], tl.int32)
        for i in tl.static_range(1, len(WORDS[region])):
            word = tl.where((label >> 5) >= i, tl.full((), WORDS[region][i], tl.int32), word)
        members = members | (((word >> (label & 31)) & 1).to(tl.int64) << (8 * region))
    return members


@triton.jit
def _byte_sum(counters, BYTE: tl.constexpr):
    """The sum of one byte of all counters."""
    return tl.sum(((counters >> (8 * BYTE)) & 0xFF).to(tl.int32), axis=0).to(tl.int64)


@triton.jit
def _add_regions(counts, both, preds, target, rest, NUM_REGIONS: tl.constexpr):
    """Add a program's counters to the counts of its sample."""
    support = _byte_sum(rest, 0)
    for region in tl.static_range(NUM_REGIONS):
        row = counts + 4 * region
        tl.atomic_add(row, _byte_sum(both, region), sem="relaxed")
        tl.atomic_add(row + 1, _byte_sum(preds, region), sem="relaxed")
        tl.atomic_add(row + 2, _byte_sum(target, region), sem="relaxed")
        tl.atomic_add(row + 3, support, sem="relaxed")


@triton.jit(do_not_specialize=["counts_stride", "table_stride", "tables", "programs"])
def count_labels(
    preds,
    target,
    mask,
    counts,
    faults,
    sizes,
    preds_strides,
    target_strides,
    mask_strides,
    counts_stride,
    table_stride,
    tables,
    voxels,
    programs,
    SIZE: tl.constexpr,
    PREDS_FORM: tl.constexpr,
    TARGET_FORM: tl.constexpr,
    ROW: tl.constexpr,
    HAS_MASK: tl.constexpr,
    IGNORED: tl.constexpr,
    KINDS: tl.constexpr,
    METHOD: tl.constexpr,
    WORDS: tl.constexpr,
    REPORT: tl.constexpr,
    BINS: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add the classes or regions of label views to `counts`, int64 `(tables, N, K, 4)`, and to `faults`.

    Programs share the tables between them; their sum is what is asked for. METHOD is one of

    - HISTOGRAMS, for few classes: BINS, a power of two, on the chip for target and twice as many for preds;
    - ATOMICS, for many: every voxel is added to a table in memory; P and T lack the hits, and the support is left out;
    - REGIONS, for up to eight whose labels are the bits of WORDS: each has a byte of counters that every thread keeps.

    Threads read ROW classes of preds side by side, or voxels where that is 1. KINDS are the faults of preds, of target
    and of fractions in target; regions are silent about them unless REPORT.
    """
    program = tl.program_id(0)
    sample = (program // programs).to(tl.int64)
    preds += sample * preds_strides[0]
    target += sample * target_strides[0]
    mask += sample * mask_strides[0]
    counts += sample * counts_stride + (program % tables).to(tl.int64) * table_stride
    preds_stride = tl.cast(preds_strides[1], tl.int64)
    target_stride = tl.cast(target_strides[1], tl.int64)

    preds_bins = tl.zeros((2 * BINS,), tl.int32)
    target_bins = tl.zeros((BINS,), tl.int32)
    both_regions = tl.zeros((BLOCK,), tl.int64)
    preds_regions = tl.zeros((BLOCK,), tl.int64)
    target_regions = tl.zeros((BLOCK,), tl.int64)
    rest = tl.zeros((BLOCK,), tl.int32)

    for tile in range(program % programs, _tiles(voxels, BLOCK), programs):
        index = tl.cast(tile, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = index < voxels
        preds_at = preds + _offsets(index, sizes, preds_strides, WIDE)
        _, p, preds_wrong, _ = _read_side(preds_at, inside, preds_stride, PREDS_FORM, SIZE, ROW)
        target_at = target + _offsets(index, sizes, target_strides, WIDE)
        values, t, target_wrong, fraction = _read_side(target_at, inside, target_stride, TARGET_FORM, SIZE, 1)
        valid = inside & ~_is_any(values, IGNORED)
        if HAS_MASK:
            valid = valid & tl.load(mask + _offsets(index, sizes, mask_strides, WIDE), mask=inside, other=0).to(tl.int1)
        target_faulty = target_wrong | fraction
        counted = valid & ~preds_wrong & ~target_faulty

        if METHOD == "HISTOGRAMS":
            key = tl.where(preds_wrong, 2 * SIZE, 2 * p + (p == t).to(tl.int32))
            preds_bins += tl.histogram(key, 2 * BINS, mask=counted | (valid & preds_wrong))
            key = tl.where(fraction, SIZE + 1, tl.where(target_wrong, SIZE, t))
            target_bins += tl.histogram(key, BINS, mask=counted | (valid & target_faulty))
        elif METHOD == "ATOMICS":
            _add_voxels(counts, p, t, counted)
            _add_where(faults + KINDS[0], inside, valid & preds_wrong)
            _add_where(faults + KINDS[1], inside, valid & target_wrong)
            _add_where(faults + KINDS[2], inside, valid & fraction)
        else:
            in_preds = tl.where(counted, _membership(p, WORDS), 0)
            in_target = _membership(t, WORDS)
            both_regions += in_preds & in_target
            preds_regions += in_preds
            target_regions += tl.where(counted, in_target, 0)
            rest += counted.to(tl.int32) | ((valid & preds_wrong).to(tl.int32) << 8)
            rest += ((valid & target_wrong).to(tl.int32) << 16) | ((valid & fraction).to(tl.int32) << 24)

    if METHOD == "HISTOGRAMS":
        _add_histograms(counts, faults, preds_bins, target_bins, SIZE, KINDS)
    elif METHOD == "REGIONS":
        _add_regions(counts, both_regions, preds_regions, target_regions, rest, len(WORDS))
        if REPORT:
            for kind in tl.static_range(3):
                tl.atomic_add(faults + KINDS[kind], _byte_sum(rest, 1 + kind), sem="relaxed")


@triton.jit(do_not_specialize=["counts_stride", "labels", "programs"])
def count_masks(
    preds,
    target,
    mask,
    counts,
    faults,
    sizes,
    preds_strides,
    target_strides,
    mask_strides,
    counts_stride,
    labels,
    voxels,
    programs,
    cutoff: tl.float64,
    BOUNDS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    IGNORED: tl.constexpr,
    KINDS: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROW: tl.constexpr,
):
    """Add the labels of mask views to `counts`, int64 `(N, L, 4)`, and to `faults`.

    Float preds are positive above `cutoff` and must lie within BOUNDS, if there are any; both are numbers that their
    dtype can hold. KINDS are the faults of preds that are NaN, and not within the bounds or not binary; of target; of
    fractions in target. A tile has ROW labels.
    """
    program = tl.program_id(0)
    rows = tl.cdiv(labels, ROW)
    sample = (program // programs // rows).to(tl.int64)
    label = (program // programs % rows).to(tl.int64) * ROW + tl.arange(0, ROW)
    preds += sample * preds_strides[0] + (label * preds_strides[1])[None, :]
    target += sample * target_strides[0] + (label * target_strides[1])[None, :]
    mask += sample * mask_strides[0]

    found = tl.zeros((BLOCK, ROW), tl.int32)
    faulty = tl.zeros((BLOCK, ROW), tl.int32)
    for tile in range(program % programs, _tiles(voxels, BLOCK), programs):
        index = tl.cast(tile, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = (index < voxels)[:, None] & (label < labels)[None, :]
        p = _number(tl.load(preds + _offsets(index, sizes, preds_strides, WIDE)[:, None], mask=inside, other=0))
        t = _number(tl.load(target + _offsets(index, sizes, target_strides, WIDE)[:, None], mask=inside, other=0))
        valid = inside & ~_is_any(t, IGNORED)
        if HAS_MASK:
            kept = tl.load(mask + _offsets(index, sizes, mask_strides, WIDE), mask=index < voxels, other=0).to(tl.int1)
            valid = valid & kept[:, None]
        nan = p != p
        if p.dtype.is_floating():
            positive = p > tl.full((), cutoff, tl.float64).to(p.dtype)
            wrong = nan
            if len(BOUNDS) > 0:
                wrong = (p < tl.full((), BOUNDS[0], p.dtype)) | (p > tl.full((), BOUNDS[1], p.dtype))
        else:
            positive = p == 1
            wrong = (p != 0) & (p != 1)
        fraction = _fractions(t)
        strange = (t != 0) & (t != 1) & ~fraction
        counted = valid & ~(nan | wrong | fraction | strange)
        positive = positive & counted
        true = (t == 1) & counted
        found += (positive & true).to(tl.int32) | (positive.to(tl.int32) << 8)
        found += (true.to(tl.int32) << 16) | (counted.to(tl.int32) << 24)
        faulty += (valid & nan).to(tl.int32) | ((valid & wrong & ~nan).to(tl.int32) << 8)
        faulty += ((valid & strange).to(tl.int32) << 16) | ((valid & fraction).to(tl.int32) << 24)

    counts += sample * counts_stride + label * 4
    for side in tl.static_range(4):
        tl.atomic_add(counts + side, _byte_sum(found, side), mask=label < labels, sem="relaxed")
    if tl.max(tl.max((faulty != 0).to(tl.int32), axis=1), axis=0) > 0:
        for kind in tl.static_range(4):
            tl.atomic_add(faults + KINDS[kind], tl.sum(_byte_sum(faulty, kind), axis=0), sem="relaxed")
