"""`bench run`: execute the runs of a suite that are not finished."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from bench.cli.options import (
    engine_option,
    jobs_option,
    json_option,
    limit_option,
    text_options,
    texts_given,
)
from bench.cli.running import run_and_report
from featstore.command_line import StorePlace, StoreType

if TYPE_CHECKING:
    from bench.suites.paper import Lacking


class _SuiteCommand(click.Command):
    """Lists the suites in its help; they are imported only then."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from bench.suites import SUITES

        with formatter.section("Suites"):
            formatter.write_dl([(name, suite.summary) for name, suite in SUITES.items()])
        super().format_options(ctx, formatter)


@click.command(
    "run",
    cls=_SuiteCommand,
    epilog="\b\nExample:"
    "\n  bench run --suite demo --store build/demo/store -o build/demo/results --jobs 2"
    "\n  bench run --suite smoke -o /tmp/results"
    "\n  bench run --suite paper --store store -o results --dry-run",
)
@click.option("--suite", required=True, help="Name of one of the suites above.")
@click.option(
    "--store",
    type=StoreType(),
    default=None,
    help="The store to read: folder or address. The smoke suite makes its own if none is given.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Results folder; finished runs in it are kept.",
)
@jobs_option
@engine_option
@limit_option
@text_options()
@click.option("--dry-run", is_flag=True, help="Say what would be run, and run nothing.")
@json_option
def command(
    suite: str,
    store: StorePlace | None,
    out: Path,
    jobs: int,
    engine: Literal["processes", "ray"],
    limit: int | None,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Run a suite on a store and write its results.

    Runs that are finished in the results folder are skipped; a run whose data, settings or
    definitions changed has another id and is made anew. What the store lacks of the paper suite is
    listed, with the commands that make it. Prompts are the suite's own, unless they are named.
    """
    from bench.errors import ProtocolError
    from bench.suites import suite_named, with_texts
    from featstore.store.opening import open_store
    from featstore.store.sharing import make_store

    chosen = suite_named(suite)
    if store is None and chosen.create_store is None:
        msg = f"Suite {suite!r} needs --store, the folder or address that it reads."
        raise click.UsageError(msg, click.get_current_context())
    with tempfile.TemporaryDirectory() if dry_run else nullcontext(out) as own:
        folder: StorePlace | None = store
        place = None
        if folder is None:
            assert chosen.create_store is not None
            folder = Path(own) / "store"
            chosen.create_store(folder)
        elif dry_run and chosen.lacking and _is_nothing(folder):
            # What a store lacks that nobody has made yet is everything.
            place, folder = str(folder), Path(own) / "store"
            make_store(folder)
        opened = open_store(folder)
        missing = chosen.lacking(opened, place) if chosen.lacking else []
        if missing and not as_json:
            _say_lacking(place or folder, missing, every=dry_run)
        runs = with_texts(chosen.runs(opened, limit=limit), texts_given(given))
        if not runs and not dry_run:
            msg = (
                f"{folder} holds no sets of suite {suite!r} that fit together, so nothing can be "
                "run yet. --dry-run lists all that is lacking, with the commands that make it."
            )
            raise ProtocolError(msg)
        run_and_report(
            suite, runs, store=folder, out=out, jobs=jobs, engine=engine, dry_run=dry_run,
            as_json=as_json,
        )  # fmt: skip


def _is_nothing(store: StorePlace) -> bool:
    """Whether a store is a folder that is not there yet, or an empty one."""
    if "://" in str(store):
        return False
    folder = Path(store)
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


#: Lacking sets that are listed beside a run; `--dry-run` lists them all.
_SHOWN = 3


def _say_lacking(store: StorePlace, missing: Sequence[Lacking], *, every: bool) -> None:
    """Say what a store lacks, and how it is made: on stdout where that is what was asked for."""
    count = sum(len(one.encoders) for one in missing)
    click.echo(f"{store} lacks {count} sets of this suite:", err=not every)
    shown = missing if every else missing[:_SHOWN]
    for manifest in dict.fromkeys(one.manifest for one in shown):
        click.echo(f"  {manifest}", err=not every)
    for one in shown:
        told = "; ".join(part for part in (", ".join(one.experiments), one.note) if part)
        click.echo(f"  {one.command}   # {told}", err=not every)
    if every:
        click.echo(
            "DATA and WEIGHTS stand for folders of yours; docs/reproduce.md has the downloads."
        )
    if len(shown) < len(missing):
        click.echo("  and more: --dry-run lists them all", err=True)
