"""The suite `paper`: the protocol of the paper, and what a store lacks for it.

Mendez, Confalonieri and Díaz-Rodríguez, *Supervised Classification Heads as Semantic Prototypes*,
ICML 2026 (arXiv 2605.22484). `EXPERIMENTS` is the one list of what the paper shows: which runs
answer it, which sets they read, and why some is not run. `paper_runs`, `lacking`, the dry run and
the table of docs/reproduce.md follow from it. ``published`` holds the paper's numbers.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from bench.options import FewShot, ModalityGap, Neighbours, Options, Retrieval
from bench.runs import IDENTITY, Run
from featstore.command_line import count
from featstore.store.store import FeatureStore, SetInfo
from fitters.from_store import Fit, Inventory, Text, pinned

#: The nine datasets of the paper's zero-shot figure.
NINE = (
    "resisc45", "eurosat", "flowers102", "pets", "food101", "cifar10", "cifar100", "dtd",
    "places365",
)  # fmt: skip

#: Scored by balanced accuracy, on all images.
HAM = "ham10000"

RETRIEVAL = ("flickr30k", "coco")

#: Labelled images of the classes that a head knows, for the cosine classifier.
OWN_IMAGES = "imagenet1k"

#: Every dataset of the paper that has images.
_DATASETS = (OWN_IMAGES, *NINE, HAM, *RETRIEVAL)

PLAIN: Text = ("name", "none")

#: What the classes of a label set are trained as: a synset by all its lemmas in one text, but for
#: ImageNet-1k, whose names in the paper are single ones, and species by their common names.
TRAINED_AS: dict[str, tuple[Text, ...]] = {
    "imagenet1k": (PLAIN,),
    "inat21": (PLAIN,),
}
LEMMAS: tuple[Text, ...] = (("lemmas", "none"), PLAIN)

#: What a class is tested by, the first that its set has.
TESTED_BY: tuple[Text, ...] = (("paper", "paper"), ("name", "photo"), PLAIN)

#: What one pair a class is paired with: a caption, of a user's file, or else the plain name.
PAIRED_WITH: tuple[Text, ...] = (("description", "d000"), PLAIN)


#: The models of the zero-shot figure, by the label set of their head.
BEIT = {
    "imagenet1k": "timm:beit_base_patch16_224.in22k_ft_in22k_in1k",
    "imagenet22k": "timm:beit_base_patch16_224.in22k_ft_in22k",
}

#: The five models of the cosine classifier, as the authors' code names them (config/config.py).
COSINE_HEADS = (
    BEIT["imagenet1k"],
    "timm:caformer_s18.sail_in22k_ft_in1k",
    "timm:convformer_s18.sail_in22k_ft_in1k",
    "timm:convnext_base.fb_in22k_ft_in1k",
    "timm:tiny_vit_21m_224.dist_in22k_ft_in1k",
)

#: The two models whose heads know iNaturalist's species. timm has their architectures, not their
#: tags: the tag here is one of the same architecture that takes pictures of the same size, and the
#: weights are a file. Whether they normalise pictures alike was not verified.
INAT = {
    "timm:convnext_large_mlp.clip_laion2b_augreg_ft_in1k_384":
        "WEIGHTS/convnext_large_mlp.laion2b_ft_augreg_inat21/model.safetensors",
    "timm:vit_large_patch14_clip_336.laion2b_ft_in12k_in1k":
        "WEIGHTS/vit_large_patch14_clip_336.laion2b_ft_augreg_inat21/model.safetensors",
}  # fmt: skip
INAT_LABELS = "inat21"

#: One of the six text encoders in the authors' code. No source says which of them a figure shows.
TEXT = "st:all-roberta-large-v1"
CLIP = "oc:ViT-B-32-quickgelu/openai"
LARGE_CLIP = "oc:ViT-L-14-336-quickgelu/openai"

#: Encoders of which no source says that the numbers are of them.
OUR_CHOICE = (TEXT,)

#: Options of manifests that the experiments need, by dataset.
OPTIONS = {
    # The training set is all that is not in Karpathy's test list; five captions of every image.
    "flickr30k": ("train=paper", "captions=first5"),
    "coco": ("captions=first5",),
    # Ten images a class to train on, forty to test.
    "places365": ("few_shot=paper",),
}


@dataclass(frozen=True)
class Lacking:
    """Sets of one dataset and kind that the store lacks: one command makes them.

    Attributes
    ----------
    dataset, kind, encoders
        Images are decoded once for all encoders.
    experiments : tuple of str
        What they are for.
    command, manifest : str
        What makes them, and what builds the manifest before.
    note : str
        What no source specifies; "" where everything is specified.
    """

    dataset: str
    kind: str
    encoders: tuple[str, ...]
    experiments: tuple[str, ...]
    command: str
    manifest: str
    note: str


def lacking(store: FeatureStore, place: str | None = None) -> list[Lacking]:
    """Return what the paper used and the store does not hold, in the order of the experiments.

    A store with other encoders answers the same questions with those: what is listed is what the
    published numbers are of.

    Parameters
    ----------
    store : FeatureStore
    place : str, optional
        What commands call the store. None: its folder; a remote store's sets are made in one that
        is called STORE, then pushed.
    """
    have = Inventory(store)
    if place is None:
        place = str(store.root) if store.address == str(store.root) else "STORE"
    wanted: dict[tuple[str, str], dict[str, list[str]]] = {}
    for experiment in EXPERIMENTS:
        for dataset, kind, encoder in experiment.reads:
            own = wanted.setdefault((dataset, kind), {})
            own.setdefault(encoder, []).append(experiment.name)
    return [
        _command(dataset, kind, left, place)
        for (dataset, kind), encoders in wanted.items()
        if (
            left := {
                encoder: experiments
                for encoder, experiments in encoders.items()
                if not any(  # whatever weights follow its name
                    f"{info.encoder}.".startswith((f"{encoder}.", f"{encoder}:", f"{encoder}/"))
                    for info in have.of(dataset, kind)
                )
            }
        )
    ]


def _command(dataset: str, kind: str, encoders: dict[str, list[str]], place: str) -> Lacking:
    folder, manifest = _manifest(dataset, kind)
    words = ["headstock", "extract", folder, "--kind", kind]
    for encoder in encoders:
        words += ["--encoder", encoder]
    if any(encoder in INAT for encoder in encoders):
        for encoder in encoders:
            words += ["--weights", INAT.get(encoder, "-")]
        if kind == "head_weight":
            words += ["-s", f"label_set={dataset}"]
    chosen = [encoder for encoder in encoders if encoder in OUR_CHOICE]
    return Lacking(
        dataset=dataset,
        kind=kind,
        encoders=tuple(encoders),
        experiments=tuple(dict.fromkeys(e for own in encoders.values() for e in own)),
        command=shlex.join([*words, "--store", place]),
        manifest=manifest,
        note="".join(f"{encoder} is our choice" for encoder in chosen),
    )


def _manifest(dataset: str, kind: str) -> tuple[str, str]:
    """Return the folder of a manifest, and the command that builds it."""
    words = ["headstock", "data", "build", dataset]
    folder = f"manifests/{dataset}"
    if dataset == OWN_IMAGES and kind == "image":
        # Beside the label set, which needs no copy of the images.
        folder = f"{folder}-val"
        words += ["--root", f"DATA/{dataset}", "--split", "val"]
    elif dataset == INAT_LABELS:
        words += ["--root", f"DATA/{dataset}", "-s", "classes_only"]
    elif dataset not in BEIT:
        words += ["--root", f"DATA/{dataset}"]
    for option in OPTIONS.get(dataset, ()):
        words += ["-s", option]
    return folder, shlex.join([*words, "-o", folder])


SUITE = "paper"

#: The paper's own methods that are trained by gradient descent, and the one that is not.
TRAINED = ("paper-mlp", "paper-text2concepts")
CLOSED = ("paper-cca",)
#: Of which the paper has a second mode: the head first, then the images alone.
IN_TWO_STAGES = ("paper-mlp",)
#: Ours beside them, and ConSE, which fits nothing.
METHODS = ("ridge", "procrustes")
#: Rows that carry no class, of every method.
CONTROLS = ("random-cov", "shuffled")
#: How the authors' code changes the rows of a head of ImageNet-1k by images of its classes.
MOVED_ROWS: tuple[Literal["mean", "attention", "linear"], ...] = ("mean", "attention", "linear")

#: Epochs of a trained method go by the classes of the images' own head, with its rows or without.
EPOCHS = {"imagenet1k": 2_500}
OTHER_EPOCHS = 500
BATCH = 512

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

#: Whose pairs are also fitted to be scored on the names of the nine.
CAPTIONED = "flickr30k"

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


def paper_runs(
    store: FeatureStore,
    *,
    limit: int | None = None,
    methods: Sequence[str] = (),
    sources: Sequence[str] = (),
) -> list[Run]:
    """Return the runs whose sets the store holds; none where it answers no experiment.

    Parameters
    ----------
    store : FeatureStore
    limit : int, optional
        Images kept of every set; numbers of pairs that are then missing are left out.
    methods, sources : sequence of str, optional
        Only the runs of these methods, and of these sources.

    See Also
    --------
    bench.suites.paper : what the store lacks.
    """
    have = Inventory(store, limit)
    runs = (run for one in EXPERIMENTS if one.plan is not None for run in one.plan(have))
    return [
        run if limit is None else run.changed(limit=limit)
        for run in sorted(dict.fromkeys(runs), key=_shared_training)
        if (not methods or run.fit.method in methods)
        and (not sources or run.protocol.source in sources)
    ]


def _shared_training(run: Run) -> tuple[Any, ...]:
    """Return a key by which trainings that no scored image enters come last, equal ones together.

    One training then serves all datasets; see `bench.fits.fit_run`.
    """
    data, own = run.data, run.protocol
    if run.fit.method not in TRAINED or (own.has_pairs and not data.pairs_from):
        return (0,)
    sets = data.head_set, data.head_name_set, data.pairs_from if own.has_pairs else ()
    rows = own.source, own.head_rows, str(own.n_pairs), own.pairs_per_class
    return (1, *sets, run.fit.method, *rows, run.fit.training.epochs, run.seed)


def _run(fit: Fit, **fields: Any) -> Run:
    return Run.of(suite=SUITE, train_splits=TRAIN_SPLITS, **fit.fields(), **fields)


def _head_texts(have: Inventory, fit: Fit) -> dict[str, Any]:
    """Return the fields that say what the head's classes are trained as."""
    if fit.head_name is None:
        return {}
    return have.texts(fit.head_name, TRAINED_AS.get(fit.head_name.key.dataset, LEMMAS), "head_")


def _methods(
    fit: Fit, trained: tuple[int, ...], others: tuple[int, ...]
) -> Iterator[tuple[dict[str, Any], tuple[int, ...]]]:
    """Yield the fields of every method, of a training the paper's schedule, and its seeds."""
    assert fit.head is not None
    epochs = EPOCHS.get(fit.head.key.dataset, OTHER_EPOCHS)
    for method in TRAINED:
        yield {"method": method, "epochs": epochs}, trained
    for method in (*CLOSED, *METHODS):
        yield {"method": method}, others


def _whatever_seed(own: dict[str, Any], seeds: Sequence[int]) -> Sequence[int]:
    """Return the seeds of what is the same for every seed, unless it is trained."""
    return seeds if own["method"] in TRAINED else seeds[:1]


def _head_alone(base: Run, own: dict[str, Any], seeds: Sequence[int]) -> Iterator[Run]:
    """Yield the runs of a method on the head alone, and on its controls."""
    yield from (base.changed(**own, seed=seed) for seed in _whatever_seed(own, seeds))
    for control in CONTROLS:
        yield from (base.changed(**own, seed=seed, source=control) for seed in seeds)


def _beside_pairs(have: Inventory, both: Run, n: int, *, controls: bool) -> Iterator[Run]:
    """Yield a run on real pairs and the head, on its controls, and on the pairs alone.

    The head's rows make more steps of an epoch: a training on the `n` rows of the pairs alone is
    also run with as many steps.
    """
    bare = _without_head(both)
    yield both
    yield bare
    if both.fit.training.epochs is not None:
        more = n + have.n_classes(have.store.info(both.data.head_set))
        steps = both.fit.training.epochs * -(-more // BATCH)
        yield bare.changed(epochs=-(-steps // -(-n // BATCH)))
    for control in CONTROLS if controls else ():
        yield both.changed(source=control)


def _without_head(base: Run) -> Run:
    """Return a run on real pairs alone; it names no head, so that it is the same for every head."""
    sets = ("head_set", "head_revision", "head_name_set", "head_name_revision")
    return base.changed(
        source="none", head_variants=(), head_templates=(), **dict.fromkeys(sets, "")
    )


def _heads(
    have: Inventory, datasets: Sequence[str], kind: str = "class_name"
) -> Iterator[tuple[Fit, SetInfo, Run]]:
    """Yield every head and text encoder of the store on datasets, with the texts and ConSE's run.

    On class names it is of zero_shot, on captions of retrieval.
    """
    for dataset in datasets:
        for fit in have.with_heads(dataset, kind):
            assert fit.text is not None
            base = {"source": "head", "method": "conse", **_head_texts(have, fit)}
            if kind == "class_name":
                own: dict[str, Any] = have.texts(fit.text, TESTED_BY)
                run = _run(fit, task="zero_shot", eval=_where(have, fit), **own, **base)
                yield fit, fit.text, run
            elif have.n_train(fit.image, TRAIN_SPLITS):
                own = {"options": Retrieval(captions=CAPTIONS)}
                run = _run(fit, task="retrieval", eval="split", **own, **base)
                yield fit, fit.text, run


def _where(have: Inventory, fit: Fit) -> str:
    tested = "test" in have.splits(fit.image) and fit.image.key.dataset != HAM
    return "split" if tested else "all-names"


def _zero_shot(have: Inventory, datasets: Sequence[str] = NINE) -> Iterator[Run]:
    """Weights alone beside the controls and ConSE; CLIP's own pairs."""
    for fit, _, base in _heads(have, datasets):
        yield base
        for own, seeds in _methods(fit, TRAINED_SEEDS, SEEDS):
            yield from _head_alone(base, own, seeds)
    for fit in (pair for dataset in datasets for pair in have.pairs(dataset, "class_name")):
        assert fit.text is not None
        yield _run(fit, task="zero_shot", eval=_where(have, fit), **have.texts(fit.text, TESTED_BY))


def _with_images(have: Inventory) -> Iterator[tuple[Fit, SetInfo, Run]]:
    """Yield what `_heads` does on those of the nine that have images to train on."""
    for fit, texts, base in _heads(have, NINE):
        if base.protocol.eval == "split" and have.n_train(fit.image, TRAIN_SPLITS):
            yield fit, texts, base


def _one_pair_a_class(have: Inventory) -> Iterator[Run]:
    """One training image of every class with a caption, with the head's rows and without."""
    for fit, texts, base in _with_images(have):
        pairs = base.changed(pairs_per_class=1, **have.texts(texts, PAIRED_WITH, "pair_"))
        for own, seeds in _methods(fit, TRAINED_SEEDS, SEEDS):
            for seed in seeds:
                both = pairs.changed(**own, seed=seed)
                yield from _beside_pairs(have, both, have.n_classes(fit.image), controls=True)
                if own["method"] in IN_TWO_STAGES:
                    yield both.changed(sequential=True)


def _retrieval(have: Inventory) -> Iterator[Run]:
    """Images and captions with 0 to all training images, with and without weights."""
    for fit, captions, base in _heads(have, RETRIEVAL, "caption"):
        yield base
        yield from _by_pairs(have, fit, base, fit.image, captions)
    for fit in (pair for dataset in RETRIEVAL for pair in have.pairs(dataset, "caption")):
        yield _run(fit, task="retrieval", eval="split", options=Retrieval(captions=CAPTIONS))


def _by_pairs(
    have: Inventory, fit: Fit, base: Run, images: SetInfo, captions: SetInfo
) -> Iterator[Run]:
    """Yield the runs of every method with and without weights, for every number of real pairs."""
    n_train = have.n_train(images, TRAIN_SPLITS)
    n_captions, n_images = (len(have.store.view(str(info.key))) for info in (captions, images))
    for own, seeds in _methods(fit, TRAINED_RETRIEVAL_SEEDS, RETRIEVAL_SEEDS):
        yield from _head_alone(base, own, seeds)
        for k in RETRIEVAL_PAIRS:
            if k != "all" and k > n_train:
                continue
            n = round((n_train if k == "all" else k) * n_captions / n_images)
            for seed in _whatever_seed(own, seeds) if k == "all" else seeds:
                both = base.changed(**own, n_pairs=k, seed=seed)
                yield from _beside_pairs(have, both, n, controls=k == RETRIEVAL_PAIRS[0])


def _caption_pairs(have: Inventory) -> Iterator[Run]:
    """Captioned images of one dataset as real pairs, scored on the names of the others."""
    for fit, texts, base in _heads(have, NINE):
        images = have.in_space("image", fit.image.commit.space_id, CAPTIONED)
        captions = have.in_space("caption", texts.commit.space_id, CAPTIONED)
        if images is not None and captions is not None and have.n_train(images, TRAIN_SPLITS):
            elsewhere = base.changed(pairs_from=(pinned(images), pinned(captions)))
            yield from _by_pairs(have, fit, elsewhere, images, captions)


def _of_own_images(have: Inventory) -> Iterator[tuple[Fit, Run]]:
    """Yield heads on every dataset, with a run beside images of their own classes."""
    for fit, _, base in (*_heads(have, NINE), *_heads(have, RETRIEVAL, "caption")):
        images = have.in_space("image", fit.image.commit.space_id, OWN_IMAGES)
        names = fit.head_name
        if images is not None and names is not None and names.key.dataset == OWN_IMAGES:
            texts = have.texts(names, TRAINED_AS[OWN_IMAGES], "pair_")
            yield fit, base.changed(pairs_from=(pinned(images), pinned(names)), **texts)


def _equal_budget(have: Inventory) -> Iterator[Run]:
    """As many pairs as the head has rows: means of images of its classes, with their names."""
    for fit, base in _of_own_images(have):
        for own, seeds in _methods(fit, TRAINED_SEEDS, SEEDS):
            yield from (base.changed(**own, seed=seed) for seed in _whatever_seed(own, seeds))
            for n in MEAN_OF:
                bare = _without_head(base.changed(**own, pairs_per_class=n))
                yield from (bare.changed(seed=seed) for seed in seeds)


def _moved_rows(have: Inventory) -> Iterator[Run]:
    """Rows of a head moved by images of its classes before they are fitted."""
    for fit, base in _of_own_images(have):
        for own, seeds in _methods(fit, TRAINED_SEEDS, SEEDS[:1]):
            for how, seed in product(MOVED_ROWS, seeds):
                yield base.changed(**own, head_rows=how, seed=seed)


def _few_shot(have: Inventory) -> Iterator[Run]:
    """1 to 16 images a class, with and without the names as prototypes; the paper's own learner."""
    for _, texts, named in _with_images(have):
        base = named.changed(task="few_shot", method="ridge")
        alone = named.changed(
            task="few_shot", method=IDENTITY, source="none", options=FewShot(prototypes="none"),
            **have.texts(texts, (PLAIN,), "pair_"),
        )  # fmt: skip
        for shots in SHOTS:
            for learner in LEARNERS:
                for prototypes in ("none", "names"):
                    if learner in NEEDS_PROTOTYPES and prototypes == "none":
                        continue
                    options: Options = FewShot(shots=shots, learner=learner, prototypes=prototypes)
                    for seed in SEEDS:
                        yield base.changed(options=options, seed=seed)
            for learner in OWN_LEARNERS:
                own = FewShot(shots=shots, learner=learner, prototypes="none")
                for seed in TRAINED_SEEDS:
                    yield alone.changed(options=own, seed=seed)


def _neighbours(have: Inventory) -> Iterator[Run]:
    """Mutual k-NN of head rows and the texts they are trained as, of class means and names."""
    for head, names in have.heads_and_names():
        image = have.in_space("image", head.commit.space_id, *_DATASETS)
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
    """Whether head rows and images can be separated."""
    for head, names in have.heads_and_names():
        image = have.in_space("image", head.commit.space_id, *_DATASETS)
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


@dataclass(frozen=True)
class Experiment:
    """What the paper, its poster, page or code show, and what is run for it.

    Attributes
    ----------
    name, where : str
        As the published numbers have it, and where it is shown.
    runs : str
        What is run for it; without a `plan`, why nothing is.
    plan : callable, optional
        Its runs on the sets of an inventory.
    reads : tuple of (dataset, kind, encoder)
        The sets that the published numbers are of.
    """

    name: str
    where: str
    runs: str
    plan: Callable[[Inventory], Iterator[Run]] | None = None
    reads: tuple[tuple[str, str, str], ...] = ()


def outline(missing: Iterable[Lacking]) -> list[tuple[Experiment, str]]:
    """Return every experiment in order, and how it stands with what a store lacks."""
    lost = Counter(name for one in missing for name in one.experiments)
    found = []
    for one in EXPERIMENTS:
        state = f"lacks {count(lost[one.name], 'kind')} of sets" if lost[one.name] else "all there"
        found.append((one, state if one.plan is not None else f"not run: {one.runs}"))
    return found


def _sets(datasets: Iterable[str], **encoders: Iterable[str]) -> tuple[tuple[str, str, str], ...]:
    return tuple((d, kind, one) for d in datasets for kind in encoders for one in encoders[kind])


_HEADS = (
    *_sets(["imagenet1k"], head_weight=[BEIT["imagenet1k"]], class_name=[TEXT]),
    *_sets(["imagenet22k"], head_weight=[BEIT["imagenet22k"]], class_name=[TEXT]),
    *_sets([INAT_LABELS], head_weight=INAT, class_name=[TEXT]),
)
_IMAGES = (*BEIT.values(), *INAT)
_NINE = (*_HEADS, *_sets(NINE, image=(*_IMAGES, CLIP), class_name=(TEXT, CLIP)))
_CAPTIONS = {"image": (*BEIT.values(), CLIP), "caption": (TEXT, CLIP)}
_PAIRS = _sets(RETRIEVAL, **_CAPTIONS)
_OWN = _sets([OWN_IMAGES], image=(*COSINE_HEADS, BEIT["imagenet22k"]))

#: What the sources show, in the order of the poster; what only the code or the paper has, behind.
EXPERIMENTS = (
    Experiment(
        "cosine head", "poster, cosine and linear classifier", "`cosine_head`", _cosine_head,
        (*_sets([OWN_IMAGES], head_weight=COSINE_HEADS, class_name=[TEXT]), *_OWN),
    ),
    Experiment(
        "mutual k-NN", "page and poster, mutual nearest neighbours; code, CKA",
        "`neighbours` of head rows and their texts, and of class means and names", _neighbours,
        (*_HEADS, *_OWN),
    ),
    Experiment(
        "zero-shot", "page and poster, zero-shot accuracy, source of the head; paper, Table 12",
        "`zero_shot` on every head, by every text encoder of the store; controls, ConSE, CLIP's "
        "own pair", _zero_shot, _NINE,
    ),
    Experiment(
        "retrieval", "page and poster, Flickr30K, COCO",
        "`retrieval` with 0 to all training images, with and without head; 1,000 are the budget of "
        "ImageNet-1k's rows", _retrieval, (*_HEADS, *_PAIRS),
    ),
    Experiment(
        "one pair a class", "poster, one captioned image a class",
        "`zero_shot`, `pairs_per_class` 1, with and without head, joint and in two stages",
        _one_pair_a_class, _NINE,
    ),
    Experiment(
        "modality gap", "poster, separation of images and weights", "`modality_gap`",
        _modality_gap, (*_HEADS, *_OWN),
    ),
    Experiment(
        "equal budget", "page and poster, weights and images on equal budget",
        "`zero_shot` and `retrieval` by means of 1 to 50 images of the head's classes, or its rows",
        _equal_budget,
        (*_NINE, *_PAIRS, *_OWN),
    ),
    Experiment(
        "caption pairs", "paper, Figure 6",
        "`zero_shot` by pairs of Flickr30k, with and without head", _caption_pairs,
        (*_NINE, *_sets([CAPTIONED], **_CAPTIONS)),
    ),
    Experiment(
        "HAM10000", "paper, balanced accuracy", "`zero_shot` on all images",
        lambda have: _zero_shot(have, (HAM,)),
        (*_HEADS, *_sets([HAM], image=(*_IMAGES, CLIP, LARGE_CLIP),
                         class_name=(TEXT, CLIP, LARGE_CLIP))),
    ),
    Experiment(
        "few-shot", "code, few-shot classification",
        "`few_shot`, 1 to 16 shots, `paper-few-shot` beside nine others", _few_shot, _NINE,
    ),
    Experiment(
        "weight preprocessing", "code, --weight_preprocess",
        "`zero_shot` and `retrieval` by `-s head_rows=` moved by ImageNet's validation images",
        _moved_rows, (*_NINE, *_PAIRS, *_OWN),
    ),
    Experiment("diagrams", "page and poster, the method drawn", "no number"),
    Experiment(
        "UMAP", "poster, images and weights in a plane",
        "no number; the modality gap measures it",
    ),
    Experiment(
        "heads of several datasets", "page and poster, future work",
        "no source names such weights",
    ),
    Experiment(
        "more names", "code, synonyms and hypernyms",
        "no command of the code asks for them",
    ),
    Experiment("MNIST", "code, classification", "no head names digits"),
)  # fmt: skip
