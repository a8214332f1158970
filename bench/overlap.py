"""Which classes of a dataset a head's label set has: overlap of label sets by their names.

Class ids of two label sets never agree, so names decide. A class is *seen* if one of its names
is one of the head's. Names are the bare ones (template ``none``, variants ``name`` and ``lemmas``
where there are such), cut at commas ("plant, flora, plant life" is three), without case, leading
article, underscore, hyphen and double blank. Words are not stemmed, and "a kind of" is not
followed: "golden retriever" is seen, "dog" is not, where the head has only the breed.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

_VARIANTS = ("name", "lemmas")
_BARE = "none"


def seen_classes(
    names: pl.DataFrame, head_names: pl.DataFrame, classes: NDArray[Any]
) -> NDArray[np.bool_]:
    """Return for every class whether the head's label set has it, shape (c,).

    Parameters
    ----------
    names, head_names : DataFrame
        Items of kind class_name, of the dataset and of the head.
    classes : array of str, shape (c,)
        class_id of the dataset's classes that are asked about.
    """
    known = set[str]().union(*class_name_forms(head_names).values())
    ids = set(head_names["class_id"].drop_nulls())
    own = class_name_forms(names)
    return np.array([c in ids or not known.isdisjoint(own.get(str(c), ())) for c in classes], bool)


def class_name_forms(items: pl.DataFrame) -> dict[str, set[str]]:
    """Return the names of every class, as they are compared."""
    bare = items
    for column, wanted in (("template_id", [_BARE]), ("variant", list(_VARIANTS))):
        kept = bare.filter(pl.col(column).is_in(wanted))
        bare = kept if kept.height else bare
    forms: dict[str, set[str]] = {}
    for class_id, text in bare.select("class_id", "text").drop_nulls().iter_rows():
        forms.setdefault(class_id, set()).update(_forms(text))
    return forms


def _forms(text: str) -> set[str]:
    parts = (re.sub(r"[\s_-]+", " ", part).strip().casefold() for part in text.split(","))
    return {re.sub(r"^(?:an?|the|some) ", "", part).rstrip(".!?") for part in parts} - {""}
