"""Build the datasets that Headstock knows by name: builder, prompts, validation, publication."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from data_manifests.copies import Inspection, inspect_copy
from data_manifests.plan import BuildError, Plan
from data_manifests.registry import BUILDERS, Builder, OwnBuilder
from featstore.errors import ManifestError, lookup, unknown_name
from featstore.manifest import (
    Manifest,
    check_name,
    conform_classes,
    read_manifest,
    validate_classes,
    write_manifest,
)
from featstore.manifest_files import FACTS_FILE, building, take_folder
from featstore.plugins import Registry
from featstore.prompts import PromptChoice
from featstore.sources.reader import check_bytes

logger = logging.getLogger(__name__)


def _as_builder(name: str, thing: Any) -> Builder:
    if isinstance(thing, Builder):
        return thing
    if callable(thing):
        return OwnBuilder(Path(), thing, name)
    builder = Builder(Path(thing))
    if not (builder.folder / "dataset.toml").is_file() or builder.name != name:
        raise TypeError(
            f"expected a function that returns a Plan, or a folder with a dataset.toml whose name "
            f"is {name!r}; got {thing!r}."
        )
    return builder


DATASETS: Registry[Builder] = Registry("dataset", BUILDERS, accept=_as_builder)
"""The datasets that can be built by name.

A dataset of one's own (``register("dataset", NAME)``, an entry point of ``headstock.datasets``) is
a folder with a ``dataset.toml`` like those of data_manifests, whose ``reader`` or ``synsets``
says what reads it, or a function that returns a `data_manifests.plan.Plan`. The
parameters of the function are the options that it takes: ``root``, ``splits`` and ``subset`` have
flags of ``headstock data build``, others are given as ``-s NAME=VALUE``.
"""


@dataclass(frozen=True)
class BuildResult:
    """A built dataset, and whether anything had to be done."""

    manifest: Manifest
    """What lies in the folder now."""

    status: Literal["built", "unchanged"]
    """``unchanged``: the folder already held this, whole, and no file was touched."""


def build_dataset(
    dataset: str,
    out: Path | str,
    *,
    name: str | None = None,
    on_done: Callable[[int, int], None] | None = None,
    prompts: PromptChoice | None = None,
    **options: Any,
) -> BuildResult:
    """Build a dataset into a folder, unless the folder already holds the same.

    The same means: the fingerprint of source, options and builder is the one in dataset.toml,
    and every table and file has its recorded sha256.

    Where `prompts` give all class_name items of an earlier build in the folder and more, those
    stay first and in their order, so that a set that was extracted from them can be extended.

    Parameters
    ----------
    dataset : str
        Key of `DATASETS`.
    out : Path
        A folder that is empty, does not exist, or holds an earlier build of this dataset; pictures
        of that build which the new one lacks stay there, and nothing names them.
    name : str, optional
        Name of the dataset in the manifest, and so in the store; default: its own.
    on_done : callable, optional
        Called with (done, total) as files are written.
    prompts : PromptChoice, optional
        Which names and templates the class_name items are made of; default: the dataset's own.
    **options
        Of the builder: ``source`` (Path; label sets and stamps), ``locales`` (stamps); of a
        dataset on disk ``root`` (Path), ``splits``, ``subset``, ``classes_only``, ``split_file``
        (see `data_manifests.registry.plan_dataset`) and those of its dataset.toml. None
        means the default.

    Raises
    ------
    ManifestError
        If a name or an option is unknown, the source is missing or damaged, or `out` holds
        something else or cannot be written.
    """
    builder = find_builder(dataset)
    given = {key: value for key, value in options.items() if value is not None}
    unknown = [key for key in given if key not in builder.options]
    if unknown:
        raise ManifestError(
            unknown_name(
                "option", unknown[0], sorted(builder.options), where=f"for the dataset {dataset!r}"
            )
        )
    folder, name = Path(out), check_name(name or dataset)
    take_folder(folder, name)
    choice = prompts or PromptChoice()
    try:
        plan = builder.plan(**given)
        identity = choice.fingerprint(plan.fingerprint)
        earlier = _earlier(folder)
        if earlier is not None and _same(earlier, plan, identity):
            return BuildResult(earlier, "unchanged")
        with building(folder) as made:
            built = plan.make(made, on_done)
            tables, classes = dict(built.tables), built.classes
            if classes is not None:
                classes, items = choice.make(plan.name, classes, built.prompts)
                tables |= {"class_name": _after(earlier, items)} if items is not None else {}
            source = {"fingerprint": identity, **choice.facts()}
            facts = {**plan.facts, **built.facts, "name": name, "source": source}
            manifest = write_manifest(
                folder, facts=facts, tables=tables, classes=classes, data_root=plan.root, made=made
            )
    except BuildError as err:
        raise ManifestError(str(err)) from err
    return BuildResult(manifest, "built")


def _after(earlier: Manifest | None, items: pl.DataFrame) -> pl.DataFrame:
    """Return prompts with those of an earlier build first, if none of these was lost or changed."""
    before = None if earlier is None else earlier.tables.get("class_name")
    if before is None:
        return items
    known = before.select("item_id", "text").with_row_index("before")
    placed = items.join(known, on=["item_id", "text"], how="left", maintain_order="left")
    if placed["before"].count() < before.height:
        return items
    return placed.sort("before", nulls_last=True, maintain_order=True).drop("before")


def check_dataset(name: str, **options: Any) -> Inspection:
    """Compare a copy of a dataset on disk with what is known of it, and write nothing.

    Parameters
    ----------
    name : str
        Key of `DATASETS`.
    **options
        ``root`` (Path), ``splits``, ``images`` and those of its dataset.toml, as for
        `build_dataset`.

    Returns
    -------
    Inspection
        Its ``problems`` are everything that is wrong, item by item.

    Raises
    ------
    ManifestError
        If the dataset is not read from a folder, or an option is wrong.
    """
    builder = find_builder(name)
    given = {key: value for key, value in options.items() if value is not None}
    read = builder.read
    if read is None:
        raise ManifestError(f"{name!r} is not read from a copy on disk: there is nothing to check.")
    try:
        return inspect_copy(builder.facts, read, **given)
    except BuildError as err:
        raise ManifestError(str(err)) from err


_LABEL_FORMS = (
    "a .txt with one name a line; a .csv or .tsv with a column 'name' and, if need be, 'index', "
    "'synset', 'lemmas', 'definition'; or a .json with a list of names or {index: name}"
)
_LABELS = ("name", "synset", "lemmas", "definition")


def read_label_file(path: str | Path, *, name: str | None = None) -> tuple[str, pl.DataFrame]:
    """Read the classes of a head from a file; row i of the head is the i-th of them.

    Parameters
    ----------
    path : path
        A .txt with one name a line; a .csv or .tsv with a column ``name`` and, optionally,
        ``index`` (0, 1, 2 … in any order; else the order of the lines), ``synset``, ``lemmas``
        and ``definition``; or a .json with a list of names, or an object index -> name as in
        ``id2label``.
    name : str, optional
        Of the label set; by default made of the file's name.

    Returns
    -------
    name : str
    classes : DataFrame
        The label set (CLASS_SCHEMA), with ``name_group`` and ``shared_name`` as for built ones;
        ``class_id`` is ``<name>/<synset>`` where there is one, else ``<name>/<index>``.

    Raises
    ------
    ManifestError
        If the file cannot be read or is no such list.
    """
    file = Path(path)
    set_name = name or re.sub(r"[^a-z0-9_-]+", "-", file.stem.lower()).strip("-_") or "labels"
    try:
        rows = _label_rows(file)
    except (OSError, TypeError, ValueError, pl.exceptions.PolarsError) as err:
        reason = " ".join(str(err).split()) or type(err).__name__
        raise ManifestError(
            f"Cannot read the label file '{file.name}': {reason[:200]}. Give {_LABEL_FORMS}."
        ) from err
    table = rows.sort("index").with_columns(
        name=pl.col("name").str.strip_chars(), index=pl.col("index").cast(pl.Int64)
    )
    blank = table.filter(pl.col("name").fill_null("") == "")["index"]
    if table.is_empty() or len(blank):
        what = f"no name for class {blank[0]:,}" if len(blank) else "no class"
        raise ManifestError(f"The label file '{file.name}' holds {what}. Give {_LABEL_FORMS}.")
    ids = pl.coalesce(pl.col("synset"), pl.col("index").cast(pl.String))
    table = table.with_columns(
        class_id=pl.lit(f"{set_name}/") + ids,
        name_group=pl.col("name").str.to_lowercase(),
    ).with_columns(shared_name=pl.col("name_group").is_duplicated())
    classes = conform_classes(table)
    validate_classes(classes)
    return set_name, classes


def _label_rows(file: Path) -> pl.DataFrame:
    """Return the columns index, name, synset, lemmas and definition of a label file."""
    suffix = file.suffix.lower()
    if suffix in (".csv", ".tsv"):
        table = pl.read_csv(file, separator="\t" if suffix == ".tsv" else ",", infer_schema=False)
        if "name" not in table.columns:
            raise ValueError(f"it has no column 'name', only {', '.join(table.columns)}")
        order = (
            pl.col("index").cast(pl.Int64) if "index" in table.columns else pl.int_range(pl.len())
        )
        columns = [pl.col(key) for key in _LABELS if key in table.columns]
        table = table.select(order.alias("index"), *columns)
    elif suffix == ".json":
        listed = json.loads(file.read_text(encoding="utf-8"))
        table = _label_frame(listed.items() if isinstance(listed, dict) else enumerate(listed))
    elif suffix == ".txt":
        lines = file.read_text(encoding="utf-8").splitlines()
        while lines and not lines[-1].strip():
            lines.pop()
        table = _label_frame(enumerate(lines))
    else:
        raise ValueError(f"a {suffix or 'file without suffix'} is no known form")
    absent = [pl.lit(None, dtype=pl.String).alias(k) for k in _LABELS if k not in table.columns]
    return table.with_columns(absent)


def _label_frame(pairs: Iterable[tuple[Any, Any]]) -> pl.DataFrame:
    rows = [(int(index), name) for index, name in pairs]
    return pl.DataFrame(rows, schema={"index": pl.Int64, "name": pl.String}, orient="row")


def write_label_set(
    label_file: Path | str,
    out: Path | str,
    *,
    name: str | None = None,
    prompts: PromptChoice | None = None,
) -> Manifest:
    """Make a manifest of a user's own list of classes, with prompts of their names.

    Parameters
    ----------
    label_file : path
        See `read_label_file`.
    out : path
        A folder that is empty, does not exist, or holds a manifest of the same name.
    name : str, optional
        Of the label set; by default made of the file's name.
    prompts : PromptChoice, optional
        See `build_dataset`; default: the name, bare and in a photo.

    Raises
    ------
    ManifestError
        If the file is no list of classes, or `out` holds something else.
    """
    set_name, classes = read_label_file(label_file, name=name)
    folder = Path(out)
    take_folder(folder, set_name)
    facts: dict[str, Any] = {
        "name": set_name,
        "summary": f"The {classes.height:,} classes of {Path(label_file).name}.",
    }
    choice = prompts or PromptChoice()
    if choice.facts():
        facts["source"] = choice.facts()
    classes, items = choice.make(set_name, classes, {"name": ("none", "photo")})
    assert items is not None
    tables = {"class_name": _after(_earlier(folder), items)}
    return write_manifest(folder, facts=facts, tables=tables, classes=classes)


def find_builder(name: str) -> Builder:
    """Return the builder of a dataset.

    Raises
    ------
    ManifestError
        If there is none of this name.
    """
    return lookup(
        DATASETS,
        name,
        what="dataset",
        error=ManifestError,
        listed_by="headstock ls --available datasets",
    )


def synsets_of(label_set: str) -> frozenset[str]:
    """Return the synsets of a label set of ImageNet's, such as ``imagenet1k``.

    Raises
    ------
    ManifestError
        If there is no dataset of this name, its classes are no synsets, or timm's files, which
        hold them, are not installed.
    """
    builder = find_builder(label_set)
    if "synsets" not in builder.facts:
        raise ManifestError(
            f"The classes of {label_set} are no synsets. Name one such as imagenet1k."
        )
    try:
        classes = builder.plan().make(Path(), None).classes
    except BuildError as err:
        raise ManifestError(str(err)) from err
    assert classes is not None
    return frozenset(classes["synset"])


def _same(earlier: Manifest, plan: Plan, identity: str) -> bool:
    """Return whether a manifest is what this plan would make, with its files where they are."""
    if plan.root is not None and earlier.root.resolve() != plan.root.resolve():
        return False
    source = earlier.facts.get("source")
    return isinstance(source, dict) and source.get("fingerprint") == identity


def _earlier(folder: Path) -> Manifest | None:
    """Return the whole, undamaged manifest in `folder`, or None."""
    if not (folder / FACTS_FILE).is_file():
        return None
    try:
        manifest = read_manifest(folder)
        check_bytes(manifest)
    except ManifestError as err:
        logger.info("building %s again: %s", folder, err)
        return None
    return manifest
