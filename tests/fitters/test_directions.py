"""CCA, CSA and PLS against cca-zoo, scikit-learn and definitions written out."""

import numpy as np
import pytest
import scipy.linalg
from cca_zoo.linear import CCA as CCAZoo
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cross_decomposition import PLSSVD

from fitters import CCAAligner, CSAAligner, Pairs, PLSAligner, fit
from fitters.solvers import fix_signs
from tests.assertions import assert_close, assert_same
from tests.oracles import unit


def draw_views(rng, n=300, p=7, q=5, shared=3, noise=0.5):
    latent = rng.standard_normal((n, shared))
    x = latent @ rng.standard_normal((shared, p)) + noise * rng.standard_normal((n, p)) + 2
    y = latent @ rng.standard_normal((shared, q)) + noise * rng.standard_normal((n, q)) - 1
    return x, y


def correlation(a, b):
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return np.sum(a * b, axis=0) / np.sqrt(np.sum(a * a, axis=0) * np.sum(b * b, axis=0))


def test_the_correlations_are_those_of_cca_zoo(rng):
    x, y = draw_views(rng)
    aligner = CCAAligner(alpha=0.0).fit(x, y)
    theirs = CCAZoo(n_components=5).fit((x, y)).transform((x, y))
    assert_close(aligner.strengths_, np.abs(correlation(*theirs)), times=100)  # 1e-8


@given(seed=st.integers(0, 2**16), shift=st.sampled_from([0.0, 1e3]))
def test_correlations_lie_in_0_1_and_do_not_see_invertible_maps(seed, shift):
    rng = np.random.default_rng(seed)
    x, y = draw_views(rng, n=60)
    aligner = CCAAligner(alpha=0.0).fit(x, y)
    assert (np.diff(aligner.strengths_) <= 0).all()
    assert 0 <= aligner.strengths_[-1] <= aligner.strengths_[0] <= 1
    turn = np.linalg.qr(rng.standard_normal((7, 7)))[0] * rng.uniform(0.5, 2, 7)
    # A shift of 1e3 rounds the rows themselves at 1e-13, the covariance at 1e-10 of its scale.
    other = CCAAligner(alpha=0.0).fit(x @ turn + shift, y - shift)
    assert_close(other.strengths_, aligner.strengths_, times=100)
    assert_close(CCAAligner(alpha=0.0).fit(y, x).strengths_, aligner.strengths_, times=10)


def inverse_root(a, n):
    return np.linalg.inv(scipy.linalg.sqrtm(a.T @ a / n + 1e-6 * np.eye(a.shape[1])).real)


def test_csa_is_its_source_written_out(rng):
    """NormalizedCCA: centre, CCA with 1e-6 I, corr = diag(Z'W) / n, cosine weighted by corr."""
    x, y = (unit(side) for side in draw_views(rng, n=200))
    x0, y0 = x - x.mean(axis=0), y - y.mean(axis=0)
    root_x, root_y = inverse_root(x0, 199), inverse_root(y0, 199)
    u, _, vt = np.linalg.svd(root_x @ (x0.T @ y0 / 199) @ root_y)
    z, w = x0 @ root_x @ u[:, :3], y0 @ root_y @ vt[:3].T
    corr = np.diag(z.T @ w) / 200
    aligner = CSAAligner(3, alpha=1e-6, relative=False).fit(x, y)
    # Its n where ours is n - 1, as the docstring says.
    found = aligner.project_x(x) @ aligner.project_y(y).T
    assert_close(found * 199 / 200, (unit(z) * corr) @ unit(w).T, "float32")


@pytest.mark.parametrize("method", ["cca", "csa", "pls"])
def test_no_more_directions_are_reported_than_there_are(method, rng):
    x, y = draw_views(rng)
    for asked in (2, 500):
        made = fit(method, real=Pairs(x, y), n_components=asked, rng=rng)
        assert made.facts["choice"]["n_components"] == made.project_x(x).shape[1] <= asked


def test_pls_is_sklearns_plssvd(rng):
    x, y = draw_views(rng)
    aligner = PLSAligner(3).fit(x, y)
    z, w = PLSSVD(n_components=3, scale=False).fit(x, y).transform(x, y)
    ours = (x - x.mean(axis=0)) @ aligner.weights_x_, (y - y.mean(axis=0)) @ aligner.weights_y_
    signs = np.sign(np.sum(ours[0] * z, axis=0))
    assert_close(ours[0], z * signs)
    assert_close(ours[1], w * signs)


def test_signs_do_not_depend_on_the_sign_of_the_data(rng):
    x, y = draw_views(rng)
    for cls in (CCAAligner, PLSAligner):
        ours, turned = cls().fit(x, y), cls().fit(-x, -y)
        assert_close(turned.weights_x_, ours.weights_x_)
        assert (ours.weights_x_[np.abs(ours.weights_x_).argmax(axis=0), range(5)] > 0).all()
    left, right = fix_signs(np.array([[-2.0, 1.0], [2.0, 0.5]]), np.array([[1.0, 3.0]]))
    assert_same(left, np.array([[2.0, 1.0], [-2.0, 0.5]]))
    assert_same(right, np.array([[-1.0, 3.0]]))


@pytest.mark.parametrize("sources", [("prototypes",), ("real",), ("prototypes", "real")])
def test_the_papers_cca_is_that_of_unit_rows_about_one_pooled_mean(make_world, sources, rng):
    """S_v = X'X / (n - 1) + 1e-6 I of all pairs alike, whitened by scipy; plain cosines."""
    head, real = make_world(n_classes=90, p=9, q=7)
    # Images with one to three captions, which elsewhere share the mass of their image.
    real = Pairs(real.x + 2, real.y - 1, real.groups, np.repeat([1.0, 0.5, 1 / 3], [8, 20, 20]))
    world = {"prototypes": head, "real": real}
    chosen = {name: world[name] for name in sources}
    alignment = fit("paper-cca", **chosen, image_mean=np.ones(9), rng=rng)
    x, y = (
        np.concatenate([unit(getattr(pairs, side).astype(float)) for pairs in chosen.values()])
        for side in ("x", "y")
    )
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    a, b, n = x - mean_x, y - mean_y, len(x)
    roots = [inverse_root(side, n - 1) for side in (a, b)]
    u, _, vt = np.linalg.svd(roots[0] @ (a.T @ b / (n - 1)) @ roots[1], full_matrices=False)
    images, texts = rng.normal(size=(30, 9)) + 1, rng.normal(size=(40, 7)) - 2
    z = unit((unit(images) - mean_x) @ roots[0] @ u)
    w = unit((unit(texts) - mean_y) @ roots[1] @ vt.T)
    scores = alignment.project_x(images) @ alignment.project_y(texts).T
    assert_close(scores, z @ w.T, "float32", times=100)
