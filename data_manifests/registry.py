"""Every dataset that Headstock can build by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from data_manifests.labels import plan_label_set
from data_manifests.official.dataset import check_dataset, plan_dataset
from data_manifests.official.inspection import Inspection, Read
from data_manifests.plan import Built, Plan, read_facts

#: Keyword arguments of every dataset that is read from its official layout.
FROM_DISK = frozenset({"root", "splits", "subset", "images", "split_file"})


@dataclass(frozen=True)
class Builder:
    """One dataset: how it is named, what it takes, and how it is planned."""

    name: str
    """Name on the command line and first part of every id."""

    folder: Path
    """Where its dataset.toml lies."""

    own_options: frozenset[str]
    """Keyword arguments of `plan` that the user may give, but for those of dataset.toml."""

    plan: Callable[..., Plan]
    """Find and read the source; raise BuildError if that cannot be done."""

    read: Callable[[], Read] | None = None
    """Give the reader of its official layout, if it is read from one."""

    @property
    def facts(self) -> dict[str, Any]:
        """Facts of dataset.toml: revision, licence, home page, summary, expected counts …."""
        return read_facts(self.folder)

    @property
    def options(self) -> frozenset[str]:
        """Keyword arguments of `plan` that the user may give."""
        return self.own_options | frozenset(self.facts.get("options", {}))

    @property
    def summary(self) -> str:
        """One sentence on what the dataset is."""
        return str(self.facts["summary"])

    @property
    def source(self) -> str | None:
        """The source (`featstore.sources`) that reads it, if data_manifests has no reader."""
        reader = self.facts.get("reader")
        return reader if isinstance(reader, str) else None

    def check(self, **options: Any) -> Inspection:
        """Compare a copy with what is known of it; see `data_manifests.official.inspection`."""
        assert self.read is not None
        return check_dataset(self.facts, self.read(), **options)

    def build(self, out: Path, **options: Any) -> Built:
        """Plan and make in one go: files under `out`, tables returned."""
        return self.plan(**options).make(out, None)


def _folder(name: str) -> Path:
    return Path(__file__).parent / name


def _reader(name: str) -> Read:
    read: Read = import_module(f"data_manifests.{name}.build").read
    return read


def _plan_stamps(**options: Any) -> Plan:
    from data_manifests.stamps.build import plan

    return plan(**options)


def _plan_from_disk(name: str, **options: Any) -> Plan:
    return plan_dataset(_folder(name), _reader(name), **options)


def _plan_imagenet1k(*, source: Path | None = None, **options: Any) -> Plan:
    """Plan the label set; with a root, the images too."""
    if "root" in options:
        return _plan_from_disk("imagenet1k", **options)
    return plan_label_set(_folder("imagenet1k"), source=source)


def _dataset(name: str) -> Builder:
    plan = partial(_plan_from_disk, name)
    return Builder(name, _folder(name), FROM_DISK, plan, partial(_reader, name))


def _pairs(name: str) -> Builder:
    return Builder(name, _folder(name), frozenset({"root", "subset"}), partial(_plan_pairs, name))


def _plan_pairs(name: str, **_: Any) -> Plan:
    msg = f"{name} is planned by featstore.datasets, which knows its source."
    raise NotImplementedError(msg)


def _label_set(name: str) -> Builder:
    plan = partial(plan_label_set, _folder(name))
    return Builder(name, _folder(name), frozenset({"source"}), plan)


#: In the order in which they are listed.
BUILDERS: dict[str, Builder] = {
    "stamps": Builder("stamps", _folder("stamps"), frozenset({"source", "locales"}), _plan_stamps),
    "imagenet1k": Builder(
        "imagenet1k",
        _folder("imagenet1k"),
        FROM_DISK | {"source"},
        _plan_imagenet1k,
        partial(_reader, "imagenet1k"),
    ),
    **{
        name: _label_set(name)
        for name in (
            "imagenet12k", "imagenet21k_goog", "imagenet21k_miil", "imagenet21k_miil_w21",
            "imagenet22k", "imagenet22k_ms",
        )
    },
    **{
        name: _dataset(name)
        for name in (
            "flickr30k", "coco", "food101", "pets", "flowers102", "cifar10", "cifar100", "dtd",
            "eurosat", "resisc45", "places365", "ham10000", "inat21", "inat21_mini", "mnist",
            "sun397", "cars", "aircraft", "caltech101", "ucf101",
        )
    },
    "cc3m": _pairs("cc3m"),
    "cc12m": _pairs("cc12m"),
}  # fmt: skip
