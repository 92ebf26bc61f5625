"""Floor 6: what a colleague who has seen every segmentation bug would say after a look at one batch."""

from torchmetrics_dice_ext._diagnosis._diagnose import diagnose as diagnose
from torchmetrics_dice_ext._diagnosis._report import Diagnosis as Diagnosis
from torchmetrics_dice_ext._diagnosis._report import Finding as Finding
