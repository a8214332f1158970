"""The suite `paper`: the protocol of the paper, and what a store lacks for it.

Mendez, Confalonieri and Díaz-Rodríguez, *Supervised Classification Heads as Semantic Prototypes*,
ICML 2026 (arXiv 2605.22484). ``plan`` returns the runs whose sets are in the store, ``lacking``
what the store lacks with the commands that make it, ``published`` the paper's numbers.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.options import FewShot, ModalityGap, Neighbours, Options, Retrieval
from bench.runs import Run
from bench.suites.demo import set_fields
from featstore.store.store import FeatureStore, SetInfo

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

#: Label sets whose heads are recycled.
LABEL_SETS = ("imagenet1k", "imagenet22k", "imagenet21k_goog", "imagenet12k", "inat21")

#: A variant of a class's name, and the template around it.
Text = tuple[str, str]

PLAIN: Text = ("name", "none")

#: What the classes of a label set are trained as: a synset by all its lemmas in one text, but for
#: ImageNet-1k, whose names in the paper are single ones, and species by their common names.
TRAINED_AS: dict[str, tuple[Text, ...]] = {
    "imagenet1k": (PLAIN,),
    "inat21": (PLAIN,),
}
LEMMAS: tuple[Text, ...] = (("lemmas", "none"), PLAIN)

#: What a class is tested by, the first that its set has: the paper's name in the paper's prompt.
TESTED_BY: tuple[Text, ...] = (("paper", "paper"), ("name", "photo"), PLAIN)

#: What one pair a class pairs the mean of images with: a caption, which comes from a user's file,
#: or else the plain name.
PAIRED_WITH: tuple[Text, ...] = (("description", "d000"), PLAIN)


@dataclass(frozen=True)
class Fit:
    """Sets that fit together: images, the head of their model, and texts of one encoder.

    Attributes
    ----------
    image : SetInfo
    text : SetInfo or None
        Class names or captions of the images' dataset; None where no text is needed.
    head, head_name : SetInfo or None
    """

    image: SetInfo
    text: SetInfo | None = None
    head: SetInfo | None = None
    head_name: SetInfo | None = None

    def fields(self) -> dict[str, str]:
        """Return the fields of a run that name these sets and their revisions."""
        captions = self.text is not None and self.text.key.kind == "caption"
        return set_fields(
            image=self.image, head=self.head, head_name=self.head_name,
            **{"caption" if captions else "name": self.text},
        )  # fmt: skip


class Inventory:
    """The sets of a store by dataset and kind.

    Parameters
    ----------
    store : FeatureStore
    """

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self._sets = store.sets()
        self._texts: dict[str, frozenset[Text]] = {}

    def of(self, dataset: str, kind: str) -> list[SetInfo]:
        """Return the sets of a dataset and kind, one an encoder."""
        return [i for i in self._sets if (i.key.dataset, i.key.kind) == (dataset, kind)]

    def splits(self, info: SetInfo) -> set[str]:
        """Return the splits that the items of a set name."""
        column = self.store.view(str(info.key)).items.get_column("split", default=None)
        return set() if column is None else set(column.drop_nulls())

    def n_classes(self, info: SetInfo) -> int:
        """Return how many classes the items of a set are of."""
        return int(self.store.view(str(info.key)).items["class_id"].n_unique())

    def texts(self, info: SetInfo, wanted: tuple[Text, ...], prefix: str = "") -> dict[str, Any]:
        """Return the fields of a run that choose the first wanted text which a set of names has.

        Parameters
        ----------
        prefix : str
            Of the fields: "head_" or "pair_".

        Returns
        -------
        dict
            Empty if the set has none of them: the run takes what it usually does.
        """
        key = str(info.key)
        if key not in self._texts:
            rows = self.store.view(key).items.select("variant", "template_id").unique()
            self._texts[key] = frozenset(rows.iter_rows())
        for variant, template in wanted:
            if (variant, template) in self._texts[key]:
                return {f"{prefix}variants": (variant,), f"{prefix}templates": (template,)}
        return {}

    def datasets(self, kind: str) -> list[str]:
        """Return the datasets and label sets that have a set of a kind, sorted."""
        return sorted({info.key.dataset for info in self._sets if info.key.kind == kind})

    def with_heads(
        self, dataset: str, kind: str, label_sets: Sequence[str] = LABEL_SETS
    ) -> Iterator[Fit]:
        """Yield images with texts of `kind` and every head that fits both.

        A head fits images of its own space, and texts where the names of its classes are in
        their space.
        """
        for image in self.of(dataset, "image"):
            for label_set in label_sets:
                for head in self.of(label_set, "head_weight"):
                    if head.commit.space_id != image.commit.space_id:
                        continue
                    for text in self.of(dataset, kind):
                        for names in self.of(label_set, "class_name"):
                            if names.commit.space_id == text.commit.space_id:
                                yield Fit(image, text, head, names)

    def pairs(self, dataset: str, kind: str) -> Iterator[Fit]:
        """Yield images and texts of the two towers of one model, such as CLIP's."""
        for image in self.of(dataset, "image"):
            pair = image.attributes["space"].get("pair")
            for text in self.of(dataset, kind):
                if pair is not None and text.attributes["space"].get("pair") == pair:
                    yield Fit(image, text)

    def heads_and_names(
        self, label_sets: Sequence[str] = LABEL_SETS
    ) -> Iterator[tuple[SetInfo, SetInfo]]:
        """Yield every head with every set of names of its classes."""
        for label_set in label_sets:
            for head in self.of(label_set, "head_weight"):
                for names in self.of(label_set, "class_name"):
                    yield head, names

    def images_of_space(self, space_id: str) -> SetInfo | None:
        """Return some set of images of a space, the paper's datasets first."""
        for dataset in (OWN_IMAGES, *NINE, HAM, *RETRIEVAL):
            for image in self.of(dataset, "image"):
                if image.commit.space_id == space_id:
                    return image
        return None


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
    dataset, kind : str
    encoders : tuple of str
        Images are decoded once for all of them.
    experiments : tuple of str
        What they are for.
    command : str
        The `featstore extract` command that makes them; the manifest is built first.
    manifest : str
        The command that builds the manifest.
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
    for experiment, dataset, kind, encoder in _wanted():
        own = wanted.setdefault((dataset, kind), {})
        own.setdefault(encoder, []).append(experiment)
    return [
        _command(dataset, kind, left, place)
        for (dataset, kind), encoders in wanted.items()
        if (
            left := {
                encoder: experiments
                for encoder, experiments in encoders.items()
                if not any(_is(info.encoder, encoder) for info in have.of(dataset, kind))
            }
        )
    ]


def _command(dataset: str, kind: str, encoders: dict[str, list[str]], place: str) -> Lacking:
    folder, manifest = _manifest(dataset, kind)
    words = ["featstore", "extract", folder, "--kind", kind]
    for encoder in encoders:
        words += ["--encoder", encoder]
    if any(encoder in INAT for encoder in encoders):
        for encoder in encoders:
            words += ["--weights", INAT.get(encoder, "-")]
        if kind == "head_weight":
            words += ["--label-set", dataset]
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


def _is(encoder: str, wanted: str) -> bool:
    """Whether a set's encoder is the wanted one, whatever weights follow its name."""
    return encoder == wanted or encoder.startswith((f"{wanted}.", f"{wanted}:", f"{wanted}/"))


def _manifest(dataset: str, kind: str) -> tuple[str, str]:
    """Return the folder of a manifest, and the command that builds it."""
    words = ["featstore", "manifests", "build", dataset]
    folder = f"manifests/{dataset}"
    if dataset == OWN_IMAGES and kind == "image":
        # Beside the label set, which needs no copy of the images.
        folder = f"{folder}-val"
        words += ["--root", f"DATA/{dataset}", "--split", "val"]
    elif dataset == INAT_LABELS:
        words += ["--root", f"DATA/{dataset}", "--classes-only"]
    elif dataset not in BEIT:
        words += ["--root", f"DATA/{dataset}"]
    for option in OPTIONS.get(dataset, ()):
        words += ["--option", option]
    return folder, shlex.join([*words, "-o", folder])


def _wanted() -> Iterator[tuple[str, str, str, str]]:
    """Yield (experiment, dataset, kind, encoder)."""
    heads = {label_set: (encoder,) for label_set, encoder in BEIT.items()}
    for label_set, encoders in (heads | {INAT_LABELS: tuple(INAT)}).items():
        for experiment in ("zero-shot, few-shot", "mutual k-NN", "modality gap"):
            for encoder in encoders:
                yield experiment, label_set, "head_weight", encoder
            yield experiment, label_set, "class_name", TEXT
    for encoder in COSINE_HEADS:
        yield "cosine head", OWN_IMAGES, "head_weight", encoder
    for dataset in (*NINE, HAM):
        experiment = "HAM10000" if dataset == HAM else "zero-shot, few-shot"
        pairs = (CLIP, LARGE_CLIP) if dataset == HAM else (CLIP,)
        for encoder in (*BEIT.values(), *INAT, *pairs):
            yield experiment, dataset, "image", encoder
        for encoder in (TEXT, *pairs):
            yield experiment, dataset, "class_name", encoder
    for dataset in RETRIEVAL:
        for encoder in (BEIT["imagenet22k"], CLIP):
            yield "retrieval", dataset, "image", encoder
        for encoder in (TEXT, CLIP):
            yield "retrieval", dataset, "caption", encoder
    for encoder in (*COSINE_HEADS, BEIT["imagenet22k"]):
        yield "cosine head, mutual k-NN", OWN_IMAGES, "image", encoder


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
    have = Inventory(store)
    runs = [
        *_zero_shot(have),
        *_retrieval(have, limit),
        *_few_shot(have),
        *_neighbours(have),
        *_modality_gap(have),
        *_cosine_head(have),
    ]
    return [
        run.changed(limit=limit)
        for run in dict.fromkeys(runs)
        if (not methods or run.fit.method in methods)
        and (not sources or run.protocol.source in sources)
    ]


def _run(fit: Fit, **fields: Any) -> Run:
    settings: dict[str, Any] = {
        "suite": SUITE, "train_splits": TRAIN_SPLITS,
    }  # fmt: skip
    return Run.of(**settings | fit.fields() | fields)


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
                base.changed(method=method, seed=seed, **_trained(fit))
                for method in TRAINED
                for seed in TRAINED_SEEDS
            ]
            for method in (*CLOSED, *METHODS):
                yield base.changed(method=method)
                for control in CONTROLS:
                    for seed in SEEDS:
                        yield base.changed(method=method, source=control, seed=seed)
            if where == "split" and have.splits(fit.image) & set(TRAIN_SPLITS):
                yield from _one_pair_a_class(have, fit, base)
        for fit in have.pairs(dataset, "class_name"):
            assert fit.text is not None
            tested = have.texts(fit.text, TESTED_BY)
            yield _run(fit, task="zero_shot", eval=_where(have, dataset, fit), **tested)
    # One training serves all datasets that follow each other; see `bench.fits.fit_run`.
    yield from sorted(
        trained,
        key=lambda run: (run.data.head_set, run.data.head_name_set, run.fit.method, run.seed),
    )


def _one_pair_a_class(have: Inventory, fit: Fit, base: Run) -> Iterator[Run]:
    """One training image of every class with a caption, with the head's rows and without."""
    assert fit.text is not None
    bare = _run(
        _without_head(fit), task="zero_shot", eval="split", method="ridge", pairs_per_class=1,
        variants=base.data.variants, templates=base.data.templates,
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
                yield base.changed(**one)
                yield bare.changed(**one)
                if method in IN_TWO_STAGES:
                    yield base.changed(**one, sequential=True)


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
            yield base.changed(method="conse")
            yield base
            for control in CONTROLS:
                for seed in RETRIEVAL_SEEDS:
                    yield base.changed(method="ridge", source=control, seed=seed)
            for method in TRAINED:
                some = {"method": method, **_trained(fit)}
                for seed in TRAINED_RETRIEVAL_SEEDS:
                    yield base.changed(**some, seed=seed)
                yield from _by_pairs(base, bare, some, n_train)
            for method in (*CLOSED, "ridge"):
                yield base.changed(method=method)
                yield from _by_pairs(base, bare, {"method": method}, n_train)
        for fit in have.pairs(dataset, "caption"):
            yield _run(fit, task="retrieval", eval="split", options=options)


def _by_pairs(base: Run, bare: Run, some: dict[str, Any], n_train: int) -> Iterator[Run]:
    """Yield the runs of a method with and without weights, for every number of real pairs."""
    trained = some["method"] in TRAINED
    seeds = TRAINED_RETRIEVAL_SEEDS if trained else RETRIEVAL_SEEDS
    for k in RETRIEVAL_PAIRS:
        if k != "all" and k > n_train:
            continue
        # All training images are the same whatever the seed; a training is not.
        for seed in (0,) if k == "all" and not trained else seeds:
            own = some | {"n_pairs": k, "seed": seed}
            yield base.changed(**own)
            yield bare.changed(**own)
            if k == RETRIEVAL_PAIRS[0] and some["method"] == "ridge":
                for control in CONTROLS:
                    yield base.changed(source=control, **own)


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
                    for prototypes in ("none", "names"):
                        if learner in NEEDS_PROTOTYPES and prototypes == "none":
                            continue
                        options: Options = FewShot(
                            shots=shots, learner=learner, prototypes=prototypes
                        )
                        for seed in SEEDS:
                            yield base.changed(options=options, seed=seed)
                for learner in OWN_LEARNERS:
                    own = FewShot(shots=shots, learner=learner, prototypes="none")
                    for seed in TRAINED_SEEDS:
                        yield alone.changed(options=own, seed=seed)


def _neighbours(have: Inventory) -> Iterator[Run]:
    """Mutual k-NN of head rows and the texts they are trained as, of class means and names."""
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
    """Whether head rows and images can be separated."""
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
