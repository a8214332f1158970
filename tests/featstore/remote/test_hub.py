"""A dataset of the hub, read through huggingface_hub's own file system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from featstore import open_store
from featstore.address import parse_address
from featstore.command_line import run_command
from featstore.errors import CorruptStoreError, RemoteStoreError, UnknownSetError, UnreachableError
from featstore.remote.objects import open_objects
from headstock.__main__ import cli
from tests.featstore.remote.hub_server import Hub, hub_server
from tests.fitters.toy_store import write_toy_store

IMAGES = "birds/image/toy"


@pytest.fixture
def hub(store_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with hub_server(store_folder.parent, "team/birds") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield f"hf://datasets/team/birds/{store_folder.name}"


def test_offline_the_hub_is_not_asked(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = open_store(hub).view(IMAGES).numpy()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.warns(UserWarning, match="HF_HUB_OFFLINE is set"):
        store = open_store(hub)
    np.testing.assert_array_equal(store.view(IMAGES).numpy(), rows)
    with pytest.raises(UnreachableError, match="HF_HUB_OFFLINE is set"):
        open_store(f"{hub}-other")


def test_what_is_not_there(hub: str) -> None:
    with pytest.raises(UnknownSetError, match="no store"):
        open_store(hub + "x")
    with pytest.raises(RemoteStoreError, match="no dataset of the hub"):
        open_store("hf://models/team/birds")


@pytest.mark.parametrize(
    "wrong", [{"path": 5}, {"path": ["a"]}, {"size": "7"}, {"size": -1}, {"size": 2**60}], ids=str
)
def test_a_list_with_what_is_no_file_is_refused_in_one_line(
    hub: str,
    wrong: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    facts = Hub.facts
    monkeypatch.setattr(Hub, "facts", lambda hub, path, data: {**facts(hub, path, data), **wrong})
    with pytest.raises(CorruptStoreError, match="lists a file of which it states"):
        list(open_objects(parse_address(hub)).names())  # type: ignore[arg-type]
    write_toy_store(tmp_path / "own")
    assert run_command(cli, "headstock", ["store", "push", str(tmp_path / "own"), hub]) == 1
    assert "lists a file of which it states" in capsys.readouterr().err.splitlines()[-1]


def test_a_list_of_too_many_files_is_refused(
    hub: str, store_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = sum(path.is_file() for path in store_folder.rglob("*"))
    monkeypatch.setenv("HEADSTOCK_MOST_NAMES", str(n))
    assert len(list(open_objects(parse_address(hub)).names())) == n  # type: ignore[arg-type]
    monkeypatch.setenv("HEADSTOCK_MOST_NAMES", str(n - 1))
    with pytest.raises(CorruptStoreError, match=f"lists more than {n - 1} files"):
        list(open_objects(parse_address(hub)).names())  # type: ignore[arg-type]
