"""``fitters ls`` and ``fitters show``: saved alignments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featstore.command_line import EXIT_VERIFY, print_json
from fitters.errors import CorruptAlignmentError, SettingError


@click.command("ls", epilog="Example: fitters ls build/demo/aligners")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def ls_command(folder: Path, as_json: bool) -> None:
    """List the alignments in FOLDER; exit 4 if one is damaged (`fitters show` reads its arrays)."""
    from fitters.persist import JSON_NAME

    if not folder.is_dir():
        msg = f"There is no folder {folder}. `fitters fit … -o {folder}/NAME` makes one."
        raise SettingError(msg)
    found = [_row(path.parent) for path in sorted(folder.glob(f"*/{JSON_NAME}"))]
    if as_json:
        print_json(found)
    for row in [] if as_json else found:
        if "damaged" in row:
            click.echo(f"{row['name']}: damaged: {row['damaged']}")
            continue
        # An alignment that was made in Python has the facts that its maker gave it.
        told = {name: "?" if value is None else value for name, value in row.items()}
        click.echo(
            f"{told['name']}: {told['method']}, {told['x_encoder']} ↔ {told['y_encoder']}, "
            f"{told['n_prototypes']} prototypes, {told['n_real']} real pairs"
        )
    if any("damaged" in row for row in found):
        click.get_current_context().exit(EXIT_VERIFY)


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


def _row(path: Path) -> dict[str, Any]:
    from fitters.persist import read_facts

    names = ("method", "x_encoder", "y_encoder", "n_prototypes", "n_real")
    try:
        facts = read_facts(path)
    except CorruptAlignmentError as err:
        return {"name": path.name, "damaged": str(err)}
    return {"name": path.name, **{name: facts.get(name) for name in names}}


def _tell(facts: dict[str, Any], *, indent: str) -> None:
    for name, value in facts.items():
        if isinstance(value, dict):
            click.echo(f"{indent}{name}:")
            _tell(value, indent=indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], list):
            shape = " × ".join(map(str, _shape(value)))
            click.echo(f"{indent}{name}: {shape} values (--json shows them)")
        elif isinstance(value, list) and len(value) > 8:
            click.echo(f"{indent}{name}: {len(value)} values (--json shows them)")
        else:
            click.echo(f"{indent}{name}: {value}")


def _shape(values: Any) -> list[int]:
    if not (isinstance(values, list) and values):
        return []
    return [len(values), *_shape(values[0])]
