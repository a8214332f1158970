"""What a run is: a frozen record of plain values, and the id that follows from them.

Two runs with the same id do the same thing to the same data. Whatever changes a result is a field:
the sets and their revisions (`Data`), what is trained on and scored (`Protocol`), the settings of
the fit (`fitters.settings.FitConfig`), the options of the task, and the versions of protocol,
metrics and code. Dates, machines and seconds are not.

A field that is at its default is not part of the id, so that a new one changes no id.
`bench.results.RUN_COLUMNS`, the columns of a result row that say what was run, follow from these
fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from operator import attrgetter
from types import NoneType
from typing import Any, Literal, get_args

from bench.code import code_digest, origin_of, whole_code
from bench.errors import BenchError, ProtocolError
from bench.metrics.summary import METRIC_VERSION
from bench.options import (
    MOST,
    FewShot,
    Generalised,
    Neighbours,
    Options,
    checked_options,
    options_text,
)
from featstore.errors import lookup
from featstore.identity import canonical_json, sha256_hex
from featstore.options import Option, check_values, hints_of, option, record_of
from fitters.errors import check_names
from fitters.methods import METHODS, Method, methods_with
from fitters.settings import TEMPLATES, VARIANTS, Control, FitConfig, PairControl

#: Raise it when `bench.corpus` or `bench.fits` changes what a run does.
PROTOCOL_VERSION = 6

Eval = Literal["all-names", "held-out", "split", "in-class"]
Source = Literal["none", "head", Control, PairControl, "class-means"]
HeadBy = Literal["random", "nearest", "farthest"]
Relevance = Literal["parent_id", "class_id"]
EVALS: tuple[str, ...] = get_args(Eval)
SOURCES: tuple[str, ...] = get_args(Source)

#: The source whose prototypes are the means of the real training images of each class.
CLASS_MEANS = "class-means"

#: The method that fits nothing.
IDENTITY = "identity"
_NOTHING = FitConfig(IDENTITY)

#: Fields that change no result.
_NO_RESULT = ("on_epoch", "device")

#: Fields that are part of every id, at their defaults too.
_ALWAYS = ("metric_version", "protocol_version", "code")


@dataclass(frozen=True)
class Data:
    """The sets that a run reads, each with its revision, and the texts chosen from them.

    Attributes
    ----------
    image_set : str
        Key of the images' set; every other key is empty where no such set is read.
    name_set, caption_set : str
        Class names and captions of these images.
    head_set, head_name_set : str
        A classification head, and the names of its classes.
    view_set : str
        Augmented views of the images, for few-shot learners that look at some.
    pairs_from : tuple of str
        Images of another data set and their captions or class names, each ``key@revision``: what
        real pairs are made of, in place of images of `image_set`.
    layer_sets, layer_revisions : tuple of str
        More sets of the same images, such as other layers: ``neighbours`` finds the best.
    image_revision … view_revision : str
    variants, templates : tuple of str
        Which prompts make one text per class of the images: what is scored.
    head_variants, head_templates : tuple of str
        Which prompts make one text per class of the head: what is trained on. Empty: those of
        the images, and the definition where the label set has it; ``auto``: see
        `fitters.jobs.HeadTexts`.
    pair_variants, pair_templates : tuple of str
        Which prompts make the text that a class's training images are paired with. Empty: those
        that are scored. Sentences on a class (``-s descriptions_file``) are variant "description".
    locales : tuple of str
        Which captions (their ``variant``); empty means all.
    """

    image_set: str
    image_revision: str
    name_set: str = ""
    name_revision: str = ""
    caption_set: str = ""
    caption_revision: str = ""
    head_set: str = ""
    head_revision: str = ""
    head_name_set: str = ""
    head_name_revision: str = ""
    view_set: str = ""
    view_revision: str = ""
    pairs_from: tuple[str, ...] = ()
    layer_sets: tuple[str, ...] = ()
    layer_revisions: tuple[str, ...] = ()
    variants: tuple[str, ...] = option(
        VARIANTS,
        help="Score these variants of the images' class names, separated by commas.",
        flag=None,
    )
    templates: tuple[str, ...] = option(
        TEMPLATES,
        help="Put the images' class names into these templates, separated by commas.",
        flag=None,
    )
    head_variants: tuple[str, ...] = option(
        (),
        help="Fit on these variants of the names of the head's classes, separated by commas; "
        "auto chooses them on the head [default: those of the images' classes, and the "
        "definition where the label set has it].",
        flag=None,
    )
    head_templates: tuple[str, ...] = option(
        (),
        help="Put the names of the head's classes into these prompt templates, separated by "
        "commas [default: those of the images' classes].",
        flag=None,
    )
    pair_variants: tuple[str, ...] = option(
        (),
        help="Pair training images with these variants of class texts, separated by commas, such "
        "as description [default: those of the images' classes].",
        flag=None,
    )
    pair_templates: tuple[str, ...] = option(
        (),
        help="Put the class texts that training images are paired with into these prompt "
        "templates, separated by commas; d000 is the first sentence of a description.",
        flag=None,
    )
    locales: tuple[str, ...] = option(
        (), help="Use captions of these variants, by comma [default: all].", flag="-s locale"
    )

    @property
    def pair_texts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Variants and templates of what a class's images are paired with."""
        return self.pair_variants or self.variants, self.pair_templates or self.templates

    @property
    def captioned(self) -> bool:
        """Whether real pairs are images with their captions, not with the text of their class."""
        if self.pairs_from:
            return "/caption/" in self.pairs_from[1]
        return bool(self.caption_set)


def refuse(*checks: tuple[Any, str], error: type[BenchError] = ProtocolError) -> None:
    """Raise an error with the message of the first check that is true."""
    for wrong, message in checks:
        if wrong:
            raise error(message)


@dataclass(frozen=True)
class Protocol:
    """What is trained on and what is scored.

    Attributes
    ----------
    eval : str
        ``"all-names"``: every image is scored; no pair of the dataset is used.
        ``"held-out"``: a new split of the classes; only held-out ones are scored.
        ``"split"``: images of the manifest's split ``test`` are scored, those of `train_splits`
        may be trained on. ``"in-class"``: a new split of the images of every class.
    source : str
        Where prototypes come from: ``none``, the ``head``, or a control of it. ``repeated`` and
        ``mixup`` are none: the real pairs again, or mixtures of them, as many rows as the pairs
        and the head have together. ``class-means``: the means of the real images of each class
        with its name, in place of the head's rows.
    clusters : int
        Of like names, within which ``shuffled-within`` shuffles.
    head_size : int
        Classes of the head that are used; 0: all. For one draw a smaller head is part of a larger.
    head_by : str
        Which: ``random``, or those with the ``nearest`` or ``farthest`` texts from the names of
        the images' classes.
    leave_seen : bool
        Leave out classes of the head whose name a class of the images has, or whose text has a
        cosine above 0.9 with one of theirs.
    n_pairs : int or "all"
        Real images used for fitting: with their captions, or with their class texts where the run
        names no captions.
    pairs_per_class : int
        Training images of every class whose mean is paired with the class's text: a real pair a
        class, instead of `n_pairs`.
    relevance : str
        What makes a caption relevant to an image: ``"parent_id"``, being its own, or
        ``"class_id"``, sharing its class (for data where images share a description).
    train_splits : tuple of str
        The manifest's splits that ``"split"`` may train on.
    train_fraction : float
        Share of the classes that held-out evaluation may train on; of the images of a class for
        ``"in-class"``.
    head_rows : str
        ``weights``: prototypes are the head's rows. Others are moved towards the training images,
        by their labels or without; see `fitters.prototypes.HEAD_ROWS`.
    control_draw : int, optional
        Draws the rows of a control, so that many draws of it can be compared with one head on the
        same split and real pairs; None: the seed draws them.
    limit : int, optional
        Number of images kept of every set, for a quick look.

    Raises
    ------
    ProtocolError
        If a value is out of its range.
    """

    eval: Eval = option(
        "all-names",
        help="Score all images, those of held-out classes, those of the manifest's split test, or "
        "some of every class [default: in-class for few_shot, else all-names].",
    )
    source: Source = option("none", help="Use the head's prototypes, or those of a control.")
    n_pairs: int | Literal["all"] = option(
        0, help="Fit on this many real training images, or all.", at_least=0, below=MOST
    )
    pairs_per_class: int = option(
        0,
        help="Pair the mean of this many training images of a class with its class text, instead "
        "of --n-pairs.",
        at_least=0,
        below=MOST,
        flag="-s",
    )
    relevance: Relevance = option(
        "parent_id",
        help="Count a caption as relevant if it is the image's own (parent_id), or of its class "
        "(class_id).",
        flag="-s",
    )
    train_splits: tuple[str, ...] = option(
        ("train",), help="Train --eval split on these splits, by comma.", flag="-s train_split"
    )
    train_fraction: float = option(
        0.6,
        help="Train on at most this share of the classes (held-out) or of the images of a class "
        "(in-class).",
        above=0,
        below=1,
        flag="-s",
    )
    head_rows: Literal["weights", "adapted", "mean", "attention", "linear"] = option(
        "weights",
        help="Use the rows of the head as prototypes, or move them towards training images: "
        "unlabelled (adapted, mean), or of the head's classes (attention, linear).",
        flag="-s",
    )
    control_draw: int | None = option(
        None,
        help="Seed of the control's rows [default: the seed of the run].",
        at_least=0,
        flag=None,
    )
    limit: int | None = option(
        None,
        help="Score at most N images, for a quick look; every row records it.",
        at_least=1,
        below=MOST,
    )
    clusters: int = option(
        0,
        help="Shuffle within this many clusters of names (shuffled-within).",
        at_least=0,
        below=MOST,
        flag="-s",
    )
    head_size: int = option(
        0, help="Use this many classes of the head; 0 uses all.", at_least=0, below=MOST, flag="-s"
    )
    head_by: HeadBy = option(
        "random",
        help="Choose the head_size classes by the seed, or by how near or far their texts are "
        "from the names of the images' classes.",
        flag="-s",
    )
    leave_seen: bool = option(
        False,
        help="Leave out classes of the head whose name, or nearly the same text, a class of the "
        "images has.",
        flag="-s",
    )

    def __post_init__(self) -> None:
        check_values(self, ProtocolError, of="a run")
        refuse(
            (
                bool(self.pairs_per_class) and self.n_pairs != 0,
                (
                    "Real pairs are counted by `n_pairs=` or by pairs_per_class, not both; "
                    f"got {self.n_pairs} and {self.pairs_per_class}."
                ),
            ),
            (
                self.control_draw is not None and self.source in ("none", "head"),
                f"control_draw draws a control's rows; source {self.source!r} has none.",
            ),
            (
                self.head_rows != "weights" and self.source == "none",
                "head_rows are of prototypes, and source 'none' has none. Leave them out.",
            ),
        )

    @property
    def has_pairs(self) -> bool:
        """Whether real pairs are fitted."""
        return self.n_pairs != 0 or self.pairs_per_class != 0

    @property
    def is_mixed(self) -> bool:
        """Whether prototypes and real pairs are fitted together, so that a mix has an effect."""
        return self.has_prototypes and self.has_pairs

    @property
    def has_prototypes(self) -> bool:
        """Whether prototypes are fitted."""
        return self.source not in ("none", *get_args(PairControl))

    @property
    def needs_pairs(self) -> bool:
        """Whether the source is nothing without real pairs."""
        return not self.has_prototypes or self.source == CLASS_MEANS


def impossible(method: str, protocol: Protocol, *, elsewhere: bool = False) -> str:
    """Return why a method cannot be fitted and scored by a protocol; empty if it can.

    Real pairs may be `elsewhere`: of another data set than the images that are scored.
    """
    pairs, adapts = protocol.has_pairs, protocol.head_rows != "weights"
    checks = (
        (
            method == IDENTITY and (pairs or protocol.source != "none"),
            f"Method {IDENTITY!r} fits nothing: it takes source 'none' and no real pairs.",
        ),
        (
            method != IDENTITY and protocol.needs_pairs and not pairs,
            (
                f"A run with source {protocol.source!r} and 0 real pairs has nothing to fit. "
                "Give it one."
            ),
        ),
        (
            protocol.eval == "all-names" and (pairs or adapts) and not elsewhere,
            (
                "Evaluation 'all-names' scores every image, so that none is left to train on; "
                f"got `n_pairs={protocol.n_pairs}` and head_rows {protocol.head_rows!r}. Use "
                "`eval=held-out`, `eval=split` or `eval=in-class`."
            ),
        ),
        (
            protocol.eval == "held-out" and bool(protocol.pairs_per_class) and not elsewhere,
            "pairs_per_class needs training images of the scored classes: `eval=in-class`.",
        ),
        (
            adapts and getattr(METHODS.get(method), "reads_bias", False),
            f"{method} reads the head's own rows with their bias. Leave head_rows out.",
        ),
    )
    return next((why for wrong, why in checks if wrong), "")


@dataclass(frozen=True)
class Run:
    """One fully specified benchmark configuration.

    `Run.of` makes one from the names of all fields, and `changed` returns it with others.

    >>> Run.of(suite="mine", task="neighbours", image_set="a/image/b", image_revision="5f1c").seed
    0

    Attributes
    ----------
    suite, task : str
        The suite that planned it, and one of `bench.options.TASKS`.
    data, protocol : Data, Protocol
    fit : FitConfig
        The method and its settings; `IDENTITY` leaves embeddings as they are, of a model's towers.
    options : Options, optional
        Of the task; None for the defaults.
    seed : int
        Draws the split, the subset, the shots and the control.
    metric_version, protocol_version : int
    code : str
        Digest of the sources that make a result; see `bench.code.whole_code`.
    """

    suite: str
    task: str
    data: Data
    protocol: Protocol = Protocol()
    fit: FitConfig = _NOTHING
    options: Options | None = None
    seed: int = 0
    metric_version: int = METRIC_VERSION
    protocol_version: int = PROTOCOL_VERSION
    code: str = field(default_factory=code_digest)

    def __post_init__(self) -> None:
        options = checked_options(self.task, self.options)
        object.__setattr__(self, "options", None if options == type(options)() else options)
        whole = whole_code(self.code, self.fit.method, self.learner, self.task)
        object.__setattr__(self, "code", whole)
        self._check_fit()
        self._check_texts()
        self._check_task(options)

    @classmethod
    def of(cls, **values: Any) -> Run:
        """Return the run with these fields, by their names in whatever part they are.

        Raises
        ------
        ProtocolError
            If there is no field of a name, or the run contradicts itself.
        """
        parts = _by_part(values)
        return cls(
            data=Data(**parts.pop("data", {})),
            protocol=Protocol(**parts.pop("protocol", {})),
            fit=_fit_with(_NOTHING, parts.pop("fit", {})),
            **parts,
        )

    def changed(self, **values: Any) -> Run:
        """Return the run with other values of these fields, by their names; errors as of `of`."""
        parts = _by_part(values)
        changes: dict[str, Any] = {
            name: replace(getattr(self, name), **parts.pop(name))
            for name in ("data", "protocol")
            if name in parts
        }
        if "fit" in parts:
            changes["fit"] = _fit_with(self.fit, parts.pop("fit"))
        return replace(self, **changes, **parts)

    def _check_fit(self) -> None:
        """Check that there is something to fit, and no setting without an effect."""
        method, protocol = self.fit.method, self.protocol
        of_head = protocol.head_size or protocol.leave_seen or protocol.clusters
        refuse(
            (self.seed < 0, f"The 'seed' of a run must be at least 0; got {self.seed}."),
            (bool(why := impossible(method, protocol, elsewhere=bool(self.data.pairs_from))), why),
            (
                (protocol.source == "shuffled-within") != bool(protocol.clusters),
                (
                    "Source 'shuffled-within' needs a number of clusters, and no other source has "
                    f"any; got source {protocol.source!r} and {protocol.clusters} clusters."
                ),
            ),
            (
                protocol.source in ("none", CLASS_MEANS) and bool(of_head),
                (
                    "head_size and leave_seen choose classes of a head; source "
                    f"{protocol.source!r} has none."
                ),
            ),
            (
                protocol.head_by != "random" and not protocol.head_size,
                f"head_by {protocol.head_by!r} chooses head_size classes; got 0, which are all.",
            ),
            (
                self.fit.training.sequential and not self.protocol.is_mixed,
                (
                    "Sequential training goes through prototypes, then real pairs: give the run a "
                    f"source and real pairs. Got source {protocol.source!r} and {protocol.n_pairs} "
                    "pairs."
                ),
            ),
        )
        for leaf, _ in self._own:
            if leaf.is_setting and not has_setting(method, leaf.name):
                owners = ", ".join(methods_with(leaf.name))
                raise ProtocolError(
                    f"Method {method} has no setting {leaf.name!r} (only {owners}). Leave it out."
                )

    def _check_texts(self) -> None:
        """Check that the sets are there whose texts are chosen."""
        data = self.data
        by_class = (self.protocol.has_pairs or bool(data.pairs_from)) and not data.captioned
        paired = self.protocol.pairs_per_class or by_class or self.task == "few_shot"
        refuse(
            (
                bool(data.head_variants or data.head_templates) and not data.head_set,
                (
                    "head_variants and head_templates choose texts of a head's classes, and the "
                    "run has no head. Name one, or leave them out."
                ),
            ),
            (
                bool(data.pair_variants or data.pair_templates) and not paired,
                (
                    "pair_variants and pair_templates choose the text that a class's images are "
                    "paired with; only pairs_per_class, real pairs without captions and task "
                    "few_shot make such pairs."
                ),
            ),
        )

    def _check_task(self, options: Options) -> None:
        """Check what single tasks need of data and protocol."""
        where, method, data = self.protocol.eval, self.fit.method, self.data
        of_images = isinstance(options, Neighbours) and options.of != "head"
        refuse(
            (
                bool(data.layer_sets) and not of_images,
                (
                    "Layers are sets of images that are searched by task neighbours, with "
                    "of=class-means or of=pairs. Leave them out, or name that."
                ),
            ),
        )
        if not isinstance(options, FewShot):
            generalised = isinstance(options, Generalised)
            refuse(
                (
                    generalised and self.protocol.has_pairs and where != "held-out",
                    (
                        "Task generalised calls classes unseen that no prototype and no real pair "
                        f"is of: with real pairs use `eval=held-out`, not {where!r}."
                    ),
                ),
                (
                    bool(self.data.view_set),
                    f"Only few-shot learners look at views of images; task {self.task} does not.",
                ),
            )
            return
        # Here, because it loads every learner, and other tasks have none.
        from fitters.few_shot import LEARNERS, PROMPT_LEARNERS

        check_names(
            [options.learner], [*LEARNERS, *PROMPT_LEARNERS], what="learner", error=ProtocolError,
            where="for few_shot",
        )  # fmt: skip
        refuse(
            (
                where not in ("split", "in-class"),
                (
                    "Task few_shot trains and tests on the same classes: give `eval=split` or "
                    f"`eval=in-class`, not {where!r}."
                ),
            ),
            (
                bool(self.data.pairs_from),
                "Task few_shot learns from images of the classes that it scores, from no others.",
            ),
            (
                options.learner in PROMPT_LEARNERS and method != IDENTITY,
                (
                    f"Learner {options.learner} learns prompts in the space of the images' own "
                    f"model: method is {IDENTITY!r}, not {method!r}."
                ),
            ),
            (
                options.shots == 0 and options.prototypes == "none",
                (
                    "A few-shot run with 0 shots and no prototypes has nothing to learn from. Give "
                    "it prototypes=names or prototypes=head, or a shot."
                ),
            ),
        )

    @property
    def learner(self) -> str | None:
        """Name of the few-shot learner, of a task that has one."""
        options = self.task_options
        return options.learner if isinstance(options, FewShot) else None

    @property
    def origin(self) -> str:
        """Where method, learner and task are from; see `bench.code.origin_of`."""
        return origin_of(self.fit.method, self.learner, self.task)

    @property
    def task_options(self) -> Any:
        """The options of the task, defaults filled in."""
        return checked_options(self.task, self.options)

    @cached_property
    def run_id(self) -> str:
        """The sha256 of the canonical JSON of all fields that are not at their defaults."""
        return sha256_hex(canonical_json({"run": self._facts()}))

    @cached_property
    def fit_key(self) -> str:
        """The id of everything but what is scored: runs that share it share one fit."""
        facts = self._facts("task", "options", "relevance", "metric_version")
        facts["code"] = facts["code"].partition(".")[0]  # without the task's own
        return sha256_hex(canonical_json({"fit": facts}))

    def _facts(self, *left_out: str) -> dict[str, Any]:
        """Return what is not at its default, nested as the fields are."""
        facts: dict[str, Any] = {}
        for leaf, value in self._own:
            if leaf.name not in left_out:
                part = facts
                for name in leaf.path[:-1]:
                    part = part.setdefault(name, {})
                part[leaf.name] = value
        return facts

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: not what follows from the fields."""
        return {name: value for name, value in vars(self).items() if name != "_own"}

    @cached_property
    def _own(self) -> list[tuple[Leaf, Any]]:
        """The fields that are not at their defaults, with their values."""
        values = ((leaf, leaf.value(self)) for leaf in LEAVES)
        return [(leaf, value) for leaf, value in values if value != leaf.default]

    def columns(self) -> dict[str, Any]:
        """Return all fields as one row of plain values under `bench.results.RUN_COLUMNS`."""
        row = {"run_id": self.run_id, **{leaf.name: leaf.cell(self) for leaf in LEAVES}}
        if self.protocol.pairs_per_class:
            row["n_pairs"] = f"{self.protocol.pairs_per_class}/class"
        return row


@dataclass(frozen=True)
class Leaf:
    """A field of a run that holds a plain value, in whatever part it is.

    Attributes
    ----------
    path : tuple of str
        Attributes that lead to it from a run.
    default : object
        MISSING where there is none, or where it is part of every id.
    option : Option
        What its annotation states.
    """

    path: tuple[str, ...]
    default: Any
    option: Option

    @cached_property
    def name(self) -> str:
        """Its own name, which no other leaf has."""
        return self.path[-1]

    @cached_property
    def is_setting(self) -> bool:
        """Whether it is a setting of the fit."""
        return self.path[0] == "fit" and self.name != "method"

    @cached_property
    def dtype(self) -> Any:
        """Type of its column: a number that may be a word is text."""
        import polars as pl

        known = {bool: pl.Boolean, int: pl.Int64, float: pl.Float64}
        return pl.String if self.option.words else known.get(self.option.type, pl.String)

    @cached_property
    def _get(self) -> Callable[[Run], Any]:
        return attrgetter(".".join(self.path))

    def value(self, run: Run) -> Any:
        """Return its value in a run; 1 and 1.0 are the same."""
        value = self._get(run)
        if self.name == "options" and value is not None:
            return {
                own.name: getattr(value, own.name)
                for own in fields(value)
                if getattr(value, own.name) != own.default
            }
        if self.option.type is float and not isinstance(value, (float, str, NoneType)):
            return float(value)
        return value

    def cell(self, run: Run) -> Any:
        """Return its value in a column: lists joined, numbers or words as text."""
        import polars as pl

        if self.name == "options":
            return options_text(run.task_options)
        value = self.value(run)
        if isinstance(value, tuple):
            return ",".join(value)
        return value if value is None or self.dtype != pl.String else str(value)


def leaves_of(cls: type, path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Yield the fields of a dataclass, and of those in it, that hold a plain value."""
    entries = [entry for entry in fields(cls) if entry.name not in _NO_RESULT]
    hints = hints_of(cls, [entry.name for entry in entries])
    for entry in entries:
        hint, own = hints[entry.name], (*path, entry.name)
        if isinstance(hint, type) and is_dataclass(hint):
            yield from leaves_of(hint, own)
        else:
            default = MISSING if entry.name in _ALWAYS else entry.default
            yield Leaf(own, default, record_of(entry, hint))


#: The fields of a run, those of its parts among them.
LEAVES = tuple(leaves_of(Run))

_PATHS = {leaf.name: leaf.path for leaf in LEAVES}
assert len(_PATHS) == len(LEAVES), "two fields of a run have the same name"

#: Names of the settings of a fit.
FIT_SETTINGS = tuple(leaf.name for leaf in LEAVES if leaf.is_setting)


def has_setting(method: str, name: str) -> bool:
    """Return whether a method has a setting; of one that is not registered here, True."""
    spec: Method | None = METHODS.get(method)
    if spec is None:
        return method != IDENTITY
    return spec.takes(name)


def _by_part(values: dict[str, Any]) -> dict[str, Any]:
    """Return values by the part of a run that they are of; those of the run itself as they are."""
    parts: dict[str, Any] = {}
    for name, value in values.items():
        part, *deeper = lookup(_PATHS, name, what="field", error=ProtocolError, where="of a run")
        if deeper:
            parts.setdefault(part, {})[name] = value
        else:
            parts[part] = value
    return parts


def _fit_with(fit: FitConfig, values: dict[str, Any]) -> FitConfig:
    deeper = {name: values.pop(name) for name in [*values] if len(_PATHS[name]) > 2}
    if deeper:
        values["training"] = replace(fit.training, **deeper)
    return replace(fit, **values)
