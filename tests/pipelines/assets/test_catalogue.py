"""Assets from addresses: the hub, a web server, a path; pinned and not, files and folders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.__main__ import app
from pipelines.assets import catalogue
from pipelines.assets.catalogue import Asset, AssetError, Assets, fetch, verify
from pipelines.assets.origins import AddressOrigin
from pipelines.console import main
from tests.http_server import WebServer
from tests.hub_server import HubServer

CONTENT = b"com\norg\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "tlds.txt").write_bytes(CONTENT)
    server = WebServer(folder)
    yield server
    server.stop()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    folder = tmp_path / "hub/owner/model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    server = HubServer(tmp_path / "hub")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    yield server
    server.stop()


def knows(monkeypatch: pytest.MonkeyPatch, *assets: Asset) -> None:
    known = {asset.name: asset for asset in assets}
    monkeypatch.setattr(catalogue, "catalogue", lambda: known)


def call(*arguments: str) -> object:
    """The exit code of `pipelines assets`."""
    with pytest.raises(SystemExit) as ended:
        main(app, ["assets", *arguments])
    return ended.value.code


def asset(name: str, *addresses: str, sha256: str | None = None) -> Asset:
    origins = tuple(AddressOrigin(address=address) for address in addresses)
    return Asset(name=name, description="", licence="", sha256=sha256, origins=origins)


def test_every_asset_of_the_catalogue_is_had_by_one_command_or_says_how() -> None:
    for known in catalogue.catalogue().values():
        assert known.origins or known.made_by or known.by_hand, known.name


def test_an_address_is_fetched_and_verified(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = hashlib.sha256(CONTENT).hexdigest()
    knows(monkeypatch, asset("tlds.txt", f"{web.url}/tlds.txt", sha256=pinned))
    path = fetch("tlds.txt")
    assert path.read_bytes() == CONTENT
    assert Assets().path("tlds.txt") == path
    asked = len(web.requests)
    assert fetch("tlds.txt") == path  # it is there
    assert len(web.requests) == asked


def test_another_file_than_the_pinned_one_is_refused_and_not_kept(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knows(monkeypatch, asset("tlds.txt", f"{web.url}/tlds.txt", sha256="0" * 64))
    with pytest.raises(AssetError, match=r"gives another file: sha256 [0-9a-f]{64}, expected 0000"):
        fetch("tlds.txt")
    assert not list((tmp_path / "cache").rglob("*tlds*"))


def test_the_next_origin_is_tried(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    knows(monkeypatch, asset("tlds.txt", f"{web.url}/gone.txt", f"{web.url}/tlds.txt"))
    assert fetch("tlds.txt").read_bytes() == CONTENT


def test_a_file_and_a_folder_of_the_hub(
    hub: HubServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    knows(
        monkeypatch,
        asset("model/", "hf://owner/model"),
        asset("weights", "hf://owner/model/model.safetensors"),
    )
    assert fetch("weights").read_bytes() == b"weights"
    assert (
        "get it with: pipelines assets fetch model/"
        in verify(["model/"], assets=Assets())["model/"]
    )
    with pytest.raises(AssetError, match=r"pipelines assets fetch model/config.json"):
        Assets().path("model/config.json")
    assert call("fetch", "model/config.json") == 0
    assert "model/config.json (sha256 44136fa3" in capsys.readouterr().out  # of `{}`
    folder = fetch("model/")
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert Assets().path("model/model.safetensors").read_bytes() == b"weights"
    assert verify(["model/"], assets=Assets())["model/"].startswith("ok ")


def test_an_address_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my.bin").write_bytes(CONTENT)
    assert call("fetch", "mine.bin", "--from", str(tmp_path / "my.bin")) == 0
    assert Assets().path("mine.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine.bin"], "unknown asset 'mine.bin'"),
        (["mine.bin", "--from", "/nowhere/my.bin"], "/nowhere"),
        (["../mine.bin", "--from", "/nowhere/my.bin"], "without a path above it"),
        (["a", "b", "--from", "/nowhere/my.bin"], "name one"),
        (["mine.bin", "--from", "hf://my.bin"], "expected hf://"),
    ],
)
def test_what_cannot_be_fetched_is_one_clear_error(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("fetch", *arguments) != 0
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
