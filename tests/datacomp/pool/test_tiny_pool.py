"""The tiny pool of images, from small packages made here: no network, no installed client."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datacomp.pool import pool, tiny_pool
from datacomp.pool import tiny_images as tiny
from pipelines.errors import PoolError
from pipelines.execution.executors import ProcessMap, map_here
from pipelines.images.pairs import open_pairs
from pipelines.images.reshard import iter_samples

pytest.importorskip("resvg_py")
SQUARE = '<path fill="#{colour}" d="M{at} {at}h9v9h-9z"/>'
NUM_CONCEPTS = 60


def code(number: int) -> str:
    return f"1F{number:03X}"


def tgz(files: dict[str, object]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, value in files.items():
            data = json.dumps(value).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def style(shift: int) -> bytes:
    icons = {
        f"thing-{n}": {"body": SQUARE.format(colour=f"{n * 4096 + shift:06x}", at=n % 9)}
        for n in range(NUM_CONCEPTS)
    }
    chars = {code(n).lower(): f"thing-{n}" for n in range(NUM_CONCEPTS)}
    return tgz(
        {
            "package/icons.json": {"icons": icons, "width": 18, "height": 18},
            "package/chars.json": chars,
        }
    )


def words() -> bytes:
    def rows(label: str) -> list[dict[str, object]]:
        return [
            {"hexcode": code(n), "label": f"{label} {n}", "tags": [f"{label} tag"], "group": n % 2}
            for n in range(NUM_CONCEPTS)
        ] + [{"hexcode": "1F3FB", "label": "light skin tone", "group": 2}]

    return tgz(
        {
            "package/en/data.json": rows("thing"),
            "package/de/data.json": rows("Ding"),
            "package/meta/groups.json": {"groups": {"0": "even", "1": "odd-ones", "2": "parts"}},
        }
    )


def digits() -> bytes:
    return tgz(
        {
            f"package/src/digits/{n}.json": {"data": [n / 9] * 784 * tiny_pool.DIGITS_PER_CLASS}
            for n in range(10)
        }
    )


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, list[tiny.Source]]:
    """A cache that holds five packages, and their sources."""
    cache = tmp_path / "cache"
    made = []
    for name, role, data in (
        ("noto", "pictures", style(0)),
        ("twemoji", "pictures", style(1)),
        ("words", "words", words()),
        ("digits", "digits", digits()),
    ):
        sha256 = hashlib.sha256(data).hexdigest()
        source = tiny.Source(
            name=name,
            role=role,  # type: ignore[arg-type]
            client="npm",
            package=name,
            version="1.0.0",
            sha256=sha256,
            licence="MIT",
            why="a test",
            root="package/src/digits/" if role == "digits" else "package/",
            heldout=name == "twemoji",
        )
        folder = cache / "npm" / name / sha256[:16]
        folder.mkdir(parents=True)
        (folder / f"{sha256}--{name}-1.0.0.tgz").write_bytes(data)
        made.append(source)
    return cache, made


def build(out: Path, given: tuple[Path, list[tiny.Source]], map_tasks=map_here):
    return tiny_pool.build(out, cache=given[0], map_tasks=map_tasks, sources=given[1])


def test_the_pool_has_the_published_layout(tmp_path, sources):
    built, _ = build(tmp_path / "pool", sources)
    tables = sorted((tmp_path / "pool" / "metadata").glob("*.parquet"))
    assert len(tables) == tiny_pool.NUM_SHARDS
    assert all(len(path.stem) == 32 and int(path.stem, 16) >= 0 for path in tables)
    rows = [row for path in tables for row in pq.read_table(path).to_pylist()]
    assert len(rows) == built.counts["pairs"]
    samples = list(iter_samples(str(tmp_path / "pool" / "shards")))
    assert {s["uid"] for s in (orjson.loads(m["json"]) for _, m in samples)} == {
        row["uid"] for row in rows
    }
    by_uid = {row["uid"]: row for row in rows}
    for key, members in samples:
        content = orjson.loads(members["json"])
        row = by_uid[content["uid"]]
        assert members["txt"].decode() == row["text"] == content["caption"]
        assert (content["original_width"], content["sha256"]) == (
            row["original_width"],
            row["sha256"],
        )
        with Image.open(io.BytesIO(members["jpg"])) as image:
            assert max(image.size) <= tiny.STORED_PIXELS
            assert image.size == (content["width"], content["height"])
        assert content["key"] == key
    for path in tables:
        with np.load(path.with_suffix(".npz")) as features:
            shapes = {name: features[name].shape[1] for name in features}
            assert {features[name].shape[0] for name in features} == {
                pq.read_metadata(path).num_rows
            }
            assert {features[name].dtype for name in features} == {np.dtype(np.float16)}
        assert shapes == {"b32_img": 512, "b32_txt": 512, "l14_img": 768, "l14_txt": 768}
    stats = orjson.loads((tmp_path / "pool" / "shards" / "00000000_stats.json").read_bytes())
    assert (
        stats["successes"]
        == pq.read_metadata(tables[0].parent.parent / "shards" / "00000000.parquet").num_rows
    )


def test_what_is_evaluated_on_is_in_no_pair(tmp_path, sources):
    concepts = tiny.read_concepts(
        tiny.Archive(source=sources[1][2], path=next((sources[0] / "npm/words").rglob("*.tgz")))
    )
    styles = [
        tiny.read_style(
            tiny.Archive(source=s, path=next((sources[0] / f"npm/{s.name}").rglob("*.tgz")))
        )
        for s in sources[1][:2]
    ]
    assert len(concepts) == NUM_CONCEPTS  # components are not concepts
    heldout = {concept.code for concept in concepts if tiny.is_heldout(concept)}
    assert 15 < len(heldout) < 45
    all_pairs = tiny.pairs(concepts, styles)
    assert {pair.code for pair in all_pairs if pair.style == "noto"} == {
        concept.code for concept in concepts
    }
    assert {pair.code for pair in all_pairs if pair.style == "twemoji"}.isdisjoint(heldout)
    build(tmp_path / "pool", sources)
    shown = list(iter_samples(str(tmp_path / "pool" / "eval" / tiny_pool.RETRIEVAL)))
    assert len(shown) == len(heldout)


def test_pairs_are_made_worse_in_the_shares_that_are_said(sources):
    shares = Counter(
        next(
            name
            for border, name in (
                (tiny.GOOD, "good"),
                (tiny.WRONG, "wrong"),
                (tiny.FOREIGN, "foreign"),
                (tiny.TINY, "tiny"),
                (1.0, "banner"),
            )
            if tiny.chance(n, "style", 0, "fate") < border
        )
        for n in range(20_000)
    )
    for name, share in (("good", 0.25), ("wrong", 0.4), ("foreign", 0.25), ("tiny", 0.08)):
        assert shares[name] / 20_000 == pytest.approx(share, abs=0.01)


def test_a_banner_is_longer_than_any_rule_allows_and_a_tiny_image_smaller():
    image = Image.new("RGB", (224, 224), "red")
    assert tiny.worsen(image, "banner").size == (1120, 224)
    assert tiny.store(tiny.worsen(image, "banner")).size == (64, 13)
    assert tiny.worsen(image, "tiny").size == (4, 4)
    assert tiny.worsen(image, "good") is image


def test_captions_name_the_concept_in_three_ways():
    concept = tiny.Concept("1f415", "1f415", "animals", {"en": tiny.Words("dog", ("pet", "dog"))})
    assert [tiny.english(concept, form) for form in (0.1, 0.5, 0.9)] == [
        "a picture of dog, with pet and symbol",
        "dog: this icon is about pet",
        "the dog emoji (pet, symbol)",
    ]
    assert tiny.foreign(tiny.Words("Hund", ("Haustier", "Tier", "Kopf", "Nase"))) == (
        "Hund, Haustier, Tier, Kopf"
    )


@pytest.mark.slow
def test_any_number_of_processes_writes_the_same_bytes(tmp_path, sources):
    first, _ = build(tmp_path / "one", sources)
    second, _ = build(tmp_path / "two", sources, map_tasks=ProcessMap(2))
    assert first == second


def test_a_pool_without_its_names_is_refused_with_the_reason(tmp_path, sources, monkeypatch):
    cache, given = sources
    monkeypatch.setenv("PATH", "")
    lost = given[2].model_copy(update={"sha256": "0" * 64})
    with pytest.raises(
        PoolError, match=r"without the names of the images: words: npm is not installed"
    ):
        tiny_pool.build(
            tmp_path / "pool", cache=cache, map_tasks=map_here, sources=[*given[:2], lost]
        )


def test_a_folder_of_tables_is_a_pool_and_a_download_is_one_too(tmp_path, sources):
    build(tmp_path / "pool", sources)
    tables = sorted(p.name for p in (tmp_path / "pool" / "metadata").glob("*.parquet"))
    whole = open_pairs(str(tmp_path / "pool"))
    alone = open_pairs(str(tmp_path / "pool" / "metadata"))
    assert [s.name for s in whole.shards] == [s.name for s in alone.shards] == tables
    assert whole.record.id == alone.record.id


def test_a_scale_that_was_not_fetched_is_refused_with_the_command(tmp_path):
    with pytest.raises(PoolError, match="datacomp pool --scale small --workspace"):
        pool.open_scale("small", workspace=str(tmp_path), map_tasks=map_here)
