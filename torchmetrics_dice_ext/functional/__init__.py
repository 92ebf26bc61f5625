"""Floor 4: the public functions; they own the mathematics.

All take one batch and the options of section "Options" below; stateful metrics over many batches have the same names in
`torchmetrics_dice_ext`.

Options (keyword-only):
    num_classes: C, for task "multiclass".
    num_labels: L, for task "multilabel".
    threshold: Binary and multilabel floats are positive above it (default 0.5; multilabel also one per label).
    from_logits: Whether binary and multilabel floats are logits (default False).
    class_dim: The class axis (default 1; -1 for channels-last).
    input_format: "auto" (default), "one-hot" or "index": how two integer tensors of one shape are read (multiclass).
    average: "macro" (default), "micro", "weighted" (by target cardinality) or "none": classes -> one number.
        Binary and Generalized Dice have none.
    aggregation_level: "global" (default) pools all counts; "samplewise" scores each sample, "casewise" each case, then
        takes the mean over those that have a score.
    include_background: Whether class 0 is scored (multiclass, default True).
    ignore_index: Target values that are void: left out on both sides.
    zero_division: Score of a class whose denominator is 0: "nan" (default, skipped by averages) or a number in [0, 1].
    class_names: C names for errors.
    regions: ``{name: labels}``, unions of labels to score instead of classes (multiclass).
    mask: bool `(N, ...)`, True where a voxel counts.
    case_ids: N ints or strings, for level "casewise".
    validate_args: True (default) or "eager" refuses malformed values; False leaves their voxels out without a word.
"""

from torchmetrics_dice_ext._counts import OverlapCounts as OverlapCounts
from torchmetrics_dice_ext.functional._compute import CountingOptions as CountingOptions
from torchmetrics_dice_ext.functional._compute import ScoreOptions as ScoreOptions
from torchmetrics_dice_ext.functional._counts import overlap_counts as overlap_counts
from torchmetrics_dice_ext.functional._counts import which_backend as which_backend
from torchmetrics_dice_ext.functional._scores import dice_score as dice_score
from torchmetrics_dice_ext.functional._scores import fbeta_score as fbeta_score
from torchmetrics_dice_ext.functional._scores import generalized_dice_score as generalized_dice_score
from torchmetrics_dice_ext.functional._scores import jaccard_index as jaccard_index
from torchmetrics_dice_ext.functional._scores import precision as precision
from torchmetrics_dice_ext.functional._scores import recall as recall
from torchmetrics_dice_ext.functional._scores import soft_dice_score as soft_dice_score
from torchmetrics_dice_ext.functional._scores import specificity as specificity
from torchmetrics_dice_ext.functional._scores import tversky_index as tversky_index
from torchmetrics_dice_ext.functional._scores import volumetric_similarity as volumetric_similarity
