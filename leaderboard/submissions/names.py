"""Refuse names of teams and methods that imitate others or hide characters.

A name is text in Unicode normal form C that equals its compatibility form, without invisible
characters or ones that change the direction of writing. Two names that a reader cannot tell apart
(letters of other alphabets, case, blanks) count as one name: `skeleton` maps both to one string, as
Unicode's UTS 39 does, over the letters that occur in names here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

MAX = {"method": 120, "team": 120}

# Letters of other alphabets (Cyrillic, Greek, Armenian, Latin extensions) that look like a Latin
# one, written by their numbers because nobody could read them apart here. After UTS 39.
LOOKALIKES = {
    "a": "\u0430\u03b1\u0251",
    "b": "\u042c\u0412\u0392",
    "c": "\u0441\u03f2\u0421\u2282",
    "d": "\u0501",
    "e": "\u0435\u0415\u0395\u0454\u212e",
    "g": "\u0261\u050c",
    "h": "\u04bb\u041d\u0397\u0570",
    "i": "\u0456\u0399\u03b9\u0131\u0269\u0406",
    "j": "\u0458\u0408",
    "k": "\u041a\u043a\u039a\u03ba",
    "l": "\u04cf\u2113\u029f\u01c0\u2223\u2758\u2502\u2503\u00a6",
    "m": "\u041c\u043c\u039c",
    "n": "\u039d\u03b7\u0578\u0418\u2229",
    "o": "\u043e\u041e\u039f\u03bf\u03c3\u0585"
    "\u25cb\u25ef\u25e6\u2218\u26aa\u26ab\u25cf\u2b55\u3007\u00b0",
    "p": "\u0440\u0420\u03a1\u03c1",
    "q": "\u051b\u0566",
    "r": "\u0433\u1d26",
    "s": "\u0455\u0405",
    "t": "\u0422\u0442\u03a4\u03c4\u22a4\u271d",
    "u": "\u03c5\u057d\u0446\u222a",
    "v": "\u03bd\u0475\u2228",
    "w": "\u051d\u03c9\u051c\u0461",
    "x": "\u0445\u0425\u03a7\u03c7\u00d7\u2715\u2716\u2a2f",
    "y": "\u0443\u0423\u03a5\u03b3\u04af",
    "z": "\u0396\u1d22",
}
PAIRS = {"rn": "m", "vv": "w", "cl": "d"}
"""Two letters that look like one in most typefaces (UTS 39)."""
# fmt: off
SCRIPTS = frozenset(
    (
        "LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "HEBREW", "ARABIC", "THAANA",
        "DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "ORIYA", "TAMIL", "TELUGU",
        "KANNADA", "MALAYALAM", "SINHALA", "THAI", "LAO", "TIBETAN", "MYANMAR", "GEORGIAN",
        "HANGUL", "ETHIOPIC", "KHMER", "HIRAGANA", "KATAKANA", "BOPOMOFO", "CJK",
        "IDEOGRAPHIC", "KATAKANA-HIRAGANA", "MODIFIER",
    )
)
# fmt: on
"""Alphabets in common use (Unicode's UAX 31, table 5), as names of letters begin. In others (Lisu,
Cherokee, Deseret, ...) whole words can be written that look Latin."""
# fmt: off
WITH_LATIN = frozenset(
    (
        "LATIN", "GREEK", "HANGUL", "HIRAGANA", "KATAKANA", "BOPOMOFO", "CJK",
        "IDEOGRAPHIC", "KATAKANA-HIRAGANA", "MODIFIER",
    )
)
# fmt: on
"""Alphabets that occur with Latin letters in one word (UTS 39, "highly restrictive"), and Greek,
whose letters are in formulas."""
LATIN = re.compile(
    r"(?:(?:NEGATIVE )?(?:CIRCLED|SQUARED|PARENTHESIZED) )?"
    r"LATIN (?:SMALL LETTER|CAPITAL LETTER|LETTER SMALL CAPITAL) ([A-Z])(?: WITH .*)?"
    r"|REGIONAL INDICATOR SYMBOL LETTER ([A-Z])"
)
JOINS = re.compile("MINUS|HYPHEN|TILDE|HORIZONTAL|TATWEEL|PROLONGED SOUND|MACRON|DASH|LOW LINE")
MEANINGFUL = "&#%@"  # punctuation that distinguishes two names
INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
    + "".join(map(chr, (*range(0x180B, 0x180E), *range(0xFE00, 0xFE0F))))
)
"""Letters and marks without ink: fillers, joiners, variants of the letter before. U+FE0F, which
makes an emoji coloured, is looked at where it is."""
OVERLAY = 1
"""Unicode's combining class of marks drawn across a letter: no language writes names with them."""
CONFUSABLE = {letter: latin for latin, letters in LOOKALIKES.items() for letter in letters}
DIGITS = str.maketrans({"0": "o", "1": "l", "|": "l", "i": "l", "5": "s"})


def name_fault(name: str) -> str | None:
    """What is wrong with a name, as `expected ...`; None when it is plain."""
    if name != name.strip() or "  " in name:
        return "no blanks at its ends or two in a row"
    for before, letter in zip(f" {name}", name, strict=False):
        kind = unicodedata.category(letter)
        if kind in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
            return f"a text without control characters (it has U+{ord(letter):04X})"
        if kind == "Zs" and letter != " ":
            return f"plain blanks (it has U+{ord(letter):04X})"
        if unicodedata.combining(letter) == OVERLAY:
            return f"letters without lines through them (it has U+{ord(letter):04X})"
        coloured = letter == "\ufe0f" and unicodedata.category(before) in ("So", "Sm")
        if letter in INVISIBLE or (letter == "\ufe0f" and not coloured):
            return f"letters that are seen (it has U+{ord(letter):04X})"
    if unicodedata.normalize("NFKC", name) != unicodedata.normalize("NFC", name):
        return "plain letters (it has forms such as letters of mathematics or of full width)"
    rare = [c for c in name if unicodedata.category(c)[0] == "L" and _script(c) not in SCRIPTS]
    if rare:
        return f"letters of an alphabet in common use (it has U+{ord(rare[0]):04X})"
    if sum(unicodedata.category(letter) in ("Mn", "Me") for letter in name) > len(name) // 2:
        return "fewer combining marks than letters"
    return None


def mixed_alphabets(name: str) -> str | None:
    """What is wrong with a word of Latin letters and ones of the same shapes; None: nothing."""
    for word in re.findall(r"[^\W\d_]+", name):
        scripts = {_script(letter) for letter in word}
        if "LATIN" in scripts and scripts - WITH_LATIN:
            return f"one alphabet in a word (it has {word!r} in {' and '.join(sorted(scripts))})"
    return None


def skeleton(name: str) -> str:
    """One string for all names that look alike."""
    plain = unicodedata.normalize("NFKD", name)
    letters = [
        letter for letter in plain if unicodedata.category(letter) not in ("Mn", "Me", "Cf", "Cc")
    ]
    letters = [_digit(letter) for letter in letters]
    for _ in range(2):  # capitals that look Latin, then the small letters of the others
        letters = [CONFUSABLE.get(letter, _latin(letter)).casefold() for letter in letters]
    joined = "".join("".join(letters).translate(DIGITS).split())
    joined = "".join(letter for letter in joined if not _joins(letter))
    for pair, letter in PAIRS.items():
        joined = joined.replace(pair, letter)
    return joined


def _script(letter: str) -> str:
    """The alphabet of a letter, as its Unicode name begins."""
    return unicodedata.name(letter, "?").partition(" ")[0]


def _digit(letter: str) -> str:
    """A digit of any alphabet as the plain one: a nought is a circle in most of them."""
    return str(unicodedata.decimal(letter)) if unicodedata.category(letter) == "Nd" else letter


def _latin(letter: str) -> str:
    """The plain letter of a Latin one with a stroke, a hook, in a circle, or as a small capital."""
    match = None if letter.isascii() else LATIN.fullmatch(unicodedata.name(letter, ""))
    return (match[1] or match[2]).lower() if match else letter


def _joins(letter: str) -> bool:
    """Whether a mark only joins or surrounds words: dashes, underscores, dots, brackets, quotes."""
    kind = unicodedata.category(letter)
    if kind[0] == "P" or kind == "Sk":
        return letter not in MEANINGFUL
    return kind in ("Sm", "So", "Lm") and bool(JOINS.search(unicodedata.name(letter, "")))


def looks_like(name: str, others: Iterator[str]) -> str | None:
    """The first of other names that looks like this one but is another; None when none does."""
    own = skeleton(name)
    return next((other for other in others if other != name and skeleton(other) == own), None)
