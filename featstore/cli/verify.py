"""``featstore verify``: whether every byte of a store is the one that was written."""

from __future__ import annotations

from pathlib import Path

import click

from featstore.command_line import EXIT_VERIFY, print_json
from featstore.store.names import resolve_sets
from featstore.store.verify import verify_store


@click.command("verify", epilog="Example: featstore verify build/demo/store stamps/image")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option(
    "--quick/--full", "quick", default=False, help="Names, sizes and metadata only, or every byte."
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def verify_command(store: Path, keys: tuple[str, ...], quick: bool, as_json: bool) -> int:
    """Check the files of STORE, or of the sets KEY, against their commits.

    Names every file that was flipped, truncated, deleted, swapped, linked or added, one a
    line, and exits 4 if there is one. KEY is a dataset (`stamps`), a dataset and kind
    (`stamps/image`), or a set as `featstore ls` prints it, with or without the digits at its
    end; every set that it fits is checked.
    """
    chosen = {name for key in keys for name in resolve_sets(store, key)}
    report = verify_store(store, chosen, full=not quick)
    if as_json:
        print_json(report.as_dict())
    else:
        for note in report.notes:
            click.echo(f"note: {note.path!r} {note.what}", err=True)
        for problem in report.problems:
            click.echo(f"{problem.path} {problem.what}")
        if report.ok:
            what = "names, sizes and metadata" if quick else "every byte"
            click.echo(f"{store}: {report.n_sets:,} sets, {report.n_files:,} files: {what} right")
    return 0 if report.ok else EXIT_VERIFY
