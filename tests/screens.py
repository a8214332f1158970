"""Write what the commands of README.md and docs/ print, or check that it is what stands there.

    python -m tests.screens write --demo build/demo           # every page, after the demo ran
    python -m tests.screens write --demo build/demo README.md # one page
    python -m tests.screens check --demo build/demo           # exit 1 where a command prints
                                                              # something else
    python -m tests.screens still search.html                 # docs/search.png, of a search page

A screen is a console block whose commands begin with ``$``. What a command prints on stdout stands
below it and is never typed: each page ends with a digest of its screens, which a test compares. A
command with nothing below it is not run, unless it begins with ``rm``; to have a new one run, write
a ``?`` below it. All pages start from a copy of the demo's folder, and the commands of a page run
in the order of the page.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from featstore.command_line import EXIT_VERIFY

ROOT = Path(__file__).parents[1]
_GUIDES = ("index", "your-images", "compare", "read-the-report", "repair")
PAGES = ("README.md", *(f"docs/{name}.md" for name in _GUIDES))

#: Columns of the terminal that the pages show.
COLUMNS = "100"

_BLOCK = re.compile(r"(```console\n)(\$ .*?)(```)", re.DOTALL)
_TENTHS = re.compile(r"(?<![\d.])\d+\.\d(?![\d.])")
_SEAL = re.compile(r"<!-- screens written by python -m tests.screens: (\w+) -->")

#: What differs between two runs of the same command: ages and durations, sizes, dates, versions,
#: keys.
_PASSING = re.compile(
    r"\s*\b\d+(?:\.\d+)? (?:ms|s|min|h|hours?|days?|weeks?|[KM]iB)\b"
    r"|\b\d{4}-\d\d-\d\d[T ]?[\d:.]*Z?|\b\d+\.\d+\.\w+(?:\.\w+)?(?:\+\w+)?"
    r"|\b[0-9a-f]{64}\b"
)


def screens(block: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block, as it is typed, and what stands below it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.splitlines(keepends=True)
        end = next(n for n, line in enumerate(lines, 1) if not line.endswith("\\\n"))
        yield "".join(lines[:end]), "".join(lines[end:])


def commands(page: str) -> list[str]:
    """Return the commands of all screens of a page, each in one line."""
    return [
        re.sub(r"\\\n *", "", command).split("  #")[0].strip()
        for block in _BLOCK.findall(page)
        for command, _ in screens(block[1])
    ]


def seal(page: str) -> str:
    """Return the digest of the screens of a page."""
    text = "".join(block[1] for block in _BLOCK.findall(page))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def sealed(page: str) -> bool:
    """Return whether the screens of a page are as they were written."""
    found = _SEAL.search(page)
    return found is not None and found[1] == seal(page)


def same(a: str, b: str) -> bool:
    """Return whether two outputs differ in nothing but what changes from run to run.

    Shares to a tenth may differ by it: another processor rounds otherwise, and turns a query.
    """
    squeezed = [" ".join(_PASSING.sub(" ·", text).split()) for text in (a, b)]
    words, numbers = zip(
        *((_TENTHS.sub("·", text), _TENTHS.findall(text)) for text in squeezed), strict=True
    )
    pairs = zip(*(map(float, found) for found in numbers), strict=False)
    return words[0] == words[1] and all(abs(one - other) < 0.11 for one, other in pairs)


def printed(command: str, folder: Path) -> str:
    """Run a line of a shell in a folder; return its stdout.

    Raises
    ------
    subprocess.CalledProcessError
        If it fails otherwise than by telling of damage.
    """
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {
        "PYTHONPATH": path, "COLUMNS": COLUMNS, "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"
    }  # fmt: skip
    code = "from headstock.__main__ import main; main()"
    script = f"headstock() {{ {shlex.quote(sys.executable)} -c '{code}' \"$@\"; }}\n{command}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, check=False,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    if done.returncode not in (0, EXIT_VERIFY):
        done.check_returncode()
    # The folder is a temporary one.
    said = (
        done.stdout.replace(str(folder.resolve()), "…").replace(str(Path.home()), "~").strip("\n")
    )
    lines = [line.rstrip() for line in said.strip("\n").splitlines()]
    return "".join(f"{line}\n" for line in lines)


def rerun(page: str, folder: Path) -> str:
    """Return a page with what its commands print in a folder; what only aged stays as it is."""

    def block(found: re.Match[str]) -> str:
        parts = [found[1]]
        for command, below in screens(found[2]):
            rest = below.rstrip("\n")
            gap = below[len(rest) :] if rest else below
            text = printed(command, folder) if rest or command.startswith("rm ") else ""
            parts.append(f"$ {command}" + (below if same(text, rest) else text + gap[1:]))
        return "".join([*parts, found[3]])

    return _BLOCK.sub(block, page)


def draw_still(page: str) -> None:
    """Draw what a search page answers to "bird", the head above and random vectors below.

    Light and dark, wide and as on a telephone, in RGB. Its files are printed, for docs/licences.md.
    """
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for scheme, width, name in (
            ("light", 1060, "search"), ("dark", 1060, "search-dark"),
            ("light", 390, "search-narrow"), ("dark", 390, "search-narrow-dark"),
        ):  # fmt: skip
            size = {"width": width, "height": 900}
            seen = browser.new_page(
                color_scheme=scheme, viewport=size, device_scale_factor=1.5 if width > 600 else 2
            )
            seen.goto(f"{Path(page).resolve().as_uri()}#q=bird&by=all")
            seen.evaluate(
                "document.querySelectorAll('.under, .shuffled, .pick').forEach(e => e.remove());"
                "document.querySelector('#answer').style.padding = '20px';"
                "document.querySelector('#answer').style.marginTop = '9px'"
            )
            picture = Image.open(io.BytesIO(seen.locator("#answer").screenshot()))
            picture.convert("RGB").save(ROOT / "docs" / f"{name}.png", optimize=True)
        files = seen.locator("#answer button").evaluate_all("all => all.map(one => one.title)")
        print("\n".join(sorted(files)))


def main() -> int:
    """Write, check, or draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("write", "check", "still"))
    parser.add_argument("pages", nargs="*", help="pages, from the root of the repository")
    parser.add_argument("--demo", type=Path, default=Path("build/demo"), help="the demo's folder")
    arguments = parser.parse_intermixed_args()
    if arguments.what == "still":
        draw_still(*arguments.pages)
        return 0
    drifted = []
    for name in arguments.pages or PAGES:
        old = (ROOT / name).read_text("utf-8")
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(arguments.demo, Path(folder, "build", "demo"))
            subprocess.run(["chmod", "-R", "u+w", folder], check=True)
            new = rerun(old, Path(folder))
        new = _SEAL.sub(f"<!-- screens written by python -m tests.screens: {seal(new)} -->", new)
        if new != old:
            drifted.append(name)
            if arguments.what == "write":
                (ROOT / name).write_text(new, "utf-8")
    for name in drifted:
        print(f"{name}: {'written' if arguments.what == 'write' else 'prints something else'}")
    return int(arguments.what == "check" and bool(drifted))


if __name__ == "__main__":
    sys.exit(main())
