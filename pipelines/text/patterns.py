"""Lists of phrases and regular expressions, matched without surprises.

Expressions that repeat something (`*`, `+`, `{2,}`) run in the engine `regex` with a time limit per
document, so that a catastrophic one is an error on that document and no hang.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import regex

from pipelines import kernels

SECONDS_PER_DOCUMENT = 5.0  # an expression that backtracks longer is reported as an error
AROUND = 200  # bytes that are looked at first, on both sides of where a phrase may occur
_PLAIN = re.compile(r"[^.^$*+?{}\[\]\\|()]*")
_REPEATS = re.compile(r"[*+?]|\{\d*,?\d*\}")


class Pattern:
    """One expression out of several alternatives, tried from left to right at each place.

    ValueError for an empty list, an empty entry (it would match everywhere) or a broken expression.
    """

    def __init__(
        self,
        entries: Sequence[str],
        *,
        literal: bool = False,
        ignore_case: bool = False,
        multiline: bool = False,
        before: str = "",
        after: str = "",
    ) -> None:
        check_entries(entries)
        limited = not literal and any(map(_REPEATS.search, entries))
        alternatives = "|".join(re.escape(e) if literal else e for e in entries)
        if len(entries) > 1 or before or after:
            alternatives = f"(?:{alternatives})"
        source = f"{before}{alternatives}{after}"
        flags = (re.IGNORECASE if ignore_case else 0) | (re.MULTILINE if multiline else 0)
        self._timeout: dict[str, float] = {}
        self._compiled: Any
        try:
            self._compiled = re.compile(source, flags)
            if limited:
                self._compiled = regex.compile(source, flags | regex.V0)
                self._timeout = {"timeout": SECONDS_PER_DOCUMENT}
        except (re.error, regex.error) as error:
            raise ValueError(f"{source!r} is not a regular expression: {error}") from None

        self._prefixes = tuple(e if literal else _literal_prefix(e) for e in entries)
        self._entries = tuple(entries)
        self._literal = literal
        self._ignore_case = ignore_case
        self._prepared: Any = None

    def candidates(
        self, texts: pa.Array, *, lowered: bool = False, whole: bool = False
    ) -> npt.NDArray[np.bool_]:
        """Texts in which the expression may occur: those with a literal beginning of it.

        `lowered` says that the expression is sought in the lower case of the texts, `whole` that
        it is between word boundaries (of use only to plain phrases).
        """
        if self._prepared is None:
            ignore = self._ignore_case or lowered
            plain = self._prefixes == self._entries
            self._prepared = kernels.phrases.prepare(
                self._prefixes, ignore_case=ignore, whole=whole and plain
            )
        return kernels.phrases.candidates(texts, self._prepared)  # type: ignore[no-any-return]

    def candidate_lines(self, text: str) -> set[int] | None:
        """The numbers of the lines of a text in which the expression may occur; None: any."""
        beginnings = [prefix.lower() if self._ignore_case else prefix for prefix in self._prefixes]
        if not all(beginnings) or any("\n" in beginning for beginning in beginnings):
            return None
        if not self._ignore_case:
            return lines_with(text, beginnings)
        if not all(map(str.isascii, beginnings)):
            return None
        if not text.isascii() and any(map(text.__contains__, kernels.phrases.FOLD_TO_ASCII)):
            return None
        return lines_with(text.lower(), beginnings)

    def occurs(
        self, texts: pa.Array, *, lowered: bool = False, whole: bool = False
    ) -> npt.NDArray[np.bool_]:
        """Whether the expression occurs in each text (`lowered`: in its lower case).

        TimeoutError when that takes too long to say.
        """
        maybe = self.candidates(texts, lowered=lowered, whole=whole)
        out = np.zeros(len(texts), dtype=np.bool_)
        if not maybe.any():
            return out
        where = np.flatnonzero(maybe)
        some = texts.take(pa.array(where))
        places = kernels.phrases.places(some, self._prepared).tolist()
        for row, position, text in zip(where.tolist(), places, some.to_pylist(), strict=True):
            if self._literal and self._near(text, position, lowered):
                out[row] = True
            else:
                out[row] = self.occurs_in(text.lower() if lowered else text)
        return out

    def _near(self, text: str, position: int, lowered: bool) -> bool:
        """Whether it surely occurs at a byte, seen from a few characters on both sides.

        A match that touches the edge of what is seen proves nothing: a word may continue there.
        """
        data = text.encode("utf-8")
        begin, end = max(0, position - AROUND), position + AROUND
        seen = data[begin:end].decode("utf-8", "ignore")
        match = self._compiled.search(seen.lower() if lowered else seen, **self._timeout)
        if match is None:
            return False
        inside = begin == 0 or match.start() > 0
        return inside and (end >= len(data) or match.end() < len(match.string))

    def occurs_in(self, text: str) -> bool:
        """Whether the expression occurs. TimeoutError when that takes too long to say."""
        return self._compiled.search(text, **self._timeout) is not None

    def shown(self, text: str, *, around: int = 60) -> str | None:
        """The first match with what is around it, for people; None where there is none."""
        match = self._compiled.search(text, **self._timeout)
        if match is None:
            return None
        begin, end = max(0, match.start() - around), match.end() + around
        return f"{'...' if begin else ''}{text[begin:end]}{'...' if end < len(text) else ''}"

    def all(self, text: str) -> list[str]:
        """The matched strings, from left to right, without overlaps."""
        return [match.group(0) for match in self._matches(text)]

    def remove(self, text: str) -> str:
        """The text without the matches."""
        return str(self._compiled.sub("", text, **self._timeout))

    def split(self, text: str) -> list[str]:
        """The text between the matches."""
        parts, last = [], 0
        for match in self._matches(text):
            parts.append(text[last : match.start()])
            last = match.end()
        return [*parts, text[last:]]

    def _matches(self, text: str) -> Iterator[Any]:
        return iter(self._compiled.finditer(text, **self._timeout))


def lines_with(text: str, phrases: Sequence[str]) -> set[int]:
    """The numbers of the lines that hold one of some phrases; no phrase holds a newline."""
    numbers = set()
    for phrase in phrases:
        at = text.find(phrase)
        while at >= 0:
            numbers.add(text.count("\n", 0, at))
            behind = text.find("\n", at)  # once in a line is enough
            at = -1 if behind < 0 else text.find(phrase, behind + 1)
    return numbers


def _literal_prefix(expression: str) -> str:
    """The plain characters that every match begins with; empty where that is not plain to see."""
    if "|" in expression or "(" in expression or "[" in expression:
        return ""
    match = _PLAIN.match(expression)
    prefix = match.group(0) if match else ""
    if len(prefix) < len(expression) and expression[len(prefix)] in "*?{":
        prefix = prefix[:-1]  # the last character may be missing
    return prefix


def check_entries(entries: Sequence[str]) -> None:
    """ValueError for a list that would match everything."""
    if not entries:
        raise ValueError("the list of phrases is empty: it would match every document; name some")
    if "" in entries:
        raise ValueError("the list has an empty entry, which matches everything; remove it")


def read_list(path: Any) -> tuple[str, ...]:
    """The lines of a list file, without those that are blank. ValueError when none is left."""
    if str(path).endswith((".pkl", ".pickle")):
        raise ValueError(f"{path}: pickled expressions are not read; give the list as text")
    text = path.read_text(encoding="utf-8")
    entries = tuple(line for line in text.split("\n") if line.strip())
    if not entries:
        raise ValueError(f"{path} is empty: an empty list would match every document")
    return entries
