"""Texts to token ids by a `tokenizer.json`: the ids of the `tokenizers` library faster.

fastokens does the work where it agrees with `tokenizers`. That is checked when a tokenizer is
loaded, on strings where libraries are known to differ and on others drawn by a hash, and again for
one document in 4,096 (chosen by a hash of its text) as long as it works. A tokenizer that fastokens
does not read, or reads otherwise, is encoded by `tokenizers` alone, which the log says once.

A special token written in a text (`<|endoftext|>`) becomes its id, as in `tokenizers`.
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from pipelines.errors import FailedError

log = logging.getLogger(__name__)

Ids = npt.NDArray[np.uint32]

CALL_CHARACTERS = 4 << 20  # encoded by one call: its ids take 16 to 64 MB
SAMPLE_ONE_IN = 4096  # documents that both libraries encode: 1 % of the time, at a rate of 1:40
SAMPLE_CHARACTERS = 1 << 18  # of one such document: `tokenizers` needs 0.2 s for as many
NUM_DRAWN_CHECKS = 200  # drawn strings that both tokenizers encode at loading


class TokenizerError(FailedError):
    """Two libraries give other ids for the same text."""


class BatchEncoder:
    """Encodes texts without adding any token before or after."""

    def __init__(self, data: bytes) -> None:
        """`data` is a tokenizer.json. What `tokenizers` raises for a bad one passes through."""
        self.exact = tokenizers.Tokenizer.from_str(data.decode())
        self._fast = _checked(data, self.exact)

    @property
    def library(self) -> str:
        """The library that encodes: fastokens or tokenizers."""
        return "tokenizers" if self._fast is None else "fastokens"

    def encode(self, texts: Sequence[str]) -> tuple[Ids, npt.NDArray[np.int64]]:
        """All ids in a row, and where each text's begin and end: offsets, one more than texts.

        TokenizerError when a document of the sample has other ids by `tokenizers`.
        """
        ids, offsets = [np.empty(0, np.uint32)], [np.zeros(1, np.int64)]
        total = 0
        for some in _calls(texts):
            batch_ids, ends = self._encode(some)
            ids.append(batch_ids)
            offsets.append(ends[1:] + total)
            total += len(batch_ids)
        return np.concatenate(ids), np.concatenate(offsets)

    def counts(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """The number of ids of each text."""
        return np.diff(self.encode(texts)[1])

    def _encode(self, texts: Sequence[str]) -> tuple[Ids, npt.NDArray[np.int64]]:
        if self._fast is None:
            return _exactly(self.exact, texts)
        data, ends = self._fast.encode_batch_flat(texts)
        ids = np.frombuffer(data, np.uint32)
        offsets = np.frombuffer(ends, np.uint64).astype(np.int64)
        for row, text in enumerate(texts):
            if len(text) <= SAMPLE_CHARACTERS and _is_sampled(text):
                expected, _ = _exactly(self.exact, [text])
                if not np.array_equal(expected, ids[offsets[row] : offsets[row + 1]]):
                    raise TokenizerError(
                        f"fastokens {metadata.version('fastokens')} and tokenizers give other ids "
                        f"for the text that begins {text[:80]!r}; uninstall fastokens and encode "
                        "everything again"
                    )
        return ids, offsets


def _calls(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts in groups of about CALL_CHARACTERS, so that memory does not follow their number."""
    some: list[str] = []
    size = 0
    for text in texts:
        some.append(text)
        size += len(text)
        if size >= CALL_CHARACTERS:
            yield some
            some, size = [], 0
    if some:
        yield some


def _is_sampled(text: str) -> bool:
    """Whether both libraries encode a document. Its length and its beginning decide: to hash all of
    every document would cost as much as a tenth of encoding it."""
    head = zlib.crc32(text[:64].encode("utf-8", "surrogatepass"))
    return (head ^ len(text)) % SAMPLE_ONE_IN == 0


def _exactly(
    exact: tokenizers.Tokenizer, texts: Sequence[str]
) -> tuple[Ids, npt.NDArray[np.int64]]:
    rows = [e.ids for e in exact.encode_batch_fast(list(texts), add_special_tokens=False)]
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    ids = np.fromiter((token for row in rows for token in row), np.uint32, count=int(offsets[-1]))
    return ids, offsets


def _checked(data: bytes, exact: tokenizers.Tokenizer) -> Any:
    """fastokens with this tokenizer, or None where it is missing or not equal."""
    try:
        from fastokens import Tokenizer
    except ImportError:
        log.warning("fastokens is not installed: encoding with tokenizers, 30 times as slow")
        return None
    try:
        fast = Tokenizer.from_json_str(data.decode())
    except (ValueError, RuntimeError) as error:
        log.warning("fastokens does not read this tokenizer: encoding with tokenizers (%s)", error)
        return None
    texts = [*CHECKS, *_drawn()]
    ids, offsets = _exactly(exact, texts)
    fast_ids, ends = fast.encode_batch_flat(texts)
    same_ids = np.array_equal(np.frombuffer(fast_ids, np.uint32), ids)
    if same_ids and np.array_equal(np.frombuffer(ends, np.uint64).astype(np.int64), offsets):
        return fast
    first = next(
        text for text in texts if fast.encode(text).ids != _exactly(exact, [text])[0].tolist()
    )
    log.warning(
        "fastokens %s and tokenizers disagree on %r: encoding with tokenizers alone",
        metadata.version("fastokens"),
        first,
    )
    return None


CHECKS = (
    "The cat's 3 mats -- aren't they?\n\n\tdef f(x):\n        return  x ** 2   # ok ",
    "a  b   c    d" + " " * 25 + "e" + " " * 60 + "\r\n \n  \n\u00a0\u3000\u2028x",
    "I'm you're we've he'll she'd 'S 'LL ''s s' O'Neil 's\t't\n's",
    "e\u0301 \u1100\u1161 A\u030a \u0344 \ufb01 \u212b \u00df \u017f \u01c5 \u0130",
    "a\u0357\u0898\u0323 \u0958 \u05c8",
    "\u4e2d\u6587\uff0c\u65e5\u672c\u8a9e\u3067\u3059\u3002 \ud55c\uad6d\uc5b4 \u0440\u0443\u0441",
    "\U0001f600\U0001f468\u200d\U0001f469 <|endoftext|>a<|padding|> \x00\x1f\x7f\x85\ufeff",
    "1234567890 3.14e-10 \u0661\u0662 \u00bd \u2167 x\u00b2 http://a.b/c?d=e&f=%20#g_h",
    "",
    " ",
    "\n",
)
"""Where libraries that read tokenizer.json were seen to differ: contractions behind white space,
runs of spaces that are added tokens, marks whose class changed between versions of Unicode, special
tokens."""

_PIECES = (
    *(" ", "  ", "   ", "\t", "\n", " \n", "\r\n", "a", "B", "the", " of", "ing", "\u00e9"),
    *("e\u0301", "\u0300", "\u1100\u1161", "\ufb01", "<|endoftext|>", "<|", "'s", "'LL", "'re"),
    *("123", "7", "\U0001f642", "\u200d", "\x00", "\u00a0", "\u3000", "\u4e2d", "\u05d0", "!!"),
    *("...", "_", "-", "\ufeff", "\u0958", "\u212b", "\u05c8", "\u0898", " " * 24, " " * 50),
)


def _drawn() -> list[str]:
    """Strings made of pieces that a hash draws: the same on every machine."""
    made = []
    for number in range(NUM_DRAWN_CHECKS):
        drawn = hashlib.sha512(f"tokenizer check {number}".encode()).digest()
        made.append("".join(_PIECES[byte % len(_PIECES)] for byte in drawn[: 4 + drawn[-1] % 60]))
    return made
