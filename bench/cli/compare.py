"""`bench compare A B`: two choices of cells, paired by query."""

from __future__ import annotations

import click

from bench.cli.options import json_option
from featstore.command_line import print_json


@click.command(
    "compare",
    epilog="\b\nExample:"
    "\n  bench compare build/demo/results:ridge/head/0 build/demo/results:conse"
    "\n  bench compare old/results new/results --metrics top-1",
)
@click.argument("a")
@click.argument("b")
@click.option(
    "--metrics",
    default="top-1,top-10,R@1,R@10",
    show_default=True,
    help="Comma-separated; those that are means over queries.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "md", "csv", "tex"]),
    default="table",
    show_default=True,
)
@json_option
def command(a: str, b: str, metrics: str, form: str, as_json: bool) -> None:
    """Print the paired differences A - B on the same queries.

    A and B are FOLDER[:method/source/K][:name=value,...], for instance results:ridge/head/16 or
    results:ridge:mix=1.0,penalty=0.3. Two cells are compared with each other. Where a choice leaves
    several, each is compared with the cell of the other that agrees in what is left open: two
    folders are compared cell by cell. For each folder the series written last counts. A comparison
    that `bench table` has too comes with the numbers that it has there.
    """
    from bench.comparisons import compare_choices
    from bench.tables import aligned, comma_separated, gain_lines, latex, markdown

    names = [name for name in metrics.replace(",", " ").split() if name]
    found = compare_choices(a, b, metrics=names)
    if as_json:
        print_json(found.to_dicts())
    elif form == "csv":
        click.echo(comma_separated(found), nl=False)
    else:
        write = {"md": markdown, "tex": latex}.get(form, aligned)
        click.echo(write(*gain_lines(found)), nl=False)
