"""Records and manifests that were edited where no figure of the board depends on it, it seems.

Each is sealed again after its change and refused by the rule that is named, with what was expected;
the partner of each rule, an honest entry that comes near it, passes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from leaderboard.benchmark import INTERMEDIATE
from leaderboard.submissions.bundle import OverlapOf
from leaderboard.submissions.form import repeated_key
from pipelines.records import AssetRecord, AssetWork, File, MadeBy, Record, ScoresRecord, Submission
from tests.leaderboard.behaviour.test_record_frauds import mixed
from tests.leaderboard.frauds import (
    altered,
    checked,
    column,
    manifested,
    only,
    put,
    record_of,
    refused,
    rewritten,
)
from tests.leaderboard.made_up import MADE_BY, make_folder, sha

Build = Callable[[Path], Path]
Fields = dict[str, Any]
OWN_CODE = [{"operator": "my/own.py:Keep", "parameters": {}}]
CHECKPOINT = "https://example.org/model.safetensors"


# ---- builders


def record(kind: str, change: Callable[[Fields], Any], **options: Any) -> Build:
    return lambda folder: altered(make_folder(folder, **options), kind, change)


def lying_at(options: Fields | None = None, **fields: Any) -> Build:
    """A manifest whose dataset lies at an address with these fields."""
    place_ = {"location": "https://example.org/data", "sha256": "", "num_bytes": None} | fields
    return lambda folder: manifested(make_folder(folder, **(options or {})), dataset=place_)


def another_checkpoint(folder: Path) -> Path:
    """The public checkpoint is a better model's than the one that was trained."""
    made = make_folder(folder, checkpoint=CHECKPOINT)
    manifest = orjson.loads((made / "bundle.json").read_bytes())
    manifest["checkpoints"]["124"]["sha256"] = sha("a better model")
    return manifested(made, checkpoints=manifest["checkpoints"])


def parents(change: Callable[[dict[str, str]], dict[str, str]]) -> Build:
    """The scores under other roles."""

    def build(folder: Path) -> Path:
        made = record_of(make_folder(folder))
        sealed = Submission.seal(
            work=made.work, parents=change(dict(made.parents)), made_by=made.made_by
        )
        [home] = folder.iterdir()
        return rewritten(home, sealed.model_copy(update={"chain": made.chain}))

    return build


def mixture(mix: object, **more: Any) -> Build:
    def change(fields: Fields) -> None:
        mixed(fields)
        fields["work"]["pipeline"]["mix"] = mix
        fields["counts"] |= more.get("counts", {})
        fields["work"]["pipeline"] |= more.get("pipeline", {})

    options: Fields = {"track": "mixing", "method": "a mix", "steps": [], "pool": "a mix"}
    return record("dataset", change, **options)


def source(**fields: Any) -> Fields:
    return {"name": "web", "record": "0" * 32, "repeat": 1.0} | fields


def with_asset(*, used: bool) -> Build:
    """A record of an asset, which the dataset names or not."""

    def build(folder: Path) -> Path:
        def named(fields: Fields) -> None:
            if used:
                fields["work"]["assets"] = [{"name": "words.bin", "sha256": sha("words")}]

        home = altered(make_folder(folder), "dataset", named)
        asset = AssetRecord.seal(
            work=AssetWork(name="words", licence="CC0", inputs=()),
            parents={},
            outputs=[File(name="words.bin", sha256=sha("words"), num_bytes=3)],
            made_by=MADE_BY,
        )
        chain = (*record_of(home).chain, asset)
        return rewritten(home, record_of(home).model_copy(update={"chain": chain}))

    return build


def carried(name: str) -> Callable[[Fields], None]:
    """The code of a step, as a run embeds it."""
    text = "class Keep: ..."
    sha256 = hashlib.sha256(text.encode()).hexdigest()

    def change(fields: Fields) -> None:
        fields["work"]["modules"] = [{"name": name, "text": text, "sha256": sha256}]

    return change


def made_by(kind: str, options: Fields | None = None, **fields: Any) -> Build:
    """Other times and figures of one kind of record; they are no part of an id."""

    def build(folder: Path) -> Path:
        home = make_folder(folder, **(options or {}))
        made = record_of(home)

        def at(link: Record) -> Record:
            mine: MadeBy = link.made_by.model_copy(update=fields)
            return link.model_copy(update={"made_by": mine}) if link.kind == kind else link

        return rewritten(home, made.model_copy(update={"chain": tuple(map(at, made.chain))}))

    return build


def trained(options: Fields, **figures: float) -> Build:
    return made_by("model", options, figures={"num_processes": 8.0, "first_step": 0.0} | figures)


def written_twice(folder: Path) -> Path:
    """A manifest in which another reader finds another submission."""
    home = make_folder(folder)
    data = (home / "bundle.json").read_bytes()
    (home / "bundle.json").write_bytes(b'{"submission": "' + b"0" * 32 + b'", ' + data[1:])
    return home


def log(benchmark: str, kind: str, **columns: Callable[[np.ndarray], Any]) -> Build:
    """Columns of the logs of one kind of task, made from what was there."""

    def change(table: pa.Table) -> pa.Table:
        for name, make in columns.items():
            table = column(table, name, make(table[name].to_numpy(zero_copy_only=False)))
        return table

    rows = 400 if benchmark == "datacomp" else 60
    return lambda folder: make_folder(
        folder, benchmark=benchmark, rows=rows, edit=only(kind, change)
    )


def ending_at(value: float) -> Build:
    """Scores of the checkpoint at the last step, which is the model: 2.5 bits or so here."""

    def build(folder: Path) -> Path:
        home = make_folder(folder)
        steps = next(link.counts["steps"] for link in record_of(home).chain if link.kind == "model")
        name = f"step-{steps:08d}"

        def kept(fields: Fields) -> None:
            file = {"name": f"{INTERMEDIATE}/{name}.safetensors", "num_bytes": 9}
            fields["outputs"].append(fields["outputs"][0] | file)

        point = {"checkpoint": name, "value": value, "stderr": 0.1}
        return manifested(altered(home, "model", kept), curves={"124": [point]})

    return build


def own_score(folder: Path) -> float:
    [scores] = [x for x in record_of(make_folder(folder)).chain if isinstance(x, ScoresRecord)]
    return scores.results.aggregates["bits_per_byte"].value


def constant(value: float) -> Callable[[np.ndarray], Any]:
    return lambda values: np.full(len(values), value)


BIG = {"scale": "100m", "rows": 4}  # 60 seconds of the fastest device there is, a day of others
PAIRS = {"benchmark": "datacomp", "rows": 400}
BIG_IMAGES = {"benchmark": "ambient", "scale": "large", "rows": 40}
EARLY = {"started": "2024-11-01T10:00:00Z", "finished": "2024-11-01T11:00:00Z"}
LATE = {"started": "2026-11-02T05:00:00Z", "finished": "2026-11-02T06:00:00Z"}

FRAUDS: dict[str, tuple[str, str, Build]] = {
    # what lies elsewhere
    "a checkpoint that is another model's": (
        *("form.manifest", "checkpoints.124.sha256"),
        another_checkpoint,
    ),
    "a dataset that is another one": (
        *("form.manifest", "dataset.sha256"),
        lying_at(sha256=sha("better")),
    ),
    "a dataset of less than nothing": (
        "form.manifest",
        "dataset.num_bytes",
        lying_at(num_bytes=-5),
    ),
    "an address that turns direction": (
        *("form.manifest", "dataset.location"),
        lying_at(location="https://example.org/\u202egpj.exe"),
    ),
    "an address behind another one": (
        *("form.manifest", "dataset.location"),
        lying_at(location="https://example.org@evil.example/data"),
    ),
    "a manifest that two readers read otherwise": ("form.manifest", "bundle.json", written_twice),
    # the chain
    "scores under another seed": (
        *("lineage.seeds", "parents.scores/125"),
        parents(lambda known: {"scores/125": known["scores/124"]}),
    ),
    "scores under two roles": (
        *("lineage.seeds", "parents.trophy"),
        parents(lambda known: known | {"trophy": known["scores/124"]}),
    ),
    "an asset that no step used": ("form.chain", "asset", with_asset(used=False)),
    "scores from before the model": ("form.record", "finished", made_by("scores", **EARLY)),
    "a model from before its data": ("form.record", "finished", made_by("model", **EARLY)),
    # the evaluation
    "more questions than were asked": (
        *("form.record", "counts.questions"),
        record("scores", put("counts", "questions", value=10**6)),
    ),
    "an option that no evaluation has": (
        *("form.record", "work.parameters.few_shot"),
        record("scores", put("work", "parameters", "few_shot", value=50)),
    ),
    "one resample in place of a thousand": (
        *("form.record", "bootstrap_draws"),
        record("scores", put("work", "parameters", "bootstrap_draws", value=1)),
    ),
    "a null model's answers": (
        *("form.record", "work.parameters.model"),
        record("scores", put("work", "parameters", "model", value={"null": "longest"})),
    ),
    # mixtures
    "a mixture of nothing": ("lineage.dataset", "mix.sources", mixture({})),
    "a mixture of a word": ("lineage.dataset", "mix.sources", mixture({"sources": "all"})),
    "a source less than never": (
        *("lineage.dataset", "mix.sources[0]"),
        mixture({"seed": 0, "sources": [source(repeat=-1.0)]}),
    ),
    "a source that is no dataset": (
        *("lineage.dataset", "mix.sources[0]"),
        mixture({"seed": 0, "sources": [source(record="the test set")]}),
    ),
    "a source twice": (
        *("lineage.dataset", "mix.sources[1]"),
        mixture({"seed": 0, "sources": [source(), source()]}),
    ),
    "freight in a source": (
        *("lineage.dataset", "mix.sources[0]"),
        mixture({"seed": 0, "sources": [source(note="x" * 5000)]}),
    ),
    "all sources never": (
        *("lineage.dataset", "mix.sources"),
        mixture({"seed": 0, "sources": [source(repeat=0.0)]}),
    ),
    "a mixture with steps beside it": (
        *("lineage.dataset", "work.pipeline"),
        mixture(
            {"seed": 0, "sources": [source()]},
            pipeline={"steps": []},
            counts={"rows_in": 1_000_000},
        ),
    ),
    "a mixture that rejected rows": (
        *("lineage.dataset", "counts"),
        mixture({"seed": 0, "sources": [source()]}, counts={"rejected/1/a/b": 3}),
    ),
    # the dataset
    "code that the record does not carry": (
        *("lineage.dataset", "step 1"),
        lambda folder: make_folder(folder, steps=OWN_CODE),
    ),
    "code under another file's name": (
        *("lineage.dataset", "step 1"),
        record("dataset", carried("other.py"), steps=OWN_CODE),
    ),
    "an operator that there is not": (
        *("lineage.dataset", "step 1"),
        lambda folder: make_folder(folder, steps=[{"operator": "oracle", "parameters": {}}]),
    ),
    "a pool of nothing": (
        "lineage.pool",
        "work.sources",
        record("pool", put("work", "sources", value=[])),
    ),
    "rows left out in packing": (
        *("lineage.dataset", "counts.documents"),
        record("packed", put("counts", "documents", value=1000)),
    ),
    "packed data of no tokens": (
        *("lineage.dataset", "counts"),
        record("packed", put("counts", "tokens", value=0)),
    ),
    # training
    "a day of training in a second": (
        *("lineage.recipe", "made_by.figures.seconds"),
        trained(BIG, seconds=1.0),
    ),
    "a training run of no time": (
        *("lineage.recipe", "made_by.figures"),
        trained({}, seconds=0.0),
    ),
    "months of images in a minute": (
        *("lineage.recipe", "made_by.figures.seconds"),
        made_by("model", BIG_IMAGES, figures={"processes": 8.0, "seconds": 60.0, "resumed": 0.0}),
    ),
    # logs
    "one loss a byte for every text": (
        *("arithmetic", "nats"),
        log("dclm", "perplexity", nats=constant(500.0), num_bytes=constant(1000)),
    ),
    "texts known by heart": (
        *("arithmetic", "nats"),
        log("dclm", "perplexity", nats=lambda values: values * 1e-3),
    ),
    "losses of no token": (
        *("arithmetic", "num_tokens"),
        log("dclm", "perplexity", num_tokens=lambda values: 0 * values),
    ),
    "one distance for every image": (
        *("arithmetic", "train_distance"),
        log("ambient", "image_memorisation", train_distance=constant(1.0)),
    ),
    "frames that all move alike": (
        *("arithmetic", "moved"),
        log("ambient", "image_clip", moved=constant(1e-6)),
    ),
    "one error for every restoration": (
        *("arithmetic", "error"),
        log("ambient", "image_restoration", error=constant(0.1), mse=constant(4e-3)),
    ),
    "a curve that ends better than the model": ("form.curves", "curves.124", ending_at(1.0)),
    # names
    "a name with a line through it": (
        *("names.plain", "work.method"),
        lambda folder: make_folder(folder, method="n\u0336o\u0336_filter"),
    ),
}


@pytest.mark.parametrize("name", FRAUDS)
def test_an_edit_is_refused_by_its_rule(name: str, tmp_path: Path) -> None:
    rule, field, build = FRAUDS[name]
    refused(build(tmp_path), rule, field)


HONEST: dict[str, Build] = {
    "a checkpoint of the record": lambda folder: make_folder(folder, checkpoint=CHECKPOINT),
    "a dataset at an address": lying_at(num_bytes=10**12),
    "an address with a port and a bucket": lying_at(location="s3://bucket/a folder/\u00fc"),
    "an asset of a step": with_asset(used=True),
    "code that travels": record("dataset", carried("own.py"), steps=OWN_CODE),
    "steps of another platform, on the track of any data": lambda folder: make_folder(
        folder, track="mixing", steps=[{"operator": "of others", "parameters": {"x": 1}}]
    ),
    "clocks that differ by hours": made_by("packed", **LATE),
    "a mixture of two": mixture({"seed": 0, "sources": [source(), source(name="code", repeat=2)]}),
    "parts of one source": mixture(
        {"seed": 0, "sources": [source(by={"column": "lang"}, part=p) for p in ("de", "fr")]}
    ),
    "an hour on many GPUs": trained(BIG, seconds=600.0, num_processes=256.0),
    "a run that was resumed near its end": trained(BIG, seconds=6.0, first_step=2_000.0),
    "images that were resumed": made_by(
        "model", BIG_IMAGES, figures={"processes": 8.0, "seconds": 60.0, "resumed": 1.0}
    ),
    "a run without figures": made_by("model", BIG, figures={}),
    "a curve that ends at the model": lambda folder: ending_at(own_score(folder / "a"))(folder),
    "settings of another kind of model": record(
        "scores", put("work", "parameters", "model", value={"precision": "bf16", "path": "exact"})
    ),
    "a thousand resamples, as it says": record(
        "scores", put("work", "parameters", "bootstrap_draws", value=1000)
    ),
    "pairs whose addresses are dead": record(
        "packed", put("counts", "samples", value=21_000), **PAIRS
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_what_comes_near_a_rule_passes(name: str, tmp_path: Path) -> None:
    verdict = checked(HONEST[name](tmp_path))
    assert verdict.faults == ()
    assert verdict.measured is not None


# ---- shown to the reviewer


def notices(folder: Path, rule: str) -> list[str]:
    verdict = checked(folder)
    assert verdict.faults == ()
    return [notice.text for notice in verdict.notices if notice.rule == rule]


ALL = ("heldout_bits_per_byte", "heldout_ending", "heldout_next_sentence")


@pytest.mark.parametrize(
    ("overlap", "words"),
    [
        ({}, "overlap was not measured: heldout_bits_per_byte, heldout_next"),
        ({task: OverlapOf(num_items=0) for task in ALL}, "of 0 of its 60 items alone"),
        (
            {task: OverlapOf(num_items=60, num_too_short=60) for task in ALL},
            "of 0 of its 60 items alone",
        ),
    ],
)
def test_an_overlap_of_nothing_is_told(
    overlap: dict[str, OverlapOf], words: str, tmp_path: Path
) -> None:
    texts = notices(make_folder(tmp_path, overlap=overlap), "honesty.unmeasured")
    assert any(words in text for text in texts), texts


def test_a_whole_overlap_is_told_nothing_of(tmp_path: Path) -> None:
    whole = {task: OverlapOf(num_items=60, num_too_short=5) for task in ALL}
    assert notices(make_folder(tmp_path, overlap=whole), "honesty.unmeasured") == []


def test_pairs_that_were_not_packed_are_told(tmp_path: Path) -> None:
    build = record("packed", put("counts", "samples", value=21_000), **PAIRS)
    [text] = notices(build(tmp_path), "honesty.pool")
    assert text == "21,000 of the 30,000 pairs of the dataset were packed (70.0%)"


def test_steps_that_nobody_can_repeat_are_told(tmp_path: Path) -> None:
    steps = [{"operator": "stop_words", "parameters": {"min_stop_words": "many"}}]
    [text] = notices(make_folder(tmp_path, steps=steps), "honesty.pipeline")
    assert text.startswith("cannot be repeated: ")


def test_files_of_steps_without_a_record_are_told(tmp_path: Path) -> None:
    def named(fields: Fields) -> None:
        fields["work"]["assets"] = [{"name": "words.bin", "sha256": sha("words")}]

    folder = altered(make_folder(tmp_path / "a"), "dataset", named)
    [text] = notices(folder, "honesty.assets")
    assert text == "no record says how these files of steps were made: words.bin"
    assert notices(with_asset(used=True)(tmp_path / "b"), "honesty.assets") == []


def test_choices_without_losses_are_told(tmp_path: Path) -> None:
    [text] = notices(make_folder(tmp_path), "honesty.evidence")
    assert text.startswith(
        "no losses are shown of what was chosen: heldout_ending, heldout_next_sentence; "
    )


def test_a_key_is_twice_in_one_object_alone() -> None:
    assert repeated_key(b'{"a": {"b": 1}, "c": {"b": 2}}') is None
    assert repeated_key(b'{"a": [{"b": 1, "x": 0, "b": 2}]}') == "b"


def test_there_are_enough() -> None:
    assert len(FRAUDS) >= 30
    assert len(HONEST) >= 12
