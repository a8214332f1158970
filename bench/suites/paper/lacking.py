"""What a store lacks of the paper's experiments, and the commands that make it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from bench.suites.paper.inventory import HAM, NINE, OWN_IMAGES, RETRIEVAL, Inventory
from featstore.store.store import FeatureStore

#: The encoders of the paper that its figures name, as featstore names them.
BEIT = {
    "imagenet1k": "timm:beit_base_patch16_224.in22k_ft_in22k_in1k",
    "imagenet22k": "timm:beit_base_patch16_224.in22k_ft_in22k",
}
TEXT = "st:all-roberta-large-v1"
CLIP = "open_clip:ViT-B-32"

#: A model whose head knows iNaturalist's species. Which ones the paper used is not known.
INAT = "timm:vit_large_patch14_clip_336.laion2b_ft_augreg_inat21"

#: Label sets that are built from installed packages; every other manifest needs its files.
_PACKAGED = ("imagenet1k", "imagenet22k")


@dataclass(frozen=True)
class Lacking:
    """One set that the store lacks.

    Attributes
    ----------
    dataset, kind, encoder : str
    experiments : tuple of str
        What it is for.
    command : str
        The `featstore extract` command that makes it; the manifest is built first.
    manifest : str
        The command that builds the manifest.
    """

    dataset: str
    kind: str
    encoder: str
    experiments: tuple[str, ...]
    command: str
    manifest: str


def lacking(store: FeatureStore) -> list[Lacking]:
    """Return what the paper used and the store does not hold, in the order of the experiments.

    A store with other encoders answers the same questions with those: what is listed is what the
    published numbers are of.
    """
    have = Inventory(store)
    # Extraction writes into a folder; sets of a remote store are made in one, then pushed.
    folder = str(store.root) if store.address == str(store.root) else "STORE"
    wanted: dict[tuple[str, str, str], list[str]] = {}
    for experiment, dataset, kind, encoder in _wanted():
        wanted.setdefault((dataset, kind, encoder), []).append(experiment)
    return [
        Lacking(
            dataset=dataset,
            kind=kind,
            encoder=encoder,
            experiments=tuple(dict.fromkeys(experiments)),
            command=shlex.join(
                ["featstore", "extract", f"manifests/{dataset}", "--kind", kind, "--encoder",
                 encoder, "--store", folder]
            ),
            manifest=_manifest(dataset, kind),
        )
        for (dataset, kind, encoder), experiments in wanted.items()
        if not any(_is(info.encoder, encoder) for info in have.of(dataset, kind))
    ]  # fmt: skip


def _is(encoder: str, wanted: str) -> bool:
    """Whether a set's encoder is the wanted one, whatever weights follow its name."""
    return encoder == wanted or encoder.startswith((f"{wanted}.", f"{wanted}:", f"{wanted}/"))


def _manifest(dataset: str, kind: str) -> str:
    words = ["featstore", "manifests", "build", dataset]
    if not (dataset in _PACKAGED and kind in ("head_weight", "class_name")):
        words += ["--root", f"DATA/{dataset}"]
    return shlex.join([*words, "-o", f"manifests/{dataset}"])


def _wanted() -> Iterator[tuple[str, str, str, str]]:
    """Yield (experiment, dataset, kind, encoder)."""
    for label_set, encoder in (*BEIT.items(), ("inat2021", INAT)):
        for experiment in ("zero-shot", "mutual k-NN", "modality gap"):
            yield experiment, label_set, "head_weight", encoder
            yield experiment, label_set, "class_name", TEXT
    for dataset in (*NINE, HAM):
        experiment = "HAM10000" if dataset == HAM else "zero-shot, few-shot"
        for encoder in (*BEIT.values(), CLIP, INAT):
            yield experiment, dataset, "image", encoder
        for encoder in (TEXT, CLIP):
            yield experiment, dataset, "class_name", encoder
    for dataset in RETRIEVAL:
        for encoder in (BEIT["imagenet22k"], CLIP):
            yield "retrieval", dataset, "image", encoder
        for encoder in (TEXT, CLIP):
            yield "retrieval", dataset, "caption", encoder
    yield "cosine head, mutual k-NN", OWN_IMAGES, "image", BEIT["imagenet1k"]
