"""Languages by langdetect (Shuyo 2010): the library's profiles, in compiled loops.

langdetect takes some 30 ms for a sentence that no language wins, in loops over Python numbers.
Probabilities are its own to the last bit, for the same seed, with two things settled that it leaves
open: profiles are read in the order of their names (the library takes the order in which the file
system lists them, which moves the last digits), and sums are taken in order on every version of
Python (from 3.12 on `sum` of floats is another one).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_CHARACTERS = 10_000  # a text's head that is looked at: Detector.max_text_length
MIN_PROBABILITY = 0.1  # of a language that is reported: Detector.PROB_THRESHOLD
FIRST_OUTPUTS = 1 << 14
"""Random numbers that suffice for nearly all texts; doubled for the others."""

_BLANKS = re.compile(" {2,}")


@dataclass(frozen=True)
class Profiles:
    """table: (n-grams, languages) probabilities; slots and rows: where an n-gram's row is found."""

    languages: tuple[str, ...]
    table: npt.NDArray[np.float64]
    slots: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.int32]


class _Normalized(dict[int, str]):
    """Code point -> the character that stands for it, by langdetect's own function."""

    def __init__(self, normalize: Callable[[str], str]) -> None:
        self._normalize = normalize

    def __missing__(self, code: int) -> str:
        self[code] = self._normalize(chr(code))
        return self[code]


def scorer(seed: int) -> Callable[[str], dict[str, float]]:
    """A function from a text to its languages' probabilities, the likeliest first.

    It raises ValueError where langdetect raises: for a text without an n-gram of any language.
    ImportError: langdetect is not installed.
    """
    from langdetect.detector import Detector
    from langdetect.utils.ngram import NGram

    from pipelines import kernels

    kernel, known, upper = kernels.language_profiles, profiles(), _upper()
    normalized = _Normalized(NGram.normalize)
    outputs = _outputs(seed, FIRST_OUTPUTS)
    sums = np.empty(len(known.languages))

    def scores(text: str) -> dict[str, float]:
        nonlocal outputs
        text = Detector.MAIL_RE.sub(" ", Detector.URL_RE.sub(" ", text))
        text = _BLANKS.sub(" ", NGram.normalize_vi(text)[:MAX_CHARACTERS])
        codes = _codes(text.translate(normalized))[_counts(_codes(text))]
        grams = kernel.ngrams(codes, upper[codes], known.slots, known.rows)
        if not len(grams):
            raise ValueError("langdetect knows no n-gram of this text (it has no letters)")
        while not kernel.detect(grams, known.table, outputs, sums):
            outputs = _outputs(seed, 2 * len(outputs))
        pairs = zip(known.languages, sums.tolist(), strict=True)
        ranked = sorted(pairs, key=itemgetter(1), reverse=True)
        return {name: p for name, p in ranked if p > MIN_PROBABILITY}

    return scores


def _codes(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _counts(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """Which characters count: Latin letters (A to z) do not in a text of mostly other ones."""
    latin = (codes >= ord("A")) & (codes <= ord("z"))
    # The library means to leave out Latin Extended Additional, but compares a number with its name.
    others = codes >= 0x300
    return ~latin if 2 * latin.sum() < others.sum() else np.ones(len(codes), np.bool_)


def _outputs(seed: int, number: int) -> npt.NDArray[np.uint32]:
    """The first 32-bit outputs of `random.Random(seed)`."""
    chance = random.Random(seed)
    return np.array([chance.getrandbits(32) for _ in range(number)], np.uint32)


@cache
def _upper() -> npt.NDArray[np.bool_]:
    """Whether each code point is an upper-case letter."""
    return np.array([chr(code).isupper() for code in range(0x110000)], np.bool_)


@cache
def profiles() -> Profiles:
    """The profiles that langdetect carries, languages in the order of their names."""
    from pipelines import kernels

    library = factory()
    words: dict[str, list[float]] = library.word_lang_prob_map
    kernel = kernels.language_profiles
    keys = np.zeros(len(words), np.uint64)
    for row, word in enumerate(words):
        for character in word:
            keys[row] = keys[row] << np.uint64(kernel.CODE_BITS) | np.uint64(ord(character))
    slots = np.zeros(1 << (2 * len(words)).bit_length(), np.uint64)
    rows = np.zeros(len(slots), np.int32)
    kernel.fill(keys, slots, rows)
    return Profiles(tuple(library.langlist), np.array(list(words.values())), slots, rows)


def factory() -> Any:
    """langdetect's own reading of its profiles, in a fixed order."""
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    files = sorted(path for path in Path(PROFILES_DIRECTORY).iterdir() if path.is_file())
    library = DetectorFactory()
    library.load_json_profile(
        [path.read_text("utf-8") for path in files if not path.name.startswith(".")]
    )
    return library
