"""Preprocessing per source: unit rows, centred by the mean of their own source, unit rows again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from fitters.errors import PairsError
from fitters.moments.transform import SideTransform, append_column
from fitters.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Sources:
    """Transformed rows of both sources, and the transforms of rows to come.

    Attributes
    ----------
    prototypes, real : Pairs or None
    image, text : SideTransform
    image_centre, text_centre : str
        Whose mean each side is centred by.
    """

    prototypes: Pairs | None
    real: Pairs | None
    image: SideTransform
    text: SideTransform
    image_centre: str
    text_centre: str

    @property
    def given(self) -> tuple[Pairs, ...]:
        """The sources that there are, prototypes first."""
        return tuple(source for source in (self.prototypes, self.real) if source is not None)


def prepare(
    prototypes: Pairs | None,
    real: Pairs | None,
    image_mean: npt.NDArray[Any] | None,
    *,
    bias_column: npt.NDArray[Any] | None = None,
    centre: bool = True,
) -> Sources:
    """Return both sources transformed as `fitters.recipe.fit_alignment` says.

    `bias_column` goes to the prototypes as a column more, and 1 to the images. Without `centre`
    rows are brought to unit length and nothing is subtracted.

    Raises
    ------
    PairsError
        If the mean has another number of values than the images get.
    """
    wide = bias_column is not None
    if prototypes is not None and bias_column is not None:
        x = append_column(prototypes.x, bias_column)
        prototypes = Pairs(x, prototypes.y, prototypes.groups, prototypes.weight)
    text_source = real if prototypes is None else prototypes
    assert text_source is not None
    if not centre:
        text = SideTransform(label="texts")
        image = SideTransform(label="images", homogeneous=wide)
        head = SideTransform(label="prototypes")
        return Sources(
            None if prototypes is None else _transformed(prototypes, head, text),
            None if real is None else _transformed(real, image, text),
            image, text, "none", "none",
        )  # fmt: skip
    text = SideTransform.fit([(text_source.y, text_source.row_weight)], label="texts")
    if image_mean is not None:
        # Prototypes have their column already.
        width = text_source.x.shape[1] + (wide and prototypes is None)
        if image_mean.shape != (width,):
            told = " and then 1 for the bias's column" if wide else ""
            msg = (
                f"The images' mean has shape {image_mean.shape}; it needs {width:,} values. Take "
                f"it of embeddings of the same encoder{told}."
            )
            raise PairsError(msg)
        image, from_whom = (
            SideTransform(mean=image_mean, label="images", homogeneous=wide),
            "given mean",
        )
    elif real is not None:
        batches = [(real.x, real.row_weight)]
        image = SideTransform.fit(batches, label="images", homogeneous=wide)
        from_whom = "real images"
    else:
        image, from_whom = SideTransform(label="images", homogeneous=wide), "none"
    if prototypes is not None:
        head = SideTransform.fit([(prototypes.x, prototypes.row_weight)], label="prototypes")
        prototypes = _transformed(prototypes, head, text)
    if real is not None:
        real = _transformed(real, image, text)
    whose = "real texts" if prototypes is None else "class texts"
    return Sources(prototypes, real, image, text, from_whom, whose)


def leave_raw(prototypes: Pairs | None, real: Pairs | None) -> Sources:
    """Return both sources as they are."""
    image, text = SideTransform.identity("images"), SideTransform.identity("texts")
    return Sources(prototypes, real, image, text, "none", "none")


def _transformed(pairs: Pairs, image: SideTransform, text: SideTransform) -> Pairs:
    return Pairs(image.apply(pairs.x), text.apply(pairs.y), pairs.groups, pairs.weight)
