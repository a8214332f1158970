"""The options of every task: one frozen record a task, plain values only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_type_hints

from bench.errors import ProtocolError
from featstore.errors import unknown_name
from featstore.identity import canonical_json
from featstore.options import check_values, option
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
    """

    prompts: Literal["mean", "max", "each"] = option(
        "mean", help="How the prompts of a class are scored."
    )
    classes: Literal["all", "unseen", "seen"] = option("all", help="Classes that are scored.")
    scorer: Scorer = option("cosine", help="Score of an image and a text.")


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
    """

    shots: int = option(1, help="Labelled training images of every class.", at_least=0, below=MOST)
    learner: str = "class-means"
    prototypes: Literal["names", "head", "none"] = option(
        "names", help="Source of one more row per class."
    )


@dataclass(frozen=True)
class HeadNames:
    """Options of ``head_names``: whether the head's rows match the names of their classes.

    Attributes
    ----------
    by : str
        ``alignment``: cosines in the shared space. ``relative``: each row by its cosines with
        the rows of its own side; needs no alignment and no common dimension.
    n_permutations : int
    """

    by: Literal["alignment", "relative"] = option(
        "alignment", help="How rows and names are compared."
    )
    n_permutations: int = option(999, help="Random permutations.", at_least=0, below=1_000_000)


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
    k: tuple[int, ...] = (3, 5, 10)
    rows: Literal["unit", "raw"] = option("unit", help="Rows of a class mean.")
    within: str = ""
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
class NeuralCollapse:
    """Options of ``neural_collapse``: none."""


@dataclass(frozen=True)
class CosineHead:
    """Options of ``cosine_head``: none."""


@dataclass(frozen=True)
class Hubness:
    """Options of ``hubness``.

    Attributes
    ----------
    gallery : str
        ``names`` or ``captions``.
    k : int
    scorer : str
    """

    gallery: Literal["names", "captions"] = option("names", help="Texts that are found.")
    k: int = option(10, help="Neighbours of a query.", at_least=1, below=MOST)
    scorer: Scorer = option("cosine", help="Score of an image and a text.")


@dataclass(frozen=True)
class Spectrum:
    """Options of ``spectrum``: none."""


Options: TypeAlias = (
    ZeroShot
    | Generalised
    | Retrieval
    | FewShot
    | HeadNames
    | Neighbours
    | ModalityGap
    | NeuralCollapse
    | CosineHead
    | Hubness
    | Spectrum
)

#: The tasks, and the options of each.
TASK_OPTIONS: dict[str, type[Options]] = {
    "zero_shot": ZeroShot,
    "generalised": Generalised,
    "retrieval": Retrieval,
    "few_shot": FewShot,
    "head_names": HeadNames,
    "neighbours": Neighbours,
    "modality_gap": ModalityGap,
    "neural_collapse": NeuralCollapse,
    "cosine_head": CosineHead,
    "hubness": Hubness,
    "spectrum": Spectrum,
}


def checked_options(task: str, options: Options | None) -> Options:
    """Return the options of a task, or its defaults for None.

    Raises
    ------
    ProtocolError
        If they are another task's, or hold a value that is not allowed.
    """
    kind = TASK_OPTIONS[task]
    if options is None:
        return kind()
    if not isinstance(options, kind):
        raise ProtocolError(
            f"Task {task} takes options {kind.__name__}; got {type(options).__name__}."
        )
    check_values(options, ProtocolError, of=f"task {task}")
    if isinstance(options, Neighbours):
        for k in options.k or (0,):
            if not 1 <= k < MOST:
                raise ProtocolError(f"A 'k' of task {task} must be at least 1 and below {MOST:,}.")
    return options


def options_text(options: Options) -> str:
    """Return what differs from the defaults as canonical JSON, ``""`` where nothing does."""
    defaults = asdict(type(options)())
    changed = {name: value for name, value in asdict(options).items() if value != defaults[name]}
    return canonical_json(changed).decode() if changed else ""


def parse_options(task: str, words: list[str]) -> Options:
    """Return options from words like ``shots=4``, as a command line gives them.

    Raises
    ------
    ProtocolError
        If a name or a value is not one of the task's.
    """
    kind = TASK_OPTIONS[task]
    hints: dict[str, Any] = get_type_hints(kind)
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if name not in hints:
            where = f"for the task {task}"
            raise ProtocolError(unknown_name("option", name, hints, where=where))
        if not equals:
            raise ProtocolError(
                f"The option {word!r} of the task {task} has no value. Write {name}=VALUE."
            )
        try:
            values[name] = _value(hints[name], text)
        except ValueError as err:
            raise ProtocolError(f"Option {name} of {task} cannot be {text[:40]!r}.") from err
    return checked_options(task, kind(**values))


def _value(hint: Any, text: str) -> Any:
    if hint is int:
        return int(text)
    if hint == tuple[int, ...]:
        return tuple(int(part) for part in text.split(","))
    return text
