"""The progress of several workers as one."""

from __future__ import annotations

from collections.abc import Callable

from featstore.extraction.engines.worker import SharedPlan
from featstore.extraction.events import BlockDone
from featstore.extraction.progress import Progress, bottleneck

#: Of whom a report is: the number of a worker, and the part that it works on.
Reporter = tuple[int, int]


class SummedProgress:
    """Adds up what workers report, and tells the caller of the job.

    Parameters
    ----------
    plan : SharedPlan
    encoders : int
    on_block, on_progress : callable, optional
    """

    def __init__(
        self,
        plan: SharedPlan,
        encoders: int,
        *,
        on_block: Callable[[BlockDone], None] | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._plan = plan
        self._encoders = max(1, encoders)
        self._on_block, self._on_progress = on_block, on_progress
        self._first: dict[Reporter, Progress] = {}
        self._latest: dict[Reporter, Progress] = {}
        self._working: dict[int, Reporter] = {}

    def take(self, worker: int, part: int, report: BlockDone | Progress) -> None:
        """Take a report, and pass on what it makes of the whole."""
        if isinstance(report, BlockDone):
            if self._on_block is not None:
                self._on_block(report)
            return
        reporter = (worker, part)
        first = self._first.setdefault(reporter, report)
        if first.rows_done == first.rows_total:
            return  # there was nothing to do
        self._latest[reporter] = report
        self._working[worker] = reporter
        if self._on_progress is not None:
            self._on_progress(self.progress())

    def ended(self, worker: int) -> None:
        """Note that a worker works no more: its speed counts no more."""
        self._working.pop(worker, None)

    def progress(self) -> Progress:
        """Return where the job stands."""
        done = sum(
            self._first[reporter].rows_total
            - self._first[reporter].rows_done
            - (latest.rows_total - latest.rows_done)
            for reporter, latest in self._latest.items()
        )
        left = max(0, self._plan.rows_left - done)
        working = [self._latest[reporter] for reporter in self._working.values()]
        speed = sum(one.per_second for one in working)
        stages = sorted({stage for one in working for stage in one.shares})
        shares = {
            stage: round(sum(one.shares.get(stage, 0.0) for one in working) / len(working), 4)
            for stage in stages
        }
        failed: dict[int, int] = {}
        for (_, part), latest in self._latest.items():
            failed[part] = max(failed.get(part, 0), latest.failed)
        return Progress(
            rows_done=self._plan.rows - left,
            rows_total=self._plan.rows,
            failed=sum(failed.values()),
            per_second=speed,
            eta_seconds=left / (speed * self._encoders) if speed else None,
            shares=shares,
            bottleneck=bottleneck(shares) if shares else "",
        )
