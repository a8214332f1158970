"""Stamps: 570 captioned pictures of Tux Paint, half photographs, half drawings."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import re
import subprocess
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from data_manifests import cache_folder
from data_manifests.copies import chosen_splits
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

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

logger = logging.getLogger(__name__)

PACKAGE = "tuxpaint-stamps-default"

#: Where the package keeps its stamps, below the root of a file system.
INSIDE = Path("usr/share/tuxpaint/stamps")
#: Where installed packages are looked for.
SYSTEM = Path("/")

#: Seconds that apt or dpkg may take: the package has 81 MB.
TIMEOUT_S = 900

_ADVICE = (
    "Install the package (apt-get install tuxpaint-stamps-default), or give its stamps folder or "
    "a folder with its .deb with -s files=FOLDER."
)


def find_source(folder: Path | None = None) -> Path:
    """Return the folder of the stamps: in `folder`, else installed, else cached, else through apt.

    Parameters
    ----------
    folder : Path, optional
        A folder that contains the stamps tree (itself or below usr/share/tuxpaint/stamps) or a
        .deb of the package, or the .deb itself. Nothing else is tried when it is given.

    Raises
    ------
    BuildError
        If there are no stamps there, or apt cannot fetch them.
    """
    cache = cache_folder("stamps")
    if folder is not None:
        return _in_folder(folder, cache).resolve()
    return find_local() or (fetch_package(cache) / INSIDE).resolve()


def find_local() -> Path | None:
    """Return the folder of the stamps that are installed, else in the cache, else None."""
    cached = sorted(cache_folder("stamps").glob(f"{PACKAGE}_*"), reverse=True)
    return next(
        ((root / INSIDE).resolve() for root in (SYSTEM, *cached) if _has_stamps(root / INSIDE)),
        None,
    )


def fetch_package(cache: Path) -> Path:
    """Download the package through apt, without root, and unpack it into `cache`.

    apt's own state and archives are not touched: it gets empty ones of its own.

    Raises
    ------
    BuildError
        If apt-get or dpkg-deb is missing or fails.
    """
    logger.info("fetching %s (81 MB) through apt into %s", PACKAGE, cache)
    with _staging(cache) as staged:
        state, archives = staged / "state", staged / "archives"
        for needed in (state / "lists" / "partial", archives / "archives" / "partial"):
            needed.mkdir(parents=True)
        (state / "status").touch()
        apt = [
            "apt-get", "-q", "-o", f"Dir::State={state}",
            "-o", f"Dir::State::status={state / 'status'}", "-o", f"Dir::Cache={archives}",
            "-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=1",
            "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=60",
        ]  # fmt: skip
        _call([*apt, "update"], staged)
        _call([*apt, "download", PACKAGE], staged)
        packages = list(staged.glob("*.deb"))
        if len(packages) != 1:
            raise BuildError(
                f"apt-get download left {len(packages)} packages instead of one. {_ADVICE}"
            )
        return unpack(packages[0], cache)


def unpack(package: Path, cache: Path) -> Path:
    """Unpack a .deb below `cache` and return the root of its files.

    The folder appears under its name only when it is complete; if it exists it is used.

    Raises
    ------
    BuildError
        If dpkg-deb is missing or refuses the file, or it holds no stamps.
    """
    target = cache / f"{package.stem}-{package.stat().st_size}"
    if _has_stamps(target / INSIDE):
        return target
    with _staging(cache) as staged:
        _call(["dpkg-deb", "-x", str(package.resolve()), str(staged / "root")], staged)
        if not _has_stamps(staged / "root" / INSIDE):
            raise BuildError(f"{package} holds no {INSIDE}; it is not {PACKAGE}. {_ADVICE}")
        with suppress(OSError):  # another process may have unpacked the same package meanwhile
            (staged / "root").rename(target)
        if not _has_stamps(target / INSIDE):
            raise BuildError(f"Cannot write {target}. Set HEADSTOCK_CACHE elsewhere.")
    return target


def package_version(root: Path) -> str | None:
    """Return the version of the package that `root` belongs to, from its changelog, or None."""
    changelog = root.parents[1] / "doc" / PACKAGE / "changelog.Debian.gz"
    try:
        with gzip.open(changelog, "rt", encoding="utf-8") as file:
            match = re.match(r"\S+ \(([^)\s]+)\)", file.readline(1000))
    except (OSError, EOFError, UnicodeDecodeError):
        return None
    return match[1] if match else None


def _in_folder(folder: Path, cache: Path) -> Path:
    if not folder.exists():
        raise BuildError(f"{folder} does not exist. {_ADVICE}")
    for start in range(len(INSIDE.parts) + 1):
        inside = folder / Path(*INSIDE.parts[start:])
        if _has_stamps(inside):
            return inside
    packages = [folder] if folder.is_file() else sorted(folder.glob(f"{PACKAGE}_*.deb"))
    if packages:
        return unpack(packages[-1], cache) / INSIDE
    raise BuildError(
        f"{folder} holds neither stamps (a PNG with a .txt beside it) nor a .deb. {_ADVICE}"
    )


def _has_stamps(root: Path) -> bool:
    """Return whether a captioned PNG lies somewhere below `root`; stops at the first."""
    for _, _, names in os.walk(root):
        present = set(names)
        if any(n.endswith(".png") and f"{n[:-4]}.txt" in present for n in names):
            return True
    return False


@contextmanager
def _staging(cache: Path) -> Iterator[Path]:
    """Yield an empty folder beside the unpacked packages, and remove it afterwards."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        staged = tempfile.TemporaryDirectory(prefix=".staged-", dir=cache)
    except OSError as err:
        raise BuildError(
            f"Cannot write the cache {cache}: {err.strerror}. Set HEADSTOCK_CACHE elsewhere."
        ) from err
    with staged as folder:
        yield Path(folder)


def _call(command: list[str], folder: Path) -> None:
    """Run a command in `folder`; raise BuildError with its last words if it fails."""
    try:
        done = subprocess.run(  # noqa: S603 -- fixed commands, no shell
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as err:
        raise BuildError(f"The stamps need {command[0]}, and it is not here. {_ADVICE}") from err
    except subprocess.TimeoutExpired as err:
        raise BuildError(f"{command[0]} did not finish in {TIMEOUT_S:,} s. {_ADVICE}") from err
    if done.returncode:
        errors = [line for line in done.stdout.splitlines() if line.startswith(("E:", "dpkg-deb:"))]
        last = "; ".join(errors[:2]) or done.stdout.strip()[-200:] or "it said nothing"
        raise BuildError(f"{command[0]} failed with status {done.returncode}: {last}. {_ADVICE}")


#: Side of the square over the long side of the stamp: most stamps touch their frame.
MARGIN = 1.1

#: Larger squares are scaled down: encoders look at 224 to 448 pixels.
MAX_SIDE = 1024


def compose(stamp: Picture) -> Picture:
    """Return `stamp` centred on a white square of side round(1.1 × long side), as RGB.

    Squares above 1024 pixels are scaled down to 1024 (Lanczos).
    """
    from PIL import Image

    rgba = stamp.convert("RGBA")
    side = max(1, round(MARGIN * max(rgba.size)))
    square = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    square.alpha_composite(rgba, ((side - rgba.width) // 2, (side - rgba.height) // 2))
    rgb = square.convert("RGB")
    if side > MAX_SIDE:
        return rgb.resize((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return rgb


def read_stamp(source: Path) -> Picture:
    """Return the composed stamp of a file.

    Raises
    ------
    BuildError
        If it is not an image, or has more pixels than Pillow opens.
    """
    from PIL import Image

    try:
        with Image.open(source) as stamp:
            return compose(stamp)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
        raise BuildError(
            f"{source} cannot be decoded: {err}. Fetch the package again, or remove the file."
        ) from err


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
        If there is none, or a caption file is not UTF-8.
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
        If it is not UTF-8.
    """
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
        See `data_manifests.stamps.find_source`.
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
    facts = read_facts(Path(__file__).with_suffix(""))
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
                root, f"{got:,}", what, read_facts(Path(__file__).with_suffix(""))["revision"],
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
