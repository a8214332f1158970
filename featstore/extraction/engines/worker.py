"""A worker: holds the encoders of a job, opened once, and runs parts of the job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from featstore.errors import needs_extra
from featstore.extraction.engines.request import JobRequest
from featstore.extraction.events import BlockDone, ExtractResult
from featstore.extraction.job import open_job, run_job
from featstore.extraction.job_log import JobLog
from featstore.extraction.opened_job import Job
from featstore.extraction.progress import Progress
from featstore.extraction.run import settle_settings
from featstore.extraction.targets import check_free_space, inspect_set

OnBlock = Callable[[BlockDone], None]
OnProgress = Callable[[Progress], None]

#: set_id -> batch size, threads and sort of device: what all parts of a set must agree on.
Pinned = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class SharedPlan:
    """What is settled before the work is shared.

    Attributes
    ----------
    pinned : mapping
    blocks : int
        Blocks of the largest set.
    rows, rows_left : int
        Rows of all sets, and how many of them nobody has yet.
    """

    pinned: Pinned
    blocks: int
    rows: int
    rows_left: int


class Worker:
    """Runs parts of one job in the process where it is made.

    Parameters
    ----------
    request : JobRequest
    device : str
    cores : int, optional
        Threads of the forward pass and workers that decode, where the job does not say.
    callbacks : pair of callables, optional
        Called after every block and after every batch; see `Options`.

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
        options = replace(
            request.options, device=device, on_block=on_block, on_progress=on_progress
        )
        if any(isinstance(choice.encoder, str) for choice in request.encoders):
            _use_device(device, cores)
        if cores is not None and options.workers is None:
            options = replace(options, workers=cores)
        self._job = open_job(
            request.manifest,
            kind=request.kind,
            encoders=request.encoders,
            store=request.store,
            options=options,
        )

    def settle(self) -> SharedPlan:
        """Settle batch sizes and threads, and look at what is left to do."""
        targets = self._job.targets
        lacking = [target for target in targets if target.finished() is None]
        states = [inspect_set(target, known=None) for target in targets]
        check_free_space(self._job.store, states)
        return SharedPlan(
            pinned={target.set_id: settle_settings(self._job, target) for target in lacking},
            blocks=max(state.blocks for state in states),
            rows=sum(state.rows for state in states),
            rows_left=sum(state.new for state in states) if lacking else 0,
        )

    def run_part(self, rank: int, world_size: int, pinned: Pinned) -> list[ExtractResult]:
        """Encode every world-size-th block from block `rank` on; nothing is published."""
        return self._run((rank, world_size), pinned)

    def gather(self, pinned: Pinned) -> list[ExtractResult]:
        """Gather what all parts have done, encode what is left, and publish."""
        return self._run(None, pinned)

    def finished(self) -> list[ExtractResult] | None:
        """Return the results if every set is finished."""
        found = [target.finished() for target in self._job.targets]
        return [one for one in found if one is not None] if None not in found else None

    def _run(self, part: tuple[int, int] | None, pinned: Pinned) -> list[ExtractResult]:
        self.part = -1 if part is None else part[0]
        log = JobLog(self._job.options.log)
        try:
            return run_job(self._with(part, pinned), log)
        finally:
            log.close()

    def _with(self, part: tuple[int, int] | None, pinned: Pinned) -> Job:
        return open_job(
            self._request.manifest,
            kind=self._request.kind,
            encoders=self._request.encoders,
            store=self._request.store,
            options=replace(self._job.options, part=part, pinned=pinned),
            opened=[target.encoder for target in self._job.targets],
        )


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
        torch.set_num_threads(cores)
    if device.startswith("cuda") and torch.cuda.is_available():
        # Pinned memory belongs to the current device: without this every worker would make
        # itself a context on the first one.
        torch.cuda.set_device(torch.device(device).index or 0)
