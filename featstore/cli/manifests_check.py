"""``featstore manifests check``: what a copy of a dataset lacks, item by item."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from featstore.cli.manifests_build import checked_options, split_list
from featstore.command_line import EXIT_VERIFY, print_json

#: Problems of one kind that are printed without --all.
SHOWN = 20


@click.command(
    "check", epilog="Example: featstore manifests check food101 --root data --split test"
)
@click.argument("name")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder with the dataset as it is distributed.",
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="SPLIT[,SPLIT…]",
    help="Only these splits; may be repeated.",
)
@click.option(
    "--option",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the dataset; may be repeated.",
)
@click.option("--all", "everything", is_flag=True, help="Print every problem, not 20 of a kind.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_context
def check_command(
    ctx: click.Context,
    name: str,
    root: Path,
    splits: tuple[str, ...],
    pairs: tuple[str, ...],
    everything: bool,
    as_json: bool,
) -> None:
    """Compare a copy of the dataset NAME with what is known of it: lists, images, counts.

    Nothing is written, and no image is opened: a file that is there and not empty counts. Exit
    code 4 if anything is missing or wrong.
    """
    from featstore.datasets import check_dataset

    options: dict[str, Any] = {"root": root, "splits": split_list(splits, "--split")}
    checked_options(name, options, pairs)
    inspection = check_dataset(name, **options)
    problems = inspection.problems
    if as_json:
        print_json(
            {
                "name": name,
                "root": str(inspection.disk.root),
                "complete": not problems,
                "images": inspection.counts(),
                "problems": [asdict(problem) for problem in problems],
            }
        )
    else:
        counts = ", ".join(f"{split} {n:,}" for split, n in inspection.counts().items())
        click.echo(f"{name} in {inspection.disk.root}: {counts or 'nothing'}")
        shown: Counter[str] = Counter()
        for problem in problems:
            shown[problem.kind] += 1
            if everything or shown[problem.kind] <= SHOWN:
                click.echo(f"  {problem.kind}: {problem.text}")
        for kind, n in shown.items():
            if n > SHOWN and not everything:
                click.echo(f"  {kind}: and {n - SHOWN:,} more; --all prints them")
        total = f"{len(problems):,} problem{'s' if len(problems) > 1 else ''}"
        click.echo(total if problems else "complete")
    if problems:
        ctx.exit(EXIT_VERIFY)
