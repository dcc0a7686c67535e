"""What every operator promises, as checks that can be run on any of them.

The platform's own operators pass them in the tests; a participant's pass them by
`pipelines check my_filters.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.batch import Batch
from pipelines.errors import PipelineError
from pipelines.operators import (
    Counted,
    Dedup,
    Filter,
    Modifier,
    Operator,
    Select,
    Splitter,
)
from pipelines.records import Frozen
from pipelines.registry import build
from pipelines.schema import EXTRA, ROW, STRING, TEXT, URL

TEXTS = (
    "The cat sat on the mat and looked at the dog that was there.\nIt was a good day for both.",
    "BUY NOW!!! ### ... ...\n* one\n* two\n* three",
    "",
    " \n\t\n",
    "mot\u00e9 na\u00efve \u65e5\u672c\u8a9e\u306e\u6587\u7ae0 "
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 "
    "e\u0301\u0301 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "a\x00b\x7f\u0085c\u2028d\ufeff",
    "word " * 300,
    "x" * 5000,
)

FIELDS = (
    '{"metadata": {"WARC-Target-URI": "https://example.org/"}, "filename": "a.py", "words": 12,'
    ' "repo_name": "r", "files": [{"filename": "a", "text": "x"}, {"filename": "b", "text": "y"}],'
    ' "question": {"text": "<p>why</p>"}, "answers": [{"text": "so", "score": 2}, {"text": "no"}],'
    ' "scores": {"en": 0.9}}'
)
"""Fields of each row that have no column of their own."""


class Problem(Frozen):
    """One broken promise."""

    operator: str
    promise: str
    found: str


def sample() -> pa.Table:
    """Rows that operators are tried on: ordinary, empty, not English, hostile, repeated."""
    number = len(TEXTS)
    return pa.table(
        {
            ROW: pa.array(range(number), type=pa.int64()),
            TEXT: pa.array(TEXTS, type=STRING),
            URL: pa.array([f"https://www.example.org/{n}" for n in range(number)], type=STRING),
            "language": pa.array(["en", "de", None, "en", "ja", "en", "en", None], type=STRING),
            "language_probability": pa.array([0.9, 0.7, None, 0.2, 1.0, 0.66, 0.65, None]),
            "num_tokens": pa.array([20, 18, 0, 1, 40, 9, 300, 1], type=pa.int64()),
            "quality": pa.array([0.5, 0.1, 0.1, 0.0, 1.0, 0.25, 0.75, 0.3]),
            "scores/quality": pa.array([0.5, None, 0.1, 0.0, 1.0, 0.25, 0.75, 0.3]),
            "original_width": pa.array([200, 640, 199, 0, 1000, None, 300, 50], type=pa.int64()),
            "original_height": pa.array([200, 480, 600, 0, 300, 200, None, 50], type=pa.int64()),
            "uid": pa.array([f"{n * 0x9E3779B97F4A7C15:032x}" for n in range(number)], type=STRING),
            "corruption": pa.array(
                ["none", "gaussian", None, "mask", "blur", "none", "gaussian", "fourier"],
                type=STRING,
            ),
            "level": pa.array([0.0, 0.2, None, 0.5, 1.0, 0.0, 0.4, 4.0]),
            "clip_l14_similarity_score": pa.array([0.3, 0.2, None, 0.1, 0.25, -0.1, 0.4, 0.2]),
            "phash": pa.array([0.0, 2.0**48 - 1, None, 5.0, 4.0, 5.0, 77.0, 1e9]),
            "l14_img": pa.FixedSizeListArray.from_arrays(
                pa.array(np.linspace(-1, 1, 4 * number).astype(np.float32)), 4
            ),
            EXTRA: pa.array([FIELDS] * number, type=STRING),
        }
    )


def check(operator: Operator, *, table: pa.Table | None = None) -> list[Problem]:
    """All broken promises of an operator whose heavy state is loaded; empty when it keeps them."""
    table = sample() if table is None else table
    checks: tuple[Callable[[Operator, pa.Table], Iterator[str]], ...] = (
        documented,
        survives_yaml,
        names_columns,
        answers_each_row,
        leaves_input_alone,
        takes_empty_tables,
        same_when_cut,
    )
    all_problems = []
    for promise in checks:
        try:
            problems = list(promise(operator, table))
        except Exception as error:
            problems = [f"{type(error).__name__}: {error}"]
        all_problems += [
            Problem(operator=operator.name, promise=_title(promise), found=problem)
            for problem in problems
        ]
    return all_problems


def _title(promise: Callable[..., object]) -> str:
    return (promise.__doc__ or promise.__name__).splitlines()[0].rstrip(".")


def documented(operator: Operator, _: pa.Table) -> Iterator[str]:
    """It and each of its parameters are described."""
    doc = type(operator).__doc__ or ""
    if len(doc.strip()) < 20:
        yield "the class has no docstring to speak of"
    for name, field in type(operator).model_fields.items():
        if not field.description:
            yield f"the parameter {name!r} has no description: Field(..., description=...)"


def survives_yaml(operator: Operator, _: pa.Table) -> Iterator[str]:
    """Its parameters read back equal from YAML and JSON."""
    import yaml

    values = operator.model_dump(mode="json")
    again = yaml.safe_load(yaml.safe_dump(values))
    try:
        built = build(type(operator), again, where="check")
    except PipelineError as error:
        yield str(error)
        return
    if built.model_dump() != operator.model_dump():
        yield f"{operator!r} reads back as {built!r}"


def names_columns(operator: Operator, table: pa.Table) -> Iterator[str]:
    """It reads only columns that it names, and writes only what it declares."""
    missing = [name for name in operator.reads() if name not in table.column_names]
    if missing:
        yield f"the sample has no column {missing}: give a table that has"
        return
    named = [*operator.reads()]
    if operator.optional_reads():
        named += [n for n in (*operator.optional_reads(), EXTRA) if n in table.column_names]
    if operator.takes_pages:  # all that a page has: nothing is named
        named = table.column_names
    narrow = table.select([ROW, *dict.fromkeys(n for n in named if n != ROW)])
    outcome = outcome_of(operator, Batch(narrow))
    if isinstance(operator, Modifier):
        declared = dict(operator.writes())
        for name, values in outcome.items():
            if name not in declared:
                yield f"it wrote {name!r}, which writes() does not name"
            elif values.type != declared[name]:
                yield f"it wrote {name!r} as {values.type}, declared as {declared[name]}"
        for name in declared:
            if name not in outcome:
                yield f"it did not write {name!r}, which writes() names"
    if isinstance(operator, Filter):
        reasons = outcome["reasons"]
        unknown = set(reasons.drop_null().unique().to_pylist()) - set(operator.reasons)
        if unknown:
            yield f"it gave the reasons {sorted(unknown)}, which `reasons` does not name"
        if len(reasons) != table.num_rows:
            yield f"it gave {len(reasons)} answers for {table.num_rows} rows"


def leaves_input_alone(operator: Operator, table: pa.Table) -> Iterator[str]:
    """It does not change its input, and gives the same answer twice."""
    before = table.to_pylist()
    first, second = outcome_of(operator, Batch(table)), outcome_of(operator, Batch(table))
    if table.to_pylist() != before:
        yield "the input table changed"
    if not equal(first, second):
        yield "two runs on the same rows differ: it depends on a clock, on chance or on order"


def answers_each_row(operator: Operator, table: pa.Table) -> Iterator[str]:
    """It gives one answer a row."""
    if isinstance(operator, Filter | Modifier | Select):
        for name, values in outcome_of(operator, Batch(table)).items():
            if len(values) != table.num_rows:
                yield f"{name}: {len(values)} answers for {table.num_rows} rows"


def takes_empty_tables(operator: Operator, table: pa.Table) -> Iterator[str]:
    """It takes a table without rows."""
    outcome = outcome_of(operator, Batch(table.slice(0, 0)))
    for name, values in outcome.items():
        if len(values):
            yield f"{name} has {len(values)} values for no rows"


def same_when_cut(operator: Operator, table: pa.Table) -> Iterator[str]:
    """It gives each row the same answer wherever the table is cut."""
    if isinstance(operator, Splitter):
        return
    whole = outcome_of(operator, Batch(table))
    for border in (1, table.num_rows // 2):
        # The second part first, as another worker may have it: state that counts rows shows.
        right = outcome_of(operator, Batch(table.slice(border)))
        left = outcome_of(operator, Batch(table.slice(0, border)))
        if isinstance(operator, Dedup):
            right["position"] = pc.add(right["position"], border)
        joined = {name: _joined(left[name], right[name]) for name in whole}
        if not equal(whole, joined):
            yield f"cut after row {border} the answers differ"


def outcome_of(operator: Operator, batch: Batch) -> dict[str, pa.Array]:
    """What the operator computes for a batch, as named arrays."""
    if isinstance(operator, Filter):
        return {"reasons": _plain(_value(operator.reject(batch)))}
    if isinstance(operator, Modifier):
        return dict(_value(operator.modify(batch)))
    if isinstance(operator, Select):
        weight = pa.array(operator.weight(batch))
        scores = np.asarray(operator.score(batch), np.float64)  # as the engine takes them
        scores = scores.reshape(batch.num_rows, operator.copies())
        return {**{f"score {n}": pa.array(s) for n, s in enumerate(scores.T)}, "weight": weight}
    if isinstance(operator, Dedup):
        keys = operator.keys(batch)
        return {
            "position": pa.array(keys.position),
            "unit": pa.array(keys.unit),
            "high": pa.array(keys.key[:, 0]),
            "low": pa.array(keys.key[:, 1]),
            "rank": pa.array(keys.rank),
        }
    if isinstance(operator, Splitter):
        parts, parent = operator.split(batch)
        return {
            "parent": pa.array(parent),
            **{n: _one(parts.column(n)) for n in parts.column_names},
        }
    _, written = operator.step(operator.start(), batch)  # type: ignore[attr-defined]
    return dict(written)


def _value(result: Any) -> Any:
    return result.value if isinstance(result, Counted) else result


def _plain(array: pa.Array) -> pa.Array:
    return array.cast(pa.string())


def _one(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _joined(left: pa.Array, right: pa.Array) -> pa.Array:
    return pa.concat_arrays([left, right])


def equal(left: dict[str, pa.Array], right: dict[str, pa.Array]) -> bool:
    if left.keys() != right.keys():
        return False
    for name in left:
        values, others = left[name].to_pylist(), right[name].to_pylist()
        if values != others and repr(values) != repr(others):  # NaN is no answer's equal but itself
            return False
    return True
