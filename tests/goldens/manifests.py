"""What builders make of miniatures of their datasets: every image, caption and class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from featstore.datasets import build_dataset
from featstore.identity import canonical_json, sha256_hex
from tests.data_manifests import miniatures
from tests.data_manifests.conftest import write_tree
from tests.data_manifests.miniatures import MINIATURES

#: Longer tables are pinned by their hash.
MOST = 110

#: Beside each miniature as it is: what else is made of it, and how it is read otherwise.
OTHERWISE: dict[str, list[tuple[Callable[[Path], Path], dict[str, Any]]]] = {
    "dtd": [(miniatures.dtd, {"partition": "2"})],
    "sun397": [(miniatures.sun397, {"partition": "all"})],
    "aircraft": [(miniatures.aircraft, {"level": n}) for n in ("family", "manufacturer")],
    "coco": [(miniatures.coco, {"captions": "first5"}), (miniatures.coco, {"splits": ("test",)})],
    "flickr30k": [
        (miniatures.flickr30k, {"captions": "first5"}), (miniatures.flickr30k, {"train": "paper"}),
        (partial(miniatures.flickr30k, tokens="captions.txt"), {"train": "paper"}),
    ],
    "inat21": [
        (partial(miniatures.inat21, torchvision=False, lists=True), options)
        for options in ({}, {"classes_only": True})
    ],
    "mnist": [(partial(miniatures.mnist, packed=True), {})],
    "ham10000": [
        (partial(miniatures.ham10000, table=f"HAM10000_metadata{end}"), {}) for end in ("", ".tab")
    ],
    "flowers102": [(partial(miniatures.flowers102, names=True), {})],
}  # fmt: skip


def _cases() -> Iterator[tuple[str, str, Callable[[Path], Path], dict[str, Any]]]:
    for name, make in MINIATURES.items():
        for number, (made, options) in enumerate([(make, {}), *OTHERWISE.get(name, [])]):
            said = ", ".join(f"{key}={value}" for key, value in options.items())
            yield f"{name} {number} {said}".strip(), name, made, options
    yield "stamps", "stamps", write_tree, {"locales": ("en", "fr")}


def manifests(folder: Path) -> dict[str, Any]:
    """Return case -> its images, captions and classes, and what a partial copy says of itself."""
    found = {}
    for case, name, make, options in _cases():
        root = make(folder / case / "data")
        given = {"source": root} if name == "stamps" else {"root": root, "subset": True}
        manifest = build_dataset(name, folder / case / "out", **given, **options).manifest
        tables = {kind: manifest.tables.get(kind) for kind in ("image", "caption")}
        tables["classes"] = manifest.classes
        found[case] = {kind: _plain(one) for kind, one in tables.items() if one is not None}
        found[case]["splits"] = list(manifest.facts.get("splits", ()))
    return found


def _plain(table: pl.DataFrame) -> Any:
    """Return a table by its columns that are not empty, without hashes of files."""
    kept = [
        one for one in table.drop("content_sha256", strict=False) if one.null_count() < len(one)
    ]
    columns = {one.name: one.to_list() for one in kept}
    return columns if table.height <= MOST else sha256_hex(canonical_json(columns))
