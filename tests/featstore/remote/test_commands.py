"""The commands of sharing, as a user types them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from featstore import open_store
from tests.typed import headstock

IMAGES = "birds/image/toy"


#: A pattern that fits IMAGES alone.
FEW = "*/image/*"


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = headstock(*args)
    said = capsys.readouterr()
    return code, said.out, said.err


def run_json(capsys: pytest.CaptureFixture[str], *args: object) -> Any:
    code, out, err = run(capsys, *args, "--json")
    assert code == 0, err
    return json.loads(out)


def test_pull_what_fits_a_pattern(served, tmp_path, capsys):
    code, out, _ = run(
        capsys, "store", "pull", served.url, tmp_path / "own", "--select", "*/caption/*"
    )
    assert code == 0
    assert "1 received" in out
    assert [info.key.kind for info in open_store(tmp_path / "own").sets()] == ["caption"]
    code, _, err = run(capsys, "store", "pull", served.url, tmp_path / "own", "--select", "cats/*")
    assert (code, "no set that fits" in err) == (2, True)


def test_prefetch_and_the_cache(served, capsys):
    code, out, _ = run(capsys, "store", "pull", served.url, "--cache-only", "--select", FEW)
    assert code == 0
    assert "in the cache" in out
    assert run_json(capsys, "cache")["shards"] == 4
    (again,) = run_json(capsys, "store", "pull", served.url, "--cache-only", "--select", FEW)
    info = open_store(served.url).info(IMAGES)
    assert (again["key"], again["revision_id"]) == (str(info.key), info.commit.revision_id)
    assert again["bytes"] == open_store(served.url).stored_bytes(info)
    removed = run_json(capsys, "cache", "--max-size", 300_000)
    assert removed["removed"] > 0
    assert removed["bytes"] <= 300_000
    code, out, _ = run(capsys, "cache", "--max-size", "0")
    assert (code, "holds 0 shards, 0 B" in out) == (0, True)
