"""Worker processes on this machine: spawned, watched, started again when they die."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self

from featstore.extraction.engines.conducting import Answer, Death, News
from featstore.extraction.engines.request import JobRequest
from featstore.extraction.engines.worker import Worker
from featstore.extraction.events import BlockDone
from featstore.extraction.progress import Progress
from featstore.parent_process import end_with_parent

#: How often the process of one device is started again.
RESTARTS = 2

#: Seconds that a process has to write down what it has done, once it is told to end.
GRACE = 20.0


class ProcessCrew:
    """One process a device, started when it is first told something.

    Use as a context manager: leaving ends every process, whatever it is doing.

    Parameters
    ----------
    request : JobRequest
    devices : sequence of str
        Of the workers.
    cores : int
        For each: see `Worker`.
    """

    def __init__(self, request: JobRequest, devices: Sequence[str], *, cores: int) -> None:
        self._request = request
        self._devices = list(devices)
        self._cores = cores
        # A forked child would inherit threads' locks and a CUDA context that it cannot use.
        self._context = multiprocessing.get_context("spawn")
        self._running: dict[int, tuple[BaseProcess, Connection]] = {}
        self._starts = [0] * len(self._devices)
        self._silent: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process, connection in self._running.values():
            with contextlib.suppress(OSError):
                connection.send(None)
            if kind is not None:
                process.terminate()
        until = time.monotonic() + GRACE
        for process, connection in self._running.values():
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
            connection.close()
        self._running.clear()

    def living(self) -> set[int]:
        """Return the workers that run, or can be started."""
        startable = {n for n, starts in enumerate(self._starts) if starts <= RESTARTS}
        return startable | self._running.keys()

    def tell(self, worker: int, task: str, *arguments: Any) -> None:
        """Let a worker run a method of `Worker`."""
        if worker not in self._running:
            self._start(worker)
        # Of a process that is gone, `events` says so.
        with contextlib.suppress(OSError):
            self._running[worker][1].send((task, arguments))

    def events(self) -> Iterator[Answer | Death | News]:
        """Wait for what happens next; what a task raised is raised here."""
        by_handle: dict[Any, int] = {}
        for worker, (process, connection) in self._running.items():
            by_handle[process.sentinel] = worker
            if worker not in self._silent:
                by_handle[connection] = worker
        for handle in wait(list(by_handle)):
            worker = by_handle[handle]
            if worker not in self._running:
                continue
            process, connection = self._running[worker]
            if handle is connection:
                yield from self._received(worker, connection)
            elif worker in self._silent or not connection.poll():
                yield self._bury(worker, process, connection)

    def process_id(self, worker: int) -> int | None:
        """Return the id of a worker's process."""
        return self._running[worker][0].pid if worker in self._running else None

    def _start(self, worker: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=serve,
            args=(theirs, self._request, self._devices[worker], self._cores),
            name=f"extract on {self._devices[worker]}",
        )
        process.start()
        theirs.close()
        self._running[worker] = (process, ours)
        self._silent.discard(worker)
        self._starts[worker] += 1

    def _received(self, worker: int, connection: Connection) -> Iterator[Answer | News]:
        try:
            what, value = connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._silent.add(worker)  # its sentinel follows
            return
        if what == "raised":
            raise value
        yield News(worker, *value) if what == "news" else Answer(worker, value)

    def _bury(self, worker: int, process: BaseProcess, connection: Connection) -> Death:
        process.join()
        code = process.exitcode or 0
        pid = process.pid
        process.close()
        connection.close()
        del self._running[worker]
        how = f"ended with exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = f"was killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += " (the kernel kills so when memory runs out)"
        return Death(worker, f"Process {pid} on {self._devices[worker]} {how}.")


def serve(connection: Connection, request: JobRequest, device: str, cores: int) -> None:
    """Run a worker in this process: tasks come in and answers go out through the connection."""
    # Ctrl-C reaches every process of the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    end_with_parent()
    sending = threading.Lock()

    def send(what: str, value: Any) -> None:
        with sending:
            connection.send((what, value))

    def tell(report: BlockDone | Progress) -> None:
        send("news", (worker.part, report))

    try:
        worker = Worker(request, device, cores=cores, callbacks=(tell, tell))
        while (message := connection.recv()) is not None:
            task, arguments = message
            send("answer", getattr(worker, task)(*arguments))
    except (EOFError, BrokenPipeError):
        return  # the parent has gone
    except Exception as err:
        send("raised", _sendable(err))


def _leave(*_: object) -> None:
    """Leave through every `with` block, so that what is done is written down."""
    sys.exit(128 + signal.SIGTERM)


def _sendable(err: Exception) -> Exception:
    """Return the error as another process can raise it."""
    try:
        pickle.loads(pickle.dumps(err))  # noqa: S301 -- our own bytes
    except Exception:
        return RuntimeError(f"{type(err).__name__}: {err}")
    return err
