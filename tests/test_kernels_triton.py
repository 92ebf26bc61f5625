"""The Triton backend where there is no GPU: equality in Triton's interpreter, compilation for a GPU, and refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_cases import GROUPS, label_views

from torchmetrics_dice_ext._counts import choose_backend
from torchmetrics_dice_ext._kernels import triton as backend
from torchmetrics_dice_ext._views import LabelViews

SCRIPT = Path(__file__).with_name("triton_script.py")


def run_script(*args: str, **env: str) -> Any:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    done = subprocess.run([sys.executable, str(SCRIPT), *args], env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def some_views() -> LabelViews:
    return label_views(torch.rand(2, 3, 5), torch.zeros(2, 5, dtype=torch.long), 3)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_counts_and_faults_equal_the_reference_in_the_interpreter(group):
    pytest.importorskip("triton")
    assert run_script("compare", group) == {}


@pytest.mark.slow
def test_every_variant_compiles_for_a_gpu(tmp_path):
    pytest.importorskip("triton")
    found = run_script("compile", TRITON_CACHE_DIR=str(tmp_path))
    for name in ("scores", "double scores", "few scores", "labels", "probabilities", "regions"):
        assert 16 in found[name]["load_bytes"], f"{name}: {found[name]}"
    for name, compiled in found.items():
        assert compiled["launches"] == (2 if name == "thresholds" else 1), name
        assert not compiled["on_the_stack"], name


def test_the_interpreter_is_preferred_where_it_is_switched_on():
    pytest.importorskip("triton")
    assert run_script("choose") == ["triton", {}]
    assert run_script("choose", TORCHMETRICS_DICE_EXT_BACKEND="triton") == ["triton", {}]


def test_cpu_tensors_are_refused_without_importing_triton(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert backend.unsupported_reason(some_views()) == (
        "The tensors are on the CPU; Triton takes them with TRITON_INTERPRET=1, slowly."
    )
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        "from test_kernels_triton import backend, some_views\n"
        "assert backend.unsupported_reason(some_views())\n"
        "assert 'triton' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_named_backend_never_falls_back(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TORCHMETRICS_DICE_EXT_BACKEND", "triton")
    with pytest.raises(RuntimeError, match=r"BACKEND=triton can't serve this input: The tensors are on the CPU"):
        choose_backend(some_views())


def test_other_devices_are_refused():
    views = label_views(torch.empty(2, 3, 5, device="meta"), torch.empty(2, 5, device="meta"), 3)
    assert backend.unsupported_reason(views) == "The tensors are on meta, not on a CUDA device."


def test_a_missing_or_old_triton_is_named(monkeypatch):
    class Old:
        __version__ = "2.1.0"

    backend._missing.cache_clear()
    monkeypatch.setitem(sys.modules, "triton", None)
    assert backend._missing() == "Triton is not installed."
    backend._missing.cache_clear()
    monkeypatch.setitem(sys.modules, "triton", Old)
    assert backend._missing() == "Triton 2.1.0 is older than 3.4."
    backend._missing.cache_clear()


def test_layouts_and_views_that_cannot_be_read_are_named(monkeypatch):
    monkeypatch.setattr(backend, "_uninterpretable", lambda device: None)
    assert backend.unsupported_reason(some_views()) is None
    preds, target = torch.rand(1, 2, 3, 3, 3, 3), torch.zeros(1, 3, 3, 3, 3)
    assert backend.unsupported_reason(label_views(preds, target, 2)) is None
    reason = backend.unsupported_reason(label_views(preds.permute(0, 1, 5, 4, 3, 2), target, 2))
    assert reason == "The tensors lie so differently in memory that more than 3 spatial axes can't be joined."
    negated = torch._neg_view(torch.rand(2, 3, 5))
    assert "negated" in backend.unsupported_reason(label_views(negated, torch.zeros(2, 5), 3))
