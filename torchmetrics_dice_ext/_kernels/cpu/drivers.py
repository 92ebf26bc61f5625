"""Floor 1: compiled loops that walk over the voxels of a batch, have stages turn them into codes, and count the codes.

Several threads may each take a part of the voxels. A driver adds to the counts and faults that are there; those of its
first sample, which it may share with the driver before, go to a place of their own.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import numpy as np
from numba import carray

from torchmetrics_dice_ext._faults import NUM_FAULTS
from torchmetrics_dice_ext._kernels.cpu import words as w
from torchmetrics_dice_ext._kernels.cpu.jit import call, jit, pointer, prefetch

COPIES = 2  # of a table of pairs: equal neighbours must not wait for each other's store
MOST_PAIRS = 1 << 30  # voxels after which a table of 32 bits is emptied
BYTES = np.uint64(0x0101010101010101)


@jit
def _words(batch):
    """All words of a batch."""
    axes = carray(batch, (w.HEAD,))[w.AXES]
    return carray(batch, (w.SPACE + w.AXIS * axes,))


@jit
def _locate(words, voxel, sources):
    """Where this voxel lies in preds, target and mask of sample 0; the voxels from it to the end of its row."""
    left = np.int64(0)
    for side in range(3):
        sources[side] = words[w.PREDS + w.SIDE * side + w.ADDRESS]
    for axis in range(words[w.AXES]):
        word = w.SPACE + w.AXIS * axis
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
        at = w.PREDS + w.SIDE * side
        if words[at + w.FUNCTION] != 0:
            source = sources[side] + sample * words[at + w.SAMPLE_STRIDE]
            channel, out = left_out, target
            if side < 2:
                source += label * words[at + w.CHANNEL_STRIDE] * words[at + w.ITEM]
                channel, out = label, preds if side == 0 else target
            call(words[at + w.FUNCTION], words.ctypes.data + 8 * at, source, out, length, channel)


@jit
def _row(words, sample, first, first_counts):
    """The counts (K, 4) of a sample."""
    outputs = words[w.OUTPUTS]
    if sample == first:
        return carray(first_counts, (outputs, 4))
    return carray(pointer(words[w.COUNTS] + sample * outputs * 32), (outputs, 4), np.int64)


@jit
def _pair(size, preds, target, keys):
    """A key for each pair of codes, size * size where void; whether there is a fault outside of void voxels."""
    size, void, no_key = np.int16(size), np.int16(size + w.VOID), np.int16(size * size)
    wrong = False
    for i in range(keys.shape[0]):
        t, p = target[i], preds[i]
        wrong |= (max(t, p) >= size) & (t != void)
        key = np.int16(np.int16(t * size) + p)
        keys[i] = key if t < size else no_key
    return wrong


@jit
def _settle_labels(words, size, preds, target, faults):
    """Count faults, and make faulty voxels void."""
    for i in range(preds.shape[0]):
        t, p = target[i], preds[i]
        if t != size + w.VOID:
            if p >= size:
                faults[words[w.PREDS_FAULT]] += 1
            if t >= size:
                faults[words[w.TARGET_FAULT] + t - (size + w.FAULT)] += 1
            if p >= size:
                target[i] = size + w.VOID
        if t >= size:
            target[i] = size + w.VOID


@jit
def _ahead(words, side, sample, source, length):
    """Where the voxels after a run lie if its row goes on, and the bytes from one to the next, 0 if it has channels."""
    at = w.PREDS + w.SIDE * side
    step = words[at + w.STEP] * words[at + w.ITEM] * (words[at + w.ROWS] == 1)
    return source + sample * words[at + w.SAMPLE_STRIDE] + length * step, step


@jit
def _count_keys(keys, table, entries, preds_ahead, target_ahead):
    """Count keys, neighbours in different copies of the table, while the labels ahead are fetched from memory."""
    (next_preds, preds_step), (next_target, target_step) = preds_ahead, target_ahead
    apart, quads = np.uint32(entries), keys.shape[0] // 4 * 4
    for i in range(0, quads, 4):
        prefetch(next_preds + i * preds_step)
        prefetch(next_target + i * target_step)
        table[np.uint32(keys[i])] += 1
        table[np.uint32(keys[i + 1]) + apart] += 1
        table[np.uint32(keys[i + 2])] += 1
        table[np.uint32(keys[i + 3]) + apart] += 1
    for i in range(quads, keys.shape[0]):
        table[np.uint32(keys[i])] += 1


@jit
def _add_pair(words, size, t, p, voxels, counts):
    """Add voxels of target t and preds p to the counts (K, 4), but for the support."""
    if words[w.MEMBERS] == 0:
        counts[t, 0] += voxels * (t == p)
        counts[p, 1] += voxels
        counts[t, 2] += voxels
        return
    outputs = words[w.OUTPUTS]
    members = carray(pointer(words[w.MEMBERS]), (size, outputs), np.uint8)
    for r in range(outputs):
        counts[r, 0] += voxels * (members[t, r] & members[p, r])
        counts[r, 1] += voxels * members[p, r]
        counts[r, 2] += voxels * members[t, r]


@jit
def _empty(words, size, table, counts):
    """Move what a table of pairs holds to the counts (K, 4); the support."""
    entries, support = size * size + 1, np.int64(0)
    for t in range(size):
        for p in range(size):
            voxels = np.int64(0)
            for key in range(t * size + p, table.shape[0], entries):
                voxels += table[key]
            if voxels > 0:
                support += voxels
                _add_pair(words, size, t, p, voxels, counts)
    for key in range(table.shape[0]):
        table[key] = 0
    return support


def count_labels(batch, first_counts, fault_counts, begin, end):
    """Count the voxels begin .. end - 1 of label views."""
    words = _words(batch)
    size, voxels, paired = words[w.PREDS + w.SIZE], words[w.VOXELS], words[w.PAIRED] != 0
    faults = carray(fault_counts, (NUM_FAULTS,))
    entries = size * size + 1
    table = np.zeros(COPIES * entries if paired else 0, np.int32)
    preds, target, keys = np.empty(w.TILE, np.int16), np.empty(w.TILE, np.int16), np.empty(w.TILE, np.int16)
    sources = np.empty(3, np.int64)
    position, first, filled, pending = begin, begin // voxels, 0, 0
    while position < end:
        sample = position // voxels
        left = _locate(words, position - sample * voxels, sources)
        length = min(left, w.TILE - filled, end - position)
        at = preds.itemsize * filled
        _encode(words, sample, sources, preds.ctypes.data + at, target.ctypes.data + at, length, 0, size + w.VOID)
        filled += length
        position += length
        finished = position == end or position // voxels != sample
        if filled < w.TILE and not finished:
            continue
        p, t, k = preds[:filled], target[:filled], keys[:filled]
        if _pair(size, p, t, k):
            _settle_labels(words, size, p, t, faults)
            _pair(size, p, t, k)
        counts = _row(words, sample, first, first_counts)
        support = np.int64(0)
        if paired:
            ahead_of_preds = _ahead(words, 0, sample, sources[0], length)
            ahead_of_target = _ahead(words, 1, sample, sources[1], length)
            _count_keys(k, table, entries, ahead_of_preds, ahead_of_target)
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
        preds[i] = p & w.POSITIVE
        if t & w.LEFT_OUT:
            continue
        if p & w.NAN:
            faults[0] += 1
        if p & w.OTHER:
            faults[words[w.PREDS_FAULT]] += 1
        if t & w.OTHER:
            faults[words[w.TARGET_FAULT]] += 1
        if t & w.FRACTIONAL:
            faults[words[w.TARGET_FAULT] - 1] += 1
        if (p & (w.NAN | w.OTHER)) | (t & (w.OTHER | w.FRACTIONAL)):
            target[i] = w.LEFT_OUT


def count_masks(batch, first_counts, fault_counts, begin, end):
    """Count the voxels begin .. end - 1 of mask views, label by label, tile by tile where labels lie side by side."""
    words = _words(batch)
    voxels = words[w.VOXELS]
    side_by_side = words[w.PREDS + w.CHANNEL_STRIDE] < words[w.PREDS + w.STEP]
    faults = carray(fault_counts, (NUM_FAULTS,))
    preds, target = np.empty(w.TILE // 8, np.uint64), np.empty(w.TILE // 8, np.uint64)
    preds_codes = carray(pointer(preds.ctypes.data), (w.TILE,), np.uint8)
    target_codes = carray(pointer(target.ctypes.data), (w.TILE,), np.uint8)
    sources = np.empty(3, np.int64)
    position, first = begin, begin // voxels
    while position < end:
        sample = position // voxels
        stop = min(end, (sample + 1) * voxels)
        if side_by_side:
            stop = min(stop, position + w.TILE)
        counts = _row(words, sample, first, first_counts)
        for label in range(words[w.OUTPUTS]):
            at = position
            while at < stop:
                left = _locate(words, at - sample * voxels, sources)
                length = min(left, w.TILE, stop - at)
                filled = (length + 7) // 8
                preds[filled - 1], target[filled - 1] = np.uint64(0), BYTES * np.uint64(w.LEFT_OUT)
                _encode(words, sample, sources, preds.ctypes.data, target.ctypes.data, length, label, w.LEFT_OUT)
                if not _add_elements(preds[:filled], target[:filled], counts[label]):
                    _settle_elements(words, preds_codes[:length], target_codes[:length], faults)
                    _add_elements(preds[:filled], target[:filled], counts[label])
                at += length
        position = stop
