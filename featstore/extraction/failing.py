"""When failing items end a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from featstore.errors import TooManyFailuresError
from featstore.extraction.options import Options


class FailureLimit:
    """Counts the items that fail, and ends the job when they are too many.

    Parameters
    ----------
    what : str
        Key of the set, for messages.
    total : int
        Items of the job.
    options : Options
    before : mapping
        item_id -> reason of what failed in an interrupted attempt.
    known : int
        Items of which it is known that they may fail: those that are tried again.
    on_failure : callable, optional
        Called with each.
    """

    def __init__(
        self,
        what: str,
        total: int,
        options: Options,
        *,
        before: Mapping[str, str],
        known: int = 0,
        on_failure: Callable[[str, str], None] | None = None,
    ) -> None:
        self._what = what
        self._total = total
        self._fail_at_once = options.on_error == "fail"
        allowed = options.max_failures
        self._allowed = max(10, total // 1000, known) if allowed is None else allowed
        self._on_failure = on_failure
        self.failures = dict(before)

    def add(self, item: str, reason: str) -> None:
        """Count an item.

        Raises
        ------
        TooManyFailuresError
            If it is the first and none may fail, more failed than may, or all did.
        """
        self.failures[item] = reason
        if self._on_failure is not None:
            self._on_failure(item, reason)
        if self._fail_at_once:
            msg = (
                f"{item!r} of {self._what} failed: {reason.rstrip('.')}. The first failed item "
                "ends the job (--on-error fail). Mend it, or take --on-error skip; finished "
                "blocks are kept."
            )
            raise TooManyFailuresError(msg)
        self.check()

    def check(self) -> None:
        """Look at what has failed so far, in this process or before.

        Raises
        ------
        TooManyFailuresError
            If more items failed than may, or all did.
        """
        failed = len(self.failures)
        if failed <= self._allowed and failed < self._total:
            return
        first, why = next(iter(self.failures.items()))
        what = "All" if failed == self._total else f"{failed:,} of {self._total:,}"
        msg = (
            f"{what} items of {self._what} failed (first {first!r}: {why.rstrip('.')}); at most "
            f"{self._allowed:,} may. Mend them, or allow more with --max-failures. Finished "
            "blocks are kept."
        )
        raise TooManyFailuresError(msg)
