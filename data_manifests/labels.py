"""Label sets of installed packages: WordNet, timm and open_clip.

A folder with a dataset.toml is all that tells them apart: its `synsets` names the file that holds
the order of the classes. timm's files are found without importing it: its import loads torch.

They are taken from the installed package and never copied. Only its file of lists is run (it
imports nothing): importing open_clip would load torch.
"""

from __future__ import annotations

import importlib.util
import runpy
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from data_manifests.plan import (
    BuildError,
    Built,
    OnDone,
    Plan,
    fingerprint,
    published_facts,
)

#: Raise it when the same source and options give other tables.
VERSION = "2"

LEMMAS = "imagenet_synset_to_lemma.txt"
DEFINITIONS = "imagenet_synset_to_definition.txt"

PROMPTS = {"name": ("none", "photo"), "lemmas": ("none", "photo"), "definition": ("none",)}


def plan_label_set(facts: Mapping[str, Any], *, source: Path | None = None) -> Plan:
    """Find and read the three files of a label set.

    Parameters
    ----------
    facts : mapping
        Its dataset.toml.
    source : Path, optional
        A folder that holds them; timm's ``data/_info`` by default.

    Raises
    ------
    BuildError
        If timm is not installed, a file is missing or not UTF-8, or a synset has no lemma or
        definition.
    """
    name, synsets = str(facts["name"]), str(facts["synsets"])
    info = source if source is not None else find_timm_info()
    texts = {file: _read(info / file) for file in (synsets, LEMMAS, DEFINITIONS)}
    classes = class_table(name, texts[synsets], texts[LEMMAS], texts[DEFINITIONS])

    def make(out: Path, on_done: OnDone | None) -> Built:  # noqa: ARG001 -- there are no files
        return Built(tables={}, classes=classes, prompts=PROMPTS)

    return Plan(
        name=name,
        facts=published_facts(facts) | {"found": {"classes": classes.height}},
        fingerprint=fingerprint([name, VERSION, *texts.values()]),
        make=make,
    )


def class_table(label_set: str, synsets: str, lemmas: str, definitions: str) -> pl.DataFrame:
    """Return a label set, one row a class, in the order of `synsets`.

    ``name`` is the first lemma with spaces for underscores; ``name_group`` is the name in lower
    case, which classes of the same name share; ``shared_name`` says whether any other does.
    ``lemmas_group`` and ``shared_lemmas`` are the same for the whole string of lemmas, to the
    letter, which the paper trains on: classes that share it are contradictory targets.
    ``clean_name`` is the first lemma that no other class has, else the first.

    Raises
    ------
    BuildError
        If a synset occurs twice or lacks a lemma or a definition.
    """
    ids = synsets.split()
    lemma, definition = _mapping(lemmas), _mapping(definitions)
    for name, table in ((LEMMAS, lemma), (DEFINITIONS, definition)):
        absent = [synset for synset in ids if not table.get(synset)]
        if absent:
            raise BuildError(
                f"{name} lacks {len(absent):,} of {len(ids):,} synsets (first: {absent[0]})."
            )
    if not ids or len(set(ids)) != len(ids):
        raise BuildError(
            f"The list of {label_set} holds {len(ids):,} synsets, {len(set(ids)):,} of them "
            "distinct."
        )
    lists = [lemmas_of(lemma[synset]) for synset in ids]
    holders = Counter(word for own in lists for word in {word.lower() for word in own})
    clean = [next((w for w in own if holders[w.lower()] == 1), own[0]) for own in lists]
    names = [own[0] for own in lists]
    texts = [lemma[synset].replace("_", " ") for synset in ids]
    return pl.DataFrame(
        {
            "class_id": [f"{label_set}/{synset}" for synset in ids],
            "index": range(len(ids)),
            "synset": ids,
            "lemmas": texts,
            "definition": [definition[synset] for synset in ids],
            "name": names,
            "name_group": [name.lower() for name in names],
            "lemmas_group": texts,
            "clean_name": clean,
        },
        schema_overrides={"index": pl.Int64},
    ).with_columns(
        shared_name=pl.col("name_group").is_duplicated(),
        shared_lemmas=pl.col("lemmas_group").is_duplicated(),
    )


def lemmas_of(text: str) -> list[str]:
    """Return the lemmas of a comma-separated string, with spaces for underscores."""
    return [part.strip().replace("_", " ") for part in text.split(",") if part.strip()]


def find_timm_info() -> Path:
    """Return timm's folder of label files, without importing timm.

    Raises
    ------
    BuildError
        If timm is not installed.
    """
    return package_file(
        "timm", "data/_info", install="timm, or give its folder with -s files=FOLDER"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as err:
        raise BuildError(
            f"Cannot read {path}: {err.strerror}. timm 0.9 or later ships it; give a folder that "
            "holds it with -s files=FOLDER."
        ) from err
    except UnicodeDecodeError as err:
        raise BuildError(f"{path} is not UTF-8: byte {err.start:,}. Install timm again.") from err


def _mapping(text: str) -> dict[str, str]:
    """Parse lines ``synset<TAB>value``."""
    lines = (line.partition("\t") for line in text.splitlines())
    return {synset: value.strip() for synset, _, value in lines}


def package_file(package: str, relative: str, *, install: str) -> Path:
    """Return a file or folder of an installed package, without importing it (it may load torch).

    Raises
    ------
    BuildError
        If the package is not installed, or lacks the file.
    """
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    for place in places:
        if (Path(place) / relative).exists():
            return Path(place) / relative
    what = f"has no {relative}; another version is needed" if places else "is not installed"
    raise BuildError(f"{package} {what}: a list is read from it. Run pip install {install}.")


def openai_templates() -> list[str]:
    """Return CLIP's 80 templates for ImageNet, with ``{}`` for the name.

    Raises
    ------
    BuildError
        If open_clip is not installed, or has no such list.
    """
    return [str(make("{}")) for make in _list("OPENAI_IMAGENET_TEMPLATES")]


def imagenet_names() -> list[str]:
    """Return open_clip's names of the 1,000 classes, in the order of heads.

    Raises
    ------
    BuildError
        If open_clip is not installed, or has no such list.
    """
    return [str(name) for name in _list("IMAGENET_CLASSNAMES")]


def _list(name: str) -> tuple[Any, ...]:
    """Return a list of open_clip's module of lists, which is run by itself."""
    file = package_file("open_clip", "zero_shot_metadata.py", install="open_clip_torch")
    held = runpy.run_path(str(file)).get(name)
    if not isinstance(held, tuple | list) or not held:
        raise BuildError(
            f"The installed open_clip has no {name}. Install open_clip_torch 3 or later."
        )
    return tuple(held)
