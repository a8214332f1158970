"""Score an alignment by a task, on the split of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from bench.corpus import Corpus, Items
from bench.errors import ProtocolError
from bench.fits import Identity, likely_scale_of
from bench.options import (
    TASKS,
    FewShot,
    Generalised,
    ModalityGap,
    Retrieval,
    ZeroShot,
)
from bench.protocol import (
    FRESH_SPLITS,
    Split,
    held_out_split,
    in_class_split,
    manifest_split,
    order_of_pairs,
    stream,
)
from bench.runs import IDENTITY, Run
from bench.tasks.diagnostics import (
    score_cosine_head,
    score_modality_gap,
    score_neighbours,
)
from bench.tasks.few_shot import score_few_shot
from bench.tasks.outcome import KEPT, Confidence, Outcome, Prepared, Projector, outcomes_of
from bench.tasks.ranked import prepare_retrieval, prepare_zero_shot, score_generalised
from featstore.errors import FeatstoreError, needs_extra
from featstore.identity import SHORT, space_id
from featstore.store.store import FeatureStore
from fitters.few_shot import PROMPT_LEARNERS, prompt_learner
from fitters.few_shot.learner import Learner
from fitters.kept import kept
from fitters.scorers import FEWEST_UNLABELLED

if TYPE_CHECKING:
    from fitters.few_shot.prompt_learning import TextTower

_BARE = "none"
_BY_NAME = "Images are classified by class names, and the run names no set of them"


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
        As of ``headstock extract``; the model's hub otherwise.

    Raises
    ------
    ProtocolError
        If the run has no names, they were made by another encoder than open_clip's, or without
        the bare names among them; if the weights do not come, or are of another model.
    """
    learner, data = run.learner, run.data
    if not data.name_set:
        raise ProtocolError(
            f"Learner {learner} learns prompts around class names. Give the run a name_set."
        )
    info = store.info(data.name_set)
    space = info.attributes["space"]
    if (space.get("family"), space.get("tower")) != ("oc", "text"):
        raise ProtocolError(
            f"Learner {learner} learns prompts through the text tower of an open_clip model; "
            f"{data.name_set} was made by {info.encoder}. Extract images and class names with an "
            "oc: encoder, or use another learner."
        )
    names = _bare_names(store, run)
    with needs_extra(f"Learner {learner}", "coop"):
        from featstore.encoders.open_clip_text import open_prompt_tower
    from featstore.encoders.registry import check_name

    try:
        check_name(info.encoder)
        tower = open_prompt_tower(info.encoder, weights=weights)
    except FeatstoreError as err:
        raise ProtocolError(
            f"Learner {learner} needs the text tower of {info.encoder}, by which {data.name_set} "
            f"was made: {err} Say where its weights are: --weights, as of `headstock extract`."
        ) from err
    found = space_id(tower.space)
    if found != info.commit.space_id:
        raise ProtocolError(
            f"The weights given are of another model than that of {data.name_set}: space "
            f"{found[:SHORT]}, not {info.commit.space_id[:SHORT]}. Give those that the set was "
            f"extracted with ({info.encoder})."
        )
    return PromptSide(tower, names)


def _bare_names(store: FeatureStore, run: Run) -> dict[str, str]:
    """Return class_id → name, of the first variant of the run that a class has."""
    data = run.data
    items = store.view(data.name_set).items
    bare = items.filter((pl.col("template_id") == _BARE) & pl.col("text").is_not_null())
    names: dict[str, str] = {}
    for variant in data.variants:
        own = bare.filter(pl.col("variant") == variant).select("class_id", "text").drop_nulls()
        for class_id, text in own.iter_rows():
            names.setdefault(class_id, text)
    lost = sorted(set(items["class_id"].drop_nulls()) - set(names))
    if lost:
        raise ProtocolError(
            f"{len(lost):,} classes of {data.name_set} have no bare name (template '{_BARE}', "
            f"variants {', '.join(data.variants)}; first: {lost[0]!r}). Prompts are learned around "
            "bare names: extract the class names with this template too."
        )
    return names


def split_of(run: Run, corpus: Corpus) -> Split | None:
    """Return the split of a run; None where every image is scored.

    Raises
    ------
    ProtocolError
        If the corpus has no such split.
    """
    own = run.protocol
    return _split(corpus, own.eval, run.seed, own.train_fraction, own.train_splits)


@kept
def _split(
    corpus: Corpus, evaluation: str, seed: int, fraction: float, train: tuple[str, ...]
) -> Split | None:
    images, own = corpus.images, None
    if evaluation in FRESH_SPLITS:
        fresh = held_out_split if evaluation == "held-out" else in_class_split
        own = fresh(images.classes, seed=seed, train_fraction=fraction)
    elif evaluation == "split":
        assert images.parts is not None
        own = manifest_split(images.parts, seed=seed, train=train)
    if corpus.pairs is None:
        return own
    parts = corpus.pairs.images.parts
    assert parts is not None
    order = order_of_pairs(parts, seed=seed, train=train)
    return Split(order, np.arange(len(images)) if own is None else own.test)


@dataclass(frozen=True, eq=False)
class Scoring:
    """What runs over one corpus and split are scored on.

    Parameters
    ----------
    corpus : Corpus
    split : Split, optional
        None where every image is scored.
    top : int
        Items kept of what a query finds; ranks need none.
    prompt_side : callable, optional
        Opens what learners of prompts need; called only for them.
    """

    corpus: Corpus
    split: Split | None
    top: int = KEPT
    prompt_side: Callable[[Run], PromptSide] | None = None

    def held_out(self, run: Run) -> Corpus:
        """Return the part of the corpus that is scored, the same for every task."""
        return _scored(self.corpus, self.split, run.protocol.eval)

    def score(self, run: Run, alignment: Projector) -> list[Outcome]:
        """Score an alignment on the images, names and captions that a run holds out.

        Raises
        ------
        ProtocolError
            If the corpus lacks what the task reads, or the run compares two spaces as they are
            that are not one model's.
        """
        texts = run.data.name_set or run.data.caption_set
        compared = isinstance(alignment, Identity) and texts and _compares_spaces(run)
        if compared and not self.corpus.one_model:
            raise ProtocolError(
                f"Method {IDENTITY!r} takes an image and a text set of one model's two towers (an "
                f"open_clip pair). {run.data.image_set} and {texts} are not: "
                "fit an aligner between them."
            )
        if run.task == "few_shot":
            assert self.split is not None
            learner = _prompt_learner(run, self.prompt_side) if needs_tower(run) else None
            corpus = self.corpus
            return score_few_shot(
                alignment, corpus.images, self.split, names=corpus.names,
                pair_names=corpus.pair_names, head=corpus.head, views=corpus.views,
                options=_options(run), make_learner=learner, seed=run.seed,
            )  # fmt: skip
        own = TASKS[run.task].score
        if own is not None:
            given = {
                "alignment": alignment, "corpus": self.held_out(run),
                "options": run.task_options, "rng": stream("sample", run.seed),
            }  # fmt: skip
            taken = {name: given[name] for name in signature(own).parameters if name in given}
            return outcomes_of(run.task, own(**taken), self.held_out(run))
        if run.task in _TASKS:
            return _TASKS[run.task](run, alignment, self.held_out(run))
        relevance = run.protocol.relevance
        options = run.task_options
        unlabelled = None
        if getattr(options, "scorer", "") == "hub" and self.split is not None:
            unlabelled = _unlabelled(self.corpus, self.split)
        scored = self.held_out(run)
        made = _prepared(run.task, options, relevance, scored, unlabelled, self.top)
        if not getattr(options, "confidence", False):
            return made(alignment)
        scale = likely_scale_of(run, self.corpus, self.split)
        return made(alignment, Confidence(scale, stream("sample", run.seed)))


@kept
def _unlabelled(corpus: Corpus, split: Split) -> Items | None:
    """Return the images that are there for training, if hubs can be corrected by them."""
    if len(split.train) < FEWEST_UNLABELLED:
        return None
    return corpus.trained_on.images.take(split.train)


@kept
def _prepared(
    task: str, options: Any, relevance: str, corpus: Corpus, unlabelled: Items | None, top: int
) -> Prepared:
    """Return a task that is made ready for its items, and scores one alignment after another."""
    if task == "retrieval":
        return prepare_retrieval(
            corpus.images, _captions(task, corpus), relevance=relevance, options=options, top=top
        )
    return prepare_zero_shot(
        corpus.images, corpus.names_for(_BY_NAME), prompts=corpus.prompts, seen=corpus.seen,
        options=options, unlabelled=unlabelled, top=top,
    )  # fmt: skip


def _prompt_learner(
    run: Run, prompt_side: Callable[[Run], PromptSide] | None
) -> Callable[[list[str]], Learner]:
    """Return what makes the run's learner of prompts for the classes of a gallery."""
    name, seed = _options(run).learner, run.seed
    if prompt_side is None:
        raise ProtocolError(f"Learner {name} needs a text tower, and none is opened here.")
    side = prompt_side(run)
    return lambda classes: prompt_learner(
        name,
        side.tower,
        [side.names[c] for c in classes],
        seed=seed,
        device=run.fit.training.device,
    )


def _compares_spaces(run: Run) -> bool:
    """Whether a task takes the dot product of an image row and a text row."""
    options = run.task_options
    if isinstance(options, FewShot):
        return options.prototypes == "names" or needs_tower(run)
    if isinstance(options, ModalityGap):
        return options.between == "images-texts"
    return isinstance(options, ZeroShot | Generalised | Retrieval)


@kept
def _scored(corpus: Corpus, split: Split | None, evaluation: str) -> Corpus:
    """Return the corpus of the test images.

    Held-out classes are the whole gallery; where training and test images share their classes,
    every name stays in it.
    """
    if split is None:
        return corpus
    images = corpus.images.take(split.test)
    changed: dict[str, Any] = {"images": images}
    changed["layers"] = {key: rows[split.test] for key, rows in corpus.layers.items()}
    if evaluation == "held-out":
        having = np.isin(corpus.names.classes, images.classes)
        names = changed["names"] = corpus.names.take(having)
        changed["seen"] = None if corpus.seen is None else corpus.seen[having]
        if corpus.prompts is not None:
            of_names = np.isin(corpus.prompts.classes, names.classes)
            changed["prompts"] = corpus.prompts.take(of_names)
    captions = corpus.captions
    if captions is not None and captions.parents is not None:
        changed["captions"] = captions.take(np.isin(captions.parents, images.ids))
    return replace(corpus, **changed)


def _captions(task: str, corpus: Corpus) -> Items:
    if corpus.captions is None:
        raise ProtocolError(
            f"Task {task} reads captions, and the run names no set of them. Give it a "
            "caption_set (--captions); if the store has none, extract the captions of these images."
        )
    return corpus.captions


def _options(run: Run) -> Any:
    """Return the options of the run's own task, which `Run` has checked."""
    return run.task_options


#: Tasks that score one alignment at a time.
_TASKS: dict[str, Callable[[Run, Any, Corpus], list[Outcome]]] = {
    "generalised": lambda run, alignment, corpus: score_generalised(
        alignment, corpus.images, corpus.names_for(_BY_NAME), corpus.seen,
        prompts=corpus.prompts, options=_options(run),
    ),
    "neighbours": lambda run, _, corpus: score_neighbours(
        corpus, options=_options(run), rng=stream("sample", run.seed)
    ),
    "modality_gap": lambda run, alignment, corpus: score_modality_gap(
        alignment, corpus, options=_options(run), rng=stream("sample", run.seed)
    ),
    "cosine_head": lambda _run, _alignment, corpus: score_cosine_head(corpus),
}  # fmt: skip
