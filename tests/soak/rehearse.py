"""A whole round at real scale, with little data: `make rehearsal`.

Both benchmarks at their unranked scale `rehearsal`, everything but the sizes real: WARC files and a
pool of pairs in a bucket of an S3 server, a Ray cluster of a head and two nodes that declare a GPU
each, `extract`, then one `run` command for the round, whose driver is killed once in every stage
and started again; one node leaves while a dataset is curated. The bundles go to a running service
that is killed while they come in, are accepted by its rules and reviewer, and are on its board with
their lineage back to the pool. Then checkpoints are evaluated, and every kind of image task.

Every driver is killed once in its middle, which is read from what it leaves (`drivers.py`); one
that had ended by then fails the rehearsal. What was committed before a kill must be there unchanged
in the end. Ids of pools and datasets are those in `rehearsal/ids.yaml`, which no kill may change.

Prints one table: what each stage took and where it ran; next to it the plan's projection for the
real scale. Ends with 1 and names the stage when one fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import yaml  # noqa: E402
from botocore.exceptions import ClientError  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from pipelines.storage.base import Store  # noqa: E402
from pipelines.storage.open import open_store  # noqa: E402
from tests.s3_server import S3Server  # noqa: E402
from tests.soak.drivers import Moment  # noqa: E402
from tests.soak.rehearsal_base import (  # noqa: E402
    BUCKET,
    OBJECT_STORE_BYTES,
    SCALE,
    WORKSPACE,
    Rehearsal,
    RehearsalFailed,
    add_node,
    commits_in,
    say,
    scratch,
    size_of,
    stop,
    upload,
    wait_for,
)
from tests.soak.rehearsal_board import show_on_board  # noqa: E402

PIPELINES = Path(__file__).parent / "rehearsal"
PIPELINE_NAMES = {"dclm": "rehearsal_text", "datacomp": "rehearsal_pairs"}
REAL = {"dclm": "400m-1x", "datacomp": "small"}
PARTS = ("pools", "extract", "dclm", "datacomp", "checkpoints", "images")
CALM_TASKS = ("mnist", "camelyon17")
"""Of the generated tasks, two that were in work when the driver was killed."""


# ---- pools


def prepare(rehearsal: Rehearsal, base: Path, warc: Path | None) -> None:
    """The pools of the tiny scale as files of a bucket, and generated image tasks."""
    pools, assets = base / "pools", base / "assets"
    images = images_of(rehearsal)
    tiny = ("--scale", "tiny", "--workspace", str(base))
    few = ("--images", "32", "--json")  # of each task: minutes less than with the default of 64
    num_tasks = len(yaml.safe_load((PIPELINES / "images.yaml").read_text())["tasks"])
    commands = (
        (
            ("dclm", "pool", *tiny, "--json"),
            Moment(
                lambda: any(pools.glob("dclm-tiny/done/*.json")),
                (pools / "dclm-tiny" / "record.json").exists,
            ),
        ),
        (
            ("datacomp", "pool", *tiny, "--json"),
            Moment(
                lambda: any(pools.glob("datacomp-tiny/shards/*.tar")),
                (pools / "datacomp-tiny" / "record.json").exists,
            ),
        ),
        (
            ("dclm", "train-quality", *tiny),
            Moment(
                lambda: any(assets.glob("tiny-quality.bin.work/**/*.json")),
                (assets / "tiny-quality.bin.record.json").exists,
            ),
        ),
        (
            ("evals", "synthetic", str(PIPELINES / "images.yaml"), "--out", str(images), *few),
            Moment(
                lambda: any(images.glob("*/test/nshards.txt")),
                lambda: len(list(images.glob("*/test/nshards.txt"))) == num_tasks,
                look_seconds=0.002,
            ),
        ),
    )
    with rehearsal.measured("pools into the bucket", "this machine") as row:
        for arguments, moment in commands:
            rehearsal.call_killed(row, *arguments, moment=moment)
        row.num_bytes = upload(pools / "dclm-tiny" / "sources" / "warc", f"s3://{BUCKET}/warc")
        if warc is not None:
            row.num_bytes += upload(warc, f"s3://{BUCKET}/warc", pattern="*.warc.gz")
        for pattern in ("record.json", "metadata/*", "shards/*"):
            row.num_bytes += upload(
                pools / "datacomp-tiny", f"{WORKSPACE}/pools/datacomp-{SCALE}", pattern=pattern
            )
        shutil.copytree(assets, rehearsal.desk / "assets", dirs_exist_ok=True)


def images_of(rehearsal: Rehearsal) -> Path:
    return rehearsal.folder / "image-tasks"


def extract(rehearsal: Rehearsal) -> None:
    """WARC files of the bucket into the pool of the scale, the driver killed once."""
    store = open_store(f"{WORKSPACE}/pools/dclm-{SCALE}")
    with rehearsal.measured("dclm extract", "Ray tasks") as row:
        rehearsal.call_killed(
            row,
            *("dclm", "extract", "--input", f"s3://{BUCKET}/warc"),
            *("--out", f"{WORKSPACE}/pools/dclm-{SCALE}", "--name", "rehearsal", "--quarantine"),
            *("--cluster", rehearsal.cluster.address),
            moment=Moment(lambda: any(store.list("done/")), lambda: store.exists("record.json")),
            committed=lambda: commits_in(store),
        )
        row.num_bytes = size_of(store, "")


# ---- a round


def moment_of(stage: str, store: Store) -> Moment:
    """The middle of a stage of a round: it has left objects, and its record is not there."""
    folder = {"curate": "dataset/", "pack": "packed-", "train": "model-", "evaluate": "scores-"}
    homes = {name.split("/")[0] for name in names_in(store) if name.endswith("dataset/record.json")}
    prefix = f"{homes.pop()}/{folder[stage]}" if homes else ""  # what is listed: less is faster

    def own() -> list[str]:
        return [e.name for e in store.list(prefix) if f"/{folder[stage]}" in e.name]

    def ended() -> bool:
        return any(name.endswith("/record.json") for name in own())

    def begun() -> bool:
        if stage == "train":  # before the first there is nothing to resume
            return any(name.endswith("snapshot.json") for name in own())
        return bool(own())

    return Moment(begun, ended, look_seconds=0.02 if stage == "pack" else 0.2)


def names_in(store: Store) -> set[str]:
    return {entry.name for entry in store.list()}


def submitting(rehearsal: Rehearsal) -> Moment:
    """The middle of a submission: some of its files are written, and the last is not."""
    folder = rehearsal.desk / "submissions"
    before = {path.name for path in folder.glob("*")}

    def new(pattern: str) -> bool:
        return any(path.relative_to(folder).parts[0] not in before for path in folder.glob(pattern))

    return Moment(
        lambda: new("*/questions/*/*"), lambda: new("*/submission.json"), look_seconds=0.002
    )


def is_submitted(rehearsal: Rehearsal, benchmark: str) -> bool:
    records = (rehearsal.desk / "submissions").glob("*/submission.json")
    return any(json.loads(path.read_bytes())["work"]["benchmark"] == benchmark for path in records)


def play(rehearsal: Rehearsal, benchmark: str, arguments: Sequence[str]) -> None:
    """One `run` command, killed once in each of its stages and started again until it is done."""
    store = open_store(f"{WORKSPACE}/{benchmark}-{SCALE}")
    where = {
        "curate": "Ray tasks; a node left" if benchmark == "dclm" else "Ray tasks",
        "pack": "Ray tasks",
        "train": "Ray Train, 2 processes",
        "evaluate": "Ray tasks",
    }
    process = rehearsal.start(*arguments)
    try:
        for stage in where:
            with rehearsal.measured(f"{benchmark} {stage}", where[stage]) as row:
                moment = moment_of(stage, store)
                if not (rehearsal.resumed and moment.ended()):
                    rehearsal.kill(row.stage, process, moment)
                    row.restarts += 1
                    if stage == "curate" and benchmark == "dclm":
                        rehearsal.cluster.remove_node(rehearsal.nodes.pop())
                        rehearsal.nodes.append(add_node(rehearsal.cluster))
                    process = rehearsal.start(*arguments)
                wait_for(moment.ended, row.stage, process)
                folder = {"curate": "dataset/", "pack": "packed-", "train": "model-"}
                part = folder.get(stage, "scores-")
                row.num_bytes = sum(e.num_bytes for e in store.list() if f"/{part}" in e.name)
        with rehearsal.measured(f"{benchmark} submit", "this machine") as row:
            if not (rehearsal.resumed and is_submitted(rehearsal, benchmark)):
                rehearsal.kill(row.stage, process, submitting(rehearsal))
                row.restarts += 1
                process = rehearsal.start(*arguments)
            rehearsal.finish(row.stage, process)
    finally:
        stop(process)


def check_ids(rehearsal: Rehearsal, names: Mapping[str, str]) -> None:
    """The ids of what was made must be those of a run that nothing disturbed: rehearsal/ids.yaml.

    `names`: what is compared to the place of its record.
    """
    expected = yaml.safe_load((PIPELINES / "ids.yaml").read_text())
    for name, uri in names.items():
        store = open_store(uri)
        id_ = json.loads(store.read_bytes("record.json"))["id"]
        say(f"{name}: {id_[:8]}")
        if id_ != expected[name]:
            raise RehearsalFailed(f"{name}: its id is {id_}, undisturbed it is {expected[name]}")


def datasets_of(benchmark: str) -> dict[str, str]:
    """Where the dataset and the packed data of a benchmark are."""
    root = f"{WORKSPACE}/{benchmark}-{SCALE}"
    folders = [n.removesuffix("/record.json") for n in names_in(open_store(root)) if is_data(n)]
    return {
        f"{benchmark} {folder.rpartition('/')[2].partition('-')[0]}": f"{root}/{folder}"
        for folder in sorted(folders)
    }


def is_data(name: str) -> bool:
    return name.endswith("/record.json") and ("/dataset/" in name or "/packed-" in name)


# ---- models


def is_model(name: str) -> bool:
    return name.endswith("/record.json") and "/model-" in name


def model_of(benchmark: str) -> str:
    """Where the trained model of a benchmark is."""
    store = open_store(f"{WORKSPACE}/{benchmark}-{SCALE}")
    [model] = [e.name.rpartition("/")[0] for e in store.list() if is_model(e.name)]
    return f"{store.uri}/{model}"


def show_curve(rehearsal: Rehearsal, base: Path) -> None:
    """The text model's weights on the way by held-out text: a value for each part.

    The driver is killed within the second of them; an undisturbed evaluation of it, by one process,
    must give the same record.
    """
    store = open_store(f"{WORKSPACE}/curve")
    data = base / "pools" / "dclm-tiny" / "eval"
    what = ("--suite", str(PIPELINES / "curve.yaml"), "--data", str(data))

    def folders(suffix: str) -> set[str]:
        return {n.split("/")[0] for n in names_in(store) if n.endswith(suffix)}

    with rehearsal.measured("dclm checkpoints", "Ray tasks, a GPU each") as row:
        killed: list[str] = []

        def in_work() -> bool:
            done = folders("/record.json")
            killed[:] = sorted({n.split("/")[0] for n in names_in(store) if "/done/" in n} - done)
            return bool(done and killed)

        text = rehearsal.call_killed(
            row,
            *("dclm", "evaluate", model_of("dclm"), "--checkpoint", "all", *what),
            *("--out", store.uri, "--cluster", rehearsal.cluster.address, "--json"),
            moment=Moment(in_work, lambda: "final" in folders("/record.json")),
            committed=lambda: commits_in(store),
        )
        values = [value["bits_per_byte"] for value in json.loads(text)]
        if len(values) != 5 or values[-1] >= values[0]:
            raise RehearsalFailed(f"{row.stage}: expected five falling values, got {values}")
        for checkpoint in killed:
            calm = rehearsal.folder / "curve" / checkpoint
            rehearsal.call(
                row.stage,
                *("dclm", "evaluate", model_of("dclm"), "--checkpoint", checkpoint, *what),
                *("--out", str(calm), "--json"),
            )
            compare_records(row.stage, f"{store.uri}/{checkpoint}", str(calm))


def compare_records(stage: str, killed: str, calm: str) -> None:
    ids = [json.loads(open_store(uri).read_bytes("record.json"))["id"] for uri in (killed, calm)]
    if ids[0] != ids[1]:
        raise RehearsalFailed(f"{stage}: {killed} is {ids[0]}, undisturbed it is {ids[1]}")


def measure_generated(rehearsal: Rehearsal) -> None:
    """Every kind of image task, on generated folders, by workers that have a GPU each.

    The driver is killed when a task is done; an undisturbed evaluation of tasks that were in work
    then, by one process, must give the same answers.
    """
    store = open_store(f"{WORKSPACE}/generated")
    images = images_of(rehearsal)
    with rehearsal.measured("datacomp generated tasks", "Ray tasks, a GPU each") as row:
        rehearsal.call_killed(
            row,
            *("datacomp", "evaluate", model_of("datacomp")),
            *("--suite", str(PIPELINES / "images.yaml"), "--data", str(images)),
            *("--out", store.uri, "--cluster", rehearsal.cluster.address, "--json"),
            moment=Moment(lambda: any(store.list("done/")), lambda: store.exists("record.json")),
            committed=lambda: commits_in(store),
        )
        suite = yaml.safe_load((PIPELINES / "images.yaml").read_text())
        suite |= {"tasks": list(CALM_TASKS)}
        suite["aggregates"][0]["tasks"] = list(CALM_TASKS)
        calm = rehearsal.folder / "generated"
        calm.mkdir(exist_ok=True)
        (calm / "suite.yaml").write_text(yaml.safe_dump(suite))
        rehearsal.call(
            row.stage,
            *("datacomp", "evaluate", model_of("datacomp")),
            *("--suite", str(calm / "suite.yaml"), "--data", str(images)),
            *("--out", str(calm / "scores"), "--json"),
        )
        compare_answers(row.stage, store, open_store(str(calm / "scores")))


def compare_answers(stage: str, killed: Store, calm: Store) -> None:
    """Every commit of an undisturbed evaluation must be in the other with the same checksums."""
    commits = {name: json.loads(data) for name, data in commits_in(calm).items()}
    others = {name: json.loads(data) for name, data in commits_in(killed).items()}
    for name, commit in commits.items():
        sums = [
            sorted(file["sha256"] for file in done["files"])
            for done in (commit, others.get(name, {"files": []}))
        ]
        if not sums[0] or sums[0] != sums[1]:
            raise RehearsalFailed(f"{stage}: {killed.uri}/{name} has other answers than {calm.uri}")
    if len(commits) != len(CALM_TASKS):
        raise RehearsalFailed(f"{stage}: {len(commits)} commits of {len(CALM_TASKS)} tasks")


# ---- all of it


def rehearse(
    rehearsal: Rehearsal, *, data: Path, base: Path, warc: Path | None, parts: Sequence[str]
) -> None:
    rounds = (
        ("dclm", PIPELINES / "text.yaml", data),
        ("datacomp", PIPELINES / "pairs.yaml", base / "pools" / "datacomp-tiny" / "eval"),
    )
    if "pools" in parts:
        prepare(rehearsal, base, warc)
        check_ids(rehearsal, {f"{b} pool": str(base / "pools" / f"{b}-tiny") for b, *_ in rounds})
    if "extract" in parts:
        extract(rehearsal)
        if warc is None:
            check_ids(rehearsal, {"dclm extracted": f"{WORKSPACE}/pools/dclm-{SCALE}"})
    for benchmark, pipeline, tasks in rounds:
        if benchmark not in parts:
            continue
        arguments = (
            *(benchmark, "run", "--scale", SCALE, "--pipeline", str(pipeline)),
            *("--workspace", WORKSPACE, "--data", str(tasks), "--team", "rehearsal"),
            *("--cluster", rehearsal.cluster.address, "--processes", "2"),
        )
        play(rehearsal, benchmark, arguments)
        if warc is None or benchmark == "datacomp":
            check_ids(rehearsal, datasets_of(benchmark))
        show_on_board(rehearsal, benchmark, PIPELINE_NAMES[benchmark])
    if "checkpoints" in parts:
        show_curve(rehearsal, base)
    if "images" in parts:
        measure_generated(rehearsal)


def projection(rehearsal: Rehearsal, benchmark: str) -> str:
    """The plan of the real scale, as its command prints it."""
    return rehearsal.call("plan", benchmark, "plan", "--scale", REAL[benchmark], "--gpus", "8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the text tasks' data")
    parser.add_argument("--warc", type=Path, help="folder with more WARC files for the pool")
    parser.add_argument("--workspace", type=Path, default=ROOT / "build" / "rehearsal")
    parser.add_argument("--base", type=Path, help="workspace with the tiny pools; default: its own")
    parser.add_argument(
        "--resume", action="store_true", help="keep what an earlier rehearsal left, do the rest"
    )
    parser.add_argument(
        "--only", choices=PARTS, action="append", help="this part, on what others left (--resume)"
    )
    given = parser.parse_args()
    folder = given.workspace.resolve()
    if not given.resume:
        shutil.rmtree(folder / "run", ignore_errors=True)
        if given.base is None:
            shutil.rmtree(folder / "base", ignore_errors=True)
    (folder / "run" / "s3").mkdir(parents=True, exist_ok=True)
    (folder / "run" / "board.db").unlink(missing_ok=True)
    server = S3Server(folder / "run" / "s3")
    server.start()
    os.environ.update(server.environment | scratch(folder / "run"))
    with contextlib.suppress(ClientError):  # it is there when resumed
        server.client().create_bucket(Bucket=BUCKET)  # type: ignore[attr-defined]
    head = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [add_node(cluster) for _ in range(2)]
        cluster.wait_for_nodes()
        resumed = given.resume or given.base is not None
        rehearsal = Rehearsal(folder / "run", server, cluster, nodes, resumed=resumed)
        base = (given.base or folder / "base").resolve()
        try:
            rehearse(
                rehearsal,
                data=given.data.resolve(),
                base=base,
                warc=given.warc,
                parts=given.only or PARTS,
            )
        except RehearsalFailed as error:
            say(rehearsal.report())
            sys.exit(f"the rehearsal failed at {error}")
        say(rehearsal.report())
        for benchmark, scale in REAL.items():
            say(f"\n{benchmark} at {scale}, as planned:\n{projection(rehearsal, benchmark)}")
    finally:
        cluster.shutdown()
        server.stop()


if __name__ == "__main__":
    main()
