"""The commands of sharing as a user types them: what is pulled, what a card and the doctor say."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from featstore import open_store
from featstore.command_line import EXIT_VERIFY
from featstore.share.card import markdown, set_cards
from tests.featstore.remote.conftest import IMAGES, make_store
from tests.featstore.remote.proxy import Answer
from tests.typed import headstock


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
    words = ("store", "pull", served.url, "--cache-only", "--select", "*/image/*")
    code, out, _ = run(capsys, *words)
    assert (code, "in the cache" in out) == (0, True)
    assert run_json(capsys, "cache")["shards"] == 4
    (again,) = run_json(capsys, *words)
    info = open_store(served.url).info(IMAGES)
    assert (again["key"], again["revision_id"]) == (str(info.key), info.commit.revision_id)
    assert again["bytes"] == open_store(served.url).stored_bytes(info)
    removed = run_json(capsys, "cache", "--max-size", 300_000)
    assert removed["removed"] > 0
    assert removed["bytes"] <= 300_000
    code, out, _ = run(capsys, "cache", "--max-size", "0")
    assert (code, "holds 0 shards, 0 B" in out) == (0, True)


# ---- the card ------------------------------------------------------------------------------


def card_of(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    code, out, _ = run(capsys, "store", "card", *args)
    assert code == 0
    return out


def test_the_card_says_what_there_is(store_folder, served, capsys):
    text = card_of(capsys, store_folder, "--name", "Birds", "--licence", "birds=CC-BY-4.0")
    info = open_store(store_folder).info("birds/image/toy")
    assert text.startswith("# Birds\n")
    assert "Frozen embeddings: 2 sets, 1,020 rows" in text
    assert "| birds | CC-BY-4.0 |" in text
    row = next(line for line in text.splitlines() if line.startswith(f"| {info.key} |"))
    for part in ("timm:toy", "1,000 × 256", "float32", "| 1 |", info.commit.revision_id):
        assert part in row
    assert card_of(capsys, served.url, "--name", "Birds", "--licence", "birds=CC-BY-4.0") == text
    assert "| not stated |" in card_of(capsys, store_folder)


def test_names_of_strangers_make_no_markup(store_folder):
    text = markdown("x", set_cards(open_store(store_folder), {"birds": "x | <script>\n[a](b)"}))
    assert "<script>" not in text
    assert r"x \| &lt;script&gt; \[a](b)" in text


# ---- the doctor finds what is wrong, says what to do, and writes nothing -------------------


def doctor(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict[str, Any]]:
    code, out, _ = run(capsys, "doctor", *args, "--json")
    return code, {row["what"]: row for row in json.loads(out)}


def test_all_is_well(store_folder, served, capsys):
    assert doctor(capsys)[0] == 0
    for place in (store_folder, served.url):
        code, found = doctor(capsys, place)
        assert code == 0
        assert found["sets"]["text"] == "2 can be opened"
        assert {row["state"] for row in found.values()} == {"fine"}
    _, out, _ = run(capsys, "doctor", store_folder)
    assert re.search(r"^OK  permissions +can be written by you$", out, re.MULTILINE)


def test_a_damaged_store(tmp_path, capsys):
    root = make_store(tmp_path / "own")
    next(root.glob("birds/image/*/revisions/*.json")).unlink()
    next(root.glob("birds/caption/*/embedding/c/0/0")).write_bytes(b"short")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    code, found = doctor(capsys, root)
    assert code == EXIT_VERIFY
    assert found["sets"]["text"] == "1 can be opened"
    assert "repair" in found["files"]["advice"]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_server_that_is_away_or_lacks_its_log(served, capsys):
    served.harm = lambda path, number, answer: Answer(404, {}, b"") if "log.json" in path else None
    code, found = doctor(capsys, served.url)
    assert (code, found["store"]["state"]) == (EXIT_VERIFY, "wrong")
    served.down = True
    code, found = doctor(capsys, served.url + "/other")
    assert (code, found["store"]["state"]) == (EXIT_VERIFY, "wrong")


def test_a_cache_that_cannot_be_used(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    code, found = doctor(capsys)
    assert (code, "HEADSTOCK_CACHE" in found["cache"]["advice"]) == (EXIT_VERIFY, True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HEADSTOCK_CACHE_SIZE", "much")
    assert doctor(capsys)[0] == EXIT_VERIFY
    monkeypatch.setenv("HEADSTOCK_CACHE_SIZE", "1000")
    assert doctor(capsys)[0] == 0
    assert (tmp_path / "headstock" / "remote").is_dir()
