"""``featstore push``, ``pull`` and ``sync``: sets from one store to another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import click

from featstore.cli.byte_progress import byte_progress
from featstore.command_line import EXIT_ERROR, StorePlace, StoreType, print_json
from featstore.share.copying import CopyReport, copy_sets
from featstore.share.relation import Relation

_SELECT = click.option(
    "--select",
    multiple=True,
    help="Only sets whose key fits this pattern, such as 'stamps/image/*'; repeatable.",
)
_TAKE_OVER = click.option(
    "--take-over", is_flag=True, help="Replace another's unfinished push that is known to be dead."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")

_DONE: dict[Relation, str] = {
    "new": "sent",
    "behind": "updated",
    "same": "unchanged",
    "newer": "newer there",
}


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (_JSON, _TAKE_OVER, _SELECT):
        function = option(function)
    return function


@click.command("push", epilog="Example: featstore push build/demo/store s3://team/features")
@click.argument("source", type=StoreType())
@click.argument("target", type=StoreType())
@_options
def push_command(
    source: StorePlace, target: StorePlace, select: tuple[str, ...], take_over: bool, as_json: bool
) -> int:
    """Copy the sets of SOURCE to TARGET: what is missing there, or has grown here.

    Only shards that TARGET lacks travel, each verified before; an interrupted push goes on where it
    stopped. A set is published last and at once. If somebody else published another revision first,
    that is an error that names it, and the other sets are copied all the same.
    """
    return _copy([(source, target)], select, take_over=take_over, as_json=as_json)


@click.command("pull", epilog="Example: featstore pull s3://team/features build/demo/store")
@click.argument("source", type=StoreType())
@click.argument("target", type=StoreType())
@_options
def pull_command(
    source: StorePlace, target: StorePlace, select: tuple[str, ...], take_over: bool, as_json: bool
) -> int:
    """Copy the sets of SOURCE to TARGET; the same as push, for who thinks of it from here."""
    return _copy([(source, target)], select, take_over=take_over, as_json=as_json)


@click.command("sync", epilog="Example: featstore sync build/demo/store s3://team/features")
@click.argument("one", type=StoreType())
@click.argument("other", type=StoreType())
@_options
def sync_command(
    one: StorePlace, other: StorePlace, select: tuple[str, ...], take_over: bool, as_json: bool
) -> int:
    """Copy in both directions, so that each store has the newest revision of every set."""
    return _copy([(one, other), (other, one)], select, take_over=take_over, as_json=as_json)


def _copy(
    ways: list[tuple[StorePlace, StorePlace]],
    select: tuple[str, ...],
    *,
    take_over: bool,
    as_json: bool,
) -> int:
    reports: list[CopyReport] = []
    for source, target in ways:
        with byte_progress(str(target)) as progress:
            report = copy_sets(
                source, target, select=select, take_over=take_over, progress=progress
            )
        reports.append(report)
        if as_json:
            continue
        for key, how in report.sets.items():
            if how != "same":
                click.echo(f"{key}  {_DONE[how]}")
        counts = Counter(report.sets.values())
        said = [f"{counts[how]:,} {done}" for how, done in _DONE.items() if counts[how]]
        click.echo(f"{source} to {target}: {', '.join(said) or 'nothing'}")
        for key, why in report.failed.items():
            click.echo(f"{key}  not copied: {why}", err=True)
    if as_json:
        print_json(
            [
                {"from": str(source), "to": str(target), "sets": report.sets,
                 "failed": report.failed}
                for (source, target), report in zip(ways, reports, strict=True)
            ]
        )  # fmt: skip
    return EXIT_ERROR if any(report.failed for report in reports) else 0
