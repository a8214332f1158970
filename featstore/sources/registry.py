"""The sources by name. A new one is a line here, a module, and its tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module

from featstore.errors import ManifestError, did_you_mean
from featstore.sources.request import Found, Request
from featstore.sources.rows import COLUMN_OPTIONS

_SPLIT = {"split": "split of every item"}


@dataclass(frozen=True)
class Source:
    """A kind of location that becomes a manifest."""

    name: str
    """What follows ``--source``."""

    summary: str
    """What it reads, in one line."""

    example: str
    """A command."""

    module: str
    """Module below featstore.sources, imported when used."""

    function: str
    """Its function: a Request to what was found."""

    options: Mapping[str, str] = field(default_factory=dict)
    """What each option is for."""

    def read(self, request: Request) -> Found:
        """List the items of a location.

        Raises
        ------
        ManifestError
            If an option is unknown, or the location is not what this source reads.
        """
        unknown = [name for name in request.options if name not in self.options]
        if unknown:
            known = ", ".join(self.options) or "none"
            msg = (
                f"The source {self.name!r} takes no option {unknown[0]!r}. It takes: {known}."
                f"{did_you_mean(unknown[0], self.options)}"
            )
            raise ManifestError(msg)
        module = import_module(f"featstore.sources.{self.module}")
        function: Callable[[Request], Found] = getattr(module, self.function)
        return function(request)


def _source(
    name: str, summary: str, example: str, where: str, options: Mapping[str, str]
) -> Source:
    module, function = where.split(":")
    return Source(
        name, summary, f"featstore manifests make {name} {example}", module, function, options
    )


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        _source(
            "folder",
            "every image below a folder",
            "photos -o manifests/photos",
            "folder:read_folder",
            _SPLIT,
        ),
        _source(
            "class-folders",
            "one folder a class, perhaps below train, val and test",
            "imagenette -o manifests/imagenette",
            "class_folders:read_class_folders",
            _SPLIT,
        ),
        _source(
            "captions",
            "a.jpg with a.txt beside it, one caption a line",
            "pairs -o manifests/pairs --option split=test",
            "captions:read_captions",
            _SPLIT,
        ),
        _source(
            "webdataset",
            "a tar, or a folder of tars, with samples by key",
            "wds_cars -o manifests/cars",
            "webdataset:read_webdataset",
            _SPLIT,
        ),
        _source(
            "parquet",
            "a Parquet file, or a folder of them, with images or paths",
            "food101/data -o manifests/food101 --option image=image",
            "parquet:read_parquet",
            COLUMN_OPTIONS,
        ),
        _source(
            "csv",
            "a comma-separated table of paths, captions, labels, splits",
            "pairs.csv -o manifests/pairs --option images=photos",
            "delimited:read_csv",
            COLUMN_OPTIONS,
        ),
        _source(
            "tsv",
            "the same, tab-separated",
            "pairs.tsv -o manifests/pairs --option caption=title",
            "delimited:read_tsv",
            COLUMN_OPTIONS,
        ),
        _source(
            "jsonl",
            "the same as a JSON object a line",
            "pairs.jsonl -o manifests/pairs",
            "jsonl:read_jsonl",
            COLUMN_OPTIONS,
        ),
        _source(
            "karpathy",
            "Karpathy's JSON of COCO or Flickr, with all captions",
            "dataset_coco.json -o manifests/coco --option images=coco",
            "karpathy:read_karpathy",
            {"images": COLUMN_OPTIONS["images"]},
        ),
        _source(
            "hf",
            "a folder made by the datasets library's save_to_disk",
            "saved/food101 -o manifests/food101-saved",
            "hf:read_hf",
            {name: text for name, text in COLUMN_OPTIONS.items() if name != "images"},
        ),
        _source(
            "torchvision",
            "a dataset of torchvision, by the name of its class",
            "data -o manifests/cifar10 --option name=CIFAR10 --option split=test",
            "torchvision_sets:read_torchvision",
            {
                "name": "name of the class, such as CIFAR10",
                "split": "split to open",
                "download": "true lets torchvision fetch it; default false",
            },
        ),
    )
}


def find_source(name: str) -> Source:
    """Return a source.

    Raises
    ------
    ManifestError
        If there is none of this name.
    """
    if name not in SOURCES:
        msg = f"No source {name!r}. Sources: {', '.join(SOURCES)}.{did_you_mean(name, SOURCES)}"
        raise ManifestError(msg)
    return SOURCES[name]
