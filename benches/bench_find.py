"""How long `pipelines find` takes in 1 GB of text, on passages chosen to be hard to find.

    python benches/bench_find.py [--pages FILE] [--megabytes 1000] [--folder DIR] [--workers 1]

Half of the text is real pages in many copies that differ in every 50th word. A quarter is made of
360 words as frequent as Zipf's law says, so that any passage of common words resembles thousands. A
quarter is made of 40 sentences again and again, each time with one other word: what holds all of a
passage but one word. In each of the three a third of the 100 passages of 15 words are planted, once
each; those in the sentences are such a sentence with a change that nothing else has. A search is
one call of `find` in this process, with the files of the index in the system's cache; the command
starts Python as well. Writes build/bench/find.json; ends with 1 when a floor is missed.
"""

from __future__ import annotations

import argparse
import gzip
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from rows import Rows

from pipelines.execution.executors import ProcessMap, map_here
from pipelines.reports.find_text import build, find

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data" / "web" / "extracted_text.jsonl.gz"
PLANTED, PASSAGE_WORDS = 100, 15
SHARD_BYTES = 64_000_000
EDITED = 50  # words to an edit of a copied page
VOCABULARY = 360
SENTENCES = 40
DOCUMENT_WORDS = 400  # of the made-up documents
MOST_SECONDS = 0.2  # for one search in 1 GB


@dataclass(frozen=True)
class Search:
    """One passage, where it was planted, and what looking for it took."""

    kind: str
    right: bool  # the one document that has it was found, and no other
    cpu_seconds: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pages", type=Path, default=SHARED)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="kept, with text and index; again: searches")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="bench-find-"))
    pool, index = folder / "pool", folder / "index"
    rows = Rows("find", threads=arguments.workers)
    kept = folder / "planted.json"
    if kept.exists():
        planted, written = orjson.loads(kept.read_bytes())
    else:
        planted, written = corpus(pool, arguments.pages, arguments.megabytes * 1_000_000)
        before = cpu_seconds()
        map_tasks = ProcessMap(arguments.workers) if arguments.workers > 1 else map_here
        build(str(pool), out=str(index), map_tasks=map_tasks)
        kept.write_bytes(orjson.dumps([planted, written]))
        rows.add("index", round(written / 1e6 / (cpu_seconds() - before), 1), "MB/CPU-s")
    size = sum(file.stat().st_size for file in index.rglob("*") if file.is_file())
    rows.add("index by the text", round(size / written, 2), "bytes/byte", less=True)
    find(planted[0][1], str(index))  # compiles what is compiled
    searches = [search(kind, passage, number, str(index)) for kind, passage, number in planted]
    report(rows, searches, written)
    command = [sys.executable, "-m", "pipelines", "find", planted[0][1], str(index)]
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    whole = round(1000 * (time.perf_counter() - begin))
    rows.add("the whole command, by the clock", whole, "ms", less=True)
    if arguments.folder is None:
        shutil.rmtree(folder)
    rows.close(partial=arguments.folder is not None)


def report(rows: Rows, searches: list[Search], written: int) -> None:
    num_right = sum(searched.right for searched in searches)
    text = f"in {written / 1e9:.2f} GB"
    rows.add(
        f"planted passages found {text}", num_right, f"of {len(searches)}", floor=len(searches)
    )
    for kind in sorted({searched.kind for searched in searches}):
        chosen = [searched for searched in searches if searched.kind == kind]
        cpu = [1000 * searched.cpu_seconds for searched in chosen]
        wall = [1000 * searched.seconds for searched in chosen]
        rows.add(f"search, {kind}: median", statistics.median(cpu), "CPU-ms", less=True)
        rows.add(
            f"search, {kind}: slowest",
            max(cpu),
            "CPU-ms",
            less=True,
            floor=1000 * MOST_SECONDS,
            reason=f"by the clock {statistics.median(wall):.1f} in the median, {max(wall):.0f} ms "
            "at most",
        )


def search(kind: str, passage: str, number: int, index: str) -> Search:
    begin, cpu = time.perf_counter(), time.process_time()
    matches = find(passage, index)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return Search(kind, [match.url for match in matches] == [f"planted:{number}"], cpu, seconds)


def cpu_seconds() -> float:
    """Of this process and those it started and waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


# ---- the text


def corpus(pool: Path, pages: Path, size: int) -> tuple[list[tuple[str, str, int]], int]:
    """Kind, passage and number of all that is planted, and the bytes of the pool's text."""
    rng = np.random.default_rng(20)
    with gzip.open(pages) as file:
        texts = [orjson.loads(line)["text"].split(" ") for line in file]
    vocabulary = np.array(sorted({word for text in texts[::20] for word in text if word.isalpha()}))
    sentences = [rng.choice(vocabulary, PASSAGE_WORDS + 5).tolist() for _ in range(SENTENCES)]
    parts: list[tuple[str, float, Callable[[], Iterator[list[str]]], Callable[[int], list[str]]]]
    parts = [
        (
            "copies of real pages",
            0.5,
            lambda: copied(texts, vocabulary, rng),
            lambda _: rng.choice(vocabulary, PASSAGE_WORDS).tolist(),
        ),
        (
            "360 words by Zipf's law",
            0.25,
            lambda: common(rng),
            lambda _: zipf(rng, PASSAGE_WORDS),
        ),
        (
            "one sentence again and again",
            0.25,
            lambda: repeated(sentences, vocabulary, rng),
            lambda n: changed(sentences[n % SENTENCES], n, PASSAGE_WORDS),
        ),
    ]
    planted: list[tuple[str, str, int]] = []
    written = 0
    for n, (kind, share, documents, passage) in enumerate(parts):
        passages = [passage(i) for i in range(share_of(n, len(parts)))]
        numbers = range(len(planted), len(planted) + len(passages))
        planted += [(kind, " ".join(words), i) for words, i in zip(passages, numbers, strict=True)]
        hidden = dict(zip(numbers, passages, strict=True))
        written += write(pool, n, documents(), hidden, int(size * share), rng)
    return planted, written


def share_of(part: int, parts: int) -> int:
    """How many of the passages one part of the text gets."""
    return PLANTED * (part + 1) // parts - PLANTED * part // parts


def write(
    pool: Path,
    part: int,
    documents: Iterator[list[str]],
    hidden: dict[int, list[str]],
    size: int,
    rng: np.random.Generator,
) -> int:
    """Shards of JSON lines until they have `size` bytes of text, the passages spread over all."""
    pool.mkdir(parents=True, exist_ok=True)
    waiting = sorted(hidden)
    every = size // (len(waiting) + 1)
    written, shard, in_shard = 0, 0, 0
    file = (pool / f"{part}-{shard:03d}.jsonl").open("wb")
    for words in documents:
        if written >= size:
            break
        url = None
        if waiting and written >= every * (len(hidden) - len(waiting) + 1) - every // 2:
            number = waiting.pop(0)
            at = int(rng.integers(0, len(words) + 1))
            words = [*words[:at], *hidden[number], *words[at:]]
            url = f"planted:{number}"
        text = " ".join(words)
        written += len(text.encode())
        in_shard += file.write(orjson.dumps({"text": text, "url": url}) + b"\n")
        if in_shard >= SHARD_BYTES:
            file.close()
            shard, in_shard = shard + 1, 0
            file = (pool / f"{part}-{shard:03d}.jsonl").open("wb")
    file.close()
    assert not waiting, "the text is too short for the passages"
    return written


def copied(
    texts: list[list[str]], vocabulary: np.ndarray, rng: np.random.Generator
) -> Iterator[list[str]]:
    """Pages in turn, without end, every 50th word or so another one."""
    while True:
        for text in texts:
            words = text.copy()
            places = rng.integers(0, len(words), len(words) // EDITED + 1).tolist()
            others = rng.choice(vocabulary, len(places)).tolist()
            for at, word in zip(places, others, strict=True):
                words[at] = word
            yield words


def zipf(rng: np.random.Generator, count: int) -> list[str]:
    weights = 1 / np.arange(1, VOCABULARY + 1)
    chosen = rng.choice(VOCABULARY, count, p=weights / weights.sum())
    return [f"w{n}" for n in chosen.tolist()]


def common(rng: np.random.Generator) -> Iterator[list[str]]:
    while True:
        words = zipf(rng, 100 * DOCUMENT_WORDS)
        for at in range(0, len(words), DOCUMENT_WORDS):
            yield words[at : at + DOCUMENT_WORDS]


def repeated(
    sentences: list[list[str]], vocabulary: np.ndarray, rng: np.random.Generator
) -> Iterator[list[str]]:
    """Documents of the sentences in any order, each with another word at one place."""
    length = len(sentences[0])
    while True:
        words: list[str] = []
        for number in rng.integers(0, len(sentences), DOCUMENT_WORDS // length).tolist():
            sentence = sentences[number].copy()
            sentence[int(rng.integers(0, length))] = str(rng.choice(vocabulary))
            words += sentence
        yield words


def changed(sentence: list[str], number: int, length: int) -> list[str]:
    """The first words of a sentence with one that nothing else has: at the end, or inside."""
    words = sentence[:length]
    words[-1 - (number // SENTENCES + number) % length] = f"only{number}"
    return words


if __name__ == "__main__":
    main()
