"""Open a store, list its sets, and find one by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.errors import (
    AmbiguousSetError,
    CorruptStoreError,
    IncompleteEmbeddingsError,
    UnknownSetError,
    did_you_mean,
)
from featstore.keys import encoder_slug
from featstore.store.arrays import StoredRows
from featstore.store.catalog import finished_sets, unfinished_sets
from featstore.store.commit import (
    Commit,
    belongs,
    check_layout,
    key_of,
    read_commit,
    read_pointer,
)
from featstore.store.files import check_no_links, read_json, read_regular, same_file
from featstore.store.items import read_failures, read_items
from featstore.store.layout import SetKey, check_component, parse_array_metadata
from featstore.store.records import check_format
from featstore.store.thumbnails import read_thumbnails
from featstore.store.views import EmbeddingsView


@dataclass(frozen=True)
class SetInfo:
    """A finished set: its key, commit and attributes."""

    key: SetKey
    commit: Commit
    attributes: dict[str, Any] = field(repr=False)

    @property
    def encoder(self) -> str:
        """Name of the encoder as the user types it, ``family:name``."""
        return str(self.attributes["encoder"])

    @property
    def n_failed(self) -> int:
        """Number of items without an embedding."""
        return self.commit.n_failed

    def as_dict(self) -> dict[str, Any]:
        """Return what ``featstore ls --json`` prints."""
        return {
            "key": str(self.key),
            "encoder": self.encoder,
            "n": self.commit.n,
            "dim": self.commit.dim,
            "dtype": self.commit.dtype,
            "failed": self.n_failed,
            "precision": self.attributes["precision"],
            "space_id": self.commit.space_id,
            "set_id": self.commit.set_id,
            "revision_id": self.commit.revision_id,
        }


class FeatureStore:
    """A read-only handle on a store. Opening and reading it runs no code from it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.root)!r}, {len(self.sets())} sets)"

    def sets(self) -> list[SetInfo]:
        """Return the finished sets, sorted by key."""
        return [self._info(directory) for directory in finished_sets(self.root)]

    def unfinished(self) -> list[SetKey]:
        """Return the keys of sets whose extraction has not ended."""
        return [key_of(directory) for directory in unfinished_sets(self.root)]

    def info(self, name: str) -> SetInfo:
        """Return the set that `name` means: ``dataset/kind/encoder``.

        The encoder may be the directory name, the name as typed (``timm:resnet50``), the
        name without its family, or any beginning of these that fits one set only.

        Raises
        ------
        UnknownSetError
            If no set fits; the message lists what the dataset holds.
        AmbiguousSetError
            If several fit; the message lists them.
        IncompleteEmbeddingsError
            If the only fit is a set whose extraction has not finished.
        """
        directories = {str(key_of(path)): path for path in finished_sets(self.root)}
        matches = _matches(name, list(directories))
        if len(matches) == 1:
            return self._info(directories[matches[0]])
        if matches:
            msg = (
                f"{name!r} fits {len(matches)} sets of {self.root}: {', '.join(matches)}. Say more "
                "of the name."
            )
            raise AmbiguousSetError(msg)
        begun = _matches(name, [str(key) for key in self.unfinished()])
        if begun:
            msg = (
                f"{begun[0]} is not complete: its extraction has not finished. Run `featstore "
                "extract` again; it resumes where it stopped."
            )
            raise IncompleteEmbeddingsError(msg)
        known = ", ".join(directories) or "no set at all"
        hint = did_you_mean(name, directories)
        msg = f"{self.root} holds no set {name!r}. It holds: {known}.{hint}"
        raise UnknownSetError(msg)

    def view(self, name: str) -> EmbeddingsView:
        """Return the rows of a set as a view; items without an embedding are left out.

        Raises
        ------
        UnknownSetError, AmbiguousSetError, IncompleteEmbeddingsError
            See `info`.
        CorruptStoreError
            If files of the set disagree with its commit record.
        """
        info = self.info(name)
        directory = info.key.directory(self.root)
        commit = info.commit
        _check_metadata(directory, commit)
        layout = parse_array_metadata(
            read_json(directory / "embedding" / "zarr.json"),
            where=str(directory / "embedding"),
            block_rows=commit.block_rows,
        )
        check_layout(layout, commit, where=directory / "embedding")
        items = read_items(directory.parent / commit.items["file"], commit.items, n=commit.n)
        files = range(layout.n_files)
        check_no_links(
            self.root, (directory / "embedding" / layout.file_name(file) for file in files)
        )
        valid = np.flatnonzero(~commit.failed_rows())
        return EmbeddingsView(
            source=StoredRows(directory / "embedding", layout),
            rows=valid,
            items=items if valid.size == commit.n else items[valid],
            key=str(info.key),
            encoder=info.encoder,
            space_id=commit.space_id,
            set_id=commit.set_id,
            revision_id=commit.revision_id,
            n_failed=info.n_failed,
            bias=_read_bias(directory, commit),
        )

    def failures(self, name: str) -> pl.DataFrame:
        """Return the items of a set that have no embedding, with the reason."""
        info = self.info(name)
        path = info.key.directory(self.root) / "failures.parquet"
        return read_failures(path, info.commit.metadata.get(path.name))

    def thumbnails(self, dataset: str, kind: str = "image") -> dict[str, bytes]:
        """Return item_id -> WebP bytes of the stored thumbnails; empty if there are none."""
        directory = (
            self.root
            / check_component(dataset, what="dataset")
            / check_component(kind, what="kind")
        )
        check_no_links(self.root, [directory])
        return read_thumbnails(directory)

    def _info(self, directory: Path) -> SetInfo:
        check_no_links(self.root, [directory / "revisions"])
        attributes = read_pointer(directory)
        if attributes is None:
            msg = f"{directory} is not a finished set."
            raise UnknownSetError(msg)
        commit = read_commit(directory, attributes["revision"])
        key = key_of(directory)
        if not belongs(key, attributes, commit):
            msg = (
                f"{directory} carries the metadata of another set, or changed metadata: its "
                "name, attributes and commit disagree."
            )
            raise CorruptStoreError(msg)
        return SetInfo(key, commit, attributes)


def open_store(path: str | Path) -> FeatureStore:
    """Open a store for reading.

    Raises
    ------
    UnknownSetError
        If there is no folder at `path`, or it is not a store.
    FormatVersionError
        If a newer version wrote it.
    """
    root = Path(path)
    try:
        document = read_json(root / "zarr.json")
        attributes = document["attributes"]["featstore"]
    except (OSError, KeyError, TypeError) as err:
        what = "is not a featstore store" if root.exists() else "does not exist"
        msg = f"{root} {what}. Make one with `featstore extract … --store {root}`."
        raise UnknownSetError(msg) from err
    check_format(
        attributes.get("format") if isinstance(attributes, dict) else None,
        where=str(root / "zarr.json"),
    )
    return FeatureStore(root)


def _matches(name: str, keys: list[str]) -> list[str]:
    """Return the keys that `name` fits; an exact directory or encoder name beats a prefix."""
    parts = name.strip("/").split("/", 2)
    if len(parts) != 3:
        return []
    dataset, kind, encoder = parts
    wanted = encoder_slug(encoder)
    inside = [key for key in keys if key.startswith(f"{dataset}/{kind}/")]
    exact, prefix = [], []
    for key in inside:
        directory = key.rsplit("/", 1)[1]
        stem = directory.rsplit("-", 1)[0]
        without_family = directory.split(".", 1)[-1]
        if wanted in (directory, stem, without_family, without_family.rsplit("-", 1)[0]):
            exact.append(key)
        elif wanted and (directory.startswith(wanted) or without_family.startswith(wanted)):
            prefix.append(key)
    return exact or prefix


def _check_metadata(directory: Path, commit: Commit) -> None:
    """Compare every small file of the set with the commit."""
    for name, facts in commit.metadata.items():
        path = directory / name
        check_no_links(directory, [path])
        if not same_file(path, facts):
            msg = (
                f"{path} is missing or differs from its commit record. Extract or fetch the set "
                "again."
            )
            raise CorruptStoreError(msg)


def _read_bias(directory: Path, commit: Commit) -> np.ndarray | None:
    if "bias/c/0" not in commit.metadata:
        return None
    data = read_regular(directory / "bias" / "c" / "0", limit=4 * commit.n)
    if len(data) != 4 * commit.n:
        msg = f"{directory}/bias has {len(data):,} bytes; {commit.n:,} rows need {4 * commit.n:,}."
        raise CorruptStoreError(msg)
    return np.frombuffer(data, dtype="<f4")
