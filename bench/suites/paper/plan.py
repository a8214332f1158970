"""The runs of the paper suite: each is planned as soon as its sets are in the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from bench.options import FewShot, ModalityGap, Neighbours, Options, Retrieval
from bench.runs import IDENTITY, Run
from bench.suites.paper.inventory import (
    HAM,
    LEMMAS,
    NINE,
    OWN_IMAGES,
    PAIRED_WITH,
    PLAIN,
    RETRIEVAL,
    TESTED_BY,
    TRAINED_AS,
    Fit,
    Inventory,
)
from featstore.store.store import FeatureStore

SUITE = "paper"

#: The paper's own methods that are trained by gradient descent, and the one that is not.
TRAINED = ("paper-mlp", "paper-text2concepts")
CLOSED = ("paper-cca",)
#: Of which the paper has a second mode: the head first, then the images alone.
IN_TWO_STAGES = ("paper-mlp",)
#: Ours beside them, and ConSE, which fits nothing.
METHODS = ("ridge", "procrustes")
CONTROLS = ("random", "shuffled")

#: Epochs of a trained method go by the classes of the images' own head, with its rows or without.
EPOCHS = {"imagenet1k": 2_500}
OTHER_EPOCHS = 500

SEEDS = (0, 1, 2, 3, 4)
#: A training takes from minutes to an hour.
TRAINED_SEEDS = (0, 1, 2)

#: Retrieval draws its training images anew for fewer seeds: a choice on 10,000 images takes long.
RETRIEVAL_SEEDS = (0, 1, 2)
TRAINED_RETRIEVAL_SEEDS = (0,)
RETRIEVAL_PAIRS: tuple[int | Literal["all"], ...] = (1_000, 5_000, 10_000, "all")

#: Everything that is not in the test split, as the paper trains: validation images included.
TRAIN_SPLITS = ("train", "restval", "val")

#: Five captions of every image, as the paper tests.
CAPTIONS = 5

SHOTS = (1, 2, 4, 8, 16)
LEARNERS = (
    "class-means", "ridge-probe", "logistic-probe", "tip-adapter", "tip-adapter-f", "lp++", "zs-lp",
    "clap", "cross-modal",
)  # fmt: skip
#: Learns from prototypes as shots, and does nothing without them.
NEEDS_PROTOTYPES = ("cross-modal",)
#: The paper's own, which maps names into the images' space, with no alignment before it.
OWN_LEARNERS = ("paper-few-shot",)
MEAN_OF = (1, 3, 5, 10, 50)


def paper_runs(store: FeatureStore, *, limit: int | None = None) -> list[Run]:
    """Return the runs whose sets the store holds; none where it answers no experiment.

    Parameters
    ----------
    store : FeatureStore
    limit : int, optional
        Images kept of every set; numbers of pairs that are then missing are left out.

    See Also
    --------
    bench.suites.paper.lacking : what the store lacks.
    """
    have = Inventory(store)
    runs = [
        *_zero_shot(have),
        *_retrieval(have, limit),
        *_few_shot(have),
        *_neighbours(have),
        *_modality_gap(have),
        *_cosine_head(have),
    ]
    return [replace(run, limit=limit) for run in dict.fromkeys(runs)]


def _run(fit: Fit, **fields: Any) -> Run:
    settings: dict[str, Any] = {
        "suite": SUITE, "source": "none", "n_pairs": 0, "seed": 0, "method": IDENTITY,
        "eval": "all-names", "train_splits": TRAIN_SPLITS,
    }  # fmt: skip
    return Run(**settings | fit.fields() | fields)


def _without_head(fit: Fit) -> Fit:
    """Return a fit whose runs do not name a head: they are the same for every head."""
    return Fit(fit.image, fit.text)


def _head_texts(have: Inventory, fit: Fit) -> dict[str, Any]:
    """Return the fields that say what the head's classes are trained as."""
    if fit.head_name is None:
        return {}
    wanted = TRAINED_AS.get(fit.head_name.key.dataset, LEMMAS)
    return have.texts(fit.head_name, wanted, "head_")


def _trained(fit: Fit) -> dict[str, Any]:
    """Return the fields that a training by the paper's schedule has beside its method."""
    assert fit.head is not None
    return {"epochs": EPOCHS.get(fit.head.key.dataset, OTHER_EPOCHS)}


def _where(have: Inventory, dataset: str, fit: Fit) -> str:
    return "split" if "test" in have.splits(fit.image) and dataset != HAM else "all-names"


def _zero_shot(have: Inventory) -> Iterator[Run]:
    """Weights alone beside the controls and ConSE; one pair a class more; CLIP's own pairs."""
    trained: list[Run] = []
    for dataset in (*NINE, HAM):
        for fit in have.with_heads(dataset, "class_name"):
            assert fit.text is not None
            where = _where(have, dataset, fit)
            tested = have.texts(fit.text, TESTED_BY)
            base = _run(
                fit, task="zero_shot", eval=where, source="head", method="conse", **tested,
                **_head_texts(have, fit),
            )  # fmt: skip
            yield base
            trained += [
                replace(base, method=method, seed=seed, **_trained(fit))
                for method in TRAINED
                for seed in TRAINED_SEEDS
            ]
            for method in (*CLOSED, *METHODS):
                yield replace(base, method=method)
                for control in CONTROLS:
                    for seed in SEEDS:
                        yield replace(base, method=method, source=control, seed=seed)
            if where == "split" and have.splits(fit.image) & set(TRAIN_SPLITS):
                yield from _one_pair_a_class(have, fit, base)
        for fit in have.pairs(dataset, "class_name"):
            assert fit.text is not None
            tested = have.texts(fit.text, TESTED_BY)
            yield _run(fit, task="zero_shot", eval=_where(have, dataset, fit), **tested)
    # One training serves all datasets that follow each other; see `bench.fits.fit_run`.
    yield from sorted(
        trained, key=lambda run: (run.head_set, run.head_name_set, run.method, run.seed)
    )


def _one_pair_a_class(have: Inventory, fit: Fit, base: Run) -> Iterator[Run]:
    """One training image of every class with a caption, with the head's rows and without."""
    assert fit.text is not None
    bare = _run(
        _without_head(fit), task="zero_shot", eval="split", method="ridge", pairs_per_class=1,
        variants=base.variants, templates=base.templates,
    )  # fmt: skip
    for methods, seeds, more in (
        (TRAINED, TRAINED_SEEDS, _trained(fit)),
        ((*CLOSED, *METHODS), SEEDS, {}),
    ):
        for seed in seeds:
            for method in methods:
                one: dict[str, Any] = {
                    "method": method, "seed": seed, "pairs_per_class": 1,
                    **have.texts(fit.text, PAIRED_WITH, "pair_"), **more,
                }  # fmt: skip
                yield replace(base, **one)
                yield replace(bare, **one)
                if method in IN_TWO_STAGES:
                    yield replace(base, **one, sequential=True)


def _retrieval(have: Inventory, limit: int | None) -> Iterator[Run]:
    """Images and captions with 0 to all training images, with and without weights."""
    options = Retrieval(captions=CAPTIONS)
    for dataset in RETRIEVAL:
        for fit in have.with_heads(dataset, "caption"):
            items = have.store.view(str(fit.image.key)).items
            splits = items.head(limit or items.height)["split"]
            n_train = int(splits.is_in(TRAIN_SPLITS).sum())
            if not n_train:
                continue
            base = _run(fit, task="retrieval", eval="split", source="head", method="ridge",
                        options=options, **_head_texts(have, fit))  # fmt: skip
            bare = _run(_without_head(fit), task="retrieval", eval="split", options=options,
                        method="ridge", n_pairs="all")  # fmt: skip
            yield replace(base, method="conse")
            yield base
            for control in CONTROLS:
                for seed in RETRIEVAL_SEEDS:
                    yield replace(base, method="ridge", source=control, seed=seed)
            for method, seeds, more in (
                *((method, TRAINED_RETRIEVAL_SEEDS, _trained(fit)) for method in TRAINED),
                *((method, RETRIEVAL_SEEDS, {}) for method in (*CLOSED, "ridge")),
            ):
                for seed in seeds if method in TRAINED else (0,):
                    yield replace(base, method=method, seed=seed, **more)
                for k in RETRIEVAL_PAIRS:
                    if k != "all" and k > n_train:
                        continue
                    # All training images are the same whatever the seed; a training is not.
                    for seed in (0,) if k == "all" and method not in TRAINED else seeds:
                        some: dict[str, Any] = {"method": method, "n_pairs": k, "seed": seed} | more
                        yield replace(base, **some)
                        yield replace(bare, **some)
                        if k == RETRIEVAL_PAIRS[0] and method == "ridge":
                            for control in CONTROLS:
                                yield replace(base, source=control, **some)
        for fit in have.pairs(dataset, "caption"):
            yield _run(fit, task="retrieval", eval="split", options=options)


def _few_shot(have: Inventory) -> Iterator[Run]:
    """1 to 16 images a class, with and without the names as prototypes; the paper's own learner."""
    for dataset in NINE:
        for fit in have.with_heads(dataset, "class_name"):
            assert fit.text is not None
            splits = have.splits(fit.image)
            if "test" not in splits or not splits & set(TRAIN_SPLITS):
                continue
            texts = have.texts(fit.text, TESTED_BY) | _head_texts(have, fit)
            base = _run(fit, task="few_shot", eval="split", source="head", method="ridge", **texts)
            alone = _run(
                fit, task="few_shot", eval="split", options=FewShot(prototypes="none"), **texts,
                **have.texts(fit.text, (PLAIN,), "pair_"),
            )  # fmt: skip
            for shots in SHOTS:
                for learner in LEARNERS:
                    for prototypes in (False, True):
                        if learner in NEEDS_PROTOTYPES and not prototypes:
                            continue
                        options: Options = FewShot(
                            shots=shots, learner=learner, prototypes=prototypes
                        )
                        for seed in SEEDS:
                            yield replace(base, options=options, seed=seed)
                for learner in OWN_LEARNERS:
                    own = FewShot(shots=shots, learner=learner, prototypes="none")
                    for seed in TRAINED_SEEDS:
                        yield replace(alone, options=own, seed=seed)


def _neighbours(have: Inventory) -> Iterator[Run]:
    """Mutual k-NN of head rows and names, and of means of images and names: plain names."""
    for head, names in have.heads_and_names():
        image = have.images_of_space(head.commit.space_id)
        if image is not None:
            k = _neighbour_counts(have.n_classes(names))
            if k:
                fit = Fit(image, None, head, names)
                # A larger head is cut down to the classes of ImageNet-1k, as in the paper's code.
                wordnet = names.key.dataset.startswith("imagenet")
                within = OWN_IMAGES if wordnet and names.key.dataset != OWN_IMAGES else ""
                options = Neighbours(of="head", k=k, within=within)
                yield _run(fit, task="neighbours", options=options, **_head_texts(have, fit))
    for dataset in (OWN_IMAGES, *NINE):
        for image in have.of(dataset, "image"):
            for text in have.of(dataset, "class_name"):
                k = _neighbour_counts(have.n_classes(image))
                plain = have.texts(text, (PLAIN,))
                for n in MEAN_OF if k else ():
                    options = Neighbours(of="class-means", per_class=n, k=k, rows="raw")
                    for seed in SEEDS:
                        fit = Fit(image, text)
                        yield _run(fit, task="neighbours", options=options, seed=seed, **plain)


def _neighbour_counts(n_classes: int) -> tuple[int, ...]:
    """Return the paper's numbers of neighbours, as far as so many classes have them."""
    return tuple(k for k in (3, 5, 10) if k < n_classes)


def _modality_gap(have: Inventory) -> Iterator[Run]:
    """Whether head rows and images can be told apart."""
    for head, names in have.heads_and_names():
        image = have.images_of_space(head.commit.space_id)
        if image is not None:
            fit = Fit(image, None, head, names)
            yield _run(
                fit, task="modality_gap", options=ModalityGap(between="head-images"),
                **_head_texts(have, fit),
            )  # fmt: skip


def _cosine_head(have: Inventory) -> Iterator[Run]:
    """Score the head as it is, and by cosine, on images of its own classes."""
    for image in have.of(OWN_IMAGES, "image"):
        for head in have.of(OWN_IMAGES, "head_weight"):
            for names in have.of(OWN_IMAGES, "class_name"):
                if head.commit.space_id == image.commit.space_id:
                    fit = Fit(image, names, head, names)
                    plain = have.texts(names, (PLAIN,)) | _head_texts(have, fit)
                    yield _run(fit, task="cosine_head", **plain)
                    break
