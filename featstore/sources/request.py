"""What a source is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from featstore.errors import ManifestError
from featstore.sources.tables import Contents


@dataclass(frozen=True)
class Request:
    """A location, and how to read it."""

    location: str
    """Path of a file or folder, as the user gave it."""

    dataset: str
    """Name that ids begin with."""

    out: Path
    """Folder of the manifest, for sources whose images are no files."""

    options: Mapping[str, str]
    """Options of the source, all of them known to it."""

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return an option as true or false.

        Raises
        ------
        ManifestError
            If it is neither.
        """
        word = self.options.get(name, str(default)).lower()
        if word not in ("true", "false"):
            msg = f"The option {name} is {word!r}; it must be true or false."
            raise ManifestError(msg)
        return word == "true"


@dataclass(frozen=True)
class Found:
    """Items, and the folder that their uris are relative to."""

    root: Path
    """Folder of the files."""

    contents: Contents
    """The items."""
