"""What an alignment is fitted on: prototypes and real pairs, prepared side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy.typing as npt

from featstore.cards import Card, Shown
from fitters.errors import PairsError
from fitters.moments.transform import SideTransform, append_column, row_norms
from fitters.pairs import Pairs
from fitters.settings import Centring, Preparation

#: What has a number of rows, `n`.
P = TypeVar("P", bound=Any)


@dataclass(frozen=True, eq=False, repr=False)
class Sources(Shown, Generic[P]):
    """What is fitted on: transformed rows of both sources, or their moments.

    Attributes
    ----------
    prototypes, real : P or None
        `Pairs`, `Folds` of moments, or a `fitters.trained.training.PairSource`: what has `n`.
    image, text : SideTransform
        What is done to rows to come.
    image_centre, text_centre : str
        Whose mean each side is centred by.
    bias : ndarray of shape (c,), optional
        The head's bias, one value a prototype.

    Examples
    --------
    >>> pairs = Pairs(np.eye(4), np.eye(4, 3) + 1)
    >>> data = METHODS["ridge"].sources(FitConfig("ridge"), real=pairs)
    >>> data.mixed, data.image_centre, data.text_centre
    (False, 'real images', 'real texts')
    """

    prototypes: P | None
    real: P | None
    image: SideTransform
    text: SideTransform
    image_centre: str = "none"
    text_centre: str = "none"
    bias: npt.NDArray[Any] | None = None

    @property
    def given(self) -> tuple[P, ...]:
        """The sources that there are, prototypes first."""
        return tuple(source for source in (self.prototypes, self.real) if source is not None)

    @property
    def mixed(self) -> bool:
        """Whether there are prototypes and real pairs."""
        return len(self.given) == 2

    def masses(self, mix: float) -> tuple[float, ...]:
        """Return what each of `given` is multiplied by: prototypes by `mix` if there are both."""
        return (mix, 1.0) if self.mixed else (1.0,)

    def beside(self: Sources[Pairs], real: Pairs) -> Sources[Pairs]:
        """Return these prototypes beside raw real pairs, of which no transform is made."""
        return replace(self, real=_transformed(real, self.image, self.text))

    def _card(self) -> Card:
        named = {"prototypes": self.prototypes, "real pairs": self.real}
        counts = {what: None if one is None else f"{one.n:,}" for what, one in named.items()}
        sides = {"images": self.image.steps, "texts": self.text.steps}
        return Card("Sources, prepared", {**counts, **sides})


def prepare(
    prototypes: Pairs | None,
    real: Pairs | None,
    image_mean: npt.NDArray[Any] | None,
    *,
    how: Preparation = Preparation(),
    bias_column: npt.NDArray[Any] | None = None,
    blocks: tuple[int, ...] = (),
) -> Sources[Pairs]:
    """Return both sources transformed as `fitters.alignment.fit` says.

    `bias_column` goes to the prototypes as a column more, and 1 to the images. `blocks` are the
    columns of each encoder, where images and prototypes are rows of several side by side.

    Raises
    ------
    PairsError
        If the mean has another number of values than the images get.
    ZeroRowError
        If a row that is fitted on has no direction, raw or not.
    """
    wide = bias_column is not None
    if prototypes is not None and bias_column is not None:
        x = append_column(prototypes.x, bias_column)
        prototypes = replace(prototypes, x=x)
    if how.alike and real is not None:
        real = Pairs(real.x, real.y, real.groups)
    text_source = real if prototypes is None else prototypes
    assert text_source is not None
    text, text_centre = _plain(how.texts, "texts"), "none"
    if how.texts == "centred":
        text = SideTransform.fit([(text_source.y, text_source.row_weight)], label="texts")
        text_centre = "real texts" if prototypes is None else "class texts"
    image, head, image_centre = (
        replace(_plain(how.images, "images", homogeneous=wide), blocks=blocks),
        replace(_plain(how.images, "prototypes"), blocks=blocks), "none",
    )  # fmt: skip
    if how.images == "centred":
        if image_mean is not None:
            # Prototypes have their column already.
            width = text_source.x.shape[1] + (wide and prototypes is None)
            if image_mean.shape != (width,):
                column = " and then 1 for the bias's column" if wide else ""
                raise PairsError(
                    f"The images' mean has shape {image_mean.shape}; it needs {width:,} values. "
                    f"Take it of embeddings of the same encoder{column}."
                )
            image, image_centre = replace(image, mean=image_mean), "given mean"
        elif real is not None:
            batches = [(real.x, real.row_weight)]
            image = SideTransform.fit(batches, label="images", homogeneous=wide, blocks=blocks)
            image_centre = "real images"
        if prototypes is not None:
            rows = [(prototypes.x, prototypes.row_weight)]
            head = SideTransform.fit(rows, label="prototypes", blocks=blocks)
    return Sources(
        None if prototypes is None else _transformed(prototypes, head, text),
        None if real is None else _transformed(real, image, text),
        image, text, image_centre, text_centre,
    )  # fmt: skip


def _plain(rows: Centring, label: str, *, homogeneous: bool = False) -> SideTransform:
    """Return the transform that centres nothing."""
    if rows == "raw":
        return SideTransform.identity(label)
    return SideTransform(label=label, homogeneous=homogeneous)


def _transformed(pairs: Pairs, image: SideTransform, text: SideTransform) -> Pairs:
    for rows, side in ((pairs.x, image), (pairs.y, text)):
        if not side.normalize:  # which would find them
            row_norms(rows, what=side.label)
    asked = None if pairs.asked is None else text.apply(pairs.asked)
    return replace(pairs, x=image.apply(pairs.x), y=text.apply(pairs.y), asked=asked)
