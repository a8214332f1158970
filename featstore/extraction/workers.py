"""Workers of a job: one process a device, each with its part of the items.

They are no `featstore.parallel.Workers`: those run independent tasks, and these keep an encoder and
state between parts, report progress, and are restarted with what is left of a part.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from featstore.command_line import StorePlace
from featstore.encoders.base import Encoder
from featstore.errors import (
    DeviceError,
    EncoderError,
    FeatstoreError,
    WorkerDiedError,
    needs_extra,
)
from featstore.extraction.batches import use_device
from featstore.extraction.job import job_store, open_job, run_job
from featstore.extraction.options import EncoderSpec, ExtractConfig, tell_how
from featstore.extraction.progress import (
    BlockDone,
    ExtractResult,
    JobLog,
    Progress,
    SummedProgress,
)
from featstore.extraction.run import say_how, settle_settings
from featstore.extraction.targets import Job, check_free_space
from featstore.manifest.io import read_manifest
from featstore.manifest.manifest import Manifest
from featstore.parallel import available_cores, end_with_parent, spawning


@dataclass(frozen=True)
class JobRequest:
    """The arguments of `extract_many`, ready to be sent: encoders by name, no callbacks."""

    manifest: Manifest
    kind: str
    encoders: tuple[EncoderSpec, ...]
    store: StorePlace
    config: ExtractConfig

    def open(self, config: ExtractConfig, opened: Sequence[Encoder] | None = None) -> Job:
        """Open the job with a config of one worker; see `open_job`."""
        return open_job(
            self.manifest,
            kind=self.kind,
            encoders=self.encoders,
            store=self.store,
            config=config,
            opened=opened,
        )


def make_request(
    manifest: str | Path | Manifest,
    *,
    kind: str,
    encoders: Sequence[EncoderSpec],
    store: str | Path,
    config: ExtractConfig,
) -> JobRequest:
    """Check what can be checked before any process starts, and return what is sent to them.

    Raises
    ------
    EncoderError
        If an encoder is an object: it lives in this process alone; or its family does not take
        an option.
    UnknownEncoderError
        If a name means none.
    """
    from featstore.encoders.registry import check_options

    choices = tuple(one for spec in encoders for one in spec.each_layer())
    for choice in choices:
        if not isinstance(choice.encoder, str):
            raise EncoderError(
                f"The encoder {type(choice.encoder).__qualname__} is an object of this process, "
                "and other processes must open encoders themselves. Name it (family:name, with "
                "weights), or extract without devices and engine."
            )
        check_options(choice.encoder, **choice.model_options())
    source = manifest if isinstance(manifest, Manifest) else read_manifest(Path(manifest))
    return JobRequest(
        source,
        kind,
        choices,
        job_store(store),
        replace(config, on_block=None, on_progress=None),
    )


def share_of_cores(workers: int) -> int:
    """Return the cores for each of several workers on this machine, at least one."""
    return max(1, available_cores() // workers)


OnBlock = Callable[[BlockDone], None]
OnProgress = Callable[[Progress], None]

#: set_id -> batch size, threads and device type: what all parts of a set must agree on.
Pinned = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class SharedPlan:
    """What is settled before the work is shared.

    Attributes
    ----------
    pinned : mapping
    blocks : int
        Blocks of the largest set, or windows of blocks over which texts are sorted.
    rows, rows_left : int
        Rows of all sets, and how many of them are not encoded yet.
    how : str
        In one line, how they are encoded; see `say_how`.
    """

    pinned: Pinned
    blocks: int
    rows: int
    rows_left: int
    how: str


class Worker:
    """Runs parts of one job in the process where it is made.

    Parameters
    ----------
    request : JobRequest
    device : str
    cores : int, optional
        Threads of the forward pass and workers that decode, where the job does not say.
    callbacks : pair of callables, optional
        Called after every block and after every batch; see `ExtractConfig`.

    Attributes
    ----------
    part : int
        Rank of the part that is being run, or was last; -1 before and while gathering.

    Raises
    ------
    FeatstoreError
        As `extract`, before anything is encoded.
    """

    def __init__(
        self,
        request: JobRequest,
        device: str,
        *,
        cores: int | None = None,
        callbacks: tuple[OnBlock | None, OnProgress | None] = (None, None),
    ) -> None:
        self.part = -1
        self._request = request
        on_block, on_progress = callbacks
        config = replace(request.config, device=device, on_block=on_block, on_progress=on_progress)
        if any(isinstance(choice.encoder, str) for choice in request.encoders):
            _use_device(device, cores)
        if cores is not None and config.jobs is None:
            config = replace(config, jobs=cores)
        self._job = request.open(config)

    def settle(self) -> SharedPlan:
        """Settle batch sizes and threads, and look at what is left to do."""
        targets = self._job.targets
        lacking = [target for target in targets if target.finished() is None]
        states = [target.state() for target in targets]
        check_free_space(self._job.store, states)
        pinned = {target.spec.set_id: settle_settings(self._job, target) for target in lacking}
        # Texts are sorted over several blocks, which a part takes together.
        window = max((settings.get("window", 1) for settings in pinned.values()), default=1)
        return SharedPlan(
            pinned=pinned,
            blocks=-(-max(state.blocks for state in states) // window),
            rows=sum(state.rows for state in states),
            rows_left=sum(state.new for state in states) if lacking else 0,
            how=say_how(self._job, pinned),
        )

    def run_part(
        self, rank: int, world_size: int, pinned: Pinned, *, count_left: bool = False
    ) -> list[ExtractResult]:
        """Encode every world-size-th block from block `rank` on; nothing is published.

        With `count_left`, say what others have left: their journals are read for that.
        """
        return self._run((rank, world_size), pinned, count_left=count_left)

    def gather(self, pinned: Pinned) -> list[ExtractResult]:
        """Gather what all parts have done, encode what is left, and publish."""
        return self._run(None, pinned)

    def finished(self) -> list[ExtractResult] | None:
        """Return the results if every set is finished."""
        found = [target.finished() for target in self._job.targets]
        return [one for one in found if one is not None] if None not in found else None

    def _run(
        self, part: tuple[int, int] | None, pinned: Pinned, *, count_left: bool = False
    ) -> list[ExtractResult]:
        self.part = -1 if part is None else part[0]
        if pinned.keys() - {target.spec.set_id for target in self._job.targets}:
            # The worker that settled the plan may have found another precision best.
            opened = [target.encoder for target in self._job.targets]
            self._job = self._request.open(replace(self._job.config, pinned=pinned), opened)
        config = replace(self._job.config, part=part, pinned=pinned)
        with contextlib.closing(JobLog(config.log)) as log:
            job = replace(self._job.with_config(config), count_left=count_left)
            return run_job(job, log)


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


def _use_device(device: str, cores: int | None) -> None:
    """Make a device this process's own, and torch's threads its share of the cores."""
    with needs_extra("--devices"):
        import torch

    if cores is not None:
        # Fewer where the environment says so: OMP_NUM_THREADS.
        torch.set_num_threads(min(cores, torch.get_num_threads()))
    use_device(device)


logger = logging.getLogger(__name__)

#: Parts a worker, at least and at most: a slow device takes fewer. Simulated in
#: docs/measurements/scaling.md: of 256 workers one in 20 slow, a job takes 1.8 times as long as it
#: could with 4, 1.1 with 32.
PARTS_PER_WORKER = (4, 32)

#: Beyond the fewest, parts have so many blocks: to begin one costs a tenth of a second.
BLOCKS_OF_A_PART = 4

#: Workers that one part may cost before the job gives up: it is probably the part's fault.
DEATHS_OF_A_PART = 3

#: Devices on which one part may raise: of the second one it is hardly the fault.
FAILURES_OF_A_PART = 2


@dataclass(frozen=True)
class Answer:
    """A worker has finished its task."""

    worker: int
    value: Any


@dataclass(frozen=True)
class Death:
    """A worker's process is gone."""

    worker: int
    reason: str


@dataclass(frozen=True)
class Failure:
    """A task raised what may be the fault of its device: `reason` is a sentence that names it."""

    worker: int
    reason: str
    error: Exception

    @classmethod
    def of(cls, worker: int, device: str, error: Exception) -> Self:
        """Return the failure of a worker's task.

        Raises
        ------
        FeatstoreError
            The error itself if it is about the job: it would be raised on every device.
        """
        if isinstance(error, FeatstoreError) and not isinstance(error, DeviceError):
            raise error from None
        what = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(". ")
        return cls(worker, f"Worker {worker} on {device} raised {what}.", error)


@dataclass(frozen=True)
class News:
    """A worker reports how far it is with a part, -1 while it gathers."""

    worker: int
    part: int
    report: BlockDone | Progress


class Crew(Protocol):
    """Workers in processes of their own, numbered from 0."""

    def living(self) -> set[int]:
        """Return the workers that can take a task."""

    def tell(self, worker: int, task: str, *arguments: Any) -> None:
        """Make an idle worker run a method of `Worker`."""

    def events(self) -> Iterable[Answer | Death | Failure | News]:
        """Wait until something has happened; return it.

        What a task raised that is about the job is raised here.
        """


def conduct(
    crew: Crew,
    *,
    encoders: int,
    on_block: Callable[[BlockDone], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[ExtractResult]:
    """Settle the plan, have every part done, and publish; return one result an encoder.

    Raises
    ------
    FeatstoreError
        What a worker raised that is about the job; the same as `extract`.
    DeviceError
        If a part failed on two devices, or on the only one that is left.
    WorkerDiedError
        If workers died again and again.
    """
    plan: SharedPlan = _alone(crew, "settle")
    tell_how(plan.how)
    summed = SummedProgress(
        plan.rows, plan.rows_left, encoders, on_block=on_block, on_progress=on_progress
    )
    parts: list[list[ExtractResult]] = []
    if plan.rows_left:
        parts = _all_parts(crew, plan, summed)
    last: list[ExtractResult] = _alone(crew, "gather", plan.pinned, summed=summed)
    return merge_results(parts, last)


def parts_of(blocks: int, workers: int) -> int:
    """Return into how many parts a job is cut."""
    fewest, most = (parts * workers for parts in PARTS_PER_WORKER)
    return min(blocks, max(fewest, min(most, blocks // BLOCKS_OF_A_PART)))


@dataclass
class _Task:
    """A part, or a step that one worker does alone, and what it has cost so far."""

    name: str
    call: tuple[Any, ...]
    deaths: int = 0
    failures: list[Failure] = field(default_factory=list)

    def lost(self, event: Death | Failure) -> None:
        """Note that a worker did not do it.

        Raises
        ------
        DeviceError
            If it has failed on two devices.
        WorkerDiedError
            If it has cost too many workers.
        """
        if isinstance(event, Failure):
            self.failures.append(event)
            if len(self.failures) == FAILURES_OF_A_PART:
                raise self.given_up()
            logger.warning("%s %s is tried once more, elsewhere.", event.reason, self.name)
            return
        self.deaths += 1
        if self.deaths == DEATHS_OF_A_PART:
            raise WorkerDiedError(
                f"{self.name} cost {self.deaths} workers; the last one: {event.reason} Finished "
                "blocks are kept; run the same command again once the cause is fixed."
            )
        logger.warning("%s %s is done again.", event.reason, self.name)

    def fits(self, worker: int) -> bool:
        """Return whether it has not failed there."""
        return worker not in {failure.worker for failure in self.failures}

    def given_up(self) -> DeviceError:
        """Return the error that says on which devices it failed, and how."""
        known = DeviceError(
            f"{self.name} failed. {' '.join(failure.reason for failure in self.failures)} "
            "Finished blocks are kept; run the same command again once the cause is fixed, or "
            "with --devices without what failed."
        )
        known.__cause__ = self.failures[-1].error
        return known


def _all_parts(crew: Crew, plan: SharedPlan, summed: SummedProgress) -> list[list[ExtractResult]]:
    """Hand every part to an idle worker; return the results."""
    world_size = parts_of(plan.blocks, len(crew.living()))
    parts = [
        _Task(f"Part {rank} of {world_size}", ("run_part", rank, world_size, plan.pinned))
        for rank in range(world_size)
    ]
    return _run_tasks(crew, parts, summed)


def _alone(crew: Crew, task: str, *arguments: Any, summed: SummedProgress | None = None) -> Any:
    """Have one worker do a task, another one if it dies."""
    return _run_tasks(crew, [_Task(f"The step {task!r}", (task, *arguments))], summed)[0]


def _run_tasks(crew: Crew, tasks: list[_Task], summed: SummedProgress | None) -> list[Any]:
    """Have idle workers do tasks, again where one was lost; return the answers."""
    waiting, working = deque(range(len(tasks))), dict[int, int]()
    results: dict[int, Any] = {}
    while len(results) < len(tasks):
        for worker in sorted(crew.living() - working.keys()):
            number = next((one for one in waiting if tasks[one].fits(worker)), None)
            if number is not None:
                waiting.remove(number)
                working[worker] = number
                crew.tell(worker, *tasks[number].call)
        if not working:
            failed = next((tasks[one] for one in waiting if tasks[one].failures), None)
            raise failed.given_up() if failed else _all_workers_died()
        for event in crew.events():
            if isinstance(event, News):
                if summed is not None:
                    summed.take(event.worker, event.part, event.report)
                continue
            if summed is not None:
                summed.ended(event.worker)
            number = working.pop(event.worker, None)
            if number is None:
                continue
            if isinstance(event, Answer):
                results[number] = event.value
            else:
                task = tasks[number]
                task.lost(event)
                if task.failures and not any(map(task.fits, crew.living())):
                    raise task.given_up()
                waiting.appendleft(number)
    return [results[number] for number in range(len(tasks))]


def _all_workers_died() -> WorkerDiedError:
    return WorkerDiedError(
        "Every worker has died. Finished blocks are kept; run the same command again once the "
        "cause is fixed (memory: fewer devices on one machine, or a smaller --batch-size)."
    )


#: How often the process of one device is started again.
RESTARTS = 2

#: Seconds that a process has to write down its work after it was asked to end.
GRACE = 20.0


class ProcessCrew:
    """One process per device, started with its first task.

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
        for worker in list(self._running):
            self._end(worker, until=until)

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

    def events(self) -> Iterator[Answer | Death | Failure | News]:
        """Wait for what happens next; what a task raised about the job is raised here."""
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
                yield self._exit_report(worker, process.pid)

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
        with spawning():
            process.start()
        theirs.close()
        self._running[worker] = (process, ours)
        self._silent.discard(worker)
        self._starts[worker] += 1

    def _end(self, worker: int, *, until: float) -> int:
        """Wait for a process until a time, end it, and return its exit code."""
        process, connection = self._running.pop(worker)
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
        code = process.exitcode or 0
        process.close()
        connection.close()
        return code

    def _received(self, worker: int, connection: Connection) -> Iterator[Answer | Failure | News]:
        try:
            what, value = connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._silent.add(worker)  # its sentinel follows
            return
        if what == "raised":
            failure = Failure.of(worker, self._devices[worker], value)
            # After an error of CUDA nothing works in that process: the next task has a new one.
            self._end(worker, until=time.monotonic() + GRACE)
            yield failure
            return
        yield News(worker, *value) if what == "news" else Answer(worker, value)

    def _exit_report(self, worker: int, pid: int | None) -> Death:
        code = self._end(worker, until=time.monotonic() + GRACE)
        how = f"ended with exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = f"was killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += " (the kernel kills so when memory runs out)"
        return Death(worker, f"Process {pid} on {self._devices[worker]} {how}.")


def serve(connection: Connection, request: JobRequest, device: str, cores: int) -> None:
    """Run a worker in this process: tasks and answers go through the connection."""
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
    """Return the error as another process can raise it, with the lines that it came through."""
    if not isinstance(err, FeatstoreError):
        err.add_note(traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(err))  # noqa: S301 -- our own bytes
    except Exception:
        return RuntimeError(f"{type(err).__name__}: {err}")
    return err


def extract_on_devices(
    manifest: str | Path | Manifest,
    *,
    kind: str,
    encoders: Sequence[EncoderSpec],
    store: str | Path,
    devices: str | Sequence[str] = "all",
    config: ExtractConfig | None = None,
) -> list[ExtractResult]:
    """Run `extract_many` in one process a device; the store is the same as of one process.

    The cores are shared out evenly where the options name neither threads nor jobs. On a CPU
    threads decide the last bits of a row: to compare two stores bit for bit, name them. A job
    that is resumed takes those it was begun with.

    A process that dies (no memory, a broken driver) is reported and started again, twice; its
    blocks are lost only as far as they were not written. What raises on one device is done once
    more on another one. Ctrl-C ends every process, and the
    same call again resumes. In a script, call this below ``if __name__ == "__main__":``, because
    the processes import it.

    Parameters
    ----------
    manifest, kind, encoders, store, config
        As for `extract_many`, but encoders by name only; `config.device` is not used.
    devices : str or sequence of str
        ``all`` GPUs of this machine, or a list such as ``cuda:0,cuda:1`` or ``cpu,cpu``.

    Raises
    ------
    EncoderError
        If there is no such device, or an encoder is an object.
    DeviceError
        If a part of the job raises on two devices, or on the only one.
    WorkerDiedError
        If processes die again and again.
    FeatstoreError
        As for `extract`.
    """
    requested = config or ExtractConfig()
    chosen = parse_devices(devices)
    request = make_request(
        manifest, kind=kind, encoders=encoders, store=store, config=replace(requested, part=None)
    )
    with ProcessCrew(request, chosen, cores=share_of_cores(len(chosen))) as crew:
        return conduct(
            crew,
            encoders=len(request.encoders),
            on_block=requested.on_block,
            on_progress=requested.on_progress,
        )


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
            "No device is named. Take --devices all, or a list such as cuda:0,cuda:1."
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
    with needs_extra("--devices"):
        import torch

    found = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if not found:
        raise EncoderError(
            "This machine has no GPU that torch can use. Several processes on the CPU are "
            "--devices cpu,cpu; one is what --device cpu does."
        )
    return found
