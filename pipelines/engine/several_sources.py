"""A file of DCLM with several sources in one command: a run for each, and one dataset of them all.

`--input NAME=POOL` names the pool of each source. The run of a source is in `OUT/runs/NAME`, whole
and with its own record; OUT itself is a mixture of them, each once, which copies no text and keeps
the chain of every source's record (`sources/NAME.json`). Run again, it resumes source by source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.engine.run import run
from pipelines.engine.run_folder import Result
from pipelines.errors import PipelineError, did_you_mean
from pipelines.formats.mix import mix
from pipelines.formats.mixture import Mixture, Source
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline, sources_in
from pipelines.records import DatasetRecord
from pipelines.storage.open import open_store

NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)  # `s3://bucket/lang=en` begins with no plain name


@dataclass(frozen=True)
class Several:
    """What came of a file with several sources: the dataset of all, and each source's run."""

    record: DatasetRecord
    runs: Mapping[str, Result]
    folders: Mapping[str, str]


def named_inputs(inputs: Sequence[str], config: Path, *, source: str | None) -> dict[Any, str]:
    """The pool of each source; of one pool without a name under `source`, which may be None.

    PipelineError where names and the sources of the file differ.
    """
    if len(inputs) == 1 and (source is not None or NAMED.fullmatch(inputs[0]) is None):
        return {source: inputs[0]}
    sources = sources_in(config)
    matches = [NAMED.fullmatch(text) for text in inputs]
    if len(inputs) == 1 and matches[0] and matches[0][1] not in sources:
        return {source: inputs[0]}  # a folder such as `lang=en`
    pools: dict[Any, str] = {}
    for text, match in zip(inputs, matches, strict=True):
        if match is None:
            raise PipelineError(f"--input {text}: of several inputs each is NAME=POOL")
        name, pool = match[1], match[2]
        if name not in sources:
            near = did_you_mean(name, dict.fromkeys(sources))
            raise PipelineError(
                f"--input {text}: {config} has no source {name!r}{near}; it has "
                f"{', '.join(sources) or 'none, as it is no file of DCLM'}"
            )
        if name in pools:
            raise PipelineError(f"--input gives the source {name!r} twice")
        pools[name] = pool
    missing = [name for name in sources if name not in pools]
    if missing and source is None:
        raise PipelineError(
            f"{config} has the sources {', '.join(sources)}: give --input {missing[0]}=POOL too, "
            "or one --input with --source"
        )
    return pools


def run_sources(sources: Mapping[str, tuple[Pipeline, str]], out: str, **options: Any) -> Several:
    """Run each source's pipeline over its pool, and make one dataset of what they leave."""
    if options.get("format", "parquet") != "parquet":
        raise PipelineError("several sources are joined as parquet; leave --format out")
    root = open_store(out).uri.rstrip("/")
    folders = {name: f"{root}/runs/{name}" for name in sources}
    runs = {
        name: run(pipeline, open_pool(pool), out=folders[name], **options)
        for name, (pipeline, pool) in sources.items()
    }
    parts = tuple(Source(dataset=folders[name], name=name, repeat=1) for name in sources)
    name = next(iter(sources.values()))[0].name
    record = mix(Mixture(sources=parts), name=name, out=out, map_tasks=options["map_tasks"])
    return Several(record, runs, folders)
