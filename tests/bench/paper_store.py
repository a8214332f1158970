"""A small synthetic store with miniatures of some of the paper's sets.

As in the smoke suite the data are planted: classes are points of a latent space, and images, head
rows and texts are noisy linear views of them.
"""

import numpy as np

from featstore.datasets import synsets_of
from featstore.testing import item_table, write_set

LATENT, IMAGE_DIM, TEXT_DIM = 6, 20, 14
BEIT21 = "timm:beit_base_patch16_224.in22k_ft_in22k"
BEIT1 = "timm:beit_base_patch16_224.in22k_ft_in22k_in1k"
ROBERTA = "st:all-roberta-large-v1"
CLIP = "oc:ViT-B-32-quickgelu/openai"

INAT = "timm:vit_large_patch14_clip_336.laion2b_ft_in12k_in1k"

SPACES = {
    BEIT21: {"name": BEIT21}, BEIT1: {"name": BEIT1}, ROBERTA: {"name": ROBERTA},
    INAT: {"name": INAT},
}  # fmt: skip


def space_of(encoder, kind):
    """CLIP's towers name their pair; other encoders have one space."""
    if encoder == CLIP:
        return {
            "name": f"{CLIP}/{'image' if kind in ('image', 'head_weight') else 'text'}",
            "pair": "vitb32",
        }
    return SPACES[encoder]


class Builder:
    """Writes sets whose rows are views of latent points."""

    def __init__(self, root):
        self.root = root
        self.rng = np.random.default_rng(3)
        self.maps = {}
        self.latents = {}

    def classes(self, dataset, n):
        """The latent points of a dataset's classes, drawn once."""
        if dataset not in self.latents:
            self.latents[dataset] = self.rng.standard_normal((n, LATENT))
        return self.latents[dataset]

    def view(self, latent, encoder, kind, noise):
        width = TEXT_DIM if encoder in (ROBERTA,) else IMAGE_DIM
        # The two towers of a pair share one map; a head lives in the space of its images.
        key = encoder
        if key not in self.maps:
            self.maps[key] = self.rng.standard_normal((LATENT, width))
        rows = latent @ self.maps[key]
        return (rows + noise * self.rng.standard_normal(rows.shape)).astype(np.float32)

    def write(self, dataset, kind, encoder, rows, items, **more):
        write_set(
            self.root, rows, items, dataset=dataset, kind=kind, encoder=encoder,
            space=space_of(encoder, kind), **more,
        )  # fmt: skip

    def images(self, dataset, encoder, n_classes, per_class, splits):
        """Labelled images: `per_class` of every class, the last `splits["test"]` of them test."""
        own = np.repeat(np.arange(n_classes), per_class)
        place = np.tile(np.arange(per_class), n_classes)
        names = [f"{dataset}/{i:04d}" for i in range(len(own))]
        rows = self.view(self.classes(dataset, n_classes)[own], encoder, "image", 0.5)
        split = [splits[p] for p in place]
        ids = self.ids(dataset, n_classes)
        items = item_table(
            names, "image", class_id=[ids[c] for c in own],
            uri=[f"{n}.png" for n in names], split=split,
        )  # fmt: skip
        self.write(dataset, "image", encoder, rows, items)

    def ids(self, dataset, n):
        """Class ids: of a label set of ImageNet real synsets, every second one of ImageNet-1k."""
        if not dataset.startswith("imagenet"):
            return [f"{dataset}/c{c:02d}" for c in range(n)]
        ours = sorted(synsets_of("imagenet1k"))
        other = sorted(synsets_of(dataset) - set(ours)) or ours
        names = [(ours if c % 2 else other)[c] for c in range(n)]
        return [f"{dataset}/{name}" for name in names]

    def names(self, dataset, encoder, n_classes, more=()):
        """Names in ("name", "none"), ("name", "photo") and `more` variants and templates."""
        ids = self.ids(dataset, n_classes)
        texts = (("name", "none"), ("name", "photo"), *more)
        prompts = [(c, *text) for c in range(n_classes) for text in texts]
        rows = self.view(
            self.classes(dataset, n_classes)[[c for c, *_ in prompts]], encoder, "text", 0.1
        )
        items = item_table(
            [f"{ids[c]}#{variant}#{t}" for c, variant, t in prompts], "class_name",
            class_id=[ids[c] for c, *_ in prompts], variant=[v for _, v, _ in prompts],
            template_id=[t for *_, t in prompts],
            text=[ids[c] if t == "none" else f"{v} in {t} of a {ids[c]}" for c, v, t in prompts],
        )  # fmt: skip
        self.write(dataset, "class_name", encoder, rows, items)

    def head(self, label_set, encoder, n_classes):
        ids = self.ids(label_set, n_classes)
        rows = self.view(self.classes(label_set, n_classes), encoder, "image", 0.2)
        items = item_table([f"{c}#head" for c in ids], "head_weight", class_id=ids)
        self.write(label_set, "head_weight", encoder, rows, items,
                   bias=np.zeros(n_classes, dtype=np.float32))  # fmt: skip

    def captioned(self, dataset, encoder, text_encoder, n, n_test, captions):
        """Images without a class, with several captions each."""
        latent = self.classes(dataset, n)
        names = [f"{dataset}/{i:04d}" for i in range(n)]
        split = ["test" if i < n_test else "val" if i % 5 == 0 else "train" for i in range(n)]
        items = item_table(names, "image", uri=[f"{x}.jpg" for x in names], split=split)
        self.write(dataset, "image", encoder, self.view(latent, encoder, "image", 0.4), items)
        owner = np.repeat(np.arange(n), captions)
        ids = [f"{names[i]}#{j}" for i in range(n) for j in range(captions)]
        items = item_table(
            ids, "caption", parent_id=[names[i] for i in owner], text=[f"caption {i}" for i in ids],
            split=[split[i] for i in owner],
        )  # fmt: skip
        rows = self.view(latent[owner], text_encoder, "text", 0.4)
        self.write(dataset, "caption", text_encoder, rows, items)


PAPER, LEMMAS, CAPTION = ("paper", "paper"), ("lemmas", "none"), ("description", "d000")


def build(root):
    """Flowers and pets with two heads, Flickr30k, ImageNet's images, HAM10000, a CLIP pair.

    Flowers have captions of their classes, pets have none.
    """
    make = Builder(root)
    for label_set, encoder, n in (("imagenet22k", BEIT21, 60), ("imagenet1k", BEIT1, 40)):
        make.head(label_set, encoder, n)
        make.names(label_set, ROBERTA, n, [LEMMAS])
    six = ["train", "train", "train", "val", "test", "test"]
    for dataset, n in (("flowers102", 10), ("pets", 8)):
        for encoder in (BEIT21, BEIT1, CLIP):
            make.images(dataset, encoder, n, 6, six)
        captions = [CAPTION] if dataset == "flowers102" else []
        for encoder in (ROBERTA, CLIP):
            make.names(dataset, encoder, n, [PAPER, *captions])
    make.images("ham10000", BEIT21, 7, 3, ["test"] * 3)
    make.names("ham10000", ROBERTA, 7, [PAPER])
    make.images("imagenet1k", BEIT1, 40, 3, ["val"] * 3)
    make.captioned("flickr30k", BEIT21, ROBERTA, 60, 20, 6)
