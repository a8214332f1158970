import jaxtyping
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from fitters.errors import SingularMomentsError
from fitters.solvers import (
    Spectrum,
    polar_factor,
    relative_penalty,
    solve_ridge,
    solve_ridge_dual,
    truncation_gap,
)
from tests.assertions import assert_close

ALPHAS = np.array([1e-3, 0.1, 1.0, 30.0])


@st.composite
def problems(draw):
    """Rows of every awkward kind: n < p, duplicate and constant columns, float16-rounded."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    n, p, q = draw(st.integers(2, 25)), draw(st.integers(1, 10)), draw(st.integers(1, 6))
    a, b = rng.standard_normal((n, p)), rng.standard_normal((n, q))
    kind = draw(st.sampled_from(["plain", "duplicate", "constant", "zero rows", "float16"]))
    if kind == "duplicate":
        a[:, -1] = a[:, 0]
    elif kind == "constant":
        a[:, 0] = 2.5
    elif kind == "zero rows":
        a[: n // 2] = 0
    elif kind == "float16":
        a, b = a.astype(np.float16).astype(float), b.astype(np.float16).astype(float)
    return a, b


@given(problems(), st.sampled_from(ALPHAS.tolist()))
def test_ridge_solves_the_normal_equations(rows, alpha):
    a, b = rows
    coef = solve_ridge(a.T @ a, a.T @ b, alpha)
    system = a.T @ a + alpha * np.eye(a.shape[1])
    # At condition 1e5 both solvers are off by their own rounding.
    assert_close(coef, scipy.linalg.solve(system, a.T @ b, assume_a="sym"), times=100)
    # Optimality: the gradient vanishes, relative to its own terms.
    gradient = a.T @ (a @ coef - b) + alpha * coef
    assert np.abs(gradient).max() <= 1e-10 * (1 + np.abs(a.T @ b).max())
    assert_close(solve_ridge_dual(a, b, alpha), coef, times=100)


@given(problems())
def test_the_path_is_each_solution(rows):
    a, b = rows
    by_columns, by_rows = Spectrum.of(a.T @ a, a.T @ b), Spectrum.of_rows(a, b)
    found = [solve_ridge(a.T @ a, a.T @ b, float(alpha)) for alpha in ALPHAS]
    for coef, alpha in zip(found, ALPHAS, strict=True):
        assert_close(by_columns.fit(float(alpha)), coef, times=100)
        assert_close(by_rows.fit(float(alpha)), coef, times=100)
    shares = dict(zip(ALPHAS.tolist(), [0.1, 0.0, 0.6, 0.3], strict=True))
    mean = sum(share * coef for share, coef in zip(shares.values(), found, strict=True))
    assert_close(by_rows.mean({**shares, np.inf: 0.7}), mean, times=100)


def test_relative_penalty_is_the_mean_squared_column(rng):
    a = rng.standard_normal((20, 4))
    expected = 0.3 * np.mean(np.sum(a**2, axis=0))
    assert relative_penalty(a.T @ a, 0.3) == pytest.approx(expected, rel=1e-12)


def test_singular_without_penalty_says_its_rank(rng):
    a = rng.standard_normal((3, 5))
    with pytest.raises(SingularMomentsError, match=r"5 columns, rank 3\. Use a penalty above"):
        solve_ridge(a.T @ a, a.T @ a, 0.0)


def test_a_rotation_is_0_where_the_data_leave_it_open(rng):
    full = rng.standard_normal((5, 5))
    assert truncation_gap(polar_factor(full)[1], 5) > 1e-3
    deficient = full[:, :3] @ rng.standard_normal((3, 5))
    rotation, values = polar_factor(deficient)
    assert truncation_gap(values, 5) < 1e-14
    assert truncation_gap(np.zeros(3), 3) == 0
    assert not polar_factor(np.zeros((3, 2)))[0].any()
    # The partial isometry of the polar decomposition, C (C'C)^(-1/2) by a pseudoinverse.
    root = scipy.linalg.sqrtm(np.linalg.pinv(deficient.T @ deficient, rcond=1e-10)).real
    # The square root of a singular matrix is good to half the digits.
    assert_close(rotation, deficient @ root, "float32")
    assert_close(rotation @ rotation.T @ rotation, rotation)
    # As good as any rotation, and none of them is smaller.
    assert np.trace(rotation.T @ deficient) == pytest.approx(values.sum(), rel=1e-12)
    assert np.linalg.norm(rotation) == pytest.approx(np.sqrt(3), rel=1e-12)


def test_a_wrong_shape_is_refused_by_the_annotations():
    for call in (lambda: solve_ridge(np.eye(3), np.ones((4, 2)), 1.0),
                 lambda: solve_ridge_dual(np.ones((3, 2)), np.ones((4, 2)), 1.0)):  # fmt: skip
        with pytest.raises(jaxtyping.TypeCheckError):
            call()
