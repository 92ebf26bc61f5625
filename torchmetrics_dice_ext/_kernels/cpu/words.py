"""Floor 1: the words, int64 all of them, in which plans describe a batch to compiled loops, and the codes of voxels.

A batch is HEAD words, three sides (preds, target, mask) of SIDE words, and AXIS words for each spatial axis, innermost
first. An address is a word too; 0 stands for None.
"""

# a batch
VOXELS, OUTPUTS, COUNTS, PREDS_FAULT, TARGET_FAULT, MEMBERS, PAIRED, AXES = range(8)
HEAD = 8

# A side. FUNCTION gives codes of a run of voxels, by way of INNER where they don't lie side by side. Its items are ITEM
# bytes, the samples SAMPLE_STRIDE bytes, the classes or labels CHANNEL_STRIDE items, and the voxels STEP items apart.
# ROWS channels are read at once, and SIZE classes exist. ITEMS are constants of the items' own dtype: what means 1, the
# bits that are 0 in zeros, what is past the last label, and ignored values. IGNORED are float64, for labels read so.
FUNCTION, INNER, ITEM, ADDRESS, SAMPLE_STRIDE, CHANNEL_STRIDE, STEP, ROWS = range(8)
SIZE, ITEMS, IGNORED, NUM_IGNORED, MANTISSA, BIAS, NAN_ABOVE, BOUNDS = range(8, 16)
SIDE = 16
PREDS, TARGET, MASK = HEAD, HEAD + SIDE, HEAD + 2 * SIDE

# an axis: its size, and the bytes from one voxel to the next in preds, target and mask
SPACE = HEAD + 3 * SIDE
AXIS = 4

# codes of label views: 0 .. C - 1, and past them C + FAULT, C + FRACTION, C + VOID
FAULT, FRACTION, VOID = 0, 1, 2

# codes of mask views, bits of a byte; NAN is for preds and LEFT_OUT for target
POSITIVE, NAN, LEFT_OUT, OTHER, FRACTIONAL = 1, 2, 2, 4, 8

TILE = 2040  # voxels of a tile: they fit into the cache, and as 255 words of 8 codes their sums fit into bytes
