"""Plans that are stored before the first score: a planted effect on several sets, and changes."""

import json
import math
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from bench import confirmatory, read_results, run_all
from bench.cli.run import run_command
from bench.confirmatory import ENOUGH_SETS, outcome, random_effects, read_plan, store_plan
from bench.errors import BoxError, MetricError, NoResultsError, ProtocolError
from bench.results import read_sums, summed_as
from bench.statistics import DrawSums, compare, two_term
from featstore import open_store
from tests.bench.paper_store import BEIT1, INAT, ROBERTA, Builder

SETS, ENCODERS = ("birds", "cars", "shoes"), ("beit", "vit_large")


def write_store(root):
    """Three sets of 60 images of 20 classes and a head of 80, each by two encoders."""
    make = Builder(root)
    for name, n in (*((name, 20) for name in SETS), ("big", 80)):
        make.names(name, ROBERTA, n)
        for encoder in (BEIT1, INAT):
            if name == "big":
                make.head(name, encoder, n)
            else:
                make.images(name, encoder, n, 3, ["test"] * 3)


@pytest.fixture(scope="session")
def store(once):
    return open_store(once("three-sets", write_store))


def plan_file(folder, *, name="head-first", draws=10, over="sets", metric="top-1", **keys):
    usual = {"datasets": SETS, "encoders": ENCODERS, "hypotheses": ["rows help"]}
    primary = {"a": "ridge/head/0", "b": "ridge/shuffled/0", "metric": metric, "over": over}
    parts = {"name": name, "texts": ["roberta"], **usual, **keys, "draws": draws}, primary
    top, below = ("\n".join(f"{k} = {json.dumps(v)}" for k, v in one.items()) for one in parts)
    path = folder / f"{name}.toml"
    path.write_text(f"{top}\n[primary]\n{below}")
    return path


@pytest.fixture(scope="module")
def done(store, tmp_path_factory):
    """A plan that was stored and then run: its file and results; tests only read them."""
    root = tmp_path_factory.mktemp("plan")
    plan = read_plan(plan_file(root))
    runs = plan.runs(store)
    assert len(runs) == 3 * 2 * 2 * 10
    store_plan(root / "results", plan, runs)
    with pytest.raises(NoResultsError, match=r"120 of 120 runs .* not finished"):
        outcome(root / "results", plan, runs)
    run_all(runs, store.root, root / "results")
    return root


def test_the_summary_is_that_of_the_sets_and_sees_the_planted_effect(done, store):
    plan = read_plan(done / "head-first.toml")
    runs = plan.runs(store)
    found = outcome(done / "results", plan, runs)
    assert (found.word, found.reasons) == ("confirmatory", ())
    assert found.pooled.interval()[0] > 0.1
    # By hand: hits of every query, averaged over the encoders, of each set.
    hits = read_sums(done / "results", [run.run_id for run in runs])
    rows = read_results(done / "results").filter(metric="top-1", direction="image→name")
    own = hits.join(rows.select("run_id", "image_set", "source", "seed"), on="run_id")
    estimates = []
    for name in SETS:
        of_set = own.filter(own["image_set"].str.starts_with(name)).sort(
            "seed", "cluster_id", "image_set"
        )
        total = {
            source: of_set.filter(source=source)[summed_as("top-1")]
            .to_numpy()
            .reshape(-1, 2)
            .mean(axis=1)
            for source in ("head", "shuffled")
        }
        keys = of_set.filter(source="head")[::2]
        n = keys["n_queries"].to_numpy()
        repeated = [np.repeat(keys[column].to_numpy(), n) for column in ("seed", "cluster_id")]
        a, b = (np.repeat(total[source] / n, n) for source in ("head", "shuffled"))
        estimates.append(compare(a, b, draws=repeated[0], clusters=repeated[1]))
        assert found.sets[name].mean == pytest.approx(estimates[-1].mean)
        assert found.sets[name].variance == pytest.approx(estimates[-1].variance)
    expected = random_effects([e.mean for e in estimates], [e.variance for e in estimates])
    assert found.primary.interval() == pytest.approx(expected.interval())
    assert "No prediction interval: 3 sets" in " ".join(found.lines)


def changed_code(monkeypatch, _):
    monkeypatch.setattr(confirmatory, "analysis_digest", lambda: "0" * 16)


def changed_plan(_, root):
    path = root / "head-first.toml"
    path.write_text(path.read_text().replace("rows help", "rows help, of course"))


def scored_before(_, root):
    stored = root / "results" / "plans" / "head-first.json"
    stored.chmod(0o600)
    stored.unlink()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (changed_code, "the code changed after"),
        (changed_plan, "the plan changed after"),
        (scored_before, "120 of its runs had been scored before"),
    ],
)
def test_what_changed_is_not_confirmatory(done, store, tmp_path, monkeypatch, change, reason):
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    change(monkeypatch, tmp_path)
    plan = read_plan(tmp_path / "head-first.toml")
    found = outcome(tmp_path / "results", plan, plan.runs(store))
    assert found.word == "exploratory"
    (said,) = found.reasons
    assert said.startswith(reason)


def test_fewer_draws_than_a_claim_needs_are_said(store, tmp_path):
    plan = read_plan(plan_file(tmp_path, draws=3, datasets=["birds"], encoders=["beit"]))
    runs = plan.runs(store)
    store_plan(tmp_path / "results", plan, runs)
    run_all(runs, store.root, tmp_path / "results")
    found = outcome(tmp_path / "results", plan, runs)
    assert found.reasons == ("it has fewer than 10 draws",)
    assert found.pooled is None


def test_encoders_are_a_sample_from_four_on(store, tmp_path, monkeypatch):
    with pytest.raises(BoxError, match=r"from 4 encoders × texts on, here 2"):
        read_plan(plan_file(tmp_path, over="sets and encoders"))
    monkeypatch.setattr(confirmatory, "ENOUGH_ENCODERS", 2)
    plan = read_plan(plan_file(tmp_path, over="sets and encoders", draws=2))
    runs = plan.runs(store)
    run_all(runs, store.root, tmp_path)
    found = outcome(tmp_path, plan, runs)
    rows = read_results(tmp_path).filter(metric="top-1", direction="image→name")
    means = np.array([
        [
            np.subtract(*(
                rows.filter(image_set=key, source=source)["value"].mean()
                for source in ("head", "shuffled")
            ))
            for key in sorted({*rows["image_set"]}) if encoder in key
        ]
        for encoder in ENCODERS
    ])  # fmt: skip
    expected = two_term(DrawSums(means, np.ones(means.shape)))
    assert found.primary.interval() == pytest.approx(expected.interval())


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"datasets": []}, "of length >= 1 - at"),
        ({"draws": 0}, ">= 1 - at"),
        ({"metric": "mrr2"}, "metric must be one of"),
        ({"name": "demo"}, "of no suite"),
        ({"peeks": 3}, "unknown field `peeks`"),
    ],
)
def test_a_plan_that_says_too_little_is_refused(tmp_path, keys, said):
    with pytest.raises(BoxError, match=said):
        read_plan(plan_file(tmp_path, **keys))


def test_a_set_that_an_encoder_lacks_is_named(store, tmp_path):
    for encoder, n in (("resnet", 0), ("patch", 2)):
        with pytest.raises(ProtocolError, match=f"{n} sets of 'birds' fit encoder '{encoder}'"):
            read_plan(plan_file(tmp_path, encoders=[encoder])).runs(store)


def test_the_command_stores_runs_and_prints(done, store, tmp_path):
    place = [str(done / "head-first.toml"), "--store", str(store.root), "-o", str(done / "results")]
    facts = json.loads(CliRunner().invoke(run_command, [*place, "--json"]).stdout)
    assert (facts["word"], facts["reasons"]) == ("confirmatory", [])
    refused = CliRunner().invoke(run_command, [*place, "--method", "ridge"])
    assert refused.exit_code == 2
    assert "--method has no place beside a plan" in refused.stderr


effects = st.lists(st.floats(-1, 1), min_size=3, max_size=12)


@given(y=effects, seed=st.integers(0, 10**6))
@settings(max_examples=30, derandomize=True, deadline=None)
def test_the_summary_is_that_of_statsmodels(y, seed):
    """Paule-Mandel's τ², the mean, Q, I² and Hartung and Knapp's error, bounded from below."""
    meta = pytest.importorskip("statsmodels.stats.meta_analysis")
    assume(np.ptp(y) > 1e-3)  # where all are alike, theirs divides by 0
    v = np.random.default_rng(seed).lognormal(-3, 1, len(y))
    found = random_effects(y, v)
    theirs = meta.combine_effects(np.array(y), v, method_re="iterated", atol=1e-9, maxiter=500)
    # Theirs gives 0 where the last step of Newton's method rounds past the root.
    assume(theirs.tau2 > 0 or found.q <= len(y) - 1)
    assert found.between == pytest.approx(max(theirs.tau2, 0.0), abs=1e-7)
    assert found.mean == pytest.approx(theirs.mean_effect_re, abs=1e-6)
    assert found.q == pytest.approx(theirs.q)
    assert found.inconsistency == pytest.approx(max(theirs.i2, 0.0))
    error = max(theirs.sd_eff_w_re, theirs.sd_eff_w_re_hksj)
    assert found.error == pytest.approx(error, abs=1e-6)


def test_exact_effects_give_the_t_test_of_the_sets():
    y = [0.02, 0.11, 0.05, -0.01, 0.07, 0.04]
    found = random_effects(y, np.full(6, 1e-9))
    assert found.p_value() == pytest.approx(ttest_1samp(y, 0).pvalue, rel=1e-5)
    assert found.between == pytest.approx(np.var(y, ddof=1), rel=1e-5)
    low, high = found.prediction()
    half = 2.776445 * math.sqrt(np.var(y, ddof=1) * 7 / 6)  # t, 4 degrees
    assert (low, high) == pytest.approx((np.mean(y) - half, np.mean(y) + half), rel=1e-5)


def test_no_set_more_is_predicted_from_few():
    y, v = np.linspace(0, 1, ENOUGH_SETS), np.full(ENOUGH_SETS, 0.01)
    assert random_effects(y[:-1], v[:-1]).prediction() is None
    low, high = random_effects(y, v).prediction()
    inner = random_effects(y, v).interval()
    assert low < inner[0] < inner[1] < high


@pytest.mark.parametrize(
    ("y", "v", "said"),
    [([0.1], [0.1], "got 1 effects"), ([0.1, 0.2], [0.1], "and 1 variances"),
     ([0.1, 0.2], [0.1, 0.0], "the least 0")],
)  # fmt: skip
def test_what_cannot_be_pooled_says_why(y, v, said):
    with pytest.raises(MetricError, match=said):
        random_effects(y, v)
