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
PADDING = WIDTH + 8  # bytes behind a place that kernels may read
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
    """The index of the lowest bit of a number that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.uint64), generate


@intrinsic
def highest(typing: Any, bits: Any) -> Any:
    """The index of the highest bit of a number that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.sub(_WORD(63), builder.ctlz(arguments[0], ir.IntType(1)(1)))

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


@nb.njit(cache=True, inline="always")
def not_ascii(data: Bytes, at: int) -> np.uint64:
    """Bytes of characters of several bytes."""
    return between(data, at, np.uint8(128), np.uint8(255))


@nb.njit(cache=True, inline="always")
def blanks(data: Bytes, at: int) -> np.uint64:
    """Space, tab and the line breaks of ASCII: UAX #29 breaks after them, and before any but
    themselves."""
    return equal(data, at, np.uint8(0), np.uint8(32)) | between(data, at, np.uint8(9), np.uint8(13))


@nb.njit(cache=True, inline="always")
def spaces(data: Bytes, at: int) -> np.uint64:
    """ASCII white space as str.isspace has it."""
    return blanks(data, at) | between(data, at, np.uint8(28), np.uint8(31))


@nb.njit(cache=True, inline="always")
def spaces_of_two(data: Bytes, at: int) -> np.uint64:
    """The first bytes of white space of two bytes; 65 bytes are read."""
    second = equal(data, at + 1, np.uint8(0), np.uint8(0x85))
    second |= equal(data, at + 1, np.uint8(0), np.uint8(0xA0))
    return second & equal(data, at, np.uint8(0), np.uint8(0xC2))


@nb.njit(cache=True, inline="always")
def spaces_of_three(data: Bytes, at: int) -> np.uint64:
    """The first bytes of white space of three bytes; 66 bytes are read."""
    none = np.uint8(0)
    third = equal(data, at + 2, none, np.uint8(0x80))
    second = equal(data, at + 1, none, np.uint8(0x80))
    same = third & second & equal(data, at, none, np.uint8(0xE3))  # U+3000
    same |= (
        third & equal(data, at + 1, none, np.uint8(0x9A)) & equal(data, at, none, np.uint8(0xE1))
    )
    general = between(data, at + 2, np.uint8(0x80), np.uint8(0x8A))  # U+2000 to U+200A
    general |= between(data, at + 2, np.uint8(0xA8), np.uint8(0xA9))
    general = second & (general | equal(data, at + 2, none, np.uint8(0xAF)))
    narrow = equal(data, at + 1, none, np.uint8(0x81)) & equal(data, at + 2, none, np.uint8(0x9F))
    return same | (general | narrow) & equal(data, at, none, np.uint8(0xE2))


@nb.njit(cache=True, inline="always")
def white_space(data: Bytes, at: int, end: int, spread: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The white space of a block, and everything behind the row; `spread` has the bytes that white
    space of the block before reaches into."""
    blank, after = spread, np.uint64(0)
    if at < end:
        blank |= spaces(data, at)
        if not_ascii(data, at):
            two, three = spaces_of_two(data, at), spaces_of_three(data, at)
            blank |= (
                two | two << np.uint64(1) | three | three << np.uint64(1) | three << np.uint64(2)
            )
            after = (two | three) >> np.uint64(63) | three >> np.uint64(62)
    return blank | ~below(max(end - at, 0)), after


@nb.njit(cache=True, inline="always")
def letters_of_two(data: Bytes, at: int) -> np.uint64:
    """The first bytes of letters of Latin (U+00C0 to U+02BF, signs aside) and Russian (U+0400 to
    U+047F)."""
    none = np.uint8(0)
    sign = equal(data, at + 1, np.uint8(0x20), np.uint8(0xB7))  # U+00D7, U+00F7: bytes 97 and B7
    latin = equal(data, at, none, np.uint8(0xC3)) & ~sign
    latin |= between(data, at, np.uint8(0xC4), np.uint8(0xCA))
    return latin | between(data, at, np.uint8(0xD0), np.uint8(0xD1))


@nb.njit(cache=True, inline="always")
def signs_of_two(data: Bytes, at: int) -> np.uint64:
    """The first bytes of the no-break space and signs from U+00A1 to U+00A9, and of quotes."""
    second = between(data, at + 1, np.uint8(0xA0), np.uint8(0xA9))
    second |= equal(data, at + 1, np.uint8(0x10), np.uint8(0xBB))  # U+00AB, U+00BB
    return second & equal(data, at, np.uint8(0), np.uint8(0xC2))


@nb.njit(cache=True, inline="always")
def signs_of_three(data: Bytes, at: int) -> np.uint64:
    """The first bytes of dashes, quotes, daggers, bullets and dots, U+2010 to U+2026."""
    third = between(data, at + 2, np.uint8(0x90), np.uint8(0xA3))
    third |= between(data, at + 2, np.uint8(0xA5), np.uint8(0xA6))
    second = equal(data, at + 1, np.uint8(0), np.uint8(0x80))
    return third & second & equal(data, at, np.uint8(0), np.uint8(0xE2))
