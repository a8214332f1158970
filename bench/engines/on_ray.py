"""Tasks on Ray, on this machine or on a cluster; retries of lost workers are Ray's own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from bench.engines import single_thread
from bench.errors import EngineError
from featstore.errors import FeatstoreError

Task = TypeVar("Task")
Answer = TypeVar("Answer")

#: Nothing large goes through Ray: results go from the tasks to the folder. Ray asks for this much.
OBJECT_STORE_BYTES = 80_000_000

#: How often Ray tries a task again whose worker was lost.
RETRIES = 3


def run_on_ray(
    work: Callable[[Task], Answer], tasks: Sequence[Task], jobs: int
) -> Iterator[Answer]:
    """Yield the answers of `tasks` as Ray gives them; see `bench.engines.run_tasks`.

    A Ray that this process is connected to, or that RAY_ADDRESS names, is used; else one is
    started here with `jobs` cores and stopped at the end.

    Raises
    ------
    EngineError
        If Ray is not installed, or gave a worker up.
    """
    with _connected(jobs) as ray:
        remote = ray.remote(_alone).options(num_cpus=1, max_retries=RETRIES)
        waiting = list(tasks)[::-1]
        running: list[Any] = []
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(remote.remote(work, waiting.pop()))
            ready, running = ray.wait(running, num_returns=1)
            try:
                yield from ray.get(ready)
            except ray.exceptions.RayTaskError as err:
                if isinstance(err.cause, FeatstoreError):
                    raise err.cause from None
                raise
            except ray.exceptions.RayError as err:
                msg = f"Ray lost a worker {RETRIES + 1} times: {' '.join(str(err).split())[:300]}"
                raise EngineError(msg) from err


def _alone(work: Callable[[Any], Any], task: Any) -> Any:
    single_thread()
    return work(task)


@contextlib.contextmanager
def _connected(jobs: int) -> Iterator[Any]:
    # No call to anyone, whatever Ray's own default is; it is read when ray is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as err:
        msg = "--engine ray needs ray. Run `pip install 'headstock[ray]'`."
        raise EngineError(msg) from err
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, log_to_driver=False)
    else:
        ray.init(
            "local", num_cpus=jobs, object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False, log_to_driver=False,
        )  # fmt: skip
    try:
        yield ray
    finally:
        ray.shutdown()
