"""``fitters ls`` and ``fitters show``: saved alignments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featstore.command_line import print_json
from fitters.alignment import Alignment
from fitters.errors import SettingError


@click.command("ls", epilog="Example: fitters ls build/demo/aligners")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def ls_command(folder: Path, as_json: bool) -> None:
    """List the alignments in FOLDER."""
    from fitters.persist import JSON_NAME, read_alignment

    if not folder.is_dir():
        msg = f"There is no folder {folder}. `fitters fit … -o {folder}/NAME` makes one."
        raise SettingError(msg)
    found = [
        _row(path.parent, read_alignment(path.parent))
        for path in sorted(folder.glob(f"*/{JSON_NAME}"))
    ]
    if as_json:
        print_json(found)
        return
    for row in found:
        click.echo(
            f"{row['name']}: {row['method']}, {row['x_encoder']} ↔ {row['y_encoder']}, "
            f"{row['n_prototypes']:,} prototypes, {row['n_real']:,} real pairs"
        )


@click.command("show", epilog="Example: fitters show build/demo/aligners/ridge-head")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def show_command(path: Path, as_json: bool) -> None:
    """Show what the alignment at PATH was fitted on, and what was chosen how."""
    from fitters.persist import read_alignment

    facts = read_alignment(path).facts
    if as_json:
        print_json(facts)
        return
    _tell(facts, indent="")


def _row(path: Path, alignment: Alignment) -> dict[str, Any]:
    names = ("method", "x_encoder", "y_encoder", "n_prototypes", "n_real")
    return {"name": path.name, **{name: alignment.facts.get(name) for name in names}}


def _tell(facts: dict[str, Any], *, indent: str) -> None:
    for name, value in facts.items():
        if isinstance(value, dict):
            click.echo(f"{indent}{name}:")
            _tell(value, indent=indent + "  ")
        elif isinstance(value, list) and len(value) > 8:
            click.echo(f"{indent}{name}: {len(value)} values (--json shows them)")
        else:
            click.echo(f"{indent}{name}: {value}")
