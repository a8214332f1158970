"""``featstore manifests build``: a dataset that Headstock knows by name becomes a manifest."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from featstore.cli.manifests import echo_counts, split_options
from featstore.command_line import print_json
from featstore.errors import ManifestError

_EXAMPLES = (
    "\b\nExample:"
    "\n  featstore manifests build stamps -o build/stamps --locale en,fr"
    "\n  featstore manifests build food101 --root data -o build/food101 --split test \\"
    "\n      --names paper --templates paper"
)

#: Keyword of the builder -> flag, for messages.
_FLAGS = {
    "source": "--source", "locales": "--locale", "root": "--root", "splits": "--split",
    "subset": "--subset", "images": "--classes-only", "split_file": "--split-file",
}  # fmt: skip


@click.command("build", epilog=_EXAMPLES)
@click.argument("name")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the manifest: new, empty, or holding an earlier build of NAME.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="Folder with the dataset as it is distributed. Its files stay where they are.",
)
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="stamps: a folder with the stamps or with the .deb of tuxpaint-stamps-default. "
    "imagenet…: a folder with timm's label files.",
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="SPLIT[,SPLIT…]",
    help="Only these splits, e.g. test; may be repeated.",
)
@click.option("--subset", is_flag=True, help="Take what is there of a partial copy; recorded.")
@click.option("--classes-only", is_flag=True, help="The label set alone, without images.")
@click.option(
    "--split-file",
    type=click.Path(path_type=Path),
    help="A split_zhou_….json of CoOp: its items, names and splits instead of the official ones.",
)
@click.option(
    "--option",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the dataset; may be repeated. `featstore manifests show NAME` lists them.",
)
@click.option(
    "--names",
    "variants",
    multiple=True,
    metavar="NAME[,NAME…]",
    help="Names that prompts are made of: name, lemmas, clean, definition, paper, open_clip, user.",
)
@click.option(
    "--templates",
    multiple=True,
    metavar="NAME[,NAME…]",
    help="Templates around them, or sets: none, photo, simple, paper, icis, openai80.",
)
@click.option(
    "--names-file",
    type=click.Path(path_type=Path),
    help="JSON with a name a class (CLIP_benchmark's shape): the name `user`.",
)
@click.option(
    "--templates-file",
    type=click.Path(path_type=Path),
    help="JSON of templates with {} or {c} (CLIP_benchmark's shape), and {a} for its article.",
)
@click.option(
    "--descriptions-file",
    type=click.Path(path_type=Path),
    help="JSON of sentences by class (CuPL's shape): further prompts.",
)
@click.option(
    "--locale",
    "locales",
    multiple=True,
    metavar="LL[,LL…]",
    help="Languages of captions, e.g. en,fr; may be repeated (stamps only; default en).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def build_command(
    name: str,
    out: Path,
    root: Path | None,
    source: Path | None,
    splits: tuple[str, ...],
    subset: bool,
    classes_only: bool,
    split_file: Path | None,
    pairs: tuple[str, ...],
    variants: tuple[str, ...],
    templates: tuple[str, ...],
    names_file: Path | None,
    templates_file: Path | None,
    descriptions_file: Path | None,
    locales: tuple[str, ...],
    as_json: bool,
) -> None:
    """Build the dataset NAME into a folder.

    NAME is one of those that `featstore manifests ls` lists. Building again from the same source
    touches nothing. A copy that lacks anything is refused, unless --subset says that this is
    meant; `featstore manifests check` lists what it lacks.

    For stamps, without --source: the installed package, else the user's cache, else the package
    is downloaded (81 MB) through apt into that cache, without root.
    """
    from featstore.datasets import build_dataset
    from featstore.prompt_choice import PromptChoice

    options: dict[str, Any] = {
        "source": source,
        "locales": split_list(locales, "--locale"),
        "root": root,
        "splits": split_list(splits, "--split"),
        "subset": True if subset else None,
        "images": False if classes_only else None,
        "split_file": split_file,
    }
    checked_options(name, options, pairs)
    choice = PromptChoice(
        split_list(variants, "--names") or (),
        split_list(templates, "--templates") or (),
        names_file,
        templates_file,
        descriptions_file,
    )
    with _log_to_stderr(), _progress() as on_done:
        result = build_dataset(name, out, on_done=on_done, prompts=choice, **options)
    manifest = result.manifest
    document = {
        "name": manifest.name,
        "root": str(manifest.root),
        "status": result.status,
        "revision": manifest.facts.get("revision"),
        "complete": manifest.facts.get("complete", True),
        "fingerprint": manifest.facts["source"]["fingerprint"],
        "classes": 0 if manifest.classes is None else manifest.classes.height,
        "items": manifest.facts["counts"],
    }
    if as_json:
        print_json(document)
        return
    partial = "" if document["complete"] else ", a partial copy"
    where = manifest.root if manifest.root == out else f"{out}; its files lie in {manifest.root}"
    click.echo(f"{result.status} {manifest.name} {document['revision']} in {where}{partial}")
    echo_counts(document["classes"], document["items"])


def checked_options(name: str, options: dict[str, Any], pairs: tuple[str, ...]) -> None:
    """Add ``--option`` pairs to `options`; what the dataset does not take is wrong usage."""
    from featstore.datasets import find_builder

    try:
        builder = find_builder(name)
    except ManifestError as err:
        raise click.UsageError(str(err)) from err
    for option, flag in _FLAGS.items():
        if options.get(option) is not None and option not in builder.options:
            msg = f"The dataset {name!r} takes no {flag}."
            raise click.UsageError(msg)
    own = builder.facts.get("options", {})
    for key, value in split_options(pairs).items():
        if key not in own:
            known = ", ".join(own) or "none"
            msg = f"The dataset {name!r} takes no option {key!r}. It takes: {known}."
            raise click.UsageError(msg)
        options[key] = value


def split_list(given: tuple[str, ...], flag: str) -> tuple[str, ...] | None:
    """Return the parts of ``--locale en,fr --locale de``, or None if none was given."""
    if not given:
        return None
    parts = [part.strip() for value in given for part in value.split(",")]
    if not all(parts):
        msg = f"{flag} has an empty part: {','.join(given)!r}. Give e.g. {flag} a,b."
        raise click.UsageError(msg)
    return tuple(parts)


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Show what builders log while they work."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    loggers = [logging.getLogger(name) for name in ("data_manifests", "featstore.datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Yield a callback that draws on a terminal, or says every tenth elsewhere."""
    terminal = sys.stderr.isatty()
    last = -1

    def on_done(done: int, total: int) -> None:
        nonlocal last
        tenth = 10 * done // total if total else 10
        if terminal:
            click.echo(f"\r{done:,} of {total:,} images", nl=done == total, err=True)
        elif tenth != last and done:
            click.echo(f"{done:,} of {total:,} images", err=True)
        last = tenth

    yield on_done
