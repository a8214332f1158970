"""Build the stamps: images of Commons that show one class each."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from data_manifests.official.inspection import chosen_splits
from data_manifests.plan import (
    BuildError,
    Built,
    OnDone,
    Plan,
    check_known,
    fingerprint,
    read_facts,
    write_pictures,
)
from data_manifests.stamps.fetch import find_source, package_version, read_stamp

#: A caption file is refused above this size; the largest of the package has 8 KB.
MAX_CAPTION_BYTES = 2**20

_COPY = re.compile(r"_(mirror|flip|mirrorflip)$")
_TRANSLATION = re.compile(r"^([A-Za-z]{2,3}(?:[_@][A-Za-z]+)*)\.utf8=(.*)$")


@dataclass(frozen=True)
class Stamp:
    """One captioned picture of the package."""

    path: str
    """Path below the stamps folder, with ``/`` and without suffix: ``animals/birds/gull``."""

    description: str
    """The first line of its caption file: English, with its full stop."""

    translations: dict[str, str]
    """Locale -> caption, without empty ones."""

    def caption(self, locale: str) -> str | None:
        """Return the caption in `locale`, or None if there is none; ``en`` is the description."""
        return self.description if locale == "en" else self.translations.get(locale)


def is_selected(path: str) -> bool:
    """Return whether a stamp (path below the root, without suffix) belongs to the selection.

    Left out: ``symbols/`` (letters, clocks and coins), whatever lies in a ``cartoon`` folder, and
    the mirrored or flipped copies, whose caption repeats that of the original.
    """
    *folders, name = path.split("/")
    return folders[:1] != ["symbols"] and "cartoon" not in folders and not _COPY.search(name)


def select_stamps(root: Path) -> list[Stamp]:
    """Return the selected stamps below `root`, sorted by path.

    A stamp is a PNG with a ``.txt`` of the same name beside it. Symbolic links are not followed.

    Raises
    ------
    BuildError
        If there is none, or a caption file is not UTF-8 or too large.
    """
    stamps = []
    for folder, _, names in os.walk(root):
        present = {name for name in names if not (Path(folder) / name).is_symlink()}
        for name in present:
            stem, suffix = os.path.splitext(name)  # noqa: PTH122 -- a Path per file is slow
            if suffix != ".png" or f"{stem}.txt" not in present:
                continue
            path = (Path(folder) / stem).relative_to(root).as_posix()
            if is_selected(path):
                stamp = read_caption(Path(folder) / f"{stem}.txt", path)
                if stamp is not None:
                    stamps.append(stamp)
    if not stamps:
        raise BuildError(
            f"{root} holds no PNG with a .txt beside it. Give the stamps folder of Tux Paint, or a "
            "folder with the .deb of tuxpaint-stamps-default, with -s files=FOLDER."
        )
    return sorted(stamps, key=lambda stamp: stamp.path)


def read_caption(file: Path, path: str) -> Stamp | None:
    """Read a caption file: the English description, then lines ``ll.utf8=text``.

    Returns
    -------
    Stamp or None
        None if the first line is empty: a picture without words.

    Raises
    ------
    BuildError
        If it is not UTF-8, or larger than a caption can be.
    """
    if file.stat().st_size > MAX_CAPTION_BYTES:
        raise BuildError(
            f"{file} has {file.stat().st_size:,} bytes; a caption file has a few thousand."
        )
    try:
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as err:
        raise BuildError(
            f"{file} is not UTF-8 (byte {err.start:,}). Fetch the package again, or remove it."
        ) from err
    description = lines[0].strip() if lines else ""
    if not description:
        return None
    found = (match for line in lines[1:] if (match := _TRANSLATION.match(line)))
    translations = {match[1]: text for match in found if (text := match[2].strip())}
    return Stamp(path, description, translations)


logger = logging.getLogger(__name__)

#: Raise it when the same source and options give other tables or pictures.
VERSION = "1"

PROMPTS = {"name": ("none", "photo")}

#: Characters of a class id that come from the description.
SLUG_LENGTH = 60

_ARTICLE = re.compile(r"^(?:A|An|The|Some) (?=\S)")


#: The splits of `split_of`, in the order of their shares.
SPLITS = ("train", "val", "test")


def plan(
    *,
    source: Path | None = None,
    locales: Sequence[str] = ("en",),
    splits: Sequence[str] | None = None,
) -> Plan:
    """Find the stamps, read their captions and decide what would be built.

    Parameters
    ----------
    source : Path, optional
        See `data_manifests.stamps.fetch.find_source`.
    locales : sequence of str
        Languages of the captions, e.g. ``("en", "fr")``; ``en`` is the description itself.
    splits : sequence of str, optional
        Only the images and captions of these splits; the label set stays whole.

    Raises
    ------
    BuildError
        If the stamps cannot be found or read, no stamp has a caption in a locale, or there is no
        such split.
    """
    chosen = tuple(dict.fromkeys(locales)) or ("en",)
    kept = chosen_splits({"image": dict.fromkeys(SPLITS)}, splits)
    root = find_source(source)
    stamps = select_stamps(root)
    check_known("locale", chosen, sorted({"en"}.union(*(one.translations for one in stamps))))
    files = [root / f"{stamp.path}.png" for stamp in stamps]
    identity = fingerprint(
        [
            "stamps",
            VERSION,
            ",".join(chosen),
            *(f"split {split}" for split in kept if kept != SPLITS),
            *(repr((s.path, s.description, sorted(s.translations.items()))) for s in stamps),
            *(_digest(file) for file in files),
        ]
    )
    facts = read_facts(Path(__file__).parent)
    facts["revision"] = package_version(root) or f"sha256-{identity[:8]}"
    facts["locales"] = list(chosen)
    facts["found"] = {
        "images": len(stamps),
        "descriptions": len({stamp.description for stamp in stamps}),
    }
    for what, expected in facts["expected"].items():
        got = facts["found"][what]
        if got != expected:
            logger.warning(
                "stamps: %s holds %s %s; the documented selection of version %s has %s. Numbers "
                "will differ from published ones.",
                root, f"{got:,}", what, read_facts(Path(__file__).parent)["revision"],
                f"{expected:,}",
            )  # fmt: skip
    if kept != SPLITS:
        facts["splits"] = list(kept)
    return Plan("stamps", facts, identity, partial(_make, root, stamps, chosen, kept))


def split_of(description: str) -> str:
    """Return the split of a description: 60 % train, 20 % val, 20 % test.

    It depends on the sha256 of the text alone, so it survives new versions of the package, and
    every image with this description is in the same split.
    """
    head = hashlib.sha256(description.encode("utf-8")).digest()[:8]
    place = int.from_bytes(head, "big") / 2**64
    return "train" if place < 0.6 else "val" if place < 0.8 else "test"


def class_ids(descriptions: Iterable[str]) -> dict[str, str]:
    """Return description -> class id, ``stamps/<slug>``.

    Descriptions whose slugs collide all get 8 digits of their sha256 behind it, so that the ids
    do not depend on the order.
    """
    by_slug: dict[str, list[str]] = defaultdict(list)
    for description in dict.fromkeys(descriptions):
        plain = unicodedata.normalize("NFKD", description).encode("ascii", "ignore").decode()
        slug = re.sub(r"[^a-z0-9]+", "-", plain.lower())[:SLUG_LENGTH].strip("-")
        by_slug[slug].append(description)
    ids = {}
    for slug, same in by_slug.items():
        for description in same:
            digits = hashlib.sha256(description.encode("utf-8")).hexdigest()[:8]
            alone = len(same) == 1 and slug
            ids[description] = f"stamps/{slug}" if alone else f"stamps/{slug}-{digits}"
    return ids


def noun_of(description: str) -> str:
    """Return what a prompt names: the description without leading article and last ``.!?``.

    ``A red kangaroo.`` gives ``red kangaroo``, for "a photo of a red kangaroo." Capitals stay as
    they are: after an article they mark a proper name (``A Silver Gull.``), and without one
    nothing tells ``Right eye.`` from ``Mars``.
    """
    return _ARTICLE.sub("", description.rstrip(".!? ")) or name_of(description)


def name_of(description: str) -> str:
    """Return the name of a class: its description without the final full stop."""
    return description.removesuffix(".").rstrip() or description


def class_table(descriptions: Iterable[str]) -> pl.DataFrame:
    """Return the label set: one class a description, sorted by class id."""
    ids = class_ids(descriptions)
    ordered = sorted(ids, key=ids.__getitem__)
    return pl.DataFrame(
        {
            "class_id": [ids[text] for text in ordered],
            "index": range(len(ordered)),
            "synset": [None] * len(ordered),
            "lemmas": [None] * len(ordered),
            "definition": [None] * len(ordered),
            "name": [name_of(text) for text in ordered],
            "noun": [noun_of(text) for text in ordered],
            "split": [split_of(text) for text in ordered],
        },
        schema_overrides={
            "index": pl.Int64,
            "synset": pl.String,
            "lemmas": pl.String,
            "definition": pl.String,
        },
    ).with_columns(shared_name=pl.col("noun").str.to_lowercase().is_duplicated())


def item_tables(stamps: Sequence[Stamp], locales: Sequence[str]) -> dict[str, pl.DataFrame]:
    """Return the image and caption tables, in order of path, then of `locales`."""
    ids = class_ids(stamp.description for stamp in stamps)
    images = [
        {
            "item_id": f"stamps/{stamp.path}",
            "kind": "image",
            "uri": f"images/{stamp.path}.png",
            "class_id": ids[stamp.description],
            "split": split_of(stamp.description),
        }
        for stamp in stamps
    ]
    captions = [
        {
            "item_id": f"stamps/{stamp.path}#{locale}",
            "kind": "caption",
            "text": text,
            "parent_id": f"stamps/{stamp.path}",
            "class_id": ids[stamp.description],
            "variant": locale,
            "split": split_of(stamp.description),
        }
        for stamp in stamps
        for locale in locales
        if (text := stamp.caption(locale)) is not None
    ]
    return {"image": pl.DataFrame(images), "caption": pl.DataFrame(captions)}


def _make(
    root: Path,
    stamps: Sequence[Stamp],
    locales: Sequence[str],
    splits: Sequence[str],
    out: Path,
    on_done: OnDone | None,
) -> Built:
    kept = [stamp for stamp in stamps if split_of(stamp.description) in splits]
    write_pictures(
        [
            (out / "images" / f"{s.path}.png", partial(read_stamp, root / f"{s.path}.png"))
            for s in kept
        ],
        on_done,
    )
    absent = {lang: sum(stamp.caption(lang) is None for stamp in kept) for lang in locales}
    return Built(
        # Of all stamps: the id of a class does not depend on which are kept.
        tables={
            kind: table.filter(pl.col("split").is_in(splits))
            for kind, table in item_tables(stamps, locales).items()
        },
        classes=class_table(stamp.description for stamp in stamps),
        prompts=PROMPTS,
        facts={"images_without_caption": absent},
    )


def _digest(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError as err:
        raise BuildError(
            f"Cannot read {file}: {err.strerror}. Give a readable folder with -s files=FOLDER."
        ) from err
