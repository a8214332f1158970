"""The progress line of a terminal."""

from __future__ import annotations

import sys
import time

import click

from featstore.extraction.progress import Progress

#: Seconds between two looks at a terminal, ...
REFRESH = 0.25

#: ... and between two lines elsewhere.
LINES = 30.0


class ProgressLine:
    """Writes progress to stderr.

    Parameters
    ----------
    what : str
        What is being extracted.
    terminal : bool, optional
        Whether stderr is a terminal; looked up by default.
    """

    def __init__(self, what: str, *, terminal: bool | None = None) -> None:
        self._what = what
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._every = REFRESH if self._terminal else LINES
        self._last = time.monotonic()
        self._shown = 0
        self._progress: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        """Show it, if the last time was long enough ago."""
        self._progress = progress
        if time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            self._write(_line(self._what, progress))

    def close(self) -> None:
        """Show how it ended, and what limited the speed."""
        progress = self._progress
        if progress is None:
            return
        self._write(_line(self._what, progress))
        if self._terminal:
            click.echo("", err=True)
        click.echo(progress.bottleneck, err=True)

    def _write(self, line: str) -> None:
        if not self._terminal:
            click.echo(line, err=True)
            return
        click.echo("\r" + line.ljust(self._shown), nl=False, err=True)
        self._shown = len(line)


def _line(what: str, progress: Progress) -> str:
    share = progress.rows_done / max(1, progress.rows_total)
    line = f"{what}: {progress.rows_done:,} of {progress.rows_total:,} rows ({share:.0%})"
    if progress.per_second:
        line += f", {progress.per_second:,.1f} items/s"
    if progress.eta_seconds:
        line += f", {duration(progress.eta_seconds)} left"
    return line + (f", {progress.failed:,} failed" if progress.failed else "")


def duration(seconds: float) -> str:
    """Return seconds in the words of a person.

    Examples
    --------
    >>> [duration(s) for s in (0.4, 42, 312, 7260)]
    ['0.4 s', '42 s', '5 min 12 s', '2 h 1 min']
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
