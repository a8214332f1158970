"""Item tables of a source, and the text files of paths, captions and labels that they come from."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from featstore.address import Address
from featstore.errors import LISTED, ManifestError, listed, unknown_name
from featstore.manifest_files import open_plain, path_fault
from featstore.prompts import class_prompts
from featstore.sources import local_path

#: Suffixes of images, in lower case. TIFF is listed here; decoding it must be asked for.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
)

#: Other words for the usual splits.
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    # The part of COCO's validation images that Karpathy's split trains on.
    "restval": "train",
}


def is_image(name: str) -> bool:
    """Return whether a file name ends as an image's does; hidden files never are."""
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def split_name(word: str) -> str:
    """Return the usual name of a split: ``validation`` is ``val``; others stay as they are."""
    return _SPLIT_WORDS.get(word.strip().lower(), word.strip())


def split_folder(path: str) -> str | None:
    """Return the split that the first folder of a relative path names, or None."""
    head, _, tail = path.partition("/")
    return _SPLIT_WORDS.get(head.lower()) if tail else None


#: What a label is in a source: its name, or its row in the list of names.
Label = str | int


@dataclass(frozen=True)
class Found:
    """What a source found, and the folder or address that its uris are relative to."""

    root: Path | Address
    """Where the files lie."""

    tables: Mapping[str, pl.DataFrame]
    """Item table by kind."""

    classes: pl.DataFrame | None = None
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
    _captions: list[dict[str, Any]] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)

    def image(
        self,
        key: str,
        uri: str,
        *,
        label: Label | None = None,
        split: str | None = None,
        again: bool = False,
        **columns: Any,
    ) -> str:
        """Add an image and return its item_id.

        Parameters
        ----------
        again : bool
            One that was added with the same file, label and split may be given again.

        Raises
        ------
        ManifestError
            If the key is taken, empty or not text, or the label is not in the list of names.
        """
        item = f"{self.dataset}/image/{_checked(key, uri)}"
        row = {"item_id": item, "uri": uri, "label": self._label(label, uri), **columns}
        row |= _split_facts(split)
        held = self._images.setdefault(item, row)
        old, new = ((one["uri"], one["label"], one.get("split")) for one in (held, row))
        if held is not row and not (again and old == new):
            raise ManifestError(
                f"The key {key!r} is repeated: file, label and split are {old} and {new}. Ids come "
                "from keys, so each must be unique; rename one or give a column of ids."
            )
        return item

    def use_label_names(self, names: Any, where: str) -> None:
        """Take the list of class names that a part of the source has, if it has one.

        Raises
        ------
        ManifestError
            If an earlier part has another list.
        """
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return
        if self.label_names not in (None, names):
            raise ManifestError(f"{where} lists other class names than what was read before it.")
        self.label_names = names

    def caption(self, parent: str, text: str) -> None:
        """Add a caption of the image `parent`; its key is counted within the image.

        Raises
        ------
        ManifestError
            If the text holds a NUL.
        """
        image = self._images[parent]
        if not text.strip():
            return
        number = self._counts.get(parent, 0)
        self._counts[parent] = number + 1
        if "\0" in text:
            raise ManifestError(f"A caption of {parent!r} holds a NUL; it is not text.")
        key = f"{parent.removeprefix(f'{self.dataset}/image/')}#{number}"
        row = {"item_id": f"{self.dataset}/caption/{key}", "text": text.strip()}
        facts: dict[str, Any] = {
            name: image[name] for name in ("split", "source_split") if name in image
        }
        self._captions.append({**row, "parent_id": parent, **facts})

    def found(self, root: Path | Address) -> Found:
        """Return what was found below `root`: images, captions, classes and their prompts.

        Raises
        ------
        ManifestError
            If there is nothing.
        """
        if not self._images:
            raise ManifestError(
                "The source holds no image (.jpg, .png, .webp …). Say how to read it by --as."
            )
        classes = self._classes()
        rows = list(self._images.values())
        for row in rows:
            label = row.pop("label")
            row["class_id"] = None if label is None else self._class_ids[label]
        tables = {"image": pl.DataFrame(rows, infer_schema_length=None)}
        if self._captions:
            tables["caption"] = pl.DataFrame(self._captions, infer_schema_length=None)
        if classes is not None and not all(name.isdecimal() for name in classes["name"]):
            templates = self.templates or ("none", "photo")
            tables["class_name"] = class_prompts(classes, templates=templates)
        return Found(root, tables, classes)

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
        raise ManifestError(
            f"The label {label!r} of {where!r} is neither one of the {len(self.label_names):,} "
            "class names nor the row of one."
        )

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
        self._class_ids = dict(zip(keys, ids, strict=True))
        return pl.DataFrame(
            {
                "class_id": ids,
                "index": range(len(ids)),
                "name": names,
                "shared_name": [name in shared for name in names],
            }
        )


def _split_facts(split: str | None) -> dict[str, str]:
    """Return the columns that say of which split an item is, as it is named here and there."""
    if split is None:
        return {}
    name = split_name(split)
    return {"split": name} if name == split else {"split": name, "source_split": split}


def _checked(key: str, where: str) -> str:
    if not key:
        raise ManifestError(f"{where!r} has an empty key.")
    try:
        key.encode("utf-8")
    except UnicodeEncodeError as err:
        raise ManifestError(f"The key {key!r} is not UTF-8. Rename it.") from err
    return key


@dataclass(frozen=True)
class Request:
    """A location, and how to read it."""

    location: str
    """Path of a file or folder, as the user gave it."""

    dataset: str
    """Name that ids begin with."""

    options: Mapping[str, str]
    """Options of the source, all of them known to it."""


#: The rows of a table, each with its place.
Rows = Iterator[tuple[str, dict[str, Any]]]

#: Role -> names of columns, the first that exists is taken. An option of the role's name chooses.
ROLES: dict[str, tuple[str, ...]] = {
    "image": ("path", "image", "filepath", "file_path", "filename", "file_name", "image_path"),
    "caption": ("caption", "captions", "text", "title"),
    "label": ("label", "class", "class_name"),
    "split": ("split",),
    "id": ("id", "key"),
}

#: What the options of these sources are for.
COLUMN_OPTIONS: dict[str, str] = {
    "image": "column of the images",
    "caption": "column of the captions",
    "label": "column of the labels",
    "split": "column of the splits",
    "id": "column of the keys; without one the path is the key",
    "images": "folder that paths are relative to; default: that of the table",
}


#: The column of each role that has one.
Columns = dict[str, str]


def choose_columns(
    names: Sequence[str],
    request: Request,
    where: str,
    *,
    first: Sequence[str] = (),
) -> Columns:
    """Return which column has which role.

    Parameters
    ----------
    first : sequence of str
        The image is looked for in these columns before the usual ones.

    Raises
    ------
    ManifestError
        If a chosen column does not exist, or none has the images.
    """
    chosen: Columns = {}
    for role, usual in ROLES.items():
        given = request.options.get(role)
        if given is not None and given not in names:
            raise ManifestError(
                unknown_name("column", given, names, where=f"(option {role}) in {where}")
            )
        likely = (*first, *usual) if role == "image" else usual
        found = next((name for name in (given, *likely) if name in names), None)
        chosen |= {} if found is None else {role: found}
    if "image" not in chosen:
        raise ManifestError(
            f"{where} has no column of images: none of {', '.join(ROLES['image'])}. It has: "
            f"{listed(names, shown=LISTED)}. Choose one with the option image."
        )
    return chosen


def image_root(request: Request, table: Path) -> Path:
    """Return the folder that paths in a table are relative to."""
    given = request.options.get("images")
    root = table.parent if given is None else Path(given).expanduser()
    return root.resolve(strict=True)


def relative_uri(path: Any, root: Path, where: str) -> str:
    """Return a path from a table, relative to `root`; an absolute one must lie below it.

    Raises
    ------
    ManifestError
        If it is no text, empty, or no file below `root`.
    """
    if not isinstance(path, str) or not path.strip():
        raise ManifestError(f"{where} has no path of an image: {path!r}.")
    text = path.strip().removeprefix("./")
    if Path(text).is_relative_to(root):
        text = Path(text).relative_to(root).as_posix()
    fault = path_fault(text) or ("" if (root / text).exists() else "there is no such file")
    if fault:
        raise ManifestError(
            f"{where} names {text!r}: {fault}. Images are files below {root}; -s images=FOLDER "
            "names another folder."
        )
    return text


def list_paths(
    items: ItemCollector, rows: Rows, columns: Columns, root: Path, *, split: str | None = None
) -> None:
    """Add the images at the paths of a table, relative to `root`; see `add_row`."""
    for where, row in rows:
        uri = relative_uri(row.get(columns["image"]), root, where)
        add_row(items, row, columns, uri=uri, key=uri, where=where, split=split)


def add_row(
    items: ItemCollector,
    row: Mapping[Any, Any],
    columns: Columns,
    *,
    uri: str,
    key: str,
    where: str,
    split: str | None = None,
    **facts: Any,
) -> None:
    """Add the image of a row and its captions; a repeated image only gets the captions.

    Parameters
    ----------
    items : ItemCollector
        Where they go.
    row : mapping
        Values by column.
    columns : Columns
        Their roles.
    uri : str
        Of the image.
    key : str
        Of the image; a value in the column of ids goes before.
    where : str
        The row, for messages.
    split : str, optional
        Split of rows without one.
    **facts
        Further columns of the image's item.
    """
    own = row.get(columns.get("id"))
    key = key if own is None or own == "" else str(own)
    label = _scalar(row, columns.get("label"), where)
    text = _scalar(row, columns.get("split"), where)
    chosen = split if text is None or text == "" else str(text)
    parent = items.image(key, uri, label=label, split=chosen, again=True, **facts)
    value = row.get(columns.get("caption"))
    captions = value if isinstance(value, list) else [value]
    for caption in (one for one in captions if one is not None):
        if not isinstance(caption, str):
            raise ManifestError(f"{where} has a caption that is no text: {caption!r}.")
        items.caption(parent, caption)


def _scalar(row: Mapping[str | None, Any], column: str | None, where: str) -> str | int | None:
    value = row.get(column)
    if value is None or isinstance(value, str) or type(value) is int:
        return value
    raise ManifestError(
        f"{where} has a value in the column {column!r} that is neither text nor integer: {value!r}."
    )


#: The description of one item.
MAX_RECORD_BYTES = 2**20


def parse_json(data: bytes, *, where: str, limit: int = MAX_RECORD_BYTES) -> Any:
    """Return the JSON document in `data`.

    Raises
    ------
    ManifestError
        If it has more than `limit` bytes, nests too deep, is not UTF-8 or not JSON.
    """
    if len(data) > limit:
        raise ManifestError(f"{where} has {len(data):,} bytes of JSON; at most {limit:,} are read.")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as err:
        raise ManifestError(f"{where} is not JSON that is read here: {err}.") from err


def read_table(form: str, request: Request) -> Found:
    """List the images of a table of paths; several rows of one image are its captions.

    The key of an image is its id, or else its path.

    Parameters
    ----------
    form : str
        Key of `FORMS`.

    Raises
    ------
    ManifestError
        If the file is not of this form, or a row has no path below the folder of the images.
    """
    path = local_path(request.location)
    # Objects need not have the same fields, so all are read twice.
    names = list(dict.fromkeys(name for _, row in FORMS[form](path) for name in row))
    if not names:
        raise ManifestError(f"{path} holds no row. Give one for each image.")
    root = image_root(request, path)
    items = ItemCollector(request.dataset)
    list_paths(items, FORMS[form](path), choose_columns(names, request, str(path)), root)
    return items.found(root)


def _delimited(delimiter: str, path: Path) -> Rows:
    try:
        with open_plain(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            reader = csv.DictReader(text, delimiter=delimiter, strict=True)
            header = list(reader.fieldnames or ())
            if len(set(header)) != len(header):
                raise ManifestError(f"{path} names a column twice: {listed(header, shown=LISTED)}.")
            for row in reader:
                where = f"{path}, line {reader.line_num:,}"
                if None in row or None in row.values():
                    raise ManifestError(
                        f"{where} has more or fewer fields than the {len(header)} of the header. "
                        "Quote or fix it."
                    )
                yield where, row
    except UnicodeDecodeError as err:
        raise ManifestError(
            f"{path} is not UTF-8: {err.reason}. Convert it, e.g. with iconv."
        ) from err
    except csv.Error as err:
        raise ManifestError(f"{path}, line {reader.line_num:,}, cannot be read: {err}.") from err


def _objects(path: Path) -> Rows:
    with open_plain(path) as file:
        lines = iter(lambda: file.readline(MAX_RECORD_BYTES + 1), b"")
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number:,}"
            if not line.strip():
                continue
            row = parse_json(line, where=where)
            if not isinstance(row, dict):
                raise ManifestError(f"{where} is not a JSON object.")
            yield where, row


#: What yields the rows of a text file of each form.
FORMS: dict[str, Callable[[Path], Rows]] = {
    "csv": partial(_delimited, ","),
    "tsv": partial(_delimited, "\t"),
    "jsonl": _objects,
}

read_csv, read_tsv, read_jsonl = (partial(read_table, form) for form in ("csv", "tsv", "jsonl"))
