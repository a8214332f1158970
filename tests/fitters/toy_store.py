"""A small store with a planted map from text to image space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tests.featstore.store.conftest import item_table, write_set

X, Y = "toy/image/timm:toy", "toy/caption/st:toy"
HEAD, NAMES = "labels/head_weight/timm:toy", "labels/class_name/st:toy"
P, Q, CLASSES, IMAGES = 12, 8, 30, 40


def write_toy_store(root: Path) -> None:
    """Write head rows and images that are noisy images of texts, with an offset between them."""
    rng = np.random.default_rng(1)
    plant = rng.standard_normal((Q, P))
    texts = rng.standard_normal((CLASSES, Q))
    captions = rng.standard_normal((IMAGES, Q))
    ids = [f"labels/c{i:02d}" for i in range(CLASSES)]
    order = rng.permutation(CLASSES)
    heads = item_table(
        [{"item_id": f"{ids[i]}#head", "kind": "head_weight", "class_id": ids[i]} for i in order]
    )
    names = item_table(
        [
            {"item_id": f"{c}#{v}#{t}", "kind": "class_name", "text": f"{v} {c}", "class_id": c,
             "variant": v, "template_id": t}
            for c in ids for v, t in (("lemmas", "none"), ("lemmas", "photo"), ("name", "none"))
        ]
    )  # fmt: skip
    images = item_table(
        [
            {"item_id": f"toy/{i:02d}", "kind": "image", "class_id": f"toy/d{i // 2}",
             "split": "train" if i < 30 else "test"}
            for i in range(IMAGES)
        ]
    )  # fmt: skip
    sayings = item_table(
        [
            {"item_id": f"toy/{i:02d}#en", "kind": "caption", "text": f"t{i}",
             "parent_id": f"toy/{i:02d}", "class_id": f"toy/d{i // 2}"}
            for i in reversed(range(IMAGES))
        ]
    )  # fmt: skip
    noise = 0.05
    space, text_space = {"name": "vision"}, {"name": "language"}
    prompts = np.repeat(texts, 3, axis=0) + 0.01 * rng.standard_normal((3 * CLASSES, Q))
    sets: list[tuple[np.ndarray, pl.DataFrame, dict[str, Any]]] = [
        (texts[order] @ plant + noise * rng.standard_normal((CLASSES, P)), heads,
         {"dataset": "labels", "kind": "head_weight", "space": space, "bias": rng.random(CLASSES)}),
        (prompts, names,
         {"dataset": "labels", "kind": "class_name", "encoder": "st:toy", "space": text_space}),
        (3.0 + captions @ plant + noise * rng.standard_normal((IMAGES, P)), images,
         {"dataset": "toy", "kind": "image", "space": space}),
        (captions[::-1].copy(), sayings,
         {"dataset": "toy", "kind": "caption", "encoder": "st:toy", "space": text_space}),
        (captions[::-1].copy(), sayings,
         {"dataset": "toy", "kind": "caption", "encoder": "st:other", "space": {"name": "o"}}),
        (np.eye(CLASSES, P)[order] + 1, heads,
         {"dataset": "labels", "kind": "head_weight", "encoder": "timm:other", "space": {"a": 1}}),
    ]  # fmt: skip
    for rows, items, options in sets:
        write_set(root, rows.astype(np.float32), items, **options)
