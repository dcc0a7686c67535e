"""Train the tiny scale's tokenizer: a byte-level BPE of 2,047 ids over the tiny pool's English.

    python -m dclm.packing.tiny_tokenizer --workspace build/demo --out dclm/assets/tiny-bpe.json

Run once for a version of the pool; the file is part of the package and the recipe names its
sha256, so that a round does not depend on this training. The same pool gives the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from dclm.packing import tokenizer
from dclm.pool import pool as pools
from pipelines.batch import Batch
from pipelines.execution.executors import map_here
from pipelines.formats.pool import Pool
from pipelines.operators import choose
from pipelines.records import sha256_bytes
from pipelines.storage.open import open_store
from pipelines.text.language import Language, LanguageId

VOCAB_SIZE = 2047  # one id less than the model's embedding has rows: the last one is the pad


def english(pool: Pool, language: LanguageId) -> Iterator[str]:
    """The documents of the pool that count as English for the `language` rule, in pool order."""
    store = open_store(pool.uri)
    rule = Language()
    for shard in pool.shards:
        with store.open(shard.name) as file:
            batch = Batch(pq.read_table(file, columns=["text"]))
        reasons = choose(rule.cases(batch.write(dict(language.modify(batch)))))
        for text, reason in zip(batch.text.to_pylist(), reasons.to_pylist(), strict=True):
            if reason is None:
                yield text


def train(workspace: str) -> bytes:
    """The tokenizer.json for the tiny pool of a workspace."""
    pool = pools.open_scale("tiny", workspace=workspace, map_tasks=map_here)
    language = LanguageId()
    language.load(pools.assets("tiny", workspace=workspace))
    return tokenizer.train(english(pool, language), VOCAB_SIZE)


def main() -> None:
    """Train and write the file; print the sha256 that the recipe has to name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    data = train(arguments.workspace)
    arguments.out.write_bytes(data)
    sys.stdout.write(f"{arguments.out}: sha256 {sha256_bytes(data)}\n")


if __name__ == "__main__":
    main()
