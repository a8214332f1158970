"""Generalised zero-shot: by hand, as zero-shot with both kinds told apart, and ICIS on digits."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from bench import read_results
from bench.errors import ProtocolError
from bench.options import Generalised, ZeroShot
from bench.tasks.zero_shot import score_generalised, score_zero_shot
from featstore.testing import item_table, write_set
from fitters import PRESETS
from headstock.__main__ import cli
from tests.bench.test_tasks import Identity, items


def of_classes(classes, rows):
    return items(classes, classes, rows)


NAMES = of_classes(["a", "b", "c"], np.eye(3))


def test_by_hand():
    # Seen: a 2 of 3, b 1 of 1; unseen: c 1 of 4.
    found = [0, 0, 1, 1, 2, 0, 0, 1]
    images = of_classes(list("aaabcccc"), np.eye(3)[found])
    seen = np.array([True, True, False])
    among_all, alone = score_generalised(Identity(), images, NAMES, seen)
    assert among_all.direction == "image→name"
    assert among_all.values["seen"] == pytest.approx((2 / 3 + 1) / 2)
    assert among_all.values["unseen"] == 0.25
    assert among_all.values["harmonic"] == pytest.approx(2 * (5 / 6) * 0.25 / (5 / 6 + 0.25))
    # Alone among unseen names nobody can be taken for a or b: one name, and always right.
    assert alone.direction == "unseen image→unseen name"
    assert (alone.n, alone.gallery) == (4, 1)
    for flags, kind in (([True] * 3, "seen"), ([False] * 3, "unseen")):
        with pytest.raises(ProtocolError, match=f"All 3 classes of the images are {kind}"):
            score_generalised(Identity(), images, NAMES, np.array(flags))
    with pytest.raises(ProtocolError, match="by the names of a head"):
        score_generalised(Identity(), images, NAMES, None)


def test_it_is_zero_shot_with_both_kinds_told_apart(rng):
    names = of_classes([f"{i}" for i in range(6)], rng.normal(size=(6, 4)))
    images = of_classes([f"{i % 5}" for i in range(60)], rng.normal(size=(60, 4)))
    seen = np.array([True, False, True, False, False, True])
    options = Generalised(scorer="csls")
    for mine, which in zip(
        score_generalised(Identity(), images, names, seen, options=options),
        ("all", "unseen"),
        strict=True,
    ):
        (theirs,) = score_zero_shot(
            Identity(), images, names, seen=seen, options=ZeroShot(classes=which, scorer="csls")
        )
        assert mine.values == theirs.values
        assert mine.chance == theirs.chance
        np.testing.assert_array_equal(mine.ranks.rank, theirs.ranks.rank)


def write_digits(root):
    """Write digits, a real head of eight of them, and texts: class means of half the pixels."""
    digits = load_digits()
    pixels = digits.data / 16 - digits.data.mean(axis=0) / 16
    texts = [pixels[digits.target == n][:40].mean(axis=0)[::2] for n in range(10)]
    seen = np.setdiff1d(np.arange(10), [3, 8])
    known = np.isin(digits.target, seen)
    head = LogisticRegression(C=0.1, max_iter=500).fit(pixels[known], digits.target[known])
    shown = item_table(
        [f"{i:04d}" for i in range(len(pixels))], class_id=[f"digits/{n}" for n in digits.target]
    )
    write_set(root, pixels, shown, dataset="digits", encoder="test:pixels")
    for dataset, own in (("digits", np.arange(10)), ("known", seen)):
        ids = [f"{dataset}/{n}" for n in own]
        named = item_table(
            ids, "class_name", class_id=ids, text=[f"a {n}" for n in own],
            variant=["name"] * len(own), template_id=["none"] * len(own),
        )  # fmt: skip
        write_set(
            root, np.array(texts)[own], named, dataset=dataset, kind="class_name",
            encoder="test:half",
        )  # fmt: skip
    write_set(
        root, head.coef_, item_table([f"{c}#head" for c in ids], "head_weight", class_id=ids),
        dataset="known", kind="head_weight", encoder="test:pixels",
        bias=head.intercept_.astype(np.float32),
    )  # fmt: skip


def test_one_command_trains_icis_and_prints_the_harmonic_mean(tmp_path, monkeypatch):
    write_digits(tmp_path / "store")
    settings = {"width": 64, "learning_rate": 1e-3, "batch_size": 4}
    short = replace(PRESETS["icis"], settings=settings, epochs=lambda _: 60)
    monkeypatch.setitem(PRESETS, "icis", short)
    done = CliRunner().invoke(cli, [
        "eval", "task", "generalised", "--method", "icis", "--source", "head", "--prompts",
        "name:none", "--store", str(tmp_path / "store"), "-o", str(tmp_path / "results"),
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = read_results(tmp_path / "results")
    values = {(d, m): v for d, m, v in rows.select("direction", "metric", "value").iter_rows()}
    seen, unseen, harmonic = (values["image→name", name] for name in ("seen", "unseen", "harmonic"))
    assert seen > 0.6
    assert harmonic == pytest.approx(2 * seen * unseen / (seen + unseen))
    # Alone among unseen names: names were taken away that were not the images' own.
    assert values["unseen image→unseen name", "balanced-accuracy"] >= unseen
    n_unseen = int(np.isin(load_digits().target, [3, 8]).sum())
    assert dict(rows.select("direction", "n_queries").unique().iter_rows()) == {
        "image→name": 1797, "unseen image→unseen name": n_unseen,
    }  # fmt: skip
    table = CliRunner().invoke(cli, ["eval", "table", str(tmp_path / "results"), "--format", "csv"])
    found = pl.read_csv(table.stdout.split("\n\n")[0].encode()).filter(direction="image→name")
    printed = dict(found.select("method", "harmonic").iter_rows())
    assert printed == {"icis": pytest.approx(harmonic), "chance": pytest.approx(0.1)}
    shown = CliRunner().invoke(cli, ["eval", "table", str(tmp_path / "results"), "--all"]).stdout
    assert f"{100 * harmonic:.1f}" in shown
    assert "harmonic %" in shown
