"""Floor 6: whatever came -> tensors that can be looked at, and what the metrics would say to its type."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchmetrics_dice_ext._cases import read_case_ids
from torchmetrics_dice_ext._diagnosis._report import Finding
from torchmetrics_dice_ext._inputs import FLOATS, INTEGERS
from torchmetrics_dice_ext._options import AggregationLevel


@dataclass(frozen=True)
class Argument:
    """One argument: the tensor that could be made of it, and its description."""

    tensor: Tensor | None
    fact: str
    findings: list[Finding]


def read_argument(name: str, value: Any) -> Argument:
    """A strided tensor of a dtype that can be counted; None where none can be made."""
    if value is None:
        remedy = "preds = model(image)" if name == "preds" else "image, target = batch"
        return Argument(None, f"{name}: None", [_error("missing_input", f"`{name}` is None.", remedy)])
    findings: list[Finding] = []
    try:
        tensor = value if isinstance(value, Tensor) else _convert(name, value, findings)
        fact = f"{name}: {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} on {tensor.device}"
        tensor = _countable(name, _readable(tensor), findings)
    except Exception as error:  # whatever foreign objects raise when they are read
        kind = type(value)
        message = f"`{name}` of type {kind.__module__}.{kind.__qualname__} can't be read as one dense array: {error}"
        remedy = f"{name} = torch.stack([torch.as_tensor(sample) for sample in {name}])"
        return Argument(None, f"{name}: {kind.__module__}.{kind.__qualname__}", [_error("unreadable", message, remedy)])
    return Argument(tensor, fact, findings)


def read_mask(mask: Any) -> tuple[Tensor | None, list[Finding]]:
    """The mask if it is a bool tensor that can be read."""
    if mask is None:
        return None, []
    seen, remedy = type(mask).__qualname__, "mask = torch.as_tensor(mask) != 0"
    if isinstance(mask, Tensor):
        try:
            seen = str(mask.dtype)
            if mask.dtype == torch.bool and mask.layout == torch.strided:
                return _readable(mask), []
        except Exception as error:  # whatever a subclass raises, or torch without storage
            seen, remedy = f"one that can't be read: {error}", "mask = target != 255  # a mask that holds values"
    message = f"`mask` must be a bool tensor, True where a voxel counts, got {seen}; what follows leaves it aside."
    return None, [_error("bad_mask", message, remedy)]


def check_case_ids(case_ids: Any, level: AggregationLevel, samples: int) -> list[Finding]:
    """A finding where a metric of that level would refuse the case ids."""
    try:
        if level == "casewise":
            read_case_ids(case_ids, samples)
        elif case_ids is not None:
            raise ValueError(f"`case_ids` belong to `aggregation_level='casewise'`, got them at {level!r}.")
    except Exception as error:  # whatever foreign objects raise when they are read
        remedy = "metric.update(preds, target, case_ids=[...])  # one per sample, and at the level casewise alone"
        return [_error("bad_case_ids", str(error), remedy)]
    return []


def on_one_device(
    preds: Tensor, target: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, list[Finding]]:
    """All tensors on the CPU where they come from several devices."""
    devices = {str(tensor.device): None for tensor in (preds, target, mask) if tensor is not None}
    if len(devices) < 2:
        return preds, target, mask, []
    message = f"preds, target and mask lie on different devices: {', '.join(devices)}."
    finding = _error("two_devices", message, "target = target.to(preds.device)")
    return preds.cpu(), target.cpu(), None if mask is None else mask.cpu(), [finding]


def same_storage(preds: Any, target: Any) -> Finding | None:
    """Preds and target that share memory: a batch that is compared with itself."""
    if not isinstance(preds, Tensor) or not isinstance(target, Tensor) or preds.layout != target.layout:
        return None
    try:
        shared = preds.numel() > 0 and preds.data_ptr() == target.data_ptr() != 0
    except Exception:  # sparse and wrapped tensors have no address
        shared = preds is target
    if not shared or preds.dtype != target.dtype:
        return None
    message = "`preds` and `target` are the same memory: the batch is compared with itself, so its score says nothing."
    return _error(
        "same_storage", message, "preds = model(image)  # look for an assignment or a cache that mixes them up"
    )


def _convert(name: str, value: Any, findings: list[Finding]) -> Tensor:
    """A tensor of an array, a list or a number."""
    kind = type(value)
    numpy = kind.__module__.partition(".")[0] == "numpy"
    remedy = f"{name} = torch.from_numpy({name})" if numpy else f"{name} = torch.as_tensor({name})"
    message = f"`{name}` is a {kind.__module__}.{kind.__qualname__}; the metrics take tensors only."
    if numpy and not value.dtype.isnative:
        value, remedy = (
            value.astype(value.dtype.newbyteorder("=")),
            f"{name} = torch.as_tensor({name}.astype('float32'))",
        )
    if numpy and any(stride < 0 for stride in value.strides):
        value, remedy = value.copy(), f"{name} = torch.as_tensor({name}.copy())"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of read-only arrays and slow lists: nothing is written, and it comes once
        tensor = torch.as_tensor(value)
    findings.append(_error("not_a_tensor", message, remedy))
    return tensor


def _readable(tensor: Tensor) -> Tensor:
    """The plain tensor; raises where its values can't be read, as without storage or with too small a one."""
    tensor = tensor.detach()
    tensor = tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)
    if tensor.layout == torch.strided and not tensor.is_quantized:
        tensor.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).reshape(-1)[:1].tolist()
    return tensor


def _countable(name: str, tensor: Tensor, findings: list[Finding]) -> Tensor:
    """The tensor dense and of a real dtype."""
    if tensor.is_quantized:
        tensor = tensor.dequantize()
        findings.append(_error("wrong_dtype", f"`{name}` is quantized.", f"{name} = {name}.dequantize()"))
    if tensor.layout != torch.strided:
        message = f"`{name}` has the layout {tensor.layout}; the metrics take dense tensors."
        findings.append(_error("not_dense", message, f"{name} = {name}.to_dense()"))
        tensor = tensor.to_dense()
    if tensor.is_complex():
        message = f"`{name}` is complex ({tensor.dtype}); what follows looks at its real part."
        findings.append(_error("wrong_dtype", message, f"{name} = {name}.real  # or {name}.abs() for magnitudes"))
        tensor = tensor.real
    if tensor.dtype not in FLOATS and tensor.dtype not in INTEGERS and tensor.dtype != torch.bool:
        message = f"`{name}` is of {tensor.dtype}, which the metrics don't take."
        findings.append(_error("wrong_dtype", message, f"{name} = {name}.to(torch.float32)"))
        tensor = tensor.to(torch.float32)
    return tensor


def _error(code: str, message: str, remedy: str) -> Finding:
    return Finding(code=code, severity="error", message=message, remedy=remedy)
