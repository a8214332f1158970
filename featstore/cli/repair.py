"""``featstore repair``: make again what is damaged, or say what that needs."""

from __future__ import annotations

from pathlib import Path

import click

from featstore.command_line import EXIT_VERIFY, print_json


@click.command(
    "repair",
    epilog="Example: featstore repair build/demo/store stamps/image/tf_efficientnet_lite0 "
    "--manifest build/demo/manifests/stamps",
)
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("key")
@click.option("--manifest", type=click.Path(path_type=Path), help="What KEY was extracted from.")
@click.option("--encoder", help="family:name, if the set does not say it any more.")
@click.option("--weights", help="Of the encoder; default: as the set's run recorded.")
@click.option("--device", help="Default: as the set's run recorded.")
@click.option("--trust-remote-code", is_flag=True, help="Run the code that comes with the model.")
@click.option("--workers", type=click.IntRange(min=1), help="Decoding threads.")
@click.option("--dry-run", is_flag=True, help="Say what would be made again, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def repair_command(
    store: Path,
    key: str,
    manifest: Path | None,
    encoder: str | None,
    weights: str | None,
    device: str | None,
    trust_remote_code: bool,
    workers: int | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Mend the set KEY of STORE: only what is damaged is made again.

    What follows from the store itself is written at once. Damaged rows, items, golden vectors and
    biases need --manifest; only bad blocks are encoded. Whatever is written has the hash that
    the commit states. The exit code is 4 if something is left, and says what it needs.
    """
    from featstore.extraction.mending import repair_set

    done = repair_set(
        store, key, manifest=manifest, encoder=encoder, weights=weights, device=device,
        trust_remote_code=trust_remote_code, workers=workers, dry_run=dry_run,
    )  # fmt: skip
    if as_json:
        print_json(done.as_dict())
        return EXIT_VERIFY if done.left or (dry_run and done.rebuilt) else 0
    for entry in done.encoded:
        first, last = entry["rows"]
        click.echo(f"encoded rows {first:,}-{last:,} of {entry['file']}")
    for name in done.rebuilt:
        click.echo(f"{'would rebuild' if dry_run else 'rebuilt'} {name}")
    for problem in done.left:
        click.echo(f"{problem.path} {problem.what}")
    for reason in done.reasons:
        click.echo(reason)
    if done.needs:
        click.echo("It needs:")
    for need in done.needs:
        click.echo(f"  {need}")
    if done.commands:
        click.echo("To make the set whole, run:")
    for command in done.commands:
        click.echo(f"  {command}")
    if not done.rebuilt and not done.left:
        click.echo(f"{done.key} is whole; nothing was changed")
    return EXIT_VERIFY if done.left or (dry_run and done.rebuilt) else 0
