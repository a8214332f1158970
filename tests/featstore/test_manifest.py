"""Manifests: rules, reading, writing. Content hashes are checked against hashlib and files."""

import errno
import hashlib
import ntpath
import os
import posixpath
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.errors import ManifestError
from featstore.manifest import (
    CLASS_SCHEMA,
    ITEM_SCHEMA,
    Manifest,
    read_manifest,
    validate_classes,
    validate_items,
    write_manifest,
)
from featstore.manifest.paths import path_fault, resolve_inside
from featstore.manifest.schema import conform_items
from featstore.manifest.toml_text import toml_text
from featstore.manifest.write import split_counts

FACTS = {"name": "zoo", "revision": "1", "pitfalls": ["few", "animals"]}


def classes(**changes):
    columns = {
        "class_id": ["zoo/cat", "zoo/dog"],
        "index": [0, 1],
        "name": ["cat", "dog"],
        "shared_name": [False, False],
    }
    return pl.DataFrame(columns | changes)


def images(**changes):
    columns = {
        "item_id": ["zoo/1", "zoo/2", "zoo/3"],
        "uri": ["images/1.png", "images/2.png", "images/deep/3.png"],
        "class_id": ["zoo/cat", "zoo/dog", "zoo/dog"],
        "split": ["train", "test", None],
    }
    return pl.DataFrame(columns | changes)


def captions(**changes):
    columns = {
        "item_id": ["zoo/1#en", "zoo/2#en"],
        "text": ["A cat.", "Zwölf Hunde 犬"],
        "parent_id": ["zoo/1", "zoo/2"],
        "split": ["train", "test"],
    }
    return pl.DataFrame(columns | changes)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "zoo"
    (folder / "images" / "deep").mkdir(parents=True)
    for uri in images()["uri"]:
        (folder / uri).write_bytes(f"picture {uri}".encode())
    return folder


@pytest.fixture
def written(root):
    return write_manifest(
        root, facts=FACTS, tables={"image": images(), "caption": captions()}, classes=classes()
    )


def listing(folder):
    """Every file below a folder, with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ---- writing and reading -------------------------------------------------------------------


def test_what_is_written_is_read_back(root, written):
    again = read_manifest(root, hashes=True)
    assert (again.name, again.facts, again.root) == (written.name, written.facts, root)
    assert list(again.tables) == ["image", "caption"]
    for kind, table in again.tables.items():
        assert table.equals(written.tables[kind], null_equal=True)
        assert table.schema == written.tables[kind].schema
    assert again.classes.equals(written.classes, null_equal=True)
    assert list(again.classes.columns) == list(CLASS_SCHEMA)
    assert list(again.items("image").columns) == list(ITEM_SCHEMA)


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


def test_the_same_rows_give_the_same_bytes(root, written):
    before = listing(root)
    parts = [images()[:1], images()[1:]]
    write_manifest(
        root,
        facts=dict(FACTS),
        tables={"caption": captions(), "image": pl.concat(parts, rechunk=False)},
        classes=classes(),
    )
    assert listing(root) == before


def test_extra_columns_are_kept_behind_the_known_ones(root):
    table = images(photographer=["a", None, "b"], pixels=[1, 2, 3])
    write_manifest(root, facts=FACTS, tables={"image": table}, classes=classes())
    read = read_manifest(root).items("image")
    assert read.columns == [*ITEM_SCHEMA, "photographer", "pixels"]
    assert read["photographer"].to_list() == ["a", None, "b"]
    assert read.schema["pixels"] == pl.Int64


def test_tables_of_an_earlier_manifest_go(root, written):
    write_manifest(root, facts=FACTS, tables={"image": images(class_id=[None] * 3)})
    assert sorted(path.name for path in root.glob("*.parquet")) == ["image.parquet"]
    assert read_manifest(root).classes is None


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
    before = listing(root)
    with pytest.raises(ManifestError):
        write_manifest(root, facts=facts, tables=tables, classes=labels)
    assert listing(root) == before


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_an_interrupted_write_is_seen_and_leaves_no_staged_file(root, monkeypatch, failing):
    """The disk fills up at the n-th of four files: the old manifest is never half-replaced."""
    old = images(class_id=["zoo/dog"] * 3)
    texts = captions(text=["Old.", "Older."])
    write_manifest(root, facts=FACTS, tables={"image": old, "caption": texts}, classes=classes())
    calls, fsync = [], os.fsync

    def full(handle):
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            calls.append(handle)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    arguments = {
        "facts": FACTS,
        "tables": {"image": images(), "caption": captions()},
        "classes": classes(name=["cat", "hound"]),
    }
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ManifestError, match=r"No space left on device.*choose another folder"):
            write_manifest(root, **arguments)
    assert not list(root.glob(".*staged"))
    if failing == 1:
        assert read_manifest(root).items("image")["class_id"].to_list() == ["zoo/dog"] * 3
    else:
        with pytest.raises(ManifestError, match=r"differs from the sha256.*Build .* again"):
            read_manifest(root)
    write_manifest(root, **arguments)
    assert (
        read_manifest(root).items("image")["class_id"].to_list() == images()["class_id"].to_list()
    )


def test_an_unwritable_root_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ManifestError, match=r"Cannot write .*choose another folder"):
        write_manifest(tmp_path / "file" / "zoo", facts=FACTS, tables={"caption": captions()[:0]})


def test_changed_files_are_found_when_hashes_are_asked_for(root, written):
    (root / "images/2.png").write_bytes(b"another picture")
    read_manifest(root)
    with pytest.raises(ManifestError, match=r"1 image items differs.*'zoo/2'.*restore the files"):
        read_manifest(root, hashes=True)


@pytest.mark.parametrize("stem", ["image", "caption", "classes"])
def test_a_flipped_byte_of_a_table_is_found(root, written, stem):
    path = root / f"{stem}.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=f"{stem}.parquet differs.*Build the dataset again"):
        read_manifest(root)


def test_a_manifest_made_by_hand_needs_a_name_and_tables(root):
    (root / "dataset.toml").write_text('name = "zoo"\n')
    images().write_parquet(root / "image.parquet")
    classes().write_parquet(root / "classes.parquet")
    manifest = read_manifest(root, hashes=True)
    assert manifest.items("image")["kind"].to_list() == ["image"] * 3
    assert manifest.items("image")["content_sha256"].null_count() == 3
    assert manifest.file("images/1.png").read_bytes() == b"picture images/1.png"
    with pytest.raises(ManifestError, match=r"no 'images' items.*Did you mean 'image'"):
        manifest.items("images")


@dataclass(frozen=True)
class BadFolder:
    files: dict
    match: str
    id: str


@pytest.mark.parametrize(
    "case",
    [
        BadFolder({}, r"has no dataset.toml.*manifests build", "no-facts"),
        BadFolder({"dataset.toml": b"name = zoo"}, "is not TOML: .*Correct it", "no-toml"),
        BadFolder({"dataset.toml": b"name = '\xff'"}, "is not TOML: .*Correct it", "no-utf8"),
        BadFolder({"dataset.toml": b"a=" + b"[" * 9999}, "is not TOML", "deep"),
        BadFolder({"dataset.toml": b" " * 5_000_000}, "more than 4,194,304 are not read", "huge"),
        BadFolder({"dataset.toml": b""}, "name is None. It must be 1 to 64", "no-name"),
        BadFolder({"dataset.toml": b"name = 'a/b'"}, "name is 'a/b'", "name-is-path"),
        BadFolder(
            {"dataset.toml": b"name='zoo'", "captions.parquet": b"PAR1"},
            "not a readable Parquet file",
            "no-parquet",
        ),
        BadFolder(
            {"dataset.toml": b"name='zoo'\n[tables.image]\nrows=3"},
            "Leave the section out",
            "no-digest",
        ),
        BadFolder(
            {"dataset.toml": b"name='zoo'\n[tables.'../image']\nsha256='a'"},
            "Known names: image, caption",
            "table-leaves",
        ),
        BadFolder(
            {"dataset.toml": b"name='zoo'\n[tables.image]\nsha256='a'"},
            "'image.parquet' cannot be used .*no such file",
            "table-missing",
        ),
    ],
    ids=lambda case: case.id,
)
def test_bad_folders(tmp_path, case):
    for name, data in case.files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ManifestError, match=case.match):
        read_manifest(tmp_path)


def test_a_missing_folder_or_a_file_is_no_manifest(tmp_path):
    with pytest.raises(ManifestError, match=r"does not exist.*manifests build"):
        read_manifest(tmp_path / "gone")
    (tmp_path / "file").write_text("")
    with pytest.raises(ManifestError, match="is not a folder"):
        read_manifest(tmp_path / "file")


def test_a_misspelt_table_made_by_hand_is_named(tmp_path):
    (tmp_path / "dataset.toml").write_text('name = "zoo"')
    captions().write_parquet(tmp_path / "captions.parquet")
    with pytest.raises(ManifestError, match=r"No kind 'captions'.*Did you mean 'caption'"):
        read_manifest(tmp_path)


def test_a_table_behind_a_link_out_of_the_root_is_refused(tmp_path):
    folder = tmp_path / "zoo"
    folder.mkdir()
    (folder / "dataset.toml").write_text('name = "zoo"')
    captions().write_parquet(tmp_path / "elsewhere.parquet")
    (folder / "caption.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(ManifestError, match="symbolic link leads out"):
        read_manifest(folder)


# ---- rules of items ------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    tables: dict
    match: str
    id: str
    labels: pl.DataFrame | None = None


ITEM_RULES = [
    Broken({"picture": images()}, "No kind 'picture'. Known kinds: image, caption", "kind"),
    Broken({"image": images().drop("item_id")}, "no column 'item_id'. It has: uri", "no-id-column"),
    Broken(
        {"image": images(split=[1, 2, 3])},
        r"wrong type: split \(Int64 instead of String\)",
        "wrong-type",
    ),
    Broken({"image": images(item_id=["a", None, ""])}, "2 image items have no item_id", "no-id"),
    Broken(
        {"image": images(item_id=["a", "b\n", "c"])}, r"control character.*'b\\n'", "control-id"
    ),
    Broken({"image": images(item_id=["a", "b", "a"])}, "1 item ids are repeated: 'a'", "duplicate"),
    Broken(
        {"image": images(), "caption": captions(item_id=["zoo/1", "x"])},
        "'zoo/1'. Rows are joined by item_id",
        "duplicate-over-kinds",
    ),
    Broken(
        {"image": images(kind=["image", "caption", "image"])},
        "first: 'caption' of item 'zoo/2'",
        "other-kind",
    ),
    Broken(
        {"image": images(kind=["image", "picture", "image"])},
        "'picture'.*Known kinds",
        "unknown-kind",
    ),
    Broken(
        {"image": images(text=["t", None, None])},
        "1 image items .* needs a uri and no text; item 'zoo/1' has both",
        "both",
    ),
    Broken(
        {"image": images(uri=["images/1.png", None, "images/2.png"])},
        "item 'zoo/2' has neither",
        "neither",
    ),
    Broken(
        {"caption": captions(text=[None, "b"], uri=["a.txt", None])},
        "needs a text and no uri; item 'zoo/1#en' has a uri",
        "caption-with-file",
    ),
    Broken({"caption": captions(text=["a", "  "])}, "empty text: 'zoo/2#en'", "blank"),
    Broken(
        {"head_weight": pl.DataFrame({"item_id": ["h"], "text": ["t"]})},
        "neither a uri nor a text",
        "head-with-text",
    ),
    Broken(
        {"class_name": pl.DataFrame({"item_id": ["c"], "text": ["cat"]})},
        "1 class_name items have no class_id: 'c'",
        "class-name-without-class",
    ),
    Broken(
        {"image": images(), "caption": captions(parent_id=["zoo/1", "zoo/9"])},
        "parent that does not exist .*item 'zoo/2#en', parent 'zoo/9'.*Add the parents",
        "dangling",
    ),
    Broken(
        {"image": images(), "caption": captions(split=["train", "train"])},
        "another split than their parent .*'zoo/2#en' in 'train', its parent in 'test'",
        "leak",
    ),
    Broken({"image": images()}, "there is no label set. Add classes.parquet", "no-labels"),
    Broken(
        {"image": images(class_id=["zoo/cat", "zoo/dgo", "zoo/dgo"])},
        "2 image items .* 2 classes: 'zoo/dgo'. Did you mean 'zoo/dog'",
        "unknown-class",
    ),
    Broken(
        {"image": images(uri=["../1.png", "/etc/passwd", "images/1.png"])},
        "2 uris of image items .*climbs out.*it is absolute.*below the manifest's folder",
        "leaves-root",
    ),
]


@pytest.mark.parametrize("case", ITEM_RULES, ids=lambda case: case.id)
def test_broken_rules_of_items(case):
    labels = None if case.id == "no-labels" else classes()
    with pytest.raises(ManifestError, match=case.match):
        validate_items(case.tables, labels)


def test_no_items_at_all_and_empty_tables_are_valid():
    validate_items({})
    validate_items({"image": images()[:0], "caption": captions()[:0]})


def test_a_long_list_of_offenders_is_cut():
    table = pl.DataFrame({"item_id": [f"i{n // 2:02}" for n in range(40)], "text": ["t"] * 40})
    with pytest.raises(
        ManifestError, match=r"20 item ids are repeated: 'i00', .*'i04' and 15 more"
    ):
        validate_items({"caption": table})


def test_null_columns_are_taken_as_text():
    table = conform_items(pl.DataFrame({"item_id": ["a"], "text": ["b"], "uri": [None]}), "caption")
    assert dict(table.schema) == ITEM_SCHEMA


def test_counts_are_in_the_usual_order():
    table = pl.DataFrame({"split": ["test", "train", None, "extra", "val", "train"]})
    assert list(split_counts(table).items()) == [
        ("train", 2),
        ("val", 1),
        ("test", 1),
        ("extra", 1),
        ("unsplit", 1),
        ("total", 6),
    ]


# ---- rules of label sets -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (classes()[:0], "no class"),
        (classes().drop("name"), "no column 'name'"),
        (classes(index=[0.0, 1.0]), r"index \(Float64 instead of Int64\)"),
        (classes(class_id=["zoo/cat", "zoo/cat"]), "1 class ids are repeated: 'zoo/cat'"),
        (classes(class_id=["zoo/cat", None]), "1 classes have no class_id"),
        (classes(name=["cat", None]), "1 classes have no name: 'zoo/dog'"),
        (classes(index=[1, 2]), "must be 0 to 1, each once; got 2 distinct ones, 1 to 2"),
        (classes(index=[0, 0]), "got 1 distinct ones, 0 to 0"),
        (classes(name=["cat", "cat"]), "1 names are shared .*'cat'. Set shared_name to true"),
    ],
)
def test_broken_rules_of_label_sets(labels, match):
    with pytest.raises(ManifestError, match=match):
        validate_classes(labels)


def test_classes_may_stand_in_any_order_and_share_names_knowingly():
    validate_classes(classes(index=[1, 0], name=["crane", "crane"], shared_name=[True, True]))


# ---- paths ---------------------------------------------------------------------------------


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
        joined = ntpath.normpath(ntpath.join("D:\\root\\x", uri))
        assert joined.startswith("D:\\root\\x")


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
    labels = classes()
    validate_items({"image": images(uri=["inside.png", "near/2.png", "near/1.png"])}, labels,
                   root=root)  # fmt: skip
    table = images(uri=["images/1.png", bad, "images/2.png"])
    with pytest.raises(ManifestError, match=f"{bad}' of 'zoo/2': a symbolic link leads out"):
        validate_items({"image": table}, labels, root=root)


def test_a_root_behind_a_link_is_fine(root, tmp_path):
    (tmp_path / "alias").symlink_to(root)
    validate_items({"image": images()}, classes(), root=tmp_path / "alias")


def test_missing_files_folders_and_loops_are_refused(root):
    (root / "loop.png").symlink_to("loop.png")
    table = images(uri=["images", "loop.png", "images/1.png/x"])
    with pytest.raises(ManifestError) as caught:
        validate_items({"image": table}, classes(), root=root)
    message = str(caught.value)
    assert "'images' of 'zoo/1': it is not a regular file" in message
    assert "'loop.png' of 'zoo/2': it cannot be reached" in message
    assert "'images/1.png/x' of 'zoo/3': there is no such file" in message


# ---- facts as TOML -------------------------------------------------------------------------

_SCALARS = (
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
)
_FACTS = st.recursive(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), _SCALARS, max_size=4),
    lambda inner: st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        inner | _SCALARS | st.lists(_SCALARS | st.lists(st.integers()), max_size=4),
        max_size=4,
    ),
    max_leaves=8,
)


@given(_FACTS)
def test_facts_survive_the_standard_librarys_reader(facts):
    text = toml_text(facts)
    assert tomllib.loads(text) == facts
    assert text == toml_text(facts)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), b"x", Path("x"), [{"a": 1}]])
def test_facts_that_toml_cannot_hold_are_named(value):
    with pytest.raises(ManifestError, match=r"fact a.b is .*Give a string, number"):
        toml_text({"a": {"b": value}})


def test_half_a_surrogate_pair_is_no_text():
    with pytest.raises(ManifestError, match="surrogate"):
        toml_text({"a": "\ud800"})


def test_keys_are_strings():
    with pytest.raises(ManifestError, match="not a string: 1"):
        toml_text({1: "a"})


def test_manifest_is_frozen(written):
    assert isinstance(written, Manifest)
    with pytest.raises(AttributeError):
        written.name = "other"


def test_a_name_or_key_with_a_line_end_does_not_pass_for_one_without(tmp_path: Path) -> None:
    assert tomllib.loads(toml_text({"a\n": {"b\n": 1}})) == {"a\n": {"b\n": 1}}
    with pytest.raises(ManifestError, match="lower-case letters"):
        write_manifest(tmp_path, facts={"name": "stamps\n"}, tables={})
