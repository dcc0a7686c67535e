"""Curate a pandas DataFrame in memory: a pipeline of built-in steps and one function of your own.

python examples/dataframe.py
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from pipelines.engine.apply import apply
from pipelines.pipeline import Pipeline

frame = pd.DataFrame(
    {
        "id": ["a", "b", "c", "d"],
        "text": [
            "The ferry left at seven, and by noon, with the wind behind it, the island was near.",
            "The ferry left at seven, and by noon, with the wind behind it, the island was near.",
            "buy now! buy now! buy now! buy now!",
            "",
        ],
    }
)


def main() -> pd.DataFrame:
    # The same list of steps could be the `steps:` of a YAML file.
    pipeline = Pipeline.from_steps(
        [
            {"word_count": {"min_words": 10}},  # reject texts of fewer words
            "exact_dedup",  # keep the first of equal texts
        ],
        name="demo",
    )
    # Columns of a DataFrame become Arrow columns; `text` is what the steps read.
    applied = apply(pipeline, pa.Table.from_pandas(frame, preserve_index=False))
    kept = applied.table.to_pandas()
    print("kept:", kept["id"].tolist())
    # Every rejected row has a step and a reason; `row` is its place in the DataFrame.
    rejected = applied.rejected.to_pandas()
    rejected["id"] = frame["id"].to_numpy()[np.asarray(rejected["row"])]
    print(rejected[["id", "operator", "reason"]].to_string(index=False))
    return kept


if __name__ == "__main__":
    main()
