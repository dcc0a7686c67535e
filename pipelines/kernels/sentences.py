"""Sentences by the rules of blingfire, as a compiled walk over its automaton.

From every character of a text blingfire follows its automaton for up to 300 characters, takes the
longest rule that ended on the way, does what the rule says and looks on behind it. So does this
module, with one difference: a walk that comes to a place in the state in which the last walk was
there takes that one's rest. Text of dots or signs, where each walk is 300 characters long, then
takes a few steps a character. Sentences are those of blingfire to the byte.
"""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt

from pipelines.kernels.buffers import Bytes

Ints = npt.NDArray[np.int64]
States = npt.NDArray[np.int16]
Table = npt.NDArray[np.int32]
Classes = npt.NDArray[np.uint16]
Flags = npt.NDArray[np.bool_]

SLOTS = 8  # walks that are kept: of "." and of '"' in turns neither joins the other
RING = 512  # characters of a kept walk, more than a rule may read


@nb.njit(nogil=True, cache=True)
def sentences(
    data: Bytes,
    classes: Classes,
    table: States,
    right: States,
    rule: Table,
    rules: Table,
    starts: Table,
    max_length: int,
) -> npt.NDArray[np.int64]:
    """(begin, end) in bytes of each sentence of a UTF-8 text, as `SentenceRules` cut it.

    Blanks before a sentence are left out, those behind it are its own. Without a sentence, no row.
    """
    symbols = np.empty(len(data), np.uint16)
    blank = np.empty(len(data), np.bool_)
    offsets = np.empty(len(data) + 1, np.int64)
    size = _decode(data, classes, symbols, blank, offsets)
    ends = np.empty(size + 1, np.int64)
    number = _main(symbols[:size], table, right, rule, rules, starts, max_length, ends)
    rows = np.empty((number + 1, 2), np.int64)
    count, behind = 0, 0
    for k in range(number + 1):
        last = ends[k] if k < number else size - 1  # the end of the text ends a sentence
        first = behind
        while first <= last and blank[first]:
            first += 1
        if first <= last:
            rows[count, 0], rows[count, 1] = offsets[first], offsets[last + 1]
            count += 1
        behind = last + 1
    return rows[:count]


@nb.njit(nogil=True, cache=True)
def _decode(data: Bytes, classes: Classes, symbols: Classes, blank: Flags, offsets: Ints) -> int:
    """Class, whether blank, and place of each character; a byte order mark is no character."""
    at, size = 0, 0
    if len(data) >= 3 and data[0] == 0xEF and data[1] == 0xBB and data[2] == 0xBF:
        at = 3
    while at < len(data):
        first = np.int64(data[at])
        offsets[size] = at
        if first < 0x80:
            code, at = first, at + 1
        elif first < 0xE0:
            code = (first & 0x1F) << 6 | np.int64(data[at + 1]) & 0x3F
            at += 2
        elif first < 0xF0:
            code = (first & 0x0F) << 12 | (np.int64(data[at + 1]) & 0x3F) << 6
            code |= np.int64(data[at + 2]) & 0x3F
            at += 3
        else:
            code = (first & 0x07) << 18 | (np.int64(data[at + 1]) & 0x3F) << 12
            code |= (np.int64(data[at + 2]) & 0x3F) << 6 | np.int64(data[at + 3]) & 0x3F
            at += 4
        symbols[size] = classes[code]
        blank[size] = _is_blank(code)
        size += 1
    offsets[size] = len(data)
    return size


@nb.njit(nogil=True, cache=True)
def _is_blank(code: int) -> bool:
    """What blingfire leaves out before a sentence; zero-width marks too, U+1680 not."""
    if code <= 0x20 or code == 0xA0 or 0x2000 <= code <= 0x200F:
        return True
    if code in (0x202F, 0x205F, 0x2060, 0x2420, 0x2424, 0x3000):
        return True
    return bool(code == 0xFEFF)


@nb.njit(nogil=True, cache=True)
def _main(
    symbols: Classes,
    table: States,
    right: States,
    rule: Table,
    rules: Table,
    starts: Table,
    max_length: int,
    ends: Ints,
) -> int:
    """The last characters of all sentences; their number.

    Walks are kept by their state behind one character, one for each of a few such states: it was
    in the state kept[slot, j] before it read character j, from kept_from to kept_to; there it ended
    by a dead end or at its bound. kept_final is the last character at which a rule ended on it.
    """
    size, number = len(symbols), 0
    kept = np.empty((SLOTS, RING), np.int16)
    kept_from, kept_to = np.full(SLOTS, 1, np.int64), np.zeros(SLOTS, np.int64)
    kept_dead = np.zeros(SLOTS, np.bool_)
    kept_final, kept_state = np.full(SLOTS, -1, np.int64), np.full(SLOTS, -1, np.int64)
    begin = -1
    while begin < size:
        j, state, final, final_state = begin, np.int64(starts[0, 0]), -1, -1
        if begin == -1:
            j, state = 0, np.int64(starts[0, 1])
        if state < 0:
            begin += 1
            continue
        bound, dead, joined = min(begin + max_length, size), False, False
        if j < bound:
            state = np.int64(table[state, symbols[j]])
            if state < 0:
                begin += 1
                continue
            if rule[state] >= 0:
                final, final_state = j, state
            j += 1
        slot, first = state % SLOTS, j
        while j < bound:
            if (
                not joined
                and kept_from[slot] <= j < kept_to[slot]
                and kept[slot, j % RING] == state
            ):
                joined = True
                if kept_final[slot] >= j:
                    final, final_state = kept_final[slot], kept_state[slot]
                j = kept_to[slot]
                state = np.int64(kept[slot, j % RING])
                if kept_dead[slot]:
                    dead = True
                    break
                continue
            kept[slot, j % RING] = state
            following = np.int64(table[state, symbols[j]])
            if following < 0:
                dead = True
                break
            if rule[following] >= 0:
                final, final_state = j, following
            state = following
            j += 1
        if joined or j >= kept_to[slot]:
            kept[slot, j % RING] = state
            kept_from[slot], kept_to[slot], kept_dead[slot] = first, j, dead
            kept_final[slot], kept_state[slot] = final, final_state
        else:
            kept_from[slot] = max(kept_from[slot], j + 1)  # its rest is as it was
        if not dead and j == size:
            following = np.int64(right[state])
            if following >= 0 and rule[following] >= 0:
                final, final_state = j, following
        if final >= 0:
            left_context, right_context, tag, function = rules[rule[final_state]]
            start = min(max(begin + left_context, 0), size - 1)
            stop = min(max(final - right_context, 0), size - 1)
            if tag != 0 and number < len(ends):
                ends[number] = stop
                number += 1
            if function >= 0:
                span = symbols[start : stop + 1]
                number = _function(
                    span,
                    start,
                    function,
                    table,
                    right,
                    rule,
                    rules,
                    starts,
                    max_length,
                    ends,
                    number,
                )
            begin = max(begin, final - right_context)
        begin += 1
    return number


@nb.njit(nogil=True, cache=True)
def _walk(
    symbols: Classes,
    begin: int,
    row: int,
    table: States,
    right: States,
    rule: Table,
    starts: Table,
    max_length: int,
) -> tuple[int, int]:
    """The last character at which a rule ended on the walk from `begin`, and the state there."""
    j, state, final, final_state = begin, np.int64(starts[row, 0]), -1, -1
    if begin == -1:
        j, state = 0, np.int64(starts[row, 1])
    if state < 0:
        return -1, -1
    bound = min(begin + max_length, len(symbols))
    while j < bound:
        following = np.int64(table[state, symbols[j]])
        if following < 0:
            return final, final_state
        if rule[following] >= 0:
            final, final_state = j, following
        state = following
        j += 1
    if j == len(symbols):
        following = np.int64(right[state])
        if following >= 0 and rule[following] >= 0:
            final, final_state = j, following
    return final, final_state


@nb.njit(nogil=True, cache=True)
def _function(
    symbols: Classes,
    offset: int,
    row: int,
    table: States,
    right: States,
    rule: Table,
    rules: Table,
    starts: Table,
    max_length: int,
    ends: Ints,
    number: int,
) -> int:
    """What a function of the rules finds in the span that its caller matched."""
    size, begin = len(symbols), -1
    while begin < size:
        final, final_state = _walk(symbols, begin, row, table, right, rule, starts, max_length)
        if final >= 0:
            left_context, right_context, tag, function = rules[rule[final_state]]
            start = min(max(begin + left_context, 0), size - 1)
            stop = min(max(final - right_context, 0), size - 1)
            if tag != 0 and number < len(ends):
                ends[number] = stop + offset
                number += 1
            if function >= 0:
                number = _inner_function(
                    symbols[start : stop + 1],
                    start + offset,
                    function,
                    table,
                    right,
                    rule,
                    rules,
                    starts,
                    max_length,
                    ends,
                    number,
                )
            begin = max(begin, final - right_context)
        begin += 1
    return number


@nb.njit(nogil=True, cache=True)
def _inner_function(
    symbols: Classes,
    offset: int,
    row: int,
    table: States,
    right: States,
    rule: Table,
    rules: Table,
    starts: Table,
    max_length: int,
    ends: Ints,
    number: int,
) -> int:
    """A function that a function calls: it calls no other (blingfire's depth is 3)."""
    size, begin = len(symbols), -1
    while begin < size:
        final, final_state = _walk(symbols, begin, row, table, right, rule, starts, max_length)
        if final >= 0:
            right_context, tag = rules[rule[final_state], 1], rules[rule[final_state], 2]
            if tag != 0 and number < len(ends):
                ends[number] = min(max(final - right_context, 0), size - 1) + offset
                number += 1
            begin = max(begin, final - right_context)
        begin += 1
    return number
