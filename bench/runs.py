"""What a run is: a frozen record of plain values, and the id that follows from them.

Two runs with the same id do the same thing to the same data. Whatever changes a result is a
field: the revision of every set that is read, the protocol's numbers, the version of the
metrics. Dates, machines and seconds are not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from bench.code import code_digest, own_code
from bench.errors import ProtocolError
from bench.metrics.summary import METRIC_VERSION
from bench.options import (
    TASK_OPTIONS,
    FewShot,
    Generalised,
    Options,
    checked_options,
    options_text,
)
from featstore.identity import canonical_json, sha256_hex
from fitters.jobs import TEMPLATES, VARIANTS
from fitters.methods import METHODS

#: Raise it when `bench.protocol` or `bench.fits` changes what a run does.
PROTOCOL_VERSION = 3

TASKS = tuple(TASK_OPTIONS)
EVALS = ("all-names", "held-out", "split", "in-class")
#: The method that fits nothing.
IDENTITY = "identity"
SOURCES = ("none", "head", "random", "random-cov", "shuffled")
RELEVANCE = ("class_id", "parent_id")


@dataclass(frozen=True)
class Run:
    """One fully specified benchmark configuration.

    Attributes
    ----------
    suite : str
        The suite that asked for it.
    task : str
        One of `bench.options.TASK_OPTIONS`.
    eval : str
        ``"all-names"``: every image is scored; no pair of the dataset is used.
        ``"held-out"``: a fresh split of the classes; only held-out ones are scored.
        ``"split"``: images of the manifest's split ``test`` are scored, those of `train_splits`
        may be trained on. ``"in-class"``: a fresh split of the images of every class.
    method : str
        Aligner: one of `fitters.methods.METHODS` that takes captions or a head; or `IDENTITY`,
        the embeddings as they are, for an image and a text tower of one model.
    source : str
        Where prototypes come from: ``none``, the ``head``, or a control of it.
    n_pairs : int or "all"
        Real images used for fitting, with their captions.
    seed : int
        Draws the split, the subset, the shots and the control.
    penalty, mix : float or "auto"
        Fixed values, or chosen from the training pairs alone.
    image_set … head_name_set : str
        Keys of the sets read, each with its revision beside it; empty when not read.
    variants, templates : tuple of str
        Which prompts make one text per class of the images: what is scored.
    locales : tuple of str
        Which captions (their ``variant``); empty means all.
    relevance : str
        What makes a caption relevant to an image: ``"parent_id"``, being its own, or
        ``"class_id"``, sharing its class (for data where images share a description).
    train_fraction : float
        Share of the classes that held-out evaluation may train on; of the images of a class for
        ``"in-class"``.
    train_splits : tuple of str
        The manifest's splits that ``"split"`` may train on.
    pairs_per_class : int
        Training images of every class whose mean is paired with the class's text: a real pair a
        class, instead of `n_pairs`.
    options : Options, optional
        Of the task; None, which the defaults become, for the defaults.
    limit : int, optional
        Number of images kept, for a quick look. Stamped here so that it is never mistaken
        for a full result.
    metric_version, protocol_version : int
    code : str
        Digest of the sources that make a result; see `bench.code`. Of a method or a learner that
        was registered from outside, "+" and the digest of its own stand behind it.
    view_set, view_revision : str
        Augmented views of the images, for few-shot learners that look at some; empty for none.
    control_draw : int, optional
        Draws the rows of a control, so that many draws of it can stand beside one head on the same
        split and real pairs; None: the seed draws them.
    head_variants, head_templates : tuple of str
        Which prompts make one text per class of the head: what is trained on. Empty: those of
        the images.
    pair_variants, pair_templates : tuple of str
        Which prompts make the text that a class's training images are paired with, where a class
        is a pair: with `pairs_per_class`, and of a few-shot learner that maps texts. Empty: those
        that are scored. Sentences on a class (``--descriptions-file``) are variant "description".
    epochs : int, optional
        Of a trained method; None: the preset's own.
    sequential : bool
        A trained method sees prototypes first, then real pairs alone.
    """

    suite: str
    task: str
    eval: str
    method: str
    source: str
    n_pairs: int | Literal["all"]
    seed: int
    image_set: str
    image_revision: str
    name_set: str
    name_revision: str
    caption_set: str = ""
    caption_revision: str = ""
    head_set: str = ""
    head_revision: str = ""
    head_name_set: str = ""
    head_name_revision: str = ""
    variants: tuple[str, ...] = VARIANTS
    templates: tuple[str, ...] = TEMPLATES
    locales: tuple[str, ...] = ()
    penalty: float | Literal["auto"] = "auto"
    mix: float | Literal["auto"] = "auto"
    relevance: str = "parent_id"
    train_fraction: float = 0.6
    train_splits: tuple[str, ...] = ("train",)
    pairs_per_class: int = 0
    options: Options | None = None
    limit: int | None = None
    metric_version: int = METRIC_VERSION
    protocol_version: int = PROTOCOL_VERSION
    code: str = field(default_factory=code_digest)
    view_set: str = ""
    view_revision: str = ""
    control_draw: int | None = None
    head_variants: tuple[str, ...] = ()
    head_templates: tuple[str, ...] = ()
    pair_variants: tuple[str, ...] = ()
    pair_templates: tuple[str, ...] = ()
    epochs: int | None = None
    sequential: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("task", self.task, TASKS),
            ("eval", self.eval, EVALS),
            ("source", self.source, SOURCES),
            ("relevance", self.relevance, RELEVANCE),
        ):
            if value not in known:
                raise ProtocolError(f"A run's {name} is one of {', '.join(known)}; got {value!r}.")
        options = checked_options(self.task, self.options)
        object.__setattr__(self, "options", None if options == type(options)() else options)
        own = own_code(self.method, self.learner)
        ours = self.code.partition("+")[0]
        object.__setattr__(self, "code", f"{ours}+{own}" if own else ours)
        if isinstance(self.n_pairs, int) and self.n_pairs < 0:
            raise ProtocolError(f"A run uses 0 real pairs or more; got {self.n_pairs}.")
        if self.control_draw is not None and self.source in ("none", "head"):
            raise ProtocolError(
                f"control_draw draws a control's rows; source {self.source!r} has none."
            )
        self._check_fit()
        self._check_texts()
        self._check_training()
        if not 0.0 < self.train_fraction < 1.0:
            raise ProtocolError(f"train_fraction lies between 0 and 1; got {self.train_fraction}.")
        if isinstance(options, Generalised) and self._fitted and self.eval != "held-out":
            raise ProtocolError(
                "Task generalised calls classes unseen that no prototype and no real pair is of: "
                f"with real pairs use eval 'held-out', not {self.eval!r}."
            )
        if isinstance(options, FewShot):
            if self.eval not in ("split", "in-class"):
                raise ProtocolError(
                    "Task few_shot trains and tests on the same classes: eval is 'split' or "
                    f"'in-class', not {self.eval!r}."
                )
            # Here, because it loads every learner, and other tasks have none.
            from fitters.few_shot.registry import PROMPT_LEARNERS

            if options.learner in PROMPT_LEARNERS and self.method != IDENTITY:
                raise ProtocolError(
                    f"Learner {options.learner} learns prompts in the space of the images' own "
                    f"model: method is {IDENTITY!r}, not {self.method!r}."
                )
            if options.shots == 0 and options.prototypes_from == "none":
                raise ProtocolError(
                    "A few-shot run with 0 shots and no prototypes has nothing to learn from. Give "
                    "it prototypes=names or prototypes=head, or a shot."
                )
        elif self.view_set:
            raise ProtocolError(
                f"Only few-shot learners look at views of images; task {self.task} does not."
            )

    def _check_fit(self) -> None:
        """Check that there is something to fit, and nothing too much."""
        fitted = self._fitted
        if self.pairs_per_class < 0 or (self.pairs_per_class and self.n_pairs != 0):
            raise ProtocolError(
                "Real pairs are counted by n_pairs or by pairs_per_class, not both; got "
                f"{self.n_pairs} and {self.pairs_per_class}."
            )
        if self.method == IDENTITY and (fitted or self.source != "none"):
            raise ProtocolError(
                f"Method {IDENTITY!r} fits nothing: it takes source 'none' and no real pairs."
            )
        if self.method != IDENTITY and self.source == "none" and not fitted:
            raise ProtocolError(
                "A run with source 'none' and 0 real pairs has nothing to fit. Give it one."
            )
        if self.eval == "all-names" and fitted:
            raise ProtocolError(
                "Evaluation 'all-names' scores every image, so that none is left to train on; "
                f"got n_pairs={self.n_pairs}. Use eval 'held-out'."
            )
        if self.eval == "held-out" and self.pairs_per_class:
            raise ProtocolError(
                "pairs_per_class needs training images of the scored classes: eval 'in-class'."
            )

    def _check_texts(self) -> None:
        """Check that whoever is given texts of its own is there."""
        if (self.head_variants or self.head_templates) and not self.head_set:
            raise ProtocolError(
                "head_variants and head_templates choose texts of a head's classes, and the run "
                "has no head. Name one, or leave them out."
            )
        pairs = self.pairs_per_class or self.task == "few_shot"
        if (self.pair_variants or self.pair_templates) and not pairs:
            raise ProtocolError(
                "pair_variants and pair_templates choose the text that a class's images are paired "
                "with; only pairs_per_class and task few_shot make such pairs."
            )

    def _check_training(self) -> None:
        """Check that what is asked of a training meets one."""
        if self.epochs is None and not self.sequential:
            return
        trained = [name for name, method in METHODS.items() if method.fitted_on == "training"]
        if self.method not in trained:
            raise ProtocolError(
                f"epochs and sequential are of trained methods ({', '.join(trained)}); "
                f"{self.method} is not trained."
            )
        if self.epochs is not None and self.epochs < 1:
            raise ProtocolError(f"A trained method has 1 epoch or more; got {self.epochs}.")
        if self.sequential and (self.source == "none" or not self._fitted):
            raise ProtocolError(
                "Sequential training goes through prototypes, then real pairs: give the run a "
                f"source and real pairs. Got source {self.source!r} and {self.n_pairs} pairs."
            )

    @property
    def head_texts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Variants and templates of the head's classes."""
        return self.head_variants or self.variants, self.head_templates or self.templates

    @property
    def pair_texts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Variants and templates of what a class's images are paired with."""
        return self.pair_variants or self.variants, self.pair_templates or self.templates

    @property
    def _fitted(self) -> bool:
        """Whether real pairs are fitted."""
        return self.n_pairs != 0 or self.pairs_per_class != 0

    @property
    def learner(self) -> str | None:
        """Name of the few-shot learner, of a task that has one."""
        options = self.task_options
        return options.learner if isinstance(options, FewShot) else None

    @property
    def task_options(self) -> Options:
        """The options of the task, defaults filled in."""
        return checked_options(self.task, self.options)

    @cached_property
    def run_id(self) -> str:
        """Return the sha256 of the canonical JSON of all fields, defaults of options included."""
        return sha256_hex(canonical_json({"run": self._facts()}))

    @cached_property
    def fit_key(self) -> str:
        """Return the id of everything but what is scored: runs that share it share one fit."""
        return self._fit_key_without()

    @cached_property
    def grid_key(self) -> str:
        """Return the id of what the cells of a sweep share: one seed and method on one corpus."""
        return self._fit_key_without("source", "n_pairs", "penalty", "mix")

    def _fit_key_without(self, *names: str) -> str:
        facts = self._facts()
        for name in ("task", "options", "relevance", "metric_version", *names):
            del facts[name]
        return sha256_hex(canonical_json({"fit": facts}))

    def _facts(self) -> dict[str, Any]:
        # All values but the options are plain: asdict would look into each of them, for 0.1 ms.
        facts = {column.name: getattr(self, column.name) for column in fields(self)}
        facts["options"] = asdict(self.task_options)
        # Runs that do not use what came later keep the ids that they had before.
        for column in _LATER:
            if facts[column.name] == column.default:
                del facts[column.name]
        return facts

    def columns(self) -> dict[str, Any]:
        """Return the fields as one row of plain values: lists joined, numbers or "auto" as text."""
        row: dict[str, Any] = {"run_id": self.run_id}
        for column in fields(self):
            value = getattr(self, column.name)
            if column.name == "options":
                value = options_text(self.task_options)
            elif isinstance(value, tuple):
                value = ",".join(value)
            elif column.name == "n_pairs" and self.pairs_per_class:
                value = f"{self.pairs_per_class}/class"
            elif column.name in ("n_pairs", "penalty", "mix"):
                value = str(value)
            row[column.name] = value
        return row


#: Fields that are part of an id only where they are not at their default.
_LATER = tuple(
    column
    for column in fields(Run)
    if column.name
    in (
        "view_set", "view_revision", "control_draw", "head_variants", "head_templates",
        "pair_variants",
        "pair_templates", "epochs", "sequential",
    )
)  # fmt: skip
