"""``featstore gc``: remove what dead writers left."""

from __future__ import annotations

import re
from pathlib import Path

import click

from featstore.command_line import print_json
from featstore.store.gc import collect_garbage

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as ``90s``, ``30m``, ``24h`` or ``7d``."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if match is None:
        msg = f"{text!r} is not a duration such as 30m, 24h or 7d."
        raise click.BadParameter(msg)
    return float(int(match[1]) * _UNITS[match[2]])


@click.command("gc", epilog="Example: featstore gc build/demo/store --dry-run")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--grace", default="24h", show_default=True, help="Leave what is younger.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def gc_command(store: Path, dry_run: bool, grace: str, as_json: bool) -> None:
    """Remove from STORE the staging of dead writers and tables that no commit names.

    An extraction that stopped can be resumed until the grace period is over.
    """
    found = collect_garbage(store, grace=parse_duration(grace), dry_run=dry_run)
    if as_json:
        print_json({"removed": not dry_run, "litter": [vars(litter) for litter in found]})
        return
    for litter in found:
        click.echo(f"{litter.path} ({litter.bytes:,} bytes): {litter.what}")
    verb = "would be removed" if dry_run else "removed"
    click.echo(f"{len(found):,} things, {sum(litter.bytes for litter in found):,} bytes {verb}")
