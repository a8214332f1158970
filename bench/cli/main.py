"""The command `bench`, and options that its commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from featstore.command_line import CommandGroup, StoreType, entry_point


@click.group(
    cls=CommandGroup,
    lazy={
        "run": "bench.cli.run:run_command",
        "task": "bench.cli.run:task_command",
        "score": "bench.cli.run:score_command",
        "sweep": "bench.cli.run:sweep_command",
        "ls": "bench.cli.results:ls_command",
        "table": "bench.cli.results:table_command",
        "compare": "bench.cli.results:compare_command",
        "report": "bench.cli.results:report_command",
        "frame": "bench.cli.results:frame_command",
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
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes of this machine, or Ray: here, or the cluster that RAY_ADDRESS names.",
)

limit_option = click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=None,
    help="Keep only the first N images: a quick look, stamped into every row.",
)

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: Fields of a run that choose prompts, and what each is told of.
_TEXTS = {
    "variants": "Variants of the names of the images' classes, by comma: what is scored.",
    "templates": "Templates around them, by comma.",
    "head_variants": "Variants of the names of the head's classes, by comma: what is trained on. "
    "Left out, they are those of the images' classes.",
    "head_templates": "Templates around them, by comma.",
}
_PAIRS = {
    "pair_variants": "Variants of the text that the training images of a class are paired with, "
    "by comma (with --pairs-per-class, and of learner paper-few-shot): description, say. Left "
    "out, they are those of the images' classes.",
    "pair_templates": "Templates around them, by comma; d000 is the first sentence of a "
    "description.",
}


def text_options(*, pairs: bool = False) -> Callable[[_Function], _Function]:
    """Give a command the options that choose prompts; `texts_given` reads them."""

    def give(function: _Function) -> _Function:
        for name, told in reversed((_TEXTS | (_PAIRS if pairs else {})).items()):
            option = click.option(f"--{name.replace('_', '-')}", default="", help=told)
            function = option(function)
        return function

    return give


def texts_given(given: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Take the options of `text_options` out of a command's own; return those that were given."""
    listed = {
        name: tuple(part for part in str(given.pop(name)).replace(",", " ").split())
        for name in _TEXTS | _PAIRS
        if name in given
    }
    return {name: words for name, words in listed.items() if words}
