"""Commands on manifests: build, make, check, labels, ls, show, sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from featstore.cli.progress import ProgressBar, show_log
from featstore.command_line import (
    EXIT_VERIFY,
    SectionedCommand,
    count,
    json_option,
    print_json,
)
from featstore.errors import ManifestError, OptionError, lookup, unknown_name
from featstore.options import config_from, option, options_from, parts_of
from featstore.prompts import PromptChoice
from featstore.terminal import TextTable, bad, best, good, in_words, print_facts, say, warning

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _split_options(
    ctx: click.Context, parameter: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, str]:
    """Return the options of ``--option a=1 --option b=2``."""
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals or key in options:
            why = "given twice" if key in options else "not KEY=VALUE"
            raise click.BadParameter(f"{pair!r} is {why}.", ctx, parameter)
        options[key] = value
    return options


def options_option(of: str, listed_by: str) -> Callable[[_Function], _Function]:
    """Return the option ``--option KEY=VALUE``, whose keys another command lists."""
    return click.option(
        "--option", "options", multiple=True, metavar="KEY=VALUE", callback=_split_options,
        help=f"Set an option of {of}; repeatable. {listed_by} lists them.",
    )  # fmt: skip


@click.command(
    "make",
    epilog="Example: headstock data make csv pairs.csv -o manifests/pairs --option images=photos",
)
@click.argument("source")
@click.argument("location")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Write the manifest to this folder, which is new, empty or holds an earlier one of the "
    "same name.",
)
@click.option(
    "--name", help="Give the dataset this name [default: made from the name of the location]."
)
@options_option("the source", "`headstock data sources`")
@json_option
def make_command(
    source: str, location: str, out: Path, name: str | None, options: dict[str, str], as_json: bool
) -> None:
    """Make a manifest of your own files.

    SOURCE says how LOCATION, a file, a folder or an address, is read: folder, csv and others that
    `headstock data sources` lists. (A dataset that Headstock knows by name: `headstock
    data build`.) Every file is read once, for its content hash; none is copied or changed. The
    same location and options give the same bytes.
    """
    from featstore.images import MAX_PIXELS
    from featstore.sources.making import LEFT_OUT_FILE, SOURCES, make_manifest

    if source not in SOURCES:
        raise click.UsageError(unknown_name("source", source, SOURCES))
    with ProgressBar(f"make {out}"):
        manifest = make_manifest(source, location, out, name=name, options=options)
    document = {
        "name": manifest.name,
        "folder": str(out),
        "root": str(manifest.root),
        "classes": 0 if manifest.classes is None else manifest.classes.height,
        "items": manifest.facts["counts"],
        "left_out": manifest.facts.get("left_out", 0),
        "too_large": manifest.count_larger(MAX_PIXELS),
    }
    if as_json:
        print_json(document)
        return
    click.echo(f"Made {manifest.name} in {out}. Its files are in {manifest.root}.")
    echo_counts(document["classes"], document["items"])
    if document["left_out"]:
        left = count(document["left_out"], "file")
        say(warning(f"{left} left out:"), f" {out / LEFT_OUT_FILE} says why")
    if document["too_large"]:
        large = f"{count(document['too_large'], 'image')} of more than {MAX_PIXELS:,} pixels:"
        say(warning(large), " `headstock extract` skips and lists them; see its --max-pixels")


@click.command("sources", epilog="Example: headstock data sources --json")
@json_option
def sources_command(as_json: bool) -> None:
    """List the sources of `make`, with their options."""
    from featstore.sources.making import SOURCES

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
    rows: list[tuple[str, str, str]] = []
    for name, source in SOURCES.items():
        rows.append((best(name), "", source.summary))
        rows += [("", f"{key}=…", text) for key, text in source.options.items()]
    TextTable(("SOURCE", "OPTION", ""), rows).show()


@click.command("labels", epilog="Example: headstock data labels birds.txt -o build/birds")
@click.argument("label_file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Write the manifest to this folder.",
)
@click.option("--name", help="Give the label set this name [default: made from the file's name].")
@options_from(PromptChoice)
@json_option
def labels_command(
    label_file: Path, out: Path, name: str | None, as_json: bool, **given: Any
) -> None:
    """Make a label set of a list of classes.

    FILE is .txt, .csv, .tsv or .json, in the order of the rows of the head. The names can
    then be extracted as class_name, and the head with --label-set.
    """
    from featstore.datasets import write_label_set

    prompts = config_from(PromptChoice, given)
    manifest = write_label_set(label_file, out, name=name, prompts=prompts)
    classes = 0 if manifest.classes is None else manifest.classes.height
    if as_json:
        print_json({"name": manifest.name, "folder": str(manifest.root), "classes": classes})
        return
    click.echo(f"Made {manifest.name} in {manifest.root}")
    echo_counts(classes, dict(manifest.facts["counts"]))


@click.command("ls", epilog="Example: headstock data ls --json")
@json_option
def ls_command(as_json: bool) -> None:
    """List the datasets that can be built by name."""
    from featstore.datasets import DATASETS

    if as_json:
        print_json(
            [
                {
                    **{key: b.facts.get(key) for key in ("name", "revision", "licence", "summary")},
                    "options": sorted(b.options),
                }
                for b in DATASETS.values()
            ]
        )
        return
    rows = [(name, builder.summary) for name, builder in DATASETS.items()]
    TextTable(("DATASET", ""), rows).show()


@click.command("show", epilog="Example: headstock data show build/demo/manifests/stamps")
@click.argument("what", metavar="DIR|NAME")
@click.option(
    "--full", is_flag=True, help="Also read every file and compare its sha256 with the manifest."
)
@json_option
def show_command(what: str, full: bool, as_json: bool) -> None:
    """Show a manifest, or what is known of a dataset.

    A manifest (DIR) is validated; NAME is a dataset that `headstock data ls` lists.
    """
    from data_manifests.plan import published_facts
    from featstore.datasets import DATASETS
    from featstore.manifest.io import read_manifest, split_counts
    from featstore.sources.reader import check_bytes

    folder = Path(what)
    if what in DATASETS and not (folder / "dataset.toml").is_file():
        facts = DATASETS[what].facts
        own = {key: _option_text(option) for key, option in facts.get("options", {}).items()}
        document = {**published_facts(facts), **({"options": own} if own else {})}
    elif folder.exists():
        with ProgressBar(f"show {folder}"):
            manifest = read_manifest(folder)
            if full:
                check_bytes(manifest)
        document = {
            **manifest.facts,
            "root": str(manifest.root),
            "classes": 0 if manifest.classes is None else manifest.classes.height,
            "counts": {kind: split_counts(table) for kind, table in manifest.tables.items()},
        }
    else:
        by = "headstock data ls"
        known = unknown_name("dataset", what, DATASETS, listed_by=by)
        raise ManifestError(f"{what!r} is not a folder. {known}")
    if as_json:
        print_json(document)
        return
    counts, classes = document.pop("counts", None), document.pop("classes", None)
    document.pop("tables", None)
    pitfalls, options = document.pop("pitfalls", []), document.pop("options", {})
    document |= document.pop("source", {})
    print_facts(
        {
            str(document.pop("name", what)): _facts(document),
            "Pitfalls": [("", text) for text in pitfalls],
            "Options": [(f"--option {name}=…", in_words(text)) for name, text in options.items()],
        }
    )  # fmt: skip
    if counts is not None:
        click.echo()
        echo_counts(classes, counts)


def _facts(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), in_words(value)) for key, value in document.items()]


def _option_text(option: dict[str, Any]) -> str:
    values = f"; one of {', '.join(option['values'])}" if "values" in option else ""
    default = f"; default {option['default']}" if option.get("default") else ""
    return f"{option['what']}{values}{default}"


def echo_counts(classes: int, counts: dict[str, dict[str, int]]) -> None:
    """Print the classes, and the items of each kind by split."""
    rows = [("classes", f"{classes:,}", "")]
    for kind, splits in counts.items():
        parts = {split: n for split, n in splits.items() if split != "total"}
        rows.append((kind, f"{splits['total']:,}", in_words(parts)))
    TextTable(("KIND", "ITEMS", "SPLITS"), rows).show()


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
    )
    source: Path | None = option(
        None,
        help="Read the source files from this folder: the stamps or the .deb of "
        "tuxpaint-stamps-default (stamps), or timm's label files (imagenet…).",
    )
    split: tuple[str, ...] = option(
        (), help="Build only these splits, such as test [default: all]."
    )
    subset: bool = option(
        False, help="Accept an incomplete copy; the manifest records that it is one."
    )
    classes_only: bool = option(False, help="Build only the label set, without images.")
    split_file: Path | None = option(
        None,
        help="Take items, names and splits from this file of CoOp (split_zhou_….json) instead of "
        "the official ones.",
    )
    locale: tuple[str, ...] = option(
        (), help="Write captions in these languages, such as en,fr (stamps only) [default: en]."
    )

    def builder_options(self, dataset: str) -> dict[str, Any]:
        """Return what was chosen, as `build_dataset` takes it.

        Raises
        ------
        OptionError
            If the dataset does not take it.
        ManifestError
            If there is no dataset of this name.
        """
        from featstore.datasets import find_builder

        builder, chosen = find_builder(dataset), {}
        for field, keyword in _KEYWORDS.items():
            value = getattr(self, field)
            if value in (None, (), False):
                continue
            if keyword not in builder.options:
                flag = field.replace("_", "-")
                raise OptionError(f"The dataset {dataset!r} takes no --{flag}.")
            chosen[keyword] = value if field != "classes_only" else False
        return chosen


#: Field of `BuildConfig` -> keyword of the builders.
_KEYWORDS = {
    "root": "root", "source": "source", "split": "splits", "subset": "subset",
    "classes_only": "images", "split_file": "split_file", "locale": "locales",
}  # fmt: skip


_EXAMPLES = (
    "\b\nExample:"
    "\n  headstock data build stamps -o build/stamps --locale en,fr"
    "\n  headstock data build food101 --root data -o build/food101 --split test \\"
    "\n      --variants paper --templates paper"
)


@click.command(
    "build",
    cls=SectionedCommand,
    sections={
        "Options": "-o --name --root --source --split --locale --variants --templates --option",
        "Copies on disk": "--subset --classes-only --split-file",
        "Prompts of your own": "--names-file --templates-file --descriptions-file",
    },
    epilog=_EXAMPLES,
)
@click.argument("dataset", metavar="DATASET")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Write the manifest to this folder, which is new, empty or holds an earlier build.",
)
@options_from(BuildConfig)
@options_option("the dataset", "`headstock data show DATASET`")
@options_from(PromptChoice)
@json_option
def build_command(
    dataset: str, out: Path, options: dict[str, str], as_json: bool, **given: Any
) -> None:
    """Build a dataset that Headstock knows by name.

    DATASET is one of those that `headstock data ls` lists. (Your own files: `headstock
    data make`.) Building again from the same source touches nothing; with more --variants or
    --templates it appends their items, and an extraction then encodes those alone. A copy that
    lacks anything is refused without --subset; `headstock data check` lists what it lacks.

    For stamps, without --source: the installed package, else the user's cache, else the package
    is downloaded (81 MB) through apt into that cache, without root.
    """
    from featstore.datasets import build_dataset

    config, prompts = config_from(BuildConfig, given), config_from(PromptChoice, given)
    chosen = builder_options(dataset, config, options)
    # The bar is there before the log: what is logged is then written above it.
    with ProgressBar(dataset, "images") as bar, show_log("data_manifests", "featstore.datasets"):
        result = build_dataset(
            dataset, out, name=config.name, on_done=bar.update, prompts=prompts, **chosen
        )
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
    where = "" if manifest.root == out else f". Its files are in {manifest.root}."
    done = f"{result.status.capitalize()} {manifest.name} {document['revision']} in {out}"
    click.echo(f"{done}{partial}{where}")
    echo_counts(document["classes"], document["items"])


def builder_options(dataset: str, config: BuildConfig, options: dict[str, str]) -> dict[str, Any]:
    """Return what a dataset is built with; what it does not take is wrong usage."""
    from featstore.datasets import find_builder

    try:
        chosen = config.builder_options(dataset)
        own = find_builder(dataset).facts.get("options", {})
        where = f"for the dataset {dataset!r}"
        for key in options:
            lookup(own, key, what="option", where=where, error=ManifestError)
    except (ManifestError, OptionError) as err:
        raise click.UsageError(str(err)) from err
    return chosen | options


#: Problems of one kind that are printed without --all.
SHOWN = 20


@click.command("check", epilog="Example: headstock data check food101 --root data --split test")
@click.argument("dataset", metavar="DATASET")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    required=True,
    help="Read the dataset from this folder, laid out as it is distributed.",
)
@click.option(
    "--split",
    multiple=True,
    metavar="NAME[,NAME…]",
    callback=parts_of,
    help="Check only these splits [default: all].",
)
@options_option("the dataset", "`headstock data show DATASET`")
@click.option(
    "--all", "everything", is_flag=True, help="Print every problem instead of 20 of each kind."
)
@json_option
@click.pass_context
def check_command(
    ctx: click.Context,
    dataset: str,
    root: Path,
    split: tuple[str, ...],
    options: dict[str, str],
    everything: bool,
    as_json: bool,
) -> None:
    """Compare a copy of a dataset with what is known of it.

    Compared are lists, images and counts. Nothing is written, and no image is opened: a file that
    is there and not empty counts. Exit code 4 if anything is missing or wrong.
    """
    from featstore.datasets import check_dataset

    chosen = builder_options(dataset, BuildConfig(root=root, split=split), options)
    with ProgressBar(f"check {dataset}"):
        inspection = check_dataset(dataset, **chosen)
    problems = inspection.problems
    if as_json:
        print_json(
            {
                "name": dataset,
                "root": str(inspection.disk.root),
                "complete": not problems,
                "images": inspection.counts(),
                "problems": [asdict(problem) for problem in problems],
            }
        )
    else:
        counts = ", ".join(f"{split} {n:,}" for split, n in inspection.counts().items())
        click.echo(f"{dataset} in {inspection.disk.root}: {counts or 'nothing'}")
        shown: Counter[str] = Counter()
        for problem in problems:
            shown[problem.kind] += 1
            if everything or shown[problem.kind] <= SHOWN:
                click.echo(f"  {problem.kind}: {problem.text}")
        for kind, n in shown.items():
            if n > SHOWN and not everything:
                click.echo(f"  {kind}: and {n - SHOWN:,} more; --all prints them")
        say(bad(count(len(problems), "problem")) if problems else good("OK: the copy is complete"))
    if problems:
        ctx.exit(EXIT_VERIFY)
