"""The card of a store, and its Croissant metadata."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import polars as pl
import pytest

from featstore import open_store
from featstore.share.card import markdown, set_cards
from featstore.store import verify_store
from tests.featstore.remote.conftest import make_store
from tests.typed import headstock


def card(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert headstock("store", "card", *args) == 0
    return capsys.readouterr().out


def test_the_card_says_what_there_is(store_folder, served, capsys):
    text = card(capsys, store_folder, "--name", "Birds", "--licence", "birds=CC-BY-4.0")
    info = open_store(store_folder).info("birds/image/toy")
    assert text.startswith("# Birds\n")
    assert "Frozen embeddings: 2 sets, 1,020 rows" in text
    assert "| birds | CC-BY-4.0 |" in text
    row = next(line for line in text.splitlines() if line.startswith(f"| {info.key} |"))
    for part in ("timm:toy", "1,000 × 256", "float32", "| 1 |", info.commit.revision_id):
        assert part in row
    assert card(capsys, served.url, "--name", "Birds", "--licence", "birds=CC-BY-4.0") == text
    assert "| not stated |" in card(capsys, store_folder)


def test_every_file_of_the_metadata_is_there_with_its_hash(tmp_path, capsys):
    root = make_store(tmp_path / "own")
    card(capsys, root, "-o", root)
    document: dict[str, Any] = json.loads((root / "croissant.json").read_text())
    assert document["license"] == "not stated"
    assert len(document["distribution"]) == 4
    for file in document["distribution"]:
        data = (root / file["contentUrl"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file["sha256"]
        assert file["contentSize"] == f"{len(data)} B"
    for record in document["recordSet"]:
        (table,) = {field["source"]["fileObject"]["@id"] for field in record["field"]}
        columns = [field["source"]["extract"]["column"] for field in record["field"]]
        assert columns == pl.read_parquet(root / table).columns
    assert verify_store(root).problems == []  # the two files beside the sets are known


def test_names_of_strangers_make_no_markup(store_folder):
    cards = set_cards(open_store(store_folder), {"birds": "x | <script>\n[a](b)"})
    text = markdown("x", cards)
    assert "<script>" not in text
    assert r"x \| &lt;script&gt; \[a](b)" in text
