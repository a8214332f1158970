"""The code digest: stable, and different whenever a source is."""

from __future__ import annotations

import importlib
import linecache
import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import bench.code as code
from bench import read_results, run_all
from bench.cells import only_series, series_table
from bench.errors import ProtocolError
from featstore.errors import EngineError, PluginError
from featstore.plugins import ENVIRONMENT, register
from fitters.methods import METHODS


@pytest.mark.parametrize("name", ["bench/fits.py", "fitters/solvers.py", "bench/tasks/new.py"])
def test_a_changed_or_new_source_changes_it(tmp_path, monkeypatch, name):
    import shutil

    root = Path(code.__file__).parents[1]
    for package in ("bench", "fitters"):
        shutil.copytree(root / package, tmp_path / package)
    monkeypatch.setattr(resources, "files", lambda package: tmp_path / package)
    code.code_digest.cache_clear()
    before = code.code_digest()
    with (tmp_path / name).open("a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    code.code_digest.cache_clear()
    assert code.code_digest() != before
    (tmp_path / "bench" / "cli" / "ls.py").write_text("# the command line decides no number\n")
    after = code.code_digest()
    code.code_digest.cache_clear()
    assert code.code_digest() == after
    monkeypatch.undo()
    code.code_digest.cache_clear()


METHOD = """
from fitters import Method, RidgeAligner

class Mine(RidgeAligner):
    pass

def make():
    return Mine("x->y", alpha=ALPHA, center=False)

METHOD = Method(make, "a ridge of one's own")

class Voter:
    def fit(self, shots):
        from fitters.few_shot import ClassMeans
        return ClassMeans().fit(shots)
"""

REGISTERED = """
from featstore.plugins import register
register("aligner", "mine", METHOD)
"""


@pytest.fixture
def own(tmp_path, monkeypatch, no_plugins):
    """Write a module of a user's own and return it, freshly imported, each time it is called."""
    monkeypatch.syspath_prepend(tmp_path)

    def written(alpha: str = "1.0", source: str = METHOD) -> Any:
        (tmp_path / "mine_of_a_user.py").write_text(source.replace("ALPHA", alpha))
        importlib.invalidate_caches()
        sys.modules.pop("mine_of_a_user", None)
        # Sources of one size, written within one second, would be taken for the same.
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        return importlib.import_module("mine_of_a_user")

    yield written
    sys.modules.pop("mine_of_a_user", None)


def first(runs, **more):
    return next(
        run.changed(**more)
        for run in runs
        if (run.fit.method, run.protocol.eval, run.protocol.source)
        == ("ridge", "all-names", "head")
        and run.task == "zero_shot"
    )


def test_a_changed_method_of_ones_own_is_another_run_and_series(own, runs, smoke_store, tmp_path):
    made, ours = [], first(runs)
    for alpha in ("1.0", "1.0", "1000.0"):
        register("aligner", "mine", own(alpha).METHOD)
        made.append(first(runs, method="mine"))
        news = run_all([made[-1], ours], smoke_store, tmp_path).new
        assert news == {0: 2, 1: 0, 2: 1}[len(made) - 1]
    assert made[0].run_id == made[1].run_id != made[2].run_id
    # Beside ours the last version stands; the one before is a series of its own.
    rows = read_results(tmp_path)
    assert rows.filter(metric="MRR")["value"].n_unique() == 3
    assert set(only_series(tmp_path, rows)["run_id"]) == {made[2].run_id, ours.run_id}
    assert series_table(rows)["n_runs"].to_list() == [2, 1]
    # What the package brings keeps its ids, whatever else is registered.
    assert first(runs).code == code.code_digest()
    assert first(runs) in runs


def test_what_cannot_be_read_or_is_the_packages_is_refused(own, runs):
    namespace: dict[str, Any] = {"__name__": "nowhere"}
    exec(METHOD.replace("ALPHA", "1.0"), namespace)  # as a shell without a history
    register("aligner", "mine", namespace["METHOD"])
    with pytest.raises(ProtocolError, match=r"The source of aligner 'mine' \(make of nowhere\) "):
        first(runs, method="mine")
    register("aligner", "mine", replace(namespace["METHOD"], version="1"))
    assert "+" in first(runs, method="mine").code
    with pytest.raises(PluginError, match="'ridge' is a name of Headstock"):
        register("aligner", "ridge", namespace["METHOD"])
    with pytest.raises(PluginError, match="'coop' is a name of Headstock"):
        register("learner", "coop", namespace["Voter"])


HELPED = """
import helper_of_a_user
from fitters import Method, RidgeAligner

def make():
    from lazy_of_a_user import sign
    return RidgeAligner("x->y", alpha=helper_of_a_user.RATE * sign(), center=False)

METHOD = Method(make, "a ridge of one's own")
"""


@pytest.mark.parametrize("name", ["helper_of_a_user", "lazy_of_a_user", "deep_of_a_user"])
def test_a_changed_helper_module_counts(own, tmp_path, monkeypatch, name):
    """What a module imports from beside it, at its top, within a function, and further on."""
    sources = {
        "helper_of_a_user": "from deep_of_a_user import BETA\nRATE = BETA\n",
        "lazy_of_a_user": "def sign():\n    return 1.0\n", "deep_of_a_user": "BETA = 1.0\n",
    }  # fmt: skip

    def digest():
        for each, source in sources.items():
            sys.modules.pop(each, None)
            (tmp_path / f"{each}.py").write_text(source)
        register("aligner", "mine", own(source=HELPED).METHOD)
        return code.own_code("mine")

    before = digest()
    assert digest() == before
    sources[name] = sources[name].replace("1.0", "1000.0") + "# changed\n"
    assert digest() != before
    for each in sources:
        sys.modules.pop(each, None)


NOTEBOOK = """
from fitters import Method, RidgeAligner

ALPHA = 1.0

def weight(x):
    return 1.0 if x > 0 else weight(-x)

class Holder:
    @staticmethod
    def strength():
        return ALPHA * weight(1)

def make():
    return RidgeAligner("x->y", alpha=Holder.strength(), center=False)

METHOD = Method(make, "a ridge of one's own")
"""


def test_what_a_function_of_a_notebook_names_counts(own):
    """A global and a helper that are defined anew, while the method stays the same object."""
    notebook = ModuleType("a_notebook")
    sys.modules["a_notebook"] = notebook

    def run(cell, text):
        name = f"<cell {cell}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec"), vars(notebook))

    run(0, NOTEBOOK)
    register("aligner", "mine", notebook.METHOD)
    digests = [code.own_code("mine"), code.own_code("mine")]
    assert digests[0] == digests[1]
    for cell, text in enumerate(
        ("ALPHA = 2.0", "def weight(x):\n    return 3.0\n", "import numpy\nALPHA = numpy.ones(3)",
         "ALPHA = numpy.zeros(3)", "ALPHA = {'a': [1.0]}", "ALPHA = {'a': [2.0]}"), 1
    ):  # fmt: skip
        run(cell, text)
        digests.append(code.own_code("mine"))
    assert len(set(digests)) == len(digests) - 1
    del sys.modules["a_notebook"]
    for cell in range(7):
        del linecache.cache[f"<cell {cell}>"]


@pytest.mark.usefixtures("forked")
def test_what_workers_do_not_find_is_said_before_and_other_code_there(
    own, runs, smoke_store, tmp_path, monkeypatch
):
    module = own()
    register("aligner", "mine", module.METHOD)
    mine = [first(runs, method="mine", seed=seed) for seed in range(2)]
    with pytest.raises(EngineError, match=r"The aligner 'mine' is .* process alone\. .*use jobs=1"):
        run_all(mine, smoke_store, tmp_path / "no", jobs=2)
    place = tmp_path / "registers.py"
    place.write_text(METHOD.replace("ALPHA", "7.0") + REGISTERED)
    monkeypatch.setenv(ENVIRONMENT, str(place))
    METHODS.add("mine", module.METHOD, origin=str(place), found_anywhere=True)
    with pytest.raises(EngineError, match="A worker has other code than this process"):
        run_all(mine, smoke_store, tmp_path / "no", jobs=2)
