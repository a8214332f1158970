"""The smoke suite: the demo's protocol on a synthetic store of a few kilobytes.

The data are planted: classes are points of a latent space, images and texts are noisy linear
views of them, and the head's rows are views of other classes of the same latent space. So head
weights help, random and shuffled rows do not, and a broken protocol shows in seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.runs import Run
from bench.suites.demo import plan
from bench.suites.sets import find_sets
from featstore.keys import sha256_hex
from featstore.store.store import FeatureStore
from featstore.store.writer import SetWriter

DATASET, LABEL_SET = "smoke", "smokehead"
IMAGE_ENCODER, TEXT_ENCODER = "synthetic:image", "synthetic:text"

_SEED = 7
_N_CLASSES, _N_IMAGES, _N_HEAD = 40, 72, 120
_LATENT, _IMAGE_DIM, _TEXT_DIM = 6, 24, 16
_TEMPLATES = {"none": "{}", "photo": "a photo of a {}"}

_SCHEMA = {
    "item_id": pl.String,
    "kind": pl.String,
    "uri": pl.String,
    "text": pl.String,
    "parent_id": pl.String,
    "class_id": pl.String,
    "variant": pl.String,
    "template_id": pl.String,
    "split": pl.String,
    "content_sha256": pl.String,
}


def smoke_runs(store: FeatureStore, *, limit: int | None = None) -> list[Run]:
    """Return the runs of the smoke suite on the store of `create_smoke_store`."""
    sets = find_sets(store, dataset=DATASET, label_set=LABEL_SET)
    return plan(
        store, sets, suite="smoke", limit=limit, seeds=(0, 1), n_pairs=(8, "all"), control_draws=3,
        ranked={"kernel-ridge": (0, 8)},
    )  # fmt: skip


def create_smoke_store(root: Path) -> None:
    """Write the synthetic store to `root`; what is already there is left as it is.

    Raises
    ------
    StoreWriteError
        If the folder cannot be written.
    """
    rng = np.random.default_rng(_SEED)
    to_image = rng.standard_normal((_LATENT, _IMAGE_DIM))
    to_text = rng.standard_normal((_LATENT, _TEXT_DIM))
    classes = rng.standard_normal((_N_CLASSES, _LATENT))
    head = rng.standard_normal((_N_HEAD, _LATENT))
    # The first classes have two or three images each, the rest one: clusters of several sizes.
    owner = np.sort(np.arange(_N_IMAGES) % _N_CLASSES)

    def view(latent: NDArray[Any], matrix: NDArray[Any], noise: float) -> NDArray[np.float32]:
        rows = latent @ matrix + noise * rng.standard_normal((len(latent), matrix.shape[1]))
        single: NDArray[np.float32] = rows.astype(np.float32)
        return single

    images = [f"{DATASET}/image-{i:03d}" for i in range(_N_IMAGES)]
    class_ids = [f"{DATASET}/class-{c:02d}" for c in range(_N_CLASSES)]
    head_ids = [f"{LABEL_SET}/class-{c:03d}" for c in range(_N_HEAD)]
    own_ids = [class_ids[c] for c in owner]
    _write(
        root, DATASET, "image", IMAGE_ENCODER, view(classes[owner], to_image, 0.8) + 1.0,
        _items("image", images, class_id=own_ids, uri=[f"{i}.png" for i in images]),
    )  # fmt: skip
    _write(
        root, DATASET, "caption", TEXT_ENCODER, view(classes[owner], to_text, 0.2),
        _items(
            "caption", [f"{i}#en" for i in images], class_id=own_ids, parent_id=images,
            variant=["en"] * _N_IMAGES, text=[f"This is {c}." for c in own_ids],
        ),
    )  # fmt: skip
    for dataset, ids, latent in ((DATASET, class_ids, classes), (LABEL_SET, head_ids, head)):
        prompts = [(c, t) for c in range(len(ids)) for t in _TEMPLATES]
        rows = view(latent[[c for c, _ in prompts]], to_text, 0.1)
        _write(
            root, dataset, "class_name", TEXT_ENCODER, rows,
            _items(
                "class_name", [f"{ids[c]}#name#{t}" for c, t in prompts],
                class_id=[ids[c] for c, _ in prompts], variant=["name"] * len(prompts),
                template_id=[t for _, t in prompts],
                text=[_TEMPLATES[t].format(ids[c].rsplit("/", 1)[1]) for c, t in prompts],
            ),
        )  # fmt: skip
    _write(
        root, LABEL_SET, "head_weight", IMAGE_ENCODER, view(head, to_image, 0.2),
        _items("head_weight", [f"{c}#head" for c in head_ids], class_id=head_ids),
        bias=np.zeros(_N_HEAD, dtype=np.float32),
    )  # fmt: skip


def _items(kind: str, ids: list[str], **columns: list[str]) -> pl.DataFrame:
    rows = {name: columns.get(name, [None] * len(ids)) for name in _SCHEMA}
    rows |= {
        "item_id": ids,
        "kind": [kind] * len(ids),
        "content_sha256": [sha256_hex(item.encode()) for item in ids],
    }
    return pl.DataFrame(rows, schema=_SCHEMA)


def _write(
    root: Path,
    dataset: str,
    kind: str,
    encoder: str,
    rows: NDArray[np.float32],
    items: pl.DataFrame,
    *,
    bias: NDArray[np.float32] | None = None,
) -> None:
    writer = SetWriter(
        root,
        dataset=dataset,
        kind=kind,
        encoder=encoder,
        space={"name": encoder, "seed": _SEED},
        items=items,
        dim=rows.shape[1],
        dtype="float32",
    )
    if (writer.directory / "zarr.json").exists():
        return
    with writer:
        for block in writer.pending():
            writer.write_block(block, rows[writer.layout.block_slice(block)])
        writer.finish(bias=bias)
