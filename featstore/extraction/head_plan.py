"""What extracting a head would do: the same checks, and nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featstore.errors import FeatstoreError
from featstore.extraction.heads import HEAD_DTYPE, OpenedHead, open_head
from featstore.extraction.plan import JobPlan, SetPlan
from featstore.extraction.targets import SetState, free_bytes
from featstore.keys import encoder_directory, set_id, sha256_hex, space_id
from featstore.store.commit import read_commit, read_pointer
from featstore.store.items import items_bytes
from featstore.store.layout import SetKey, plan_array


def plan_heads(heads: Sequence[Mapping[str, Any]], *, store: Path) -> JobPlan:
    """Say what `extract_head` would do with each of these arguments.

    A head that it would refuse is a plan with an error.
    """
    return JobPlan([_plan_head(head, store) for head in heads], free_bytes(store))


def _plan_head(asked: Mapping[str, Any], store: Path) -> SetPlan:
    name = str(asked["encoder"])
    try:
        opened = open_head(**asked, store=store)
        key = _key(opened)
        state = _state(opened, key, store)
    except FeatstoreError as err:
        return SetPlan(f"head_weight of {name}", name, None, None, "", str(err))
    return SetPlan(str(key), name, state, 0.0, "read from the weights")


def _key(opened: OpenedHead) -> SetKey:
    identity = set_id(
        space_id(opened.head.space),
        dataset=opened.dataset,
        kind="head_weight",
        precision="float32",
        dtype=HEAD_DTYPE,
    )
    return SetKey(opened.dataset, "head_weight", encoder_directory(opened.head.name, identity))


def _state(opened: OpenedHead, key: SetKey, store: Path) -> SetState:
    """Return what the set lacks; settles nothing, unlike `OpenedHead.finished`."""
    rows, dim = opened.head.weight.shape
    layout = plan_array(rows, dim, HEAD_DTYPE)
    pointer = read_pointer(key.directory(store))
    there = pointer is not None
    if pointer is not None:
        commit = read_commit(key.directory(store), str(pointer["revision"]))
        if commit.items["sha256"] != sha256_hex(items_bytes(opened.items)):
            msg = f"{key} is there with other classes. Give this label set another name."
            raise FeatstoreError(msg)
    data = sum(layout.file_bytes(file) for file in range(layout.n_files)) + opened.head.bias.nbytes
    return SetState(
        key=str(key),
        state="finished" if there else "missing",
        rows=rows,
        blocks=layout.n_blocks,
        reused=rows if there else 0,
        staged=0,
        blocks_done=0,
        known=0,
        new=0 if there else rows,
        write_bytes=0 if there else data,
    )
