"""Make a manifest from a location: the sources by name, and what one asks of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any

from featstore.address import Address
from featstore.errors import FeatstoreError, ManifestError, lookup
from featstore.images import MAX_PIXELS, declared_pixels
from featstore.manifest import Manifest, check_name, write_manifest
from featstore.manifest_files import parse_locator, take_folder
from featstore.plugins import Registry, first_line
from featstore.sources import find_place
from featstore.sources.pictures import empty_folders
from featstore.sources.tables import COLUMN_OPTIONS, Found, Request

_SPLIT = {"split": "split of every item"}


@dataclass(frozen=True)
class Source:
    """A kind of location that becomes a manifest."""

    name: str
    """What follows ``headstock data make``."""

    summary: str
    """What it reads, in one line."""

    function: Callable[[Request], Found] | str
    """What a Request asks for, found; "module:name" below featstore.sources is imported when
    used."""

    options: Mapping[str, str] = field(default_factory=dict)
    """What each option is for."""

    def read(self, request: Request) -> Found:
        """List the items of a location.

        Raises
        ------
        ManifestError
            If an option is unknown, or the location is not what this source reads.
        """
        where = f"for the source {self.name!r}"
        for name in request.options:
            lookup(self.options, name, what="option", where=where, error=ManifestError)
        own = self.function
        find = resolve_name(f"featstore.sources.{own}") if isinstance(own, str) else own
        try:
            found = find(request)
        except FeatstoreError:
            raise
        except OSError as err:
            what = f"{err.filename or request.location}: {err.strerror or err}"
            raise ManifestError(f"The source {self.name!r} cannot go on at {what}.") from err
        if not isinstance(found, Found):
            raise ManifestError(
                f"The source {self.name!r} returned {type(found).__name__}; a source returns what "
                "it found as featstore.sources.tables.Found."
            )
        return found


_BUILT_IN: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            "folder",
            "every image below a folder",
            "pictures:read_folder",
            _SPLIT,
        ),
        Source(
            "class-folders",
            "one folder a class, perhaps below train, val and test",
            "pictures:read_class_folders",
            _SPLIT,
        ),
        Source(
            "captions",
            "a.jpg with a.txt beside it, one caption a line",
            "pictures:read_captions",
            _SPLIT,
        ),
        Source(
            "webdataset",
            "a tar, a folder of tars, or their address, with samples by key",
            "pictures:read_webdataset",
            _SPLIT,
        ),
        Source(
            "parquet",
            "a Parquet file, a folder of them, or their address, with images or paths",
            "pictures:read_parquet",
            COLUMN_OPTIONS,
        ),
        Source(
            "csv",
            "a comma-separated table of paths, captions, labels, splits",
            "tables:read_csv",
            COLUMN_OPTIONS,
        ),
        Source(
            "tsv",
            "the same, tab-separated",
            "tables:read_tsv",
            COLUMN_OPTIONS,
        ),
        Source(
            "jsonl",
            "the same as a JSON object a line",
            "tables:read_jsonl",
            COLUMN_OPTIONS,
        ),
    )
}


def _as_source(
    name: str, thing: Any, *, options: Mapping[str, str] = MappingProxyType({})
) -> Source:
    if isinstance(thing, Source):
        return thing
    if not callable(thing):
        raise TypeError(f"expected a function of a Request that returns Found; got {thing!r}.")
    return Source(name, first_line(thing), thing, options)


SOURCES: Registry[Source] = Registry("source", _BUILT_IN, accept=_as_source)
"""The sources of manifests.

A source of one's own (``register("source", NAME)``, an entry point of ``headstock.sources``) is a
function of a `featstore.sources.tables.Request` that returns a `featstore.sources.tables.Found`, or
a `Source` with it. ``register(…, options={NAME: TEXT})`` says what each of its options is for.
"""


#: What a list of classes is called beside the sources; it holds no items.
LABELS = "labels"

#: Suffix of a file -> what reads it.
_BY_SUFFIX = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".parquet": "parquet", ".tar": "webdataset",
    ".txt": LABELS, ".json": LABELS,
}  # fmt: skip


def guessed(location: str | Path) -> str:
    """Return the source that reads a location, by what lies there; LABELS of a list of classes.

    A folder holds tars, Parquet files, or else images; a dataset of the hub Parquet files.

    Raises
    ------
    ManifestError
        If nothing is known to read it.
    """
    place = find_place(location)
    if not isinstance(place, Path):
        name = place.path.rpartition("/")[2]
        return "parquet" if place.scheme == "hf" else _by_name(name, location)
    if not place.is_dir():
        return _by_name(place.name, location)
    suffixes = {path.suffix for path in place.iterdir()}
    return next((_BY_SUFFIX[one] for one in (".tar", ".parquet") if one in suffixes), "folder")


def _by_name(name: str, location: str | Path) -> str:
    known = _BY_SUFFIX.get(Path(name).suffix)
    if known is None:
        raise ManifestError(
            f"{location} says by its name no source that reads it: give one as --as SOURCE."
        )
    return known


def make_manifest(
    source: str,
    location: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    options: Mapping[str, str] | None = None,
) -> Manifest:
    """Read a location and write its manifest.

    The same location and options give the same bytes. Files are read (for their hashes) but
    neither copied nor changed; uris lead to them through the manifest's ``data_root``.

    Parameters
    ----------
    source : str
        Key of SOURCES.
    location : str or Path
        A local file or folder; of the sources webdataset and parquet also an address.
    out : Path
        Folder of the manifest: new, empty, or with an earlier manifest of the same name.
    name : str, optional
        Name of the dataset; default: made from the location's.
    options : mapping, optional
        Options of the source.

    Raises
    ------
    ManifestError
        If the source, an option or the location is wrong, or `out` holds something else.
    """
    folder, reader = Path(out), lookup(SOURCES, source, what="source", error=ManifestError)
    name = check_name(default_name(find_place(location)) if name is None else name)
    take_folder(folder, name)
    found = reader.read(Request(str(location), name, dict(options or {})))
    facts: dict[str, Any] = {
        "name": name,
        "summary": f"made from {reader.summary}",
        "source": {"kind": source, "options": dict(sorted((options or {}).items()))},
    }
    return write_manifest(
        folder, facts=facts, tables=found.tables, classes=found.classes, data_root=found.root
    )


def oddities(manifest: Manifest) -> list[tuple[str, list[str]]]:
    """Return what a person should look at in a manifest that was made: what is odd, and names.

    Classes whose names are nearly equal; class folders that hold no image; and, where Pillow is
    installed, image files whose header declares more pixels than an extraction takes.
    """
    alike: dict[str, list[str]] = {}
    for name in [] if manifest.classes is None else manifest.classes["name"]:
        alike.setdefault(re.sub(r"[\W_]+|s\b", "", name.lower()), []).append(name)
    odd = [("names nearly equal", names) for names in alike.values() if len(names) > 1]
    root, images = manifest.root, manifest.tables.get("image")
    if isinstance(root, Path) and images is not None:
        files = [uri for uri in images["uri"].drop_nulls() if parse_locator(uri) is None]
        if manifest.facts["source"]["kind"] == "class-folders":
            odd.append(("classes without images", empty_folders(root, files)))
        what = f"images of more than {MAX_PIXELS:,} pixels (extract -s max_pixels=N takes them)"
        odd.append((what, [uri for uri in files if declared_pixels(root / uri) > MAX_PIXELS]))
    return [one for one in odd if one[1]]


def default_name(path: Path | Address) -> str:
    """Return a dataset's name from that of its file or folder, or of a dataset of the hub."""
    if isinstance(path, Path):
        stem = path.name if path.is_dir() else path.name.partition(".")[0]
    elif path.scheme == "hf":
        stem = path.path.split("/")[1].partition("@")[0]
    else:
        steps = [step for step in (path.host, *path.path.split("/")) if step and "{" not in step]
        stem = steps[-1].partition(".")[0] if steps else ""
    return re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:64] or "dataset"
