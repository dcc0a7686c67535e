"""The tiny pool's build, on small packages made here: no network, no installed client."""

from __future__ import annotations

import gzip
import hashlib
import json
import stat
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

from dclm.pool.tiny_pool import DEFAULT, Source, TinyPool, build, fetch, load_sources
from pipelines.assets.packages import members
from pipelines.formats.warc import ExtractOptions, documents
from tests.dclm.pool.made_up_sources import (
    MANUAL,
    PACKAGES,
    PROSE,
    SPEECH,
    TOPICS,
    deb,
    page,
    source,
    tgz,
)

SOURCES = [
    source("manual", root="usr/doc/", include=["*.html"]),
    source("novel", role="positives", content="text", root="package/"),
    source("speeches", role="heldout", content="text", root="package/"),
    source("model", role="lid", content="file", root="model/", url=""),
]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages, with registry clients on PATH that copy from it and keep a log."""
    shelf, bin_folder = tmp_path / "shelf", tmp_path / "bin"
    shelf.mkdir()
    bin_folder.mkdir()
    for client, filename, data in PACKAGES.values():
        if client != "pip":
            (shelf / filename).write_bytes(data)
    for client in ("apt-get", "npm"):
        script = bin_folder / client
        # The last argument is package=version, package@version or package.
        script.write_text(
            "#!/bin/sh\n"
            f'echo "{client} $*" >> {tmp_path}/log\n'
            "for last; do :; done\nname=${last%%[=@]*}\n"
            f"for file in {shelf}/$name[_-]*; do\n"
            '  [ -e "$file" ] || { echo "no such package $name" >&2; exit 100; }\n'
            '  /bin/cp "$file" .\ndone\n'
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(bin_folder))
    return tmp_path


def put_in_cache(cache: Path, name: str, data: bytes | None = None, *, pin: str = "") -> Path:
    """Put a package, or other `data`, where it would be after being fetched for a pin."""
    client, filename, pinned = PACKAGES[name]
    data = pinned if data is None else data
    digest = hashlib.sha256(data).hexdigest()
    folder = cache / client / name / (pin or digest)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{digest}--{filename}"
    path.write_bytes(data)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache that holds all packages, so that no client is needed."""
    for name in PACKAGES:
        put_in_cache(tmp_path / "cache", name)
    return tmp_path / "cache"


def read_rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def pool_texts(out: Path, pool: TinyPool) -> dict[str, str]:
    texts: dict[str, str] = {}
    for file in pool.warcs:
        with (out / file.name).open("rb") as stream:
            pages = list(documents(stream, options=ExtractOptions()))
        assert len(pages) == file.num_pages
        texts |= {str(item.url): str(item.text) for item in pages}
    return texts


def report(pool: TinyPool, name: str) -> dict[str, object]:
    [actual] = [row for row in pool.sources if row.name == name]
    return actual.model_dump()


def test_build_writes_a_pool_that_reads_back_page_by_page(tmp_path: Path, cache: Path) -> None:
    pool = build(tmp_path / "out", cache=cache, sources=SOURCES)
    assert pool_texts(tmp_path / "out", pool) == {
        f"https://manual.example/{topic}.html": f"{topic} grow here. {PROSE.strip()}"
        for topic in TOPICS
    }
    assert sorted(file.num_pages for file in pool.warcs) == [1, 1, 1, 1, 1, 1, 1, 2]
    assert read_rows(tmp_path / "out/heldout.jsonl.gz") == [
        {
            "id": "speeches/1900.txt#0",
            "source": "speeches",
            "text": (SPEECH * 3).strip(),
            "licence": "CC0-1.0",
        }
    ]
    assert [row["source"] for row in read_rows(tmp_path / "out/positives.jsonl.gz")] == ["novel"]
    assert (tmp_path / "out/lid.176.ftz").read_bytes() == b"weights"
    assert {row.name: (row.status, row.num_pages) for row in pool.sources} == {
        "manual": ("pinned", 9),
        "novel": ("pinned", 1),
        "speeches": ("pinned", 1),
        "model": ("pinned", 1),
    }


def test_reported_sizes_and_checksums_are_those_of_the_files(tmp_path: Path, cache: Path) -> None:
    pool = build(tmp_path / "out", cache=cache, sources=SOURCES)
    assert pool.lid is not None
    for file in [*pool.warcs, pool.heldout, pool.positives, pool.lid]:
        data = (tmp_path / "out" / file.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.num_bytes, file.sha256)
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_same_packages_give_the_same_bytes(tmp_path: Path, cache: Path) -> None:
    first = build(tmp_path / "a", cache=cache, sources=SOURCES)
    second = build(tmp_path / "b", cache=cache, sources=SOURCES)
    assert first == second
    assert first.identity == second.identity


def test_warc_bytes_hold_no_time_of_day(tmp_path: Path, cache: Path) -> None:
    pool = build(tmp_path / "out", cache=cache, sources=SOURCES)
    data = (tmp_path / "out" / pool.warcs[0].name).read_bytes()
    # Gzip header: no name, time 0, no level hint, operating system unknown.
    assert data[:10].hex() == "1f8b08000000000000ff"
    plain = gzip.decompress(data)
    assert plain.count(b"WARC-Date: 2024-01-01T00:00:00Z\r\n") == plain.count(b"WARC/1.0\r\n")


def test_page_that_shares_text_with_heldout_is_dropped_and_counted(
    tmp_path: Path, cache: Path
) -> None:
    copied = {**MANUAL, "usr/doc/copy.html": page(f"Some words before. {SPEECH} And after.")}
    data = deb(copied)
    put_in_cache(cache, "manual", data)
    changed = source(
        "manual", root="usr/doc/", include=["*.html"], sha256=hashlib.sha256(data).hexdigest()
    )
    pool = build(tmp_path / "out", cache=cache, sources=[changed, *SOURCES[1:]])
    assert pool.dropped_near_heldout == 1
    assert report(pool, "manual")["num_dropped"] == 1
    assert "https://manual.example/copy.html" not in pool_texts(tmp_path / "out", pool)


def test_positives_that_share_text_with_heldout_are_dropped(tmp_path: Path, cache: Path) -> None:
    data = tgz({"package/one.txt": (PROSE * 3).encode(), "package/two.txt": (SPEECH * 2).encode()})
    put_in_cache(cache, "novel", data)
    novel = SOURCES[1].model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
    pool = build(tmp_path / "out", cache=cache, sources=[SOURCES[0], novel, *SOURCES[2:]])
    assert (report(pool, "novel")["num_pages"], report(pool, "novel")["num_dropped"]) == (1, 1)


def test_missing_source_is_reported_and_the_rest_is_built(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    extra = SOURCES[0].model_copy(update={"name": "other", "package": "other"})
    pool = build(tmp_path / "out", cache=cache, sources=[*SOURCES, extra])
    source_report = report(pool, "other")
    assert (source_report["status"], source_report["sha256"], source_report["num_pages"]) == (
        "missing",
        None,
        0,
    )
    assert source_report["reason"] == "apt-get is not installed"
    assert report(pool, "manual")["num_pages"] == 9


@pytest.mark.parametrize("role", ["pool", "positives", "heldout"])
def test_role_without_any_source_is_an_error_that_says_why(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    sources = [
        item.model_copy(update={"package": "absent"}) if item.role == role else item
        for item in SOURCES
    ]
    with pytest.raises(ValueError, match=f"role '{role}' is available: .* is not installed"):
        build(tmp_path / "out", cache=cache, sources=sources)


def test_changed_package_is_used_and_changes_the_identity(tmp_path: Path, cache: Path) -> None:
    before = build(tmp_path / "a", cache=cache, sources=SOURCES)
    put_in_cache(cache, "manual").unlink()
    newer = deb({**MANUAL, "usr/doc/zinnia.html": page(f"New. {PROSE}")})
    put_in_cache(cache, "manual", newer, pin=SOURCES[0].sha256)
    after = build(tmp_path / "b", cache=cache, sources=SOURCES)
    source_report = report(after, "manual")
    assert (source_report["status"], source_report["num_pages"], source_report["version"]) == (
        "changed",
        10,
        "1:1.0",
    )
    assert source_report["sha256"] != source_report["expected_sha256"]
    assert "sha256 is not the pinned one" in str(source_report["reason"])
    assert after.identity != before.identity


def test_second_fetch_runs_no_client(registry: Path) -> None:
    sources = [SOURCES[0], SOURCES[1]]
    first = fetch(sources, cache=registry / "cache")
    log = (registry / "log").read_text()
    assert log.splitlines() == [
        "apt-get -qq -o APT::Sandbox::User=root download manual=1.0",
        "npm pack --silent --ignore-scripts novel@1.0",
    ]
    assert fetch(sources, cache=registry / "cache") == first
    assert (registry / "log").read_text() == log
    assert [item.status for item in first] == ["pinned", "pinned"]


def test_new_pin_of_a_package_is_looked_for_again(registry: Path) -> None:
    stale = SOURCES[1].model_copy(update={"sha256": "0" * 64})
    [fetched] = fetch([stale], cache=registry / "cache")
    assert (fetched.status, fetched.version) == ("changed", "2.0")
    [fetched] = fetch([SOURCES[1]], cache=registry / "cache")
    assert fetched.status == "pinned"
    assert len((registry / "log").read_text().splitlines()) == 2


def test_two_sources_of_one_package_share_its_download(registry: Path) -> None:
    twin = SOURCES[1].model_copy(update={"name": "twin"})
    fetched = fetch([SOURCES[1], twin], cache=registry / "cache")
    assert fetched[0].path == fetched[1].path
    assert [item.source.name for item in fetched] == ["novel", "twin"]
    assert len((registry / "log").read_text().splitlines()) == 1


def test_damaged_file_in_the_cache_is_fetched_again(registry: Path) -> None:
    [first] = fetch([SOURCES[1]], cache=registry / "cache")
    assert first.path is not None
    first.path.write_bytes(b"half of it")
    assert fetch([SOURCES[1]], cache=registry / "cache") == [first]
    assert hashlib.sha256(first.path.read_bytes()).hexdigest() == SOURCES[1].sha256


def test_failing_client_gives_its_own_words(registry: Path) -> None:
    absent = SOURCES[1].model_copy(update={"package": "absent"})
    [fetched] = fetch([absent], cache=registry / "cache")
    assert fetched.status == "missing"
    assert fetched.reason is not None
    assert "npm pack --silent --ignore-scripts absent@1.0: exit code 100" in fetched.reason
    assert "no such package absent" in fetched.reason


def test_interrupted_download_leaves_nothing_behind(registry: Path) -> None:
    npm = registry / "bin/npm"
    npm.write_text("#!/bin/sh\necho half > novel-2.0.tgz\necho connection lost >&2\nexit 1\n")
    [fetched] = fetch([SOURCES[1]], cache=registry / "cache")
    assert fetched.status == "missing"
    assert "connection lost" in str(fetched.reason)
    assert [path for path in (registry / "cache").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", PACKAGES)
def test_archives_of_all_three_clients_are_read(cache: Path, name: str) -> None:
    [item] = [item for item in SOURCES if item.name == name]
    [path] = (cache / item.client / name).rglob("*--*")
    expected = {
        "manual": sorted(name.removeprefix("usr/doc/") for name in MANUAL),
        "novel": ["one.txt"],
        "speeches": ["1900.txt"],
        "model": ["lid.ftz"],
    }
    assert [name for name, _ in members(path, source=item)] == expected[name]


def test_damaged_archive_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "novel-2.0.tgz"
    path.write_bytes(PACKAGES["novel"][2][:-20])
    with pytest.raises(ValueError, match=r"cannot read novel-2\.0\.tgz of source 'novel'"):
        members(path, source=SOURCES[1])


def test_max_pages_keeps_the_same_pages_every_time(tmp_path: Path, cache: Path) -> None:
    few = SOURCES[0].model_copy(update={"max_pages": 4})
    urls = []
    for name in ("a", "b"):
        pool = build(tmp_path / name, cache=cache, sources=[few, *SOURCES[1:]])
        urls.append(set(pool_texts(tmp_path / name, pool)))
    assert urls[0] == urls[1]
    ranked = sorted(
        (f"https://manual.example/{topic}.html" for topic in TOPICS),
        key=lambda url: hashlib.sha256(url.encode()).hexdigest(),
    )
    assert urls[0] == set(ranked[:4])


# The list of sources


def test_unknown_key_names_file_and_source(tmp_path: Path) -> None:
    path = tmp_path / "sources.yaml"
    row = SOURCES[0].model_dump(mode="json") | {"colour": "red"}
    path.write_text(yaml.safe_dump({"sources": [row]}))
    with pytest.raises(ValueError, match=r"sources\.yaml: source 'manual'(.|\n)*colour"):
        load_sources(path)


def test_name_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sources.yaml"
    row = SOURCES[0].model_dump(mode="json")
    path.write_text(yaml.safe_dump({"sources": [row, row]}))
    with pytest.raises(ValueError, match="given twice: manual"):
        load_sources(path)


def test_heldout_packages_supply_nothing_else() -> None:
    sources = load_sources()
    heldout = {item.package for item in sources if item.role == "heldout"}
    assert len(heldout) >= 2
    assert heldout.isdisjoint(item.package for item in sources if item.role != "heldout")


def test_positives_and_pool_share_no_page() -> None:
    """Where both use one package, no path can match the globs of both."""
    by_role: dict[str, list[Source]] = {"pool": [], "positives": []}
    for item in load_sources():
        if item.role in by_role:
            by_role[item.role].append(item)
    letters = "ABCDEFGHIJ"
    names = [f"sec{letter}{part}.html" for letter in letters for part in ("1", "12", "int", "con")]
    for positive in by_role["positives"]:
        for pool in by_role["pool"]:
            if pool.package == positive.package:
                both = Counter(
                    name for item in (pool, positive) for name in names if matches(item, name)
                )
                assert set(both.values()) == {1}
                assert any(matches(pool, name) for name in names)


def matches(item: Source, name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in item.include)


def test_evaluation_and_positives_need_no_debian() -> None:
    """On a machine without apt there is still something to evaluate on and to learn from."""
    for role in ("heldout", "positives"):
        assert any(item.client != "apt" for item in load_sources() if item.role == role)


def test_documentation_lists_every_source() -> None:
    """docs/tiny-pool.md has a row with each source's package, version, licence and role."""
    page = (Path(__file__).parents[3] / "docs/tiny-pool.md").read_text(encoding="utf-8")
    table = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    listed = [cells[:6] for cells in table if len(cells) == 7]
    for item in load_sources(DEFAULT):
        row = [item.name, item.client, item.package, item.version, item.licence, item.role]
        assert row in listed, f"docs/tiny-pool.md lacks the row {row}"
