"""Task data for small models, made from held-out documents: text that nobody may train on.

Knowledge tasks show nothing about a model of a few million parameters; how well it predicts text
does. From a `jsonl.gz` file of documents {"id", "source", "text", "licence"} come three files:

- `heldout/documents.jsonl`: beginnings of documents, for bits per byte.
- `heldout/next_sentence.jsonl`: which of four sentences follows; the other three are sentences of
  other documents, of similar length.
- `heldout/ending.jsonl`: how a sentence ends; the other three are second halves of other documents'
  sentences, of similar length.

Everything is drawn from one seed and from the ids of the documents; `built.json` lists what the
files were made from and their checksums.
"""

from __future__ import annotations

import gzip
import hashlib
import random
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from pipelines.errors import DataError
from pipelines.records import JSON

# Sized so that a model of a million parameters needs a few seconds on one core.
NUM_DOCUMENTS = 300
NUM_QUESTIONS = {"next_sentence": 300, "ending": 400}
DOCUMENT_BYTES = 800  # of a beginning: bounds the time of the tiny suite
CONTEXT_CHARS = 200  # before the sentence that is asked for
NUM_OPTIONS = 4  # guessing is right in a quarter

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[A-Z])")


@dataclass(frozen=True)
class Sentence:
    """A sentence and its position."""

    document: str
    before: str
    text: str


def build_tiny_tasks(heldout: Path, out: Path, *, seed: int) -> None:
    """Write the data files of the `tiny` suite below `out`. Same input and seed, same bytes.

    DataError for a row that is malformed, and when the documents hold too few sentences.
    """
    documents = sorted(_read(heldout), key=lambda row: row["id"])
    files = {
        "heldout/documents.jsonl": _documents(documents, seed),
        **_questions(documents, seed),
    }
    checksums = {}
    for name, rows in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
        path.write_bytes(data)
        checksums[name] = hashlib.sha256(data).hexdigest()
    built = {
        "made_from": hashlib.sha256(heldout.read_bytes()).hexdigest(),
        "seed": seed,
        "files": checksums,
    }
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    (out / "built.json").write_bytes(orjson.dumps(built, option=options))


def _read(path: Path) -> Iterator[dict[str, str]]:
    if not path.is_file():
        raise DataError(f"there is no file {path}; build the pool first, it writes held-out text")
    seen = set()
    try:
        with gzip.open(path, "rb") as lines:
            for number, line in enumerate(lines):
                row = orjson.loads(line)
                for name in ("id", "text", "licence"):
                    if not isinstance(row.get(name), str) or not row[name]:
                        raise DataError(f"{path}, row {number}: field {name!r} should be a text")
                if row["id"] in seen:
                    raise DataError(f"{path}, row {number}: the id {row['id']!r} appears twice")
                seen.add(row["id"])
                yield row
    except (OSError, EOFError, zlib.error, orjson.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); build the pool again") from None


def _documents(documents: Sequence[dict[str, str]], seed: int) -> list[JSON]:
    """Beginnings of documents, at most DOCUMENT_BYTES bytes, cut after a word."""
    chosen = _shuffled(documents, f"{seed} documents")[:NUM_DOCUMENTS]
    rows = []
    for row in chosen:
        text = row["text"].strip()
        if len(text.encode()) > DOCUMENT_BYTES:
            text = text.encode()[:DOCUMENT_BYTES].decode(errors="ignore")
            text = text[: max(text.rfind(" "), text.rfind("\n"), 1)].rstrip()
        rows.append({"text": text, "id": row["id"], "licence": row["licence"]})
    return [row for row in rows if row["text"]]


def _questions(documents: Sequence[dict[str, str]], seed: int) -> dict[str, list[JSON]]:
    sentences = [s for row in documents for s in _sentences(row["id"], row["text"])]
    files: dict[str, list[JSON]] = {}
    for name, build in (("next_sentence", _next_sentence), ("ending", _ending)):
        rng = random.Random(f"{seed} {name}")
        rows = list(build(sentences, rng))
        if len(rows) < NUM_OPTIONS:
            raise DataError(
                f"the held-out documents give only {len(rows)} questions for {name}; give more text"
            )
        files[f"heldout/{name}.jsonl"] = rows[: NUM_QUESTIONS[name]]
    return files


def _shuffled(documents: Sequence[dict[str, str]], salt: str) -> list[dict[str, str]]:
    def sort_key(row: dict[str, str]) -> bytes:
        return hashlib.sha256(f"{salt} {row['id']}".encode()).digest()

    return sorted(documents, key=sort_key)


def _sentences(document: str, text: str) -> Iterator[Sentence]:
    """Plain sentences of paragraphs, each with some of what is before it."""
    for paragraph in re.split(r"\n\s*\n", text):
        flat = " ".join(paragraph.split())
        start = 0
        for match in [*_SENTENCE_END.finditer(flat), None]:
            stop = match.start() if match else len(flat)
            sentence = flat[start:stop].strip()
            if _is_plain(sentence):
                yield Sentence(document, _tail(flat[:start].strip(), CONTEXT_CHARS), sentence)
            start = match.end() if match else stop


def _is_plain(sentence: str) -> bool:
    letters = sum(letter.isalpha() or letter == " " for letter in sentence)
    return (
        40 <= len(sentence) <= 160
        and sentence[0].isupper()
        and sentence[-1] in ".!?"
        and letters >= 0.85 * len(sentence)
    )


def _tail(text: str, num_chars: int) -> str:
    """The end of a text, from a word's beginning on."""
    if len(text) <= num_chars:
        return text
    tail = text[-num_chars:]
    return tail[tail.find(" ") + 1 :]


def _next_sentence(sentences: Sequence[Sentence], rng: random.Random) -> Iterator[JSON]:
    """The sentence that follows, among three of other documents with a similar length."""
    asked = [sentence for sentence in sentences if len(sentence.before) >= 60]
    rng.shuffle(asked)
    for sentence in asked:
        others = _others(sentence, sentence.text, sentences, lambda s: s.text, rng)
        if others is not None:
            yield _choice(sentence.before, sentence.text, others, rng)


def _ending(sentences: Sequence[Sentence], rng: random.Random) -> Iterator[JSON]:
    """The second half of a sentence, among second halves of other documents' sentences."""
    halves = {sentence: _halves(sentence.text) for sentence in sentences}
    asked = list(dict.fromkeys(sentences))
    rng.shuffle(asked)
    for sentence in asked:
        first, second = halves[sentence]
        others = _others(sentence, second, sentences, lambda s: halves[s][1], rng)
        if others is not None:
            yield _choice(first, second, others, rng)


def _halves(text: str) -> tuple[str, str]:
    words = text.split(" ")
    middle = (len(words) + 1) // 2
    return " ".join(words[:middle]), " ".join(words[middle:])


def _others(
    sentence: Sentence,
    right: str,
    sentences: Sequence[Sentence],
    part: Callable[[Sentence], str],
    rng: random.Random,
) -> list[str] | None:
    """Three distinct texts of other documents, within a fifth of the length of the right one."""
    others: list[str] = []
    for _ in range(200):
        other = sentences[rng.randrange(len(sentences))]
        text = part(other)
        is_near = abs(len(text) - len(right)) <= 0.2 * len(right)
        if other.document != sentence.document and is_near and text not in (right, *others):
            others.append(text)
            if len(others) == NUM_OPTIONS - 1:
                return others
    return None


def _choice(query: str, right: str, others: Sequence[str], rng: random.Random) -> JSON:
    gold = rng.randrange(NUM_OPTIONS)
    choices = list(others)
    choices.insert(gold, right)
    return {"query": query, "choices": choices, "gold": gold}
