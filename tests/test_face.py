"""`import headstock as hs`: its names, what they load, and scripts beside modules of our names."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import headstock as hs

ROOT = Path(__file__).parents[1]


def python(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, on the packages of this repository."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *args], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def test_a_name_that_several_packages_have_is_the_one_that_is_meant() -> None:
    # Two packages have a `fit`, and three a `write` of something.
    homes = {name: getattr(hs, name).__module__ for name in ("fit", "evaluate", "write", "extract")}
    assert homes == {
        "fit": "bench.evaluation", "evaluate": "bench.evaluation", "write": "featstore.arrays",
        "extract": "featstore.extraction.job",
    }  # fmt: skip


SCRIPT = """
if __name__ == "__main__":
    import numpy as np
    import headstock as hs

    rng = np.random.default_rng(0)
    texts, to_images = rng.standard_normal((90, 6)), rng.standard_normal((6, 12))
    head = hs.Pairs(texts[:60] @ to_images, texts[:60])
    pairs = hs.Pairs(texts[60:] @ to_images, texts[60:])
    results = hs.evaluate("ridge", pairs, prototypes=head, draws=6, jobs=2, progress=False)
    print(results.verdict)
"""


def test_modules_of_our_names_in_the_folder_of_a_script_do_no_harm(tmp_path: Path) -> None:
    """In the script, and in its workers, which do not import it."""
    for name in ("bench", "fitters", "data_manifests"):
        (tmp_path / f"{name}.py").write_text(f"open({name + '.ran'!r}, 'w')\nraise SystemExit(3)\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = python(tmp_path, "script.py")
    assert done.returncode == 0, done.stderr
    assert "random vectors would not have done as well" in done.stdout
    assert not list(tmp_path.glob("*.ran"))


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
results = hs.evaluate(["ridge"], hs.Pairs(rows, rows), n_pairs="all", jobs=1)
sentence: str = results.verdict
store: hs.FeatureStore = hs.open_store("store")
view: hs.EmbeddingsView = store.view("a/image/b")
heights: list[int] = [results.frame.height, results.compare("a", "b").height]
wrong: int = results.verdict
hs.fit("ridge", rows, seed="zero")
hs.Results(3)
hs.opne_store("store")
"""

#: Line -> code of what a type checker finds in it.
WRONG = [(13, "assignment"), (14, "arg-type"), (15, "arg-type"), (16, "attr-defined")]


@pytest.mark.skipif(
    "HEADSTOCK_TYPES" not in os.environ, reason="a minute of mypy; `make test-long` runs it"
)
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["editable", "wheel"])
def test_type_checkers_see_its_types(kind: str, tmp_path: Path) -> None:
    """As an editable install has it, a path in a .pth file, and unpacked from a wheel."""
    site = tmp_path / "env" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    site /= "site-packages"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True
    )
    if kind == "editable":
        (site / "a_headstock.pth").write_text(f"{ROOT}\n")
    else:
        with zipfile.ZipFile(build_wheel(tmp_path)) as wheel:
            wheel.extractall(site)
        assert (site / "headstock" / "py.typed").is_file()
    # Behind it what it depends on; an editable install there is a .pth file, which is not followed.
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "b_others.pth").write_text("\n".join(others) + "\n")
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


def build_wheel(folder: Path) -> Path:
    """Return a wheel of the packages as pyproject.toml says, without the version from the tag."""
    copy = folder / "source"
    copy.mkdir()
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    text = text.replace('dynamic = ["version"]', 'version = "0.1.0"')
    text = text.replace(', "setuptools-scm>=10"', "").replace("[tool.setuptools_scm]", "[tool.x]")
    (copy / "pyproject.toml").write_text(text)
    for name in ("README.md", "LICENSE", *hs_packages()):
        (copy / name).symlink_to(ROOT / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(folder), str(copy)],
        check=True,
    )  # fmt: skip
    (found,) = folder.glob("headstock-*.whl")
    return found


def hs_packages() -> list[str]:
    return ["headstock", "featstore", "fitters", "bench", "data_manifests"]
