"""Worlds of the fault matrix: what lies in a folder before a command is typed there.

Each is a function of an empty folder; it is called once, and its folder copied for every attempt.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from featstore.arrays import write
from featstore.share import copy_sets, make_tag
from featstore.store.gc import make_store
from featstore.store.layout import SetKey
from featstore.store.log import make_key
from featstore.store.records import staging_of
from featstore.store.tables import write_thumbnails
from featstore.testing import item_table, toy_manifest, toy_store, write_set
from tests.damage import unseal

#: A block of two rows and a file of two blocks, so that a set of five rows has two data files.
CUT = {"block_rows": 2, "plain_bytes": 0, "shard_bytes": 1}

#: A row is 16 KiB, so that four of them are a data file: whole pages of 64 KiB.
WIDE = 4096


def images(store: Path, n: int = 5, *, encoder: str = "timm:toy", dataset: str = "birds") -> SetKey:
    """Write a set of n images, or extend it; items 1 and 3 have failed."""
    ids = [f"{dataset}/{i}" for i in range(n)]
    rows = np.arange(n, dtype=np.float32)[:, None] + np.ones(WIDE, np.float32)
    failures = {ids[i]: "cannot be decoded" for i in (1, 3) if i < n}
    rows[[ids.index(item) for item in failures]] = np.nan
    key = write_set(
        store, rows, item_table(ids, content_sha256=[f"{i:064x}" for i in range(n)]),
        failures=failures, dataset=dataset, encoder=encoder, sealed=True, golden={"v": [1.0]},
        run={"host": "here"}, **CUT,
    )  # fmt: skip
    return SetKey(*key.split("/"))


def captions(store: Path, n: int = 3, dataset: str = "birds") -> SetKey:
    """Write a set of n captions in one plain chunk."""
    items = item_table([f"{dataset}/{i}#en" for i in range(n)], "caption")
    rows = np.arange(n * 6, dtype=np.float32).reshape(n, 6) + 1
    key = write_set(store, rows, items, kind="caption", encoder="st:toy", dataset=dataset,
                    sealed=True)  # fmt: skip
    return SetKey(*key.split("/"))


def head(store: Path, n: int = 3) -> SetKey:
    """Write a head of n classes."""
    items = item_table([f"labels/{i}#head" for i in range(n)], "head_weight")
    rows = np.arange(n * 6, dtype=np.float32).reshape(n, 6) + 1
    key = write_set(store, rows, items, kind="head_weight", dataset="labels", sealed=True,
                    bias=np.arange(n, dtype=np.float32))  # fmt: skip
    return SetKey(*key.split("/"))


def pictures(store: Path) -> None:
    """Keep two thumbnails of the images."""
    write_thumbnails(store / "birds" / "image", {"birds/0": b"RIFF0", "birds/2": b"RIFF2"})


def birds(root: Path) -> None:
    """A store with all kinds of sets: images in two revisions with thumbnails, a head, captions."""
    store = root / "store"
    images(store, 3)
    images(store)
    captions(store)
    head(store)
    pictures(store)


def tagged(root: Path) -> None:
    """The same, and a tag."""
    birds(root)
    make_tag(root / "store", "v0")


def withdrawn(root: Path) -> None:
    """The same, and the id of a picture that is to be withdrawn."""
    tagged(root)
    (root / "gone.txt").write_text("birds/2\n")


def signing(root: Path) -> None:
    """The same, and a private key beside the store."""
    tagged(root)
    make_key(root / "me.pem")


def two_encoders(root: Path) -> None:
    """A store with two sets of the same items."""
    images(root / "store")
    images(root / "store", encoder="timm:other")


def unfinished(root: Path) -> None:
    """A store with a finished set, and one that was begun."""
    captions(root / "store")
    begun(root / "store")


def begun(store: Path) -> None:
    """Begin a set and leave it as a writer that was stopped after one block does."""
    from tests.faults import scenarios

    def stop(_: object, block: int) -> None:
        if block:
            raise KeyboardInterrupt

    try:
        scenarios.write(store, 7, dataset="begun", before_block=stop)
    except KeyboardInterrupt:
        return


def litter(root: Path) -> None:
    """A store with everything that gc takes away, all of it old."""
    store = root / "store"
    key = images(store, 3)
    captions(store)
    pictures(store)
    begun(store)
    old = images(store, encoder="timm:other").directory(store)
    removed = old.with_name("timm.gone-0badcafe")  # a removal that was killed behind the log
    shutil.copytree(old, removed)
    (staging_of(removed) / "w000001-0a1b2c3d").mkdir(parents=True)
    (store / ".zarr.json.0a1b2c3d.staged").write_bytes(b"half")
    (key.directory(store).parent / "items-00000000.parquet").write_bytes(b"unnamed")
    (key.directory(store) / "revisions" / f"{'0' * 64}.json").write_bytes(b"{}")
    (key.directory(store) / "failures-00000000.parquet").write_bytes(b"unnamed")
    staging = staging_of(key.directory(store)) / "w000001-0a1b2c3d"
    staging.mkdir(parents=True)
    (staging / "half.staged").write_bytes(b"half")
    for path in [*store.rglob("*"), store]:
        os.utime(path, (1_700_000_000,) * 2)


def beside(root: Path) -> None:
    """A store and another: captions are in both, the images of the other are a revision behind."""
    tagged(root)
    images(root / "other", 3)
    captions(root / "other")


def apart(root: Path) -> None:
    """Two stores, each with a set that the other lacks."""
    images(root / "store")
    make_tag(root / "store", "ours")
    captions(root / "other")
    head(root / "other")


def damaged(root: Path) -> None:
    """A store with a flipped byte and two lost files, and a whole copy of it."""
    birds(root)
    copy_sets(root / "store", root / "copy")
    unseal(root / "store")
    folder = next((root / "store" / "birds" / "image").glob("timm.toy-*"))
    with (folder / "embedding" / "c" / "0" / "0").open("r+b") as file:
        file.write(b"\x55")
    (folder / "golden.json").unlink()
    (folder / "embedding" / "zarr.json").write_bytes(b"{}")


def lost(root: Path) -> None:
    """A store that lacks files that follow from the others."""
    birds(root)
    unseal(root / "store")
    folder = next((root / "store" / "birds" / "image").glob("timm.toy-*"))
    (folder / "embedding" / "zarr.json").write_bytes(b"{}")
    (root / "store" / "birds" / "zarr.json").unlink()


def empty(root: Path) -> None:
    """A store without sets."""
    make_store(root / "store")


def rows_of_others(root: Path) -> None:
    """Rows and items that another tool wrote."""
    np.save(root / "rows.npy", np.arange(1, 61, dtype=np.float32).reshape(10, 6))
    pl.DataFrame({"item_id": [f"birds/{i}" for i in range(10)]}).write_csv(root / "items.csv")


def two_spaces(root: Path) -> None:
    """Vectors of the same items by two encoders."""
    old = np.random.default_rng(3).standard_normal((160, 4)).astype(np.float32)
    np.save(root / "old.npy", old)
    np.save(root / "new.npy", old[:, ::-1] + 1)


def grown(root: Path) -> None:
    """The same, and a set of the first seven in as many parts: one more joins them."""
    rows_of_others(root)
    rows = np.load(root / "rows.npy")
    for n in range(1, 8):
        write(root / "store", rows[:n], ids=[f"birds/{i}" for i in range(n)], dataset="birds",
              encoder="their:vit")  # fmt: skip
    images(root / "store", 3)
    images(root / "store")


def files(root: Path) -> None:
    """Pictures in folders of classes, a table of pairs, a list of classes."""
    toy_manifest(root / "made", 3)
    for name in ("cat", "dog"):
        (root / "photos" / name).mkdir(parents=True)
        shutil.copy(root / "made" / "images" / "00.png", root / "photos" / name / "0.png")
    shutil.rmtree(root / "made")
    (root / "pairs.csv").write_text("image,caption\ncat/0.png,a cat\ndog/0.png,a dog\n")
    (root / "birds.txt").write_text("cardinal\ngreat tit\nrobin\n")


def official(root: Path) -> None:
    """A small copy of DTD as it is distributed."""
    from tests.data_manifests.miniatures import dtd

    dtd(root / "data")


def stamps(root: Path) -> None:
    """Three stamps with captions in two languages."""
    from PIL import Image

    for folder, name in (("animals", "cat"), ("animals", "dog"), ("food", "apple")):
        place = root / "stamps" / folder
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (20, 30), "red").save(place / f"{name}.png")
        (place / f"{name}.txt").write_text(f"A {name}.\nfr.utf8=Un {name}.\n", "utf-8")


def model(root: Path) -> None:
    """Pictures, and the weights of a tiny encoder of images with a head."""
    import timm
    from safetensors.numpy import save_file

    toy_manifest(root / "manifest", 3)
    (root / "things.txt").write_text("".join(f"thing {i}\n" for i in range(4)))
    rng, weights = np.random.default_rng(0), {}
    for name, tensor in timm.create_model("test_resnet", num_classes=4).state_dict().items():
        weights[name] = tensor.numpy()
        if weights[name].dtype == np.float32:
            low = 0.5 if name.endswith("running_var") else -0.5
            weights[name] = rng.uniform(low, low + 1, tensor.shape).astype(np.float32)
    save_file(weights, root / "w.safetensors")


def toy(root: Path) -> None:
    """A store that alignments are fitted on."""
    toy_store(root / "store", classes=8, images=16, image_dim=6, text_dim=4)
    names = [
        {"item_id": f"toy/d{i}#name#{template}", "text": f"thing {i}", "class_id": f"toy/d{i}",
         "variant": "name", "template_id": template} for i in range(8)
        for template in ("none", "photo")
    ]  # fmt: skip
    rows = np.random.default_rng(2).standard_normal((16, 4)).astype(np.float32)
    write_set(root / "store", rows, item_table(names, "class_name"), dataset="toy",
              kind="class_name", encoder="st:toy", space={"name": "language"})  # fmt: skip


WORLDS: dict[str, Callable[[Path], None]] = {
    world.__name__: world
    for world in (
        birds, tagged, withdrawn, signing, two_encoders, unfinished, litter, beside, apart,
        damaged, lost, empty,
        rows_of_others, grown, two_spaces, files, official, stamps, model, toy,
    )
}  # fmt: skip
