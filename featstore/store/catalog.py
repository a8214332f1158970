"""The catalogue of a store, and names of sets as a user writes them.

It can be rebuilt at any time; the truth stays in the sets. What it lists and the store lacks
was deleted: that is how `featstore verify` notices a missing set. From format 2 on it also lists
the tags and what is written about the store, by their hashes, which no set knows.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from featstore.durable import fsync_directory
from featstore.errors import (
    AmbiguousSetError,
    CorruptStoreError,
    FeatstoreError,
    UnknownSetError,
    did_you_mean,
)
from featstore.identity import encoder_slug, sealed
from featstore.store.files import (
    file_facts,
    json_bytes,
    read_json,
    read_regular,
    refused,
    write_file,
)
from featstore.store.layout import SetKey, is_component
from featstore.store.lock import folder_lock
from featstore.store.records import (
    POINTER,
    StoreFormat,
    is_sha256,
    key_of,
    parse_tag,
    read_commit,
    read_pointer,
    read_root,
    tag_file,
    tag_names,
)

NAME = "catalog.json"
THUMBNAILS = "thumbnails-*.parquet"
_REMOVED = re.compile(r"(.+/)\.removed-(.+)-[0-9a-f]+")

#: What `featstore card` may write beside the sets, for people and catalogues; no reader needs it.
ABOUT = ("README.md", "croissant.json")

#: What a catalog lists beside the sets.
_PARTS = ("thumbnails", "tags", "about")

#: Sets that are named where none of the name that was typed exists.
_NEAR = 3

#: How often the catalog is written again because a set was published meanwhile.
_ROUNDS = 10


@dataclass(frozen=True)
class SetFolders:
    """The folders of a store that are sets, were, or may become one.

    Attributes
    ----------
    folders : list of Path
        Sorted by key; only names that a writer makes.
    closed : dict
        Folder of a dataset or kind that this user cannot list -> why.
    """

    folders: list[Path]
    closed: dict[Path, OSError]

    @property
    def kinds(self) -> set[Path]:
        """The folders of kinds that hold a set, or the beginning of one."""
        found: set[Path] = set()
        for folder in self.folders:
            if folder.parent not in found and holds_files(folder):
                found.add(folder.parent)
        return found

    def hidden(self, directory: Path) -> bool:
        """Return whether a folder lies in one that cannot be listed."""
        return any(folder in self.closed for folder in directory.parents)


def holds_files(folder: Path) -> bool:
    """Return whether there is anything in the folder of a set, or may be."""
    try:
        return any(folder.iterdir())
    except OSError as err:
        return not isinstance(err, FileNotFoundError | NotADirectoryError)


def set_folders(root: Path) -> SetFolders:
    """Look for the sets of a store; unlike a glob, this says what it could not see."""
    level, closed = [root], {}
    for _ in ("datasets", "kinds", "sets"):
        below: list[Path] = []
        for folder in level:
            try:
                with os.scandir(folder) as entries:
                    names = [entry.name for entry in entries if entry.is_dir()]
            except (FileNotFoundError, NotADirectoryError):
                continue  # removed meanwhile
            except OSError as err:
                closed[folder] = err
                continue
            below += [folder / name for name in names if is_component(name)]
        level = below
    return SetFolders(sorted(level), closed)


def finished_sets(root: Path) -> list[Path]:
    """Return the directories of the finished sets below `root`, sorted by key.

    Those that lie in a folder that cannot be listed are those that the catalog knows.
    """
    found = set_folders(root)
    sets = [folder for folder in found.folders if _has(folder, POINTER)]
    if not found.closed:
        return sets
    listed = (root.joinpath(*key.split("/")) for key in _listed(root)["sets"] if SetKey.parse(key))
    return sorted([*sets, *filter(found.hidden, listed)])


def _has(folder: Path, name: str) -> bool:
    """Return whether there is something of this name in a folder, or may be."""
    try:
        (folder / name).lstat()
    except OSError as err:
        return not isinstance(err, FileNotFoundError | NotADirectoryError)
    return True


def _listed(root: Path) -> dict[str, Any]:
    """Return what the catalog of a store lists; nothing if it is missing or damaged."""
    return {"thumbnails": [], **(read_catalog(root) or {"sets": {}})}


def unfinished_sets(root: Path) -> list[Path]:
    """Return the directories of sets whose extraction has begun but not ended."""
    return [folder for folder in staged_sets(root) if not _has(folder, POINTER)]


def staged_sets(root: Path) -> list[Path]:
    """Return the directories of sets with a staging folder, sorted."""
    return [folder for folder in set_folders(root).folders if _has(folder, ".staging")]


def write_catalog(
    root: Path,
    *,
    thumbnails: Path | None = None,
    tags: Mapping[str, str] | None = None,
    about: Mapping[str, str] | None = None,
    held: bool = False,
) -> None:
    """Write the list of finished sets and thumbnails; untouched if nothing changed.

    A set whose pointer is damaged is left out, so that one bad set stops no other. One that this
    user may not read stays as it is listed, and so do the thumbnails beside it.

    Parameters
    ----------
    thumbnails : Path, optional
        Folder whose thumbnails were just replaced. Those of other folders with sets stay listed
        even if their file is gone, so that the loss is noticed.
    tags, about : mapping, optional
        Name -> digest of tags, and of files about the store, that were just written; "" of what
        is dropped.
    held : bool
        The caller holds the lock of the store's folder.
    """
    path = root / NAME
    with contextlib.nullcontext() if held else folder_lock(root) as locked:
        # A writer looks again: where there are no locks, the last writer sees all sets.
        for _ in range(_ROUNDS):
            data = _catalog_bytes(root, thumbnails, tags or {}, about or {})
            with contextlib.suppress(FeatstoreError, OSError):
                if read_regular(path, limit=len(data)) == data:
                    break
            write_file(path, [data])
        if locked:
            # Under the lock nobody else is writing: these are what a kill left.
            for staged in root.glob(f".{NAME}.*.staged"):
                staged.unlink(missing_ok=True)


def _catalog_bytes(
    root: Path, thumbnails: Path | None, tags: Mapping[str, str], about: Mapping[str, str]
) -> bytes:
    """Return what the catalog should be now."""
    form, old = store_format(root), read_catalog(root)
    if old is None:
        tags_there = {name: tag["digest"] for name, tag in whole_tags(root).items()}
        old = {"sets": {}, "thumbnails": (), "tags": tags_there, "about": _about(root)}
    sets = {}
    for directory in finished_sets(root):
        key = str(key_of(directory))
        try:
            attributes = read_pointer(directory)
        except FeatstoreError as err:
            if refused(err) and key in old["sets"]:
                sets[key] = old["sets"][key]
            continue
        if attributes is not None:
            sets[key] = attributes["revision"]
            if old["sets"].get(key) != sets[key]:
                # Its writer may have been killed between the pointer and this.
                fsync_directory(directory)
    return catalog_bytes(
        form, sets=sets,
        thumbnails=_thumbnails(root, old["thumbnails"], replaced=thumbnails),
        tags={**old["tags"], **tags}, about={**old["about"], **about},
    )  # fmt: skip


def _thumbnails(root: Path, before: Iterable[str], *, replaced: Path | None) -> set[str]:
    """Return the thumbnails to list: those of a kind that has no set any more are of nothing."""
    found = set_folders(root)
    kinds = found.kinds
    there = {path.relative_to(root).as_posix() for kind in kinds for path in kind.glob(THUMBNAILS)}
    return there | {
        name
        for name in before
        if (root / name).parent != replaced
        and ((root / name).parent in kinds or found.hidden(root / name))
    }


def lists_nothing(root: Path) -> list[str]:
    """Return the thumbnails that the catalog lists though their kind has no set any more."""
    before = _listed(root)["thumbnails"]
    return sorted(set(before) - _thumbnails(root, before, replaced=None))


def catalog_bytes(
    form: StoreFormat,
    *,
    sets: Mapping[str, str],
    thumbnails: Iterable[str],
    tags: Mapping[str, str],
    about: Mapping[str, str],
) -> bytes:
    """Return a catalog as it is written.

    Parameters
    ----------
    sets : mapping
        Key -> revision_id.
    tags, about : mapping
        Name -> digest of tags, and of files about the store; what has none is left out.
    """
    rows = [{"key": key, "revision": sets[key]} for key in sorted(sets)]
    document = {**form.attributes(), "sets": rows, "thumbnails": sorted(thumbnails)}
    kept = {
        part: {name: digest for name, digest in facts.items() if digest}
        for part, facts in (("tags", tags), ("about", about))
    }
    return json_bytes(sealed({**document, **kept}))


def whole_tags(root: Path) -> dict[str, dict[str, Any]]:
    """Return name -> document of the tags whose files are there and whole, listed or not."""
    found = {}
    for name in tag_names(root):
        with contextlib.suppress(FeatstoreError, OSError):
            path = root / tag_file(name)
            document = read_json(path)
            parse_tag(document, name=name, where=str(path))
            found[name] = document
    return found


def _about(root: Path) -> dict[str, str]:
    """Return name -> sha256 of the files about the store that are there."""
    found = {}
    for name in ABOUT:
        with contextlib.suppress(FeatstoreError, OSError):
            found[name] = file_facts(root / name)["sha256"]
    return found


def store_format(root: Path) -> StoreFormat:
    """Return the format of the store in a folder, which may be damaged, or be still to be made.

    The root states it, and the catalog, and the records of each set.

    Raises
    ------
    FormatVersionError
        If a newer version wrote the store.
    """
    with contextlib.suppress(CorruptStoreError):
        stated = read_root(root)
        if stated is not None:
            return stated
    catalog = read_catalog(root)
    if catalog is not None:
        return catalog["form"]  # type: ignore[no-any-return]
    found = [StoreFormat()]
    for directory in finished_sets(root):
        with contextlib.suppress(FeatstoreError):
            attributes = read_pointer(directory)
            commit = read_commit(directory, attributes["revision"]) if attributes else None
            if attributes and commit:
                found.append(StoreFormat(commit.hash))
    return found[-1]


def read_catalog(root: Path) -> dict[str, Any] | None:
    """Return the catalog of the store in a folder as `parse_catalog` does; None if it has none."""
    try:
        return parse_catalog(read_json(root / NAME))
    except (FeatstoreError, OSError):
        return None


def parse_catalog(document: Any) -> dict[str, Any] | None:
    """Return a catalog, its ``sets`` as {key: revision}, or None if it is none.

    ``form`` is the store's format.
    """
    try:
        form = StoreFormat.parse(document, where=NAME)
        sets = {row["key"]: row["revision"] for row in document["sets"]}
        names, tags, about = (document[part] for part in _PARTS)
        digests = [*sets.values(), *tags.values(), *about.values()]
        whole = (
            document["sets"] == [{"key": key, "revision": sets[key]} for key in sets]
            and set(document) == {*form.attributes(), "sets", "digest", *_PARTS}
            and isinstance(names, list)
            and all(isinstance(name, str) for name in (*sets, *names))
            and all(map(is_sha256, digests))
            and sealed(document) == document
        )
    except (FeatstoreError, KeyError, TypeError, AttributeError):
        return None
    return {**document, "form": form, "sets": sets} if whole else None


def find_sets(root: Path, name: str) -> dict[str, Path]:
    """Return key -> directory of the finished sets that `name` fits.

    A set named in full costs one look, any other name one listing of its dataset and kind: only
    what fits is opened, however many sets there are.
    """
    in_full = name.strip("/")
    beside, _, encoder = in_full.rpartition("/")
    if beside.count("/") != 1 or SetKey.parse(f"{beside}/any") is None:
        return {}

    def finished(key: str) -> bool:
        # A name that no writer of ours makes is no set.
        found = SetKey.parse(key)
        return found is not None and _has(found.directory(root), POINTER)

    keys = [in_full] if finished(in_full) else []
    if not keys:
        # What cannot fit is left out first: the listing alone is what many sets cost.
        wanted = encoder_slug(encoder)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            names = sorted(one for one in os.listdir(root / beside) if wanted in one)  # noqa: PTH208
            keys = match_names(name, [f"{beside}/{one}" for one in names], finished)
    return {key: root.joinpath(*key.split("/")) for key in keys}


def match_names(
    name: str, keys: Iterable[str], keep: Callable[[str], bool] = lambda _: True
) -> list[str]:
    """Return the keys that `name` fits; an exact directory or encoder name beats a prefix.

    Of the keys that fit, those are left out that `keep` does not want.
    """
    parts = name.strip("/").split("/", 2)
    if len(parts) != 3:
        return []
    dataset, kind, encoder = parts
    wanted = encoder_slug(encoder)
    exact, prefix = [], []
    for key in keys:
        inside, _, directory = key.rpartition("/")
        if wanted not in directory or inside != f"{dataset}/{kind}":
            continue
        stem = directory.rsplit("-", 1)[0]
        without_family = directory.split(".", 1)[-1]
        if wanted in (directory, stem, without_family, without_family.rsplit("-", 1)[0]):
            exact.append(key)
        elif directory.startswith(wanted) or without_family.startswith(wanted):
            prefix.append(key)
    return [key for key in exact if keep(key)] or [key for key in prefix if keep(key)]


def resolve_set(root: Path, name: str) -> str:
    """Return the full key of the set that `name` means: finished, begun or damaged.

    Raises
    ------
    UnknownSetError
        If there is none; the message lists what there is and the closest name.
    AmbiguousSetError
        If several fit; the message lists them.
    """
    wanted, keys = name.strip("/"), all_keys(root)
    found = [wanted] if wanted in keys else match_names(wanted, keys)
    if len(found) == 1:
        return found[0]
    if found:
        raise AmbiguousSetError(ambiguous_set(root, name, found))
    raise UnknownSetError(unknown_set(root, name, keys))


def resolve_sets(root: Path, name: str) -> list[str]:
    """Return the full keys of all sets that `name` means: a dataset, a dataset/kind, or sets.

    Raises
    ------
    UnknownSetError
        If there is none; the message lists what there is and the closest name.
    """
    wanted = name.strip("/")
    keys = all_keys(root)
    below = [key for key in keys if key == wanted or key.startswith(f"{wanted}/")]
    found = below or match_names(wanted, keys)
    if not found:
        raise UnknownSetError(unknown_set(root, name, keys))
    return found


def all_keys(root: Path) -> list[str]:
    """Return the keys of every folder that is a set, was one, or may become one, sorted."""
    found = {str(key_of(folder)) for folder in set_folders(root).folders}
    return sorted({*found, *removals(root).values(), *filter(SetKey.parse, _listed(root)["sets"])})


def removals(root: Path) -> dict[Path, str]:
    """Return the folders of sets whose removal was interrupted, each with the set's key."""
    found = {}
    for path in sorted(root.glob("*/*/.removed-*")):
        match = _REMOVED.fullmatch(path.relative_to(root).as_posix())
        if match and SetKey.parse(match[1] + match[2]) and path.is_dir() and not path.is_symlink():
            found[path] = match[1] + match[2]
    return found


def unknown_set(root: Path | str, name: str, keys: Iterable[str]) -> str:
    """Return the sentence for a name that no set has: how many there are, and the closest."""
    known = sorted(keys)
    # People type names without the digits.
    short = {key.rsplit("-", 1)[0]: key for key in known}
    wanted = name.strip("/")
    hint = did_you_mean(wanted, [*known, *short])
    near = heapq.nlargest(_NEAR, short, lambda one: SequenceMatcher(None, wanted, one).ratio())
    shown = ", ".join(short[one] for one in near) or "no set at all"
    holds = f" {len(known):,} sets, the closest" if len(known) > _NEAR else ":"
    return f"{root} holds no set {name!r}. It holds{holds} {shown}.{hint}"


def ambiguous_set(root: Path | str, name: str, keys: Iterable[str]) -> str:
    """Return the sentence for a name that several sets have."""
    found = list(keys)
    more = ", …" if len(found) > _NEAR else ""
    return (
        f"{name!r} fits {len(found):,} sets of {root}: {', '.join(found[:_NEAR])}{more}. Type more "
        "of the name."
    )
