"""Prompts: the texts of a class, from the variants of its name and templates around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from featstore.errors import ManifestError, did_you_mean
from featstore.manifest.hashes import text_sha256
from featstore.manifest.schema import conform_classes, conform_items

#: Template id -> text with one ``{}``. ``photo`` is CLIP's standard prompt; the seven behind it
#: are the subset of its 80 ImageNet templates that its authors chose by forward selection
#: (openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb). The article is always "a".
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
}

#: Variant -> columns of the label set that may hold it; the first that exists is taken. ``noun``
#: is a name made for prompts, without its article ("red kangaroo" for "A red kangaroo").
VARIANTS: dict[str, tuple[str, ...]] = {
    "name": ("noun", "name"),
    "lemmas": ("lemmas",),
    "definition": ("definition",),
}

#: Columns of the label set that prompts take along, where it has them.
_CARRIED = ("split", "shared_name", "name_group")


def class_prompts(
    classes: pl.DataFrame,
    variants: Sequence[str] = ("name",),
    templates: Sequence[str] = ("none", "photo"),
) -> pl.DataFrame:
    """Return the class_name items of a label set: every class × variant × template.

    Parameters
    ----------
    classes : DataFrame
        A label set (CLASS_SCHEMA).
    variants : sequence of str
        Keys of VARIANTS.
    templates : sequence of str
        Keys of TEMPLATES.

    Returns
    -------
    DataFrame
        Items of kind class_name, classes in the order of their index, the variants and
        templates of a class in the order given; item_id is
        ``<class_id>#<variant>#<template_id>``. ``split``, ``shared_name`` and ``name_group`` of
        the classes are carried along.

    Raises
    ------
    ManifestError
        If a variant or template is unknown or given twice, or a class lacks a variant.
    """
    labels = conform_classes(classes).sort("index")
    _check_known("variant", variants, VARIANTS)
    _check_known("template", templates, TEMPLATES)
    columns = {variant: _column(labels, variant) for variant in variants}
    rows = [
        {
            "item_id": f"{row['class_id']}#{variant}#{template}",
            "text": TEMPLATES[template].replace("{}", row[column]),
            "class_id": row["class_id"],
            "variant": variant,
            "template_id": template,
            **{name: row[name] for name in _CARRIED if name in labels.columns},
        }
        for row in labels.iter_rows(named=True)
        for variant, column in columns.items()
        for template in templates
    ]
    extra = {name: labels.schema[name] for name in _CARRIED if name in labels.columns}
    table = pl.DataFrame(rows, schema_overrides=extra).with_columns(
        content_sha256=pl.col("text").map_elements(text_sha256, return_dtype=pl.String)
    )
    return conform_items(table, "class_name")


def _column(labels: pl.DataFrame, variant: str) -> str:
    """Return the column that holds a variant; every class must have it."""
    column = next((name for name in VARIANTS[variant] if name in labels.columns), variant)
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
