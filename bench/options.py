"""The options of every task: one frozen record a task, plain values only."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, get_type_hints

from bench.errors import ProtocolError
from bench.metrics.summary import OWN_METRICS, Metric, check_own_metrics
from featstore.errors import lookup
from featstore.identity import canonical_json
from featstore.options import check_values, option
from featstore.plugins import Registry, first_line
from fitters.errors import check_names
from fitters.settings import Scorer

#: Numbers of items and rows are below it: more fit in no set.
MOST = 2**31


@dataclass(frozen=True)
class ZeroShot:
    """Options of ``zero_shot``.

    Attributes
    ----------
    prompts : str
        ``mean``: one text a class, the mean of its prompts. ``max``: the best of its prompts.
        ``each``: every template by itself, one direction each.
    classes : str
        ``all``; ``unseen`` or ``seen``: only classes that the head's label set lacks, or has.
    scorer : str
        One of `fitters.scorers.SCORERS`; corrected ones look at all queries, and "sinkhorn"
        answers them together, which its direction calls transductive.
    confidence : bool
        Whether `bench.metrics.summary.CONFIDENCE_METRICS` and calibration are scored too.
    """

    prompts: Literal["mean", "max", "each"] = option(
        "mean", help="How the prompts of a class are scored."
    )
    classes: Literal["all", "unseen", "seen"] = option("all", help="Classes that are scored.")
    scorer: Scorer = option("cosine", help="Score of an image and a text.")
    confidence: bool = option(default=False, help="Whether confidence is scored too.")


@dataclass(frozen=True)
class Generalised:
    """Options of ``generalised``: zero-shot with seen and unseen classes in one gallery.

    Attributes
    ----------
    prompts, scorer : str
        As of `ZeroShot`.
    """

    prompts: Literal["mean", "max", "each"] = option(
        "mean", help="How the prompts of a class are scored."
    )
    scorer: Scorer = option("cosine", help="Score of an image and a text.")


@dataclass(frozen=True)
class Retrieval:
    """Options of ``retrieval``.

    Attributes
    ----------
    captions : int
        The first so many captions of every image; 0 means all.
    scorer : str
        One of `fitters.scorers.SCORERS`.
    """

    captions: int = option(0, help="Captions of an image; 0 means all.", at_least=0, below=MOST)
    scorer: Scorer = option("cosine", help="Score of an image and a text.")


@dataclass(frozen=True)
class FewShot:
    """Options of ``few_shot``.

    Attributes
    ----------
    shots : int
        Labelled training images of every class. 0 needs prototypes.
    learner : str
        One of `fitters.few_shot.LEARNERS`.
    prototypes : str
        What one more row per class comes from: its ``names``, through the alignment; its row of
        the run's ``head``, where that has all classes; nothing (``none``).
    confidence : bool
        As of `ZeroShot`.
    """

    shots: int = option(1, help="Labelled training images of every class.", at_least=0, below=MOST)
    learner: str = option("class-means", help="Few-shot learner.")
    prototypes: Literal["names", "head", "none"] = option(
        "names", help="Source of one more row per class."
    )
    confidence: bool = option(default=False, help="Whether confidence is scored too.")


@dataclass(frozen=True)
class Neighbours:
    """Options of ``neighbours``: whether two sides have the same nearest neighbours.

    Attributes
    ----------
    of : str
        ``head``: head rows and names of their classes. ``class-means``: means of the images of
        a class and its name. ``pairs``: images and their first captions.
    per_class : int
        Images in a class mean; 0 means all.
    k : tuple of int
    rows : str
        What is averaged in a class mean: ``unit``, images at unit length; ``raw``, as they are.
    within : str
        Of the head only the classes that this label set has too, by synset: ``imagenet1k``. Empty
        for all.
    n_permutations : int
        Permutations of the rows that each number is calibrated by; 0 for none.
    max_rows : int
        Rows that are permuted, drawn by the run's seed: a null draw takes n² numbers a view.
    """

    of: Literal["head", "class-means", "pairs"] = option(
        "head", help="Rows and texts that are compared."
    )
    per_class: int = option(0, help="Images in a class mean; 0 means all.", at_least=0, below=MOST)
    k: tuple[int, ...] = option((3, 5, 10), help="Numbers of neighbours.")
    rows: Literal["unit", "raw"] = option("unit", help="Rows of a class mean.")
    within: str = option("", help="Only classes of the head that this label set has, too.")
    n_permutations: int = option(199, help="Random permutations.", at_least=0, below=1_000_000)
    max_rows: int = option(1_000, help="Rows that are permuted.", at_least=2, below=MOST)


@dataclass(frozen=True)
class ModalityGap:
    """Options of ``modality_gap``.

    Attributes
    ----------
    between : str
        ``head-images``: head rows and images, as they are. ``images-texts``: images and
        captions (or names, where there are none) in the shared space.
    n_permutations : int
    max_rows : int
        Rows a side used to tell them apart, drawn by the run's seed.
    """

    between: Literal["head-images", "images-texts"] = option("head-images", help="The two sides.")
    n_permutations: int = option(999, help="Random permutations.", at_least=0, below=1_000_000)
    max_rows: int = option(5_000, help="Rows of a side.", at_least=2, below=MOST)


@dataclass(frozen=True)
class NoOptions:
    """Options of a task that declares none."""


Options: TypeAlias = (
    ZeroShot | Generalised | Retrieval | FewShot | Neighbours | ModalityGap | NoOptions
)
"""Options of a task."""


@dataclass(frozen=True)
class Task:
    """A task, as `bench.execution` scores it.

    Attributes
    ----------
    score : callable, optional
        Of a task of one's own: a function that takes some of these by name, and returns what
        `bench.tasks.outcome.outcomes_of` describes.

        - ``alignment``: has ``project_x`` and ``project_y`` of raw embeddings, (n, p) to (n, r);
        - ``corpus``: the `bench.corpus.Corpus` of the images that the run scores;
        - ``options``: a record of the type `options`;
        - ``rng``: a numpy Generator that follows from the seed of the run.
    options : type
        A frozen dataclass of plain values, each with a default. ``featstore.options.option`` gives
        a field its range.
    metrics : mapping
        What is known of the metrics by name; see `bench.metrics.summary.Metric`.
    text : str
        One line on it.
    version : str
        Whatever its source does not show; part of the id of its runs.
    method, eval : str
        Method and evaluation of a run that names none.
    """

    score: Callable[..., Any] | None = None
    options: type[Any] = NoOptions
    metrics: Mapping[str, Metric] = field(default_factory=dict, hash=False)
    text: str = ""
    version: str = ""
    method: str = "identity"
    eval: str = "all-names"


_BUILT_IN = {
    "zero_shot": Task(options=ZeroShot, text="images are classified by the names of their classes"),
    "generalised": Task(
        options=Generalised, text="the same with seen and unseen classes in one gallery"
    ),
    "retrieval": Task(options=Retrieval, text="captions of images, and images of captions"),
    "few_shot": Task(
        options=FewShot,
        text="a few labelled images of every class, with or without names",
        method="ridge",
        eval="in-class",
    ),
    "neighbours": Task(
        options=Neighbours, text="whether two sides have the same nearest neighbours"
    ),
    "modality_gap": Task(options=ModalityGap, text="how far two sides lie apart"),
    "cosine_head": Task(text="how well a head classifies by cosines"),
}

#: What the function of a task may take.
_GIVEN = ("alignment", "corpus", "options", "rng")


def _as_task(_: str, thing: Any, **about: Any) -> Task:
    if not isinstance(thing, Task):
        hints = get_type_hints(thing) if inspect.isfunction(thing) else {}
        thing = Task(thing, hints.get("options", NoOptions), text=first_line(thing))
    task: Task = replace(thing, **about)
    if not callable(task.score):
        raise TypeError(f"expected a function of {', '.join(_GIVEN)}; got {task.score!r}.")
    for name, one in inspect.signature(task.score).parameters.items():
        if name not in _GIVEN and one.default is one.empty:
            raise TypeError(f"its function takes {name!r}; it may take {', '.join(_GIVEN)}.")
    kind = task.options
    frozen = is_dataclass(kind) and getattr(kind, "__dataclass_params__").frozen  # noqa: B009
    if not frozen or any(one.default is MISSING for one in fields(kind)):
        raise TypeError(f"{kind.__name__} must be a frozen dataclass, with a default a field.")
    check_own_metrics(task.metrics)
    OWN_METRICS.update(task.metrics)
    return task


TASKS: Registry[Task] = Registry("task", _BUILT_IN, accept=_as_task)
"""The tasks, and the options of each.

A task of one's own (``register("task", NAME)``, an entry point of ``headstock.tasks``) is a
function, or a `Task` of one; ``register("task", NAME, metrics=…)`` gives fields of the `Task`. The
type of the function's argument ``options`` is that of its options. The id of a run holds a digest
of its source, as that of an aligner of one's own.
"""


def checked_options(task: str, options: Options | None) -> Options:
    """Return the options of a task, or its defaults for None.

    Raises
    ------
    ProtocolError
        If they are another task's, or hold a value that is not allowed.
    """
    kind: type[Options] = lookup(TASKS, task, what="task", error=ProtocolError).options
    if options is None:
        return kind()
    if not isinstance(options, kind):
        raise ProtocolError(
            f"Task {task} takes options {kind.__name__}; got {type(options).__name__}."
        )
    check_values(options, ProtocolError, of=f"task {task}")
    return options


def options_text(options: Options) -> str:
    """Return what differs from the defaults as canonical JSON, ``""`` where nothing does."""
    defaults = asdict(type(options)())
    changed = {name: value for name, value in asdict(options).items() if value != defaults[name]}
    return canonical_json(changed).decode() if changed else ""


def options_of(task: str, values: Mapping[str, Any]) -> Options:
    """Return the options of a task with these values by name; a list is a tuple.

    Raises
    ------
    ProtocolError
        If a name or a value is not one of the task's.
    """
    kind: Any = type(checked_options(task, None))
    known = [entry.name for entry in fields(kind)]
    check_names(values, known, what="setting", error=ProtocolError, where=f"of task {task}")
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return checked_options(task, kind(**given))


#: Draws of pairs without which a gate is not asked (one draw passed 15 to 24 % falsely), and pairs
#: of a draw, at least.
ENOUGH_DRAWS, FEWEST_PAIRS = 5, 25


@dataclass(frozen=True)
class AgainConfig:
    """How items are encoded again, to tell whose their rows are.

    Attributes
    ----------
    encoder, weights : str, optional
        As of `featstore.encoders.registry.encode`.
    manifest : Path, optional
        Where the pictures of the items are, which then are encoded and not their texts.
    sample : int
        Items, drawn with a fixed seed where there are more.
    """

    encoder: str | None = option(
        None,
        help="Encode items again, and say whether their rows are this encoder's.",
        metavar="FAMILY:NAME",
    )
    weights: str | None = option(
        None,
        help="Load its weights from package:NAME, a file, a folder or hub [default: hub].",
        metavar="PLACE",
    )
    manifest: Path | None = option(
        None,
        help="Encode the pictures of this manifest, not the texts of the items.",
        metavar="DIR",
    )
    sample: int = option(64, help="Encode this many items.", metavar="N", at_least=1)

    def __post_init__(self) -> None:
        check_values(self, ProtocolError, of="items encoded again")


@dataclass(frozen=True)
class SearchConfig:
    """How a folder of pictures is searched.

    Attributes
    ----------
    top : int
        Pictures that a text lists.
    source : str
        Who answers; one of `bench.search.SOURCES`.
    encoder, text_encoder : str
        Of pictures and texts, ``family:name``. Weights come from a package that is known to carry
        them, and from the hub where there is none.
    head : str, optional
        Label set of the encoder's classes. None: what its weights say.
    """

    top: int = option(
        10, help="List at most N pictures for a text, up to 10,000.", metavar="N", at_least=1,
        below=10_001,
    )  # fmt: skip
    source: Literal["head", "random", "shuffled"] = option(
        "head", help="Answer by the head, or by a control: random, shuffled.", metavar="NAME"
    )
    encoder: str = option(
        "timm:tf_efficientnet_lite0", help="Encode pictures with this encoder, whose head is used.",
        metavar="FAMILY:NAME",
    )  # fmt: skip
    text_encoder: str = option(
        "st:all-MiniLM-L6-v2", help="Encode texts with this encoder.", metavar="FAMILY:NAME"
    )
    head: str | None = option(
        None,
        help="Read the encoder's head as one of this label set, such as imagenet21k_goog [default: "
        "the encoder's own].",
        metavar="NAME",
    )

    @property
    def has_defaults(self) -> bool:
        """Whether both encoders are those that the settings and limits were chosen for."""
        known = SearchConfig()
        return (self.encoder, self.text_encoder) == (known.encoder, known.text_encoder)


class BridgeSettings(TypedDict, total=False):
    """Settings of `headstock.bridge`: those of `BridgeConfig`."""

    seeds: Collection[int]
    gate: float | None
    n_pairs: int | None
    methods: tuple[Literal["ridge", "diagonal", "rotation", "kernel"], ...]
    group: str | None
    label: str | None


@dataclass(frozen=True)
class BridgeConfig:
    """How a bridge is measured.

    Attributes
    ----------
    seeds : collection of int
        One draw of pairs and held-out items each.
    gate : float, optional
        The share of the ten nearest that must be kept.
    n_pairs : int, optional
        Pairs of a draw; by default half of the items.
    methods : tuple of str
        Kinds of maps that are tried; by default all that fit.
    group : str, optional
        A column of the items; the groups of which least is kept are named. By default `label`.
    label : str, optional
        A column of the items: how often the nearest item has the label of a query is measured.
    """

    seeds: Collection[int] = tuple(range(10))
    gate: float | None = option(
        None,
        help="Exit with 5 unless the lower end of the 95 % interval of what is kept reaches this "
        "share, such as 0.95.",
        above=0,
        below=1,
    )
    n_pairs: int | None = option(
        None,
        help="Fit on this many pairs a draw, up to half of the items [default: half].",
        at_least=FEWEST_PAIRS,
    )
    methods: tuple[Literal["ridge", "diagonal", "rotation", "kernel"], ...] = option(
        (),
        help="Try these maps: ridge, diagonal, rotation, kernel [default: all that fit].",
        flag="--method",
        metavar="NAMES",
    )
    group: str | None = option(
        None,
        help="Name the groups of items, by this column, of which least is kept [default: --label].",
        metavar="COLUMN",
    )
    label: str | None = option(
        None,
        help="Print how often the nearest item has the label of a query, by this column.",
        metavar="COLUMN",
    )

    def __post_init__(self) -> None:
        check_values(self, ProtocolError, of="a bridge")
        if self.gate is not None and len(set(self.seeds)) < ENOUGH_DRAWS:
            raise ProtocolError(
                f"A gate needs {ENOUGH_DRAWS} draws of pairs or more; got {len(set(self.seeds))}. "
                "With one draw a false pass is as likely as 1 in 5: give more seeds."
            )
