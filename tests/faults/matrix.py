"""The fault matrix: every command that writes, with a fault at every place where it writes.

    python -m tests.faults.matrix                        # all of it, on 2 processes
    python -m tests.faults.matrix --only rm --jobs 1     # the commands whose name begins so
    python -m tests.faults.matrix --only rm --at 17 --fault before     # one attempt, in detail

The undisturbed run of a command gives the list of its file calls. A call site is a kind of call
and a file, what is random in its name left out. The process is killed before and after every rename
and fsync, and before, after and in the middle of every other call site once; every call site fails
once with EIO, and with ENOSPC where it needs space. After each fault the same command is typed
again: it must end well, the stores must verify, and when garbage of any age is collected, every
file must be what the undisturbed run left, recorded times excepted.

Children are forked from a process that has imported what the commands need (see `server`), each
with the same process id where the superuser can arrange that: a name must not be made of one.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.damage import leave_staged
from tests.faults import typed
from tests.faults.commands import WORKERS, WRITES, Command
from tests.faults.conftest import (
    KILLED,
    MODES,
    READER,
    REPOSITORY,
    Children,
    build_shim,
    can_have_own_pids,
    only_to_read,
)
from tests.faults.worlds import WORLDS
from tests.featstore.remote.static import static_server

#: Calls at each of which a process is killed, not only once for each file.
_EVERY = re.compile(r"(rename(at2?)?|link(at)?|fsync|fdatasync) ")

#: Calls that can be torn.
_WRITE = re.compile(r"p?writev?(64)? ")

#: Calls that need no space: a full disk does not refuse them.
_FREE = re.compile(r"(unlink(at)?|rmdir|f?chmod(at)?|utimensat|utimes) ")

#: The folders of a set in a store, whatever their names.
_SET = re.compile(r"[^/ ]+/(?:image|caption|class_name|head_weight)(?:/[^/]+-[0-9a-f]{8}(?=/|$))?")

#: The folder of a part after the first one.
_PART = re.compile(r"/embedding/[0-9a-f]{16}/c/")

#: What differs from run to run in a name: tokens, dates, process ids, numbers of blocks.
_RANDOM = re.compile(r"[0-9a-f]{8,}|\d+|(?<=\.)[a-z0-9_]{8}(?=/|$)")


@dataclass(frozen=True)
class Attempt:
    """One fault: which, and at which call, counted from 1.

    With `then`, the command that is typed again meets another one, if it makes so many calls.
    """

    fault: str
    at: int
    then: Attempt | None = None

    @property
    def kind(self) -> str:
        """Return what it is counted as."""
        return self.fault if self.then is None else "twice"

    def request(self, *, threads: bool) -> dict[str, Any]:
        """Return it as the children take it."""
        number = getattr(errno, self.fault, None)
        what = {"mode": self.fault} if number is None else {"mode": "fail", "errno": number}
        what = {"mode": "before"} if self.fault == "cut" else what
        return {**what, "at": self.at, "threads": threads}


@dataclass(frozen=True)
class Undisturbed:
    """What a command does undisturbed: verify's words before it, its file calls, what it leaves.

    A repair begins with a store that is damaged. The tree is name -> mode and digest.
    """

    damage: list[str]
    calls: list[str]
    tree: dict[str, str]


class DisturbedError(Exception):
    """A command does not end well by itself, or leaves a store that does not verify."""


def call_site(call: str) -> str:
    """Return the kind of a call and the role of its file: names of sets and tokens left out."""
    return _RANDOM.sub("*", _SET.sub(lambda found: "*" * len(found[0].split("/")), call))


def attempts(calls: Sequence[str]) -> list[Attempt]:
    """Return every attempt of the matrix on these calls.

    After a call is before the next one: where that is tried, it is not tried twice.
    """
    sites = [call_site(call) for call in calls]
    new = [sites.index(site) == i for i, site in enumerate(sites)]
    killed = [new[i] or _EVERY.match(call) is not None for i, call in enumerate(calls)]
    found: list[Attempt] = []
    for i, call in enumerate(calls):
        at = i + 1
        if killed[i]:
            found.append(Attempt("before", at))
            found += [] if at < len(calls) and killed[at] else [Attempt("after", at)]
        if new[i]:
            found += [Attempt("torn", at)] if _WRITE.match(call) else []
            found += [] if _FREE.match(call) else [Attempt("ENOSPC", at)]
            found.append(Attempt("EIO", at))
    return found


def attempts_twice(calls: Sequence[str], seed: int, name: str, n: int) -> list[Attempt]:
    """Return n kills, after each of which the same command is killed, or refused, elsewhere."""
    numbers = random.Random(f"{seed} {name} twice")
    kills = [one for one in attempts(calls) if one.fault in ("before", "after", "torn")]
    return [
        Attempt(
            first.fault, first.at,
            Attempt(numbers.choice(["before", "before", "EIO"]), numbers.randint(1, len(calls))),
        )
        for first in numbers.sample(kills, min(n, len(kills)))
    ]  # fmt: skip


def unsynced(calls: Sequence[str]) -> list[tuple[str, str]]:
    """Return the names that a power cut after these calls may undo, the last made first.

    They were made or removed, and no fsync of their folder has followed. A name that was made
    durable before, and again changed, is left out: what it held between is not known here. Beside
    each is the name that a file had in a hidden folder before.
    """
    lost, durable, hidden = dict[str, str](), set[str](), dict[str, str]()
    for call in calls:
        what, _, path = call.partition(" ")
        if what in ("fsync", "fdatasync"):
            here = [one for one in lost if one.rpartition("/")[0] == path]
            durable.update(here)
            lost = {one: source for one, source in lost.items() if one not in here}
        elif re.match(r"(rename|link|symlink|unlink|mkdir|rmdir)", what) and path not in durable:
            lost[path] = hidden.pop(path, "") if what.startswith("rename") else ""
        if "/." in path.rpartition("/")[0]:
            hidden[re.sub(r"/\.[^/]+/", "/", path)] = path
    return list(reversed(lost.items()))


def cuts(calls: Sequence[str], name: str, n: int) -> list[Attempt]:
    """Return n power cuts, each where some name is not durable yet."""
    places = [at for at in range(2, len(calls) + 1) if unsynced(calls[: at - 1])]
    chosen = random.Random(f"17 {name} cut").sample(places, min(n, len(places)))
    return [Attempt("cut", at) for at in chosen]


class Bed:
    """A folder in which commands are typed, and the children that type them."""

    def __init__(self, children: Children, folder: Path, web: str) -> None:
        self._children = children
        self._web = web
        self.root = folder / "case"
        self._worlds = folder / "worlds"
        self._messages = folder / "messages"
        self._token = folder / "token"
        self._worlds.mkdir(parents=True)

    def enter(self, command: Command) -> None:
        """Make `root` the world of a command, as it was before the command."""
        shutil.rmtree(self.root, ignore_errors=True)
        kept = self._kept(command)
        if not kept.exists():
            self.root.mkdir()
            if command.world:
                args = {"world": command.world}
                report = self._children.run("build", self.root, args=args, learn=True)
                if report["code"] != 0:
                    raise DisturbedError(f"the world {command.world}: {_exit(report)}")
            for line in command.before:
                report = self.type(line, learn=True)
                if report.get("value") != 0:
                    raise DisturbedError(f"{line}: {_exit(report)} {self.said()[-1200:]}")
            shutil.copytree(self.root, kept, symlinks=True)
            shutil.rmtree(self.root)
        shutil.copytree(kept, self.root, symlinks=True)

    def _kept(self, command: Command) -> Path:
        """Return where the world of a command is kept, as it was before the command."""
        return self._worlds / (_RANDOM.sub("", command.world) + str(abs(hash(command.before))))

    def _cut(self, command: Command, names: Iterable[tuple[str, str]]) -> None:
        """Undo what was done to these names, which are in any order on a disk."""
        for name, source in names:
            path, before = self.root / name, self._kept(command) / name
            if source and path.exists():
                (self.root / source).parent.mkdir(parents=True, exist_ok=True)
                path.rename(self.root / source)
            if path.is_dir() and not path.is_symlink():
                if not before.is_dir():
                    shutil.rmtree(path)
                continue
            path.unlink(missing_ok=True)
            if before.is_dir():
                path.mkdir(parents=True)
            elif before.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(before, path)

    def _run(self, scenario: str, **args: Any) -> dict[str, Any]:
        return self._children.run(scenario, self.root, args=args)

    def type(self, line: str, **request: Any) -> dict[str, Any]:
        """Type a command; return how the child ended."""
        args = {"line": self._filled(line), "messages": str(self._messages)}
        return self._children.run("typed", self.root, args=args, **request)

    def _filled(self, line: str) -> str:
        return line.format(web=self._web)

    def said(self) -> str:
        """Return what the last command said on standard error."""
        return self._inside(self._messages.read_text("utf-8", "replace"))

    def _inside(self, text: str) -> str:
        """Return a text with paths as they are seen from the folder of the commands."""
        return text.replace(f"{self.root}/", "").replace(str(self.root), ".")

    def damage(self, command: Command) -> list[str]:
        """Return what verify finds in the stores now."""
        if not command.stores:
            return []
        report = self._run("verified", stores=list(command.stores))
        found: list[str] = report["value"] if report["code"] == 0 else [_exit(report)]
        return found

    def settle(self, command: Command) -> dict[str, Any]:
        """Collect garbage and verify; return the problems and the tree."""
        report = self._run("settle", stores=list(command.stores))
        assert report["code"] == 0, report
        value: dict[str, Any] = report["value"]
        return value

    def undisturbed(self, command: Command) -> Undisturbed:
        """Return what a command does when nothing happens to it."""
        self.calls(command)  # so that all is imported that it needs
        self.enter(command)
        damage, before = self.damage(command), self._run("settle", stores=[])["value"]["tree"]
        report = self._ends_well(command, fault={"mode": "none", "threads": command.threads})
        if command.after:
            self.type(command.after)
        left = self.settle(command)
        if left["problems"]:
            raise DisturbedError("; ".join(left["problems"]))
        calls = [self._inside(call) for call in report["calls"]]
        seen = {call.partition(" ")[2] for call in calls}
        for name, what in left["tree"].items():
            places = {name, *map(str, Path(name).parents)}
            if what[0] == "-" and what != before.get(name) and not seen & places:
                raise DisturbedError(f"no call that makes {name} was seen")
        return Undisturbed(damage, calls, left["tree"])

    def _ends_well(
        self, command: Command, codes: Sequence[int] = (0,), **request: Any
    ) -> dict[str, Any]:
        report = self.type(command.line, **request)
        if report["code"] != 0 or report["value"] not in codes:
            raise DisturbedError(f"exit {_exit(report)}: {self.said().strip()[-1200:]}")
        return report

    def calls(self, command: Command, *, codes: Sequence[int] = (0,)) -> list[str]:
        """Return the file calls of a command, all threads together, that ends with such a code."""
        self.enter(command)
        none = {"mode": "none", "threads": True}
        report = self._ends_well(command, codes, fault=none, learn=True)
        return [self._inside(call) for call in report["calls"]]

    def codes(self, command: Command) -> tuple[int, int]:
        """Return how a command ends where killed writers left something: its owner's, a reader's.

        The reader is another user, who may write below `mine` and `cache` alone.

        Raises
        ------
        DisturbedError
            If one of them ends by an exception.
        """
        folders = [self.root / "mine", self.root / "cache"]
        self._enter_left(command, folders)
        owners = self._ends_well(command, range(128), learn=True)
        self._enter_left(command, folders)
        self._messages.chmod(0o666)
        for folder in self.root.parents[:2]:
            folder.chmod(0o755)
        with only_to_read(self.root, folders):
            readers = self._ends_well(command, range(128), **READER)
        return owners["value"], readers["value"]

    def _enter_left(self, command: Command, folders: Iterable[Path]) -> None:
        """Enter the world of a command with what killed writers left beside each set."""
        self.enter(command)
        for log in [*self.root.rglob("log.json")]:
            leave_staged(log.parent)
        for folder in folders:
            folder.mkdir(exist_ok=True)

    def attempt(self, command: Command, whole: Undisturbed, attempt: Attempt) -> list[str]:
        """Return what does not hold after a fault; nothing, if all does."""
        self.enter(command)
        report = self.type(command.line, fault=attempt.request(threads=command.threads))
        wrong = list(self._how_it_failed(attempt, report))
        if attempt.fault == "cut":
            names, chance = unsynced(whole.calls[: attempt.at - 1]), random.Random(attempt.at)
            self._cut(command, (one for one in names if chance.random() < 0.5))
        if attempt.then is not None:
            wrong += [f"at once, {line}" for line in self._new_damage(command, whole)]
            report = self.type(command.line, fault=attempt.then.request(threads=command.threads))
            codes = (0, 1, 2, 4) if command.done and command.done in self.said() else (0, 1, 4)
            if report["code"] not in (0, KILLED) or report.get("value", 0) not in codes:
                wrong.append(f"the second time: {_exit(report)} {self.said()[-600:]}")
        wrong += self._again(command, whole, command.line, every=True)
        empty = {f"left over: {path.relative_to(self.root)}" for path in self.root.rglob("*/")}
        # A power cut may bring back a folder that was removed; without files it may stay.
        return [line for line in wrong if attempt.fault != "cut" or line not in empty]

    def _new_damage(self, command: Command, whole: Undisturbed) -> list[str]:
        return [line for line in self.damage(command) if line not in whole.damage]

    def _again(self, command: Command, whole: Undisturbed, line: str, *, every: bool) -> list[str]:
        """Type a command again, clean up, and return what is not as the undisturbed run left it.

        Without `every`, only rows are compared.
        """
        report = self._run(
            "again", line=self._filled(line), messages=str(self._messages),
            stores=list(command.stores), done=command.done, after=self._filled(command.after),
        )  # fmt: skip
        if report["code"] != 0:
            return [f"again: ended by {_exit(report)}"]
        left = report["value"]
        wrong = [f"at once, {line}" for line in left["damage"] if line not in whole.damage]
        if left["code"] != 0:
            wrong.append(f"again: exit {left['code']}, {self.said().strip()[-600:]}")
        trees = [whole.tree, left["tree"]]
        if not every:  # rows that are tried again are a part of another name
            named = [
                {_PART.sub("/embedding/c/", name): what for name, what in tree.items()}
                for tree in trees
            ]
            trees = [
                {n: what for n, what in tree.items() if "/embedding/c/" in n} for tree in named
            ]
        return [*wrong, *left["problems"], *differences(*trees)]

    def workers_undisturbed(self, command: Command) -> Undisturbed:
        """Return what a command leaves whose worker processes write: their calls are unseen."""
        self.enter(command)
        self._ends_well(command, learn=True)
        return Undisturbed([], [], self.settle(command)["tree"])

    def kill_worker(
        self, command: Command, whole: Undisturbed, attempt: Attempt, below: str
    ) -> list[str] | None:
        """Kill one worker process of a command; return what does not hold, None if none died.

        A decoder that dies costs its picture, which the same command tries again if it is told to.
        """
        self.enter(command)
        self._token.unlink(missing_ok=True)
        spec = f"{MODES.index(attempt.fault)} {attempt.at} {below or self.root} {self._token}"
        report = self.type(command.line, environment={"FAULTS_WORKER": spec})
        if not self._token.exists():
            return None
        wrong = []
        if report["code"] != 0 or report["value"] not in (0, 1, 3):
            wrong.append(f"exit {_exit(report)}: {self.said()[-600:]}")
        if report.get("value") == 1 and "Traceback" in self.said():
            wrong.append(f"failed with a traceback: {self.said()[-600:]}")
        skipped = report.get("value") == 3
        line = f"{command.line} --retry-failed" if skipped else command.line
        return wrong + self._again(command, whole, line, every=not skipped)

    def _how_it_failed(self, attempt: Attempt, report: dict[str, Any]) -> Iterator[str]:
        if attempt.fault in ("before", "after", "torn", "cut"):
            if report["code"] != KILLED:
                yield f"was not killed: {_exit(report)}"
        elif report["code"] != 0 or report["value"] not in (0, 1, 4):
            yield f"failed with exit {_exit(report)}"
        elif report["value"] and not self._explained(attempt.fault):
            yield f"failed without a word of why: {self.said()[-600:]}"

    def _explained(self, fault: str) -> bool:
        """Return whether the last command said what the file system refused, and no traceback."""
        said = self.said()
        return os.strerror(getattr(errno, fault)) in said and "Traceback" not in said


def _exit(report: dict[str, Any]) -> str:
    if report["code"] in (0, KILLED) or "message" not in report:
        return str(report.get("value", report["code"]))
    return f"{report['code']}, {report['message'][-1500:]}"


def differences(expected: dict[str, str], found: dict[str, str]) -> Iterator[str]:
    """Yield the names that are not what they should be."""
    for name in sorted({*expected, *found}):
        if name not in found:
            yield f"missing: {name}"
        elif name not in expected:
            yield f"left over: {name}"
        elif expected[name] != found[name]:
            yield f"differs: {name} ({found[name]} for {expected[name]})"


@dataclass
class Result:
    """What the attempts at one command gave, by fault; `planned` are those of the whole matrix."""

    name: str
    calls: int
    sites: int
    planned: int
    made: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, attempt: Attempt, wrong: list[str], call: str) -> None:
        """Count an attempt, and keep what did not hold after it."""
        self.made[attempt.kind] += 1
        self.held[attempt.kind] += not wrong
        if wrong:
            where = {"at": attempt.at, "call": call, "fault": attempt.kind}
            then = {"then": [attempt.then.fault, attempt.then.at]} if attempt.then else {}
            self.failures.append({**where, **then, "wrong": wrong[:8]})

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        rows = {name: getattr(self, name) for name in ("name", "calls", "sites", "planned")}
        counts = {"attempts": dict(self.made), "held": dict(self.held)}
        return {**rows, **counts, "failures": self.failures}


def run_command(
    bed: Bed,
    command: Command,
    choose: Callable[[list[Attempt]], list[Attempt]] = list,
    *,
    twice: int = 0,
    cut: int = 0,
) -> Result:
    """Make attempts at a command: all of the matrix, some with a second fault, some power cuts."""
    start = time.monotonic()
    try:
        whole = bed.undisturbed(command)
    except DisturbedError as err:
        failure = {"at": 0, "call": "", "fault": "none", "wrong": [str(err)]}
        return Result(command.name, 0, 0, 1, Counter(none=1), Counter(none=0), [failure])
    every, sites = attempts(whole.calls), {call_site(call) for call in whole.calls}
    result = Result(command.name, len(whole.calls), len(sites), len(every))
    chosen = [*choose(every), *attempts_twice(whole.calls, 17, command.name, twice)]
    for attempt in [*chosen, *cuts(whole.calls, command.name, cut)]:
        result.count(attempt, bed.attempt(command, whole, attempt), whole.calls[attempt.at - 1])
    result.seconds = time.monotonic() - start
    return result


def run_workers(bed: Bed, command: Command, n: int) -> Result:
    """Kill a worker process of a command at n places, or as many of them as it comes to."""
    start = time.monotonic()
    below, calls = WORKERS[command]
    places = [Attempt(fault, at + 1) for fault in ("before", "torn") for at in range(calls)]
    result = Result(command.name, 0, 0, 0)
    whole = bed.workers_undisturbed(command)
    for attempt in random.Random(f"17 {command.name}").sample(places, min(n, len(places))):
        wrong = bed.kill_worker(command, whole, attempt, below)
        if wrong is not None:
            worker = Attempt("worker", attempt.at)
            result.count(worker, wrong, f"{attempt.fault} call {attempt.at} of a worker")
    result.planned = sum(result.made.values())
    result.seconds = time.monotonic() - start
    return result


#: Types `headstock reproduce demo` with the small steps.
_TYPE_DEMO = (
    "import sys; from dataclasses import replace; from bench.cli.demo import DEMO, Step; "
    "import click; from headstock.__main__ import cli; "
    "click.globals.push_context(click.Context(cli)); "
    "from tests.faults.commands import DEMO as SMALL; "
    "steps = tuple(Step('', line) for line in SMALL.strip().splitlines()); "
    "sys.exit(replace(DEMO, steps=steps).run('out'))"
)


def _type_demo(root: Path, seconds: float | None = None) -> tuple[int, str]:
    """Type the demo in a session of its own, and kill all of that after so many seconds.

    Return its exit code, and what it said last.
    """
    path = f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    env = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(root / "cache")}
    with (root.parent / "said").open("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", _TYPE_DEMO], cwd=root, env=env, start_new_session=True,
            stdout=said, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        said.seek(0)
        return code, said.read()[-600:]


def _made(tree: dict[str, str]) -> dict[str, str]:
    """Return what a demo made: no caches, and of the report, which shows times, only the name."""
    kept = {name: what for name, what in tree.items() if not f"{name}/".startswith("cache/")}
    return {name: what if name != "out/report.html" else "" for name, what in kept.items()}


def run_demo(folder: Path, n: int) -> Result:
    """Kill `headstock reproduce demo` with all that it started, n times, and type it again."""
    began = time.monotonic()
    result = Result("demo", 0, 0, n)
    world, root = folder / "world", folder / "root"
    world.mkdir()
    for name in ("model", "toy"):
        WORLDS[name](world)
    shutil.copytree(world, root)
    start = time.monotonic()
    code, said = _type_demo(root)
    seconds = time.monotonic() - start
    if code != 0:
        raise DisturbedError(f"exit {code}: {said}")
    whole = typed.settle(root, stores=["out/store"])["tree"]
    numbers = random.Random(17)
    for number in range(n):
        at = numbers.uniform(0, seconds)
        shutil.rmtree(root)
        shutil.copytree(world, root)
        code, said = _type_demo(root, at)
        wrong = [] if code in (0, KILLED) else [f"was not killed: exit {code}, {said}"]
        wrong += [f"at once, {line}" for line in typed.verified(root, stores=["out/store"])]
        code, said = _type_demo(root)
        left = typed.settle(root, stores=["out/store"])
        wrong += [] if code == 0 else [f"again: exit {code}, {said}"]
        wrong += [*left["problems"], *differences(_made(whole), _made(left["tree"]))]
        result.count(Attempt("group", number), wrong, f"after {at:.1f} of {seconds:.1f} s")
    result.seconds = time.monotonic() - began
    return result


def run_more(twice: int, cut: int, workers: int, demo: int) -> Iterator[Result]:
    """Yield what second faults and power cuts give, a worker killed, and a whole demo killed."""
    with beds(1) as (bed,):
        for command in WRITES if twice or cut else ():
            lasting = 0 if command.threads else cut
            yield run_command(bed, command, lambda _: [], twice=twice, cut=lasting)
        for command in WORKERS if workers else ():
            yield run_workers(bed, command, workers)
    if demo:
        with tempfile.TemporaryDirectory() as folder:
            yield run_demo(Path(folder), demo)


def sample(seed: int, name: str, n: int) -> Callable[[list[Attempt]], list[Attempt]]:
    """Return what chooses n of the attempts at a command, the same ones every time."""
    numbers = random.Random(f"{seed} {name}")
    return lambda every: numbers.sample(every, min(n, len(every)))


@contextmanager
def beds(n: int) -> Iterator[list[Bed]]:
    """Yield n beds, in memory where there is some, with a server for what is pulled."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        folder = Path(name)
        shim = str(build_shim(folder))
        same_pid = can_have_own_pids()
        children = [Children(preload=shim, same_pid=same_pid) for _ in range(n)]
        served = folder / "served"
        served.mkdir()
        report = children[0].run("build", served, args={"world": "tagged"})
        assert report["code"] == 0, report
        try:
            with static_server(served / "store") as (host, port):
                web = f"http://{host}:{port}"
                yield [Bed(one, folder / str(i), web) for i, one in enumerate(children)]
        finally:
            for one in children:
                one.close()


def main() -> int:
    """Run the matrix; the exit code is 1 if something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="commands whose name begins so, by semicolon")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fault", help="only this fault")
    parser.add_argument("--at", type=int, help="only this call")
    parser.add_argument("--sample", type=int, help="so many attempts at each command")
    parser.add_argument("--out", type=Path, help="write counts and failures as JSON")
    parser.add_argument(
        "--more", type=int, nargs=4, metavar=("TWICE", "CUT", "WORKERS", "DEMO"),
        help="instead: so many second faults, power cuts and killed workers a command, and demos",
    )  # fmt: skip
    given = parser.parse_args()
    if given.more:
        more: list[Result] = []
        for result in run_more(*given.more):
            _show(result)
            more.append(result)
            if given.out is not None:
                _write(given.out, more)
        return int(any(result.failures for result in more))
    names = tuple(filter(None, given.only.split(";"))) or ("",)
    chosen = [command for command in WRITES if command.name.startswith(names)]

    def wanted(command: Command) -> Callable[[list[Attempt]], list[Attempt]]:
        first = sample(0, command.name, given.sample) if given.sample else list
        return lambda every: [
            one for one in first(every)
            if given.fault in (None, one.fault) and given.at in (None, one.at)
        ]  # fmt: skip

    started, results = time.monotonic(), dict[str, Result]()
    with beds(min(given.jobs, len(chosen))) as places, ThreadPoolExecutor(len(places)) as pool:
        free = list(places)

        def work(command: Command) -> Result:
            bed = free.pop()
            try:
                result = run_command(bed, command, wanted(command))
            finally:
                free.append(bed)
            _show(result)
            results[command.name] = result
            return result

        for _ in pool.map(work, chosen):
            if given.out is not None:
                _write(given.out, [results[c.name] for c in WRITES if c.name in results])
    seconds = time.monotonic() - started
    every = [sum(result.made.values()) for result in results.values()]
    held = [sum(result.held.values()) for result in results.values()]
    print(f"{sum(every):,} attempts, {sum(held):,} held, {seconds:,.0f} s", flush=True)
    return int(sum(held) < sum(every))


def _write(path: Path, results: Sequence[Result]) -> None:
    # One command a line: a change of one is a change of one line.
    rows = ",\n".join(json.dumps(result.as_dict()) for result in results)
    path.write_text(f'{{"commands": [\n{rows}\n]}}\n', "utf-8")


def _show(result: Result) -> None:
    made, held = sum(result.made.values()), sum(result.held.values())
    what = f"{result.calls} calls at {result.sites} sites, {result.seconds:.0f} s"
    print(f"{result.name:<24}{made:>6} attempts {held:>6} held   {what}", flush=True)
    for failure in result.failures:
        print(f"  --fault {failure['fault']} --at {failure['at']} ({failure['call']})")
        print(*(f"      {line[:300]}" for line in failure["wrong"]), sep="\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
