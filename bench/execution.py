"""Running runs: one fit serves all the tasks that share it; finished runs are skipped.

A run fits an alignment on its split, or takes the fit of another run, and scores it by its task.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from bench.code import only_here
from bench.corpus import (
    FRESH_SPLITS,
    Corpus,
    Items,
    Split,
    manifest_split,
    needs_prompts,
    order_of_pairs,
    pictures_of,
    read_corpus,
    stream,
)
from bench.errors import ProtocolError
from bench.fits import Identity, fit_run, is_cell, likely_scale_of
from bench.options import TASKS, FewShot, Generalised, ModalityGap, Retrieval, ZeroShot
from bench.results import RANK_SCHEMA, RESULT_SCHEMA, finished, write_batch
from bench.runs import IDENTITY, Run
from bench.tasks.diagnostics import score_cosine_head, score_modality_gap, score_neighbours
from bench.tasks.outcome import KEPT, Confidence, Outcome, Prepared, Projector, outcomes_of
from bench.tasks.ranked import (
    prepare_retrieval,
    prepare_zero_shot,
    score_few_shot,
    score_generalised,
)
from featstore.errors import EngineError, FeatstoreError, listed, needs_extra
from featstore.identity import SHORT, space_id
from featstore.parallel import Engine, Workers
from featstore.plugins import ENVIRONMENT
from featstore.store.log import has_log
from featstore.store.store import FeatureStore, open_store
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
        from featstore.encoders.open_clip import open_prompt_tower
    from featstore.encoders.registry import check_name

    try:
        check_name(info.encoder)
        tower = open_prompt_tower(info.encoder, weights=weights)
    except FeatstoreError as err:
        raise ProtocolError(
            f"Learner {learner} needs the text tower of {info.encoder}, by which {data.name_set} "
            f"was made: {err} Say where its weights are, as of an extraction: `weights=`."
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
    bare = items.filter(pl.col("text").is_not_null(), template_id=_BARE)
    names: dict[str, str] = {}
    for variant in data.variants:
        own = bare.filter(variant=variant).select("class_id", "text").drop_nulls()
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
        own = FRESH_SPLITS[evaluation](images.classes, seed=seed, train_fraction=fraction)
    elif evaluation == "split":
        assert images.parts is not None
        own = manifest_split(images.parts, seed=seed, train=train)
    if corpus.pairs is None:
        return own and own.apart(pictures_of(images))
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
                options=run.task_options, make_learner=learner, seed=run.seed,
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
    name, seed = run.task_options.learner, run.seed
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
            f"Task {task} reads captions, and the run names no set of them. Give it one "
            "(`captions=`); if the store has none, extract the captions of these images."
        )
    return corpus.captions


#: Tasks that score one alignment at a time.
_TASKS: dict[str, Callable[[Run, Any, Corpus], list[Outcome]]] = {
    "generalised": lambda run, alignment, corpus: score_generalised(
        alignment, corpus.images, corpus.names_for(_BY_NAME), corpus.seen,
        prompts=corpus.prompts, options=run.task_options,
    ),
    "neighbours": lambda run, _, corpus: score_neighbours(
        corpus, options=run.task_options, rng=stream("sample", run.seed)
    ),
    "modality_gap": lambda run, alignment, corpus: score_modality_gap(
        alignment, corpus, options=run.task_options, rng=stream("sample", run.seed)
    ),
    "cosine_head": lambda _run, _alignment, corpus: score_cosine_head(corpus),
}  # fmt: skip


# Seconds of work that are written as one file, and lost if the process dies: the three durable
# files of a run take 7 ms, half of what a cell of a sweep does.
_LOST = 10.0

_Made = TypeVar("_Made")

# Fits handed to a process at once: large enough that reading the corpus and starting the
# task cost little, small enough that the last tasks end together.
_BATCH = 16


@dataclass(frozen=True)
class Summary:
    """What `run_all` did.

    Attributes
    ----------
    reused, new : int
        Runs found finished, and runs made.
    fits : int
    seconds : float
        Wall time.
    """

    reused: int
    new: int
    fits: int
    seconds: float


def run_all(
    runs: Sequence[Run],
    store: Path | str,
    root: Path | str,
    *,
    jobs: int = 1,
    engine: Engine = "local",
    weights: str | None = None,
    device: str = "cpu",
    on_done: Callable[[int], None] | None = None,
) -> Summary:
    """Execute the runs that are not finished and write each as soon as it is.

    Parameters
    ----------
    runs : sequence of Run
    store : path or address
        Of the store.
    root : Path
        Results folder, made if missing.
    jobs : int
        Processes. Every one computes with a single thread, so that results do not depend on
        this number; with 1 everything stays in this process.
    engine : {"local", "ray"}
        Where they run: processes of this machine, or Ray, here or on the cluster that RAY_ADDRESS
        names. On a cluster, store and results must lie where every node sees them.
    weights : str, optional
        Of the text tower, for learners of prompts: as of ``headstock extract``. On a cluster every
        node must see them.
    device : str
        Of trainings, prompts among them; see `fitters.settings.TrainingOptions`. It enters no id.
    on_done : callable, optional
        Called after each fit, with the number of its runs.

    Returns
    -------
    Summary

    Raises
    ------
    FeatstoreError
        Whatever a run raises; runs that had finished by then stay.

    Examples
    --------
    >>> from bench.suites.demo import create_smoke_store, smoke_runs
    >>> create_smoke_store("smoke")
    >>> runs = smoke_runs(open_store("smoke"))[:2]
    >>> [run_all(runs, "smoke", "results").new for again in range(2)]
    [2, 0]
    """
    start, root = time.perf_counter(), Path(root)
    if has_log(root):
        raise ProtocolError(f"{root} is a store. Choose another folder for the results.")
    have = finished(root)
    left = [_on(device, run) for run in dict.fromkeys(runs) if run.run_id not in have]
    groups = _by_fit(left)
    n_fits = len({run.fit_key for run in left})
    report = on_done or (lambda _: None)
    if engine == "local" and (jobs == 1 or len(groups) <= 1):
        with threadpool_limits(limits=1):
            for done in _run_groups(groups, _Corpora(store, weights), root):
                report(done)
    elif groups:
        batches = [groups[at : at + _BATCH] for at in range(0, len(groups), _BATCH)]
        # A process elsewhere may have another working directory; an address stays as it is.
        place = store if "://" in str(store) else Path(store).resolve()
        if weights is not None and Path(weights).exists():
            weights = str(Path(weights).resolve())
        for one in left:
            for what in only_here(one.fit.method, one.learner, one.task):
                raise EngineError(
                    f"The {what} is registered in this process alone. Name its file by --plugin "
                    f"({ENVIRONMENT}) or install its package, so that other processes find it; or "
                    "use jobs=1."
                )
        work = partial(
            _run_batch, store=place, root=root.resolve(), weights=weights, call=uuid4().hex
        )
        with Workers(engine, jobs).connected() as run:
            for finished_batch in run(work, batches):
                for done in finished_batch:
                    report(done)
    return Summary(len(set(runs)) - len(left), len(left), n_fits, time.perf_counter() - start)


def _on(device: str, run: Run) -> Run:
    """Return the run with its training on a device."""
    training = run.fit.training
    if training.device == device:
        return run
    return replace(run, fit=replace(run.fit, training=replace(training, device=device)))


def _by_fit(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs of each fit."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.fit_key, []).append(run)
    return list(groups.values())


def _run_batch(
    groups: list[list[Run]],
    store: Path | str,
    root: Path,
    weights: str | None,
    call: str,
) -> list[int]:
    for run in [run for group in groups for run in group if run.origin]:
        if replace(run).code != run.code:
            raise EngineError(
                f"A worker has other code than this process for {run.origin} (method "
                f"{run.fit.method!r}, task {run.task!r}). Where modules lie elsewhere (Ray), bring "
                "the same files everywhere; after a change, begin a new process."
            )
    return list(_run_groups(groups, _corpora_of(call, store, weights), root))


# The corpora of this process: runs of one suite read the same sets, once.
class _Corpora:
    """The last corpus read, and the last text tower opened: the next run mostly wants them."""

    def __init__(self, store: Path | str, weights: str | None) -> None:
        self._store, self._weights = open_store(store), weights
        self._last: dict[Callable[..., Any], tuple[Any, Any]] = {}

    def read(self, run: Run) -> Corpus:
        key = run.data, run.protocol.limit, needs_prompts(run)
        return self._once(key, read_corpus, run)

    def prompt_side(self, run: Run) -> PromptSide:
        key = run.data.name_set, run.data.name_revision, run.data.variants
        return self._once(key, open_prompt_side, run, weights=self._weights)

    def _once(self, key: Any, make: Callable[..., _Made], *given: Any, **named: Any) -> _Made:
        if self._last.get(make, (None,))[0] != key:
            self._last[make] = key, make(self._store, *given, **named)
        made: _Made = self._last[make][1]
        return made


@lru_cache(maxsize=1)
def _corpora_of(_call: str, store: Path | str, weights: str | None) -> _Corpora:
    """Return the corpora of one call of `run_all`, which all batches of a process share.

    What was chosen on a head goes with its corpus: a batch of the demo's controls would choose for
    a second anew.
    """
    return _Corpora(store, weights)


def _run_groups(groups: Sequence[Sequence[Run]], corpora: _Corpora, root: Path) -> Iterator[int]:
    table, done, last = Table(), list[int](), time.perf_counter()
    try:
        for group in groups:
            # Tasks of one fit share a corpus: that of the one that reads most.
            corpus = corpora.read(max(group, key=needs_prompts))
            for run, outcomes, facts in scored(group, corpus, corpora.prompt_side):
                table.add(run, outcomes, facts)
            done.append(len(group))
            if time.perf_counter() - last >= _LOST:
                table.write(root)
                yield from done
                table, done, last = Table(), [], time.perf_counter()
    finally:
        table.write(root)
    yield from done


def scored(
    runs: Sequence[Run], corpus: Corpus, prompt_side: Callable[[Run], PromptSide] | None
) -> Iterator[tuple[Run, list[Outcome], dict[str, Any]]]:
    """Fit once; yield every run with its outcomes and what its result rows tell of the fit."""
    split, start = split_of(runs[0], corpus), time.perf_counter()
    fitted = fit_run(runs[0], corpus, split)
    fit_seconds = time.perf_counter() - start
    facts = fitted.facts | _data_facts(corpus, split)
    # A sweep keeps no places: they would be most of its results.
    scoring = Scoring(corpus, split, 0 if is_cell(runs[0]) else KEPT, prompt_side)
    for run in runs:
        start = time.perf_counter()
        outcomes = scoring.score(run, fitted.alignment)
        times = {"fit_seconds": fit_seconds, "score_seconds": time.perf_counter() - start}
        yield run, outcomes, facts | times | {"finished_at": time.time()}


#: Groups of classes with equal texts that a result names.
_NAMED = 3


def _data_facts(corpus: Corpus, split: Split | None) -> dict[str, Any]:
    """Return what result rows tell of what is odd in the data."""
    facts: dict[str, Any] = {}
    groups = [" = ".join(classes) for classes in corpus.names.equal_classes()]
    if groups:
        facts["equal_names"] = listed(groups, shown=_NAMED)
    if split is not None and corpus.pairs is None:
        ids_of_picture = np.bincount(pictures_of(corpus.images))
        facts["n_twins"] = int(np.count_nonzero(ids_of_picture > 1))
        facts["n_left_out"] = split.n_left_out
    return facts


class Table:
    """Result rows and ranks of runs that are written together."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.ranks = [pl.DataFrame(schema=RANK_SCHEMA)]

    def write(self, root: Path) -> None:
        """Write them as one file each, unless there are none."""
        if self.rows:
            write_batch(root, *self.frames())

    def frames(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the rows and the ranks, under their schemas."""
        return pl.DataFrame(self.rows, schema=RESULT_SCHEMA), pl.concat(self.ranks, how="diagonal")

    def add(self, run: Run, outcomes: list[Outcome], facts: dict[str, Any]) -> None:
        """Add a run: a result row per direction and metric, a rank per query."""
        fixed = run.columns() | facts | {"origin": run.origin}
        for outcome in outcomes:
            own = fixed | {
                "direction": outcome.direction,
                "n_queries": outcome.n,
                **_clusters(outcome),
                "gallery": outcome.gallery,
                **(outcome.facts or {}),
            }
            self.rows += [
                {**own, "metric": metric, "value": value, "chance": outcome.chance.get(metric)}
                for metric, value in outcome.values.items()
            ]
            if outcome.queries is None:
                continue
            ranks, queries = outcome.ranks, outcome.queries
            columns: dict[str, Any] = {
                "run_id": run.run_id,
                "direction": outcome.direction,
                **queries.question.columns,
                "rank": ranks.rank,
                "average_precision": ranks.average_precision,
                "truncated_precision": ranks.truncated_precision,
                "hits": ranks.hits.tolist(),
                "n_relevant": ranks.n_relevant,
            }
            if queries.own is not None:
                columns["own"] = queries.own.tolist()
            if ranks.gallery and not is_cell(run):
                columns["top"] = queries.top_ids
            self.ranks.append(pl.DataFrame(columns, {name: RANK_SCHEMA[name] for name in columns}))


def _clusters(outcome: Outcome) -> dict[str, Any]:
    if outcome.queries is None:
        return {"n_clusters": outcome.n, "clusters_of": None}
    question = outcome.queries.question
    return {"n_clusters": question.n_clusters, "clusters_of": question.clusters_of}
