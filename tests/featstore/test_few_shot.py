"""Few-shot draws: deterministic, nested, disjoint, and the same in any order of the table."""

import hashlib

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.cli.manifests import manifests
from featstore.datasets import build_dataset
from featstore.errors import ManifestError
from featstore.shots import draw_shots, write_shots
from tests.data_manifests import miniatures


def images(classes=3, train=25, val=0):
    rows = [
        (f"d/image/{c}-{split}-{n}", f"d/{c}", split)
        for c in range(classes)
        for split, count in (("train", train), ("val", val), ("test", 3))
        for n in range(count)
    ]
    return pl.DataFrame(rows, schema=["item_id", "class_id", "split"], orient="row")


def test_by_hand():
    table = images(1, train=3)
    order = sorted(
        table.filter(split="train")["item_id"],
        key=lambda item: hashlib.sha256(f"7\0{item}".encode()).hexdigest(),
    )
    assert draw_shots(table, seed=7, shots=2, val=0).rows() == [
        (order[0], "d/0", "train", 0), (order[1], "d/0", "train", 1),
    ]  # fmt: skip


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    shots=st.sampled_from([1, 2, 4, 8, 16]),
    val=st.sampled_from([0, 6]),
    order=st.randoms(use_true_random=False),
)
def test_the_draw_is_balanced_disjoint_nested_and_blind_to_order(seed, shots, val, order):
    table = images(val=val)
    drawn = draw_shots(table, seed=seed, shots=shots)
    sizes = drawn.group_by("class_id", "part").len()
    assert set(sizes.filter(part="train")["len"]) == {shots}
    assert set(sizes.filter(part="val")["len"]) == {min(shots, 4)}
    assert drawn["item_id"].n_unique() == drawn.height
    splits = dict(table.select("item_id", "split").iter_rows())
    held = {splits[item] for item in drawn.filter(part="val")["item_id"]}
    assert held == {"val" if val else "train"}
    assert {splits[item] for item in drawn.filter(part="train")["item_id"]} == {"train"}
    rows = table.rows()
    order.shuffle(rows)
    shuffled = pl.DataFrame(rows, schema=table.schema, orient="row")
    assert draw_shots(shuffled, seed=seed, shots=shots).equals(drawn)
    more = draw_shots(table, seed=seed, shots=16)
    for part in ("train", "val"):
        assert set(drawn.filter(part=part)["item_id"]) <= set(more.filter(part=part)["item_id"])
    # The test split alone decides nothing, nor do other classes.
    alone = table.filter(pl.col("class_id") == "d/1")
    assert draw_shots(alone, seed=seed, shots=shots).equals(drawn.filter(class_id="d/1"))


def test_another_seed_draws_others():
    first, second = (draw_shots(images(), seed=seed, shots=8) for seed in (1, 2))
    assert not first.equals(second)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"shots": 30, "val": 0}, "3 of 3 classes have too few images for 30 in train"),
        ({"shots": 16, "val": 12}, "too few images for 12 in val .*val=0"),
        ({"shots": 0}, "cannot be 0 shots"),
        (
            {"shots": 1, "split": "tran"},
            "No image with a class is in the split 'tran'.*'test', 'train'",
        ),
    ],
)
def test_too_few_images_are_told(arguments, match):
    with pytest.raises(ManifestError, match=match):
        draw_shots(images(), seed=1, **arguments)


def test_files_have_the_same_bytes_and_are_small(tmp_path):
    files = write_shots(images(), tmp_path / "a", seeds=[1, 2])
    again = write_shots(images().reverse(), tmp_path / "b", seeds=[1, 2])
    assert [file.name for file in files][:2] == ["seed1-shots1.parquet", "seed1-shots2.parquet"]
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in again]
    assert pl.read_parquet(files[4]).equals(draw_shots(images(), seed=1, shots=16))
    assert max(file.stat().st_size for file in files) < 10_000


def test_the_command_draws_from_a_built_manifest(tmp_path):
    root = miniatures.caltech101(tmp_path / "data")
    build_dataset("caltech101", tmp_path / "built", root=root, subset=True)
    done = CliRunner().invoke(manifests, [
        "shots", str(tmp_path / "built"), "-o", str(tmp_path / "shots"), "--seeds", "3",
        "--shots", "1,4",
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    table = pl.read_parquet(tmp_path / "shots/seed3-shots4.parquet")
    assert table.group_by("part").len().sort("part").rows() == [("train", 12), ("val", 12)]
    wrong = CliRunner().invoke(manifests, [
        "shots", str(tmp_path / "built"), "-o", str(tmp_path / "shots"), "--shots", "one",
    ])  # fmt: skip
    assert wrong.exit_code == 2
