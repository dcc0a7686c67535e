from __future__ import annotations

import gzip
from pathlib import Path

from leaderboard.web.shelf import Shelf

PAGE = gzip.compress(b"a page")


def test_a_page_is_found_by_its_content_and_key_alone(tmp_path: Path) -> None:
    Shelf(tmp_path).put("a stamp", ("board", "x"), PAGE)
    shelf = Shelf(tmp_path)
    assert shelf.get("a stamp", ("board", "x")) == PAGE
    assert shelf.get("another", ("board", "x")) is None
    assert shelf.get("a stamp", ("board", "y")) is None


def test_a_board_without_a_stamp_keeps_no_page(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.put("", ("board",), PAGE)
    assert shelf.get("", ("board",)) is None
    assert not list(tmp_path.iterdir())


def test_pages_of_another_content_are_taken_away(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for key in range(3):
        shelf.put("old", key, PAGE)
    shelf.put("new", 0, PAGE)
    assert len(list(tmp_path.iterdir())) == 1
    assert shelf.get("new", 0) == PAGE


def test_a_shelf_has_an_end(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, most=2)
    for key in range(5):
        shelf.put("a stamp", key, PAGE)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_half_page_is_none(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.put("a stamp", 0, PAGE)
    [path] = tmp_path.iterdir()
    path.write_bytes(PAGE[:-4])
    assert shelf.get("a stamp", 0) is None
