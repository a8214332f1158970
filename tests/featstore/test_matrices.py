"""Rows of any library at every door: the same numbers, and errors that name the argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.stats import ttest_rel

import headstock as hs
from featstore.matrices import matrix

RNG = np.random.default_rng(0)
X, Y = (RNG.standard_normal((20, d)).astype(np.float32) for d in (5, 3))


def _mapped(rows: np.ndarray) -> np.ndarray:
    np.save(f"{rows.shape[1]}.npy", rows)
    return np.load(f"{rows.shape[1]}.npy", mmap_mode="r")


LIBRARIES: dict[str, Callable[[np.ndarray], Any]] = {
    "tensor with gradients": lambda rows: torch.tensor(rows, requires_grad=True),
    "memory map": _mapped,
    "view": lambda rows: hs.write(f"store{rows.shape[1]}", rows, dataset="a"),
    "table of polars": lambda rows: pl.DataFrame(rows, schema=list("abcdefgh")[: rows.shape[1]]),
    "table with a column": lambda rows: pl.DataFrame({"id": range(20), "vectors": rows}),
    "pandas": lambda rows: pd.DataFrame(rows, columns=list("abcdefgh")[: rows.shape[1]]),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_door_takes_rows_of_every_library(library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = LIBRARIES[library]
    expected = hs.fit("ridge", X, Y, penalty=0.1)
    ours = hs.fit("ridge", made(X), made(Y), penalty=0.1)
    np.testing.assert_array_equal(ours.project_x(made(X)), expected.project_x(X))
    np.testing.assert_array_equal(ours.project_y(made(Y)), expected.project_y(Y))
    as_estimator = hs.Alignment(penalty=0.1).fit(made(X), made(Y))
    np.testing.assert_array_equal(as_estimator.transform(made(X)), expected.project_x(X))
    assert as_estimator.score(made(X), made(Y)) == expected.score(X, Y)
    assert hs.fit("ridge", prototypes=(made(X), made(Y)), penalty=0.1).facts["n_prototypes"] == 20
    view = hs.write("store", X, dataset="a")  # in the space of the view
    np.testing.assert_array_equal(view.nearest(made(X), 1).rows[:, 0], np.arange(20))


@pytest.mark.parametrize(("rows", "dtype"), [
    (np.eye(2, dtype=np.int8), "float32"), (np.eye(2), "float64"),
    (torch.eye(2, dtype=torch.bfloat16), "float32"), (np.eye(2, dtype=np.float16), "float32"),
])  # fmt: skip
def test_numbers_become_floats_and_floats_stay(rows, dtype):
    found = matrix(rows)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.eye(2))


@pytest.mark.parametrize(("arguments", "said"), [
    ((X.astype(object), Y), "^x must be a matrix of numbers.*object"),
    ((X, np.ma.masked_less(Y, 0)), "^y must have no masked values; got [0-9]+. Fill them"),
    ((X, Y[0]), r"^y must be a matrix.*shape \(3,\)"),
    ((X, [[1.0], [1.0, 2.0]]), "^y: [12] of 2 vectors"),
    ((X, Y[:9]), "x has 20 rows and y has 9"),
])  # fmt: skip
def test_what_is_no_matrix_is_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        hs.fit("ridge", *arguments)
    with pytest.raises(ValueError, match="groups has 19 values for 20 rows"):
        hs.fit("ridge", X, Y, groups=range(19))


def test_columns_of_an_alignment_have_names():
    made = hs.Alignment(penalty=0.1).set_output(transform="polars").fit(X, Y)
    assert made.transform(X).columns == [f"alignment{n}" for n in range(5)]


def test_a_seed_shuffles_and_columns_stand_behind_rows(tmp_path):
    view = hs.write(tmp_path, X, dataset="a", items={"class_id": np.arange(20) % 3})
    one, two = (np.concatenate(list(view.batches(6, shuffle=7))) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(np.sort(one[:, 0]), np.sort(X[:, 0]))
    row, name = view.torch_dataset(columns=["class_id"])[4]
    assert (row.tolist(), name) == (X[4].tolist(), "1")
    with pytest.raises(KeyError, match="class_id"):
        view.torch_dataset(columns=["clas_id"])
    assert view.torch(torch.float64, device="meta").device.type == "meta"


def test_a_difference_is_that_of_a_t_test():
    found, theirs = hs.compare(X[:, 0], X[:, 1]), ttest_rel(X[:, 0], X[:, 1])
    assert found.p_value() == pytest.approx(theirs.pvalue)
    with pytest.raises(ValueError, match="b has 9 values for 20 of a"):
        hs.compare(X[:, 0], X[:9, 0])
