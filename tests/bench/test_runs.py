"""Runs: their ids, what is refused, and what is drawn for them."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import Run
from bench.cells import source_name
from bench.corpus import first_pairs, held_out_split, stream
from bench.errors import ProtocolError
from bench.execution import _on
from bench.metrics.summary import METRIC_VERSION
from bench.options import FewShot, Generalised, Neighbours, Retrieval, ZeroShot
from bench.runs import LEAVES, SOURCES
from featstore.identity import canonical_json, sha256_hex
from fitters.errors import SettingError

RUN = Run.of(
    suite="demo", task="zero_shot", eval="held-out", method="ridge", source="head", n_pairs=16,
    seed=3, image_set="d/image/e-00000000", image_revision="a" * 64,
    name_set="d/class_name/t-00000000", name_revision="b" * 64,
)  # fmt: skip

OTHER = {
    "suite": "smoke", "task": "retrieval", "eval": "all-names", "method": "procrustes",
    "source": "random", "n_pairs": "all", "seed": 4, "variants": ("name", "lemmas"),
    "templates": ("none",), "locales": ("en", "fr"),
    "pairs_from": ("i@2", "t@3"), "layer_sets": ("d/image/e-22222222",),
    "layer_revisions": ("e" * 64,), "penalty": 0.3, "mix": 2.0, "relevance": "class_id",
    "train_fraction": 0.5, "train_splits": ("train", "val"), "pairs_per_class": 2,
    "options": ZeroShot(prompts="max"), "limit": 100, "clusters": 20, "head_size": 50,
    "head_by": "nearest", "leave_seen": True, "metric_version": 99, "protocol_version": 99,
    "control_draw": 3, "head_rows": "adapted", "head_variants": ("lemmas",),
    "head_templates": ("none",), "pair_variants": ("description",), "pair_templates": ("d000",),
    "epochs": 20, "batch_size": 8, "learning_rate": 0.1, "sequential": True,
    "patience": 2, "precision": "float32", "gamma": 2.0, "n_components": 4, "rank": 4, "top_k": 5,
    "power": 2.0, "centre": True, "criterion": "error", "validation": "top-1",
}  # fmt: skip


LAYERS = {"task": "neighbours", "options": Neighbours("class-means")}

# What a field's other value needs beside it.
BESIDE = {
    "eval": {"n_pairs": 0}, "pairs_per_class": {"n_pairs": 0, "eval": "in-class"},
    "control_draw": {"source": "random"}, "view_set": {"task": "few_shot", "eval": "in-class"},
    "view_revision": {"task": "few_shot", "eval": "in-class", "view_set": "v"},
    "layer_sets": LAYERS,
    "layer_revisions": {**LAYERS, "layer_sets": ("d/image/e-11111111",)},
    "head_variants": {"head_set": "d/head_weight/e-00000000"},
    "head_templates": {"head_set": "d/head_weight/e-00000000"},
    "pair_variants": {"n_pairs": 0, "pairs_per_class": 1, "eval": "in-class"},
    "pair_templates": {"n_pairs": 0, "pairs_per_class": 1, "eval": "in-class"},
    "epochs": {"method": "paper-mlp"}, "batch_size": {"method": "paper-mlp"},
    "learning_rate": {"method": "paper-mlp"}, "patience": {"method": "paper-mlp"},
    "precision": {"method": "paper-mlp"}, "centre": {"method": "paper-mlp"},
    "sequential": {"method": "paper-mlp"},
    "gamma": {"method": "kernel-ridge"}, "n_components": {"method": "cca"},
    "rank": {"method": "procrustes"}, "top_k": {"method": "asif"}, "power": {"method": "asif"},
    "clusters": {"source": "shuffled-within", "clusters": 10}, "head_size": {"head_size": 10},
    "head_by": {"head_size": 10},
}  # fmt: skip


@pytest.mark.parametrize("field", [leaf.name for leaf in LEAVES])
def test_every_field_changes_the_id(field):
    run = RUN.changed(**BESIDE.get(field, {}))
    assert run.changed(**{field: OTHER.get(field, "another")}).run_id != run.run_id


def test_every_source_has_a_title_of_its_own():
    titles = [source_name(source, "16") for source in SOURCES]
    assert len({*titles}) == len(SOURCES)
    assert all(re.fullmatch(r"real( \+)? [a-z, ]+", title) for title in titles)
    assert {"real pairs", "real + head weights", "real + head, rotated"} <= {*titles}


def test_the_id_is_the_hash_of_what_is_not_at_its_default():
    facts = {
        "suite": "demo",
        "task": "zero_shot",
        "data": {
            "image_set": "d/image/e-00000000", "image_revision": "a" * 64,
            "name_set": "d/class_name/t-00000000", "name_revision": "b" * 64,
        },
        "protocol": {"eval": "held-out", "source": "head", "n_pairs": 16},
        "fit": {"method": "ridge"},
        "seed": 3,
        "metric_version": METRIC_VERSION,
        "protocol_version": 6,
        "code": RUN.code,
    }  # fmt: skip
    assert RUN.run_id == sha256_hex(canonical_json({"run": facts}))
    assert len(RUN.run_id) == 64
    assert RUN.changed().run_id == RUN.run_id
    facts["fit"]["penalty"] = 1.0
    facts["options"] = {"prompts": "max"}
    changed = RUN.changed(penalty=1, options=ZeroShot(prompts="max"))
    assert changed.run_id == sha256_hex(canonical_json({"run": facts}))


def test_the_device_of_a_training_is_in_no_id():
    there = _on("cuda", RUN)
    assert there.fit.training.device == "cuda"
    assert (there.run_id, there.fit_key) == (RUN.run_id, RUN.fit_key)
    assert there.columns() == RUN.columns()


def test_runs_that_differ_in_what_is_scored_share_a_fit():
    scored = RUN.changed(
        task="retrieval", relevance="class_id", metric_version=7, options=Retrieval(5)
    )
    assert scored.fit_key == RUN.fit_key
    assert scored.run_id != RUN.run_id
    for field in set(OTHER) - {"task", "options", "relevance", "metric_version"}:
        run = RUN.changed(**BESIDE.get(field, {}))
        assert run.changed(**{field: OTHER[field]}).fit_key != run.fit_key


FEW = {"task": "few_shot", "eval": "in-class"}

BAD = [
    ({"task": "few_shots"}, r"No task named 'few_shots'.*Did you mean 'few_shot'"),
    ({"eval": "test"}, "'eval' of a run must be 'all-names' or 'held-out'"),
    ({"options": Retrieval()}, "zero_shot takes options ZeroShot; got Retrieval"),
    ({"options": ZeroShot(prompts="all")}, "'prompts' of task zero_shot must be 'mean' or"),
    ({"task": "few_shot"}, "give `eval=split` or `eval=in-class`"),
    (FEW | {"options": FewShot(learner="prokr")}, "Did you mean 'proker'"),
    (FEW | {"options": FewShot(shots=0, prototypes="none")}, "nothing to learn from"),
    ({"pairs_per_class": 2}, "not both; got 16 and 2"),
    ({"pairs_per_class": 2, "n_pairs": 0}, "needs training images of the scored classes"),
    ({"method": "identity"}, "fits nothing"),
    ({"n_pairs": -1}, "'n_pairs' of a run must be at least 0 and .*; got -1"),
    ({"source": "none", "n_pairs": 0}, "Give it one"),
    ({"source": "mixup", "n_pairs": 0}, "source 'mixup' and 0 real pairs has nothing to fit"),
    ({"source": "shuffled-within"}, "needs a number of clusters"),
    ({"clusters": 5}, "no other source has any; got source 'head' and 5 clusters"),
    ({"source": "class-means", "leave_seen": True}, "source 'class-means' has none"),
    ({"head_by": "nearest"}, "chooses head_size classes; got 0"),
    ({"eval": "all-names"}, "got `n_pairs=16` and head_rows 'weights'. Use `eval=held-out`"),
    (
        {"task": "generalised", "options": Generalised(), "eval": "split"},
        "with real pairs use `eval=held-out`, not 'split'",
    ),
    ({"train_fraction": 1.0}, "above 0 and below 1"),
    ({"head_templates": ("none",)}, "the run has no head"),
    (
        {"pair_variants": ("name",), "caption_set": "d/caption/t-00000000"},
        "only pairs_per_class, real pairs without captions",
    ),
    ({"epochs": 3}, r"Method ridge has no setting 'epochs' \(only paper-mlp, "),
    ({"epochs": 0, "method": "paper-mlp"}, "epochs' of a training must be at least 1"),
    ({"sequential": True, "method": "paper-mlp", "source": "none"}, "Got source 'none' and 16"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_impossible_runs_are_refused(change, message):
    with pytest.raises((ProtocolError, SettingError), match=message):
        RUN.changed(**change)


classes = st.lists(st.sampled_from("abcdefghijkl"), min_size=2, max_size=80).filter(
    lambda names: len(set(names)) >= 2
)


@given(classes, st.integers(0, 50), st.floats(0.3, 0.7))
@settings(max_examples=100, deadline=None)
def test_no_class_is_on_both_sides_and_every_image_is_on_one(names, seed, fraction):
    names = np.array(names)
    n_train = round(fraction * len(set(names)))
    if not 0 < n_train < len(set(names)):
        with pytest.raises(ProtocolError, match="leaves one side empty"):
            held_out_split(names, seed=seed, train_fraction=fraction)
        return
    split = held_out_split(names, seed=seed, train_fraction=fraction)
    assert not set(names[split.train]) & set(names[split.test])
    np.testing.assert_array_equal(
        np.sort(np.concatenate([split.train, split.test])), np.arange(len(names))
    )
    assert len(set(names[split.train])) == n_train


def test_subsets_of_a_seed_are_nested_and_random():
    split = held_out_split(np.arange(100), seed=5)
    sixteen, all_of_them = first_pairs(split, 16), first_pairs(split, "all")
    np.testing.assert_array_equal(sixteen, first_pairs(split, 40)[:16])
    np.testing.assert_array_equal(all_of_them[:40], first_pairs(split, 40))
    assert len(all_of_them) == 60
    # In item order a subset would be one corner of the data.
    assert not np.all(np.diff(all_of_them) > 0)
    assert len(first_pairs(split, 0)) == 0
    assert set(held_out_split(np.arange(100), seed=6).test) != set(split.test)


def test_the_streams_of_a_seed_are_different():
    draws = {
        tuple(stream(purpose, seed).integers(0, 1000, 4))
        for purpose in ("control", "choice")
        for seed in (0, 1)
    }
    assert len(draws) == 4


def test_too_many_pairs_are_refused():
    with pytest.raises(ProtocolError, match="Ask for fewer"):
        first_pairs(held_out_split(np.arange(10), seed=0), 7)
