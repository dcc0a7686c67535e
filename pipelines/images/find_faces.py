"""Which faces the images of a pool's tars show, as tables that resharding blurs by.

Each tar gives a table with a row for each of its samples (`uid`, `face_bboxes`,
`face_probabilities`); `faces.json` is the map from tables to tars that `datacomp pack --blur-map`
reads. Any number of workers, a GPU each where there are any; run again to resume.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa

from pipelines import kernels
from pipelines.assets.catalogue import Assets, asset_files
from pipelines.errors import PoolError
from pipelines.execution.executors import MapTasks, Needs, Placed
from pipelines.execution.once import once
from pipelines.execution.progress import step as progress_step
from pipelines.formats.tars import is_tar, samples, tar_bytes
from pipelines.formats.writers import write_table
from pipelines.images.decode import DECODE_ERRORS, open_image, rgb
from pipelines.images.faces import BOXES
from pipelines.images.pairs import UID
from pipelines.images.sample_json import read_json
from pipelines.records import AssetRecord, AssetWork, Frozen, digest, made_by, now
from pipelines.schema import STRING
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.chain import RECORD, standing
from pipelines.storage.commits import Done, attempt_name, done_name
from pipelines.storage.open import open_store

if TYPE_CHECKING:
    from pipelines.images.face_detector import FaceDetector

MAP = "faces.json"
SUFFIXES = ("jpg", "jpeg", "png", "webp")
LIST = pa.list_(pa.list_(pa.float64()))


class TarTask(Frozen):
    """Find the faces of one tar's images."""

    uri: str
    key: str
    tars: str
    tar: str
    asset_folders: tuple[str, ...] = ()
    step: int = 0


def find_faces(tars: str, *, out: str, assets: Assets, map_tasks: MapTasks) -> AssetRecord:
    """Detect the faces of all samples of the tars in a folder; tables and a map go to `out`.

    A sample whose image is missing or does not decode is counted and has no faces, one without a
    uid is counted and has no row. PoolError when there is no sample, AssetError when the detector's
    weights are missing.
    """
    from pipelines.images.face_detector import NETWORKS

    started = now()
    store, source = open_store(out), open_store(tars)
    entries = sorted((e for e in source.list() if is_tar(e.name)), key=lambda entry: entry.name)
    if not entries:
        raise PoolError(f"there are no tars of images below {source.uri}")
    names = Counter(entry.name.rpartition("/")[2] for entry in entries)
    if twice := [name for name, number in names.items() if number > 1]:
        raise PoolError(f"{source.uri} has two tars called {twice[0]}: a map knows tars by name")
    work = AssetWork(
        name="faces",
        licence="derived from the pool",
        inputs=tuple(assets.ref(name) for name in NETWORKS),
        parameters={"tars": digest([[entry.name, entry.num_bytes] for entry in entries])},
    )
    key = AssetRecord.key_of(work=work, parents={})
    done_before = standing(store, key=key, kind=AssetRecord, other="other tars or weights")
    if done_before is not None:
        return done_before
    tasks = [
        TarTask(
            uri=store.uri,
            key=f"faces-{number:06d}-{key[:16]}",
            tars=source.uri,
            tar=entry.name,
            asset_folders=tuple(str(folder.resolve()) for folder in assets.folders),
        )
        for number, entry in enumerate(entries)
    ]
    if isinstance(map_tasks, Placed):
        map_tasks = map_tasks.with_needs(Needs(num_gpus=1, optional_gpus=True))
    with progress_step("find faces", total=len(tasks), unit="tars") as bar:
        done = map_tasks(run_tar, tasks, on_result=lambda *_: bar.advance())
    counts: Counter[str] = Counter()
    for result in done:
        counts.update(result.counts)
    if not counts["samples"]:
        raise PoolError(f"the {len(tasks):,} tars below {source.uri} hold no sample")
    entries_of_map = {
        file.name: {"parquet": file.name, "shards": [task.tar]}
        for task, result in zip(tasks, done, strict=True)
        for file in result.files
    }
    written = write_bytes(store, MAP, orjson.dumps(entries_of_map, option=orjson.OPT_INDENT_2))
    record = AssetRecord.seal(
        work=work,
        parents={},
        outputs=[written, *(file for result in done for file in result.files)],
        counts=dict(sorted(counts.items())),
        made_by=made_by(started, locations={"tars": source.uri}),
    )
    write_bytes(store, RECORD, record.to_json())
    for result in done:
        store.remove(done_name(result.key))
    return record


@once
def run_tar(task: TarTask, store: Store) -> Done:
    """The table of one tar."""
    detector = _detector(task.asset_folders)
    source = open_store(task.tars)
    rows: list[tuple[str, list[list[float]], list[float]]] = []
    counts: Counter[str] = Counter(samples=0, faces=0, images_with_faces=0)
    with tar_bytes(source, task.tar) as data:
        for sample in samples(data, f"{source.uri}/{task.tar}"):
            counts["samples"] += 1
            parts = {m.extension: bytes(data[m.start : m.start + m.size]) for m in sample}
            uid, pixels = _uid_of(parts), _pixels_of(parts)
            if uid is None:
                counts["no_uid"] += 1
                continue
            counts["undecodable"] += pixels is None
            faces = [] if pixels is None else detector.faces(pixels)
            counts["faces"] += len(faces)
            counts["images_with_faces"] += bool(faces)
            rows.append((uid, [list(face[:4]) for face in faces], [face[4] for face in faces]))
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    table = pa.table(
        {
            UID: pa.array(columns[0], STRING),
            BOXES: pa.array(columns[1], LIST),
            "face_probabilities": pa.array(columns[2], pa.list_(pa.float64())),
        }
    )
    name = attempt_name(f"metadata/{task.tar.rpartition('/')[2].removesuffix('.tar')}", ".parquet")
    file = write_table(store, name, table)
    return Done(key=task.key, files=(file,), counts=dict(counts))


def _uid_of(parts: dict[str, bytes]) -> str | None:
    """The uid in a sample's json, if it is one."""
    try:
        uid = read_json(parts["json"])[UID]
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(uid, str) or kernels.uids.parse(pa.array([uid], pa.large_string()))[2].any():
        return None
    return uid


def _pixels_of(parts: dict[str, bytes]) -> Any:
    """The image of a sample, (height, width, 3); None where there is none that decodes."""
    for suffix in SUFFIXES:
        if suffix in parts:
            try:
                with open_image(parts[suffix]) as opened:
                    return np.array(rgb(opened))
            except DECODE_ERRORS:
                return None
    return None


_ready: dict[tuple[str, ...], FaceDetector] = {}


def _detector(folders: tuple[str, ...]) -> FaceDetector:
    """The detector of this process, its weights read once."""
    if folders not in _ready:
        from pipelines.images.face_detector import FaceDetector

        _ready[folders] = FaceDetector(asset_files(folders))
    return _ready[folders]
