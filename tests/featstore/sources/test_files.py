"""Folders, tables and tars become manifests; hostile ones are refused whole."""

import gzip
import hashlib
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.errors import ItemReadError, ManifestError
from featstore.sources import Folder
from featstore.sources.pictures import members
from featstore.sources.reader import ByteReader, check_bytes
from tests.featstore.sources.conftest import rows_of
from tests.small_files import picture, write, write_tar


def test_a_folder_is_its_images_by_relative_path(make, tmp_path):
    photos = write(
        tmp_path / "photos",
        {
            "b.PNG": picture(1),
            "a/2.jpeg": picture(2, "JPEG"),
            "a/zwölf.webp": picture(3, "WEBP"),
            "a/notes.txt": "no image",
            ".hidden/4.png": picture(4),
            "a/._2.jpeg": b"a resource fork",
            "empty.gif": b"",
        },
    )
    manifest = make("folder", photos)
    table = manifest.items("image")
    assert table["item_id"].to_list() == [
        "zoo/image/a/2.jpeg", "zoo/image/a/zwölf.webp", "zoo/image/b.PNG", "zoo/image/empty.gif",
    ]  # fmt: skip
    assert manifest.root == photos
    assert table["class_id"].null_count() == table["split"].null_count() == 4
    files = [(photos / uri).read_bytes() for uri in table["uri"]]
    assert rows_of(manifest) == files
    hashes = [hashlib.sha256(data).hexdigest() for data in files]
    assert table["content_sha256"].to_list() == hashes


def test_folders_named_as_splits_are_splits(make, tmp_path):
    files = {f"{split}/{n}.png": picture(n) for n, split in enumerate(("train", "Validation"))}
    manifest = make("folder", write(tmp_path / "all", files))
    assert dict(manifest.items("image").select("uri", "split").iter_rows()) == {
        "train/0.png": "train", "Validation/1.png": "val",
    }  # fmt: skip
    write(tmp_path / "all", {"other/2.png": picture(2)})
    assert make("folder", tmp_path / "all").items("image")["split"].null_count() == 3
    one = make("folder", tmp_path / "all", split="test")
    assert one.items("image")["split"].unique().to_list() == ["test"]


def test_class_folders_have_sorted_classes_and_prompts(make, tmp_path):
    root = write(tmp_path / "pets", {"dog/a.png": 1, "cat/deep/b.png": 2, "Great Dane/a.png": 3})
    manifest = make("class-folders", root)
    assert manifest.classes.select("class_id", "index", "name").rows() == [
        ("zoo/Great Dane", 0, "Great Dane"), ("zoo/cat", 1, "cat"), ("zoo/dog", 2, "dog"),
    ]  # fmt: skip
    assert manifest.items("image").select("item_id", "class_id").rows() == [
        ("zoo/image/Great Dane/a.png", "zoo/Great Dane"),
        ("zoo/image/cat/deep/b.png", "zoo/cat"),
        ("zoo/image/dog/a.png", "zoo/dog"),
    ]
    texts = manifest.items("class_name").filter(class_id="zoo/cat")["text"].to_list()
    assert texts == ["cat", "a photo of a cat."]


def test_classes_that_are_numbers_are_in_the_order_of_numbers(make, tmp_path):
    files = {f"{label}/x.png": picture(label) for label in (10, 9, 0)}
    manifest = make("class-folders", write(tmp_path / "digits", files))
    assert manifest.classes["name"].to_list() == ["0", "9", "10"]
    assert "class_name" not in manifest.tables


def test_captions_of_the_same_stem_one_a_line(make, tmp_path):
    text = "\ufeffA cat.\r\n\r\n  Zwölf Hunde 犬 \nA cat.\n"
    files = {"a.jpg": 1, "a.txt": text, "b.png": 2, "readme.txt": "about this folder"}
    write(tmp_path / "pairs/test", files)
    manifest = make("captions", tmp_path / "pairs")
    assert manifest.items("caption").select("item_id", "text", "parent_id", "split").rows() == [
        ("zoo/caption/test/a.jpg#0", "A cat.", "zoo/image/test/a.jpg", "test"),
        ("zoo/caption/test/a.jpg#1", "Zwölf Hunde 犬", "zoo/image/test/a.jpg", "test"),
        ("zoo/caption/test/a.jpg#2", "A cat.", "zoo/image/test/a.jpg", "test"),
    ]
    assert manifest.items("image").height == 2


@pytest.mark.parametrize(
    ("source", "files", "match"),
    [
        ("folder", {"x.txt": "none"}, "holds no image"),
        ("class-folders", {"cat/1.png": b"1", "loose.png": b"2"}, "'loose.png' .* no class folder"),
        ("captions", {"a.jpg": b"1", "a.png": b"2", "a.txt": "?"}, "both 'a.jpg' and 'a.png'"),
        ("captions", {"a.jpg": b"1", "a.txt": b"abc\xe9"}, r"a\.txt is not UTF-8 \(byte 3\)"),
        ("captions", {"a.jpg": b"1", "a.txt": "x\0y"}, "holds a NUL"),
        ("captions", {"a.jpg": b"1", "a.txt": b"x" * (2**20 + 1)}, "1,048,577 bytes; at most"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(make, tmp_path, source, files, match):
    with pytest.raises(ManifestError, match=match):
        make(source, write(tmp_path / "in", files))
    assert not (tmp_path / "made0").exists()


def test_a_file_name_that_is_not_utf8(make, tmp_path):
    root = write(tmp_path / "in", {"a.png": b"1"})
    with open(os.fsencode(root) + b"/abc\xe9.png", "wb"):  # noqa: PTH123
        pass
    with pytest.raises(ManifestError, match=r"is not UTF-8\. Rename"):
        make("folder", root)


@pytest.mark.parametrize("suffix", ["png", "txt"])
def test_links_out_of_the_folder_are_refused(make, tmp_path, suffix):
    secret = write(tmp_path / "secret", {"x": "mine"}) / "x"
    root = write(tmp_path / "in", {"a.png": picture(1)})
    (root / ("b.png" if suffix == "png" else "a.txt")).symlink_to(secret)
    with pytest.raises(ManifestError, match="leads out of"):
        make("captions", root)


@pytest.mark.parametrize(
    ("location", "match"),
    [
        ("pipe:curl http://example.org/a.tar", "is a command"),
        ("https://example.org/photos", "is a URL"),
        ("s3://bucket/photos", "is a URL"),
        ("gone", "No such file"),
        ("x\0y", "cannot be opened"),
    ],
)
@pytest.mark.parametrize("source", ["folder", "csv"])
def test_locations_are_local_and_exist(make, source, location, match):
    with pytest.raises(ManifestError, match=match):
        make(source, location)


# ---- CSV, TSV and JSON Lines ----------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    return write(tmp_path / "in", {f"img/{n}.png": picture(n) for n in range(4)})


TABLES = {
    "csv": "path,caption,label,split\n"
    'img/0.png,"A dog, and ""a cat"".",dog,train\n'
    "img/0.png,Second.,dog,train\n"
    "\n"
    "./img/1.png,,cat,validation\n",
    "tsv": "path\tcaption\tlabel\tsplit\n"
    'img/0.png\t"A dog, and ""a cat""."\tdog\ttrain\n'
    "img/0.png\tSecond.\tdog\ttrain\n"
    "img/1.png\t\tcat\tvalidation\n",
    "jsonl": '{"path": "img/0.png", "caption": ["A dog, and \\"a cat\\".", "Second."], '
    '"label": "dog", "split": "train"}\n\n'
    '{"path": "img/1.png", "label": "cat", "split": "validation"}\n',
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_paths(make, root, kind):
    manifest = make(kind, write(root, {f"x.{kind}": TABLES[kind]}) / f"x.{kind}")
    images = manifest.items("image")
    assert images.select("item_id", "uri", "class_id", "split", "source_split").rows() == [
        ("zoo/image/img/0.png", "img/0.png", "zoo/dog", "train", None),
        ("zoo/image/img/1.png", "img/1.png", "zoo/cat", "val", "validation"),
    ]
    assert manifest.items("caption").select("item_id", "text", "parent_id", "split").rows() == [
        ("zoo/caption/img/0.png#0", 'A dog, and "a cat".', "zoo/image/img/0.png", "train"),
        ("zoo/caption/img/0.png#1", "Second.", "zoo/image/img/0.png", "train"),
    ]


def test_columns_are_chosen_by_options_and_ids_are_keys(make, root, tmp_path):
    text = ",file,words,id\n0,0.png,Hello.,q7\n1,1.png,,q8\n"
    table = write(tmp_path, {"t/x.csv": text}) / "t/x.csv"
    manifest = make("csv", table, image="file", caption="words", images=str(root / "img"))
    assert manifest.items("image")["item_id"].to_list() == ["zoo/image/q7", "zoo/image/q8"]
    assert manifest.items("caption")["item_id"].to_list() == ["zoo/caption/q7#0"]
    assert manifest.root == root / "img"


def test_absolute_paths_must_lie_below_the_root(make, root, tmp_path):
    table = write(root, {"x.csv": f"path\n{root}/img/0.png\n"}) / "x.csv"
    assert make("csv", table).items("image")["uri"].to_list() == ["img/0.png"]
    write(root, {"x.csv": f"path\n{tmp_path}/img/0.png\n"})
    with pytest.raises(ManifestError, match="it is absolute"):
        make("csv", table)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("path,caption\nimg/0.png\n", r"x\.csv, line 2 has more or fewer fields than the 2 of"),
        ('path,caption\nimg/0.png,"open\n', r"line \d, cannot be read: unexpected end of data"),
        (b"path,caption\nimg/0.png,abc\xe9\n", "not UTF-8"),
        ("path\n../secret.png\n", "climbs out"),
        ("path\n/etc/passwd\n", "it is absolute"),
        ("path\nhttp://example.org/a.png\n", "is a URL"),
        ("path\nimg/\0.png\n", "control character"),
        ("path\n \n", "no path of an image"),
        ("path\nimg/gone.png\n", "gone.png': there is no such file"),
        ("path,label\nimg/0.png,a\nimg/0.png,b\n", r"'img/0\.png' is repeated: file, label"),
        ("path,path\nimg/0.png,x\n", "names a column twice"),
        ("picture\nimg/0.png\n", "no column of images.*It has: 'picture'"),
        ("path,caption\n", "holds no row"),
        ("path,caption\nimg/0.png,a\0b\n", "NUL"),
        ("path,caption\nimg/0.png," + "x" * 200_000 + "\n", "field larger than field limit"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_tables_are_refused_by_name_and_line(make, root, content, match):
    table = write(root, {"x.csv": content}) / "x.csv"
    with pytest.raises(ManifestError, match=match):
        make("csv", table)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("[1, 2]\n", "line 1 is not a JSON object"),
        ('{"path": "img/0.png"}\n{"path"\n', "line 2 is not JSON"),
        ('{"path": "img/0.png", "caption": 3}\n', "a caption that is no text: 3"),
        ('{"path": ["img/0.png"]}\n', "no path of an image"),
        ('{"path": "img/0.png", "label": {"a": 1}}\n', "neither text nor integer"),
        ('{"path": "img/\\ud800.png"}\n', "there is no such file"),
        ('{"path": "' + "x" * 2**20 + '"}\n', "bytes of JSON; at most"),
        ("[" * 200_000 + "]" * 200_000 + "\n", "is not JSON that is read here"),
        (b'{"path": "abc\xe9"}\n', "is not JSON"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_json_lines_are_refused_by_line(make, root, content, match):
    table = write(root, {"x.jsonl": content}) / "x.jsonl"
    with pytest.raises(ManifestError, match=match):
        make("jsonl", table)


def test_a_field_that_the_first_object_lacks_is_not_lost(make, root):
    lines = '{"path": "img/1.png", "label": "cat"}\n{"path": "img/0.png", "caption": "Late."}\n'
    manifest = make("jsonl", write(root, {"x.jsonl": lines}) / "x.jsonl")
    assert manifest.items("caption")["text"].to_list() == ["Late."]


# ---- Webdataset tars, read with an index; hostile ones are refused whole --------------------


def index_tar(path) -> list[tarfile.TarInfo]:
    with closing(Folder(path.parent).open(path.name)) as file:
        return list(members(file))


def link(kind, name="x.jpg", target="/etc/passwd"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_members_are_read_where_they_lie(make, tmp_path):
    """CLIP_benchmark's layout: splits as folders, class names and templates beside."""
    root = tmp_path / "wds"
    write_tar(
        root / "train" / "0.tar",
        [
            ("s0.jpg", picture(1, "JPEG")), ("s0.cls", "1"), ("s0.pyd", b"\x80\x04never"),
            ("./s1.png", picture(2)), ("./s1.cls", "0\n"),
        ],
    )  # fmt: skip
    write_tar(root / "test" / "0.tar", [("s0.webp", picture(3, "WEBP")), ("s0.cls", "2")])
    templates = "a photo of a {c}.\nart with {c}\n"
    write(root, {"classnames.txt": "cat\ncrane\ncrane\n"})
    write(root, {"zeroshot_classification_templates.txt": templates})
    manifest = make("webdataset", root)
    table = manifest.items("image")
    assert table.select("item_id", "uri", "split", "class_id").rows() == [
        ("zoo/image/test/s0", "test/0.tar::s0.webp", "test", "zoo/crane (2)"),
        ("zoo/image/train/s0", "train/0.tar::s0.jpg", "train", "zoo/crane (1)"),
        ("zoo/image/train/s1", "train/0.tar::./s1.png", "train", "zoo/cat"),
    ]
    expected = [picture(3, "WEBP"), picture(1, "JPEG"), picture(2)]
    assert rows_of(manifest) == expected
    hashes = [hashlib.sha256(data).hexdigest() for data in expected]
    assert table["content_sha256"].to_list() == hashes
    # Class names and templates are beside the tars.
    assert manifest.classes.select("index", "name", "shared_name").rows() == [
        (0, "cat", False), (1, "crane", True), (2, "crane", True),
    ]  # fmt: skip
    prompts = manifest.items("class_name").filter(class_id="zoo/cat")
    template = f"t{hashlib.sha256(b'art with {}').hexdigest()[:8]}"
    assert prompts.select("template_id", "text").rows() == [
        ("photo", "a photo of a cat."), (template, "art with cat"),
    ]  # fmt: skip


def test_captions_and_labels_of_text_and_json(make, tmp_path):
    tar = write_tar(
        tmp_path / "pairs.tar",
        [
            ("a/001.jpg", picture(1, "JPEG")),
            ("a/001.txt", "A dog.\n"),
            ("a/001.json", json.dumps({"caption": "A dog.", "label": "dog", "url": "pipe:rm"})),
            ("002.json", json.dumps({"caption": ["One.", "Two.", 3], "cls": 7})),
            ("002.png", picture(2)),
            ("003.txt", "a caption without an image"),
            ("004.seg.png", picture(9)),
            ("README", "no suffix"),
            ("005.jpg", b""),
        ],
    )
    manifest = make("webdataset", tar, split="val")
    rows = manifest.items("image").select("item_id", "class_id", "split").rows()
    assert rows == [
        ("zoo/image/a/001", "zoo/dog", "val"),
        ("zoo/image/002", "zoo/7", "val"),
        ("zoo/image/005", None, "val"),
    ]
    assert manifest.items("caption").select("item_id", "text", "parent_id").rows() == [
        ("zoo/caption/a/001#0", "A dog.", "zoo/image/a/001"),
        ("zoo/caption/002#0", "One.", "zoo/image/002"),
        ("zoo/caption/002#1", "Two.", "zoo/image/002"),
    ]


@given(
    st.lists(
        st.tuples(st.text("abcé", min_size=1, max_size=150), st.binary(max_size=1500)),
        max_size=6,
        unique_by=lambda pair: pair[0],
    ),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_the_index_agrees_with_tarfiles_own_extraction(tmp_path_factory, members, fmt):
    path = write_tar(tmp_path_factory.mktemp("tar") / "x.tar", members, fmt=fmt)
    data = path.read_bytes()
    found = {m.name: data[m.offset_data : m.offset_data + m.size] for m in index_tar(path)}
    with tarfile.open(path) as tar:
        assert found == {m.name: tar.extractfile(m).read() for m in tar}
    assert found == dict(members)


GOOD = ("ok.jpg", b"fine")


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ([GOOD, ("../x.jpg", b"1")], r"'\.\./x\.jpg' .*climbs out"),
        ([GOOD, ("/etc/x.jpg", b"1")], "absolute"),
        ([GOOD, ("a\nb.jpg", b"1")], "control"),
        ([GOOD, link(tarfile.SYMTYPE)], "'x.jpg' is a symbolic link"),
        ([GOOD, link(tarfile.LNKTYPE, target="ok.jpg")], "'x.jpg' is a hard link"),
        ([GOOD, link(tarfile.FIFOTYPE)], "a sparse file, device, pipe"),
        ([GOOD, GOOD], "'ok' is repeated .*'ok.jpg' and 'ok.jpg'"),
        ([GOOD, ("ok.JPG", b"1")], "'ok.jpg' and 'ok.JPG'"),
        ([GOOD, ("ok.txt", b"abc\xe9")], "ok.txt is not UTF-8"),
        ([GOOD, ("ok.txt", bytes(2**20 + 1))], "1,048,577 bytes; at most"),
        ([GOOD, ("ok.json", b"[" * 100_000)], "is not JSON that is read here"),
        ([GOOD, ("ok.json", b"[1]")], "not a JSON object"),
        ([GOOD, ("ok.json", b"{bad")], "is not JSON"),
        ([("x.txt", b"no image")], "holds no image"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_hostile_members_refuse_the_tar(make, tmp_path, members, match):
    with pytest.raises(ManifestError, match=match):
        make("webdataset", write_tar(tmp_path / "x.tar", members))
    assert not (tmp_path / "made0").exists()


def test_every_truncation_and_damage_is_refused(tmp_path):
    """Also the one at the border of a member, which tarfile itself takes for an end."""
    members = [("a.jpg", b"1" * 700), ("b.jpg", b"2" * 30)]
    whole = write_tar(tmp_path / "x.tar", members).read_bytes()
    last = 512 * 5  # two headers, three blocks of content: then the end mark
    cut = tmp_path / "cut.tar"
    for length in (0, 1, 511, 512, 600, 1024, 1536, 1600, 2048, 2060, 2559, last, last + 511):
        cut.write_bytes(whole[:length])
        with pytest.raises(ManifestError, match=r"cut\.tar is .*(truncated|refused)"):
            list(index_tar(cut))
    cut.write_bytes(whole[: last + 512])
    assert [member.name for member in index_tar(cut)] == ["a.jpg", "b.jpg"]
    damaged = bytearray(whole)
    damaged[1536 + 5] ^= 1  # in the name of the second member: its checksum is wrong
    for data, match in (
        (damaged, "damaged header.* byte 1,536"), (whole + whole, "data behind its end mark"),
        (gzip.compress(whole), "no uncompressed tar"),
    ):  # fmt: skip
        cut.write_bytes(data)
        with pytest.raises(ManifestError, match=match):
            list(index_tar(cut))


def lying_header(kind, size):
    info = tarfile.TarInfo("x.jpg")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("kind", "size", "match"),
    [
        (tarfile.REGTYPE, 2**33, "unexpected end of data|ends behind"),
        (tarfile.XHDTYPE, 2**33, "claims 8,589,93"),
        (tarfile.GNUTYPE_LONGNAME, 2**40, "claims 1,099,51"),
        (tarfile.REGTYPE, -(2**40), "."),
    ],
)
def test_sizes_that_lie_take_no_memory(tmp_path, kind, size, match):
    path = tmp_path / "x.tar"
    path.write_bytes(lying_header(kind, size) + bytes(4096))
    with pytest.raises(ManifestError, match=match):
        list(index_tar(path))


def test_labels_outside_the_list_of_names(make, tmp_path):
    write_tar(tmp_path / "in" / "0.tar", [GOOD, ("ok.cls", "2")])
    write(tmp_path / "in", {"classnames.txt": "a\nb\n"})
    with pytest.raises(ManifestError, match=r"'2' .*neither one of the 2 class names"):
        make("webdataset", tmp_path / "in")


# ---- The reader of items: hashes, limits, threads, and what a hostile manifest gets ---------


def test_a_changed_file_is_never_returned(make, tmp_path):
    root = write(tmp_path / "in", {"a.png": picture(1)})
    manifest = make("folder", root)
    check_bytes(manifest)
    write(root, {"a.png": picture(2)})
    with pytest.raises(ItemReadError, match="hash changed"):
        rows_of(manifest)
    with pytest.raises(ManifestError, match=r"'zoo/image/a\.png'"):
        check_bytes(manifest)


HASH = "0" * 64


@pytest.mark.parametrize(
    ("item", "match"),
    [
        ({"uri": None}, "has no uri"),
        ({"uri": "../x.tar::a", "content_sha256": HASH, "byte_offset": 0, "byte_size": 1},
         "climbs out"),
        ({"uri": "/etc/x.parquet::a#1", "content_sha256": HASH}, "absolute"),
        ({"uri": "x\0.png"}, "NUL"),
        ({"uri": "x.tar::a.png"}, "no content_sha256"),
        ({"uri": "x.tar::a.png", "content_sha256": HASH}, "no byte_offset"),
        ({"uri": "x.tar::a", "content_sha256": HASH, "byte_offset": -1, "byte_size": 1}, "no byte"),
        ({"uri": "x.tar::a", "content_sha256": HASH, "byte_offset": 0, "byte_size": 2**40},
         "1,099,511,627,776 bytes; at most"),
        ({"uri": "x.tar::a", "content_sha256": HASH, "byte_offset": 2**40, "byte_size": 9},
         "ends inside 'a'"),
        ({"uri": "x.tar::../../etc/passwd", "content_sha256": HASH, "byte_offset": 0,
          "byte_size": 9}, "hash changed"),
        ({"uri": "x.parquet::a#x", "content_sha256": HASH}, "is not column#row"),
        ({"uri": "x.parquet::a#1", "content_sha256": HASH}, "truncated, damaged or no table"),
        ({"uri": "gone.png"}, "No such file"),
        ({"uri": "folder"}, "not a regular file"),
        ({"uri": "pipe"}, "'pipe' cannot be used .*: it is not a regular file"),
        ({"uri": "big.png"}, "2,000 bytes; at most 1,000 are read"),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
def test_what_is_not_read(tmp_path, item, match):
    pytest.importorskip("pyarrow")
    write_tar(tmp_path / "x.tar", [("a", b"123")])
    write(tmp_path, {"x.parquet": "no table", "big.png": bytes(2000), "folder/x": ""})
    os.mkfifo(tmp_path / "pipe")
    with ByteReader(tmp_path, max_bytes=1000) as reader, pytest.raises(ItemReadError, match=match):
        reader.read({"item_id": "x", **item})


def test_threads_read_many_tars_with_few_open(make, tmp_path, monkeypatch):
    monkeypatch.setattr(Folder, "keep_open", 2)
    for shard in range(7):
        members = [(f"{shard}-{n}.png", picture(10 * shard + n)) for n in range(9)]
        write_tar(tmp_path / "in" / f"{shard}.tar", members)
    manifest = make("webdataset", tmp_path / "in")
    rows = manifest.items("image").to_dicts() * 3
    with ByteReader(manifest.root) as reader, ThreadPoolExecutor(8) as threads:
        read = list(threads.map(reader.read, rows))
        assert reader._tars.cache_info().currsize <= 2
    assert read == [picture(10 * shard + n) for shard in range(7) for n in range(9)] * 3
