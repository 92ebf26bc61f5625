"""Floor 1: the compiled CPU backend equals the reference backend exactly, whatever it is given."""

import functools
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from cases import FLOAT_DTYPES, INT_DTYPES, layouts
from host_sync import no_host_sync
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from torchmetrics_dice_ext import MulticlassDiceScore
from torchmetrics_dice_ext._counts import choose_backend
from torchmetrics_dice_ext._faults import NUM_FAULTS, Fault
from torchmetrics_dice_ext._inputs import read_inputs
from torchmetrics_dice_ext._kernels import cpu, reference
from torchmetrics_dice_ext._options import Counting
from torchmetrics_dice_ext._views import Form, LabelViews, MaskViews, Views
from torchmetrics_dice_ext.functional import overlap_counts

threads = pytest.importorskip("torchmetrics_dice_ext._kernels.cpu.threads")

NAN, INF = math.nan, math.inf


def views(preds: Tensor, target: Tensor, mask: Tensor | None = None, task: str = "multiclass", **options: Any) -> Views:
    if task == "multiclass":
        options.setdefault("num_classes", 4)
    return read_inputs(preds, target, mask, Counting.of(task, **options))


def agree(given: Views) -> Tensor:
    """Assert equality with the reference; the fault counts."""
    assert cpu.unsupported_reason(given) is None
    counts, faults = cpu.count_views(given)
    expected_counts, expected_faults = reference.count_views(given)
    assert counts.dtype == faults.dtype == torch.int64
    assert counts.is_contiguous()
    assert faults.tolist() == expected_faults.tolist()
    assert torch.equal(counts, expected_counts)
    return faults


def scores(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Few different values, so that ties abound."""
    return (torch.randint(-6, 7, shape) / 4).to(dtype)


def labels(*shape: int, size: int = 4, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.randint(0, size, shape).to(dtype)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)
    random.seed(1)


SHAPES = [
    (2, 63),
    (1, 100),
    (1, 1),
    (1, 1000),
    (3, 7, 5),
    (1, 2041),
    (2, 4095),
    (0, 5, 5),
    (2, 0, 3),
    (1, 9, 8, 7),
    (5000, 1),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    samples, *space = shape
    target = labels(*shape)
    agree(views(scores(samples, 4, *space), target))
    agree(views(labels(*shape, dtype=torch.uint8), target))
    agree(views(torch.rand(shape), target.clamp(max=1), task="binary"))
    agree(views(torch.rand(samples, 3, *space), labels(samples, 3, *space, size=2), task="multilabel", num_labels=3))


@pytest.mark.parametrize(
    ("size", "voxels"), [(2, 50), (3, 8), (5, 24), (15, 3000), (128, 16400), (129, 17000), (300, 65), (2000, 9)]
)
def test_numbers_of_classes(size: int, voxels: int) -> None:
    target = labels(2, voxels, size=size)
    for dtype in (torch.float32, torch.bfloat16):
        agree(views(scores(2, size, voxels, dtype=dtype), target, num_classes=size))
    preds = torch.where(torch.rand(2, voxels) < 0.5, target, labels(2, voxels, size=size))
    agree(views(preds, target, num_classes=size, ignore_index=1))
    regions = {"odd": list(range(1, size, 2)), "all": list(range(size)), "first": [0], "last": [size - 1]}
    agree(views(preds, target, num_classes=size, regions=regions))


def test_more_classes_than_it_takes() -> None:
    given = views(labels(1, 5), labels(1, 5), num_classes=1 << 15)
    assert "32768 classes" in str(cpu.unsupported_reason(given))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_score_dtypes(dtype: torch.dtype) -> None:
    special = torch.tensor([0.0, -0.0, INF, -INF, NAN, -NAN, 1e-7, -1e-7, 6e4, 1.5], dtype=torch.float64).to(dtype)
    preds = special[torch.randint(0, 10, (2, 5, 3000))]
    preds[torch.rand(2, 5, 3000) < 0.8] = -0.0
    assert agree(views(preds, labels(2, 3000, size=5), num_classes=5))[Fault.PREDS_NAN] > 0
    tiny = torch.finfo(dtype).smallest_normal / 4
    agree(views(torch.tensor([[[0.0], [tiny]], [[-tiny], [-0.0]]]).to(dtype), labels(2, 1, size=2), num_classes=2))
    agree(views(torch.full((1, 4, 9), -INF, dtype=dtype), labels(1, 9)))
    agree(views(torch.randn(2, 37, 211).to(dtype), labels(2, 211, size=37), num_classes=37))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_half_float(dtype: torch.dtype) -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype)
    others = every[torch.randperm(1 << 16)]
    agree(views(torch.stack([every, others]).unsqueeze(0), labels(1, 1 << 16, size=2), num_classes=2))
    target = labels(1, 1 << 16, size=2)
    agree(views(every[None], target, task="binary"))
    agree(views(every[None], target, task="binary", from_logits=True, threshold=0.3))
    agree(views(labels(1, 1 << 16), every[None], ignore_index=(-7, 2)))
    agree(views(target, every[None], task="binary", ignore_index=(0, 300)))


@pytest.mark.parametrize("target_dtype", [*INT_DTYPES, torch.bool, *FLOAT_DTYPES], ids=str)
@pytest.mark.parametrize("preds_dtype", [*INT_DTYPES, torch.bool, torch.bfloat16], ids=str)
def test_label_dtypes(preds_dtype: torch.dtype, target_dtype: torch.dtype) -> None:
    preds = scores(2, 4, 77, dtype=preds_dtype) if preds_dtype.is_floating_point else labels(2, 77, dtype=preds_dtype)
    agree(views(preds, labels(2, 77, dtype=target_dtype)))
    given = views(labels(2, 77, size=2, dtype=preds_dtype), labels(2, 77, size=2, dtype=target_dtype), task="binary")
    agree(given)


@pytest.mark.parametrize("dtype", INT_DTYPES, ids=str)
def test_wrong_labels(dtype: torch.dtype) -> None:
    info = torch.iinfo(dtype)
    values = [0, 1, 2, 3, 4, 5, info.max, info.max - 1, info.min, info.min]
    preds, target = (
        torch.tensor([values[i] for i in torch.randint(0, 10, (1000,))], dtype=dtype).view(2, 500) for _ in "pt"
    )
    faults = agree(views(preds, target))
    assert faults[Fault.PREDS_LABEL] > 0
    assert faults[Fault.TARGET_LABEL] > 0
    ignore_index = [info.max, 2, -1, 1 << 80]
    agree(views(preds, target, ignore_index=ignore_index))
    agree(views(scores(2, 4, 500), target, ignore_index=ignore_index))
    agree(views(preds, target, ignore_index=list(range(info.max - 5, info.max + 1))))
    agree(views(preds, target, num_classes=300))
    for void in ([], [0], [1, info.max], [info.min]):
        assert agree(views(preds, target, task="binary", ignore_index=void))[Fault.TARGET_BINARY] > 0


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_wrong_float_labels(dtype: torch.dtype) -> None:
    values = torch.tensor(
        [0, -0.0, 1, 2, 3, 4, -1, 0.5, 1.25, -0.5, NAN, INF, -INF, 3e4, 255, 1e-6], dtype=torch.float64
    )
    target = values.to(dtype)[torch.randint(0, 16, (2, 900))]
    for void in ([], [255], [0, -1], [1, 2, 30000, 1 << 62, -(1 << 62)]):
        faults = agree(views(labels(2, 900), target, ignore_index=void))
        assert faults[Fault.TARGET_FRACTION] > 0
        assert faults[Fault.TARGET_LABEL] > 0
        faults = agree(views(torch.rand(2, 900), target, task="binary", ignore_index=void))
        assert faults[Fault.TARGET_FRACTION] > 0
        assert faults[Fault.TARGET_BINARY] > 0


@pytest.mark.parametrize("preds_layout", layouts(torch.zeros(1, 1, 1)))
@pytest.mark.parametrize("target_layout", layouts(torch.zeros(1, 1, 1)))
def test_layouts(preds_layout: str, target_layout: str) -> None:
    preds, target, mask = scores(2, 4, 12, 11, 3), labels(2, 12, 11, 3), torch.rand(2, 12, 11, 3) < 0.8
    preds[0, 1, 2], target[1, 4] = NAN, 99
    for dtype in (torch.float32, torch.bfloat16):
        laid = layouts(preds.to(dtype))[preds_layout]
        agree(views(laid, layouts(target)[target_layout], layouts(mask)[preds_layout], ignore_index=2))
    target = layouts(target.to(torch.uint8))[target_layout]
    agree(views(layouts(labels(2, 12, 11, 3, dtype=torch.uint8))[preds_layout], target, mask))
    target = layouts(labels(2, 4, 12, 11, 3, size=2))[target_layout]
    laid = layouts(preds.sigmoid())[preds_layout]
    mask = layouts(mask)[target_layout]
    agree(views(laid, target, mask, task="multilabel", num_labels=4, threshold=[0.2, 0.4, 0.5, 0.7]))
    agree(views(laid, layouts(torch.nn.functional.one_hot(labels(2, 12, 11, 3)).movedim(-1, 1))[target_layout]))


def test_expanded_tensors() -> None:
    agree(views(scores(1, 4, 1, 9).expand(3, 4, 50, 9), labels(1, 50, 1).expand(3, 50, 9)))
    agree(views(scores(2, 1, 50).expand(2, 4, 50), labels(2, 50)))
    agree(
        views(torch.rand(1).expand(2, 3, 50), labels(2, 3, 1, size=2).expand(2, 3, 50), task="multilabel", num_labels=3)
    )
    agree(views(scores(2, 9, 3000)[:, 2:6], labels(2, 9000)[:, ::3]))


@pytest.mark.parametrize("class_dim", [1, 2, -1])
def test_class_dim(class_dim: int) -> None:
    preds = scores(2, 4, 10, 30).movedim(1, class_dim)
    agree(views(preds, labels(2, 10, 30), class_dim=class_dim))
    agree(views(preds.contiguous(), labels(2, 10, 30), class_dim=class_dim))


@pytest.mark.parametrize("dtype", [*INT_DTYPES, torch.bool, *FLOAT_DTYPES], ids=str)
def test_one_hot(dtype: torch.dtype) -> None:
    size = 3
    hot = torch.nn.functional.one_hot(labels(2, 2500, size=size), size).movedim(-1, 1)
    wrong = torch.where(torch.rand(hot.shape) < 0.01, 1 - hot, hot)
    if dtype != torch.bool:
        wrong = torch.where(torch.rand(hot.shape) < 0.003, 7, wrong)
    wrong = wrong.to(dtype)
    if dtype.is_floating_point:
        wrong[0, :, :40] = torch.tensor([[NAN], [0.5], [-0.0]])
    for void in ([], [0], [2, 9]):
        for target in (hot.to(dtype), wrong):
            options = {"num_classes": size, "ignore_index": void}
            agree(views(labels(2, 2500, size=size), target, **options))
            faults = agree(views(scores(2, size, 2500), target, **options))
            if not dtype.is_floating_point:
                agree(views(target, hot, input_format="one-hot", **options))
                agree(views(target, labels(2, 2500, size=size), torch.rand(2, 2500) < 0.5, **options))
        assert faults[Fault.TARGET_ONE_HOT] > 0


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("from_logits", [False, True])
def test_cutoffs_at_the_last_digit(dtype: torch.dtype, from_logits: bool) -> None:
    thresholds = [0.3, 0.5, 0.1, 0.7000001, 0.999, 1e-5]
    cutoffs = [math.log(t / (1 - t)) if from_logits else t for t in thresholds]
    corners = [-1e-4, 1 + 1e-4, 0.0, 1.0, *cutoffs]
    near = torch.tensor(corners, dtype=torch.float64).to(dtype)
    around = [
        near,
        torch.nextafter(near, torch.tensor(INF, dtype=dtype)),
        torch.nextafter(near, torch.tensor(-INF, dtype=dtype)),
    ]
    values = torch.cat([*around, torch.tensor([NAN, INF, -INF, -0.0], dtype=dtype)])
    preds = values[torch.randint(0, len(values), (2, 6, 4000))]
    options: dict[str, Any] = {
        "task": "multilabel",
        "num_labels": 6,
        "threshold": thresholds,
        "from_logits": from_logits,
    }
    faults = agree(views(preds, labels(2, 6, 4000, size=2), **options))
    assert faults[Fault.PREDS_NAN] > 0
    assert (faults[Fault.PREDS_PROBABILITY] > 0) != from_logits
    agree(views(preds[:, :1], labels(2, 1, 4000, size=2), task="binary", threshold=0.3, from_logits=from_logits))


def test_void_and_masked_voxels_are_never_faulty() -> None:
    preds, target, mask = scores(2, 4, 5000), labels(2, 5000), torch.rand(2, 5000) < 0.5
    preds[(~mask).unsqueeze(1).expand_as(preds)] = NAN
    target[~mask] = 77
    assert not agree(views(preds, target, mask)).any()
    assert not agree(views(preds, target, ignore_index=77)).any()
    assert not agree(views(preds, target, ignore_index=(77, 0, 3))).any()
    assert not agree(views(torch.where(mask, 2, 9), target, mask)).any()
    preds, target = torch.where(mask, 0.7, NAN), torch.where(mask, 1.0, NAN)
    assert not agree(views(preds, target, mask, task="binary")).any()


def test_faults_on_both_sides_of_a_voxel() -> None:
    preds, target = scores(1, 4, 10), labels(1, 10)
    preds[0, 2, 3], target[0, 3], target[0, 4] = NAN, -5, 8
    faults = agree(views(preds, target))
    assert faults[Fault.PREDS_NAN] == 1
    assert faults[Fault.TARGET_LABEL] == 2
    faults = agree(views(torch.tensor([[NAN, 2.0, 0.5]]), torch.tensor([[2, 3, 1]]), task="binary"))
    assert [faults[kind] for kind in (Fault.PREDS_NAN, Fault.PREDS_PROBABILITY, Fault.TARGET_BINARY)] == [1, 1, 2]


def test_regions_that_overlap() -> None:
    regions = {"whole": [1, 2, 3], "core": [1, 3], "edge": [2], "both": [0, 3]}
    target = labels(3, 700)
    agree(views(scores(3, 4, 700), target, regions=regions, ignore_index=2))
    agree(views(scores(3, 4, 5)[..., :3], target[:, :3], torch.rand(3, 3) < 0.7, regions=regions))
    agree(views(torch.where(target == 1, 9, target), target, regions=regions))


def random_views(seed: int) -> Views:
    """Any input that there is, with anything wrong in it."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    samples, size = draw.choice([1, 2, 5]), draw.choice([2, 3, 4, 7, 14, 40])
    space = draw.choice([(1,), (33,), (5, 7), (2300,), (3, 40, 21)])
    void = draw.choice([(), (255,), (0,), (1, 255, -1)])
    form, target_form = draw.choice(list(Form)), draw.choice([Form.LABELS, Form.ONE_HOT])
    mask = torch.rand(samples, *space) < 0.8 if draw.random() < 0.3 else None

    def tensor(form: Form, dtypes: Sequence[torch.dtype]) -> Tensor:
        dtype = draw.choice(dtypes)
        if form is Form.SCORES:
            values = torch.randn(samples, size, *space).to(dtype)
            values[torch.rand(values.shape) < draw.choice([0, 1e-3])] = NAN
        elif form is Form.ONE_HOT:
            hot = torch.nn.functional.one_hot(labels(samples, *space, size=size), size).movedim(-1, 1)
            values = torch.where(torch.rand(hot.shape) < draw.choice([0, 1e-3]), 1, hot).to(dtype)
        else:
            wrong = torch.rand(samples, *space) < draw.choice([0, 1e-2])
            values = torch.where(wrong, draw.choice([255, 41, 1]), labels(samples, *space, size=size)).to(dtype)
        return draw.choice(list(layouts(values).values()))

    if draw.random() < 0.3:
        preds = tensor(Form.SCORES, FLOAT_DTYPES) if draw.random() < 0.7 else tensor(Form.ONE_HOT, INT_DTYPES)
        if preds.is_floating_point() and draw.random() < 0.5:
            preds = preds.sigmoid()
        cutoffs = tuple(draw.uniform(0.01, 0.99) for _ in range(size)) if draw.random() < 0.5 else (0.5,) * size
        target = tensor(Form.ONE_HOT, [*INT_DTYPES, *FLOAT_DTYPES])
        return MaskViews(
            preds=preds, target=target, mask=mask, cutoffs=cutoffs, probabilities=draw.random() < 0.5, ignore_index=void
        )
    regions = tuple(tuple(sorted(draw.sample(range(size), draw.randint(1, size)))) for _ in range(draw.randint(1, 5)))
    return LabelViews(
        preds=tensor(form, FLOAT_DTYPES if form is Form.SCORES else INT_DTYPES),
        preds_form=form,
        target=tensor(target_form, [*INT_DTYPES, *FLOAT_DTYPES]),
        target_form=target_form,
        mask=mask,
        num_classes=size,
        ignore_index=void,
        regions=regions if draw.random() < 0.3 else None,
        class_axis=None,
    )


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_anything(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(start, start + 50):
        monkeypatch.setattr(threads, "GRAIN", random.Random(seed).choice([1 << 17, 500]))
        agree(random_views(seed))


@pytest.fixture
def _many_threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["OpenMP", "pool"])
def _either_team(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pool":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    elif threads._openmp() is None:
        pytest.skip("PyTorch has no OpenMP threads here")


@pytest.mark.usefixtures("_many_threads", "_either_team")
@pytest.mark.parametrize("number", [1, 2, 7])
def test_threads(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "GRAIN", 1000)
    torch.set_num_threads(number)
    for samples, voxels in ((1, 5000), (2, 5001), (7, 999), (300, 17), (1, 3)):
        preds, target = scores(samples, 4, voxels), labels(samples, voxels)
        preds[-1, 0, -1], target[0, 0] = NAN, 9
        agree(views(preds, target))
        agree(views(preds.sigmoid(), labels(samples, 4, voxels, size=3), task="multilabel", num_labels=4))


def test_parts_that_meet_within_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "GRAIN", 1000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    given = views(scores(3, 4, 1100), labels(3, 1100))
    run = mock.Mock(wraps=threads._run)
    monkeypatch.setattr(threads, "_run", run)
    agree(given)
    places = run.call_args.args[1][threads.PLACES :].tolist()
    assert len(places) == 2 * threads.PARTS + 1
    assert any(place % 1100 for place in places)


def test_threads_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    given = views(scores(1, 4, 1 << 17), labels(1, 1 << 17))
    run = mock.Mock(wraps=threads._run)
    monkeypatch.setattr(threads, "_run", run)
    for number in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)
        agree(given)
    assert [call.args[0] for call in run.call_args_list] == [2, 3]


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads of the process")
def test_no_thread_is_started_beside_those_of_torch() -> None:
    script = """
import os, torch
from torchmetrics_dice_ext.functional import dice_score
from torchmetrics_dice_ext._kernels.cpu import threads
torch.set_num_threads(3)
torch.randn(1 << 22).sum()
torch.randn(64, 1 << 16).amax(1)
before = len(os.listdir("/proc/self/task"))
dice_score(torch.randn(2, 4, 512, 512), torch.zeros(2, 512, 512, dtype=torch.int64), task="multiclass", num_classes=4)
print(before > 2 and len(os.listdir("/proc/self/task")) == before or threads._openmp() is None)
"""
    assert _run(script, TORCHMETRICS_DICE_EXT_BACKEND="cpu").strip() == "True"


class _Batches(Dataset[list[int]]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> list[int]:
        torch.manual_seed(index)
        given = views(scores(1, 4, 1 << 18), labels(1, 1 << 18))
        with mock.patch.object(torch, "get_num_threads", return_value=2):  # a worker has one, unless told otherwise
            counts, _ = cpu.count_views(given)
        return [int(value) for value in counts.flatten()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_workers_count() -> None:
    here = [_Batches()[index] for index in range(4)]
    loader = DataLoader(_Batches(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert list(loader) == here


def test_nothing_but_the_outputs_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    poison, zeros = 0x5A5A5A5A5A5A5A5A, torch.zeros
    guarded: list[Tensor] = []

    def between_guards(*shape: int, dtype: torch.dtype, device: str) -> Tensor:
        memory = torch.full((math.prod(shape) + 64,), poison, dtype=dtype, device=device)
        guarded.append(memory)
        memory[32:-32] = 0
        return memory[32:-32].view(shape)

    for given in (
        views(scores(2, 4, 70000), labels(2, 70000, size=300)),
        views(labels(3, 70), labels(3, 70, size=9), num_classes=300, ignore_index=1),
        views(torch.randn(2, 3, 70000), labels(2, 3, 70000, size=3), task="multilabel", num_labels=3),
    ):
        before = given.preds.clone(), given.target.clone()
        monkeypatch.setattr(torch, "zeros", between_guards)
        counts, faults = cpu.count_views(given)
        monkeypatch.setattr(torch, "zeros", zeros)
        expected = reference.count_views(given)
        assert torch.equal(counts, expected[0])
        assert torch.equal(faults, expected[1])
        assert all((memory[:32] == poison).all() and (memory[-32:] == poison).all() for memory in guarded)
        assert torch.equal(given.preds, before[0])
        assert torch.equal(given.target, before[1])


@pytest.mark.parametrize("backend", [cpu, reference])
def test_nothing_waits_for_the_device(backend: Any) -> None:
    given = [
        views(scores(2, 4, 70000), labels(2, 70000), ignore_index=(1, 255)),
        views(labels(2, 700), labels(2, 700), torch.rand(2, 700) < 0.5, regions={"a": [1, 2], "b": [3]}),
        views(torch.rand(2, 700), labels(2, 700, size=2), task="binary"),
    ]
    for each in given:
        backend.count_views(each)  # plans and compiles
    with no_host_sync() as guard:
        for each in given:
            backend.count_views(each)
    assert guard.seen > 0


FORMS = {
    "scores": lambda: views(scores(2, 4, 50), labels(2, 50)),
    "half scores": lambda: views(scores(2, 4, 50, dtype=torch.bfloat16), labels(2, 50)),
    "channels-last scores": lambda: views(scores(2, 50, 4), labels(2, 50), class_dim=-1),
    "labels": lambda: views(labels(2, 50, dtype=torch.uint8), labels(2, 50, dtype=torch.int16)),
    "float labels": lambda: views(scores(2, 4, 50), labels(2, 50, dtype=torch.float16)),
    "one-hot": lambda: views(labels(2, 50), torch.nn.functional.one_hot(labels(2, 50), 4).movedim(-1, 1)),
    "void": lambda: views(scores(2, 4, 50), labels(2, 50), ignore_index=(1, 255)),
    "mask": lambda: views(scores(2, 4, 50), labels(2, 50), torch.rand(2, 50) < 0.5),
    "regions": lambda: views(scores(2, 4, 50), labels(2, 50), regions={"a": [1, 2], "b": [2]}),
    "probabilities": lambda: views(torch.rand(2, 50), labels(2, 50, size=2), task="binary"),
    "logits": lambda: views(scores(2, 50), labels(2, 50, size=2), task="binary", from_logits=True),
    "decisions": lambda: views(labels(2, 50, size=2), labels(2, 50, size=2), task="binary"),
    "multilabel": lambda: views(torch.rand(2, 3, 50), labels(2, 3, 50, size=2), task="multilabel", num_labels=3),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_backend_that_serves(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("TORCHMETRICS_DICE_EXT_BACKEND", raising=False)
    assert choose_backend(FORMS[form]())[0] == "cpu"
    monkeypatch.setenv("TORCHMETRICS_DICE_EXT_BACKEND", "reference")
    assert choose_backend(FORMS[form]())[0] == "reference"


def test_tensors_that_it_does_not_take() -> None:
    elsewhere = views(scores(2, 4, 9).to("meta"), labels(2, 9).to("meta"))
    assert cpu.unsupported_reason(elsewhere) == "The tensors are on meta, not on the CPU."
    negated = torch.complex(torch.zeros(2, 4, 9), scores(2, 4, 9)).conj().imag
    assert "negated lazily" in str(cpu.unsupported_reason(views(negated, labels(2, 9))))


@pytest.mark.parametrize("way", ["function", "metric"])
def test_a_named_backend_never_falls_back(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHMETRICS_DICE_EXT_BACKEND", "cpu")
    negated = torch.complex(torch.zeros(2, 4, 9), scores(2, 4, 9)).conj().imag
    for preds, classes, reason in (
        (labels(2, 9), (1 << 14) + 1, "There are 16385 classes, more than 16384."),
        (negated, 4, "A tensor is negated lazily, its memory holds other values: `.resolve_neg()` it."),
    ):
        metric = MulticlassDiceScore(classes)
        count = functools.partial(overlap_counts, task="multiclass", num_classes=classes)
        words = re.escape(f"TORCHMETRICS_DICE_EXT_BACKEND=cpu can't serve this input: {reason}")
        with pytest.raises(RuntimeError, match=f"^{words}$"):
            (count if way == "function" else metric.update)(preds, labels(2, 9))
        assert metric.update_count == 0


def test_a_backend_that_there_is_not_is_refused_with_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHMETRICS_DICE_EXT_BACKEND", "numba")
    words = "must be one of ('auto', 'triton', 'cpu', 'reference'), got 'numba'."
    with pytest.raises(ValueError, match=f"^TORCHMETRICS_DICE_EXT_BACKEND {re.escape(words)}$"):
        overlap_counts(labels(2, 9), labels(2, 9), task="multiclass", num_classes=4)


def _run(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


CHOOSE = """
import sys
{before}
import torch
from torchmetrics_dice_ext._counts import choose_backend, count_views
from torchmetrics_dice_ext._inputs import read_inputs
from torchmetrics_dice_ext._options import Counting
assert "numba" not in sys.modules or sys.modules["numba"] is None
views = read_inputs(torch.rand(2, 9), torch.ones(2, 9), None, Counting.of("binary"))
name, passed_over = choose_backend(views)
count_views(views)
print(name, passed_over.get("cpu"))
"""


def test_without_numba() -> None:
    out = _run(CHOOSE.format(before="sys.modules['numba'] = None"), TORCHMETRICS_DICE_EXT_BACKEND="auto")
    assert (
        out.strip() == 'reference numba is not installed: install it with `pip install "torchmetrics-dice-ext[cpu]"`.'
    )


def test_without_compiler() -> None:
    out = _run(CHOOSE.format(before=""), NUMBA_DISABLE_JIT="1", TORCHMETRICS_DICE_EXT_BACKEND="auto")
    assert out.strip() == "reference numba's compiler is switched off (NUMBA_DISABLE_JIT)."


@pytest.mark.slow
def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    def kept() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")}

    def count() -> None:
        out = _run(CHOOSE.format(before=""), NUMBA_CACHE_DIR=str(tmp_path), TORCHMETRICS_DICE_EXT_BACKEND="cpu")
        assert out.strip() == "cpu None"

    count()
    compiled = kept()
    assert compiled
    count()
    assert kept() == compiled


@pytest.mark.slow
def test_without_a_place_for_the_cache() -> None:
    out = _run(CHOOSE.format(before=""), NUMBA_CACHE_DIR=os.devnull + "/cache", TORCHMETRICS_DICE_EXT_BACKEND="auto")
    assert out.strip() == "cpu None"


def test_fault_counts_have_their_length() -> None:
    assert cpu.count_views(views(scores(0, 4, 3), labels(0, 3)))[1].shape == (NUM_FAULTS,)
