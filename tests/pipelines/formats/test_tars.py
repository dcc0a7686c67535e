"""Tars read at once by their index, and name by name: the same samples, or the same error."""

import io
import random
import tarfile
from collections import Counter

import pytest

from pipelines.formats import tars
from pipelines.formats.tars import END, SampleIndex, TarError, member, sample_index, samples

LEAVES = ("0", "1", "00", "a b", "\u00e4", "", "._0", ".DS_Store")
FOLDERS = ("", "", "", "part/", "./", "a/b/", "..a/", "__MACOSX/", "../", "/", "a//")
EXTENSIONS = (
    "jpg",
    "JPG",
    "json",
    "Json",
    "txt",
    "seg.png",
    "tar.gz",
    "",
    "j pg",
    "x" * 61,
    "a..b",
)


def by_name(data: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[object, Counter[str]]:
    """What a reader says that has no index."""
    with monkeypatch.context() as patch:
        patch.setattr(tars, "sample_index", lambda data: None)
        return read(data)


def read(data: bytes) -> tuple[object, Counter[str]]:
    passed: Counter[str] = Counter()
    try:
        return list(samples(memoryview(data), "t.tar", passed)), passed
    except TarError as error:
        return str(error), passed


def made_up(generator: random.Random, plain: bool) -> bytes:
    """A tar of some samples; names as any writer could choose them unless `plain`."""
    content = []
    for _ in range(generator.randrange(1, 6)):
        key = generator.choice(FOLDERS[:4] if plain else FOLDERS)
        key += generator.choice(LEAVES[:4] if plain else LEAVES)
        for extension in generator.sample(EXTENSIONS[:7] if plain else EXTENSIONS, 3):
            name = f"{key}.{extension}".encode()
            content.append(member(name, generator.randbytes(generator.randrange(0, 1500))))
    return b"".join(content) + END


@pytest.mark.parametrize("plain", [True, False])
def test_an_index_gives_the_samples_that_reading_by_name_gives(
    plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = random.Random(7)
    indexed = 0
    for _ in range(400):
        data = made_up(generator, plain)
        indexed += sample_index(memoryview(data)) is not None
        assert read(data) == by_name(data, monkeypatch)
    assert indexed > 100 if plain else indexed < 100  # both ways were tried


def test_the_json_of_a_sample_whatever_the_case_of_its_suffix() -> None:
    data = b"".join(
        (
            member(b"0.jpg", b"x"),
            member(b"0.JSON", b"{}"),
            member(b"1.jpg", b"y"),
            member(b"2.json", b"[]"),
            END,
        )
    )
    index = sample_index(memoryview(data))
    assert isinstance(index, SampleIndex)
    assert [part and bytes(part) for part in index.json_parts()] == [b"{}", None, b"[]"]
    assert [m.extension for m in index.take([0, 2])[0]] == ["jpg", "json"]
    assert index.take([2])[0][0].key == b"2"


def test_links_are_counted_and_other_formats_are_left_to_the_library() -> None:
    def written(style: int, name: str) -> memoryview:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=style) as archive:
            info = tarfile.TarInfo(f"{name}.jpg")
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
            link = tarfile.TarInfo(f"{name}.png")
            link.type, link.linkname = tarfile.SYMTYPE, "0.jpg"
            archive.addfile(link)
        return memoryview(file.getvalue())

    index = sample_index(written(tarfile.USTAR_FORMAT, "0"))
    assert index is not None
    assert (len(index), index.links) == (1, 1)
    for style, name in ((tarfile.PAX_FORMAT, "\u00e4"), (tarfile.GNU_FORMAT, "n" * 120)):
        data = written(style, name)
        assert sample_index(data) is None
        passed: Counter[str] = Counter()
        [[only]] = list(samples(data, "t.tar", passed))
        assert (only.key, passed) == (name.encode(), {tars.LINK: 1})


def test_a_name_in_the_prefix_is_read_with_its_folder() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        info = tarfile.TarInfo("folder/" * 10 + "k" * 60 + ".jpg")
        archive.addfile(info, io.BytesIO(b""))
    data = memoryview(file.getvalue())
    assert sample_index(data) is None
    [[only]] = list(samples(data, "t.tar"))
    assert only.key == ("folder/" * 10 + "k" * 60).encode()
