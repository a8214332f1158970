"""Rows, and what is fitted, of shapes that do not fit: an error that names both, never NumPy's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import headstock as hs
from featstore.errors import RowsError
from fitters import Alignment, load
from fitters.errors import PairsError
from tests.shorthand import save_alignment

RNG = np.random.default_rng(5)
X, Y = RNG.standard_normal((40, 8)), RNG.standard_normal((40, 5))


def turned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices, as a method of one's own returns them."""
    return x.T @ y, np.eye(y.shape[1])


FITS: dict[str, Callable[[], Alignment]] = {
    "centred": lambda: hs.fit("ridge", X, Y, penalty=0.1),
    "not centred": lambda: hs.fit("ridge", X, Y, penalty=0.1, centre=False),
    "a function": lambda: hs.fit(turned, X, Y),
    "a function, not centred": lambda: hs.fit(turned, X, Y, centre=False),
    "kernel": lambda: hs.fit("kernel-ridge", X, Y, penalty=0.1, gamma=1.0),
    "by itself": lambda: Alignment.of(*_identities(), _aligner()),
}


def _identities() -> tuple[Any, Any]:
    from fitters.moments.transform import SideTransform

    return SideTransform.identity("images"), SideTransform.identity("texts")


def _aligner() -> Any:
    from fitters.aligners.base import matrix_aligner

    return matrix_aligner(turned)().fit(X, Y)


pytestmark = pytest.mark.usefixtures("no_plugins")

SHAPES: list[tuple[int, ...]] = [
    (), (8,), (5,), (3, 6), (3, 9), (3, 1), (2, 3, 8), (2, 3, 5), (8, 40),
]  # fmt: skip


@pytest.mark.parametrize("made", FITS)
def test_rows_of_another_shape_are_refused_with_both_shapes(made):
    alignment = FITS[made]()
    for shape in SHAPES:
        for project, columns in ((alignment.project_x, "8"), (alignment.project_y, "5")):
            with pytest.raises((PairsError, RowsError)) as caught:
                project(np.ones(shape))
            said = str(caught.value)
            if len(shape) == 2:
                assert (f"{columns} columns" in said, str(shape) in said) == (True, True), said
            else:
                assert f"of shape {shape}" in said
    assert alignment.project_x(np.ones((3, 8))).shape[0] == 3
    assert alignment.project_y(np.ones((1, 5)).tolist()).shape[0] == 1


@pytest.mark.parametrize(
    "nothing", [None, "images", [["a"] * 8], [[None] * 8], [[1j] * 8]], ids=str
)
def test_what_is_no_matrix_is_refused(nothing):
    for made in FITS.values():
        with pytest.raises(RowsError):
            made().project_x(nothing)


def test_pairs_that_are_none_are_not_scored():
    with pytest.raises(PairsError, match=r"40 images.*30 texts"):
        FITS["centred"]().score(X, Y[:30])


class Pooled:
    """Fits nothing, and loses the rows."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> Pooled:
        return self

    def project_x(self, x: np.ndarray) -> np.ndarray:
        return x[:1]

    project_y = project_x


def test_what_an_aligner_returns_has_a_row_for_each():
    with pytest.raises(PairsError, match=r"Pooled.project_x.*\(40, 8\).*\(1, 8\)"):
        hs.fit(Pooled, X, Y).project_x(X)


def test_a_saved_alignment_with_a_matrix_of_another_shape(tmp_path, no_plugins):
    """Whole by its digest, and read by a method that declares no shapes."""
    folder = save_alignment(tmp_path / "made", FITS["a function, not centred"]())
    arrays = safetensors.numpy.load((folder / "arrays.safetensors").read_bytes())
    arrays["a_"] = np.ones((7, 5))
    data = safetensors.numpy.save(arrays)
    (folder / "arrays.safetensors").write_bytes(data)
    record = json.loads((folder / "alignment.json").read_text())
    record["arrays"]["a_"], record["sha256"] = [7, 5], hashlib.sha256(data).hexdigest()
    (folder / "alignment.json").write_text(json.dumps(record))
    read = load(folder)
    with pytest.raises(PairsError, match=r"7 columns.*\(40, 8\)"):
        read.project_x(X)
