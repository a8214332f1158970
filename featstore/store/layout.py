"""Layout of a set on disk: array metadata, chunks and shards, and stored types with conversions.

The layout is docs/ref/store-format.md in code: names that are safe path components, two array
shapes (one plain chunk for small arrays, ``sharding_indexed`` for large ones), no
compressor. Metadata is written as JSON here, not through a library, so that the same set
gives the same bytes with every version of everything.

bfloat16, which NumPy does not have, is kept as ``uint16`` (Zarr readers see that), and an attribute
says what the bits mean.

Conversions run at the speed of memory or of the processor's cores: a writer is as fast as what it
adds to the disk. NumPy's float16 arithmetic is done in software, so finiteness is read off the
bits, and rows that are already what is stored are not copied. Where numkong is installed, the
processor's own instructions convert float32 to float16: the same values, bit for bit. For bfloat16
it is not used: numkong 7.8 makes numbers of some NaN, which would then be stored.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from google_crc32c import value as crc32c

from featstore.errors import FeatstoreError, NonFiniteEmbeddingError
from featstore.identity import SHORT, encoder_slug, set_id, space_id
from featstore.matrices import from_bfloat16
from featstore.store import BLOCK_ROWS, DTYPE_CODES

if TYPE_CHECKING:
    import polars as pl  # decoding processes run without it and its threads

#: The store format, the only one that is read and written.
FORMAT = 3

#: Arrays of at most this many bytes are one plain chunk.
PLAIN_BYTES = 8 * 2**20

#: Data bytes that a shard does not exceed (but for a single alignment unit).
SHARD_BYTES = 256 * 2**20

#: What the rows of a shard are aligned to in the range of addresses of a set, ...
PAGE_BYTES = 2**16

#: ... and those of a part of at least so many bytes.
HUGE_BYTES, HUGE_PART_BYTES = 2**21, 2**26

#: Parts of a size that may stand behind each other: the next one joins them.
JOINED = 7

#: Data types that a store may hold, and what their bytes are read as.
DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(code) for name, code in DTYPE_CODES.items()}

#: Those whose values are whole numbers.
INTEGERS = frozenset({"int8", "uint8"})

#: The pattern of a safe path component.
COMPONENT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_MISSING = 2**64 - 1


class LayoutError(FeatstoreError, ValueError):
    """A name, shape or dtype that a store cannot hold."""


def is_component(name: str) -> bool:
    """Return whether a dataset, kind or set can have this name."""
    return re.fullmatch(COMPONENT, name) is not None


def check_component(name: str, *, what: str) -> str:
    """Return `name` if it is a safe path component, else raise LayoutError."""
    if not is_component(name):
        raise LayoutError(
            f"{what} {name!r} is not a name that a store can hold: letters, digits, '.', '_' "
            "and '-', beginning with a letter or digit, at most 128 characters."
        )
    return name


@dataclass(frozen=True)
class SetKey:
    """The address of a set: ``dataset/kind/encoder``."""

    dataset: str
    kind: str
    encoder: str

    def __post_init__(self) -> None:
        check_component(self.dataset, what="dataset")
        check_component(self.kind, what="kind")
        check_component(self.encoder, what="encoder")

    @classmethod
    def parse(cls, text: str) -> SetKey | None:
        """Return the key that a text is; None if no set can have it."""
        try:
            return cls(*text.split("/"))
        except (LayoutError, TypeError):
            return None

    def __str__(self) -> str:
        return f"{self.dataset}/{self.kind}/{self.encoder}"

    def directory(self, root: Path) -> Path:
        """Return the directory of the set below the store's root."""
        return root / self.dataset / self.kind / self.encoder


class Attributes(TypedDict):
    """What a commit states of a set: what it is, and facts that are recorded and not keyed."""

    dataset: str
    kind: str
    encoder: str
    space: dict[str, Any]
    space_id: str
    set_id: str
    precision: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class SetSpec:
    """What a set is: the facts from which its ids and its key follow.

    Attributes
    ----------
    dataset, kind, encoder : str
        Name of the dataset, kind of the items, and name of the encoder (``family:name``).
    space : mapping
        Keyed facts of the embedding space; their hash is the space_id.
    dtype : str
        Stored dtype, one of `DTYPES`.
    precision : str
        Compute precision of the encoder.

    Examples
    --------
    >>> spec = SetSpec("birds", "image", "timm:toy", {"name": "toy"}, "float32")
    >>> str(spec.key)
    'birds/image/timm.toy-78c87e78'
    """

    dataset: str
    kind: str
    encoder: str
    space: Mapping[str, Any] = field(repr=False)
    dtype: str
    precision: str = "float32"

    @functools.cached_property
    def space_id(self) -> str:
        """Id of the embedding space."""
        return space_id(self.space)

    @functools.cached_property
    def set_id(self) -> str:
        """Id of the set."""
        return set_id(
            self.space_id,
            dataset=self.dataset,
            kind=self.kind,
            precision=self.precision,
            dtype=self.dtype,
        )

    @functools.cached_property
    def key(self) -> SetKey:
        """Key of the set in a store.

        Raises
        ------
        LayoutError
            If the dataset or kind is not a name that a store can hold.
        """
        name = f"{encoder_slug(self.encoder)}-{self.set_id[:SHORT]}"
        return SetKey(self.dataset, self.kind, name)

    def directory(self, root: Path) -> Path:
        """Return the directory of the set below the store's root."""
        return self.key.directory(root)

    def attributes(self, facts: Mapping[str, Any]) -> Attributes:
        """Return what a commit states of the set.

        Parameters
        ----------
        facts : mapping
            What is recorded and not keyed: label set, manifest revision, ….
        """
        return {
            "dataset": self.dataset,
            "kind": self.kind,
            "encoder": self.encoder,
            "space": dict(self.space),
            "space_id": self.space_id,
            "set_id": self.set_id,
            "precision": self.precision,
            "facts": dict(facts),
        }


@dataclass(frozen=True)
class LayoutLimits:
    """How large the pieces of an array are.

    Attributes
    ----------
    block_rows : int
        Rows of a block.
    plain_bytes : int
        An array of at most so many bytes is one plain chunk.
    shard_bytes : int
        Data bytes that a shard does not exceed (but for a single alignment unit).
    """

    block_rows: int = BLOCK_ROWS
    plain_bytes: int = PLAIN_BYTES
    shard_bytes: int = SHARD_BYTES


#: Limits of every set; tests make them smaller.
LIMITS = LayoutLimits()


@dataclass(frozen=True)
class ArrayLayout:
    """How the rows of a part of a set, an (n, d) array, are cut into files.

    Attributes
    ----------
    n, dim, dtype : int, int, str
    block_rows : int
        Rows of a block; the last one of the part may have fewer.
    shard_rows : int
        Rows of a file; 0 for one plain chunk that holds the whole part.
    start : int
        Rows of the set before it.
    path : str
        Of the array, below the set.
    """

    n: int
    dim: int
    dtype: str
    block_rows: int
    shard_rows: int
    start: int = 0
    path: str = "embedding"

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dim * DTYPES[self.dtype].itemsize

    @property
    def n_blocks(self) -> int:
        """Number of blocks, the last of which may be short."""
        return math.ceil(self.n / self.block_rows)

    @property
    def blocks_per_file(self) -> int:
        """Blocks that one data file holds at most."""
        return self.shard_rows // self.block_rows if self.shard_rows else self.n_blocks

    @property
    def padding(self) -> int:
        """Bytes before the first row of a shard.

        With them its pages are pages of the one range of addresses in which all parts lie; of a
        large part, huge pages.
        """
        page = HUGE_BYTES if self.n * self.row_bytes >= HUGE_PART_BYTES else PAGE_BYTES
        return self.start * self.row_bytes % page if self.shard_rows else 0


@dataclass(frozen=True, eq=False)
class DataFile:
    """A file of rows of a set.

    Attributes
    ----------
    part : ArrayLayout
    path : str
        Where it lies, below the set.
    rows : slice
    blocks : range
        Both among those of the set.
    """

    part: ArrayLayout
    path: str
    rows: slice
    blocks: range

    @property
    def n_rows(self) -> int:
        """Number of its rows."""
        return int(self.rows.stop - self.rows.start)

    @property
    def size(self) -> int:
        """Its bytes: of a shard with padding, whole blocks, and the index."""
        part = self.part
        if not part.shard_rows:
            return part.n * part.row_bytes
        data = len(self.blocks) * part.block_rows * part.row_bytes
        return part.padding + data + 16 * part.blocks_per_file + 4

    def place_of(self, block: int) -> tuple[int, int]:
        """Return where the rows of a block begin, and their bytes."""
        at, row_bytes = block - self.blocks.start, self.part.row_bytes
        rows = min(self.part.block_rows, self.n_rows - at * self.part.block_rows)
        return self.part.padding + at * self.part.block_rows * row_bytes, rows * row_bytes

    def tail(self) -> bytes:
        """Return the bytes that follow the last row.

        Nothing in a plain file. A shard pads its last block to full size (Zarr's inner chunks are
        all of one shape) and ends with the index and its crc32c.
        """
        if not self.part.shard_rows:
            return b""
        short = len(self.blocks) * self.part.block_rows - self.n_rows
        index = shard_index(self.part, len(self.blocks)).tobytes()
        checksum = int(crc32c(index)).to_bytes(4, "little")
        return bytes(short * self.part.row_bytes) + index + checksum


@dataclass(frozen=True)
class SetLayout:
    """How the rows of a set lie: part after part, each with blocks and files of its own.

    Blocks are counted through all parts; so are the files, in `files`.
    """

    parts: tuple[ArrayLayout, ...]

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.parts[-1].start + self.parts[-1].n

    @property
    def dim(self) -> int:
        """Length of a row."""
        return self.parts[0].dim

    @property
    def dtype(self) -> str:
        """Stored dtype."""
        return self.parts[0].dtype

    @property
    def block_rows(self) -> int:
        """Rows of a block; the last one of each part may have fewer."""
        return self.parts[0].block_rows

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.parts[0].row_bytes

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        """The first row of each block, and n."""
        starts = [range(one.start, one.start + one.n, one.block_rows) for one in self.parts]
        return np.concatenate([*map(np.array, starts), [self.n]])

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self._starts) - 1

    @functools.cached_property
    def files(self) -> tuple[DataFile, ...]:
        """The data files, in the order of their rows."""
        found, first = [], 0
        for part in self.parts:
            stop, end = first + part.n_blocks, part.start + part.n
            step, size = part.blocks_per_file, part.shard_rows or part.n
            for number, block in enumerate(range(first, stop, step)):
                start = part.start + number * size
                rows = slice(start, min(start + size, end))
                path = f"{part.path}/c/{number}/0"
                found.append(DataFile(part, path, rows, range(block, min(block + step, stop))))
            first = stop
        return tuple(found)

    @functools.cached_property
    def file_of(self) -> np.ndarray:
        """The number of the file of each block, shape (n_blocks,)."""
        return np.repeat(np.arange(len(self.files)), [len(one.blocks) for one in self.files])

    @property
    def small(self) -> int:
        """From which part on the last ones are to be joined; the number of the last if none are.

        Of each power of 8 of bytes there stay at most `JOINED`, and all that are mapped by huge
        pages as they are.
        """
        sizes = [part.n * part.row_bytes for part in self.parts]
        first, size = len(sizes) - 1, sizes[-1]
        while size < HUGE_PART_BYTES:
            start, level = first, (size.bit_length() - 1) // 3
            while start and sizes[start - 1] < min(HUGE_PART_BYTES, 8 ** (level + 1)):
                start -= 1
            if first - start < JOINED:
                break
            first, size = start, sum(sizes[start:])
        return first

    def block_slice(self, block: int) -> slice:
        """Return the rows of a block."""
        return slice(int(self._starts[block]), int(self._starts[block + 1]))

    def block_bytes(self, block: int) -> int:
        """Return the bytes of the rows of a block."""
        rows = self.block_slice(block)
        return int(rows.stop - rows.start) * self.row_bytes

    def blocks_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the block of each row."""
        if len(self.parts) == 1:
            return rows // self.block_rows
        return np.searchsorted(self._starts, rows, side="right") - 1


def plan_array(
    n: int, dim: int, dtype: str, limits: LayoutLimits = LIMITS, *, start: int = 0
) -> ArrayLayout:
    """Choose how the n rows of a part that begins at row `start` of its set are cut into files.

    Arrays of at most one block or `limits.plain_bytes` are one chunk. Others are shards whose rows
    are a multiple of the block's and of 65,536 / gcd(65,536, row bytes), so that every
    shard's data part is a whole number of 64 KiB pages and can be mapped beside the next.

    Raises
    ------
    LayoutError
        If the shape is empty or the dtype is not one that a store may hold.
    """
    block_rows = limits.block_rows
    if n < 1 or dim < 1 or block_rows < 1:
        raise LayoutError(
            f"A set needs at least one row and one dimension; got shape ({n:,}, {dim:,})."
        )
    if dtype not in DTYPES:
        raise LayoutError(f"A store cannot hold dtype {dtype!r}. It can hold: {', '.join(DTYPES)}.")
    row_bytes = dim * DTYPES[dtype].itemsize
    if n <= block_rows or n * row_bytes <= limits.plain_bytes:
        return ArrayLayout(n, dim, dtype, block_rows, 0, start)
    unit, most = _shards(row_bytes, block_rows, limits.shard_bytes)
    return ArrayLayout(n, dim, dtype, block_rows, most * unit, start)


def _shards(row_bytes: int, block_rows: int, shard_bytes: int) -> tuple[int, int]:
    """Return the rows of which those of a shard are a multiple, and the largest such number."""
    unit = math.lcm(block_rows, PAGE_BYTES // math.gcd(PAGE_BYTES, row_bytes))
    return unit, max(1, shard_bytes // (unit * row_bytes))


def is_shard(dim: int, dtype: str, block_rows: int, shard_rows: int) -> bool:
    """Return whether a writer cuts an array into files of so many rows; 0 is one plain chunk."""
    unit, most = _shards(dim * DTYPES[dtype].itemsize, block_rows, SHARD_BYTES)
    return shard_rows % unit == 0 and shard_rows <= most * unit


def array_metadata(layout: ArrayLayout, *, bare: bool = False) -> dict[str, Any]:
    """Return the Zarr v3 ``zarr.json`` document of a part.

    It lies beside the folder ``c`` of the chunks; if it is `bare`, in that folder.
    """
    index: list[dict[str, Any]] = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "crc32c"},
    ]
    # One byte has no order: the codec of 8-bit types carries no configuration.
    one_byte = DTYPES[layout.dtype].itemsize == 1
    plain = [{"name": "bytes"}] if one_byte else index[:1]
    codecs = plain
    bits = layout.dtype == "bfloat16"
    chunk = [layout.n, layout.dim]
    if layout.shard_rows:
        chunk = [layout.shard_rows, layout.dim]
        codecs = [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [layout.block_rows, layout.dim],
                    "codecs": plain,
                    "index_codecs": index,
                    "index_location": "end",
                },
            }
        ]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [layout.n, layout.dim],
        "data_type": "uint16" if bits else layout.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {
            "name": "v2" if bare else "default",
            "configuration": {"separator": "/"},
        },
        "fill_value": 0 if bits or layout.dtype in INTEGERS else 0.0,
        "codecs": codecs,
        "attributes": {"featstore": {"dtype": "bfloat16"}} if bits else {},
        "dimension_names": ["item", "dim"],
        "storage_transformers": [],
    }


def vector_metadata(n: int, dtype: str) -> dict[str, Any]:
    """Return the Zarr v3 ``zarr.json`` document of an (n,) array of one chunk."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [n],
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [n]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
        "dimension_names": ["item"],
        "storage_transformers": [],
    }


def group_metadata(attributes: dict[str, Any], **beside: Any) -> dict[str, Any]:
    """Return the Zarr v3 ``zarr.json`` document of a group, with what stands beside ours."""
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"featstore": attributes, **beside},
    }


def shard_index(layout: ArrayLayout, n_present: int) -> np.ndarray:
    """Return a shard's index: (blocks per shard, 2) of offset and byte count, uint64.

    Blocks lie in order behind the padding; absent blocks carry 2^64 - 1 twice, as the
    ``sharding_indexed`` specification says.
    """
    index = np.full((layout.blocks_per_file, 2), _MISSING, dtype="<u8")
    size = layout.block_rows * layout.row_bytes
    index[:n_present, 0] = layout.padding + np.arange(n_present, dtype="<u8") * size
    index[:n_present, 1] = size
    return index


_NAN = np.uint16(0x7FC0)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Return the bits of `values` rounded to bfloat16, ties to even, as uint16.

    Values beyond the largest bfloat16 (3.39e38) become Inf; every NaN becomes 0x7FC0.
    """
    narrow = np.ascontiguousarray(values, dtype=np.float32)
    bits = narrow.view(np.uint32)
    # Adding 0x7FFF, and 1 more if the kept half is odd, carries exactly when rounding up.
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype("<u2")
    rounded[np.isnan(narrow)] = _NAN
    return rounded


def blank_value(dtype: str) -> Any:
    """Return what stands in the rows of failed items."""
    if dtype in INTEGERS:
        return 0
    return to_bfloat16(np.array([np.nan]))[0] if dtype == "bfloat16" else np.nan


#: The bits of a value's exponent where NumPy has no fast `isfinite`: all are set in NaN and Inf.
EXPONENTS = {"float16": 0x7C00, "bfloat16": 0x7F80}

#: Values looked at together: two bytes each, they stay in the processor's cache.
_AT_ONCE = 2**16


def convert_rows(
    rows: np.ndarray,
    item_ids: Sequence[str] | pl.Series,
    *,
    failed: Collection[str],
    layout: ArrayLayout | SetLayout,
    where: str,
) -> tuple[np.ndarray, Callable[[], None]]:
    """Return `rows` in the stored dtype, and what checks them; nothing is lost but precision.

    The check is apart so that a writer can hash the rows beside it: nothing may be written before.
    Rows of failed items are NaN, or 0 where the dtype is a whole number. bfloat16 is its bits,
    uint16. Rows that needed no change are those given, not a copy. The check raises
    NonFiniteEmbeddingError if a row of an item that did not fail is NaN or Inf, or has values that
    the dtype cannot hold; the message names the first item.

    Parameters
    ----------
    rows : ndarray of shape (b, d)
        Raw encoder output.
    item_ids : sequence of str
        Of the b items.
    failed : collection of str
        item_ids that have no embedding.
    where : str
        Encoder and rows, for messages.

    Raises
    ------
    LayoutError
        If the shape is not (b, d).
    """
    expected = (len(item_ids), layout.dim)
    if rows.shape != expected:
        raise LayoutError(f"Got embeddings of shape {rows.shape}, expected {expected} ({where}).")
    data, whole = _convert(rows, layout.dtype)
    skipped = np.zeros(len(rows), dtype=bool)
    if failed:
        skipped[:] = [item in failed for item in item_ids]
    if skipped.any():
        if data is rows:
            data = data.copy()
        data[skipped] = blank_value(layout.dtype)

    def check() -> None:
        held = finite_rows(data, layout.dtype) if whole is None else whole
        bad = ~held & ~skipped
        if not bad.any():
            return
        first = int(np.flatnonzero(bad)[0])
        remedy = "Store it as float32 (`dtype=float32`)"
        if not np.isfinite(rows[first]).all():
            what, remedy = "NaN or Inf", "Extract it in float32"
        elif layout.dtype in INTEGERS:
            bounds = np.iinfo(DTYPES[layout.dtype])
            what = f"values that are no whole numbers of {bounds.min} to {bounds.max}"
        else:
            what = f"values too large for {layout.dtype}"
            remedy = "Scale the rows" if layout.dtype == "float32" else remedy
        raise NonFiniteEmbeddingError(
            f"Got {what} for {int(bad.sum()):,} of {len(bad):,} items, first "
            f"{item_ids[first]!r} ({where}). Nothing was written for this block. {remedy}, or "
            "drop the item from the manifest."
        )

    return data, check


def _convert(rows: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the rows in the stored dtype, and which rows it holds if it holds whole numbers."""
    stored = DTYPES[dtype]
    if dtype in INTEGERS:
        bounds = np.iinfo(stored)
        with np.errstate(invalid="ignore"):
            # NaN compares false with everything, so it is not held either.
            held = (rows >= bounds.min) & (rows <= bounds.max) & (rows == np.trunc(rows))
            whole = np.where(held, rows, 0)
        return np.array(whole, dtype=stored, order="C"), held.all(axis=1)
    if dtype == "float16" and rows.dtype == np.float32 and rows.flags.c_contiguous:
        numkong = _numkong()
        if numkong is not None and stored.isnative:
            # A signalling NaN becomes a quiet one, unlike in NumPy. No row that is written has any
            # NaN but those of failed items, which are blanked.
            return np.asarray(numkong.astype(rows, dtype)), None
    if dtype == "bfloat16":
        with np.errstate(over="ignore", invalid="ignore"):
            return to_bfloat16(rows), None
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(rows).astype(stored, order="C", copy=False), None


@functools.cache
def _numkong() -> Any:
    """Return the package numkong (the extra ``cast``), or None where it is not installed."""
    try:
        import numkong
    except ImportError:
        return None
    return numkong


def decode(stored: np.ndarray, dtype: str, out: np.ndarray) -> np.ndarray:
    """Convert stored values to floats of `out`'s dtype, in `out`; the bits of NaN may differ."""
    if dtype == "bfloat16":
        wide = from_bfloat16(stored, out if out.dtype == np.float32 else None)
        if wide is not out:
            np.copyto(out, wide, casting="same_kind")
    elif dtype == "float16" and out.dtype == np.float32 and (numkong := _numkong()) is not None:
        numkong.astype(stored, "float32", out=out)
    else:
        np.copyto(out, stored, casting="same_kind")
    return out


def finite_rows(data: np.ndarray, dtype: str) -> np.ndarray:
    """Return which rows are finite throughout: a boolean of shape (b,).

    Parameters
    ----------
    data : ndarray of shape (b, d)
        C-ordered; bfloat16 as its bits, uint16.
    dtype : str
        A floating-point name of `featstore.store.layout.DTYPES`.
    """
    if dtype not in EXPONENTS:
        finite: np.ndarray = np.isfinite(data).all(axis=1)
        return finite
    exponent = EXPONENTS[dtype]
    bits = data.view("<u2")
    finite = np.ones(len(bits), dtype=bool)
    # Largest values are found fast, and mostly answer for all rows. What is not finite has the
    # largest bits of its sign: as signed numbers those without it, as unsigned those with it.
    signed = int(bits.view("<i2").max(initial=0)) < exponent
    if signed and int(bits.max(initial=0)) < exponent + 0x8000:
        return finite
    step = max(1, _AT_ONCE // bits.shape[1])
    for start in range(0, len(bits), step):
        part = bits[start : start + step] & exponent
        finite[start : start + step] = part.max(axis=1) != exponent
    return finite
