"""Floor 1: the reference backend finds the first maximum that NumPy finds."""

import numpy as np
import pytest
import torch
from cases import FLOAT_DTYPES

from torchmetrics_dice_ext import functional
from torchmetrics_dice_ext._kernels.reference import count_views
from torchmetrics_dice_ext._views import Form, LabelViews


@pytest.mark.parametrize("size", [2, 9, 64, 118, 300])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_the_first_maximum_wins(size: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(size)
    scores = torch.randint(-9, 10, (2, size, 31, 17), generator=generator).to(dtype)  # ties abound
    scores[0, :, 0] = -torch.inf
    scores[0, size - 1, 1, :5] = torch.inf
    scores[:, size - 2 :, 1, 5] = torch.inf
    target = torch.from_numpy(np.argmax(scores.double().numpy(), axis=1))
    scores[1, size - 1, 2, 3], scores[1, 0, 2, 4] = torch.nan, torch.nan
    views = LabelViews(
        preds=scores,
        preds_form=Form.SCORES,
        target=target,
        target_form=Form.LABELS,
        mask=None,
        num_classes=size,
        ignore_index=(),
        regions=None,
        class_axis=None,
    )
    counts, faults = count_views(views)
    assert faults.tolist() == [2] + [0] * (len(faults) - 1)
    assert counts[..., 0].sum() == counts[..., 1].sum() == counts[..., 2].sum() == 2 * 31 * 17 - 2


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("ignore_index", [0, -1, 3])
def test_a_one_hot_voxel_of_no_class_is_not_void(ignore_index: int, soft: bool) -> None:
    """Also where the first class, or what could stand for none, is ignored."""
    preds, target = torch.rand(1, 3, 2), torch.zeros(1, 3, 2, dtype=torch.int64)
    target[0, 1, 0] = 1
    score = functional.soft_dice_score if soft else functional.dice_score
    with pytest.raises(ValueError, match="one-hot"):
        score(preds, target, "multiclass", num_classes=3, ignore_index=ignore_index)
