"""What the commands that run share: the plan, the bar, the session and the last line."""

from __future__ import annotations

import os
import platform
import shlex
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import click

from featstore.command_line import StorePlace, print_json

if TYPE_CHECKING:
    from bench.runs import Run

_PACKAGES = ("headstock", "numpy", "scipy", "scikit-learn", "polars", "zarr")


def run_and_report(
    suite: str,
    runs: Sequence[Run],
    *,
    store: StorePlace,
    out: Path,
    jobs: int,
    engine: Literal["processes", "ray"],
    dry_run: bool,
    as_json: bool,
    weights: str | None = None,
) -> None:
    """Run what is not finished, record the session, and say what was done."""
    from bench.execution import run_all
    from bench.results import finished, write_session

    have = finished(out)
    new = [run for run in runs if run.run_id not in have]
    plan = {"runs": len(runs), "reused": len(runs) - len(new), "new": len(new)}
    plan["fits"] = len({run.fit_key for run in new})
    said = (
        f"{suite}: {plan['runs']:,} runs, {plan['reused']:,} finished, {plan['new']:,} new in "
        f"{plan['fits']:,} fits"
    )
    if dry_run:
        if as_json:
            print_json(plan)
        else:
            click.echo(f"{said}.")
        return
    click.echo(said, err=True)
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with _Progress(suite, plan["fits"]) as progress:
        summary = run_all(
            runs,
            store,
            out,
            jobs=jobs,
            engine=engine,
            weights=weights,
            on_done=lambda _: progress.advance(),
        )
    session = {
        "command": typed_command(),
        "started": started,
        "seconds": summary.seconds,
        "jobs": jobs,
        "engine": engine,
        "suite": suite,
        "store": str(store),
        "new": summary.new,
        "reused": summary.reused,
        "versions": _versions(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }
    if summary.new:
        name = f"{started.replace(':', '').replace('-', '')}-{os.getpid()}"
        write_session(out, name, session)
    if as_json:
        print_json({"results": str(out), **session})
    else:
        click.echo(
            f"{suite}: reused {summary.reused:,} / new {summary.new:,} runs "
            f"({summary.fits:,} fits) in {summary.seconds:.1f} s -> {out}"
        )


def typed_command() -> str:
    """Return the command line that does this again: every option that was given."""
    context = click.get_current_context()
    words = context.command_path.split()
    for option in context.command.params:
        value = context.params.get(option.name or "")
        given = context.get_parameter_source(option.name or "")
        if given is not click.core.ParameterSource.COMMANDLINE or value in (None, False):
            continue
        if option.name in ("as_json", "dry_run"):
            continue
        name = max(option.opts, key=len)
        if isinstance(option, click.Argument):
            words.append(str(value))
            continue
        values = value if isinstance(value, tuple) else (value,)
        for one in values:
            words += [name] if one is True else [name, str(one)]
    return shlex.join(words)


class _Progress:
    """A bar on stderr, drawn only on a terminal and only when there is something to do."""

    def __init__(self, suite: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("fits"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=total == 0 or not console.is_terminal,
        )
        self._task = self._progress.add_task(suite, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self) -> None:
        """Count one fit."""
        self._progress.advance(self._task)


def _versions() -> dict[str, Any]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
