"""Webdataset tars, read with an index; hostile ones are refused whole."""

import hashlib
import io
import json
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.errors import ManifestError
from featstore.sources.reader import open_reader
from featstore.sources.roots import Folder
from featstore.sources.tars import Member, members
from tests.small_files import picture, write, write_tar


def index_tar(path) -> list[Member]:
    with Folder(path.parent).opened(path.name) as file:
        return list(members(file))


def link(kind, name="x.jpg", target="/etc/passwd"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def shards(tmp_path):
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
    return write(
        root,
        {
            "classnames.txt": "cat\ncrane\ncrane\n",
            "zeroshot_classification_templates.txt": "a photo of a {c}.\nart with {c}\n",
        },
    )


def test_members_are_read_where_they_lie(make, shards):
    manifest = make("webdataset", shards)
    table = manifest.items("image")
    assert table.select("item_id", "uri", "split", "class_id").rows() == [
        ("zoo/image/test/s0", "test/0.tar::s0.webp", "test", "zoo/crane (2)"),
        ("zoo/image/train/s0", "train/0.tar::s0.jpg", "train", "zoo/crane (1)"),
        ("zoo/image/train/s1", "train/0.tar::./s1.png", "train", "zoo/cat"),
    ]
    expected = [picture(3, "WEBP"), picture(1, "JPEG"), picture(2)]
    with open_reader(manifest) as reader:
        assert [reader.read(row) for row in table.to_dicts()] == expected
    hashes = [hashlib.sha256(data).hexdigest() for data in expected]
    assert table["content_sha256"].to_list() == hashes


def test_class_names_and_templates_beside_the_tars(make, shards):
    manifest = make("webdataset", shards)
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
    found = {m.name: data[m.offset : m.offset + m.size] for m in index_tar(path)}
    with tarfile.open(path) as tar:
        assert found == {m.name: tar.extractfile(m).read() for m in tar}
    assert found == dict(members)


GOOD = ("ok.jpg", b"fine")


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ([GOOD, ("../x.jpg", b"1")], r"'\.\./x\.jpg' .*climbs out"),
        ([GOOD, ("a/../../x.jpg", b"1")], "climbs out"),
        ([GOOD, ("/etc/x.jpg", b"1")], "absolute"),
        ([GOOD, ("C:/x.jpg", b"1")], "drive"),
        ([GOOD, ("a\\x.jpg", b"1")], "backslash"),
        ([GOOD, ("a\nb.jpg", b"1")], "control"),
        ([GOOD, link(tarfile.SYMTYPE)], "a symbolic link to '/etc/passwd'"),
        ([GOOD, link(tarfile.LNKTYPE, target="ok.jpg")], "a hard link to 'ok.jpg'"),
        ([GOOD, link(tarfile.FIFOTYPE)], "a device, pipe"),
        ([GOOD, link(tarfile.CHRTYPE)], "a device, pipe"),
        ([GOOD, GOOD], "'ok' is repeated .*'ok.jpg' and 'ok.jpg'"),
        ([GOOD, ("ok.PNG", b"1")], "'ok' is repeated"),
        ([GOOD, ("ok.JPG", b"1")], "'ok.jpg' and 'ok.JPG'"),
        ([GOOD, ("ok.txt", b"abc\xe9")], "ok.txt is not UTF-8"),
        ([GOOD, ("ok.txt", bytes(2**20 + 1))], "1,048,577 bytes; texts of at most"),
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


def test_keys_repeated_between_tars_are_named(make, tmp_path):
    write_tar(tmp_path / "in" / "0.tar", [GOOD])
    write_tar(tmp_path / "in" / "1.tar", [GOOD])
    with pytest.raises(ManifestError, match=r"'0\.tar::ok\.jpg' and for '1\.tar::ok\.jpg'"):
        make("webdataset", tmp_path / "in")


def test_every_truncation_is_refused(tmp_path):
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


def test_damage_between_members_is_not_taken_for_the_end(tmp_path):
    data = bytearray(write_tar(tmp_path / "x.tar", [("a.jpg", b"1"), ("b.jpg", b"2")]).read_bytes())
    data[1024 + 5] ^= 1  # in the name of the second member: its checksum is wrong
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(ManifestError, match="header at byte 1,024 is damaged"):
        list(index_tar(tmp_path / "x.tar"))


def test_data_behind_the_end_mark_is_refused(tmp_path):
    data = write_tar(tmp_path / "x.tar", [GOOD]).read_bytes()
    (tmp_path / "x.tar").write_bytes(data + data)
    with pytest.raises(ManifestError, match="data behind its end mark"):
        list(index_tar(tmp_path / "x.tar"))


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


def test_compressed_tars_are_refused(make, tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    (tmp_path / "x.tar").write_bytes(buffer.getvalue())
    (tmp_path / "x.tar.gz").write_bytes(buffer.getvalue())
    with pytest.raises(ManifestError, match="no uncompressed tar"):
        make("webdataset", tmp_path / "x.tar")
    with pytest.raises(ManifestError, match=r"does not end in \.tar"):
        make("webdataset", tmp_path / "x.tar.gz")


def test_labels_outside_the_list_of_names(make, tmp_path):
    write_tar(tmp_path / "in" / "0.tar", [GOOD, ("ok.cls", "2")])
    write(tmp_path / "in", {"classnames.txt": "a\nb\n"})
    with pytest.raises(ManifestError, match=r"'2' .*neither one of the 2 class names"):
        make("webdataset", tmp_path / "in")


def test_a_template_needs_a_place_for_the_name(make, tmp_path):
    write_tar(tmp_path / "in" / "0.tar", [GOOD, ("ok.cls", "0")])
    write(tmp_path / "in", {"zeroshot_classification_templates.txt": "a photo\n"})
    with pytest.raises(ManifestError, match=r"'a photo' .*must hold \{\} or \{c\} once"):
        make("webdataset", tmp_path / "in")
