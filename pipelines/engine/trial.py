"""Try participants' operators on the pool's first rows, before a run spends hours on them.

The same rows must give the same results a second time, however the table is cut into batches, and
in another process (with other hashes, random state and order of sets); then, for up to 2 seconds,
larger batches and small pieces of them must agree. A run relies on all of this: executors cut
shards differently, and many workers must agree. Files that an operator opens without declaring
them, and environment variables that it reads, are named in the record, which cannot vouch for such
a run.
"""

from __future__ import annotations

import ast
import hashlib
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa

from pipelines.batch import Batch
from pipelines.contract import (
    answers_each_row,
    leaves_input_alone,
    outcome_of,
    same_when_cut,
)
from pipelines.engine.larger_trial import first_rows, try_larger
from pipelines.engine.repeat import repeat, repeatable
from pipelines.errors import FailedError
from pipelines.formats.readers import read_shard
from pipelines.job import Plan, loaded
from pipelines.opened_files import opened_files
from pipelines.participant_code import OPENED, VARIABLES, package_folders
from pipelines.pipeline import Pipeline, Step
from pipelines.read_variables import read_variables
from pipelines.records import sha256_file
from pipelines.schema import TEXT
from pipelines.storage.open import open_store

log = logging.getLogger(__name__)

NUM_ROWS = 64
MAX_NAMED = 20  # files, and variables, of a step named in a record; all are counted
PROMISES = (answers_each_row, leaves_input_alone, same_when_cut)
# Code without any of these words cannot differ between processes. A second process takes a second
# to start, so it is used only if the participant's source has one of them.
CHANCE = re.compile(r"\b(hash|set|frozenset|random|id|time|datetime|getpid|urandom|uuid\w*)\b")


Names = AbstractContextManager[set[str]]


class ContractBroken(FailedError):
    """A participant's operator that would give different rows on other machines."""


@dataclass
class Trial:
    """The results of trying participants' operators, by the label of their step."""

    rows: dict[str, int] = field(default_factory=dict)  # how many rows they were tried on
    undeclared: dict[str, list[str]] = field(default_factory=dict)  # undeclared files they opened
    variables: dict[str, list[str]] = field(default_factory=dict)  # that they read; names alone

    def note(self, step: Step, files: Iterable[str], variables: Iterable[str]) -> None:
        for by_step, names in ((self.undeclared, files), (self.variables, variables)):
            if both := {*by_step.get(step.label, ()), *names}:
                by_step[step.label] = sorted(both)

    @contextmanager
    def noting(self, step: Step, opening: Names, reading: Names) -> Iterator[None]:
        """Note what is opened and read inside, also where it ends with an exception."""
        files: set[str] = set()
        variables: set[str] = set()
        try:
            with opening as files, reading as variables:
                yield
        finally:
            self.note(step, files, variables)

    def locations(self) -> dict[str, str]:
        """Undeclared files with their hashes, and variables, as a record's `locations`.

        Of a variable the name alone: its value may be a password.
        """
        files = {
            f"undeclared/{label}/{number}": f"{file} (sha256 {_hash_of(file)})"
            for label, names in self.undeclared.items()
            for number, file in enumerate(names[:MAX_NAMED])
        }
        variables = {
            f"undeclared_variable/{label}/{number}": name
            for label, names in self.variables.items()
            for number, name in enumerate(names[:MAX_NAMED])
        }
        return {**files, **variables}

    def figures(self) -> dict[str, float]:
        return {
            **{f"tried_rows/{label}": rows for label, rows in self.rows.items()},
            **{f"undeclared_files/{label}": len(f) for label, f in self.undeclared.items()},
            **{f"undeclared_variables/{label}": len(v) for label, v in self.variables.items()},
        }

    def warn(self) -> None:
        for label, files in self.undeclared.items():
            log.warning(
                "%s opens files that no step declares (%s): the record cannot vouch for this run, "
                "whose result changes with them; declare them in assets() and read them in load()",
                label,
                ", ".join(files[:3]),
            )
        for label, names in self.variables.items():
            log.warning(
                "%s reads environment variables (%s): the record cannot vouch for this run, whose "
                "result may change with them, also between workers; make them parameters of the "
                "operator",
                label,
                ", ".join(names[:3]),
            )


def try_participants(plan: Plan, pipeline: Pipeline) -> Trial:
    """Try each participant's operator; returns the number of rows, and what it opened and read.

    Exceptions for a row are left to the run, which names the row or sets it aside. Steps that
    cannot be repeated (see `repeat`) and those that need a GPU are not tried. ContractBroken names
    the step and the broken promise.
    """
    tried = Trial()
    digests: dict[str, str] = {}
    inputs = _inputs(plan, pipeline)
    first = first_rows(plan) if inputs else []  # read here: the pool is no file of an operator
    for step in (step for step in pipeline.steps if ":" in step.name):
        module = vars(sys.modules[type(step.operator).__module__])
        tried.note(step, module.get(OPENED, ()), module.get(VARIABLES, ()))  # at import
    for step, batch in inputs:
        # A copy that is not loaded yet, so that files opened by load() are seen as well.
        operator = type(step.operator).model_validate(step.operator.model_dump())
        declared = {pipeline.assets.path(name) for name in operator.assets()}
        top = type(operator).__module__.partition(".")[0]
        opening = opened_files(but=declared, inside=package_folders(top))
        try:
            with tried.noting(step, opening, read_variables(inside={top})):
                operator.load(pipeline.assets)
                started = time.monotonic()
                for promise in PROMISES:
                    for problem in promise(operator, batch.table):
                        raise ContractBroken(_message(step, plan, problem))
                seconds = time.monotonic() - started
                num_rows, different = try_larger(
                    operator, step, first, pipeline, seconds_before=seconds
                )
                if different:
                    raise ContractBroken(_message(step, plan, different))
            digests[step.label] = _digest(step, batch, pipeline)
        except ContractBroken:
            raise
        except (Exception, SystemExit):  # about a row: the run reports which
            continue
        tried.rows[step.label] = max(batch.num_rows, num_rows)
    tried.warn()
    texts = [module.text for module in plan.modules.values()]
    if digests and any(CHANCE.search(text) or _makes_sets(text) for text in texts):
        elsewhere = _elsewhere(plan)
        for label, digest in digests.items():
            if elsewhere.get(label, digest) != digest:
                [step] = [step for step in pipeline.steps if step.label == label]
                problem = (
                    "another process gives other answers for the same rows: it depends on hash(), "
                    "the order of a set, chance or time; take hashlib, sorted() or a fixed seed"
                )
                raise ContractBroken(_message(step, plan, problem))
    return tried


def _makes_sets(text: str) -> bool:
    """Whether code has a set literal of values other than constants, whose order may matter."""
    try:
        nodes = ast.walk(ast.parse(text))
    except SyntaxError:
        return False
    return any(
        isinstance(node, ast.SetComp)
        or (isinstance(node, ast.Set) and not all(isinstance(n, ast.Constant) for n in node.elts))
        for node in nodes
    )


def _hash_of(file: str) -> str:
    try:
        return sha256_file(Path(file))
    except OSError:
        return "unknown: it no longer exists"


def _message(step: Step, plan: Plan, problem: str) -> str:
    return (
        f"{step.label}, tried on the first rows of {plan.like}: {problem}; such a run could not be "
        "repeated. `pipelines check` tries the operator alone"
    )


def _inputs(plan: Plan, pipeline: Pipeline) -> list[tuple[Step, Batch]]:
    """Each participant's step with the rows that reach it."""
    steps = repeatable(pipeline).steps
    own = [step for step in steps if ":" in step.name and not step.operator.needs()]
    if not own or plan.like is None:
        return []
    chunk = next(read_shard(open_store(plan.input_uri), plan.like, shard=0), None)
    if chunk is None or not chunk.table.num_rows:
        return []
    first = Batch(chunk.table.slice(0, NUM_ROWS))
    if first.has(TEXT):
        first = first.keep(first.text.is_valid().to_numpy(zero_copy_only=False))
    inputs = []
    for step in own:
        before = steps[: steps.index(step)]
        try:
            batch = repeat(before, first, pipeline.assets).kept
        except Exception:  # an earlier step raised for a row: the run reports which
            continue
        if batch.num_rows > 1 and set(step.operator.reads()) <= set(batch.table.column_names):
            inputs.append((step, batch))
    return inputs


def _digest(step: Step, batch: Batch, pipeline: Pipeline) -> str:
    """The hash of an operator's results for some rows."""
    outcome = outcome_of(loaded(step, pipeline.assets), batch)
    state = hashlib.sha256()
    for name, values in sorted(outcome.items()):
        array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        state.update(name.encode() + repr(np.asarray(array).tolist()).encode())
    return state.hexdigest()


def _elsewhere(plan: Plan) -> dict[str, str]:
    """The digests computed by another process; empty if it cannot run."""
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.engine.trial"],
        input=plan.model_dump_json().encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        return {}
    digests: dict[str, str] = orjson.loads(done.stdout.splitlines()[-1])
    return digests


def main() -> None:
    """In the other process: a plan on standard input, digests by step on standard output."""
    plan = Plan.model_validate_json(sys.stdin.buffer.read())
    pipeline = plan.pipeline()
    digests = {}
    for step, batch in _inputs(plan, pipeline):
        try:
            digests[step.label] = _digest(step, batch, pipeline)
        except (Exception, SystemExit):  # of a row: the run says which
            continue
    sys.stdout.buffer.write(orjson.dumps(digests) + b"\n")


if __name__ == "__main__":
    main()
