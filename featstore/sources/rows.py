"""Tables of images: which columns mean what, and how rows become items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featstore.errors import ManifestError, did_you_mean
from featstore.sources.request import Request
from featstore.sources.tables import ItemCollector

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


@dataclass(frozen=True)
class Columns:
    """The column of each role; None where there is none."""

    image: str
    caption: str | None
    label: str | None
    split: str | None
    id: str | None

    def used(self) -> list[str]:
        """Return the columns that are read, each once."""
        names = (self.image, self.caption, self.label, self.split, self.id)
        return list(dict.fromkeys(name for name in names if name is not None))


def choose_columns(available: Iterable[str], request: Request, where: str) -> Columns:
    """Return which column has which role.

    Raises
    ------
    ManifestError
        If a chosen column does not exist, or none holds images.
    """
    names = list(available)
    chosen: dict[str, str | None] = {}
    for role, usual in ROLES.items():
        given = request.options.get(role)
        if given is not None and given not in names:
            msg = (
                f"{where} has no column {given!r} (option {role}). It has: {', '.join(names)}."
                f"{did_you_mean(given, names)}"
            )
            raise ManifestError(msg)
        chosen[role] = given or next((name for name in usual if name in names), None)
    image = chosen.pop("image")
    if image is None:
        msg = (
            f"{where} has no column of images: none of {', '.join(ROLES['image'])}. It has: "
            f"{', '.join(names)}. Choose one with the option image."
        )
        raise ManifestError(msg)
    return Columns(image=image, **chosen)


def image_root(request: Request, table: Path) -> Path:
    """Return the folder that paths in a table are relative to."""
    given = request.options.get("images")
    root = table.parent if given is None else Path(given).expanduser()
    try:
        return root.resolve(strict=True)
    except OSError as err:
        msg = f"The folder of the images, {root}, cannot be opened: {err.strerror}."
        raise ManifestError(msg) from err


def relative_uri(path: Any, root: Path, where: str) -> str:
    """Return a path from a table, relative to `root`; an absolute one must lie below it.

    Raises
    ------
    ManifestError
        If it is no text, empty, or absolute and elsewhere.
    """
    if not isinstance(path, str) or not path.strip():
        msg = f"{where} has no path of an image: {path!r}."
        raise ManifestError(msg)
    text = path.strip().removeprefix("./")
    if text.startswith("/"):
        try:
            return Path(text).relative_to(root).as_posix()
        except ValueError as err:
            msg = (
                f"{where} names {text!r}, which does not lie below {root}. Give the folder of the "
                "images with the option images."
            )
            raise ManifestError(msg) from err
    return text


def add_row(
    items: ItemCollector,
    row: Mapping[str, Any],
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
    uri, key : str
        Of the image; a value in the column of ids goes before `key`.
    where : str
        The row, for messages.
    split : str, optional
        Split of rows without one.
    **facts
        Further columns of the image's item.
    """
    own = row.get(columns.id) if columns.id else None
    key = key if own is None or own == "" else str(own)
    label = _scalar(row, columns.label, where)
    text = _scalar(row, columns.split, where)
    chosen = split if text is None or text == "" else str(text)
    parent = items.again(key, uri, label=label, split=chosen)
    if parent is None:
        parent = items.image(key, uri, label=label, split=chosen, **facts)
    value = row.get(columns.caption) if columns.caption else None
    for caption in value if isinstance(value, list) else [value]:
        if caption is None:
            continue
        if not isinstance(caption, str):
            msg = f"{where} has a caption that is no text: {caption!r}."
            raise ManifestError(msg)
        items.caption(parent, caption)


def _scalar(row: Mapping[str, Any], column: str | None, where: str) -> str | int | None:
    value = row.get(column) if column else None
    if value is None or isinstance(value, str) or type(value) is int:
        return value
    msg = (
        f"{where} has a value in the column {column!r} that is neither text nor integer: {value!r}."
    )
    raise ManifestError(msg)
