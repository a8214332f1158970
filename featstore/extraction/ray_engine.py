"""``--engine ray``: the workers of `featstore.extraction.workers` as actors of Ray."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from featstore.errors import EncoderError
from featstore.extraction.progress import BlockDone, ExtractResult, Step
from featstore.extraction.targets import Job
from featstore.extraction.workers import (
    Crew,
    Gone,
    conduct,
    open_on,
    sendable,
    share_of_cores,
    split_devices,
    to_send,
)
from featstore.parallel import connected
from featstore.plugins import ENVIRONMENT, use_plugins

#: Seconds between two looks at the progress of an actor.
LOOK = 1.0

#: Seconds that a retried part waits for the claim of an actor that died on another machine.
PATIENCE = 300.0


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
