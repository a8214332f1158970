"""docs/ref/methods.md on a toy store: its commands run, and its table is complete."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from featstore.command_line import run_command
from fitters.methods import METHODS
from headstock.__main__ import cli
from tests.fitters.toy_store import write_toy_store

REF = Path(__file__).parents[2] / "docs" / "ref"
# What is below is trained: tests/fitters/trained has its commands, in a document of more minutes.
TEXT = (REF / "methods.md").read_text(encoding="utf-8").partition("## Trained by")[0]
IN_THE_TOY_STORE = {
    "stamps/image/tf_efficientnet_lite0": "toy/image/timm:toy",
    "stamps/caption/all-MiniLM-L6-v2": "toy/caption/st:toy",
    "stamps/class_name/all-MiniLM-L6-v2": "labels/class_name/st:toy",
    "head_weight/tf_efficientnet_lite0": "head_weight/timm:toy",
    "class_name/all-MiniLM-L6-v2": "class_name/st:toy",
    "timm:tf_efficientnet_lite0": "timm:toy",
    "st:all-MiniLM-L6-v2": "st:toy",
    "--dataset stamps": "--dataset toy",
    "imagenet1k": "labels",
    "s3://team/features": "store",
}


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)
    for name, ours in IN_THE_TOY_STORE.items():
        found = [block.replace(name, ours) for block in found]
    return found


@pytest.fixture
def workplace(tmp_path, monkeypatch, ray_cluster):
    """Return the folder of a toy store; a Ray runs, as that of ``--ray-address auto`` would."""
    write_toy_store(tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run(workplace, capsys):
    lines = "".join(blocks("console")).replace("\\\n", " ").splitlines()
    assert len(lines) == 7
    for line in lines:
        name, *args = shlex.split(line)
        assert name == "headstock"
        assert run_command(cli, name, args) == 0, capsys.readouterr().err
    assert {path.name for path in (workplace / "aligners").iterdir()} == {
        "ridge-head", "csa-seed0", "csa-seed1", "a",
    }  # fmt: skip
    assert "toy/image" in capsys.readouterr().out


def test_the_class_of_a_method_of_ones_own_runs():
    (block,) = re.findall(
        r"```python\n(import numpy.+?class WeightedMeans.*?)```",
        (REF / "extend.md").read_text(encoding="utf-8"), flags=re.DOTALL,
    )  # fmt: skip
    exec(block, {})
    # The method that the document registers is gone after it.
    assert METHODS.pop("weighted-means").options == ("penalty", "mix")


def test_every_method_has_its_row_with_what_is_chosen():
    rows = {row.split("`")[1]: row for row in TEXT.splitlines() if row.startswith("| `")}
    # The trained ones have a document of their own, and tests/fitters/trained/test_presets.py.
    closed = {name: spec for name, spec in METHODS.items() if spec.fitted_on != "training"}
    assert set(rows) == set(closed)
    spelled = {"n_components": "components"}
    for name, method in closed.items():
        settings = rows[name].rsplit("|", 2)[1]
        for option in method.options:
            assert spelled.get(option, option) in settings, (name, option)
        chosen = {"penalty", "mix", "gamma", "n_components"} & set(method.options)
        found = set(re.findall(r"\*\*(\w+)\*\*", settings))
        assert found == {spelled.get(option, option) for option in chosen}, name
