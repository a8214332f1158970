"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

results_argument = click.argument("results", type=click.Path(path_type=Path, file_okay=False))

store_option = click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the store that was scored.",
)

suite_option = click.option(
    "--suite", default=None, help="Which suite, if the folder holds several."
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
