"""What learners of prompts need beside rows: the text tower of the names, and the bare names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from bench.errors import ProtocolError
from bench.options import FewShot
from bench.runs import Run
from featstore.errors import FeatstoreError, needs_extra
from featstore.keys import SHORT, space_id
from featstore.store.store import FeatureStore
from fitters.few_shot.prompt_learning import PROMPT_LEARNERS, TextTower

_BARE = "none"


@dataclass(frozen=True, eq=False)
class PromptSide:
    """The text side of the images' own model.

    Attributes
    ----------
    tower : TextTower
    names : mapping
        class_id → bare name.
    """

    tower: TextTower
    names: Mapping[str, str]


def needs_tower(run: Run) -> bool:
    """Whether a run learns prompts."""
    options = run.task_options
    return isinstance(options, FewShot) and options.learner in PROMPT_LEARNERS


def open_prompt_side(store: FeatureStore, run: Run, *, weights: str | None = None) -> PromptSide:
    """Open the text tower that made a run's class names, and read the names.

    Parameters
    ----------
    store : FeatureStore
    run : Run
    weights : str, optional
        As of ``featstore extract``; the model's hub otherwise.

    Raises
    ------
    ProtocolError
        If the run has no names, they were made by another encoder than open_clip's, or without
        the bare names among them; if the weights do not come, or are of another model.
    """
    options = run.task_options
    assert isinstance(options, FewShot)
    learner = options.learner
    if not run.name_set:
        msg = f"Learner {learner} learns prompts around class names. Give the run a name_set."
        raise ProtocolError(msg)
    info = store.info(run.name_set)
    space = info.attributes["space"]
    if (space.get("family"), space.get("tower")) != ("oc", "text"):
        msg = (
            f"Learner {learner} learns prompts through the text tower of an open_clip model; "
            f"{run.name_set} was made by {info.encoder}. Extract images and class names with an "
            "oc: encoder, or use another learner."
        )
        raise ProtocolError(msg)
    names = _bare_names(store, run)
    with needs_extra(f"Learner {learner}", "coop"):
        from featstore.encoders.open_clip_prompts import open_prompt_tower
    from featstore.encoders.registry import check_name

    try:
        check_name(info.encoder)
        tower = open_prompt_tower(info.encoder, weights=weights)
    except FeatstoreError as err:
        msg = (
            f"Learner {learner} needs the text tower of {info.encoder}, which made {run.name_set}: "
            f"{err} Say where its weights are: --weights, as of `featstore extract`."
        )
        raise ProtocolError(msg) from err
    found = space_id(tower.space)
    if found != info.commit.space_id:
        msg = (
            f"The weights given are of another model than that of {run.name_set}: space "
            f"{found[:SHORT]}, not {info.commit.space_id[:SHORT]}. Give those that the set was "
            f"extracted with ({info.encoder})."
        )
        raise ProtocolError(msg)
    return PromptSide(tower, names)


def _bare_names(store: FeatureStore, run: Run) -> dict[str, str]:
    """Return class_id → name, of the first variant of the run that a class has."""
    items = store.view(run.name_set).items
    bare = items.filter((pl.col("template_id") == _BARE) & pl.col("text").is_not_null())
    names: dict[str, str] = {}
    for variant in run.variants:
        own = bare.filter(pl.col("variant") == variant).select("class_id", "text").drop_nulls()
        for class_id, text in own.iter_rows():
            names.setdefault(class_id, text)
    lost = sorted(set(items["class_id"].drop_nulls()) - set(names))
    if lost:
        msg = (
            f"{len(lost):,} classes of {run.name_set} have no bare name (template '{_BARE}', "
            f"variants {', '.join(run.variants)}; first: {lost[0]!r}). Prompts are learned around "
            "bare names: extract the class names with this template too."
        )
        raise ProtocolError(msg)
    return names
