"""Label sets of WordNet synsets: real files of timm, and hand-made bad ones."""

import polars as pl
import pytest

from data_manifests.labels import DEFINITIONS, LEMMAS, class_table
from data_manifests.plan import BuildError, fingerprint
from data_manifests.registry import BUILDERS

SYNSETS = "imagenet_synsets.txt"
plan = BUILDERS["imagenet1k"].plan

#: timm's own names of the label sets, which its predictions are named by.
SUBSETS = {
    "imagenet1k": "imagenet-1k",
    "imagenet12k": "imagenet-12k",
    "imagenet21k_goog": "imagenet-21k-goog",
    "imagenet21k_miil": "imagenet-21k-miil",
    "imagenet22k": "imagenet-22k",
    "imagenet22k_ms": "imagenet-22k-ms",
}


def test_hand_worked_table():
    table = class_table(
        "imagenet1k",
        "n2\nn1\nn3\n",
        "n1\tCardigan, Cardigan Welsh corgi\nn2\tgreat_white shark, white_shark\nn3\tcardigan\n",
        "n1\ta dog\nn2\ta fish; of the sea\n\nn3\ta jacket\nn4\tunused\n",
    )
    assert table["class_id"].to_list() == ["imagenet1k/n2", "imagenet1k/n1", "imagenet1k/n3"]
    assert table["index"].to_list() == [0, 1, 2]
    assert table["name"].to_list() == ["great white shark", "Cardigan", "cardigan"]
    assert table["lemmas"][0] == "great white shark, white shark"
    assert table["definition"].to_list() == ["a fish; of the sea", "a dog", "a jacket"]
    assert table["name_group"].to_list() == ["great white shark", "cardigan", "cardigan"]
    assert table["shared_name"].to_list() == [False, True, True]


@pytest.mark.parametrize("name", SUBSETS)
def test_the_real_label_sets_agree_with_timms_own_reader(name):
    """Independent: timm.data.ImageNetInfo, which timm uses to name its predictions."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo(SUBSETS[name])
    builder = BUILDERS[name]
    classes = builder.plan().make(None, None).classes
    assert classes.height == info.num_classes() == builder.facts["expected"]["classes"]
    assert classes["synset"].to_list() == info.label_names()
    assert classes["class_id"][1] == f"{name}/{classes['synset'][1]}"
    for index in (0, 1, 134, 517, classes.height - 1):
        row = classes.row(index, named=True)
        assert row["lemmas"] == info.index_to_description(index)
        assert row["definition"] in info.index_to_description(index, detailed=True)
    ours = {row["synset"]: row["name"] for row in classes.to_dicts()}
    assert all(ours[key] == text.split(",")[0] for key, text in LABELS.items() if key in ours)
    shared = classes.filter(pl.col("shared_name"))
    assert shared.height == len(classes) - classes["name_group"].n_unique() + (
        shared["name_group"].n_unique()
    )
    if name != "imagenet1k":
        assert f"{shared.height:,} classes share" in builder.facts["pitfalls"][-2]


#: Three synsets of WordNet by heart.
LABELS = {"n01440764": "tench, Tinca tinca", "n00004475": "organism", "n02084071": "dog"}


def test_the_orders_of_imagenet22k_differ_as_their_pitfalls_say():
    orders = {
        name: BUILDERS[name].plan().make(None, None).classes["synset"].to_list()
        for name in ("imagenet1k", "imagenet22k", "imagenet22k_ms", "imagenet21k_goog")
    }
    extra = ["n03931044", "n09859684"]
    assert [x for x in orders["imagenet21k_goog"] if x not in extra] == orders["imagenet22k"]
    assert [orders["imagenet21k_goog"].index(x) for x in extra] == [9205, 15027]
    assert orders["imagenet22k_ms"][:1000] == orders["imagenet1k"]
    rest = sorted(set(orders["imagenet22k"]) - set(orders["imagenet1k"]))
    assert orders["imagenet22k_ms"][1000:] == rest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / SYNSETS).write_text("n1\nn2\n")
    (tmp_path / LEMMAS).write_text("n1\ta\nn2\tb\n")
    (tmp_path / DEFINITIONS).write_text("n1\tA\nn2\tB\n")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        (LEMMAS, b"n1\ta\n", f"{LEMMAS} lacks 1 of 2 synsets .first: n2"),
        (DEFINITIONS, b"n1\tA\nn2\t\n", f"{DEFINITIONS} lacks 1 of 2"),
        (SYNSETS, b"n1\nn1\n", "holds 2 synsets, 1 of them distinct"),
        (SYNSETS, b"", "holds 0 synsets"),
        (SYNSETS, b"n\xff", "not UTF-8: byte 1. Install timm again"),
        (SYNSETS, None, "Cannot read .*-s files="),
    ],
)
def test_bad_files(folder, file, content, match):
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(BuildError, match=match):
        plan(source=folder)


def test_a_fingerprint_tells_where_its_parts_end():
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
    assert fingerprint(["ab", b"c"]) == fingerprint([b"ab", "c"])
