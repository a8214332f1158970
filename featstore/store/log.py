"""The log of a store: the one file that is ever replaced, and names of sets as a user writes them.

It lists the sets, each with its commit, the tags, and the files about the store. What it
does not list is not in the store; what it lists and the store lacks was deleted. It is replaced
under a lock, or on the condition that it is still the one that was read, by a change that is made
anew from what it says then. Commits name their set and are numbered, so a log that is lost
or damaged is made again from those.

A log may carry a signature: commits hold the hashes of all bytes, and tags those of commits, so one
Ed25519 signature over their ids covers every row. A counter in it grows with each state that is
signed: whoever knows a higher one is told where an earlier state, with its signature, was put back.
"""

from __future__ import annotations

import functools
import glob
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from operator import eq
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from featstore.durable import (
    MAX_JSON_BYTES,
    MAX_METADATA_BYTES,
    Sha256,
    file_facts,
    fsync_path,
    json_bytes,
    parse_json,
    read_json,
    read_regular,
    walk_store,
    write_error,
    write_file,
)
from featstore.errors import (
    AmbiguousSetError,
    CorruptStoreError,
    FeatstoreError,
    SignatureError,
    StoreWriteError,
    UnknownSetError,
    did_you_mean,
    listed,
    needs_extra,
)
from featstore.identity import HASHES, SHA256, canonical_json, encoder_slug, sealed
from featstore.store.layout import COMPONENT, FORMAT, SetKey
from featstore.store.lock import Claim, folder_lock
from featstore.store.records import (
    REVISIONS,
    Commit,
    check_format,
    key_of,
    one_of,
    parse_tag,
    read_commit,
    read_tag,
    staging_of,
    tag_file,
)

NAME = "log.json"
THUMBNAILS = "thumbnails-*.parquet"

#: What `headstock store card` may write beside the sets, for people and catalogues; no reader needs
#: it.
ABOUT = "README.md"

#: How often a log is changed again because another writer came between.
ROUNDS = 40

#: A counter of a signature is at most so large: what every reader of JSON holds exactly.
MAX_COUNTER = 2**53 - 1


_Name = Annotated[str, Meta(pattern=rf"\A{COMPONENT}\Z")]
_Key = Annotated[str, Meta(pattern=rf"\A{COMPONENT}(/{COMPONENT}){{2}}\Z")]
_Pictures = Annotated[
    str, Meta(pattern=rf"\A({COMPONENT}/){{2}}thumbnails-[0-9a-f]{{8}}\.parquet\Z")
]


@dataclass(frozen=True)
class Signature:
    """What a log states of who signed it.

    Attributes
    ----------
    public_key : str
        64 hexadecimal digits.
    counter : int
        Number of the state that was signed; a later one has a higher number.
    signature : str
        Ed25519, 128 hexadecimal digits.
    """

    public_key: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    counter: Annotated[int, Meta(ge=1, le=MAX_COUNTER)]
    signature: Annotated[str, Meta(pattern=r"\A[0-9a-f]{128}\Z")]

    def covers(self, log: Log) -> bool:
        """Return whether this is what the owner of the key signed of a store with this log."""
        with needs_extra("A signed store"):
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key)).verify(
                bytes.fromhex(self.signature), signed_bytes(log, self.counter)
            )
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class Log:
    """What the log of a store says; a change is a function of one to the next.

    Attributes
    ----------
    hash : str
        The hash of the blocks of new sets, one of `featstore.identity.HASHES`.
    sets : dict
        Key -> digest of the commit.
    tags, about : dict
        Name -> digest of the tag, and sha256 of the file about the store.
    thumbnails : frozenset of str
        Paths of the files of thumbnails.
    signature : Signature, optional
    """

    hash: Annotated[str, Meta(pattern=one_of(*HASHES))] = SHA256
    sets: dict[_Key, Sha256] = field(default_factory=dict)
    tags: dict[_Name, Sha256] = field(default_factory=dict)
    about: dict[Annotated[str, Meta(pattern=one_of(ABOUT))], Sha256] = field(default_factory=dict)
    thumbnails: frozenset[_Pictures] = frozenset()
    signature: Signature | None = None

    def data(self) -> bytes:
        """Return the log as it is written."""
        stated = {**vars(self), "thumbnails": sorted(self.thumbnails)}
        stated["signature"] = vars(self.signature) if self.signature else {}
        return json_bytes(sealed({"format": FORMAT, **stated}))

    def with_sets(self, digests: Mapping[str, str]) -> Log:
        """Return the log with these commits, key -> digest."""
        return replace(self, sets={**self.sets, **digests})

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> Log:
        """Return the log that the bytes of a file are.

        Raises
        ------
        CorruptStoreError
            If they are not what a writer writes.
        FormatVersionError
            If it has another format.
        """
        with suppress(ValueError, CorruptStoreError):
            document = parse_json(data, where=where)
            stated = document if isinstance(document, dict) else {}
            if stated == sealed(stated):  # else it was damaged, whatever it states
                check_format(stated.get("format"), where=where)
            found = msgspec.convert({**stated, "signature": stated.get("signature") or None}, Log)
            if found.data().strip() == data.strip():
                return found
        raise CorruptStoreError(
            f"{where} is not the log that Headstock wrote: it was changed or cut. "
            f"{_cure(where.removesuffix(f'/{NAME}'))}"
        )


def _cure(where: str) -> str:
    """Return what makes a log that is lost or damaged again."""
    return (
        "Its owner deletes log.json and zarr.json there, and pushes all sets again."
        if "://" in where
        else f"`headstock store repair {where}` makes it again from the commits."
    )


@functools.lru_cache(8)
def _parsed(data: bytes, where: str) -> Log:
    return Log.parse(data, where=where)


def find_log(read: Callable[..., bytes], where: str) -> Log | None:
    """Return the log of the store whose files `read` returns by name; None if there is none.

    Raises
    ------
    CorruptStoreError
        If it is damaged, or missing beside the root of a store, or there is another Zarr group.
    FormatVersionError
        If the store has another format.
    """
    for _ in range(2):  # the log is made before the group, perhaps meanwhile
        with suppress(FileNotFoundError, NotADirectoryError):
            return _parsed(read(NAME, limit=MAX_JSON_BYTES), f"{where}/{NAME}")
        try:
            group = parse_json(read("zarr.json", limit=MAX_METADATA_BYTES), where=where)
        except (FileNotFoundError, NotADirectoryError):
            return None
    try:
        stated = group["attributes"]["featstore"]["format"]
    except (KeyError, TypeError) as err:
        raise CorruptStoreError(f"{where} holds another Zarr group, no store.") from err
    check_format(stated, where=where)
    raise CorruptStoreError(
        f"{where}/{NAME} is missing, and with it the list of sets. {_cure(where)}"
    )


def read_log(root: Path) -> Log:
    """Return the log of the store in a folder, as `find_log` does; an empty one without a store."""

    def read(name: str, *, limit: int) -> bytes:
        return read_regular(root / name, limit=limit)

    return find_log(read, str(root)) or Log()


def checked_log(root: Path) -> Log:
    """Return the log as `read_log` does, unless it is an older one that was put back.

    Raises
    ------
    CorruptStoreError
        If it is damaged; or a set that nobody writes has a whole commit, but not the one that the
        log names.
    FormatVersionError
        If the store has another format.
    """
    log = read_log(root)
    check_newest(root, log)
    return log


def check_newest(root: Path, log: Log) -> None:
    """Check a log that was read in a folder as `checked_log` does; errors as there."""
    for folder in set_folders(root):
        digest = log.sets.get(str(key_of(folder)))
        named = folder / REVISIONS / f"{digest}.json" if digest else staging_of(folder)
        # Unless a writer has published meanwhile.
        if not os.path.lexists(named) and last_commit(folder) and read_log(root) == log:
            raise CorruptStoreError(
                f"{root / NAME} was put back: it is older than the commit of {key_of(folder)}. "
                f"`headstock store repair {root}` makes it again from the commits."
            )


#: What a process that was killed while it made a store leaves: gc removes it.
_HALF_WRITTEN = re.compile(r"\.log\.json\.[0-9a-f]{8}\.staged")


def has_log(root: Path) -> bool:
    """Return whether there is a store in a folder: anything that is named as its log."""
    return os.path.lexists(root / NAME)


def check_new(root: Path) -> None:
    """Check that a folder without a store may become one.

    Raises
    ------
    StoreWriteError
        If it holds other things than a first writer that was stopped leaves, or is named as a
        store at a tag.
    """
    files, _, odd = walk_store(root)
    begun = (".staging" in one.split("/") or _HALF_WRITTEN.fullmatch(one) for one in files)
    if (odd or not all(begun)) and not has_log(root):  # nobody has made it meanwhile
        raise StoreWriteError(
            f"{root} holds other things and is no store. Choose an empty or a new folder."
        )
    store = root.name.rpartition("@")[0]
    if store and has_log(root.with_name(store)):
        raise StoreWriteError(f"{root} is a store at a tag, which is only read. Name the store.")


def update_log(root: Path, change: Callable[[Log], Log], *, claim: Claim | None = None) -> bool:
    """Replace the log of the store in a folder by what `change` makes of it; False if it is that.

    Whatever `change` raises leaves it as it was; if it changes nothing, nothing is written.

    Parameters
    ----------
    claim : Claim, optional
        The new log reaches its place by a rename out of the folder of this claim: who has lost
        the claim publishes nothing. Everything that it names must be durable.

    Raises
    ------
    StoreWriteError
        If the file system refuses, or the claim is lost.
    """
    path, written = root / NAME, False
    with folder_lock(root):
        # A writer looks again: where there are no locks, another one may have come between.
        for _ in range(ROUNDS):
            old = read_log(root)
            new = change(old)
            if new == old and has_log(root):
                break
            if claim is None:
                write_file(path, [new.data()])
            else:
                claim.write_file(path, [new.data()])
                claim.sync()
            written = True
    return written


def present_commit(root: Path, key: SetKey) -> Commit | None:
    """Return the commit of a set, the present one of which alone is kept; None if there is none.

    Raises
    ------
    CorruptStoreError
        If it is missing or damaged, and was not replaced meanwhile.
    """
    digest = read_log(root).sets.get(str(key))
    while digest is not None:
        try:
            return read_commit(key.directory(root), digest)
        except CorruptStoreError:
            before, digest = digest, read_log(root).sets.get(str(key))
            if digest == before:
                raise
    return None


def list_thumbnails(root: Path, kind: Path, paths: Iterable[Path]) -> None:
    """Let the log list these files of thumbnails in the folder of a kind, and no others of it."""
    there = {path.relative_to(root).as_posix() for path in paths}

    def change(log: Log) -> Log:
        others = {name for name in log.thumbnails if (root / name).parent != kind}
        return replace(log, thumbnails=frozenset(others | there))

    update_log(root, change)


def rebuilt_log(root: Path) -> Log:
    """Return the log that the commits, tags and other files of a store make.

    Of each set it is the last commit; where two are the last, one that has all that it names. Of a
    log that can be read, though it was put back, tags and signature stay. Else a signature is not
    made again: who signed the store signs it anew.
    """
    sets, hashes, tags = {}, [], {}
    for folder in set_folders(root):
        if last := last_commit(folder):
            sets[str(key_of(folder))] = last.digest
            hashes.append(last.hash)
    with suppress(FeatstoreError, OSError, KeyError, TypeError):
        stated = read_json(root / "zarr.json")["attributes"]["featstore"]["hash"]
        hashes += [stated] if stated in HASHES else []
    for path in sorted((root / "tags").glob("*.json")):
        with suppress(FeatstoreError, OSError):
            tag = parse_tag(read_json(path), where=str(path))
            if path == root / tag_file(tag["name"], tag["digest"]):
                tags[tag["name"]] = tag["digest"]
    about = {}
    with suppress(FeatstoreError, OSError):
        about[ABOUT] = file_facts(root / ABOUT)["sha256"]
    kinds = {folder.parent for folder in set_folders(root)}  # of lost sets, too
    pictures = {p.relative_to(root).as_posix() for kind in kinds for p in kind.glob(THUMBNAILS)}
    made = Log((hashes or [SHA256])[-1], sets, tags, about, frozenset(pictures))
    with suppress(FeatstoreError):  # an older one tells which of two tags was dropped
        old = read_log(root)
        return replace(made, tags={**tags, **old.tags}, signature=old.signature)
    return made


def _commit_paths(folder: Path) -> list[Path]:
    """Return the commit records of a set, sorted; none where the set is gone meanwhile."""
    try:
        paths = list((folder / REVISIONS).iterdir())
    except OSError:
        return []
    return sorted(path for path in paths if path.suffix == ".json")


def last_commit(folder: Path) -> Commit | None:
    """Return the last whole commit in the folder of a set, whatever the log names."""
    found: list[Commit] = []
    for path in _commit_paths(folder):
        with suppress(FeatstoreError, OSError):
            found.append(read_commit(folder, path.stem))
    return max(found, key=lambda one: (one.sequence, one.n), default=None)


def set_folders(root: Path) -> list[Path]:
    """Return the folders of a store that are sets, were, or may become one, sorted by key.

    Only names that a writer makes; a folder that cannot be listed holds none.
    """
    names = filter(SetKey.parse, glob.glob("*/*/*", root_dir=root))  # noqa: PTH207
    return sorted(folder for folder in map(root.joinpath, names) if folder.is_dir())


def listed_tags(root: Path, log: Log) -> dict[str, dict[str, str]]:
    """Return name -> {key: revision_id} of the tags that a log lists and that are whole."""
    found = {}
    for name, digest in log.tags.items():
        with suppress(FeatstoreError, OSError):
            found[name] = read_tag(root, name, digest)
    return found


def match_names(name: str, keys: Iterable[str]) -> list[str]:
    """Return the keys of which `name` is a part; an exact name of an encoder beats its beginning.

    Examples
    --------
    >>> keys = ["birds/image/timm.resnet50-1f", "birds/caption/st.mini-2e"]
    >>> match_names("birds/image", keys), match_names("caption/st:mini", keys)
    (['birds/image/timm.resnet50-1f'], ['birds/caption/st.mini-2e'])
    >>> match_names("birds", keys) == keys, match_names("resnet", keys), match_names("bird", keys)
    (True, ['birds/image/timm.resnet50-1f'], [])
    """
    parts = name.strip("/").split("/", 2)
    found: dict[int, list[str]] = {2: [], 1: []}
    for key in keys:
        whole = key.split("/", 2)
        # The parts that lie side by side in a key, from its dataset, its kind or its encoder on.
        fits = [
            how
            for at in range(4 - len(parts))
            if all(map(eq, parts, whole[at:2])) and (how := _fit(parts[2 - at :], whole[2]))
        ]
        if fits:
            found[max(fits)].append(key)
    return found[2] or found[1]


def _fit(named: list[str], directory: str) -> int:
    """Return 2 if an encoder is named, or none is; 1 for the beginning of its name; else 0."""
    if not named:
        return 2
    wanted = encoder_slug(named[0])
    if not named[0] or wanted not in directory:
        return 0
    stem, without_family = directory.rsplit("-", 1)[0], directory.split(".", 1)[-1]
    if wanted in (directory, stem, without_family, without_family.rsplit("-", 1)[0]):
        return 2
    return int(directory.startswith(wanted) or without_family.startswith(wanted))


def resolve_set(root: Path, name: str) -> str:
    """Return the full key of the set that `name` means: finished, begun or damaged.

    Raises
    ------
    UnknownSetError
        If there is none; the message lists what there is and the closest name.
    AmbiguousSetError
        If several fit; the message lists them.
    """
    found = resolve_sets(root, name)
    if len(found) > 1:
        raise AmbiguousSetError(ambiguous_set(root, name, found))
    return found[0]


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
    found = {str(key_of(folder)) for folder in set_folders(root)}
    with suppress(CorruptStoreError):
        found |= read_log(root).sets.keys()
    return sorted(found)


def unknown_set(root: Path | str, name: str, keys: Iterable[str]) -> str:
    """Return the sentence for a name that no set has: what there is, and the closest."""
    known = sorted(keys)
    short = dict.fromkeys(key.rsplit("-", 1)[0] for key in known)  # people type no digits
    hint = did_you_mean(name.strip("/"), [*known, *short])
    return f"{root} holds no set {name!r}. It holds {listed(short)}.{hint}"


def ambiguous_set(root: Path | str, name: str, keys: Iterable[str]) -> str:
    """Return the sentence for a name that several sets have."""
    return f"{name!r} fits several sets of {root}: {listed(keys)}. Type more of the name."


_LIMIT = 2**16
_KEY = re.compile(r"[0-9a-f]{64}")


def signed_bytes(log: Log, counter: int) -> bytes:
    """Return what is signed of a log, in canonical form: docs/ref/store-format.md."""
    return canonical_json(
        {
            "what": "headstock store",
            "format": FORMAT,
            "counter": counter,
            "sets": log.sets,
            "tags": log.tags,
        }
    )


def check_signed(log: Log, key: str, *, where: str, at_least: int) -> None:
    """Compare the log of a store with what the owner of a key signed.

    Parameters
    ----------
    where : str
        Address of the store.
    at_least : int
        The lowest counter that is taken.

    Raises
    ------
    SignatureError
        If there is no signature of this key, it is not one of what the store lists, or an earlier
        state was put back.
    """
    if not _KEY.fullmatch(str(key)):
        raise SignatureError(
            "A key is trusted by its 64 hexadecimal digits, which `headstock store tag --sign-key` "
            f"prints; got {str(key)[:16]!r}."
        )
    signature = log.signature
    if signature is None:
        raise SignatureError(
            f"{where} is not signed. Ask its owner for `headstock store tag --sign-key`."
        )
    if signature.public_key != key:
        raise SignatureError(
            f"{where} is signed by the key {signature.public_key}, not by {key}. Use it only if "
            "its owner tells you that the key has changed."
        )
    if not signature.covers(log):
        raise SignatureError(
            f"{where} is not what its owner signed as number {signature.counter:,}: sets or tags "
            "were changed since, or put back. Its owner can sign what is right."
        )
    if signature.counter < at_least:
        raise SignatureError(
            f"{where} is signed as number {signature.counter:,}; number {at_least:,} is asked for: "
            "an earlier state was put back."
        )


def check_outside_stores(path: Path) -> None:
    """Raise SignatureError if a private key lies in a store, or what it links to does."""
    for folder in (*path.absolute().parents, *path.resolve().parents):
        if os.path.lexists(folder / "log.json"):
            raise SignatureError(
                f"{path} lies in the store {folder}: whoever copies or uploads that folder "
                "publishes the private key. Name a file outside of it; if the store was shared, "
                "sign it by a new key."
            )


def make_key(path: Path) -> bool:
    """Make a private key, in PEM, in a file that only its owner reads; one that is there stays.

    Returns
    -------
    bool
        Whether there was none.

    Raises
    ------
    SignatureError
        If the file would lie in a store.
    StoreWriteError
        If the file system refuses.
    """
    check_outside_stores(path)
    with needs_extra("Signing"):
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    form = serialization
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # never opened to a group
        if os.path.lexists(path):
            return False
        # Readable to its owner alone. A process that is killed leaves a key that signed nothing.
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as staged:
            staged.write(
                Ed25519PrivateKey.generate().private_bytes(
                    form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
                )
            )
            staged.flush()
            os.fsync(staged.fileno())
            os.link(staged.name, path)  # which, unlike a rename, replaces nothing
        fsync_path(path.parent)
    except OSError as err:
        raise write_error(path, err) from err
    return True


def private_key(path: Path) -> Any:
    """Return the private key in a file; SignatureError if it holds none."""
    with needs_extra("Signing"):
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    try:
        data = read_regular(path, limit=_LIMIT)
        found: Any = serialization.load_pem_private_key(data, password=None)
    except (FeatstoreError, OSError, ValueError, TypeError, UnsupportedAlgorithm):
        found = None
    if not isinstance(found, Ed25519PrivateKey):
        raise SignatureError(
            f"{path} holds no private Ed25519 key in PEM without a password. `headstock store tag "
            "STORE --sign-key FILE --new-key` makes one."
        )
    return found
