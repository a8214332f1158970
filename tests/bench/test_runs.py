import json
from dataclasses import fields, replace

import polars as pl
import pytest

from bench import Run
from bench.errors import ProtocolError
from bench.options import FewShot, Retrieval, ZeroShot
from bench.results import RESULT_SCHEMA, RUN_COLUMNS
from featstore.identity import canonical_json, sha256_hex

RUN = Run(
    suite="demo",
    task="zero_shot",
    eval="held-out",
    method="ridge",
    source="head",
    n_pairs=16,
    seed=3,
    image_set="d/image/e-00000000",
    image_revision="a" * 64,
    name_set="d/class_name/t-00000000",
    name_revision="b" * 64,
)

OTHER = {
    "suite": "smoke",
    "task": "retrieval",
    "eval": "all-names",
    "method": "procrustes",
    "source": "random",
    "n_pairs": "all",
    "seed": 4,
    "variants": ("name", "lemmas"),
    "templates": ("none",),
    "locales": ("en", "fr"),
    "penalty": 0.3,
    "mix": 2.0,
    "relevance": "class_id",
    "train_fraction": 0.5,
    "train_splits": ("train", "val"),
    "pairs_per_class": 2,
    "options": ZeroShot(prompts="max"),
    "limit": 100,
    "metric_version": 99,
    "protocol_version": 99,
    "control_draw": 3,
    "head_variants": ("lemmas",),
    "head_templates": ("none",),
    "pair_variants": ("description",),
    "pair_templates": ("d000",),
    "epochs": 20,
    "sequential": True,
}


# What a field's other value needs beside it.
BESIDE = {
    "eval": {"n_pairs": 0},
    "pairs_per_class": {"n_pairs": 0, "eval": "in-class"},
    "control_draw": {"source": "random"},
    "view_set": {"task": "few_shot", "eval": "in-class"},
    "view_revision": {"task": "few_shot", "eval": "in-class", "view_set": "v"},
    "head_variants": {"head_set": "d/head_weight/e-00000000"},
    "head_templates": {"head_set": "d/head_weight/e-00000000"},
    "pair_variants": {"n_pairs": 0, "pairs_per_class": 1, "eval": "in-class"},
    "pair_templates": {"n_pairs": 0, "pairs_per_class": 1, "eval": "in-class"},
    "epochs": {"method": "paper-mlp"},
    "sequential": {"method": "paper-mlp"},
}
LATER = {
    "view_set", "view_revision", "control_draw", "head_variants", "head_templates", "pair_variants",
    "pair_templates", "epochs", "sequential",
}  # fmt: skip


@pytest.mark.parametrize("field", [field.name for field in fields(Run)])
def test_every_field_changes_the_id(field):
    run = replace(RUN, **BESIDE.get(field, {}))
    changed = replace(run, **{field: OTHER.get(field, "another")})
    assert changed.run_id != run.run_id


def test_the_id_is_the_hash_of_the_canonical_json():
    facts = {field.name: getattr(RUN, field.name) for field in fields(Run)}
    facts = {name: value for name, value in facts.items() if name not in LATER}
    # Options left out are those of the task's defaults, so that a changed default is a new run.
    facts["options"] = {"prompts": "mean", "classes": "all", "scorer": "cosine"}
    assert RUN.run_id == sha256_hex(canonical_json({"run": facts}))
    assert len(RUN.run_id) == 64
    assert replace(RUN).run_id == RUN.run_id


def test_runs_that_differ_in_what_is_scored_share_a_fit():
    scored = replace(
        RUN, task="retrieval", relevance="class_id", metric_version=7, options=Retrieval(5)
    )
    assert scored.fit_key == RUN.fit_key
    assert scored.run_id != RUN.run_id
    for field in set(OTHER) - {"task", "options", "relevance", "metric_version"}:
        run = replace(RUN, **BESIDE.get(field, {}))
        assert replace(run, **{field: OTHER[field]}).fit_key != run.fit_key


def test_columns_are_plain_values_of_the_results_schema():
    row = RUN.columns()
    assert list(row) == list(RUN_COLUMNS)
    assert (row["n_pairs"], row["penalty"], row["variants"]) == ("16", "auto", "name")
    assert json.loads(json.dumps(row)) == row
    assert pl.DataFrame([row], schema=RESULT_SCHEMA).select(pl.col("run_id", "limit")).row(0) == (
        RUN.run_id,
        None,
    )


def test_defaults_spelled_out_are_the_same_run():
    assert replace(RUN, options=ZeroShot()) == RUN
    assert replace(RUN, options=ZeroShot()).run_id == RUN.run_id
    assert RUN.columns()["options"] == ""
    assert replace(RUN, options=ZeroShot(prompts="max")).columns()["options"] == '{"prompts":"max"}'


def test_pairs_of_a_class_stand_in_the_column_of_pairs():
    run = replace(RUN, n_pairs=0, pairs_per_class=4, eval="in-class")
    assert run.columns()["n_pairs"] == "4/class"


FEW = {"task": "few_shot", "eval": "in-class"}

BAD = [
    ({"task": "few_shots"}, "task is one of zero_shot, generalised, retrieval, few_shot"),
    ({"eval": "test"}, "eval is one of all-names, held-out, split, in-class"),
    ({"options": Retrieval()}, "zero_shot takes options ZeroShot; got Retrieval"),
    ({"options": ZeroShot(prompts="all")}, "prompts of zero_shot is one of mean, max, each"),
    ({"task": "retrieval", "options": Retrieval(-1)}, "captions of retrieval is 0 or more"),
    ({"task": "few_shot"}, "eval is 'split' or 'in-class'"),
    (FEW | {"options": FewShot(shots=0, prototypes=False)}, "nothing to learn from"),
    ({"pairs_per_class": 2}, "not both; got 16 and 2"),
    ({"pairs_per_class": 2, "n_pairs": 0}, "needs training images of the scored classes"),
    ({"method": "identity"}, "fits nothing"),
    ({"source": "heads"}, "source is one of none, head, random, random-cov, shuffled"),
    ({"relevance": "id"}, "relevance is one of class_id, parent_id"),
    ({"n_pairs": -1}, "0 real pairs or more"),
    ({"source": "none", "n_pairs": 0}, "Give it one"),
    ({"eval": "all-names"}, "Use eval 'held-out'"),
    ({"train_fraction": 1.0}, "between 0 and 1"),
    ({"head_templates": ("none",)}, "the run has no head"),
    ({"pair_variants": ("name",)}, "only pairs_per_class and task few_shot make such pairs"),
    ({"epochs": 3}, r"of trained methods \(paper-mlp, .*\); ridge is not trained"),
    ({"epochs": 0, "method": "paper-mlp"}, "1 epoch or more; got 0"),
    ({"sequential": True, "method": "paper-mlp", "source": "none"}, "Got source 'none' and 16"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_impossible_runs_are_refused(change, message):
    with pytest.raises(ProtocolError, match=message):
        replace(RUN, **change)


def test_texts_of_heads_and_pairs_are_those_of_the_images_unless_others_are_named():
    run = replace(RUN, head_set="d/head_weight/e-00000000", templates=("paper",))
    assert run.head_texts == run.pair_texts == (("name",), ("paper",))
    other = replace(run, head_variants=("lemmas",), head_templates=("none",))
    assert other.head_texts == (("lemmas",), ("none",))
    assert other.pair_texts == run.pair_texts
    row = other.columns()
    assert (row["variants"], row["head_variants"], row["pair_variants"]) == ("name", "lemmas", "")


def test_runs_without_views_keep_the_ids_from_before_there_were_any():
    plain = replace(RUN, **FEW)
    facts = plain._facts()
    assert not {"view_set", "view_revision"} & set(facts)
    assert facts["options"]["prototypes"] is True
    seen = replace(plain, view_set="d.views2-seed0/image/e", view_revision="c" * 64)
    assert seen.run_id != plain.run_id
    assert seen.columns()["view_set"] == "d.views2-seed0/image/e"
    assert replace(plain, options=FewShot(prototypes="names")).run_id == plain.run_id
    with pytest.raises(ProtocolError, match="Only few-shot learners look at views"):
        replace(RUN, view_set="d.views2-seed0/image/e")
