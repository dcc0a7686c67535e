"""datatrove's own rules and tiktoken, run by bench_text.py in an environment of their own.

    python peers_text.py rules FILE       a JSON list of texts
    python peers_text.py tiktoken FILE    {"tokenizer": a tokenizer.json, "batches": [[text]]}

Prints CPU-seconds and bytes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main() -> None:
    {"rules": rules, "tiktoken": tiktoken}[sys.argv[1]](Path(sys.argv[2]))


def tiktoken(file: Path) -> None:
    """gpt-neox-20b's ranks with GPT-2's pattern."""
    import tiktoken

    given = json.loads(file.read_text())
    # The printable form of each byte in a byte-level vocabulary (Radford et al. 2019).
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    byte_of = {chr(byte): byte for byte in plain}
    byte_of |= {chr(256 + index): byte for index, byte in enumerate(others)}
    vocabulary = json.loads(given["tokenizer"])["model"]["vocab"]
    ranks = {
        bytes(byte_of[c] for c in token): rank
        for token, rank in vocabulary.items()
        if all(c in byte_of for c in token)
    }
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    encoding = tiktoken.Encoding("neox", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    encoding.encode_ordinary("loads what is loaded late")
    started = time.process_time()
    for batch in given["batches"]:
        for text in batch:
            encoding.encode_ordinary(text)
    seconds = time.process_time() - started
    size = sum(len(text.encode()) for batch in given["batches"] for text in batch)
    print(json.dumps({"seconds": seconds, "bytes": size}))


def rules(file: Path) -> None:
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    texts = json.loads(file.read_text())
    filters = [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]

    def keeps(text: str) -> bool:
        document = Document(text=text, id="0")
        return all(filter_.filter(document) is True for filter_ in filters)

    keeps(texts[0])  # loads the tokenizer
    started = time.process_time()
    kept = sum(keeps(text) for text in texts)
    seconds = time.process_time() - started
    size = sum(len(text.encode()) for text in texts)
    print(json.dumps({"seconds": seconds, "bytes": size, "kept": kept}))


if __name__ == "__main__":
    main()
