"""The suites `demo` and `smoke`, and the sets of a store that they need.

Two evaluations of the stamps. *All names*: nothing of the dataset is trained on, every image
is ranked against every name, and the head stands beside 19 draws of each control. *Held out*: ten
seeds, each a fresh split of the descriptions, 60 % to draw real pairs from and the rest to be
scored. There ridge and Procrustes have a fresh draw of each control a seed, and kernel ridge all 19
on every split, without real pairs and with 64.

The data are planted: classes are points of a latent space, images and texts are noisy linear
views of them, and the head's rows are views of other classes of the same latent space. So head
weights help, random and shuffled rows do not, and a broken protocol shows in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.errors import ProtocolError
from bench.protocol import held_out_split
from bench.runs import Run
from bench.statistics import ENOUGH_CONTROLS
from featstore.errors import AlreadyFinishedError
from featstore.identity import sha256_hex
from featstore.store.store import FeatureStore, SetInfo
from featstore.testing import item_table, write_set


@dataclass(frozen=True)
class SuiteSets:
    """The five sets of one image encoder and one text encoder.

    Attributes
    ----------
    image, name, caption, head, head_name : SetInfo
    """

    image: SetInfo
    name: SetInfo
    caption: SetInfo
    head: SetInfo
    head_name: SetInfo

    def fields(self) -> dict[str, Any]:
        """Return the fields of a run that name these sets and their revisions."""
        out = {}
        for role in ("image", "name", "caption", "head", "head_name"):
            info: SetInfo = getattr(self, role)
            out[f"{role}_set"] = str(info.key)
            out[f"{role}_revision"] = info.commit.revision_id
        return out


def find_sets(
    store: FeatureStore, *, dataset: str | None = None, label_set: str | None = None
) -> SuiteSets:
    """Return the sets that fit together: a head with images of its space, texts of one space.

    Parameters
    ----------
    store : FeatureStore
    dataset : str, optional
        Has images, captions and class names; if left out, the only one with images.
    label_set : str, optional
        Has head weights and class names; if left out, the only one with head weights.

    Raises
    ------
    ProtocolError
        If a set is missing or several image or text encoders fit; the message says which
        command makes it, or what there is to choose from.
    """
    infos = store.sets()
    dataset = dataset or _only_dataset(infos, store, "image", "--dataset")
    label_set = label_set or _only_dataset(infos, store, "head_weight", "--label-set")
    head = _only(
        [
            info
            for info in _of(infos, label_set, "head_weight")
            if info.commit.space_id in {i.commit.space_id for i in _of(infos, dataset, "image")}
        ],
        store,
        label_set,
        "head_weight",
    )
    image = _in_space(infos, store, dataset, "image", head.commit.space_id)
    name = _only(_of(infos, dataset, "class_name"), store, dataset, "class_name")
    texts = name.commit.space_id
    return SuiteSets(
        image=image,
        name=name,
        caption=_in_space(infos, store, dataset, "caption", texts),
        head=head,
        head_name=_in_space(infos, store, label_set, "class_name", texts),
    )


def _only_dataset(infos: list[SetInfo], store: FeatureStore, kind: str, option: str) -> str:
    found = sorted({info.key.dataset for info in infos if info.key.kind == kind})
    if len(found) == 1:
        return found[0]
    have = f"several datasets of kind {kind}: {', '.join(found)}" if found else f"no {kind} set"
    raise ProtocolError(f"{store.address} has {have}. Name one with {option}, or extract it.")


def _of(infos: list[SetInfo], dataset: str, kind: str) -> list[SetInfo]:
    return [info for info in infos if (info.key.dataset, info.key.kind) == (dataset, kind)]


def _in_space(
    infos: list[SetInfo], store: FeatureStore, dataset: str, kind: str, space_id: str
) -> SetInfo:
    found = [i for i in _of(infos, dataset, kind) if i.commit.space_id == space_id]
    return _only(found, store, dataset, kind)


def _only(found: list[SetInfo], store: FeatureStore, dataset: str, kind: str) -> SetInfo:
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(info.key) for info in found)
        raise ProtocolError(
            f"{store.address} has {len(found)} sets that could be {dataset}/{kind}: {names}. The "
            "suite takes one image and one text encoder; keep each pair in its own store."
        )
    raise ProtocolError(
        f"{store.address} has no {dataset}/{kind} that fits its other sets (`featstore ls "
        f"{store.address}` lists them). Make it with `featstore extract`, with the same encoders."
    )


Pairs = int | Literal["all"]

SEEDS = tuple(range(10))
N_PAIRS: tuple[Pairs, ...] = (16, 64, 256, "all")
METHODS = ("ridge", "procrustes", "kernel-ridge")
CONTROLS = ("random", "shuffled")

#: Draws of a control that stand beside one head: the fewest whose rank can reach 5 %.
CONTROL_DRAWS = ENOUGH_CONTROLS

#: Methods whose controls are all on every split, and on how many real pairs: a head is then ranked
#: among draws that saw the same pairs.
RANKED: dict[str, tuple[Pairs, ...]] = {"kernel-ridge": (0, 64)}


def demo_runs(store: FeatureStore, *, limit: int | None = None) -> list[Run]:
    """Return the runs of the demo suite on a store.

    Parameters
    ----------
    store : FeatureStore
        With images, captions and class names of ``stamps``, and a head and class names of
        ``imagenet1k``.
    limit : int, optional
        Images kept. Numbers of pairs that a split cannot give are left out.

    Raises
    ------
    ProtocolError
        If a set is missing or ambiguous, or `limit` leaves too little to split.
    """
    sets = find_sets(store, dataset="stamps", label_set="imagenet1k")
    return plan(store, sets, suite="demo", limit=limit)


def plan(
    store: FeatureStore,
    sets: SuiteSets,
    *,
    suite: str,
    limit: int | None,
    seeds: Sequence[int] = SEEDS,
    n_pairs: Sequence[Pairs] = N_PAIRS,
    control_draws: int = CONTROL_DRAWS,
    ranked: Mapping[str, Sequence[Pairs]] = RANKED,
) -> list[Run]:
    """Return both evaluations for these sets; runs that share a fit follow one another."""
    if limit is not None and limit < 1:
        raise ProtocolError(f"--limit keeps at least one image; got {limit}.")
    base = Run(
        suite=suite,
        task="zero_shot",
        eval="all-names",
        method="conse",
        source="head",
        n_pairs=0,
        seed=0,
        locales=("en",),
        relevance="class_id",
        limit=limit,
        **sets.fields(),
    )
    fewest = _fewest_training_images(store, base, seeds)
    possible = [k for k in n_pairs if k == "all" or k <= fewest]
    return [
        base,
        *(replace(base, method=method) for method in METHODS),
        *_held_out(base, seeds, possible, ranked),
        *_control_runs(base, seeds, possible, control_draws, ranked),
    ]


def _held_out(
    base: Run, seeds: Sequence[int], n_pairs: Sequence[Pairs], ranked: Mapping[str, Sequence[Pairs]]
) -> Iterator[Run]:
    """Yield the held-out runs of every seed; of controls those that the seed draws."""
    base = replace(base, eval="held-out")
    for seed in seeds:
        yield from _tasks(replace(base, seed=seed))
        for method in METHODS:
            controls = () if method in ranked else CONTROLS
            for k in (0, *n_pairs):
                for source in ("none", "head", *controls):
                    if (source, k) != ("none", 0):
                        own = replace(base, seed=seed, method=method, source=source, n_pairs=k)
                        yield from _tasks(own)


def _control_runs(
    base: Run,
    seeds: Sequence[int],
    n_pairs: Sequence[Pairs],
    draws: int,
    ranked: Mapping[str, Sequence[Pairs]],
) -> Iterator[Run]:
    """Yield what stands beside one head: draw by draw, so that a draw is fitted in one place."""
    for method in METHODS:
        for control in CONTROLS:
            for draw in range(draws):
                # With nothing else to draw the seed draws the control: the same rows as below.
                yield replace(base, method=method, source=control, seed=draw)
                for seed in seeds:
                    for k in ranked.get(method, ()):
                        if k == 0 or k in n_pairs:
                            # Names alone: what a control does to captions is seen in ridge.
                            yield replace(
                                base, eval="held-out", method=method, source=control, n_pairs=k,
                                seed=seed, control_draw=draw,
                            )  # fmt: skip


def _tasks(fit: Run) -> tuple[Run, Run]:
    return fit, replace(fit, task="retrieval")


def _fewest_training_images(store: FeatureStore, run: Run, seeds: Sequence[int]) -> int:
    items = store.view(run.image_set).items
    classes = items["class_id"].head(run.limit or items.height).to_numpy()
    return min(
        len(held_out_split(classes, seed=seed, train_fraction=run.train_fraction).train)
        for seed in seeds
    )


DATASET, LABEL_SET = "smoke", "smokehead"
IMAGE_ENCODER, TEXT_ENCODER = "synthetic:image", "synthetic:text"

_SEED = 7
_N_CLASSES, _N_IMAGES, _N_HEAD = 40, 72, 120
_LATENT, _IMAGE_DIM, _TEXT_DIM = 6, 24, 16
_TEMPLATES = {"none": "{}", "photo": "a photo of a {}"}


def smoke_runs(store: FeatureStore, *, limit: int | None = None) -> list[Run]:
    """Return the runs of the smoke suite on the store of `create_smoke_store`."""
    sets = find_sets(store, dataset=DATASET, label_set=LABEL_SET)
    return plan(
        store, sets, suite="smoke", limit=limit, seeds=(0, 1), n_pairs=(8, "all"), control_draws=3,
        ranked={"kernel-ridge": (0, 8)},
    )  # fmt: skip


def create_smoke_store(root: Path) -> None:
    """Write the synthetic store to `root`; what is already there is left as it is.

    Raises
    ------
    StoreWriteError
        If the folder cannot be written.
    """
    rng = np.random.default_rng(_SEED)
    to_image = rng.standard_normal((_LATENT, _IMAGE_DIM))
    to_text = rng.standard_normal((_LATENT, _TEXT_DIM))
    classes = rng.standard_normal((_N_CLASSES, _LATENT))
    head = rng.standard_normal((_N_HEAD, _LATENT))
    # The first classes have two or three images each, the rest one: clusters of several sizes.
    owner = np.sort(np.arange(_N_IMAGES) % _N_CLASSES)

    def view(latent: NDArray[Any], matrix: NDArray[Any], noise: float) -> NDArray[np.float32]:
        rows = latent @ matrix + noise * rng.standard_normal((len(latent), matrix.shape[1]))
        single: NDArray[np.float32] = rows.astype(np.float32)
        return single

    images = [f"{DATASET}/image-{i:03d}" for i in range(_N_IMAGES)]
    class_ids = [f"{DATASET}/class-{c:02d}" for c in range(_N_CLASSES)]
    head_ids = [f"{LABEL_SET}/class-{c:03d}" for c in range(_N_HEAD)]
    own_ids = [class_ids[c] for c in owner]
    _write(
        root, DATASET, "image", IMAGE_ENCODER, view(classes[owner], to_image, 0.8) + 1.0,
        images, class_id=own_ids, uri=[f"{i}.png" for i in images],
    )  # fmt: skip
    _write(
        root, DATASET, "caption", TEXT_ENCODER, view(classes[owner], to_text, 0.2),
        [f"{i}#en" for i in images], class_id=own_ids, parent_id=images,
        variant=["en"] * _N_IMAGES, text=[f"This is {c}." for c in own_ids],
    )  # fmt: skip
    for dataset, ids, latent in ((DATASET, class_ids, classes), (LABEL_SET, head_ids, head)):
        prompts = [(c, t) for c in range(len(ids)) for t in _TEMPLATES]
        rows = view(latent[[c for c, _ in prompts]], to_text, 0.1)
        _write(
            root, dataset, "class_name", TEXT_ENCODER, rows,
            [f"{ids[c]}#name#{t}" for c, t in prompts], class_id=[ids[c] for c, _ in prompts],
            variant=["name"] * len(prompts), template_id=[t for _, t in prompts],
            text=[_TEMPLATES[t].format(ids[c].rsplit("/", 1)[1]) for c, t in prompts],
        )  # fmt: skip
    _write(
        root, LABEL_SET, "head_weight", IMAGE_ENCODER, view(head, to_image, 0.2),
        [f"{c}#head" for c in head_ids], class_id=head_ids,
        bias=np.zeros(_N_HEAD, dtype=np.float32),
    )  # fmt: skip


def _write(
    root: Path,
    dataset: str,
    kind: str,
    encoder: str,
    rows: NDArray[np.float32],
    ids: list[str],
    *,
    bias: NDArray[np.float32] | None = None,
    **columns: list[str],
) -> None:
    """Write one set, unless it is there."""
    contents = [sha256_hex(item.encode()) for item in ids]
    with suppress(AlreadyFinishedError):
        write_set(
            root, rows, item_table(ids, kind, content_sha256=contents, **columns), dataset=dataset,
            kind=kind, encoder=encoder, space={"name": encoder, "seed": _SEED}, bias=bias,
            sealed=True,
        )  # fmt: skip
