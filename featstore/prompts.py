"""Prompts: the texts of a class, from the variants of its name and templates around them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import polars as pl

from data_manifests.open_clip_lists import openai_templates
from data_manifests.plan import BuildError
from featstore.errors import ManifestError, did_you_mean
from featstore.manifest.hashes import text_sha256
from featstore.manifest.schema import conform_classes, conform_items

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
    column = next((name for name in VARIANTS[variant] if name in labels.columns), "")
    if not column:
        filled = {name for name in labels.columns if labels[name].null_count() < labels.height}
        held = [key for key, columns in VARIANTS.items() if set(columns) & filled]
        msg = (
            f"The label set has no {VARIANTS[variant][-1]}, so no variant {variant!r}. It may "
            f"have: {', '.join(held)}."
        )
        raise ManifestError(msg)
    empty = labels.filter(pl.col(column).fill_null("").str.strip_chars() == "")["class_id"]
    if len(empty):
        msg = (
            f"{len(empty):,} of {labels.height:,} classes have no {column} (first: {empty[0]!r}). "
            f"Leave the variant {variant!r} out, or complete the label set."
        )
        raise ManifestError(msg)
    return column


def _check_known(what: str, given: Sequence[str], known: Mapping[str, object]) -> None:
    if isinstance(given, str):
        msg = f"The {what}s must be a list of names; got the string {given!r}. Give [{given!r}]."
        raise ManifestError(msg)
    for name in given:
        if name not in known:
            msg = (
                f"No {what} named {name!r}. Known {what}s: {', '.join(known)}."
                f"{did_you_mean(name, known)}"
            )
            raise ManifestError(msg)
    if not given or len(set(given)) != len(given):
        msg = f"The {what}s must be at least one and each once; got {list(given)}."
        raise ManifestError(msg)
