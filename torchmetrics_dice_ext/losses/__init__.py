"""Floor 5: losses, 1 - score of soft counts, through the same equations and averages as the scores.

Every loss lies in [0, 1], is computed in at least float32 (also under autocast), and has finite gradients, exactly 0 in
void voxels. It never waits for an accelerator, and `torch.compile(fullgraph=True)` takes it (not that of torch 2.4);
with ``validate_args="eager"``, which looks at the values, neither holds. `torch.autograd` differentiates it twice; the
transforms of `torch.func` (grad, vmap, ...) and forward-mode differentiation don't take it.

`DiceLoss` has the options, which are the same for all.

A class without target voxels is left out of an observation, an observation with nothing left doesn't count in the mean,
and a batch with nothing left has the loss 0, whose gradient is 0. With ``smooth > 0`` such classes take part, except
that with ``average="weighted"`` each still weighs its target: without any the loss is 0 there too, and its gradient.
"""

from torchmetrics_dice_ext.losses._functions import dice_loss as dice_loss
from torchmetrics_dice_ext.losses._functions import generalized_dice_loss as generalized_dice_loss
from torchmetrics_dice_ext.losses._functions import tversky_loss as tversky_loss
from torchmetrics_dice_ext.losses._modules import DiceLoss as DiceLoss
from torchmetrics_dice_ext.losses._modules import GeneralizedDiceLoss as GeneralizedDiceLoss
from torchmetrics_dice_ext.losses._modules import TverskyLoss as TverskyLoss
from torchmetrics_dice_ext.losses._setting import LossOptions as LossOptions
