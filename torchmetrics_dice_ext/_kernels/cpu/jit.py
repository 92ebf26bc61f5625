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


def address_of(function: Any, *pointers: str, words: int = 0) -> int:
    """The address of a function, compiled for pointers to these NumPy dtypes and so many int64 after them.

    The code is kept on disk if there is a place to write to, under a name with a stamp of all sources: numba only looks
    at the file of the function itself for changes.
    """
    if not function.__qualname__.endswith(_STAMP):
        function.__qualname__ += f"_{_STAMP}"
    signature = types.void(*(types.CPointer(getattr(types, kind)) for kind in pointers), *[types.int64] * words)
    try:
        compiled = cfunc(signature, cache=True, error_model="numpy")(function)
    except RuntimeError:
        compiled = cfunc(signature, error_model="numpy")(function)
    _COMPILED.append(compiled)  # its address would die with it
    return int(compiled.address)


_COMPILED: list[Any] = []


@intrinsic
def pointer(_context: Any, _address: Any) -> Any:
    """An address as a pointer, for `carray`."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.intp), codegen


@intrinsic
def call(_context: Any, _function: Any, _first: Any, _second: Any, _third: Any, _fourth: Any, _fifth: Any) -> Any:
    """Call a stage or a driver at its address with three pointers and two numbers; everything is an int64."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(64)
        function = ir.FunctionType(ir.VoidType(), [byte, byte, byte, word, word]).as_pointer()
        pointers = [builder.inttoptr(arg, byte) for arg in args[1:4]]
        builder.call(builder.inttoptr(args[0], function), [*pointers, *args[4:]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen


@intrinsic
def claim(_context: Any, _address: Any) -> Any:
    """Take the next number from the int64 at an address that threads share."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        return builder.atomic_rmw("add", builder.inttoptr(args[0], word.as_pointer()), word(1), "monotonic")

    return types.int64(types.int64), codegen


@intrinsic
def prefetch(_context: Any, _address: Any) -> Any:
    """Have the cache line at an address fetched, in the background; the address may be anything."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(function, [builder.inttoptr(args[0], byte), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen
