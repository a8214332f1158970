"""Every dataset that Headstock can build by name, and how one is planned from a copy on disk."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl

from data_manifests import readers
from data_manifests.copies import (
    Disk,
    Inspection,
    Listing,
    Read,
    image_frame,
    inspect_copy,
    summary,
)
from data_manifests.labels import plan_label_set
from data_manifests.plan import (
    BuildError,
    Built,
    OnDone,
    Plan,
    fingerprint,
    published_facts,
    read_facts,
    write_pictures,
)

_FORM = (
    'a JSON object with "train", "val" and "test", each a list of [path of the image, label, '
    "class name]"
)


def coop_reader(facts: Mapping[str, Any], file: Path) -> tuple[dict[str, Any], Read]:
    """Return the facts and the reader of a dataset whose splits a file of CoOp's gives.

    The paths in the file are relative to the folder of the images, which ``coop`` of
    dataset.toml names. Its labels are the class index, its names the plain names; class ids are
    made of those names, so they are not the ones of the dataset's own lists.

    Raises
    ------
    BuildError
        If the dataset has no such split, or the file is missing or of another form.
    """
    if "coop" not in facts:
        raise BuildError(f"CoOp has no split of {facts['name']!r}; leave -s split_file out.")
    rows = _rows(file)
    counts = {split: sum(row[1] == split for row in rows) for split in ("train", "val", "test")}
    own = {
        **facts,
        "files": {},
        "options": {},
        "expected": {"classes": len({label for _, _, label, _ in rows}), "image": counts},
        "expected_with": {},
        "split_file": file.name,
        "image_folders": [*facts.get("image_folders", ()), *facts["coop"]],
    }
    own["names"] = {key: value for key, value in facts.get("names", {}).items() if key == "paper"}

    def read(disk: Disk) -> Listing:
        folder = disk.folder(facts["coop"])
        prefix = "" if folder == "." else f"{folder}/"
        disk.digests[file.name] = repr(rows)
        names = {name: index for _, _, index, name in rows}
        labels = {name: name.replace(" ", "_") for name in names}
        images = [
            (f"{prefix}{path}", split, labels[name])
            for path, split, _, name in rows
            if split in disk.splits
        ]
        order = sorted(names, key=names.__getitem__)
        return Listing(image_frame(images), [labels[name] for name in order])

    return own, read


def _rows(file: Path) -> list[tuple[str, str, int, str]]:
    """Return (path, split, index, name) of every item; raise BuildError if it is no such file."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        rows = [
            (str(path), split, int(label), str(name))
            for split in ("train", "val", "test")
            for path, label, name in document[split]
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as err:
        why = getattr(err, "strerror", None) or f"{type(err).__name__}: {err}"
        raise BuildError(f"Cannot read the splits {file}: {why}. It should be {_FORM}.") from err
    pairs = {(index, name) for _, _, index, name in rows}
    indices = {index for index, _ in pairs}
    if len(pairs) != len(indices) or indices != set(range(len(indices))):
        raise BuildError(
            f"{file} does not give each label 0, 1, 2 … one name. It should be {_FORM}."
        )
    return rows


def class_table(dataset: str, facts: Mapping[str, Any], listing: Listing) -> pl.DataFrame | None:
    """Return the label set of a listing, or None if it has no classes.

    ``name`` is the plain name: what the dataset itself gives, else the label with spaces for
    ``_``, in the case that ``[names]`` of dataset.toml says (``changed`` holds the exceptions).
    ``paper_name`` is the name as the paper prompts with it: ``paper`` of ``[names]`` around the
    plain name, or around ``paper_changed``.
    """
    if listing.classes is not None:
        return listing.classes
    if not listing.labels:
        return None
    rules = facts.get("names", {})
    plain = [plain_name(label, rules, listing.names) for label in listing.labels]
    table = pl.DataFrame(
        {
            "class_id": [f"{dataset}/{label}" for label in listing.labels],
            "index": range(len(listing.labels)),
            "name": plain,
            "name_group": [name.lower() for name in plain],
        },
        schema_overrides={"index": pl.Int64},
    ).with_columns(shared_name=pl.col("name_group").is_duplicated())
    if "paper" not in rules:
        return table
    paper = [
        paper_name(label, name, rules) for label, name in zip(listing.labels, plain, strict=True)
    ]
    return table.with_columns(paper_name=pl.Series(paper))


def plain_name(label: str, rules: Mapping[str, Any], given: Mapping[str, str]) -> str:
    """Return the plain name of a class."""
    changed = rules.get("changed", {})
    if label in changed:
        return str(changed[label])
    words = given.get(label, label).replace("_", " ").strip()
    case = rules.get("case", "as it is")
    if case == "camel":
        return " ".join(re.findall(r"[A-Z]+[^A-Z]*|[^A-Z]+", words)).lower()
    if case == "title":
        return " ".join(word.title() for word in words.split(" "))
    return words.lower() if case == "lower" else words


def paper_name(label: str, plain: str, rules: Mapping[str, Any]) -> str:
    """Return the name of a class as the paper prompts with it."""
    text = str(rules.get("paper_changed", {}).get(label, plain))
    if rules.get("paper_case") == "capital":
        text = text[:1].upper() + text[1:]
    return str(rules["paper"]).replace("{}", text)


#: Raise it when the same copy and options give other tables or pictures.
VERSION = "1"

#: How many of the things left out a manifest names.
NAMED = 20


def plan_dataset(
    folder: Path,
    read: Read,
    *,
    root: Path | None = None,
    splits: Sequence[str] | None = None,
    subset: bool = False,
    classes_only: bool = False,
    split_file: Path | None = None,
    **options: str,
) -> Plan:
    """Read a copy of a dataset; refuse it unless it is whole and right.

    Parameters
    ----------
    folder : Path
        Where its dataset.toml lies.
    read : callable
        Its reader.
    root : Path
        The copy.
    splits : sequence of str, optional
        Which splits are wanted; all by default. Recorded in the manifest.
    subset : bool
        Take what is there of a partial or other copy; what is not there is recorded.
    classes_only : bool
        Take the label set alone, from the dataset's own lists.
    split_file : Path, optional
        A ``split_zhou_*.json`` of CoOp: its items, labels, names and splits instead of the
        dataset's own lists. No counts are known of it.
    **options
        Of the dataset.

    Raises
    ------
    BuildError
        If there is no root, an option is wrong, or the copy is not what it should be.
    """
    facts = read_facts(folder)
    name = str(facts["name"])
    if split_file is not None:
        facts, read = coop_reader(facts, split_file)
    inspection = inspect_copy(
        facts, read, root, splits=splits, classes_only=classes_only, **options
    )
    problems = inspection.fatal if subset else inspection.problems
    if problems or inspection.listing is None:
        raise BuildError(
            f"{inspection.disk.root} holds no whole copy of {name}: {summary(problems)} "
            f"`headstock data build {name} --dry-run --root DIR` lists everything"
            + ("." if inspection.fatal else "; --subset builds what is there.")
        )
    listing = inspection.listing
    # Of a path only its name, which is the same elsewhere.
    paths = {str(file.get("option")) for file in facts.get("files", {}).values()}
    chosen = {
        key: Path(value).name if key in paths else value
        for key, value in inspection.disk.options.items()
        if value
    }
    made_of = {
        **({"options": chosen} if chosen else {}),
        "splits": [] if classes_only else list(inspection.disk.splits),
        "complete": not inspection.problems,
    }
    if inspection.problems:
        counts = Counter[str](problem.kind for problem in inspection.problems)
        first = [problem.text for problem in inspection.problems[:NAMED]]
        made_of["left_out"] = {**counts, "first": first}
    return Plan(
        name=name,
        facts={**published_facts(facts), **made_of},
        fingerprint=_fingerprint(folder, inspection, listing, made_of),
        make=partial(_make, name, facts, listing, inspection.disk.splits),
        root=None if listing.arrays or classes_only else inspection.disk.root,
    )


def _make(
    name: str,
    facts: Mapping[str, Any],
    listing: Listing,
    splits: Sequence[str],
    out: Path,
    on_done: OnDone | None,
) -> Built:
    if listing.arrays:
        from PIL import Image

        seen: Counter[str] = Counter()
        jobs = []
        for path, split in listing.images.select("path", "split").iter_rows():
            jobs.append((out / path, partial(Image.fromarray, listing.arrays[split][seen[split]])))
            seen[split] += 1
        write_pictures(jobs, on_done)
    classes = class_table(name, facts, listing)
    usual: dict[str, tuple[str, ...]] = {"name": ("none", "photo")}
    if classes is not None and "paper_name" in classes.columns:
        usual["paper"] = ("paper",)
    prompts = {key: tuple(ids) for key, ids in facts.get("prompts", usual).items()}
    return Built(
        item_tables(name, listing, splits), classes, prompts if classes is not None else {}
    )


def item_tables(name: str, listing: Listing, splits: Sequence[str]) -> dict[str, pl.DataFrame]:
    """Return the item tables of a listing: images by split and path, captions in their order.

    Ids are ``<dataset>/image/<path>`` and ``<dataset>/caption/<key>``: they do not depend on
    the order in which files are listed, nor on what else is there.
    """
    if listing.images.is_empty():
        return {}
    own = set(listing.classes["class_id"]) if listing.classes is not None else set()
    prefix = next(iter(own)).rpartition("/")[0] if own else name
    order = {split: place for place, split in enumerate(splits)}
    images = (
        listing.images.sort(pl.col("split").replace_strict(order, return_dtype=pl.Int64), "path")
        if not listing.arrays
        else listing.images
    )
    extra = [column for column in images.columns if column not in ("path", "split", "label")]
    key = pl.col("path").str.strip_prefix("images/") if listing.arrays else pl.col("path")
    tables = {
        "image": images.select(
            item_id=pl.lit(f"{name}/image/") + key,
            uri=pl.col("path"),
            class_id=pl.lit(f"{prefix}/") + pl.col("label"),
            split=pl.col("split"),
            **{column: pl.col(column) for column in extra},
        )
    }
    if listing.captions is not None:
        facts = images.select("path", "split", *(c for c in extra if c == "source_split"))
        tables["caption"] = (
            listing.captions.join(facts, on="path", maintain_order="left")
            .with_columns(
                item_id=pl.lit(f"{name}/caption/") + pl.col("key"),
                parent_id=pl.lit(f"{name}/image/") + pl.col("path"),
            )
            .drop("key", "path")
        )
    return tables


def _fingerprint(
    folder: Path, inspection: Inspection, listing: Listing, made_of: Mapping[str, Any]
) -> str:
    digest = hashlib.sha256()
    for row, size in zip(listing.images.iter_rows(), inspection.sizes, strict=False):
        digest.update(repr((row, size)).encode())
    # Where the code of the reader lies decides nothing: what it does is in VERSION.
    described = re.sub(rb"(?m)^reader = .*\n", b"", (folder / "dataset.toml").read_bytes())
    return fingerprint(
        [
            VERSION,
            described,
            repr(sorted(made_of.items())),
            repr(sorted(inspection.disk.digests.items())),
            digest.digest(),
        ]
    )


#: Keyword arguments of every dataset that is read from its official layout.
FROM_DISK = frozenset({"root", "splits", "subset", "classes_only", "split_file"})
_WITH_FLAGS = FROM_DISK | {"source", "locales"}


@dataclass(frozen=True)
class Builder:
    """One dataset, as its dataset.toml says: which options it takes, and how it is planned.

    A key there says what reads it: ``reader``, its official layout on disk (a function of
    `data_manifests.readers`); ``synsets``, a label set of timm's files. Without either a function
    `plan` in the module of its name does.
    """

    folder: Path
    """Where its dataset.toml lies."""

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Facts of dataset.toml: revision, licence, home page, summary, expected counts …."""
        return read_facts(self.folder)

    @property
    def name(self) -> str:
        """Name on the command line and first part of every id."""
        return str(self.facts["name"])

    @property
    def options(self) -> frozenset[str]:
        """Keyword arguments of `plan` that the user may give."""
        taken = frozenset(self.facts.get("options", {}))
        if "reader" in self.facts:
            taken |= FROM_DISK
        if "synsets" in self.facts:
            taken |= {"source"}
        own = self._own_plan
        return taken if own is None else taken.union(inspect.signature(own).parameters)

    @property
    def summary(self) -> str:
        """One sentence on what the dataset is."""
        return str(self.facts["summary"])

    @property
    def read(self) -> Read | None:
        """The reader of its official layout, if it is read from one: of ``readers``, by name."""
        if "reader" not in self.facts:
            return None
        read: Read = getattr(readers, self.facts["reader"])
        return read

    @property
    def _own_plan(self) -> Callable[..., Plan] | None:
        """The function `plan` of its own module, if neither key says what reads it."""
        if self.facts.keys() & {"reader", "synsets"}:
            return None
        plan: Callable[..., Plan] = import_module(f"data_manifests.{self.folder.name}").plan
        return plan

    def plan(self, **options: Any) -> Plan:
        """Find and read the source, and decide what would be built.

        A label set whose pictures can be read as well is planned with them if a root is given.

        Raises
        ------
        BuildError
            If that cannot be done.
        """
        own, read = self._own_plan, self.read
        if own is not None:
            return own(**options)
        given = options.pop("source", None)
        if read is not None and ("root" in options or "synsets" not in self.facts):
            return plan_dataset(self.folder, read, **options)
        return plan_label_set(self.facts, source=given)


@dataclass(frozen=True)
class OwnBuilder(Builder):
    """A dataset of another package, which a function plans."""

    plan_with: Callable[..., Plan]
    named: str

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Its name, the first line of the function's docstring, and options without a flag."""
        text = (inspect.getdoc(self.plan_with) or "").partition("\n")[0]
        free = inspect.signature(self.plan_with).parameters.keys() - _WITH_FLAGS
        options = {name: {"what": f"parameter of {self.plan_with.__name__}"} for name in free}
        return {"name": self.named, "summary": text, "options": dict(sorted(options.items()))}

    @property
    def _own_plan(self) -> Callable[..., Plan]:
        return self.plan_with


#: Name -> dataset, by name.
BUILDERS: dict[str, Builder] = {
    file.parent.name: Builder(file.parent)
    for file in sorted(Path(__file__).parent.glob("*/dataset.toml"))
}
