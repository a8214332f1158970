"""Which classes of one label set are in another: by synset, or by exact lemma."""

from __future__ import annotations

import polars as pl

from featstore.errors import ManifestError


def crosswalk(classes: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Return which classes of two label sets are the same synset.

    Parameters
    ----------
    classes, others : DataFrame
        Label sets (CLASS_SCHEMA) with synsets. A class without one matches nothing.

    Returns
    -------
    DataFrame
        One row a match, in the order of `classes`: synset, class_id, index, other_id,
        other_index.

    Raises
    ------
    ManifestError
        If one of them has no synsets.
    """
    for table in (classes, others):
        if "synset" not in table.columns or table["synset"].null_count() == table.height:
            first = table["class_id"][0] if table.height else "none"
            msg = (
                f"The label set of {first!r} has no synsets, so there is no crosswalk. Compare by "
                "lemma: `featstore.label_overlap.overlap`."
            )
            raise ManifestError(msg)
    left = classes.sort("index").select("synset", "class_id", "index")
    right = others.select("synset", other_id="class_id", other_index="index")
    return left.join(right.drop_nulls("synset"), on="synset", maintain_order="left_right")


def overlap(classes: pl.DataFrame, label_set: pl.DataFrame) -> pl.DataFrame:
    """Return which classes of a dataset a head has seen, by exact lemma.

    The rule: a class is in the label set if one of its names equals one of the lemmas of a class
    there, both in lower case, with single spaces for ``_``, ``-`` and runs of spaces. Nothing else
    is done: no plurals, no stemming, no part of a name ("hot dog" is not "dog", and "pancakes" is
    not "pancake"). Where the dataset has synsets, a shared synset counts as well. A lemma may
    name several classes (crane the bird, crane the machine); each is a row.

    Parameters
    ----------
    classes : DataFrame
        The dataset's label set: `name`, and `lemmas` where there are any.
    label_set : DataFrame
        That of a head: `lemmas`, else `name`.

    Returns
    -------
    DataFrame
        One row a match, in the order of `classes`: class_id, name, other_id, other_index, lemma
        (null for a match by synset alone), rule (``lemma`` or ``synset``).
    """
    words = _words(classes).rename({"word": "lemma"})
    theirs = _words(label_set).select(other_id="class_id", other_index="index", lemma="word")
    by_lemma = words.join(theirs, on="lemma").with_columns(rule=pl.lit("lemma"))
    columns = ("class_id", "index", "name", "other_id", "other_index", "lemma", "rule")
    parts = [by_lemma.select(columns)]
    if all("synset" in t.columns and t["synset"].null_count() < t.height for t in
           (classes, label_set)):  # fmt: skip
        names = classes.select("class_id", "name")
        same = crosswalk(classes, label_set).join(names, on="class_id")
        alone = same.join(by_lemma, on=["class_id", "other_id"], how="anti").with_columns(
            lemma=pl.lit(None, dtype=pl.String), rule=pl.lit("synset")
        )
        parts.append(alone.select(columns))
    found = pl.concat(parts).unique(["class_id", "other_id"], keep="first", maintain_order=True)
    return found.sort("index", "other_index").drop("index")


def _words(classes: pl.DataFrame) -> pl.DataFrame:
    """Return class_id, index, name and word of every way to write a class."""
    lemmas = pl.col("lemmas") if "lemmas" in classes.columns else pl.lit(None, dtype=pl.String)
    both = pl.concat_list(pl.col("name"), lemmas.str.split(",").fill_null([]))
    return (
        classes.with_columns(word=both)
        .explode("word")
        .with_columns(
            word=pl.col("word")
            .str.to_lowercase()
            .str.replace_all(r"[\s_-]+", " ")
            .str.strip_chars()
        )
        .filter(pl.col("word") != "")
        .unique(["class_id", "word"], keep="first", maintain_order=True)
        .select("class_id", "index", "name", "word")
    )
