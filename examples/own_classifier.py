"""Train a quality classifier from texts of your own, and keep the best half of a pool by it.

    python examples/own_classifier.py POSITIVES.txt NEGATIVES.txt POOL OUT

The two files hold a text per line; POOL is a folder of parquet or JSON lines with `text`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipelines.assets.catalogue import Assets
from pipelines.engine.run import run
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.text.quality import ClassifierRecipe, train_classifier


def main(positives: str, negatives: str, pool: str, out: str) -> None:
    good, other = (Path(file).read_text().splitlines() for file in (positives, negatives))
    assets = Path(out) / "assets"
    # fastText as DCLM uses it: words and pairs of words, a label for good and one for the rest.
    train_classifier(good, other, recipe=ClassifierRecipe(), out=assets / "mine.bin")
    # The model is an asset: steps name it, folders hold it, its sha256 is in the record.
    pipeline = Pipeline.from_steps(
        [
            {"quality_score": {"model": "mine.bin", "engine": "library"}},
            {"select": {"by": "quality", "fraction": 0.5}},
        ],
        name="mine",
        assets=Assets(folders=(assets,)),
    )
    result = run(pipeline, open_pool(pool), out=f"{out}/dataset")
    counts = result.record.counts
    print(f"kept {counts['rows_out']:,} of {counts['rows_in']:,} documents in {out}/dataset")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
