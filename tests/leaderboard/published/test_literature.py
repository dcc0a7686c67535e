"""Imports of published results: everything is computed again, and must agree where it can."""

from __future__ import annotations

import functools
import http.server
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from datacomp.literature import AVERAGE
from datacomp.results import datacomp_tasks
from dclm.literature import REFERENCES, published_core_baselines
from evals.tasks import load_task
from leaderboard.board.boards import Library, View
from leaderboard.board.intervals import kendall, kendall_interval
from leaderboard.database.store import Store
from leaderboard.published.findings import OWN_RUNS, task_signal, write_findings
from leaderboard.published.literature import put_references, read_published
from pipelines.errors import DataError

COLUMNS = "Dataset,model,params,tokens,creation_date,copa,piqa"


def clip_table(average: float = 0.5) -> str:
    titles = [task.title for task in datacomp_tasks().values() if task.ranks]
    head = ["name", "pretrained", "params (M)", "FLOPs (B)", AVERAGE, *titles]
    line = ["ViT-B-32", "commonpool_s_clip_s13m_b4k", "151.28", "14.78", str(average)]
    return ",".join(head) + "\n" + ",".join([*line, *["0.5"] * 38]) + "\n"


# ---- by hand


def test_a_dclm_run_is_placed_and_its_errors_are_binomial(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        f"{COLUMNS}\nmine,open_lm_1b,1439795200,28795904000,2024_01_12-23_37_47,.7,.8\n"
    )
    [row] = read_published("dclm", str(path))
    assert (row.scale, row.track, row.kind, row.date) == (
        "1b-1x",
        "filtering",
        "imported",
        "2024-01-12",
    )
    assert row.flops == 6.0 * 1439795200 * 28795904000
    copa = next(task for task in row.tasks if task.task == "copa")
    assert copa.stderr == pytest.approx(math.sqrt(0.7 * 0.3 / 100))
    # CORE is not complete: the mean of (0.7 - 0.5) / 0.5 and (0.8 - 0.5) / 0.5
    assert row.headline.metric == "mean_centered_v2"
    assert row.headline.value == pytest.approx((0.4 + 0.6) / 2)
    piqa = load_task("piqa").rows or 1
    error = math.sqrt(0.7 * 0.3 / 100 / 0.25 + 0.8 * 0.2 / piqa / 0.25) / 2
    assert row.headline.stderr == pytest.approx(error)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mine,m,1,,d,.5,.5", "row 2: column 'tokens' is empty"),
        ("mine,m,1,1,d,1.5,.5", "row 2, copa: 1.5 is not an accuracy"),
        ("mine,m,1,1,d,N/A,.5", "row 2, copa: 'N/A' is not a number"),
        ("mine,m,1,1,d,,", "row 2: none of DCLM's tasks has a score"),
    ],
)
def test_a_broken_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"{COLUMNS}\n{line}\n")
    with pytest.raises(DataError, match=message):
        read_published("dclm", str(path))


def test_a_clip_model_of_a_scale_is_placed_there(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(clip_table())
    [row] = read_published("openclip", str(tmp_path / "x.csv"))
    assert (row.scale, row.track, row.method) == ("small", "filtering", "CLIP L/14 30%")
    assert row.headline.value == pytest.approx(0.5)
    assert row.headline.stderr is None
    assert row.params == 151_280_000
    assert row.flops == pytest.approx(3 * 14.78e9 * 13e6)
    assert len(row.tasks) == 38


def test_an_average_that_does_not_agree_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(clip_table(average=0.5002))
    with pytest.raises(
        DataError, match=r"says an average of 0\.5002, its 38 datasets average 0\.5"
    ):
        read_published("openclip", str(tmp_path / "x.csv"))


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A web server over a folder with a table."""
    (tmp_path / "x.csv").write_text(clip_table())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/x.csv"
        server.shutdown()


def test_a_table_is_fetched_from_its_address(address: str) -> None:
    assert len(read_published("openclip", address)) == 1


def test_reference_rows_fill_a_new_service_once(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'x.db'}")
    assert put_references(store) == len(REFERENCES) + 25
    assert put_references(store) == 0
    page = Library(store).page("dclm", "7b-2x", "filtering", View())
    assert [row.method for row in page.rows] == ["DCLM-Baseline", "FineWeb-Edu"]
    assert page.rows[0].figures["core_v1"].value == pytest.approx(0.489)
    assert page.rows[1].tied_with_leader is None  # no error is printed
    page = Library(store).page("datacomp", "medium", "filtering", View(metric="imagenet"))
    assert page.rows[0].method == "image ∩ CLIP L/14 30%"
    store.close()


def test_kendall_by_hand() -> None:
    assert kendall([1, 2, 3], [1, 2, 3]) == 1
    assert (kendall([1, 2], [3, 9]), kendall([1, 2], [9, 3])) == (1, -1)
    assert math.isnan(kendall([1, 2], [3, 3]))
    assert kendall([1, 2, 3], [3, 2, 1]) == -1
    # pairs of (1,2,3,4) and (1,3,2,4): five agree, one does not
    assert kendall([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)
    # with one tie in b: 5 agree, none disagrees, of sqrt(6 * 5)
    assert kendall([1, 2, 3, 4], [1, 2, 2, 4]) == pytest.approx(5 / math.sqrt(30))
    low, high = kendall_interval([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 6, 5])
    assert -1 <= low <= 13 / 15 <= high <= 1


def test_the_signal_of_a_task_is_what_is_more_than_chance() -> None:
    values = np.array([0.4, 0.6])  # variance 0.02; of 100 questions 0.24 / 100
    signal = task_signal("x", values, np.array([1.0, 2.0]), 100)
    assert signal.noise == pytest.approx(math.sqrt(0.0024))
    assert signal.signal == pytest.approx(1 - 0.0024 / 0.02)
    assert signal.tau == 1
    assert task_signal("x", values, np.array([1.0, 2.0]), None).signal is None


def test_the_baselines_behind_a_published_score_are_solved_for() -> None:
    rng = np.random.default_rng(0)
    scores = {name: rng.random(20) for name in "abc"}
    baselines = {"a": 0.5, "b": 0.25, "c": 0.0}
    answer = np.mean([(scores[n] - b) / (1 - b) for n, b in baselines.items()], axis=0)
    assert published_core_baselines(answer.tolist(), scores) == pytest.approx(baselines)


# ---- the real files


@pytest.fixture(scope="module")
def history(data: Path) -> Path:
    folder = data / "history"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    return folder


def test_dclm_s_database_is_read_whole(history: Path) -> None:
    rows = read_published("dclm", str(history / "DCLM_model_database.csv"))
    assert len(rows) == 416
    assert len({row.method for row in rows}) == 275
    assert sum("core_v1" in row.figures for row in rows) >= 328
    assert {row.scale for row in rows if row.track == "filtering"} == {
        "400m-1x",
        "1b-1x",
        "7b-1x",
        "7b-2x",
    }
    assert len({row.submission_id for row in rows}) == 416


def test_open_clip_s_table_is_read_whole_and_its_averages_agree(history: Path) -> None:
    rows = read_published("openclip", str(history / "openclip_results.csv"))
    assert len(rows) == 121
    at = {scale: sum(row.scale == scale for row in rows) for scale in ("small", "medium", "large")}
    assert at == {"small": 7, "medium": 7, "large": 7}
    assert sum(row.scale == "xlarge" for row in rows) == 4


@pytest.mark.parity
def test_dclm_s_records_are_linked_and_agree_in_both_versions(fixtures: Path) -> None:
    folder = fixtures / "dclm-eval" / "aggregation"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    expected = json.loads((folder / "expected.json").read_text())
    by_uuid = {first["uuid"]: (name, first) for name, first in expected.items()}
    rows = read_published("dclm", str(folder))
    assert len(rows) == len(list((folder / "evals").glob("*.json")))
    compared = 0
    for row in rows:
        uuid = row.source.split("evaluation ")[1].split(",")[0]
        name, first = by_uuid[uuid]
        for version in ("v1", "v2"):
            for figure, key in (("core", "Core"), ("extended", "Extended")):
                answer = first[version].get(f"{key}_{version}", first[version].get(key))
                if isinstance(answer, float):
                    assert row.figures[f"{figure}_{version}"].value == pytest.approx(
                        answer, abs=1e-9
                    ), name
                    compared += 1
        if (first.get("link") or {}).get("dataset"):
            assert "model and dataset" in row.source
    assert compared >= 2 * len(rows)


@pytest.mark.slow
def test_the_findings_are_written_from_the_imports(history: Path, tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'x.db'}")
    for what, name in (("dclm", "DCLM_model_database.csv"), ("openclip", "openclip_results.csv")):
        for row in read_published(what, str(history / name)):  # type: ignore[arg-type]
            store.import_row(row, kind="imported", who="test", why="")
    published = [history / f"{name}.csv" for name in ("DCLM_model_database", "openclip_results")]
    page = write_findings(Library(store), tmp_path / "docs", published=published)
    text = page.read_text()
    committed = Path(__file__).parents[3] / "docs" / "findings.md"
    published_part = committed.read_text().partition(f"\n{OWN_RUNS}\n")[0]
    assert text == published_part, "run `leaderboard findings docs`"
    charts = (
        "dclm-scales.svg",
        "datacomp-scales.svg",
        *(f"decisions-{p.stem}.svg" for p in published),
    )
    for name in charts:
        assert (tmp_path / "docs" / "findings" / name).read_text().startswith("<svg xmlns")
    store.close()
