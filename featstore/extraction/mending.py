"""Mend a damaged set: only what is damaged is made again, and only what a hash proves is written.

First the store mends what follows from itself (`featstore.store.repair`). What is left is made
again from a manifest and the set's encoder: bad blocks are encoded, good ones are taken from the
damaged file. A block that does not come out as the commit says is not written: another library,
processor or batch size gives other last bits, and a set is of one piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featstore.extraction.advice import advise
from featstore.extraction.remake_set import Remake
from featstore.extraction.remaker_of import items_of, open_remaker
from featstore.manifest import Manifest, read_manifest
from featstore.store.layout import SetKey
from featstore.store.mender import SetMender
from featstore.store.names import resolve_set
from featstore.store.repair import compare, rebuild_commits, relist
from featstore.store.repair import repair_set as repair_from_store
from featstore.store.verify import Problem, verify_store


@dataclass
class Mending:
    """What became of a damaged set.

    Attributes
    ----------
    key : str
        Full name of the set.
    rebuilt : list of str
        Files that are whole again, relative to the store; in a dry run those that the store can
        rebuild from itself.
    left : list of Problem
        What is still wrong.
    encoded : list of dict
        Blocks that were encoded again: ``file``, ``block``, ``rows`` (first and last).
    reasons : list of str
        Why something could not be mended, and nothing was overwritten.
    needs : list of str
        What would have to be made again, and from what.
    commands : list of str
        What to type next.
    """

    key: str
    rebuilt: list[str] = field(default_factory=list)
    left: list[Problem] = field(default_factory=list)
    encoded: list[dict[str, Any]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return what ``featstore repair --json`` prints."""
        return asdict(self)


def repair_set(
    root: str | Path,
    key: str,
    *,
    manifest: str | Path | Manifest | None = None,
    encoder: Any = None,
    space: Mapping[str, Any] | None = None,
    weights: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    workers: int | None = None,
    dry_run: bool = False,
) -> Mending:
    """Make a damaged set whole again, byte for byte.

    Parameters
    ----------
    root : path
        The store.
    key : str
        The set; a short name will do.
    manifest : path or Manifest, optional
        What the set was extracted from. Without it only what follows from the store itself is
        mended, and what is needed for the rest is said.
    encoder : str or object, optional
        By default the name that the set states; the object itself if it was one.
    space : mapping, optional
        Of an encoder object; by default what the set states.
    weights, device : str, optional
        By default those of the recorded run, as are pool, prompt and the like.
    trust_remote_code : bool
        Run code that comes with the model; what a store says is not enough for that.
    workers : int, optional
        Decoding threads.
    dry_run : bool
        Write nothing; encode nothing.

    Raises
    ------
    UnknownSetError, AmbiguousSetError
        If no set, or several, have this name.
    EncoderError, ManifestError
        If the encoder is of another space than the set, or the manifest of another dataset.
    StoreWriteError
        If another process is writing the set, or the file system refuses.

    Examples
    --------
    >>> repair_set("store", "birds/image/resnet50", manifest="birds")  # doctest: +SKIP
    """
    root = Path(root)
    name = resolve_set(root, key)
    set_key = SetKey(*name.split("/"))
    done = repair_from_store(root, name, dry_run=dry_run)
    mending = Mending(name, done.rebuilt, done.left)
    if done.left and manifest is not None and not dry_run:
        source = manifest if isinstance(manifest, Manifest) else read_manifest(Path(manifest))
        items_of(source, set_key)  # of another dataset: an error, before anything is touched
        with SetMender(root, set_key) as mender:
            commits = rebuild_commits(mender)
            if commits:
                remaker = open_remaker(
                    source, mender, encoder=encoder, space=space, wanted=commits[-1].space_id,
                    weights=weights, device=device, trust_remote_code=trust_remote_code,
                    workers=workers,
                )  # fmt: skip
                wrong = {problem.path for problem in done.left}
                remake = Remake(mender, commits, remaker, wrong=wrong)
                remake.run()
                mending.encoded, mending.reasons = remake.encoded, remake.reasons
        relist(root, name)
        done = compare(done.left, verify_store(root, [name]).problems)
        mending.rebuilt += done.rebuilt
        mending.left = done.left
    if mending.left:
        mending.needs, mending.commands = advise(
            root, set_key, mending.left, manifest=manifest, weights=weights,
            tried=manifest is not None and not dry_run,
        )  # fmt: skip
    return mending
