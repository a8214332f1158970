"""What a damaged set needs, in words and as commands to type."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from featstore.extraction.options import MODEL_OPTIONS
from featstore.extraction.plans import recorded_plans
from featstore.store.damage import find_damage, published_commits
from featstore.store.layout import SetKey
from featstore.store.mender import SetMender
from featstore.store.rederive import attributes_of
from featstore.store.repair import rebuild_commits
from featstore.store.verify import Problem

_SMALL = {
    "golden.json": "the encoder's vectors of the golden inputs, made again",
    "bias/c/0": "the bias of the model's head, read again",
    "failures": "the reasons of the failed items, by trying them again",
}


def advise(
    root: Path,
    key: SetKey,
    left: Iterable[Problem],
    *,
    manifest: Any = None,
    weights: str | None = None,
    tried: bool = False,
) -> tuple[list[str], list[str]]:
    """Return what would have to be made again, from what, and the commands for it.

    Parameters
    ----------
    left : iterable of Problem
        What is wrong.
    manifest, weights
        As the caller gave them, if at all.
    tried : bool
        Making it again was tried: what is left must be extracted anew.
    """
    problems = list(left)
    directory = key.directory(root)
    inside = [p for p in problems if "belongs to nothing" not in p.what]
    needs = [f"{p.path}: nothing of the store; delete it" for p in problems if p not in inside]
    if not inside:
        return needs, []
    attributes = attributes_of(directory)
    imported = _mapping(attributes.get("space")).get("provenance") == "imported"
    mendable: list[str] | None = None
    if not tried and not imported:
        mendable = _mendable(root, key)
    if mendable:
        return [*needs, *mendable], [_repair_command(root, key, manifest, weights, attributes)]
    if tried:
        needs.append("what could not be made again: extract the set anew")
    elif imported:
        source = _mapping(attributes.get("facts")).get("source", "the file")
        needs.append(f"the rows were imported from {source}: import them again")
    else:
        needs.append("a commit record that is whole: without it nothing says what was stored")
    return needs, _anew(root, key, attributes, weights, imported=imported)


def _mendable(root: Path, key: SetKey) -> list[str]:
    """Return what a manifest and the encoder could make again; empty without a whole commit."""
    with SetMender(root, key, dry_run=True) as mender:
        commits = rebuild_commits(mender)
    if not commits:
        return []
    damage = find_damage(root, key, commits)
    needs = []
    if not published_commits(damage.directory):
        needs.append("zarr.json: the set's attributes, from encoder and manifest")
    for file, blocks in damage.files.items():
        name = f"embedding/{damage.layout.file_name(file)}"
        spans = [damage.layout.block_slice(block) for block in blocks]
        rows = ", ".join(f"{span.start:,}-{span.stop - 1:,}" for span in spans[:10])
        more = f" and {len(spans) - 10:,} more blocks" if len(spans) > 10 else ""
        source = "read from the model" if key.kind == "head_weight" else f"the {key.kind} items"
        needs.append(f"{name}: blocks of rows {rows}{more}, encoded again from {source}")
    needs += [f"{path.name}: the item table of the manifest" for path in damage.items]
    for name in damage.small:
        what = _SMALL.get("failures" if name.startswith("failures") else name)
        if what:
            needs.append(f"{name}: {what}")
    return needs


def _repair_command(
    root: Path, key: SetKey, manifest: Any, weights: str | None, attributes: dict[str, Any]
) -> str:
    if str(attributes.get("encoder", "")).startswith("object:"):
        return (
            f"python: featstore.extraction.mending.repair_set({str(root)!r}, {str(key)!r}, "
            "manifest=..., encoder=...)"
        )
    folder = manifest if isinstance(manifest, str | Path) else "MANIFEST"
    command = f"featstore repair {_quote(root)} {key} --manifest {_quote(folder)}"
    return command + _weights(key.directory(root), weights)


def _anew(
    root: Path, key: SetKey, attributes: dict[str, Any], weights: str | None, *, imported: bool
) -> list[str]:
    """Return the commands that remove a set and make it again."""
    # The folder carries the name with its colon as a point.
    name = attributes.get("encoder") or key.encoder.rsplit("-", 1)[0].replace(".", ":", 1)
    remove = f"featstore rm {_quote(root)} {key} --yes"
    place = f"--kind {key.kind} --encoder {_quote(name)} --store {_quote(root)}"
    if imported:
        source = _mapping(attributes.get("facts")).get("source", "FILE")
        return [remove, f"featstore import {_quote(source)} --dataset {key.dataset} {place}"]
    if str(name).startswith("object:"):
        return [remove, "python: featstore.extract(..., encoder=...)"]
    directory = key.directory(root)
    asked = _options(directory, str(name)) + _weights(directory, weights)
    return [remove, f"featstore extract MANIFEST {place}{asked}"]


def _options(directory: Path, encoder: str) -> str:
    """Return how the encoder was asked for, if every run says the same."""
    plans = recorded_plans(directory, encoder)
    ways = {tuple(sorted(plan.options.items())) for plan in plans}
    options = dict(ways.pop()) if len(ways) == 1 else {}
    return "".join(
        f" --{option.replace('_', '-')} {_quote(options[option])}"
        for option in MODEL_OPTIONS
        if option in options
    ) + " --tiff" * any(plan.tiff for plan in plans)


def _weights(directory: Path, weights: str | None) -> str:
    chosen = weights or recorded_plans(directory)[0].weights
    return f" --weights {_quote(chosen)}" if chosen else ""


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _quote(value: Any) -> str:
    return shlex.quote(str(value))
