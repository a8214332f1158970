"""Processes elsewhere that share a job: ranks that someone else starts, and actors of Ray.

``--shard``: the ranks of Slurm or torchrun share only the store. Each one encodes its part; the
rank that then finds every block done gathers and publishes, and the others report what is left and
exit with code 0. ``--engine ray``: the workers of `featstore.extraction.workers` are actors.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from featstore.errors import ClaimLostError, EncoderError, needs_extra
from featstore.extraction.options import settle_device, tell_how
from featstore.extraction.progress import BlockDone, ExtractResult, Step
from featstore.extraction.targets import Job
from featstore.extraction.workers import (
    Crew,
    Gone,
    conduct,
    merge_results,
    open_on,
    run_part,
    sendable,
    settle,
    share_of_cores,
    split_devices,
    to_send,
)
from featstore.parallel import available_cores, connected
from featstore.plugins import ENVIRONMENT, use_plugins

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
        Of a manifest that was read `unchecked`, if it is large: each rank looks for its own files.
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
    with contextlib.closing(
        open_on(replace(job, config=config), device, cores=available_cores())
    ) as opened:
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
    if {"RANK", "WORLD_SIZE"} <= found.keys():
        return Rank(_number(found, "RANK"), _number(found, "WORLD_SIZE"))
    processes = _number(found, "SLURM_NTASKS", 1)
    process = _number(found, "SLURM_PROCID", 0)
    if {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"} <= found.keys():
        first = _number(found, "SLURM_ARRAY_TASK_MIN", 0)
        step = max(1, _number(found, "SLURM_ARRAY_TASK_STEP", 1))
        task = (_number(found, "SLURM_ARRAY_TASK_ID") - first) // step
        tasks = _number(found, "SLURM_ARRAY_TASK_COUNT")
        return Rank(task * processes + process, tasks * processes)
    if {"SLURM_PROCID", "SLURM_NTASKS"} <= found.keys():
        return Rank(process, processes)
    raise EncoderError(
        "--shard auto finds neither RANK and WORLD_SIZE (torchrun) nor SLURM_PROCID and "
        "SLURM_NTASKS, nor a Slurm array. Start it there, or give --shard I/N."
    )


def local_device(device: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the GPU of this process: ``cuda`` is ``cuda:<local rank>``.

    Local ranks beyond the GPUs that the process sees wrap around: under Slurm each one may see
    a single GPU, which is its first.
    """
    if device != "cuda":
        return device
    with needs_extra("--device cuda"):
        import torch

    found = os.environ if environment is None else environment
    local = int(found.get("LOCAL_RANK", found.get("SLURM_LOCALID", "0")))
    return f"cuda:{local % max(1, torch.cuda.device_count())}"


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise EncoderError(f"{name} is {text!r}, not a number. Give --shard I/N.") from None


#: Seconds between two looks at the progress of an actor.
LOOK = 1.0


def extract_on_ray(job: Job, devices: str | Sequence[str] = "all") -> list[ExtractResult]:
    """Run a job on Ray: see `featstore.parallel.connected`.

    An actor holds the encoders of one device, opened once. Store, manifest, images and weights
    must be where every node sees them under the same path.

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
    WorkerDiedError
        If actors die again and again.
    FeatstoreError
        As for `extract`.
    """
    sent = to_send(job)
    sent.config = replace(sent.config, wait=max(sent.config.wait, PATIENCE))
    count = len(devices.split(",") if isinstance(devices, str) else devices)
    with connected(cores=max(count, share_of_cores(1))) as ray:
        chosen = _actor_devices(ray, devices)
        spawn = partial(RayActor, ray, ray.put(sent))
        with Crew(chosen, _cores_each(ray, chosen), spawn) as crew:
            return conduct(crew, job.config, encoders=len(job.encoders))


class RayWorker:
    """What runs in an actor: a worker whose reports wait until they are asked for."""

    def __init__(self, job: Job, cores: int, device: str, plugins: str) -> None:
        use_plugins(filter(None, plugins.split(os.pathsep)))
        self._open = partial(open_on, job, device, cores=cores, tell=self._note)
        self._lock = threading.Lock()
        self._reports: list[BlockDone | Step] = []
        self._job: Job | None = None

    def run(self, work: Callable[..., Any], arguments: Sequence[Any]) -> tuple[Any, Any, str]:
        """Run a function on the job, which the first one opens.

        Returns
        -------
        tuple of (Any, Exception or None, str)
            Its answer, or what it raised and which process this is.
        """
        try:
            if self._job is None:
                self._job = self._open()
            return work(self._job, *arguments), None, ""
        except Exception as err:
            import ray

            # Of several cuda:0, the one.
            where = f" (pid={os.getpid()}, ip={ray.util.get_node_ip_address()})"
            return None, sendable(err), where

    def reports(self) -> list[BlockDone | Step]:
        """Return those that came since the last call."""
        with self._lock:
            found, self._reports = self._reports, []
        return found

    def _note(self, report: BlockDone | Step) -> None:
        with self._lock:
            self._reports.append(report)


class RayActor:
    """An actor as the process of a worker.

    Parameters
    ----------
    ray : module
    job : reference to a Job
    cores : int
    device : str
        ``cuda`` or ``cpu``.
    """

    def __init__(self, ray: Any, job: Any, cores: int, device: str) -> None:
        on_gpu = device.startswith("cuda")
        self._ray, self._how, self.device = ray, "An actor of Ray has ended.", device
        self.actor = (
            ray.remote(RayWorker)
            .options(
                num_cpus=cores,
                num_gpus=1 if on_gpu else 0,
                # One thread works while another tells how far it is.
                max_concurrency=2,
            )
            .remote(job, cores, "cuda:0" if on_gpu else device, os.environ.get(ENVIRONMENT, ""))
        )

    def call(
        self, work: Callable[..., Any], arguments: tuple[Any, ...], tell: Callable[[Any], object]
    ) -> Any:
        """Run a function there; see `Remote`."""
        try:
            found = self.actor.run.remote(work, arguments)
            done: list[Any] = []
            while not done:
                done, _ = self._ray.wait([found], timeout=LOOK)
                for report in self._ray.get(self.actor.reports.remote()):
                    tell(report)
            answer, error, where = self._ray.get(found)
        except self._ray.exceptions.RayError as err:
            self._how = f"An actor of Ray is lost: {' '.join(str(err).split())}."
            raise Gone from err
        if error is not None:
            self.device += where
            raise error
        return answer

    def stop(self) -> None:
        """End it."""
        self._ray.kill(self.actor, no_restart=True)

    def end(self, until: float) -> str:  # noqa: ARG002 -- nothing that is done is lost
        """End it, and return how it ended."""
        self.stop()
        return self._how


def _actor_devices(ray: Any, devices: str | Sequence[str]) -> list[str]:
    """Return the device of each actor."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    chosen = split_devices(devices, lambda: ["cuda"] * gpus)
    wanted = sum(device.startswith("cuda") for device in chosen)
    if not chosen or wanted > gpus:
        raise EncoderError(
            f"The Ray cluster has {gpus} GPUs; {wanted or 'at least one'} asked for. Name what it "
            "has with --device, for instance --device cpu,cpu."
        )
    return chosen


def _cores_each(ray: Any, devices: Sequence[str]) -> int:
    """Return the cores of each actor: an even share, and no more than one machine has."""
    cores = int(ray.cluster_resources().get("CPU", 1))
    smallest = min(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
    return max(1, min(cores // len(devices), smallest))
