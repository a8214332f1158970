"""Images to caption first: against brute force, a planted gap, properties, and the command."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct

from featstore import open_store
from fitters.cli.fit import fit_command
from fitters.errors import SettingError
from fitters.jobs import suggest
from fitters.settings import FitRequest
from fitters.solvers import most_informative
from tests.oracles import unit


def expected_error(images, known):
    """Mean variance of a linear Gaussian process at the images, by scikit-learn."""
    process = GaussianProcessRegressor(
        DotProduct(0.0, "fixed"), alpha=1.0, optimizer=None
    ).fit(known, np.zeros(len(known)))  # fmt: skip
    return float(np.mean(process.predict(images, return_std=True)[1] ** 2))


@given(seed=st.integers(0, 10**6), m=st.integers(2, 7), p=st.integers(1, 5))
@settings(max_examples=8, derandomize=True, deadline=None)
def test_each_step_is_the_best_of_all_by_brute_force(seed, m, p):
    rng = np.random.default_rng(seed)
    images, known = (unit(rng.standard_normal((n, p))) for n in (m, 4))
    chosen, left = most_informative(images, known, min(m, 3))
    start, rows = expected_error(images, known), known
    assert len(set(chosen.tolist())) == len(chosen)
    for place, (own, share) in enumerate(zip(chosen, left, strict=True)):
        free = np.setdiff1d(np.arange(m), chosen[:place])
        errors = [expected_error(images, np.vstack([rows, images[i]])) for i in free]
        rows = np.vstack([rows, images[own]])
        assert expected_error(images, rows) == pytest.approx(min(errors), rel=1e-6)
        assert share == pytest.approx(expected_error(images, rows) / start, rel=1e-6)


@pytest.fixture(scope="module")
def store(once):
    from bench.suites.demo import create_smoke_store

    return open_store(once("suggest-store", create_smoke_store))


def request_of(store, **given):
    keys = {info.key.kind + "/" + info.key.dataset: str(info.key) for info in store.sets()}
    return FitRequest(
        "ridge", x=keys["image/smoke"], head=keys["head_weight/smokehead"],
        names=keys["class_name/smokehead"], **given,
    )  # fmt: skip


def test_captioned_images_are_known_and_not_suggested(store):
    alone = suggest(store, request_of(store), 5)
    assert all(-1 <= one["cosine"] <= 1 for one in alone)
    captions = next(str(info.key) for info in store.sets() if info.key.kind == "caption")
    beside = request_of(store, y=captions, n_pairs=8)
    n = len(store.view(beside.x)) - 8
    assert len({one["item_id"] for one in suggest(store, beside, n)}) == n
    with pytest.raises(SettingError, match=f"From 1 to {n} "):
        suggest(store, beside, n + 1)


def test_the_command_lists_images_and_fits_nothing(store, tmp_path):
    words = ["ridge", "--store", str(store.root), "-o", str(tmp_path / "made"), "--suggest", "3"]
    said = CliRunner().invoke(fit_command, words)
    assert said.exit_code == 0, said.output
    assert said.stdout.count("smoke/image-") == 3
    assert not (tmp_path / "made").exists()
    facts = json.loads(CliRunner().invoke(fit_command, [*words, "--json"]).stdout)
    assert facts == suggest(store, request_of(store), 3)
    # Which images are captioned already, the seed draws.
    words += ["--captions", "smoke/caption", "--n-pairs", "4", "--seed"]
    seeds = [CliRunner().invoke(fit_command, [*words, seed]).stdout for seed in "0033"]
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]
