"""Workers of a job: one process a device, each with its part of the items.

They are no `featstore.parallel.Workers`: those run independent tasks, and these keep an encoder and
state between parts, report progress, and are restarted with what is left of a part.
"""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from featstore.address import parse_address
from featstore.decoding import exit_status
from featstore.durable import local_folder
from featstore.encoders.registry import check_options
from featstore.errors import (
    DeviceError,
    EncoderError,
    FeatstoreError,
    WorkerDiedError,
    needs_extra,
)
from featstore.extraction.batches import use_device
from featstore.extraction.job import run_job, say_how, settle_settings
from featstore.extraction.options import ExtractConfig, tell_how
from featstore.extraction.progress import (
    BlockDone,
    ExtractResult,
    StageClock,
    Step,
    Tracker,
    ignore,
)
from featstore.extraction.targets import Job, SetState, check_free_space
from featstore.parallel import available_cores, end_with_parent, spawning


def to_send(job: Job) -> Job:
    """Check what can be checked before any process starts; return the job as it is sent to them.

    Raises
    ------
    EncoderError
        If an encoder is an object: it lives in this process alone; or its family does not take
        an option.
    UnknownEncoderError
        If a name means none.
    """
    for choice in job.encoders:
        if not isinstance(choice.encoder, str):
            raise EncoderError(
                f"The encoder {type(choice.encoder).__qualname__} is an object of this process, "
                "and other processes must open encoders themselves. Name it (family:name, with "
                "weights), or extract without devices and engine."
            )
        check_options(choice.encoder, **choice.model_options())
    config = replace(job.config, part=None, on_block=None, on_progress=None)
    address = parse_address(job.store)
    place = local_folder(job.store).absolute() if isinstance(address, Path) else address.url
    return replace(job, store=place, config=config)


def share_of_cores(workers: int) -> int:
    """Return the cores for each of several workers on this machine, at least one."""
    return max(1, available_cores() // workers)


#: set_id -> batch size, threads and device type: what all parts of a set must agree on.
Pinned = Mapping[str, Mapping[str, Any]]


def open_on(
    job: Job,
    device: str,
    *,
    cores: int | None = None,
    tell: Callable[[BlockDone | Step], None] | None = None,
) -> Job:
    """Open a job for the parts that this process does on a device.

    Parameters
    ----------
    device : str
    cores : int, optional
        Threads of the forward pass and workers that decode, where the job does not say.
    tell : callable, optional
        Called after every block and after every batch, in place of the job's own callbacks.

    Raises
    ------
    FeatstoreError
        As `extract`, before anything is encoded.
    """
    config = replace(job.config, device=device, jobs=job.config.jobs or cores)
    if tell is not None:
        config = replace(config, on_block=tell, on_step=tell)
    if any(isinstance(choice.encoder, str) for choice in job.encoders):
        with needs_extra("--device"):
            import torch

        if cores is not None:
            # Fewer where the environment says so: OMP_NUM_THREADS.
            torch.set_num_threads(min(cores, torch.get_num_threads()))
        use_device(device)
    return replace(job, config=config).open(begin=True)


def settle(job: Job) -> tuple[Pinned, list[SetState], str]:
    """Settle batch sizes and threads, and look at what is left to do.

    Returns
    -------
    tuple of (Pinned, list of SetState, str)
        The last says in one line how the sets are encoded; see `say_how`.
    """
    lacking = [target for target in job.targets if target.finished() is None]
    states = [target.state() for target in job.targets]
    check_free_space(job.folder, states)
    pinned = {target.spec.set_id: settle_settings(job, target) for target in lacking}
    return pinned, states, say_how(job, pinned)


def run_part(
    job: Job, part: tuple[int, int] | None, pinned: Pinned, *, count_left: bool = False
) -> list[ExtractResult]:
    """Encode a part of the blocks; with None, gather what all have done, and publish.

    Parameters
    ----------
    job : Job
        Open.
    part : (rank, world size) or None
        Every world-size-th block from block `rank` on; nothing is published. With None what is left
        is encoded.
    pinned : mapping
    count_left : bool
        Say what others have left: their journals are read for that.
    """
    if pinned.keys() - {target.spec.set_id for target in job.targets}:
        # The worker that settled the plan may have found another precision best.
        job.config = replace(job.config, pinned=pinned)
        job.open([target.encoder for target in job.targets])
    config = replace(job.config, part=part, pinned=pinned)
    return run_job(job.with_config(config, count_left=count_left))


def merge_results(
    parts: list[list[ExtractResult]], last: list[ExtractResult]
) -> list[ExtractResult]:
    """Return the results of the gathering run with what the parts have done counted in."""
    merged = []
    for number, result in enumerate(last):
        shares = [part[number] for part in parts]
        new = result.new + sum(share.new for share in shares)
        texts = [*(text for share in shares for text in share.truncated_items)]
        merged.append(
            replace(
                result,
                new=new,
                reused=result.reused + result.new - new,
                copied=result.copied + sum(share.copied for share in shares),
                truncated=result.truncated + sum(share.truncated for share in shares),
                truncated_items=[*texts, *result.truncated_items],
            )
        )
    return merged


logger = logging.getLogger(__name__)

#: Parts a worker, at least and at most: a slow device takes fewer. Simulated in
#: docs/measurements/scaling.md: of 256 workers one in 20 slow, a job takes 1.8 times as long as it
#: could with 4, 1.1 with 32.
PARTS_PER_WORKER = (4, 32)

#: Beyond the fewest, parts have so many blocks: to begin one costs a tenth of a second.
BLOCKS_OF_A_PART = 4

#: How often a part may be lost before the job gives up: it is probably the part's fault.
LOSSES = 3


def conduct(crew: Crew, config: ExtractConfig, *, encoders: int) -> list[ExtractResult]:
    """Settle the plan, have every part done, and publish; return one result an encoder.

    Parameters
    ----------
    crew : Crew
    config : ExtractConfig
        Whose callbacks are called here.
    encoders : int

    Raises
    ------
    FeatstoreError
        What a worker raised that is about the job; the same as `extract`.
    DeviceError
        If a part raised on three devices, or on every one that is left.
    WorkerDiedError
        If workers died again and again.
    """
    pinned: Pinned
    states: list[SetState]
    ((pinned, states, how),) = crew.run([_Task("The step 'settle'", settle, ())], ignore)
    tell_how(how)
    # A finished set has nothing new, but for failed items that are tried again.
    left = sum(state.new for state in states) if pinned else 0
    rows = sum(state.rows for state in states)
    tracker = Tracker(
        StageClock(),
        rows_total=rows,
        rows_done=rows - left,
        encoders=encoders,
        workers=(config.jobs or crew.cores) * len(crew.devices),
        device=", ".join(crew.devices),
        processes=len(crew.devices),
    )

    def tell(report: BlockDone | Step) -> None:
        if isinstance(report, BlockDone):
            (config.on_block or ignore)(report)
        else:
            tracker.take(report)
            tell_how(tracker.first_bottleneck())
            (config.on_progress or ignore)(tracker.progress())

    parts: list[list[ExtractResult]] = []
    if left:
        size = parts_of(max(state.blocks for state in states), len(crew.living()))
        tasks = [
            _Task(f"Part {rank} of {size}", run_part, ((rank, size), pinned))
            for rank in range(size)
        ]
        parts = crew.run(tasks, tell)
    (last,) = crew.run([_Task("The step 'gather'", run_part, (None, pinned))], tell)
    return merge_results(parts, last)


def parts_of(blocks: int, workers: int) -> int:
    """Return into how many parts a job is cut."""
    fewest, most = (parts * workers for parts in PARTS_PER_WORKER)
    return min(blocks, max(fewest, min(most, blocks // BLOCKS_OF_A_PART)))


@dataclass
class _Task:
    """A part, or a step that one worker does alone, and what it has cost so far.

    Attributes
    ----------
    lost : list of str
        A sentence for each time that a worker did not do it.
    raised : set of int
        The workers on whose devices it has raised: those do not get it again.
    """

    name: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    lost: list[str] = field(default_factory=list)
    raised: set[int] = field(default_factory=set)

    def given_up(self) -> FeatstoreError:
        """Return the error that says how it was lost."""
        error = DeviceError if self.raised else WorkerDiedError
        return error(
            f"{self.name} failed. {' '.join(self.lost)} Finished blocks are kept; run the same "
            "command again once the cause is fixed (memory: fewer devices on one machine, or a "
            "smaller --batch-size), or with --device without what failed."
        )


#: How often the process of one device is started again.
RESTARTS = 2

#: Seconds that a process has to write down its work after it was asked to end.
GRACE = 20.0


class Gone(Exception):  # noqa: N818 -- no fault of the job
    """The process of a worker is gone."""


class Remote(Protocol):
    """The process of a worker, wherever it runs."""

    device: str
    """Where it is, for a message."""

    def call(
        self, work: Callable[..., Any], arguments: tuple[Any, ...], tell: Callable[[Any], object]
    ) -> Any:
        """Run a function there, of which the open job is the first argument; return its answer.

        `tell` is called with every report. What the function raises is raised here, and the process
        is of no use any more.

        Raises
        ------
        Gone
            If the process is gone.
        """

    def stop(self) -> None:
        """Let it leave at once."""

    def end(self, until: float) -> str:
        """Wait for its end until a time, end it, and return how it ended."""


class Crew:
    """Workers in processes of their own, numbered from 0, each started with its first task.

    Use as a context manager: leaving ends every process, whatever it is doing. A thread here waits
    for each worker.

    Parameters
    ----------
    devices : sequence of str
        Of the workers.
    cores : int
        Of each.
    spawn : callable
        Called with cores and a device; starts a process there.
    """

    def __init__(
        self, devices: Sequence[str], cores: int, spawn: Callable[[int, str], Remote]
    ) -> None:
        self.devices, self.cores, self._spawn = list(devices), cores, spawn
        self._running: dict[int, Remote] = {}
        self._starts = [0] * len(self.devices)
        self._threads = ThreadPoolExecutor(max(1, len(self.devices)), "worker")
        self._telling = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for remote in self._running.values():
            remote.stop()
        until = time.monotonic() + GRACE
        while self._running:
            self._running.popitem()[1].end(until)
        self._threads.shutdown()

    def living(self) -> set[int]:
        """Return the workers that run, or can be started."""
        startable = {n for n, starts in enumerate(self._starts) if starts <= RESTARTS}
        return startable | self._running.keys()

    def run(self, tasks: Sequence[_Task], tell: Callable[[Any], object]) -> list[Any]:
        """Have idle workers do tasks, again where one was lost; return the answers.

        What a task raises that is about the job, and what `tell` raises, is raised here.
        """

        def tell_alone(report: Any) -> None:
            with self._telling:
                tell(report)

        waiting = deque(range(len(tasks)))
        working: dict[Future[Any], tuple[int, int]] = {}
        results: dict[int, Any] = {}
        while len(results) < len(tasks):
            for worker in sorted(self.living() - {busy for busy, _ in working.values()}):
                fits = (one for one in waiting if worker not in tasks[one].raised)
                if (number := next(fits, None)) is not None:
                    waiting.remove(number)
                    call = self._started(worker).call
                    task = tasks[number]
                    future = self._threads.submit(call, task.work, task.arguments, tell_alone)
                    working[future] = worker, number
            if not working:
                raise tasks[waiting[0]].given_up()
            for future in wait(working, return_when=FIRST_COMPLETED).done:
                worker, number = working.pop(future)
                error = future.exception()
                if error is None:
                    results[number] = future.result()
                    continue
                task = tasks[number]
                task.lost.append(self._ended(worker, error))
                if not isinstance(error, Gone):
                    task.raised.add(worker)
                if len(task.lost) == LOSSES or not self.living() - task.raised:
                    # Whatever was lost last: what was lost most, and raised, says most.
                    worst = max(tasks, key=lambda one: (len(one.lost), len(one.raised)))
                    raise worst.given_up() from error
                logger.warning("%s %s is done again.", task.lost[-1], task.name)
                waiting.appendleft(number)
        return [results[number] for number in range(len(tasks))]

    def _started(self, worker: int) -> Remote:
        if worker not in self._running:
            self._running[worker] = self._spawn(self.cores, self.devices[worker])
            self._starts[worker] += 1
        return self._running[worker]

    def _ended(self, worker: int, error: BaseException) -> str:
        """End the process of a worker whose task raised; return a sentence that says what.

        An error that is about the job is raised: it would be raised on every device.
        """
        about_device = not isinstance(error, FeatstoreError) or isinstance(error, DeviceError)
        if not isinstance(error, Exception) or not about_device:
            raise error
        # After an error of CUDA nothing works in that process: the next task has a new one.
        remote = self._running.pop(worker)
        ended = remote.end(time.monotonic() + GRACE)
        if isinstance(error, Gone):
            return ended
        what = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(". ")
        return f"Worker {worker} on {remote.device} raised {what}."


class SpawnedProcess:
    """A worker's process on this machine.

    Parameters
    ----------
    job : Job
    cores : int
        See `open_on`.
    device : str
    """

    def __init__(self, job: Job, cores: int, device: str) -> None:
        # A forked child would inherit threads' locks and a CUDA context that it cannot use.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, job, device, cores), name=f"extract on {device}"
        )
        self.device = device
        with spawning():
            self._process.start()
        theirs.close()

    def call(
        self, work: Callable[..., Any], arguments: tuple[Any, ...], tell: Callable[[Any], object]
    ) -> Any:
        """Run a function there; see `Remote`."""
        self._exchange(partial(self._connection.send, (work, arguments)))
        while True:
            what, value = self._exchange(self._connection.recv)
            if what == "answer":
                return value
            if what == "raised":
                raise value
            tell(value)

    @staticmethod
    def _exchange(through: Callable[[], Any]) -> Any:
        try:
            return through()
        except (EOFError, OSError, pickle.UnpicklingError) as err:
            raise Gone from err

    def stop(self) -> None:
        """Let it leave through every `with` block."""
        self._process.terminate()

    def end(self, until: float) -> str:
        """Wait for its end until a time, end it, and return how it ended."""
        process, pid = self._process, self._process.pid
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
        code = process.exitcode or 0
        process.close()
        self._connection.close()
        hint = " (the kernel kills so when memory runs out)" if code == -signal.SIGKILL else ""
        return f"Process {pid} on {self.device} ended with {exit_status(code)}{hint}."


def serve(connection: Connection, job: Job, device: str, cores: int) -> None:
    """Run a worker in this process: tasks and answers go through the connection."""
    # Ctrl-C reaches every process of the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    end_with_parent()
    sending = threading.Lock()

    def send(what: str, value: Any) -> None:
        with sending:
            connection.send((what, value))

    try:
        opened = open_on(job, device, cores=cores, tell=partial(send, "news"))
        while True:
            work, arguments = connection.recv()
            send("answer", work(opened, *arguments))
    except (EOFError, BrokenPipeError):
        return  # the parent has gone
    except Exception as err:
        send("raised", sendable(err))


def _leave(*_: object) -> None:
    """Leave through every `with` block, so that what is done is written down."""
    sys.exit(128 + signal.SIGTERM)


def sendable(err: Exception) -> Exception:
    """Return the error as another process can raise it, with the lines that it came through."""
    if not isinstance(err, FeatstoreError):
        err.add_note(traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(err))  # noqa: S301 -- our own bytes
    except Exception:
        return RuntimeError(f"{type(err).__name__}: {err}")
    return err


def extract_on_devices(job: Job, devices: str | Sequence[str] = "all") -> list[ExtractResult]:
    """Run a job in one process a device; the store is the same as of one process.

    The cores are shared out evenly where the options name neither threads nor jobs. On a CPU
    threads decide the last bits of a row: to compare two stores bit for bit, name them. A job
    that is resumed takes those it was begun with.

    A process that dies (no memory, a broken driver) is reported and started again, twice; its
    blocks are lost only as far as they were not written. What raises on one device is done
    again on another one. Ctrl-C ends every process, and the
    same call again resumes. In a script, call this below ``if __name__ == "__main__":``, because
    the processes import it.

    Parameters
    ----------
    job : Job
        With encoders by name only; `config.device` is not used.
    devices : str or sequence of str
        ``all`` GPUs of this machine, or a list such as ``cuda:0,cuda:1`` or ``cpu,cpu``.

    Raises
    ------
    EncoderError
        If there is no such device, or an encoder is an object.
    DeviceError
        If a part of the job raises on three devices, or on every one.
    WorkerDiedError
        If processes die again and again.
    FeatstoreError
        As for `extract`.
    """
    chosen = parse_devices(devices)
    spawn = partial(SpawnedProcess, to_send(job))
    with Crew(chosen, share_of_cores(len(chosen)), spawn) as crew:
        return conduct(crew, job.config, encoders=len(job.encoders))


def split_devices(devices: str | Sequence[str], every: Callable[[], Sequence[str]]) -> list[str]:
    """Return the devices of a list with commas; ``all`` are those that `every` returns."""
    if isinstance(devices, str):
        devices = every() if devices.strip() == "all" else devices.split(",")
    return [device.strip() for device in devices if device.strip()]


def parse_devices(devices: str | Sequence[str]) -> list[str]:
    """Return the devices of a list, or every GPU for ``all``.

    Raises
    ------
    EncoderError
        If the list is empty, or this machine has no such GPU.
    """
    chosen = split_devices(devices, all_devices)
    if not chosen:
        raise EncoderError(
            "No device is named. Take --device all, or a list such as cuda:0,cuda:1."
        )
    gpus = [device for device in chosen if device.startswith("cuda")]
    known = ["cuda", *all_devices()] if gpus else []
    if unknown := [device for device in gpus if device not in known]:
        raise EncoderError(
            f"This machine has no {', '.join(unknown)}: torch can use {', '.join(known[1:])}."
        )
    return chosen


def all_devices() -> list[str]:
    """Return every GPU of this machine.

    Raises
    ------
    EncoderError
        If there is none.
    """
    with needs_extra("--device"):
        import torch

    found = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if not found:
        raise EncoderError(
            "This machine has no GPU that torch can use. Several processes on the CPU are "
            "--device cpu,cpu; one is what --device cpu does."
        )
    return found
