"""A fault at each file call of the commands that make manifests, import and export.

The same command again ends well, with the bytes of an undisturbed run and nothing beside them.
``HEADSTOCK_FAULTS=all`` takes every call for every fault; a default run every rename, and a
fixed sample of the others.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from featstore.testing import item_table, write_set
from tests.faults.conftest import Children
from tests.faults.test_every_call import EVERYTHING, KILLED
from tests.faults.trees import tree

#: Name -> the commands before, and the one whose calls fail. ``{root}`` is written to.
COMMANDS: dict[str, list[str]] = {
    "labels": ["manifests labels {inputs}/birds.txt -o {root}/made"],
    "more labels": [
        "manifests labels {inputs}/birds.txt -o {root}/made --templates photo",
        "manifests labels {inputs}/birds.txt -o {root}/made --templates none,photo",
    ],
    "build": ["manifests build stamps --source {inputs}/stamps -o {root}/made"],
    "build again": [
        "manifests build stamps --source {inputs}/stamps -o {root}/made",
        "manifests build stamps --source {inputs}/fewer -o {root}/made",
    ],
    "make": ["manifests make folder {inputs}/photos -o {root}/made"],
    "make again": [
        "manifests make class-folders {inputs}/photos -o {root}/made",
        "manifests make folder {inputs}/photos -o {root}/made",
    ],
    "shots": ["manifests shots {inputs}/classes -o {root}/made --seeds 1 --shots 1 --val 0"],
    "import": [
        (
            "import {inputs}/rows.npy --items {inputs}/items.csv --store {root} --dataset birds "
            "--kind image --encoder their:vit"
        )
    ],
    **{
        f"export {form}": [
            "export {inputs}/store birds/image/timm.toy -o {root}/out --format " + form
        ]
        for form in ("npy", "safetensors", "parquet", "h5")
    },
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from featstore.sources.making import make_manifest

    root = tmp_path_factory.mktemp("inputs")
    (root / "birds.txt").write_text("gull\nauk\n")
    for number, path in enumerate(["animals/frog", "animals/toad", "food/apple"]):
        for folder in ("stamps", "photos", "fewer")[: 2 if number == 1 else 3]:
            file = root / folder / f"{path}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGBA", (9, 8 + number), "red").save(file)
            file.with_suffix(".txt").write_text(f"A {file.stem}.\n")
    make_manifest("class-folders", root / "photos", root / "classes", options={"split": "train"})
    rows = np.arange(1, 61, dtype=np.float32).reshape(10, 6)
    np.save(root / "rows.npy", rows)
    ids = [f"birds/{i}" for i in range(10)]
    pl.DataFrame({"item_id": ids}).write_csv(root / "items.csv")
    write_set(root / "store", rows, item_table([{"item_id": item} for item in ids]))
    return root


def _everything(root: Path) -> dict[str, bytes | None]:
    """Return all files and folders below `root` but what a store says of its runs."""
    found = tree(root)
    hidden = {path.relative_to(root).as_posix(): None for path in root.rglob(".*")}
    return {**found, **{name: found.get(name) for name in hidden if name != ".source.json"}}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("fault", ["before", "after", "torn", "EIO", "ENOSPC", "full"])
def test_the_same_command_again_ends_well(
    faulty: Children, inputs: Path, memory: Path, tmp_path: Path, name: str, fault: str
) -> None:
    messages = tmp_path / "messages"

    def run(root: Path, command: str, **request: Any) -> dict[str, Any]:
        arguments = command.format(root=root, inputs=inputs, key="birds/image/timm.toy").split()
        args = {"arguments": arguments, "messages": str(messages)}
        return faulty.run("command", root, args=args, **request)

    def prepare(root: Path) -> Path:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for command in before:
            assert run(root, command)["value"] == 0, messages.read_text()
        return root

    *before, last = COMMANDS[name]
    root = prepare(memory / "root")
    report = run(root, last, fault={"mode": "none"})
    assert report["value"] == 0, messages.read_text()
    calls, whole = report["calls"], _everything(root)
    numbers = range(1, len(calls) + 1)
    if not EVERYTHING:
        renames = [n for n in numbers if fault == "before" and "rename " in calls[n - 1]]
        numbers = sorted(
            {*numbers[ord(fault[0]) % 7 :: 7], *(renames if fault == "before" else [])}
        )
    modes: dict[str, dict[str, Any]] = {
        "EIO": {"mode": "fail", "errno": errno.EIO},
        "ENOSPC": {"mode": "fail", "errno": errno.ENOSPC},
        "full": {"mode": "fail_from", "errno": errno.ENOSPC},
    }
    for at in numbers:
        where = f"{fault} at call {at} of {len(calls)}: {calls[at - 1]}"
        root = prepare(root)
        report = run(root, last, fault={"mode": fault, "at": at, **modes.get(fault, {})})
        if fault not in modes:
            assert report["code"] == KILLED, where
        else:
            said = messages.read_text()
            assert report["code"] == 0, f"{where}: {report}"
            assert said.count("error: ") == (report["value"] != 0), f"{where}: {said}"
        assert run(root, last)["value"] == 0, f"again after {where}: {messages.read_text()}"
        assert _everything(root) == whole, where
