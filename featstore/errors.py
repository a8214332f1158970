"""Errors of the store and of extraction.

The tree, by what a handler would do::

    FeatstoreError
    ├── ManifestError(ValueError)             fix the manifest
    │   └── RowsError                         give a matrix of numbers
    ├── ItemReadError(OSError)                that item is lost; fix its file
    ├── UnknownEncoderError(KeyError)         fix the name (of commands, exit code 2, as of all
    │                                         names that are unknown or ambiguous)
    ├── UnknownSetError(KeyError)             fix the key, or extract the set
    ├── AmbiguousSetError(KeyError)           say more of the name
    ├── UnknownColumnError(KeyError)          fix the column
    ├── UnknownItemError(KeyError)            fix the id
    ├── DecoderStartError(RuntimeError)       decode in threads (-s timeout=0)
    ├── EncoderError(RuntimeError)            fix the weights, the label set or the request
    │   └── DeviceError                       look after the device, or leave it out
    ├── NonFiniteEmbeddingError(ValueError)   extract in float32, or drop the item
    ├── TooManyFailuresError(RuntimeError)    fix the items, or raise --max-failures
    ├── IncompleteEmbeddingsError(RuntimeError)  run the extraction again
    ├── MisalignedItemsError(ValueError)      pair by id
    ├── EmptySelectionError(ValueError)       choose other rows
    ├── StoreWriteError(OSError)              free space, permissions, another writer
    │   ├── ClaimLostError                    run the command again
    │   ├── PublishConflictError              pull, or wait for the other publisher
    │   └── AlreadyFinishedError              use what is there
    ├── AddressError(ValueError)              fix the address
    ├── RemoteStoreError(OSError)             check address and credentials
    │   └── UnreachableError                  try again
    ├── CacheFullError(OSError)               allow the cache more bytes, or empty it
    ├── CorruptStoreError(RuntimeError)       fetch or extract the set again
    ├── FormatVersionError(RuntimeError)      upgrade
    ├── SignatureError(RuntimeError)          ask the owner of the store; do not read it meanwhile
    ├── EngineError(RuntimeError)             fix engine and jobs; look after lost workers
    └── MissingPackageError(ImportError)      install the packages it names

Each also inherits the builtin that a caller would expect.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")

#: Extra of pyproject.toml -> what it requires, as there. Of several extras with a package, the
#: first is the one to name where nothing else is known.
EXTRAS: dict[str, tuple[str, ...]] = {
    "extract": (
        "torch>=2.6", "torchvision>=0.21", "timm>=1.0.17", "open_clip_torch>=3.0", "pillow>=10.4",
        "transformers>=5", "sentence-transformers>=6",
    ),
    "train": ("torch>=2.6", "timm>=1.0.17"),
    "coop": ("torch>=2.6", "open_clip_torch>=3.0", "transformers>=5"),
    "hdf5": ("h5py>=3.11",),
    "report": ("jinja2>=3.1", "matplotlib>=3.9"),
    "sources": ("pyarrow>=17",),
    "remote": ("obstore>=0.12.1", "urllib3>=2.0.2", "huggingface_hub>=1.3"),
    "ray": ("ray>=2.40",),
    "blake3": ("blake3>=1",),
    "cast": ("numkong>=7.8",),
    "sign": ("cryptography>=42",),
}  # fmt: skip

#: Packages of `EXTRAS` that are imported by another name than they are installed by.
IMPORTED_AS = {
    "open_clip_torch": "open_clip",
    "pillow": "PIL",
    "sentence-transformers": "sentence_transformers",
}


class FeatstoreError(Exception):
    """Base of every error that this project raises on purpose."""

    def __str__(self) -> str:
        # KeyError shows the repr of its message; every message here is a sentence.
        return str(self.args[0]) if self.args else ""


class ManifestError(FeatstoreError, ValueError):
    """A manifest breaks its rules."""


class RowsError(ManifestError):
    """Rows are no matrix of numbers."""


class ItemReadError(FeatstoreError, OSError):
    """The bytes of one item cannot be read, or are not those that its manifest names."""


class UnknownEncoderError(FeatstoreError, KeyError):
    """No encoder has this name."""


class UnknownSetError(FeatstoreError, KeyError):
    """The store holds no such set."""


class AmbiguousSetError(FeatstoreError, KeyError):
    """A short name fits several sets."""


class UnknownColumnError(FeatstoreError, KeyError):
    """An item table has no such column."""


class UnknownItemError(FeatstoreError, KeyError):
    """No row of a view is of an item with this id."""


class EncoderError(FeatstoreError, RuntimeError):
    """An encoder cannot be built, or does not do what it claims."""


class DeviceError(EncoderError):
    """A device cannot be opened, or failed while it encoded; another one may do the same work."""


class NonFiniteEmbeddingError(FeatstoreError, ValueError):
    """An encoder returned NaN or Inf, or a cast overflowed."""


class TooManyFailuresError(FeatstoreError, RuntimeError):
    """More items failed than the job allows."""


class IncompleteEmbeddingsError(FeatstoreError, RuntimeError):
    """A set exists on disk, but its extraction has not finished."""


class MisalignedItemsError(FeatstoreError, ValueError):
    """Two sets describe different items or different spaces."""


class EmptySelectionError(FeatstoreError, ValueError):
    """A selection holds no row."""


class StoreWriteError(FeatstoreError, OSError):
    """The store cannot be written."""


class ClaimLostError(StoreWriteError):
    """Another writer took this one's place, which had lost its lock; it published nothing."""


class PublishConflictError(StoreWriteError):
    """Another publisher was first; what it published stands."""


class AddressError(FeatstoreError, ValueError):
    """An address names no store that can be opened."""


class RemoteStoreError(FeatstoreError, OSError):
    """A remote place cannot be reached, refuses, or cannot do what was asked."""


class UnreachableError(RemoteStoreError):
    """A remote place does not answer, or not usably, in several attempts."""


class CacheFullError(FeatstoreError, OSError):
    """The local cache may not hold what is asked for."""


class AlreadyFinishedError(StoreWriteError):
    """The set is there, finished with these very items: there is nothing to write."""


class DecoderStartError(FeatstoreError, RuntimeError):
    """A process that decodes images cannot be started."""


class WorkerDiedError(FeatstoreError, RuntimeError):
    """Processes that extract ended without saying why, again and again."""


class CorruptStoreError(FeatstoreError, RuntimeError):
    """Files of the store disagree with its commit record."""


class FormatVersionError(FeatstoreError, RuntimeError):
    """The store has a format that this version does not read."""


class SignatureError(FeatstoreError, RuntimeError):
    """A store is not what the owner of a key signed."""


class OptionError(FeatstoreError, TypeError):
    """A function has no option of this name."""


class EngineError(FeatstoreError, RuntimeError):
    """Tasks cannot run as asked, or Ray lost a worker too often."""


class PluginError(FeatstoreError, RuntimeError):
    """What another package, a file or a notebook registers cannot be used."""


class ContractError(FeatstoreError, AssertionError):
    """A promise is not kept: what was expected, what was found and what to do."""


class MissingPackageError(FeatstoreError, ImportError):
    """An optional package that is needed here is not installed."""


def package_of(requirement: str) -> str:
    """Return the name of the package that a requirement of `EXTRAS` is about."""
    return requirement.partition(">")[0]


def install_command(requirements: Iterable[str]) -> str:
    """Return the command that installs packages, each by the name that it has on the index.

    The extra of ``headstock`` is not named: that name is on no index, so whoever took it would have
    their code run here.

    Examples
    --------
    >>> install_command(EXTRAS["train"])
    "pip install 'torch>=2.6' 'timm>=1.0.17'"
    """
    return f"pip install {shlex.join(requirements)}"


@contextlib.contextmanager
def needs_extra(what: str, extra: str | None = None) -> Iterator[None]:
    """Within the block, or in the function decorated, a package of an extra may be missing.

    A missing package that no extra brings is not ours to explain: its error passes through.

    Parameters
    ----------
    what : str
        What needs the package, as the subject of the message.
    extra : str, optional
        A key of `EXTRAS`; by default the first that brings the package.

    Raises
    ------
    MissingPackageError
        With the command that installs what the extra requires.

    Examples
    --------
    >>> with needs_extra("HDF5"):
    ...     import h5py  # doctest: +SKIP
    """
    try:
        yield
    except ModuleNotFoundError as err:
        module = (err.name or "").partition(".")[0]
        for name in (*([extra] if extra else ()), *EXTRAS):
            packages = map(package_of, EXTRAS[name])
            if module in (IMPORTED_AS.get(package, package) for package in packages):
                raise MissingPackageError(
                    f"{what} needs {module}: {install_command(EXTRAS[name])}.", name=module
                ) from err
        raise


#: Known names that an error lists whole; of more, it lists the closest.
LISTED = 12

#: Names that it lists then.
CLOSEST = 3


def lookup(
    table: Mapping[str, T],
    name: str,
    *,
    what: str,
    error: type[FeatstoreError],
    where: str = "",
    listed_by: str = "",
) -> T:
    """Return the entry of a table called `name`.

    Parameters
    ----------
    table : mapping
    name : str
    what, where, listed_by : str
        As `unknown_name` takes them.
    error : type
        What is raised when there is no such entry.

    Raises
    ------
    FeatstoreError
        Of the type `error`, with the sentence of `unknown_name`.

    Examples
    --------
    >>> lookup({"cosine": 1, "csls": 2}, "csls", what="scorer", error=ManifestError)
    2
    """
    if name not in table:
        raise error(unknown_name(what, name, table, where=where, listed_by=listed_by))
    return table[name]


class UnknownName(str):
    """A sentence on a name that is unknown: a command that ends with it has exit code 2."""


def unknown_name(
    what: str, name: str, known: Iterable[str], *, where: str = "", listed_by: str = ""
) -> str:
    """Return the sentence for a name that is not among the known ones.

    Parameters
    ----------
    what : str
        What is named, in the singular: ``"method"``. Its plural must be formed with an s.
    name : str
    known : iterable of str
        Up to `LISTED` names are all listed, of more only the `CLOSEST`.
    where : str, optional
        Where the name was looked for: ``"in the manifest 'toy'"``.
    listed_by : str, optional
        The command or attribute that lists every name.

    Examples
    --------
    >>> unknown_name("suite", "smok", ["demo", "smoke"])
    "No suite named 'smok'. Known suites: demo, smoke. Did you mean 'smoke'?"
    >>> unknown_name("model", "m7x", [f"m{i}" for i in range(20)], listed_by="all()")
    "No model named 'm7x'. Known models: m7, m17, m9 and 17 others (all()). Did you mean 'm7'?"
    """
    import difflib

    names = list(dict.fromkeys(known))
    listed = ", ".join(names) or "none"
    if len(names) > LISTED:
        closest = difflib.get_close_matches(name, names, n=CLOSEST, cutoff=0.0)
        listed = f"{', '.join(closest)} and {len(names) - CLOSEST:,} others"
        listed += f" ({listed_by})" if listed_by else ""
    unknown = f"No {what} named {name!r} {where}".rstrip()
    return UnknownName(f"{unknown}. Known {what}s: {listed}.{did_you_mean(name, names)}")


def listed(names: Iterable[object], *, shown: int = 5) -> str:
    """Return the first few names for a message, quoted, and how many more there are.

    Examples
    --------
    >>> listed(["a", "b"]), listed(map(str, range(1000)), shown=2), listed([])
    ("'a', 'b'", "'0', '1' and 998 more", 'none')
    """
    known = list(names)
    more = f" and {len(known) - shown:,} more" if len(known) > shown else ""
    return (", ".join(map(repr, known[:shown])) or "none") + more


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the known name closest to `name`, or an empty string.

    Examples
    --------
    >>> did_you_mean("timm:resnet5", ["timm:resnet50", "st:minilm"])
    " Did you mean 'timm:resnet50'?"
    """
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f" Did you mean '{close[0]}'?" if close else ""


def is_out_of_memory(err: BaseException) -> bool:
    """Return whether an error says that memory ran out: torch has several ways to."""
    return (
        isinstance(err, MemoryError)
        or type(err).__name__ == "OutOfMemoryError"
        or "out of memory" in str(err).lower()
        or "can't allocate memory" in str(err).lower()
    )


def lazily(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package whose names are imported when used.

    Parameters
    ----------
    package : str
        Its name.
    homes : mapping of str to str
        Module -> names that are looked up there, parted by blanks; ``Name=own`` of one that is
        called otherwise there.
    """
    home = {
        name: (module, own or name)
        for module, names in homes.items()
        for name, _, own in (part.partition("=") for part in names.split())
    }

    def look_up(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, own = home[name]
        return getattr(import_module(module), own)

    return look_up, lambda: sorted(sys.modules[package].__all__)
