"""The house: what may import what, what an import pulls in, and that the public functions compile as one graph."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torchmetrics_dice_ext
from torchmetrics_dice_ext import functional

PACKAGE = Path(torchmetrics_dice_ext.__file__).parent
WAY_OF_THE_DATA = [  # a room imports only what stands before it
    "_version",
    "_options",
    "_faults",
    "_views",
    "_void",
    "_tiles",
    "_inputs",
    "_kernels",
    "_counts",
    "_soft_counts",
    "_reductions",
    "_scores",
    "_readout",
    "_cases",
    "_observations",
    "functional",
    "metrics",
    "losses",
    "_diagnosis",
    "__init__",
]
OPTIONAL = ("triton", "numba", "lightning", "monai", "scipy", "pandas", "matplotlib")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE.name:
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{PACKAGE.name}."):
            rooms.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith(f"{PACKAGE.name}.")}
    return rooms


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_stands_below_it(path: Path) -> None:
    room = room_of(path)
    below = WAY_OF_THE_DATA[: WAY_OF_THE_DATA.index(room)]
    assert imported_rooms(path) <= {*below, room}


def test_every_room_is_on_the_way() -> None:
    assert {room_of(path) for path in PACKAGE.rglob("*.py")} == set(WAY_OF_THE_DATA)


def test_no_room_is_larger_than_a_room() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path.name: size for path, size in sizes.items() if size > 450} == {}


def test_an_import_pulls_in_nothing_optional() -> None:
    script = (
        "import sys, torchmetrics; before = set(sys.modules)\n"
        "import torchmetrics_dice_ext, torchmetrics_dice_ext.functional, torchmetrics_dice_ext.losses\n"
        f"print([name for name in {OPTIONAL} if name in sys.modules and name not in before])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:torchmetrics_dice_ext", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("level", ["global", "samplewise"])
@pytest.mark.parametrize("name", ["dice_score", "jaccard_index", "specificity", "generalized_dice_score"])
def test_functions_compile_as_one_graph(name: str, level: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 7, 9, generator=generator)
    target = torch.randint(0, 3, (2, 7, 9), generator=generator)
    target[0, 0, 0] = 77  # without validation a label out of range is left out

    def score(preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return getattr(functional, name)(
            preds, target, task="multiclass", num_classes=3, aggregation_level=level, validate_args=False
        )

    compiled = torch.compile(score, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(logits, target), score(logits, target))


@pytest.mark.parametrize("from_logits", [False, True])
def test_counts_compile_as_one_graph(from_logits: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    preds = torch.rand(2, 4, 9, generator=generator)
    target = torch.randint(0, 2, (2, 4, 9), generator=generator)

    def count(preds: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return functional.overlap_counts(
            preds,
            target,
            task="multilabel",
            num_labels=4,
            threshold=[0.2, 0.5, 0.6, 0.8],
            from_logits=from_logits,
            validate_args=False,
        )

    compiled = torch.compile(count, fullgraph=True, backend="aot_eager")(preds, target)
    assert all(torch.equal(a, b) for a, b in zip(compiled, count(preds, target), strict=True))


@pytest.mark.parametrize("name", ["MulticlassDiceScore", "BinaryFBetaScore", "MultilabelSpecificity"])
def test_the_docstring_of_a_score_explains_the_options(name: str) -> None:
    text = inspect.getdoc(getattr(torchmetrics_dice_ext, name))
    assert text.splitlines()[0].endswith("for the formula.")
    options = [
        line.strip().partition(":")[0] for line in text.partition("Args:")[2].splitlines() if line[:4] == " " * 4
    ]
    assert {"aggregation_level", "ignore_index", "zero_division", "validate_args"} <= set(options)
