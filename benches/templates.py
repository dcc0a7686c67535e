"""Pages of templates, most of them no copies of each other, with some copies planted.

Pages of one template share most of their words in blocks, as product pages and legal notices do:
their similarity of 5-grams is about .6, which MinHash often finds and links from page to page into
one group. A part of the pages is there twice, with a word or two changed (similarity above .9).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

NGRAM = 5
COPIES = 0.15  # of the pages


@dataclass(frozen=True)
class Pages:
    """Texts, and for each the number of the page that it is a copy of, itself if of none."""

    texts: list[str]
    copy_of: list[int]


def pages(number: int, *, per_template: int = 50, words: int = 500, seed: int = 0) -> Pages:
    """About `number` pages in the order of a shuffle."""
    rng = np.random.default_rng(seed)
    vocabulary = np.array([f"w{n}" for n in range(50_000)])
    texts: list[list[str]] = []
    copy_of: list[int] = []
    while len(texts) < number:
        template = rng.choice(vocabulary, words)
        for _ in range(per_template):
            page = template.copy()
            for begin in rng.integers(0, words - 35, 3):
                page[begin : begin + 35] = rng.choice(vocabulary, 35)
            copy_of.append(len(texts))
            texts.append(page.tolist())
            if rng.random() < COPIES:
                copy = page.copy()
                copy[rng.integers(0, words, rng.integers(1, 3))] = rng.choice(vocabulary)
                copy_of.append(copy_of[-1])
                texts.append(copy.tolist())
    order = rng.permutation(len(texts))
    position = np.argsort(order)
    return Pages(
        [" ".join(texts[n]) for n in order.tolist()], [int(position[copy_of[n]]) for n in order]
    )


def similarity(left: str, right: str) -> float:
    """The Jaccard similarity of the 5-grams of words."""
    first, other = (
        {tuple(words[n : n + NGRAM]) for n in range(len(words) - NGRAM + 1)}
        for words in (left.split(), right.split())
    )
    return len(first & other) / len(first | other)


def write(folder: Path, texts: list[str], *, shards: int) -> None:
    """JSON lines in so many files of neighbouring pages."""
    folder.mkdir(parents=True)
    for number, part in enumerate(np.array_split(np.arange(len(texts)), shards)):
        lines = [orjson.dumps({"text": texts[n], "url": f"https://a.b/{n}"}) for n in part.tolist()]
        (folder / f"{number:03d}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
