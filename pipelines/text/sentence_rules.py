"""The automaton of blingfire's sentence rules, read from the installed package as plain tables.

blingfire looks for a rule from every character of a text and reads up to 300 characters each time,
so a text of dots or signs takes it 2 to 4 s per megabyte, in a library that has no setting to do
less. `pipelines.kernels.sentences` does the same walk with the tables of this file and joins walks
that have come to the same state, so that hostile text is as fast as prose.

The tables are those of one version: `SHA256` pins the bytes, and of any other version there are no
tables (`None`), so that the library itself splits. The layout of the bytes is that of BlingFire's
`FALDB`, `FARSDfa_pack_triv`, `FAIwMap_pack` and `FAMultiMap_pack` (MIT licence); nothing of it is
copied here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

LIBRARY = "libblingfiretokdll.so"
"""The wheel carries the libraries of all systems; this one is read as data on any of them."""
BEGIN, SIZE = 0x28360, 336_064  # of the rules in the library of blingfire 0.1.8
SHA256 = "f75ea621cb268224f809ab4b984d23344a0263ed209822d275c82a7c629c3e3c"

MAX_LENGTH = 300  # characters that a rule may read: BlingFire's FALimits::MaxWordLen
ANY, LEFT, RIGHT, CONTROL = 0, 1, 2, 3  # symbols of the alphabet that are no characters
CODE_POINTS = 0x110000
_NONE, _LISTS, _INDEXED, _RANGES, _NEXT = 0, 4, 6, 1, 2  # how a state stores its transitions


@dataclass(frozen=True)
class SentenceRules:
    """A deterministic automaton, and what its rules do.

    classes: code point -> class. next: (states, classes) int16, -1 where a walk ends.
    right: state -> state at the end of the text. rule: state -> its rule, -1 when not final.
    rules: a row (left context, right context, tag, function or -1) for each rule.
    starts: state at which a function begins, state behind the beginning of a text; row 0 is
    where a text begins.
    """

    classes: npt.NDArray[np.uint16]
    next: npt.NDArray[np.int16]
    right: npt.NDArray[np.int16]
    rule: npt.NDArray[np.int32]
    rules: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]


class _Image:
    """Numbers of the packed bytes: integers of the machine, and of 1 to 4 bytes, big end first."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def number(self, at: int) -> int:
        return int.from_bytes(self.data[at : at + 4], "little", signed=True)

    def numbers(self, at: int, count: int) -> npt.NDArray[np.int64]:
        return np.frombuffer(self.data, "<i4", count, at).astype(np.int64)

    def unsigned(self, at: int, size: int, count: int = 1) -> npt.NDArray[np.int64]:
        return np.frombuffer(self.data, f"<u{size}", count, at).astype(np.int64)

    def packed(self, at: int, size: int, count: int) -> npt.NDArray[np.int64]:
        raw = np.frombuffer(self.data, np.uint8, size * count, at).reshape(count, size)
        weights = 256 ** np.arange(size - 1, -1, -1, dtype=np.int64)
        return raw.astype(np.int64) @ weights


@cache
def sentence_rules() -> SentenceRules | None:
    """The tables of the installed blingfire, or None when it is another version."""
    import blingfire

    with (Path(blingfire.__file__).parent / LIBRARY).open("rb") as file:
        file.seek(BEGIN)
        data = file.read(SIZE)
    if hashlib.sha256(data).hexdigest() != SHA256:
        return None
    return read_rules(data)


def read_rules(data: bytes) -> SentenceRules:
    """The tables of the packed rules: the second part is the automaton, the third the rules."""
    image = _Image(data)
    _, automaton, actions = (int(at) for at in image.numbers(4, 3))
    states = _Automaton(image, automaton)
    rules, functions = _rules(image, actions)
    first = states.initial
    behind_right = states.step(first, RIGHT)
    begins = {function: states.step(behind_right, function) for function in functions}
    order = states.reachable([first, *begins.values()])
    number = {state: n for n, state in enumerate(order)} | {-1: -1, -2: -1}
    following = np.array([states.row(state) for state in order])
    renumbered = np.full(max(order) + 1, -1, np.int32)
    renumbered[order] = np.arange(len(order), dtype=np.int32)
    table = np.where(following < 0, -1, renumbered[np.maximum(following, 0)]).astype(np.int16)
    starts = []
    for state in (first, *begins.values()):
        starts.append([number[state], number[states.step(state, LEFT, ANY)]])
    rows = [[left, right, tag, functions.get(name, 0) or -1] for left, right, tag, name in rules]
    return SentenceRules(
        classes=states.classes(),
        next=table,
        right=np.array([number[states.step(s, RIGHT, ANY)] for s in order], np.int16),
        rule=np.array([states.weight(s) if states.final(s) else -1 for s in order], np.int32),
        rules=np.array(rows, np.int32),
        starts=np.array(starts, np.int32),
    )


def _rules(image: _Image, at: int) -> tuple[list[tuple[int, int, int, int]], Mapping[int, int]]:
    """(left, right, tag, name of the function) of each rule; the functions' rows in `starts`."""
    count, size = image.number(at) + 1, image.number(at + 4)
    offsets = image.packed(at + 8, size, count)
    values = at + (8 + size * count + 3) // 4 * 4
    rules = []
    for offset in offsets.tolist():
        begin = values + offset - 1
        fields = image.numbers(begin + 4, image.number(begin)).tolist()
        # left and right context, then a tag, or 0 and the one function that the rule calls
        if len(fields) == 3:
            rules.append((fields[0], fields[1], fields[2], 0))
        else:
            left, right, _, function = fields
            rules.append((left, right, 0, function))
    names = sorted({rule[3] for rule in rules} - {0})
    return rules, {name: row for row, name in enumerate(names, start=1)}


class _Automaton:
    """The packed automaton: a state is the place of its bytes, -1 no transition, -2 a dead end."""

    def __init__(self, image: _Image, at: int) -> None:
        self.image, self.at = image, at
        self.size = image.number(at)
        symbols = image.number(at + 8) & 0x7FFFFFFF
        map_at = at + 12 + 4 * symbols
        self.symbols = self._symbols(map_at + 4)
        self.initial = map_at + 4 + image.number(map_at) - at
        self.width = int(self.symbols.max()) + 2  # the last one is "no symbol of the alphabet"

    def _symbols(self, at: int) -> npt.NDArray[np.int64]:
        """Code point -> symbol of the automaton, -1 for none."""
        image = self.image
        size, count = image.number(at), image.number(at + 4)
        first = image.numbers(at + 8, count)
        pairs = image.numbers(at + 8 + 4 * count, 2 * count).reshape(count, 2)
        stored = at + 8 + 12 * count
        symbols = np.full(CODE_POINTS, -1, np.int64)
        for begin, (last, offset) in zip(first.tolist(), pairs.tolist(), strict=True):
            values = image.packed(stored + offset, size, last - begin + 1)
            symbols[begin : last + 1] = values - 1
        return symbols

    def classes(self) -> npt.NDArray[np.uint16]:
        """Code point -> column of a row; a character of a control symbol is another one."""
        classes = np.where(self.symbols < 0, self.width - 1, self.symbols)
        classes[:CONTROL] = classes[CONTROL]
        classes[0] = classes[ord(" ")]  # blingfire reads a blank there
        return classes.astype(np.uint16)

    def transitions(self, state: int) -> dict[int, int]:
        """Symbol -> state, without what `ANY` adds."""
        image, at = self.image, self.at + state
        info = image.data[at]
        kind, size, at = info & 7, ((info & 0x18) >> 3) + 1, at + 1
        if kind == _NONE:
            return {}
        if kind == _NEXT:
            weight = (0, 1, 2, 4)[(info & 0x60) >> 5]
            return {int(image.unsigned(at, size)[0]): state + 1 + size + weight}
        if kind == _INDEXED:
            first, last = image.unsigned(at, size, 2).tolist()
            states = image.packed(at + 2 * size, self.size, last - first + 1)
            pairs = zip(range(first, last + 1), self._alive(states), strict=True)
            return {symbol: to for symbol, to in pairs if to != 0}
        count = int(image.unsigned(at, size)[0]) + 1
        firsts = image.unsigned(at + size, size, count).tolist()
        if kind == _LISTS:
            states = image.packed(at + size * (1 + count), self.size, count)
            return dict(zip(firsts, self._alive(states), strict=True))
        lasts = image.unsigned(at + size * (1 + count), size, count).tolist()
        states = image.packed(at + size * (1 + 2 * count), self.size, count)
        return {
            symbol: to
            for first, last, to in zip(firsts, lasts, self._alive(states), strict=True)
            for symbol in range(first, last + 1)
        }

    def _alive(self, states: npt.NDArray[np.int64]) -> list[int]:
        dead = 256**self.size - 1
        return [-2 if state == dead else state for state in states.tolist()]

    def step(self, state: int, *code_points: int) -> int:
        """The state behind the first of some code points that has a transition."""
        transitions = self.transitions(state)
        for code_point in code_points:
            symbol = int(self.symbols[code_point])
            if symbol in transitions:
                return transitions[symbol]
        return -1

    def row(self, state: int) -> npt.NDArray[np.int64]:
        """The state behind each symbol; where there is none, that behind `ANY`."""
        transitions = self.transitions(state)
        row = np.full(self.width, transitions.get(int(self.symbols[ANY]), -1), np.int64)
        row[list(transitions)] = list(transitions.values())
        return row

    def final(self, state: int) -> bool:
        return bool(self.image.data[self.at + state] & 0x80)

    def weight(self, state: int) -> int:
        """The rule of a final state, stored behind its transitions."""
        image, at = self.image, self.at + state
        info = image.data[at]
        width = (0, 1, 2, 4)[(info & 0x60) >> 5]
        kind, size, at = info & 7, ((info & 0x18) >> 3) + 1, at + 1
        if kind == _NEXT:
            at += size
        elif kind == _INDEXED:
            first, last = image.unsigned(at, size, 2).tolist()
            at += 2 * size + self.size * (last - first + 1)
        elif kind != _NONE:
            count = int(image.unsigned(at, size)[0]) + 1
            at += size + count * (self.size + size * (2 if kind == _RANGES else 1))
        return int.from_bytes(image.data[at : at + width], "little", signed=True)

    def reachable(self, begins: list[int]) -> list[int]:
        """All states that can come behind some states, in a fixed order."""
        order, seen = list(begins), set(begins)
        for state in order:
            for to in self.transitions(state).values():
                if to >= 0 and to not in seen:
                    seen.add(to)
                    order.append(to)
        return order
