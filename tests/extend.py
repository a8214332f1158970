"""The files and commands of docs/extend.md: ``python -m tests.extend``, as `make test-long` does.

It builds Headstock and the package of the page, installs both in a new environment, and runs from
there what the page has under names. Needs a package index, and about three minutes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extend.md"


def files() -> dict[str, str]:
    """Return the files that the page shows whole, by their names."""
    blocks = re.findall(r"```(?:python|toml)\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
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

#: What is run where the package is installed: no --plugin anywhere.
COMMANDS = (
    *(f"headstock check {what}" for what in (
        "aligner mine", "learner prior-means", "task margins", "encoder colours:4",
        "dataset swatches", "aligner mine:mine",
    )),
    f"bench task zero_shot --method mine,ridge --source head,shuffled --eval held-out {SETS} "
    "--seeds 0-1 --jobs 2 -o results",
    f"bench task margins -O others=3 --method mine --source head,shuffled --eval held-out {SETS} "
    "--jobs 2 -o results",
    f"bench task few_shot -O learner=prior-means --method mine --source head --eval in-class {SETS} "
    "--jobs 2 -o results",
    "bench table results",
    "headstock data build swatches -o swatches",
    "headstock extract swatches --kind image --encoder colours:4 --store own --jobs 2",
    "headstock data make captioned-list list.txt -o listed --option split=test",
)  # fmt: skip


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
        venv.create(root / "venv", with_pip=True)
        programs = root / "venv" / ("Scripts" if os.name == "nt" else "bin")
        pip = (programs / "python", "-m", "pip", "--disable-pip-version-check", "-q")
        for source in (ROOT, root / "package"):
            run(*pip, "wheel", "--no-deps", "-w", root / "wheels", source, cwd=root)
        wheels = [str(wheel) for wheel in (root / "wheels").glob("*.whl")]
        run(*pip, "install", "pillow", *wheels, cwd=root)
        make = "from pathlib import Path; from bench.suites import create_smoke_store as c; c(Path('smoke'))"
        run(programs / "python", "-c", make, cwd=root / "work")
        (root / "work" / "list.txt").write_text("swatches/red-0.png\tA red square.\n")
        for command in COMMANDS:
            name, *words = command.split()
            said = run(programs / name, *words, cwd=root / "work")
            if command == "bench table results" and not all(
                word in said for word in ("mine", "margin", "prior-means", "names shuffled")
            ):
                raise SystemExit("The table lacks what was run.")
    print("docs/extend.md: built, installed and run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
