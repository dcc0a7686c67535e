"""What every test can ask for: the folder of recorded reference results, and the markers."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    # pytest itself has a switch --fixtures that lists its fixtures; --funcargs still does that.
    actions = parser.optparser._option_string_actions
    listing = actions.pop("--fixtures")
    listing.option_strings.remove("--fixtures")
    parser.addoption(
        "--fixtures",
        dest="reference_results",
        default=str(ROOT.parent / "shared" / "fixtures"),
        help="folder with recorded results of the references (parity tests)",
    )
    parser.addoption(
        "--data",
        default=str(ROOT.parent / "shared" / "data"),
        help="folder with real web pages, WARCs and labels (realism tests)",
    )


@pytest.fixture(scope="session")
def fixtures(request: pytest.FixtureRequest) -> Path:
    """The folder of recorded reference results; the test is skipped where there is none."""
    return _folder(request, "--fixtures", "reference_results")


@pytest.fixture(scope="session")
def data(request: pytest.FixtureRequest) -> Path:
    """The folder of real pages and labels; the test is skipped where there is none."""
    return _folder(request, "--data", "data")


def _folder(request: pytest.FixtureRequest, option: str, name: str) -> Path:
    path = Path(request.config.getoption(name))
    if not path.is_dir():
        pytest.skip(f"no folder {path}: name one with {option} DIR")
    return path
