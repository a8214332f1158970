"""Interleavings: a command stands still at a place, another runs to its end, the first goes on.

    python -m tests.faults.interleavings --out docs/data/interleavings.json    # all of them
    python -m tests.faults.interleavings --world plain --only "rm stops"       # some, in detail

A place is one at which a command is about to claim a set, to take a lock, to write a pointer or to
put a file on a condition, or has just claimed. Each command is run in each world to learn its
places; at each, every other command is run in the gap. Once the claim of the first stays good, so
that the other may be refused; once its machine lost the lock (a lid, a network), and the other
takes its claim over.

What is there in the end must be what the two leave one after another, in one order or the other: a
command that says that it was refused has had no effect. The stores must verify, every set must
read, and garbage of any age must be collected without a loss.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import itertools
import json
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from featstore import extract, open_store
from featstore.errors import FeatstoreError
from featstore.manifest import write_manifest
from featstore.remote import FolderObjects
from featstore.store import collect_garbage, lock, read_log, verify_store, writer
from featstore.store.layout import SetSpec
from featstore.store.lock import Claim, claim_set, folder_lock
from tests.typed import headstock

try:
    from featstore.remote.servers import BucketObjects
    from tests.featstore.remote.buckets import environment
    from tests.featstore.remote.s3_server import s3_server
except ImportError:  # obstore: an extra
    BucketObjects = None  # type: ignore[assignment,misc]

BUCKET = "s3://team/store"
SPACE = {"name": "toy"}
DATASET, KIND = "birds", "caption"
KEY = str(SetSpec(DATASET, KIND, "object:toy", {**SPACE, "family": "object"}, "float32").key)


#: What differs in the names of blocks.
_TOKEN = re.compile(r"[0-9a-f]{8,}|\d{6}")


#: How a claim looks whose machine lost its lock.
_LOST = {"_is_dead": lambda _: True, "boot_id": lambda: "another machine"}


#: An item table.
_TABLE = re.compile(rf"{DATASET}/{KIND}/items-[0-9a-f]{{8}}\.parquet")


class StoppedError(BaseException):
    """Ends a process, as far as a test can tell."""


def encode(texts: list[str]) -> np.ndarray:
    """Return the row of each text, (b, 2): what a text is says all of it."""
    return np.array([[len(text), sum(map(ord, text))] for text in texts], np.float32)


def texts_of(content: str) -> list[str]:
    """Return the texts of a manifest: ``a4`` are the first four of content a."""
    return [f"{content[0]} bird {'.' * i}" for i in range(int(content[1:]))]


# -- what is typed -------------------------------------------------------------------------------


def type_line(line: str) -> int:
    """Run a command line, or an extraction of a manifest (``a4``) with an encoder object, here.

    Return its exit code.
    """
    verb, *words = line.split()
    if verb != "extract":
        return headstock(*line.split())
    content, store, *more = words
    try:
        _extract(content, SPACE, store, **({"staging": more[0]} if more else {}))
    except FeatstoreError as err:
        print(f"{type(err).__name__}: {err}", file=sys.stderr)
        return 1
    return 0


def _extract(content: str, space: dict[str, str], store: str, **options: Any) -> None:
    extract(
        content, kind=KIND, encoder=encode, space=space, store=store, dtype="float32",
        block_rows=2, threads=1, **options,
    )  # fmt: skip


Model = dict[str, dict[str, Any]]
"""Store -> ``sets`` and ``tags``: key -> content, and name -> key -> content."""


class RefusedError(Exception):
    """The model refuses a step."""


def _extracted(content: str, store: str) -> Callable[[Model], None]:
    def effect(model: Model) -> None:
        sets = model[store]["sets"]
        there = sets.get(KEY, content)
        if there[0] != content[0]:
            raise RefusedError
        sets[KEY] = max(content, there)

    return effect


def _removed(model: Model) -> None:
    here = model["here"]
    if any(KEY in tag for tag in here["tags"].values()):
        raise RefusedError
    here["sets"].pop(KEY, None)  # of two at once, both may say that they removed it


def _tagged(store: str) -> Callable[[Model], None]:
    def effect(model: Model) -> None:
        sets, tags = model[store]["sets"], model[store]["tags"]
        if not sets or tags.get("v1", sets) != sets:
            raise RefusedError
        tags["v1"] = dict(sets)

    return effect


def _untagged(store: str) -> Callable[[Model], None]:
    return lambda model: model[store]["tags"].pop("v1", None)


def _copied(source: str, target: str) -> Callable[[Model], None]:
    def effect(model: Model) -> None:
        ours, theirs = model[source], model[target]
        for key, content in ours["sets"].items():
            there = theirs["sets"].get(key, content)
            if there[0] != content[0]:
                raise RefusedError
            theirs["sets"][key] = max(content, there)
        for name, sets in ours["tags"].items():
            if theirs["tags"].get(name, sets) != sets:
                raise RefusedError
            theirs["tags"][name] = sets

    return effect


def _nothing(_: Model) -> None:
    return None


@dataclass(frozen=True)
class Typed:
    """Steps that are typed one after another, and what they do to the model.

    What was refused may have had a part of its effect if it is `partial`: some sets were sent.
    """

    name: str
    steps: tuple[str, ...]
    effects: tuple[Callable[[Model], object], ...]
    partial: bool = False
    bucket: bool = False
    first: bool = True
    worlds: tuple[str, ...] = ()

    def run(self) -> list[int]:
        """Run the steps to their end; return their exit codes."""
        return [*map(type_line, self.steps)]


COMMANDS = (
    Typed("extract", ("extract a4 here",), (_extracted("a4", "here"),)),
    Typed("extend", ("extract a8 here",), (_extracted("a8", "here"),)),
    Typed("rm", (f"store rm here {KEY} --yes",), (_removed,)),
    Typed("rm, another", (f"store rm here {KEY} --yes", "extract b4 here"),
          (_removed, _extracted("b4", "here")), first=False),
    Typed("tag", ("store tag here v1",), (_tagged("here"),)),
    Typed("tag --delete", ("store tag here v1 --delete",), (_untagged("here"),)),
    Typed("gc", ("store gc here --grace 0",), (_nothing,)),
    Typed("compact", ("store compact here",), (_nothing,)),
    Typed("push", ("store push here there",), (_copied("here", "there"),), partial=True),
    Typed("pull", ("store pull there here",), (_copied("there", "here"),), partial=True),
    Typed("repair", (f"store repair here {KEY}",), (_nothing,)),
    Typed("repair --from", (f"store repair here {KEY} --copy there",), (_nothing,)),
    Typed("card", ("store card here -o here",), (_nothing,)),
    Typed("push, bucket", (f"store push here {BUCKET}",), (_copied("here", BUCKET),), partial=True,
          bucket=True, worlds=("plain", "pushed")),
    Typed("pull, bucket", (f"store pull {BUCKET} here",), (_copied(BUCKET, "here"),), partial=True,
          bucket=True, worlds=("pushed",)),
    Typed("tag, bucket", (f"store tag {BUCKET} v1",), (_tagged(BUCKET),), bucket=True,
          worlds=("pushed",)),
    Typed("extract, bucket", (f"extract a4 {BUCKET} one",), (_extracted("a4", BUCKET),),
          bucket=True, worlds=("plain",)),
    Typed("extend, bucket", (f"extract a8 {BUCKET} two",), (_extracted("a8", BUCKET),),
          bucket=True, worlds=("pushed",)),
)  # fmt: skip


# -- where it is typed ---------------------------------------------------------------------------


def _set_up(*lines: str) -> None:
    for line in lines:
        assert type_line(line) == 0, line


def _other_set() -> None:
    """Write another set of the same items: they share the item table."""
    _extract("a4", {"name": "other"}, "here")


def _killed_behind_the_log(line: str) -> None:
    real = writer.update_log

    def stop(root: Path, *args: Any, **options: Any) -> None:
        real(root, *args, **options)
        if read_log(root).sets:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(StoppedError):
        patch.setattr(writer, "update_log", stop)
        type_line(line)


def plain() -> None:
    """A set of four items, another of the same items, and an older copy."""
    _set_up("extract a4 here", "store push here there")
    _other_set()


def untidy() -> None:
    """The same, published by a writer that was killed behind the log."""
    _other_set()
    _killed_behind_the_log("extract a4 here")
    _set_up("extract a4 there")


def grown() -> None:
    """A set of seven parts, the next of which joins them, and a tag and a copy of five."""
    _set_up(*(f"extract a{n} here" for n in range(1, 6)), "store tag here v1",
            "store push here there", "extract a6 here", "extract a7 here")  # fmt: skip


def begun() -> None:
    """A set of four items, with an extension that was killed after a block."""
    plain()

    def stop(*_: object) -> None:
        raise StoppedError

    with contextlib.suppress(StoppedError):
        _extract("a8", SPACE, "here", on_block=stop)


def copying() -> None:
    """A copy that was killed behind the log, and the store that it is of, which is ahead."""
    _set_up("extract a4 there")
    _killed_behind_the_log("store pull there here")
    _set_up("extract a8 there")


def tagged() -> None:
    """A set and a tag that names it."""
    _set_up("extract a4 here", "store tag here v1", "store push here there")


def damaged() -> None:
    """A set that lacks what follows from its commit and what does not, and a whole copy."""
    plain()
    folder = Path("here", KEY)
    for path in (folder / "embedding" / "zarr.json", folder / "golden.json"):
        path.unlink()


def new() -> None:
    """A store that has no set yet, and one that has."""
    _set_up("store init here", "extract a8 there")


def pushed() -> None:
    """A set in a bucket, and here, where it is ahead."""
    _set_up("extract a4 here", f"store push here {BUCKET}", "extract a8 here")


WORLDS = (plain, untidy, grown, begun, copying, tagged, damaged, new, pushed)


# -- places --------------------------------------------------------------------------------------


class Stage:
    """Lets the first command stand still at a place while another runs in a thread of its own.

    Parameters
    ----------
    at : int
        Number of the place, from 1; 0 for none.
    gap : callable
        What runs there, to its end, or until it waits for a lock that the first command holds.
    asleep : bool
        The first one has lost its lock, as a machine that sleeps: its claim is taken over.
    """

    def __init__(self, at: int, gap: Callable[[], Any], *, asleep: bool) -> None:
        self.places: list[str] = []
        self.value: Any = None
        self._at, self._gap, self._asleep = at, gap, asleep
        self._first = threading.get_ident()
        self._held: list[Path] = []
        self._going_on = threading.Event()
        self._second: threading.Thread | None = None

    def place(self, what: str) -> None:
        """Stand still here if this is the place."""
        if threading.get_ident() != self._first:
            return
        self.places.append(what)
        if len(self.places) == self._at:
            self._second = threading.Thread(target=self._run, name="second")
            self._second.start()
            self._going_on.wait()

    def _run(self) -> None:
        try:
            self.value = self._gap()
        finally:
            self._going_on.set()

    def join(self) -> None:
        """Wait for the other command."""
        if self._second is not None:
            self._second.join()

    def claim_set(self, directory: Path, *args: Any, **options: Any) -> Claim:
        """Stand in for `featstore.store.lock.claim_set`."""
        self.place(f"claim {directory.name}")
        taking = threading.get_ident() != self._first and self._asleep
        with pytest.MonkeyPatch.context() as patch:
            for name, lost in _LOST.items() if taking else ():
                patch.setattr(lock, name, lost)
            claim = claim_set(directory, *args, **options)
        self.place(f"claimed {directory.name}")
        return claim

    @contextlib.contextmanager
    def folder_lock(self, folder: Path) -> Iterator[bool]:
        """Stand in for `featstore.store.lock.folder_lock`."""
        self.place(f"lock {folder.name}")
        first = threading.get_ident() == self._first
        if not first and any(held.samefile(folder) for held in self._held if held.exists()):
            self._going_on.set()  # it waits for the first
        with folder_lock(folder) as locked:
            if first:
                self._held.append(folder)
            try:
                yield locked
            finally:
                if first:
                    self._held.remove(folder)

    @contextlib.contextmanager
    def set(self) -> Iterator[None]:
        """Take the place of what claims, locks and puts."""

        def before(method: Callable[..., Any], what: str) -> Callable[..., Any]:
            def replaced(*args: Any, **options: Any) -> Any:
                self.place(f"{what} {args[1] if what.startswith('bucket') else ''}".strip())
                return method(*args, **options)

            return replaced

        replaced: list[tuple[Any, Any]] = [
            (claim_set, self.claim_set), (folder_lock, self.folder_lock),
        ]  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            for module in [m for n, m in sys.modules.items() if n.startswith("featstore.")]:
                for real, ours in replaced:
                    if vars(module).get(real.__name__) is real:
                        patch.setattr(module, real.__name__, ours)
            methods: list[tuple[Any, str]] = [
                (Claim, "discard"), (Claim, "finish"), (FolderObjects, "create"),
            ]  # fmt: skip
            if BucketObjects is not None:
                methods += [(BucketObjects, name) for name in ("put", "create", "replace",
                                                               "delete")]  # fmt: skip
            for owner, name in methods:
                what = f"bucket {name}" if owner is BucketObjects else name.replace("_", " ")
                ours = before(getattr(owner, name), what)
                patch.setattr(owner, name, ours)
            yield


# -- one interleaving ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Interleaving:
    """Two commands in a world, and the place at which the first one stands still."""

    world: str
    first: str
    at: int
    what: str
    second: str
    asleep: bool = False

    @property
    def name(self) -> str:
        """Return it in words."""
        how = "sleeps" if self.asleep else "stops"
        return f"{self.world}: {self.first} {how} at {self.at} ({self.what}), {self.second}"


def observed() -> Model:
    """Return what the stores hold; every set must read, and every tag, row by row."""
    found: Model = {}
    for place in ("here", "there", BUCKET):
        found[place] = {"sets": {}, "tags": {}}
        if not (Bed.has_store() if place == BUCKET else Path(place, "log.json").exists()):
            continue
        store = open_store(place, verify="first-touch")
        for info in store.sets():
            found[place]["sets"][str(info.key)] = _content(store, str(info.key), None)
        for name in store.tags():
            found[place]["tags"][name] = {
                key: _content(store, key, revision) for key, revision in store.tag(name).items()
            }
    return found


def _content(store: Any, key: str, revision: str | None) -> str:
    view = store.view(key, revision=revision)
    texts = view.items["text"].to_list()
    content = f"{texts[0][0]}{len(texts)}"
    assert texts == texts_of(content), (key, texts)
    assert view.numpy(np.float32).tobytes() == encode(texts).tobytes(), key
    return content


def allowed(before: Model, runs: list[tuple[Typed, list[int]]]) -> list[Model]:
    """Return what may be there after these commands in any order, given their exit codes.

    One of several sets is in a part of them when another one sees it.
    """
    orders = [list(order) for order in itertools.permutations(runs)]
    orders += [
        [(one[0], [1] * len(one[1])), other, one]
        for one, other in itertools.permutations(runs, 2) if one[0].partial
    ]  # fmt: skip
    found = []
    for order in orders:
        models = [copy.deepcopy(before)]
        for typed, codes in order:
            for code, effect in zip(codes, typed.effects, strict=True):
                models = [m for model in models for m in _after(model, effect, code, typed.partial)]
        found += models
    return found


def _after(
    model: Model, effect: Callable[[Model], object], code: int, partial: bool
) -> list[Model]:
    """Return what a step may leave; of what was refused, a part may have been done."""
    changed, refused = copy.deepcopy(model), False
    try:
        effect(changed)
    except RefusedError:
        refused = True
    if code == 0:
        return [] if refused else [changed]
    if not partial:
        return [model]
    places = [
        (store, part, name)
        for store in changed for part in changed[store] for name in changed[store][part]
        if changed[store][part][name] != model[store][part].get(name)
    ]  # fmt: skip
    some = itertools.chain(*(itertools.combinations(places, n) for n in range(len(places) + 1)))
    found = []
    for chosen in some:
        found.append(copy.deepcopy(model))
        for store, part, name in chosen:
            found[-1][store][part][name] = changed[store][part][name]
    return found


class Bed:
    """A folder with the worlds, in which interleavings are tried."""

    objects: Any = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._worlds: dict[str, tuple[Path, dict[str, bytes]]] = {}
        self.root = folder / "case"

    @classmethod
    def has_store(cls) -> bool:
        """Return whether there is a store in the bucket."""
        return cls.objects is not None and "team/store/log.json" in cls.objects.objects

    def enter(self, world: str) -> None:
        """Make the current folder a fresh copy of a world."""
        os.chdir(self._folder)
        if world not in self._worlds:
            kept = self._folder / world
            self._clear({})
            kept.mkdir()
            os.chdir(kept)
            for content in (*(f"a{n}" for n in range(1, 9)), "b4"):
                texts = texts_of(content)
                ids = [f"{DATASET}/{i}" for i in range(len(texts))]
                table = pl.DataFrame({"item_id": ids, "text": texts})
                facts = {"name": DATASET, "revision": content}
                write_manifest(Path(content), facts=facts, tables={KIND: table})
            with _silent():
                next(one for one in WORLDS if one.__name__ == world)()
            objects = {} if self.objects is None else dict(self.objects.objects)
            self._worlds[world] = kept, objects
        kept, objects = self._worlds[world]
        os.chdir(self._folder)
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(kept, self.root, symlinks=True)
        self._clear(objects)
        os.chdir(self.root)
        os.environ["XDG_CACHE_HOME"] = str(self.root / "cache")

    def _clear(self, objects: dict[str, bytes]) -> None:
        if self.objects is not None:
            self.objects.objects.clear()
            self.objects.objects.update(objects)

    def places(self, world: str, command: Typed) -> list[str]:
        """Return the places of a command."""
        self.enter(world)
        stage = Stage(0, lambda: None, asleep=False)
        with stage.set(), _silent():
            command.run()
        return stage.places

    def attempt(self, one: Interleaving) -> list[str]:
        """Return what does not hold after an interleaving; nothing, if all does."""
        self.enter(one.world)
        with _silent():
            before = self._model(one.world)
        self.enter(one.world)
        first, second = (named(name) for name in (one.first, one.second))
        stage = Stage(one.at, second.run, asleep=one.asleep)
        said = io.StringIO()
        try:
            with stage.set(), _silent(said):
                try:
                    codes = first.run()
                finally:
                    stage.join()
            runs = [(first, codes), (second, stage.value)]
            if stage.value is None:
                return [f"the second one ended otherwise: {said.getvalue()[-1500:]}"]
            wrong = [] if "Traceback" not in said.getvalue() else [said.getvalue()]
            with _silent():
                return wrong + self._judge(one.world, before, runs, said)
        except BaseException as err:
            if isinstance(err, KeyboardInterrupt):
                raise
            return [
                f"{type(err).__name__}: {err}"[:1500],
                *traceback.format_tb(err.__traceback__)[-2:],
                said.getvalue()[-600:],
            ]

    def _model(self, world: str) -> Model:
        """Return what a world holds: a damaged one once it is whole."""
        if world == "damaged":
            _set_up(f"store repair here {KEY} --copy there")
        return observed()

    def _judge(
        self, world: str, before: Model, runs: list[tuple[Typed, list[int]]], said: io.StringIO
    ) -> list[str]:
        ends = ", ".join(f"{typed.name} {codes}" for typed, codes in runs)
        wrong = (
            [] if {c for _, codes in runs for c in codes} <= {0, 1, 2, 4} else ["odd exit codes"]
        )
        if world == "damaged":  # and stays so until somebody repairs it
            type_line(f"store repair here {KEY} --copy there")
        for again in (False, True):
            for name in ("here", "there"):
                if Path(name, "log.json").exists():
                    while again and collect_garbage(Path(name), grace=-1):
                        pass
                    wrong += [
                        f"{name}/{p.path} {p.what}"
                        for p in verify_store(Path(name)).problems
                        # A writer whose claim was taken over may leave an item table.
                        if again or not _TABLE.fullmatch(p.path)
                    ]
            found, expected = observed(), allowed(before, runs)
            if found not in expected:
                wrong.append(f"holds {found} instead of {expected}")
        if wrong:
            wrong.append(f"{ends}: {said.getvalue()[-800:]}")
        return wrong


def named(name: str) -> Typed:
    """Return the command of this name."""
    return next(command for command in COMMANDS if command.name == name)


@contextlib.contextmanager
def _silent(said: io.StringIO | None = None) -> Iterator[None]:
    out = said or io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(out):
        yield


def every(bed: Bed, worlds: Collection[str] = ()) -> Iterator[Interleaving]:
    """Yield every interleaving, or those in some worlds."""
    for world in worlds or [one.__name__ for one in WORLDS]:
        for first in COMMANDS:
            if (first.worlds and world not in first.worlds) or not first.first:
                continue
            if (first.bucket and BucketObjects is None) or (world == "pushed" and not first.bucket):
                continue
            places = bed.places(world, first)
            sites = {_TOKEN.sub("*", what): at for at, what in reversed([*enumerate(places, 1)])}
            for at in sorted(sites.values()):
                what = places[at - 1]
                for second in COMMANDS:
                    if second.bucket and not (first.bucket or world == "pushed"):
                        continue
                    yield Interleaving(world, first.name, at, what, second.name)
                    if any(place.startswith("claimed") for place in places[:at]):
                        yield Interleaving(world, first.name, at, what, second.name, asleep=True)


@contextlib.contextmanager
def bed() -> Iterator[Bed]:
    """Yield a bed, in memory where there is some, with a bucket where obstore is there."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    kept, where = dict(os.environ), Path.cwd()
    with tempfile.TemporaryDirectory(dir=memory) as folder, contextlib.ExitStack() as stack:
        try:
            found = Bed(Path(folder))
            if BucketObjects is not None:
                Bed.objects = stack.enter_context(s3_server())
                os.environ.update(environment(Bed.objects.url))
            yield found
        finally:
            os.chdir(where)
            os.environ.clear()
            os.environ.update(kept)
            Bed.objects = None


def counted(
    some: Collection[Interleaving], tried: Collection[tuple[Interleaving, list[str]]]
) -> list[dict[str, Any]]:
    """Return the rows of the table of docs/measurements/reliability.md, one a first command."""
    rows = []
    for name in (command.name for command in COMMANDS if command.first):
        own = [one for one in some if one.first == name]
        held = [not wrong for one, wrong in tried if one.first == name]
        places = len({(one.world, one.at) for one in own})
        numbers = {"places": places, "interleavings": len(own), "tried": len(held)}
        rows.append({"name": name, **numbers, "held": sum(held)})
    return rows


def main() -> int:
    """Try all, or some; the exit code is 1 if one does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", action="append", default=[], help="only in this one")
    parser.add_argument("--only", default="", help="those whose name holds this")
    parser.add_argument("--sample", type=int, help="so many of them")
    parser.add_argument("--out", type=Path, help="write counts as JSON")
    given = parser.parse_args()
    start, tried = time.monotonic(), []
    with bed() as found:
        chosen = some = [one for one in every(found, given.world) if given.only in one.name]
        if given.sample:
            chosen = random.Random(0).sample(chosen, min(given.sample, len(chosen)))
        for one in chosen:
            wrong = found.attempt(one)
            tried.append((one, wrong))
            for line in [one.name, *wrong] if wrong else []:
                print(line, flush=True)
    if given.out is not None:
        rows = ",\n".join(map(json.dumps, counted(some, tried)))
        given.out.write_text(f"[\n{rows}\n]\n", "utf-8")
    failed = sum(bool(wrong) for _, wrong in tried)
    print(f"{len(tried):,} interleavings, {failed:,} failed, {(time.monotonic() - start):,.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
