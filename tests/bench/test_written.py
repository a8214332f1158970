"""Arrays, written as sets, are scored as what an extraction writes: head, controls and all."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.results import read_results
from featstore import write
from featstore.command_line import run_command
from headstock.__main__ import cli


def test_arrays_of_images_names_and_a_head_are_scored_with_controls(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    plant = rng.standard_normal((8, 12))
    texts, own = rng.standard_normal((60, 8)), rng.standard_normal((10, 8))
    which = np.repeat(np.arange(10), 6)
    images = own[which] @ plant + 0.3 * rng.standard_normal((60, 12)) + 2
    store = tmp_path / "store"
    vision, language = {"encoder": "mine:vision"}, {"encoder": "mine:language"}
    write(store, dataset="things", kind="image", rows=images, items={"class_id": which}, **vision)
    write(store, dataset="things", kind="class_name", rows=own, **language,
          items={"class_id": range(10), "text": [f"thing {i}" for i in range(10)]})  # fmt: skip
    write(store, dataset="labels", kind="head_weight", rows=texts @ plant, bias=np.zeros(60),
          items={"class_id": [f"label {i}" for i in range(60)]}, **vision)  # fmt: skip
    write(store, dataset="labels", kind="class_name", rows=texts, **language,
          items={"class_id": [f"label {i}" for i in range(60)],
                 "text": [f"label {i}" for i in range(60)]})  # fmt: skip
    command = (
        f"eval task zero_shot --store {store} --images things/image/mine:vision "
        "--names things/class_name/mine:language --head labels/head_weight/mine:vision "
        "--head-names labels/class_name/mine:language --prompts :none --eval all-names "
        f"--method ridge --source head,shuffled,random -o {tmp_path / 'results'}"
    )
    assert run_command(cli, "headstock", command.split()) == 0
    found = read_results(tmp_path / "results").filter(metric="top-1")
    top = dict(found.select("source", "value").iter_rows())
    assert top["head"] > 0.9 > 0.5 > max(top["shuffled"], top["random"])
