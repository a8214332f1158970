"""Where stamps come from, in which order; apt and dpkg are small scripts but in one test."""

import gzip
import hashlib
import stat
import sys

import pytest

from data_manifests import cache_folder, stamps
from data_manifests.plan import BuildError
from data_manifests.registry import BUILDERS
from data_manifests.stamps import (
    INSIDE,
    find_source,
    item_tables,
    package_version,
    read_stamp,
    select_stamps,
    unpack,
)
from tests.data_manifests.conftest import SELECTED, write_tree

DEB = "tuxpaint-stamps-default_2025.03.31-1_all.deb"

#: Of the sorted paths of 2025.03.31-1, selected by independent code (a glob and one pattern).
PATHS_SHA256 = "ae566d7bcf641d7485820f0e4bc5742f055c95c9e8a0823bb574e7da2fd559d0"


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


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Keep packages in a folder of the test, and look for installed ones where there are none."""
    monkeypatch.setenv("HEADSTOCK_CACHE", str(tmp_path))
    monkeypatch.setattr(stamps, "SYSTEM", tmp_path / "bare")


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Return a function that puts a shell script on an otherwise empty PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def add(name, script):
        file = folder / name
        file.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    return add


@pytest.fixture
def package(tmp_path, commands):
    """Return a file system with the stamps and a .deb that the dpkg-deb on PATH unpacks to it."""
    system = tmp_path / "system"
    write_tree(system / INSIDE)
    doc = system / "usr/share/doc/tuxpaint-stamps-default"
    doc.mkdir(parents=True)
    with gzip.open(doc / "changelog.Debian.gz", "wt", encoding="utf-8") as file:
        file.write("tuxpaint-stamps (2099.01.02-3) unstable; urgency=medium\n")
    deb = tmp_path / "downloads" / DEB
    deb.parent.mkdir()
    deb.write_bytes(b"a package")
    commands("dpkg-deb", f'[ "$1" = -x ] || exit 9\ncp -r {system} "$3"')
    return system, deb


def test_a_folder_given_is_taken_whatever_else_there_is(package, tmp_path, monkeypatch):
    system, _ = package
    monkeypatch.setattr(stamps, "SYSTEM", system)
    for folder in (system, system / "usr", system / "usr/share", system / INSIDE):
        source = find_source(folder)
        assert source == (system / INSIDE).resolve()
        assert package_version(source) == "2099.01.02-3"
    assert not (tmp_path / "stamps").exists()


def test_a_deb_is_unpacked_once_into_the_cache(package, tmp_path, commands):
    _, deb = package
    cache = tmp_path / "stamps"
    for given in (deb.parent, deb):
        source = find_source(given)
        assert [stamp.path for stamp in select_stamps(source)] == SELECTED
        # A second look must not need dpkg-deb.
        commands("dpkg-deb", "exit 1")
    assert [path.name for path in cache.iterdir()] == [f"{DEB[:-4]}-{deb.stat().st_size}"]


def test_apt_is_called_with_a_state_of_its_own(package, tmp_path, commands):
    _, deb = package
    log = tmp_path / "log"
    commands(
        "apt-get",
        f'echo "$@" >> {log}\n'
        "for last; do :; done\n"
        f'case "$last" in update) ;; tuxpaint-stamps-default) cp {deb} . ;; *) exit 5 ;; esac',
    )
    source = find_source()
    assert package_version(source) == "2099.01.02-3"
    update, download = log.read_text().splitlines()
    assert update.endswith(" update")
    assert download.endswith(" download tuxpaint-stamps-default")
    for line in (update, download):
        for option in ("Dir::State=", "Dir::State::status=", "Dir::Cache="):
            assert f"-o {option}{tmp_path / 'stamps'}" in line
        assert "-o APT::Sandbox::User= " in line
    assert find_source() == source
    assert len(log.read_text().splitlines()) == 2  # the second time it was in the cache
    assert len(list((tmp_path / "stamps").iterdir())) == 1


@pytest.mark.parametrize(
    ("apt", "dpkg", "match"),
    [
        (None, "exit 0", "need apt-get, and it is not here. .*-s files="),
        ("echo noise; echo 'E: Unable to locate package' >&2; exit 100", "exit 0",
         "apt-get failed with status 100: E: Unable to locate package. .*-s files="),
        ("exit 7", "exit 0", "apt-get failed with status 7: it said nothing"),
        ("exit 0", "exit 0", "left 0 packages instead of one"),
    ],
)  # fmt: skip
def test_a_failing_apt_leaves_nothing_and_says_its_last_words(tmp_path, commands, apt, dpkg, match):
    for name, script in (("apt-get", apt), ("dpkg-deb", dpkg)):
        if script is not None:
            commands(name, script)
    with pytest.raises(BuildError, match=match):
        find_source()
    assert not [*(tmp_path / "stamps").glob("*")]


def test_another_package_or_a_broken_one_is_refused(tmp_path, commands):
    deb = tmp_path / DEB
    deb.write_bytes(b"x")
    commands("dpkg-deb", 'mkdir -p "$3/usr/share/other"')
    with pytest.raises(BuildError, match="holds no usr/share/tuxpaint/stamps"):
        unpack(deb, tmp_path / "cache")
    commands("dpkg-deb", "echo 'dpkg-deb: error: not a Debian format archive' >&2; exit 2")
    with pytest.raises(BuildError, match="status 2: dpkg-deb: error: not a Debian"):
        unpack(deb, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.slow
@pytest.mark.network
def test_the_real_package_through_the_real_apt(tmp_path):
    """570 images, 517 descriptions: the facts on which every published number rests."""
    source = find_source()
    assert [path.name.startswith(".") for path in (tmp_path / "stamps").iterdir()] == [False]
    own = select_stamps(source)
    facts, texts = BUILDERS["stamps"].facts, {stamp.caption("en") for stamp in own}
    if package_version(source) == facts["revision"]:
        assert {"images": len(own), "descriptions": len(texts)} == facts["expected"]
        paths = "\n".join(sorted(stamp.path for stamp in own))
        assert hashlib.sha256(paths.encode()).hexdigest() == PATHS_SHA256
    tables = item_tables(own, ("en", "fr"))
    assert tables["caption"].height == 2 * tables["image"].height
    assert read_stamp(source / f"{own[0].path}.png").mode == "RGB"
