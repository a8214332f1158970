"""What code of one's own is tested with: toy stores and manifests, and contracts.

Toys are small, the same every time, and written as an extraction writes them. Nothing needs torch;
pictures need Pillow.

    from featstore import open_store
    from featstore.testing import item_table, toy_store, write_set

    keys = toy_store(tmp_path / "store")
    images = open_store(tmp_path / "store").view(keys["image"])

    items = item_table(["birds/0", "birds/1"], split=["train", "test"])
    key = write_set(tmp_path / "store", np.eye(2), items)

A contract says what an encoder or another thing promises. It is a class, and every public method of
it one promise: its docstring says what is promised, and it raises `ContractError` where that is not
kept. Those of aligners, learners and tasks are in `bench.contracts`.
"""

from __future__ import annotations

import inspect
import os
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from io import BytesIO
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from numpy.typing import ArrayLike

from featstore.encoders.base import (
    IMAGE_KINDS,
    TEXT_KINDS,
    Encoder,
    golden_images,
    golden_inputs,
    prepare_many,
)
from featstore.encoders.registry import open_encoder
from featstore.errors import ContractError, PluginError
from featstore.identity import canonical_json, space_id
from featstore.images import Geometry, decode_image
from featstore.manifest import Manifest, conform_items, write_manifest
from featstore.options import take_options
from featstore.plugins import use_plugins
from featstore.store.layout import LayoutLimits, SetSpec
from featstore.store.writer import SetWriter

__all__ = ["item_table", "toy_manifest", "toy_store", "write_set"]


def item_table(
    items: Sequence[str] | Sequence[Mapping[str, Any]],
    kind: str = "image",
    **columns: Sequence[Any],
) -> pl.DataFrame:
    """Return a whole item table of what is known of some items.

    Parameters
    ----------
    items : sequence of str or of mappings
        Their ids, or a row of each: ``item_id`` and any of ``featstore.manifest.ITEM_SCHEMA``.
    kind : str
        Of all items, unless the rows say it.
    **columns
        Further values, n of each. What is not given is null; columns of other names are kept.

    Raises
    ------
    ManifestError
        If there is no ``item_id``, or a column has another type.
    """
    rows = [{"item_id": item} if isinstance(item, str) else item for item in items]
    table = pl.DataFrame(rows, infer_schema_length=None)
    return conform_items(table.with_columns(**{k: pl.Series(v) for k, v in columns.items()}), kind)


#: What a toy set is where nothing else is said.
BIRDS = SetSpec("birds", "image", "timm:toy", {}, "float32")


def write_set(
    root: Path | str,
    rows: ArrayLike,
    items: pl.DataFrame,
    *,
    failures: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
    sealed: bool = False,
    bias: ArrayLike | None = None,
    golden: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    **options: Any,
) -> str:
    """Write rows as one published set of a store, which is made if it is not there.

    Parameters
    ----------
    root : path
        The store.
    rows : array_like, (n, d)
        Embeddings in the order of `items`.
    items : DataFrame
        Item table of n rows; see `item_table`.
    failures : mapping, optional
        Item id -> why it has no embedding.
    facts : mapping, optional
        Recorded in the attributes of the set, not keyed.
    sealed : bool
        True leaves the files read-only, as an extraction does; otherwise a test can damage them.
    bias, golden, run
        See `featstore.store.writer.SetWriter.finish`.
    **options
        What the set is, by default `BIRDS`: fields of `featstore.store.layout.SetSpec`; the space
        is ``{"name": encoder}`` by default. Its layout: ``block_rows``, ``plain_bytes`` and
        ``shard_bytes`` of `featstore.store.layout.LayoutLimits`.

    Returns
    -------
    str
        Key of the set: ``dataset/kind/encoder-id``.

    Raises
    ------
    OptionError
        If there is no such option.
    """
    own, sizes = take_options(options, SetSpec, LayoutLimits, of="write_set")
    spec = replace(BIRDS, **own)
    spec = replace(spec, space=own.get("space") or {"name": spec.encoder})
    folder, table, limits = Path(root), np.asarray(rows), LayoutLimits(**sizes)
    with SetWriter(folder, spec, items, table.shape[1], facts=facts, limits=limits) as writer:
        for block in writer.pending():
            where = writer.layout.block_slice(block)
            own_ids = set(items["item_id"][where.start : where.stop])
            failed = {item: why for item, why in (failures or {}).items() if item in own_ids}
            writer.write_block(block, table[where], failed)
        writer.finish(bias=None if bias is None else np.asarray(bias), golden=golden, run=run)
    for path in () if sealed else folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o200)
    return str(writer.key)


def toy_store(
    root: Path | str,
    *,
    classes: int = 30,
    images: int = 40,
    image_dim: int = 12,
    text_dim: int = 8,
    seed: int = 1,
) -> dict[str, str]:
    """Write a store in which one linear map takes texts to images, and a head to its names.

    Dataset ``toy`` has images, two a class and the last quarter of them test, and one caption
    each; label set ``labels`` has the rows of a head, in an order of their own, and three prompts
    a class. Images and head rows are the mapped texts with a little noise; the images lie three
    units off.

    Parameters
    ----------
    root : path
        The store: new, empty, or one that has none of these sets.
    classes, images : int
        How many rows the head has, and how many images there are.
    image_dim, text_dim : int
        Width of the two spaces.
    seed : int
        Of everything random.

    Returns
    -------
    dict
        ``image``, ``caption``, ``head_weight`` and ``class_name``: the key of each.
    """
    rng = np.random.default_rng(seed)
    plant = rng.standard_normal((text_dim, image_dim))
    texts = rng.standard_normal((classes, text_dim))
    captions = rng.standard_normal((images, text_dim))
    ids = [f"labels/c{i:02d}" for i in range(classes)]
    order = rng.permutation(classes)
    prompts = np.repeat(texts, 3, axis=0) + 0.01 * rng.standard_normal((3 * classes, text_dim))
    head = texts[order] @ plant + 0.05 * rng.standard_normal((classes, image_dim))
    bias = rng.random(classes)
    pictures = 3.0 + captions @ plant + 0.05 * rng.standard_normal((images, image_dim))
    names = [
        {"item_id": f"{c}#{v}#{t}", "text": f"{v} {c}", "class_id": c, "variant": v,
         "template_id": t}
        for c in ids for v, t in (("lemmas", "none"), ("lemmas", "photo"), ("name", "none"))
    ]  # fmt: skip
    shown = [
        {"item_id": f"toy/{i:02d}", "class_id": f"toy/d{i // 2}",
         "split": "train" if i < images * 3 // 4 else "test"}
        for i in range(images)
    ]  # fmt: skip
    message = [
        {"item_id": f"toy/{i:02d}#en", "text": f"t{i}", "parent_id": f"toy/{i:02d}",
         "class_id": f"toy/d{i // 2}"}
        for i in reversed(range(images))
    ]  # fmt: skip
    rows_of_head = [{"item_id": f"{ids[i]}#head", "class_id": ids[i]} for i in order]
    vision: dict[str, Any] = {"encoder": "timm:toy", "space": {"name": "vision"}}
    language: dict[str, Any] = {"encoder": "st:toy", "space": {"name": "language"}}

    def write(
        dataset: str, kind: str, rows: ArrayLike, items: list[dict[str, Any]], **more: Any
    ) -> str:
        return write_set(
            root, np.asarray(rows, np.float32), item_table(items, kind),
            dataset=dataset, kind=kind, **more,
        )  # fmt: skip

    return {
        "head_weight": write("labels", "head_weight", head, rows_of_head, bias=bias, **vision),
        "class_name": write("labels", "class_name", prompts, names, **language),
        "image": write("toy", "image", pictures, shown, **vision),
        "caption": write("toy", "caption", captions[::-1], message, **language),
    }


def toy_manifest(
    root: Path | str,
    n: int = 11,
    *,
    name: str = "toy",
    sizes: Sequence[tuple[int, int]] = ((8, 8),),
    broken: Sequence[int] = (),
    captions: bool = False,
    seed: int = 0,
) -> Manifest:
    """Write pictures of noise as PNG files, and a manifest of them.

    Items are ``toy/00``, ``toy/01`` …; the last quarter of them, rounded up, is test.

    Parameters
    ----------
    root : path
        Folder of the manifest.
    n : int
        How many pictures.
    name : str
        Of the dataset, and first part of the ids.
    sizes : sequence of (int, int)
        Width and height in pixels of the first picture, the second …; after the last the first.
    broken : sequence of int
        Numbers of the pictures whose file is no picture.
    captions : bool
        True adds a caption of each, ``toy/00#en``: "an apple number 0".
    seed : int
        Of the pixels.
    """
    from PIL import Image

    folder = Path(root)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    ids, uris = [f"{name}/{i:02d}" for i in range(n)], [f"images/{i:02d}.png" for i in range(n)]
    for i, uri in enumerate(uris):
        width, height = sizes[i % len(sizes)]
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / uri)
        if i in broken:
            (folder / uri).write_bytes(b"not a picture")
    splits = ["train" if i < n * 3 // 4 else "test" for i in range(n)]
    tables = {"image": pl.DataFrame({"item_id": ids, "uri": uris, "split": splits})}
    if captions:
        texts = [f"an apple number {i}" for i in range(n)]
        tables["caption"] = pl.DataFrame(
            {"item_id": [f"{item}#en" for item in ids], "text": texts, "parent_id": ids}
        )
    return write_manifest(folder, facts={"name": name, "revision": "1"}, tables=tables)


Matrix = npt.NDArray[Any]


@dataclass(frozen=True)
class Finding:
    """What came of one promise.

    Attributes
    ----------
    name : str
        The name of the promise, with blanks.
    promise : str
        What is promised.
    kept : bool or None
        None: the promise is none that a thing like this one makes.
    text : str
        Of a broken promise what was expected, what was found and what to do; else what is worth
        knowing, often nothing.
    """

    name: str
    promise: str
    kept: bool | None
    text: str = ""


class Inapplicable(Exception):  # noqa: N818
    """Raised by a check of what a thing like this one does not promise; its text says why."""


class Contract:
    """The promises of one kind of thing: the public methods of a subclass, in their order.

    Parameters
    ----------
    name : str
        Under which the thing is registered.
    options : mapping, optional
        Of an encoder.
    """

    def __init__(self, name: str, options: Mapping[str, Any] | None = None) -> None:
        self._name, self._options = name, dict(options or {})

    @classmethod
    def promises(cls) -> dict[str, str]:
        """Return what is promised, by the name of the promise."""
        above = cls.__mro__[-3::-1]  # below `Contract` and `object`
        own = {name: vars(each)[name] for each in above for name in vars(each)}
        return {
            name.replace("_", " "): inspect.getdoc(promise) or ""
            for name, promise in own.items()
            if inspect.isfunction(promise) and not name.startswith("_")
        }

    def findings(self) -> Iterator[Finding]:
        """Check one promise after another; without the first, none of the others is looked at."""
        for number, (name, promise) in enumerate(promises := self.promises().items()):
            found = Finding(name, promise, *self._checked(name))
            if found.kept is False and not number:
                more = f" The other {len(promises) - 1} checks need this one: repair it first."
                yield replace(found, text=found.text + more)
                return
            yield found

    def _checked(self, name: str) -> tuple[bool | None, str]:
        """Return whether a promise is kept, and what there is to say."""
        try:
            with redirect_stdout(sys.stderr), warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                return True, getattr(self, name.replace(" ", "_"))() or ""
        except Inapplicable as why:
            return None, str(why)
        except ContractError as err:
            return False, str(err)
        except Exception as err:  # whatever a stranger's code raises
            said = [f"{type(err).__name__}: {err}", *getattr(err, "__notes__", []), _line_of(err)]
            return False, " ".join(" ".join(said).split())


#: Where the packages lie that are not a stranger's.
_OURS = tuple(
    f"{Path(__file__).parents[1] / package}{os.sep}"
    for package in ("bench", "data_manifests", "featstore", "fitters", "headstock")
)


def _line_of(err: Exception) -> str:
    """Return the last line of a stranger's file that an error went through, if there is one."""
    frames = [
        frame for frame in traceback.extract_tb(err.__traceback__)
        if not frame.filename.startswith(_OURS)
        and Path(frame.filename).stem not in sys.stdlib_module_names
    ]  # fmt: skip
    # What is called first is theirs; what that calls may be any library.
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return f"({Path(own[-1].filename).name}, line {own[-1].lineno}: {own[-1].line})" if own else ""


def unchanged(passed: Mapping[str, Matrix], work: Callable[[], Any]) -> None:
    """Raise ContractError if some work changes arrays that it is passed."""
    before = {name: rows.copy() for name, rows in passed.items()}
    work()
    for name, rows in passed.items():
        moved = np.count_nonzero(rows != before[name])
        expect(
            not moved, f"Expected {name} unchanged; {moved:,} of {rows.size:,} values are others. "
            "Rows of a store are read-only: write X = X - mean, not X -= mean.",
        )  # fmt: skip


def equal(found: Any, expected: Any, todo: str) -> None:
    """Raise ContractError unless two arrays are equal to the last byte."""
    if not np.array_equal(found, expected):
        moved = np.abs(np.subtract(found, expected)).max()
        raise ContractError(f"Expected equal numbers; they differ by up to {moved:.2g}. {todo}")


def expect(kept: bool, broken: str) -> None:  # noqa: FBT001
    """Raise ContractError with a text, unless something holds."""
    if not kept:
        raise ContractError(broken)


class EncoderContract(Contract):
    """What an extraction needs of an encoder: see `featstore.encoders.base.Encoder`."""

    def _opened(self) -> Encoder:
        return open_encoder(self._name, **self._options)

    @cached_property
    def _encoder(self) -> Encoder:
        return self._opened()

    @cached_property
    def _items(self) -> list[Any]:
        """Golden items, and odd ones: files of every mode as an extraction decodes them."""
        if not IMAGE_KINDS & self._encoder.kinds:
            return [*golden_inputs(self._encoder.kinds), "", "?", "many words " * 2000]
        from PIL import Image

        files = [BytesIO() for _ in range(8)]
        drawn = golden_images()[0]
        for file, mode in zip(files, ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), strict=False):
            (drawn.convert("L") if mode == "I;16" else drawn).convert(mode).save(file, "PNG")
        drawn.convert("CMYK").save(files[-1], "JPEG")
        return [
            *golden_images(),
            *(Image.new("RGB", size) for size in ((1, 1), (300, 2), (2, 300))),
            *(decode_image(file.getvalue()) for file in files),
        ]

    def _rows(self, items: list[Any]) -> Matrix:
        return self._encoder.encode([self._encoder.prepare(item) for item in items])

    def _near(self, rows: Matrix, when: str, todo: str) -> None:
        expected = self._rows(self._items)
        sizes = np.linalg.norm(expected, axis=1)
        moved = float((np.linalg.norm(rows - expected, axis=1) / np.maximum(sizes, 1e-9)).max())
        expect(moved < 1e-3, f"Expected the same rows {when}; one moves by {moved:.1%}. {todo}")

    def rows(self) -> None:
        """Give a finite float32 row of `dim` numbers for every item, of whatever mode or length."""
        rows, shape = self._rows(self._items), (len(self._items), self._encoder.dim)
        got = f"{getattr(rows, 'dtype', type(rows).__name__)} of shape {np.shape(rows)}"
        expect(
            isinstance(rows, np.ndarray) and rows.shape == shape and rows.dtype == np.float32,
            f"Expected float32 of shape {shape}; got {got}.",
        )
        lost = int(np.count_nonzero(~np.isfinite(rows).all(axis=1)))
        expect(not lost, f"Expected finite rows; {lost} of {len(rows)} are not.")

    def batches(self) -> None:
        """Encode an item alone as it does in a batch, and prepare many as one by one."""
        many = self._encoder.encode(prepare_many(self._encoder, self._items))
        self._near(many, "for items prepared in one call", "Let prepare_many do what prepare does.")
        alone = [self._rows([item]) for item in self._items]
        self._near(np.concatenate(alone), "for items one by one", "Mask what pads a batch, and use "
                   "no statistics of the batch (model.eval()).")  # fmt: skip

    def determinism(self) -> None:
        """Give the same rows again, and when it is opened again."""
        self._near(self._rows(self._items), "again", "Switch off what is drawn (model.eval()).")
        again = self._opened()
        rows = again.encode([again.prepare(item) for item in self._items])
        self._near(rows, "of one that is opened again", "Draw no weights without a seed.")

    def space(self) -> str:
        """Name its space in plain JSON, the same whenever it is opened."""
        one, two = (space_id(encoder.space) for encoder in (self._encoder, self._opened()))
        expect(one == two, "Expected one space of two encoders of this name; the ids differ "
                f"({one[:8]}, {two[:8]}). Leave times, paths and devices to `facts`.")  # fmt: skip
        canonical_json(dict(self._encoder.facts))
        return f"Space {one[:8]}: {', '.join(sorted(self._encoder.space))}."

    def name(self) -> None:
        """Have the name that it was opened by, and kinds of items that it takes."""
        name, kinds = self._encoder.name, frozenset(self._encoder.kinds)
        expect(name == self._name, f"Expected the name {self._name!r}; it is {name!r}.")
        known = kinds and (kinds <= IMAGE_KINDS or kinds <= TEXT_KINDS)
        expect(bool(known), f"Expected kinds {{'image'}}, or some of {sorted(TEXT_KINDS)}; got "
                f"{sorted(kinds)}.")  # fmt: skip

    def threads(self) -> None:
        """Prepare items in threads, and leave them as they are."""
        before = pickle.dumps(self._items)
        with ThreadPoolExecutor(4) as pool:
            prepared = list(pool.map(self._encoder.prepare, self._items))
        expect(pickle.dumps(self._items) == before, "Expected items unchanged by prepare.")
        if isinstance(geometry := getattr(self._encoder, "geometry", None), Geometry):
            made = [geometry.pixels(item) for item in self._items]
            expect(all(map(np.array_equal, made, prepared)), "Expected prepare to return what "
                   "`geometry` makes of a picture; leave one of them out.")  # fmt: skip
        self._near(self._encoder.encode(prepared), "prepared in threads", "Keep no state.")


def defined(place: str, name: str) -> Any:
    """Return what a module, or a file that ends in .py, defines under a name.

    Raises
    ------
    PluginError
        If it cannot be imported, or does not.
    """
    try:
        if place.endswith(".py"):
            use_plugins([place])
            file = str(Path(place).resolve())
            module = next(
                m for m in [*sys.modules.values()] if getattr(m, "__file__", None) == file
            )
        else:
            module = import_module(place)
        return attrgetter(name)(module)
    except (ImportError, AttributeError) as err:
        raise PluginError(
            f"{place}:{name} cannot be used: {err}. Give a name that is registered, MODULE:OBJECT "
            "or FILE.py:OBJECT."
        ) from err
