"""Floor 5: the hard scores, one class per task and a factory each; `functional` has their formulas."""

from __future__ import annotations

from typing import Any, Literal

from torchmetrics_dice_ext._readout import Score
from torchmetrics_dice_ext.metrics._factory import TaskFactory
from torchmetrics_dice_ext.metrics._tasks import BinaryOverlapMetric, MulticlassOverlapMetric, MultilabelOverlapMetric

WeightType = Literal["square", "simple", "linear"]


class BinaryDiceScore(BinaryOverlapMetric):
    """Dice score of one foreground class; see `functional.dice_score` for the formula."""

    score = Score.of("dice")


class MulticlassDiceScore(MulticlassOverlapMetric):
    """Dice score of C classes; see `functional.dice_score` for the formula."""

    score = Score.of("dice")


class MultilabelDiceScore(MultilabelOverlapMetric):
    """Dice score of L labels; see `functional.dice_score` for the formula."""

    score = Score.of("dice")


class DiceScore(TaskFactory):
    """Dice score of the task that is named; see `functional.dice_score` for the formula."""

    binary = BinaryDiceScore
    multiclass = MulticlassDiceScore
    multilabel = MultilabelDiceScore


class BinaryJaccardIndex(BinaryOverlapMetric):
    """Jaccard index of one foreground class; see `functional.jaccard_index` for the formula."""

    score = Score.of("jaccard")


class MulticlassJaccardIndex(MulticlassOverlapMetric):
    """Jaccard index of C classes; see `functional.jaccard_index` for the formula."""

    score = Score.of("jaccard")


class MultilabelJaccardIndex(MultilabelOverlapMetric):
    """Jaccard index of L labels; see `functional.jaccard_index` for the formula."""

    score = Score.of("jaccard")


class JaccardIndex(TaskFactory):
    """Jaccard index of the task that is named; see `functional.jaccard_index` for the formula."""

    binary = BinaryJaccardIndex
    multiclass = MulticlassJaccardIndex
    multilabel = MultilabelJaccardIndex


class BinaryPrecision(BinaryOverlapMetric):
    """Precision of one foreground class; see `functional.precision` for the formula."""

    score = Score.of("precision")


class MulticlassPrecision(MulticlassOverlapMetric):
    """Precision of C classes; see `functional.precision` for the formula."""

    score = Score.of("precision")


class MultilabelPrecision(MultilabelOverlapMetric):
    """Precision of L labels; see `functional.precision` for the formula."""

    score = Score.of("precision")


class Precision(TaskFactory):
    """Precision of the task that is named; see `functional.precision` for the formula."""

    binary = BinaryPrecision
    multiclass = MulticlassPrecision
    multilabel = MultilabelPrecision


class BinaryRecall(BinaryOverlapMetric):
    """Recall of one foreground class; see `functional.recall` for the formula."""

    score = Score.of("recall")


class MulticlassRecall(MulticlassOverlapMetric):
    """Recall of C classes; see `functional.recall` for the formula."""

    score = Score.of("recall")


class MultilabelRecall(MultilabelOverlapMetric):
    """Recall of L labels; see `functional.recall` for the formula."""

    score = Score.of("recall")


class Recall(TaskFactory):
    """Recall of the task that is named; see `functional.recall` for the formula."""

    binary = BinaryRecall
    multiclass = MulticlassRecall
    multilabel = MultilabelRecall


class BinarySpecificity(BinaryOverlapMetric):
    """Specificity of one foreground class; see `functional.specificity` for the formula."""

    score = Score.of("specificity")


class MulticlassSpecificity(MulticlassOverlapMetric):
    """Specificity of C classes; see `functional.specificity` for the formula."""

    score = Score.of("specificity")


class MultilabelSpecificity(MultilabelOverlapMetric):
    """Specificity of L labels; see `functional.specificity` for the formula."""

    score = Score.of("specificity")


class Specificity(TaskFactory):
    """Specificity of the task that is named; see `functional.specificity` for the formula."""

    binary = BinarySpecificity
    multiclass = MulticlassSpecificity
    multilabel = MultilabelSpecificity


class BinaryVolumetricSimilarity(BinaryOverlapMetric):
    """Volumetric similarity of one foreground class; see `functional.volumetric_similarity` for the formula."""

    score = Score.of("volumetric_similarity")


class MulticlassVolumetricSimilarity(MulticlassOverlapMetric):
    """Volumetric similarity of C classes; see `functional.volumetric_similarity` for the formula."""

    score = Score.of("volumetric_similarity")


class MultilabelVolumetricSimilarity(MultilabelOverlapMetric):
    """Volumetric similarity of L labels; see `functional.volumetric_similarity` for the formula."""

    score = Score.of("volumetric_similarity")


class VolumetricSimilarity(TaskFactory):
    """Volumetric similarity of the task that is named; see `functional.volumetric_similarity` for the formula."""

    binary = BinaryVolumetricSimilarity
    multiclass = MulticlassVolumetricSimilarity
    multilabel = MultilabelVolumetricSimilarity


class BinaryFBetaScore(BinaryOverlapMetric):
    """F-beta score of one foreground class; see `functional.fbeta_score` for the formula."""

    def __init__(self, *, beta: float = 1.0, **options: Any) -> None:
        self.score = Score.of("fbeta", beta=beta)
        super().__init__(**options)


class MulticlassFBetaScore(MulticlassOverlapMetric):
    """F-beta score of C classes; see `functional.fbeta_score` for the formula."""

    def __init__(self, num_classes: int, *, beta: float = 1.0, **options: Any) -> None:
        self.score = Score.of("fbeta", beta=beta)
        super().__init__(num_classes, **options)


class MultilabelFBetaScore(MultilabelOverlapMetric):
    """F-beta score of L labels; see `functional.fbeta_score` for the formula."""

    def __init__(self, num_labels: int, *, beta: float = 1.0, **options: Any) -> None:
        self.score = Score.of("fbeta", beta=beta)
        super().__init__(num_labels, **options)


class FBetaScore(TaskFactory):
    """F-beta score of the task that is named; see `functional.fbeta_score` for the formula."""

    binary = BinaryFBetaScore
    multiclass = MulticlassFBetaScore
    multilabel = MultilabelFBetaScore


class BinaryTverskyIndex(BinaryOverlapMetric):
    """Tversky index of one foreground class; see `functional.tversky_index` for the formula."""

    def __init__(self, *, alpha: float = 0.5, beta: float = 0.5, **options: Any) -> None:
        self.score = Score.of("tversky", alpha=alpha, beta=beta)
        super().__init__(**options)


class MulticlassTverskyIndex(MulticlassOverlapMetric):
    """Tversky index of C classes; see `functional.tversky_index` for the formula."""

    def __init__(self, num_classes: int, *, alpha: float = 0.5, beta: float = 0.5, **options: Any) -> None:
        self.score = Score.of("tversky", alpha=alpha, beta=beta)
        super().__init__(num_classes, **options)


class MultilabelTverskyIndex(MultilabelOverlapMetric):
    """Tversky index of L labels; see `functional.tversky_index` for the formula."""

    def __init__(self, num_labels: int, *, alpha: float = 0.5, beta: float = 0.5, **options: Any) -> None:
        self.score = Score.of("tversky", alpha=alpha, beta=beta)
        super().__init__(num_labels, **options)


class TverskyIndex(TaskFactory):
    """Tversky index of the task that is named; see `functional.tversky_index` for the formula."""

    binary = BinaryTverskyIndex
    multiclass = MulticlassTverskyIndex
    multilabel = MultilabelTverskyIndex


class BinaryGeneralizedDiceScore(BinaryOverlapMetric):
    """Generalized Dice score of one foreground class; see `functional.generalized_dice_score` for the formula."""

    def __init__(self, *, weight_type: WeightType = "square", **options: Any) -> None:
        _refuse_average(options)
        self.score = Score.of("generalized_dice", weight_type=weight_type)
        super().__init__(**options)


class MulticlassGeneralizedDiceScore(MulticlassOverlapMetric):
    """Generalized Dice score of C classes; see `functional.generalized_dice_score` for the formula."""

    def __init__(self, num_classes: int, *, weight_type: WeightType = "square", **options: Any) -> None:
        _refuse_average(options)
        self.score = Score.of("generalized_dice", weight_type=weight_type)
        super().__init__(num_classes, **options)


class MultilabelGeneralizedDiceScore(MultilabelOverlapMetric):
    """Generalized Dice score of L labels; see `functional.generalized_dice_score` for the formula."""

    def __init__(self, num_labels: int, *, weight_type: WeightType = "square", **options: Any) -> None:
        _refuse_average(options)
        self.score = Score.of("generalized_dice", weight_type=weight_type)
        super().__init__(num_labels, **options)


class GeneralizedDiceScore(TaskFactory):
    """Generalized Dice score of the task that is named; see `functional.generalized_dice_score` for the formula."""

    binary = BinaryGeneralizedDiceScore
    multiclass = MulticlassGeneralizedDiceScore
    multilabel = MultilabelGeneralizedDiceScore


def _refuse_average(options: dict[str, Any]) -> None:
    if "average" in options:
        raise ValueError(
            "`average` has no meaning for the Generalized Dice score: its weights join the classes. Leave it out."
        )
