"""Break one line at a time on a copy of the tree, and see whether the tests named for it fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.mutants import watch

ROOT = Path(__file__).parents[2]

#: What a copy needs nothing of.
_NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "build", ".hypothesis", ".*_cache", "*.egg-info", "site"
)

#: Has imported the libraries of others once, and runs pytest in a child for each request.
_SERVER = """
import contextlib, importlib, json, os, signal, sys
for name in ("pytest", "hypothesis", "polars", "scipy.stats", "sklearn.linear_model", "click",
             *sys.argv[1:]):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
for request in sys.stdin:
    arguments, patience, said = json.loads(request)
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1), os.dup2(1, 2)
    signal.setitimer(signal.ITIMER_REAL, patience)
    code = sys.modules["pytest"].main(arguments)
    sys.stdout.flush()
    os._exit(code)
"""

#: Seconds after which the tests of one mutant are stopped, on a machine that is busy.
PATIENCE = 600.0


@dataclass(frozen=True)
class Mutant:
    """One line, broken: at least one of these tests must fail.

    `text` stands once in the file, and `guards` says in one sentence what it keeps. `make test`
    judges what is `quick`.
    """

    guards: str
    file: str
    text: str
    broken: str
    tests: tuple[str, ...]
    quick: bool = False

    @property
    def name(self) -> str:
        """File, and the beginning of the text."""
        return f"{self.file}: {self.text.strip().splitlines()[0][:60]}"

    @property
    def module(self) -> str:
        """The dotted name of the file."""
        return self.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    def applied(self, root: Path) -> str:
        """Return the file with the broken line.

        Raises
        ------
        ValueError
            If the text does not stand there exactly once: the table is to be brought up to date.
        """
        source = (root / self.file).read_text(encoding="utf-8")
        times = source.count(self.text)
        if times != 1:
            raise ValueError(
                f"{self.file} has {times} times, not once, the text {self.text!r}. Name the line "
                "as it is now, in tests/mutants/table.py."
            )
        return source.replace(self.text, self.broken)


@dataclass(frozen=True)
class Verdict:
    """What came of a mutant, and what is said of it.

    ``killed``: a test failed. ``survived``: all passed. ``broken``: the file cannot be imported, or
    no test came so far as to fail, which says nothing of the tests.
    """

    mutant: Mutant
    outcome: str
    said: str
    seconds: float


class Tree:
    """A copy of the tree in a new folder, in which lines are broken and tests are run."""

    def __init__(self, folder: Path, source: Path = ROOT) -> None:
        self.folder = folder
        # With the times of the files, so that what Python has compiled is not compiled again.
        shutil.copytree(source, folder, ignore=_NOT_COPIED, symlinks=True)

    @contextmanager
    def serving(self, *libraries: str) -> Iterator[None]:
        """Keep the process that tests are run from: it imports no module of the tree.

        It imports these libraries, too, which take seconds and few tests need.
        """
        environment = os.environ | {
            "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
            "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }  # fmt: skip
        # Its worker's facts are those of the tests that run this one.
        for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_CURRENT_TEST"):
            environment.pop(name, None)
        with subprocess.Popen(
            [sys.executable, "-c", _SERVER, *libraries], cwd=self.folder, env=environment,
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as self._server:  # fmt: skip
            yield

    def test(
        self, tests: Sequence[str], module: str = "", *, patience: float = PATIENCE
    ) -> tuple[str, str]:
        """Run tests; return an outcome as of `Verdict`, and what to say of it."""
        report, said = self.folder.with_suffix(".json"), self.folder.with_suffix(".txt")
        report.unlink(missing_ok=True)
        arguments = [
            "-x", "-q", "-p", "_hypothesis_pytestplugin", "--hypothesis-seed=0",
            "-p", "no:cacheprovider", "-p", watch.__name__, "--mutant", module,
            "--mutant-report", str(report), *tests,
        ]  # fmt: skip
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([arguments, patience, str(said)]) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        if code == -signal.SIGALRM:
            return "broken", f"the tests did not end in {patience:g} seconds"
        if not report.exists():
            return "broken", said.read_text()[-2000:]
        found = json.loads(report.read_text())
        if code == 0:
            return "survived", f"passed: {', '.join(tests)}"
        if found["failed"]:
            return "killed", f"{found['failed'][0]}\n{said.read_text()[-8000:]}"
        return "broken", found["import"] or said.read_text()[-2000:]

    @contextmanager
    def breaking(self, mutant: Mutant) -> Iterator[None]:
        """Break a line for as long as this lasts."""
        path = self.folder / mutant.file
        text, facts = mutant.applied(self.folder), path.stat()
        whole = path.read_bytes()
        path.write_text(text, encoding="utf-8")
        try:
            yield
        finally:
            path.write_bytes(whole)
            # As it was: what Python has compiled of the whole file counts again.
            os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    def judge(self, mutant: Mutant) -> Verdict:
        """Run the tests of a mutant on the tree that it breaks."""
        start = time.perf_counter()
        with self.breaking(mutant):
            outcome, said = self.test(mutant.tests, mutant.module)
        return Verdict(mutant, outcome, said, time.perf_counter() - start)


def stale(mutants: Iterable[Mutant], root: Path = ROOT) -> list[str]:
    """Return what is wrong with a table: texts that are not there once, broken syntax."""
    wrong = []
    for mutant in mutants:
        try:
            compile(mutant.applied(root), mutant.file, "exec")
        except (ValueError, SyntaxError, OSError) as err:
            wrong.append(f"{mutant.name}: {err}")
        wrong += [
            f"{mutant.name}: there is no test {test}"
            for test in mutant.tests
            if not _is_there(test, root)
        ]
    return wrong


def _is_there(test: str, root: Path) -> bool:
    file, *names = test.split("::")
    path = root / file
    if not path.is_file():
        return False
    source = path.read_text(encoding="utf-8")
    return all(f"{name.partition('[')[0]}(" in source for name in names[-1:])


def judge_all(mutants: Sequence[Mutant], folder: Path, *, jobs: int) -> Iterator[Verdict]:
    """Yield what comes of each mutant, as it comes; `jobs` of them side by side.

    Raises
    ------
    ValueError
        If the table is stale, or a test fails without any mutant.
    """
    if wrong := stale(mutants):
        raise ValueError("\n".join(wrong))
    trees: SimpleQueue[Tree] = SimpleQueue()
    made = [Tree(folder / f"tree{number}") for number in range(jobs)]
    for tree in made:
        trees.put(tree)

    def in_a_tree(work: Mutant | list[str]) -> Verdict | tuple[str, str]:
        tree = trees.get()
        try:
            if isinstance(work, Mutant):
                return tree.judge(work)
            return tree.test(work, patience=10 * PATIENCE)
        finally:
            trees.put(tree)

    tests = sorted({test for mutant in mutants for test in mutant.tests})
    parts = [tests[at::jobs] for at in range(min(jobs, len(tests)))]  # pytest of none runs all
    with ExitStack() as stack, ThreadPoolExecutor(jobs) as pool:
        for tree in made:
            stack.enter_context(tree.serving("torch", "statsmodels.api", "PIL.Image"))
        for outcome, said in pool.map(in_a_tree, parts):
            if outcome != "survived" and tests:
                raise ValueError(f"Without a mutant a test fails: {said}")
        yield from pool.map(in_a_tree, mutants)
