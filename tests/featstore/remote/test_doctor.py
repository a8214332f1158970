"""The doctor finds what is wrong, says what to do, and writes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from featstore.command_line import EXIT_VERIFY
from tests.featstore.remote.conftest import make_store
from tests.featstore.remote.proxy import Answer, Proxy
from tests.typed import headstock


def doctor(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict[str, Any]]:
    code = headstock("doctor", *args, "--json")
    found = json.loads(capsys.readouterr().out)
    return code, {row["what"]: row for row in found}


def test_all_is_well(store_folder: Path, served: Proxy, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(capsys)[0] == 0
    for place in (store_folder, served.url):
        code, found = doctor(capsys, place)
        assert code == 0
        assert found["sets"]["text"] == "2 can be opened"
        assert {row["state"] for row in found.values()} == {"fine"}
    assert headstock("doctor", store_folder) == 0
    assert re.search(
        r"^OK  permissions +can be written by you$", capsys.readouterr().out, re.MULTILINE
    )


def test_a_damaged_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_store(tmp_path / "own")
    next(root.glob("birds/image/*/revisions/*.json")).unlink()
    next(root.glob("birds/caption/*/embedding/c/0/0")).write_bytes(b"short")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    code, found = doctor(capsys, root)
    assert code == EXIT_VERIFY
    assert found["sets"]["text"] == "1 can be opened"
    assert "repair" in found["files"]["advice"]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_server_that_is_away_or_lacks_its_log(
    served: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    served.harm = lambda path, number, answer: Answer(404, {}, b"") if "log.json" in path else None
    code, found = doctor(capsys, served.url)
    assert (code, found["store"]["state"]) == (EXIT_VERIFY, "wrong")
    served.down = True
    code, found = doctor(capsys, served.url + "/other")
    assert (code, found["store"]["state"]) == (EXIT_VERIFY, "wrong")


def test_a_cache_that_cannot_be_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    code, found = doctor(capsys)
    assert (code, "HEADSTOCK_CACHE" in found["cache"]["advice"]) == (EXIT_VERIFY, True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HEADSTOCK_CACHE_SIZE", "much")
    assert doctor(capsys)[0] == EXIT_VERIFY
    monkeypatch.setenv("HEADSTOCK_CACHE_SIZE", "1000")
    monkeypatch.setenv("HEADSTOCK_OFFLINE", "1")
    code, found = doctor(capsys)
    assert (code, found["offline"]["state"]) == (0, "note")
    assert (tmp_path / "headstock" / "remote").is_dir()
