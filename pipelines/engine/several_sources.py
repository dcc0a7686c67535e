"""Run a DCLM file with several sources: one run per source, and one dataset of all of them.

`--input NAME=POOL` names the pool of each source. The run of a source is in `OUT/runs/NAME`, a
complete run with its own record. OUT itself is a mixture that contains each of them once, copies no
text and keeps the records of every source (`sources/NAME.json`). Run again, it resumes at the
source where it stopped.
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

NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)  # `s3://bucket/lang=en` does not match


@dataclass(frozen=True)
class Several:
    """The result for a file with several sources: the joint dataset, and each source's run."""

    record: DatasetRecord
    runs: Mapping[str, Result]
    folders: Mapping[str, str]


def named_inputs(inputs: Sequence[str], config: Path, *, source: str | None) -> dict[Any, str]:
    """The pool of each source by name; a single pool without a name is that of `source`.

    PipelineError when the names are not those of the file's sources.
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
            raise PipelineError(f"--input {text}: write each of several inputs as NAME=POOL")
        name, pool = match[1], match[2]
        if name not in sources:
            near = did_you_mean(name, dict.fromkeys(sources))
            raise PipelineError(
                f"--input {text}: {config} has no source {name!r}{near}; it has "
                f"{', '.join(sources) or 'none, because it is not a DCLM file'}"
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
    """Run each source's pipeline over its pool and join the results, as parquet only."""
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
