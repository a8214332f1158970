"""Open a store, list its sets, and find one by name."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.errors import (
    AmbiguousSetError,
    CorruptStoreError,
    IncompleteEmbeddingsError,
    UnknownSetError,
)
from featstore.store.arrays import RowSource
from featstore.store.catalog import finished_sets, unfinished_sets
from featstore.store.checked import Verify, check_rows
from featstore.store.commit import (
    belongs,
    key_of,
    read_commit,
    read_pointer,
)
from featstore.store.files import check_no_links
from featstore.store.items import (
    ItemTable,
    check_items_file,
    failures_file,
    read_failures,
    read_items,
)
from featstore.store.layout import ArrayLayout, SetKey, check_component
from featstore.store.names import find_sets, match_names, unknown_set
from featstore.store.origin import Origin, Reopen
from featstore.store.readers import Mode, open_rows
from featstore.store.set_files import check_metadata, read_bias, read_layout
from featstore.store.set_info import SetInfo
from featstore.store.summary import disk_bytes
from featstore.store.tags import pins_of, read_tag
from featstore.store.thumbnails import read_thumbnails
from featstore.store.views import EmbeddingsView

_HEX = re.compile(r"[0-9a-f]{8,64}")


class FeatureStore:
    """A read-only handle on a store. Opening and reading it runs no code from it.

    `mode` and `verify` say how its arrays are read; see `featstore.store.opening.open_store`, which
    also sets `reopen`, by which its views travel to other processes. `address` is where the store
    lies, and `root` the folder that its small files are read from: the same, unless it is remote.
    """

    reopen: Reopen | None = None

    def __init__(self, root: Path, *, mode: Mode = "auto", verify: Verify = "never") -> None:
        self.root = root
        self.address = str(root)
        self.mode: Mode = mode
        self.verify: Verify = verify
        self._pins: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"FeatureStore({self.address!r}, {len(self.sets())} sets)"

    def _origin(self) -> Origin | None:
        """Return how it was opened, so that any working directory finds it again."""
        if self.reopen is None:
            return None
        place = self.address if "://" in self.address else os.path.abspath(self.address)  # noqa: PTH100
        return Origin(place, self.mode, self.verify, self.reopen)

    def sets(self) -> list[SetInfo]:
        """Return the finished sets, sorted by key."""
        return [self._info(directory) for directory in self.folders()]

    def listing(self) -> list[tuple[SetKey, SetInfo | CorruptStoreError]]:
        """Return every finished set with what is wrong with it, if it is damaged."""
        found: list[tuple[SetKey, SetInfo | CorruptStoreError]] = []
        for directory in self.folders():
            try:
                found.append((key_of(directory), self._info(directory)))
            except CorruptStoreError as err:
                found.append((key_of(directory), err))
        return found

    def pin(self, revision: str) -> None:
        """Read every set at a tag, or the one that has this revision; the others are hidden.

        Parameters
        ----------
        revision : str
            Name of a tag, or at least 8 digits of a revision_id.

        Raises
        ------
        UnknownSetError
            If there is neither.
        """
        self._pins = None
        if _HEX.fullmatch(revision):
            published = {
                str(info.key): [info.commit.revision_id, *info.attributes.get("history", [])]
                for info in self.sets()
            }
            self._pins = pins_of(revision, published) or None
        self._pins = self._pins or self.tag(revision)

    def unfinished(self) -> list[SetKey]:
        """Return the keys of sets whose extraction has not ended."""
        return [key_of(directory) for directory in unfinished_sets(self.root)]

    def info(self, name: str, *, revision: str | None = None) -> SetInfo:
        """Return the set that `name` means: ``dataset/kind/encoder``.

        The encoder may be the directory name, the name as typed (``timm:resnet50``), the
        name without its family, or any beginning of these that fits one set only.

        Parameters
        ----------
        revision : str, optional
            A revision_id of the set, or the beginning of one; the current by default. Each
            published revision stays readable.

        Raises
        ------
        UnknownSetError
            If no set fits; the message lists what the dataset holds. Or no revision does.
        AmbiguousSetError
            If several fit; the message lists them.
        TypeError
            If `name` is no text.
        IncompleteEmbeddingsError
            If the only fit is a set whose extraction has not finished.
        """
        _check_text(name)
        matches = self._find(name)
        if len(matches) == 1:
            return self._info(next(iter(matches.values())), revision)
        if matches:
            msg = (
                f"{name!r} fits {len(matches)} sets of {self.address}: {', '.join(matches)}. Say "
                "more of the name."
            )
            raise AmbiguousSetError(msg)
        begun = match_names(name, [str(key) for key in self.unfinished()])
        if begun:
            msg = (
                f"{begun[0]} is not complete: its extraction has not finished. Run `featstore "
                "extract` again; it resumes where it stopped."
            )
            raise IncompleteEmbeddingsError(msg)
        keys = [str(key_of(path)) for path in self.folders()]
        raise UnknownSetError(unknown_set(self.address, name, keys))

    def revisions(self, name: str) -> list[SetInfo]:
        """Return every published revision of a set, the oldest first, the current last."""
        info = self.info(name)
        directory = info.key.directory(self.root)
        history = info.attributes.get("history", [])
        return [*(self._info(directory, revision) for revision in history), info]

    def view(self, name: str, *, revision: str | None = None) -> EmbeddingsView:
        """Return the rows of a set as a view; items without an embedding are left out.

        Parameters
        ----------
        name, revision
            See `info`.

        Raises
        ------
        UnknownSetError, AmbiguousSetError, IncompleteEmbeddingsError
            See `info`.
        CorruptStoreError
            If files of the set disagree with its commit record.
        """
        info = self.info(name, revision=revision)
        directory = info.key.directory(self.root)
        commit = info.commit
        self._prepare(info)
        check_metadata(directory, commit)
        layout = self.layout(info)
        items_path = directory.parent / commit.items["file"]
        check_no_links(self.root, [items_path])
        check_items_file(items_path, commit.items)
        table = ItemTable(lambda: read_items(items_path, commit.items, n=commit.n))
        valid = np.arange(commit.n)
        if commit.failed:
            valid = np.flatnonzero(~commit.failed_rows())
            table = table.take(valid)
        if self.verify == "full":
            _ = table.table
        return EmbeddingsView(
            source=check_rows(
                self._rows(info, layout),
                verify=self.verify,
                directory=directory / "embedding",
                layout=layout,
                blocks=commit.blocks,
                failed=commit.failed_rows(),
            ),
            rows=valid,
            table=table,
            key=str(info.key),
            encoder=info.encoder,
            space_id=commit.space_id,
            set_id=commit.set_id,
            revision_id=commit.revision_id,
            n_failed=commit.n - valid.size,
            bias=read_bias(directory, commit),
            origin=self._origin(),
        )

    def item_table(self, info: SetInfo) -> pl.DataFrame:
        """Return the items of a set, failed ones too, in the order of rows; raises as `view`."""
        self._prepare(info)
        path = info.key.directory(self.root).parent / info.commit.items["file"]
        check_no_links(self.root, [path])
        return read_items(path, info.commit.items, n=info.commit.n)

    def failures(self, name: str, *, revision: str | None = None) -> pl.DataFrame:
        """Return the items of a set that have no embedding, with the reason."""
        info = self.info(name, revision=revision)
        self._prepare(info)
        file = failures_file(info.commit.metadata)
        facts = None if file is None else info.commit.metadata[file]
        return read_failures(info.key.directory(self.root) / str(file), facts)

    def thumbnails(self, dataset: str, kind: str = "image") -> dict[str, bytes]:
        """Return item_id -> WebP bytes of the stored thumbnails; empty if there are none."""
        directory = (
            self.root
            / check_component(dataset, what="dataset")
            / check_component(kind, what="kind")
        )
        check_no_links(self.root, [directory])
        return read_thumbnails(directory)

    def stored_bytes(self, info: SetInfo) -> int:
        """Return the bytes of all files of a set, of every revision."""
        return disk_bytes(info.key.directory(self.root))

    def folders(self) -> list[Path]:
        """Return the folders of the finished sets below `root`, sorted by key."""
        return [path for path in finished_sets(self.root) if self._is_visible(str(key_of(path)))]

    def _find(self, name: str) -> dict[str, Path]:
        """Return key -> folder of the finished sets that `name` fits."""
        found = find_sets(self.root, name)
        return {key: directory for key, directory in found.items() if self._is_visible(key)}

    def tag(self, name: str) -> dict[str, str]:
        """Return key -> revision_id of a tag; UnknownSetError if there is none."""
        return read_tag(self.root, name)

    def _is_visible(self, key: str) -> bool:
        return self._pins is None or key in self._pins

    def layout(self, info: SetInfo) -> ArrayLayout:
        """Return how a set's array is cut into files; raises as `view`."""
        return read_layout(info.key.directory(self.root), info.commit)

    def _prepare(self, info: SetInfo) -> None:
        """Have the set's small files below `root`; a store in a folder has them."""

    def _rows(self, info: SetInfo, layout: ArrayLayout) -> RowSource:
        """Return the reader of a set's array."""
        array = info.key.directory(self.root) / "embedding"
        names = (array / layout.file_name(file) for file in range(layout.n_files))
        check_no_links(self.root, names)
        return open_rows(array, layout, self.mode)

    def _info(self, directory: Path, revision: str | None = None) -> SetInfo:
        check_no_links(self.root, [directory / "revisions"])
        attributes = read_pointer(directory)
        if attributes is None:
            msg = f"{directory} is not a finished set."
            raise UnknownSetError(msg)
        key = key_of(directory)
        if revision is None and self._pins is not None:
            revision = self._pins.get(str(key))
        commit = read_commit(directory, _published(key, attributes, revision))
        if not belongs(key, attributes, commit):
            msg = (
                f"{directory} carries the metadata of another set, or changed metadata: its "
                "name, attributes and commit disagree."
            )
            raise CorruptStoreError(msg)
        return SetInfo(key, commit, attributes)


def _check_text(name: object) -> None:
    """Raise TypeError if what should be the name of a set is no text."""
    if not isinstance(name, str):
        msg = (
            f"The name of a set is a text such as 'stamps/image/resnet50'; got {name!r}. `sets()` "
            "lists what there is."
        )
        raise TypeError(msg)


def _published(key: SetKey, attributes: dict[str, Any], revision: str | None) -> str:
    """Return the published revision that `revision` begins, or the current one."""
    published = [attributes["revision"], *attributes.get("history", [])]
    if revision is None:
        return str(published[0])
    found = sorted({name for name in published if name.startswith(revision)})
    if len(found) == 1:
        return str(found[0])
    what = "no revision" if not found else f"{len(found)} revisions"
    msg = (
        f"{key} has {what} {revision[:64]!r}. It has: "
        f"{', '.join(name[:12] for name in reversed(published))} (the last is the current one)."
    )
    raise UnknownSetError(msg)
