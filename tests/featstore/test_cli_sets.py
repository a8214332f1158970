"""``ls``, ``show`` and ``rm``: what they print is what the set holds."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from featstore.command_line import EXIT_ERROR, EXIT_USAGE, EXIT_VERIFY
from featstore.store import LayoutLimits, SetSpec, SetWriter, row_facts
from featstore.testing import item_table, write_set
from tests.assertions import assert_close
from tests.damage import tree
from tests.featstore.store.conftest import view_of
from tests.typed import headstock

KEY = "birds/image/toy"
TOY = SetSpec("birds", "image", "timm:toy", {"name": "toy"}, "float16")


def _write(root: Path, n: int, fail: tuple[int, ...] = (), **key: str) -> str:
    items = item_table(
        [f"b/{i}" for i in range(n)],
        split=["train" if i % 2 else None for i in range(n)],
    )
    rows = np.array([(3, 4) if i < 6 else (i, 0) for i in range(n)])
    return write_set(
        root, rows, items, **key, space={"name": "toy"}, dtype="float16", block_rows=4,
        facts={"manifest_revision": "r7"}, failures={f"b/{i}": "torn" for i in fail},
        run={"date": "2026-05-21", "device": "cpu", "batch": 32, "versions": {"torch": "2.9"}},
    )  # fmt: skip


def test_show_says_what_the_set_is(tmp_path, capsys):
    _write(tmp_path, 8)
    key = _write(tmp_path, 12, fail=(11,))
    assert headstock("show", tmp_path, KEY, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    # Rows: six times (3, 4), then (6, 0), (7, 0) … (10, 0); the last failed.
    assert shown["norms"] == {
        "min": 5, "median": 5, "max": 10, "mean": pytest.approx(70 / 11), "zero": 0
    }  # fmt: skip
    assert shown["duplicates"] == {
        "groups": 1, "largest": 6, "extra": 5, "examples": [[f"b/{i}" for i in range(5)]]
    }  # fmt: skip
    assert [(r["n"], r["failed"], r["current"]) for r in shown["revisions"]] == [
        (8, 0, False), (12, 1, True)
    ]  # fmt: skip
    assert shown["failures"] == {"b/11": "torn"}
    assert shown["splits"] == {"None": 6, "train": 5}
    assert [run["device"] for run in shown["runs"]] == ["cpu", "cpu"]
    # What a copy of the rows needs of the set's files: no pointer, commits, runs or item table.
    no_part = re.compile("revisions/|runs/|.*zarr.json$")
    files = tree(tmp_path / key)
    assert shown["bytes"] == sum(len(files[name]) for name in files if not no_part.match(name))
    old = shown["revisions"][0]["revision_id"]
    assert headstock("show", tmp_path, f"{KEY}@{old[:9]}", "--json") == 0
    earlier = json.loads(capsys.readouterr().out)
    assert (earlier["revision_id"], earlier["n"], earlier["failures"]) == (old, 8, {})
    assert earlier["norms"]["max"] == 7


@settings(max_examples=40, deadline=None)
@given(
    arrays.arrays(np.int8, st.tuples(st.integers(1, 30), st.integers(1, 2)),
                  elements=st.integers(-1, 1)),
    st.sampled_from(["float16", "float32", "float64"]),
)  # fmt: skip
def test_norms_and_equal_rows_agree_with_counting(small, dtype):
    rows = small.astype(dtype)
    norms, equal = row_facts(view_of(rows))
    expected = np.linalg.norm(rows.astype(np.float64), axis=1)
    assert_close(
        [norms[name] for name in ("min", "median", "mean", "max")],
        [expected.min(), np.median(expected), expected.mean(), expected.max()],
        "float32",
    )
    assert norms["zero"] == int((expected == 0).sum())
    counts = [count for count in Counter(row.tobytes() for row in rows).values() if count > 1]
    assert (equal["groups"], equal["largest"], equal["extra"]) == (
        len(counts), max(counts, default=0), sum(counts) - len(counts)
    )  # fmt: skip
    for names in equal["examples"]:
        assert len({rows[int(name[1:])].tobytes() for name in names}) == 1


def test_an_unfinished_set_goes_by_its_short_name(tmp_path, capsys):
    items = pl.DataFrame({"item_id": [str(i) for i in range(9)]})
    limits = LayoutLimits(block_rows=4, plain_bytes=0)
    _write(tmp_path, 5, dataset="other")
    with SetWriter(tmp_path, replace(TOY, dtype="float32"), items, 2, limits=limits) as writer:
        writer.write_block(0, np.ones((4, 2)))
        assert headstock("ls", tmp_path) == 0
        assert f"being written since {time.strftime('%Y-')}" in capsys.readouterr().out
    assert headstock("ls", tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)[1:] == [
        {"key": str(writer.key), "state": "unfinished"}
    ]
    assert headstock("show", tmp_path, KEY) == EXIT_ERROR
    assert "is not complete" in capsys.readouterr().err
    assert headstock("store", "rm", tmp_path, KEY, "--json") == 0
    assert json.loads(capsys.readouterr().out)["removed"] == str(writer.key)
    assert not writer.directory.exists()


def test_verify_takes_the_beginning_of_a_key(tmp_path, capsys):
    written = [
        _write(tmp_path, 5, dataset=dataset, kind=kind, encoder=encoder)
        for dataset, kind, encoder in (
            ("birds", "image", "timm:toy"), ("birds", "image", "timm:toy2"),
            ("birds", "caption", "st:toy"), ("birdsong", "image", "timm:toy"),
        )
    ]  # fmt: skip
    for keys, sets in (
        ([], 4), (["birds"], 3), (["birds/"], 3), (["birds/image"], 2), (["birdsong"], 1),
        (["birds/image", "birds/caption"], 3), (["birds/image", "birds/image/toy2"], 2),
        (["birds/image/timm"], 2), (written[:2], 2),
    ):  # fmt: skip
        assert headstock("store", "verify", tmp_path, *keys, "--json") == 0
        assert json.loads(capsys.readouterr().out)["sets"] == sets, keys
    next((tmp_path / written[0]).rglob("c/0/0")).write_bytes(b"short")
    assert headstock("store", "verify", tmp_path, "birds/caption", "birdsong") == 0
    assert headstock("store", "verify", tmp_path, "birds") == EXIT_VERIFY
    for key in ("bird", "birds/ima", "birds/image/oy"):  # whole parts, and from the beginning
        capsys.readouterr()
        assert headstock("store", "verify", tmp_path, key) == EXIT_USAGE
        assert f"holds no set '{key}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "store init STORE", "ls STORE", "ls --available encoders", "show STORE KEY",
        "store verify STORE", "store gc STORE", "store diff STORE STORE", "store tag STORE v1",
        "store tag STORE v1 --delete", "store card STORE", "store card STORE -o OUT",
        "store push STORE OUT/copy", "store pull STORE OUT/copy", "store repair STORE KEY",
        "store push STORE OUT/copy --both", "export STORE KEY -o OUT/rows --format npy",
        "cache", "ls --available datasets", "ls --available sources", "show stamps",
        "store rm STORE KEY",
    ],
)  # fmt: skip
def test_json_is_one_document_on_stdout(words, tmp_path, capsys):
    _write(tmp_path / "store", 4)
    (tmp_path / "out").mkdir()
    places = {"STORE": str(tmp_path / "store"), "OUT": str(tmp_path / "out"), "KEY": KEY}
    typed = re.sub("|".join(places), lambda found: places[found[0]], words)
    assert headstock(*typed.split(), "--json") == 0
    json.loads(capsys.readouterr().out)
