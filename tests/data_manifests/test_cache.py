"""Where the cache of the user lies."""

import sys

import pytest

from data_manifests import cache_folder
from featstore.errors import CacheFullError
from featstore.remote.cache import user_cache


def test_the_variable_names_the_cache_on_every_system(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("stamps") == tmp_path / "headstock" / "stamps"


@pytest.mark.skipif(sys.platform != "linux", reason="the folder of Linux")
@pytest.mark.parametrize("unusable", ["", "relative/path"])
def test_without_a_usable_variable_it_is_the_folder_of_the_system(unusable, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", unusable)
    assert cache_folder("stamps") == tmp_path / "home" / ".cache" / "headstock" / "stamps"


def test_the_own_variable_goes_before_that_of_the_system(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("HEADSTOCK_CACHE", str(tmp_path))
    assert cache_folder("stamps") == tmp_path / "stamps"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTOCK_CACHE", "here")
    assert cache_folder("") == tmp_path / "here"


def test_the_size_of_the_cache_is_read_as_one_is_typed(monkeypatch):
    monkeypatch.setenv("HEADSTOCK_CACHE_SIZE", "2GiB")
    assert user_cache().limit == 2 * 2**30
    monkeypatch.setenv("HEADSTOCK_CACHE_SIZE", "two")
    with pytest.raises(CacheFullError, match="HEADSTOCK_CACHE_SIZE: 'two' is not a size"):
        user_cache()
