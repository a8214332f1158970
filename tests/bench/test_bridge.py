"""Bridges: planted maps, what is kept against plain definitions, and the command."""

from __future__ import annotations

import json
import re

import numpy as np
import polars as pl
import pytest

from bench.bridge import Bridge, _Search, bridge, nearest_items, percent, power_law
from bench.errors import ProtocolError
from bench.options import BridgeConfig
from bench.report.bridge import controls_figure, curve_figure, write_bridge
from bench.statistics import DrawSums, two_term
from featstore.command_line import run_command
from featstore.errors import ManifestError, MisalignedItemsError, RowsError, UnknownColumnError
from featstore.interop.reading import view_of
from fitters.adapter import Adapter
from fitters.space_maps import LinearMap
from headstock.__main__ import cli

FIVE = {"seeds": range(5)}


def related(n=240, p=12, q=16, noise=0.3, seed=0):
    """Return rows of topics, and a noisy linear map of them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((20, p))[rng.integers(20, size=n)] + 0.7 * rng.standard_normal((n, p))
    y = x @ rng.standard_normal((p, q)) + noise * np.sqrt(p) * rng.standard_normal((n, q)) + 1
    return x.astype(np.float32), y.astype(np.float32)


@pytest.fixture(scope="module")
def found():
    return bridge(*related(), **FIVE)


def by_hand(queries, gallery, truth_queries, truth_gallery, k):
    """Return the shares of the nearest and of the k nearest, a query at a time."""
    first, ten = [], []
    for i in range(len(queries)):
        lists = []
        for q, g in ((queries, gallery), (truth_queries, truth_gallery)):
            cosines = g @ q[i] / np.linalg.norm(g, axis=1)
            cosines[i] = -np.inf
            lists.append(list(np.argsort(-cosines)[:k]))
        first.append(lists[0][0] == lists[1][0])
        ten.append(len({*lists[0]} & {*lists[1]}) / k)
    return np.array(first, float), np.array(ten)


def test_what_is_kept_is_counted_query_by_query():
    x, y = (rows.astype(np.float64) for rows in related(40))
    made = LinearMap(np.ones(16), np.random.default_rng(1).standard_normal((12, 16)))
    search = _Search(x, y, 25)
    mapped = made.apply(x)
    for direction, queries, gallery in (
        ("old items", y[:25], mapped),
        ("old queries", mapped[:25], y),
    ):
        expected = by_hand(queries, gallery, y[:25], y, 10)
        for own, theirs in zip(search.kept(made, direction), expected, strict=True):
            np.testing.assert_allclose(own, theirs)
    assert nearest_items(y[:3], y, 4).shape == (3, 4)


def test_a_planted_map_is_kept_whole_and_noise_is_not():
    x, y = related(noise=0.0)
    whole = bridge(x, y, **FIVE)
    assert min(one.ten.mean for one in whole.kept[:2]) > 0.995
    assert whole.passes
    rng = np.random.default_rng(0)
    nothing = bridge(x, rng.permutation(y), **FIVE)
    assert nothing.relation.verdict == "unrelated"
    low, high = nothing.own.interval()
    assert low <= 10 / 119 <= high  # of 119 others ten are among the ten nearest by chance
    same = bridge(x, x + 1e-4, **FIVE)
    assert same.relation.sentence == "The same space."
    assert next(one for one in same.kept if one.by == "identity").ten.mean > 0.99


def test_controls_know_nothing_and_more_pairs_keep_more(found):
    assert [(one.by, one.mapped) for one in found.kept] == [
        (by, mapped)
        for by in ("the map", "shuffled pairs", "random rotation")
        for mapped in ("old items", "old queries")
    ]
    assert (found.n_items, found.n_pairs, found.gallery) == (240, 120, 120)
    own, *others = (one.ten.mean for one in found.kept if one.mapped == "old items")
    assert own > 0.4 > max(others)
    assert [*found.curve] == [30, 60, 120]
    means = [one.mean for one in found.curve.values()]
    assert means == sorted(means)
    assert found.curve[120] == found.own
    assert sum(found.kinds.values()) == 5


def test_the_interval_is_of_draws_and_items(found):
    # Both halves of a draw are of one pool: the factor of overlapping draws stands in it.
    again = bridge(*related(), **FIVE)
    assert again.own == found.own
    assert found.own.overlap == 0.5
    assert found.own.n_draws == 5
    assert found.own.n_rows == 5 * 120
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
    assert joined.own == bridge(x, y, **FIVE).own
    assert joined.adapter.facts["old"]["space_id"] == views[0].space_id
    turned = bridge(views[0], views[1].take(np.arange(30, 240)), **FIVE)
    assert turned.n_items == 210


def test_groups_are_told_apart(tmp_path):
    x, y = related(300, noise=0.05)
    y[:60] += 8 * np.random.default_rng(4).standard_normal((60, 16))  # of these less can be kept
    ids = [str(i) for i in range(300)]
    languages = pl.Series("lang", ["xx"] * 60 + ["en"] * 240)
    items = pl.DataFrame({"item_id": ids})
    for name, table, rows in (("a", items.with_columns(languages), x), ("b", items, y)):
        path = tmp_path / f"{name}.parquet"
        table.with_columns(pl.Series("embedding", rows)).write_parquet(path)
    old, new = view_of(tmp_path / "a.parquet"), view_of(tmp_path / "b.parquet")
    found = bridge(old, new, seeds=range(5), group="lang")
    with pytest.raises(UnknownColumnError, match=r"'language'.*lang"):
        bridge(old, new, seeds=range(5), group="language")
    group, kept = found.worst
    assert group == "xx"
    assert kept.mean < found.own.mean
    assert kept.n_clusters <= 60 < found.own.n_clusters


def test_rows_of_another_encoder_are_no_pairs():
    x, y = related(400, 48, 64, noise=0.0)
    rng = np.random.default_rng(5)
    planted = np.sort(rng.permutation(400)[:20])
    y[planted] = rng.standard_normal((20, 64)) * 7
    found = bridge(x, y, **FIVE)
    assert found.relation.verdict == "mixed"
    strangers = found.relation.strangers
    assert len(strangers) >= 15  # a random row may follow by chance
    assert {*strangers} <= {*planted}
    assert found.n_items == 400 - len(strangers)
    assert found.own.mean > 0.95


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        (np.eye(149), np.eye(149), ProtocolError, r"149 items are in both.* needs 150"),
        (np.ones((200, 3)), np.ones((201, 3)), MisalignedItemsError, "old has 200 rows, new 201"),
        (np.full((200, 3), np.nan), np.ones((200, 3)), ProtocolError, "of the old rows are NaN"),
        (np.eye(200), np.zeros((200, 3)), ProtocolError, "200 of the new rows"),
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
    with pytest.raises(MisalignedItemsError, match=r"share no item.*'0' and 'b0'"):
        bridge(a, b, **FIVE)
    with pytest.raises(MisalignedItemsError, match=r"a\.npy has 240 rows with an id that another"):
        bridge(a.take(np.repeat(np.arange(120), 2)), b, **FIVE)
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
            assert abs(law(n) - (a - b * n**-c)) < 0.01
    flat = power_law(dict.fromkeys((100, 200, 400, 800), 0.5))
    assert abs(flat(10_000) - 0.5) < 1e-9
    falling = power_law({100: 0.6, 200: 0.5, 400: 0.4, 800: 0.3})
    assert falling(10_000) <= falling(100)  # never more by a curve that falls


def test_the_gate_is_the_lower_end(found):
    low, _ = found.own.interval()
    for gate, passes in ((low - 0.001, True), (low + 0.001, False)):
        held = Bridge(**{**vars(found), "gate": gate})
        assert held.passes is passes
        assert ("holds." if passes else "is missed: encode the old items again.") in held.sentence
    assert found.passes  # without a gate


def run(capsys, *words):
    code = run_command(cli, "headstock", [str(word) for word in words])
    return code, *capsys.readouterr()


def test_the_command_with_files(tmp_path, capsys):
    x, y = related()
    np.save(tmp_path / "old.npy", x)
    np.save(tmp_path / "new.npy", y)
    words = ("bridge", tmp_path / "old.npy", tmp_path / "new.npy", "--seeds", "0-4")
    out = tmp_path / "a.safetensors"
    code, said, _ = run(capsys, *words, "-o", out, "--gate", "0.1")
    assert code == 0
    assert "Related spaces." in said
    assert "gate of 10 % holds" in said
    assert "random rotation" in said
    assert "part['weight']" in said
    own = bridge(x, y, **FIVE)
    np.testing.assert_array_equal(Adapter.read(out).apply(x), own.adapter.apply(x))
    page = tmp_path / "page.html"
    code, said, _ = run(capsys, *words, "--page", page)
    assert (code, said.splitlines()[-1]) == (0, f"Page: {page}")
    assert page.read_text("utf-8").count("<svg") == 2
    assert Adapter.read(out).facts["measured"]["kept"][1]["kept"] == round(own.own.mean, 6)
    code, said, _ = run(capsys, *words, "--gate", "0.99", "--json")
    assert code == 5
    assert json.loads(said)["passes"] is False
    code, by_place, _ = run(capsys, *words, "--join", "position", "--json")
    assert code == 0
    assert json.loads(by_place)["sentence"] == own.sentence
    code, _, err = run(capsys, "bridge", tmp_path / "none.npy", tmp_path / "new.npy")
    assert (code, "does not exist" in err) == (1, True)
    code, _, err = run(capsys, *words, "--method", "rigde")
    assert (code, "Did you mean 'ridge'?" in err) == (2, True)


def test_the_page_says_what_was_measured(found, tmp_path):
    gated = Bridge(**{**vars(found), "gate": 0.9, "worst": ("<b>xx", found.own)})
    html = write_bridge(gated, tmp_path / "page.html").read_text("utf-8")
    said = html.replace("\u00a0", " ")
    for sentence in gated.sentences:
        assert sentence in said
    assert f'<h1 id="verdict-title">{gated.sentences[-1]}</h1>' in said
    for one in gated.kept:
        row = f'<td>{one.mapped} mapped</td><td class="n">{percent(one.nearest)}</td>'
        assert f'<th scope="row">{one.by}</th>{row}' in said
    assert "&lt;b&gt;xx" in said
    assert not re.findall(r'(?:src|href)="(?!#|data:)', html)  # it asks for nothing
    drawn = curve_figure(gated).data
    assert [*zip(drawn["pairs"], drawn["kept"], strict=True)][:3] == [
        (n, one.mean) for n, one in gated.curve.items()
    ]
    assert controls_figure(gated).data["value"].to_list() == [one.ten.mean for one in gated.kept]
    again = write_bridge(gated, tmp_path / "again.html").read_text("utf-8")
    assert again == html


def test_the_command_with_sets_of_a_store(smoke_store, capsys):
    words = ("--store", smoke_store, "--seeds", "0-4", "--group", "variant")
    code, said, err = run(capsys, "bridge", *["smokehead/class_name"] * 2, *words)
    assert code == 0, err
    assert said.startswith("The same space.")
    assert "Least is kept of group" in said
    code, _, err = run(capsys, "bridge", "smoke/image", "smoke/image", *words)
    assert (code, "72 items are in both" in err) == (1, True)


def test_estimates_are_those_of_the_statistics(found):
    ones = DrawSums.of(np.ones(10), np.repeat([0, 1], 5), np.arange(10))
    assert two_term(ones).mean == 1.0
    assert found.frame().height == 2 * len(found.kept)
    assert repr(found) == f"Bridge: {found.sentence}"
