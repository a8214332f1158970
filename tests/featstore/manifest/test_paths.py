"""Paths of a manifest: what is allowed stays below its root."""

import ntpath
import posixpath
from functools import partial

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore import read_manifest, write_manifest
from featstore.errors import ManifestError
from featstore.manifest_files import check_paths, path_fault, resolve_inside
from featstore.sources.reader import check_bytes
from tests.featstore.manifest.zoo import FACTS, classes, images


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("", "empty"),
        ("..", "climbs"),
        ("a/../../b", "climbs"),
        ("a/..", "climbs"),
        ("/etc/passwd", "absolute"),
        ("//server/share", "UNC"),
        ("\\\\server\\share", "UNC"),
        ("C:/windows", "drive"),
        ("c:x.png", "drive"),
        ("a\\b.png", "backslash"),
        ("a\0.png", "NUL"),
        ("a\nb.png", "control"),
        ("https://example.org/a.png", "URL"),
        ("s3://bucket/a.png", "URL"),
    ],
)
def test_paths_that_are_refused_unseen(tmp_path, uri, why):
    assert why in (path_fault(uri) or "")
    with pytest.raises(ManifestError, match=why):
        resolve_inside(tmp_path, uri)


@given(st.text(st.sampled_from("ab./\\:~ \0é-C"), max_size=12))
def test_a_path_that_is_allowed_stays_below_any_root(uri):
    """Independent check: the lexical join of POSIX and of Windows, normalised."""
    if path_fault(uri) is None:
        assert posixpath.normpath(posixpath.join("/root/x", uri)).startswith("/root/x")
        assert ntpath.normpath(ntpath.join("D:\\root\\x", uri)).startswith("D:\\root\\x")


@given(st.lists(st.text(st.sampled_from("ab./\\:~ \0é-C\n"), max_size=12), min_size=1))
def test_a_table_has_the_faults_of_its_uris_one_by_one(uris):
    """A million are looked at by their letters; whatever is in doubt then is asked for alone."""
    uris += ["a/b.png", "a.tar::../b", "..tar::b", "a.tar::\x7f"]
    table = pl.DataFrame({"item_id": map(str, range(len(uris))), "uri": uris})
    faulty = [uri for uri in uris if path_fault(uri)]
    with pytest.raises(ManifestError, match=f"^{len(faulty):,} uris of them leave"):
        check_paths(table, "them")


@pytest.mark.parametrize("via", ["file", "folder"])
def test_links_out_of_the_root_are_refused_and_links_inside_are_not(root, tmp_path, via):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "1.png").write_bytes(b"secret")
    if via == "file":
        (root / "images" / "link.png").symlink_to(secret / "1.png")
        bad = "images/link.png"
    else:
        (root / "away").symlink_to(secret)
        bad = "away/1.png"
    (root / "inside.png").symlink_to(root / "images" / "1.png")
    (root / "near").symlink_to(root / "images")
    assert resolve_inside(root, "inside.png").read_bytes() == b"picture images/1.png"
    write = partial(write_manifest, root, facts=FACTS, classes=classes())
    check_bytes(write(tables={"image": images(uri=["inside.png", "near/2.png", "near/1.png"])}))
    with pytest.raises(ManifestError, match=f"{bad}'.*: a symbolic link leads out"):
        write(tables={"image": images(uri=["images/1.png", bad, "images/2.png"])})
    (root / "images" / "2.png").unlink()
    (root / "images" / "2.png").symlink_to(secret / "1.png")
    with pytest.raises(ManifestError, match=r"^1 image items .*zoo/2.*symbolic link leads out"):
        check_bytes(read_manifest(root))


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("images", "it is not a regular file"),
        ("loop.png", "Too many levels of symbolic links"),
        ("images/1.png/x", "Not a directory"),
        ("gone.png", "No such file"),
    ],
)
def test_missing_files_folders_and_loops_are_refused(root, uri, why):
    (root / "loop.png").symlink_to("loop.png")
    table = images()[:1].with_columns(uri=pl.lit(uri))
    with pytest.raises(ManifestError, match=f"{uri}.*: {why}"):
        write_manifest(root, facts=FACTS, tables={"image": table}, classes=classes())
