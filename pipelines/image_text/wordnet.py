"""Look up words in WordNet's index files, with its morphology. (Miller 1995)

The files are those of WordNet 3.0 (in Debian: package wordnet-base): index.noun and so on list
lemmas with the offsets of their synsets, noun.exc and so on irregular forms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

PARTS = ("noun", "verb", "adj", "adv")
INDEX_FILES = (*(f"index.{part}" for part in PARTS), *(f"{part}.exc" for part in PARTS))
SUFFIXES = {
    "noun": (
        *(("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch")),
        *(("shes", "sh"), ("men", "man"), ("ies", "y")),
    ),
    "verb": (
        *(("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", "")),
        *(("ing", "e"), ("ing", "")),
    ),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}


RULES: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    part: {end: tuple(rule for rule in rules if rule[0][-1] == end) for end in "srdgnt"}
    for part, rules in SUFFIXES.items()
}
RULES = {part: {end: some for end, some in rules.items() if some} for part, rules in RULES.items()}
"""The rules by part of speech and by the last letter of the words that they apply to."""
ENDS = frozenset(end for rules in RULES.values() for end in rules)


class WordNet:
    """Looks up the first synset of words. ValueError for files that are not WordNet's."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._first = {part: dict(_index(files[f"index.{part}"])) for part in PARTS}
        self._irregular = {part: _exceptions(files[f"{part}.exc"]) for part in PARTS}
        self._names = {part: self._first[part].keys() | self._irregular[part] for part in PARTS}
        self._whole = frozenset().union(*self._names.values())
        letters = "".join(sorted(set().union(*self._whole)))
        self._spelt = re.compile(f"[{re.escape(letters)}]+").fullmatch

    def first_synset(self, word: str) -> int | None:
        """The offset of the first synset of a word's base forms; None for an unknown word.

        Parts of speech are tried in the order of `PARTS`.
        """
        word = word.lower()
        if word not in self._whole and (word[-1:] not in ENDS or not self._spelt(word)):
            return None  # a shortcut for most words of the web: no rule can turn it into a lemma
        for part in PARTS:
            if word[-1:] not in RULES[part] and word not in self._names[part]:
                continue
            for form in self._base_forms(word, part):
                return self._first[part][form]
        return None

    def _base_forms(self, word: str, part: str) -> list[str]:
        known = self._first[part]
        irregular = self._irregular[part].get(word)
        if irregular is not None:
            return [form for form in (word, *irregular) if form in known]
        forms = _shortened([word], part)
        base_forms = [form for form in (word, *forms) if form in known]
        while not base_forms and forms:
            forms = _shortened(forms, part)
            base_forms = [form for form in forms if form in known]
        return base_forms


def _shortened(forms: Iterable[str], part: str) -> list[str]:
    """The forms after one rule of a part of speech each, in the order of the rules."""
    rules = RULES[part]
    return [
        form[: -len(old)] + new
        for form in forms
        for old, new in rules.get(form[-1:], ())
        if form.endswith(old)
    ]


def _index(path: Path) -> Iterable[tuple[str, int]]:
    """Lemmas and the offset of the first synset of each. ValueError for a malformed line."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith(" ") or not line:
            continue  # the licence
        fields = line.split()
        try:
            pointers = int(fields[3])
            yield fields[0], int(fields[6 + pointers])
        except (IndexError, ValueError):
            raise ValueError(f"{path}, line {number}: not a line of a WordNet index") from None


def _exceptions(path: Path) -> dict[str, tuple[str, ...]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {fields[0]: tuple(fields[1:]) for fields in map(str.split, lines) if len(fields) > 1}


def read_synsets(path: Path) -> frozenset[int]:
    """Offsets of a list of wnids (n01440764), one per line. ValueError names a wrong line."""
    synsets = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").split(), start=1):
        if len(line) < 2 or not line[1:].isdigit():
            raise ValueError(f"{path}, line {number}: {line!r} is not a wnid like n01440764")
        synsets.add(int(line[1:]))
    if not synsets:
        raise ValueError(f"{path} is empty: no word would be kept")
    return frozenset(synsets)
