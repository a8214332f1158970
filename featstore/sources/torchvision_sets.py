"""Datasets of torchvision, by the name of their class."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from featstore.durable import write_durably
from featstore.errors import ManifestError, needs_extra, unknown_name
from featstore.sources.location import folder
from featstore.sources.tables import Found, ItemCollector, Request

#: The classes that are opened: their pictures are no files that can be read where they lie.
#: Others run pickles that no checksum covers. (CIFAR's pickles are opened only after torchvision
#: compared their md5.)
NAMES = (
    "CIFAR10", "CIFAR100", "FER2013", "FashionMNIST", "GTSRB", "KMNIST", "MNIST", "PCAM", "STL10",
    "SVHN", "USPS",
)  # fmt: skip


def read_torchvision(request: Request) -> Found:
    """Write the pictures of a torchvision dataset, once, as lossless PNG files.

    They lie below ``images/`` of the manifest's folder; split and index are the key.

    Raises
    ------
    ManifestError
        If the name is unknown, the files are missing, or an option does not fit the class.
    """
    split = request.options.get("split", "")
    download = request.flag("download")
    dataset = _open(request.options.get("name", ""), folder(request.location), split, download)
    classes = getattr(dataset, "classes", None)
    items = ItemCollector(request.dataset, [str(name) for name in classes] if classes else None)
    for index in range(len(dataset)):
        image, label = dataset[index]
        where = f"images/{split}/{index:06d}.png"
        _write_png(request.out / where, image)
        # STL10 marks what has no label by -1.
        known = None if label is None or int(label) < 0 else int(label)
        items.image(where.removeprefix("images/"), where, label=known, split=split)
    return Found(request.out, items.contents())


def _open(name: str, root: Path, split: str, download: bool) -> Any:  # noqa: FBT001
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
    if split and "split" in known:
        arguments["split"] = split
    elif split in ("train", "test") and "train" in known:
        arguments["train"] = split == "train"
    else:
        fault = f"no split {split!r}" if split else "splits: give one, e.g. -s split=test"
        raise ManifestError(f"torchvision's {name} has {fault}.")
    try:
        return kind(**arguments)
    except (RuntimeError, OSError, ValueError, ImportError) as err:
        raise ManifestError(
            f"torchvision's {name} cannot be opened in {root}: {err}. Nothing is downloaded unless "
            "you say -s download=true."
        ) from err


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
