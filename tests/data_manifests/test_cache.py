"""Where the cache of the user lies."""

import sys

import pytest

from data_manifests import cache_folder


@pytest.mark.skipif(sys.platform != "linux", reason="the folder of Linux")
@pytest.mark.parametrize(
    ("own", "system", "found"),
    [("", "/x", "/x/headstock/stamps"), ("", "", "home/.cache/headstock/stamps"),
     ("", "relative/path", "home/.cache/headstock/stamps"), ("/own", "/x", "/own/stamps"),
     ("here", "", "here/stamps")],
)  # fmt: skip
def test_the_folder_of_the_cache(own, system, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADSTOCK_CACHE", own)
    monkeypatch.setenv("XDG_CACHE_HOME", system)
    assert cache_folder("stamps") == tmp_path / found
