"""What the members of a team do with a shared store, in children that may be other users."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from featstore import open_store
from featstore.errors import StoreWriteError
from featstore.share import drop_tag, make_tag
from featstore.store import collect_garbage, make_store, rebuild_set, remove_set, verify_store
from tests.faults import scenarios
from tests.faults.trees import check_readable


def warm_up() -> None:
    """Do a little of everything, so that whatever a child may need is imported."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        scenarios.grow(Path(folder))
        make_tag(folder, "v1")
        read(Path(folder))
        drop_tag(folder, "v1")
        maintain(Path(folder))
        picture = scenarios.pictures(Path(folder) / "manifest", "one", 9)
        scenarios.extract(Path(folder) / "store", manifest=picture, thumbnails=True)
        for arguments in (["import", "--help"], ["ls", f"{folder}/store"]):
            scenarios.command(Path(folder), arguments=arguments, messages=f"{folder}/messages")


def init(root: Path) -> bool:
    """Make a store for the group."""
    return make_store(root, shared=True)


def read(root: Path) -> list[str]:
    """Open, list, verify and read everything; return the keys."""
    check_readable(root, "as a member of the team")
    store = open_store(root)
    for info in store.sets():
        store.failures(str(info.key))
        store.revisions(str(info.key))
    store.unfinished()
    return [str(info.key) for info in store.sets()]


def give_up(root: Path, *, n: int, block: int) -> str:
    """Write a set up to a block, and stop with an error; what is staged stays."""

    def stop(_: object, number: int) -> None:
        if number == block:
            msg = "given up"
            raise StoreWriteError(msg)

    return scenarios.write(root, n, before_block=stop)


def maintain(root: Path) -> str:
    """Damage, repair, extend, clean and remove the set of a store."""
    if not scenarios.published_rows(root):
        scenarios.write(root, scenarios.SIZES[0])
    key = scenarios.key_of(root)
    path = key.directory(root) / "embedding" / "zarr.json"
    path.chmod(0o644)
    path.write_bytes(b"{}")
    assert not verify_store(root).ok
    assert rebuild_set(root, str(key)).left == []
    assert path.stat().st_mode & 0o222 == 0
    if scenarios.published_rows(root) < scenarios.SIZES[1]:
        scenarios.write(root, scenarios.SIZES[1])
    check_readable(root, "after repair")
    stray = key.directory(root).parent / "items-00000000.parquet"
    stray.write_bytes(b"")
    stray.chmod(0o444)
    assert any(item.path.endswith(stray.name) for item in collect_garbage(root, grace=-1))
    remove_set(root, str(key))
    assert verify_store(root).problems == []
    return "maintained"


def problems(root: Path) -> list[list[str]]:
    """Verify a store; return path and what is wrong of each file that is not right."""
    return [[problem.path, problem.what] for problem in verify_store(root).problems]


def write_and_remove(root: Path, *, dataset: str, stop: str) -> None:
    """Write a set, extend it and remove it, again and again, until there is a file."""
    while not Path(stop).exists():
        for n in scenarios.SIZES:
            scenarios.write(root, n, dataset=dataset)
        remove_set(root, str(scenarios.key_of(root, dataset)))
