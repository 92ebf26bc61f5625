"""Floor 1: compiled loops that turn a run of voxels of one side into codes; `words` tells which.

A stage is called by its address: `stage(side, source, out, length, channel)`. It is compiled for the items that it
meets, when it meets them, so that a few short stages serve every pair of dtypes and forms.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import numpy as np
from numba import carray, types
from numba.extending import overload

from torchmetrics_dice_ext._kernels.cpu import words as w
from torchmetrics_dice_ext._kernels.cpu.jit import call, jit, pointer

BLOCK = 8192  # items that are gathered at once


def gather(side, source, out, length, channel):
    """Lay voxels that are STEP items apart side by side, for the INNER stage."""
    words = carray(side, (w.SIDE,))
    rows, step, stride = words[w.ROWS], words[w.STEP], words[w.CHANNEL_STRIDE]
    block = length if rows == 1 else min(length, max(16, BLOCK // rows))
    items = carray(source, ((rows - 1) * stride + (length - 1) * step + 1,))
    gathered = np.empty(rows * block, items.dtype)
    inner = np.empty(w.SIDE, np.int64)
    for word in range(w.SIDE):
        inner[word] = words[word]
    inner[w.CHANNEL_STRIDE] = block
    codes = carray(out, (length,))
    for start in range(0, length, block):
        some = min(block, length - start)
        for i in range(some):
            for row in range(rows):
                gathered[row * block + i] = items[(start + i) * step + row * stride]
        call(words[w.INNER], inner.ctypes.data, gathered.ctypes.data, codes[start:].ctypes.data, some, channel)


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
            p, q, r, s = row_c[i], row_d[i], row_e[i], row_f[i]
            nan |= (_is_nan(p, above) | _is_nan(q, above)) | (_is_nan(r, above) | _is_nan(s, above))
            p, q, r, s = _key(p), _key(q), _key(r), _key(s)
            b, k = best[i], winner[i]
            if c == 0:
                b, k = p, kc
            k = kc if p > b else k
            b = p if p > b else b
            k = kd if q > b else k
            b = q if q > b else b
            k = ke if r > b else k
            b = r if r > b else b
            k = kf if s > b else k
            b = s if s > b else b
            best[i] = b
            winner[i] = k
    return nan


@jit
def _mark_nan(scores, stride, size, above, codes):
    for c in range(size):
        for i in range(codes.shape[0]):
            if _is_nan(scores[c * stride + i], above):
                codes[i] = size + w.FAULT


def _places(scores, length):
    """Room for as many classes as integers of the scores' size, which loops over both take side by side."""


@overload(_places)
def _places_of(scores, length):
    kind = {16: np.int16, 32: np.int32, 64: np.int64}[scores.dtype.bitwidth]
    return lambda scores, length: np.empty(length, kind)


def scores(side, source, out, length, _channel):
    """Label views, float scores, half floats as their bits: the first maximum; FAULT where a class is NaN."""
    words, codes = carray(side, (w.SIDE,)), carray(out, (length,))
    size, stride = words[w.SIZE], words[w.CHANNEL_STRIDE]
    rows = carray(source, ((size - 1) * stride + length,))
    above = rows.dtype.type(words[w.NAN_ABOVE])
    best, winner = np.empty(length, rows.dtype), _places(rows, length)
    nan = _first_maximum(rows, stride, size, above, best, winner)
    for i in range(length):
        codes[i] = winner[i]
    if nan:
        _mark_nan(rows, stride, size, above, codes)


def labels(side, source, out, length, _channel):
    """Label views, integers: as unsigned ones of their size, for what was negative is then too large."""
    words, values, codes = carray(side, (w.SIDE,)), carray(source, (length,)), carray(out, (length,))
    items = carray(pointer(words[w.ITEMS]), (3 + words[w.NUM_IGNORED],), values.dtype)
    past, void = items[2], np.int16(words[w.SIZE] + w.VOID)
    for i in range(length):
        codes[i] = min(values[i], past)
    for k in range(words[w.NUM_IGNORED]):
        value = items[3 + k]
        for i in range(length):
            codes[i] = void if values[i] == value else codes[i]


@jit
def _whole(words, values, codes):
    size = words[w.SIZE]
    ignored = carray(pointer(words[w.IGNORED]), (words[w.NUM_IGNORED],), np.float64)
    for i in range(codes.shape[0]):
        value = np.float64(values[i])
        if value != np.trunc(value):
            codes[i] = size + w.FRACTION
            continue
        codes[i] = np.int64(value) if 0 <= value < size else size + w.FAULT
        for k in range(words[w.NUM_IGNORED]):
            if value == ignored[k]:
                codes[i] = size + w.VOID


def whole_labels(side, source, out, length, _channel):
    """Label views, numbers that should be whole."""
    _whole(carray(side, (w.SIDE,)), carray(source, (length,)), carray(out, (length,)))


def half_whole_labels(side, source, out, length, _channel):
    """The same for floats of 16 bits."""
    words, bits = carray(side, (w.SIDE,)), carray(source, (length,))
    values = np.empty(length, np.float64)
    mantissa, bias = words[w.MANTISSA], words[w.BIAS]
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
    words, codes = carray(side, (w.SIDE,)), carray(out, (length,))
    size, stride = words[w.SIZE], words[w.CHANNEL_STRIDE]
    rows = carray(source, ((size - 1) * stride + length,))
    items = carray(pointer(words[w.ITEMS]), (2,), rows.dtype)
    one, magnitude = items[0], items[1]
    none = np.int16(size)
    ones, faulty = np.zeros(length, np.int16), np.zeros(length, np.int16)
    for i in range(length):
        codes[i] = none
    for c in range(size):
        row, label = rows[c * stride : c * stride + length], np.int16(c)
        for i in range(length):
            hot = row[i] == one
            ones[i] += np.int16(hot)
            codes[i] = label if hot & (codes[i] == none) else codes[i]
            faulty[i] |= np.int16((not hot) & ((row[i] & magnitude) != 0))
    ignored = carray(pointer(words[w.IGNORED]), (words[w.NUM_IGNORED],), np.float64)
    for i in range(length):
        label = codes[i] if codes[i] < none else np.int16(-1)
        codes[i] = label if ones[i] == 1 and not faulty[i] else size + w.FAULT
        for k in range(words[w.NUM_IGNORED]):
            if label == ignored[k]:
                codes[i] = size + w.VOID


def unmask(_side, source, out, length, channel):
    """The mask of any views: what it leaves out gets `channel` as its code."""
    mask, codes = carray(source, (length,)), carray(out, (length,))
    code = codes.dtype.type(channel)
    for i in range(length):
        codes[i] = codes[i] if mask[i] else code


def _bits(values):
    """The same memory as unsigned integers."""


@overload(_bits)
def _bits_of(values):
    kind = {16: np.uint16, 32: np.uint32, 64: np.uint64}[values.dtype.bitwidth]
    return lambda values: values.view(kind)


def threshold(side, source, out, length, channel):
    """Mask views, float preds: POSITIVE above their label's cutoff, OTHER outside of [0, 1], or NAN."""
    words, values, codes = carray(side, (w.SIDE,)), carray(source, (length,)), carray(out, (length,))
    bits, number = _bits(values), values.dtype.type
    items = carray(pointer(words[w.ITEMS]), (2,), bits.dtype)
    checked, most = items[0], items[1]
    bounds = carray(pointer(words[w.BOUNDS]), (3 + channel,), np.float64)
    low, high, cutoff = number(bounds[0]), number(bounds[1]), number(bounds[2 + channel])
    largest = bits.dtype.type(0)
    for i in range(length):
        codes[i] = np.uint8(_key(values[i]) > cutoff)
        largest = max(largest, bits.dtype.type(bits[i] & checked))
    if largest > most:
        above = number(words[w.NAN_ABOVE])
        for i in range(length):
            value = _key(values[i])
            codes[i] = np.uint8(w.OTHER) if (value < low) | (value > high) else codes[i]
            codes[i] = np.uint8(w.NAN) if _is_nan(values[i], above) else codes[i]


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
    words, values, codes = carray(side, (w.SIDE,)), carray(source, (length,)), carray(out, (length,))
    items = carray(pointer(words[w.ITEMS]), (3 + words[w.NUM_IGNORED],), values.dtype)
    one, magnitude = items[0], items[1]
    others = zero = values.dtype.type(0)
    for i in range(length):
        hot = values[i] == one
        codes[i] = np.uint8(hot)
        others = values.dtype.type(others | (zero if hot else values[i]))
    if others & magnitude:
        for i in range(length):
            other = (values[i] != one) & ((values[i] & magnitude) != 0)
            codes[i] = np.uint8(w.OTHER) if other else np.uint8(values[i] == one)
            if (
                other
                and words[w.MANTISSA]
                and _is_fractional(np.int64(values[i] & magnitude), words[w.MANTISSA], words[w.BIAS])
            ):
                codes[i] = np.uint8(w.FRACTIONAL)
    for k in range(words[w.NUM_IGNORED]):
        value = items[3 + k]
        for i in range(length):
            zeros = (value == 0) & ((values[i] & magnitude) == 0)
            codes[i] = np.uint8(w.LEFT_OUT) if zeros | (values[i] == value) else codes[i]


_ALL = (gather, scores, labels, whole_labels, half_whole_labels, one_hot, unmask, threshold, elements)
STAGES = {stage.__name__: stage for stage in _ALL}
