"""A small store whose every number is an integer: the same bytes on every machine.

Classes are points of a latent space; images, captions, names and the rows of two heads are noisy
linear views of them. Nothing is drawn but integers, and no product of them is rounded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore import open_store
from featstore.store.gc import make_store
from featstore.store.layout import LayoutLimits, SetSpec
from featstore.store.writer import SetWriter
from fitters import Pairs

LATENT, IMAGE_DIM, TEXT_DIM = 9, 20, 14
CLASSES, IMAGES_A_CLASS, CAPTIONS, HEAD = 30, 4, 2, 70

#: Classes of the large head that the dataset has too, by their names.
SHARED = 15
TEMPLATES = {"none": "{}", "photo": "a photo of a {}"}

SETS = {
    "images": "world/image/test",
    "names": "world/class_name/test",
    "captions": "world/caption/test",
    "head": "labels/head_weight/test",
    "head_names": "labels/class_name/test",
}
OWN_HEAD = {"head": "world/head_weight/test", "head_names": "world/class_name/test"}

COLUMNS = (
    "item_id", "kind", "uri", "text", "parent_id", "class_id", "variant", "template_id", "split",
    "content_sha256",
)  # fmt: skip


def item_table(kind: str, ids: list[str], **columns: list[str]) -> pl.DataFrame:
    """Return an item table; columns that are not given hold nulls."""
    rows: dict[str, Any] = {name: columns.get(name, [None] * len(ids)) for name in COLUMNS}
    rows |= {"item_id": ids, "kind": [kind] * len(ids)}
    rows["content_sha256"] = [f"{i:064x}" for i in range(len(ids))]
    return pl.DataFrame(rows, schema=dict.fromkeys(COLUMNS, pl.String))


def write_set(
    root: Path,
    dataset: str,
    kind: str,
    rows: np.ndarray,
    items: pl.DataFrame,
    *,
    space: str,
    dtype: str = "float32",
    failures: dict[str, str] | None = None,
    bias: np.ndarray | None = None,
    golden: dict[str, Any] | None = None,
    **limits: int,
) -> None:
    """Write one set, or extend it."""
    with SetWriter(
        root, SetSpec(dataset, kind, "test:toy", {"name": space}, dtype), items, rows.shape[1],
        facts={"note": "golden"}, limits=LayoutLimits(**limits),
    ) as writer:  # fmt: skip
        for block in writer.pending():
            where = writer.layout.block_slice(block)
            here = set(items["item_id"][where.start : where.stop])
            failed = {item: why for item, why in (failures or {}).items() if item in here}
            writer.write_block(block, rows[where].astype(np.float32), failed)
        writer.finish(bias=bias, golden=golden)


def write_world(root: Path) -> None:
    """Write the store that results and chosen settings are pinned on."""
    make_store(root)
    rng = np.random.default_rng(20_261_126)

    def integers(*shape: int, most: int) -> np.ndarray:
        return rng.integers(-most, most + 1, shape)

    to_image = integers(LATENT, IMAGE_DIM, most=9)
    to_text = integers(LATENT, TEXT_DIM, most=9)
    classes = integers(CLASSES, LATENT, most=9)
    head = integers(HEAD, LATENT, most=9)
    head[:SHARED] = classes[:SHARED]

    def views(latent: np.ndarray, matrix: np.ndarray, noise: int) -> np.ndarray:
        exact = latent @ matrix
        return exact + integers(*exact.shape, most=noise)

    owner = np.repeat(np.arange(CLASSES), IMAGES_A_CLASS)
    images = [f"world/{i:03d}" for i in range(len(owner))]
    ids = [f"world/class {c:02d}" for c in range(CLASSES)]
    head_ids = [f"labels/class {c:02d}" for c in range(HEAD)]
    words = [f"thing {c:02d}" for c in range(CLASSES)]
    head_words = words[:SHARED] + [f"other {c:02d}" for c in range(SHARED, HEAD)]
    # Every image is a little different from the others of its class, and its captions know how.
    latent = 3 * classes[owner] + integers(len(owner), LATENT, most=8)
    splits = ["test" if i % IMAGES_A_CLASS == 3 else "train" for i in range(len(owner))]
    write_set(
        root, "world", "image", views(latent, to_image, 400) + 60,
        item_table("image", images, class_id=[ids[c] for c in owner], split=splits),
        space="vision",
    )  # fmt: skip
    said = np.repeat(np.arange(len(owner)), CAPTIONS)
    write_set(
        root, "world", "caption", views(latent[said], to_text, 300),
        item_table(
            "caption", [f"{images[i]}#{k % CAPTIONS}" for k, i in enumerate(said)],
            parent_id=[images[i] for i in said], class_id=[ids[owner[i]] for i in said],
            variant=["en"] * len(said), text=[f"This is {words[owner[i]]}." for i in said],
        ),
        space="language",
    )  # fmt: skip
    for dataset, keys, names, points in (
        ("world", ids, words, classes), ("labels", head_ids, head_words, head),
    ):  # fmt: skip
        prompts = [(c, t) for c in range(len(keys)) for t in TEMPLATES]
        write_set(
            root, dataset, "class_name", views(3 * points[[c for c, _ in prompts]], to_text, 250),
            item_table(
                "class_name", [f"{keys[c]}#name#{t}" for c, t in prompts],
                class_id=[keys[c] for c, _ in prompts], variant=["name"] * len(prompts),
                template_id=[t for _, t in prompts],
                text=[TEMPLATES[t].format(names[c]) for c, t in prompts],
            ),
            space="language",
        )  # fmt: skip
        write_set(
            root, dataset, "head_weight", views(3 * points, to_image, 300),
            item_table("head_weight", [f"{c}#head" for c in keys], class_id=keys),
            space="vision", bias=integers(len(keys), most=5).astype(np.float32),
        )  # fmt: skip


def world_pairs(root: Path) -> tuple[Pairs, Pairs, np.ndarray]:
    """Return the large head with its names, all images with their captions, and the head's bias."""
    store = open_store(root)
    head, prompts = store.view(SETS["head"]), store.view(SETS["head_names"])
    bare = prompts.where(template_id="none")
    images, captions = store.view(SETS["images"]), store.view(SETS["captions"])
    place = {item: row for row, item in enumerate(images.items["item_id"])}
    parents = captions.items["parent_id"].to_numpy()
    owner = [place[parent] for parent in parents]
    assert head.bias is not None
    return (
        Pairs(head.numpy(), bare.numpy(), head.items["class_id"].to_numpy()),
        Pairs(images.numpy()[owner], captions.numpy(), parents, np.full(len(owner), 1 / CAPTIONS)),
        head.bias,
    )
