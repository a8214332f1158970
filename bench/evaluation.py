"""Score methods beside their controls, on a store or on arrays.

`evaluate` does what the command does, with the same ids and the same rows: it plans the runs of
``headstock eval task``, on every evaluation that the data allow.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeAlias, Unpack

import numpy as np
from numpy.typing import NDArray

from bench.corpus import FRESH_SPLITS
from bench.errors import ProtocolError
from bench.evaluated import Results
from bench.execution import run_all
from bench.metrics.ranks import different_rows
from bench.options import TASKS, options_of
from bench.results import finished
from bench.runs import LEAVES, Run
from bench.suites import SUITE, SetNames, check_settings, combinations, sets_of_tasks
from bench.suites.demo import CONTROL_DRAWS, Plan
from featstore.arrays import write
from featstore.errors import listed
from featstore.manifest import Kind
from featstore.matrices import Rows, vector
from featstore.parallel import Engine
from featstore.store.store import FeatureStore, open_store
from featstore.store.tables import values_in
from featstore.terminal import ProgressBar
from fitters.errors import SettingError, check_names
from fitters.kept import digest_of
from fitters.methods import registered
from fitters.pairs import Pairs, Prototypes
from fitters.settings import FitConfig, Settings, Several

Amount: TypeAlias = int | Literal["all"]
"""A number of real pairs."""


class RunSettings(Settings, total=False):
    """Settings of `evaluate`: fields of a run; a list is several values, a run each."""

    captions: str | tuple[str, ...]
    views: str
    layers: str | tuple[str, ...]
    pair_variants: str | Several[tuple[str, ...]]
    pair_templates: str | Several[tuple[str, ...]]
    locales: str | Several[tuple[str, ...]]
    eval: Several[str]
    pairs_per_class: Several[int]
    relevance: Several[str]
    train_splits: str | Several[tuple[str, ...]]
    train_fraction: Several[float]
    head_rows: Several[str]
    control_draw: Several[int]
    limit: Several[int]
    clusters: Several[int]
    head_size: Several[int]
    head_by: Several[str]
    leave_seen: Several[bool]
    epochs: Several[int]
    batch_size: Several[int]
    learning_rate: Several[float]
    sequential: Several[bool]
    patience: Several[int]
    precision: Several[str]


#: What a verdict says where nobody said which images are of one class.
EQUAL_TEXTS = "Images with equal texts count as one class: no groups were given."

#: What it says where each row has a group of its own.
ALL_DIFFERENT = (
    "All groups differ: they count as ids, and the texts as captions. Where they are classes, ask "
    "for tasks='zero_shot'."
)

#: What names a set of a store.
_SETS = tuple(own.name for own in fields(SetNames))


def evaluate(
    methods: Any,
    data: Any,
    texts: Rows | None = None,
    *,
    prototypes: Prototypes | None = None,
    groups: Any = None,
    bias: Rows | None = None,
    tasks: str | Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    n_pairs: Several[Amount] | None = None,
    controls: bool | Sequence[str] = True,
    draws: int = CONTROL_DRAWS,
    seeds: Several[int] = 10,
    out: Path | str | None = None,
    jobs: int = 1,
    engine: Engine = "local",
    progress: bool = True,
    **run: Unpack[RunSettings],
) -> Results:
    """Score methods beside the controls that decide whether a gain is real.

    A method is fitted on the prototypes of a head, on real pairs and on both, as far as the data
    have them. *All names*: every image is scored, with the head alone beside `draws` draws of each
    control and ConSE, which reads the head unfitted. *Held out*, where `n_pairs` asks for real
    pairs: `seeds` splits of the classes, each with one draw of each control.

    Parameters
    ----------
    methods : one or a sequence of them, or a mapping of names to them
        A name of `fitters.METHODS` or "identity", a `FitConfig`, an aligner with its parameters
        (not fitted), the class of one, or a function of two matrices of rows that returns two
        matrices of weights. What is not named yet is registered for this process, under the name
        of its class or function, an aligner with its parameters behind it.
    data : Rows of shape (n, p), Pairs, PairedView, tuple, or store
        Images, with their `texts`; or both as pairs or as a tuple. Where every row of a group has
        the same text, the groups are classes and the texts their names (task zero_shot); without
        groups, rows with equal texts are one class, if any text is given twice, and the verdict
        says so. Otherwise the texts are captions (task retrieval), and rows of one group with equal
        x are one image with several captions. Groups that all differ are ids of images, unless
        `tasks` asks for others than retrieval; the verdict says so. Rows are rounded to float32, in
        which a store hands them out, and prepared for a method in float64. A store, open or by its
        place, holds sets of any kind.
    texts : Rows of shape (n, q), optional
        Row i is the text of image i.
    prototypes : Pairs, PairedView or tuple, optional
        Rows of a head and the texts of its classes; `groups` are their names, the third of a tuple.
        A class of `data` is *seen* if its group is one of these names.
    groups : array_like of shape (n,), optional
        What each row of `data` is of: a class, or an image or description.
    bias : array_like of shape (c,), optional
        Of the head, for methods that read it.
    tasks : str, sequence, or mapping of names to options, optional
        As of ``headstock eval task``. None: zero_shot and retrieval, as the data allow.
    n_pairs : int, "all", or a sequence of them, optional
        Numbers of real pairs. None: none, or "all" where there is no head.
    controls : bool or sequence of str
        Sources beside the head; True: random, random-cov and shuffled, and ConSE.
    draws : int
        Of each control over all names: 19 are the fewest whose rank reaches 5 %.
    seeds : int or sequence of int
        Splits of the held-out evaluation.
    out : path, optional
        Results folder, in which finished runs are reused; ``headstock eval table`` and ``headstock
        report`` read it. None: a temporary one that lasts as long as the results. Arrays are kept
        in its folder ``store``.
    jobs, engine
        As of `bench.execution.run_all`.
    progress : bool
        Whether a bar on stderr says how far it is.
    **run
        Of a store, the sets by the names of `headstock eval task` (images, names, captions, head,
        head_names, views), or ``dataset`` and ``label_set``; without any, those that fit together.
        And fields of a run: eval, relevance, locales, limit, …, and settings of the fit (penalty,
        mix, …), for the methods that have them. A list is several values, a run each.

    Returns
    -------
    Results

    Raises
    ------
    ProtocolError
        If a field, a task or a control is unknown, the data lack what is asked, or nothing is left
        to run.
    fitters.errors.UnknownMethodError, featstore.errors.FeatstoreError
        As the commands do.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> texts, to_images = rng.standard_normal((90, 6)), rng.standard_normal((6, 12))
    >>> head = Pairs(texts[:60] @ to_images, texts[:60])
    >>> results = evaluate("ridge", Pairs(texts[60:] @ to_images, texts[60:]), prototypes=head)
    >>> "random vectors would not have done as well" in results.verdict
    True
    """
    check_names(
        run, [*(evaluate.__kwdefaults__ or ()), *RunSettings.__annotations__], what="keyword",
        error=ProtocolError, where="of evaluate",
    )  # fmt: skip
    given = dict[str, Any](run)
    pairs, note = None, ""
    if not isinstance(data, FeatureStore | str | Path):
        pairs = Pairs.given(data, texts, groups)
        if pairs is None:
            raise ProtocolError(
                "data must be a store, pairs, or images beside texts: images alone have no texts "
                "to be compared with."
            )
    elif any(one is not None for one in (texts, prototypes, groups, bias)):
        raise ProtocolError(
            "A store has its own texts, prototypes, groups and bias: name its sets (images, "
            "captions, names, head, head_names), or pass arrays as data."
        )
    with ExitStack() as stack:
        if out is None:
            out = tempfile.mkdtemp(prefix="headstock-")
            stack.callback(shutil.rmtree, out, ignore_errors=True)
        folder = Path(out)
        if pairs is not None:
            head = None if prototypes is None else Pairs.of(prototypes, "prototypes")
            own = None if bias is None else vector(bias, "bias")
            are_ids = _are_ids(pairs.groups, tasks)
            arrays = _store_arrays(folder / "store", pairs, head, own, are_ids=are_ids)
            if are_ids:
                note = ALL_DIFFERENT
            elif pairs.groups is None and "names" in arrays:
                note = EQUAL_TEXTS
            data, given = folder / "store", {"templates": ("none",)} | given | arrays
        store = data if isinstance(data, FeatureStore) else open_store(data)
        entries, sets = _entries(methods), _sets(store, given, tasks)
        asked_tasks = _tasks(tasks, sets)
        asked = _Asked.of(
            given.pop("eval", None), n_pairs, draws=draws, seeds=seeds,
            usual=TASKS[asked_tasks[0][0]].eval,
            controls=controls if sets.get("head_set") else None,
        )  # fmt: skip
        if asked.sources[1:] and controls is True:
            entries.append(("conse", {}))
        runs = asked.runs(sets, entries, asked_tasks, given)
        left = {run.fit_key for run in runs if run.run_id not in finished(folder)}
        with ProgressBar("evaluate", "fits", total=len(left) if progress else 0) as bar:
            run_all(
                runs, store.address, folder, jobs=jobs, engine=engine,
                on_done=lambda _: bar.advance(),
            )  # fmt: skip
        results = Results(
            folder, store=store.address, methods=list(dict(entries)),
            run_ids={run.run_id for run in runs}, note=note,
        )  # fmt: skip
        # A temporary folder goes away with the results.
        weakref.finalize(results, stack.pop_all().close)
    return results


@dataclass(frozen=True)
class _Asked:
    """What an evaluation goes through, whatever the method.

    Attributes
    ----------
    evals : tuple of str
    sources : tuple of str
        "none" first, then the head and its controls, if there is a head.
    n_pairs : tuple of int or "all"
        Numbers of real pairs, without 0.
    draws : int
    seeds : tuple of int
    """

    evals: tuple[str, ...]
    sources: tuple[str, ...]
    n_pairs: tuple[Amount, ...]
    draws: int
    seeds: tuple[int, ...]

    @classmethod
    def of(
        cls,
        evals: Any,
        n_pairs: Any,
        *,
        draws: int,
        seeds: int | Sequence[int],
        usual: str,
        controls: bool | Sequence[str] | None,
    ) -> _Asked:
        """Return what is asked; `controls` are None where there is no head.

        `usual` is the evaluation of the first task, beside which held-out classes are scored for
        real pairs, unless it takes such pairs itself.
        """
        sources: tuple[str, ...] = ("none",)
        if controls is not None:
            sources += ("head", *(Plan().controls if controls is True else controls or ()))
        elif n_pairs is None:
            n_pairs = "all"
        amounts = tuple(k for k in values_in(n_pairs) if k not in (0, None))
        evals = evals or ([usual, "held-out"] if amounts and usual not in FRESH_SPLITS else usual)
        if not isinstance(draws, int | np.integer) or draws < 1:
            raise ProtocolError(f"draws must be a whole number from 1; got {draws!r}.")
        each = (
            range(seeds) if isinstance(seeds, int | np.integer) else np.atleast_1d(seeds).tolist()
        )
        if not each or not all(isinstance(seed, int) and seed >= 0 for seed in each):
            raise ProtocolError(
                f"seeds must be a whole number from 1, or a list of them from 0; got {seeds!r}."
            )
        return cls(tuple(values_in(evals)), sources, amounts, draws, tuple(each))

    def runs(
        self,
        sets: Mapping[str, Any],
        entries: Sequence[tuple[str, Mapping[str, Any]]],
        tasks: Sequence[tuple[str, Any]],
        given: Mapping[str, Any],
    ) -> list[Run]:
        """Return the runs, each once, the tasks of a fit one after another."""
        lists = {name: _values(name, value) for name, value in given.items()}
        check_settings(lists, [name for name, _ in entries])
        found: dict[Run, None] = {}
        for (name, own), block in product(entries, self._blocks()):
            every = {**lists, **{key: (value,) for key, value in own.items()}, **block}
            for task, options in tasks:
                make = partial(Run.of, suite=SUITE, task=task, options=options, **sets)
                made = combinations(make, every | {"method": (name,)}, skip=True)
                found |= dict.fromkeys(run for run in made if not self._is_repeated(run))
        if not found:
            raise ProtocolError(
                f"Nothing is left to run of {listed(dict(entries))}: the data have "
                f"{'a head' if len(self.sources) > 1 else 'no head'}, and n_pairs is "
                f"{list(self.n_pairs)}. Ask for real pairs, or give prototypes."
            )
        return list(found)

    def _blocks(self) -> Iterator[dict[str, Sequence[Any]]]:
        """Yield the lists of every evaluation: the head and its controls, then real pairs."""
        for evaluation in self.evals:
            block: dict[str, Sequence[Any]] = {"eval": (evaluation,), "source": self.sources}
            if evaluation in FRESH_SPLITS:
                yield block | {"n_pairs": (0, *self.n_pairs), "seed": self.seeds}
                continue
            yield block | {"n_pairs": (0,), "seed": range(self.draws)}
            if evaluation != "all-names" and self.n_pairs:
                yield block | {"n_pairs": self.n_pairs, "seed": self.seeds}

    def _is_repeated(self, run: Run) -> bool:
        """Whether a run is that of its first seed again: nothing is drawn in it."""
        drawn = run.protocol.eval in FRESH_SPLITS or run.protocol.has_pairs
        sampled = run.task == "few_shot" or run.protocol.source not in ("none", "head")
        return run.seed > 0 and not drawn and not sampled


_LEAF = {leaf.name: leaf for leaf in LEAVES}


def _values(name: str, value: Any) -> tuple[Any, ...]:
    """Return the values of a field of a run: a list is several; texts are cut at commas."""
    values = tuple(value) if isinstance(value, list) else (value,)
    if name in _LEAF and _LEAF[name].option.many:
        return tuple(tuple(one.split(",")) if isinstance(one, str) else one for one in values)
    return values


def _tasks(
    asked: str | Sequence[str] | Mapping[str, Mapping[str, Any]] | None, sets: Mapping[str, Any]
) -> list[tuple[str, Any]]:
    """Return tasks with their options, by default those that the sets allow."""
    if asked is None:
        texts = (("zero_shot", "name_set"), ("retrieval", "caption_set"))
        asked = [task for task, role in texts if sets.get(role)]
    if isinstance(asked, str):
        asked = [asked]
    of_tasks = asked if isinstance(asked, Mapping) else {name: {} for name in asked}
    if not of_tasks:
        raise ProtocolError("The store has neither class names nor captions of these images.")
    return [(name, options_of(name, options)) for name, options in of_tasks.items()]


def _sets(store: FeatureStore, given: dict[str, Any], tasks: Any) -> dict[str, Any]:
    """Return the fields of a run that name its sets, and take what names them out of `given`.

    A head, and texts for tasks that are left out, are looked for where no texts are named.
    """
    named = {name: given.pop(name) for name in _SETS if name in given}
    dataset, label_set = given.pop("dataset", None), given.pop("label_set", None)
    if dataset:
        named.setdefault("images", f"{dataset}/image")
    if label_set:
        named.setdefault("head", f"{label_set}/head_weight")
    has_texts = "names" in named or "captions" in named
    has_heads = any(info.key.kind == "head_weight" for info in store.sets())
    if tasks is None:
        tasks = () if has_texts else ("zero_shot", "retrieval")
    sets = sets_of_tasks(
        store, named, list(values_in(tasks)), reads_head=has_heads and not has_texts
    )
    return SetNames(**named | sets).fields(store)


def _entries(methods: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the name and the settings of each method; what has no name yet is registered."""
    if isinstance(methods, Mapping):
        return [_entry(thing, str(name)) for name, thing in methods.items()]
    several = isinstance(methods, Iterable) and not isinstance(methods, str)
    entries, own = [], dict[str, Any]()
    for thing in methods if several else [methods]:
        name, settings = _entry(thing)
        if not isinstance(thing, str | FitConfig) and own.setdefault(name, thing) is not thing:
            raise SettingError(
                f"Two methods are named {name!r}, and results are kept by name. Give them names: "
                "a mapping of names to methods."
            )
        entries.append((name, settings))
    return entries


def _entry(thing: Any, name: str = "") -> tuple[str, dict[str, Any]]:
    """Return the name and the settings of one; a name of its own has only what is registered."""
    if isinstance(thing, str):
        return thing, {}
    if isinstance(thing, FitConfig):
        settings = (
            (leaf, attrgetter(".".join(leaf.path[1:]))(thing)) for leaf in LEAVES if leaf.is_setting
        )
        return thing.method, {leaf.name: value for leaf, value in settings if value != leaf.default}
    return registered(thing, name), {}


def _are_ids(
    groups: NDArray[Any] | None, tasks: str | Sequence[str] | Mapping[str, Any] | None
) -> bool:
    """Whether groups say which image a row is of, and nothing of classes: all of them differ."""
    asks_for_classes = tasks is not None and "retrieval" not in tasks
    return groups is not None and not asks_for_classes and len(np.unique(groups)) == len(groups)


def _store_arrays(
    root: Path, pairs: Pairs, prototypes: Pairs | None, bias: Rows | None, *, are_ids: bool
) -> dict[str, str]:
    """Write arrays as sets of a store, under names that follow from them; return the sets' names.

    The same arrays are the same sets, so that finished runs are found again.
    """
    given = [pairs] if prototypes is None else [pairs, prototypes]
    if any(one.weight is not None or one.asked is not None for one in given):
        raise ProtocolError(
            "Weights and other texts to ask by are not evaluated: an image weighs 1, and so do its "
            "captions together. Leave weight and asked out."
        )
    widths = [(one.x.shape[1], one.y.shape[1]) for one in given]
    if len(set(widths)) > 1:
        raise ProtocolError(
            f"Data have rows of {widths[0][0]:,} and {widths[0][1]:,} columns, prototypes of "
            f"{widths[1][0]:,} and {widths[1][1]:,}. Use one encoder a side."
        )
    if prototypes is not None and prototypes.n < 2:
        raise ProtocolError(
            "Prototypes of one class are their own mean, and nothing once it is taken off. Pass "
            "those of two classes or more."
        )
    # Of one width, they may be the two towers of one model: method "identity" says that they are.
    add = partial(_write, root, {"pair": "arrays"} if len(set(widths[0])) == 1 else {})
    # A store hands out float32: what is equal there is equal here.
    pairs = replace(pairs, x=pairs.x.astype(np.float32), y=pairs.y.astype(np.float32))
    name = f"data-{_digest(pairs)}"
    # Equal texts are one answer: by no score could one of them be preferred.
    groups = different_rows(pairs.y)[1] if pairs.groups is None else np.asarray(pairs.groups)
    labels, first, codes = np.unique(groups, return_index=True, return_inverse=True)
    ids, classes = np.array([f"{name}/{row}" for row in range(pairs.n)]), labels.astype(str)
    named = not are_ids and (pairs.groups is not None or len(labels) < pairs.n)
    by_class = named and np.array_equal(pairs.y, pairs.y[first][codes])
    owner = np.arange(pairs.n)
    if not by_class:
        rows = np.column_stack([codes, pairs.x])
        firsts, same = np.unique(rows, axis=0, return_index=True, return_inverse=True)[1:]
        owner = firsts[same.ravel()]
    images = np.unique(owner)
    sets = {
        "images": add(name, "image", pairs.x[images], ids[images], class_id=classes[codes[images]])
    }
    if by_class:
        names = np.char.add(f"{name}/", np.char.add(classes, "#name"))
        sets["names"] = add(
            name, "class_name", pairs.y[first], names, class_id=classes, text=classes
        )
    else:
        sets["captions"] = add(
            name, "caption", pairs.y, np.char.add(ids, "#text"), class_id=classes[codes],
            parent_id=ids[owner], text=classes[codes],
        )  # fmt: skip
    if prototypes is not None:
        name = f"prototypes-{_digest(prototypes, bias)}"
        ids = np.array([f"{name}/{row}" for row in range(prototypes.n)])
        groups = np.arange(prototypes.n) if prototypes.groups is None else prototypes.groups
        called = np.asarray(groups).astype(str)
        if prototypes.groups is None:
            called = np.char.add("prototype ", called)
        sets["head"] = add(
            name, "head_weight", prototypes.x, np.char.add(ids, "#head"), bias=bias, class_id=ids
        )
        sets["head_names"] = add(
            name, "class_name", prototypes.y, np.char.add(ids, "#name"), class_id=ids, text=called
        )
    return sets


def _digest(pairs: Pairs, *more: Any) -> str:
    groups = None if pairs.groups is None else [str(group) for group in pairs.groups]
    return digest_of(pairs.x, pairs.y, groups, *more).hex()[:8]


def _write(
    root: Path,
    space: Mapping[str, str],
    dataset: str,
    kind: Kind,
    rows: NDArray[Any],
    ids: NDArray[Any],
    *,
    bias: NDArray[Any] | None = None,
    **items: NDArray[Any],
) -> str:
    """Write one set, unless it is there, and return its key."""
    encoder = f"arrays:{'images' if kind in ('image', 'head_weight') else 'texts'}"
    return write(
        root, dataset=dataset, kind=kind, encoder=encoder, rows=rows.astype(np.float32), ids=ids,
        items=items, bias=bias, space={"name": encoder, **space},
    ).key  # fmt: skip
