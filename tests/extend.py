"""The files of docs/add-a-method.md and docs/ref/extend.md: ``python -m tests.extend``.

It builds Headstock and the package of the pages, installs both in a new environment, and runs from
there what they have under names. Needs a package index, and about three minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "docs" / "add-a-method.md", ROOT / "docs" / "ref" / "extend.md")


def files() -> dict[str, str]:
    """Return the files that the pages show whole, by their names."""
    text = "".join(page.read_text("utf-8") for page in PAGES)
    blocks = re.findall(r"```(?:python|toml)\n(.*?)```", text, flags=re.DOTALL)
    named = (re.match(r"# (\S+\.(?:py|toml))\n", block) for block in blocks)
    return {name[1]: block for name, block in zip(named, blocks, strict=True) if name}


def write_files(root: Path) -> None:
    """Write them to a folder."""
    for name, text in files().items():
        (root / name).write_text(text, "utf-8")


#: Where the smoke suite's store is, and its sets.
SETS = (
    "--store smoke --images smoke/image/synthetic.image --names smoke/class_name/synthetic.text "
    "--head smokehead/head_weight/synthetic.image --head-names smokehead/class_name/synthetic.text"
)
_RUN = "--eval in-class --jobs 2 -o results"
_STORE = "from bench.suites.demo import create_smoke_store; create_smoke_store('smoke')"

#: What is run where the package is installed: no --plugin anywhere.
COMMANDS = (
    "headstock check aligner mine",
    "headstock check aligner mine:mine",
    "headstock check learner prior-means",
    "headstock check task margins",
    "headstock check encoder colours:4",
    f"headstock eval task zero_shot --method mine,ridge --source head,shuffled --seeds 0-1 {SETS}",
    f"headstock eval task margins -s others=3 --method mine --source head,shuffled {SETS}",
    f"headstock eval task few_shot -s learner=prior-means --method mine --source head {SETS}",
    "headstock eval table results --all",
    "headstock data build swatches -o swatches",
    "headstock data make swatches/list.txt --as captioned-list -o listed -s split=test",
    "headstock extract swatches --kind image --encoder colours:4 --store own",
)


def main() -> int:
    """Build, install and run; return the exit code."""
    # What is installed is to be found, and not this checkout.
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HEADSTOCK_PLUGINS")}

    def run(*words: str | Path, cwd: Path) -> str:
        print("$", *words, flush=True)
        done = subprocess.run([str(w) for w in words], cwd=cwd, env=clean, text=True,
                              stdout=subprocess.PIPE, check=False)  # fmt: skip
        print(done.stdout, flush=True)
        if done.returncode:
            raise SystemExit(f"exit {done.returncode}: {' '.join(map(str, words))}")
        return done.stdout

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "package").mkdir()
        (root / "work").mkdir()
        write_files(root / "package")
        # Built from a copy: what a build leaves behind would be in the next wheel.
        left = shutil.ignore_patterns(".*", "build", "docs", "tests", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT, root / "headstock", ignore=left)
        venv.create(root / "venv", with_pip=True)
        programs = root / "venv" / ("Scripts" if os.name == "nt" else "bin")
        pip = (programs / "python", "-m", "pip", "--disable-pip-version-check", "-q")
        for source in (root / "headstock", root / "package"):
            run(*pip, "wheel", "--no-deps", "-w", root / "wheels", source, cwd=root)
        wheels = [str(wheel) for wheel in (root / "wheels").glob("*.whl")]
        run(*pip, "install", "pillow", *wheels, cwd=root)
        run(programs / "python", "-c", _STORE, cwd=root / "work")
        for command in COMMANDS:
            name, *words = command.split()
            more = _RUN.split() if words[:2] == ["eval", "task"] else []
            said = run(programs / name, *words, *more, cwd=root / "work")
            if words[:2] == ["data", "build"]:
                (root / "work/swatches/list.txt").write_text("red-0.png\tA red square.\n")
            if command == "headstock eval table results --all" and not all(
                word in said for word in ("mine", "margin", "prior-means", "names shuffled")
            ):
                raise SystemExit("The table lacks what was run.")
    print("The files of the documents: built, installed and run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
