"""Overlap metrics for image segmentation that plug into torchmetrics: exact, reproducible and fast."""

import importlib
from typing import TYPE_CHECKING, Any

from torchmetrics_dice_ext._version import __version__ as __version__
from torchmetrics_dice_ext.metrics._hard import BinaryDiceScore as BinaryDiceScore
from torchmetrics_dice_ext.metrics._hard import BinaryFBetaScore as BinaryFBetaScore
from torchmetrics_dice_ext.metrics._hard import BinaryGeneralizedDiceScore as BinaryGeneralizedDiceScore
from torchmetrics_dice_ext.metrics._hard import BinaryJaccardIndex as BinaryJaccardIndex
from torchmetrics_dice_ext.metrics._hard import BinaryPrecision as BinaryPrecision
from torchmetrics_dice_ext.metrics._hard import BinaryRecall as BinaryRecall
from torchmetrics_dice_ext.metrics._hard import BinarySpecificity as BinarySpecificity
from torchmetrics_dice_ext.metrics._hard import BinaryTverskyIndex as BinaryTverskyIndex
from torchmetrics_dice_ext.metrics._hard import BinaryVolumetricSimilarity as BinaryVolumetricSimilarity
from torchmetrics_dice_ext.metrics._hard import DiceScore as DiceScore
from torchmetrics_dice_ext.metrics._hard import FBetaScore as FBetaScore
from torchmetrics_dice_ext.metrics._hard import GeneralizedDiceScore as GeneralizedDiceScore
from torchmetrics_dice_ext.metrics._hard import JaccardIndex as JaccardIndex
from torchmetrics_dice_ext.metrics._hard import MulticlassDiceScore as MulticlassDiceScore
from torchmetrics_dice_ext.metrics._hard import MulticlassFBetaScore as MulticlassFBetaScore
from torchmetrics_dice_ext.metrics._hard import MulticlassGeneralizedDiceScore as MulticlassGeneralizedDiceScore
from torchmetrics_dice_ext.metrics._hard import MulticlassJaccardIndex as MulticlassJaccardIndex
from torchmetrics_dice_ext.metrics._hard import MulticlassPrecision as MulticlassPrecision
from torchmetrics_dice_ext.metrics._hard import MulticlassRecall as MulticlassRecall
from torchmetrics_dice_ext.metrics._hard import MulticlassSpecificity as MulticlassSpecificity
from torchmetrics_dice_ext.metrics._hard import MulticlassTverskyIndex as MulticlassTverskyIndex
from torchmetrics_dice_ext.metrics._hard import MulticlassVolumetricSimilarity as MulticlassVolumetricSimilarity
from torchmetrics_dice_ext.metrics._hard import MultilabelDiceScore as MultilabelDiceScore
from torchmetrics_dice_ext.metrics._hard import MultilabelFBetaScore as MultilabelFBetaScore
from torchmetrics_dice_ext.metrics._hard import MultilabelGeneralizedDiceScore as MultilabelGeneralizedDiceScore
from torchmetrics_dice_ext.metrics._hard import MultilabelJaccardIndex as MultilabelJaccardIndex
from torchmetrics_dice_ext.metrics._hard import MultilabelPrecision as MultilabelPrecision
from torchmetrics_dice_ext.metrics._hard import MultilabelRecall as MultilabelRecall
from torchmetrics_dice_ext.metrics._hard import MultilabelSpecificity as MultilabelSpecificity
from torchmetrics_dice_ext.metrics._hard import MultilabelTverskyIndex as MultilabelTverskyIndex
from torchmetrics_dice_ext.metrics._hard import MultilabelVolumetricSimilarity as MultilabelVolumetricSimilarity
from torchmetrics_dice_ext.metrics._hard import Precision as Precision
from torchmetrics_dice_ext.metrics._hard import Recall as Recall
from torchmetrics_dice_ext.metrics._hard import Specificity as Specificity
from torchmetrics_dice_ext.metrics._hard import TverskyIndex as TverskyIndex
from torchmetrics_dice_ext.metrics._hard import VolumetricSimilarity as VolumetricSimilarity
from torchmetrics_dice_ext.metrics._report import OverlapReport as OverlapReport
from torchmetrics_dice_ext.metrics._soft import BinarySoftDiceScore as BinarySoftDiceScore
from torchmetrics_dice_ext.metrics._soft import MulticlassSoftDiceScore as MulticlassSoftDiceScore
from torchmetrics_dice_ext.metrics._soft import MultilabelSoftDiceScore as MultilabelSoftDiceScore
from torchmetrics_dice_ext.metrics._soft import SoftDiceScore as SoftDiceScore

if TYPE_CHECKING:
    from torchmetrics_dice_ext import functional as functional
    from torchmetrics_dice_ext import losses as losses
    from torchmetrics_dice_ext._diagnosis import diagnose as diagnose

_LATE = {"diagnose": "_diagnosis", "functional": "functional", "losses": "losses"}


def __getattr__(name: str) -> Any:
    """What not everybody needs is imported when it is first asked for; `diagnose` is half of the package."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LATE[name]}")
    globals()[name] = getattr(module, name, module)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
