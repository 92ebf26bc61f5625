"""Floor 1: how the loops of the CPU backend are compiled, kept on disk, and find each other; needs numba."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import cfunc, njit, types
from numba.extending import intrinsic

_SOURCES = sorted(Path(__file__).parent.glob("*.py"))
_STAMP = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()[:16]

jit = njit(error_model="numpy")


def driver(function: Any) -> Any:
    """Compile a function that runs without the interpreter's lock."""
    return _kept(njit, function, nogil=True, error_model="numpy")


def stage(function: Any, item: str, code: str) -> Any:
    """Compile `function(side, source, out, length, channel)` for a source and an out of these NumPy dtypes.

    The result has an address, which dies with it.
    """
    sides = [types.CPointer(kind) for kind in (types.int64, getattr(types, item), getattr(types, code))]
    return _kept(cfunc, function, types.void(*sides, types.int64, types.int64))


def _kept(decorator: Any, function: Any, *args: Any, **options: Any) -> Any:
    """The function compiled, and kept on disk if there is a place to write to.

    The name on disk has a stamp of all sources: numba only looks at the file of the function itself for changes.
    """
    if not function.__qualname__.endswith(_STAMP):
        function.__qualname__ += f"_{_STAMP}"
    try:
        return decorator(*args, cache=True, **options)(function)
    except RuntimeError:
        return decorator(*args, **options)(function)


@intrinsic
def pointer(_context: Any, _address: Any) -> Any:
    """An address as a pointer, for `carray`."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.intp), codegen


@intrinsic
def call(_context: Any, _function: Any, _side: Any, _source: Any, _out: Any, _length: Any, _channel: Any) -> Any:
    """Call a stage; everything is an int64."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(64)
        stage = ir.FunctionType(ir.VoidType(), [byte, byte, byte, word, word]).as_pointer()
        pointers = [builder.inttoptr(arg, byte) for arg in args[1:4]]
        builder.call(builder.inttoptr(args[0], stage), [*pointers, *args[4:]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen
