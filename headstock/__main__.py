"""The command `headstock`: where each command stands, and which module has it.

``python -m headstock`` is the same program.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from featstore.command_line import CommandGroup, run_command

#: Each command by its place, in the order of their use, and what it is: ``module:attribute``. A
#: module is imported when one of its commands is typed.
COMMANDS = {
    "search": "bench.cli.search:search_command",
    "try": "bench.cli.demo:try_command",
    "reproduce": "bench.cli.demo:reproduce_command",
    "ls": "bench.cli.look:ls_command",
    "show": "bench.cli.look:show_command",
    "export": "bench.cli.look:export_command",
    "import": "featstore.cli.share:import_command",
    "data make": "featstore.cli.manifests:make_command",
    "data build": "featstore.cli.manifests:build_command",
    "extract": "featstore.cli.extract:extract_command",
    "fit": "fitters.cli.fit:fit_command",
    "apply": "fitters.cli.apply:apply_command",
    "bridge": "bench.cli.vectors:bridge_command",
    "check": "bench.cli.run:check_command",
    "eval run": "bench.cli.run:run_command",
    "eval task": "bench.cli.run:task_command",
    "eval table": "bench.cli.results:table_command",
    "eval compare": "bench.cli.results:compare_command",
    "eval submit": "bench.cli.results:submit_command",
    "eval leaderboard": "bench.cli.results:leaderboard_command",
    "report": "bench.cli.results:report_command",
    "store init": "featstore.cli.store:init_command",
    "store push": "featstore.cli.share:push_command",
    "store pull": "featstore.cli.share:pull_command",
    "store tag": "featstore.cli.store:tag_command",
    "store derive": "bench.cli.vectors:derive_command",
    "store diff": "featstore.cli.store:diff_command",
    "store verify": "featstore.cli.store:verify_command",
    "store repair": "featstore.cli.extract:repair_command",
    "store rm": "featstore.cli.store:rm_command",
    "store gc": "featstore.cli.store:gc_command",
    "store compact": "featstore.cli.store:compact_command",
    "store card": "featstore.cli.share:card_command",
    "doctor": "featstore.cli.store:doctor_command",
    "cache": "featstore.cli.share:cache_command",
}

#: What the commands do, in a line, so that `headstock --help` imports none of them.
_SUMMARIES = {
    "search": "Search your own pictures by text.",
    "try": "Run a taste of the demo: a first number in a minute.",
    "reproduce": "Repeat a study, and compare its numbers.",
    "ls": "List what a path holds, or what has a name.",
    "show": "Show one store, set, manifest, alignment, result or box.",
    "export": "Write a set or alignment for other programs.",
    "import": "Import rows that another tool computed, as a set.",
    "data": "Make and build manifests, the input of extract.",
    "extract": "Encode the items of a manifest into a store.",
    "fit": "Fit an alignment between two spaces of a store.",
    "apply": "Project texts or a set, and list what is near.",
    "bridge": "Replace an encoder: map old vectors to new.",
    "check": "Check a method, task or encoder of your own.",
    "eval": "Score alignments: suites, tasks, tables.",
    "report": "Draw the report of results.",
    "store": "Look after a store: verify, repair, share, tag.",
    "doctor": "Check the environment, the cache, and a store.",
    "cache": "Show or empty the cache of remote stores.",
}


def _below(group: str) -> dict[str, str]:
    """Return the commands of one group, "" for the top: name -> module:attribute."""
    places = {place.rpartition(" ")[::2]: target for place, target in COMMANDS.items()}
    return {name: target for (above, name), target in places.items() if above == group}


class _Headstock(CommandGroup):
    """The group `headstock`: its list of commands is in the order of their use."""

    def list_commands(self, _: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(_SUMMARIES)

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_SUMMARIES.items()))


@click.group(
    cls=_Headstock,
    lazy=_below(""),
    invoke_without_command=True,
    epilog="\b\nExample:\n  headstock\n  headstock try\n  headstock ls build/demo/store",
)
@click.version_option(package_name="headstock")
@click.option("--json", "as_json", is_flag=True, help="Print the state of the folder as JSON.")
@click.pass_context
def cli(ctx: click.Context, *, as_json: bool) -> None:
    """Store embeddings once, align their spaces, and measure what the alignment gains.

    Without a command, `headstock` prints the manifests, stores, alignments, results and reports
    below the current folder, and the next command to type.
    """
    if ctx.invoked_subcommand is None:
        from bench.cli.look import list_folder

        list_folder(Path(), as_json=as_json)


@cli.group(
    "data",
    cls=CommandGroup,
    lazy=_below("data"),
    epilog="\b\nExample:\n  headstock data make photos\n  headstock data build stamps",
)
def data_group() -> None:
    """Make and build manifests, the input of extract.

    `make` makes a manifest of your own files or classes; `build` builds a dataset that Headstock
    knows by name, from its official layout.
    """


@cli.group(
    "store",
    cls=CommandGroup,
    lazy=_below("store"),
    epilog="Example: headstock store verify build/demo/store",
)
def store_group() -> None:
    """Look after a store: verify, repair, clean, tag and share it."""


@cli.group(
    "eval",
    cls=CommandGroup,
    lazy=_below("eval"),
    epilog="\b\nExample:"
    "\n  headstock eval run demo --store build/demo/store -o build/demo/results --jobs 2"
    "\n  headstock eval table build/demo/results",
)
def eval_group() -> None:
    """Score alignments: run suites and tasks, and print their tables."""


def main() -> None:
    """Run the program."""
    # Their bars move the cursor; the commands' own say how far it is.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    sys.exit(run_command(cli, "headstock"))


if __name__ == "__main__":
    main()
