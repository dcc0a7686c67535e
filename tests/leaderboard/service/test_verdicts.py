"""An entry's filter repeated on part of its pool: honest datasets pass, altered ones do not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leaderboard.service.verdicts import FEWEST, _hashed, _wrong_side_of_cut, repeat_verdicts
from leaderboard.submissions import uids as uid_lists
from pipelines.engine.run import run
from pipelines.errors import RuleError
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.records import DatasetRecord

ROWS = 300


def pool_of(folder: Path) -> Path:
    """Three shards; every third document has too few words, every fifth a line with an address."""
    (folder / "pool").mkdir(parents=True)
    for shard in range(3):
        texts = []
        for n in range(ROWS):
            words = " ".join(f"w{shard}x{n}x{k}" for k in range(3 if n % 3 == 0 else 12))
            texts.append(words)
        table = pa.table(
            {"text": pa.array(texts, pa.large_string()), "score": np.arange(ROWS) * 7 % ROWS}
        )
        pq.write_table(table, folder / "pool" / f"{shard:05d}.parquet")
    return folder / "pool"


def curated(folder: Path, steps: list[Any]) -> tuple[Path, DatasetRecord]:
    pool = pool_of(folder)
    result = run(
        Pipeline.from_steps(steps, name="mine"), open_pool(str(pool)), out=str(folder / "out")
    )
    return folder / "out", result.record


def case_of(record: DatasetRecord, pool: Path, *, format: str = "parquet") -> Any:
    return SimpleNamespace(
        dataset=record,
        pool=open_pool(str(pool)).record,
        book=SimpleNamespace(name="dclm", dataset_format=format),
        scale=SimpleNamespace(name="25m"),
        bundle=None,
    )


def altered(
    folder: Path, record: DatasetRecord, change: Callable[[pa.Table], pa.Table]
) -> DatasetRecord:
    """The record of the dataset with its first file changed, as a cheat would seal it."""
    first = record.outputs[0]
    table = change(pq.read_table(folder / first.name))
    pq.write_table(table, folder / first.name)
    data = (folder / first.name).read_bytes()
    file = first.model_copy(
        update={
            "sha256": hashlib.sha256(data).hexdigest(),
            "num_bytes": len(data),
            "num_rows": len(table),
        }
    )
    return DatasetRecord.seal(
        work=record.work,
        parents=record.parents,
        outputs=[file, *record.outputs[1:]],
        counts=record.counts,
        made_by=record.made_by,
    )


def looked_at(folder: Path, record: DatasetRecord, **options: Any) -> tuple[Any, list[Any]]:
    return repeat_verdicts(
        case_of(record, folder / "pool"),
        pool=str(folder / "pool"),
        dataset=str(folder / "out"),
        **({"fraction": 1.0, "salt": "x"} | options),
    )


FILTER: list[Any] = [{"word_count": {"min_words": 5}}]


def test_an_honest_dataset_passes(tmp_path: Path) -> None:
    _, record = curated(tmp_path, FILTER)
    answer, faults = looked_at(tmp_path, record)
    assert faults == []
    assert (answer.num_rows, answer.num_kept, answer.num_altered) == (900, 600, 0)
    assert answer.whole_pool


def test_at_least_enough_rows_are_looked_at_to_see_one_in_a_hundred(tmp_path: Path) -> None:
    _, record = curated(tmp_path, FILTER)
    answer, faults = looked_at(tmp_path, record, fraction=0.01)
    assert faults == []
    assert 459 <= answer.num_rows <= 600  # 520 of 900
    assert 459 <= answer.num_kept <= 600
    assert "with probability 0.99" in answer.line
    assert "(salt x)" in answer.line


def insert_rejected(table: pa.Table) -> pa.Table:
    return table.set_column(0, "row", pa.array([3, *table["row"].to_pylist()[1:]]))


def change_text(table: pa.Table) -> pa.Table:
    position = table.column_names.index("text")
    texts = ["the answers of the test", *table["text"].to_pylist()[1:]]
    return table.set_column(position, "text", pa.array(texts, pa.large_string()))


def foreign(table: pa.Table) -> pa.Table:
    return table.set_column(0, "row", pa.array([99_999, *table["row"].to_pylist()[1:]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (insert_rejected, "row 3 is in the dataset, but step 1 (word_count): too_few_words"),
        (lambda table: table.slice(1), "row 1 is not in the dataset, but no step rejects it"),
        (change_text, "row 1 has another text than the steps leave"),
        (foreign, "row 99999 of the dataset is not a row of the pool"),
    ],
)
def test_altered_datasets_are_seen(
    change: Callable[[pa.Table], pa.Table], message: str, tmp_path: Path
) -> None:
    folder, record = curated(tmp_path, FILTER)
    actual, faults = looked_at(tmp_path, altered(folder, record, change))
    assert message in actual.altered
    assert faults[0].field == "verdicts"


def test_one_in_a_hundred_is_seen_by_99_viewers_of_a_hundred() -> None:
    """1% of 50,000 rows altered, 2,000 salts: a sample of 520 misses them in 0.99^520 = 0.5%."""
    rows = np.arange(50_000)
    altered_rows = rows % 100 == 7
    share = FEWEST / len(rows)
    seen = [bool((_hashed(rows, str(salt)) < share)[altered_rows].any()) for salt in range(2000)]
    assert np.mean(seen) > 0.985


def test_the_cut_of_a_select_is_checked_and_other_global_steps_are_left_out(tmp_path: Path) -> None:
    steps = [*FILTER, {"select": {"by": "score", "fraction": 0.5}}]
    folder, record = curated(tmp_path, steps)
    answer, faults = looked_at(tmp_path, record)
    assert faults == []
    assert "only its cut was checked" in answer.line

    def swap(table: pa.Table) -> pa.Table:
        """A page with a low score (row 1: 7) in place of the one with the best."""
        best = int(np.argmax(table["score"].to_numpy()))
        pool = pq.read_table(tmp_path / "pool" / "00000.parquet")
        columns = {}
        for name in table.column_names:
            values = table[name].to_pylist()
            values[best] = 1 if name == "row" else pool[name][1].as_py()
            columns[name] = pa.array(values, table.schema.field(name).type)
        return pa.table(columns)

    actual, faults = looked_at(tmp_path, altered(folder, record, swap))
    assert actual.num_altered == 2
    assert actual.altered[0] == "a score on the other side of the cut"


def test_rows_beside_a_cut() -> None:
    assert _wrong_side_of_cut([(1, False), (2, False), (3, True)]) == 0
    assert (
        _wrong_side_of_cut([(1, False), (2, True), (2, False), (3, True)]) == 0
    )  # equal at the cut
    assert _wrong_side_of_cut([(1, True), (2, False), (3, False), (4, True)]) == 1
    assert _wrong_side_of_cut([(1, True), (2, True)]) == 0
    assert _wrong_side_of_cut([(1, False), (2, False)]) == 0


def test_a_dedup_leaves_the_row_wise_steps_before_and_behind_it(tmp_path: Path) -> None:
    folder, record = curated(tmp_path, ["exact_dedup", *FILTER])
    assert looked_at(tmp_path, record)[1] == []
    actual, _ = looked_at(tmp_path, altered(folder, record, insert_rejected))
    assert actual.altered == ("row 3 is in the dataset, but step 2 (word_count): too_few_words",)


def test_another_pool_and_other_bytes_are_refused(tmp_path: Path) -> None:
    folder, record = curated(tmp_path, FILTER)
    case = case_of(record, folder.parent / "pool")
    with pytest.raises(RuleError, match=r"is pool .*; the entry's is"):
        repeat_verdicts(case, pool=str(folder), dataset=str(folder), fraction=1, salt="x")
    name = record.outputs[0].name
    (folder / name).write_bytes((folder / record.outputs[1].name).read_bytes())
    with pytest.raises(RuleError, match="has other bytes than its record says"):
        looked_at(tmp_path, record)


def test_python_of_the_author_is_run_only_when_said(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from pipelines.operators import Filter, because\n"
        "import numpy as np\n\n\n"
        "class Odd(Filter):\n"
        '    """Drops odd rows."""\n\n'
        '    reasons = ("odd",)\n\n'
        "    def reject(self, batch):\n"
        '        return because(np.asarray(batch.rows) % 2 == 1, "odd")\n'
    )
    pool = pool_of(tmp_path)
    pipeline = Pipeline.from_steps(["mine.py:Odd"], name="mine", folder=tmp_path)
    record = run(pipeline, open_pool(str(pool)), out=str(tmp_path / "out")).record
    with pytest.raises(RuleError, match=r"runs Python of its author \(mine\.py"):
        looked_at(tmp_path, record)
    answer, faults = looked_at(tmp_path, record, run_code=True)
    assert (faults, answer.num_kept) == ([], 450)


def test_a_list_of_uids_is_looked_up(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    for shard in range(2):
        table = pa.table(
            {
                "uid": [hashlib.md5(f"{shard} {n}".encode()).hexdigest() for n in range(300)],
                "url": [f"https://example.org/{shard}/{n}" for n in range(300)],
                "text": [("one two three" if n % 2 else "x") for n in range(300)],
            }
        )
        pq.write_table(table, pool / f"{shard}.parquet")
    steps = [{"caption_size": {"min_words": 2}}]
    from leaderboard.benchmark import load_stages

    opened = load_stages("datacomp").open_tables(str(pool))
    out = tmp_path / "out"
    record = run(
        Pipeline.from_steps(steps, name="mine"), opened, out=str(out), format="uids"
    ).record
    [name] = [file.name for file in record.outputs if file.name.endswith(".npy")]
    case = case_of(record, pool, format="uids")
    case.book.name, case.pool = "datacomp", opened.record

    def look(uri: Path) -> Any:
        return repeat_verdicts(case, pool=str(pool), dataset=str(uri), fraction=1, salt="x")

    actual, faults = look(out / name)
    assert (faults, actual.num_rows, actual.num_kept) == ([], 600, 300)
    ids = np.array(uid_lists.open_uids(str(out / name)))
    np.save(tmp_path / "less.npy", ids[1:])
    actual, faults = look(tmp_path / "less.npy")
    assert actual.num_altered == 1
    assert "no step rejects it" in actual.altered[0]
