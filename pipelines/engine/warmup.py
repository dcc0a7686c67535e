"""Compile the kernels ahead of a run, so that workers of a cluster need not each spend a minute.

Compiled code is cached next to the sources or, if they are read-only, in the folder named by
NUMBA_CACHE_DIR. It is reused on the same type of CPU with the same versions.
"""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa

from pipelines.assets.catalogue import AssetError, Assets
from pipelines.engine.apply import apply
from pipelines.operators import GLOBAL_KINDS, Filter, Modifier, Splitter
from pipelines.pipeline import Pipeline
from pipelines.records import Frozen
from pipelines.registry import registry

TEXTS = ["A few words, twice.\nA few words, twice.\n\nÜber 3 * lines ...", "", "one two " * 40]
WITH_PARAMETERS: tuple[Any, ...] = (
    {"substrings": {"phrases": ["two words"]}},
    {"substring_lines": {"phrases": ["words"]}},
    "exact_dedup",
    {"minhash_dedup": {"verify": 0.5}},
    {"minhash_dedup": {"units": "uax29", "lowercase": True}},
    {"minhash_dedup": {"units": "characters"}},
    {"ngram_bloom_dedup": {"expected_ngrams": 1000}},
    {"ngram_bloom_dedup": {"expected_ngrams": 1000, "mode": "exact"}},
    {"substring_dedup": {"length": 10}},
    {"substring_dedup": {"length": 10, "units": "bytes"}},
)


class Warmed(Frozen):
    """The operators that were run and the seconds taken; `left_out`: why others were not."""

    operators: tuple[str, ...]
    seconds: float
    left_out: dict[str, str]


def warm_up(assets: Assets) -> Warmed:
    """Run every operator that needs no parameters, and all deduplication, over a few texts."""
    started = time.monotonic()
    ran, left_out = [], {}
    table = pa.table({"text": TEXTS, "url": ["https://a.example/x"] * len(TEXTS)})
    for name, cls in sorted(registry().items()):
        if cls.kind in GLOBAL_KINDS:
            continue
        try:
            operator = cls()
            if operator.optional_reads() or not {"text", "url"}.issuperset(operator.reads()):
                left_out[name] = "reads columns that another step writes"
                continue
            operator.load(assets)
        except (AssetError, ValueError) as error:
            left_out[name] = str(error).splitlines()[0]
            continue
        assert isinstance(operator, Filter | Modifier | Splitter)
        apply(Pipeline.from_steps([name], assets=assets), table, quarantine=True)
        ran.append(name)
    for step in WITH_PARAMETERS:
        apply(Pipeline.from_steps([step]), table, quarantine=False)
        name = step if isinstance(step, str) else next(iter(step))
        ran.append(name)
        left_out.pop(name, None)
    seconds = round(time.monotonic() - started, 1)
    return Warmed(operators=tuple(dict.fromkeys(ran)), seconds=seconds, left_out=left_out)
