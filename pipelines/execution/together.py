"""One function in several processes at once on this machine, as torchrun would start them.

Each process has RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its
environment, and GPU number LOCAL_RANK or none. SIGTERM is forwarded to all of them, so that they
can write a checkpoint. When a process is killed, all start again and the function resumes from its
own files; an error of the function itself is raised again in the calling process.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, TypeVar

from pipelines.errors import FailedError, Interrupted
from pipelines.execution.executors import WorkerLost
from pipelines.execution.gpus import VISIBLE, reserved

T = TypeVar("T")

RESTARTS = 3  # after a killed process
PEERS_SECONDS = 30.0  # time for the other processes to end after one failed
CHECKPOINT_SECONDS = 300.0  # the same after SIGTERM, while the first process writes a checkpoint

log = logging.getLogger(__name__)


def run_here_together(
    function: Callable[[T], Any],
    item: T,
    *,
    num_processes: int,
    gpus: Sequence[str] = (),
    num_threads: int = 1,
) -> None:
    """Run `function(item)` in every process; returns when all have ended.

    `gpus` has one id per process, or is empty. Raises the error of the process that failed first,
    and WorkerLost when processes were killed more than `RESTARTS` times.
    """
    if gpus and len(gpus) != num_processes:
        raise ValueError(f"{num_processes} processes for {len(gpus)} GPUs; expected one GPU each")
    packed = pickle.dumps((function, item))
    with reserved(gpus) if gpus else ExitStack():
        for _ in range(RESTARTS + 1):
            killed = _attempt(packed, num_processes, gpus, num_threads)
            if not killed:
                return
            log.warning("%s; starting all %d again", killed, num_processes)
    raise WorkerLost(
        f"the {num_processes} processes were lost {RESTARTS + 1} times, last: {killed}; what they "
        "wrote is kept: run the same command again, with more memory if it was short"
    )


def _attempt(packed: bytes, num_processes: int, gpus: Sequence[str], num_threads: int) -> str:
    """One start of all processes; returns which was killed, or nothing when all ended well."""
    context = multiprocessing.get_context("spawn")
    port = _free_port()
    processes, answers = [], []
    for rank in range(num_processes):
        mine, theirs = context.Pipe(duplex=False)
        environment = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": num_processes,
            "LOCAL_WORLD_SIZE": num_processes,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": num_threads,
            VISIBLE: ",".join(gpus),
        }
        process = context.Process(
            target=_child,
            args=(packed, {name: str(value) for name, value in environment.items()}, theirs),
        )
        process.start()
        theirs.close()
        processes.append(process)
        answers.append(mine)
    try:
        with _terminating(processes):
            lost, errors = _watch(processes, answers)
    finally:
        _end(processes)
        for answer in answers:
            answer.close()
    if errors and not lost:
        raise _first_cause(errors)
    return lost


def _watch(
    processes: Sequence[Any], answers: Sequence[Connection]
) -> tuple[str, list[BaseException]]:
    """Wait for all processes; after a failure, wait for the others for a limited time.

    Returns a text that names the killed process, empty when none was, and the errors raised.
    """
    lost, errors = "", []
    left = {p.sentinel: number for number, p in enumerate(processes)}
    ends: float | None = None
    while left:
        ready = wait(list(left), None if ends is None else max(0.0, ends - time.monotonic()))
        if not ready:
            break
        for sentinel in ready:
            number = left.pop(sentinel)  # type: ignore[call-overload]
            process, answer = processes[number], answers[number]
            process.join()
            error = _received(answer)
            if error is not None:
                errors.append(error)
            elif process.exitcode:
                lost = lost or f"process {number} ended with {process.exitcode}"
                return lost, errors
            if process.exitcode and ends is None:
                patience = CHECKPOINT_SECONDS if isinstance(error, Interrupted) else PEERS_SECONDS
                ends = time.monotonic() + patience
    return lost, errors


def _received(answer: Connection) -> BaseException | None:
    try:
        return answer.recv() if answer.poll() else None  # type: ignore[no-any-return]
    except EOFError:
        return None


def _end(processes: Sequence[Any]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()
    for process in processes:
        process.join()


@contextmanager
def _terminating(processes: Sequence[Any]) -> Iterator[None]:
    """Pass SIGTERM on to the processes, which then exit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hand_on(number: int, _: FrameType | None) -> None:
        for process in processes:
            if process.is_alive():
                process.terminate()

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _child(packed: bytes, environment: dict[str, str], answer: Connection) -> None:
    if not environment[VISIBLE]:
        environment = environment | {VISIBLE: "-1"}
    os.environ.update(environment)
    try:
        function, item = pickle.loads(packed)
        function(item)
    except BaseException as error:
        answer.send(_sendable(error))
        raise SystemExit(1) from None
    finally:
        answer.close()


def _sendable(error: BaseException) -> BaseException:
    """The error, if it survives the way; else a FailedError with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return FailedError(f"{type(error).__name__}: {error}")
    return error


def _first_cause(errors: Sequence[BaseException]) -> BaseException:
    """The error that began it: when one process fails, the others see lost connections."""
    own = [e for e in errors if type(e) is not RuntimeError and "torch." not in type(e).__module__]
    return [*own, *errors][0]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
