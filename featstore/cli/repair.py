"""``featstore repair``: rebuild what follows from a commit, say what else is needed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from featstore.command_line import EXIT_VERIFY, print_json
from featstore.store.repair import repair_set


@click.command("repair", epilog="Example: featstore repair build/demo/store stamps/image/NAME")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def repair_command(store: Path, key: str, as_json: bool) -> int:
    """Mend the set KEY of STORE as far as the store itself can; KEY is its full name.

    Metadata, padding, indices and the catalog are written again. Damaged rows, items and
    commits stay as they are; the commands that bring them back are printed, and the exit
    code is 4.
    """
    done = repair_set(store, key.strip("/"))
    if as_json:
        print_json(asdict(done))
    else:
        for name in done.rebuilt:
            click.echo(f"rebuilt {name}")
        for problem in done.left:
            click.echo(f"{problem.path} {problem.what}")
        if done.left:
            click.echo("To make the set whole, run:")
        for command in done.commands:
            click.echo(f"  {command}")
        if not done.rebuilt and not done.left:
            click.echo(f"{key} is whole; nothing was changed")
    return EXIT_VERIFY if done.left else 0
