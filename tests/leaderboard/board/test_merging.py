"""One row a result; rows of one name get a word."""

from leaderboard.board.merging import one_row_a_result
from leaderboard.published.rows import figure, published_row
from leaderboard.submissions.results import Row


def row(kind: str, method: str, average: float, imagenet: float, **more: object) -> Row:
    values = {
        "kind": kind,
        "benchmark": "datacomp",
        "scale": "small",
        "track": "filtering",
        "pool": "published",
        "suite": "full",
        "suite_version": "1",
        "method": method,
        "headline": "average",
        "figures": {"average": figure(average), "imagenet": figure(imagenet)},
        "unit": "samples",
        "seen": 128,
        "size": None,
        "params": None,
        "flops": None,
        "source": f"a {kind}",
    }
    return published_row(**(values | more))  # type: ignore[arg-type]


def test_a_printed_result_that_was_imported_too_is_one_row() -> None:
    printed = row("reference", "CLIP L/14 30%", 0.173, 0.051)
    listed = row("imported", "CLIP L/14 (30%), filtered", 0.17312, 0.05098)
    [kept] = one_row_a_result([printed, listed])
    assert kept.submission_id == listed.submission_id
    assert kept.same_result == (printed.submission_id,)


def test_a_result_with_another_second_figure_is_another() -> None:
    printed = row("reference", "CLIP L/14 30%", 0.173, 0.051)
    other = row("imported", "image-based", 0.173, 0.055)
    assert len(one_row_a_result([printed, other])) == 2


def test_rows_of_one_name_get_the_first_word_that_tells_them_apart() -> None:
    small = row("imported", "a", 0.2, 0.1, params=400_000_000)
    large = row("imported", "A", 0.3, 0.1, params=7_000_000_000)
    alone = row("imported", "b", 0.3, 0.2)
    words = [entry.word for entry in one_row_a_result([small, large, alone])]
    assert words == ["400M parameters", "7G parameters", ""]


def test_rows_that_nothing_else_tells_apart_have_their_ids() -> None:
    rows = [row("imported", "a", 0.2 + 0.01 * k, 0.1, identity=str(k)) for k in range(3)]
    words = [entry.word for entry in one_row_a_result(rows)]
    assert words == [entry.submission_id[:8] for entry in rows]


def test_what_is_from_memory_says_so_in_json_and_csv() -> None:
    from leaderboard.board.formats import board_csv, board_json

    entry = row("reference", "a", 0.2, 0.1, from_memory=True)
    assert b'"from_memory": true' in board_json([entry])
    assert "True,a reference," in board_csv([entry])
