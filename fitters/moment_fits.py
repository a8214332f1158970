"""The protocol of `fitters.recipe` where rows were turned into moments before: n does not matter.

What needs the rows of real pairs, ranks of true texts or anchors, cannot be done from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fitters.alignment import Alignment
from fitters.choice import Criterion, Open
from fitters.errors import SettingError
from fitters.methods import Method, Settings, method_named
from fitters.moments.moments import Moments, merge_pooled
from fitters.moments.transform import SideTransform
from fitters.select.held_out_error import validate_by_error


@dataclass(frozen=True, eq=False)
class MomentSources:
    """Moments of transformed rows, and the transforms.

    Attributes
    ----------
    prototypes : Moments or None
    folds : sequence of Moments
        Of the real pairs, one a fold; one in all if they cannot be folded.
    image, text : SideTransform
    text_centre : str
        Whose mean the texts are centred by.
    """

    prototypes: Moments | None
    folds: Sequence[Moments]
    image: SideTransform
    text: SideTransform
    text_centre: str


def needs_rows(method: Method, open_: Open, criterion: Criterion, *, mixed: bool) -> bool:
    """Return whether a fit on real pairs looks at more of them than their moments."""
    if method.fitted_on != "moments" or not method.centred:
        # Moments of a store are of centred rows.
        return True
    penalties, weights = open_.axes(method, mixed=mixed)
    if "n_components" in method.options and open_.n_components == "auto":
        return True
    searched = penalties.searched or weights.searched
    return searched and not (criterion == "error" and method.direction)


def fit_from_moments(
    method: str,
    sources: MomentSources,
    *,
    penalty: float | Literal["auto"] = "auto",
    mix: float | Literal["auto"] = "auto",
    n_components: int | Literal["auto"] | None = None,
    rank: int | None = None,
    scale: bool = False,
    legacy: bool = False,
) -> Alignment:
    """Fit an alignment from moments; settings that are "auto" go by the held-out squared error.

    Parameters
    ----------
    method : str
        One of `fitters.methods.METHODS` that is fitted on moments.
    sources : MomentSources
    penalty, mix, n_components, rank, scale, legacy
        As for `fitters.recipe.fit_alignment`; "auto" penalty and mix are of ridges only.

    Raises
    ------
    SettingError
        If the method, or something that is "auto", needs the rows.
    """
    spec = method_named(method)
    mixed = sources.prototypes is not None
    open_ = Open(penalty, mix, n_components)
    if needs_rows(spec, open_, "error", mixed=mixed):
        msg = f"{method} with these settings needs rows, not moments. Use fit_alignment."
        raise SettingError(msg)
    penalties, weights = open_.axes(spec, mixed=mixed)
    settings = Settings(rank=rank, scale=scale, legacy=legacy)
    if "n_components" in spec.options and n_components != "auto":
        settings = replace(settings, n_components=n_components)
    curve = None
    if penalties.searched or weights.searched:
        curve = validate_by_error(
            sources.folds,
            sources.prototypes,
            direction=spec.direction,
            penalties=penalties,
            weights=weights,
        )
    settings = replace(settings, penalty=curve.penalty if curve else penalties.values[0])
    chosen_mix = curve.weight if curve else weights.values[0]
    choice: dict[str, Any] = {n: getattr(settings, n) for n in spec.options if n != "mix"}
    if mixed and "mix" in spec.options:
        choice["mix"] = chosen_mix
    parts = list(sources.folds)
    if sources.prototypes is not None:
        parts.append(sources.prototypes.scaled(chosen_mix))
    aligner: Any = spec.make(settings)
    aligner.fit_moments(merge_pooled(*parts))
    facts = {
        "method": method,
        "n_prototypes": 0 if sources.prototypes is None else sources.prototypes.n,
        "n_real": sum(fold.n for fold in sources.folds),
        "image_centre": "none" if spec.raw else "given mean",
        "text_centre": sources.text_centre,
        "choice": choice if curve is None else {**choice, **curve.to_facts()},
    }
    if hasattr(aligner, "gap_"):
        facts["singular_value_gap"] = aligner.gap_
    return Alignment(sources.image, sources.text, aligner, facts)
