"""Manifests on disk: writing, reading, bad folders. Hashes are checked against hashlib."""

import hashlib
import tomllib

import polars as pl
import pytest

from featstore import read_manifest, write_manifest
from featstore.errors import ManifestError
from featstore.sources.reader import check_bytes
from tests.damage import flip, tree
from tests.featstore.manifest.zoo import FACTS, captions, classes, images

#: Columns of every item table, and of a label set.
COLUMNS = """item_id kind uri text parent_id class_id variant template_id split
             content_sha256""".split()  # noqa: SIM905
CLASS_COLUMNS = "class_id index synset lemmas definition name shared_name".split()  # noqa: SIM905


def test_what_is_written_is_read_back(root, written):
    again = read_manifest(root)
    check_bytes(again)
    assert (again.name, again.facts, again.root) == (written.name, written.facts, root)
    assert list(again.tables) == ["image", "caption"]
    for kind, table in again.tables.items():
        assert table.equals(written.tables[kind], null_equal=True)
        assert table.schema == written.tables[kind].schema
    assert again.classes.equals(written.classes, null_equal=True)
    assert again.classes.columns == CLASS_COLUMNS
    assert again.items("image").columns == COLUMNS


def test_content_hashes_are_sha256_of_files_and_of_utf8(root, written):
    expected = [hashlib.sha256((root / uri).read_bytes()).hexdigest() for uri in images()["uri"]]
    assert written.items("image")["content_sha256"].to_list() == expected
    expected = [hashlib.sha256(text.encode()).hexdigest() for text in captions()["text"]]
    assert written.items("caption")["content_sha256"].to_list() == expected


def test_facts_hold_counts_and_digests_of_tables(root, written):
    facts = tomllib.loads((root / "dataset.toml").read_text(encoding="utf-8"))
    assert facts["revision"] == "1"
    assert facts["counts"]["image"] == {"train": 1, "test": 1, "unsplit": 1, "total": 3}
    for stem, entry in facts["tables"].items():
        data = (root / f"{stem}.parquet").read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["rows"] == pl.read_parquet(root / f"{stem}.parquet").height


def test_extra_columns_are_kept_behind_the_known_ones(root):
    table = images(photographer=["a", None, "b"], pixels=[1, 2, 3])
    write_manifest(root, facts=FACTS, tables={"image": table}, classes=classes())
    read = read_manifest(root).items("image")
    assert read.columns == [*COLUMNS, "photographer", "pixels"]
    assert read["photographer"].to_list() == ["a", None, "b"]
    assert read.schema["pixels"] == pl.Int64


@pytest.mark.parametrize(
    ("facts", "tables", "labels"),
    [
        (FACTS, {"image": images(item_id=["a", "a", "b"])}, classes()),
        (FACTS, {"image": images(uri=["images/1.png", "images/2.png", "gone.png"])}, classes()),
        (FACTS, {"image": images()}, classes(index=[0, 2])),
        (FACTS | {"bad": None}, {"image": images()}, classes()),
        (FACTS | {"name": "../zoo"}, {"image": images()}, classes()),
    ],
    ids=["items", "files", "classes", "facts", "name"],
)
def test_nothing_is_written_unless_everything_is_valid(root, facts, tables, labels):
    before = tree(root)
    with pytest.raises(ManifestError):
        write_manifest(root, facts=facts, tables=tables, classes=labels)
    assert tree(root) == before


@pytest.mark.parametrize("stem", ["image", "caption", "classes"])
def test_a_flipped_byte_of_a_table_is_found(root, written, stem):
    path = root / f"{stem}.parquet"
    flip(path, path.stat().st_size // 2)
    with pytest.raises(ManifestError, match=f"{stem}.parquet differs.*Build the dataset again"):
        read_manifest(root)


def test_a_manifest_made_by_hand_needs_a_name_and_tables(root):
    (root / "dataset.toml").write_text('name = "zoo"\n')
    images().write_parquet(root / "image.parquet")
    classes().write_parquet(root / "classes.parquet")
    manifest = read_manifest(root)
    check_bytes(manifest)
    assert manifest.items("image")["kind"].to_list() == ["image"] * 3
    assert manifest.items("image")["content_sha256"].null_count() == 3
    with pytest.raises(ManifestError, match=r"No kind named 'images'.*Did you mean 'image'"):
        manifest.items("images")


BAD = {
    "no-facts": ({}, r"has no dataset.toml.*headstock data build"),
    "no-toml": ({"dataset.toml": b"name = zoo"}, "is not TOML: .*Correct it"),
    "no-utf8": ({"dataset.toml": b"name = '\xff'"}, "is not TOML: .*Correct it"),
    "deep": ({"dataset.toml": b"a=" + b"[" * 9999}, "is not TOML"),
    "huge": ({"dataset.toml": b" " * 5_000_000}, "at most 4,194,304 are read"),
    "no-name": ({"dataset.toml": b""}, "name is None. It must be 1 to 64"),
    "name-is-path": ({"dataset.toml": b"name = 'a/b'"}, "name is 'a/b'"),
    "no-parquet": ({"dataset.toml": b"name='zoo'", "captions.parquet": b"PAR1"},
     "not a readable Parquet file"),
    "no-digest": ({"dataset.toml": b"name='zoo'\n[tables.image]\nrows=3"}, "Leave the section out"),
    "table-leaves": ({"dataset.toml": b"name='zoo'\n[tables.'../image']\nsha256='a'"},
     "Known names: image, caption"),
    "table-missing": ({"dataset.toml": b"name='zoo'\n[tables.image]\nsha256='a'"},
     "Cannot read .*image.parquet: No such file"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "match"), BAD.values(), ids=BAD)
def test_bad_folders(tmp_path, files, match):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ManifestError, match=match):
        read_manifest(tmp_path)


def test_a_table_behind_a_link_out_of_the_root_is_refused(tmp_path):
    folder = tmp_path / "zoo"
    folder.mkdir()
    (folder / "dataset.toml").write_text('name = "zoo"')
    captions().write_parquet(tmp_path / "elsewhere.parquet")
    (folder / "caption.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(ManifestError, match="symbolic link leads out"):
        read_manifest(folder)
