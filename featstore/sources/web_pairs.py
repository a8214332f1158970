"""CC3M and CC12M: web pairs as webdataset, or as img2dataset left them on disk."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from data_manifests.official.disk import Disk, Listing, image_frame
from data_manifests.official.inspection import Inspection, Problem, summary
from data_manifests.plan import BuildError, Built, OnDone, Plan, fingerprint, published_facts
from data_manifests.registry import Builder
from featstore.errors import ManifestError
from featstore.manifest.manifest import SPLITS
from featstore.manifest.paths import path_fault
from featstore.sources.folders import read_captions
from featstore.sources.location import files_below, read_text
from featstore.sources.tables import Request, is_image, split_folder, split_name
from featstore.sources.tars import index_tar, read_webdataset

#: Raise it when the same files give other tables.
VERSION = "1"

_MAX_STATS_BYTES = 2**20


def plan_pairs(builder: Builder, *, root: Path | None = None, subset: bool = False) -> Plan:
    """Plan a set of web pairs from its folder: tars of samples, or images with a .txt beside.

    Parameters
    ----------
    builder : Builder
        The dataset.
    root : Path
        Its folder.
    subset : bool
        Take what is there although shards are missing or shorter than img2dataset recorded.

    Raises
    ------
    BuildError
        If there is no root, nothing in it, or (without `subset`) something is missing.
    """
    inspection = check_pairs(builder, root=root)
    problems = inspection.fatal if subset else inspection.problems
    if problems or inspection.listing is None:
        raise BuildError(
            f"{inspection.disk.root} is no whole copy of {builder.name}: {summary(problems)} "
            f"`featstore manifests check {builder.name} --root DIR` lists everything"
            + ("." if inspection.fatal else "; --subset builds what is there.")
        )
    folder = inspection.disk.root
    sizes = sorted((path, (folder / path).stat().st_size) for path in _files(folder))
    facts: dict[str, Any] = {
        **published_facts(builder.facts),
        "complete": not inspection.problems,
        "form": "tars" if _tars(folder) else "files",
    }
    if inspection.problems:
        facts["left_out"] = [problem.text for problem in inspection.problems[:20]]
    return Plan(
        builder.name,
        facts,
        fingerprint(
            [builder.name, VERSION, repr(sizes), repr(sorted(inspection.counts().items()))]
        ),
        partial(_make, builder.name, folder),
        folder,
    )


def check_pairs(builder: Builder, *, root: Path | None = None) -> Inspection:
    """Compare shards with what img2dataset recorded of them in ``NNNNN_stats.json``.

    Raises
    ------
    BuildError
        If there is no root.
    """
    if root is None:
        raise BuildError(
            f"The dataset {builder.name!r} is read from a folder: give it with --root."
        )
    disk = Disk(root, builder.facts, (), {})
    if not disk.root.is_dir():
        text = f"{disk.root} is no folder. Give the one that holds the shards with --root."
        return Inspection(disk, None, {}, [Problem("missing folder", str(root), text)])
    problems: list[Problem] = []
    found: Counter[str] = Counter()
    rows: list[tuple[str, str, str | None]] = []
    for shard, names in _shards(disk.root, problems).items():
        found[shard] = len(names)
        rows += [(name, split_of(name), None) for name in names]
    for stats in files_below(disk.root, lambda name: name.endswith("_stats.json")):
        shard = stats.removesuffix("_stats.json")
        wanted = _successes(disk.root / stats)
        if wanted is None:
            text = f"{stats} does not say how many images its shard has (successes)."
            problems.append(Problem("changed list", stats, text))
        elif shard not in found:
            text = f"The shard {shard} is missing: {stats} says that it has {wanted:,} images."
            problems.append(Problem("missing image", shard, text))
        elif found[shard] != wanted:
            text = f"The shard {shard} has {found[shard]:,} images; {stats} says {wanted:,}."
            problems.append(Problem("images", shard, text))
    if not rows:
        text = (
            f"{disk.root} holds neither tars with images nor images with a .txt beside. Unpack or "
            "fetch the dataset there."
        )
        problems.append(Problem("missing list", str(disk.root), text))
    splits = dict.fromkeys(split for _, split, _ in rows)
    disk = Disk(root, builder.facts, tuple(splits), {})
    return Inspection(disk, Listing(image_frame(rows)) if rows else None, {}, problems)


def _shards(root: Path, problems: list[Problem]) -> dict[str, list[str]]:
    """Return shard -> its images: tars by name without suffix, else folders."""
    shards: dict[str, list[str]] = {}
    tars = _tars(root)
    for tar in tars:
        try:
            members = [member.name for member in index_tar(root / tar)]
        except ManifestError as err:
            problems.append(Problem("unreadable list", tar, str(err)))
            continue
        images = [name for name in members if is_image(name)]
        shard = tar.removesuffix(".tar")
        shards[shard] = [f"{tar}::{name}" for name in images]
        _wordless(shard, images, set(members), (".txt", ".json"), problems)
    files = [] if tars else files_below(root, lambda name: is_image(name) or name.endswith(".txt"))
    for path in files:
        if is_image(path):
            shards.setdefault(path.rpartition("/")[0], []).append(path)
    for shard, images in () if tars else shards.items():
        _wordless(shard or ".", images, set(files), (".txt",), problems)
    return shards


def _wordless(
    shard: str,
    images: Sequence[str],
    names: set[str],
    suffixes: Sequence[str],
    problems: list[Problem],
) -> None:
    """Add a problem if images of a shard have no file of words beside them."""
    stems = [image.rpartition(".")[0] for image in images]
    lost = [stem for stem in stems if not any(stem + suffix in names for suffix in suffixes)]
    if lost:
        text = f"{len(lost):,} images of {shard} have no {' or '.join(suffixes)} beside them."
        problems.append(Problem("captions", shard, f"{text} First: {lost[0]}."))


def _make(name: str, root: Path, out: Path, on_done: OnDone | None) -> Built:  # noqa: ARG001
    request = Request(str(root), name, out, {})
    try:
        found = read_webdataset(request) if _tars(root) else read_captions(request)
    except ManifestError as err:
        raise BuildError(str(err)) from err
    tables = {k: v for k, v in found.contents.tables.items() if k in ("image", "caption")}
    images = tables["image"].drop("class_id", strict=False)
    splits = pl.Series([split_of(uri) for uri in images["uri"]], dtype=pl.String)
    images = images.with_columns(split=splits)
    tables["image"] = images.drop("source_split", strict=False)
    if "caption" not in tables:
        return Built(tables, None, {})
    own = images.select(parent_id="item_id", split="split")
    captions = tables["caption"].drop("split", "source_split", strict=False)
    tables["caption"] = captions.join(own, on="parent_id", maintain_order="left")
    return Built(tables, None, {})


def split_of(uri: str) -> str:
    """Return the split that a folder or the name of the shard says; without a word it is train.

    Examples
    --------
    >>> split_of("val/00000.tar::000000000.jpg"), split_of("cc3m-validation-0003.tar::7.jpg")
    ('val', 'val')
    >>> split_of("00000.tar::000000000.jpg")
    'train'
    """
    shard = uri.partition("::")[0].rpartition("/")[2].partition(".")[0]
    words = [split_name(word) for word in re.split(r"[-_]", shard)]
    return split_folder(uri) or next((word for word in words if word in SPLITS), "train")


def _tars(root: Path) -> list[str]:
    return files_below(root, lambda name: name.endswith(".tar"))


def _files(root: Path) -> list[str]:
    return files_below(root, lambda name: path_fault(name) is None)


def _successes(file: Path) -> int | None:
    try:
        value = json.loads(read_text(file, limit=_MAX_STATS_BYTES)).get("successes")
    except (ManifestError, ValueError, AttributeError):
        return None
    return value if type(value) is int else None
