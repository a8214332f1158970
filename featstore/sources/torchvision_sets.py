"""Datasets of torchvision, by the name of their class."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featstore.durable import write_durably
from featstore.errors import ManifestError, needs_extra, unknown_name
from featstore.sources.location import folder
from featstore.sources.tables import Found, ItemCollector, Request, is_image

#: The classes that are opened. Others run pickles that no checksum covers, or hold no still
#: images. (CIFAR's pickles are opened only after torchvision compared their md5.)
NAMES = (
    "CIFAR10", "CIFAR100", "CLEVRClassification", "Country211", "DTD", "EuroSAT", "FER2013",
    "FGVCAircraft", "FashionMNIST", "Flowers102", "Food101", "GTSRB", "ImageFolder", "Imagenette",
    "KMNIST", "MNIST", "OxfordIIITPet", "PCAM", "Places365", "RenderedSST2", "STL10", "SUN397",
    "SVHN", "StanfordCars", "USPS",
)  # fmt: skip

#: Where torchvision's classes keep the paths of their images, and their labels.
_PATHS = ("samples", "_samples", "_image_files", "_images", "imgs")
_LABELS = ("targets", "_labels", "labels")

#: Classes that list their files as the file system happens to.
_UNORDERED = frozenset({"SUN397"})


def read_torchvision(request: Request) -> Found:
    """List the images of a torchvision dataset.

    Files are used where they lie, with their relative path as key. A dataset that exists only as
    an array, or in files of a format that is not decoded (GTSRB's PPM), is written once, as
    lossless PNG files below ``images/`` of the manifest's folder, with split and index as key.

    Raises
    ------
    ManifestError
        If the name is unknown, the files are missing, or an option does not fit the class.
    """
    root = folder(request.location)
    name = request.options.get("name", "")
    split = request.options.get("split")
    dataset = _open(name, root, split, download=request.flag("download"))
    names = _class_names(getattr(dataset, "classes", None))
    items = ItemCollector(request.dataset, names)
    paths, labels = _files(dataset)
    if paths is None or not all(is_image(Path(path).name) for path in paths):
        for index in range(len(dataset)):
            image = dataset[index]
            where = f"images/{split or 'all'}/{index:06d}.png"
            _write_png(request.out / where, image[0])
            items.image(where.removeprefix("images/"), where, label=_label(image[1]), split=split)
        return Found(request.out, items.contents())
    found = [
        (_relative(Path(path), root), None if labels is None else labels[index])
        for index, path in enumerate(paths)
    ]
    for uri, label in sorted(found) if name in _UNORDERED else found:
        items.image(uri, uri, label=_label(label), split=split)
    return Found(root, items.contents())


def _open(name: str, root: Path, split: str | None, *, download: bool) -> Any:
    if name not in NAMES:
        where, by = "(option name)", "featstore.sources.torchvision_sets.NAMES"
        raise ManifestError(
            unknown_name("torchvision dataset", name, NAMES, where=where, listed_by=by)
        )
    with needs_extra("The source torchvision"):
        from torchvision import datasets
    kind = getattr(datasets, name)
    known = inspect.signature(kind).parameters
    arguments: dict[str, Any] = {"root": str(root)}
    if download and "download" in known:
        arguments["download"] = True
    if split is not None and "split" in known:
        arguments["split"] = split
    elif split in ("train", "test") and "train" in known:
        arguments["train"] = split == "train"
    elif split is not None:
        raise ManifestError(f"torchvision's {name} has no split {split!r}.")
    elif "split" in known or "train" in known:
        raise ManifestError(f"torchvision's {name} has splits: give one, e.g. -s split=test.")
    try:
        return kind(**arguments)
    except (RuntimeError, OSError, ValueError, ImportError) as err:
        raise ManifestError(
            f"torchvision's {name} cannot be opened in {root}: {err}. Nothing is downloaded unless "
            "you say -s download=true."
        ) from err


def _class_names(classes: Any) -> list[str] | None:
    if not classes:
        return None
    # Imagenette has all lemmas of a class; Places365 keeps its names in folders by letter.
    firsts = [name[0] if isinstance(name, tuple) else name for name in classes]
    return [re.sub(r"^/[a-z]/", "", str(name)) for name in firsts]


def _files(dataset: Any) -> tuple[list[Any] | None, Sequence[Any] | None]:
    """Return the paths and the labels of a dataset of files; no paths for one of arrays."""
    for attribute in _PATHS:
        held = getattr(dataset, attribute, None)
        if not isinstance(held, list) or len(held) != len(dataset) or not held:
            continue
        pairs = isinstance(held[0], tuple)
        paths = [entry[0] for entry in held] if pairs else held
        if not all(isinstance(path, str | Path) for path in paths):
            continue
        if pairs:
            return paths, [entry[1] for entry in held]
        labels = next((getattr(dataset, name) for name in _LABELS if hasattr(dataset, name)), None)
        return paths, labels
    return None, None


def _label(value: Any) -> str | int | None:
    if value is None or isinstance(value, str):
        return value
    # STL10 marks what has no label by -1.
    return int(value) if int(value) >= 0 else None


def _relative(path: Path, root: Path) -> str:
    try:
        return path.resolve().relative_to(root).as_posix()
    except ValueError as err:
        raise ManifestError(f"The image {path} does not lie below {root}.") from err


def _write_png(path: Path, image: Any) -> None:
    import io

    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    try:
        write_durably(path, [buffer.getvalue()])
    except OSError as err:
        raise ManifestError(
            f"Cannot write {path}: {err.strerror or err}. Choose another folder."
        ) from err
