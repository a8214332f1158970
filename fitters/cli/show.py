"""Commands that show: saved alignments, methods, and the cache of moments."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from featstore.command_line import EXIT_VERIFY, CommandGroup, print_json
from fitters.errors import CorruptAlignmentError, SettingError


@click.command("ls", epilog="Example: fitters ls build/demo/aligners")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def ls_command(folder: Path, as_json: bool) -> None:
    """List the alignments in FOLDER; exit 4 if one is damaged (`fitters show` reads its arrays)."""
    from fitters.alignment import JSON_NAME

    if not folder.is_dir():
        raise SettingError(
            f"There is no folder {folder}. `fitters fit … -o {folder}/NAME` makes one."
        )
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
    from fitters.alignment import read_alignment

    facts = read_alignment(path).facts
    if as_json:
        print_json(facts)
        return
    _print_facts(facts, indent="")


def _row(path: Path) -> dict[str, Any]:
    from fitters.alignment import read_facts

    names = ("method", "x_encoder", "y_encoder", "n_prototypes", "n_real")
    try:
        facts = read_facts(path)
    except CorruptAlignmentError as err:
        return {"name": path.name, "damaged": str(err)}
    return {"name": path.name, **{name: facts.get(name) for name in names}}


def _print_facts(facts: dict[str, Any], *, indent: str) -> None:
    for name, value in facts.items():
        if isinstance(value, dict):
            click.echo(f"{indent}{name}:")
            _print_facts(value, indent=indent + "  ")
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


@click.group("cache", cls=CommandGroup, epilog="Example: fitters cache ls")
def cache_group() -> None:
    """Show or empty the cache of moments."""


@cache_group.command("ls", epilog="Example: fitters cache ls")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def cache_ls_command(as_json: bool) -> None:
    """List the moments that are kept, the last used first."""
    from fitters.moments.cache import entries

    _print_entries(entries(), as_json=as_json, verb="kept")


@cache_group.command("gc", epilog="Example: fitters cache gc --max-bytes 1000000000")
@click.option("--max-bytes", type=click.IntRange(min=0), help="Keep the last used up to so much.")
@click.option("--days", type=click.FloatRange(min=0), help="Remove what was unused for so long.")
@click.option("--all", "everything", is_flag=True, help="Remove everything.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def cache_gc_command(
    max_bytes: int | None, days: float | None, everything: bool, as_json: bool
) -> None:
    """Remove moments that are kept; those that are damaged always go."""
    from fitters.moments.cache import collect

    if everything and (max_bytes is not None or days is not None):
        raise click.UsageError(
            "--all leaves nothing for --max-bytes or --days to keep. Give one or the other.",
            click.get_current_context(),
        )
    limit = 0 if everything else max_bytes
    removed = collect(max_bytes=limit, older_than=None if days is None else days * 86_400)
    _print_entries(removed, as_json=as_json, verb="removed")


def _print_entries(found: list[Any], *, as_json: bool, verb: str) -> None:
    total = sum(entry.n_bytes for entry in found)
    if as_json:
        rows = [
            {"path": str(entry.path), "bytes": entry.n_bytes, "facts": entry.facts}
            for entry in found
        ]
        print_json({verb: rows, "bytes": total})
        return
    for entry in found:
        sets = [entry.facts.get(side, {}).get("set", "damaged") for side in ("x", "y")]
        used = time.strftime("%Y-%m-%d", time.localtime(entry.used))
        size = f"{entry.n_bytes / 1e6:8.1f} MB"
        click.echo(f"{entry.path.stem[:12]}  {size}  {used}  {' × '.join(sets)}")
    click.echo(f"{len(found):,} {verb}, {total / 1e6:,.1f} MB")
