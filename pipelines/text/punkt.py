"""Sentences by Punkt (Kiss & Strunk 2006): the answers of NLTK in time proportional to the text.

NLTK takes some 40 microseconds for every mark that may end a sentence (20 s for a megabyte of
`". "`) and gives up after 5 s of wall-clock time. Here `pipelines.kernels.punkt` walks over the
text, and only words before a full stop are looked up, each pair of words once.

Two things are as NLTK 3.8 had them, which DCLM uses: only ASCII quotes close a sentence, and only
ASCII quotes end a word. The English model is the trained one; for other languages only the marks at
the ends of sentences count (a Punkt trained on nothing), as in DCLM.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import regex  # the engine of NLTK: its white space, digits and letters are not those of `re`

NON_WORD = """)";}]*:@'({[!?"""
NOT_START = """("`{[:;&#*@)}]-,"""
CLOSERS = """"')]}"""
MARKS = ".?!"
PUNCTUATION = frozenset(";:,.!?")

UPPER_WITHIN = 1 << 2
"""A word was seen within a sentence with an upper-case letter (NLTK's _ORTHO_MID_UC)."""
LOWER_FIRST = 1 << 4
"""A word was seen at the beginning of a sentence in lower case (_ORTHO_BEG_LC)."""
UPPER = 1 << 1 | UPPER_WITHIN | 1 << 3
LOWER = LOWER_FIRST | 1 << 5 | 1 << 6

_NUMBER = regex.compile(r"^-?[\.,]?\d[\d,\.-]*\.?$")
_INITIAL = regex.compile(r"[^\W\d]\.$")
CACHED_PAIRS = 1 << 16  # pairs of words whose answer is kept: some 10 MB


@dataclass(frozen=True)
class Parameters:
    """What Punkt learned of a language: words without their full stop, in lower case.

    contexts: word -> bits of the places and letter cases in which it was seen.
    """

    abbreviations: frozenset[str] = frozenset()
    collocations: frozenset[tuple[str, str]] = frozenset()
    starters: frozenset[str] = frozenset()
    contexts: Mapping[str, int] = field(default_factory=dict)


@cache
def splitter(language: str) -> Callable[[str], list[str]]:
    """A function from a text to its sentences, not stripped. ImportError without its package."""
    from pipelines import kernels

    kernel, classes = kernels.punkt, _classes()
    ends_sentence = lru_cache(CACHED_PAIRS)(_decision(parameters(language)))

    def split(text: str) -> list[str]:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        candidates = kernel.contexts(codes, classes)
        breaks, pairs = kernel.decide(codes, classes, candidates)
        # Lists of numbers, a column at a time: rows of arrays take twice as long.
        for context, start, stop, next_start, next_stop in zip(*pairs.T.tolist(), strict=True):
            if not breaks[context]:
                breaks[context] = ends_sentence(text[start:stop], text[next_start:next_stop])
        starts, stops = kernel.sentences(codes, classes, candidates, breaks).T.tolist()
        return [text[start:stop] for start, stop in zip(starts, stops, strict=True)]

    return split


@cache
def parameters(language: str) -> Parameters:
    """What the English model learned; nothing for other languages."""
    from punkt.data import english

    if language not in ("en", "english"):
        return Parameters()
    return Parameters(
        frozenset(english.ABBREV_TYPES),
        frozenset(english.COLLOCATIONS),
        frozenset(english.SENT_STARTERS),
        english.ORTHO_CONTEXT,
    )


_SURE = re.compile(r"(?:^|(?<=[ \n]))([^\W\d_]{2,})([.?!])[ \n]+(?=[^\W_])")


def sure_breaks(text: str, language: str, enough: int) -> int:
    """Places, up to `enough`, at which Punkt breaks whatever is around.

    A word of two letters or more after a blank, a mark, blanks, a letter or digit: after ? and !
    always, after a full stop unless the word is an abbreviation or begins a collocation (Punkt's
    other rules are on abbreviations, initials, numbers and ellipses only).
    """
    never = _unsure_words(language)
    count = 0
    for match in _SURE.finditer(text):
        count += match.group(2) != "." or match.group(1).lower() not in never
        if count >= enough:
            break
    return count


def break_surely(texts: pa.Array, language: str, enough: int) -> npt.NDArray[np.bool_]:
    """Texts that have `enough` such places among words of ASCII letters, and perhaps others."""
    from pipelines import kernels

    counts = kernels.punkt.sure_breaks(texts, _hashed_unsure_words(language), enough=enough)
    return counts >= enough  # type: ignore[no-any-return]


@cache
def _hashed_unsure_words(language: str) -> npt.NDArray[np.bool_]:
    from pipelines import kernels

    return kernels.punkt.hashed_words(_unsure_words(language))  # type: ignore[no-any-return]


@cache
def _unsure_words(language: str) -> frozenset[str]:
    known = parameters(language)
    return known.abbreviations | {first for first, _ in known.collocations}


def _decision(known: Parameters) -> Callable[[str, str], bool]:
    """Whether a token with a full stop at its end ends a sentence, given the token after it.

    The sections in comments are those of Kiss & Strunk 2006.
    """

    def ends_sentence(token: str, following: str) -> bool:
        breaks, abbreviation = _first_look(token, known)
        ellipsis = not token.strip(".")
        kind = _without_stop(_kind(token))
        next_kind = _kind(following)
        if _first_look(following, known)[0]:
            next_kind = _without_stop(next_kind)
        initial = _INITIAL.match(token) is not None

        if (kind, next_kind) in known.collocations:  # 4.1.2
            return False
        if (abbreviation or ellipsis) and not initial:  # 4.2
            if _starts_sentence(following, next_kind, known):
                return True
            if following[0].isupper() and next_kind in known.starters:  # 4.1.3
                return True
        if initial or kind == "##number##":  # 4.3
            starts = _starts_sentence(following, next_kind, known)
            if starts is False:
                return False
            seen_lower = known.contexts.get(next_kind, 0) & LOWER
            if starts is None and initial and following[0].isupper() and not seen_lower:
                return False
        return breaks

    return ends_sentence


def _first_look(token: str, known: Parameters) -> tuple[bool, bool]:
    """Whether a token ends a sentence, and whether it is an abbreviation, by itself."""
    if token in MARKS:
        return True, False
    if not token.endswith(".") or token.endswith(".."):
        return False, False
    word = token[:-1].lower()
    words = known.abbreviations
    abbreviation = word in words or word.rsplit("-", 1)[-1] in words
    return not abbreviation, abbreviation


def _kind(token: str) -> str:
    lower = token.lower()
    return "##number##" if _NUMBER.search(lower) else lower


def _without_stop(kind: str) -> str:
    return kind[:-1] if len(kind) > 1 and kind[-1] == "." else kind


def _starts_sentence(token: str, kind: str, known: Parameters) -> bool | None:
    """Whether a token begins a sentence, by how its word is written elsewhere; None: unknown."""
    if token in PUNCTUATION:
        return False
    seen = known.contexts.get(kind, 0)
    if token[0].isupper() and seen & LOWER and not seen & UPPER_WITHIN:
        return True
    if token[0].islower() and (seen & UPPER or not seen & LOWER_FIRST):
        return False
    return None


@cache
def _classes() -> npt.NDArray[np.uint8]:
    """The bits of `pipelines.kernels.punkt` of every code point."""
    from pipelines.kernels import punkt as kernel

    classes = np.zeros(0x110000, np.uint8)
    for code in range(0x3001):  # white space of Unicode ends at U+3000
        character = chr(code)
        classes[code] |= kernel.SPACE * bool(regex.match(r"\s", character))
        classes[code] |= kernel.STRIPPED * character.isspace()
    for characters, bit in (
        (string.whitespace, kernel.BLANK),
        (MARKS, kernel.MARK),
        (NON_WORD, kernel.NON_WORD),
        (NOT_START, kernel.NOT_START),
        (CLOSERS, kernel.CLOSER),
    ):
        for character in characters:
            classes[ord(character)] |= bit
    return classes
