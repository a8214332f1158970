"""Parquet: cells are read where they lie."""

import hashlib
import json
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

from featstore.errors import ManifestError  # noqa: E402
from featstore.sources import LocalFile  # noqa: E402
from featstore.sources.reader import ParquetCells  # noqa: E402
from tests.featstore.sources.conftest import rows_of  # noqa: E402
from tests.small_files import picture  # noqa: E402


def hub_table(numbers):
    """As dataset hubs store images: structs of bytes and path, and a description of features."""
    info = {"info": {"features": {
        "image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
    }}}  # fmt: skip
    images = [{"bytes": picture(n), "path": f"{n}.png"} for n in numbers]
    table = pa.table({"image": images, "label": [n % 2 for n in numbers]})
    return table.replace_schema_metadata({"huggingface": json.dumps(info)})


def test_a_hubs_folder_of_parquet_files(make, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    pq.write_table(hub_table([0, 1, 2]), root / "train-00000-of-00001.parquet")
    pq.write_table(hub_table([3]), root / "validation-00000-of-00001-ab12.parquet")
    manifest = make("parquet", root)
    table = manifest.items("image")
    assert table.select("item_id", "uri", "split", "class_id").rows()[1:] == [
        ("zoo/image/train-00000-of-00001/1", "train-00000-of-00001.parquet::image.bytes#1",
         "train", "zoo/dog"),
        ("zoo/image/train-00000-of-00001/2", "train-00000-of-00001.parquet::image.bytes#2",
         "train", "zoo/cat"),
        ("zoo/image/validation-00000-of-00001-ab12/0",
         "validation-00000-of-00001-ab12.parquet::image.bytes#0", "val", "zoo/dog"),
    ]  # fmt: skip
    assert manifest.classes["name"].to_list() == ["cat", "dog"]
    assert rows_of(manifest) == [picture(n) for n in range(4)]
    hashes = [hashlib.sha256(picture(n)).hexdigest() for n in range(4)]
    assert table["content_sha256"].to_list() == hashes


def test_plain_bytes_with_ids_and_lists_of_captions(make, tmp_path):
    path = tmp_path / "x.parquet"
    columns = {"jpg": [picture(1), picture(2)], "key": ["a", "b"], "captions": [["x", "y"], []]}
    pq.write_table(pa.table(columns), path)
    manifest = make("parquet", path, image="jpg")
    assert manifest.items("image")["item_id"].to_list() == ["zoo/image/a", "zoo/image/b"]
    assert manifest.items("caption")["text"].to_list() == ["x", "y"]


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """1,000 cells of 1 to 60 kB in row groups of 170, some of them the same (a dictionary)."""
    rng = random.Random(0)
    cells = [rng.randbytes(rng.randrange(1000, 60_000)) for _ in range(900)]
    cells += cells[:100]
    path = tmp_path_factory.mktemp("big") / "x.parquet"
    pq.write_table(pa.table({"image": cells, "n": range(1000)}), path, row_group_size=170)
    return path, cells


@pytest.mark.parametrize("order", ["forwards", "backwards", "random"])
def test_cells_in_any_order(big, order):
    path, cells = big
    rows = list(range(0, 1000, 1 if order == "forwards" else 40))
    if order == "backwards":
        rows.reverse()
    elif order == "random":
        random.Random(1).shuffle(rows)
    table = ParquetCells(LocalFile(path))
    for row in rows:
        assert table.get("image", row) == cells[row]
    table.close()


def test_threads_share_a_table_of_bounded_memory(big, monkeypatch):
    monkeypatch.setattr("featstore.sources.reader.WINDOW_BYTES", 2**20)
    path, cells = big
    table = ParquetCells(LocalFile(path))
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda row: table.get("image", row), range(len(cells)))) == cells
    assert table._held <= 2**20
    table.close()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_files_are_refused_by_name(make, big, tmp_path, share):
    data = big[0].read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ManifestError, match=r"cut\.parquet is truncated, damaged"):
        make("parquet", tmp_path / "cut.parquet")


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"image": [b"1", None]}, r"row 1 has no bytes in 'image'"),
        ({"image": [{"bytes": None, "path": "/etc/passwd"}]}, "no bytes in 'image.bytes'"),
        ({"image": [1]}, "holds int64; it must hold bytes or paths"),
        ({"path": ["../x.png"]}, "climbs out"),
        ({"path": [None]}, "holds null; it must hold bytes or paths"),
        ({"image": [b"1", b"2"], "id": ["a", "a"]}, "'a' is repeated"),
        ({"picture": [b"1"]}, "no column of images"),
        ({"image": [b"1"], "caption": [{"a": 1}]}, "a caption that is no text"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_columns_are_refused(make, tmp_path, columns, match):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(ManifestError, match=match):
        make("parquet", path)


def test_the_column_of_images_and_the_names_of_classes_are_those_of_the_description(make, tmp_path):
    table = hub_table([0, 1])
    told = table.schema.metadata[b"huggingface"].replace(b'"image"', b'"picture"')
    path = tmp_path / "x.parquet"
    for text, match in (
        (told, None),
        (b"[" * 100_000, "is not JSON that is read here"),
        (told.replace(b'"Image"', b'"os.system"'), "no column of images"),
        (told.replace(b'"cat"', b"3"), None),  # no list of names: labels are what they are
        (b'{"info": []}', "no column of images"),
    ):
        said = table.rename_columns(["picture", "label"])
        said = said.replace_schema_metadata({"huggingface": text})
        pq.write_table(said, path)
        if match is not None:
            with pytest.raises(ManifestError, match=match):
                make("parquet", path)
            continue
        names = ["cat", "dog"] if b'"cat"' in text else ["0", "1"]
        assert make("parquet", path).classes["name"].to_list() == names
