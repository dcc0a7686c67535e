"""What a rehearsal has: servers, the environment of every command, and a table of its stages.

Every command runs as its own process with its output in `log.txt` of the rehearsal's folder. A
stage that fails raises RehearsalFailed with its name.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from pipelines.console import table
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.open import open_store
from tests.s3_server import S3Server
from tests.soak.drivers import Moment, NotKilled, kill_in_the_middle

BUCKET = "rehearsal"
WORKSPACE = f"s3://{BUCKET}/me"
SCALE = "rehearsal"
STAGE_SECONDS = 1200.0
OBJECT_STORE_BYTES = 200 << 20


class RehearsalFailed(Exception):
    """A stage did not do what it should; the message names it."""


@dataclass
class Row:
    """One line of the table."""

    stage: str
    where: str
    seconds: float
    cpu_seconds: float
    num_bytes: int = 0
    restarts: int = 0


@dataclass
class Rehearsal:
    """The servers, the environment of every command, and what was measured."""

    folder: Path
    server: S3Server
    cluster: Cluster
    nodes: list[Any]
    resumed: bool = False
    rows: list[Row] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.server.environment, **scratch(self.folder)}

    @property
    def desk(self) -> Path:
        """The local folder of the small files of the workspace in the bucket."""
        return self.folder / "runs" / BUCKET / "me"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name(arguments[0])), *arguments[1:]]

    def start(
        self,
        *arguments: str,
        output: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """A command of its own process group; what it writes is appended to `log.txt`.

        `output`: its standard output goes into this file instead.
        """
        with open(self.log, "ab") as log:
            log.write(f"\n$ {' '.join(arguments)}\n".encode())
            log.flush()
            with open(output, "wb") if output else contextlib.nullcontext(log) as target:
                return subprocess.Popen(
                    self.command(*arguments),
                    cwd=self.folder,
                    env=self.environment | dict(environment or {}),
                    stdout=target,
                    stderr=log,
                    start_new_session=True,
                )

    def call(self, stage: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
        """Run a command to its end; its standard output."""
        output = self.folder / "output.txt"
        process = self.start(*arguments, output=output, environment=environment)
        self.finish(stage, process)
        return output.read_text()

    def finish(self, stage: str, process: subprocess.Popen[bytes]) -> None:
        """Wait for a command to end well."""
        try:
            code: int | None = process.wait(timeout=STAGE_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        if code != 0:
            raise RehearsalFailed(
                f"{stage}: the command ended with {code}; see {self.log}:\n{self.log_end()}"
            )

    def log_end(self) -> str:
        with open(self.log, "rb") as log:
            log.seek(max(0, self.log.stat().st_size - 3000))
            return log.read().decode(errors="replace")

    def kill(self, stage: str, process: subprocess.Popen[bytes], moment: Moment) -> None:
        """Kill a command in the middle of a stage. RehearsalFailed when it was not in it."""
        try:
            kill_in_the_middle(process, moment, limit_seconds=STAGE_SECONDS)
        except NotKilled as error:
            raise RehearsalFailed(f"{stage}: not killed: {error}\n{self.log_end()}") from None

    def call_killed(
        self,
        row: Row,
        *arguments: str,
        moment: Moment,
        committed: Callable[[], Mapping[str, bytes]] = dict,
    ) -> str:
        """Run a command that is killed once in its middle; what it printed when started again.

        What it had committed by then (name to bytes) must be there unchanged in the end, so it was
        not made twice. A stage that had ended before, in an earlier rehearsal, is not killed.
        """
        if not moment.ended():
            process = self.start(*arguments)
            try:
                self.kill(row.stage, process, moment)
            finally:
                stop(process)
            row.restarts += 1
        elif not self.resumed:
            raise RehearsalFailed(f"{row.stage}: it was done before it was started")
        before = committed()
        text = self.call(row.stage, *arguments)
        after = committed()
        changed = [name for name, data in before.items() if after.get(name) != data]
        if changed:
            raise RehearsalFailed(
                f"{row.stage}: started again it made {len(changed)} of {len(before)} committed "
                f"files again, first {changed[0]}"
            )
        return text

    @contextlib.contextmanager
    def measured(self, stage: str, where: str) -> Iterator[Row]:
        """Time a stage; processor time is the machine's, other work included."""
        row = Row(stage, where, time.monotonic(), machine_cpu())
        say(f"{stage} ...")
        yield row
        row.seconds = time.monotonic() - row.seconds
        row.cpu_seconds = machine_cpu() - row.cpu_seconds
        self.rows.append(row)

    def report(self) -> str:
        """The table of what was measured."""
        rows = [
            (
                row.stage,
                row.where,
                f"{row.seconds:.0f}",
                f"{row.cpu_seconds:.0f}",
                f"{row.num_bytes / 1e6:.1f}" if row.num_bytes else "-",
                row.restarts,
            )
            for row in self.rows
        ]
        seconds = sum(row.seconds for row in self.rows)
        cpu = sum(row.cpu_seconds for row in self.rows)
        restarts = sum(row.restarts for row in self.rows)
        rows.append(("all", "", f"{seconds:.0f}", f"{cpu:.0f}", "", restarts))
        return table(rows, header=("stage", "where", "seconds", "CPU-s", "MB", "restarts"))


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a command."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def scratch(folder: Path) -> dict[str, str]:
    return {"CURATION_SCRATCH": str(folder / "scratch"), "RAY_USAGE_STATS_ENABLED": "0"}


def machine_cpu() -> float:
    """Seconds that the processors of this machine have worked, user and system."""
    with open("/proc/stat") as file:
        user, nice, system = file.readline().split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def upload(folder: Path, uri: str, *, pattern: str = "**/*") -> int:
    """Copy files below a folder into the bucket; how many bytes."""
    store, total = open_store(uri), 0
    for path in sorted(folder.glob(pattern)):
        if path.is_file():
            data = path.read_bytes()
            total += len(data)
            write_bytes(store, str(path.relative_to(folder)), data)
    return total


def size_of(store: Store, prefix: str) -> int:
    return sum(entry.num_bytes for entry in store.list(prefix))


def commits_in(store: Store, prefix: str = "") -> dict[str, bytes]:
    """The done files below a prefix with their bytes, which hold the time that each task took."""
    names = [e.name for e in store.list(prefix) if "/done/" in f"/{e.name}"]
    return {name: store.read_bytes(name) for name in names}


def wait_for(
    there: Callable[[], bool], stage: str, process: subprocess.Popen[bytes] | None = None
) -> None:
    deadline = time.monotonic() + STAGE_SECONDS
    while not there():
        if process is not None and process.poll() not in (None, 0):
            raise RehearsalFailed(f"{stage}: the command ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise RehearsalFailed(f"{stage}: not done in {STAGE_SECONDS}s")
        time.sleep(0.2)


def add_node(cluster: Cluster) -> Any:
    return cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=OBJECT_STORE_BYTES)
