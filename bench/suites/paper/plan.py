"""The runs of the paper suite: each is planned as soon as its sets are in the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from bench.errors import ProtocolError
from bench.options import FewShot, ModalityGap, Neighbours, Options, Retrieval
from bench.runs import IDENTITY, Run
from bench.suites.paper.inventory import HAM, NINE, OWN_IMAGES, RETRIEVAL, Fit, Inventory
from featstore.store.store import FeatureStore

SUITE = "paper"

#: What is fitted: the paper's own map is a network; these are ours, and ConSE beside them.
METHODS = ("ridge", "procrustes")
CONTROLS = ("random", "shuffled")

SEEDS = (0, 1, 2, 3, 4)

#: Retrieval draws its training images anew for fewer seeds: a choice on 10,000 images takes long.
RETRIEVAL_SEEDS = (0, 1, 2)
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
    """Return the runs whose sets the store holds.

    Parameters
    ----------
    store : FeatureStore
    limit : int, optional
        Images kept of every set; numbers of pairs that are then missing are left out.

    Raises
    ------
    ProtocolError
        If the store answers no experiment; see `bench.suites.paper.lacking`.
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
    if not runs:
        msg = (
            f"{store.address} holds no sets of the paper's experiments that fit together. "
            "`bench run --suite paper --dry-run` lists what is lacking, with the commands."
        )
        raise ProtocolError(msg)
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


def _zero_shot(have: Inventory) -> Iterator[Run]:
    """Weights alone beside the controls and ConSE; one pair a class more; CLIP's own pairs."""
    for dataset in (*NINE, HAM):
        for fit in have.with_heads(dataset, "class_name"):
            splits = have.splits(fit.image)
            where = "split" if "test" in splits and dataset != HAM else "all-names"
            base = _run(fit, task="zero_shot", eval=where, source="head", method="conse")
            yield base
            for method in METHODS:
                yield replace(base, method=method)
                for control in CONTROLS:
                    for seed in SEEDS:
                        yield replace(base, method=method, source=control, seed=seed)
            if where != "split" or not splits & set(TRAIN_SPLITS):
                continue
            bare = _run(
                _without_head(fit), task="zero_shot", eval="split", method="ridge",
                pairs_per_class=1,
            )  # fmt: skip
            for seed in SEEDS:
                for method in METHODS:
                    one: dict[str, Any] = {
                        "method": method, "seed": seed, "pairs_per_class": 1,
                    }  # fmt: skip
                    yield replace(base, **one)
                    yield replace(bare, **one)
        for fit in have.pairs(dataset, "class_name"):
            where = "split" if "test" in have.splits(fit.image) and dataset != HAM else "all-names"
            yield _run(fit, task="zero_shot", eval=where)


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
                        options=options)  # fmt: skip
            bare = _run(_without_head(fit), task="retrieval", eval="split", options=options,
                        method="ridge", n_pairs="all")  # fmt: skip
            yield replace(base, method="conse")
            yield base
            for control in CONTROLS:
                for seed in RETRIEVAL_SEEDS:
                    yield replace(base, method="ridge", source=control, seed=seed)
            for k in RETRIEVAL_PAIRS:
                if k != "all" and k > n_train:
                    continue
                # All training images are the same whatever the seed.
                for seed in (0,) if k == "all" else RETRIEVAL_SEEDS:
                    some: dict[str, Any] = {"method": "ridge", "n_pairs": k, "seed": seed}
                    yield replace(base, **some)
                    yield replace(bare, **some)
                    if k == RETRIEVAL_PAIRS[0]:
                        for control in CONTROLS:
                            yield replace(base, source=control, **some)
        for fit in have.pairs(dataset, "caption"):
            yield _run(fit, task="retrieval", eval="split", options=options)


def _few_shot(have: Inventory) -> Iterator[Run]:
    """1 to 16 images a class, with and without the names as prototypes; the paper's own learner."""
    for dataset in NINE:
        for fit in have.with_heads(dataset, "class_name"):
            splits = have.splits(fit.image)
            if "test" not in splits or not splits & set(TRAIN_SPLITS):
                continue
            base = _run(fit, task="few_shot", eval="split", source="head", method="ridge")
            alone = _run(fit, task="few_shot", eval="split", options=FewShot(prototypes="none"))
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
                    for seed in SEEDS:
                        yield replace(alone, options=own, seed=seed)


def _neighbours(have: Inventory) -> Iterator[Run]:
    """Mutual k-NN of head rows and names, and of means of images and names."""
    for head, names in have.heads_and_names():
        image = have.images_of_space(head.commit.space_id)
        if image is not None:
            k = _neighbour_counts(have.n_classes(names))
            if k:
                fit = Fit(image, None, head, names)
                yield _run(fit, task="neighbours", options=Neighbours(of="head", k=k))
    for dataset in (OWN_IMAGES, *NINE):
        for image in have.of(dataset, "image"):
            for text in have.of(dataset, "class_name"):
                k = _neighbour_counts(have.n_classes(image))
                for n in MEAN_OF if k else ():
                    options = Neighbours(of="class-means", per_class=n, k=k)
                    for seed in SEEDS:
                        fit = Fit(image, text)
                        yield _run(fit, task="neighbours", options=options, seed=seed)


def _neighbour_counts(n_classes: int) -> tuple[int, ...]:
    """Return the paper's numbers of neighbours, as far as so many classes have them."""
    return tuple(k for k in (3, 5, 10) if k < n_classes)


def _modality_gap(have: Inventory) -> Iterator[Run]:
    """Whether head rows and images can be told apart."""
    for head, names in have.heads_and_names():
        image = have.images_of_space(head.commit.space_id)
        if image is not None:
            fit = Fit(image, None, head, names)
            yield _run(fit, task="modality_gap", options=ModalityGap(between="head-images"))


def _cosine_head(have: Inventory) -> Iterator[Run]:
    """Score the head as it is, and by cosine, on images of its own classes."""
    for image in have.of(OWN_IMAGES, "image"):
        for head in have.of(OWN_IMAGES, "head_weight"):
            for names in have.of(OWN_IMAGES, "class_name"):
                if head.commit.space_id == image.commit.space_id:
                    yield _run(Fit(image, names, head, names), task="cosine_head")
                    break
