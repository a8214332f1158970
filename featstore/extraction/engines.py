"""Processes that share a job: one a device, ranks that someone else starts, and actors of Ray.

``--device cuda:0,cuda:1`` and ``--engine ray``: workers open the encoders once, and do parts of the
items from a queue. A worker that is lost ends the job on this machine, and is replaced by Ray; what
is done is kept, and the same command does the rest. ``--shard``: the ranks of Slurm or torchrun
share only the store. Each one encodes its part; the rank that then finds every block done gathers
and publishes, and the others report what is left and exit with code 0.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from featstore.address import parse_address
from featstore.durable import local_folder
from featstore.encoders.registry import check_options
from featstore.errors import (
    ClaimLostError,
    DeviceError,
    EncoderError,
    FeatstoreError,
    needs_extra,
)
from featstore.extraction.batches import StageClock, Tracker, use_device
from featstore.extraction.job import run_job, say_how, settle_settings
from featstore.extraction.options import ExtractResult, ignore, settle_device, tell_how
from featstore.extraction.targets import Job, SetState, check_free_space
from featstore.parallel import RETRIES, available_cores, connected, errors_of, processes, spawning
from featstore.plugins import ENVIRONMENT, use_plugins


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


#: set_id -> batch size, threads and device type: what all parts of a set must agree on.
Pinned = Mapping[str, Mapping[str, Any]]


def open_on(job: Job, device: str, *, cores: int | None = None) -> Job:
    """Open a job for the parts that this process does on a device.

    Parameters
    ----------
    device : str
    cores : int, optional
        Threads of the forward pass and workers that decode, where the job does not say.

    Raises
    ------
    FeatstoreError
        As `extract`, before anything is encoded.
    """
    config = replace(job.config, device=device, jobs=job.config.jobs or cores)
    if any(isinstance(choice.encoder, str) for choice in job.encoders):
        with needs_extra("`device=`"):
            import torch

        if cores is not None:
            # Fewer where the environment says so: OMP_NUM_THREADS.
            torch.set_num_threads(min(cores, torch.get_num_threads()))
        use_device(device)
    return replace(job, config=config).open()


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


#: Parts a worker, at least and at most: a slow device takes fewer. Simulated in
#: docs/measurements/scaling.md: of 256 workers one in 20 slow, a job takes 1.8 times as long as it
#: could with 4, 1.1 with 32.
PARTS_PER_WORKER = (4, 32)

#: Beyond the fewest, parts have so many blocks: to begin one costs a tenth of a second.
BLOCKS_OF_A_PART = 4

#: What workers do: a function of an open job, and its further arguments.
Task = tuple[Callable[..., Any], tuple[Any, ...]]


def conduct(
    job: Job, run: Callable[[Iterable[Task]], Iterable[Any]], workers: int
) -> list[ExtractResult]:
    """Settle the plan, have every part done, and publish; return one result an encoder.

    Parameters
    ----------
    job : Job
        Whose ``on_progress`` is called here after every part.
    run : callable
        Has workers do tasks, and yields the answers as they come.
    workers : int
        How many there are.

    Raises
    ------
    FeatstoreError
        What a worker raised; the same as `extract`.
    """
    pinned: Pinned
    states: list[SetState]
    ((pinned, states, how),) = run([(settle, ())])
    tell_how(how)
    # A finished set has nothing new, but for failed items that are tried again.
    left = sum(state.new for state in states) if pinned else 0
    rows = sum(state.rows for state in states)
    tracker = Tracker(
        StageClock(),
        rows_total=rows,
        rows_done=rows - left,
        encoders=len(job.encoders),
    )
    size = parts_of(max(state.blocks for state in states), workers) if left else 0
    parts: list[list[ExtractResult]] = [[] for _ in range(size)]
    for rank, done, counts in run([(_do_part, (rank, size, pinned)) for rank in range(size)]):
        parts[rank] = done
        for counted, failures in counts:
            tracker.take(counted, failures)
        tell_how(tracker.first_bottleneck())
        (job.config.on_progress or ignore)(tracker.progress())
    (last,) = run([(run_part, (None, pinned))])
    return merge_results(parts, last)


def _do_part(
    job: Job, rank: int, size: int, pinned: Pinned
) -> tuple[int, list[ExtractResult], list[tuple[Mapping[str, float], set[str]]]]:
    """Do a part; return its number, its results, and for each pass what it counted."""
    counts: list[tuple[Mapping[str, float], set[str]]] = []
    job.config = replace(job.config, on_part=lambda *found: counts.append(found))
    return rank, run_part(job, (rank, size), pinned), counts


def parts_of(blocks: int, workers: int) -> int:
    """Return into how many parts a job is cut."""
    fewest, most = (parts * workers for parts in PARTS_PER_WORKER)
    return min(blocks, max(fewest, min(most, blocks // BLOCKS_OF_A_PART)))


class Worker:
    """A job in a process of its own, opened by the first task.

    Parameters
    ----------
    job : Job
    device : str
    cores : int
        See `open_on`.
    plugins : str
        Modules of a process elsewhere, as in the environment of the one that has started it.
    """

    def __init__(self, job: Job, device: str, cores: int, plugins: str = "") -> None:
        use_plugins(filter(None, plugins.split(os.pathsep)))
        self._device = device
        self._open = cache(partial(open_on, job, device, cores=cores))

    def run(self, task: Task) -> Any:
        """Do a task.

        Raises
        ------
        DeviceError
            If it raised what is no error of this package.
        """
        work, arguments = task
        try:
            return work(self._open(), *arguments)
        except FeatstoreError:
            raise
        except Exception as err:
            what = f"{type(err).__name__}: {' '.join(str(err).split())}".rstrip(". ")
            raise DeviceError(
                f"A worker on {self._device} raised {what}. Finished blocks are kept; run the same "
                "command again once the cause is fixed (memory: fewer devices on one machine, or a "
                "smaller `batch_size=`), or with `device=` without what failed."
            ) from err


#: The worker that a process of this machine is.
_here: list[Worker] = []


def _begin_worker(job: Job, cores: int, devices: Any) -> None:
    _here.append(Worker(job, devices.get(), cores))
    for asked in (signal.SIGINT, signal.SIGTERM):
        # Every `with` block is left, so that what is done is written down.
        signal.signal(asked, lambda number, _: sys.exit(128 + number))


def _do_here(task: Task) -> Any:
    try:
        return _here[0].run(task)
    except SystemExit:  # the pool would begin another part
        os._exit(1)


def extract_on_devices(job: Job, devices: str | Sequence[str] = "all") -> list[ExtractResult]:
    """Run a job in one process a device; the store is the same as of one process.

    The cores are shared out evenly where the options name neither threads nor jobs. On a CPU
    threads decide the last bits of a row: to compare two stores bit for bit, name them. A job
    that is resumed takes those it was begun with.

    A process that dies (no memory, a broken driver), or raises, ends the job; the same call again
    resumes, as after Ctrl-C. In a script, call this below ``if __name__ == "__main__":``, because
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
        If a part of the job raises.
    WorkerDiedError
        If a process dies.
    FeatstoreError
        As for `extract`.
    """
    chosen = parse_devices(devices)
    cores = max(1, available_cores() // len(chosen))
    with spawning():  # its locks have a process
        waiting = multiprocessing.get_context("spawn").SimpleQueue()
    for device in chosen:
        waiting.put(device)
    with processes(len(chosen), _begin_worker, to_send(job), cores, waiting) as run:
        return conduct(job, partial(run, _do_here), len(chosen))


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
        If the list is empty, or all GPUs are asked for and there is none.
    """
    chosen = split_devices(devices, all_devices)
    if not chosen:
        raise EncoderError(
            "No device is named. Take `device=all`, or a list such as cuda:0,cuda:1."
        )
    return chosen


def all_devices() -> list[str]:
    """Return every GPU of this machine.

    Raises
    ------
    EncoderError
        If there is none.
    """
    with needs_extra("`device=`"):
        import torch

    found = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if not found:
        raise EncoderError(
            "This machine has no GPU that torch can use. Several processes on the CPU are "
            "`device=cpu,cpu`; one is what `device=cpu` does."
        )
    return found


#: Seconds that a process waits for another one to end its publishing, or for the claim of one that
#: died on another machine.
PATIENCE = 600.0


@dataclass(frozen=True)
class Rank:
    """Which of several processes this one is."""

    rank: int
    world_size: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise EncoderError(
                f"Rank {self.rank} of {self.world_size} does not exist: ranks are 0 to "
                "world size - 1. Give a --shard I/N that fits."
            )


def extract_rank(job: Job, place: Rank) -> list[ExtractResult]:
    """Do one rank's share of a job; the last rank to end publishes.

    Every rank is called with the same job but, if it likes, another device. It takes its share of
    the cores of its node: see `featstore.parallel.available_cores`. Batch size and threads must be
    the same in all of them, for blocks of different ones are not mixed: name the threads if the
    nodes have different numbers of cores, or of ranks.

    Parameters
    ----------
    job : Job
    place : Rank

    Returns
    -------
    list of ExtractResult
        One an encoder; while others are not done, with ``blocks_left`` and no revision.

    Raises
    ------
    FeatstoreError
        As for `extract`.
    """
    config = settle_device(job.config, job.encoders)
    config = replace(config, part=None, wait=max(config.wait, PATIENCE))
    device = local_device(config.device)
    opened = open_on(replace(job, config=config), device, cores=available_cores())
    pinned, _, how = settle(opened)
    tell_how(how)
    try:
        done = run_part(opened, (place.rank, place.world_size), pinned, count_left=True)
    except ClaimLostError:
        # Others may have finished everything while this process stood still.
        found = [target.finished() for target in opened.targets]
        if None in found:
            raise
        return [one for one in found if one is not None]
    if any(result.blocks_left for result in done):
        return done
    return merge_results([done], run_part(opened, None, pinned))


#: What Slurm says of a process that has no others beside it.
_ALONE = {"PROCID": "0", "NTASKS": "1"}


def rank_of(shard: str, environment: Mapping[str, str] | None = None) -> Rank:
    """Return which process this is: of ``I/N`` the I-th, of ``auto`` what the environment says.

    Looked at in this order: torchrun's ``RANK`` and ``WORLD_SIZE``; a Slurm array's
    ``SLURM_ARRAY_TASK_ID``, ``_MIN``, ``_STEP`` and ``_COUNT``, whose tasks may have several
    processes each; ``SLURM_PROCID`` and ``SLURM_NTASKS``.

    Raises
    ------
    EncoderError
        If there is no such rank, or the environment does not say.

    Examples
    --------
    >>> rank_of("auto", {"SLURM_PROCID": "3", "SLURM_NTASKS": "8"})
    Rank(rank=3, world_size=8)
    """
    if shard != "auto":
        return Rank(*map(int, shard.split("/")))
    found = {**(os.environ if environment is None else environment)}
    with suppress(ValueError):  # of a variable that is no number
        if {"RANK", "WORLD_SIZE"} <= found.keys():
            return Rank(int(found["RANK"]), int(found["WORLD_SIZE"]))
        process, processes = (int(found.get(f"SLURM_{name}", n)) for name, n in _ALONE.items())
        if {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"} <= found.keys():
            first = int(found.get("SLURM_ARRAY_TASK_MIN", "0"))
            step = max(1, int(found.get("SLURM_ARRAY_TASK_STEP", "1")))
            task = (int(found["SLURM_ARRAY_TASK_ID"]) - first) // step
            tasks = int(found["SLURM_ARRAY_TASK_COUNT"])
            return Rank(task * processes + process, tasks * processes)
        if {"SLURM_PROCID", "SLURM_NTASKS"} <= found.keys():
            return Rank(process, processes)
    raise EncoderError(
        "--shard auto finds neither RANK and WORLD_SIZE (torchrun) nor SLURM_PROCID and "
        "SLURM_NTASKS, nor a Slurm array, in whole numbers. Start it there, or give --shard I/N."
    )


def local_device(device: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the GPU of this process: ``cuda`` is ``cuda:<local rank>``.

    Local ranks beyond the GPUs that the process sees wrap around: under Slurm each one may see
    a single GPU, which is its first.
    """
    if device != "cuda":
        return device
    with needs_extra("`device=cuda`"):
        import torch

    found = os.environ if environment is None else environment
    local = int(found.get("LOCAL_RANK", found.get("SLURM_LOCALID", "0")))
    return f"cuda:{local % max(1, torch.cuda.device_count())}"


def extract_on_ray(job: Job, devices: str | Sequence[str] = "all") -> list[ExtractResult]:
    """Run a job on Ray: see `featstore.parallel.connected`.

    An actor holds the encoders of one device, opened once. Ray replaces one that is lost, and has
    its part done again. Store, manifest, images and weights must be where every node sees them
    under the same path.

    Parameters
    ----------
    job : Job
        With encoders by name only; `config.device` is not used.
    devices : str or sequence of str
        ``all`` GPUs of the cluster, or a list: an actor each. Which GPU an actor gets is Ray's
        choice, so ``cuda,cuda`` are two of them; ``cpu,cpu`` are two actors without.

    Raises
    ------
    MissingPackageError
        If Ray is not installed.
    EncoderError
        If the cluster has no such devices, or an encoder is an object.
    DeviceError
        If a part of the job raises.
    EngineError
        If actors are lost again and again.
    FeatstoreError
        As for `extract`.
    """
    sent = to_send(job)
    sent.config = replace(sent.config, wait=max(sent.config.wait, PATIENCE))
    count = len(devices.split(",") if isinstance(devices, str) else devices)
    with connected(cores=max(count, available_cores())) as ray:
        from ray.util import ActorPool

        chosen = _actor_devices(ray, devices)
        cores, shared = _cores_each(ray, chosen), ray.put(sent)
        actors = []
        for device in chosen:
            on_gpu = device.startswith("cuda")
            how = {"num_cpus": cores, "num_gpus": int(on_gpu)}
            how |= {"max_restarts": RETRIES, "max_task_retries": RETRIES}
            remote = ray.remote(Worker).options(**how).remote
            plugins = os.environ.get(ENVIRONMENT, "")
            actors.append(remote(shared, "cuda:0" if on_gpu else device, cores, plugins))
        run = partial(ActorPool(actors).map_unordered, lambda actor, task: actor.run.remote(task))
        try:
            with errors_of(ray):
                return conduct(job, run, len(chosen))
        finally:
            for actor in actors:
                ray.kill(actor)


def _actor_devices(ray: Any, devices: str | Sequence[str]) -> list[str]:
    """Return the device of each actor."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    chosen = split_devices(devices, lambda: ["cuda"] * gpus)
    wanted = sum(device.startswith("cuda") for device in chosen)
    if not chosen or wanted > gpus:
        raise EncoderError(
            f"The Ray cluster has {gpus} GPUs; {wanted or 'at least one'} asked for. Name what it "
            "has with `device=`, for instance `device=cpu,cpu`."
        )
    return chosen


def _cores_each(ray: Any, devices: Sequence[str]) -> int:
    """Return the cores of each actor: an even share, and no more than one machine has."""
    cores = int(ray.cluster_resources().get("CPU", 1))
    smallest = min(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
    return max(1, min(cores // len(devices), smallest))
