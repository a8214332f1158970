"""Each trick is refused with a sentence, in a process that has little memory, and runs nothing."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featstore import FeatstoreError, open_store
from featstore.errors import CorruptStoreError
from featstore.identity import sha256_hex
from featstore.store import parquet_guard, read_commit, read_log, verify_store
from featstore.store.layout import shard_index
from featstore.store.listing import check_file
from featstore.store.parquet_guard import read_table, table_bytes
from tests.damage import relog
from tests.featstore.hostile.conftest import Hostile

#: A log that is no file makes its store unknown; all else is damage or another format.
REFUSALS = {
    "CorruptStoreError", "IrregularFileError", "LayoutError", "FormatVersionError",
    "AddressError",
}  # fmt: skip


def _refused(hostile: Hostile, tmp_path: Path, *, match: str = "", verified: bool = False) -> None:
    """Reading raises a FeatstoreError that says `match`; verifying names a file or raises."""
    answers = hostile.answer(tmp_path)
    assert answers[0].split()[0] in REFUSALS
    assert match in answers[0]
    if not verified:
        assert answers[1] != "verify 0"


def test_the_untouched_store_is_served_and_a_sparse_gigabyte_of_json_is_not_read(hostile, tmp_path):
    assert hostile.answer(tmp_path) == ["served", "verify 0", "served"]
    os.truncate(hostile.root / "log.json", 2**36)
    _refused(hostile, tmp_path, match="It was not read")


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" + b"[]," * 2**21 + b"[]]",
        b"[" + b"9" * 10_000 + b"]",
        b"\xff\xfe",
        b"",
        b'{"shape": [1e999, NaN]}',
        b'{"\\ud800": 1}',
        json.dumps({"shape": [1, 1], "pad": " " * 5_000_000}).encode(),
    ],
)
@pytest.mark.parametrize("where", ["log", "revision"])
def test_gigantic_deep_and_odd_json_is_refused(hostile, tmp_path, text, where):
    path = hostile.commit_path if where == "revision" else hostile.root / "log.json"
    path.unlink()
    path.write_bytes(text)
    _refused(hostile, tmp_path)


NAMES = [
    "../../secret", "/etc/passwd", "C:\\secret", "C:secret", "\\\\host\\share\\x", "//host/share/x",
    "a\x00b", "..", ".", "", "embedding/../../x", "revisions/x.json", "zarr.json", "runs/x",
    "a/" * 9,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_metadata_names_do_not_leave_the_set(hostile, tmp_path, name):
    (tmp_path / "secret").write_text("secret")
    facts = {"bytes": 6, "sha256": "0" * 64}
    hostile.recommit(lambda document: document["metadata"].update({name: facts}))
    with pytest.raises(CorruptStoreError, match=r"`\$\.metadata`"):
        open_store(hostile.root).view(hostile.key)


@pytest.mark.parametrize("name", [*NAMES[:10], "sub/items.parquet", 3, None, ["x"]])
def test_item_names_do_not_leave_the_kind(hostile, name):
    hostile.recommit(lambda document: document["parts"][0]["items"].update(file=name))
    with pytest.raises(CorruptStoreError, match=r"`\$\.parts\[.*\.file`"):
        open_store(hostile.root).view(hostile.key)


COMMITS = {
    "text for n": ("n", "40"), "true for n": ("n", True), "float n": ("n", 40.0),
    "endless n": ("n", 10**15), "negative": ("n", -1), "endless dim": ("dim", 10**15),
    "no dim": ("dim", 0), "endless block": ("block_rows", 10**15), "zero block": ("block_rows", 0),
    "dtype object": ("dtype", "object"), "dtype list": ("dtype", ["float32"]),
    "blocks text": ("blocks", "abc"), "blocks null": ("blocks", None), "no blocks": ("blocks", []),
    "block no hash": ("blocks", [1, 2, 3]), "items null": ("items", None),
    "items extra": ("items", {
        "file": "x", "bytes": 1, "sha256": "0" * 64, "chunks": ["0" * 64], "module": "os",
    }),
    "items endless": ("items", {
        "file": "x", "bytes": 10**30, "sha256": "0" * 64, "chunks": ["0" * 64],
    }),
    "items unhashed": ("items", {"file": "x", "bytes": 1, "sha256": "0" * 64, "chunks": []}),
    "metadata list": ("metadata", []), "metadata null": ("metadata", {"golden.json": None}),
    "failed short": ("failed", "AAAA"), "failed no base64": ("failed", "*"),
    "failed number": ("failed", 7), "failed past the end": ("failed", "AAAAAAAB"),
    "attributes null": ("attributes", None), "attributes empty": ("attributes", {}),
    "no sequence": ("sequence", 0), "history null": ("history", None),
    "history twice": ("history", ["7" * 64, "7" * 64]), "odd shard": ("shard_rows", 17),
    "parts null": ("parts", None), "no parts": ("parts", []), "part null": ("parts", [None]),
    "path outside": ("path", "embedding/../../x"), "path elsewhere": ("path", "bias"),
    "endless shard": ("shard_rows", 2**70), "many endless shards": ("shard_rows", 2**36),
    "a field of a later commit": ("module", "os"),
}  # fmt: skip


def _stated(document: dict[str, Any], field: str) -> dict[str, Any]:
    """Return what states a field of a commit: its only part, or the commit."""
    part: dict[str, Any] = document["parts"][0]
    return part if field in part else document


@pytest.mark.parametrize("trick", COMMITS)
def test_commits_of_other_types_and_sizes_are_refused(hostile, tmp_path, trick):
    field, value = COMMITS[trick]
    hostile.recommit(lambda document: _stated(document, field).update({field: value}))
    path = hostile.commit_path
    with pytest.raises(CorruptStoreError, match=r"not a commit record|not JSON|another hash"):
        read_commit(hostile.directory, path.stem)
    if trick.startswith("endless"):
        _refused(hostile, tmp_path)


@pytest.mark.parametrize(("dim", "blocks"), [(4, 1), (2**24, 2**13)])
def test_endless_rows_with_as_many_hashes_are_refused(hostile, tmp_path, dim, blocks):
    def change(document: dict[str, Any]) -> None:
        document.update(block_rows=2**24, dim=dim)
        document["parts"][0].update(n=blocks * 2**24, shard_rows=0, blocks=["0" * 64] * blocks)

    hostile.recommit(change)
    _refused(hostile, tmp_path)


@pytest.mark.parametrize(
    "name",
    ["{set}/embedding/c/0/0", "{items}", "{set}", "{set}/embedding", "{set}/embedding/c", "birds",
     "{set}/revisions", "log.json"],
)  # fmt: skip
def test_links_out_of_the_store_are_refused(hostile, tmp_path, name):
    items = f"birds/image/{hostile.commit()['parts'][0]['items']['file']}"
    path = hostile.root / name.format(set=hostile.key, items=items)
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    _refused(hostile, tmp_path, match="link")


SPARSE = 2**30


@pytest.mark.parametrize("what", ["items", "thumbnails"])
def test_large_files_of_zeros_are_no_memory_error(hostile, tmp_path, what):
    name = f"{what}-0badcafe.parquet"
    with (hostile.directory.parent / name).open("wb") as file:
        file.truncate(SPARSE)
    facts = {"file": name, "bytes": SPARSE, "sha256": "0" * 64}
    said = "more than this process has memory for"
    relog(hostile.root, thumbnails=[f"birds/image/{name}"] * (what == "thumbnails"))
    if what == "items":
        facts["chunks"], said = ["0" * 64], "differs from its commit record"
        hostile.recommit(lambda document: document["parts"][0].update(items=facts))
    _refused(hostile, tmp_path, match=said)


def _parquet(table: pl.DataFrame, **options: Any) -> bytes:
    buffer = io.BytesIO()
    table.write_parquet(buffer, **options)
    return buffer.getvalue()


def _endless_footer(n: int) -> bytes:
    """Return a footer that is a list of so many empty structures: each a byte, a dict once read."""
    size, varint = n, b""
    while size >= 0x80:
        varint, size = varint + bytes([size & 0x7F | 0x80]), size >> 7
    footer = b"\x29\xfc" + varint + bytes([size]) + bytes(n + 1)
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def _one_list(n: int) -> pl.Series:
    """Return a list of n equal numbers in the first of 40 rows."""
    values = pl.repeat(7, n, dtype=pl.Int64, eager=True)
    return pl.concat([values.implode(), pl.Series([[]] * 39, dtype=pl.List(pl.Int64))])


IDS = [f"b/{i:02d}" for i in range(40)]
#: What makes each: some take a second and hundreds of megabytes.
TABLES: dict[str, Callable[[], bytes]] = {
    "too few rows": lambda: _parquet(pl.DataFrame({"item_id": IDS[:39]})),
    "too many rows": lambda: _parquet(pl.DataFrame({"item_id": [*IDS, "x"]})),
    "no item_id": lambda: _parquet(pl.DataFrame({"item": IDS})),
    "numbers for ids": lambda: _parquet(pl.DataFrame({"item_id": list(range(40))})),
    "null ids": lambda: _parquet(pl.DataFrame({"item_id": [None, *IDS[1:]]})),
    "binary ids": lambda: _parquet(pl.DataFrame({"item_id": [b"x"] * 40})),
    "no parquet": lambda: b"PAR1" + b"\0" * 60 + b"PAR1",
    "a pickle": lambda: b"\x80\x04\x95cos\nsystem\n(S'id'\ntR.",
    "empty": lambda: b"",
    "rows as run lengths": lambda: _parquet(
        pl.select(item_id=pl.repeat("x", 5_000_000)), compression="zstd", statistics=False
    ),
    "values in one row": lambda: _parquet(
        pl.DataFrame({"item_id": IDS, "tags": _one_list(8_000_000)}), compression="zstd"
    ),
    "columns": lambda: _parquet(
        pl.select(item_id=pl.Series(IDS * 4_000), **{f"c{i}": pl.lit(0) for i in range(60)}),
        compression="zstd",
    ),
    "metadata": lambda: _endless_footer(1_900_000),
    "zeros that zstd shrinks": lambda: _parquet(
        pl.DataFrame({"item_id": ["\0" * 2_500_000 + i for i in IDS]}),
        compression="zstd",
        statistics=False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("trick", TABLES)
def test_item_tables_that_lie_are_refused(hostile, tmp_path, trick):
    data = TABLES[trick]()
    assert len(data) < 2_000_000
    hostile.replace_items(data)
    _refused(hostile, tmp_path, match="items-evil.parquet")


def _one_value(value: bytes, n: int, dtype: str) -> bytes:
    """Return a table of n thumbnails, all of them one entry of a dictionary of ``dtype``."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    held = {"binary": arrow.binary(), "string": arrow.string(), "fixed": arrow.binary(len(value))}
    entry = arrow.array([value if dtype != "string" else value.decode()], held[dtype])
    column = arrow.DictionaryArray.from_arrays(arrow.array([0] * n, arrow.int32()), entry)
    if dtype == "fixed":
        column = column.dictionary_decode()
    buffer = io.BytesIO()
    table = arrow.table({"item_id": [f"b/{i:02d}" for i in range(n)], "webp": column})
    parquet.write_table(table, buffer, compression="zstd", store_schema=False)
    return buffer.getvalue()


def test_a_huge_dictionary_is_refused(hostile, tmp_path):
    data = _one_value(b"x" * 2**27, 40, "string")
    assert len(data) < 20_000
    hostile.replace_items(data)
    _refused(hostile, tmp_path, match="would become 134,")


def test_rows_that_something_vouches_for_are_read_and_no_others(monkeypatch):
    table = pl.select(item_id=pl.format("i{}", pl.int_range(1_000_000)), split=pl.lit("x"))
    data = table_bytes(table.with_columns(**{f"c{i}": pl.lit("same") for i in range(12)}))
    with pytest.raises(CorruptStoreError, match=r"would become [\d,]{9,} in memory"):
        read_table(data, where="x", schema={}, rows=1000)
    assert read_table(data, where="x", schema={"item_id": pl.String}, rows=1_000_000).height > 1000
    # A set may say that it has any number of rows: then the machine is the bound.
    monkeypatch.setattr(parquet_guard, "_memory_bytes", lambda: 2**28)
    with pytest.raises(CorruptStoreError, match="more than the 134,217,728"):
        read_table(data, where="x", schema={}, rows=1_000_000)


def test_failures_and_thumbnails_are_checked_too(hostile, tmp_path):
    data = TABLES["zeros that zstd shrinks"]()
    hostile.add_thumbnails(data)
    _refused(hostile, tmp_path, match="thumbnails", verified=True)
    (hostile.directory / "failures.parquet").write_bytes(data)
    facts = {"bytes": len(data), "sha256": sha256_hex(data)}
    hostile.recommit(lambda document: document["metadata"].update({"failures.parquet": facts}))
    _refused(hostile, tmp_path, match="failures.parquet")


@pytest.mark.parametrize(
    ("dtype", "n_bytes", "n"),
    [("binary", 2**20, 200), ("string", 2**20, 200), ("fixed", 2**14, 8_000)],
)
def test_rows_that_share_a_value_count_each(hostile, tmp_path, dtype, n_bytes, n):
    data = _one_value(b"x" * n_bytes, n, dtype)
    assert len(data) < 2_200_000
    with pytest.raises(CorruptStoreError, match=r"would become [\d,]{9,} in memory"):
        read_table(data, where="x", schema={"webp": pl.Binary})
    hostile.add_thumbnails(data)
    _refused(hostile, tmp_path, match="thumbnails", verified=True)


def test_many_tables_that_are_just_small_enough_count_together(hostile, tmp_path):
    files = [_one_value(b"x" * 2**20 + bytes([i]), 60, "binary") for i in range(20)]
    assert all(read_table(data, where="x", schema={}).height == 60 for data in files)
    hostile.add_thumbnails(*files)
    _refused(hostile, tmp_path, match="unpack to far more than they are", verified=True)


@pytest.mark.parametrize("entry", [(0, 256), (2**63, 256), (2**64 - 1, 1), (512, 2**62), (1, 256)])
def test_index_entries_that_overlap_or_point_outside_serve_nothing(hostile, entry):
    """Our reader does not follow the index: block b lies at b × its size. Verify names the lie."""
    path = hostile.directory / "embedding" / "c" / "0" / "0"
    before = open_store(hostile.root).view(hostile.key).numpy()
    data = bytearray(path.read_bytes())
    commit = read_commit(hostile.directory, hostile.commit_path.stem)
    file = commit.layout.files[0]
    start = file.size - len(shard_index(file.part, 1)) * 16 - 4 + 16
    data[start : start + 16] = b"".join(value.to_bytes(8, "little") for value in entry)
    path.write_bytes(data)
    assert (open_store(hostile.root).view(hostile.key).numpy() == before).all()
    assert "index" in check_file(path, file, commit)[0][0]


@pytest.mark.parametrize(
    "name", ["abc", "../x-0.y", "/etc/host-name", "a/../thumbnails-0badcafe.parquet", "a/b/c-", 3]
)
def test_a_log_lists_nothing_elsewhere(hostile, name):
    relog(hostile.root, thumbnails=[name])
    with pytest.raises(CorruptStoreError, match="not the log that Headstock wrote"):
        read_log(hostile.root)
    (problem,) = verify_store(hostile.root).problems
    assert problem.path == "log.json"


def test_asking_for_thumbnails_elsewhere_is_refused(hostile):
    for name in ("../birds", "..", "/etc", "a\x00b", "C:"):
        with pytest.raises(FeatstoreError, match="not a name that a store can hold"):
            open_store(hostile.root).thumbnails(name)
