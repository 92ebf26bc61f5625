"""Named canonical views on which a backend must equal the reference: odd sizes, layouts, dtypes, malformed values."""

import functools
from collections.abc import Iterator

import torch
from cases import FLOAT_DTYPES, INT_DTYPES, draw, generator, one_hot, streams
from torch import Tensor

from torchmetrics_dice_ext._inputs import read_inputs
from torchmetrics_dice_ext._kernels import reference
from torchmetrics_dice_ext._options import Counting
from torchmetrics_dice_ext._views import Form, LabelViews, MaskViews, Views

NAN, INF = float("nan"), float("inf")
Cases = Iterator[tuple[str, Views]]


def mismatch(backend, views: Views) -> str:
    """How the counts and faults of a backend differ from the reference's; empty where they don't."""
    reason = backend.unsupported_reason(views)
    if reason is not None:
        return reason
    for _ in range(2):
        torch.full((4096,), -1, dtype=torch.int64, device=views.preds.device)  # what an allocator may hand out next
    for name, got, wanted in zip(
        ("counts", "faults"), backend.count_views(views), reference.count_views(views), strict=True
    ):
        if got.dtype != wanted.dtype or got.shape != wanted.shape or not torch.equal(got, wanted):
            return f"{name} {got.tolist()}, wanted {wanted.tolist()}"
    return ""


def mismatches(backend, group: str, device: torch.device | str = "cpu") -> dict[str, str]:
    """How each case of a group differs from the reference, by the names of those that do; there are more than 20."""
    cases = kernel_cases(group)
    assert len(cases) > 20
    found = {name: mismatch(backend, on_device(views, torch.device(device))) for name, views in cases.items()}
    return {name: text[:400] for name, text in found.items() if text}


def on_device(views: Views, device: torch.device) -> Views:
    """The same views, in memory laid out alike, on a device."""
    fields = dict(vars(views))
    for name in ("preds", "target", "mask"):
        if fields[name] is not None:
            fields[name] = _moved(fields[name], device)
    return type(views)(**fields)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    size = tensor.untyped_storage().nbytes() // tensor.itemsize
    memory = tensor.as_strided((size,), (1,), 0).to(device)
    return memory.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


@functools.cache
def kernel_cases(group: str) -> dict[str, Views]:
    """All cases of a group."""
    return dict(_GROUPS[group]())


def label_views(preds: Tensor, target: Tensor, num_classes: int, **fields) -> LabelViews:
    defaults = {"mask": None, "ignore_index": (), "regions": None, "class_axis": None}
    forms = {"preds_form": Form.SCORES, "target_form": Form.LABELS}
    return LabelViews(preds=preds, target=target, num_classes=num_classes, **{**defaults, **forms, **fields})


def mask_views(preds: Tensor, target: Tensor, **fields) -> MaskViews:
    defaults = {"mask": None, "cutoffs": (0.5,) * preds.shape[1], "probabilities": False, "ignore_index": ()}
    return MaskViews(preds=preds, target=target, **{**defaults, **fields})


def scores(seed: int, space: tuple[int, ...], num_classes: int) -> Tensor:
    """(N, C, *S), multiples of 1/4 with many ties; NaN in one voxel, infinities in others."""
    values = draw(-9, 10, (space[0], num_classes, *space[1:]), generator(seed)) / 4
    flat = values.movedim(1, -1).reshape(-1, num_classes)
    rows = range(0, len(flat), 5)
    for row, value in zip(rows, (NAN, -INF, INF, -0.0), strict=False):
        flat[row, row % num_classes :] = value
    return flat.reshape(space[0], *space[1:], num_classes).movedim(-1, 1).contiguous()


def labels(seed: int, space: tuple[int, ...], num_classes: int, *strange: float) -> Tensor:
    """(N, *S), int64 or float64, some of them strange."""
    values = draw(0, num_classes, space, generator(seed))
    if any(value != int(value) for value in strange if abs(value) < INF) or any(
        abs(v) == INF or v != v for v in strange
    ):
        values = values.double()
    flat = values.view(-1)
    for place, value in enumerate(strange):
        flat[3 * place + 1 :: 29] = value
    return values


def _streams() -> Cases:
    for task in ("multiclass", "regions", "binary", "multilabel"):
        for name, stream in streams(task).items():
            counting = Counting.of(stream.task, **stream.options)
            batch = stream.batches[0]
            yield f"{task}: {name}", read_inputs(batch.preds, batch.target, batch.mask, counting)


def _layouts() -> Cases:
    space = (2, 6, 7, 10)
    values, truth = scores(1, space, 5), labels(2, space, 5, 9, 255)
    mask = draw(0, 3, space, generator(3)) > 0
    wide = torch.full((2, 5, 6, 7, 23), NAN)
    wide[..., 1:21:2] = values
    deep_values, deep_truth = scores(4, (2, 2, 3, 2, 3, 2), 3), labels(5, (2, 2, 3, 2, 3, 2), 3)
    pairs = {
        "channels-last": (values.movedim(1, -1).contiguous().movedim(-1, 1), truth),
        "every other voxel": (wide[..., 1:21:2], truth),
        "preds transposed": (values.mT.contiguous().mT, truth),
        "both transposed": (values.mT.contiguous().mT, truth.mT.contiguous().mT),
        "target turned around": (values, truth.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)),
        "samples last": (
            values.movedim(0, -1).contiguous().movedim(-1, 0),
            truth.movedim(0, -1).contiguous().movedim(-1, 0),
        ),
        "one target for all samples": (values, truth[:1].expand(2, -1, -1, -1)),
        "one row for all": (values, truth[:, :, :1].expand(-1, -1, 7, -1)),
        "out of line": (values.reshape(-1)[:-1].new_zeros(values.numel() + 1)[1:].view_as(values).copy_(values), truth),
    }
    for name, (preds, target) in pairs.items():
        yield name, label_views(preds, target, 5, ignore_index=(255,), mask=mask)
        yield f"{name}, labels", label_views(preds[:, 0].nan_to_num(0).byte(), target, 5, preds_form=Form.LABELS)
        yield f"{name}, masks", mask_views(preds, preds.nan_to_num(7).byte(), mask=mask[:1].expand(2, -1, -1, -1))
    yield "four axes", label_views(deep_values, deep_truth, 3)
    yield (
        "four axes that two orders leave",
        label_views(deep_values.permute(0, 1, 4, 5, 6, 2, 3).contiguous().permute(0, 1, 5, 6, 2, 3, 4), deep_truth, 3),
    )


def _sizes() -> Cases:
    for space in ((1, 1), (1, 63), (3, 100), (2, 511), (2, 513), (1, 9_001), (70, 3), (17, 1), (5, 2, 2, 2, 2)):
        yield f"space {space}", label_views(scores(1, space, 3), labels(2, space, 3, 7), 3)
        probabilities = draw(-1, 10, (space[0], 2, *space[1:]), generator(3)) / 8
        yield f"masks {space}", mask_views(probabilities, (probabilities > 0.4).byte(), probabilities=True)
    yield (
        "long regions",
        label_views(scores(1, (1, 9_001), 3), labels(2, (1, 9_001), 3, 7), 3, regions=((0, 1), (2,))),
    )
    for space in ((0, 5), (2, 0), (0, 0), (3, 4, 0)):
        yield f"nothing {space}", label_views(scores(1, space, 3), labels(2, space, 3), 3)
        yield f"no regions {space}", label_views(scores(1, space, 3), labels(2, space, 3), 3, regions=((1, 2), (0,)))
        yield (
            f"no masks {space}",
            mask_views(torch.zeros(space[0], 2, *space[1:]), torch.zeros(space[0], 2, *space[1:])),
        )


def _classes() -> Cases:
    for size in (2, 14, 15, 31, 33, 70, 126, 127, 254, 255, 1500):
        space = (2, 40) if size > 100 else (2, 9, 7)
        values, truth = scores(size, space, size), labels(size + 1, space, size, size, -1, 99)
        rows = values.movedim(1, -1).contiguous().movedim(-1, 1)
        guess = values.nan_to_num().max(1).indices
        yield f"{size} classes", label_views(values, truth, size, ignore_index=(99,))
        yield f"{size} classes side by side", label_views(rows, truth, size, ignore_index=(0, 1))
        yield f"{size} classes, labels", label_views(guess, truth, size, preds_form=Form.LABELS)
        if size > 127:
            continue
        forms = {"preds_form": Form.ONE_HOT, "target_form": Form.ONE_HOT}
        yield f"{size} classes, one-hot", label_views(one_hot(guess, size), one_hot(truth, size).byte(), size, **forms)
        parts = ((0, size - 1), (size // 2,), tuple(range(size)))
        yield f"regions of {size} classes", label_views(values, truth, size, regions=parts, ignore_index=(99,))
    space = (2, 9, 7)
    values, truth = scores(8, space, 20), labels(9, space, 20, 20, -1)
    many = tuple((label, (label + 7) % 20) for label in range(20))
    for count in (1, 7, 8, 9, 16, 20):
        yield f"{count} regions", label_views(values, truth.int(), 20, regions=many[:count])


def _fits(value: float, dtype: torch.dtype) -> bool:
    if dtype.is_floating_point:
        return True
    if not abs(value) < INF or value != int(value):
        return False
    least, most = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return least <= value <= most


_STRANGE = (
    2,
    3,
    5,
    -1,
    77,
    127,
    255,
    -128,
    300,
    65535,
    2**24,
    2**31,
    2**32 - 1,
    2**40,
    -(2**63),
    0.5,
    -2.25,
    NAN,
    INF,
    -INF,
    1e30,
)
_VOID = (2, -1, 77, 255, 65535, 2**31, 2**32 - 1, 2**40, -(2**63), 2**63, 2**64 - 1, 10**30)


def _strange(dtype: torch.dtype, num_classes: int, space: tuple[int, ...]) -> Tensor:
    """Labels of a dtype, with all strange values that it can hold."""
    held = [value for value in _STRANGE if _fits(value, dtype)]
    values = draw(0, num_classes, space, generator(len(held))).to(dtype)
    flat = values.view(-1)
    for place, value in enumerate(held):
        flat[4 * place] = value
    if dtype == torch.uint64:
        flat.view(torch.int64)[1] = -1
    return values


def _dtypes() -> Cases:
    space = (2, 10, 7)
    truth = labels(1, space, 3, 4)
    for dtype in FLOAT_DTYPES:
        values = scores(2, space, 3)
        yield f"{dtype} scores", label_views(values.to(dtype), truth, 3)
        yield (
            f"{dtype} scores side by side",
            label_views(values.movedim(1, -1).contiguous().to(dtype).movedim(-1, 1), truth, 3),
        )
        hot = one_hot(truth, 3).to(dtype)
        hot[:, 1, ::2, 0] = torch.tensor([2.0, 0.5, NAN, INF, -1.0], dtype=dtype)
        yield f"{dtype} one-hot target", label_views(values, hot, 3, target_form=Form.ONE_HOT, ignore_index=(0, 7))
    for dtype in (torch.bool, *INT_DTYPES):
        hot = one_hot(truth, 3).to(dtype)
        hot[:, 1, ::3, ::2] = 1 if dtype == torch.bool else 3
        yield f"{dtype} one-hot preds", label_views(hot, truth, 3, preds_form=Form.ONE_HOT)
    for dtype in (torch.bool, *INT_DTYPES, *FLOAT_DTYPES):
        target = _strange(dtype, 3, space)
        for void in ((), _VOID):
            yield f"{dtype} target, void {void}", label_views(scores(3, space, 3), target, 3, ignore_index=void)
            masks = (target.unsqueeze(1), {"ignore_index": void})
            yield f"{dtype} target of masks, void {void}", mask_views(torch.rand(masks[0].shape), masks[0], **masks[1])
        if not dtype.is_floating_point:
            yield f"{dtype} labels", label_views(target, truth, 3, preds_form=Form.LABELS)
            yield f"{dtype} decisions", mask_views(target.unsqueeze(1), truth.unsqueeze(1))


def _thresholds() -> Cases:
    truth = labels(1, (2, 4, 9, 7), 2, 5)
    near = torch.tensor(
        [0.3, 0.5, 0.7, 0.0, 1.0, -1e-4, 1 + 1e-4, -2e-4, 1.0002, NAN, INF, -INF, 1e-300], dtype=torch.float64
    )
    for dtype in FLOAT_DTYPES:
        grid = near.to(dtype)
        if dtype.itemsize > 2:
            for direction in (-INF, INF):
                grid = torch.cat((grid, torch.nextafter(near.to(dtype), torch.tensor(direction, dtype=dtype))))
        preds = grid[draw(0, len(grid), truth.shape, generator(2))]
        last = preds.movedim(1, -1).contiguous().movedim(-1, 1)
        for name, cutoffs in {"one": (0.3,) * 4, "more": (1e-300, 0.7, 0.7, 0.3)}.items():
            fields = {"cutoffs": cutoffs, "probabilities": True}
            yield f"{dtype}, {name} thresholds", mask_views(preds, truth, **fields)
            yield f"{dtype}, {name} thresholds, channels-last", mask_views(last, truth, **fields)
            yield f"{dtype}, {name} logits", mask_views(preds, truth.to(dtype), cutoffs=cutoffs)
    for size in (1, 2, 31, 33, 70):
        preds, truth = torch.rand(2, 11, size, generator=generator(3)), labels(4, (2, 11, size), 2, 7)
        fields = {"cutoffs": tuple((1 + c // 24) / 5 for c in range(size)), "mask": truth[..., 0] < 2}
        yield f"{size} labels", mask_views(preds.mT.contiguous(), truth.mT.contiguous(), **fields)
        yield f"{size} labels side by side", mask_views(preds.mT, truth.mT, **fields)
        yield (
            f"{size} labels of points",
            mask_views(preds[:, 0].unsqueeze(-1), truth[:, 0].unsqueeze(-1), ignore_index=(7,)),
        )


_GROUPS = {
    "streams": _streams,
    "layouts": _layouts,
    "sizes": _sizes,
    "classes": _classes,
    "dtypes": _dtypes,
    "thresholds": _thresholds,
}
GROUPS = tuple(_GROUPS)
