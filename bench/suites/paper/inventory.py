"""What a store holds of the paper's data: which images, heads and texts fit together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from featstore.store.set_info import SetInfo
from featstore.store.store import FeatureStore

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
        roles: dict[str, SetInfo | None] = {"image": self.image}
        if self.text is not None:
            roles["caption" if self.text.key.kind == "caption" else "name"] = self.text
        roles |= {"head": self.head, "head_name": self.head_name}
        out = {"name_set": "", "name_revision": ""}
        for role, info in roles.items():
            if info is not None:
                out[f"{role}_set"] = str(info.key)
                out[f"{role}_revision"] = info.commit.revision_id
        return out


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

    def with_heads(self, dataset: str, kind: str) -> Iterator[Fit]:
        """Yield images with texts of `kind` and every head that fits both.

        A head fits images of its own space, and texts where the names of its classes are in
        their space.
        """
        for image in self.of(dataset, "image"):
            for label_set in LABEL_SETS:
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

    def heads_and_names(self) -> Iterator[tuple[SetInfo, SetInfo]]:
        """Yield every head with every set of names of its classes."""
        for label_set in LABEL_SETS:
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
