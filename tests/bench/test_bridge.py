"""Bridges: planted maps, what is kept against plain definitions, and the command."""

from __future__ import annotations

import json
import re

import numpy as np
import polars as pl
import pytest

from bench.bridge import Bridge, Search, bridge, power_law
from bench.errors import ProtocolError
from bench.options import BridgeConfig
from bench.report.page import write_bridge
from featstore.errors import (
    EmptySelectionError,
    ManifestError,
    MisalignedItemsError,
    RowsError,
    UnknownColumnError,
)
from featstore.interop import view_of
from fitters.adapter import Adapter, SpaceMap
from fitters.errors import ZeroRowError
from tests.typed import headstock

FIVE = {"seeds": range(5), "methods": ("ridge",)}


def related(n=240, p=12, q=16, noise=0.3, seed=0):
    """Return rows of topics, and a noisy linear map of them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((20, p))[rng.integers(20, size=n)] + 0.7 * rng.standard_normal((n, p))
    y = x @ rng.standard_normal((p, q)) + noise * np.sqrt(p) * rng.standard_normal((n, q)) + 1
    return x.astype(np.float32), y.astype(np.float32)


@pytest.fixture(scope="module")
def found():
    return bridge(*related(), seeds=range(5))


def by_hand(queries, gallery, truth_queries, truth_gallery, k):
    """Return the shares of the nearest and of the k nearest, by all cosines."""
    lists = []
    for q, g in ((queries, gallery), (truth_queries, truth_gallery)):
        cosines = q @ g.T / np.linalg.norm(g, axis=1)
        np.fill_diagonal(cosines, -np.inf)
        lists.append(np.argsort(-cosines)[:, :k])
    ten = [len({*a} & {*b}) / k for a, b in zip(*lists, strict=True)]
    return (lists[0][:, 0] == lists[1][:, 0]).astype(float), np.array(ten)


def test_what_is_kept_is_counted_query_by_query():
    x, y = (rows.astype(np.float64) for rows in related(40))
    made = SpaceMap(np.ones(16), np.random.default_rng(1).standard_normal((12, 16)))
    search = Search(y, 25)
    mapped = made.apply(x)
    for queries, gallery in ((y, mapped), (mapped, y)):
        expected = by_hand(queries[:25], gallery, y[:25], y, 10)
        for own, theirs in zip(search.kept(queries, gallery)[1:], expected, strict=True):
            np.testing.assert_allclose(own, theirs)


def test_a_planted_map_is_kept_whole_and_noise_is_not():
    x, y = related(noise=0.0)
    whole = bridge(x, y, **FIVE)
    assert min(whole.kept["the map", f"old {of}", 10].mean for of in ("items", "queries")) > 0.995
    assert whole.passes
    rng = np.random.default_rng(0)
    nothing = bridge(x, rng.permutation(y), **FIVE)
    assert nothing.relation.verdict == "unrelated"
    low, high = nothing.own.interval()
    assert low <= 10 / 119 <= high  # of 119 others ten are among the ten nearest by chance
    same = bridge(x, x + 1e-4, **FIVE)
    assert same.relation.sentence == "The same space."
    assert same.kept["identity", "old items", 10].mean > 0.99


def test_controls_know_nothing_and_more_pairs_keep_more(found):
    assert (found.n_items, found.n_pairs, found.gallery) == (240, 120, 120)
    own, *others = found.frame().filter(mapped="old items", k=10)["kept"].to_list()
    assert own > 0.4 > max(others)
    assert [*found.curve] == [30, 60, 120]
    means = [one.mean for one in found.curve.values()]
    assert means == sorted(means)
    assert str(found.curve[120]) == str(found.own)
    assert sum(found.kinds.values()) == 5


def test_the_interval_is_of_draws_and_items(found):
    assert str(bridge(*related(), seeds=range(5)).own) == str(found.own)
    # Both halves of a draw are of one pool: the factor of overlapping draws stands in it.
    assert (found.own.overlap, found.own.n_draws, found.own.n_rows) == (0.5, 5, 5 * 120)
    assert found.own.n_clusters > 200  # items, of which most were held out in some draw


def test_ids_join_whatever_the_order(tmp_path):
    x, y = related()
    ids = [f"doc{i}" for i in range(len(x))]
    order = np.random.default_rng(0).permutation(len(x))
    for name, rows, own in (("old", x, range(len(x))), ("new", y, order)):
        table = pl.DataFrame({"item_id": [ids[i] for i in own], "embedding": rows[list(own)]})
        table.write_parquet(tmp_path / f"{name}.parquet")
    views = [view_of(tmp_path / f"{name}.parquet") for name in ("old", "new")]
    joined = bridge(*views, **FIVE)
    assert str(joined.own) == str(bridge(x, y, **FIVE).own)
    assert joined.adapter.facts["old"]["space_id"] == views[0].space_id
    assert bridge(views[0], views[1].take(np.arange(30, 240)), seeds=[0]).n_items == 210


def test_groups_and_labels_are_told_apart(tmp_path):
    x, y = related(300, noise=0.05)
    y[:60] += 8 * np.random.default_rng(4).standard_normal((60, 16))  # of these less can be kept
    topic = np.argmax(y, axis=1).astype(str).tolist()
    topic[::10] = [None] * 30  # of these nothing is asked
    items = pl.DataFrame({"item_id": [str(i) for i in range(300)]})
    given = {"lang": ["xx"] * 60 + ["en"] * 230 + ["rare"] * 10, "topic": topic}
    for name, table, rows in (("a", items.hstack(pl.DataFrame(given)), x), ("b", items, y)):
        path = tmp_path / f"{name}.parquet"
        table.with_columns(pl.Series("embedding", rows)).write_parquet(path)
    old, new = view_of(tmp_path / "a.parquet"), view_of(tmp_path / "b.parquet")
    found = bridge(old, new, **FIVE, group="lang", label="topic")
    for option in ("group", "label"):
        with pytest.raises(UnknownColumnError, match=r"'language'.*lang"):
            bridge(old, new, **FIVE, **{option: "language"})
    assert [*found.groups] == ["xx", "en"]  # of the third there are too few
    kept = found.groups["xx"]
    assert kept.mean < found.own.mean < found.groups["en"].mean
    assert kept.n_clusters <= 60 < found.own.n_clusters
    by = ["the map", "shuffled pairs", "random rotation", "new encoder", "old encoder"]
    assert [*found.accuracy] == by
    values = [found.accuracy[name].mean for name in by]
    assert values[3] > values[0] > max(values[1:3])
    # By the new encoder alone: every item among those held out with it, a query at a time.
    right, asked = 0, 0
    for seed in range(5):
        held = np.random.default_rng([seed, 7]).permutation(300)[150:]
        unit = y[held] / np.linalg.norm(y[held], axis=1, keepdims=True)
        near = (unit @ unit.T - 2 * np.eye(150)).argmax(axis=1)
        both = [(topic[held[i]], topic[held[near[i]]]) for i in range(150)]
        there = [pair for pair in both if None not in pair]
        right, asked = right + sum(a == b for a, b in there), asked + len(there)
    assert found.accuracy["new encoder"].mean == pytest.approx(right / asked)
    assert [*bridge(old, new, **FIVE, label="lang").groups] == ["xx", "en"]


def test_rows_of_another_encoder_are_no_pairs():
    x, y = related(400, 48, 64, noise=0.0)
    rng = np.random.default_rng(5)
    planted = np.sort(rng.permutation(400)[:20])
    y[planted] = rng.standard_normal((20, 64)) * 7
    found = bridge(x, y, seeds=[0], methods=("ridge",))
    assert found.relation.verdict == "mixed"
    assert found.n_items == 400 - len(found.relation.strangers) <= 385
    assert found.own.mean > 0.95


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        (np.ones((200, 3)), np.ones((201, 3)), MisalignedItemsError, "old has 200 rows, new 201"),
        (np.full((200, 3), np.nan), np.ones((200, 3)), ZeroRowError, "200 of 200 old rows"),
        (np.eye(200), np.zeros((200, 3)), ZeroRowError, "200 of 200 new rows"),
        (np.ones((200, 3)), np.eye(200), ProtocolError, "All 200 old rows are the same"),
        ([["a"]] * 200, np.ones((200, 3)), RowsError, "old must be"),
    ],
)
def test_bad_rows_are_named(old, new, error, words):
    with pytest.raises(error, match=words):
        bridge(old, new, **FIVE)


def test_ids_that_do_not_meet_or_come_twice_are_named(tmp_path):
    x, _ = related()
    np.save(tmp_path / "a.npy", x)
    pl.DataFrame({"item_id": [f"b{i}" for i in range(240)]}).write_csv(tmp_path / "b.csv")
    np.save(tmp_path / "b.npy", x)
    a, b = view_of(tmp_path / "a.npy"), view_of(tmp_path / "b.npy")
    with pytest.raises(EmptySelectionError, match=r"share no item_id, such as \['0'\]"):
        bridge(a, b, **FIVE)
    with pytest.raises(MisalignedItemsError, match=r"rows with an id that another row has: '0', "):
        bridge(a.take(np.repeat(np.arange(120), 2)), a, **FIVE)
    pl.DataFrame({"name": ["x"]}).write_csv(tmp_path / "a.csv")
    with pytest.raises(ManifestError, match="need a column item_id and 240 rows"):
        view_of(tmp_path / "a.npy")


def test_settings_are_checked():
    with pytest.raises(ProtocolError, match="needs 5 draws of pairs or more; got 4"):
        BridgeConfig(seeds=(0, 1, 2, 3, 3), gate=0.9)
    with pytest.raises(ProtocolError, match="'gate'"):
        BridgeConfig(gate=1.5)
    with pytest.raises(ProtocolError, match=r"'diagonal' does not fit 120 pairs.*ridge, rotation"):
        bridge(*related(), methods=("diagonal",))


def test_a_power_law_is_found_again():
    for a, b, c in ((0.59, 3.0, 0.6), (0.9, 1.0, 0.3)):
        law = power_law({n: a - b * n**-c for n in (100, 200, 400, 800, 1600)})
        for n in (3200, 12_800):
            assert abs(law(n) - (a - b * n**-c)) < 1e-9
    assert abs(power_law(dict.fromkeys((100, 200, 400, 800), 0.5))(10_000) - 0.5) < 1e-9
    falling = power_law({100: 0.6, 200: 0.5, 400: 0.4, 800: 0.3})
    assert falling(10_000) <= falling(100) + 1e-9  # never more by a curve that falls


def test_the_gate_is_the_lower_end(found):
    low, _ = found.own.interval()
    for gate, passes in ((low - 0.001, True), (low + 0.001, False)):
        assert Bridge(**{**vars(found), "gate": gate}).passes is passes
    assert found.passes  # without a gate


def run(capsys, *words):
    return headstock(*words), *capsys.readouterr()


def test_the_command_with_files(tmp_path, capsys):
    x, y = related()
    np.save(tmp_path / "old.npy", x)
    np.save(tmp_path / "new.npy", y)
    words = ("bridge", tmp_path / "old.npy", tmp_path / "new.npy", "--method", "ridge")
    words = (*words, "--seeds", "0-4")
    out, page = tmp_path / "a.safetensors", tmp_path / "page.html"
    code, said, _ = run(capsys, *words, "-o", out, "--gate", "0.1", "--page", page)
    assert code == 0
    assert "gate of 10 % holds" in said
    own = bridge(x, y, **FIVE)
    np.testing.assert_array_equal(Adapter.read(out).apply(x), own.adapter.apply(x))
    assert page.read_text("utf-8").count("<svg") == 1
    assert Adapter.read(out).facts["kept"][6]["kept"] == round(own.own.mean, 6)
    code, said, _ = run(capsys, *words, "--gate", "0.99", "--json")
    assert code == 5
    assert json.loads(said)["passes"] is False
    assert json.loads(run(capsys, "show", out, "--json")[1]) == Adapter.read(out).facts
    code, by_place, _ = run(capsys, *words, "--join", "position", "--json")
    assert code == 0
    assert json.loads(by_place)["sentence"] == own.sentence
    code, _, err = run(capsys, "bridge", tmp_path / "none.npy", tmp_path / "new.npy")
    assert (code, "does not exist" in err) == (1, True)


def test_the_page_asks_for_nothing_and_shows_names_as_they_are(found, tmp_path):
    gated = Bridge(**{**vars(found), "gate": 0.9, "groups": {"<b>xx": found.own}})
    html = write_bridge(gated, tmp_path / "page.html").read_text("utf-8")
    assert f'<h1 id="verdict-title">{gated.sentences[-1]}</h1>' in html.replace("\u00a0", " ")
    assert "&lt;b&gt;xx" in html
    assert not re.findall(r'(?:src|href)="(?!#|data:)', html)
    assert write_bridge(gated, tmp_path / "again.html").read_text("utf-8") == html


def test_the_command_with_sets_of_a_store(smoke_store, capsys):
    words = ("--store", smoke_store, "--seeds", "0-4", "--group", "variant")
    code, said, err = run(capsys, "bridge", *["smokehead/class_name"] * 2, *words)
    assert code == 0, err
    assert said.startswith("The same space.")
