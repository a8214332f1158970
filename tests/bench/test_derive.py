"""Derived sets: their rows by plain definitions, what they keep, and whose they are."""

from __future__ import annotations

import json

import numpy as np
import pytest

import headstock as hs
from bench.bridge import bridge
from bench.derive import SCALE, derive
from bench.errors import ProtocolError
from featstore.command_line import EXIT_USAGE
from featstore.errors import AmbiguousSetError, MisalignedItemsError, StoreWriteError
from featstore.share.card import markdown, set_cards
from tests.typed import headstock

OLD = "docs/image/their:v1"


def rows_of(n=600, d=24, seed=0):
    """Return rows of topics with a mean that is not 0."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((30, d)) + 0.5
    rows = centres[rng.integers(30, size=n)] + 0.5 * rng.standard_normal((n, d))
    return (rows * np.arange(d, 0, -1) ** 0.5).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    view = hs.write(tmp_path / "store", rows_of(), dataset="docs", encoder="their:v1")
    return hs.open_store(view.origin.address)


def ten(rows, k=10):
    """Return the ten nearest others of every row."""
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    cosines = unit @ unit.T - 3 * np.eye(len(unit))
    return [{*own} for own in np.argsort(-cosines, axis=1, kind="stable")[:, :k].tolist()]


def kept(old, new):
    return np.mean([len(a & b) / 10 for a, b in zip(ten(old), ten(new), strict=True)])


#: How rows are derived -> their dtype, and their definition.
BY_HAND = {
    "int8": ("int8", lambda x: np.stack([np.round(127 * row / np.abs(row).max()) for row in x])),
    "binary": ("int8", lambda x: np.where(x - x.mean(axis=0) > 0, 1, -1)),
    "float16": ("float16", lambda x: x.astype(np.float16)),
    "truncate:9": ("float32", lambda x: x[:, :9]),
    "svd:9": ("float32", lambda x: x @ np.linalg.svd(x.astype(np.float64))[2][:9].T),
}


@pytest.mark.parametrize("by", BY_HAND)
def test_rows_and_what_they_keep_by_plain_definitions(store, by):
    made, rows, (dtype, plain) = derive(store, "docs", by), rows_of(), BY_HAND[by]
    own, expected = hs.open_store(store.address)[made.key], plain(rows)
    assert own.source.dtype == dtype
    got = own.numpy()
    if by == "svd:9":  # up to the sign of a direction
        got, expected = np.abs(got), np.abs(expected)
    before = store.info(made.key).commit.revision_id
    assert derive(store, OLD, by).key == made.key  # again, which changes nothing
    assert hs.open_store(store.address).info(made.key).commit.revision_id == before
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 if "svd" in by else 0)
    # 500 of all 600 items are asked for: no other 100 than these can differ.
    everyone = kept(rows, own.numpy())
    assert (made.n_queries, made.gallery) == (500, 600)
    assert abs(made.kept - everyone) <= 100 / 600 * max(everyone, 1 - everyone) + 1e-9
    facts = store.info(made.key).attributes["facts"]["derived"]
    assert facts["recall_at_10"] == round(made.kept, 6)
    if by == "int8":
        scaled = own.numpy() * own.items[SCALE].to_numpy()[:, None]
        assert np.abs(scaled - rows).max() <= 0.51 * np.abs(rows).max() / 127
        assert made.kept > 0.97


def test_a_derived_set_is_in_a_space_of_its_own(store):
    spaces = {store["docs"].space_id}
    for by in ("int8", "binary", "float16", "svd:9", "svd:8", "truncate:9"):
        made = derive(store, OLD, by)
        spaces.add(store[made.key].space_id)
        assert store.info(made.key).attributes["space"]["from"] == store[OLD].space_id
    assert len(spaces) == 7
    # A name says nothing of the space, and is none of an encoder.
    assert store[derive(store, OLD, "int8", name="x:y").key].space_id in spaces
    with pytest.raises(ProtocolError, match="are not those of their:v1"):
        derive(store, OLD, "int8", name="their:v1")
    # A short name means the set, and never one of those derived from it.
    assert store["docs/image"].key == store[OLD].key
    with pytest.raises(AmbiguousSetError, match="svd9"):
        store["docs/image/their:v1+svd"]
    # By the same way another set gets into the same space; by a map of its own rows, not.
    hs.write(store, rows_of(seed=1), dataset="more", encoder="their:v1")
    same = {
        by: store[derive(store, OLD.replace("docs", "more"), by).key].space_id
        for by in ("int8", "svd:9")
    }
    assert same["int8"] in spaces
    assert same["svd:9"] not in spaces


def test_a_map_of_the_directions_serves_other_sets(store, tmp_path):
    made = derive(store, "docs", "svd:9")
    made.adapter.save(tmp_path / "map.safetensors")
    hs.write(store, rows_of(50, seed=1), dataset="asked", encoder="their:v1")
    asked = derive(store, "asked", tmp_path / "map.safetensors")
    assert store[asked.key].space_id == store[made.key].space_id
    assert store[made.key].nearest(store[asked.key], 3).rows.shape == (50, 3)


def test_an_adapter_of_a_bridge_makes_no_rows_of_the_new_encoder(store, tmp_path):
    rows = rows_of()
    turn = np.random.default_rng(1).standard_normal((24, 16))
    hs.write(store, rows @ turn, dataset="docs", encoder="their:v2")
    old, new = store["docs/image/their.v1"], store["docs/image/their.v2"]
    bridge(old, new, seeds=range(2)).adapter.save(tmp_path / "v1-v2.safetensors")
    made = derive(store, old.key, tmp_path / "v1-v2.safetensors")
    own = store[made.key]
    np.testing.assert_allclose(own.numpy(), rows @ turn, rtol=0.01, atol=0.5)
    assert own.encoder == "their:v1+v1-v2"
    assert len({own.space_id, old.space_id, new.space_id}) == 3
    with pytest.raises(MisalignedItemsError, match=rf"headstock bridge {own.key} {new.key}"):
        new.nearest(own, 3)
    with pytest.raises(MisalignedItemsError, match=r"Rows of one set .*headstock bridge"):
        hs.write(store, [new, own], dataset="both", ids=range(1200))
    assert new.nearest(own.numpy(), 3).rows.shape == (600, 3)  # said so, by an array
    a, b = (hs.write(store, rows[:9], dataset=name) for name in ("a", "b"))  # of no named encoder
    with pytest.raises(MisalignedItemsError, match=r"write both with its name \(encoder=\)"):
        a.nearest(b, 3)
    # Whose licences are its own: those of both models, and of all data, in another store, too.
    assert store.info(made.key).attributes["facts"]["models"] == ["their:v1", "their:v2"]
    other = hs.write(tmp_path / "other", rows_of(50, seed=1), dataset="asked", encoder="their:v1")
    there = derive(other.origin.address, "asked", tmp_path / "v1-v2.safetensors", name="x:y")
    derive(other.origin.address, there.key, "truncate:8", name="mine:small")
    card = markdown("other", set_cards(hs.open_store(other.origin.address), {"asked": "CC0-1.0"}))
    assert "mine:small, of rows by their:v1 and their:v2 of asked and docs" in card
    assert "| asked | CC0-1.0 |" in card
    with pytest.raises(MisalignedItemsError, match=r"maps the space of their:v1; .*their.v2"):
        derive(store, new.key, tmp_path / "v1-v2.safetensors")


def test_ways_that_there_are_not_and_what_is_not_derived(store):
    for by in ("int4", "svd:0", "svd", "truncate:24", "svd:x"):
        with pytest.raises(ProtocolError, match=rf"'{by}'"):
            derive(store, "docs", by)
    names = {"class_id": ["a", "b", "c"]}
    head = {"kind": "head_weight", "encoder": "their:v1", "items": names, "bias": [0, 1, 2]}
    hs.write(store, rows_of(3), dataset="labels", ids=["a", "b", "c"], **head)
    with pytest.raises(ProtocolError, match="is a head"):
        derive(store, "labels", "int8")
    remote = hs.open_store(store.address)
    remote.address = "s3://team/features"
    with pytest.raises(StoreWriteError, match="is remote"):
        derive(remote, "docs", "int8")


def test_the_command(store, tmp_path, capsys):
    out = tmp_path / "map.safetensors"
    assert headstock("store", "derive", store.address, "docs") == 0
    assert "their.v1-int8" in capsys.readouterr().out
    line = ["store", "derive", store.address, OLD, "--by"]
    assert headstock(*line, "svd:4", "-o", out, "--json", "--name", "x:y") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["gallery"] == 600
    assert "x.y" in document["key"]
    assert hs.load(out).widths == (24, 4)
    assert headstock(*line, "int8", "-o", out) == EXIT_USAGE
    assert headstock(*line, "int4") == EXIT_USAGE
