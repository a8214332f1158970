"""Which classes a head has seen: by lemma against hand-worked tables, by synset against timm."""

import polars as pl
import pytest

from data_manifests.labels import find_timm_info
from data_manifests.registry import BUILDERS
from featstore.datasets import build_dataset
from featstore.errors import ManifestError
from featstore.labels import crosswalk, overlap
from tests.data_manifests import miniatures

HEAD = pl.DataFrame(
    {
        "class_id": ["h/n1", "h/n2", "h/n3", "h/n4"],
        "index": [0, 1, 2, 3],
        "synset": ["n1", "n2", "n3", "n4"],
        "lemmas": ["crane", "crane", "hot dog, red-hot", "dog, domestic dog"],
        "name": ["crane", "crane", "hot dog", "dog"],
    }
)
FOOD = pl.DataFrame(
    {
        "class_id": ["f/hot_dog", "f/Red_Hot", "f/dogs", "f/Crane"],
        "index": [0, 1, 2, 3],
        "name": ["hot dog", "Red  Hot", "dogs", "Crane"],
    }
)


def test_exact_lemmas_by_hand():
    found = overlap(FOOD, HEAD)
    assert found.select("class_id", "other_id", "lemma", "rule").rows() == [
        ("f/hot_dog", "h/n3", "hot dog", "lemma"),
        ("f/Red_Hot", "h/n3", "red hot", "lemma"),
        ("f/Crane", "h/n1", "crane", "lemma"),
        ("f/Crane", "h/n2", "crane", "lemma"),
    ]


def test_synsets_count_where_both_have_them():
    own = pl.DataFrame(
        {
            "class_id": ["d/n4", "d/n9"],
            "index": [0, 1],
            "synset": ["n4", "n9"],
            "lemmas": ["hound", "cat"],
            "name": ["hound", "cat"],
        }
    )
    assert overlap(own, HEAD).select("class_id", "other_id", "lemma", "rule").rows() == [
        ("d/n4", "h/n4", None, "synset")
    ]


@pytest.mark.parametrize(
    ("first", "second", "file"),
    [
        ("imagenet12k", "imagenet22k", "imagenet22k_to_12k_indices.txt"),
        ("imagenet12k", "imagenet22k_ms", "imagenet22k_ms_to_12k_indices.txt"),
        ("imagenet22k", "imagenet21k_goog", "imagenet21k_goog_to_22k_indices.txt"),
    ],
)
def test_the_crosswalk_is_timms(first, second, file):
    """Independent: timm ships the rows of one head that make another."""
    tables = [BUILDERS[name].plan().make(None, None).classes for name in (first, second)]
    found = crosswalk(*tables)
    expected = [int(row) for row in (find_timm_info() / file).read_text().split()]
    assert found["index"].to_list() == list(range(tables[0].height))
    assert found["other_index"].to_list() == expected


def test_a_label_set_without_synsets_has_no_crosswalk():
    with pytest.raises(ManifestError, match=r"'f/hot_dog' has no synsets.*overlap"):
        crosswalk(FOOD, HEAD)


def test_the_pets_that_a_head_has_seen(tmp_path):
    miniatures.pets(tmp_path / "data")
    pets = build_dataset("pets", tmp_path / "pets", root=tmp_path / "data", subset=True).manifest
    head = BUILDERS["imagenet22k"].plan().make(None, None).classes
    # WordNet has "Abyssinian" and neither "American Bulldog" nor "Bengal" alone.
    assert overlap(pets.classes, head).select("class_id", "other_id", "lemma", "rule").rows() == [
        ("pets/abyssinian", "imagenet22k/n02124313", "abyssinian", "lemma")
    ]
