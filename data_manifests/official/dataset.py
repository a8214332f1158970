"""Plan a dataset from its official layout on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from data_manifests.official.coop import coop_reader
from data_manifests.official.inspection import Inspection, Read, inspect
from data_manifests.official.listing import Listing
from data_manifests.official.names import class_table
from data_manifests.official.pixels import write_pixels
from data_manifests.official.problems import Problem, summary
from data_manifests.plan import (
    BuildError,
    Built,
    OnDone,
    Plan,
    fingerprint,
    published_facts,
    read_facts,
)

#: Raise it when the same copy and options give other tables or pictures.
VERSION = "1"

#: How many of the things left out a manifest names.
NAMED = 20


def plan_dataset(
    folder: Path,
    read: Read,
    *,
    root: Path | None = None,
    splits: Sequence[str] | None = None,
    subset: bool = False,
    images: bool = True,
    split_file: Path | None = None,
    **options: str,
) -> Plan:
    """Read a copy of a dataset; refuse it unless it is whole and right.

    Parameters
    ----------
    folder : Path
        Where its dataset.toml lies.
    read : callable
        Its reader.
    root : Path
        The copy.
    splits : sequence of str, optional
        Which splits are wanted; all by default. Recorded in the manifest.
    subset : bool
        Take what is there of a partial or other copy; what is not there is recorded.
    images : bool
        False: the label set alone, from the dataset's own lists.
    split_file : Path, optional
        A ``split_zhou_*.json`` of CoOp: its items, labels, names and splits instead of the
        dataset's own lists. No counts are known of it.
    **options
        Of the dataset.

    Raises
    ------
    BuildError
        If there is no root, an option is wrong, or the copy is not what it should be.
    """
    facts = read_facts(folder)
    name = str(facts["name"])
    if split_file is not None:
        facts, read = coop_reader(facts, split_file)
    inspection = check_dataset(facts, read, root=root, splits=splits, images=images, **options)
    problems = inspection.fatal if subset else inspection.problems
    if problems or inspection.listing is None:
        msg = (
            f"{inspection.disk.root} holds no whole copy of {name}: {summary(problems)} "
            f"`featstore manifests check {name} --root DIR` lists everything"
            + ("." if inspection.fatal else "; --subset builds what is there.")
        )
        raise BuildError(msg)
    listing = inspection.listing
    if not images:
        empty = listing.images.clear()
        listing = Listing(empty, listing.labels, listing.names, None, {}, listing.classes)
    chosen = {key: value for key, value in inspection.disk.options.items() if value}
    made_of = {
        **({"options": _portable(facts, chosen)} if chosen else {}),
        "splits": list(inspection.disk.splits) if images else [],
        "complete": not inspection.problems,
    }
    if inspection.problems:
        made_of["left_out"] = _left_out(inspection.problems)
    return Plan(
        name=name,
        facts={**published_facts(facts), **made_of},
        fingerprint=_fingerprint(folder, inspection, listing, made_of),
        make=partial(_make, name, facts, listing, inspection.disk.splits),
        root=None if listing.arrays or not images else inspection.disk.root,
    )


def check_dataset(
    facts: Mapping[str, Any],
    read: Read,
    *,
    root: Path | None = None,
    splits: Sequence[str] | None = None,
    images: bool = True,
    **options: str,
) -> Inspection:
    """Read a copy of a dataset and say everything that is wrong with it; see `inspect`.

    Raises
    ------
    BuildError
        If there is no root, or an option or split is unknown.
    """
    if root is None:
        msg = (
            f"The dataset {facts['name']!r} is read from a folder on disk: give it with --root. "
            f"It can be had from {facts['home_page']}."
        )
        raise BuildError(msg)
    return inspect(facts, read, root, splits=splits, options=options, images=images)


def _make(
    name: str,
    facts: Mapping[str, Any],
    listing: Listing,
    splits: Sequence[str],
    out: Path,
    on_done: OnDone | None,
) -> Built:
    if listing.arrays:
        write_pixels(out, listing, on_done)
    classes = class_table(name, facts, listing)
    usual: dict[str, tuple[str, ...]] = {"name": ("none", "photo")}
    if classes is not None and "paper_name" in classes.columns:
        usual["paper"] = ("paper",)
    prompts = {key: tuple(ids) for key, ids in facts.get("prompts", usual).items()}
    return Built(
        item_tables(name, listing, splits), classes, prompts if classes is not None else {}
    )


def item_tables(name: str, listing: Listing, splits: Sequence[str]) -> dict[str, pl.DataFrame]:
    """Return the item tables of a listing: images by split and path, captions in their order.

    Ids are ``<dataset>/image/<path>`` and ``<dataset>/caption/<key>``: they do not depend on
    the order in which files are listed, nor on what else is there.
    """
    if listing.images.is_empty():
        return {}
    own = set(listing.classes["class_id"]) if listing.classes is not None else set()
    prefix = next(iter(own)).rpartition("/")[0] if own else name
    order = {split: place for place, split in enumerate(splits)}
    images = (
        listing.images.sort(pl.col("split").replace_strict(order, return_dtype=pl.Int64), "path")
        if not listing.arrays
        else listing.images
    )
    extra = [column for column in images.columns if column not in ("path", "split", "label")]
    key = pl.col("path").str.strip_prefix("images/") if listing.arrays else pl.col("path")
    tables = {
        "image": images.select(
            item_id=pl.lit(f"{name}/image/") + key,
            uri=pl.col("path"),
            class_id=pl.lit(f"{prefix}/") + pl.col("label"),
            split=pl.col("split"),
            **{column: pl.col(column) for column in extra},
        )
    }
    if listing.captions is not None:
        facts = images.select("path", "split", *(c for c in extra if c == "source_split"))
        tables["caption"] = (
            listing.captions.join(facts, on="path", maintain_order="left")
            .with_columns(
                item_id=pl.lit(f"{name}/caption/") + pl.col("key"),
                parent_id=pl.lit(f"{name}/image/") + pl.col("path"),
            )
            .drop("key", "path")
        )
    return tables


def _left_out(problems: Sequence[Problem]) -> dict[str, Any]:
    """Return what a partial build lacks: how much of each kind, and the first of it."""
    kinds = dict.fromkeys(problem.kind for problem in problems)
    counts: dict[str, int] = {
        kind: sum(problem.kind == kind for problem in problems) for kind in kinds
    }
    return {**counts, "first": [problem.text for problem in problems[:NAMED]]}


def _portable(facts: Mapping[str, Any], options: Mapping[str, str]) -> dict[str, str]:
    """Return options for the manifest: of a path only its name, which is the same elsewhere."""
    paths = {str(file["option"]) for file in facts.get("files", {}).values() if "option" in file}
    return {key: Path(value).name if key in paths else value for key, value in options.items()}


def _fingerprint(
    folder: Path, inspection: Inspection, listing: Listing, made_of: Mapping[str, Any]
) -> str:
    digest = hashlib.sha256()
    for row, size in zip(listing.images.iter_rows(), inspection.sizes, strict=False):
        digest.update(repr((row, size)).encode())
    return fingerprint(
        [
            VERSION,
            (folder / "dataset.toml").read_bytes(),
            repr(sorted(made_of.items())),
            repr(sorted(inspection.disk.digests.items())),
            digest.digest(),
        ]
    )
