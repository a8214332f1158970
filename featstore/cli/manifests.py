"""Commands on manifests: make, build; and what ls, show and verify say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featstore.cli.options import prompt_fields, prompts_option
from featstore.command_line import (
    EXIT_VERIFY,
    SectionedCommand,
    answer,
    count,
    json_option,
    print_json,
    setting_option,
)
from featstore.errors import ManifestError, listed, unknown_name
from featstore.options import (
    Option,
    Owners,
    config_from,
    option,
    options_from,
    options_of,
    settings_from,
    settings_of,
)
from featstore.prompts import PromptChoice
from featstore.terminal import (
    ProgressBar,
    TextTable,
    bad,
    good,
    in_words,
    print_facts,
    say,
    show_log,
    warning,
)

if TYPE_CHECKING:
    from featstore.manifest import Manifest


def _of_texts(name: str, options: Mapping[str, Mapping[str, Any]]) -> Owners:
    """Return as settings what is stated of options: what each is for, its default and values."""
    return {
        name: {
            key: Option(key, one.get("default", ""), one["what"], words=(*one.get("values", ()),))
            for key, one in options.items()
        }
    }


def _of_source(named: Mapping[str, Any]) -> Owners:
    """Return what ``-s`` sets of the source that a command line names, or that its location is."""
    location, name = named.get("location"), named.get("source")
    if location is None and name is None:
        return {}
    from featstore.sources.making import LABELS, SOURCES, guessed

    name = guessed(location) if name is None and isinstance(location, str) else name
    if name == LABELS:
        return {name: settings_of(PromptChoice)}
    if not isinstance(name, str) or name not in SOURCES:
        return {}
    return _of_texts(name, {key: {"what": text} for key, text in SOURCES[name].options.items()})


#: What is said of the option that chooses texts of the classes: of a source, or of a dataset.
_FORMS = (
    "Write class names in these forms, such as name,definition:none,photo. They are name, lemmas, "
    "clean, definition, paper, open_clip or user; templates, or sets of them, are none, photo, "
    "simple, paper, icis or openai80 [default: the {}'s]."
)


@click.command(
    "make",
    cls=SectionedCommand,
    settings=_of_source,
    sections={"Options": "-o --name --as --setting --prompts"},
    epilog="\b\nExample:"
    "\n  headstock data make pairs.csv -s images=photos"
    "\n  headstock data make birds.txt --prompts name",
)
@click.argument("location")
@click.option(
    "--as", "source", metavar="SOURCE",
    help="Read the location as this kind of source [default: guessed, and printed].",
)  # fmt: skip
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Write the manifest to this folder, which is new, empty or holds an earlier one of the "
    "same name [default: manifests/NAME].",
)
@click.option(
    "--name",
    metavar="NAME",
    help="Call the dataset this [default: made of the location's name].",
)
@setting_option("Set an option of the source; `data make --as SOURCE LOCATION --help` lists them")
@prompts_option("--prompts", _FORMS.format("source"))
@json_option
def make_command(
    location: str, source: str | None, out: Path | None, name: str | None,
    words: tuple[str, ...], as_json: bool, prompts: Any,
) -> None:  # fmt: skip
    """Make a manifest of your own files or classes.

    LOCATION is a file, a folder or an address; --as says how it is read: folder, csv and others
    that `headstock ls --available sources` lists, or labels: a list of classes (.txt, .csv, .tsv or
    .json) in the order of the rows of a head, whose names can then be extracted as class_name. (A
    dataset that Headstock knows by name: `headstock data build`.) Every file is read once, for its
    content hash; none is copied or changed. The same location and options give the same bytes.
    """
    from featstore.datasets import write_label_set
    from featstore.sources import find_place
    from featstore.sources.making import (
        LABELS,
        SOURCES,
        default_name,
        guessed,
        make_manifest,
        oddities,
    )

    if source is None:
        source = guessed(location)
        click.echo(f"{location} is read as {source} (--as SOURCE reads it as another)", err=True)
    if source != LABELS and source not in SOURCES:
        raise click.UsageError(unknown_name("source", source, [*SOURCES, LABELS]))
    options = settings_from(words, {source: {}, **_of_source({"source": source})})[source]
    out = out or Path("manifests") / (name or default_name(find_place(location)))
    if prompts and source != LABELS:
        raise click.UsageError("Prompts are for a list of classes: --as labels.")
    with ProgressBar(f"make {out}"):
        if source == LABELS:
            choice = config_from(PromptChoice, prompt_fields(prompts) | options)
            manifest = write_label_set(location, out, name=name, prompts=choice)
        else:
            manifest = make_manifest(source, location, out, name=name, options=options)
        odd = oddities(manifest)
    document = {
        "name": manifest.name,
        "folder": str(out),
        "root": str(manifest.root),
        "classes": 0 if manifest.classes is None else manifest.classes.height,
        "items": manifest.facts["counts"],
        "odd": [{"what": what, "names": names} for what, names in odd],
    }
    parts: list[Any] = [f"Made {manifest.name} in {out}. Its files are in {manifest.root}."]
    parts.append(counts_table(document["classes"], document["items"]))
    parts += [(warning(f"{what}:"), f" {listed(names)}") for what, names in odd]
    answer(document, *parts, as_json=as_json)


def show_dataset(name: str, *, as_json: bool) -> None:
    """Show what is known of a dataset that is built by name."""
    from data_manifests.plan import published_facts
    from featstore.datasets import DATASETS

    _show(published_facts(DATASETS[name].facts), as_json=as_json)


def _read(folder: Path, doing: str) -> tuple[Manifest, dict[str, Any]]:
    from featstore.manifest import read_manifest, split_counts

    with ProgressBar(f"{doing} {folder}"):
        manifest = read_manifest(folder)
    return manifest, {
        **manifest.facts,
        "root": str(manifest.root),
        "classes": 0 if manifest.classes is None else manifest.classes.height,
        "counts": {kind: split_counts(table) for kind, table in manifest.tables.items()},
    }


def show_manifest(folder: Path, *, as_json: bool) -> None:
    """Show a manifest, which is validated."""
    _show(_read(folder, "show")[1], as_json=as_json)


def verify_manifest(folder: Path, *, as_json: bool) -> int:
    """Read every file of a manifest, and compare its sha256; return the exit code."""
    from featstore.sources.reader import check_bytes

    manifest, document = _read(folder, "verify")
    try:
        with ProgressBar(f"verify {folder}", doing="comparing with checksums"):
            check_bytes(manifest)
    except ManifestError as err:
        say(bad("Damaged:"), f" {err}", err=True)
        return EXIT_VERIFY
    total = sum(splits["total"] for splits in document["counts"].values())
    said = good("OK:"), f" {count(total, 'item')} match the manifest"
    answer({"ok": True, "items": total}, said, as_json=as_json)
    return 0


def _show(document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    counts, classes = document.pop("counts", None), document.pop("classes", None)
    document.pop("tables", None)
    pitfalls = document.pop("pitfalls", [])
    document |= document.pop("source", {})
    print_facts(
        {
            str(document.pop("name", "")): [
                (key.replace("_", " "), in_words(value)) for key, value in document.items()
            ],
            "Pitfalls": [("", text) for text in pitfalls],
        }
    )  # fmt: skip
    if counts is not None:
        click.echo()
        counts_table(classes, counts).show()


def counts_table(classes: int, counts: dict[str, dict[str, int]]) -> TextTable:
    """Return the classes, and the items of each kind by split."""
    rows = [("classes", f"{classes:,}", "")]
    for kind, splits in counts.items():
        parts = {split: n for split, n in splits.items() if split != "total"}
        rows.append((kind, f"{splits['total']:,}", in_words(parts)))
    return TextTable(("KIND", "ITEMS", "SPLITS"), rows)


@dataclass(frozen=True)
class BuildConfig:
    """How a dataset is built, as a command line says it; a dataset takes some of these."""

    name: str | None = option(
        None, help="Give the dataset this name in the manifest and the store [default: DATASET]."
    )
    root: Path | None = option(
        None,
        help="Read the dataset from this folder, laid out as it is distributed. Its files stay "
        "where they are.",
        metavar="DIR",
    )
    splits: tuple[str, ...] = option(
        (), help="Build only these splits, such as test [default: all].", flag="--split"
    )
    subset: bool = option(
        False, help="Accept an incomplete copy; the manifest records that it is one."
    )
    source: Path | None = option(
        None,
        help="Read the source files from this folder: the stamps or the .deb of "
        "tuxpaint-stamps-default (stamps), or timm's label files (imagenet…).",
        flag="-s files",
        metavar="DIR",
    )
    classes_only: bool = option(False, help="Build only the label set, without images.", flag="-s")
    split_file: Path | None = option(
        None,
        help="Take items, names and splits from this file of CoOp (split_zhou_….json) instead of "
        "the official ones.",
        flag="-s",
        metavar="FILE",
    )
    locales: tuple[str, ...] = option(
        (),
        help="Write captions in these languages, such as en,fr [default: en].",
        flag="-s locale",
    )


_EXAMPLES = (
    "\b\nExample:"
    "\n  headstock data build stamps -o build/stamps -s locale=en,fr"
    "\n  headstock data build food101 --root data -o build/food101 --split test \\"
    "\n      --prompts paper:paper"
)


def _of_dataset(named: Mapping[str, Any]) -> Owners:
    """Return what ``-s`` sets of the dataset that a command line names."""
    name = named.get("dataset")
    if not isinstance(name, str):
        return {}
    from featstore.datasets import DATASETS

    if name not in DATASETS:
        return {}
    builder = DATASETS[name]
    own = _of_texts(name, builder.facts.get("options", {}))[name]
    taken = {one: o for one, o in settings_of(BuildConfig).items() if o.name in builder.options}
    return {name: {**own, **taken, **settings_of(PromptChoice)}}


@click.command(
    "build",
    cls=SectionedCommand,
    settings=_of_dataset,
    sections={
        "Options": "-o --name --root --split --prompts --subset --dry-run --setting",
    },
    epilog=_EXAMPLES,
)
@click.argument("dataset", metavar="DATASET")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Write the manifest to this folder, which is new, empty or holds an earlier build "
    "[default: manifests/NAME].",
)
@options_from(BuildConfig)
@click.option(
    "--dry-run", is_flag=True,
    help="Compare the copy with what is known of it, and write nothing; exit 4 if it differs.",
)  # fmt: skip
@setting_option("Set an option of the dataset; `data build DATASET --help` lists them")
@prompts_option("--prompts", _FORMS.format("dataset"))
@json_option
def build_command(
    dataset: str, out: Path | None, dry_run: bool, words: tuple[str, ...], as_json: bool,
    prompts: Any, **given: Any,
) -> int:  # fmt: skip
    """Build a dataset that Headstock knows by name.

    DATASET is one of those that `headstock ls --available datasets` lists. (Your own files:
    `headstock data make`.) Building again from the same source touches nothing; with more --prompts
    it appends their items, and an extraction then encodes those alone. A copy that lacks anything
    is refused without --subset; --dry-run lists what it lacks.

    For stamps, without -s files=DIR: the installed package, else the user's cache, else the package
    is downloaded (81 MB) through apt into that cache, without root.
    """
    from featstore.datasets import build_dataset

    config = config_from(BuildConfig, given)
    chosen, files = builder_options(dataset, config, words)
    if dry_run:
        if config.root is None:
            raise click.UsageError("--dry-run compares a copy: give its folder as --root.")
        return _check(dataset, chosen, as_json=as_json)
    out = out or Path("manifests") / (config.name or dataset)
    # The bar is there before the log: what is logged is then written above it.
    with ProgressBar(dataset, "images") as bar, show_log("data_manifests", "featstore.datasets"):
        result = build_dataset(
            dataset, out, name=config.name, on_done=bar.update,
            prompts=config_from(PromptChoice, prompt_fields(prompts) | files), **chosen,
        )  # fmt: skip
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
    partial = "" if document["complete"] else ", a partial copy"
    where = "" if manifest.root == out else f". Its files are in {manifest.root}."
    done = f"{result.status.capitalize()} {manifest.name} {document['revision']} in {out}"
    counts = counts_table(document["classes"], document["items"])
    answer(document, f"{done}{partial}{where}", counts, as_json=as_json)
    return 0


def builder_options(
    dataset: str, config: BuildConfig, words: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a dataset is built with, and the files of its prompts."""
    from featstore.datasets import find_builder

    try:
        find_builder(dataset)
    except ManifestError as err:
        raise click.UsageError(str(err)) from err
    values = settings_from(words, _of_dataset({"dataset": dataset}))[dataset]
    files = {
        one.name: values.pop(one.name) for one in options_of(PromptChoice) if one.name in values
    }
    flags = {"root": config.root, "splits": config.splits, "subset": config.subset}
    return values | {name: value for name, value in flags.items() if value}, files


#: Problems that are printed.
SHOWN = 20


def _check(dataset: str, chosen: dict[str, Any], *, as_json: bool) -> int:
    """Compare a copy of a dataset with what is known of it; return the exit code.

    Compared are lists, images and counts. No image is opened: a file that is there and not empty
    counts.
    """
    from featstore.datasets import check_dataset

    with ProgressBar(f"check {dataset}"):
        inspection = check_dataset(dataset, **chosen)
    problems = inspection.problems
    document = {
        "name": dataset, "root": str(inspection.disk.root), "complete": not problems,
        "images": inspection.counts(), "problems": [asdict(problem) for problem in problems],
    }  # fmt: skip
    counts = ", ".join(f"{split} {n:,}" for split, n in inspection.counts().items())
    lines = [f"  {problem.kind}: {problem.text}" for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"  and {len(problems) - SHOWN:,} more, which --json lists")
    end = bad(count(len(problems), "problem")) if problems else good("OK: the copy is complete")
    head = f"{dataset} in {inspection.disk.root}: {counts or 'nothing'}"
    answer(document, head, *lines, end, as_json=as_json)
    return EXIT_VERIFY if problems else 0
