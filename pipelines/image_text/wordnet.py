"""WordNet's index of words, read from its own files, with its morphology. (Miller 1995)

The files are those of WordNet 3.0 (Debian's package wordnet-base has them): index.noun and so on
hold lemmas with the offsets of their synsets, noun.exc and so on irregular forms.
"""

from __future__ import annotations

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


class WordNet:
    """Offsets of the first synsets of words."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._first = {part: dict(_index(files[f"index.{part}"])) for part in PARTS}
        self._irregular = {part: _exceptions(files[f"{part}.exc"]) for part in PARTS}

    def first_synset(self, word: str) -> int | None:
        """The offset of the first synset of a word's base forms, nouns before verbs before others.

        None for a word that WordNet does not know.
        """
        word = word.lower()
        for part in PARTS:
            for form in self._base_forms(word, part):
                return self._first[part][form]
        return None

    def _base_forms(self, word: str, part: str) -> list[str]:
        known = self._first[part]

        def shortened(forms: Iterable[str]) -> list[str]:
            return [
                form[: -len(old)] + new
                for form in forms
                for old, new in SUFFIXES[part]
                if form.endswith(old)
            ]

        irregular = self._irregular[part].get(word)
        if irregular is not None:
            return [form for form in (word, *irregular) if form in known]
        forms = shortened([word])
        found = [form for form in (word, *forms) if form in known]
        while not found and forms:
            forms = shortened(forms)
            found = [form for form in forms if form in known]
        return found


def _index(path: Path) -> Iterable[tuple[str, int]]:
    """Lemma and the offset of its first synset. ValueError for a file of another kind."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith(" ") or not line:
            continue  # the licence
        fields = line.split()
        try:
            pointers = int(fields[3])
            yield fields[0], int(fields[6 + pointers])
        except (IndexError, ValueError):
            raise ValueError(f"{path}, line {number}: no line of a WordNet index") from None


def _exceptions(path: Path) -> dict[str, tuple[str, ...]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {fields[0]: tuple(fields[1:]) for fields in map(str.split, lines) if len(fields) > 1}


def read_synsets(path: Path) -> frozenset[int]:
    """Offsets of a list of wnids (n01440764), one a line. ValueError names a wrong line."""
    found = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").split(), start=1):
        if len(line) < 2 or not line[1:].isdigit():
            raise ValueError(f"{path}, line {number}: {line!r} is no wnid, as n01440764")
        found.add(int(line[1:]))
    if not found:
        raise ValueError(f"{path} is empty: no word would be kept")
    return frozenset(found)
