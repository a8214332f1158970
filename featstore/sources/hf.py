"""Hugging Face datasets that were saved to disk: their Arrow files are read where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featstore.errors import ManifestError, needs_extra
from featstore.sources.arrow_cells import ArrowCells
from featstore.sources.arrow_tables import column_cells
from featstore.sources.bounded_json import MAX_RECORD_BYTES, read_json
from featstore.sources.location import folder
from featstore.sources.parquet import add_cell
from featstore.sources.request import Found, Request
from featstore.sources.rows import Columns, choose_columns
from featstore.sources.tables import ItemCollector

#: Descriptions of features with thousands of class names.
_MAX_INFO_BYTES = 16 * MAX_RECORD_BYTES


def read_hf(request: Request) -> Found:
    """List the images of a folder that ``Dataset.save_to_disk`` or ``DatasetDict``'s wrote.

    The library opens the folder (no code of the dataset runs, nothing is fetched) and says which
    column is an Image and what the classes are called. The key is the id, else split and row.

    Raises
    ------
    ManifestError
        If the folder was not made by save_to_disk, names files elsewhere, or is damaged.
    """
    root = folder(request.location)
    items = ItemCollector(request.dataset)
    if (root / "dataset_dict.json").is_file():
        listed = read_json(root / "dataset_dict.json", limit=MAX_RECORD_BYTES)
        names = listed.get("splits") if isinstance(listed, dict) else None
        if not isinstance(names, list) or not all(map(_is_plain, names)):
            msg = f"{root / 'dataset_dict.json'} does not list its splits by plain names."
            raise ManifestError(msg)
        for name in names:
            _add_dataset(items, root, root / name, name, request)
    elif (root / "state.json").is_file():
        _add_dataset(items, root, root, None, request)
    else:
        msg = (
            f"{root} has neither state.json nor dataset_dict.json: save_to_disk did not make it. "
            "Load the dataset and save it so, or use the source parquet."
        )
        raise ManifestError(msg)
    return Found(root, items.contents())


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0:")


def _add_dataset(
    items: ItemCollector, root: Path, directory: Path, split: str | None, request: Request
) -> None:
    files = _data_files(directory)
    features = _features(directory)
    columns = _columns(features, request, directory)
    names = getattr(features.get(columns.label or ""), "names", None)
    if names is not None and items.label_names not in (None, names):
        msg = f"{directory} lists other class names than the splits before it."
        raise ManifestError(msg)
    items.label_names = names or items.label_names
    given = split
    cell = f"{columns.image}.bytes"
    others = [name for name in columns.used() if name != columns.image]
    for file in files:
        uri = (directory / file).relative_to(root).as_posix()
        table = ArrowCells(directory / file)
        number = 0
        for batch in table.batches:
            for at in range(batch.num_rows):
                one = batch.slice(at, 1)
                row = {name: column_cells(one, name)[0] for name in (cell, *others)}
                add_cell(items, row, columns, file=uri, cell=cell, number=number, split=given)
                number += 1
        table.close()


def _data_files(directory: Path) -> list[str]:
    """Return the Arrow files that state.json lists: plain names in the same folder."""
    state = read_json(directory / "state.json", limit=MAX_RECORD_BYTES)
    entries = state.get("_data_files") if isinstance(state, dict) else None
    names = [
        entry.get("filename") if isinstance(entry, dict) else None
        for entry in (entries if isinstance(entries, list) else [None])
    ]
    for name in names:
        path = directory / str(name)
        plain = _is_plain(name) and path.suffix == ".arrow"
        if not plain or path.is_symlink() or not path.is_file():
            msg = (
                f"{directory / 'state.json'} lists {name!r}, which is no Arrow file beside it. "
                "Save the dataset again."
            )
            raise ManifestError(msg)
    return [str(name) for name in names]


def _features(directory: Path) -> dict[str, Any]:
    read_json(directory / "dataset_info.json", limit=_MAX_INFO_BYTES)
    with needs_extra("The source hf"):
        from datasets import load_from_disk
    try:
        return dict(load_from_disk(str(directory)).features)
    except Exception as err:
        # The library raises whatever its parsers do on a damaged folder.
        msg = f"{directory} cannot be loaded by the package datasets: {err}."
        raise ManifestError(msg) from err


def _columns(features: dict[str, Any], request: Request, directory: Path) -> Columns:
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    if "image" not in request.options and len(images) != 1:
        msg = (
            f"{directory} has {len(images)} columns of images ({', '.join(images) or 'none'}). "
            "Choose one with the option image."
        )
        raise ManifestError(msg)
    chosen = {"image": images[0]} | dict(request.options) if images else dict(request.options)
    whole = Request(request.location, request.dataset, request.out, chosen)
    columns = choose_columns(features, whole, str(directory))
    if columns.image not in images:
        msg = f"The column {columns.image!r} of {directory} is no Image."
        raise ManifestError(msg)
    return columns
