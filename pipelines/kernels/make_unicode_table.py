"""Write unicode_table.npz: what the kernels know of every code point, in two stages.

Run by a maintainer when the pinned Unicode version changes: `python -m
pipelines.kernels.make_unicode_table`. Word_Break and Extended_Pictographic come from the package
uniseg (which DCLM's word definition rests on), the character classes from this Python's `str`
methods, so that the table agrees with both on the machine it was made on, and everywhere after.
"""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import numpy as np

from pipelines.kernels.unicode_table import (
    ALNUM,
    ALPHA,
    BLOCK_BITS,
    CLASSES,
    DIGIT,
    NUMERIC_DIGIT,
    PICTOGRAPHIC,
    PUNCTUATION,
    SPACE,
    UPPER,
)

OUT = Path(__file__).parent / "unicode_table.npz"
UNISEG_NAMES = {"Regional_Indicator": "RegionalIndicator"}


def properties() -> np.ndarray:
    """One uint16 per code point: the Word_Break class in the low five bits, then flags."""
    from uniseg.emoji import extended_pictographic
    from uniseg.wordbreak import word_break

    table = np.zeros(0x110000, dtype=np.uint16)
    for code in range(0x110000):
        char = chr(code)
        name = word_break(char).name.replace("_", "").upper()
        value = CLASSES[name]
        flags = (
            (extended_pictographic(char), PICTOGRAPHIC),
            (char.isalnum(), ALNUM),
            (char.isalpha(), ALPHA),
            (char.isupper(), UPPER),
            (char.isdigit(), DIGIT),
            (char.isdecimal(), NUMERIC_DIGIT),
            (char.isspace(), SPACE),
            (unicodedata.category(char).startswith("P"), PUNCTUATION),
        )
        for holds, flag in flags:
            if holds:
                value |= flag
        table[code] = value
    return table


def main() -> None:
    """Fold equal blocks of 128 code points together and store both stages."""
    import uniseg

    table = properties().reshape(-1, 1 << BLOCK_BITS)
    blocks, index = np.unique(table, axis=0, return_inverse=True)
    np.savez_compressed(
        OUT,
        index=index.reshape(-1).astype(np.uint16),
        blocks=blocks.reshape(-1),
        versions=np.array([unicodedata.unidata_version, str(uniseg.unidata_version)]),
    )
    sys.stdout.write(
        f"{OUT.name}: {len(blocks)} blocks, str methods of Unicode {unicodedata.unidata_version}, "
        f"Word_Break of Unicode {uniseg.unidata_version}\n"
    )


if __name__ == "__main__":
    main()
