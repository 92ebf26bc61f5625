"""A guard under which nothing may make the host wait for a value of the device; it serves on the CPU too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

FORBIDDEN = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::nonzero_static",
    "aten::argwhere",
    "aten::_unique2",
    "aten::_unique",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::unique_dim_consecutive",
    "aten::bincount",
    "aten::masked_select",
    "aten::equal",
    "aten::is_nonzero",
    "aten::allclose",
    "aten::item",
}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
HOST_METHODS = (
    "item",
    "tolist",
    "numpy",
    "cpu",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "__array__",
    "__contains__",
)


class HostSyncError(AssertionError):
    """Say that the host asked for a value of the device."""


class NoHostSync(TorchDispatchMode):
    """Fail on every operation that makes the host wait, or that would on an accelerator."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        name = func.name().split(".")[0]
        given = dict(kwargs or {})
        if name in FORBIDDEN:
            raise HostSyncError(f"{func} waits for the device")
        if name in INDEXING and any(
            getattr(one, "dtype", None) in (torch.bool, torch.uint8) for one in args[1] if one is not None
        ):
            raise HostSyncError(f"{func} by a boolean tensor waits for the device")
        if name == "aten::repeat_interleave" and given.get("output_size") is None:
            raise HostSyncError(f"{func} without `output_size` waits for the device")
        moved_to = given.get("device")
        if name in ("aten::_to_copy", "aten::copy_") and moved_to is not None and moved_to != args[0].device:
            raise HostSyncError(f"{func} to {moved_to} waits for the device")
        return func(*args, **given)


@contextmanager
def no_host_sync() -> Iterator[NoHostSync]:
    """Forbid the operations that wait, and the tensor methods that read values without one."""

    def forbidden(name: str) -> Callable[..., Any]:
        original = getattr(torch.Tensor, name)

        def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.numel() == 0 and name == "tolist":  # no value to wait for
                return original(self, *args, **kwargs)
            raise HostSyncError(f"Tensor.{name} reads values on the host")

        return method

    kept = {name: torch.Tensor.__dict__[name] for name in HOST_METHODS if name in torch.Tensor.__dict__}
    for name in HOST_METHODS:
        setattr(torch.Tensor, name, forbidden(name))
    try:
        with NoHostSync() as mode:
            yield mode
    finally:
        for name in HOST_METHODS:
            if name in kept:
                setattr(torch.Tensor, name, kept[name])
            else:
                delattr(torch.Tensor, name)
