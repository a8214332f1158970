"""`bench run`: execute the runs of a suite that are not finished."""

from __future__ import annotations

import os
import platform
import shlex
import tempfile
import time
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Self

import click

from bench.cli.options import json_option
from featstore.command_line import print_json

_PACKAGES = ("headstock", "numpy", "scipy", "scikit-learn", "polars", "zarr")


@click.command(
    "run",
    epilog="\b\nExample:"
    "\n  bench run --suite demo --store build/demo/store -o build/demo/results --jobs 2"
    "\n  bench run --suite smoke -o /tmp/results",
)
@click.option("--suite", required=True, help="demo or smoke.")
@click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder of the store. The smoke suite makes its own if none is given.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Results folder; finished runs in it are kept.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes, each with one thread. Results do not depend on it.",
)
@click.option(
    "--engine",
    type=click.Choice(["processes", "ray"]),
    default="processes",
    show_default=True,
    help="Processes of this machine, or Ray: here, or the cluster that RAY_ADDRESS names.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=None,
    help="Keep only the first N images: a quick look, stamped into every row.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be run, and run nothing.")
@json_option
def command(
    suite: str,
    store: Path | None,
    out: Path,
    jobs: int,
    engine: Literal["processes", "ray"],
    limit: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run a suite on a store and write its results.

    Runs that are finished in the results folder are skipped; a run whose data, settings or
    definitions changed has another id and is made anew.
    """
    from bench.execution import run_all
    from bench.results import finished, write_session
    from bench.suites import suite_named
    from featstore.store.store import open_store

    chosen = suite_named(suite)
    if store is None and chosen.create_store is None:
        msg = f"Suite {suite!r} needs --store, the folder that it reads."
        raise click.UsageError(msg, click.get_current_context())
    with tempfile.TemporaryDirectory() if dry_run else nullcontext(out) as own:
        folder = store
        if folder is None:
            assert chosen.create_store is not None
            folder = Path(own) / "store"
            chosen.create_store(folder)
        runs = chosen.runs(open_store(folder), limit=limit)
    have = finished(out)
    new = [run for run in runs if run.run_id not in have]
    plan = {"runs": len(runs), "reused": len(runs) - len(new), "new": len(new)}
    plan["fits"] = len({run.fit_key for run in new})
    said = (
        f"{suite}: {plan['runs']} runs, {plan['reused']} finished, {plan['new']} new in "
        f"{plan['fits']} fits"
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
            runs, folder, out, jobs=jobs, engine=engine, on_done=lambda _: progress.advance()
        )
    session = {
        "command": _command_line(suite, store, out, jobs, limit),
        "started": started,
        "seconds": summary.seconds,
        "jobs": jobs,
        "suite": suite,
        "store": str(folder),
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
            f"{suite}: reused {summary.reused} / new {summary.new} runs ({summary.fits} fits) in "
            f"{summary.seconds:.1f} s -> {out}"
        )


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


def _command_line(suite: str, store: Path | None, out: Path, jobs: int, limit: int | None) -> str:
    """Return the command that does this again."""
    words = ["bench", "run", "--suite", suite]
    words += [] if store is None else ["--store", str(store)]
    words += ["-o", str(out), "--jobs", str(jobs)]
    words += [] if limit is None else ["--limit", str(limit)]
    return shlex.join(words)


def _versions() -> dict[str, Any]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
