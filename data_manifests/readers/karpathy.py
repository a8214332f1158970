"""Datasets with captions in Karpathy's JSON: MS-COCO and Flickr30k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data_manifests.official.disk import Disk, Listing, caption_frame, image_frame
from data_manifests.plan import BuildError


def coco(disk: Disk) -> Listing:
    """List the images of train2014 and val2014, and their captions."""
    chosen = [
        image
        for image in read_karpathy(disk, "dataset_coco.json", disk.options["captions"])
        if image.split in disk.splits
    ]
    paths = [f"{image.folder}/{image.name}" for image in chosen]
    rows = [(path, image.split, None) for path, image in zip(paths, chosen, strict=True)]
    captions = [
        (key, path, text)
        for path, image in zip(paths, chosen, strict=True)
        for key, text in image.captions
    ]
    return Listing(
        image_frame(rows, cocoid=[image.number for image in chosen]),
        captions=caption_frame(captions),
    )


#: The two usual files of all captions of Flickr30k.
TOKENS, CAPTIONS = "results_20130124.token", "captions.txt"


def flickr30k(disk: Disk) -> Listing:
    """List Karpathy's images; with train=paper all that are not in his test split are train.

    That includes the images which his JSON leaves out.
    """
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
                raise BuildError(
                    f"{disk.root / path} has no caption in {TOKENS} or {CAPTIONS}, nor in "
                    "Karpathy's JSON. Remove the file, or fetch the captions again."
                )
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
        raise BuildError(
            f"train=paper needs the captions of the images that Karpathy left out: {where} has "
            f"neither {TOKENS} (lines image.jpg#0, tab, caption) nor {CAPTIONS} (a first line "
            "image,caption, then lines image.jpg,caption). Give one with -s tokens=PATH."
        )
    lines = disk.lines(name)
    captions: dict[str, list[str]] = {}
    for line in lines if "\t" in lines[0] else lines[1:]:
        image, _, text = line.partition("\t") if "\t" in line else line.partition(",")
        captions.setdefault(image.partition("#")[0], []).append(text.strip().strip('"').strip())
    limit = 5 if disk.options["captions"] == "first5" else None
    return {image: texts[:limit] for image, texts in captions.items()}


@dataclass(frozen=True)
class Captioned:
    """An image of Karpathy's JSON."""

    folder: str
    """Its ``filepath``, or empty."""

    name: str
    """Its file name."""

    split: str
    """As the file says: train, restval, val or test."""

    number: int
    """``cocoid``, else ``imgid``."""

    captions: list[tuple[str, str]]
    """(``sentid``, raw text) of its captions, in their order."""


def read_karpathy(disk: Disk, name: str, captions: str = "all") -> list[Captioned]:
    """Return the images of a Karpathy JSON.

    Parameters
    ----------
    disk : Disk
    name : str
        The list.
    captions : str
        ``all``, or ``first5``: the first five of each image.

    Raises
    ------
    BuildError
        If it is not in Karpathy's form.
    """
    document = disk.json(name)
    limit = 5 if captions == "first5" else None
    try:
        return [_image(image, limit) for image in document["images"]]
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise BuildError(
            f"{disk.path(name)} is not in Karpathy's form ({type(err).__name__}: {err}). Each of "
            'its "images" has filename, split, imgid and sentences with sentid and raw.'
        ) from err


def _image(image: dict[str, Any], limit: int | None) -> Captioned:
    folder = image.get("filepath", "")
    number = image.get("cocoid", image["imgid"])
    # A sentence that is blank but for spaces is no text; COCO has none, strangers' files might.
    captions = [
        (str(int(sentence["sentid"])), sentence["raw"].strip())
        for sentence in image["sentences"][:limit]
        if sentence["raw"].strip()
    ]
    return Captioned(
        f"{folder}".strip("/"), f"{image['filename']}", f"{image['split']}", int(number), captions
    )
