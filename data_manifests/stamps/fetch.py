"""Fetch the pictures of the stamps."""

from __future__ import annotations

import gzip
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from data_manifests.cache import cache_folder
from data_manifests.plan import BuildError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

logger = logging.getLogger(__name__)

PACKAGE = "tuxpaint-stamps-default"

#: Where the package keeps its stamps, below the root of a file system.
INSIDE = Path("usr/share/tuxpaint/stamps")

#: Seconds that apt or dpkg may take: the package has 81 MB.
TIMEOUT_S = 900

_ADVICE = (
    "Install the package (apt-get install tuxpaint-stamps-default), or give its stamps folder or "
    "a folder with its .deb with -s files=FOLDER."
)


def find_source(
    folder: Path | None = None, *, file_system: Path = Path("/"), cache: Path | None = None
) -> Path:
    """Return the folder of the stamps: in `folder`, else installed, else cached, else through apt.

    Parameters
    ----------
    folder : Path, optional
        A folder that contains the stamps tree (itself or below usr/share/tuxpaint/stamps) or a
        .deb of the package, or the .deb itself. Nothing else is tried when it is given.
    file_system : Path
        Where installed packages are looked for.
    cache : Path, optional
        Where unpacked packages are kept; the user's cache by default.

    Raises
    ------
    BuildError
        If there are no stamps there, or apt cannot fetch them.
    """
    cache = cache_folder("stamps") if cache is None else cache
    if folder is not None:
        return _in_folder(folder, cache).resolve()
    here = find_local(file_system=file_system, cache=cache)
    return here or (fetch_package(cache) / INSIDE).resolve()


def find_local(*, file_system: Path = Path("/"), cache: Path | None = None) -> Path | None:
    """Return the folder of the stamps that are installed, else in the cache, else None.

    Parameters
    ----------
    file_system, cache
        As for `find_source`.
    """
    cache = cache_folder("stamps") if cache is None else cache
    for root in (file_system, *sorted(cache.glob(f"{PACKAGE}_*"), reverse=True)):
        if _has_stamps(root / INSIDE):
            return (root / INSIDE).resolve()
    return None


def fetch_package(cache: Path) -> Path:
    """Download the package through apt, without root, and unpack it into `cache`.

    apt's own state and archives are not touched: it gets empty ones of its own.

    Raises
    ------
    BuildError
        If apt-get or dpkg-deb is missing or fails.
    """
    _need("apt-get", "dpkg-deb")
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
    _need("dpkg-deb")
    target = cache / f"{package.stem}-{package.stat().st_size}"
    if _has_stamps(target / INSIDE):
        return target
    with _staging(cache) as staged:
        _call(["dpkg-deb", "-x", str(package.resolve()), str(staged / "root")], staged)
        if not _has_stamps(staged / "root" / INSIDE):
            raise BuildError(f"{package} holds no {INSIDE}; it is not {PACKAGE}. {_ADVICE}")
        try:
            (staged / "root").rename(target)
        except OSError as err:
            # Another process unpacked the same package in the meantime.
            if not _has_stamps(target / INSIDE):
                raise BuildError(
                    f"Cannot write {target}: {err.strerror}. Set HEADSTOCK_CACHE elsewhere."
                ) from err
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


def _need(*commands: str) -> None:
    for command in commands:
        if shutil.which(command) is None:
            raise BuildError(f"The stamps need {command}, and it is not here. {_ADVICE}")


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

#: A stamp with more pixels than this is refused before it is decoded.
MAX_PIXELS = 50_000_000


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
        If it is not an image, or has too many pixels.
    """
    from PIL import Image

    try:
        with Image.open(source) as stamp:
            if stamp.width * stamp.height > MAX_PIXELS:
                raise BuildError(
                    f"{source} has {stamp.width:,} x {stamp.height:,} pixels; refused unread."
                )
            return compose(stamp)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
        if isinstance(err, BuildError):
            raise
        raise BuildError(
            f"{source} cannot be decoded: {err}. Fetch the package again, or remove the file."
        ) from err
