"""Compile the kernels before a run does, so that no worker of a cluster spends its first minute so.

Compiled code is kept next to the sources, or in the folder that NUMBA_CACHE_DIR names where those
cannot be written; it is used again by the same processor and version.
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
    """What was run, and how long that took; `left_out` says why of the others."""

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
