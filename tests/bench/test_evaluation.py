"""`evaluate` and `Results`: the rows of the commands, from a store or from arrays."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import fitters
from bench import compare, read_results
from bench.comparisons import compare_choices
from bench.errors import NoResultsError, ProtocolError
from bench.evaluation import evaluate
from featstore import open_store
from featstore.errors import StoreWriteError
from fitters import METHODS, FitConfig, Pairs, RidgeAligner, SideTransform
from fitters.errors import PairsError, SettingError
from fitters.jobs import fit, fit_from_store
from fitters.settings import FitRequest
from tests.bench.test_execution import TIMES
from tests.typed import headstock

pytestmark = pytest.mark.usefixtures("no_plugins")

SETS = {
    "images": "smoke/image/synthetic:image",
    "names": "smoke/class_name/synthetic:text",
    "captions": "smoke/caption/synthetic:text",
    "head": "smokehead/head_weight/synthetic:image",
    "head_names": "smokehead/class_name/synthetic:text",
}
TYPED = [f"--{role.replace('_', '-')}={key}" for role, key in SETS.items()]
#: The sets in short.
WHERE = {"dataset": "smoke", "label_set": "smokehead", "progress": False}


@pytest.fixture(scope="module")
def found(smoke_store, tmp_path_factory):
    """An evaluation over all names and held out; tests only read it."""
    return evaluate(
        ["ridge", "procrustes"], smoke_store, n_pairs=[8, "all"], draws=3, seeds=2,
        out=tmp_path_factory.mktemp("found"), **WHERE,
    )  # fmt: skip


def test_its_rows_are_those_of_bench_task(smoke_store, tmp_path):
    how = "--method=ridge,conse", "--source=head,random", "--seeds=0-2", "--store", smoke_store
    for task in ("zero_shot", "retrieval"):
        assert headstock("eval", "task", task, *TYPED, *how, "-o", tmp_path / "typed") == 0
    ours = evaluate(["ridge", "conse"], smoke_store, controls=["random"], draws=3, progress=False,
                    out=tmp_path / "ours", **SETS)  # fmt: skip
    typed = read_results(tmp_path / "typed").filter(
        (pl.col("source") == "random") | (pl.col("seed") == 0)  # a head alone is fitted once
    )
    assert ours.rows["run_id"].n_unique() == 2 * (3 + 1 + 1)
    assert_frame_equal(ours.rows.drop(TIMES), typed.drop(TIMES))


def arrays(store):
    """Return images with the names of their classes, and a head with those of its own."""
    opened = open_store(store)
    images, head = opened.view(SETS["images"]), opened.view(SETS["head"])
    names, of_head = (
        opened.view(SETS[role]).where(template_id="none") for role in ("names", "head_names")
    )
    x, y = images.pair_by("class_id", names).numpy()
    groups = images.items["class_id"].to_numpy()
    paired = head.pair_by("class_id", of_head)
    return Pairs(x, y, groups), Pairs(*paired.numpy(), paired.y.items["text"].to_numpy())


def test_arrays_give_what_the_store_gives_that_they_are_from(smoke_store):
    pairs, prototypes = arrays(smoke_store)
    how = {"draws": 3, "n_pairs": [8], "seeds": 2, "progress": False, "tasks": "zero_shot"}
    of_arrays = evaluate("ridge", pairs, prototypes=prototypes, **how)
    sets = {role: key for role, key in SETS.items() if role != "captions"}
    of_store = evaluate("ridge", smoke_store, templates="none", **how, **sets)
    keys = ["eval", "direction", "method", "source", "n_pairs", "seed", "metric"]
    both = [
        one.rows.select(*keys, "value", "chance", "n_queries", "penalty_chosen").sort(keys)
        for one in (of_arrays, of_store)
    ]
    assert both[0].height > 100
    assert_frame_equal(*both)


def planted(rng, classes=60):
    """Return images of 30 classes with the texts of their names, and a head of other classes."""
    texts, to_images = rng.standard_normal((90, 6)), rng.standard_normal((6, 12))
    own = texts[classes:]
    data = Pairs(own @ to_images, own, np.array([f"kind {n}" for n in range(len(own))]))
    return data, Pairs(texts[:classes] @ to_images, texts[:classes])


def test_three_lines_lead_from_arrays_to_a_verdict(rng):
    pairs, head = planted(rng)
    results = evaluate("ridge", pairs, tasks="zero_shot", prototypes=head, progress=False)
    assert results.verdict.startswith("Ridge on head weights alone names 100.0 % of images right")
    assert "Random vectors would not have done as well" in results.verdict
    spoilt = Pairs(head.x, head.y[rng.permutation(head.n)])
    again = evaluate("ridge", pairs, tasks="zero_shot", prototypes=spoilt, progress=False)
    assert "A control may have done as well" in again.verdict
    alone = evaluate(
        "ridge", pairs, tasks="zero_shot", prototypes=head, controls=False, progress=False
    )
    assert "No control says whether" in alone.verdict


def test_groups_that_all_differ_are_ids_and_no_classes(rng):
    """One task and one number, with ids, in another order of them, and without."""
    pairs, head = planted(rng)
    values, sayings = [], []
    for groups in (None, pairs.groups, rng.permutation(pairs.n)):
        found = evaluate("ridge", Pairs(pairs.x, pairs.y, groups), prototypes=head, draws=2,
                         progress=False)  # fmt: skip
        assert set(found.rows["task"]) == {"retrieval"}
        values.append(found.rows.filter(metric="R@1", source="head")["value"].to_list())
        sayings.append("All groups differ: they count as ids" in found.verdict)
    assert values[0] == values[1] == values[2]
    assert sayings == [False, True, True]
    y = pairs.y[[0, 0, *range(2, pairs.n)]]  # two images with one caption
    how = {"controls": False, "progress": False, "prototypes": head}
    assert set(evaluate("ridge", Pairs(pairs.x, y, pairs.groups), **how).rows["task"]) == {
        "retrieval"
    }
    asked = evaluate("ridge", pairs, tasks="zero_shot", **how)
    assert set(asked.rows["task"]) == {"zero_shot"}
    assert "All groups differ" not in asked.verdict


def test_without_a_head_the_verdict_is_on_the_pairs(rng):
    pairs, _ = planted(rng)
    results = evaluate(["ridge", "mean-shift"], Pairs(pairs.x, pairs.y), seeds=3, progress=False)
    assert set(results.rows["source"]) == {"none"}
    assert "by Ridge (" in results.verdict


def test_classes_with_equal_texts_are_named(rng, tmp_path, capsys):
    """Of ten classes two have one text: whatever the method, a fifth of the images is lost."""
    names, to_images = rng.standard_normal((10, 6)), rng.standard_normal((6, 12))
    classes = np.repeat(np.arange(10), 3)
    how = {"controls": False, "progress": False, "prototypes": planted(rng)[1]}
    x, labels = names[classes] @ to_images, np.array([f"kind {n}" for n in classes])
    how["prototypes"] = Pairs(how["prototypes"].y @ to_images, how["prototypes"].y)
    alone = evaluate("ridge", Pairs(x, names[classes], labels), **how)
    assert "names 100.0 %" in alone.verdict
    assert "equal" not in alone.verdict
    names[7] = names[2]
    both = evaluate("ridge", Pairs(x, names[classes], labels), out=tmp_path, **how)
    assert "names 80.0 %" in both.verdict
    said = "Classes with equal texts cannot be told apart by name"
    assert both.verdict.count(said) == both.verdict.count("'kind 2 = kind 7'") == 1
    assert headstock("eval", "table", tmp_path) == 0
    assert said in capsys.readouterr().out
    assert said in both.report(tmp_path / "page.html").read_text(encoding="utf-8")


def same_axes(x, y):
    return np.eye(x.shape[1]), np.eye(y.shape[1], x.shape[1])


class Untitled:
    title = "<script>alert(1)</script>"

    def __init__(self, alpha=0.1, name="a b"):
        self.alpha, self.name = alpha, name

    def fit(self, X, y):
        self.coef_ = np.linalg.solve(y.T @ y + self.alpha * np.eye(y.shape[1]), y.T @ X)
        return self

    def project_x(self, x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def project_y(self, y):
        return self.project_x(y @ self.coef_)


def test_whatever_is_a_method_is_scored_and_named(smoke_store):
    ridge = RidgeAligner("y->x", alpha=0.5, center=False)
    methods = [Untitled, Untitled(0.5), Untitled(name="c/d"), same_axes, ridge,
               FitConfig("ridge", penalty=0.5)]  # fmt: skip
    results = evaluate(methods, smoke_store, controls=False, tasks="zero_shot", **WHERE)
    own, changed, odd, function, aligner, ours = results.methods
    named = ["Untitled", "Untitled-alpha-0.5", "same_axes", "ridge"]
    assert [own, changed, function, ours] == named
    assert odd.startswith("Untitled-name-c-d-")
    assert aligner.startswith("RidgeAligner-alpha-0.5-center-False")
    values = dict(results.rows.filter(metric="MRR").select("method", "value").iter_rows())
    assert values[aligner] == values[ours] != values[function]
    # Of a class its settings are open, of an aligner they are given.
    assert (METHODS[own].options, METHODS[changed].options) == (("penalty",), ())
    assert METHODS[changed].make().alpha == 0.5
    assert set(results.rows.filter(method=own)["origin"]) == {"test_evaluation.py"}
    assert set(results.rows.filter(method="ridge")["origin"]) == {""}
    assert "<script>" not in results._repr_html_()
    assert "&lt;script&gt;" in results._repr_html_()


def test_a_frame_has_numbers_where_there_are_numbers(found):
    with pytest.raises(NoResultsError, match=r"'penalyt'.*'penalty'"):
        found.frame(["penalyt"])
    frame = found.frame(found.rows.columns)
    dtypes = frame.schema
    assert dtypes["n_pairs"] == pl.Int64
    assert {dtypes[name] for name in ("penalty", "mix", "gamma", "power")} == {pl.Float64}
    every = frame.filter(pl.Series(found.rows["n_pairs"] == "all"))
    assert_frame_equal(every.select("n_pairs"), every.select(n_pairs="n_images_fitted"))
    chosen = frame.filter(found.rows["penalty"] == "auto").filter(method="ridge")
    assert_frame_equal(chosen.select("penalty"), chosen.select(penalty="penalty_chosen"))


def closure(alpha):
    def made(x, y):
        return np.linalg.solve(x.T @ x + alpha * np.eye(x.shape[1]), x.T @ y), np.eye(y.shape[1])

    return made


def test_errors_name_what_was_given(rng):
    pairs = Pairs(rng.standard_normal((40, 6)), rng.standard_normal((40, 4)))
    for one, given, error, said in (
        (evaluate, {"tsks": "retrieval"}, ProtocolError, "named 'tsks'.*Did you mean 'tasks'"),
        (evaluate, {"prototypes": (pairs.x, pairs.y, ["a"] * 39)}, PairsError,
         "prototypes: groups has 39 values"),
        *((evaluate, {"seeds": seeds}, ProtocolError, "seeds must be .* from 1")
          for seeds in (0, -1, "x", [-1])),
        *((evaluate, {"draws": draws}, ProtocolError, "draws must be .* from 1")
          for draws in (0, -3, "x")),
        (evaluate, {"out": __file__}, StoreWriteError, r"is a file: name a folder"),
        (fit, {"training": 3}, TypeError, "training must be TrainingOptions"),
        (fit, {"n_pairs": 8}, SettingError, r"on arrays \(n_pairs, split, source .* of a store\)"),
        *((fit, {"seed": seed}, SettingError, "seed must be .* from 0") for seed in ("a", -1)),
    ):  # fmt: skip
        with pytest.raises(error, match=said):
            one("ridge", pairs, **given)
    with pytest.raises(SettingError, match="Two methods are named 'made'"):
        evaluate([closure(0.1), closure(10.0)], pairs, progress=False)
    named = {"weak": closure(0.1), "strong": closure(10.0)}
    assert evaluate(named, pairs, seeds=2, progress=False).methods == [*named]


@pytest.mark.parametrize("given", [np.float64, np.float16])
def test_a_method_gets_float64_whatever_was_given(given, rng):
    seen = []

    def spy(x, y):
        seen.append((x, y))
        return np.linalg.lstsq(x, y, rcond=None)[0], np.eye(y.shape[1])

    texts = rng.standard_normal((60, 5)).astype(given)
    pairs = Pairs((texts @ rng.standard_normal((5, 7))).astype(given), texts)
    head = pairs.take(np.arange(40))
    evaluate(spy, pairs, prototypes=head, controls=False, progress=False)
    for one in (head, Pairs(head.x.astype(np.float32), head.y.astype(np.float32))):
        fit(spy, prototypes=one)
    (stored, *_, as_given, as_float32) = seen
    assert {rows.dtype for both in seen for rows in both} == {np.dtype(np.float64)}
    # An evaluation rounds to float32 where its arrays enter, a fit on arrays does not.
    assert np.array_equal(stored[0], as_float32[0])
    assert np.array_equal(as_given[0], as_float32[0]) == (given is not np.float64)
    # The texts of a class are brought to unit length in the store, and rounded again.
    assert stored[1] == pytest.approx(as_float32[1], abs=1e-6)


def test_a_comparison_is_that_of_the_folder(found):
    ours = found.compare("ridge/head/8", "ridge/random/8")
    typed = compare_choices(f"{found.folder}:ridge/head/8", f"{found.folder}:ridge/random/8")
    assert_frame_equal(ours, typed.select(ours.columns))
    by_fields = found.compare(
        {"method": "ridge", "source": "head", "n_pairs": 8},
        {"method": "ridge", "source": "random", "n_pairs": 8},
    )
    assert_frame_equal(by_fields, ours)
    whole = compare(found.folder, found.rows)
    row = whole.filter(comparison="over-control", source="random", method="ridge", n_pairs="8")
    assert ours["p"].to_list() == row.filter(pl.col("metric").is_in(ours["metric"]))["p"].to_list()
    with pytest.raises(NoResultsError, match="has no method 'rigde' there"):
        found.compare("rigde", "ridge")


def test_a_fit_on_arrays_is_that_of_fitters(rng):
    pairs, head = planted(rng)
    mean = SideTransform.fit([pairs.x], label="images").mean
    cases = [
        (fit("ridge", pairs.x, prototypes=head, penalty=0.1), {"prototypes": head,
         "image_mean": mean}),
        (fit(FitConfig("ridge", penalty=0.1), pairs.x, pairs.y), {"real": pairs}),
        (fit("ridge", pairs, prototypes=head, penalty=0.1), {"real": pairs, "prototypes": head}),
    ]  # fmt: skip
    for ours, data in cases:
        theirs = fitters.fit("ridge", **data, penalty=0.1, rng=np.random.default_rng(0))
        assert np.array_equal(ours.project_x(pairs.x), theirs.project_x(pairs.x))
        assert np.array_equal(ours.project_y(pairs.y), theirs.project_y(pairs.y))
    assert fit(Untitled(0.5), pairs).aligner.alpha == 0.5


def test_a_fit_on_a_store_is_that_of_the_command(smoke_store):
    store = open_store(smoke_store)
    sets = {"x": SETS["images"], "head": SETS["head"], "names": SETS["head_names"]}
    where = {"dataset": "smoke", "label_set": "smokehead"}
    cases = [
        (fit("ridge", smoke_store, **where), {}),
        (fit("ridge", store, n_pairs=20, mix=2.0, seed=3, **where),
         {"y": SETS["captions"], "n_pairs": 20, "mix": 2.0, "seed": 3}),
    ]  # fmt: skip
    for ours, more in cases:
        theirs = fit_from_store(store, FitRequest("ridge", **sets, **more))
        assert np.array_equal(ours.aligner.coef_, theirs.aligner.coef_)
        assert ours.facts["fitted_on"] == theirs.facts["fitted_on"]
    with pytest.raises(SettingError, match=r"'penalyt'.*'penalty'"):
        fit("ridge", store, penalyt=1.0, **where)
    with pytest.raises(SettingError, match="A store has texts, prototypes"):
        fit("ridge", store, prototypes=Pairs(np.eye(2), np.eye(2)))
    with pytest.raises(PairsError, match="texts and groups need images as data"):
        fit("ridge", texts=np.eye(2))
