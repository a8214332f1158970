"""What an alignment is fitted on: prototypes and real pairs, prepared side by side.

The rows of a side go through L2 → centre → L2 → feature map.

Unit rows first, because a long row is not a more certain one; then the mean goes, because image
embeddings and head rows each sit in a narrow cone of their own, and the offset between the cones
says nothing about classes; then unit rows again, because scores are cosines. A feature map after
that makes whatever is fitted nonlinear in the rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from featstore.terminal import Card, Shown
from fitters.errors import PairsError, ZeroRowError
from fitters.pairs import Pairs, Rows
from fitters.settings import Centring, Preparation

ROUNDING = 1e-8
"""A centred row this short, relative to the row before, is the mean itself plus rounding."""


def normalize_rows(
    rows: Rows, *, what: str = "rows", shortest: float = 0.0, overwrite: bool = False
) -> npt.NDArray[np.float64]:
    """Return the rows divided by their L2 norms, float64, shape unchanged.

    With `overwrite` rows of float64 are divided where they are.

    Raises
    ------
    ZeroRowError
        If a norm is not above `shortest`, or not finite; the message names the rows, `what` they
        are, and their count.
    """
    rows64 = np.asarray(rows, dtype=np.float64)
    norms = row_norms(rows64, what=what, shortest=shortest)
    # A copy that was made here, or may be lost, need not be made again.
    ours = rows64 is not rows and rows64.flags.owndata
    into = rows64 if overwrite or ours else None
    return np.divide(rows64, norms[:, None], out=into)


def unit_or_zero(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return unit rows, and rows of 0 as they are."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


def row_norms(rows: Rows, *, what: str = "rows", shortest: float = 0.0) -> npt.NDArray[np.float64]:
    """Return the L2 norms of rows, shape (n,); see `normalize_rows` for the arguments.

    Raises
    ------
    ZeroRowError
        If a row has no direction.
    """
    rows64 = np.asarray(rows, dtype=np.float64)
    norms: npt.NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", rows64, rows64))
    bad = np.flatnonzero(~((norms > shortest) & np.isfinite(norms)))
    if len(bad):
        listed = ", ".join(f"{row:,}" for row in bad[:5]) + (", …" if len(bad) > 5 else "")
        raise ZeroRowError(
            f"{len(bad):,} of {len(rows64):,} {what} have norm 0 or a value that is not finite, "
            f"so they have no direction: row {listed}. Drop them before fitting or scoring."
        )
    return norms


def append_column(rows: Rows, last: npt.NDArray[Any] | float) -> Rows:
    """Return the rows with one column more: [w, b] for a head, [f, 1] for images.

    Then w·f + b is a dot product, and the bias plays its part in a cosine.
    """
    column = np.broadcast_to(np.asarray(last, dtype=rows.dtype), (len(rows),))
    return np.concatenate([rows, column[:, None]], axis=1)


Sums = tuple[npt.NDArray[np.float64] | None, float]
"""Σ w row, shape (d,), None if there was no row; and Σ w."""


def sum_rows(
    batches: Iterable[Rows | tuple[Rows, npt.NDArray[Any]]],
    *,
    normalize: bool = True,
    label: str = "rows",
    homogeneous: bool = False,
) -> Sums:
    """Return the weighted sum of rows and the mass; see `SideTransform.fit` for the arguments."""
    total, mass = None, 0.0
    for batch in batches:
        rows, weight = batch if isinstance(batch, tuple) else (batch, None)
        rows = append_column(rows, 1.0) if homogeneous else rows
        rows64 = normalize_rows(rows, what=label) if normalize else np.asarray(rows, np.float64)
        weight64 = np.ones(len(rows64)) if weight is None else np.asarray(weight, np.float64)
        part = weight64 @ rows64
        total = part if total is None else total + part
        mass += float(weight64.sum())
    return total, mass


def mean_of(parts: Iterable[Sums], *, label: str = "rows") -> npt.NDArray[np.float64]:
    """Return the mean of the rows of all parts, added in the order given.

    Raises
    ------
    PairsError
        If there is no row, or no mass.
    """
    total, mass = None, 0.0
    for part, weight in parts:
        if part is not None:
            total = part if total is None else total + part
        mass += weight
    if total is None or mass <= 0:
        raise PairsError(
            f"There are no {label} to take a mean of. Choose a selection that is not empty."
        )
    return total / mass


@dataclass(frozen=True, eq=False, repr=False)
class SideTransform(Shown):
    """What is done to every row of one side before an aligner sees it.

    Attributes
    ----------
    normalize : bool
        Divide each row by its L2 norm first.
    mean : ndarray of shape (d,) or None
        Then subtract this: a mean of rows that went through the first step.
    renormalize : bool
        Then divide by the L2 norm again. Without `mean` it changes nothing after `normalize`.
    homogeneous : bool
        Before all of it, append a column of 1, which meets the bias of a head.
    label : str
        What a row is, for error messages.

    Examples
    --------
    >>> rows = np.random.default_rng(0).standard_normal((40, 8)) + 3
    >>> unit = SideTransform.fit([rows]).apply(rows)
    >>> np.linalg.norm(unit, axis=1).round(6)[:3], bool(np.abs(unit.mean(axis=0)).max() < 0.1)
    (array([1., 1., 1.]), True)
    """

    normalize: bool = True
    mean: npt.NDArray[np.float64] | None = None
    renormalize: bool = True
    label: str = field(default="rows")
    homogeneous: bool = False

    def __post_init__(self) -> None:
        if self.mean is not None:
            mean = np.asarray(self.mean, dtype=np.float64)
            if mean.ndim != 1 or not np.isfinite(mean).all():
                raise PairsError(
                    f"A mean must be a finite vector of shape (d,). Got shape {mean.shape}."
                )
            object.__setattr__(self, "mean", mean)

    @classmethod
    def identity(cls, label: str = "rows") -> SideTransform:
        """Return the transform that changes nothing."""
        return cls(normalize=False, mean=None, renormalize=False, label=label)

    @classmethod
    def fit(
        cls,
        batches: Iterable[Rows | tuple[Rows, npt.NDArray[Any]]],
        *,
        normalize: bool = True,
        renormalize: bool = True,
        label: str = "rows",
        homogeneous: bool = False,
    ) -> SideTransform:
        """Return the transform that centres on the mean of the rows in `batches` (first pass).

        Parameters
        ----------
        batches : iterable of ndarray of shape (b, d), or of (rows, weight)
            Training rows only, read once; ``weight`` of shape (b,).
        normalize, renormalize, homogeneous
            As the attributes; the mean is that of the rows after `normalize`.
        label : str
            What a row is, for error messages.

        Raises
        ------
        PairsError
            If there is no row, or no mass.
        """
        sums = sum_rows(batches, normalize=normalize, label=label, homogeneous=homogeneous)
        return cls(normalize, mean_of([sums], label=label), renormalize, label, homogeneous)

    def apply(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return the transformed rows, float64, shape (n, d) (second pass).

        Raises
        ------
        PairsError
            If the rows have another number of columns than the mean.
        ZeroRowError
            If a row has no direction, before centring or after it.
        """
        if self.homogeneous:
            rows = append_column(rows, 1.0)
        out = (
            normalize_rows(rows, what=self.label)
            if self.normalize
            else np.asarray(rows, dtype=np.float64)
        )
        if self.mean is not None:
            if out.ndim != 2 or out.shape[1] != len(self.mean):
                raise PairsError(
                    f"The {self.label} have shape {out.shape}; this transform was fitted on rows "
                    f"of {len(self.mean)} columns. Pass embeddings of the same encoder."
                )
            length = float(np.linalg.norm(out) / np.sqrt(max(len(out), 1)))
            out = np.subtract(out, self.mean, out=out if self.normalize else None)
        if self.renormalize and self.mean is None:
            out = normalize_rows(out, what=self.label)
        elif self.renormalize:
            what = f"{self.label}, after centring,"
            out = normalize_rows(out, what=what, shortest=ROUNDING * length, overwrite=True)
        return out

    @property
    def steps(self) -> str:
        """What it does, in words."""
        mean = None if self.mean is None else f"less a mean of {len(self.mean):,} values"
        done = {
            "a column of 1": self.homogeneous, "unit length": self.normalize, mean: mean,
            "unit length again": self.renormalize and mean,
        }  # fmt: skip
        return ", ".join(str(step) for step, does in done.items() if does) or "as stored"

    def _card(self) -> Card:
        return Card(f"SideTransform of {self.label}", {"steps": self.steps})


P = TypeVar("P", bound=Any)


@dataclass(frozen=True, eq=False, repr=False)
class Sources(Shown, Generic[P]):
    """What is fitted on: transformed rows of both sources, or their moments.

    Attributes
    ----------
    prototypes, real : P or None
        `Pairs`, or `Folds` of moments: what has `n`.
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
) -> Sources[Pairs]:
    """Return both sources transformed as `fitters.alignment.fit` says.

    `bias_column` goes to the prototypes as a column more, and 1 to the images.

    Raises
    ------
    PairsError
        If the mean has another number of values than the images get.
    ZeroRowError
        If a row that is fitted on has no direction, raw or not.
    """
    wide = bias_column is not None
    if prototypes is not None and bias_column is not None:
        prototypes = replace(prototypes, x=append_column(prototypes.x, bias_column))
    if how.alike and real is not None:
        real = Pairs(real.x, real.y, real.groups)
    text_source = real if prototypes is None else prototypes
    assert text_source is not None
    text, text_centre = _plain(how.texts, "texts"), "none"
    if how.texts == "centred":
        text = SideTransform.fit([(text_source.y, text_source.row_weight)], label="texts")
        text_centre = "real texts" if prototypes is None else "class texts"
    image, head = _plain(how.images, "images", homogeneous=wide), _plain(how.images, "prototypes")
    image_centre = "none"
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
            image = SideTransform.fit([(real.x, real.row_weight)], label="images", homogeneous=wide)
            image_centre = "real images"
        if prototypes is not None:
            head = SideTransform.fit([(prototypes.x, prototypes.row_weight)], label="prototypes")
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
