import json
from dataclasses import fields, replace

import polars as pl
import pytest

from bench.errors import ProtocolError
from bench.results import RUN_COLUMNS, result_rows
from bench.runs import Run
from featstore.keys import canonical_json, sha256_hex

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
    "limit": 100,
    "metric_version": 99,
    "protocol_version": 99,
}


@pytest.mark.parametrize("field", [field.name for field in fields(Run)])
def test_every_field_changes_the_id(field):
    run = replace(RUN, n_pairs=0) if field == "eval" else RUN
    changed = replace(run, **{field: OTHER.get(field, "another")})
    assert changed.run_id != run.run_id


def test_the_id_is_the_hash_of_the_canonical_json():
    facts = {field.name: getattr(RUN, field.name) for field in fields(Run)}
    assert RUN.run_id == sha256_hex(canonical_json({"run": facts}))
    assert len(RUN.run_id) == 64
    assert replace(RUN).run_id == RUN.run_id


def test_runs_that_differ_in_what_is_scored_share_a_fit():
    scored = replace(RUN, task="retrieval", relevance="class_id", metric_version=7)
    assert scored.fit_key == RUN.fit_key
    assert scored.run_id != RUN.run_id
    for field in set(OTHER) - {"task", "relevance", "metric_version", "eval"}:
        assert replace(RUN, **{field: OTHER[field]}).fit_key != RUN.fit_key


def test_columns_are_plain_values_of_the_results_schema():
    row = RUN.columns()
    assert list(row) == list(RUN_COLUMNS)
    assert (row["n_pairs"], row["penalty"], row["variants"]) == ("16", "auto", "name")
    assert json.loads(json.dumps(row)) == row
    assert result_rows([row]).select(pl.col("run_id", "limit")).row(0) == (RUN.run_id, None)


BAD = [
    ({"task": "few_shot"}, "task is one of zero_shot, retrieval"),
    ({"eval": "test"}, "eval is one of all-names, held-out"),
    ({"source": "heads"}, "source is one of none, head, random, random-cov, shuffled"),
    ({"relevance": "id"}, "relevance is one of class_id, parent_id"),
    ({"n_pairs": -1}, "0 real pairs or more"),
    ({"source": "none", "n_pairs": 0}, "Give it one"),
    ({"eval": "all-names"}, "Use eval 'held-out'"),
    ({"train_fraction": 1.0}, "between 0 and 1"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_impossible_runs_are_refused(change, message):
    with pytest.raises(ProtocolError, match=message):
        replace(RUN, **change)
