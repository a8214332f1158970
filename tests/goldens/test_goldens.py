"""What this version does is what was pinned; ``python -m tests.goldens.write`` pins it anew.

A refactoring changes none of these files. A change that is meant to shows in their diff.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

from fitters import METHODS, read_alignment
from fitters.feature_maps import FEATURE_MAPS
from tests.goldens import files
from tests.goldens.chosen_settings import chosen_settings
from tests.goldens.result_values import result_values
from tests.goldens.run_ids import run_ids
from tests.goldens.saved_aligners import FOLDER, projections
from tests.goldens.store_bytes import STORES, store_bytes

#: How far a value may be off: another processor adds in another order.
TOLERANCE = 1e-6


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep what fits remember to the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


def differences(pinned: Any, found: Any, where: str = "") -> Iterator[str]:
    """Yield where two documents differ; numbers with a fraction may be off by `TOLERANCE`."""
    if isinstance(pinned, dict) and isinstance(found, dict):
        for key in [*pinned, *(key for key in found if key not in pinned)]:
            if key not in found or key not in pinned:
                yield f"{where}/{key} is {'gone' if key in pinned else 'new'}"
            else:
                yield from differences(pinned[key], found[key], f"{where}/{key}")
    elif isinstance(pinned, list) and isinstance(found, list) and len(pinned) == len(found):
        for place, pair in enumerate(zip(pinned, found, strict=True)):
            yield from differences(*pair, f"{where}/{place}")
    elif isinstance(pinned, float) and isinstance(found, float):
        if found != pytest.approx(pinned, rel=TOLERANCE, abs=TOLERANCE):
            yield f"{where}: {found!r}, pinned {pinned!r}"
    elif pinned != found or type(pinned) is not type(found):
        yield f"{where}: {found!r}, pinned {pinned!r}"


def check(pinned: Any, found: Any) -> None:
    """Fail with every difference between what is pinned and what was found."""
    wrong = list(differences(pinned, found))
    said = "\n".join(wrong[:40])
    assert not wrong, f"{len(wrong)} differences (python -m tests.goldens.write):\n{said}"


@pytest.mark.parametrize("version", [1, 2])
def test_bytes_of_a_store(tmp_path, version):
    pinned = files.read(STORES[version])
    found = store_bytes(tmp_path / "store", version)
    if pinned["polars"] != pl.__version__:
        # Another version packs tables otherwise; everything else must be the same.
        pinned, found = (
            {key: value for key, value in document.items() if key.startswith("without Parquet")}
            for document in (pinned, found)
        )
    assert len(pinned) > 50
    check(pinned, found)


def test_run_ids(tmp_path):
    pinned = files.read("run_ids")
    check(pinned, run_ids(tmp_path))
    ids = [run_id for name, run_id in pinned.items() if name != "protocol version"]
    assert len({tuple(pair) for pair in ids}) == len(ids)


@pytest.mark.slow
def test_chosen_settings(tmp_path):
    """Exactly: a setting is a point of a grid, not a measurement."""
    pinned, skipped = files.read("chosen_settings"), []
    found = chosen_settings(tmp_path / "store", skipped)
    assert skipped == [] or not set(skipped) & set(pinned)
    wrong = {
        name: (pinned.get(name), found.get(name))
        for name in {*pinned, *found}
        if pinned.get(name) != found.get(name)
    }
    assert wrong == {}
    searched = {name for name, method in METHODS.items() if method.tunes}
    assert {name.partition(",")[0] for name in pinned} == searched


@pytest.mark.slow
def test_result_values(tmp_path):
    """Metrics to `TOLERANCE`, ranks exactly, of every method and every task."""
    check(files.read("result_values"), result_values(tmp_path))


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_saved_alignments_still_load_and_project_alike(name):
    check(files.read("saved_aligners")[name], projections(read_alignment(FOLDER / name)))


def test_every_method_and_every_feature_map_has_a_saved_alignment():
    names = {path.name for path in FOLDER.iterdir()}
    assert names == set(files.read("saved_aligners"))
    assert set(METHODS) <= names
    assert {f"ridge-{kind}" for kind in FEATURE_MAPS} <= names
