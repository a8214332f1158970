"""The embeddings convention: what Headstock states, and what the validator finds in any group."""

from __future__ import annotations

import functools
import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zarr

from featstore.cli import cli
from featstore.command_line import EXIT_VERIFY, run_command
from featstore.errors import RemoteStoreError, UnknownSetError
from featstore.identity import sha256_hex
from featstore.store.convention import UUID, Fault, validate
from featstore.testing import item_table, write_set
from tests.featstore.remote.buckets import environment, make_bucket, plain_store
from tests.goldens.store_bytes import write_store

pytest.importorskip("jsonschema", reason="needs the extra `report`")

PAGE = Path(__file__).parents[3] / "docs" / "embeddings-convention.md"

#: Heading of the page -> the program below it.
PROGRAMS = dict(
    re.findall(r"\n## ([^\n]+)\n\n```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
)

Attributes = dict[str, Any]


def _run(heading: str) -> None:
    exec(compile(PROGRAMS[heading], PAGE.name, "exec"), {"__name__": "embeddings_convention"})


@pytest.fixture
def birds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The group that the page writes with zarr alone: four rows of three numbers."""
    monkeypatch.chdir(tmp_path)
    _run("Write it with zarr")
    return tmp_path / "birds"


def test_what_the_page_writes_conforms(birds: Path) -> None:
    found = validate(birds)
    assert (found.groups, found.faults) == (["."], [])
    assert [note.what.split(" ")[0] for note in found.notes] == [
        f"attributes.embeddings.{name}" for name in ("weights_digest", "preprocessing", "revision")
    ]
    assert validate(birds.parent).groups == ["birds"]


@pytest.mark.usefixtures("birds")
@pytest.mark.parametrize("library", ["zarr", "xarray", "datasets"])
def test_the_page_reads_it_with(library: str) -> None:
    module = pytest.importorskip(library)
    if library == "datasets":
        module.disable_progress_bars()
    _run(f"Read it with {library}")


@pytest.mark.usefixtures("birds")
@pytest.mark.filterwarnings("ignore:.*`use_.*is deprecated:DeprecationWarning")
def test_the_page_reads_it_with_ray(ray_cluster: Any) -> None:
    assert ray_cluster.is_initialized()
    _run("Read it with Ray Data")


def _attributes(group: Path, change: Callable[[Attributes], object]) -> None:
    document = json.loads((group / "zarr.json").read_text())
    change(document["attributes"])
    (group / "zarr.json").write_text(json.dumps(document))


def _stated(**changes: Any) -> Callable[[Path], None]:
    """Return a change of properties; None takes one away."""

    def change(attributes: Attributes) -> None:
        stated = {**attributes["embeddings"], **changes}
        attributes["embeddings"] = {name: v for name, v in stated.items() if v is not None}

    return lambda group: _attributes(group, change)


def _table(change: Callable[[pl.DataFrame], pl.DataFrame], *, told: bool = True) -> Any:
    """Return a change of the item table; `told` says that its hash is stated."""

    def apply(group: Path) -> None:
        path = group.parent / "items.parquet"
        change(pl.read_parquet(path)).write_parquet(path)
        if told:
            digest = sha256_hex(path.read_bytes())
            _attributes(group, lambda found: found["embeddings"]["items"].update(sha256=digest))

    return apply


def _row(number: int, values: float) -> Callable[[Path], None]:
    def apply(group: Path) -> None:
        array: Any = zarr.open_array(str(group / "embedding"), mode="r+")
        array[number] = values

    return apply


@dataclass(frozen=True)
class Broken:
    """A change of the page's group, and the one fault that is found then."""

    change: Callable[[Path], object]
    where: str
    what: str


BROKEN = {
    "no properties": Broken(
        lambda group: _attributes(group, lambda found: found.pop("embeddings")),
        "zarr.json", "attributes: 'embeddings' is a required property"),
    "a declaration with more fields": Broken(
        lambda group: _attributes(group, lambda f: f["zarr_conventions"][0].update(version="1")),
        "zarr.json", "attributes.zarr_conventions.0: Additional properties are not allowed"),
    "no space": Broken(
        _stated(space=None), "zarr.json",
        "attributes.embeddings: 'space' is a required property"),
    "a typing error": Broken(
        _stated(licence="MIT"), "zarr.json",
        "attributes.embeddings: 'licence' does not match any of the regexes"),
    "a path that leaves the store": Broken(
        _stated(array="/etc/hosts"), "zarr.json",
        "attributes.embeddings.array: '/etc/hosts' does not match"),
    "other dimensions": Broken(
        _stated(dimensions=4), "embedding", "has shape (4, 3); dimensions says (n, 4)"),
    "another type": Broken(
        _stated(data_type="float16"), "embedding",
        "has the data type float32; data_type says float16"),
    "no array": Broken(
        _stated(array="vectors"), "vectors", "is not a Zarr v3 array that can be opened"),
    "no table": Broken(
        lambda group: (group.parent / "items.parquet").unlink(), "../items.parquet", "is missing"),
    "another table": Broken(
        _table(lambda table: table.with_columns(split=pl.lit("val")), told=False),
        "../items.parquet", "has another sha256 than items.sha256"),
    "a table of fewer rows": Broken(
        _table(lambda table: table.head(3)), "../items.parquet",
        "has 3 rows; the array has 4"),
    "an item twice": Broken(
        _table(lambda table: table.with_columns(item_id=pl.lit("a"))), "../items.parquet",
        "does not have another 'item_id' in every row"),
    "no key": Broken(
        _table(lambda table: table.drop("item_id")), "../items.parquet",
        "has no column 'item_id', which items.key names"),
    "a value that is no number": Broken(
        lambda group: zarr.open_array(str(group / "embedding"), mode="r+").set_basic_selection(
            (2, 1), float("inf")), "embedding", "row 2 holds NaN or Inf"),
    "a missing row": Broken(
        _row(1, float("nan")), "embedding", "has 1 rows of NaN; missing_rows.count is 0"),
    "no missing row": Broken(
        _stated(missing_rows={"count": 1, "value": 0}), "embedding",
        "has 0 rows of 0; missing_rows.count is 1"),
    "another norm": Broken(_stated(normalized=True), "embedding", "row 0 has norm"),
    "no biases": Broken(_stated(bias="bias"), "bias", "is not a Zarr v3 array that can be"),
    "no record": Broken(
        _stated(revision={"id": "1", "record": "record.json"}), "record.json", "is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_group_is_found(name: str, birds: Path) -> None:
    broken = BROKEN[name]
    broken.change(birds)
    (fault,) = validate(birds).faults
    assert fault.where == broken.where
    assert broken.what in fault.what


def test_a_row_of_nan_is_fine_where_it_is_stated(birds: Path) -> None:
    _row(1, float("nan"))(birds)
    _stated(missing_rows={"count": 1, "value": "NaN"})(birds)
    _stated(**{"geoemb:gsd": 10.0})(birds)
    assert validate(birds).ok


@pytest.mark.parametrize("version", [1, 2])
def test_every_set_of_headstock_conforms(version: int, tmp_path: Path) -> None:
    """Of every kind and dtype, extended, with failures and biases; format 1 states nothing."""
    write_store(tmp_path, version)
    if version == 1:
        with pytest.raises(UnknownSetError, match=UUID):
            validate(tmp_path)
        return
    found = validate(tmp_path)
    assert (len(found.groups), found.faults) == (7, [])
    stated = {}
    for path in tmp_path.glob("*/*/*/zarr.json"):
        one = json.loads(path.read_text())["attributes"]["embeddings"]
        stated[one["item_kind"], one["data_type"]] = one
    assert stated["image", "float16"]["missing_rows"] == {"count": 2, "value": "NaN"}
    assert stated["caption", "bfloat16"]["missing_rows"] == {"count": 1, "value": "NaN"}
    assert stated["head_weight", "float32"]["bias"] == "bias"
    assert stated["head_weight", "float32"]["space"] == stated["image", "float16"]["space"]


#: The facts of a space that encoders of images and texts record.
SPACE = {
    "name": "toy", "weights_sha256": "ab" * 32, "layer": "input of head", "normalized": True,
    "preprocessing": {"input_size": [3, 8, 8]},
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two sets of unit rows in one space: images, and rows of a head, which have other norms."""
    rows = np.eye(5, 4, dtype=np.float32) + np.eye(5, 4, k=-4, dtype=np.float32)
    items = item_table([f"birds/{i}" for i in range(5)])
    facts = {"manifest_revision": "3"}
    sizes = {"block_rows": 2, "plain_bytes": 0, "shard_bytes": 1}
    write_set(tmp_path / "s", rows, items, space=SPACE, facts=facts, dataset="birds", **sizes)
    write_set(
        tmp_path / "s", 3 * rows, items.with_columns(kind=pl.lit("head_weight")), space=SPACE,
        kind="head_weight", dataset="labels", bias=np.ones(5),
    )  # fmt: skip
    return tmp_path / "s"


def test_facts_of_an_encoder_are_stated(store: Path) -> None:
    assert validate(store).as_dict()["notes"] == []
    (path,) = store.glob("birds/image/*/zarr.json")
    document = json.loads(path.read_text())["attributes"]
    stated, ours = document["embeddings"], document["featstore"]
    assert stated["weights_digest"] == f"sha256:{'ab' * 32}"
    assert stated["space"] == {"id": ours["space_id"], "layer": "input of head"}
    assert stated["preprocessing"] == SPACE["preprocessing"]
    assert (stated["normalized"], stated["source_data"]) == (True, ["birds@3"])
    assert stated["revision"]["id"] == ours["revision"]
    (path,) = store.glob("labels/*/*/zarr.json")
    assert json.loads(path.read_text())["attributes"]["embeddings"]["normalized"] is False


def test_rows_are_compared_with_the_record_of_their_revision(store: Path) -> None:
    (folder,) = (path.parent for path in store.glob("birds/image/*/zarr.json"))
    name = folder.relative_to(store).as_posix()
    (record,) = (folder / "revisions").glob("*.json")
    data = folder / "embedding" / "c" / "0" / "0"
    whole = data.read_bytes()
    data.chmod(0o644)
    data.write_bytes(whole[:16] + whole[:16][::-1] + whole[32:])
    assert Fault(
        f"{name}/embedding", "has other rows from 0 than its record says"
    ) in validate(store).faults  # fmt: skip
    data.write_bytes(whole)
    record.chmod(0o644)
    record.write_text(record.read_text().replace('"n": 5', '"n": 6'))
    (fault,) = validate(store).faults
    assert fault == Fault(
        f"{name}/revisions/{record.name}", "does not hash to revision.id"
    )  # fmt: skip


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *said: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(store: Path) -> Iterator[str]:
    """A web server that knows neither listings nor ranges."""
    handler = functools.partial(_Quiet, directory=str(store))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_groups_at_an_address_are_validated(store: Path, server: str) -> None:
    """Those that the catalog of a store names, or the one that is addressed."""
    here = validate(store)
    assert validate(server).as_dict() == here.as_dict()
    assert validate(f"{server}/{here.groups[0]}").groups == ["."]
    (data,) = store.glob("birds/image/*/embedding/c/0/0")
    data.chmod(0o644)
    data.write_bytes(data.read_bytes()[::-1])
    assert {fault.where for fault in validate(server).faults} == {f"{here.groups[0]}/embedding"}
    with pytest.raises(RemoteStoreError, match="cannot list its files"):
        validate(f"{server}/birds")


def test_a_bucket_of_another_writer_is_listed(
    birds: Path, moto: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    obstore = pytest.importorskip("obstore", reason="needs the extra `remote`")
    endpoint = "http://{}:{}".format(*moto)
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)
    make_bucket(endpoint, "convention")
    _stated(revision={"id": "1", "record": "none.json"})(birds)
    for path in birds.parent.rglob("*"):
        if path.is_file():
            name = path.relative_to(birds.parent).as_posix()
            obstore.put(plain_store(endpoint, "convention"), f"team/{name}", path.read_bytes())
    found = validate("s3://convention/team")
    assert found.as_dict() == validate(birds.parent).as_dict()
    assert found.faults == [Fault("birds/none.json", "is missing")]


def test_the_command_prints_faults_and_exits_4(
    birds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(cli, "featstore", ["validate", "birds"]) == 0
    assert capsys.readouterr().out == "OK: 1 group conforms to the embeddings convention\n"
    _stated(dimensions=4)(birds)
    assert run_command(cli, "featstore", ["validate", "birds"]) == EXIT_VERIFY
    assert capsys.readouterr().out == "embedding has shape (4, 3); dimensions says (n, 4)\n"
    assert run_command(cli, "featstore", ["validate", "birds", "--json"]) == EXIT_VERIFY
    said = json.loads(capsys.readouterr().out)
    assert (said["ok"], said["groups"], len(said["faults"])) == (False, ["."], 1)
    assert run_command(cli, "featstore", ["validate", "."]) == EXIT_VERIFY
