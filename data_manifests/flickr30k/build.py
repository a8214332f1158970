"""Flickr30k: Karpathy's JSON, and for the paper's training set also what that leaves out."""

from __future__ import annotations

from data_manifests.official.disk import Disk, Listing, caption_frame, image_frame
from data_manifests.plan import BuildError
from data_manifests.readers.layouts import read_karpathy

#: The two usual files of all captions.
TOKENS, CAPTIONS = "results_20130124.token", "captions.txt"


def read(disk: Disk) -> Listing:
    """List Karpathy's images; with train=paper all that are not in his test split are train."""
    folder = disk.image_folder()
    rows, captions, source = [], [], []
    paper = disk.options["train"] == "paper"
    known = read_karpathy(disk, "dataset_flickr30k.json", disk.options["captions"])
    for image in known:
        split = "train" if paper and image.split != "test" else image.split
        if split in disk.splits:
            path = f"{folder}/{image.name}"
            rows.append((path, split, None))
            source.append(image.split)
            captions += [(key, path, text) for key, text in image.captions]
    if paper and "train" in disk.splits:
        listed = {image.name for image in known}
        texts = _all_captions(disk)
        for path in disk.images(folder, (".jpg",)):
            name = path.rpartition("/")[2]
            if name in listed:
                continue
            if name not in texts:
                msg = (
                    f"{disk.root / path} has no caption in {TOKENS} or {CAPTIONS}, nor in "
                    "Karpathy's JSON. Remove the file, or fetch the captions again."
                )
                raise BuildError(msg)
            rows.append((path, "train", None))
            source.append("none")
            captions += [(f"{name}#{n}", path, text) for n, text in enumerate(texts[name])]
    return Listing(image_frame(rows, source_split=source), captions=caption_frame(captions))


def _all_captions(disk: Disk) -> dict[str, list[str]]:
    """Return file name -> captions, from whichever of the two files lies there."""
    given = disk.options["tokens"]
    name = next((name for name in (TOKENS, CAPTIONS) if disk.has(name)), None)
    if name is None:
        where = given or str(disk.root)
        msg = (
            f"train=paper needs the captions of the images that Karpathy left out: {where} has "
            f"neither {TOKENS} (lines image.jpg#0, tab, caption) nor {CAPTIONS} (a first line "
            "image,caption, then lines image.jpg,caption). Give one with --option tokens=PATH."
        )
        raise BuildError(msg)
    lines = disk.lines(name)
    captions: dict[str, list[str]] = {}
    for line in lines if "\t" in lines[0] else lines[1:]:
        image, _, text = line.partition("\t") if "\t" in line else line.partition(",")
        captions.setdefault(image.partition("#")[0], []).append(text.strip().strip('"').strip())
    limit = 5 if disk.options["captions"] == "first5" else None
    return {image: texts[:limit] for image, texts in captions.items()}
