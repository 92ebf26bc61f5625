"""The Triton backend on a GPU: exact equality with the reference there, and no waiting for the device."""

import functools

import pytest
import torch
from cases import LEVELS, PARAMETERS, same, same_dict, streams
from kernel_cases import GROUPS, kernel_cases, label_views, mask_views, mismatch, mismatches, on_device
from test_scores import averages_of, feed, metric_for, option_of

import torchmetrics_dice_ext as tde
from torchmetrics_dice_ext._counts import choose_backend
from torchmetrics_dice_ext._kernels import triton as backend
from torchmetrics_dice_ext._views import Form, Views

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
CUDA = torch.device("cuda:0")
GIBIBYTE = 1 << 30


@pytest.fixture
def views() -> Views:
    return on_device(kernel_cases("classes")["14 classes"], CUDA)


@pytest.mark.parametrize("group", GROUPS)
def test_counts_and_faults_equal_the_reference(group):
    assert mismatches(backend, group, CUDA) == {}


@pytest.mark.usefixtures("double_results")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("score", PARAMETERS)
def test_every_score_has_the_bits_that_it_has_on_the_cpu(score, level):
    for group, name in (
        ("multiclass", "logits with void voxels"),
        ("multiclass", "many classes"),
        ("regions", "a void region"),
        ("binary", "probabilities"),
        ("multilabel", "many labels"),
    ):
        stream = streams(group)[name]
        for average in averages_of(stream.task, score):
            options = {**stream.options, **option_of(average), **PARAMETERS[score], "aggregation_level": level}
            here, there = (metric_for(score, stream.task, **options).to(device) for device in ("cpu", CUDA))
            feed(here, stream, level)
            feed(there, stream, level)
            assert there.compute().device == CUDA
            assert same(there.compute().cpu(), here.compute()), (name, average)
            of_classes = {label: value.cpu() for label, value in there.per_class().items()}
            assert same_dict(of_classes, here.per_class()), (name, average)


@pytest.mark.parametrize("level", LEVELS)
def test_a_malformed_batch_is_refused_by_compute_unless_validation_is_eager(level):
    preds, target = torch.randn(2, 4, 32, 32, device=CUDA), torch.zeros(2, 32, 32, dtype=torch.long, device=CUDA)
    ids = {"case_ids": ["a", "b"]} if level == "casewise" else {}
    metric = tde.MulticlassDiceScore(4, aggregation_level=level).to(CUDA)
    metric.update(preds, target, **ids)
    target[1, 0, :7] = 99
    metric.update(preds, target, **ids)
    assert metric(preds, target, **ids).isnan()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^`target` must hold labels .* in 14 voxels\..* First in update 2\.$"):
            metric.compute()
    eager = tde.MulticlassDiceScore(4, aggregation_level=level, validate_args="eager").to(CUDA)
    with pytest.raises(ValueError, match=r"^`target` must hold labels .* got 99 in 7 voxels\."):
        eager.update(preds, target, **ids)
    assert eager.update_count == 0


def test_it_is_preferred(views):
    assert choose_backend(views) == ("triton", {})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_classes", [4, 14, 21, 118, 300])
def test_large_batches(num_classes, dtype):
    g = torch.Generator(CUDA).manual_seed(num_classes)
    preds = torch.randn(2, num_classes, 61, 67, 71, generator=g, device=CUDA).to(dtype)
    target = torch.randint(-1, num_classes + 1, (2, 61, 67, 71), generator=g, device=CUDA)
    assert mismatch(backend, label_views(preds, target, num_classes, ignore_index=(-1,))) == ""
    rows = preds.movedim(1, -1).contiguous().movedim(-1, 1)
    assert mismatch(backend, label_views(rows, target, num_classes, ignore_index=(-1,))) == ""
    labels = preds.max(1).indices
    assert mismatch(backend, label_views(labels, target, num_classes, preds_form=Form.LABELS)) == ""
    assert mismatch(backend, mask_views(preds, target.unsqueeze(1).expand(-1, num_classes, -1, -1, -1))) == ""
    regions = tuple((c, (c + 1) % num_classes) for c in range(min(num_classes, 9)))
    assert mismatch(backend, label_views(preds, target, num_classes, regions=regions)) == ""


def test_one_class_everywhere():
    target = torch.zeros(1, 1 << 24, dtype=torch.uint8, device=CUDA)
    for num_classes in (14, 300):
        assert mismatch(backend, label_views(target, target, num_classes, preds_form=Form.LABELS)) == ""


def test_update_never_waits_for_the_device():
    preds = torch.randn(2, 4, 32, 32, device=CUDA)
    target = torch.randint(0, 4, (2, 32, 32), device=CUDA)
    metrics = [
        (tde.DiceScore(task="multiclass", num_classes=4).to(CUDA), preds, target),
        (tde.DiceScore(task="multiclass", num_classes=4, aggregation_level="samplewise").to(CUDA), preds, target),
        (
            tde.DiceScore(task="multilabel", num_labels=4, threshold=[0.2, 0.4, 0.6, 0.8]).to(CUDA),
            preds.sigmoid(),
            preds > 0,
        ),
        (tde.DiceScore(task="multiclass", num_classes=4, regions={"a": [1, 2], "b": [3]}).to(CUDA), preds, target),
    ]
    casewise = tde.DiceScore(task="multiclass", num_classes=4, aggregation_level="casewise").to(CUDA)
    metrics.append((functools.partial(casewise.update, case_ids=["a", "b"]), preds, target))
    pairs = (preds > 0).int(), (preds > 1).int()  # of one shape, with as many channels as classes
    metrics.append((tde.DiceScore(task="multiclass", num_classes=4).to(CUDA), *pairs))
    updates = [(getattr(metric, "update", metric), *batch) for metric, *batch in metrics]
    for update, *batch in updates:
        update(*batch)  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for update, *batch in updates:
            update(*batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(0 <= metric.compute() <= 1 for metric, *_ in metrics[:4])
    assert 0 <= casewise.compute() <= 1


def test_deterministic_algorithms(views):
    torch.use_deterministic_algorithms(True)
    try:
        first, second = backend.count_views(views), backend.count_views(views)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert mismatch(backend, views) == ""


def test_a_graph_can_capture_it(views):
    side = torch.cuda.Stream(CUDA)
    side.wait_stream(torch.cuda.current_stream(CUDA))
    with torch.cuda.stream(side):
        backend.count_views(views)  # compiles
    torch.cuda.current_stream(CUDA).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        counts, faults = backend.count_views(views)
    views.preds.copy_(views.preds.flip(0))
    graph.replay()
    graph.replay()
    wanted = backend.count_views(views)
    assert torch.equal(counts, wanted[0])
    assert torch.equal(faults, wanted[1])
    assert mismatch(backend, views) == ""


def test_a_side_stream(views):
    wanted = backend.count_views(views)
    late = views.preds.clone()
    views.preds.zero_()
    torch.cuda.synchronize()
    side = torch.cuda.Stream(CUDA)
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        views.preds.copy_(late)
        counts, faults = backend.count_views(views)
    side.synchronize()
    assert torch.equal(counts, wanted[0])
    assert torch.equal(faults, wanted[1])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device")
def test_a_second_device(views):
    other = on_device(views, torch.device("cuda:1"))
    assert torch.cuda.current_device() == 0
    counts, faults = backend.count_views(other)
    assert counts.device == faults.device == torch.device("cuda:1")
    assert mismatch(backend, other) == ""
    assert torch.cuda.current_device() == 0


def test_more_elements_than_32_bits_can_number():
    if torch.cuda.mem_get_info(CUDA)[0] < 40 * GIBIBYTE:
        pytest.skip("needs 40 GiB of device memory")
    almost = torch.zeros(1, 1, dtype=torch.uint8, device=CUDA).expand(1, (1 << 31) - 100)
    counts, _ = backend.count_views(label_views(almost, almost, 2, preds_form=Form.LABELS))
    assert counts[0].tolist() == [[(1 << 31) - 100] * 4, [0, 0, 0, (1 << 31) - 100]]
    voxels = (1 << 31) + 77
    target = torch.arange(7, dtype=torch.uint8, device=CUDA).repeat(voxels // 7 + 1)[:voxels].unsqueeze(0)
    preds = target.clone()
    preds[0, -5:] = 6
    for views in (
        label_views(preds, target, 7, preds_form=Form.LABELS),
        label_views(preds, target, 300, preds_form=Form.LABELS),
        label_views(preds, target, 7, preds_form=Form.LABELS, regions=((0, 6), (1, 2))),
    ):
        counts, faults = backend.count_views(views)
        assert not faults.any()
        truth = [(voxels - c + 6) // 7 for c in range(7)]
        if views.regions is None:
            assert counts[0, :7, 2].tolist() == truth
            assert counts[0, :7, 3].tolist() == [voxels] * 7
            assert counts[0, :, 1].sum() == voxels
            assert counts[0, :, 0].sum() == (preds == target).sum()
        else:
            assert counts[0, :, 2].tolist() == [truth[0] + truth[6], truth[1] + truth[2]]
    scores = torch.zeros(1, 3, voxels // 2, dtype=torch.bfloat16, device=CUDA)  # the last class begins past 2^31 items
    scores[0, 2, -3:] = 1
    counts, _ = backend.count_views(label_views(scores, target[:, : voxels // 2] % 3, 3))
    assert counts[0, :, 1].tolist() == [voxels // 2 - 3, 0, 3]
    apart = mask_views(scores.mT.contiguous().mT, scores.mT.contiguous().mT.to(torch.uint8))
    counts, faults = backend.count_views(apart)
    assert counts[0, :, :3].tolist() == [[0, 0, 0], [0, 0, 0], [3, 3, 3]]
    assert not faults.any()
