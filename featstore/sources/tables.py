"""Collect the items of a source, and make item tables of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import polars as pl

from featstore.errors import ManifestError
from featstore.prompts import class_prompts
from featstore.sources.names import split_name

#: What a label is in a source: its name, or its row in the list of names.
Label = str | int


@dataclass(frozen=True)
class Contents:
    """What a source found."""

    tables: Mapping[str, pl.DataFrame]
    """Item table by kind."""

    classes: pl.DataFrame | None
    """The label set."""


@dataclass
class ItemCollector:
    """Images and their captions, in the order in which they are found.

    Ids are ``<dataset>/image/<key>``, ``<dataset>/caption/<key>`` and, of classes,
    ``<dataset>/<name>``: the keys are the source's own, and a repeated one is an error.
    """

    dataset: str
    """Name of the dataset."""

    label_names: Sequence[str] | None = None
    """Names of the classes, by index, where the source has such a list."""

    templates: Mapping[str, str] | None = None
    """Prompt template by id, where the source brings its own; ``{}`` stands for the name."""

    _images: dict[str, dict[str, Any]] = field(default_factory=dict)
    _captions: dict[str, dict[str, Any]] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    def image(
        self,
        key: str,
        uri: str,
        *,
        label: Label | None = None,
        split: str | None = None,
        **columns: Any,
    ) -> str:
        """Add an image and return its item_id.

        Raises
        ------
        ManifestError
            If the key is taken, empty or not text, or the label is not in the list of names.
        """
        item = f"{self.dataset}/image/{_checked(key, uri)}"
        if item in self._images:
            other = self._images[item]["uri"]
            _fail(
                f"The key {key!r} is repeated: it stands for {other!r} and for {uri!r}. Ids come "
                "from keys, so each must be unique; rename one or give a column of ids."
            )
        row = {"item_id": item, "uri": uri, "label": self._label(label, uri), **columns}
        if split is not None:
            row["split"] = split_name(split)
            if row["split"] != split:
                row["source_split"] = split
        self._images[item] = row
        return item

    def again(self, key: str, uri: str, *, label: Label | None, split: str | None) -> str | None:
        """Return the item_id of an image that was added with the same facts, or None.

        Raises
        ------
        ManifestError
            If it was added with another file, label or split.
        """
        item = f"{self.dataset}/image/{key}"
        held = self._images.get(item)
        if held is None:
            return None
        new = (uri, self._label(label, uri), None if split is None else split_name(split))
        old = (held["uri"], held["label"], held.get("split"))
        if new != old:
            _fail(
                f"The key {key!r} is repeated with other facts: file, label and split are {old} "
                f"and {new}. Make them agree, or give a column of ids."
            )
        return item

    def caption(self, parent: str, text: str, *, key: str | None = None) -> None:
        """Add a caption of the image `parent`; without a key it is counted within its image.

        Raises
        ------
        ManifestError
            If the key is taken, or the text holds a NUL.
        """
        image = self._images[parent]
        text = text.strip()
        if not text:
            return
        if "\0" in text:
            _fail(f"A caption of {parent!r} holds a NUL; it is not text.")
        number = self._counts.get(parent, 0)
        self._counts[parent] = number + 1
        if key is None:
            key = f"{parent.removeprefix(f'{self.dataset}/image/')}#{number}"
        item = f"{self.dataset}/caption/{_checked(key, parent)}"
        if item in self._captions:
            first = self._captions[item]["parent_id"]
            _fail(f"The caption key {key!r} is repeated: at images {first!r} and {parent!r}.")
        row = {"item_id": item, "text": text, "parent_id": parent}
        self._captions[item] = row | {
            name: image[name] for name in ("split", "source_split") if name in image
        }

    def contents(self) -> Contents:
        """Return the tables: images, captions, classes and their prompts.

        Raises
        ------
        ManifestError
            If there is no image, or two class names differ only in case.
        """
        if not self._images:
            _fail("The source holds no image.")
        classes = self._classes()
        rows = list(self._images.values())
        for row in rows:
            label = row.pop("label")
            row["class_id"] = None if label is None else self._class_ids[label]
        tables = {"image": _frame(rows)}
        if self._captions:
            tables["caption"] = _frame(list(self._captions.values()))
        if classes is not None and not all(name.isdecimal() for name in classes["name"]):
            tables["class_name"] = self._prompts(classes)
        return Contents(tables, classes)

    def _label(self, label: Label | None, where: str) -> Label | None:
        """Return a label as the row of the list of names, or without a list as a name."""
        if label is None or label == "":
            return None
        if self.label_names is None:
            return str(label).strip()
        text = str(label).strip()
        if text.isdecimal() and int(text) < len(self.label_names):
            return int(text)
        if text in self.label_names:
            return self.label_names.index(text)
        msg = (
            f"The label {label!r} of {where!r} is neither one of the {len(self.label_names):,} "
            "class names nor the row of one."
        )
        raise ManifestError(msg)

    def _classes(self) -> pl.DataFrame | None:
        used = {row["label"] for row in self._images.values()} - {None}
        if not used:
            return None
        if self.label_names is None:
            numbers = all(str(name).isdecimal() for name in used)
            names = sorted(used, key=(lambda name: (int(name), name)) if numbers else None)
            keys: list[Label] = list(names)
        else:
            names, keys = list(self.label_names), list(range(len(self.label_names)))
        shared = {name for name, times in Counter(names).items() if times > 1}
        ids = [
            f"{self.dataset}/{name}" + (f" ({row})" if name in shared else "")
            for row, name in enumerate(names)
        ]
        _check_case(ids)
        self._class_ids = dict(zip(keys, ids, strict=True))
        return pl.DataFrame(
            {
                "class_id": ids,
                "index": range(len(ids)),
                "name": names,
                "shared_name": [name in shared for name in names],
            }
        )

    def _prompts(self, classes: pl.DataFrame) -> pl.DataFrame:
        if not self.templates:
            return class_prompts(classes)
        return pl.DataFrame(
            [
                {
                    "item_id": f"{class_id}#name#{template}",
                    "text": text.replace("{}", name),
                    "class_id": class_id,
                    "variant": "name",
                    "template_id": template,
                }
                for class_id, name in classes.select("class_id", "name").iter_rows()
                for template, text in self.templates.items()
            ]
        )


def _frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Return rows as a table; a column that some rows lack is null there."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    return pl.DataFrame({name: pl.Series(name, values) for name, values in columns.items()})


def _check_case(ids: Sequence[str]) -> None:
    """Raise ManifestError for classes that a file system without case would merge."""
    seen: dict[str, str] = {}
    for name in ids:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            _fail(f"The classes {other!r} and {name!r} differ only in case. Rename or merge them.")


def _checked(key: str, where: str) -> str:
    if not key:
        _fail(f"{where!r} has an empty key.")
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        _fail(f"The key {key!r} is not UTF-8. Rename it.")
    return key


def _fail(msg: str) -> NoReturn:
    raise ManifestError(msg)
