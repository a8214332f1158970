"""Any sequence of steps on a store, with real kills among them, against a dictionary.

The model of a store is what its user has been promised: for every set the revisions that were
published, each a number of items and those that failed, and for every tag the revisions that it
names. After every step all of it must read so, and verify must find nothing else. Writers that wait
for one another, or stand still, are in test_claims.py and test_interleavings.py.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from featstore import open_store
from featstore.errors import StoreWriteError, UnknownSetError
from featstore.share import drop_tag, make_tag
from featstore.store import remove_set, verify_store
from tests.faults import steps
from tests.faults.conftest import EVERYTHING, Children
from tests.faults.trees import litter

#: Examples and steps of each; many more where all faults are asked for.
EXAMPLES, STEPS = (400, 60) if EVERYTHING else (7, 30)

#: Without shrinking, which takes many minutes: what failed is printed step by step anyway.
PHASES = tuple(Phase) if EVERYTHING else (Phase.generate,)

KINDS = st.sampled_from(list(steps.SETS))
GROWING = st.sampled_from([kind for kind in steps.SETS if kind != "head_weight"])
SIZES = st.integers(1, 14)
FAILING = st.frozensets(st.integers(0, 13), max_size=4)

#: Between the first data file that is renamed to its place and the commit: what has an effect on
#: files of the revision before.
PUBLISHING = st.tuples(st.just("/embedding/c/"), st.integers(2, 5)) | st.tuples(
    st.just("/revisions/"), st.integers(1, 2)
)
TAGS = st.sampled_from(["v1", "v2", "v3"])

#: A head is written whole: it always has this many rows.
HEAD_ROWS = 5


@dataclass(frozen=True)
class Revision:
    """What a published revision holds: its first n items, without those that failed."""

    n: int
    failed: frozenset[int]
    revision_id: str = field(compare=False)


@dataclass
class Place:
    """The model of one store: kind -> revisions, the current one last; tag -> key -> id."""

    root: Path
    sets: dict[str, list[Revision]] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)

    def current(self, kind: str) -> dict[int, np.ndarray] | None:
        """Return the rows by number of the item, or None if there is no such set."""
        if kind not in self.sets:
            return None
        last = self.sets[kind][-1]
        rows = steps.rows_of(kind, last.n)
        return {i: rows[i] for i in range(last.n) if i not in last.failed}


class StoreMachine(RuleBasedStateMachine):
    """Two stores, one of which is written; sets are copied between them in both directions."""

    children: ClassVar[Children]
    folder: ClassVar[Path]
    #: (kind, its revisions) -> revision_id, over all examples: equal content has equal ids.
    ids: ClassVar[dict[Any, str]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(dir=self.folder))
        self.here, self.there = Place(self.base / "here"), Place(self.base / "there")
        #: Kind -> the items that fail in its next revision, however often that is begun anew.
        self.failing: dict[str, frozenset[int]] = {}
        #: Sets with an attempt that was interrupted.
        self.begun: set[str] = set()
        #: Steps so far.
        self.count = 0
        self.compacted = False

    def teardown(self) -> None:
        for place in (self.here, self.there):
            if place.sets:
                self._check(place, everything=True)
        shutil.rmtree(self.base)

    # -- writing ---------------------------------------------------------------------------

    def _size(self, kind: str, n: int) -> int:
        """Return a size that the set may get: it never shrinks, and a head never grows."""
        if kind == "head_weight":
            return HEAD_ROWS
        return max(n, self.here.sets[kind][-1].n) if kind in self.here.sets else n

    def _next(self, kind: str, n: int, *, retry: bool) -> Revision | None:
        """Return the revision that an attempt publishes, or None if there is nothing to do."""
        failing = self.failing[kind]
        if kind not in self.here.sets:
            return Revision(n, frozenset(i for i in failing if i < n), "")
        base = self.here.sets[kind][-1]
        if n == base.n and not (retry and base.failed):
            return None
        old = base.failed & failing if retry else base.failed
        return Revision(n, old | {i for i in failing if base.n <= i < n}, "")

    def _published(self, kind: str, revision: Revision) -> None:
        """Note a revision with the id that the store gives it."""
        found = open_store(self.here.root).info(self._key(kind)).commit.revision_id
        revisions = self.here.sets.setdefault(kind, [])
        if not revisions or revisions[-1] != revision:
            revisions.append(Revision(revision.n, revision.failed, found))
        assert revisions[-1].revision_id == found
        self.failing.pop(kind, None)
        self.begun.discard(kind)

    def _key(self, kind: str) -> str:
        return str(steps.key_of_kind(self.here.root, kind))

    def _attempt(
        self, kind: str, n: int, failing: frozenset[int], retry: bool
    ) -> tuple[dict[str, Any], Revision | None]:
        """Return the arguments of `steps.write`, and what it publishes if nothing stops it."""
        # The rows of a head are read, not computed: none of them fails.
        failing = frozenset() if kind == "head_weight" else failing
        chosen = self.failing.setdefault(kind, failing)
        n = self._size(kind, n)
        arguments = {"kind": kind, "n": n, "failing": sorted(chosen), "retry_failed": retry}
        return arguments, self._next(kind, n, retry=retry)

    @rule(kind=KINDS, n=SIZES, failing=FAILING, retry=st.booleans())
    def write(self, kind: str, n: int, failing: frozenset[int], retry: bool) -> None:
        """Write a set, extend it, resume it or try what failed again: whatever is due."""
        arguments, revision = self._attempt(kind, n, failing, retry)
        found = steps.write(self.here.root, **arguments)
        assert found == ("reused" if revision is None else "written")
        if revision is not None:
            self._published(kind, revision)

    @precondition(lambda self: any(r[-1].failed for r in self.here.sets.values()))
    @rule(data=st.data(), failing=FAILING)
    def retry(self, data: st.DataObject, failing: frozenset[int]) -> None:
        """Try the failed items of a set again, some of which fail again."""
        kinds = sorted(kind for kind, r in self.here.sets.items() if r[-1].failed)
        kind = data.draw(st.sampled_from(kinds))
        self.write(kind, self.here.sets[kind][-1].n, failing, retry=True)

    @precondition(lambda self: any(r[-1].n > 1 for r in self.here.sets.values()))
    @rule(data=st.data())
    def shrink(self, data: st.DataObject) -> None:
        """Fewer items than the set has are there, and change nothing; of a list, none may go."""
        kind = data.draw(
            st.sampled_from(sorted(k for k, r in self.here.sets.items() if r[-1].n > 1))
        )
        n = self.here.sets[kind][-1].n - 1
        if kind in ("class_name", "head_weight"):
            with pytest.raises(StoreWriteError, match="lists, whose order means something"):
                steps.write(self.here.root, kind=kind, n=n)
        else:
            assert steps.write(self.here.root, kind=kind, n=n) == "reused"

    @rule(
        kind=KINDS, n=SIZES, failing=FAILING, retry=st.booleans(), blocks=st.integers(0, 4),
        resume=st.booleans(),
    )  # fmt: skip
    def interrupt(
        self, kind: str, n: int, failing: frozenset[int], retry: bool, blocks: int, resume: bool
    ) -> None:
        """Stop a writer by an exception after some blocks; it is resumed now, later or never."""
        arguments, revision = self._attempt(kind, n, failing, retry)
        try:
            found = steps.write(self.here.root, **arguments, blocks={"stop_after": blocks})
            assert found == ("reused" if revision is None else "written")
            if revision is not None:
                self._published(kind, revision)
        except KeyboardInterrupt:
            there = (self.here.root / self._key(kind)).exists()  # not where nothing was written
            (self.begun.add if there else self.begun.discard)(kind)
            if resume:
                self.write(kind, arguments["n"], failing, retry)

    @rule(kind=GROWING, n=SIZES, failing=FAILING, first=st.sampled_from([0, 1]))
    def in_parts(self, kind: str, n: int, failing: frozenset[int], first: int) -> None:
        """Write the blocks of a set as two parts; then nothing is left but to publish it."""
        arguments, revision = self._attempt(kind, n, failing, retry=False)
        if revision is None:
            return
        for rank in (first, 1 - first):
            with steps.set_writer(self.here.root, kind, arguments["n"], part=(rank, 2)) as writer:
                steps.write_blocks(writer, arguments["failing"])
        with steps.set_writer(self.here.root, kind, arguments["n"]) as writer:
            assert writer.pending() == []
            steps.finish(writer)
        self._published(kind, revision)

    # -- removing and naming ---------------------------------------------------------------

    @rule(kind=KINDS)
    def remove(self, kind: str) -> None:
        """Remove a set, published or begun; one that is neither, or has a tag, is refused."""
        if self._is_tagged(kind):
            with pytest.raises(StoreWriteError, match="is named by the tag"):
                remove_set(self.here.root, self._key(kind))
            return
        if kind in self.here.sets or kind in self.begun:
            remove_set(self.here.root, self._key(kind))
        else:
            with pytest.raises(UnknownSetError, match="holds no set"):
                remove_set(self.here.root, self._key(kind))
        self._forget(kind)

    def _is_tagged(self, kind: str) -> bool:
        return any(self._key(kind) in revisions for revisions in self.here.tags.values())

    def _forget(self, kind: str) -> None:
        self.here.sets.pop(kind, None)
        self.failing.pop(kind, None)
        self.begun.discard(kind)

    @precondition(lambda self: (self.here.root / "log.json").exists())
    @rule()
    def collect(self) -> None:
        """Garbage collection drops what was begun, and leaves no litter."""
        steps.collect(self.here.root)
        self.begun.clear()
        assert litter(self.here.root) == []
        assert open_store(self.here.root).unfinished() == []

    @precondition(lambda self: self.here.sets)
    @rule(at=st.integers(0, 40))
    def compact(self, at: int) -> None:
        """Make sets one part, and kill that anywhere: no revision changes."""
        self.compacted = True
        if at:
            self._killed("compact", self.here.root, at, {})
        steps.compact(self.here.root)

    @precondition(lambda self: self.here.sets)
    @rule(name=TAGS)
    def tag(self, name: str) -> None:
        """Name the current revisions; a name that is taken stays what it is."""
        wanted = {self._key(kind): r[-1].revision_id for kind, r in self.here.sets.items()}
        if self.here.tags.get(name, wanted) == wanted:
            assert make_tag(self.here.root, name) == wanted
            self.here.tags[name] = wanted
        else:
            with pytest.raises(StoreWriteError, match="Tags never change"):
                make_tag(self.here.root, name)

    @precondition(lambda self: self.here.tags)
    @rule(data=st.data())
    def untag(self, data: st.DataObject) -> None:
        """Drop a tag."""
        name = data.draw(st.sampled_from(sorted(self.here.tags)))
        assert drop_tag(self.here.root, name)
        del self.here.tags[name]

    # -- sharing ---------------------------------------------------------------------------

    @precondition(lambda self: (self.here.root / "log.json").exists())
    @rule()
    def push(self) -> None:
        """Copy every set and tag to the other store."""
        self._copied(self.here, self.there)

    @precondition(lambda self: self.there.sets)
    @rule()
    def pull(self) -> None:
        """Copy every set and tag back."""
        self._copied(self.there, self.here)

    def _copied(self, source: Place, target: Place) -> None:
        report = steps.copy(source.root, target=str(target.root))
        sent: set[str] = set()
        failed: set[str] = set()
        for kind, ours in source.sets.items():
            theirs = target.sets.get(kind)
            names = [revision.revision_id for revision in ours]
            there = [revision.revision_id for revision in theirs or []]
            key = self._key(kind)
            if theirs is not None and there[-1] == names[-1]:
                relation = "same"
            elif theirs is None or there[-1] in names:
                relation = "new" if theirs is None else "behind"
            elif names[-1] in there:
                relation = "newer"
            else:
                assert "does not follow from it" in report["failed"][key]
                failed.add(key)
                continue
            if target is self.here and kind in self.begun and relation in ("new", "behind"):
                # Whether a block of it had been written before it was stopped, nobody knows.
                if key in report["failed"]:
                    assert "is unfinished" in report["failed"][key]
                    failed.add(key)
                    continue
                self.begun.discard(kind)
            assert report["sets"][key] == relation
            sent.add(key)
            if relation in ("new", "behind"):
                target.sets[kind] = list(ours)
                if target is self.here:
                    self.failing.pop(kind, None)
        for name, revisions in source.tags.items():
            if set(revisions) <= sent and target.tags.setdefault(name, revisions) != revisions:
                assert "Tags never change" in report["failed"][name]
                failed.add(name)
        assert set(report["sets"]) == sent
        assert set(report["failed"]) == failed

    # -- kills -----------------------------------------------------------------------------

    def _killed(
        self, step: str, root: Path, at: int, args: dict[str, Any], among: str = ""
    ) -> bool:
        """Run a step in a child that is killed before its at-th change; whether it was."""
        places = [str(self.base)]
        request = {"step": step, "at": at, "places": places, "args": args, "among": among}
        report = self.children.run("killed", root, args=request)
        assert report["code"] in (0, -signal.SIGKILL), report
        return bool(report["code"])

    @rule(
        kind=KINDS, n=SIZES, failing=FAILING, retry=st.booleans(),
        at=st.tuples(st.just(""), st.integers(1, 45)) | PUBLISHING,
        then=st.sampled_from(["resume", "other", "other", "nothing"]), other=SIZES,
    )  # fmt: skip
    def kill_a_writer(
        self, kind: str, n: int, failing: frozenset[int], retry: bool, at: tuple[str, int],
        then: str, other: int,
    ) -> None:  # fmt: skip
        """Kill a writer anywhere: it had published, or is resumed, or gives way to another."""
        dead, n = self._kill_writer(kind, n, failing, retry, at)
        if dead and then == "resume":
            self.write(kind, n, failing, retry)
        elif dead and then == "other":
            self.write(kind, other, failing, not retry)

    @precondition(lambda self: any(r[-1].failed for r in self.here.sets.values()))
    @rule(data=st.data(), at=PUBLISHING, more=st.integers(1, 4), first=st.booleans())
    def kill_one_of_two(
        self, data: st.DataObject, at: tuple[str, int], more: int, first: bool
    ) -> None:
        """Kill a retry among its renames and extend the set, or the other way round."""
        kinds = sorted(kind for kind, r in self.here.sets.items() if r[-1].failed)
        kind = data.draw(st.sampled_from(kinds))
        n = self.here.sets[kind][-1].n
        both = [(n, True), (n + more, False)]
        for place, (size, retry) in enumerate(both if first else both[::-1]):
            if place == 0:
                self._kill_writer(kind, size, frozenset(), retry, at)
            else:
                self.write(kind, size, frozenset(), retry)

    def _kill_writer(
        self, kind: str, n: int, failing: frozenset[int], retry: bool, at: tuple[str, int]
    ) -> tuple[bool, int]:
        """Kill a writer at a place; return whether it died, and its number of items."""
        arguments, revision = self._attempt(kind, n, failing, retry)
        dead = self._killed("write", self.here.root, at[1], arguments, at[0])
        if revision is not None and self._is_published(kind, revision):
            self._published(kind, revision)
        else:
            assert dead or revision is None
            if dead:
                self.begun.add(kind)
        return dead, arguments["n"]

    def _is_published(self, kind: str, revision: Revision) -> bool:
        """Return whether the store has this many items with these failures as its current."""
        if not (self.here.root / "log.json").exists():
            return False
        store = open_store(self.here.root)
        found = [info.commit for info in store.sets() if str(info.key) == self._key(kind)]
        if not found or found[0].n != revision.n:
            return False
        return set(np.flatnonzero(found[0].failed_rows())) == revision.failed

    @precondition(lambda self: not all(map(self._is_tagged, self.here.sets)))
    @rule(data=st.data(), at=st.integers(1, 12))
    def kill_a_removal(self, data: st.DataObject, at: int) -> None:
        """Kill a removal anywhere: the set is whole, or readers do not see it."""
        free = [kind for kind in self.here.sets if not self._is_tagged(kind)]
        kind = data.draw(st.sampled_from(sorted(free)))
        key = self._key(kind)
        self._killed("remove", self.here.root, at, {"key": key})
        if key not in {str(info.key) for info in open_store(self.here.root).sets()}:
            self._forget(kind)
            steps.collect(self.here.root)
            self.begun.clear()

    @precondition(lambda self: (self.here.root / "log.json").exists())
    @rule(at=st.integers(1, 20))
    def kill_a_collection(self, at: int) -> None:
        """Kill a garbage collection anywhere, and collect again."""
        self._killed("collect", self.here.root, at, {})
        self.collect()

    @precondition(lambda self: self.here.sets)
    @rule(at=st.integers(1, 45))
    def kill_a_push(self, at: int) -> None:
        """Kill a push anywhere: the other store is whole, and the next push completes it."""
        self._killed("copy", self.here.root, at, {"target": str(self.there.root)})
        if (self.there.root / "log.json").exists():
            before = {kind: list(revisions) for kind, revisions in self.there.sets.items()}
            after = {kind: list(revisions) for kind, revisions in self.here.sets.items()}
            found = {
                info.key.kind: info.commit.revision_id
                for info in open_store(self.there.root).sets()
            }
            for kind, revision_id in found.items():
                known = [r[kind][-1].revision_id for r in (before, after) if kind in r]
                assert revision_id in known
                if kind not in before or revision_id != before[kind][-1].revision_id:
                    self.there.sets[kind] = after[kind]
            for name in open_store(self.there.root).tags():
                self.there.tags.setdefault(name, self.here.tags.get(name, {}))
        self.push()

    # -- what must hold --------------------------------------------------------------------

    @invariant()
    def reads_as_the_model(self) -> None:
        """Both stores read as the model, and verify finds nothing."""
        self.count += 1
        for place in (self.here, self.there):
            self._check(place, everything=False)

    def _check(self, place: Place, *, everything: bool) -> None:
        if not (place.root / "log.json").exists():
            assert place.sets == {}
            return
        keys = set(map(self._key, place.sets))
        assert {problem.path: problem.what for problem in verify_store(place.root).problems} == {}
        mode = ("auto", "map", "pread")[self.count % 3]
        store = open_store(place.root, mode=mode, verify="first-touch")  # type: ignore[arg-type]
        assert {str(info.key) for info in store.sets()} == keys
        for kind, revisions in place.sets.items():
            history = store.revisions(self._key(kind))
            assert [info.commit.revision_id for info in history] == [
                revision.revision_id for revision in revisions
            ]
            for revision in revisions if everything else revisions[-1:]:
                self._check_revision(store, kind, revision)
            self._check_ids(kind, revisions, history[-1].commit)
        for name, wanted in place.tags.items():
            assert store.tag(name) == wanted

    def _check_revision(self, store: Any, kind: str, revision: Revision) -> None:
        key, wanted = self._key(kind), revision.revision_id
        view = store.view(key, revision=wanted)
        good = [i for i in range(revision.n) if i not in revision.failed]
        assert view.numpy(np.float32).tobytes() == steps.rows_of(kind, revision.n)[good].tobytes()
        ids = steps.item_ids(kind, revision.n)
        assert view.items["item_id"].to_list() == [ids[i] for i in good]
        failures = store.failures(key, revision=wanted)
        assert dict(failures.iter_rows()) == {ids[i]: steps.REASON for i in revision.failed}
        if kind == "head_weight":
            assert view.bias.tolist() == steps.bias_of(revision.n).tolist()

    def _check_ids(self, kind: str, revisions: list[Revision], commit: Any) -> None:
        """Equal content has equal ids, whatever was killed on the way to it."""
        path = (kind, tuple((revision.n, revision.failed) for revision in revisions))
        if not self.compacted:  # what follows names the parts that it found
            assert self.ids.setdefault(path, commit.revision_id) == commit.revision_id
        parts = [part.n for part in commit.parts]
        assert commit.blocks == steps.block_hashes(kind, parts, revisions[-1].failed)
        assert commit.set_id == self.ids.setdefault(kind, commit.set_id)


@pytest.fixture
def place(children: Children, memory: Path) -> Iterator[None]:
    """Where the machine makes its stores, and who it kills."""
    StoreMachine.children, StoreMachine.folder = children, memory
    StoreMachine.ids = {}
    yield
    del StoreMachine.children, StoreMachine.folder


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_any_sequence_of_steps_reads_as_the_dictionary_says() -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=STEPS, derandomize=not EVERYTHING,
            deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES,
        ),
    )  # fmt: skip


@pytest.mark.usefixtures("place")
def test_rows_of_a_killed_writer_are_litter_when_the_next_one_wrote_nothing() -> None:
    machine = StoreMachine()
    machine.kill_a_writer("image", 1, frozenset(), False, ("/revisions/", 1), "nothing", 1)
    machine.interrupt("image", 1, frozenset(), False, 0, False)
    machine.reads_as_the_model()
    machine.collect()
    assert not any(path.is_file() for path in (machine.here.root / "birds").rglob("*"))
    machine.teardown()
