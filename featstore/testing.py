"""Toy stores and manifests: small, the same every time, and written as an extraction writes them.

For tests of what reads a store or a manifest, here and in projects that build on it. Nothing needs
torch; pictures need Pillow.

    from featstore import open_store
    from featstore.testing import item_table, toy_store, write_set

    keys = toy_store(tmp_path / "store")
    images = open_store(tmp_path / "store").view(keys["image"])

    items = item_table(["birds/0", "birds/1"], split=["train", "test"])
    key = write_set(tmp_path / "store", np.eye(2), items)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from featstore.manifest.io import write_manifest
from featstore.manifest.manifest import Manifest, conform_items
from featstore.options import take_options
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
    **options
        What the set is, by default `BIRDS`: fields of `featstore.store.layout.SetSpec`; the space
        is ``{"name": encoder}`` by default. Its layout: ``block_rows``, ``plain_bytes`` and
        ``shard_bytes`` of `featstore.store.layout.LayoutLimits`. And ``bias`` of a head,
        ``golden`` vectors and facts of the ``run``: see `featstore.store.writer.SetWriter.finish`.

    Returns
    -------
    str
        Key of the set: ``dataset/kind/encoder-id``.

    Raises
    ------
    OptionError
        If there is no such option.
    """
    own, sizes, last = take_options(options, SetSpec, LayoutLimits, _Ending, of="write_set")
    spec = replace(BIRDS, **own)
    spec = replace(spec, space=own.get("space") or {"name": spec.encoder})
    folder, table, limits = Path(root), np.asarray(rows), LayoutLimits(**sizes)
    with SetWriter(folder, spec, items, table.shape[1], facts=facts, limits=limits) as writer:
        for block in writer.pending():
            where = writer.layout.block_slice(block)
            own_ids = set(items["item_id"][where.start : where.stop])
            failed = {item: why for item, why in (failures or {}).items() if item in own_ids}
            writer.write_block(block, table[where], failed)
        if last.get("bias") is not None:
            last["bias"] = np.asarray(last["bias"])
        writer.finish(**last)
    for path in () if sealed else folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o200)
    return str(writer.key)


@dataclass(frozen=True)
class _Ending:
    """What `SetWriter.finish` takes."""

    bias: ArrayLike | None = None
    golden: Mapping[str, Any] | None = None
    run: Mapping[str, Any] | None = None


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
        single = np.asarray(rows, np.float32)
        return write_set(root, single, item_table(items, kind), dataset=dataset, kind=kind, **more)

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
