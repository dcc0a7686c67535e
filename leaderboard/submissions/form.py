"""Form: the claim, the chain of records, and exactly the files that the rules name.

What the records themselves may hold is in `record_form`, what the logs may hold in `logs`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from evals.pins import pin_of
from evals.tasks import load_task
from leaderboard.rules import load_benchmark
from leaderboard.submissions import uids
from leaderboard.submissions.bundle import MANIFEST, RECORD, UIDS, Bundle, Place
from leaderboard.submissions.case import Case, official_suite
from leaderboard.submissions.chain import PARENT_OF
from leaderboard.submissions.counts import ROUNDED, is_mixture
from leaderboard.submissions.curves import kept_on_the_way
from leaderboard.submissions.faults import BundleError, Fault, Words, fault
from leaderboard.submissions.logs import check_form, read_parquet
from leaderboard.submissions.record_form import MAX_COUNT, is_printable
from pipelines.errors import RuleError

MAX_TEXT = {"method": 120, "team": 120, "url": 500}
PUBLIC = ("https://", "http://", "s3://", "hf://", "gs://")
MAX_TRIES = 1_000_000  # a larger count is not plausible
MAX_ADDRESS = 2000  # characters: longer ones fail in browsers and proxies


def manifest(bundle: Bundle) -> Iterator[Fault]:
    """Every file is listed, with its size, and no other file exists."""
    claimed = bundle.manifest
    if claimed.format != 1:
        yield fault(MANIFEST, "format", claimed.format, 1)
    if claimed.submission != bundle.record.id:
        yield fault(MANIFEST, "submission", claimed.submission, bundle.record.id)
    listed = {file.name: file for file in claimed.files}
    if len(listed) != len(claimed.files):
        yield fault(MANIFEST, "files", Words("a file twice"), Words("each once"))
    there = set(bundle.sizes) - {MANIFEST}
    for name in sorted(there - set(listed)):
        yield fault(MANIFEST, "files", Words(f"{name} is not listed"), Words("every file"))
    for name, file in sorted(listed.items()):
        if name not in there:
            yield fault(MANIFEST, "files", Words(f"{name}, which is not there"), Words("its bytes"))
        elif bundle.sizes[name] != file.num_bytes:
            yield fault(name, "size", bundle.sizes[name], file.num_bytes)
    try:
        known = official_suite(
            load_benchmark(bundle.record.work.benchmark), bundle.record.work.scale
        )
    except RuleError:
        return  # the claim is checked next
    for task in sorted(set(claimed.overlap or {}) - set(known.tasks)):
        expected = Words(f"a task of suite {known.name}")
        yield fault(MANIFEST, f"overlap.{task}", Words("a task of another suite"), expected)
    for seed in claimed.checkpoints:
        if f"scores/{seed}" not in bundle.record.parents:
            problem = Words("a seed without scores")
            yield fault(MANIFEST, f"checkpoints.{seed}", problem, list(bundle.record.parents))
    for name, there_ in [("dataset", claimed.dataset), *claimed.checkpoints.items()]:
        yield from _place(name, there_)
    for name in (MANIFEST, RECORD):
        twice = repeated_key(bundle.read(name))
        if twice is not None:
            problem = Words(f"the key {twice!r} twice in one object")
            yield fault(name, "", problem, Words("each once: readers differ in which they take"))


def _place(name: str, claimed: Place) -> Iterator[Fault]:
    """A location is a public printable URL without user name, and a size is not negative."""
    address = claimed.location
    if address and not address.startswith(PUBLIC):
        yield fault(MANIFEST, f"{name}.location", address, list(PUBLIC))
    elif address and (not is_printable(address, most=MAX_ADDRESS) or _has_user(address)):
        expected = Words("an address of printable letters, without a name before its host")
        yield fault(MANIFEST, f"{name}.location", address, expected)
    if claimed.num_bytes is not None and not 0 <= claimed.num_bytes <= MAX_COUNT:
        yield fault(MANIFEST, f"{name}.num_bytes", claimed.num_bytes, Words("0 or more"))


def _has_user(address: str) -> bool:
    """Whether a URL has a user name, as `https://good.example@evil.example/`."""
    return address.startswith("http") and "@" in address.split("/")[2]


def repeated_key(data: bytes) -> str | None:
    """A key that occurs twice in an object of a JSON text; None if there is none."""
    repeated: list[str] = []

    def pairs(items: list[tuple[str, object]]) -> None:
        if len({key for key, _ in items}) < len(items):
            keys = [key for key, _ in items]
            repeated.append(next(key for key in keys if keys.count(key) > 1))

    json.loads(data, object_pairs_hook=pairs)
    return repeated[0] if repeated else None


def places(case: Case) -> Iterator[Fault]:
    """Hashes of linked checkpoints and datasets are those of the files in their records."""
    assert case.bundle is not None
    claimed = case.bundle.manifest
    models = {str(model.work.seed): model.outputs for model in case.models}
    named = [
        (f"checkpoints.{s}", there, models.get(s, ())) for s, there in claimed.checkpoints.items()
    ]
    named.append(("dataset", claimed.dataset, (*case.dataset.outputs, *case.packed.outputs)))
    for name, there, files_ in named:
        known = {file.sha256: file.num_bytes for file in files_}
        if name == "dataset" and claimed.uids is not None:
            known[claimed.uids.sha256] = there.num_bytes or 0
        if there.sha256 and there.sha256 not in known:
            expected = Words("the sha256 of a file that its record names")
            yield fault(MANIFEST, f"{name}.sha256", there.sha256, expected)
        elif there.sha256 and there.num_bytes not in (None, known[there.sha256]):
            yield fault(MANIFEST, f"{name}.num_bytes", there.num_bytes, known[there.sha256])


def claim(case: Case) -> Iterator[Fault]:
    """Benchmark, version, scale and track exist; texts are short and printable."""
    work, book = case.record.work, case.book
    if work.benchmark != book.name:
        yield fault(RECORD, "work.benchmark", work.benchmark, book.name)
        return
    if work.benchmark_version != book.version:
        yield fault(RECORD, "work.benchmark_version", work.benchmark_version, book.version)
    scales, tracks = ([rule.name for rule in these] for these in (book.scales, book.tracks))
    for field, name, known in (("scale", work.scale, scales), ("track", work.track, tracks)):
        if name not in known:
            yield fault(RECORD, f"work.{field}", name, known)
    if work.scale in scales and work.track in tracks:
        here = list(book.tracks_of(work.scale))
        if work.track not in here:
            yield fault(RECORD, "work.track", work.track, here, f"those of scale {work.scale}")
    if not work.method.strip():
        yield fault(RECORD, "work.method", work.method, Words("a name"))
    for field, most in MAX_TEXT.items():
        value: str = getattr(work, field)
        if len(value) > most:
            yield fault(RECORD, f"work.{field}", value, Words(f"at most {most} characters"))
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
            yield fault(RECORD, f"work.{field}", value, Words("a text without control characters"))
    if work.url and not re.fullmatch(r"https?://[!-~]+", work.url):
        yield fault(RECORD, "work.url", work.url, Words("an address that starts with https://"))
    elif "@" in work.url.split("/")[2] if work.url else False:
        yield fault(
            RECORD, "work.url", work.url, Words("an address without a name before its host")
        )
    if work.tries is not None and not 1 <= work.tries <= MAX_TRIES:
        yield fault(RECORD, "work.tries", work.tries, Words(f"1 to {MAX_TRIES:,}"))


def links(case: Case) -> Iterator[Fault]:
    """Each record's parents exist and have the right kind; all descend from one pool."""
    record, kinds = case.record, case.kinds
    known = {link.id: link for link in record.chain}
    if len(known) != len(record.chain):
        yield fault(RECORD, "chain", Words("a record twice"), Words("each once"))
    for kind in ("pool", "dataset", "packed"):
        if len(kinds.get(kind, [])) != 1:
            yield fault(RECORD, "chain", Words(f"{len(kinds.get(kind, []))} {kind} records"), 1)
    for role, id_ in record.parents.items():
        if id_ not in known or known[id_].kind != "scores":
            yield fault(RECORD, f"parents.{role}", id_, Words("a scores record of the chain"))
    if not record.parents:
        yield fault(RECORD, "parents", Words("nothing"), Words("scores"))
    named = set(record.parents.values())
    for scores in kinds.get("scores", []):
        if scores.id not in named:
            yield fault(
                RECORD,
                f"scores {scores.id}",
                Words("scores that are not submitted"),
                Words("only those that `parents` names"),
            )
    for scores in record.chain:
        if scores.status != "done":
            yield fault(
                RECORD,
                f"{scores.kind} {scores.id}: status",
                scores.status,
                "done",
                scores.error or "",
            )
        for role, kind in PARENT_OF.get(scores.kind, {}).items():
            parent = known.get(scores.parents.get(role, ""))
            if parent is None or parent.kind != kind:
                parent_id = scores.parents.get(role, Words("nothing"))
                yield fault(
                    RECORD,
                    f"{scores.kind} {scores.id}: parents.{role}",
                    parent_id,
                    Words(f"a {kind} record of the chain"),
                )
    yield from _assets(case)
    for id_ in sorted(set(known) - _needed(case)):
        yield fault(
            RECORD,
            f"{known[id_].kind} {id_}",
            Words("a record that nothing needs"),
            Words("only what led to the scores"),
        )


def _assets(case: Case) -> Iterator[Fault]:
    """Each asset record is one that the dataset names, or a source of such an asset."""
    named = {asset.sha256 for data in case.kinds.get("dataset", []) for asset in data.work.assets}
    assets = list(case.kinds.get("asset", []))
    for _ in assets:
        for asset in assets:
            if named & {file.sha256 for file in asset.outputs}:
                named |= {source.sha256 for source in asset.work.inputs}
    for asset in assets:
        if not named & {file.sha256 for file in asset.outputs}:
            where = f"asset {asset.id}"
            yield fault(RECORD, where, Words("an asset that no step used"), Words("only those"))


def _needed(case: Case) -> set[str]:
    """The ids of all ancestors of the scores, assets included."""
    known = {link.id: link for link in case.record.chain}
    needed: set[str] = set()
    waiting = list(case.record.parents.values())
    while waiting:
        id_ = waiting.pop()
        if id_ in known and id_ not in needed:
            needed.add(id_)
            waiting += known[id_].parents.values()
    return needed | {link.id for link in case.record.chain if link.kind == "asset"}


def files(case: Case) -> Iterator[Fault]:
    """The logs of each seed and task are numbered from 0, and there is no other file."""
    bundle = case.bundle
    assert bundle is not None
    allowed = {MANIFEST, RECORD}
    if bundle.manifest.uids is not None:
        allowed.add(UIDS)
    kept = {model.work.seed: kept_on_the_way(model) for model in case.models}
    on_the_way = [sub for sub in case.checkpoints if sub.checkpoint in kept.get(sub.seed, ())]
    for logged in (case, *on_the_way):
        assert logged.bundle is not None
        allowed.add(logged.scores_file)
        for seed in logged.by_seed:
            for task in logged.suite.tasks:
                parts = logged.bundle.parts(seed, task)
                folder = logged.bundle.folder(seed, task)
                expected = [f"{folder}/{n:06d}.parquet" for n in range(len(parts))]
                if parts != expected:
                    problem = Words(next(p for p, e in zip(parts, expected, strict=True) if p != e))
                    yield fault(MANIFEST, "files", problem, Words("files numbered from 000000"))
                allowed |= set(expected)
    for name in sorted(set(bundle.sizes) - allowed):
        hint = "a bundle holds the logs of its own seeds and tasks and nothing else"
        yield fault(name, "", Words("a file that no rule names"), Words("none"), hint)


def logs(case: Case, tick: Callable[[], None]) -> Iterator[Fault]:
    """Every column of the logs is one that the rules name, and small; of checkpoints, too."""
    for logged in (case, *case.checkpoints):
        yield from _logs(logged, tick)


def _logs(case: Case, tick: Callable[[], None]) -> Iterator[Fault]:
    bundle = case.bundle
    assert bundle is not None
    for seed in case.by_seed:
        for name in case.suite.tasks:
            parts = bundle.parts(seed, name)
            if not parts:
                continue  # arithmetic reports scores that name other files
            task = load_task(name)
            pin = pin_of(name)
            ref = next((t for t in case.by_seed[seed].work.tasks if t.name == name), None)
            same = pin is not None and ref is not None and ref.identity in ("", pin.identity)
            rows = pin.rows if pin is not None and same else None
            if rows is None and task.kind != "image_retrieval":  # its rows are texts and images
                rows = task.rows
            try:
                yield from check_form(bundle, parts, task, rows=rows, tick=tick)
            except BundleError as error:
                yield from error.faults


def documents(case: Case) -> Iterator[Fault]:
    """The sketch of documents is well-formed: sorted, distinct, no larger than their number."""
    assert case.bundle is not None
    claimed = case.bundle.manifest.documents
    if claimed is None:
        return
    if case.book.dataset_format == "uids":
        yield fault(MANIFEST, "documents", Words("a list of documents"), Words("a list of uids"))
    sketch = list(claimed.sketch)
    rows_out = case.dataset.counts.get("rows_out", 0)
    most = rows_out * ROUNDED if is_mixture(case.dataset) else rows_out
    if claimed.count > most:
        expected = Words(f"at most the {rows_out:,} rows of the dataset")
        yield fault(MANIFEST, "documents.count", claimed.count, expected)
    if uids.too_dense(sketch, claimed.count):
        problem = Words(f"{len(sketch)} hashes that {claimed.count:,} documents do not have")
        expected = Words("the smallest hashes of the documents' keys")
        yield fault(MANIFEST, "documents.sketch", problem, expected)
    elif (
        sketch != sorted(set(sketch))
        or bool(sketch) != bool(claimed.count)
        or len(sketch) > claimed.count
    ):
        problem = Words(f"{len(sketch)} hashes of {claimed.count:,} documents")
        expected = Words(f"the {uids.SKETCH} smallest, sorted, each once")
        yield fault(MANIFEST, "documents.sketch", problem, expected, "make the bundle again")


def uid_list(case: Case) -> Iterator[Fault]:
    """The description of a list of uids fits the dataset's record and the sample next to it."""
    bundle = case.bundle
    assert bundle is not None
    claimed = bundle.manifest.uids
    if claimed is None and case.book.dataset_format == "uids":
        hint = "submit with --uids LIST"
        yield fault(MANIFEST, "uids", Words("nothing"), Words("the dataset's list of uids"), hint)
    if (claimed is None) != (UIDS not in bundle.sizes):
        yield fault(MANIFEST, "uids", Words("one of description and sample"), Words("both or none"))
        return
    if claimed is None:
        return
    rows_out = case.dataset.counts.get("rows_out")
    if claimed.count != rows_out:
        hint = "the count of the dataset's record"
        yield fault(MANIFEST, "uids.count", claimed.count, rows_out, hint)
    try:
        table = read_parquet(bundle, UIDS, columns=None)
    except BundleError as error:
        yield from error.faults
        return
    expected = min(claimed.count, uids.SAMPLE)
    if table.schema.remove_metadata() != uids.SCHEMA:
        yield fault(UIDS, "schema", str(table.schema), str(uids.SCHEMA))
    elif table.num_rows != expected:
        yield fault(UIDS, "rows", table.num_rows, expected)
    elif not uids.sketch_fits(table, claimed) or not uids.sketch_is_whole(claimed):
        problem = Words("a sketch that does not fit the sample of the list")
        yield fault(
            MANIFEST, "uids.sketch", problem, Words("the smallest hashes of the list's uids")
        )
