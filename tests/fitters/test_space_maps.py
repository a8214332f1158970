"""Maps between spaces against scikit-learn and SciPy, and the file that keeps one."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load, save
from scipy.linalg import orthogonal_procrustes
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge

from fitters.adapter import GOLDEN, Adapter, Setting, space_maps
from fitters.errors import AlignmentWriteError, CorruptAlignmentError, PairsError

RNG = np.random.default_rng(0)


def pairs(n=80, p=6, q=9, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p)) + rng.standard_normal(p)
    return x, x @ rng.standard_normal((p, q)) + 0.3 * rng.standard_normal((n, q)) + 2.0


def mean_square(x):
    return float(((x - x.mean(axis=0)) ** 2).sum()) / x.shape[1]


@pytest.mark.parametrize("n", [80, 5])  # more rows than columns, and fewer
def test_ridge_is_that_of_scikit_learn_and_matched_keeps_the_spread_of_the_new_rows(n):
    x, y = pairs(n)
    make = space_maps(x, y, "ridge", RNG)
    theirs, new = Ridge(alpha=0.3 * mean_square(x)).fit(x, y), pairs(7, seed=1)[0]
    made = make(Setting("ridge", 0.3, False))
    np.testing.assert_allclose(made.apply(new), theirs.predict(new), rtol=1e-9, atol=1e-9)
    free, matched = (make(Setting("ridge", 3.0, one)).apply(x) - y.mean(axis=0) for one in (0, 1))
    spread = np.linalg.norm(y - y.mean(axis=0))
    assert np.linalg.norm(free) < 0.9 * spread
    np.testing.assert_allclose(np.linalg.norm(matched), spread)
    np.testing.assert_allclose(matched, free * spread / np.linalg.norm(free))


def test_a_diagonal_map_is_one_regression_a_column():
    x, _ = pairs()
    y = x * np.arange(1, 7) + np.random.default_rng(1).standard_normal(x.shape)
    made = space_maps(x, y, "diagonal", RNG)(Setting("diagonal", 1e-12, False))
    for column in range(6):
        slope, intercept = np.polyfit(x[:, column], y[:, column], 1)
        np.testing.assert_allclose(made.weight[column, column], slope, rtol=1e-6)
        np.testing.assert_allclose(made.bias[column], intercept, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("n", [80, 5])  # decomposed as it is, and by the factors of few rows
def test_a_rotation_is_procrustes_and_then_ridge_on_what_it_leaves(n):
    x, _ = pairs(n)
    y = x @ np.linalg.qr(np.random.default_rng(2).standard_normal((6, 6)))[0] * 2
    y += np.random.default_rng(3).standard_normal(y.shape)
    made = space_maps(x, y, "rotation", RNG)(Setting("rotation", 0.3, False))
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    turn, scale = orthogonal_procrustes(a, b)
    turned = a @ turn * (scale / (a**2).sum())
    rest = Ridge(alpha=0.3 * mean_square(x), fit_intercept=False).fit(a, b - turned)
    expected = turned + rest.predict(a) + y.mean(axis=0)
    np.testing.assert_allclose(made.apply(x), expected, rtol=1e-8, atol=1e-8)


def test_a_kernel_map_with_every_row_a_landmark_is_kernel_ridge():
    x, y = pairs()
    made = space_maps(x, y, "kernel", RNG)(Setting("kernel", 0.1, False))
    gamma = float(made.gamma[0])
    np.testing.assert_allclose(gamma, 1 / (2 * ((x - x.mean(axis=0)) ** 2).sum() / len(x)))
    # Kernel ridge with a free intercept is kernel ridge with a centred kernel.
    kernel = np.exp(-gamma * ((x[:, None] - x[None]) ** 2).sum(axis=2))
    centre = np.eye(len(x)) - 1 / len(x)
    centred = centre @ kernel @ centre
    # The penalty is in units of the mean squared feature.
    alpha = 0.1 * np.trace(centred) / len(x)
    theirs = KernelRidge(alpha=alpha, kernel="precomputed").fit(centred, y - y.mean(axis=0))
    expected = theirs.predict(centred) + y.mean(axis=0)
    np.testing.assert_allclose(made.apply(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.ones((1, 3)), np.ones((1, 2)), "got 1 and 1 rows"),
        (np.ones((4, 3)), np.ones((5, 2)), "got 4 and 5 rows"),
        (np.eye(4), np.ones((4, 3)), "All 4 rows of one side are the same"),
    ],
)
def test_pairs_that_map_nothing_are_refused(x, y, words):
    for a, b in ((x, y), (y, x)):
        with pytest.raises(PairsError, match=words if a is x else "rows"):
            space_maps(a, b, "ridge", RNG)


def adapter(kind="ridge", unit=True):
    x, y = pairs()
    made = space_maps(x, y, kind, RNG)(Setting(kind, 0.1))
    return Adapter(made.astype(np.float32), unit, x[:GOLDEN].astype(np.float32), {"pairs": len(x)})


@pytest.mark.parametrize(("kind", "unit"), [("ridge", True), ("kernel", False)])
def test_an_adapter_is_read_as_it_was_saved_and_numpy_alone_applies_it(tmp_path, kind, unit):
    own, path = adapter(kind, unit), tmp_path / "a.safetensors"
    own.save(path)
    first = path.read_bytes()
    own.save(path)
    assert path.read_bytes() == first
    read = Adapter.read(path)
    assert (read.unit, read.facts, read.widths) == (unit, {"pairs": 80}, (6, 9))
    rows = pairs(9000, seed=5)[0]
    mapped = read.apply(rows)
    np.testing.assert_array_equal(mapped, own.apply(rows))
    whole = own.map.apply(rows.astype(np.float32))
    if unit:
        whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    np.testing.assert_allclose(mapped, whole, rtol=1e-4, atol=1e-5)  # in blocks, as at once
    np.save(tmp_path / "old.npy", rows[:50].astype(np.float32))
    old, new, lines = f"'{tmp_path}/old.npy'", f"'{tmp_path}/new.npy'", own.lines(path)
    assert len(lines.splitlines()) <= 11
    script = (
        f"import sys; sys.modules['safetensors'] = None; import numpy as np; old = np.load({old})"
    )
    script = f"{script}\n{lines}\nnp.save({new}, new)"
    subprocess.run([sys.executable, "-I", "-c", script], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "new.npy"), mapped[:50], rtol=1e-3, atol=1e-4)


def test_a_vector_and_an_array_to_write_into_are_taken():
    own, out = adapter(), np.empty((3, 9), np.float32)
    rows = pairs(3)[0]
    assert own.apply(rows, out) is out
    np.testing.assert_allclose(own.apply(rows[0])[0], out[0], rtol=1e-6)
    with pytest.raises(PairsError, match="maps rows of 6 columns to 9; got 5"):
        own.apply(rows[:, :5])


def _changed(data, change):
    """Return the file with its arrays, or its facts, changed and everything else sound."""
    arrays = load(data)
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    facts = json.loads(head["__metadata__"]["headstock"])
    change(arrays, facts)
    return save(arrays, {"headstock": json.dumps(facts)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, f: a["weight"].__setitem__((0, 0), a["weight"][0, 0] + 1), "golden rows"),
        (lambda a, f: a["weight"].__setitem__((0, 0), np.nan), "no adapter"),
        (lambda a, f: a.pop("bias"), "no adapter"),
        (lambda a, f: a.update(more=a["bias"]), "no adapter"),
        (lambda a, f: a.update(bias=a["bias"][:-1].copy()), "no adapter"),
        (lambda a, f: a.update(bias=a["bias"].astype(np.float64)), "no adapter"),
        (lambda a, f: a.pop("golden_old"), "no adapter"),
        (lambda a, f: f.update(format=2), "no adapter"),
        (lambda a, f: f.pop("unit"), "no adapter"),
        (lambda a, f: f.update(unit=False), "golden rows"),
    ],
)
def test_what_was_changed_is_refused(tmp_path, change, words):
    path = adapter().save(tmp_path / "a.safetensors")
    path.chmod(0o644)
    path.write_bytes(_changed(path.read_bytes(), change))
    with pytest.raises(CorruptAlignmentError, match=words):
        Adapter.read(path)


@pytest.mark.parametrize("data", [b"", b"\xff" * 64, b"\x10" + b"\0" * 7 + b"{}", b"PK\3\4"])
def test_other_files_are_no_adapters(tmp_path, data):
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(CorruptAlignmentError, match=r"a\.safetensors is no adapter"):
        Adapter.read(path)
    with pytest.raises(AlignmentWriteError, match="cannot be written"):
        adapter().save(tmp_path / "a.safetensors" / "b")
    with pytest.raises(FileNotFoundError):
        Adapter.read(tmp_path / "none")
