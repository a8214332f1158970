"""What a store lacks of the paper's experiments, and the commands that make it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from bench.suites.paper.inventory import HAM, NINE, OWN_IMAGES, RETRIEVAL, Inventory
from featstore.store.store import FeatureStore

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
        What of it no source says; "" where all is said.
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
