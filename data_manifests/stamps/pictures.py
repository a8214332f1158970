"""Stamps as pictures that an encoder can take: opaque, square, not too large."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from data_manifests.plan import BuildError, OnDone

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

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


def write_picture(source: Path, target: Path) -> None:
    """Write the composed stamp as PNG: staged, fsynced, renamed.

    Raises
    ------
    BuildError
        If `source` is not an image, has too many pixels, or `target` cannot be written.
    """
    from PIL import Image

    try:
        with Image.open(source) as stamp:
            if stamp.width * stamp.height > MAX_PIXELS:
                msg = f"{source} has {stamp.width:,} x {stamp.height:,} pixels; refused unread."
                raise BuildError(msg)
            square = compose(stamp)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
        if isinstance(err, BuildError):
            raise
        msg = f"{source} cannot be decoded: {err}. Fetch the package again, or remove the file."
        raise BuildError(msg) from err
    staged = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.staged")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with staged.open("wb") as file:
            square.save(file, format="PNG", compress_level=1)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(target)
    except OSError as err:
        if target.parent.is_dir():
            staged.unlink(missing_ok=True)
        msg = f"Cannot write {target}: {err.strerror or err}. Free space or choose another folder."
        raise BuildError(msg) from err


def write_pictures(pairs: Sequence[tuple[Path, Path]], on_done: OnDone | None) -> None:
    """Write many pictures (source, target) with a few threads.

    Decoding and compressing release the interpreter lock. The first error stops the rest.

    Raises
    ------
    BuildError
        As `write_picture` does.
    """
    if on_done is not None:
        on_done(0, len(pairs))
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        try:
            for done, _ in enumerate(pool.map(lambda pair: write_picture(*pair), pairs), start=1):
                if on_done is not None:
                    on_done(done, len(pairs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
