"""Moments on a real Ray: the same bits as one process, whoever was first, here or from a server."""

import pytest
from threadpoolctl import threadpool_limits

from featstore import open_store
from featstore.parallel import Workers
from fitters import moments
from fitters.errors import SettingError
from fitters.jobs import fit_from_store
from fitters.settings import FitRequest
from tests.damage import tree
from tests.fitters.toy_store import HEAD, NAMES, X, Y
from tests.shorthand import save_alignment


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Cut the 30 training pairs into 5 parts; workers are told the rows, not the rule."""
    monkeypatch.setattr(moments, "PART_ROWS", 7)


def _fit(store, workers=None, **changes):
    request = {"method": "ridge", "x": X, "y": Y, "penalty": 0.3, **changes}
    with threadpool_limits(limits=1):
        return fit_from_store(store, FitRequest(**request), workers=workers)


MIXED = {"head": HEAD, "names": NAMES, "mix": 0.7}


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    "changes",
    [{}, MIXED, {"criterion": "error", "penalty": "auto", "moments": "float64"},
     {"method": "text-to-concept", "y": X, "penalty": "auto"}],
)  # fmt: skip
def test_the_bits_are_those_of_one_process(ray_cluster, store_path, tmp_path, changes):
    store = open_store(store_path)
    local = tree(save_alignment(tmp_path / "local", _fit(store, **changes)))
    for workers in (Workers("ray", jobs=2), Workers(jobs=2)):
        elsewhere = save_alignment(tmp_path / "elsewhere", _fit(store, workers, **changes))
        assert tree(elsewhere) == local


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"penalty": "auto"}, "looks at their rows"), ({**MIXED, "y": None}, "has no real pair")],
)
def test_workers_are_refused_where_they_would_play_no_part(store_path, changes, match):
    for workers in (Workers("ray"), Workers(jobs=2)):
        with pytest.raises(SettingError, match=match):
            _fit(open_store(store_path), workers, **changes)


@pytest.mark.parametrize("n", [1, 7, 8, 30, 7 * 1024 * 4096 + 1])
def test_parts_cover_every_row_once_and_depend_on_the_number_alone(n):
    slices = moments.part_slices(n)
    assert [s.start for s in slices] == [0, *(s.stop for s in slices[:-1])]
    assert slices[-1].stop == n
    assert len(slices) <= moments.MOST_PARTS
    assert len({s.stop - s.start for s in slices[:-1]}) <= 1
