"""What needs a fresh process: Triton's interpreter, and its compiler for a GPU that need not be there.

- `python triton_script.py compare GROUP` prints how cases differ from the reference.
- `python triton_script.py choose` prints the backend that serves CPU tensors.
- `python triton_script.py compile` prints the widths of loads, and whether a stack is needed, for some inputs.
"""

import json
import os
import re
import sys
from typing import Any

import torch
from kernel_cases import kernel_cases, label_views, mask_views, mismatches

from torchmetrics_dice_ext._counts import choose_backend
from torchmetrics_dice_ext._kernels import triton as backend
from torchmetrics_dice_ext._views import Form, Views


class NoDriver:
    """Says that there is a Hopper GPU, which is enough to compile for one."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device


def compile_all() -> dict[str, dict[str, Any]]:
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    driver.set_active(NoDriver())
    backend._multiprocessors = lambda device: 132
    compiled: list[str] = []

    def instead_of_a_launch(kernel: Any, grid: Any) -> Any:
        return lambda *args, **options: compiled.append(kernel.run(*args, grid=grid, warmup=True, **options).asm["ptx"])

    JITFunction.__getitem__ = instead_of_a_launch
    found = {}
    for name, views in compiled_cases().items():
        compiled.clear()
        backend.count_views(views)
        ptx = "".join(compiled)
        loads = re.findall(r"ld\.global(?:\.\w+)*?(?:\.v(\d))?\.[bus](\d+)", ptx)
        widths = sorted({int(vector or 1) * int(bits) // 8 for vector, bits in loads})
        found[name] = {"launches": len(compiled), "load_bytes": widths, "on_the_stack": ".local" in ptx}
    return found


def compiled_cases() -> dict[str, Views]:
    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype)

    cube, byte, long, half = (32, 32, 32), torch.uint8, torch.int64, torch.bfloat16
    labels, one_hot = {"preds_form": Form.LABELS}, {"target_form": Form.ONE_HOT}
    regions = {"regions": ((1, 2, 3), (1, 3), (3,))}
    truth, rows = empty(1, *cube, dtype=long), empty(1, *cube, 14).movedim(-1, 1)
    return {
        "scores": label_views(empty(1, 14, *cube), truth, 14, ignore_index=(255,)),
        "half scores": label_views(empty(1, 21, *cube, dtype=half), truth.byte(), 21, mask=truth.bool()),
        "double scores": label_views(empty(1, 2, *cube, dtype=torch.float64), truth, 2),
        "odd scores": label_views(empty(2, 4, 63, 63), empty(2, 63, 63, dtype=long), 4),
        "few scores": label_views(empty(2, 4, 32, 32), empty(2, 32, 32, dtype=long), 4),
        "points": label_views(empty(9, 4, 1), empty(9, 1, dtype=long), 4),
        "scores of many classes": label_views(empty(1, 118, *cube), truth, 118),
        "scores of too many classes": label_views(empty(1, 300, *cube), truth, 300),
        "scores side by side": label_views(rows, truth, 14),
        "scores apart": label_views(empty(1, 14, 32, 32, 64)[..., ::2], truth, 14),
        "scores, one-hot": label_views(empty(1, 14, *cube), empty(1, 14, *cube, dtype=byte), 14, **one_hot),
        "labels": label_views(truth.byte(), truth.byte(), 14, **labels),
        "whole floats": label_views(truth, truth.float(), 14, **labels),
        "regions": label_views(empty(1, 4, *cube), truth, 4, **regions),
        "probabilities": mask_views(empty(1, 1, *cube), truth.unsqueeze(1).byte(), probabilities=True),
        "double logits": mask_views(empty(1, 1, *cube, dtype=torch.float64), truth.unsqueeze(1)),
        "decisions": mask_views(truth.unsqueeze(1).bool(), truth.unsqueeze(1).float(), ignore_index=(9,)),
        "thresholds": mask_views(empty(1, 2, *cube, dtype=half), empty(1, 2, *cube, dtype=byte), cutoffs=(0.3, 0.5)),
        "labels side by side": mask_views(rows, rows.byte()),
    }


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = str(int(sys.argv[1] != "compile"))  # Triton reads it when the backend imports it
    if sys.argv[1] == "compare":
        result: Any = mismatches(backend, sys.argv[2])
    elif sys.argv[1] == "choose":
        result = choose_backend(kernel_cases("sizes")["space (3, 100)"])
    else:
        result = compile_all()
    sys.stdout.write(json.dumps(result))
