"""Alignments on disk: saved and read.

What is saved holds data only. Reading runs no code from it: the method is looked up in a dict,
the bytes of the arrays are checked against the digest in the JSON, and the arrays against the
shapes there and the type of the method. Equal alignments make equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.numpy
from msgspec import Meta, defstruct
from safetensors import SafetensorError
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from featstore.durable import replace_folder, tidy_folder
from fitters.aligners import BaseAligner, params_of
from fitters.errors import (
    AlignmentWriteError,
    CorruptAlignmentError,
    FittersError,
    MissingAlignmentError,
    UnknownMethodError,
    writing,
)
from fitters.methods import aligner_class, aligners
from fitters.sources import SideTransform

FORMAT = 1
JSON_NAME, ARRAYS_NAME = "alignment.json", "arrays.safetensors"
Arrays = dict[str, npt.NDArray[Any]]

#: Types of what an aligner of one's own may hold beside its settings and what is fitted.
_PLAIN = str | bytes | int | float | np.generic | None | FunctionType


#: What a fit sets that no projection reads.
_NOT_SAVED = ("feature_names_in_", "history_")
#: Names of the means of both sides among the arrays of a file.
_MEANS = ("x.mean", "y.mean")

Parts = tuple[SideTransform, SideTransform, Any, dict[str, Any]]
"""What an alignment consists of: the transforms of its sides, the fitted aligner, and facts."""


def save_parts(path: Path | str, parts: Parts, *, replace: bool = True) -> Path:
    """Write an alignment as the folder `path`, whole or not at all, and return it.

    Another one that is already there is replaced, or refused unless `replace`; the same one is left
    untouched.

    Raises
    ------
    AlignmentWriteError
        If `path` exists and may not be replaced, or cannot be written.
    """
    if isinstance(parts[2], BaseEstimator):
        check_is_fitted(parts[2])
    path, files = Path(path), _to_bytes(*parts)
    tidy_folder(path)
    if path.exists() or path.is_symlink():
        if not (path / JSON_NAME).is_file():
            raise AlignmentWriteError(
                f"{path} exists and is not an alignment. Choose another name, or remove it."
            )
        there = ((path / name, data) for name, data in files.items())
        if all(one.is_file() and one.read_bytes() == data for one, data in there):
            return path
        if not replace:
            check_free(path)
    with writing(path):
        replace_folder(path, files)
    return path


def check_free(path: Path, request: dict[str, Any] | None = None) -> None:
    """Raise AlignmentWriteError if `path` holds an alignment that may not be replaced.

    That is any, but before a fit, whose `request` is given, one that was asked for otherwise.
    """
    with suppress(CorruptAlignmentError):
        if request is None or read_facts(path).get("request") != request:
            raise AlignmentWriteError(
                f"{path} holds another alignment. Choose another name, or replace it (`replace=`)."
            )


def read_parts(path: Path | str) -> Parts:
    """Read what `save_parts` wrote.

    Raises
    ------
    MissingAlignmentError
        If there is none at `path`.
    CorruptAlignmentError
        If a file is missing, has another digest, shapes or types than declared, or declares what
        this version does not know. The message names the file and the field.
    """
    path = Path(path)
    if not (path / JSON_NAME).exists():
        raise MissingAlignmentError(
            f"There is no alignment at {path}: it has no {JSON_NAME}. `headstock fit` makes one."
        )
    record = _read_json(path / JSON_NAME)
    try:
        aligner = _empty_aligner(record)
        arrays = _read_arrays(path / ARRAYS_NAME, record, _dtype_of(aligner))
        for name, value in (*arrays.items(), *record.values.items()):
            if name not in _MEANS:
                if not _is_fitted_name(aligner, name):
                    raise ValueError(f"{name!r} is no name of what is fitted.")
                setattr(aligner, name, value)
        x, y = (
            SideTransform(
                own.normalize, arrays.get(f"{side}.mean"), own.renormalize, own.label,
                own.homogeneous,
            )
            for side, own in (("x", record.x), ("y", record.y))
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, FittersError) as err:
        if isinstance(err, CorruptAlignmentError):
            raise
        raise CorruptAlignmentError(
            f"{path / JSON_NAME} does not describe an alignment: {err} Fit it again."
        ) from err
    return x, y, aligner, record.facts


def read_facts(path: Path | str) -> dict[str, Any]:
    """Return the facts of the alignment at `path`, "method" among them, without its arrays.

    Raises
    ------
    MissingAlignmentError, CorruptAlignmentError
        As `read_parts`, of what the JSON alone says.
    """
    record = _read_json(Path(path) / JSON_NAME)
    return {"method": record.method, **record.facts}


def fitted_arrays(aligner: Any) -> Arrays:
    """Return the arrays of a fitted aligner by attribute, ours or anyone's, as they are saved.

    Raises
    ------
    AlignmentWriteError
        If an attribute is fitted that cannot be saved, or read again.
    """
    arrays: Arrays = {
        name: np.ascontiguousarray(getattr(aligner, name), dtype=_dtype_of(aligner))
        for name in _fitted_names(aligner)[0]
    }
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise AlignmentWriteError(
                f"{type(aligner).__name__}.{name} holds NaN or Inf. Fit it with other settings: a "
                "larger penalty, or a smaller learning rate."
            )
    return arrays


def _to_bytes(
    x: SideTransform, y: SideTransform, aligner: Any, facts: dict[str, Any]
) -> dict[str, bytes]:
    arrays = fitted_arrays(aligner)
    ours = aligners().get(getattr(aligner, "method", "")) is type(aligner)
    method = aligner.method if ours else facts.get("method")
    if not ours and (not isinstance(method, str) or method in aligners()):
        raise AlignmentWriteError(
            f"{type(aligner).__name__} is no aligner of the package, so what is saved must say how "
            "it is registered: give facts={'method': NAME}, the NAME of register('aligner', NAME)."
        )
    record: dict[str, Any] = {
        "format": FORMAT,
        "method": method,
        "params": params_of(aligner),
        "values": {name: getattr(aligner, name) for name in _fitted_names(aligner)[1]},
        "facts": facts,
    }
    for side, transform in (("x", x), ("y", y)):
        record[side] = dict(vars(transform))
        mean = record[side].pop("mean")
        record[side]["centred"] = mean is not None
        if mean is not None:
            arrays[f"{side}.mean"] = np.ascontiguousarray(mean)
    packed = safetensors.numpy.save(dict(sorted(arrays.items())))
    record["arrays"] = {name: list(array.shape) for name, array in arrays.items()}
    record["sha256"] = hashlib.sha256(packed).hexdigest()
    try:
        text = json.dumps(record, sort_keys=True, indent=1, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as err:
        raise AlignmentWriteError(
            f"The facts of an alignment must be plain finite values for JSON: {err}."
        ) from err
    return {JSON_NAME: text.encode() + b"\n", ARRAYS_NAME: packed}


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as the number that it is, for JSON."""
    if isinstance(value, np.floating | np.integer | np.bool_):
        return value.item()
    raise TypeError(f"{value!r} is of type {type(value).__name__}")


_SIDE = defstruct(
    "Side",
    (
        *((name, bool) for name in ("normalize", "renormalize", "centred")),
        ("label", str),
        ("homogeneous", bool, False),
    ),
    forbid_unknown_fields=True,
)
_RECORD = defstruct(
    "Record",
    (
        ("format", int),
        ("method", str),
        ("params", dict[str, Any]),
        ("values", dict[str, int | float]),
        ("facts", dict[str, Any]),
        ("x", _SIDE),
        ("y", _SIDE),
        ("arrays", dict[str, list[Annotated[int, Meta(gt=0, lt=2**31)]]]),
        ("sha256", str),
    ),
    forbid_unknown_fields=True,
)


def _read_json(path: Path) -> Any:
    data = _read_file(path)
    try:
        record: Any = msgspec.json.decode(data, type=_RECORD)
    except (msgspec.MsgspecError, RecursionError) as err:
        raise CorruptAlignmentError(
            f"{path} does not describe an alignment: {str(err)[:300]}. Fit it again."
        ) from err
    if record.format != FORMAT:
        raise CorruptAlignmentError(
            f"{path} has format {record.format}; this Headstock reads format {FORMAT}. "
            "Use the version that wrote it, or fit the alignment again."
        )
    return record


def _fitted_names(aligner: Any) -> tuple[list[str], list[str]]:
    """Return the names of the arrays and of the numbers that a fit has set, ours or anyone's.

    They are the attributes with a name that ends in "_", and those that the class names in
    ``arrays``: arrays of floats, and numbers.

    Raises
    ------
    AlignmentWriteError
        If an attribute is neither.
    """
    arrays, values, params = [], [], params_of(aligner)
    for name, value in vars(aligner).items():
        if name in _NOT_SAVED:
            continue
        if not _is_fitted_name(aligner, name):
            # A torch module keeps its tensors in dicts. What is empty or plain was not fitted.
            empty = isinstance(value, Collection) and not len(value)
            if not (empty or name in params or isinstance(value, _PLAIN)):
                raise AlignmentWriteError(
                    f"{type(aligner).__name__}.{name} is of type {type(value).__name__} and "
                    "would not be saved. Keep what is fitted as arrays of floats of NumPy, "
                    f"and call it {name.strip('_')}_, or name it in the class: "
                    f"arrays = ({name!r},)."
                )
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
            arrays.append(name)
        elif isinstance(value, int | float | np.integer | np.floating) and not isinstance(
            value, bool
        ):
            values.append(name)
        else:
            raise AlignmentWriteError(
                f"{type(aligner).__name__}.{name} is of type {type(value).__name__}. What is "
                "fitted is saved if it is arrays of floats and plain numbers; see "
                "fitters.BaseAligner."
            )
    return arrays, values


def _dtype_of(aligner: Any) -> str:
    return getattr(aligner, "array_dtype", BaseAligner.array_dtype)


def _is_fitted_name(aligner: Any, name: str) -> bool:
    own = name.isidentifier() and name.endswith("_") and not name.startswith("_")
    return own or name in getattr(type(aligner), "arrays", ())


def _empty_aligner(record: Any) -> Any:
    """Return the estimator, not yet fitted, with valid parameters."""
    method = record.method
    try:
        cls = aligner_class(method)
    except UnknownMethodError as err:
        raise CorruptAlignmentError(
            f"This alignment is of the method {method!r}. Known here: {', '.join(aligners())}. If "
            "another package or a file defines it, install that, or name it with --plugin."
        ) from err
    aligner = cls(**record.params)
    if isinstance(aligner, BaseAligner):
        aligner._validate_params()
    return aligner


def _read_arrays(path: Path, record: Any, dtype: str) -> Arrays:
    shapes, data = record.arrays, _read_file(path)
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise CorruptAlignmentError(
            f"{path} is not the file that {JSON_NAME} describes: digests differ. Fit it again."
        )
    try:
        arrays: Arrays = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, KeyError) as err:
        raise CorruptAlignmentError(
            f"{path} is not a safetensors file: {err}. Fit the alignment again."
        ) from err
    found = {name: list(array.shape) for name, array in arrays.items()}
    types = {name: "float64" if name in _MEANS else dtype for name in shapes}
    if found != shapes or types != {name: array.dtype for name, array in arrays.items()}:
        raise CorruptAlignmentError(
            f"{path} holds other arrays than {JSON_NAME} declares: {found}. Fit it again."
        )
    return arrays


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise CorruptAlignmentError(
            f"{path} cannot be read: {err.strerror}. Fit the alignment again."
        ) from err
