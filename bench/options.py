"""What a task can be asked for beyond its data: one frozen record a task, plain values only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from bench.errors import ProtocolError
from featstore.errors import unknown_name
from featstore.identity import canonical_json

Scorer = Literal["cosine", "csls", "inverted-softmax"]


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
        One of `fitters.scorers.SCORERS`; corrected ones look at all queries.
    """

    prompts: Literal["mean", "max", "each"] = "mean"
    classes: Literal["all", "unseen", "seen"] = "all"
    scorer: Scorer = "cosine"


@dataclass(frozen=True)
class Generalised:
    """Options of ``generalised``: zero-shot with seen and unseen classes in one gallery.

    Attributes
    ----------
    prompts, scorer : str
        As of `ZeroShot`.
    """

    prompts: Literal["mean", "max", "each"] = "mean"
    scorer: Scorer = "cosine"


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

    captions: int = 0
    scorer: Scorer = "cosine"


@dataclass(frozen=True)
class FewShot:
    """Options of ``few_shot``.

    Attributes
    ----------
    shots : int
        Labelled training images of every class. 0 needs prototypes.
    learner : str
        One of `fitters.few_shot.LEARNERS`.
    prototypes : "names", "head" or "none"
        What one more row per class comes from: its ``name``, through the alignment; its row of the
        run's ``head``, where that has all classes; nothing. True and False are names and none,
        and how these two are kept.
    """

    shots: int = 1
    learner: str = "class-means"
    prototypes: bool | Literal["names", "head", "none"] = True

    def __post_init__(self) -> None:
        # Runs from before there were rows of a head say true and false, and keep their ids.
        kept = {"names": True, "none": False}.get(str(self.prototypes), self.prototypes)
        object.__setattr__(self, "prototypes", kept)

    @property
    def prototypes_from(self) -> Literal["names", "head", "none"]:
        """What prototypes come from."""
        if self.prototypes == "head":
            return "head"
        return "names" if self.prototypes else "none"


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

    by: Literal["alignment", "relative"] = "alignment"
    n_permutations: int = 999


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
    """

    of: Literal["head", "class-means", "pairs"] = "head"
    per_class: int = 0
    k: tuple[int, ...] = (3, 5, 10)
    rows: Literal["unit", "raw"] = "unit"
    within: str = ""


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

    between: Literal["head-images", "images-texts"] = "head-images"
    n_permutations: int = 999
    max_rows: int = 5_000


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

    gallery: Literal["names", "captions"] = "names"
    k: int = 10
    scorer: Scorer = "cosine"


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
    hints = get_type_hints(kind)
    for field in fields(options):
        value, hint = getattr(options, field.name), hints[field.name]
        known = _words(hint)
        if known and value not in known and not (_is_switch(hint) and isinstance(value, bool)):
            raise ProtocolError(
                f"{field.name} of {task} is one of {', '.join(known)}; got {value!r}."
            )
        numbers = value if isinstance(value, tuple) else (value,)
        if hint in (int, tuple[int, ...]) and not all(
            type(number) is int and number >= 0 for number in numbers
        ):
            raise ProtocolError(
                f"{field.name} of {task} is 0 or more, a whole number; got {value!r}."
            )
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
            raise ProtocolError(f"Option {name} of {task} cannot be {text!r}.") from err
    return checked_options(task, kind(**values))


def _words(hint: Any) -> tuple[str, ...]:
    """Return the words that an option may be; none where it is no word."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(word for part in get_args(hint) for word in _words(part))


def _is_switch(hint: Any) -> bool:
    return hint is bool or bool in get_args(hint)


def _value(hint: Any, text: str) -> Any:
    if text in _words(hint):
        return text
    if _is_switch(hint):
        if text not in ("true", "false"):
            raise ValueError(text)
        return text == "true"
    if hint is int:
        return int(text)
    if hint == tuple[int, ...]:
        return tuple(int(part) for part in text.split(","))
    return text
