"""The toy store of featstore.testing, with a second encoder of each side that was not fitted on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from featstore import open_store
from featstore.testing import toy_store, write_set

X, Y = "toy/image/timm:toy", "toy/caption/st:toy"
HEAD, NAMES = "labels/head_weight/timm:toy", "labels/class_name/st:toy"
P, Q, CLASSES, IMAGES = 12, 8, 30, 40


def write_toy_store(root: Path) -> None:
    """Write the toy store, the captions' rows in another space, and a head of another model."""
    keys = toy_store(root, classes=CLASSES, images=IMAGES, image_dim=P, text_dim=Q)
    store = open_store(root)
    captions, head = store.view(keys["caption"]), store.view(keys["head_weight"])
    write_set(
        root, captions.numpy(), captions.items, dataset="toy", kind="caption",
        encoder="st:other", space={"name": "o"},
    )  # fmt: skip
    order = [int(item[-2:]) for item in head.items["class_id"]]
    write_set(
        root, np.eye(CLASSES, P)[order] + 1, head.items, dataset="labels", kind="head_weight",
        encoder="timm:other", space={"a": 1},
    )  # fmt: skip
