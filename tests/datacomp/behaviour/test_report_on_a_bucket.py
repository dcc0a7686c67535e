"""report.html of a run whose pool, tars and output are in a bucket."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("boto3")

from datacomp.curation.curate import curate
from pipelines.execution.executors import map_here
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.reports import run_page, sample_images
from pipelines.storage.base import write_bytes
from pipelines.storage.open import open_store
from tests.datacomp.image_pool import write_images

pytestmark = pytest.mark.s3
IMAGE = re.compile(r'<img alt="" src="(data:image/jpeg;base64,[A-Za-z0-9+/=]+)">')


def pages(pool: Path, bucket: str) -> tuple[list[str], list[str]]:
    """The images in the report of the same run on disk, and in a bucket."""
    store = open_store(f"{bucket}/pool")
    for path in sorted(pool.rglob("*")):
        if path.is_file():
            write_bytes(store, str(path.relative_to(pool)), path.read_bytes())
    shown = []
    for tables, out in (
        (str(pool / "metadata"), str(pool.parent / "out")),
        (f"{bucket}/pool/metadata", f"{bucket}/out"),
    ):
        pipeline = Pipeline.from_steps([{"caption_size": {"min_words": 20}}], name="short")
        result = curate(pipeline, open_pool(tables), out=out, map_tasks=map_here)
        run_page.write(open_store(out), result)
        page = open_store(out).read_bytes(run_page.REPORT).decode()
        shown.append(IMAGE.findall(page))
    return shown[0], shown[1]


def test_the_rejected_images_are_those_of_a_run_on_disk(tmp_path: Path, bucket: str) -> None:
    write_images(tmp_path / "pool", tars=1, per_tar=5)
    on_disk, in_bucket = pages(tmp_path / "pool", bucket)
    assert len(on_disk) == run_page.SAMPLES
    assert in_bucket == on_disk


def test_of_a_large_tar_in_a_bucket_only_the_head_is_read(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole pools have tars larger than what may be read: their first samples are shown."""
    write_images(tmp_path / "pool", tars=1, per_tar=40)
    size = (tmp_path / "pool" / "shards" / "00000000.tar").stat().st_size
    monkeypatch.setattr(sample_images, "MAX_REMOTE_BYTES", size // 2)
    monkeypatch.setattr(sample_images, "TAR_HEAD_BYTES", size // 2)
    on_disk, in_bucket = pages(tmp_path / "pool", bucket)
    assert in_bucket == on_disk != []
