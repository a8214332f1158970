"""A user's JSON of names, templates and descriptions, in the shapes of CLIP_benchmark and CuPL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from featstore.errors import ManifestError, did_you_mean
from featstore.keys import sha256_hex

#: Larger files are refused; CuPL's for ImageNet has 7 MB.
MAX_BYTES = 64 * 2**20

_NAMES = (
    "a JSON list of names in the order of the classes, an object dataset -> such a list "
    "(CLIP_benchmark), or an object class -> name, perhaps in an object dataset -> such an object"
)
_TEMPLATES = (
    "a JSON list of templates with {} or {c} for the name, or an object dataset -> such a list "
    "(CLIP_benchmark)"
)
_DESCRIPTIONS = (
    "a JSON object class -> list of sentences (CuPL), or an object dataset -> such an object"
)


def read_names(path: Path, keys: Sequence[str], classes: pl.DataFrame) -> dict[str, str]:
    """Read one name a class.

    Parameters
    ----------
    path : Path
        A list in the order of the classes; or ``{class: name}``, where a class is written as in
        the label set, see `class_words`; or ``{dataset: either}``.
    keys : sequence of str
        What the dataset goes by.
    classes : DataFrame
        The label set.

    Returns
    -------
    dict
        class_id -> name, for every class.

    Raises
    ------
    ManifestError
        If the file cannot be read, is of another form, or lacks a class.
    """
    document = _of_dataset(_load(path, _NAMES), keys, (list, dict))
    if isinstance(document, list):
        ids = classes.sort("index")["class_id"].to_list()
        if len(document) != len(ids):
            msg = f"{path} has {len(document):,} names for {len(ids):,} classes."
            raise ManifestError(msg)
        found = dict(zip(ids, document, strict=True))
    else:
        found = _by_class(path, document, classes, _NAMES)
    wrong = [key for key, name in found.items() if not isinstance(name, str) or not name.strip()]
    if wrong:
        msg = f"{path} has no name for the class {wrong[0]!r}. It should be {_NAMES}."
        raise ManifestError(msg)
    return {key: name.strip() for key, name in found.items()}


def read_templates(path: Path, keys: Sequence[str]) -> dict[str, str]:
    """Read templates: id -> text with one ``{}``; ids are made of the texts.

    Raises
    ------
    ManifestError
        If the file cannot be read, is of another form, or a template has no place for the name.
    """
    document = _of_dataset(_load(path, _TEMPLATES), keys, list)
    if not isinstance(document, list) or not document:
        named = f" for {keys[0]}" if isinstance(document, dict) else ""
        msg = f"{path} holds no templates{named}. It should be {_TEMPLATES}."
        raise ManifestError(msg)
    texts = {}
    for text in document:
        plain = text.replace("{c}", "{}") if isinstance(text, str) else ""
        if plain.count("{}") != 1:
            msg = f"The template {text!r} of {path} must hold {{}} or {{c}} once."
            raise ManifestError(msg)
        texts[f"t{sha256_hex(plain.encode())[:8]}"] = plain
    return texts


def read_descriptions(
    path: Path, keys: Sequence[str], classes: pl.DataFrame
) -> dict[str, list[str]]:
    """Read sentences by class, as CuPL writes them.

    Returns
    -------
    dict
        class_id -> its sentences, in the order of the classes; every class has at least one.

    Raises
    ------
    ManifestError
        If the file cannot be read, is of another form, or lacks a class.
    """
    document = _of_dataset(_load(path, _DESCRIPTIONS), keys, dict)
    if not isinstance(document, dict):
        msg = f"{path} is a list. It should be {_DESCRIPTIONS}."
        raise ManifestError(msg)
    found = _by_class(path, document, classes, _DESCRIPTIONS)
    sentences = {}
    for key, texts in found.items():
        own = texts if isinstance(texts, list) else []
        kept = [text.strip() for text in own if isinstance(text, str) and text.strip()]
        if not kept:
            msg = f"{path} has no sentence for the class {key!r}. It should be {_DESCRIPTIONS}."
            raise ManifestError(msg)
        sentences[key] = kept
    return sentences


def class_words(classes: pl.DataFrame) -> dict[str, set[str]]:
    """Return class_id -> what files may call a class: label, synset and every name it has.

    Case, ``_`` and repeated spaces do not matter.
    """
    named = [c for c in classes.columns if c in ("synset", "name", "noun") or c.endswith("_name")]
    words: dict[str, set[str]] = {}
    for row in classes.select("class_id", *named).iter_rows(named=True):
        label = row["class_id"].partition("/")[2]
        given = [label, *(row[column] for column in named)]
        words[row["class_id"]] = {normal(text) for text in given if text}
    return words


def normal(text: str) -> str:
    """Return a name in lower case, with single spaces for ``_`` and runs of spaces."""
    return " ".join(text.replace("_", " ").casefold().split())


def _by_class(
    path: Path, document: Mapping[str, Any], classes: pl.DataFrame, form: str
) -> dict[str, Any]:
    """Return the entries of an object by class_id, in the order of the classes."""
    entries = {normal(key): value for key, value in document.items()}
    found, lost = {}, []
    for class_id, words in class_words(classes.sort("index")).items():
        hits = [word for word in words if word in entries]
        if len(hits) == 1:
            found[class_id] = entries[hits[0]]
        elif hits:
            msg = f"{path} has several entries for the class {class_id!r}: {sorted(hits)}."
            raise ManifestError(msg)
        else:
            lost.append(class_id)
    if lost:
        msg = (
            f"{path} has no entry for {len(lost):,} of {classes.height:,} classes: "
            f"{', '.join(map(repr, lost[:5]))}. It should be {form}."
            f"{did_you_mean(lost[0].partition('/')[2], list(document))}"
        )
        raise ManifestError(msg)
    return found


def _of_dataset(document: Any, keys: Sequence[str], kind: type | tuple[type, ...]) -> Any:
    """Return the part of a document that is about the dataset, or the whole if it has no parts."""
    if isinstance(document, dict):
        for key in keys:
            if isinstance(document.get(key), kind):
                return document[key]
    return document


def _load(path: Path, form: str) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            msg = f"{path} has {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read."
            raise ManifestError(msg)
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as err:
        if isinstance(err, ManifestError):
            raise
        msg = f"Cannot read {path}: {getattr(err, 'strerror', None) or err}. It should be {form}."
        raise ManifestError(msg) from err
    if not isinstance(document, dict | list):
        msg = f"{path} holds a {type(document).__name__}. It should be {form}."
        raise ManifestError(msg)
    return document
