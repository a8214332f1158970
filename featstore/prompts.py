"""Prompts: templates, the text of a class name under each, and one row of a class for all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from featstore.errors import (
    LISTED,
    EmptySelectionError,
    ManifestError,
    did_you_mean,
    listed,
    lookup,
)
from featstore.identity import canonical_json, sha256_hex
from featstore.options import option, with_options

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from featstore.store.view import Selection, View

#: Template id -> text with one ``{}``. ``photo`` is CLIP's standard prompt; the seven behind it
#: are the subset of its 80 ImageNet templates that its authors chose by forward selection
#: (openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb). Published templates stay as they
#: were published, "a photo of a actor." included. ``{a}`` becomes "an" where the name begins with
#: a, e, i or o, and else "a": that is the rule of ICIS, whose prompt for CLIP is ``icis``
#: (ExplainableML/ImageFreeZSL, utility/load_wordembeddings.py; it lower-cases the names too).
TEMPLATES: dict[str, str] = {
    "none": "{}",
    "photo": "a photo of a {}.",
    "itap": "itap of a {}.",
    "bad_photo": "a bad photo of the {}.",
    "origami": "a origami {}.",
    "photo_large": "a photo of the large {}.",
    "video_game": "a {} in a video game.",
    "art": "art of the {}.",
    "photo_small": "a photo of the small {}.",
    "paper": "A photo of a {}",
    "icis": "a photo of {a} {}",
}

#: Set of templates -> what it holds. ``paper`` is the one template of the paper's evaluation
#: (arXiv 2605.22484, evaluation code); ``openai80`` are CLIP's 80 for ImageNet, in the words of
#: the installed open_clip.
TEMPLATE_SETS: dict[str, str] = {
    "none": "the bare text",
    "simple": "the seven of TEMPLATES that CLIP's authors chose",
    "paper": "A photo of a {}",
    "openai80": "CLIP's 80 for ImageNet, from the installed open_clip",
}

_SIMPLE = ("itap", "bad_photo", "origami", "photo_large", "video_game", "art", "photo_small")

#: Variant -> columns of the label set that may hold it; the first that exists is taken. ``noun``
#: is a name made for prompts, without its article ("red kangaroo" for "A red kangaroo"); ``clean``
#: the first lemma that no other class has; ``paper`` the paper's name with its suffix;
#: ``open_clip`` the curated name of ImageNet-1k in open_clip; ``user`` that in a user's file.
VARIANTS: dict[str, tuple[str, ...]] = {
    "name": ("noun", "name"),
    "lemmas": ("lemmas",),
    "definition": ("definition",),
    "clean": ("clean_name",),
    "paper": ("paper_name",),
    "open_clip": ("open_clip_name",),
    "user": ("user_name",),
}

#: Columns of the label set that prompts take along, where it has them.
_CARRIED = ("split", "shared_name", "name_group", "shared_lemmas", "lemmas_group")


def class_prompts(
    classes: pl.DataFrame,
    variants: Sequence[str] = ("name",),
    templates: Sequence[str] | Mapping[str, str] = ("none", "photo"),
) -> pl.DataFrame:
    """Return the class_name items of a label set: every class × variant × template.

    Parameters
    ----------
    classes : DataFrame
        A label set (CLASS_SCHEMA).
    variants : sequence of str
        Keys of VARIANTS.
    templates : sequence of str, or mapping
        Keys of TEMPLATES or TEMPLATE_SETS; or one's own, template id -> text with ``{}``, and
        ``{a}`` for its article.

    Returns
    -------
    DataFrame
        Items of kind class_name, classes in the order of their index, the variants and
        templates of a class in the order given; item_id is
        ``<class_id>#<variant>#<template_id>``. ``split``, ``shared_name``, ``name_group``,
        ``shared_lemmas`` and ``lemmas_group`` of the classes are carried along.

    Raises
    ------
    ManifestError
        If a variant or template is unknown or given twice, or a class lacks a variant.
    """
    import polars as pl

    from featstore.manifest import conform_classes, conform_items
    from featstore.manifest_files import text_sha256

    labels = conform_classes(classes).sort("index")
    _check_known("variant", variants, VARIANTS)
    texts = templates if isinstance(templates, Mapping) else template_texts(templates)
    columns = {variant: _column(labels, variant) for variant in variants}
    carried = [name for name in _CARRIED if name in labels.columns]
    class_id = pl.col("class_id")
    # A frame a prompt, interleaved by class afterwards: 80 templates on 21,841 classes are 1.7
    # million rows, which as dictionaries would take gigabytes.
    parts = [
        labels.select(
            item_id=class_id + f"#{variant}#{template}",
            text=_filled(text, column),
            class_id=class_id,
            variant=pl.lit(variant),
            template_id=pl.lit(template),
            **{name: pl.col(name) for name in carried},
        )
        for variant, column in columns.items()
        for template, text in texts.items()
    ]
    stacked = pl.concat(parts)
    order = pl.int_range(stacked.height, eager=True)
    table = stacked.select(
        pl.all().gather((order % len(parts)) * labels.height + order // len(parts))
    )
    hashes = pl.Series([text_sha256(text) for text in table["text"]], dtype=pl.String)
    table = table.with_columns(content_sha256=hashes)
    return conform_items(table, "class_name")


def _filled(template: str, column: str) -> pl.Expr:
    """Return a template with texts of a column in every ``{}``, and their article in ``{a}``."""
    import polars as pl

    vowel = pl.col(column).str.contains("^(?i)[aeio]")
    article = pl.when(vowel).then(pl.lit("an")).otherwise(pl.lit("a"))
    filled = {"{}": pl.col(column), "{a}": article}
    return pl.concat_str(
        [filled.get(part, pl.lit(part)) for part in re.split(r"(\{a?\})", template)]
    )


def template_texts(templates: Sequence[str]) -> dict[str, str]:
    """Return template id -> text of templates and sets of templates.

    Raises
    ------
    ManifestError
        If one is unknown or given twice, or open_clip is needed and not installed.
    """
    from data_manifests.labels import openai_templates
    from data_manifests.plan import BuildError

    _check_known("template", templates, {**TEMPLATES, **TEMPLATE_SETS})
    texts: dict[str, str] = {}
    for name in templates:
        if name == "simple":
            texts |= {own: TEMPLATES[own] for own in _SIMPLE}
        elif name == "openai80":
            try:
                found = openai_templates()
            except BuildError as err:
                raise ManifestError(str(err)) from err
            texts |= {f"openai80-{n:02d}": text for n, text in enumerate(found)}
        else:
            texts[name] = TEMPLATES[name]
    return texts


def _column(labels: pl.DataFrame, variant: str) -> str:
    """Return the column that holds a variant; every class must have it."""
    import polars as pl

    column = next((name for name in VARIANTS[variant] if name in labels.columns), "")
    if not column:
        filled = {name for name in labels.columns if labels[name].null_count() < labels.height}
        held = [key for key, columns in VARIANTS.items() if set(columns) & filled]
        raise ManifestError(
            f"The label set has no {VARIANTS[variant][-1]}, so no variant {variant!r}. It may "
            f"have: {', '.join(held)}."
        )
    empty = labels.filter(pl.col(column).fill_null("").str.strip_chars() == "")["class_id"]
    if len(empty):
        raise ManifestError(
            f"{len(empty):,} of {labels.height:,} classes have no {column} (first: {empty[0]!r}). "
            f"Leave the variant {variant!r} out, or complete the label set."
        )
    return column


def _check_known(what: str, given: Sequence[str], known: Mapping[str, object]) -> None:
    if isinstance(given, str):
        raise ManifestError(
            f"The {what}s must be a list of names; got the string {given!r}. Give [{given!r}]."
        )
    for name in given:
        lookup(known, name, what=what, error=ManifestError)
    if not given or len(set(given)) != len(given):
        raise ManifestError(f"The {what}s must be at least one and each once; got {list(given)}.")


_TEXTS = (
    "a JSON list in the order of the classes, an object class -> text or list of texts (CuPL), or "
    "an object dataset -> either (CLIP_benchmark)"
)
_TEMPLATES = (
    "a JSON list of templates with {} or {c} for the name, or an object dataset -> such a list "
    "(CLIP_benchmark)"
)


def read_texts(path: Path, keys: Sequence[str], classes: pl.DataFrame) -> dict[str, list[str]]:
    """Read texts by class: its names, or sentences on it.

    Parameters
    ----------
    path : Path
        A list in the order of the classes; or ``{class: text, or list of texts}``, where a class
        is written as in the label set, see `class_words`; or ``{dataset: either}``.
    keys : sequence of str
        What the dataset goes by.
    classes : DataFrame
        The label set.

    Returns
    -------
    dict
        class_id -> its texts, at least one of each class.

    Raises
    ------
    ManifestError
        If the file cannot be read, is of another form, or lacks a class.
    """
    document, ids = _load(path, keys, _TEXTS), classes.sort("index")["class_id"].to_list()
    if isinstance(document, dict):
        found = _by_class(path, document, classes)
    elif len(document) == len(ids):
        found = dict(zip(ids, document, strict=True))
    else:
        raise ManifestError(f"{path} has {len(document):,} texts for {len(ids):,} classes.")
    texts = {}
    for key, given in found.items():
        own = given if isinstance(given, list) else [given]
        texts[key] = [text.strip() for text in own if isinstance(text, str) and text.strip()]
        if not texts[key]:
            raise ManifestError(f"{path} has no text for the class {key!r}. It should be {_TEXTS}.")
    return texts


def read_templates(path: Path, keys: Sequence[str]) -> dict[str, str]:
    """Read templates: id -> text with one ``{}``; ids are made of the texts.

    Raises
    ------
    ManifestError
        If the file cannot be read, is of another form, or a template has no place for the name.
    """
    document = _load(path, keys, _TEMPLATES)
    if not isinstance(document, list) or not document:
        raise ManifestError(f"{path} holds no templates for {keys[0]}. It should be {_TEMPLATES}.")
    return template_ids(document, str(path))


def template_ids(
    texts: Iterable[Any], where: str, known: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """Return id -> template with one ``{}``; ids are those of `known` texts, else made of the text.

    Raises
    ------
    ManifestError
        If a template has no place for the name.
    """
    found = {}
    for text in texts:
        plain = text.replace("{c}", "{}") if isinstance(text, str) else ""
        if plain.count("{}") != 1:
            raise ManifestError(f"The template {text!r} of {where} must hold {{}} or {{c}} once.")
        found[known.get(plain) or f"t{sha256_hex(plain.encode())[:8]}"] = plain
    return found


def class_words(classes: pl.DataFrame) -> dict[str, set[str]]:
    """Return class_id -> what files may call a class: label, synset and every name it has.

    Case, ``_`` and repeated spaces do not matter.
    """
    columns = [column for column in classes.columns if column != "shared_name"]  # true or false
    named = [c for c in columns if c in ("synset", "name", "noun") or c.endswith("_name")]
    words: dict[str, set[str]] = {}
    for row in classes.select("class_id", *named).iter_rows(named=True):
        label = row["class_id"].partition("/")[2]
        given = [label, *(row[column] for column in named)]
        words[row["class_id"]] = {normal(text) for text in given if text}
    return words


def normal(text: str) -> str:
    """Return a name in lower case, with single spaces for ``_`` and runs of spaces."""
    return " ".join(text.replace("_", " ").casefold().split())


def _by_class(path: Path, document: Mapping[str, Any], classes: pl.DataFrame) -> dict[str, Any]:
    """Return the entries of an object by class_id, in the order of the classes."""
    entries = {normal(key): value for key, value in document.items()}
    found, lost = {}, []
    for class_id, words in class_words(classes.sort("index")).items():
        hits = [word for word in words if word in entries]
        if len(hits) == 1:
            found[class_id] = entries[hits[0]]
        elif hits:
            raise ManifestError(
                f"{path} has several entries for the class {class_id!r}: {sorted(hits)}."
            )
        else:
            lost.append(class_id)
    if lost:
        raise ManifestError(
            f"{path} has no entry for {len(lost):,} of {classes.height:,} classes: "
            f"{', '.join(map(repr, lost[:5]))}. It should be {_TEXTS}."
            f"{did_you_mean(lost[0].partition('/')[2], list(document))}"
        )
    return found


def _load(path: Path, keys: Sequence[str], form: str) -> Any:
    """Return a list or an object: the part about the dataset, or all if it has no such part."""
    import json

    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as err:
        raise ManifestError(
            f"Cannot read {path}: {getattr(err, 'strerror', None) or err}. It should be {form}."
        ) from err
    if not isinstance(document, dict | list):
        raise ManifestError(f"{path} holds a {type(document).__name__}. It should be {form}.")
    parts = [document[key] for key in keys if key in document] if isinstance(document, dict) else []
    return next((part for part in parts if isinstance(part, dict | list)), document)


def parse_prompts(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the variants and templates of ``VARIANT[,…][:TEMPLATE[,…]]``.

    Raises
    ------
    ValueError
        If a part is empty.

    Examples
    --------
    >>> parse_prompts("name,definition:none,photo"), parse_prompts(":photo")
    ((('name', 'definition'), ('none', 'photo')), ((), ('photo',)))
    """
    both = [
        tuple(part.strip() for part in half.split(",")) if half else ()
        for half in text.partition(":")[::2]
    ]
    if not any(both) or not all(map(all, both)):
        raise ValueError(f"expected VARIANT[,…][:TEMPLATE[,…]]; got {text!r}")
    return both[0], both[1]


@with_options
@dataclass(frozen=True)
class PromptChoice:
    """What to make class_name items of. Nothing chosen: what the dataset's builder says.

    Attributes
    ----------
    {options}
    """

    variants: tuple[str, ...] = option(
        (), help="Make prompts of these names, keys of VARIANTS.", flag=None
    )
    templates: tuple[str, ...] = option(
        (), help="Put the names into these templates, keys of TEMPLATES or TEMPLATE_SETS.",
        flag=None,
    )  # fmt: skip
    names_file: Path | None = option(
        None,
        help="Read a name for each class, of several texts the first, from this JSON file, laid "
        "out as in CLIP_benchmark; they are the variant user.",
        flag="-s",
    )
    templates_file: Path | None = option(
        None,
        help="Read templates from this JSON file, laid out as in CLIP_benchmark: {} or {c} "
        "stands for the name, {a} for its article.",
        flag="-s",
    )
    descriptions_file: Path | None = option(
        None,
        help="Read sentences for each class from this JSON file, laid out as in CuPL; they "
        "are the variant description.",
        flag="-s",
    )

    def make(
        self, dataset: str, classes: pl.DataFrame, usual: Mapping[str, Sequence[str]]
    ) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        """Return the label set, completed by what was asked for, and its class_name items.

        Raises
        ------
        ManifestError
            If a variant or template is unknown, a class lacks one, or a file is of another form.
        """
        import polars as pl

        keys = self._keys(dataset)
        variants = list(self.variants)
        if "open_clip" in variants and "open_clip_name" not in classes.columns:
            classes = _with_open_clip(classes)
        if self.names_file is not None:
            names = {key: own[0] for key, own in read_texts(self.names_file, keys, classes).items()}
            classes = classes.with_columns(
                user_name=pl.col("class_id").replace_strict(names, return_dtype=pl.String)
            )
            variants += ["user"] if "user" not in variants else []
        parts = []
        if not variants and not self.templates and self.templates_file is None:
            parts = [class_prompts(classes, (v,), templates) for v, templates in usual.items()]
        elif variants or usual:
            parts = [class_prompts(classes, variants or list(usual), self._templates(keys))]
        if self.descriptions_file is not None:
            parts.append(_descriptions(self.descriptions_file, keys, classes))
        return classes, pl.concat(parts, how="diagonal") if parts else None

    def fingerprint(self, of_plan: str) -> str:
        """Return the fingerprint of a plan with these prompts; the plan's own without a choice."""
        from data_manifests.plan import fingerprint

        if not self.facts():
            return of_plan
        return fingerprint(
            [
                of_plan,
                repr((list(self.variants), list(self.templates))),
                *(file.read_bytes() for file in self._files().values()),
            ]
        )

    def facts(self) -> dict[str, Any]:
        """Return what a manifest records of the choice."""
        chosen = {"variants": list(self.variants), "templates": list(self.templates)}
        return {
            **{key: names for key, names in chosen.items() if names},
            **{key: file.name for key, file in self._files().items()},
        }

    def _files(self) -> dict[str, Path]:
        named = ("names_file", "templates_file", "descriptions_file")
        return {key: getattr(self, key) for key in named if getattr(self, key) is not None}

    def _templates(self, keys: Sequence[str]) -> Sequence[str] | Mapping[str, str]:
        if self.templates_file is not None:
            own = read_templates(self.templates_file, keys)
            return template_texts(self.templates) | own if self.templates else own
        return self.templates or ("none", "photo")

    @staticmethod
    def _keys(dataset: str) -> tuple[str, ...]:
        """Return the names that a dataset goes by in files of CLIP_benchmark."""
        from data_manifests.registry import BUILDERS

        facts = BUILDERS[dataset].facts if dataset in BUILDERS else {}
        return tuple(dict.fromkeys((dataset, str(facts.get("clip_benchmark", dataset)))))


def _with_open_clip(classes: pl.DataFrame) -> pl.DataFrame:
    """Add open_clip's names, which are those of the 1,000 synsets of ImageNet-1k."""
    import polars as pl

    from data_manifests.labels import imagenet_names
    from data_manifests.plan import BuildError
    from data_manifests.registry import BUILDERS

    if "synset" not in classes.columns or classes["synset"].null_count() == classes.height:
        raise ManifestError(
            "open_clip has names of ImageNet-1k's synsets alone; these classes have no synsets."
        )
    try:
        names = imagenet_names()
        order = BUILDERS["imagenet1k"].plan().make(Path(), None).classes
    except BuildError as err:
        raise ManifestError(str(err)) from err
    assert order is not None
    by_synset = dict(zip(order["synset"], names, strict=True))
    return classes.with_columns(
        open_clip_name=pl.col("synset").replace_strict(
            by_synset, default=None, return_dtype=pl.String
        )
    )


def _descriptions(file: Path, keys: Sequence[str], classes: pl.DataFrame) -> pl.DataFrame:
    """Return the sentences of a CuPL file as items of the variant ``description``."""
    import polars as pl

    from featstore.manifest_files import text_sha256

    rows = [
        {
            "item_id": f"{class_id}#description#d{number:03d}",
            "text": text,
            "class_id": class_id,
            "variant": "description",
            "template_id": f"d{number:03d}",
            "content_sha256": text_sha256(text),
        }
        for class_id, texts in read_texts(file, keys, classes).items()
        for number, text in enumerate(texts)
    ]
    return pl.DataFrame(rows).with_columns(kind=pl.lit("class_name"))


#: The variant of class names that is a sentence of its own, and the template that adds nothing.
DEFINITION, BARE = "definition", "none"


def text_formula(variants: Sequence[str]) -> str:
    """Return in words how `class_texts` makes the text of a class of prompts of these variants.

    Examples
    --------
    >>> text_formula(["name"]), text_formula(["name", "definition"])
    ('unit(mean of name prompts)', 'unit(unit(mean of name prompts) + definition)')
    """
    parts = [name if name == DEFINITION else f"unit(mean of {name} prompts)" for name in variants]
    return parts[0] if len(parts) == 1 else f"unit({' + '.join(parts)})"


def class_texts(
    view: View,
    *,
    variants: Sequence[str] | str | None = None,
    templates: Sequence[str] | str | None = None,
) -> View:
    """Reduce class × variant × template prompts to one row per class.

    Each prompt is L2-normalised, the prompts of a class are averaged, and the mean is
    L2-normalised (encode → L2 → mean → L2, as open_clip does), so that 80 templates give a
    class no more mass than one. Of several variants each has such a mean, and the means are
    averaged likewise, so that a name under two templates has no more say than its definition.

    A definition stands bare: of the variant ``definition`` only the template ``none`` is taken
    beside other variants, whatever the templates. "A photo of a <definition>" is no sentence.

    Parameters
    ----------
    view : Selection
        Of kind class_name.
    variants, templates : sequence of str, or str, optional
        Which to use, or the only one; all by default. A class lacking one of the variants keeps
        the others.

    Returns
    -------
    Selection
        One row per class in order of first appearance; its items are the class's first
        prompt, with ``item_id`` = class_id.

    Raises
    ------
    EmptySelectionError
        If a variant or template does not occur, or a class has none of those asked for.
    """
    import numpy as np
    import polars as pl

    from featstore.store.rows import MemoryRows
    from featstore.store.tables import ItemTable

    chosen = view
    # A text is a sequence of letters, too.
    variants = [variants] if isinstance(variants, str) else variants
    templates = [templates] if isinstance(templates, str) else templates
    if variants is not None:
        _require(view, "variant", variants)
        chosen = chosen.where(variant=list(variants))
    if templates is not None:
        _require(view, "template_id", templates)
        kept = chosen.items["template_id"].is_in(list(templates))
        defined = chosen.items["variant"] == DEFINITION
        bare = defined & (chosen.items["template_id"] == BARE)
        if bare.any() and not defined.all():
            kept = (kept & ~defined) | bare
        chosen = chosen.take(np.flatnonzero(kept.fill_null(value=False).to_numpy()))
    classes = chosen.items["class_id"]
    if classes.null_count():
        raise EmptySelectionError(
            f"{classes.null_count():,} items of {view.key} have no class_id; they are not class "
            "names."
        )
    order = classes.unique(maintain_order=True)
    lost = set(view.items["class_id"].drop_nulls()) - set(order)
    if lost:
        raise EmptySelectionError(
            f"{len(lost):,} classes of {view.key} have none of the variants and templates asked "
            f"for (first: {min(lost)!r})."
        )
    index = classes.replace_strict(order, range(len(order)), return_dtype=pl.Int64).to_numpy()
    of_variant = chosen.items["variant"].fill_null("")
    variants = of_variant.unique(maintain_order=True).to_list()
    number = of_variant.replace_strict(
        variants, range(len(variants)), return_dtype=pl.Int64
    ).to_numpy()
    data = chosen.normalized().numpy(np.float64)
    both, pair = np.unique(index * len(variants) + number, return_inverse=True)
    means = _unit_means(data, pair, len(both))
    if len(variants) > 1:
        means = _unit_means(means, both // len(variants), len(order))
    zero = np.flatnonzero(~means.any(axis=1))
    if zero.size:
        raise EmptySelectionError(f"The prompts of class {order[int(zero[0])]!r} cancel out.")
    first = np.unique(index, return_index=True)[1]
    items = chosen.items[first].with_columns(pl.col("class_id").alias("item_id"))
    by = "l2-mean-l2" if len(variants) == 1 else "l2-mean-l2 by variant"
    facts = {"class_texts": chosen.fingerprint, "reduction": by}
    return replace(
        chosen,
        source=MemoryRows(means.astype(np.float32)),
        rows=np.arange(len(order)),
        table=ItemTable(None, items),
        revision_id=sha256_hex(canonical_json(facts)),
        unit=False,
        origin=None,
    )


def _unit_means(rows: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the mean row of each group, of length 1; 0 where the rows of one cancel out."""
    import numpy as np

    sums = np.zeros((n_groups, rows.shape[1]))
    np.add.at(sums, group, rows)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.divide(sums, lengths, out=sums, where=lengths > 0)


def _require(view: Selection, column: str, wanted: Sequence[str]) -> None:
    """Raise if one of the wanted values does not occur: it would silently change nothing."""
    known = set(view.items[column].drop_nulls().to_list())
    absent = [value for value in wanted if value not in known]
    if absent or not wanted:
        raise EmptySelectionError(
            f"{view.key} has no {column} {listed(absent) if wanted else '(none asked for)'}. It "
            f"has: {listed(sorted(known), shown=LISTED)}."
        )
