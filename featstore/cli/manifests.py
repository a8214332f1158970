"""``featstore manifests``: build datasets, list what can be built, show what was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featstore.command_line import CommandGroup, print_json
from featstore.errors import ManifestError, did_you_mean


@click.group(
    cls=CommandGroup,
    lazy={
        "build": "featstore.cli.manifests_build:build_command",
        "check": "featstore.cli.manifests_check:check_command",
        "overlap": "featstore.cli.manifests_labels:overlap_command",
        "shots": "featstore.cli.manifests_labels:shots_command",
    },
    epilog="\b\nExample:"
    "\n  featstore manifests build stamps -o manifests/stamps"
    "\n  featstore manifests show manifests/stamps",
)
def manifests() -> None:
    """Build, make and inspect manifests: the item tables that `featstore extract` reads."""


@manifests.command(
    "make",
    epilog="Example: featstore manifests make csv pairs.csv -o manifests/pairs "
    "--option images=photos",
)
@click.argument("source")
@click.argument("location")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the manifest: new, empty, or holding an earlier one of the same name.",
)
@click.option("--name", help="Name of the dataset; default: made from the location's.")
@click.option(
    "--option",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the source; may be repeated. `featstore manifests sources` lists them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def make_command(
    source: str, location: str, out: Path, name: str | None, pairs: tuple[str, ...], as_json: bool
) -> None:
    """Make the manifest of what lies at LOCATION, read as SOURCE says.

    Every file is read once, for its content hash; none is copied or changed. The same location
    and options give the same bytes.
    """
    from featstore.sources import SOURCES, make_manifest

    if source not in SOURCES:
        msg = f"No source {source!r}. Sources: {', '.join(SOURCES)}.{did_you_mean(source, SOURCES)}"
        raise click.UsageError(msg)
    manifest = make_manifest(source, location, out, name=name, options=split_options(pairs))
    document = {
        "name": manifest.name,
        "folder": str(out),
        "root": str(manifest.root),
        "classes": 0 if manifest.classes is None else manifest.classes.height,
        "items": manifest.facts["counts"],
    }
    if as_json:
        print_json(document)
        return
    click.echo(f"made {manifest.name} in {out}; its files lie in {manifest.root}")
    echo_counts(document["classes"], document["items"])


@manifests.command("sources", epilog="Example: featstore manifests sources --json")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def sources_command(as_json: bool) -> None:
    """List what `featstore manifests make` reads, with the options of each source."""
    from featstore.sources import SOURCES

    if as_json:
        print_json(
            [
                {
                    "name": source.name,
                    "summary": source.summary,
                    "example": source.example,
                    "options": dict(source.options),
                }
                for source in SOURCES.values()
            ]
        )
        return
    width = max(map(len, SOURCES))
    for name, source in SOURCES.items():
        click.echo(f"{name:<{width}}  {source.summary}")
        for option, text in source.options.items():
            click.echo(f"{'':<{width}}    {option}=…  {text}")


@manifests.command("labels", epilog="Example: featstore manifests labels birds.txt -o build/birds")
@click.argument("label_file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The manifest.")
@click.option("--name", help="Name of the label set; default: made of the file's name.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def labels_command(label_file: Path, out: Path, name: str | None, as_json: bool) -> None:
    """Make a label set of a list of classes: .txt, .csv, .tsv or .json.

    The classes stand in the order of the rows of the head that they belong to; their names can
    then be extracted as class_name, and the head with --label-set.
    """
    from featstore.datasets import write_label_set

    manifest = write_label_set(label_file, out, name=name)
    classes = 0 if manifest.classes is None else manifest.classes.height
    if as_json:
        print_json({"name": manifest.name, "folder": str(manifest.root), "classes": classes})
        return
    click.echo(f"built {manifest.name} in {manifest.root}")
    echo_counts(classes, dict(manifest.facts["counts"]))


@manifests.command("ls", epilog="Example: featstore manifests ls --json")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def ls_command(as_json: bool) -> None:
    """List the datasets that can be built by name."""
    from data_manifests.registry import BUILDERS

    if as_json:
        print_json(
            [
                {
                    **{key: b.facts.get(key) for key in ("name", "revision", "licence", "summary")},
                    "options": sorted(b.options),
                }
                for b in BUILDERS.values()
            ]
        )
        return
    width = max(map(len, BUILDERS))
    for name, builder in BUILDERS.items():
        click.echo(f"{name:<{width}}  {builder.summary}")


@manifests.command("show", epilog="Example: featstore manifests show build/stamps")
@click.argument("what", metavar="DIR|NAME")
@click.option("--hashes", is_flag=True, help="Also read every file and compare its sha256.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def show_command(what: str, hashes: bool, as_json: bool) -> None:
    """Show a built manifest (DIR, which is validated), or what is known of a dataset (NAME)."""
    from data_manifests.plan import published_facts
    from data_manifests.registry import BUILDERS
    from featstore.manifest import read_manifest
    from featstore.manifest.write import split_counts
    from featstore.sources import check_bytes

    folder = Path(what)
    if what in BUILDERS and not (folder / "dataset.toml").is_file():
        facts = BUILDERS[what].facts
        own = {key: _option_text(option) for key, option in facts.get("options", {}).items()}
        document = {**published_facts(facts), **({"options": own} if own else {})}
    elif folder.exists():
        manifest = read_manifest(folder)
        if hashes:
            check_bytes(manifest)
        document = {
            **manifest.facts,
            "root": str(manifest.root),
            "classes": 0 if manifest.classes is None else manifest.classes.height,
            "counts": {kind: split_counts(table) for kind, table in manifest.tables.items()},
        }
    else:
        msg = (
            f"{what!r} is neither a folder nor a known dataset. Known datasets: "
            f"{', '.join(BUILDERS)}.{did_you_mean(what, BUILDERS)}"
        )
        raise ManifestError(msg)
    if as_json:
        print_json(document)
        return
    counts, classes = document.pop("counts", None), document.pop("classes", None)
    document.pop("tables", None)
    for name, value in document.items():
        _echo_fact(name, value)
    if counts is not None:
        echo_counts(classes, counts)


def split_options(pairs: tuple[str, ...]) -> dict[str, str]:
    """Return the options of ``--option a=1 --option b=2``."""
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals or key in options:
            why = "given twice" if key in options else "not KEY=VALUE"
            msg = f"--option {pair!r} is {why}."
            raise click.UsageError(msg)
        options[key] = value
    return options


def _option_text(option: dict[str, Any]) -> str:
    values = f"; one of {', '.join(option['values'])}" if "values" in option else ""
    default = f"; default {option['default']}" if option.get("default") else ""
    return f"{option['what']}{values}{default}"


def _echo_fact(name: str, value: Any) -> None:
    if isinstance(value, dict) and any(isinstance(inner, dict | str) for inner in value.values()):
        click.echo(f"{name}:")
        for key, inner in value.items():
            _echo_fact(f"  {key}", inner)
        return
    if isinstance(value, dict):
        value = ", ".join(f"{key} {inner}" for key, inner in value.items())
    if isinstance(value, list) and any(len(str(part)) > 20 for part in value):
        click.echo(f"{name}:")
        for part in value:
            click.echo(f"  - {part}")
        return
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    click.echo(f"{name}: {value}")


def echo_counts(classes: int, counts: dict[str, dict[str, int]]) -> None:
    """Print the classes, and the items of each kind by split."""
    click.echo(f"  classes     {classes:>7,}")
    for kind, splits in counts.items():
        parts = ", ".join(f"{split} {n:,}" for split, n in splits.items() if split != "total")
        click.echo(f"  {kind:<11} {splits['total']:>7,}  ({parts})")
