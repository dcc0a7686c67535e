"""The pinned Unicode properties that all kernels share: one lookup per code point.

`INDEX[code >> 7]` names a block of 128, `BLOCKS[block << 7 | code & 127]` holds 16 bits: the
Word_Break class (UAX #29) in the low five, and flags. The file is made by make_unicode_table.py and
names its Unicode versions; results do not depend on the Python that runs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

BLOCK_BITS = 7  # 128 characters share a block: most blocks are equal, and the table stays small

CLASSES = {
    name: number
    for number, name in enumerate(
        (
            "OTHER",
            "CR",
            "LF",
            "NEWLINE",
            "EXTEND",
            "ZWJ",
            "FORMAT",
            "REGIONALINDICATOR",
            "KATAKANA",
            "HEBREWLETTER",
            "ALETTER",
            "SINGLEQUOTE",
            "DOUBLEQUOTE",
            "MIDNUMLET",
            "MIDLETTER",
            "MIDNUM",
            "NUMERIC",
            "EXTENDNUMLET",
            "WSEGSPACE",
        )
    )
}
CLASS_MASK = 31  # 5 bits hold the word-break class; the flags are above

PICTOGRAPHIC = 1 << 5
ALNUM = 1 << 6  # str.isalnum
ALPHA = 1 << 7  # str.isalpha
UPPER = 1 << 8  # str.isupper
DIGIT = 1 << 9  # str.isdigit (superscripts too)
NUMERIC_DIGIT = 1 << 10  # str.isdecimal (what \d matches)
SPACE = 1 << 11  # str.isspace, which str.split and str.strip go by
PUNCTUATION = 1 << 12  # general category P


def load_table() -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    """Index, blocks, and the Unicode versions of the str methods and of Word_Break."""
    with np.load(Path(__file__).parent / "unicode_table.npz", allow_pickle=False) as file:
        methods, word_break = (str(version) for version in file["versions"])
        return file["index"], file["blocks"], (methods, word_break)
