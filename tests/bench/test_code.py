"""The code digest: the same for other words, and another for other numbers."""

from __future__ import annotations

import importlib
import linecache
import re
import shutil
import subprocess
import sys
from dataclasses import replace
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

ROOT = Path(code.__file__).parents[1]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Copy the packages to where a test may change them."""
    folder = tmp_path_factory.mktemp("sources")
    for package in ("bench", "data_manifests", "featstore", "fitters"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("*.pyc"))
    return folder


def digest_with(sources: Path, name: str, old: str, new: str) -> str:
    """Return the digest of what scores, with one text of one file replaced."""
    path = sources / name
    source = path.read_text(encoding="utf-8")
    assert source.count(old) >= 1, f"{name} no longer says {old!r}"
    try:
        path.write_text(source.replace(old, new, 1), encoding="utf-8")
        return code._digest_and_modules("bench.execution", sources)[0]
    finally:
        path.write_text(source, encoding="utf-8")


#: A file, what it says, and what it would say with other numbers.
OTHER_NUMBERS = [
    ("featstore/prompts.py", "MemoryRows(means.astype", "MemoryRows((2 * means).astype"),
    ("featstore/store/pairs.py", "weight=1.0 / partners", "weight=2.0 / partners"),
    ("featstore/store/tables.py", "GROUP_ROWS = 65_536", "GROUP_ROWS = 65_537"),
    ("featstore/matrices.py", "len(found.shape) != 2", "len(found.shape) != 3"),
    ("bench/options.py", "shots: int = option(1, ", "shots: int = option(2, "),
    ("fitters/aligners/rotations.py", "return ", "return 2 * "),
]

#: The same with other words alone.
OTHER_WORDS = [
    ("featstore/prompts.py", "Reduce class", "Average class"),
    ("featstore/prompts.py", "    of_variant = ", "    # By its variant.\n    of_variant = "),
    (
        "bench/fits.py",
        "from __future__ import annotations\n",
        "\n\nfrom __future__ import annotations\n",
    ),
    ("bench/options.py", "Labelled training images of every class.", "Images a class."),
    ("bench/report/page.py", "from __future__", "LIMIT = 3\nfrom __future__"),
    ("bench/cli/run.py", "from __future__", "LIMIT = 3\nfrom __future__"),
]


@pytest.mark.parametrize(("name", "old", "new"), OTHER_NUMBERS)
def test_a_changed_number_changes_the_digest(sources, name, old, new):
    assert digest_with(sources, name, old, new) != code.code_digest()


def test_a_renamed_local_keeps_the_digest(sources):
    name = "featstore/prompts.py"
    source = (sources / name).read_text(encoding="utf-8")
    head, start, body = source.partition("\ndef class_texts(")
    renamed = head + start + re.sub(r"\bof_variant\b", "variant_of_prompt", body)
    assert renamed != source
    assert digest_with(sources, name, source, renamed) == code.code_digest()


@pytest.mark.parametrize(("name", "old", "new"), OTHER_WORDS)
def test_other_words_keep_the_digest(sources, name, old, new):
    assert digest_with(sources, name, old, new) == code.code_digest()


def test_a_new_task_changes_the_digest_and_a_new_command_does_not(sources):
    for name, is_scored in (("bench/tasks/new.py", True), ("bench/cli/new.py", False)):
        path = sources / name
        path.write_text("LIMIT = 1\n", encoding="utf-8")
        digest, modules = code._digest_and_modules("bench.execution", sources)
        path.unlink()
        assert (digest != code.code_digest()) is is_scored
        assert ("bench.tasks.new" in modules) is is_scored


def test_every_module_that_a_run_loads_is_digested(runs, smoke_store, tmp_path):
    """In a process of its own: here other tests have loaded others."""
    import pickle

    picked = tmp_path / "runs.pickle"
    picked.write_bytes(pickle.dumps((list(runs), str(smoke_store), str(tmp_path / "results"))))
    script = (
        "import pickle, sys\n"
        "from pathlib import Path\n"
        "runs, store, results = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "from bench.execution import run_all\n"
        "assert run_all(runs, store, Path(results)).new == len(runs)\n"
        "print(*sorted(sys.modules))\n"
    )
    command = [sys.executable, "-c", script, str(picked)]
    process = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {
        module
        for module in process.stdout.splitlines()[-1].split()
        if module.partition(".")[0] in ("bench", "data_manifests", "featstore", "fitters")
    }
    digested = set(code._digest_and_modules("bench.execution")[1])
    assert len(loaded) > 40
    assert loaded <= digested, sorted(loaded - digested)


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
