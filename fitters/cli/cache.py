"""``fitters cache``: moments that were kept, so that the same rows need not be read again."""

from __future__ import annotations

import time
from typing import Any

import click

from featstore.command_line import CommandGroup, print_json


@click.group("cache", cls=CommandGroup, epilog="Example: fitters cache ls")
def cache_group() -> None:
    """Show or empty the cache of moments."""


@cache_group.command("ls", epilog="Example: fitters cache ls")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def ls_command(as_json: bool) -> None:
    """List the moments that are kept, the last used first."""
    from fitters.moments.cache import entries

    _tell(entries(), as_json=as_json, verb="kept")


@cache_group.command("gc", epilog="Example: fitters cache gc --max-bytes 1000000000")
@click.option("--max-bytes", type=click.IntRange(min=0), help="Keep the last used up to so much.")
@click.option("--days", type=click.FloatRange(min=0), help="Remove what was unused for so long.")
@click.option("--all", "everything", is_flag=True, help="Remove everything.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def gc_command(max_bytes: int | None, days: float | None, everything: bool, as_json: bool) -> None:
    """Remove moments that are kept; those that are damaged always go."""
    from fitters.moments.cache import collect

    if everything and (max_bytes is not None or days is not None):
        msg = "--all leaves nothing for --max-bytes or --days to keep. Give one or the other."
        raise click.UsageError(msg, click.get_current_context())
    limit = 0 if everything else max_bytes
    removed = collect(max_bytes=limit, older_than=None if days is None else days * 86_400)
    _tell(removed, as_json=as_json, verb="removed")


def _tell(found: list[Any], *, as_json: bool, verb: str) -> None:
    total = sum(entry.n_bytes for entry in found)
    if as_json:
        rows = [
            {"path": str(entry.path), "bytes": entry.n_bytes, "facts": entry.facts}
            for entry in found
        ]
        print_json({verb: rows, "bytes": total})
        return
    for entry in found:
        sets = [entry.facts.get(side, {}).get("set", "damaged") for side in ("x", "y")]
        used = time.strftime("%Y-%m-%d", time.localtime(entry.used))
        size = f"{entry.n_bytes / 1e6:8.1f} MB"
        click.echo(f"{entry.path.stem[:12]}  {size}  {used}  {' × '.join(sets)}")
    click.echo(f"{len(found):,} {verb}, {total / 1e6:,.1f} MB")
