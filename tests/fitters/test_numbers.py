"""Every number that a command, a file or a keyword takes: refused by name, or of use."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import click
import numpy as np
import pytest
from scipy.sparse import issparse

from bench.cli.main import run_settings
from bench.options import TASKS
from featstore.command_line import run_command
from fitters import METHODS, fit
from fitters.errors import FittersError, SettingError
from fitters.settings import OPTIONS, TRAINING, FitConfig, FitRequest, TrainingOptions
from headstock.__main__ import cli
from tests.fitters.toy_store import HEAD, NAMES, X, Y

#: Where a command takes numbers, a line that is right but for them; no store is there to be read.
LINES = {
    "fit": ["fit", "METHOD", "--store", "none", "--images", X, "--captions", Y, "--head", HEAD,
            "--head-names", NAMES, "-o", "out"],
    "apply": ["apply", "none", "--store", "none", "--set", X, "--near", Y],
    "eval run": ["eval", "run", "demo", "--store", "none", "-o", "r"],
    "eval task": ["eval", "task", "TASK", "--store", "none", "-o", "r", "--images", "a", "--names",
                  "b", "--method", "METHOD"],
}  # fmt: skip

WRONG = ["nan", "inf", "-inf", "-1", "1e300", "1" + "0" * 300, "9" * 5000, "", "1,2", "[]", "one"]


def command_of(path):
    found = cli
    for word in path.split():
        found = found.get_command(click.Context(found), word)
    return found


#: Every option of every command that takes a number, by what its help shows for it.
NUMBERS = [
    (name, parameter)
    for name in LINES
    for parameter in command_of(name).params
    if isinstance(parameter, click.Option)
    and (parameter.metavar or "").split("|")[0] in ("N", "X", "SEEDS")
]


#: A setting that is a number, with a method that has it.
SETTINGS = {
    name: method
    for method, spec in METHODS.items()
    for name, one in spec.settings.items()
    if one.type in (int, float)
}


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_number_is_left_out():
    assert {command for command, _ in NUMBERS} == {*LINES}
    assert len(NUMBERS) > len(LINES)
    fields = {METHODS[method].settings[name].name for name, method in SETTINGS.items()}
    assert fields == {*OPTIONS, *TRAINING} - {"sequential"}


def line(command, method="ridge", task="zero_shot"):
    """Return the words of a command."""
    return [word.replace("METHOD", method).replace("TASK", task) for word in LINES[command]]


@pytest.mark.parametrize(("command", "parameter"), NUMBERS)
def test_a_wrong_number_is_one_line_before_anything_is_read(work, capsys, command, parameter):
    flag = max(parameter.opts, key=len)
    # Several values may be given where a benchmark is asked for.
    right = {"1,2"} if command == "eval task" or flag == "--seeds" else set()
    for value in {*WRONG} - right:
        refused(capsys, [*line(command), flag, value], f"Invalid value for '{flag}'", value)
    assert list(work.glob("*")) in ([], [work / "user-cache"])


@pytest.mark.parametrize("name", SETTINGS)
def test_a_wrong_setting_is_one_line_before_anything_is_read(work, capsys, name):
    method = SETTINGS[name]
    for value in WRONG:
        words = [*line("fit", method), "-s", f"{name}={value}"]
        refused(capsys, words, f"{name} of {method}: expected a", value)
    assert list(work.glob("*")) in ([], [work / "user-cache"])


@pytest.mark.parametrize("task", TASKS)
def test_a_wrong_setting_of_a_task_or_a_run_is_one_line(work, capsys, task):
    of_owners = run_settings(["ridge"], task)
    for name, own in {**of_owners[task], **of_owners["a run"]}.items():
        if own.type in (int, float):
            for value in ["nan", "inf", "-1", "1e300", "9" * 5000, "x"]:
                words = [*line("eval task", task=task), "-s", f"{name}={value}"]
                refused(capsys, words, name, "")
    assert list(work.glob("*")) in ([], [work / "user-cache"])


def refused(
    capsys: pytest.CaptureFixture[str], words: list[str], expected: str, value: str
) -> None:
    code = run_command(cli, "headstock", words)
    said = capsys.readouterr()
    assert (code, said.out) == (2, ""), (value, said)
    assert expected in said.err, value
    assert value[:5] in said.err, said.err
    assert said.err.count("\n") == 1
    assert len(said.err) < 400


@pytest.mark.parametrize("cls", [FitConfig, FitRequest, TrainingOptions])
def test_a_wrong_number_by_keyword_is_refused(cls):
    needed = {} if cls is TrainingOptions else {"method": "ridge"}
    needed |= {"x": X} if cls is FitRequest else {}
    bounded = {
        field.name: field.metadata["option"]
        for field in fields(cls)
        if field.metadata.get("option", {}).get("below") is not None
    }
    wrong: list[Any] = [math.nan, math.inf, -math.inf, -1, 1e300, 10**300, [], list(range(10**6)),
                        True, "one"]  # fmt: skip
    for name, about in bounded.items():
        for value in [*wrong, about["below"]]:
            with pytest.raises(SettingError, match=rf"'{name}' of a \w+ must be .*; got ") as said:
                cls(**needed, **{name: value})
            assert len(str(said.value)) < 200
    assert bounded


def finite(rows: Any) -> bool:
    return bool(np.isfinite(rows.data if issparse(rows) else rows).all())


EXTREME = {
    "penalty": [0.0, 1e-300, 9e11], "mix": [1e-300, 9e11], "gamma": [1e-300, 999.0],
    "n_components": [1, 10**11], "rank": [1, 10**11], "top_k": [1, 10**11],
    "power": [1e-300, 999.0],
}  # fmt: skip


@pytest.mark.parametrize("name", EXTREME)
def test_a_number_that_is_allowed_gives_finite_rows_or_is_named(name, make_world):
    head, real = make_world(n_classes=20, n_images=16, p=7, q=5)
    fitted, said = 0, []
    for method, spec in METHODS.items():
        if name not in spec.options or spec.fitted_on == "training":
            continue
        given = {"prototypes": head, "real": None if method == "conse" else real}
        for value in EXTREME[name]:
            try:
                made = fit(method, **given, rng=np.random.default_rng(0), **{name: value})
                rows = made.project_x(real.x), made.project_y(real.y)
            except FittersError as err:
                said.append(str(err))
                continue
            assert all(map(finite, rows)), (method, value)
            fitted += 1
    assert fitted
    assert all(name in message or "penalty" in message for message in said), said


def test_a_kernel_that_is_too_narrow_is_blamed_itself(make_world):
    head, real = make_world()
    made = fit("kernel-ridge", prototypes=head, gamma=999.0, rng=np.random.default_rng(0))
    with pytest.raises(FittersError, match=r"gamma 999 is 0 between \d+ rows .* smaller gamma"):
        made.project_y(real.y)


def test_folds_are_at_least_two(make_world):
    head, real = make_world()
    data = METHODS["ridge"].sources(FitConfig("ridge"), prototypes=head, real=real)
    for n_folds in (math.nan, math.inf, -1, 0, 1, 2.5):
        with pytest.raises(SettingError, match="n_folds is an integer of at least 2"):
            fit("ridge", data, rng=np.random.default_rng(0), n_folds=n_folds)
