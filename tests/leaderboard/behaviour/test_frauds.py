"""Planted frauds, each caught by its own rule, and honest variants, none blocked.

A fraud here computes every hash and every score anew after its change: what gives it away is what
cannot be made to fit. A log that was made up whole, with answers of the right rate, is not among
them: only a rerun shows it (`leaderboard recheck --rerun`), and docs/trust.md says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evals.pins import Pin, truth_of
from evals.tasks import Task
from leaderboard.benchmark import load_stages
from leaderboard.submissions import documents
from leaderboard.submissions.bundle import DocumentList, open_bundle
from leaderboard.submissions.facts import KnownFacts
from leaderboard.submissions.limits import Limit
from leaderboard.submissions.validate import LIMITS, MAX_FAULTS, check_bundle
from tests.leaderboard.frauds import checked, column, known_of, only, rules_of
from tests.leaderboard.made_up import STEPS, Edit, make_folder, sha

# ---- the answers


def all_right(log: pa.Table) -> pa.Table:
    """The right answers are what the model said."""
    log = column(log, "gold", log["predicted"].to_numpy())
    log = column(log, "correct", [True] * len(log))
    return column(log, "credit", [1.0] * len(log))


def scaled(name: str, factor: int) -> Callable[[pa.Table], pa.Table]:
    return lambda log: column(log, name, log[name].to_numpy() * factor)


def right_only(log: pa.Table) -> pa.Table:
    return log.filter(log["correct"])


def renumbered(log: pa.Table) -> pa.Table:
    kept = log.filter(log["correct"])
    return column(kept, "row", np.arange(len(kept)))


def repeated(log: pa.Table) -> pa.Table:
    right = log.filter(log["correct"])
    chosen = np.arange(len(log)) % len(right)
    return right.take(pa.array(chosen))


def with_evidence(log: pa.Table) -> pa.Table:
    """Losses that say the other option was cheaper than the one that is claimed."""
    rows = []
    for predicted in log["predicted"].to_pylist():
        losses = [[2.0], [2.0]]
        losses[1 - predicted] = [1.0]
        rows.append(
            [
                {
                    "context": 0,
                    "ids": [5],
                    "losses": losses_,
                    "greedy": [5],
                    "mean_loss": losses_[0],
                }
                for losses_ in losses
            ]
        )
    kind = pa.list_(
        pa.struct(
            [
                ("context", pa.int32()),
                ("ids", pa.list_(pa.int32())),
                ("losses", pa.list_(pa.float32())),
                ("greedy", pa.list_(pa.int32())),
                ("mean_loss", pa.float32()),
            ]
        )
    )
    return log.append_column("options", pa.array(rows, kind))


def bomb(log: pa.Table) -> pa.Table:
    """A text of a megabyte, once in the file and in every row."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * len(log)), pa.array(["x" * (1 << 20)]))
    return log.append_column("generated", text.cast(pa.string()))


ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gold := predicted": ("arithmetic", {"edit": only("multiple_choice", all_right)}),
    "bytes times four": ("arithmetic", {"edit": only("perplexity", scaled("num_bytes", 4))}),
    "losses below zero": ("arithmetic", {"edit": only("perplexity", scaled("nats", -1))}),
    "right answers only": ("arithmetic", {"edit": only("multiple_choice", right_only)}),
    "right answers, renumbered": ("arithmetic", {"edit": only("multiple_choice", renumbered)}),
    "right answers, repeated": ("arithmetic", {"edit": only("multiple_choice", repeated)}),
    "credit without being right": (
        "arithmetic",
        {
            "edit": only(
                "multiple_choice", lambda log: column(log, "credit", np.full(len(log), 1.0))
            )
        },
    ),
    "credit above one": (
        "arithmetic",
        {
            "edit": only(
                "multiple_choice", lambda log: column(log, "credit", np.full(len(log), 3.0))
            )
        },
    ),
    "another option was cheaper": (
        "arithmetic",
        {"edit": only("multiple_choice", with_evidence)},
    ),
    "one question of many": (
        "arithmetic",
        {"edit": only("perplexity", lambda log: log.slice(0, 1))},
    ),
    "a column that no rule names": (
        "form.columns",
        {
            "edit": only(
                "perplexity", lambda log: log.append_column("payload", pa.array(["x"] * len(log)))
            )
        },
    ),
    "a memory bomb": ("form.columns", {"edit": only("multiple_choice", bomb), "rows": 200}),
}


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The honest made-up data is pinned, as the real data of 43 tasks is."""
    from tests.leaderboard import made_up

    def pins_of(rows: int) -> dict[str, Pin]:
        pins = {}
        for task in made_up.suite_of("dclm", "tiny").load_tasks():
            log = made_up.log_of(task, 0.5, rows, np.random.default_rng(0))
            truth = truth_of(task.kind, log)
            pins[task.name] = Pin(identity=sha("identity", task.name), rows=rows, truth=truth)
        return pins

    monkeypatch.setattr("evals.pins.pins", lambda: pins_of(ROWS[0]))


ROWS = [60]


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.usefixtures("pinned")
def test_answers_that_cannot_be_are_refused(name: str, tmp_path: Path) -> None:
    rule, options = ANSWERS[name]
    ROWS[0] = options.get("rows", 60)
    actual = rules_of(make_folder(tmp_path, **options))
    if rule == "arithmetic" and actual == {"form.columns"}:
        faults = checked(make_folder(tmp_path, **options)).faults
        assert all(fault.field == "rows" for fault in faults)  # a pinned number of questions
        return
    assert actual == {rule}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gold := predicted", "gold, row "),
        ("bytes times four", "num_bytes, row 0"),
        ("one question of many", "rows"),
        ("right answers, renumbered", "rows"),
    ],
)
def test_logs_of_the_same_data_must_agree_on_it(name: str, expected: str, tmp_path: Path) -> None:
    """Where nothing is pinned, what accepted logs of the same data say is the data."""
    honest = make_folder(tmp_path, team="honest", method="honest", chance=5)
    from leaderboard.submissions.logs import read_log

    bundle = open_bundle(honest)
    logs = {
        (bundle.record.id, task): read_log(bundle, 124, task)
        for task in ("heldout_bits_per_byte", "heldout_ending", "heldout_next_sentence")
    }
    board = KnownFacts(known_of(honest).facts, logs)
    fraud = make_folder(tmp_path, team="other", **ANSWERS[name][1])
    faults = checked(fraud, board).faults
    assert {fault.rule for fault in faults} == {"arithmetic"}
    assert any(fault.field.startswith(expected) for fault in faults), faults
    assert any(bundle.record.id in fault.hint for fault in faults)


# ---- images


def top_ranks(log: pa.Table) -> pa.Table:
    """Rank 0 claimed for everything, with the chosen ones left as they were."""
    return column(column(log, "rank", [0] * len(log)), "correct", [True] * len(log))


IMAGES: dict[str, tuple[str, Edit]] = {
    "ranks of 0 beside wrong choices": ("arithmetic", only("image_retrieval", top_ranks)),
    "right images only": ("arithmetic", only("image_retrieval", right_only)),
    "hits that the best five are not": (
        "arithmetic",
        only("image_classification", lambda log: column(log, "in_top5", [False] * len(log))),
    ),
}


@pytest.mark.parametrize("name", IMAGES)
def test_image_logs_that_cannot_be_are_refused(name: str, tmp_path: Path) -> None:
    rule, edit = IMAGES[name]
    assert rules_of(make_folder(tmp_path, benchmark="datacomp", rows=400, edit=edit)) == {rule}


# ---- lineage, names, novelty

SCALE_SEEDS = (124, 125, 126)


CLAIMS: dict[str, tuple[str, dict[str, Any]]] = {
    "a seed left out": ("lineage.seeds", {"seeds": (125,)}),
    "two seeds with one left out": ("lineage.seeds", {"seeds": (124, 126)}),
    "a pool of one's own": ("lineage.pool", {"pool": "a better pool"}),
    "the baseline's name on another pipeline": (
        "names.baseline",
        {"method": "no_filter", "steps": STEPS},
    ),
    "a name that looks like a baseline": ("names.baseline", {"method": "n\u043e_filter"}),
    "a name with zero width": ("names.plain", {"method": "no\u200bfilter"}),
    "a name that turns direction": ("names.plain", {"team": "honest A \u202emaet"}),
    "a name of mathematical letters": ("names.plain", {"team": "\U0001d41a team"}),
    "a name with plain-looking blanks": ("names.plain", {"method": "a\u00a0method"}),
    "private letters": ("names.plain", {"method": "a\ue000"}),
    "a line separator": ("names.plain", {"method": "a\u2028b"}),
    "tries that were none": ("form.claim", {"tries": 0}),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_that_break_a_rule_are_refused(name: str, tmp_path: Path) -> None:
    rule, options = CLAIMS[name]
    assert rules_of(make_folder(tmp_path, **options)) == {rule}


def test_an_accepted_bundle_under_another_team_is_refused(tmp_path: Path) -> None:
    honest = make_folder(tmp_path, team="honest", method="honest")
    replay = make_folder(tmp_path, team="thieves", method="honest", changed={"method": "brilliant"})
    [fault] = checked(replay, known_of(honest)).faults
    assert fault.rule == "novelty.copy"
    assert "the answers of submission" in fault.found
    assert "'honest'" in fault.found


def test_a_team_that_looks_like_another_is_refused(tmp_path: Path) -> None:
    known = known_of(make_folder(tmp_path, team="team A"))
    for twin in ("TEAM A", "team \u0410", "t\u0435am A"):
        assert rules_of(make_folder(tmp_path, team=twin, chance=3), known) == {"names.plain"}
    assert rules_of(make_folder(tmp_path, team="team B", method="m", chance=4), known) == set()


def test_a_dataset_that_is_nearly_anothers_is_shown_to_the_reviewer(tmp_path: Path) -> None:
    """The same list of uids, with other models trained on it."""
    folder = make_folder(tmp_path, benchmark="datacomp", team="first", method="first", rows=400)
    known = known_of(folder)
    near = [
        item.model_copy(
            update={
                "logs": (),
                "weights": (),
                "packed": (),
                "data": (),
                "answers": (),
                "losses": {},
                "marks": {},
                "id": "0" * 32,
                "pipeline": "x",
            }
        )
        for item in known.facts
    ]
    other = make_folder(tmp_path, benchmark="datacomp", team="second", method="second", rows=400)
    verdict = checked(other, KnownFacts(tuple(near)))
    assert verdict.faults == ()
    assert any(
        "100% of the dataset is that of 'first'" in notice.text for notice in verdict.notices
    )


def test_a_dataset_with_a_changed_word_in_every_document_is_shown(tmp_path: Path) -> None:
    """Every file has another hash; the documents' sketch sees that they are the same."""
    words = [f"w{n}" for n in range(3000)]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 300)) for _ in range(1000)]
    edited = [first.replace(" ", f" x{n} ", 1) for n, first in enumerate(texts)]
    first = make_folder(tmp_path, team="first", method="first", documents=documents_of(texts))
    facts = known_of(first).facts[0].model_copy(update={"pipeline": "x"})
    thief = make_folder(
        tmp_path, team="second", method="mine", chance=1, documents=documents_of(edited)
    )
    verdict = checked(thief, KnownFacts((facts,)))
    assert verdict.faults == ()
    [notice] = [notice for notice in verdict.notices if notice.rule == "novelty.dataset"]
    assert notice.text.endswith("% of the dataset is that of 'first' of 'first'")
    assert notice.ids == (facts.id,)
    other = [" ".join(rng.choice(words, 300)) for _ in range(1000)]
    honest = make_folder(
        tmp_path, team="third", method="own", chance=2, documents=documents_of(other)
    )
    assert "novelty.dataset" not in {
        notice.rule for notice in checked(honest, KnownFacts((facts,))).notices
    }


def documents_of(texts: list[str]) -> DocumentList:
    return documents.of_texts(pa.array(texts, pa.large_string()))


def test_losses_that_were_shifted_and_scaled_are_shown(tmp_path: Path) -> None:
    first = checked(make_folder(tmp_path, team="first", method="first", seeds=(124, 125))).facts
    assert first is not None
    copied = {"124": tuple(1.02 * losses_ + 0.1 for losses_ in first.losses["124"])}
    near = first.model_copy(
        update={"losses": copied, "id": "0" * 32, "team": "second", "pipeline": "x", "logs": ()}
        | {"weights": (), "packed": (), "data": ()}
    )
    own = make_folder(tmp_path, team="first", method="first", seeds=(124, 125))
    [notice] = [
        notice
        for notice in checked(own, KnownFacts((near,))).notices
        if notice.rule == "novelty.losses"
    ]
    assert "of 'first' of 'second' by 1.00000" in notice.text


# ---- bundles


def test_files_that_no_task_needs_are_refused(tmp_path: Path) -> None:
    for name in ("questions/999/zz/000000.parquet", "questions/124/heldout_ending/000007.parquet"):
        folder = make_folder(tmp_path / name.replace("/", "_"))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"anything")
        manifest = orjson.loads((folder / "bundle.json").read_bytes())
        entry = {"name": name, "sha256": sha("x"), "num_bytes": 8}
        manifest["files"].append(entry)
        (folder / "bundle.json").write_bytes(orjson.dumps(manifest))
        assert rules_of(folder) == {"form.files"}


def test_a_hundred_thousand_faults_are_told_as_a_hundred(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    manifest["files"] += [
        {"name": f"questions/1/a/{n:06d}.parquet", "sha256": sha(n), "num_bytes": 1}
        for n in range(100_000)
    ]
    (folder / "bundle.json").write_bytes(orjson.dumps(manifest))
    faults = checked(folder).faults
    assert len(faults) == MAX_FAULTS + 1
    assert faults[-1].found == "more than 100 broken rules"


def test_a_check_that_takes_too_long_is_stopped_and_says_so(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, rows=20_000)
    limits = LIMITS | {"arithmetic": Limit(seconds=0.05, num_bytes=3 << 30)}
    [fault] = check_bundle(open_bundle(folder), limits=limits).faults
    assert fault.rule == "arithmetic.limit"
    assert "a check of more than 0.05 seconds" in fault.found


def test_equal_rows_without_end_are_refused_before_they_are_counted(tmp_path: Path) -> None:
    """Two million rows in some kilobytes kept the check busy for minutes."""

    def many(task: Task, log: pa.Table) -> pa.Table:
        return log

    folder = make_folder(tmp_path, edit=many)
    name = "questions/124/heldout_bits_per_byte/000000.parquet"
    log = pq.read_table(folder / name).slice(0, 1)
    pq.write_table(log.take(pa.array([0] * 600_000)), folder / name, compression="zstd")
    data = (folder / name).read_bytes()
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    import hashlib

    for file in manifest["files"]:
        if file["name"] == name:
            file |= {"sha256": hashlib.sha256(data).hexdigest(), "num_bytes": len(data)}
    (folder / "bundle.json").write_bytes(orjson.dumps(manifest))
    began = time.process_time()
    [fault] = checked(folder).faults
    assert (fault.rule, fault.field) == ("form.columns", "rows")
    assert time.process_time() - began < 5


# ---- honest variants

HONEST: dict[str, dict[str, Any]] = {
    "plain": {},
    "two seeds": {"seeds": (124, 125)},
    "three seeds": {"seeds": SCALE_SEEDS},
    "seeds in another order": {"seeds": (126, 124, 125)},
    "the best of twenty tries": {"tries": 20},
    "a long name": {"method": "filter " * 10 + "v2"},
    "a name in another alphabet": {
        "team": "\u041a\u043e\u043c\u0430\u043d\u0434\u0430 \u0434\u0430\u043d\u043d\u044b\u0445"
    },
    "a name with accents": {"team": "\u00c9quipe fran\u00e7aise"},
    "a Chinese name": {"method": "\u6570\u636e\u7b5b\u9009"},
    "a name like a baseline's, but longer": {"method": "no_filter_then_dedup"},
    "the baseline": {"method": "no_filter", "steps": []},
    "the baseline under another name": {"method": "everything", "steps": []},
    "mixing with a pool of one's own": {"track": "mixing", "pool": "my pages"},
    "a perfect model": {"skill": 1.0},
    "a model that guesses": {"skill": 0.0},
    "few questions": {"rows": 2},
    "many questions": {"rows": 5000},
    "a checkpoint that is public": {"checkpoint": "https://example.org/model.safetensors"},
    "a write-up": {"url": "https://example.org/paper?id=1#results"},
    "a scale that is not ranked": {"scale": "25m"},
    "DataComp": {"benchmark": "datacomp", "rows": 400},
    "DataComp with two seeds": {"benchmark": "datacomp", "rows": 400, "seeds": (124, 125)},
    "DCLM at 400m-1x": {"scale": "400m-1x"},
    "DCLM-RefinedWeb at 1b-1x": {"scale": "1b-1x-refinedweb"},
}


def test_there_are_twenty_of_each() -> None:
    assert len(ANSWERS) + len(IMAGES) + len(CLAIMS) >= 20
    assert len(HONEST) >= 20


@pytest.mark.parametrize("name", HONEST)
def test_honest_variants_pass(name: str, tmp_path: Path) -> None:
    options = HONEST[name]
    if options.get("benchmark") == "datacomp" and "seeds" in options:
        allowed = load_stages("datacomp").recipe("tiny").seeds
        options = options | {"seeds": tuple(allowed[:2])}
    verdict = checked(make_folder(tmp_path, **options))
    assert verdict.faults == ()
    assert verdict.measured is not None


def test_honest_entries_beside_each_other_pass(tmp_path: Path) -> None:
    """Other teams, another seed count, the same baseline by two teams: none is a copy."""
    folders = [
        make_folder(tmp_path, team="a", method="one", chance=1),
        make_folder(tmp_path, team="a", method="two", chance=2),
        make_folder(tmp_path, team="b", method="no_filter", steps=[], chance=3),
    ]
    known = known_of(*folders)
    again = make_folder(tmp_path, team="c", method="no_filter", steps=[], chance=4)
    assert rules_of(again, known) == set()
    more = make_folder(tmp_path, team="a", method="three", chance=5, seeds=(124, 125))
    assert rules_of(more, known) == set()
