"""64 bytes of a text at a time: which of them are of a kind, as the bits of one number.

Bit k is the byte at `at + k`. The caller sees to it that 64 bytes (8 for `eight`) are there:
nothing is checked. Written as vectors of LLVM, so that every processor gets the instructions it
has: a comparison of 64 bytes is one of AVX-512, four of SSE or NEON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba import extending
from numba.core import types

from pipelines.kernels.buffers import Bytes

WIDTH = 64
_BYTE, _WORD = ir.IntType(8), ir.IntType(64)
_VECTOR = ir.VectorType(_BYTE, WIDTH)
_ZERO = ir.IntType(32)(0)


def _loaded(context: Any, builder: Any, signature: Any, arguments: Any, type_: ir.Type) -> Any:
    """The bytes of an array from a place on, however they are aligned."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    first = builder.gep(array.data, [arguments[1]])
    return builder.load(builder.bitcast(first, type_.as_pointer()), align=1)


def _repeated(builder: Any, byte: Any) -> Any:
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), byte, _ZERO)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), None)
    return builder.shuffle_vector(first, ir.Constant(_VECTOR, ir.Undefined), zeros)


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba's own, whose declared type asks callers for the first argument, which numba gives."""
    compiled: Callable[..., Any] = extending.intrinsic(function)
    return compiled


@intrinsic
def equal(typing: Any, data: Any, at: Any, mask: Any, byte: Any) -> Any:
    """Bytes that are `byte` once the bits of `mask` are set: 0x20 folds ASCII letters."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = _loaded(context, builder, signature, arguments, _VECTOR)
        values = builder.or_(values, _repeated(builder, arguments[2]))
        same = builder.icmp_unsigned("==", values, _repeated(builder, arguments[3]))
        return builder.bitcast(same, _WORD)

    return types.uint64(data, types.int64, types.uint8, types.uint8), generate


@intrinsic
def between(typing: Any, data: Any, at: Any, low: Any, high: Any) -> Any:
    """Bytes from `low` to `high`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = _loaded(context, builder, signature, arguments, _VECTOR)
        values = builder.sub(values, _repeated(builder, arguments[2]))
        most = builder.sub(arguments[3], arguments[2])
        same = builder.icmp_unsigned("<=", values, _repeated(builder, most))
        return builder.bitcast(same, _WORD)

    return types.uint64(data, types.int64, types.uint8, types.uint8), generate


@intrinsic
def eight(typing: Any, data: Any, at: Any) -> Any:
    """Eight bytes as a number, the first one lowest (on the little-endian machines there are)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _loaded(context, builder, signature, arguments, _WORD)

    return types.uint64(data, types.int64), generate


@intrinsic
def lowest(typing: Any, bits: Any) -> Any:
    """The place of the lowest bit of a number that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.uint64), generate


@intrinsic
def ones(typing: Any, bits: Any) -> Any:
    """How many bits are set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@nb.njit(cache=True, inline="always")
def letters(data: Bytes, at: int) -> np.uint64:
    """ASCII letters."""
    upper = between(data, at, np.uint8(65), np.uint8(90))
    return upper | between(data, at, np.uint8(97), np.uint8(122))


@nb.njit(cache=True, inline="always")
def digits(data: Bytes, at: int) -> np.uint64:
    """ASCII digits."""
    return between(data, at, np.uint8(48), np.uint8(57))


@nb.njit(cache=True, inline="always")
def below(size: int) -> np.uint64:
    """The lowest bits, `size` of them (0 to 64)."""
    if size >= 64:
        return ~np.uint64(0)
    return (np.uint64(1) << np.uint64(size)) - np.uint64(1)
