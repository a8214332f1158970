"""The group of the `bench` commands."""

from __future__ import annotations

import click

from featstore.command_line import CommandGroup, entry_point


@click.group(
    cls=CommandGroup,
    lazy={
        "run": "bench.cli.run:command",
        "task": "bench.cli.task:command",
        "sweep": "bench.cli.sweep:command",
        "ls": "bench.cli.ls:command",
        "table": "bench.cli.table:command",
        "compare": "bench.cli.compare:command",
        "report": "bench.cli.report:command",
        "frame": "bench.cli.frame:command",
    },
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExample:"
    "\n  bench run --suite demo --store build/demo/store -o build/demo/results --jobs 2"
    "\n  bench table build/demo/results"
    "\n  bench report build/demo/results --store build/demo/store -o build/demo/report.html",
)
@click.version_option(package_name="headstock", prog_name="bench")
def cli() -> None:
    """Score alignments of a store: run suites, read tables, draw the report."""


main = entry_point(cli, "bench")
