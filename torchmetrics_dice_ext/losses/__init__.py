"""Floor 5: losses, 1 - score of soft counts, through the same equations and averages as the scores.

Every loss lies in [0, 1], is computed in at least float32 (also under autocast), and has finite gradients, exactly 0 in
void voxels. `torch.compile(fullgraph=True)` takes it (not that of torch 2.4), and nothing in it waits for
an accelerator.

Options (keyword-only, the same for all):
    from_logits: Whether preds are logits (default True), to which softmax (multiclass) or sigmoid is applied.
    squared: Square the cardinalities, P = Σp² and T = Σt², as V-Net does (default False).
    smooth: Added to numerator and denominator of the equation, in voxels (default 0). The losses don't need it: a class
        without target is left out. Above 0 it takes part, and its loss grows with what is predicted of it.
    average: "macro" (default), "micro", "weighted" (by target cardinality) or "none" (one loss per class): classes ->
        one number. Binary and Generalized Dice have none.
    aggregation_level: "samplewise" (default) takes the mean over the samples' losses, "global" pools the batch first.
    include_background: Whether class 0 is part of the loss (multiclass, default True).
    ignore_index: Target values that are void.
    class_dim: The class axis (default 1; -1 for channels-last).
    class_weights: C weights of at least 0. They weight the mean over classes; in "micro" and Generalized Dice the
        counts. A module keeps them on its device, a function copies them there at every call.
    sync: Whether the ranks of the default process group pool their counts ("global"), or the mean over all their
        samples ("samplewise"); default False. The loss is then that of all ranks' batches together, the same on every
        rank, and so is the gradient that DistributedDataParallel averages: the backward pass of the all-reduce sums the
        gradients over the ranks, and the averaging divides by their number. Every rank must call the loss.
    soft_target: Whether the target holds shares in [0, 1] along the class axis (default False: fractions are refused).
        A voxel is void where the share of an ignored class is 1.
    validate_args: True (default) raises on malformed values of tensors on the CPU; for tensors on accelerators and
        under `torch.compile` it never waits: the loss of a malformed batch is nan, its gradient 0. "eager" always
        raises, "deferred" always gives nan, False leaves malformed voxels out without a word.
    mask: bool `(N, ...)`, True where a voxel counts.

A class without target voxels is left out of an observation, an observation with nothing left doesn't count in the mean,
and a batch with nothing left has the loss 0, whose gradient is 0.
"""

from torchmetrics_dice_ext.losses._functions import dice_loss as dice_loss
from torchmetrics_dice_ext.losses._functions import generalized_dice_loss as generalized_dice_loss
from torchmetrics_dice_ext.losses._functions import tversky_loss as tversky_loss
from torchmetrics_dice_ext.losses._modules import DiceLoss as DiceLoss
from torchmetrics_dice_ext.losses._modules import GeneralizedDiceLoss as GeneralizedDiceLoss
from torchmetrics_dice_ext.losses._modules import TverskyLoss as TverskyLoss
from torchmetrics_dice_ext.losses._setting import LossOptions as LossOptions
