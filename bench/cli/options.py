"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from featstore.command_line import StoreType

results_argument = click.argument("results", type=click.Path(path_type=Path, file_okay=False))

store_option = click.option(
    "--store",
    type=StoreType(),
    required=True,
    help="The store to read: folder or address.",
)

suite_option = click.option(
    "--suite", default=None, help="Which suite, if the folder holds several."
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")

jobs_option = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes, each with one thread. Results do not depend on it.",
)

engine_option = click.option(
    "--engine",
    type=click.Choice(["processes", "ray"]),
    default="processes",
    show_default=True,
    help="Processes of this machine, or Ray: here, or the cluster that RAY_ADDRESS names.",
)

limit_option = click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=None,
    help="Keep only the first N images: a quick look, stamped into every row.",
)
