"""SUN397: folders by first letter, class and perhaps kind; official lists of ten partitions."""

from __future__ import annotations

from data_manifests.official.disk import Disk, Listing, image_frame
from data_manifests.plan import BuildError


def read(disk: Disk) -> Listing:
    """List a partition, or all images; labels are the classes without their letter."""
    labels = [line[3:] for line in disk.lines("SUN397/ClassName.txt")]
    partition = disk.options["partition"]
    if partition == "all":
        paths = [(path, "all") for path in disk.images("SUN397", (".jpg",)) if "/sun_" in path]
    else:
        paths = [
            (f"SUN397{line}", split)
            for split in disk.splits
            for line in disk.lines(f"{disk.word(split)}_{int(partition):02d}.txt")
        ]
    rows = [(path, split, "/".join(path.split("/")[2:-1])) for path, split in paths]
    strange = sorted({label for _, _, label in rows} - set(labels))
    if strange:
        msg = f"{len(strange):,} classes are not in ClassName.txt (first: {strange[0]!r})."
        raise BuildError(msg)
    # A class in several kinds is named kind first, as in "indoor church".
    names = {label: " ".join(reversed(label.split("/"))).replace("_", " ") for label in labels}
    return Listing(image_frame(rows), labels, names)
