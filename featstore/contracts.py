"""Contracts: what an encoder, a source, a dataset or another thing of one's own promises, checked.

A contract is a class, and every public method of it one promise: its docstring says what is
promised, and it raises `ContractError` where that is not kept. Those of aligners, learners and
tasks are in `bench.contracts`.
"""

from __future__ import annotations

import inspect
import os
import pickle
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from io import BytesIO
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.datasets import build_dataset, find_builder
from featstore.encoders.base import (
    IMAGE_KINDS,
    TEXT_KINDS,
    Encoder,
    golden_images,
    golden_inputs,
    prepare_many,
)
from featstore.encoders.registry import open_encoder
from featstore.errors import ContractError, FeatstoreError, PluginError
from featstore.identity import canonical_json, space_id
from featstore.images import Geometry, decode_image
from featstore.manifest.manifest import Manifest
from featstore.plugins import use_plugins
from featstore.sources.making import make_manifest
from featstore.sources.reader import check_bytes

Matrix = npt.NDArray[Any]


@dataclass(frozen=True)
class Finding:
    """What came of one promise.

    Attributes
    ----------
    name : str
        The name of the promise, with blanks.
    promise : str
        What is promised.
    kept : bool or None
        None: the promise is none that a thing like this one makes.
    text : str
        Of a broken promise what was expected, what was found and what to do; else what is worth
        knowing, often nothing.
    """

    name: str
    promise: str
    kept: bool | None
    text: str = ""


class Inapplicable(Exception):  # noqa: N818
    """Raised by a check of what a thing like this one does not promise; its text says why."""


class Contract:
    """The promises of one kind of thing: the public methods of a subclass, in their order.

    Parameters
    ----------
    name : str
        Under which the thing is registered.
    location : Path, optional
        What a source lists, or the root of a dataset.
    options : mapping, optional
        Of an encoder, a source or a dataset.
    """

    def __init__(
        self, name: str, location: Path | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        self._name, self._location, self._options = name, location, dict(options or {})

    @classmethod
    def promises(cls) -> dict[str, str]:
        """Return what is promised, by the name of the promise."""
        above = cls.__mro__[-3::-1]  # below `Contract` and `object`
        own = {name: vars(each)[name] for each in above for name in vars(each)}
        return {
            name.replace("_", " "): inspect.getdoc(promise) or ""
            for name, promise in own.items()
            if inspect.isfunction(promise) and not name.startswith("_")
        }

    def findings(self) -> Iterator[Finding]:
        """Check one promise after another; without the first, none of the others is looked at."""
        for number, (name, promise) in enumerate(promises := self.promises().items()):
            found = Finding(name, promise, *self._checked(name))
            if found.kept is False and not number:
                more = f" The other {len(promises) - 1} checks need this one: repair it first."
                yield replace(found, text=found.text + more)
                return
            yield found

    def _checked(self, name: str) -> tuple[bool | None, str]:
        """Return whether a promise is kept, and what there is to say."""
        try:
            with _quiet(), warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                return True, getattr(self, name.replace(" ", "_"))() or ""
        except Inapplicable as why:
            return None, str(why)
        except ContractError as err:
            return False, str(err)
        except Exception as err:  # whatever a stranger's code raises
            said = [f"{type(err).__name__}: {err}", *getattr(err, "__notes__", []), _line_of(err)]
            return False, " ".join(" ".join(said).split())


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block, what is printed goes to stderr: a stranger's words, and those of LAPACK."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


#: Where the packages lie that are not a stranger's.
_OURS = tuple(
    f"{Path(__file__).parents[1] / package}{os.sep}"
    for package in ("bench", "data_manifests", "featstore", "fitters", "headstock")
)


def _line_of(err: Exception) -> str:
    """Return the last line of a stranger's file that an error went through, if there is one."""
    frames = [
        frame for frame in traceback.extract_tb(err.__traceback__)
        if not frame.filename.startswith(_OURS)
        and Path(frame.filename).stem not in sys.stdlib_module_names
    ]  # fmt: skip
    # What is called first is theirs; what that calls may be any library.
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return f"({Path(own[-1].filename).name}, line {own[-1].lineno}: {own[-1].line})" if own else ""


def unchanged(passed: Mapping[str, Matrix], work: Callable[[], Any]) -> None:
    """Raise ContractError if some work changes arrays that it is passed."""
    before = {name: rows.copy() for name, rows in passed.items()}
    work()
    for name, rows in passed.items():
        moved = np.count_nonzero(rows != before[name])
        expect(
            not moved, f"Expected {name} unchanged; {moved:,} of {rows.size:,} values are others. "
            "Rows of a store are read-only: write X = X - mean, not X -= mean.",
        )  # fmt: skip


def equal(found: Any, expected: Any, todo: str) -> None:
    """Raise ContractError unless two arrays are equal to the last byte."""
    if not np.array_equal(found, expected):
        moved = np.abs(np.subtract(found, expected)).max()
        raise ContractError(f"Expected equal numbers; they differ by up to {moved:.2g}. {todo}")


def expect(kept: bool, broken: str) -> None:  # noqa: FBT001
    """Raise ContractError with a text, unless something holds."""
    if not kept:
        raise ContractError(broken)


class EncoderContract(Contract):
    """What an extraction needs of an encoder: see `featstore.encoders.base.Encoder`."""

    def _opened(self) -> Encoder:
        return open_encoder(self._name, **self._options)

    @cached_property
    def _encoder(self) -> Encoder:
        return self._opened()

    @cached_property
    def _items(self) -> list[Any]:
        """Golden items, and odd ones: files of every mode as an extraction decodes them."""
        if not IMAGE_KINDS & self._encoder.kinds:
            return [*golden_inputs(self._encoder.kinds), "", "?", "many words " * 2000]
        from PIL import Image

        files = [BytesIO() for _ in range(8)]
        drawn = golden_images()[0]
        for file, mode in zip(files, ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), strict=False):
            (drawn.convert("L") if mode == "I;16" else drawn).convert(mode).save(file, "PNG")
        drawn.convert("CMYK").save(files[-1], "JPEG")
        return [
            *golden_images(),
            *(Image.new("RGB", size) for size in ((1, 1), (300, 2), (2, 300))),
            *(decode_image(file.getvalue()) for file in files),
        ]

    def _rows(self, items: list[Any]) -> Matrix:
        return self._encoder.encode([self._encoder.prepare(item) for item in items])

    def _near(self, rows: Matrix, when: str, todo: str) -> None:
        expected = self._rows(self._items)
        sizes = np.linalg.norm(expected, axis=1)
        moved = float((np.linalg.norm(rows - expected, axis=1) / np.maximum(sizes, 1e-9)).max())
        expect(moved < 1e-3, f"Expected the same rows {when}; one moves by {moved:.1%}. {todo}")

    def rows(self) -> None:
        """Give a finite float32 row of `dim` numbers for every item, of whatever mode or length."""
        rows, shape = self._rows(self._items), (len(self._items), self._encoder.dim)
        got = f"{getattr(rows, 'dtype', type(rows).__name__)} of shape {np.shape(rows)}"
        expect(
            isinstance(rows, np.ndarray) and rows.shape == shape and rows.dtype == np.float32,
            f"Expected float32 of shape {shape}; got {got}.",
        )
        lost = int(np.count_nonzero(~np.isfinite(rows).all(axis=1)))
        expect(not lost, f"Expected finite rows; {lost} of {len(rows)} are not.")

    def batches(self) -> None:
        """Encode an item alone as it does in a batch, and prepare many as one by one."""
        many = self._encoder.encode(prepare_many(self._encoder, self._items))
        self._near(many, "for items prepared in one call", "Let prepare_many do what prepare does.")
        alone = [self._rows([item]) for item in self._items]
        self._near(np.concatenate(alone), "for items one by one", "Mask what pads a batch, and use "
                   "no statistics of the batch (model.eval()).")  # fmt: skip

    def determinism(self) -> None:
        """Give the same rows again, and when it is opened again."""
        self._near(self._rows(self._items), "again", "Switch off what is drawn (model.eval()).")
        again = self._opened()
        rows = again.encode([again.prepare(item) for item in self._items])
        self._near(rows, "of one that is opened again", "Draw no weights without a seed.")

    def space(self) -> str:
        """Name its space in plain JSON, the same whenever it is opened."""
        one, two = (space_id(encoder.space) for encoder in (self._encoder, self._opened()))
        expect(one == two, "Expected one space of two encoders of this name; the ids differ "
                f"({one[:8]}, {two[:8]}). Leave times, paths and devices to `facts`.")  # fmt: skip
        canonical_json(dict(self._encoder.facts))
        return f"Space {one[:8]}: {', '.join(sorted(self._encoder.space))}."

    def name(self) -> None:
        """Have the name that it was opened by, and kinds of items that it takes."""
        name, kinds = self._encoder.name, frozenset(self._encoder.kinds)
        expect(name == self._name, f"Expected the name {self._name!r}; it is {name!r}.")
        known = kinds and (kinds <= IMAGE_KINDS or kinds <= TEXT_KINDS)
        expect(bool(known), f"Expected kinds {{'image'}}, or some of {sorted(TEXT_KINDS)}; got "
                f"{sorted(kinds)}.")  # fmt: skip

    def threads(self) -> None:
        """Prepare items in threads, and leave them as they are."""
        before = pickle.dumps(self._items)
        with ThreadPoolExecutor(4) as pool:
            prepared = list(pool.map(self._encoder.prepare, self._items))
        expect(pickle.dumps(self._items) == before, "Expected items unchanged by prepare.")
        if isinstance(geometry := getattr(self._encoder, "geometry", None), Geometry):
            made = [geometry.pixels(item) for item in self._items]
            expect(all(map(np.array_equal, made, prepared)), "Expected prepare to return what "
                   "`geometry` makes of a picture; leave one of them out.")  # fmt: skip
        self._near(self._encoder.encode(prepared), "prepared in threads", "Keep no state.")


def _files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of the files in a folder by their paths, but for hidden ones."""
    found = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


class SourceContract(Contract):
    """What ``headstock data make`` needs of a source: see `featstore.sources.making`."""

    def _made(self, folder: Path, **more: Any) -> Manifest:
        assert self._location is not None
        return make_manifest(self._name, self._location, folder, options=self._options | more)

    def items(self) -> str:
        """List items with unique ids and files that exist, and leave the location as it is."""
        place = self._location
        before = {} if place is None else _files(place)
        with tempfile.TemporaryDirectory() as folder:
            manifest = self._made(Path(folder))
            check_bytes(manifest)
        expect(place is None or before == _files(place), f"Expected no other files in {place}.")
        return ", ".join(f"{table.height:,} of {kind}" for kind, table in manifest.tables.items())

    def same_bytes(self) -> None:
        """Make the same bytes twice."""
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            for folder in (one, two):
                self._made(Path(folder))
            made = [_files(Path(folder)) for folder in (one, two)]
        other = sorted(name for name in made[0] if made[0][name] != made[1].get(name))
        expect(not other, f"Expected the same bytes when it is made twice; {', '.join(other[:3])} "
                "differ. Sort what a folder lists, and record no time.")  # fmt: skip

    def unknown_options(self) -> None:
        """Refuse an option that it does not have."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                self._made(Path(folder), **{"no-such-option": "1"})
            except FeatstoreError:
                return
        raise ContractError("Expected an error for the option 'no-such-option'; it was taken.")


class DatasetContract(SourceContract):
    """What ``headstock data build`` needs of a dataset: see `data_manifests.plan`."""

    @property
    def _given(self) -> dict[str, Any]:
        return self._options | ({} if self._location is None else {"root": self._location})

    def _made(self, folder: Path, **more: Any) -> Manifest:
        return build_dataset(self._name, folder, **self._given, **more).manifest

    def plan(self) -> None:
        """Plan twice alike."""
        builder = find_builder(self._name)
        one, two = (builder.plan(**self._given).fingerprint for _ in range(2))
        expect(one == two, f"Expected one fingerprint; two plans have {one[:8]} and {two[:8]}. "
               "Make it of the source's bytes, the options and a version.")  # fmt: skip


#: Contracts by kind; `bench.contracts` has the others.
CONTRACTS: dict[str, type[Contract]] = {
    "encoder": EncoderContract, "source": SourceContract, "dataset": DatasetContract,
}  # fmt: skip


def defined(place: str, name: str) -> Any:
    """Return what a module, or a file that ends in .py, defines under a name.

    Raises
    ------
    PluginError
        If it cannot be imported, or does not.
    """
    try:
        if place.endswith(".py"):
            use_plugins([place])
            file = str(Path(place).resolve())
            module = next(
                m for m in [*sys.modules.values()] if getattr(m, "__file__", None) == file
            )
        else:
            module = import_module(place)
        return attrgetter(name)(module)
    except (ImportError, AttributeError) as err:
        raise PluginError(
            f"{place}:{name} cannot be used: {err}. Give a name that is registered, MODULE:OBJECT "
            "or FILE.py:OBJECT."
        ) from err
