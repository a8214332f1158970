"""`bench report`: one HTML file that opens offline."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from bench.cli.options import (
    json_option,
    results_argument,
    store_option,
    suite_option,
)
from featstore.command_line import StorePlace, print_json


@click.command(
    "report",
    epilog="\b\nExample:"
    "\n  bench report build/demo/results --store build/demo/store -o build/demo/report.html",
)
@results_argument
@store_option
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The HTML file; figures go into <name>_files beside it.",
)
@suite_option
@click.option(
    "--images",
    default=None,
    help="Which images, by key or dataset, if the suite scored several; else those of most runs.",
)
@json_option
def command(
    results: Path,
    store: StorePlace,
    out: Path,
    suite: str | None,
    images: str | None,
    as_json: bool,
) -> None:
    """Draw the report of a results folder.

    The store is read for texts, thumbnails, the geometry of head rows and the health of the data.
    A page is of one set of images; of the paper suite it also has every published number. It needs
    no network and no other file; every figure also lies beside it as SVG and CSV.
    """
    from bench.report import write_report

    typed = ["bench", "report", str(results), "--store", str(store), "-o", str(out)]
    typed += ["--suite", suite] if suite else []
    typed += ["--images", images] if images else []
    written = write_report(
        results, store=store, out=out, suite=suite, images=images, command=shlex.join(typed)
    )
    size = out.stat().st_size
    if as_json:
        print_json(
            {
                "report": str(written.page),
                "bytes": size,
                "files": [str(path) for path in written.files],
                "answer": written.answer,
            }
        )
        return
    click.echo(f"{written.page}  {size / 2**20:.2f} MiB  {written.answer}")
