"""Who accumulates moments: this process, or workers of Ray."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from featstore import parallel
from fitters.errors import EngineError, SettingError

Task = TypeVar("Task")
Answer = TypeVar("Answer")

Engine = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = ("local", "ray")

#: Answers that wait for their turn: Ray keeps them here before it writes to the disk.
_OBJECT_STORE_BYTES = 500_000_000


class RunInOrder(Protocol):
    """Runs independent tasks and gives their answers in the order of the tasks."""

    def __call__(
        self, work: Callable[[Task], Answer], tasks: Iterable[Task], /
    ) -> Iterator[Answer]:
        """Yield ``work(task)`` for each task."""


@dataclass(frozen=True)
class Workers:
    """Who accumulates moments.

    Attributes
    ----------
    engine : {"local", "ray"}
        This process with all its threads, or single-threaded tasks of Ray. Store or address must be
        what every node can open, with credentials in each node's environment.
    address : str, optional
        Of a Ray cluster: ``auto``, ``host:port`` or ``ray://...``. By default what this process is
        connected to, or RAY_ADDRESS names; else Ray is started here and stopped at the end.
    jobs : int, optional
        Tasks at once; by default the cores that Ray has.
    """

    engine: Engine = "local"
    address: str | None = None
    jobs: int | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            msg = f"No engine named {self.engine!r}. Known engines: {', '.join(ENGINES)}."
            raise SettingError(msg)
        if self.engine == "local" and (self.address is not None or self.jobs is not None):
            msg = (
                "An address and a number of jobs are of Ray: ask for engine 'ray', or for neither."
            )
            raise SettingError(msg)
        if self.jobs is not None and self.jobs < 1:
            msg = f"At least one job runs at once. Got jobs={self.jobs}."
            raise SettingError(msg)

    @contextlib.contextmanager
    def connected(self) -> Iterator[RunInOrder]:
        """Yield what runs tasks, until the block ends.

        Raises
        ------
        MissingPackageError
            If Ray is not installed.
        EngineError
            From the answers, if Ray gave a worker up.
        """
        if self.engine == "local":
            yield map
            return
        cores = self.jobs or os.cpu_count() or 1
        with parallel.connected(
            self.address, cores=cores, object_store_bytes=_OBJECT_STORE_BYTES
        ) as ray:
            jobs = self.jobs or max(1, int(ray.cluster_resources().get("CPU", 1)))

            def run(work: Callable[[Any], Any], tasks: Iterable[Any], /) -> Iterator[Any]:
                return _in_order(ray, work, tasks, jobs)

            yield run


def _in_order(
    ray: Any, work: Callable[[Any], Any], tasks: Iterable[Any], jobs: int
) -> Iterator[Any]:
    """Yield the answers in the order of the tasks; those that are early wait in Ray's store."""
    early: dict[int, Any] = {}
    following = 0
    for number, reference in parallel.run_tasks(ray, work, tasks, jobs):
        early[number] = reference
        while following in early:
            yield parallel.answer_of(ray, early.pop(following), EngineError)
            following += 1
