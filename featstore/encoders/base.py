"""What an encoder is: its options, its space, its batches, and the golden inputs that pin it down.

Golden inputs are a few built-in pictures and texts. Their vectors are stored beside a set and
computed again when the set is extended: what a hash of the weights cannot see (another library
version, another device) is seen here. They are drawn by integer arithmetic alone, so that they are
the same on every system and NumPy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

from featstore.errors import needs_extra

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

#: The kinds of item that an encoder may take.
IMAGE_KINDS: frozenset[str] = frozenset({"image"})
TEXT_KINDS: frozenset[str] = frozenset({"caption", "class_name"})

#: Compute precisions of a forward pass.
Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

#: In place of a device or a precision: what this machine, and the set, make best.
AUTO = "auto"


@dataclass(frozen=True)
class EncoderOptions:
    """How a named encoder is opened.

    Attributes
    ----------
    kind : str, optional
        Kind of the items to encode: selects one of two towers, for families that have two.
    weights : str, Path or None
        ``package:DISTRIBUTION``, a file, a folder (texts), or None for the hub.
    device : str
        As torch names it. Like the batch size, no part of the space.
    batch_size : int, optional
        The encoder's own by default.
    precision : {"float32", "bfloat16", "float16"}
        Of the forward pass; part of a set's id, not of the space. float16 on GPUs only.
    pool : str, optional
        Pooling, another space each. timm: instead of the input of its head ``cls``,
        ``patch_mean``, ``cls+patch_mean`` or ``layer:<name of a module>``. hf, where it has to be
        given: ``cls``, ``mean``, ``pooler`` or ``last``.
    prompt_name, prefix : str, optional
        What a text model gets before every text: a prompt that it names, or this. Part of the
        space.
    max_length : int, optional
        Tokens that a text model sees, fewer than it could. Part of the space.
    trust_remote_code : bool
        Run Python code that comes with the model from the hub. Part of the space.
    """

    kind: str | None = None
    weights: str | Path | None = None
    device: str = "cpu"
    batch_size: int | None = None
    precision: str = "float32"
    pool: str | None = None
    prompt_name: str | None = None
    prefix: str | None = None
    max_length: int | None = None
    trust_remote_code: bool = False


DEFAULT_OPTIONS = EncoderOptions()


@runtime_checkable
class Encoder(Protocol):
    """Maps items of some kinds to vectors of one space.

    The attributes are read-only. ``space`` holds the keyed facts: whatever changes what a
    coordinate means, as plain JSON; ``featstore.identity.space_id(space)`` is the space's id.
    ``facts`` is recorded beside and never compared. An encoder whose `prepare` returns what a
    `featstore.images.Geometry` makes of a picture may state it as ``geometry``: the processes that
    decode then prepare pictures, and `encode` gets arrays of uint8 that they wrote.
    """

    @property
    def name(self) -> str:
        """Its name as the user gave it, ``family:name``."""

    @property
    def kinds(self) -> frozenset[str]:
        """``{"image"}``, or ``{"caption", "class_name"}``."""

    @property
    def dim(self) -> int:
        """Length d of a vector."""

    @property
    def space(self) -> Mapping[str, Any]:
        """The keyed facts."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Facts that are recorded but not keyed."""

    @property
    def batch_size(self) -> int:
        """Items a batch, unless the job says otherwise."""

    def prepare(self, item: Any) -> Any:
        """Do the CPU work for one item: an RGB picture (PIL) or a text. Safe in threads."""

    def encode(self, batch: Sequence[Any]) -> np.ndarray:
        """Return (b, d) float32 vectors of `batch`, a sequence of what `prepare` returned.

        The raw output of the model: nothing is normalised that the model does not normalise.
        """


@dataclass(frozen=True, eq=False)
class Head:
    """The classification head of an image model: one row a class, in the image space.

    On the features f of the model named by `name`, ``weight @ f + bias`` are its logits.
    """

    name: str
    """Name of the image encoder, ``timm:tf_efficientnet_lite0``."""
    weight: np.ndarray
    """(c, d) float32, not normalised."""
    bias: np.ndarray
    """(c,) float32; zeros if the layer has none (`facts["has_bias"]` says so)."""
    label_set: str
    """Which classes the rows are, in which order: ``imagenet1k``."""
    space: Mapping[str, Any]
    """The keyed facts of the image space that the rows live in."""
    facts: Mapping[str, Any]
    """Facts that are recorded but not keyed."""


def length_batches(lengths: Sequence[int] | np.ndarray, batch: int) -> list[np.ndarray]:
    """Return the positions of texts, shortest first, in batches.

    The batches are a function of the lengths alone, equal lengths staying in their order: the
    same texts always meet in the same batches, and so get the same bits.

    Parameters
    ----------
    lengths : sequence of int, of length n
        Tokens of each text.
    batch : int
        Texts a batch; the last one may be smaller.

    Returns
    -------
    list of int64 arrays
        Together every position from 0 to n - 1 once.

    Examples
    --------
    >>> [part.tolist() for part in length_batches([7, 3, 7, 1], 2)]
    [[3, 1], [0, 2]]
    """
    import numpy as np

    order = np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable")
    return [order[start : start + batch] for start in range(0, len(order), batch)]


def prepare_many(encoder: Encoder, items: Sequence[Any]) -> list[Any]:
    """Return what ``encoder.prepare`` makes of each item, by one call where it has one for many."""
    many = getattr(encoder, "prepare_many", None)
    if many is None or not items:
        return [encoder.prepare(item) for item in items]
    prepared: list[Any] = many(items)
    return prepared


def text_batches(encoder: Encoder, prepared: Sequence[Any], batch: int) -> list[np.ndarray]:
    """Return the positions of prepared texts in batches.

    Texts of an encoder that knows their ``length`` are sorted by it (`length_batches`); those of
    another stay in their order.
    """
    length = getattr(encoder, "length", None)
    return length_batches([0 if length is None else length(text) for text in prepared], batch)


def encode_texts(encoder: Encoder, texts: Sequence[Any], batch: int | None = None) -> np.ndarray:
    """Encode texts in batches of like length; return (n, d) float32 in their order.

    Parameters
    ----------
    encoder : Encoder
    texts : sequence of str
    batch : int, optional
        Texts a batch; by default the encoder's own.
    """
    import numpy as np

    prepared = prepare_many(encoder, texts)
    rows = np.empty((len(prepared), encoder.dim), np.float32)
    for positions in text_batches(encoder, prepared, batch or encoder.batch_size):
        rows[positions] = encoder.encode([prepared[position] for position in positions])
    return rows


#: Short, long, other scripts, digits and punctuation.
GOLDEN_TEXTS: tuple[str, ...] = (
    "a photo of a dog.",
    "tench, Tinca tinca",
    "Ein Mann fährt auf einem roten Fahrrad über die Brücke.",
    "two people stand in the rain; one holds a large umbrella, the other a paper (price: $0.25)",
    "北京の猫",
)


def golden_images() -> tuple[Image.Image, ...]:
    """Return four RGB pictures of different shapes: gradient, checkerboard, disc and texture."""
    with needs_extra("Encoding images"):
        import numpy as np
        from PIL import Image

    y, x = np.mgrid[:240, :320]
    gradient = np.stack([x * 255 // 319, y * 255 // 239, (x + y) * 255 // 558], axis=-1)

    y, x = np.mgrid[:256, :256]
    board = np.where(((x // 32 + y // 32) % 2)[..., None], (230, 60, 20), (20, 80, 200))

    y, x = np.mgrid[:300, :200]
    inside = (x - 100) ** 2 + (y - 150) ** 2 < 80**2
    disc = np.where(inside[..., None], (250, 210, 40), (40, 120, 60))

    y, x = np.mgrid[:224, :224]
    texture = np.stack([(x * x * k + y * y * 7 + x * y * 3) % 256 for k in (3, 5, 11)], axis=-1)

    pictures = (gradient, board, disc, texture)
    return tuple(Image.fromarray(picture.astype(np.uint8)) for picture in pictures)


def golden_inputs(kinds: Collection[str]) -> tuple[Any, ...]:
    """Return the golden pictures for an encoder of images, the golden texts for one of texts."""
    return golden_images() if IMAGE_KINDS & frozenset(kinds) else GOLDEN_TEXTS


def golden_cosine(encoder: Any) -> float:
    """Return the smallest cosine between an encoder's golden vectors and the same in float32.

    The same weights on the same device, one batch each; per golden input the cosine of the two
    raw vectors, of which the smallest is returned.

    Parameters
    ----------
    encoder : Encoder
        With ``encode_float32``, as the built-in encoders have.
    """
    import numpy as np

    batch = [encoder.prepare(item) for item in golden_inputs(encoder.kinds)]
    a, b = (
        np.asarray(encode(batch), np.float64) for encode in (encoder.encode, encoder.encode_float32)
    )
    cosines = np.einsum("ij,ij->i", a, b) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(cosines.min())
