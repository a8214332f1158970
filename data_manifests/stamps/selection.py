"""Which stamps are kept, and what their caption files say."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from data_manifests.plan import BuildError

#: A caption file is refused above this size; the largest of the package has 8 KB.
MAX_CAPTION_BYTES = 2**20

_COPY = re.compile(r"_(mirror|flip|mirrorflip)$")
_TRANSLATION = re.compile(r"^([A-Za-z]{2,3}(?:[_@][A-Za-z]+)*)\.utf8=(.*)$")


@dataclass(frozen=True)
class Stamp:
    """One captioned picture of the package."""

    path: str
    """Path below the stamps folder, with ``/`` and without suffix: ``animals/birds/gull``."""

    description: str
    """The first line of its caption file: English, with its full stop."""

    translations: dict[str, str]
    """Locale -> caption, without empty ones."""

    def caption(self, locale: str) -> str | None:
        """Return the caption in `locale`, or None if there is none; ``en`` is the description."""
        return self.description if locale == "en" else self.translations.get(locale)


def is_selected(path: str) -> bool:
    """Return whether a stamp (path below the root, without suffix) belongs to the selection.

    Left out: ``symbols/`` (letters, clocks and coins), whatever lies in a ``cartoon`` folder, and
    the mirrored or flipped copies, whose caption repeats that of the original.
    """
    *folders, name = path.split("/")
    return folders[:1] != ["symbols"] and "cartoon" not in folders and not _COPY.search(name)


def select_stamps(root: Path) -> list[Stamp]:
    """Return the selected stamps below `root`, sorted by path.

    A stamp is a PNG with a ``.txt`` of the same name beside it. Symbolic links are not followed.

    Raises
    ------
    BuildError
        If there is none, or a caption file is not UTF-8 or too large.
    """
    stamps = []
    for folder, _, names in os.walk(root):
        present = {name for name in names if not (Path(folder) / name).is_symlink()}
        for name in present:
            stem, suffix = os.path.splitext(name)  # noqa: PTH122 -- a Path per file is slow
            if suffix != ".png" or f"{stem}.txt" not in present:
                continue
            path = (Path(folder) / stem).relative_to(root).as_posix()
            if is_selected(path):
                stamp = read_caption(Path(folder) / f"{stem}.txt", path)
                if stamp is not None:
                    stamps.append(stamp)
    if not stamps:
        msg = (
            f"{root} holds no PNG with a .txt beside it. Give the stamps folder of Tux Paint, or a "
            "folder with the .deb of tuxpaint-stamps-default, with --source."
        )
        raise BuildError(msg)
    return sorted(stamps, key=lambda stamp: stamp.path)


def read_caption(file: Path, path: str) -> Stamp | None:
    """Read a caption file: the English description, then lines ``ll.utf8=text``.

    Returns
    -------
    Stamp or None
        None if the first line is empty: a picture without words.

    Raises
    ------
    BuildError
        If it is not UTF-8, or larger than a caption can be.
    """
    if file.stat().st_size > MAX_CAPTION_BYTES:
        msg = f"{file} has {file.stat().st_size:,} bytes; a caption file has a few thousand."
        raise BuildError(msg)
    try:
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as err:
        msg = f"{file} is not UTF-8 (byte {err.start:,}). Fetch the package again, or remove it."
        raise BuildError(msg) from err
    description = lines[0].strip() if lines else ""
    if not description:
        return None
    found = (match for line in lines[1:] if (match := _TRANSLATION.match(line)))
    translations = {match[1]: text for match in found if (text := match[2].strip())}
    return Stamp(path, description, translations)
