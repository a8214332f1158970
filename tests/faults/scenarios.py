"""What the children of the fault tests do: small sets, written by the real writer."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featstore.store import SetKey, SetWriter, lock, read_commit, read_log, rebuild_set, writer
from featstore.testing import toy_manifest
from tests.damage import unseal
from tests.faults import steps

#: Rows of the first revision and of the second: two data files, the last of which grows; three.
SIZES = (7, 11)

FAILED = frozenset({3, 8})


def write(
    root: Path,
    n: int,
    *,
    kind: str = "image",
    bits: float = 1.0,
    before_block: Callable[[SetWriter, int], None] | None = None,
    **options: Any,
) -> str:
    """Write or extend a set to n rows, some of which fail, but of a head."""
    failing = () if kind == "head_weight" else FAILED
    blocks = {"before": before_block, "bits": bits}
    return steps.write(root, kind=kind, n=n, failing=failing, blocks=blocks, **options)


def pictures(root: Path, name: str, n: int) -> str:
    """Make a manifest of n small pictures, one of which is no picture, and return its folder."""
    sizes = [(5 + i, 6) for i in range(7)]
    return str(toy_manifest(root, n, name=name, sizes=sizes, broken=[5], seed=n).root)


def key_of(root: Path, dataset: str = "birds", kind: str = "image") -> SetKey:
    """Return the key of the only set of a dataset and kind."""
    folder = root / dataset / kind
    return SetKey(dataset, kind, next(path.name for path in folder.iterdir() if path.is_dir()))


def published_rows(root: Path, dataset: str = "birds", kind: str = "image") -> int:
    """Return the rows of the current revision, or 0 if there is none."""
    folder = root / dataset / kind
    found = [p for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
    revision = read_log(root).sets.get(found[0].relative_to(root).as_posix()) if found else None
    return read_commit(found[0], revision).n if revision else 0


def grow(root: Path) -> str:
    """Write a set in two revisions, and a head between them: each step only if it is missing."""
    for n, dataset, kind in [
        (SIZES[0], "birds", "image"),
        (5, "birds", "head_weight"),
        (SIZES[1], "birds", "image"),
    ]:
        if published_rows(root, dataset, kind) <= n:
            write(root, n, dataset=dataset, kind=kind)
    return "written"


def copies(root: Path) -> str:
    """Copy a set from a store beside this one, extend it there, and copy it again."""
    from featstore.share import copy_sets

    source = root.with_name(f"{root.name} source")
    for n in SIZES:
        write(source, n)
        copy_sets(source, root)
    return "copied"


def damage(root: Path) -> None:
    """Change a byte of a block of the set of images that has a failed row; lose its golden file."""
    unseal(root)
    folder = key_of(root).directory(root)
    with (folder / "embedding" / "c" / "0" / "0").open("r+b") as file:
        file.seek(2 * 4 * steps.SETS["image"]["dim"] + 1)
        file.write(b"\x55")
    (folder / "golden.json").unlink()


def repair(root: Path, *, bits: float = 1.0) -> str:
    """Repair the set of images: what follows from other files, then its damaged blocks.

    With other `bits` its rows come out otherwise, as those of another library do.
    """
    rebuild_set(root, str(key_of(root)))
    write(root, SIZES[1], repair=True, bits=bits)
    return "repaired"


def once(root: Path, *, n: int = SIZES[0], **options: Any) -> str:
    """Write one set; with `nap`, slowly: that many seconds before each block."""
    nap = options.pop("nap", 0.0)

    def sleep(*_: Any) -> None:
        time.sleep(nap)

    return write(root, n, before_block=sleep if nap else None, **options)


def stop_before(root: Path, *, where: str, n: int) -> str:
    """Write a set as another machine, lose its lock at a place and stop until resumed (SIGSTOP).

    `where` is ``block`` (before the second block is written), ``data`` (between completing a
    data file and its rename), or ``finish``.
    """
    claims: list[lock.Claim] = []

    def claim_set(*args: Any, **options: Any) -> lock.Claim:
        claims.append(lock.claim_set(*args, **options))
        return claims[0]

    def stop(*_: Any) -> None:
        fcntl.flock(claims[0]._handle, fcntl.LOCK_UN)
        os.kill(os.getpid(), signal.SIGSTOP)

    def stop_once(_: SetWriter, block: int) -> None:
        if where == "block" and block == 1:
            stop()

    def is_there(target: Path) -> bool:
        parts = target.relative_to(root).parts if target.is_relative_to(root) else ()
        return where == "data" and parts[3:4] == ("embedding",) and parts[-1] == "0"

    with _before_rename(is_there, stop), pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "claim_set", claim_set)
        patch.setattr(lock, "boot_id", lambda: "another")
        last = {"before_finish": stop} if where == "finish" else {}
        return write(root, n, before_block=stop_once, **last)


@contextmanager
def _before_rename(is_there: Callable[[Path], bool], act: Callable[[], None]) -> Iterator[None]:
    """Act once, right before the first rename to a name that is wanted."""
    replace = Path.replace
    done: list[Path] = []

    def replacing(self: Path, target: Path) -> Path:
        if not done and is_there(Path(target)):
            done.append(target)
            act()
        return replace(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replacing)
        yield


class MeanColour:
    """Maps an image to its mean RGB and its size: cheap, exact, and without torch."""

    def encode(self, pictures: list[Any]) -> np.ndarray:
        """Return (b, 5)."""
        return np.array(
            [[*np.asarray(p, np.float32).mean((0, 1)), p.width, p.height] for p in pictures],
            np.float32,
        )


def extract(root: Path, *, manifest: str, batch_size: int = 4, **options: Any) -> dict[str, Any]:
    """Extract the images of a manifest, block by block; return the counts."""
    from featstore import extract as extract_set

    result = extract_set(
        manifest, kind="image", encoder=MeanColour(), space={"name": "mean"}, store=root,
        dtype="float32", batch_size=batch_size, jobs=2, block_rows=8, decode_timeout=None,
        **options,
    )  # fmt: skip
    return result.as_dict()


def command(root: Path, *, arguments: list[str], messages: str) -> int:
    """Run a command; what it says on standard error goes to a file."""
    import sys

    from featstore.command_line import run_command
    from headstock.__main__ import cli

    with Path(messages).open("w") as sys.stderr:
        return run_command(cli, "headstock", arguments)
