"""Grids of the images that a generator drew, with the nearest training images below each row.

A check makes one PNG file for each seed from bytes in the log, whose sizes it has checked; nothing
that a stranger encoded is decoded, and pages show these files as they are.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from evals.images.shown_images import NUM_SHOWN, grid, interleaved, read_shown
from evals.tasks import load_task
from leaderboard.submissions.bundle import Bundle
from leaderboard.submissions.chain import seeds_of
from leaderboard.submissions.faults import BundleError, Words, fault
from leaderboard.submissions.logs import open_parquet

COLUMNS = 6  # of a grid of images
WIDTH = 480
"""Pixels of a grid, about: each pixel of a small image becomes a square of several."""


def sample_grids(bundle: Bundle) -> Iterator[tuple[int, bytes]]:
    """Seed and PNG of each model whose log shows images; BundleError where they are none."""
    for seed, scores in seeds_of(bundle.record).items():
        for task in scores.work.tasks:
            if _has_images(bundle, seed, task.name):
                png = _png(f"questions/{seed}/{task.name}", _shown(bundle, seed, task.name))
                if png is not None:
                    yield seed, png


def shows_images(bundle: Bundle) -> bool:
    """Whether every seed has a grid."""
    return all(
        any(_has_images(bundle, seed, task.name) for task in scores.work.tasks)
        for seed, scores in seeds_of(bundle.record).items()
    )


def _has_images(bundle: Bundle, seed: int, task: str) -> bool:
    """Whether a log has the columns; those of older versions have not."""
    if load_task(task).kind != "image_memorisation":
        return False
    [first, *_] = bundle.parts(seed, task)
    return {"image", "nearest"} <= set(open_parquet(bundle, first).schema_arrow.names)


def _shown(bundle: Bundle, seed: int, task: str) -> pa.Table:
    """The rows that show images, in order."""
    parts = []
    for name in bundle.parts(seed, task):
        table = open_parquet(bundle, name).read(["row", "image", "nearest"], use_threads=False)
        parts.append(table.filter(pc.less(table["row"], NUM_SHOWN)))
    return pa.concat_tables(parts).sort_by("row")


def _png(where: str, table: pa.Table) -> bytes | None:
    from PIL import Image

    try:
        drawn, nearest = (read_shown(table[name].to_pylist()) for name in ("image", "nearest"))
        if not drawn:
            return None
        pixels = grid(interleaved(drawn, nearest, columns=COLUMNS), columns=COLUMNS)
    except ValueError as error:
        expected = Words("square images of one size")
        raise BundleError([fault(where, "image", Words(str(error)), expected)]) from None
    enlarge = max(1, WIDTH // pixels.shape[1])
    target = io.BytesIO()
    Image.fromarray(pixels.repeat(enlarge, 0).repeat(enlarge, 1)).save(target, "PNG", optimize=True)
    return target.getvalue()
