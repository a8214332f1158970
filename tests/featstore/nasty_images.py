"""Files that break decoders, built byte by byte or by Pillow, and what must become of each.

Every one has an expected outcome: pixels at some places of a picture of some size, or the reason
why there is none. `featstore.images.decode_image` and the decoding processes are held to it.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

RED = (200, 30, 10)
BLUE = (0, 0, 255)
WHITE = (255, 255, 255)
BLACK = (0, 0, 0)


@dataclass(frozen=True)
class Nasty:
    """A file, and what decoding it must give."""

    data: bytes
    reason: str | None = None
    """Part of the error; None if it is a picture."""
    size: tuple[int, int] = (0, 0)
    pixels: dict = field(default_factory=dict)
    """Colour by place."""
    within: int = 0
    """By how much a channel may differ: more than 0 only after lossy compression."""
    formats: tuple[str, ...] | None = None


def encoded(image, fmt="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=fmt, **options)
    return buffer.getvalue()


def turned_by(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def noise(height=48, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def halves(width=32, height=16):
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def chunk(kind: bytes, body: bytes, *, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png(header: tuple, rows: bytes, *, extra: bytes = b"", crc: int | None = None) -> bytes:
    """(width, height, depth, colour type, interlace) and raw rows as a PNG."""
    width, height, depth, colour, interlace = header
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + extra
        + chunk(b"IDAT", zlib.compress(rows), crc=crc)
        + chunk(b"IEND", b"")
    )


def bad_header_png() -> bytes:
    data = bytearray(png((1, 1, 8, 2, 0), bytes([0, *RED])))
    data[29] ^= 1
    return bytes(data)


def bad_adler_png() -> bytes:
    data = bytearray(zlib.compress(bytes(4 * 13)))
    data[-1] ^= 1
    head = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", bytes(data)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def interlaced_png() -> bytes:
    """2 × 2 pixels in Adam7 order: pass 1 has (0, 0), pass 6 (1, 0), pass 7 the second row."""
    return png((2, 2, 8, 2, 1), bytes([0, *RED]) + bytes([0, *BLUE]) + bytes([0, *WHITE, *BLACK]))


def rle_bmp() -> bytes:
    """4 × 2 pixels of an 8-bit palette, run-length encoded, bottom row first."""
    palette = bytes([*BLACK, 0, *RED[::-1], 0, *BLUE[::-1], 0])
    runs = bytes([4, 1, 0, 0]) + bytes([2, 2, 2, 0, 0, 0]) + bytes([0, 1])
    offset = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 8, 1, len(runs), 0, 0, 3, 3)
    return (b"BM" + struct.pack("<IHHI", offset + len(runs), 0, 0, offset)) + info + palette + runs


def zeroed(data: bytes, start: float, n_bytes: int) -> bytes:
    at = int(len(data) * start)
    return data[:at] + bytes(n_bytes) + data[at + n_bytes :]


def jpeg_with_bad_huffman_table() -> bytes:
    """The table claims codes that do not exist: no coefficient can be read."""
    data = bytearray(encoded(Image.fromarray(noise()), "JPEG"))
    at = data.index(b"\xff\xc4") + 5
    data[at : at + 16] = b"\xff" * 16
    return bytes(data)


def text_bomb() -> bytes:
    """A compressed text of 256 MB in a PNG of 250 kB."""
    body = b"Comment\0\0" + zlib.compress(bytes(256 * 2**20), 1)
    return png((1, 1, 8, 2, 0), bytes([0, *RED]), extra=chunk(b"zTXt", body))


def profile_bomb() -> bytes:
    body = b"icc\0\0" + zlib.compress(bytes(64 * 2**20))
    return png((1, 1, 8, 2, 0), bytes([0, *RED]), extra=chunk(b"iCCP", body))


def palette_image(**options) -> bytes:
    image = Image.new("P", (3, 1))
    image.putpalette([0, 0, 0, *RED, *BLUE])
    image.putdata([0, 1, 2])
    return encoded(image, **options)


def _nasty_images() -> dict[str, Nasty]:
    jpeg = encoded(Image.fromarray(noise()), "JPEG", quality=90)
    good_png = encoded(Image.fromarray(noise()))
    two = [halves(), Image.new("RGB", (32, 16), BLACK)]
    both = {(1, 1): RED, (30, 14): BLUE}
    grey_alpha = Image.new("LA", (2, 1), (40, 255))
    grey_alpha.putpixel((0, 0), (40, 0))
    one_bit = Image.new("1", (9, 1))
    one_bit.putpixel((8, 0), 1)
    tiff = encoded(halves(), "TIFF", compression="tiff_lzw")
    return {
        "turned by EXIF": Nasty(
            encoded(halves(), exif=turned_by(8)), None, (16, 32), {(0, 0): BLUE, (0, 31): RED}
        ),
        # What is no image.
        "zero bytes": Nasty(b"", "empty"),
        "text called .jpg": Nasty(b"a photo of a dog\n" * 40, "no image in a known format"),
        # What is damaged.
        "truncated JPEG": Nasty(jpeg[: len(jpeg) // 2], "truncated"),
        "JPEG with a corrupted Huffman table": Nasty(jpeg_with_bad_huffman_table(), "broken"),
        "JPEG with zeros in its data": Nasty(zeroed(jpeg, 0.6, 64), None, (64, 48)),
        "truncated PNG": Nasty(good_png[: len(good_png) // 2], "truncated|broken"),
        # Pillow looks at the checksum of the stream in the chunk, not at the chunk's.
        "PNG whose data has a bad CRC": Nasty(
            png((1, 1, 8, 2, 0), bytes([0, *RED]), crc=1), None, (1, 1), {(0, 0): RED}
        ),
        "PNG whose data has a bad checksum": Nasty(bad_adler_png(), "broken"),
        "PNG whose header has a bad CRC": Nasty(bad_header_png(), "no image in a known format"),
        "PNG with a bad filter byte": Nasty(
            png((2, 1, 8, 2, 0), bytes([9, *RED, *BLUE])), "broken|unrecognized"
        ),
        # Complete for zlib, so Pillow takes it; what is missing is black.
        "PNG with too few rows": Nasty(
            png((1, 3, 8, 2, 0), bytes([0, *RED])), None, (1, 3), {(0, 0): RED, (0, 2): BLACK}
        ),
        "truncated GIF": Nasty(encoded(halves(), "GIF")[:60], "truncated|broken|no image"),
        "truncated WebP": Nasty(encoded(halves(), "WEBP")[:40], "."),
        "truncated BMP": Nasty(encoded(halves(), "BMP")[:300], "truncated"),
        # What would take the machine.
        "bomb of 3.6 gigapixels": Nasty(
            png((60_000, 60_000, 8, 2, 0), bytes(64)), "60,000 × 60,000 pixels, more than"
        ),
        "bomb in a text chunk": Nasty(text_bomb(), "[Dd]ecompressed data too large"),
        "bomb in a colour profile": Nasty(profile_bomb(), "[Dd]ecompressed data too large"),
        # What is odd but right.
        "CMYK JPEG": Nasty(
            encoded(Image.new("CMYK", (16, 16), (255, 255, 0, 0)), "JPEG", quality=100),
            None, (16, 16), {(8, 8): BLUE}, within=10,
        ),
        "progressive JPEG": Nasty(
            encoded(halves(), "JPEG", progressive=True, quality=100, subsampling=0),
            None, (32, 16), both, within=4,
        ),
        "MPO of two pictures": Nasty(
            encoded(two[0], "MPO", save_all=True, append_images=two[1:], quality=100),
            None, (32, 16), both, within=6,
        ),
        "JPEG with broken EXIF": Nasty(
            encoded(halves(), "JPEG", quality=100, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"),
            None, (32, 16), both, within=6,
        ),
        "16-bit RGB PNG": Nasty(
            png((1, 1, 16, 2, 0), b"\0" + struct.pack(">HHH", 65535, 0, 257)),
            None, (1, 1), {(0, 0): (255, 0, 1)},
        ),
        "palette with a transparent colour": Nasty(
            palette_image(transparency=1),
            None, (3, 1), {(0, 0): BLACK, (1, 0): WHITE, (2, 0): BLUE},
        ),
        "palette with an alpha a colour": Nasty(
            palette_image(transparency=bytes([0, 255, 255])),
            None, (3, 1), {(0, 0): WHITE, (1, 0): RED},
        ),
        "grey with alpha": Nasty(
            encoded(grey_alpha), None, (2, 1), {(0, 0): WHITE, (1, 0): (40, 40, 40)}
        ),
        "one bit": Nasty(encoded(one_bit), None, (9, 1), {(0, 0): BLACK, (8, 0): WHITE}),
        "interlaced PNG": Nasty(
            interlaced_png(),
            None, (2, 2), {(0, 0): RED, (1, 0): BLUE, (0, 1): WHITE, (1, 1): BLACK},
        ),
        "animated GIF": Nasty(
            encoded(two[0], "GIF", save_all=True, append_images=two[1:]), None, (32, 16), both
        ),
        "animated WebP": Nasty(
            encoded(two[0], "WEBP", save_all=True, append_images=two[1:], lossless=True),
            None, (32, 16), both,
        ),
        "animated PNG": Nasty(
            encoded(two[0], "PNG", save_all=True, append_images=two[1:]), None, (32, 16), both
        ),
        "run-length encoded BMP": Nasty(
            rle_bmp(), None, (4, 2), {(0, 1): RED, (3, 1): RED, (0, 0): BLUE, (3, 0): BLACK}
        ),
        "1 × 20,000 pixels": Nasty(
            encoded(Image.new("RGB", (1, 20_000), RED)), None, (1, 20_000), {(0, 19_999): RED}
        ),
        "TIFF, not asked for": Nasty(tiff, "TIFF is decoded when asked for"),
        "TIFF, asked for": Nasty(tiff, None, (32, 16), both, formats=("TIFF",)),
    }  # fmt: skip


NASTY = _nasty_images()
