"""Build the datasets that Headstock knows by name: builder, prompts, validation, publication."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from data_manifests.official.inspection import Inspection
from data_manifests.plan import BuildError, Plan
from data_manifests.registry import BUILDERS, Builder
from featstore.errors import ManifestError, OptionError, lookup, unknown_name
from featstore.labels import read_label_file
from featstore.manifest.io import check_name, read_facts, read_manifest, write_manifest
from featstore.manifest.manifest import FACTS_FILE, Manifest
from featstore.options import option, with_options
from featstore.prompts import PromptChoice
from featstore.sources.reader import check_bytes
from featstore.sources.web_pairs import check_pairs, plan_pairs

logger = logging.getLogger(__name__)

#: Folder inside the output where files are made before they take their places. One that is left
#: over tells that a build was killed, and (in the file ``dataset``) of what.
STAGING = ".building"


@dataclass(frozen=True)
class BuildResult:
    """A built dataset, and whether anything had to be done."""

    manifest: Manifest
    """What lies in the folder now."""

    status: Literal["built", "unchanged"]
    """``unchanged``: the folder already held this, whole, and no file was touched."""


@with_options
@dataclass(frozen=True)
class BuildConfig:
    """How a dataset is built, as a command line says it; a dataset takes some of these.

    Attributes
    ----------
    {options}
    """

    name: str | None = option(
        None, help="Name of the dataset in the manifest and the store (default: DATASET)."
    )
    root: Path | None = option(
        None,
        help="Folder with the dataset as it is distributed. Its files stay where they are.",
    )
    source: Path | None = option(
        None,
        help="stamps: a folder with the stamps or with the .deb of tuxpaint-stamps-default. "
        "imagenet…: a folder with timm's label files.",
    )
    split: tuple[str, ...] = option((), help="Only these splits, e.g. test.")
    subset: bool = option(False, help="Accept an incomplete copy (recorded in the manifest).")
    classes_only: bool = option(False, help="Only the label set, without images.")
    split_file: Path | None = option(
        None,
        help="A split_zhou_….json of CoOp: its items, names and splits instead of the official "
        "ones.",
    )
    locale: tuple[str, ...] = option(
        (), help="Languages of captions, e.g. en,fr (stamps only; default en)."
    )

    def builder_options(self, dataset: str) -> dict[str, Any]:
        """Return what was chosen, as `build_dataset` takes it.

        Raises
        ------
        OptionError
            If the dataset does not take it.
        ManifestError
            If there is no dataset of this name.
        """
        builder, chosen = find_builder(dataset), {}
        for field, keyword in _KEYWORDS.items():
            value = getattr(self, field)
            if value in (None, (), False):
                continue
            if keyword not in builder.options:
                flag = field.replace("_", "-")
                raise OptionError(f"The dataset {dataset!r} takes no --{flag}.")
            chosen[keyword] = value if field != "classes_only" else False
        return chosen


#: Field of `BuildConfig` -> keyword of the builders.
_KEYWORDS = {
    "root": "root", "source": "source", "split": "splits", "subset": "subset",
    "classes_only": "images", "split_file": "split_file", "locale": "locales",
}  # fmt: skip


def build_dataset(
    dataset: str,
    out: Path | str,
    *,
    name: str | None = None,
    on_done: Callable[[int, int], None] | None = None,
    prompts: PromptChoice | None = None,
    **options: Any,
) -> BuildResult:
    """Build a dataset into a folder, unless the folder already holds the same.

    The same means: the fingerprint of source, options and builder is the one in dataset.toml,
    and every table and file has its recorded sha256.

    Where `prompts` give all class_name items of an earlier build in the folder and more, those
    stay first and in their order, so that a set that was extracted from them can be extended.

    Parameters
    ----------
    dataset : str
        Key of ``data_manifests.registry.BUILDERS``.
    out : Path
        A folder that is empty, does not exist, or holds an earlier build of this dataset; files
        of that build that are not in the new one are removed.
    name : str, optional
        Name of the dataset in the manifest, and so in the store; default: its own.
    on_done : callable, optional
        Called with (done, total) as files are written.
    prompts : PromptChoice, optional
        Which names and templates the class_name items are made of; default: the dataset's own.
    **options
        Of the builder: ``source`` (Path; label sets and stamps), ``locales`` (stamps); of a
        dataset on disk ``root`` (Path), ``splits``, ``subset``, ``images``, ``split_file`` (see
        `data_manifests.official.dataset.plan_dataset`) and those of its dataset.toml. None means
        the default.

    Raises
    ------
    ManifestError
        If a name or an option is unknown, the source is missing or damaged, or `out` holds
        something else or cannot be written.
    """
    builder = find_builder(dataset)
    given = {key: value for key, value in options.items() if value is not None}
    unknown = [key for key in given if key not in builder.options]
    if unknown:
        raise ManifestError(
            unknown_name(
                "option", unknown[0], sorted(builder.options), where=f"for the dataset {dataset!r}"
            )
        )
    folder, name = Path(out), check_name(name or dataset)
    _check_ours(folder, name)
    choice = prompts or PromptChoice()
    try:
        plan = plan_pairs(builder, **given) if builder.source else builder.plan(**given)
        identity = choice.fingerprint(plan.fingerprint)
        earlier = _earlier(folder)
        if earlier is not None and _same(earlier, plan, identity):
            return BuildResult(earlier, "unchanged")
        with _staging(folder, name) as staging:
            built = plan.make(staging, on_done)
            tables, classes = dict(built.tables), built.classes
            if classes is not None:
                classes, items = choice.make(plan.name, classes, built.prompts)
                tables |= {"class_name": _after(earlier, items)} if items is not None else {}
            if plan.root is None:
                for table in tables.values():
                    if "uri" in table.columns:
                        _move(table["uri"].drop_nulls(), staging, folder)
            source = {"fingerprint": identity, **choice.facts()}
            facts = {**plan.facts, **built.facts, "name": name, "source": source}
            manifest = write_manifest(
                folder, facts=facts, tables=tables, classes=classes, data_root=plan.root
            )
    except BuildError as err:
        raise ManifestError(str(err)) from err
    _remove_stale(folder, earlier, manifest)
    return BuildResult(manifest, "built")


def _after(earlier: Manifest | None, items: pl.DataFrame) -> pl.DataFrame:
    """Return prompts with those of an earlier build first, if none of these was lost or changed."""
    before = None if earlier is None else earlier.tables.get("class_name")
    if before is None:
        return items
    known = before.select("item_id", "text").with_row_index("before")
    placed = items.join(known, on=["item_id", "text"], how="left", maintain_order="left")
    if placed["before"].count() < before.height:
        return items
    return placed.sort("before", nulls_last=True, maintain_order=True).drop("before")


def check_dataset(name: str, **options: Any) -> Inspection:
    """Compare a copy of a dataset on disk with what is known of it, and write nothing.

    Parameters
    ----------
    name : str
        Key of ``data_manifests.registry.BUILDERS``.
    **options
        ``root`` (Path), ``splits``, ``images`` and those of its dataset.toml, as for
        `build_dataset`.

    Returns
    -------
    Inspection
        Its ``problems`` are everything that is wrong, item by item.

    Raises
    ------
    ManifestError
        If the dataset is not read from a folder, or an option is wrong.
    """
    builder = find_builder(name)
    given = {key: value for key, value in options.items() if value is not None}
    if builder.read is None and not builder.source:
        raise ManifestError(f"{name!r} is not read from a copy on disk: there is nothing to check.")
    try:
        return check_pairs(builder, **given) if builder.source else builder.check(**given)
    except BuildError as err:
        raise ManifestError(str(err)) from err


def write_label_set(
    label_file: Path | str,
    out: Path | str,
    *,
    name: str | None = None,
    prompts: PromptChoice | None = None,
) -> Manifest:
    """Make a manifest of a user's own list of classes, with prompts of their names.

    Parameters
    ----------
    label_file : path
        See `featstore.labels.read_label_file`.
    out : path
        A folder that is empty, does not exist, or holds a manifest of the same name.
    name : str, optional
        Of the label set; by default made of the file's name.
    prompts : PromptChoice, optional
        See `build_dataset`; default: the name, bare and in a photo.

    Raises
    ------
    ManifestError
        If the file is no list of classes, or `out` holds something else.
    """
    set_name, classes = read_label_file(label_file, name=name)
    folder = Path(out)
    _check_ours(folder, set_name)
    facts: dict[str, Any] = {
        "name": set_name,
        "summary": f"The {classes.height:,} classes of {Path(label_file).name}.",
    }
    choice = prompts or PromptChoice()
    if choice.facts():
        facts["source"] = choice.facts()
    classes, items = choice.make(set_name, classes, {"name": ("none", "photo")})
    assert items is not None
    tables = {"class_name": _after(_earlier(folder), items)}
    return write_manifest(folder, facts=facts, tables=tables, classes=classes)


def find_builder(name: str) -> Builder:
    """Return the builder of a dataset.

    Raises
    ------
    ManifestError
        If there is none of this name.
    """
    return lookup(
        BUILDERS, name, what="dataset", error=ManifestError, listed_by="featstore manifests ls"
    )


def synsets_of(label_set: str) -> frozenset[str]:
    """Return the synsets of a label set of ImageNet's, such as ``imagenet1k``.

    Raises
    ------
    ManifestError
        If there is no dataset of this name, its classes are no synsets, or timm's files, which
        hold them, are not installed.
    """
    builder = find_builder(label_set)
    if "synsets" not in builder.facts:
        raise ManifestError(
            f"The classes of {label_set} are no synsets. Name one such as imagenet1k."
        )
    try:
        classes = builder.plan().make(Path(), None).classes
    except BuildError as err:
        raise ManifestError(str(err)) from err
    assert classes is not None
    return frozenset(classes["synset"])


def _same(earlier: Manifest, plan: Plan, identity: str) -> bool:
    """Return whether a manifest is what this plan would make, with its files where they are."""
    if plan.root is not None and earlier.root.resolve() != plan.root.resolve():
        return False
    return _fingerprint(earlier.facts) == identity


def _check_ours(folder: Path, name: str) -> None:
    """Raise ManifestError if `folder` holds anything but a build of `name`."""
    try:
        if not folder.exists() or not any(folder.iterdir()):
            return
        if (folder / FACTS_FILE).is_file():
            held = read_facts(folder).get("name")
        else:
            held = (folder / STAGING / "dataset").read_text(encoding="utf-8").strip()
    except NotADirectoryError as err:
        raise ManifestError(f"{folder} is not a folder. Choose another one.") from err
    except FileNotFoundError as err:
        raise ManifestError(
            f"{folder} holds files that are no build of {name!r}. Choose an empty or new folder."
        ) from err
    except OSError as err:
        raise ManifestError(
            f"Cannot read {folder}: {err.strerror or err}. Choose another folder."
        ) from err
    if held != name:
        raise ManifestError(
            f"{folder} holds the dataset {held!r}, not {name!r}. Choose another folder."
        )


def _earlier(folder: Path) -> Manifest | None:
    """Return the whole, undamaged manifest in `folder`, or None."""
    if not (folder / FACTS_FILE).is_file():
        return None
    try:
        manifest = read_manifest(folder)
        check_bytes(manifest)
    except ManifestError as err:
        logger.info("building %s again: %s", folder, err)
        return None
    return manifest


def _fingerprint(facts: Any) -> str | None:
    source = facts.get("source")
    return source.get("fingerprint") if isinstance(source, dict) else None


@contextmanager
def _staging(folder: Path, name: str) -> Iterator[Path]:
    """Yield an empty folder inside `folder`; afterwards it is gone, and so is an empty `folder`."""
    staging = folder / STAGING
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        (staging / "dataset").write_text(f"{name}\n", encoding="utf-8")
    except OSError as err:
        raise ManifestError(
            f"Cannot write into {folder}: {err.strerror or err}. Choose another folder."
        ) from err
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def _move(uris: Iterable[str], staging: Path, folder: Path) -> None:
    """Move finished files to their places; takes milliseconds, so a kill rarely falls into it."""
    try:
        for uri in uris:
            (folder / uri).parent.mkdir(parents=True, exist_ok=True)
            (staging / uri).replace(folder / uri)
    except OSError as err:
        raise ManifestError(
            f"Cannot write into {folder}: {err.strerror or err}. Choose another folder."
        ) from err


def _remove_stale(folder: Path, earlier: Manifest | None, manifest: Manifest) -> None:
    """Remove the files of the earlier build that the new one does not name.

    Only those that builds made inside `folder`: files that a manifest found elsewhere are the
    user's, and never touched.
    """
    if earlier is None or earlier.root != folder:
        return
    made, kept = (
        {uri for table in m.tables.values() for uri in table["uri"].drop_nulls()}
        for m in (earlier, manifest)
    )
    for uri in sorted(made - kept if manifest.root == folder else made):
        (folder / uri).unlink(missing_ok=True)
