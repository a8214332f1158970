"""CoOp's fixed splits: ``split_zhou_<Dataset>.json``, read as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_manifests.official.disk import Disk
from data_manifests.official.inspection import Read
from data_manifests.official.listing import Listing, image_frame
from data_manifests.plan import BuildError

_FORM = (
    'a JSON object with "train", "val" and "test", each a list of [path of the image, label, '
    "class name]"
)


def coop_reader(facts: Mapping[str, Any], file: Path) -> tuple[dict[str, Any], Read]:
    """Return the facts and the reader of a dataset whose splits a file of CoOp's gives.

    The paths in the file are relative to the folder of the images, which ``coop`` of
    dataset.toml names. Its labels are the class index, its names the plain names; class ids are
    made of those names, so they are not the ones of the dataset's own lists.

    Raises
    ------
    BuildError
        If the dataset has no such split, or the file is missing or of another form.
    """
    if "coop" not in facts:
        msg = f"CoOp has no split of {facts['name']!r}; leave --split-file out."
        raise BuildError(msg)
    rows = _rows(file)
    counts = {split: sum(row[1] == split for row in rows) for split in ("train", "val", "test")}
    own = {
        **facts,
        "files": {},
        "options": {},
        "expected": {"classes": len({label for _, _, label, _ in rows}), "image": counts},
        "expected_with": {},
        "split_file": file.name,
        "image_folders": [*facts.get("image_folders", ()), *facts["coop"]],
    }
    own["names"] = {key: value for key, value in facts.get("names", {}).items() if key == "paper"}

    def read(disk: Disk) -> Listing:
        folder = disk.folder(facts["coop"])
        prefix = "" if folder == "." else f"{folder}/"
        disk.digests[file.name] = repr(rows)
        names = {name: index for _, _, index, name in rows}
        labels = {name: name.replace(" ", "_") for name in names}
        images = [
            (f"{prefix}{path}", split, labels[name])
            for path, split, _, name in rows
            if split in disk.splits
        ]
        order = sorted(names, key=names.__getitem__)
        return Listing(image_frame(images), [labels[name] for name in order])

    return own, read


def _rows(file: Path) -> list[tuple[str, str, int, str]]:
    """Return (path, split, index, name) of every item; raise BuildError if it is no such file."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        rows = [
            (str(path), split, int(label), str(name))
            for split in ("train", "val", "test")
            for path, label, name in document[split]
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as err:
        why = getattr(err, "strerror", None) or f"{type(err).__name__}: {err}"
        msg = f"Cannot read the splits {file}: {why}. It should be {_FORM}."
        raise BuildError(msg) from err
    pairs = {(index, name) for _, _, index, name in rows}
    indices = {index for index, _ in pairs}
    if len(pairs) != len(indices) or indices != set(range(len(indices))):
        msg = f"{file} does not give each label 0, 1, 2 … one name. It should be {_FORM}."
        raise BuildError(msg)
    return rows
