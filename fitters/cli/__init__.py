"""The ``fitters`` command."""

from __future__ import annotations

import click

from featstore.command_line import CommandGroup, entry_point


@click.group(
    cls=CommandGroup,
    lazy={
        "fit": "fitters.cli.fit:fit_command",
        "ls": "fitters.cli.show:ls_command",
        "show": "fitters.cli.show:show_command",
        "apply": "fitters.cli.apply:apply_command",
        "export": "fitters.cli.apply:export_command",
    },
    epilog="\b\nExample:"
    "\n  fitters fit ridge --store build/demo/store \\"
    "\n      --x stamps/image/tf_efficientnet_lite0 \\"
    "\n      --head imagenet1k/head_weight/tf_efficientnet_lite0 \\"
    "\n      --head-names imagenet1k/class_name/all-MiniLM-L6-v2 -o aligners/ridge"
    "\n  fitters show aligners/ridge",
)
@click.version_option(package_name="headstock")
def cli() -> None:
    """Fit a map between the embedding spaces of two encoders."""


main = entry_point(cli, "fitters")
