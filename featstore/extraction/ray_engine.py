"""``--engine ray``: an actor a device, a task a part; retries and restarts are Ray's own."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from featstore.errors import EncoderError
from featstore.extraction.options import EncoderSpec, ExtractConfig
from featstore.extraction.progress import BlockDone, ExtractResult, Progress
from featstore.extraction.workers import (
    Answer,
    Death,
    Failure,
    JobRequest,
    News,
    Worker,
    conduct,
    make_request,
    share_of_cores,
    split_devices,
)
from featstore.manifest.manifest import Manifest
from featstore.parallel import connected
from featstore.plugins import ENVIRONMENT, use_plugins

#: How often Ray starts an actor again, and tries a task again that was lost with one.
RESTARTS = 4

#: Seconds between two looks at the progress of the actors.
LOOK = 1.0

#: Seconds that a retried part waits for the claim of an actor that died on another machine.
PATIENCE = 300.0


def extract_on_ray(
    manifest: str | Path | Manifest,
    *,
    kind: str,
    encoders: Sequence[EncoderSpec],
    store: str | Path,
    devices: str | Sequence[str] = "all",
    address: str | None = None,
    config: ExtractConfig | None = None,
) -> list[ExtractResult]:
    """Run `extract_many` on Ray, on a cluster or on this machine.

    An actor holds the encoders of one device, opened once. Store, manifest, images and weights
    must be where every node sees them under the same path.

    Parameters
    ----------
    manifest, kind, encoders, store, config
        As for `extract_many`, but encoders by name only; `config.device` is not used.
    devices : str or sequence of str
        ``all`` GPUs of the cluster, or a list: an actor each. Which GPU an actor gets is Ray's
        choice, so ``cuda,cuda`` are two of them; ``cpu,cpu`` are two actors without.
    address : str, optional
        Of a cluster: ``auto`` or ``ray://...``. By default the one in RAY_ADDRESS, or that this
        process is connected to; else Ray is started here and stopped at the end.

    Raises
    ------
    MissingPackageError
        If Ray is not installed.
    EncoderError
        If the cluster has no such devices, or an encoder is an object.
    WorkerDiedError
        If actors die more often than Ray starts them again.
    FeatstoreError
        As for `extract`.
    """
    requested = config or ExtractConfig()
    waiting = replace(requested, part=None, wait=max(requested.wait, PATIENCE))
    request = make_request(manifest, kind=kind, encoders=encoders, store=store, config=waiting)
    count = len(devices.split(",") if isinstance(devices, str) else devices)
    cores = max(count, share_of_cores(1))
    with connected(address, cores=cores) as ray:
        chosen = _actor_devices(ray, devices)
        with RayCrew(ray, request, chosen) as crew:
            return conduct(
                crew,
                encoders=len(request.encoders),
                on_block=requested.on_block,
                on_progress=requested.on_progress,
            )


class RayWorker:
    """What runs in an actor: a `Worker`, whose reports wait until they are asked for."""

    def __init__(self, device: str, cores: int, plugins: str = "") -> None:
        use_plugins(filter(None, plugins.split(os.pathsep)))
        self._device, self._cores = device, cores
        self._lock = threading.Lock()
        self._reports: list[tuple[int, BlockDone | Progress]] = []
        self._worker: Worker | None = None

    def run(self, request: Sequence[Any], task: str, *arguments: Any) -> Any:
        """Run a method of `Worker`, made with the first.

        Parameters
        ----------
        request : sequence of one reference
            To the `JobRequest`, which is fetched once. Ray would put the request itself in the
            place of a bare reference, and read the table of all items again for every part.
        """
        if self._worker is None:
            import ray

            notes = self._note, self._note
            own: JobRequest = ray.get(request[0])
            self._worker = Worker(own, self._device, cores=self._cores, callbacks=notes)
        return getattr(self._worker, task)(*arguments)

    def reports(self) -> list[tuple[int, BlockDone | Progress]]:
        """Return part and report, for those that came since the last call."""
        with self._lock:
            found, self._reports = self._reports, []
        return found

    def process_id(self) -> int:
        """Return the id of the actor's process."""
        return os.getpid()

    def _note(self, report: BlockDone | Progress) -> None:
        assert self._worker is not None
        with self._lock:
            last_two = self._reports[-2:]
            part = self._worker.part
            if len(last_two) == 2 and all(
                isinstance(one, Progress) and of == part for of, one in last_two
            ):
                self._reports.pop()  # between the first and the latest nothing is missed
            self._reports.append((part, report))


class RayCrew:
    """The actors of a job; a context manager, whose end is theirs.

    Parameters
    ----------
    ray : module
    request : JobRequest
    devices : sequence of str
        ``cuda`` or ``cpu``, one an actor.
    """

    def __init__(self, ray: Any, request: JobRequest, devices: Sequence[str]) -> None:
        self._ray = ray
        self._devices = list(devices)
        cores = _cores_each(ray, devices)
        # Sent with every task: Ray cannot start an actor again whose own arguments are lost.
        self._request = [ray.put(request)]
        self._actors: dict[int, Any] = {}
        for number, device in enumerate(devices):
            on_gpu = device.startswith("cuda")
            actor = ray.remote(RayWorker).options(
                num_cpus=cores,
                num_gpus=1 if on_gpu else 0,
                max_restarts=RESTARTS,
                # One thread works while another tells how far it is.
                max_concurrency=2,
            )
            self._actors[number] = actor.remote(
                "cuda:0" if on_gpu else device, cores, os.environ.get(ENVIRONMENT, "")
            )
        self._tasks: dict[Any, int] = {}
        self._looks: dict[Any, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._looks:
            self._ray.wait(list(self._looks), num_returns=len(self._looks), timeout=LOOK)
        for actor in self._actors.values():
            self._ray.kill(actor, no_restart=True)
        self._actors.clear()

    def living(self) -> set[int]:
        """Return the actors that Ray has not given up."""
        return set(self._actors)

    def tell(self, worker: int, task: str, *arguments: Any) -> None:
        """Let an actor run a method of `Worker`."""
        run = self._actors[worker].run.options(max_task_retries=RESTARTS)
        self._tasks[run.remote(self._request, task, *arguments)] = worker

    def events(self) -> Iterator[Answer | Death | Failure | News]:
        """Wait for what happens next, or a moment; what a task raised on the job is raised here."""
        ray = self._ray
        ready, _ = ray.wait(list(self._tasks), num_returns=1, timeout=LOOK)
        yield from self._news()
        for task in ready:
            worker = self._tasks.pop(task)
            try:
                value = ray.get(task)
            except ray.exceptions.RayTaskError as err:
                cause = err.cause if isinstance(err.cause, Exception) else err
                where = re.search(r"pid=\d+, ip=[^,)]+", str(err))  # of several cuda:0, the one
                device = f"{self._devices[worker]} ({where[0] if where else 'an actor of Ray'})"
                failure = Failure.of(worker, device, cause)
                # After an error of CUDA nothing works in that process: Ray starts another one.
                ray.kill(self._actors[worker], no_restart=False)
                yield failure
            except ray.exceptions.RayActorError as err:
                self._actors.pop(worker, None)
                yield Death(worker, f"An actor of Ray is lost: {' '.join(str(err).split())}.")
            else:
                yield Answer(worker, value)

    def _news(self) -> Iterator[News]:
        """Yield the reports that have come, and ask for the next ones."""
        ray = self._ray
        if self._looks:
            ready, _ = ray.wait(list(self._looks), num_returns=len(self._looks), timeout=0)
            for look in ready:
                worker = self._looks.pop(look)
                # An actor that has died is spoken of by its task.
                with contextlib.suppress(ray.exceptions.RayError):
                    for part, report in ray.get(look):
                        yield News(worker, part, report)
        requested = set(self._looks.values())
        for worker in set(self._tasks.values()) - requested:
            if worker in self._actors:
                look = self._actors[worker].reports.options(max_task_retries=0)
                self._looks[look.remote()] = worker


def _actor_devices(ray: Any, devices: str | Sequence[str]) -> list[str]:
    """Return the device of each actor."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    chosen = split_devices(devices, lambda: ["cuda"] * gpus)
    wanted = sum(device.startswith("cuda") for device in chosen)
    if not chosen or wanted > gpus:
        raise EncoderError(
            f"The Ray cluster has {gpus} GPUs; {wanted or 'at least one'} asked for. Name what it "
            "has with --devices, for instance --devices cpu,cpu."
        )
    return chosen


def _cores_each(ray: Any, devices: Sequence[str]) -> int:
    """Return the cores of each actor: an even share, and no more than one machine has."""
    cores = int(ray.cluster_resources().get("CPU", 1))
    smallest = min(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
    return max(1, min(cores // len(devices), smallest))
