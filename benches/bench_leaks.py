"""How many planted leaks of real questions are found in real pages, by how they were changed.

    python benches/bench_leaks.py [--data DIR] [--leaks 3000]

Questions of HellaSwag and MMLU with their right answers; each leak is put into 200 words of a page
of another kind. `--data` is a folder with `eval/hellaswag_val_full.txt.bz2`,
`eval/mmlu_dev_test.tar.xz` and `web/extracted_text.jsonl.gz`. Floors are of the first, second,
third and fourth row of the table in docs/evaluation.md. Writes build/bench/leaks.json.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import gzip
import io
import random
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pyarrow as pa

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benches.rows import Rows  # noqa: E402
from pipelines.schema import STRING  # noqa: E402
from pipelines.text.similar_items import MIN_SCORE, SimilarItems  # noqa: E402

SHARED = ROOT.parent / "shared" / "data"
PAGE_WORDS = 200
CAPITALS = 0.3  # of the words
Change = Callable[[str, random.Random, list[str]], str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--leaks", type=int, default=3000)
    arguments = parser.parse_args()
    questions = [*hellaswag(arguments.data / "eval"), *mmlu(arguments.data / "eval")]
    with gzip.open(arguments.data / "web" / "extracted_text.jsonl.gz") as file:
        pages = [orjson.loads(line)["text"] for line in file]
    vocabulary = [word for page in pages[::20] for word in page.split()]
    table = pa.table({"task": ["t"] * len(questions), "text": pa.array(questions, STRING)})
    similar = SimilarItems(table)
    long_enough = [n for n, short in enumerate(similar.too_short.tolist()) if not short]
    chance = random.Random(5)
    planted = chance.sample(long_enough, min(arguments.leaks, len(long_enough)))
    rows = Rows("leaks")
    for name, floor, change in CHANGES:
        documents = []
        for item in planted:
            words = chance.choice(pages).split()[:PAGE_WORDS]
            leak = change(questions[item], chance, vocabulary)
            words.insert(chance.randrange(len(words) + 1), leak)
            documents.append(" ".join(words))
        matches = similar.matches(pa.array(documents, STRING)).at_least(MIN_SCORE)
        pairs = set(zip(matches.row.tolist(), matches.item.tolist(), strict=True))
        share = sum((row, item) in pairs for row, item in enumerate(planted)) / len(planted)
        rows.add(name, round(share, 3), f"of {len(planted):,} leaks found", floor=floor)
    rows.close()


def hellaswag(folder: Path) -> Iterator[str]:
    """Six lines a question: the beginning, the number of the right end, four ends."""
    with bz2.open(folder / "hellaswag_val_full.txt.bz2", "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    for row in range(0, len(lines) - 5, 6):
        yield f"{lines[row]} {lines[row + 2 + int(lines[row + 1])]}"


def mmlu(folder: Path) -> Iterator[str]:
    with tarfile.open(folder / "mmlu_dev_test.tar.xz") as archive:
        for member in archive:
            if not member.name.endswith("_test.csv"):
                continue
            file = archive.extractfile(member)
            assert file is not None
            for row in csv.DictReader(io.TextIOWrapper(file, encoding="utf-8")):
                yield f"{row['question']} {row['choice' + row['answer']]}"


def as_it_is(text: str, chance: random.Random, vocabulary: list[str]) -> str:
    return text


def capitals(text: str, chance: random.Random, vocabulary: list[str]) -> str:
    """Other capitals, and other signs behind words."""
    words = []
    for word in text.split():
        word = word.upper() if chance.random() < CAPITALS else word
        words.append(word.rstrip(".,;") + chance.choice(["", "", ",", ";"]))
    return " ".join(words)


def first_part(text: str, chance: random.Random, vocabulary: list[str]) -> str:
    words = text.split()
    return " ".join(words[: max(8, round(0.6 * len(words)))])


def with_other_words(every: int) -> Change:
    def change(text: str, chance: random.Random, vocabulary: list[str]) -> str:
        words = text.split()
        for at in chance.sample(range(len(words)), max(1, round(len(words) / every))):
            words[at] = chance.choice(vocabulary)
        return " ".join(words)

    return change


def both(text: str, chance: random.Random, vocabulary: list[str]) -> str:
    return capitals(with_other_words(10)(text, chance, vocabulary), chance, vocabulary)


CHANGES: tuple[tuple[str, float | None, Change], ...] = (
    ("as it is", 0.98, as_it_is),
    ("other capitals and punctuation", 0.98, capitals),
    ("the first 60% of the words", 0.9, first_part),
    ("every tenth word another one, at least one", 0.9, with_other_words(10)),
    ("that, with other capitals and punctuation", 0.9, both),
    ("every seventh word another one", None, with_other_words(7)),
)


if __name__ == "__main__":
    main()
