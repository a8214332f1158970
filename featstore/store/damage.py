"""What of a set is not as its commits say, down to the block."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.errors import CorruptStoreError, FeatstoreError
from featstore.store.blocks import check_file, layout_of, may_have_grown
from featstore.store.commit import Commit, read_commit, read_pointer
from featstore.store.files import check_no_links, same_file
from featstore.store.items import read_items
from featstore.store.layout import ArrayLayout, SetKey


@dataclass
class Damage:
    """The files of a set that must be made again.

    Attributes
    ----------
    commits : list of Commit
        Every published revision that can be read, the current one last.
    layout : ArrayLayout
        Of the current revision.
    files : dict
        Number of a damaged data file -> its blocks that are not those of the commit; none if only
        what lies behind the rows is wrong.
    items : dict
        Path of a damaged item table -> a commit that names it.
    small : dict
        Name of a damaged small file, relative to the set -> a commit that names it.
    """

    root: Path
    key: SetKey
    commits: list[Commit]
    layout: ArrayLayout
    files: dict[int, list[int]] = field(default_factory=dict)
    items: dict[Path, Commit] = field(default_factory=dict)
    small: dict[str, Commit] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """Folder of the set."""
        return self.key.directory(self.root)

    @property
    def commit(self) -> Commit:
        """The current revision."""
        return self.commits[-1]

    @property
    def blocks(self) -> list[int]:
        """Every block whose rows must be had from elsewhere."""
        return [block for blocks in self.files.values() for block in blocks]

    def facts(self, name: str) -> dict[str, Any]:
        """Return size and sha256 of a damaged small file."""
        return self.small[name].metadata[name]


def find_damage(
    root: Path, key: SetKey, commits: list[Commit] | None = None, *, quick: bool = False
) -> Damage:
    """Compare every file of a set with its commits.

    Parameters
    ----------
    commits : list of Commit, optional
        The published revisions, the current one last; by default as the set says.
    quick : bool
        Leave the data files out.

    Raises
    ------
    CorruptStoreError
        If no commit says what the set should be.
    """
    directory = key.directory(root)
    check_no_links(root, [directory / "embedding", directory / "bias", directory / "revisions"])
    commits = published_commits(directory) if commits is None else commits
    layout = layout_of(commits[-1]) if commits else None
    if layout is None:
        msg = f"{key} has no commit record that says what its files should be."
        raise CorruptStoreError(msg)
    found = Damage(root, key, commits, layout)
    for commit in commits:
        path = directory.parent / commit.items["file"]
        if not same_file(path, {name: commit.items[name] for name in ("bytes", "sha256")}):
            found.items[path] = commit
        for name, facts in commit.metadata.items():
            # The array's metadata is that of the current revision.
            if name == "embedding/zarr.json" and commit is not commits[-1]:
                continue
            if not same_file(directory / name, facts):
                found.small[name] = commit
    for file in () if quick else range(layout.n_files):
        path = directory / "embedding" / layout.file_name(file)
        check_no_links(root, [path])
        try:
            grown = (directory / ".staging").exists() and may_have_grown(path, layout, file)
            check = check_file(path, layout, file, found.commit.blocks, grown=grown)
        except FileNotFoundError:
            found.files[file] = list(layout.file_blocks(file))
            continue
        if check.reasons:
            found.files[file] = check.bad_blocks
    return found


def published_commits(directory: Path) -> list[Commit]:
    """Return the revisions of a set that can be read, the oldest first.

    Empty if the current one, or the pointer, cannot.
    """
    try:
        attributes = read_pointer(directory)
        if attributes is None:
            return []
        current = read_commit(directory, attributes["revision"])
    except FeatstoreError:
        return []
    older = []
    for revision in attributes.get("history", []):
        try:
            older.append(read_commit(directory, revision))
        except FeatstoreError:
            continue
    return [*older, current]


def stored_items(damage: Damage) -> Any:
    """Return the item table of the current revision, or None if it is damaged."""
    path = damage.directory.parent / damage.commit.items["file"]
    if path in damage.items:
        return None
    return read_items(path, damage.commit.items, n=damage.commit.n)
