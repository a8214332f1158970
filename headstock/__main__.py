"""The command `headstock`: where each command stands, and which module has it.

``python -m headstock`` is the same program.
"""

from __future__ import annotations

from pathlib import Path

import click

from featstore.command_line import CommandGroup, entry_point

#: Each command by its place, in the order of their use, and what it is: ``module:attribute``. A
#: module is imported when one of its commands is typed.
COMMANDS = {
    "try": "bench.cli.demo:try_command",
    "demo": "bench.cli.demo:demo_command",
    "data make": "featstore.cli.manifests:make_command",
    "data build": "featstore.cli.manifests:build_command",
    "data check": "featstore.cli.manifests:check_command",
    "data labels": "featstore.cli.manifests:labels_command",
    "data ls": "featstore.cli.manifests:ls_command",
    "data show": "featstore.cli.manifests:show_command",
    "data sources": "featstore.cli.manifests:sources_command",
    "extract": "featstore.cli.extract:extract_command",
    "store init": "featstore.cli.store:init_command",
    "store ls": "featstore.cli.store:ls_command",
    "store show": "featstore.cli.store:show_command",
    "store import": "featstore.cli.share:import_command",
    "store export": "featstore.cli.share:export_command",
    "store push": "featstore.cli.share:push_command",
    "store pull": "featstore.cli.share:pull_command",
    "store sync": "featstore.cli.share:sync_command",
    "store prefetch": "featstore.cli.share:prefetch_command",
    "store tag": "featstore.cli.store:tag_command",
    "store sign": "featstore.cli.store:sign_command",
    "store diff": "featstore.cli.store:diff_command",
    "store card": "featstore.cli.share:card_command",
    "store verify": "featstore.cli.store:verify_command",
    "store doctor": "featstore.cli.store:doctor_command",
    "store repair": "featstore.cli.extract:repair_command",
    "store rm": "featstore.cli.store:rm_command",
    "store gc": "featstore.cli.store:gc_command",
    "store cache ls": "featstore.cli.share:cache_ls_command",
    "store cache gc": "featstore.cli.share:cache_gc_command",
    "fit": "fitters.cli.fit:fit_command",
    "ls": "fitters.cli.apply:ls_command",
    "show": "fitters.cli.apply:show_command",
    "apply": "fitters.cli.apply:apply_command",
    "export": "fitters.cli.apply:export_command",
    "check": "bench.cli.run:check_command",
    "eval run": "bench.cli.run:run_command",
    "eval task": "bench.cli.run:task_command",
    "eval sweep": "bench.cli.run:sweep_command",
    "eval ls": "bench.cli.results:ls_command",
    "eval table": "bench.cli.results:table_command",
    "eval compare": "bench.cli.results:compare_command",
    "eval submit": "bench.cli.results:submit_command",
    "eval leaderboard": "bench.cli.results:leaderboard_command",
    "report": "bench.cli.results:report_command",
    "reproduce": "bench.cli.demo:reproduce_command",
}

#: What the commands do, in a line, so that `headstock --help` imports none of them.
_SUMMARIES = {
    "try": "Run a small part of the demo: a first number in a minute.",
    "demo": "Run the whole job on real models and images: 6 minutes.",
    "data": "Build, make and inspect manifests of datasets.",
    "extract": "Encode the items of a manifest into a store.",
    "store": "Look after a store: list, verify, repair, share.",
    "fit": "Fit an alignment between two spaces of a store.",
    "ls": "List saved alignments.",
    "show": "Show what a saved alignment was fitted on.",
    "apply": "Project embeddings with a saved alignment.",
    "export": "Write a saved alignment for other programs.",
    "check": "Check a method, task, encoder, source or dataset of your own.",
    "eval": "Score alignments: suites, tasks, sweeps, tables.",
    "report": "Draw the report of a results folder.",
    "reproduce": "Repeat a study, and compare its numbers.",
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
    epilog="\b\nExample:\n  headstock\n  headstock try\n  headstock store ls build/demo/store",
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
        from bench.cli.headstock import find_work, print_state

        print_state(find_work(Path()), as_json=as_json)


@cli.group(
    "data",
    cls=CommandGroup,
    lazy=_below("data"),
    epilog="\b\nExample:"
    "\n  headstock data build stamps -o manifests/stamps"
    "\n  headstock data show manifests/stamps",
)
def data_group() -> None:
    """Make and inspect manifests, the input of extract.

    `build` builds a dataset that Headstock knows by name, from its official layout; `make` makes
    a manifest of your own files; `labels` one of a list of classes.
    """


@cli.group(
    "store",
    cls=CommandGroup,
    lazy=_below("store"),
    epilog="Example: headstock store ls build/demo/store",
)
def store_group() -> None:
    """Look after a store: list, verify, repair, clean, tag, share, import and export."""


@store_group.group(
    "cache", cls=CommandGroup, lazy=_below("store cache"),
    epilog="Example: headstock store cache ls",
)  # fmt: skip
def cache_group() -> None:
    """Show or empty the cache of remote stores."""


@cli.group(
    "eval",
    cls=CommandGroup,
    lazy=_below("eval"),
    epilog="\b\nExample:"
    "\n  headstock eval run --suite demo --store build/demo/store -o build/demo/results --jobs 2"
    "\n  headstock eval table build/demo/results",
)
def eval_group() -> None:
    """Score alignments: run suites, tasks and sweeps, and print their tables."""


main = entry_point(cli, "headstock")

if __name__ == "__main__":
    main()
