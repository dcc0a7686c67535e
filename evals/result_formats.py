"""Results in a benchmark's own file format, so that its other tools read them.

A benchmark offers one by an entry point of the group `curation_bench.result_formats` that names a
class: `dclm = "dclm.results:DclmFormat"`. Nothing here knows which ones are installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from evals.aggregate import Version
from evals.items import Metrics
from evals.tasks import EvalError, Task
from pipelines import installed
from pipelines.records import File, ScoresRecord
from pipelines.storage.base import Store

GROUP = "curation_bench.result_formats"


class ResultFormat:
    """One benchmark's format. Each method has a default: a format need not do everything."""

    name: ClassVar[str]

    def write(
        self, store: Store, tasks: Sequence[Task], measured: Mapping[str, Metrics]
    ) -> list[File]:
        """Write files next to a record of this benchmark's suites, from all metrics by task."""
        return []

    def from_record(self, record: ScoresRecord, *, model: str) -> dict[str, Any]:
        """A record as one JSON object; `model` is the name it carries."""
        raise EvalError(f"format {self.name!r} is not printed; its file is next to the record")

    def figures(self, data: bytes, *, source: str, version: Version) -> dict[str, Any]:
        """The aggregates of a file of this format. EvalError names `source` and what is wrong."""
        raise EvalError(f"format {self.name!r} has no aggregates; choose another --format")


def result_formats() -> dict[str, ResultFormat]:
    """All installed formats by name, loaded."""
    return {name: _load(name) for name in installed.points(GROUP)}


def format_of_benchmark(benchmark: str) -> ResultFormat | None:
    """The format that a benchmark registers under its own name; other formats are not loaded."""
    return _load(benchmark) if benchmark in installed.points(GROUP) else None


def result_format(name: str) -> ResultFormat:
    """The format of this name. EvalError lists the installed ones."""
    if name not in installed.points(GROUP):
        known = ", ".join(["text", *installed.points(GROUP)])
        raise EvalError(f"unknown format {name!r}; choose {known}")
    return _load(name)


def figures_of(
    data: bytes, *, source: str, version: Version, format: str | None = None
) -> dict[str, Any]:
    """The aggregates of a results file in the named format, or in the first that can read it.

    EvalError lists each format's reason when none can.
    """
    formats = [result_format(format)] if format else list(result_formats().values())
    problems = []
    for reader in formats:
        try:
            return reader.figures(data, source=source, version=version)
        except EvalError as error:
            problems.append(str(error))
    raise EvalError("; ".join(problems) or "no format of results is installed")


def _load(name: str) -> ResultFormat:
    loaded = installed.load_point(GROUP, name)
    if not (isinstance(loaded, type) and issubclass(loaded, ResultFormat)):
        raise EvalError(f"the entry point {name!r} of {GROUP} is {loaded!r}, not a ResultFormat")
    return loaded()
