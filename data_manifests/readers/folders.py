"""Images in one folder a class."""

from __future__ import annotations

from data_manifests.official.disk import Disk
from data_manifests.plan import BuildError

#: Path below the root, split, label.
Row = tuple[str, str, str | None]


def class_folders(disk: Disk, folder: str, split: str) -> list[Row]:
    """Return the images of ``folder/<label>/…/<file>``, each with its class folder as label.

    Raises
    ------
    BuildError
        If an image lies in no class folder.
    """
    depth = 0 if folder == "." else folder.count("/") + 1
    rows: list[Row] = []
    for path in disk.images(folder):
        parts = path.split("/")
        if len(parts) < depth + 2:
            msg = (
                f"{disk.root / path} lies in no class folder. {folder} must hold one folder a "
                "class, with its images inside."
            )
            raise BuildError(msg)
        rows.append((path, split, parts[depth]))
    return rows


def split_folders(disk: Disk) -> list[Row]:
    """Return the images of one folder a split, with one folder a class inside."""
    return [
        row for split in disk.splits for row in class_folders(disk, disk.split_folder(split), split)
    ]
