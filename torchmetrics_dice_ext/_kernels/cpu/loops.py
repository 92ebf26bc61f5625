"""Floor 1: the loops of the CPU backend, compiled by numba; imported only where numba is there.

A *driver* walks over the voxels of a batch in tiles that stay in the cache, has *stages* turn the voxels of each side
into codes, and counts the codes. A stage is called by its address, `stage(side, source, out, length, channel)`, and is
compiled for the items that it meets, when it meets them: a few short stages serve every pair of dtypes and forms.

A batch is described by int64 words: HEAD words, three sides (preds, target, mask) of SIDE words, and AXIS words for
each spatial axis, innermost first. An address is a word too; 0 stands for None.

All of it is one file, for numba's cache on disk looks at a function's own file only to see that something changed.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic, overload

from torchmetrics_dice_ext._faults import NUM_FAULTS

# a batch
VOXELS, OUTPUTS, COUNTS, PREDS_FAULT, TARGET_FAULT, MEMBERS, PAIRED, AXES = range(8)
HEAD = 8

# A side. FUNCTION gives codes of a run of voxels, by way of INNER where they don't lie side by side. Its items are ITEM
# bytes, the samples SAMPLE_STRIDE bytes, the classes or labels CHANNEL_STRIDE items, and the voxels STEP items apart.
# ROWS channels are read at once, and SIZE classes exist. ITEMS are constants of the items' own dtype: what means 1, the
# bits that are 0 in zeros, the last label, and ignored values. IGNORED are float64, for labels that are decoded.
FUNCTION, INNER, ITEM, ADDRESS, SAMPLE_STRIDE, CHANNEL_STRIDE, STEP, ROWS = range(8)
SIZE, ITEMS, IGNORED, NUM_IGNORED, MANTISSA, BIAS, NAN_ABOVE, BOUNDS = range(8, 16)
SIDE = 16
PREDS, TARGET, MASK = HEAD, HEAD + SIDE, HEAD + 2 * SIDE

# an axis: its size, and the bytes from one voxel to the next in preds, target and mask
SPACE = HEAD + 3 * SIDE
AXIS = 4

# codes of label views: 0 .. C - 1, and past them C + VOID, C + FAULT, C + FRACTION
VOID, FAULT, FRACTION = 0, 1, 2

# codes of mask views, bits of a byte; NAN is for preds and LEFT_OUT for target
POSITIVE, NAN, LEFT_OUT, OTHER, FRACTIONAL = 1, 2, 2, 4, 8

TILE = 2040  # voxels of a tile: they fit into the cache, and as 255 words of 8 codes their sums fit into bytes
BLOCK = 8192  # items that are gathered at once
TABLES = 4  # copies of a table of pairs: equal neighbours must not wait for each other's store
MOST_PAIRS = 1 << 30  # voxels after which a table of 32 bits is emptied
BYTES = np.uint64(0x0101010101010101)

jit = njit(error_model="numpy")


def _cached(decorator: Any, function: Any, *args: Any, **options: Any) -> Any:
    """The function compiled, and kept on disk if there is a place to write to."""
    try:
        return decorator(*args, cache=True, **options)(function)
    except RuntimeError:
        return decorator(*args, **options)(function)


def driver(function: Any) -> Any:
    """Compile a function that runs without the interpreter's lock."""
    return _cached(njit, function, nogil=True, error_model="numpy")


@intrinsic
def _pointer(_context: Any, _address: Any) -> Any:
    """An address as a pointer, for `carray`."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.intp), codegen


@intrinsic
def _call(_context: Any, _function: Any, _side: Any, _source: Any, _out: Any, _length: Any, _channel: Any) -> Any:
    """Call a stage; everything is an int64."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(64)
        stage = ir.FunctionType(ir.VoidType(), [byte, byte, byte, word, word]).as_pointer()
        pointers = [builder.inttoptr(arg, byte) for arg in args[1:4]]
        builder.call(builder.inttoptr(args[0], stage), [*pointers, *args[4:]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen


def gather(side, source, out, length, channel):
    """Lay voxels that are STEP items apart side by side, for the INNER stage."""
    words = carray(side, (SIDE,))
    rows, step, stride = words[ROWS], words[STEP], words[CHANNEL_STRIDE]
    block = length if rows == 1 else min(length, max(16, BLOCK // rows))
    items = carray(source, ((rows - 1) * stride + (length - 1) * step + 1,))
    gathered = np.empty(rows * block, items.dtype)
    inner = np.empty(SIDE, np.int64)
    for word in range(SIDE):
        inner[word] = words[word]
    inner[CHANNEL_STRIDE] = block
    codes = carray(out, (length,)).ctypes.data
    for start in range(0, length, block):
        some = min(block, length - start)
        for i in range(some):
            for row in range(rows):
                gathered[row * block + i] = items[(start + i) * step + row * stride]
        _call(words[INNER], inner.ctypes.data, gathered.ctypes.data, codes + 4 * start, some, channel)


def _key(value):
    """A score as a number to compare; half floats come as int16 bits."""


@overload(_key)
def _key_of(value):
    def of_bits(value):
        magnitude = np.int16(value & 0x7FFF)
        return np.int16(-magnitude) if value < 0 else magnitude

    return of_bits if isinstance(value, types.Integer) else lambda value: value


def _is_nan(value, above):
    """Whether a score is NaN; half floats are where their bits lie above those of infinity."""


@overload(_is_nan)
def _is_nan_of(value, above):
    if isinstance(value, types.Integer):
        return lambda value, above: np.int16(value & 0x7FFF) > above
    return lambda value, above: value != value


@jit
def _first_maximum(scores, stride, size, above, best, winner):
    """The first maximum over `size` rows, four rows a pass; whether there was a NaN."""
    length, last = winner.shape[0], size - 1
    place = winner.dtype.type
    nan = False
    for c in range(0, size, 4):
        d, e, f = min(c + 1, last), min(c + 2, last), min(c + 3, last)
        kc, kd, ke, kf = place(c), place(d), place(e), place(f)
        row_c, row_d = scores[c * stride : c * stride + length], scores[d * stride : d * stride + length]
        row_e, row_f = scores[e * stride : e * stride + length], scores[f * stride : f * stride + length]
        for i in range(length):
            v, w, x, y = row_c[i], row_d[i], row_e[i], row_f[i]
            nan |= (_is_nan(v, above) | _is_nan(w, above)) | (_is_nan(x, above) | _is_nan(y, above))
            v, w, x, y = _key(v), _key(w), _key(x), _key(y)
            b, k = best[i], winner[i]
            if c == 0:
                b, k = v, kc
            k = kc if v > b else k
            b = v if v > b else b
            k = kd if w > b else k
            b = w if w > b else b
            k = ke if x > b else k
            b = x if x > b else b
            k = kf if y > b else k
            b = y if y > b else b
            best[i] = b
            winner[i] = k
    return nan


@jit
def _mark_nan(scores, stride, size, above, codes):
    for c in range(size):
        for i in range(codes.shape[0]):
            if _is_nan(scores[c * stride + i], above):
                codes[i] = size + FAULT


def scores(side, source, out, length, _channel):
    """Label views, float scores: the first maximum; FAULT where a class is NaN."""
    words, codes = carray(side, (SIDE,)), carray(out, (length,))
    size, stride = words[SIZE], words[CHANNEL_STRIDE]
    rows = carray(source, ((size - 1) * stride + length,))
    best = np.empty(length, rows.dtype)
    if _first_maximum(rows, stride, size, rows.dtype.type(0), best, codes):
        _mark_nan(rows, stride, size, rows.dtype.type(0), codes)


def half_scores(side, source, out, length, _channel):
    """The same for scores of 16 bits, which are compared as integers."""
    words, codes = carray(side, (SIDE,)), carray(out, (length,))
    size, stride, above = words[SIZE], words[CHANNEL_STRIDE], np.int16(words[NAN_ABOVE])
    rows = carray(source, ((size - 1) * stride + length,))
    best, winner = np.empty(length, np.int16), np.empty(length, np.int16)
    nan = _first_maximum(rows, stride, size, above, best, winner)
    for i in range(length):
        codes[i] = winner[i]
    if nan:
        _mark_nan(rows, stride, size, above, codes)


def labels(side, source, out, length, _channel):
    """Label views, integers: as unsigned ones of their size, for what was negative is then too large."""
    words, values, codes = carray(side, (SIDE,)), carray(source, (length,)), carray(out, (length,))
    items = carray(_pointer(words[ITEMS]), (3 + words[NUM_IGNORED],), values.dtype)
    last, void, fault = items[2], np.int32(words[SIZE] + VOID), np.int32(words[SIZE] + FAULT)
    for i in range(length):
        codes[i] = np.int32(values[i]) if values[i] <= last else fault
    for k in range(words[NUM_IGNORED]):
        value = items[3 + k]
        for i in range(length):
            codes[i] = void if values[i] == value else codes[i]


@jit
def _whole(words, values, codes):
    size = words[SIZE]
    ignored = carray(_pointer(words[IGNORED]), (words[NUM_IGNORED],), np.float64)
    for i in range(codes.shape[0]):
        value = np.float64(values[i])
        if value != np.trunc(value):
            codes[i] = size + FRACTION
            continue
        codes[i] = np.int64(value) if 0 <= value < size else size + FAULT
        for k in range(words[NUM_IGNORED]):
            if value == ignored[k]:
                codes[i] = size + VOID


def float_labels(side, source, out, length, _channel):
    """Label views, floats that should be whole numbers."""
    _whole(carray(side, (SIDE,)), carray(source, (length,)), carray(out, (length,)))


def half_float_labels(side, source, out, length, _channel):
    """The same for floats of 16 bits."""
    words, bits = carray(side, (SIDE,)), carray(source, (length,))
    values = np.empty(length, np.float64)
    mantissa, bias = words[MANTISSA], words[BIAS]
    for i in range(length):
        magnitude = np.int64(bits[i]) & 0x7FFF
        exponent, digits = magnitude >> mantissa, magnitude & ((1 << mantissa) - 1)
        if exponent == 2 * bias + 1:
            value = np.nan if digits else np.inf
        elif exponent == 0:
            value = np.ldexp(np.float64(digits), np.int32(1 - bias - mantissa))
        else:
            value = np.ldexp(np.float64(digits + (1 << mantissa)), np.int32(exponent - bias - mantissa))
        values[i] = -value if bits[i] >> 15 else value
    _whole(words, values, carray(out, (length,)))


def one_hot(side, source, out, length, _channel):
    """Label views, one-hot items of any dtype by their bits: the first 1."""
    words, codes = carray(side, (SIDE,)), carray(out, (length,))
    size, stride = words[SIZE], words[CHANNEL_STRIDE]
    rows = carray(source, ((size - 1) * stride + length,))
    items = carray(_pointer(words[ITEMS]), (2,), rows.dtype)
    one, magnitude = items[0], items[1]
    none = np.int32(size)
    ones, faulty = np.zeros(length, np.int32), np.zeros(length, np.int32)
    for i in range(length):
        codes[i] = none
    for c in range(size):
        row, label = rows[c * stride : c * stride + length], np.int32(c)
        for i in range(length):
            hot = row[i] == one
            ones[i] += np.int32(hot)
            codes[i] = label if hot & (codes[i] == none) else codes[i]
            faulty[i] |= np.int32((not hot) & ((row[i] & magnitude) != 0))
    ignored = carray(_pointer(words[IGNORED]), (words[NUM_IGNORED],), np.float64)
    for i in range(length):
        label = codes[i] if codes[i] < none else np.int32(0)
        codes[i] = label if ones[i] == 1 and not faulty[i] else size + FAULT
        for k in range(words[NUM_IGNORED]):
            if label == ignored[k]:
                codes[i] = size + VOID


def unmask(_side, source, out, length, channel):
    """The mask of any views: what it leaves out gets `channel` as its code."""
    mask, codes = carray(source, (length,)), carray(out, (length,))
    code = codes.dtype.type(channel)
    for i in range(length):
        codes[i] = codes[i] if mask[i] else code


def threshold(side, source, out, length, channel):
    """Mask views, float preds: POSITIVE above their label's cutoff, OTHER outside of [0, 1], or NAN."""
    words, values, codes = carray(side, (SIDE,)), carray(source, (length,)), carray(out, (length,))
    number = values.dtype.type
    above = number(words[NAN_ABOVE])
    bounds = carray(_pointer(words[BOUNDS]), (3 + channel,), np.float64)
    low, high, cutoff = number(bounds[0]), number(bounds[1]), number(bounds[2 + channel])
    strange = False
    for i in range(length):
        value = _key(values[i])
        codes[i] = np.uint8(value > cutoff)
        strange |= (not ((value >= low) & (value <= high))) | _is_nan(values[i], above)
    if strange:
        for i in range(length):
            value = _key(values[i])
            codes[i] = np.uint8(OTHER) if (value < low) | (value > high) else codes[i]
            codes[i] = np.uint8(NAN) if _is_nan(values[i], above) else codes[i]


@jit
def _is_fractional(bits, mantissa, bias):
    """Whether a float is NaN or not a whole number, going by its bits but the sign."""
    exponent, digits = bits >> mantissa, bits & ((1 << mantissa) - 1)
    if exponent == 2 * bias + 1:
        return digits != 0
    if exponent < bias:
        return bits != 0
    return exponent - bias < mantissa and (digits & ((1 << (mantissa - (exponent - bias))) - 1)) != 0


def elements(side, source, out, length, _channel):
    """Mask views, items of any dtype by their bits: POSITIVE, OTHER, FRACTIONAL, or LEFT_OUT if ignored."""
    words, values, codes = carray(side, (SIDE,)), carray(source, (length,)), carray(out, (length,))
    items = carray(_pointer(words[ITEMS]), (3 + words[NUM_IGNORED],), values.dtype)
    one, magnitude = items[0], items[1]
    others = False
    for i in range(length):
        value = values[i]
        codes[i] = np.uint8(value == one)
        others |= (value != one) & ((value & magnitude) != 0)
    if others:
        for i in range(length):
            other = (values[i] != one) & ((values[i] & magnitude) != 0)
            codes[i] = np.uint8(OTHER) if other else codes[i]
            if (
                other
                and words[MANTISSA]
                and _is_fractional(np.int64(values[i] & magnitude), words[MANTISSA], words[BIAS])
            ):
                codes[i] = np.uint8(FRACTIONAL)
    for k in range(words[NUM_IGNORED]):
        value = items[3 + k]
        for i in range(length):
            zeros = (value == 0) & ((values[i] & magnitude) == 0)
            codes[i] = np.uint8(LEFT_OUT) if zeros | (values[i] == value) else codes[i]


@jit
def _locate(words, voxel, sources):
    """Where this voxel lies in preds, target and mask of sample 0; the voxels from it to the end of its row."""
    left = np.int64(0)
    for side in range(3):
        sources[side] = words[PREDS + SIDE * side + ADDRESS]
    for axis in range(words[AXES]):
        word = SPACE + AXIS * axis
        place = voxel % words[word]
        voxel //= words[word]
        if axis == 0:
            left = words[word] - place
        for side in range(3):
            sources[side] += place * words[word + 1 + side]
    return left


@jit
def _encode(words, sample, sources, preds, target, length, label, left_out):
    """Codes of a run of voxels, to the addresses of preds and target."""
    for side in range(3):
        at = PREDS + SIDE * side
        if words[at + FUNCTION] != 0:
            source = sources[side] + sample * words[at + SAMPLE_STRIDE]
            channel, out = left_out, target
            if side < 2:
                source += label * words[at + CHANNEL_STRIDE] * words[at + ITEM]
                channel, out = label, preds if side == 0 else target
            _call(words[at + FUNCTION], words.ctypes.data + 8 * at, source, out, length, channel)


@jit
def _row(words, sample, first, first_counts):
    """The counts (K, 4) of a sample."""
    outputs = words[OUTPUTS]
    address = words[COUNTS] + sample * outputs * 32
    if sample == first and first_counts != 0:
        address = first_counts
    return carray(_pointer(address), (outputs, 4), np.int64)


@jit
def _pair(size, preds, target, keys):
    """A key for each pair of codes, size * size where void; whether there is a fault outside of void voxels."""
    size, void = np.int32(size), np.int32(size * size)
    wrong = False
    for i in range(keys.shape[0]):
        t, p = target[i], preds[i]
        wrong |= (t > size) | ((p >= size) & (t != size))
        key = np.int32(np.int32(t * size) + p)
        keys[i] = key if t < size else void
    return wrong


@jit
def _settle_labels(words, size, preds, target, faults):
    """Count faults, and make faulty voxels void."""
    for i in range(preds.shape[0]):
        t, p = target[i], preds[i]
        if t != size + VOID:
            if p >= size:
                faults[words[PREDS_FAULT]] += 1
            if t >= size:
                faults[words[TARGET_FAULT] + t - (size + FAULT)] += 1
            if p >= size:
                target[i] = size + VOID
        if t >= size:
            target[i] = size + VOID


@jit
def _count_keys(keys, entries, table):
    """Count keys, neighbours in different copies of the table."""
    quads = keys.shape[0] // 4 * 4
    b, c, d = np.uint32(entries), np.uint32(2 * entries), np.uint32(3 * entries)
    for i in range(0, quads, 4):
        table[np.uint32(keys[i])] += 1
        table[np.uint32(keys[i + 1]) + b] += 1
        table[np.uint32(keys[i + 2]) + c] += 1
        table[np.uint32(keys[i + 3]) + d] += 1
    for i in range(quads, keys.shape[0]):
        table[np.uint32(keys[i])] += 1


@jit
def _add_pair(words, size, t, p, voxels, counts):
    """Add voxels of target t and preds p to the counts (K, 4), but for the support."""
    if words[MEMBERS] == 0:
        counts[t, 0] += voxels * (t == p)
        counts[p, 1] += voxels
        counts[t, 2] += voxels
        return
    outputs = words[OUTPUTS]
    members = carray(_pointer(words[MEMBERS]), (size, outputs), np.uint8)
    for r in range(outputs):
        counts[r, 0] += voxels * (members[t, r] & members[p, r])
        counts[r, 1] += voxels * members[p, r]
        counts[r, 2] += voxels * members[t, r]


@jit
def _empty(words, size, table, counts):
    """Move what a table of pairs holds to the counts (K, 4); the support."""
    entries, support = size * size + 1, np.int64(0)
    for key in range(size * size):
        voxels = np.int64(0)
        for copy in range(TABLES):
            voxels += table[copy * entries + key]
            table[copy * entries + key] = 0
        if voxels > 0:
            support += voxels
            _add_pair(words, size, key // size, key % size, voxels, counts)
    return support


@driver
def count_labels(words, begin, end, first_counts, fault_counts):
    """Count the voxels begin .. end - 1 of label views."""
    size, voxels, paired = words[PREDS + SIZE], words[VOXELS], words[PAIRED] != 0
    faults = carray(_pointer(fault_counts), (NUM_FAULTS,), np.int64)
    entries = size * size + 1
    table = np.empty(TABLES * entries if paired else 0, np.int32)
    for i in range(table.shape[0]):
        table[i] = 0
    preds, target, keys = np.empty(TILE, np.int32), np.empty(TILE, np.int32), np.empty(TILE, np.int32)
    sources = np.empty(3, np.int64)
    position, first, filled, pending = begin, begin // voxels, 0, 0
    while position < end:
        sample = position // voxels
        left = _locate(words, position - sample * voxels, sources)
        length = min(left, TILE - filled, end - position)
        at = 4 * filled
        _encode(words, sample, sources, preds.ctypes.data + at, target.ctypes.data + at, length, 0, size + VOID)
        filled += length
        position += length
        finished = position == end or position // voxels != sample
        if filled < TILE and not finished:
            continue
        p, t, k = preds[:filled], target[:filled], keys[:filled]
        if _pair(size, p, t, k):
            _settle_labels(words, size, p, t, faults)
            _pair(size, p, t, k)
        counts = _row(words, sample, first, first_counts)
        support = np.int64(0)
        if paired:
            _count_keys(k, entries, table)
            pending += filled
            if finished or pending > MOST_PAIRS:
                support, pending = _empty(words, size, table, counts), 0
        else:
            for i in range(filled):
                if t[i] < size:
                    _add_pair(words, size, t[i], p[i], 1, counts)
                    support += 1
        for r in range(counts.shape[0]):
            counts[r, 3] += support
        filled = 0


@jit
def _sum_bytes(word):
    """The sum of the 8 bytes of a word, up to 2040."""
    halves = (word & np.uint64(0x00FF00FF00FF00FF)) + ((word >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF))
    return np.int64((halves * np.uint64(0x0001000100010001)) >> np.uint64(48))


@jit
def _add_elements(preds, target, counts):
    """Add a tile, as words of 8 codes, to the counts (4,) of its label; or say that it has faults."""
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    both, left, right, valid, wrong = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    for i in range(preds.shape[0]):
        p, t = preds[i], target[i]
        v = ~(t >> one) & BYTES
        wrong |= ((p >> one) | (p >> two) | (t >> two) | (t >> three)) & v
        both += p & t & v
        left += p & v
        right += t & v
        valid += v
    if wrong != 0:
        return False
    counts[0] += _sum_bytes(both)
    counts[1] += _sum_bytes(left)
    counts[2] += _sum_bytes(right)
    counts[3] += _sum_bytes(valid)
    return True


@jit
def _settle_elements(words, preds, target, faults):
    """Count faults, and leave faulty elements out."""
    for i in range(preds.shape[0]):
        t, p = target[i], preds[i]
        preds[i] = p & POSITIVE
        if t & LEFT_OUT:
            continue
        if p & NAN:
            faults[0] += 1
        if p & OTHER:
            faults[words[PREDS_FAULT]] += 1
        if t & OTHER:
            faults[words[TARGET_FAULT]] += 1
        if t & FRACTIONAL:
            faults[words[TARGET_FAULT] - 1] += 1
        if (p & (NAN | OTHER)) | (t & (OTHER | FRACTIONAL)):
            target[i] = LEFT_OUT


@driver
def count_masks(words, begin, end, first_counts, fault_counts):
    """Count the voxels begin .. end - 1 of mask views, label by label."""
    voxels = words[VOXELS]
    faults = carray(_pointer(fault_counts), (NUM_FAULTS,), np.int64)
    preds, target = np.empty(TILE // 8, np.uint64), np.empty(TILE // 8, np.uint64)
    preds_codes = carray(_pointer(preds.ctypes.data), (TILE,), np.uint8)
    target_codes = carray(_pointer(target.ctypes.data), (TILE,), np.uint8)
    sources = np.empty(3, np.int64)
    position, first = begin, begin // voxels
    while position < end:
        sample = position // voxels
        left = _locate(words, position - sample * voxels, sources)
        length = min(left, TILE, end - position)
        filled = (length + 7) // 8
        counts = _row(words, sample, first, first_counts)
        for label in range(words[OUTPUTS]):
            preds[filled - 1], target[filled - 1] = np.uint64(0), BYTES * np.uint64(LEFT_OUT)
            _encode(words, sample, sources, preds.ctypes.data, target.ctypes.data, length, label, LEFT_OUT)
            if not _add_elements(preds[:filled], target[:filled], counts[label]):
                _settle_elements(words, preds_codes[:length], target_codes[:length], faults)
                _add_elements(preds[:filled], target[:filled], counts[label])
        position += length


_ALL = (gather, scores, half_scores, labels, float_labels, half_float_labels, one_hot, unmask, threshold, elements)
_STAGES = {stage.__name__: stage for stage in _ALL}


def compile_stage(name: str, item: str, code: str) -> Any:
    """A stage for items and codes of these NumPy dtypes; its address dies with it."""
    word = types.int64
    sides = [types.CPointer(kind) for kind in (word, getattr(types, item), getattr(types, code))]
    return _cached(cfunc, _STAGES[name], types.void(*sides, word, word))
