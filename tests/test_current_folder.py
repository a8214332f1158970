"""No file beside one's data is run: commands and their processes in a folder of hostile modules.

The folder has a module of every name that Python or an installed package uses, Headstock's own
among them. Each writes its name to a file when it is imported.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from featstore.testing import toy_manifest, toy_store

OWN = ("headstock", "featstore", "fitters", "bench", "data_manifests")

#: What a program of one's own starts, which lies in another folder than the one it works in.
A_PROGRAM = """
if __name__ == "__main__":
    import sys
    import headstock as hs
    from pathlib import Path
    from featstore.decoding import DecodePool
    from featstore.parallel import Workers
    import click
    from bench.cli.demo import Job, Step
    from headstock.__main__ import cli
    job = Job("demo", "a second", "", (Step("List", "headstock ls --available sources"),))
    with click.Context(cli):
        assert job.run(sys.argv[3]) == 0
    picture = Path(sys.argv[1], "images/00.png").read_bytes()
    with DecodePool(1, timeout=60) as pool:
        assert pool.submit(picture).result().size == (8, 8)
    for workers in Workers(jobs=2), *[Workers("ray", jobs=1)] * (sys.argv[2] == "ray"):
        with workers.connected() as run:
            assert sorted(run(abs, [-1, -2, -3])) == [1, 2, 3]
"""

#: An encoder of one's own, which needs no library that takes seconds to load.
AN_ENCODER = """
import headstock as hs
import numpy as np

@hs.register("encoder", "mean")
class Mean:
    "Mean colours."
    kinds, dim, batch_size, space, facts = {"image"}, 3, 8, {"family": "mean"}, {}

    def __init__(self, name, options):
        self.name = name

    def prepare(self, item):
        return np.asarray(item, np.float32).mean((0, 1))

    def encode(self, batch):
        return np.stack(batch)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A store, a manifest of pictures, and the folder of hostile modules, with their list."""
    root = tmp_path_factory.mktemp("world")
    hostile = root / "hostile"
    hostile.mkdir()
    names = {*sys.stdlib_module_names, *metadata.packages_distributions(), *OWN}
    code = f"open({str(root / 'imported')!r}, 'a').write(__name__ + '\\n')\n"
    for name in names:
        if name.isidentifier():
            (hostile / f"{name}.py").write_text(code)
    toy_manifest(root / "pictures", 4)
    toy_store(root / "store")
    return {name: str(root / name) for name in ("hostile", "imported", "pictures", "store", "out")}


def _run(
    world: dict[str, str], *command: str, fails: bool = False, folder: Path | None = None
) -> str:
    """Return what a command prints in the hostile folder, or another; no hostile file may run."""
    imported = Path(world["imported"])
    imported.unlink(missing_ok=True)
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(
        command, cwd=folder or world["hostile"], env={**kept, "HF_HUB_OFFLINE": "1"}, text=True,
        capture_output=True, stdin=subprocess.DEVNULL, timeout=600, check=False,
    )  # fmt: skip
    ran = imported.read_text().split() if imported.exists() else []
    assert not ran, f"{command} ran files of the current folder: {ran[:5]}"
    assert fails or done.returncode == 0, done.stderr
    return done.stdout


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _script(tmp_path: Path, code: str) -> list[str]:
    (tmp_path / "script.py").write_text(code)
    return [sys.executable, str(tmp_path / "script.py")]


def test_the_folder_is_hostile(world: dict[str, str]) -> None:
    """What the tests below count on: Python itself takes such files."""
    with pytest.raises(
        AssertionError, match=r"ran files of the current folder: .*(click|traceback)"
    ):
        _run(world, sys.executable, "-c", "import click", fails=True)


def test_the_program_runs_none_of_them(world: dict[str, str]) -> None:
    """Where it looks for modules is settled before it reads a word: two commands show it."""
    assert "Usage" in _run(world, _program("headstock"), "--help")
    assert _run(world, _program("headstock"), "ls", world["store"])


def test_the_module_runs_none_of_them_either(world: dict[str, str], tmp_path: Path) -> None:
    """But those that Python itself takes, before anything of ours is read."""
    code = "import runpy, sys; print(*sys.modules)"
    taken = {"headstock", *_run(world, sys.executable, "-Pc", code, folder=tmp_path).split()}
    for file in Path(world["hostile"]).glob("*.py"):
        if file.stem not in taken:
            (tmp_path / file.name).write_text(file.read_text())
    for words in (["--help"], ["ls", "--available", "sources"]):
        assert _run(world, sys.executable, "-m", "headstock", *words, folder=tmp_path)


def test_an_extraction_and_its_processes_run_none_of_them(world, tmp_path):
    """One decodes, and one computes for each device."""
    (tmp_path / "mean.py").write_text(AN_ENCODER)
    _run(
        world, _program("headstock"), "extract", world["pictures"], "--kind", "image",
        "--encoder", "mean:rgb", "--plugin", str(tmp_path / "mean.py"),
        "--store", str(tmp_path / "store"), "--jobs", "1", "--device", "cpu,cpu",
    )  # fmt: skip


def test_a_program_of_ones_own_runs_none_of_them(world: dict[str, str], tmp_path: Path) -> None:
    """Nor its processes, steps of the demo and on Ray, nor what has our names in its own folder."""
    for name in OWN[2:]:
        shutil.copy(Path(world["hostile"], f"{name}.py"), tmp_path)
    engine = "ray" if importlib.util.find_spec("ray") else "local"
    script = _script(tmp_path, A_PROGRAM)
    assert "webdataset" in _run(world, *script, world["pictures"], engine, str(tmp_path / "out"))
