"""Floor 1: preds, target and mask as users hold them -> canonical views; types and shapes checked, nothing copied.

The meaning of an input is decided by dtype, number of axes and options, never by the values in it.
"""

from __future__ import annotations

import itertools
from typing import Any, NoReturn

import torch
from torch import Tensor

from torchmetrics_dice_ext._options import Counting
from torchmetrics_dice_ext._views import Form, LabelViews, MaskViews, Views

FLOATS = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
INTEGERS = frozenset(
    {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64}
)


def read_inputs(preds: Any, target: Any, mask: Any, counting: Counting, *, keep_graph: bool = False) -> Views:
    """Canonical views of one batch.

    Args:
        preds: As the task takes it.
        target: As the task takes it.
        mask: None, or bool of the target's shape without its class axis.
        counting: The options that decide the reading.
        keep_graph: Leave the views of preds in preds' autograd graph, for losses.

    Raises:
        TypeError: A wrong type or dtype.
        ValueError: Shapes that don't fit each other or the options; tensors on two devices.
    """
    preds, target = _plain("preds", preds, keep_graph), _plain("target", target)
    if mask is not None:
        mask = _plain("mask", mask)
        if mask.dtype != torch.bool:
            raise TypeError(
                f"`mask` must be a bool tensor, True where a voxel counts, got {_seen(mask)}: use `mask.bool()`."
            )
    for name, tensor in (("target", target), ("mask", mask)):
        if tensor is not None and tensor.device != preds.device:
            raise ValueError(
                f"`preds` and `{name}` must be on one device, got {preds.device} and {tensor.device}:"
                f" move one of them with `.to(device)`."
            )
    return (_label_views if counting.task == "multiclass" else _mask_views)(preds, target, mask, counting)


def _plain(name: str, value: Any, keep_graph: bool = False) -> Tensor:
    """A dense `torch.Tensor` of a dtype that can be counted, detached unless its graph is to be kept."""
    if not isinstance(value, Tensor):
        kind = type(value)
        numpy = kind.__module__.partition(".")[0] == "numpy"
        remedy = (
            f"convert it with `torch.from_numpy({name})`" if numpy else f"convert it with `torch.as_tensor({name})`"
        )
        raise TypeError(f"`{name}` must be a torch.Tensor, got {kind.__module__}.{kind.__qualname__}: {remedy}.")
    if value.layout != torch.strided:
        raise TypeError(f"`{name}` must be a dense tensor, got layout {value.layout}: use `{name}.to_dense()`.")
    if value.dtype not in FLOATS and value.dtype not in INTEGERS and value.dtype != torch.bool:
        raise TypeError(
            f"`{name}` must be of a real dtype (float64, float32, float16, bfloat16, an integer dtype or bool),"
            f" got {_seen(value)}: convert it with `{name}.to(torch.float32)`."
        )
    if value.requires_grad and not keep_graph:
        value = value.detach()
    return value if type(value) is Tensor else value.as_subclass(Tensor)


def _mask_views(preds: Tensor, target: Tensor, mask: Tensor | None, counting: Counting) -> MaskViews:
    if counting.task == "binary":
        views = itertools.product(_without_channel(preds, counting), _without_channel(target, counting))
        pair = next(((p, t) for p, t in views if p.shape == t.shape), None)
        if pair is None:
            _refuse_binary(preds, target, counting)
        preds, target = (tensor.unsqueeze(1) for tensor in pair)
    else:
        _check_multilabel(preds, target, counting)
        preds, target = (tensor.movedim(counting.class_dim, 1) for tensor in (preds, target))
    preds, target = _with_space(preds, 2), _with_space(target, 2)
    return MaskViews(
        preds=preds,
        target=target,
        mask=_mask_of(mask, (preds.shape[0], *preds.shape[2:])),
        cutoffs=counting.cutoffs,
        probabilities=not counting.from_logits,
        ignore_index=counting.ignore_index,
    )


def _label_views(preds: Tensor, target: Tensor, mask: Tensor | None, counting: Counting) -> LabelViews:
    readings = _read_pair(preds, target, counting)
    if readings is None:
        _refuse_multiclass(preds, target, counting)
    (preds_form, preds_view), (target_form, target_view) = readings
    class_axis = None
    if preds_form is target_form is Form.LABELS and counting.input_format == "auto" and preds.shape == target.shape:
        class_axis = _class_axis(preds, preds_view, counting)
    preds_view = _with_space(preds_view, _channel_axes(preds_form))
    target_view = _with_space(target_view, _channel_axes(target_form))
    space = preds_view.shape if preds_form is Form.LABELS else (preds_view.shape[0], *preds_view.shape[2:])
    return LabelViews(
        preds=preds_view,
        preds_form=preds_form,
        target=target_view,
        target_form=target_form,
        mask=_mask_of(mask, tuple(space), "" if class_axis is None else _ONE_HOT_HINT),
        num_classes=counting.num_classes,
        ignore_index=counting.ignore_index,
        regions=counting.regions,
        class_axis=class_axis,
    )


_ONE_HOT_HINT = " If the tensors are one-hot, say `input_format='one-hot'`."


def _class_axis(tensor: Tensor, view: Tensor, counting: Counting) -> int | None:
    """Where in the view of a tensor as a label map its class axis lies; None where it can't have one."""
    if _axis_size(tensor, counting) != counting.num_classes:
        return None
    return counting.class_dim % tensor.ndim - (tensor.ndim - view.ndim)  # a singleton axis may have gone before it


FormedView = tuple[Form, Tensor]


def _read_pair(preds: Tensor, target: Tensor, counting: Counting) -> tuple[FormedView, FormedView] | None:
    """The first readings of both tensors that name the same voxels; None where no two do."""
    preds_readings = _readings(preds, counting)
    if preds.dtype in FLOATS:
        scores = _class_axis_first(preds, counting)
        preds_readings = [] if scores is None else [(Form.SCORES, scores)]
    for preds_reading in preds_readings:
        for target_reading in _readings(target, counting):
            # two label tensors of one shape are label maps unless the user says otherwise
            unwanted = Form.LABELS if counting.input_format == "one-hot" else Form.ONE_HOT
            if preds_reading[0] is target_reading[0] is unwanted:
                continue
            if _voxels(preds_reading) == _voxels(target_reading):
                return preds_reading, target_reading
    return None


def _readings(tensor: Tensor, counting: Counting) -> list[FormedView]:
    """What labels a tensor could hold going by its shape: one-hot, or a label map with or without a singleton axis."""
    readings = [(Form.LABELS, view) for view in _without_channel(tensor, counting)]
    one_hot = _class_axis_first(tensor, counting)
    if one_hot is not None and counting.input_format != "index":
        readings.insert(0, (Form.ONE_HOT, one_hot))
    return readings


def _voxels(reading: FormedView) -> tuple[int, ...]:
    form, view = reading
    return tuple(view.shape) if form is Form.LABELS else (view.shape[0], *view.shape[2:])


def _channel_axes(form: Form) -> int:
    return 1 if form is Form.LABELS else 2


def _axis_size(tensor: Tensor, counting: Counting) -> int | None:
    """Entries along the class axis; None where a tensor has no such axis."""
    axis = counting.class_dim + (tensor.ndim if counting.class_dim < 0 else 0)
    return tensor.shape[axis] if 0 < axis < tensor.ndim else None


def _class_axis_first(tensor: Tensor, counting: Counting) -> Tensor | None:
    """`(N, C, *S)` if the class axis has C entries."""
    if _axis_size(tensor, counting) != counting.num_classes:
        return None
    return tensor if counting.class_dim == 1 else tensor.movedim(counting.class_dim, 1)


def _without_channel(tensor: Tensor, counting: Counting) -> list[Tensor]:
    """Views of a label or binary tensor: without its singleton channel axis where it has one, then as it is."""
    views = [tensor] if tensor.ndim else []
    if tensor.ndim > 1 and tensor.shape[1] == 1 and counting.class_dim != 1:
        views.insert(0, tensor.squeeze(1))
    if _axis_size(tensor, counting) == 1:
        views.insert(0, tensor.squeeze(counting.class_dim))
    return views


def _with_space(tensor: Tensor, channel_axes: int) -> Tensor:
    """The tensor with at least one spatial axis."""
    return tensor.unsqueeze(-1) if tensor.ndim == channel_axes else tensor


def _mask_of(mask: Tensor | None, space: tuple[int, ...], hint: str = "") -> Tensor | None:
    """The mask as `space`; the two may differ by singleton axes, where also a label map may have lost one."""
    if mask is None:
        return None
    if mask.shape[:1] == space[:1] and [n for n in mask.shape[1:] if n != 1] == [n for n in space[1:] if n != 1]:
        return mask.reshape(space)
    raise ValueError(
        f"`mask` must have the shape of the target without its class axis, {space}, a singleton axis allowed,"
        f" got {_seen(mask)}.{hint}"
    )


def _check_multilabel(preds: Tensor, target: Tensor, counting: Counting) -> None:
    if preds.shape != target.shape:
        raise ValueError(
            f"`preds` and `target` of task 'multilabel' must have one shape (N, {counting.num_classes}, ...), got"
            f" {_seen(preds)} and {_seen(target)}.{_label_map_hint(target, preds) or _order_hint(preds, target)}"
        )
    if _axis_size(preds, counting) != counting.num_classes:
        raise ValueError(
            f"`preds` must have {counting.num_classes} labels (`num_labels`) on axis {counting.class_dim}"
            f" (`class_dim`), got {_seen(preds)}.{_axis_hint(preds, counting)}"
        )


def _label_map_hint(target: Tensor, preds: Tensor) -> str:
    if target.ndim == preds.ndim - 1:
        return " For a label map as target use task='multiclass'."
    return ""


def _refuse_binary(preds: Tensor, target: Tensor, counting: Counting) -> NoReturn:
    hint = ""
    if preds.ndim > 1 and preds.shape[1] == 2:
        hint = " Two channels are task='multiclass' with num_classes=2, or pass `preds[:, 1]`."
    elif preds.ndim > 1 and preds.shape[1] > 2 and preds.ndim == target.ndim + 1:
        hint = " Several channels are task='multiclass' or task='multilabel'."
    elif (*preds.shape, 1) == target.shape or (*target.shape, 1) == preds.shape:
        hint = " If the last axis is the channel, say `class_dim=-1`."
    raise ValueError(
        "`preds` and `target` of task 'binary' must have one shape (N, ...), where a singleton channel axis (N, 1, ...)"
        f" is dropped, got {_seen(preds)} and {_seen(target)}.{hint or _order_hint(preds, target)}"
    )


def _order_hint(preds: Tensor, target: Tensor) -> str:
    """What to do where one tensor may be the other with its axes in another order."""
    if preds.shape != target.shape and sorted(preds.shape) == sorted(target.shape):
        return " Their axes may be in different orders: `permute` one of them."
    return ""


def _refuse_multiclass(preds: Tensor, target: Tensor, counting: Counting) -> NoReturn:
    size = counting.num_classes
    if preds.dtype in FLOATS and _axis_size(preds, counting) != size:
        hint = _axis_hint(preds, counting)
        if not hint and preds.ndim <= target.ndim:
            hint = " If preds are label maps, pass integers: `preds.long()`."
        if _axis_size(preds, counting) == 1:
            hint = " For one channel of probabilities use task='binary'; if preds are label maps, pass `preds.long()`."
        raise ValueError(
            f"`preds` of a float dtype are scores (N, {size}, ...) with {size} classes (`num_classes`) on axis"
            f" {counting.class_dim} (`class_dim`), got {_seen(preds)}.{hint}"
        )
    expected = (
        f"`target` must be a label map of preds' spatial shape, or one-hot of preds' shape {tuple(preds.shape)}"
        if preds.dtype in FLOATS
        else f"`preds` and `target` must be label maps of one shape (N, ...), or one-hot with {size} classes on axis"
        f" {counting.class_dim}"
    )
    if counting.input_format == "one-hot":
        expected += " (`input_format='one-hot'`)"
    if preds.dtype in FLOATS:
        hint = _order_hint(preds, target) or (_axis_hint(target, counting) if target.ndim >= preds.ndim else "")
    else:
        hint = _axis_hint(preds if preds.ndim > target.ndim else target, counting)
    raise ValueError(f"{expected}, got preds {_seen(preds)} and target {_seen(target)}.{hint}")


def _axis_hint(tensor: Tensor, counting: Counting) -> str:
    """Which axis could be the class axis, if the one named is not."""
    fitting = [axis for axis in range(1, tensor.ndim) if tensor.shape[axis] == counting.num_classes]
    if not fitting or _axis_size(tensor, counting) == counting.num_classes:
        return ""
    axis = -1 if fitting[-1] == tensor.ndim - 1 and counting.class_dim == 1 else fitting[0]
    return f" Axis {fitting[-1] if axis == -1 else axis} has {counting.num_classes} entries: is it `class_dim={axis}`?"


def _seen(tensor: Tensor) -> str:
    return f"shape {tuple(tensor.shape)} of {tensor.dtype}"
