"""Karpathy's JSON: images with splits and captions (COCO, Flickr30k)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data_manifests.official.disk import Disk
from data_manifests.plan import BuildError


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
        msg = (
            f"{disk.path(name)} is not in Karpathy's form ({type(err).__name__}: {err}). Each of "
            'its "images" has filename, split, imgid and sentences with sentid and raw.'
        )
        raise BuildError(msg) from err


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
