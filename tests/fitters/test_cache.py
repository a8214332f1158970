"""The cache of moments: bit-exact, keyed by everything that decides, harmless when damaged."""

import os
from dataclasses import fields

import numpy as np
import pytest

from featstore import open_store
from fitters import METHODS, Pairs, fit
from fitters.jobs import HeadTexts, fit_from_store
from fitters.moments import cache
from fitters.moments.cache import entry_path, read_entry, write_entry
from fitters.moments.moments import Moments
from fitters.moments.transform import SideTransform
from fitters.saved import fitted_arrays
from fitters.settings import FitRequest
from tests.assertions import assert_close, assert_same
from tests.fitters.toy_store import HEAD, NAMES, X, Y


def entries():
    return sorted(entry_path({}).parent.glob("*"))


FACTS = {"x": {"set": "d/image/a", "fingerprint": "1"}, "y": {"set": "d/caption/b"}, "n": 3}


@pytest.fixture
def moments(rng):
    return Moments.from_rows(rng.standard_normal((9, 4)) + 1e3, rng.standard_normal((9, 3)))


def test_what_is_read_is_what_was_written_to_the_bit(moments, rng):
    mean = rng.standard_normal(4)
    path = write_entry(FACTS, {"fold 0": moments, "fold 1": moments.scaled(2)}, {"mean": mean})
    assert path == entry_path(FACTS)
    parts, vectors = read_entry(FACTS)
    for field in fields(Moments):
        assert_same(getattr(parts["fold 0"], field.name), getattr(moments, field.name))
    assert parts["fold 1"].weight == 18
    assert_same(vectors["mean"], mean)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_a_damaged_entry_counts_as_missing(moments, damage):
    path = write_entry(FACTS, {"all": moments}, {})
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[-3] ^= 1
        path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-8]), "empty": b""}[damage])
    assert read_entry(FACTS) is None


def test_those_used_longest_ago_make_room(moments, monkeypatch):
    paths = [write_entry({"n": n}, {"all": moments}, {}) for n in range(4)]
    for age, path in enumerate(paths):
        os.utime(path, (1e9 - 1e6 * age,) * 2)
    assert read_entry({"n": 3}) is not None  # used now
    monkeypatch.setattr(cache, "MOST_BYTES", 3 * paths[0].stat().st_size)
    last = write_entry({"n": 4}, {"all": moments}, {})
    assert {path for path in (*paths, last) if path.exists()} == {paths[0], paths[3], last}
    monkeypatch.setattr(cache, "MOST_BYTES", 0)
    assert write_entry({"n": 5}, {"all": moments}, {}).exists()
    assert not last.exists()


def request_of(**changes):
    return FitRequest(
        **{"method": "ridge", "x": X, "y": Y, "head": HEAD, "names": NAMES, "penalty": 0.3,
           "mix": 1.0, **changes}
    )  # fmt: skip


def fields_of(alignment):
    return fitted_arrays(alignment.aligner)


@pytest.mark.parametrize("method", ["ridge", "procrustes", "cca", "mean-shift"])
@pytest.mark.parametrize("head", [True, False])
def test_a_fit_from_moments_is_the_fit_from_rows(store_path, method, head):
    sets = {} if head else {"head": None, "names": None}
    given = {"penalty": 0.3, "mix": 1.0, "n_components": None}
    given = {name: value for name, value in given.items() if name in METHODS[method].options}
    unset = {"penalty": "auto", "mix": "auto"}
    request = request_of(method=method, moments="float64", **sets, **(unset | given))
    store = open_store(store_path)
    alignment = fit_from_store(store, request)
    assert alignment.facts["moments"] == {"precision": "float64"}
    pool = store.view(X).where(split="train")
    pairs = pool.pair_by("parent_id", store.view(Y))
    prototypes = None
    if head:
        asked = (request.variants, request.templates)
        prototypes = HeadTexts.of(store.view(HEAD), store.view(NAMES), asked=asked).pairs
    expected = fit(
        method,
        prototypes=prototypes,
        real=Pairs(*pairs.numpy(), pairs.x.items["class_id"].to_numpy().astype(str), pairs.weight),
        image_mean=SideTransform.fit([pool.numpy()]).mean,
        rng=np.random.default_rng(0),
        **given,
    )
    for name, array in fields_of(expected).items():
        assert_close(fields_of(alignment)[name] + 1, array + 1)
    assert_close(alignment.y.mean, expected.y.mean)


def test_the_second_aligner_on_the_same_data_reads_no_pair(store_path, monkeypatch):
    store = open_store(store_path)
    first = fit_from_store(store, request_of())
    monkeypatch.setattr(
        "featstore.store.pairs.PairedView.batches",
        lambda *_, **__: pytest.fail("the pairs were read again"),
    )
    chosen = {"criterion": "error", "mix": "auto", "penalty": "auto"}
    for changes in ({"penalty": 2.0}, {"method": "procrustes", "penalty": "auto"}, chosen):
        fit_from_store(store, request_of(**changes))
    same = fit_from_store(store, request_of())
    for name, array in fields_of(first).items():
        assert_same(fields_of(same)[name], array)


@pytest.mark.parametrize(
    "changes",
    [{"n_pairs": 20}, {"seed": 1}, {"moments": "float64"}, {"variants": ("lemmas",)},
     {"source": "shuffled"}, {"split": "test"},
     {"head": None, "names": None}],
)  # fmt: skip
def test_what_decides_the_moments_is_in_their_key(store_path, changes):
    store = open_store(store_path)
    fit_from_store(store, request_of())
    (first,) = entries()
    fit_from_store(store, request_of(**changes))
    assert len(entries()) == 2
    assert first in entries()


def test_a_cache_that_cannot_be_written_costs_nothing_else(store_path, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    fit_from_store(open_store(store_path), request_of())
    assert entries() == []
