"""What a long command shows on stderr while it works; sizes and times in a person's words."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import click

from featstore.command_line import human_bytes
from featstore.terminal import VisibleText, drawing_on, visible

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Seconds from one line to the next where stderr is not a terminal.
LINES = 30.0

#: Seconds after which a log says what is going on: the command, and each stage of it.
SOON = 1.0

#: Drawings a second at a terminal, and the width of the bar there, in characters.
REFRESH = 4.0
BAR = 20


class ProgressBar:
    """Shows on stderr how far a command is, with rate and time left; nothing on stdout.

    Entered as a context. At a terminal it is a bar. Elsewhere it is a line after a second, one when
    a new stage has taken a second, and one every half minute, also while nothing advances: a log
    then shows that the command lives. What is done within a second gets one line at the end, or
    none if nothing was counted.

    Parameters
    ----------
    what : str
        What is worked on, such as ``"toy/image"``: the beginning of every line.
    unit : str, optional
        What is counted, in the plural: ``"rows"``; ``"bytes"`` are shown as KiB, MiB …. Without
        one the note alone says how far it is.
    total : int, optional
        How many there are; 0 shows nothing at all.
    doing : str, optional
        The note until another is given, such as ``"fitting"``.
    terminal : bool, optional
        Whether stderr is a terminal; looked up by default.
    every : float, optional
        Seconds from one line to the next, where it is not.

    Examples
    --------
    >>> with ProgressBar("birds", "images", total=3, terminal=False) as bar:
    ...     for _ in range(3):
    ...         bar.advance()
    """

    def __init__(
        self,
        what: str,
        unit: str = "",
        *,
        total: int | None = None,
        doing: str = "",
        terminal: bool | None = None,
        every: float = LINES,
    ) -> None:
        self._what, self._unit, self._total, self._note = what, unit, total, doing
        if terminal is None:
            terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._terminal = terminal
        self._every = every
        self._stage = doing
        self._done, self._counted = 0, False
        self._rate: str | None = None
        self._left: float | None = None
        self._ending = ""
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        if self._total == 0:
            return self
        if self._terminal:
            from rich.console import Console
            from rich.live import Live

            # What is printed on stdout meanwhile stays there.
            self._live = Live(
                console=Console(file=drawing_on(sys.stderr), force_terminal=True),
                get_renderable=self._draw,
                refresh_per_second=REFRESH,
                redirect_stdout=False,
            )
            self._live.start()
            sys.stderr = VisibleText(sys.stderr)  # what others print above the bar
        else:
            self._thread = threading.Thread(target=self._write_lines, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._total == 0:
            return
        if self._terminal:
            self._live.transient = not self._counted
            self._live.stop()
        else:
            self._ended.set()
            self._thread.join()
            if self._counted:
                click.echo(self.line(), err=True)
        if self._ending:
            click.echo(self._ending, err=True)

    def advance(self, n: int = 1) -> None:
        """Count `n` more as done; any thread may."""
        with self._lock:
            self._done += n
            self._counted = True

    def stage(self, name: str) -> None:
        """Say what begins now, such as ``"reading pairs"``."""
        with self._lock:
            self._note = self._stage = name

    def update(
        self,
        done: int,
        total: int | None = None,
        *,
        rate: str | None = None,
        left: float | None = None,
        note: str = "",
        ending: str = "",
    ) -> None:
        """Say how far it is.

        Parameters
        ----------
        done, total : int
            In the unit of the bar; without a total the last one stays.
        rate : str, optional
            Such as ``"12.5 items/s"``; by default what was done since the start, by the seconds.
        left : float, optional
            Seconds that are left; by default at the pace since the start.
        note : str, optional
            What else there is to say.
        ending : str, optional
            A sentence for a line of its own, should this be the last update.
        """
        with self._lock:
            self._done, self._total = done, self._total if total is None else total
            self._rate, self._left, self._note, self._ending = rate, left, note, ending
            self._counted = True

    def line(self) -> str:
        """Return what there is to say now, in one line."""
        with self._lock:
            seconds = time.monotonic() - self._started
            parts, left = [], self._left
            if self._unit and (self._counted or self._total is not None):
                pace = self._done / seconds if seconds > 0 else 0.0
                parts.append(self._count())
                if self._rate or pace:
                    parts.append(self._rate or self._pace(pace))
                if left is None and pace and self._total is not None:
                    left = (self._total - self._done) / pace
            if left:
                parts.append(f"{duration(left)} left")
            parts += [self._note] if self._note else []
            if not self._counted and self._total is None:
                parts.append(f"{duration(seconds)} so far")
        return f"{self._what}: {', '.join(parts)}"

    def _count(self) -> str:
        if self._unit == "bytes":
            return human_bytes(self._done)
        if self._total is None:
            return f"{self._done:,} {self._unit}"
        share = self._done / max(1, self._total)
        return f"{self._done:,} of {self._total:,} {self._unit} ({share:.0%})"

    def _pace(self, per_second: float) -> str:
        if self._unit == "bytes":
            return f"{human_bytes(round(per_second))}/s"
        if per_second < 1:
            return f"{60 * per_second:,.1f} {self._unit}/min"
        return f"{per_second:,.1f} {self._unit}/s"

    def _draw(self) -> RenderableType:
        from rich.progress_bar import ProgressBar as Drawn
        from rich.table import Column, Table
        from rich.text import Text

        row = Table.grid(Column(ratio=1), Column(width=BAR), padding=(0, 1))
        bar = Drawn(self._total, self._done, width=BAR, pulse=self._total is None)
        row.add_row(Text(visible(self.line())), bar)
        return row

    def _write_lines(self) -> None:
        """Write a line of each stage that takes a while, and one now and then, until the end."""
        shown, due = None, 0.0
        while not self._ended.wait(min(SOON, self._every)):
            if self._stage != shown or time.monotonic() >= due:
                click.echo(self.line(), err=True)
                shown, due = self._stage, time.monotonic() + self._every


@contextmanager
def show_log(*names: str) -> Iterator[None]:
    """Show on stderr what these loggers say."""
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


def show_failures(failures: Mapping[str, str], *, shown: int = 20) -> None:
    """Print on stderr which items have no embedding, and why: the first few."""
    for item, reason in list(failures.items())[:shown]:
        click.echo(f"skipped {item}: {reason}", err=True)
    if len(failures) > shown:
        click.echo(f"… and {len(failures) - shown:,} more, in failures.parquet", err=True)


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


def age(when: float) -> str:
    """Return how long ago a time was, in its largest unit."""
    seconds = max(0.0, time.time() - when)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:,.0f} {unit}"
    return f"{seconds:.0f} s"
