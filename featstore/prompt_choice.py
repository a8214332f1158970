"""Which names and templates the prompts of a dataset are made of, and from which user files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from data_manifests.open_clip_lists import imagenet_names
from data_manifests.plan import BuildError, fingerprint
from data_manifests.registry import BUILDERS
from featstore.errors import ManifestError
from featstore.manifest.hashes import text_sha256
from featstore.prompt_files import read_descriptions, read_names, read_templates
from featstore.prompts import class_prompts


@dataclass(frozen=True)
class PromptChoice:
    """What to make class_name items of. Nothing chosen: what the dataset's builder says."""

    variants: Sequence[str] = ()
    """Keys of `featstore.prompts.VARIANTS`: name, lemmas, clean, paper, open_clip …."""

    templates: Sequence[str] = ()
    """Keys of TEMPLATES or TEMPLATE_SETS; each variant is put in each template."""

    names_file: Path | None = None
    """JSON of names (see `featstore.prompt_files.read_names`): the variant ``user``."""

    templates_file: Path | None = None
    """JSON of templates (`read_templates`), instead of `templates`."""

    descriptions_file: Path | None = None
    """JSON of sentences by class (`read_descriptions`): items of the variant ``description``."""

    def make(
        self, dataset: str, classes: pl.DataFrame, usual: Mapping[str, Sequence[str]]
    ) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        """Return the label set, completed by what was asked for, and its class_name items.

        Raises
        ------
        ManifestError
            If a variant or template is unknown, a class lacks one, or a file is of another form.
        """
        keys = self._keys(dataset)
        variants = list(self.variants)
        if "open_clip" in variants and "open_clip_name" not in classes.columns:
            classes = _with_open_clip(classes)
        if self.names_file is not None:
            names = read_names(self.names_file, keys, classes)
            classes = classes.with_columns(
                user_name=pl.col("class_id").replace_strict(names, return_dtype=pl.String)
            )
            variants += ["user"] if "user" not in variants else []
        parts = []
        if not variants and not self.templates and self.templates_file is None:
            parts = [class_prompts(classes, (v,), templates) for v, templates in usual.items()]
        elif variants or usual:
            parts = [class_prompts(classes, variants or list(usual), self._templates(keys))]
        if self.descriptions_file is not None:
            parts.append(_descriptions(self.descriptions_file, keys, classes))
        return classes, pl.concat(parts, how="diagonal") if parts else None

    def fingerprint(self, of_plan: str) -> str:
        """Return the fingerprint of a plan with these prompts; the plan's own without a choice."""
        files = [f for f in (self.names_file, self.templates_file, self.descriptions_file) if f]
        if not (self.variants or self.templates or files):
            return of_plan
        return fingerprint(
            [
                of_plan,
                repr((list(self.variants), list(self.templates))),
                *(_bytes(file) for file in files),
            ]
        )

    def facts(self) -> dict[str, Any]:
        """Return what a manifest records of the choice."""
        named = {
            "names_file": self.names_file,
            "templates_file": self.templates_file,
            "descriptions_file": self.descriptions_file,
        }
        return {
            **({"variants": list(self.variants)} if self.variants else {}),
            **({"templates": list(self.templates)} if self.templates else {}),
            **{key: file.name for key, file in named.items() if file is not None},
        }

    def _templates(self, keys: Sequence[str]) -> Sequence[str] | Mapping[str, str]:
        if self.templates_file is not None:
            return read_templates(self.templates_file, keys)
        return self.templates or ("none", "photo")

    @staticmethod
    def _keys(dataset: str) -> tuple[str, ...]:
        """Return the names that a dataset goes by in files of CLIP_benchmark."""
        facts = BUILDERS[dataset].facts if dataset in BUILDERS else {}
        return tuple(dict.fromkeys((dataset, str(facts.get("clip_benchmark", dataset)))))


def _with_open_clip(classes: pl.DataFrame) -> pl.DataFrame:
    """Add open_clip's names, which are those of the 1,000 synsets of ImageNet-1k."""
    if "synset" not in classes.columns or classes["synset"].null_count() == classes.height:
        msg = "open_clip has names of ImageNet-1k's synsets alone; these classes have no synsets."
        raise ManifestError(msg)
    try:
        names = imagenet_names()
        order = BUILDERS["imagenet1k"].plan().make(Path(), None).classes
    except BuildError as err:
        raise ManifestError(str(err)) from err
    assert order is not None
    by_synset = dict(zip(order["synset"], names, strict=True))
    return classes.with_columns(
        open_clip_name=pl.col("synset").replace_strict(
            by_synset, default=None, return_dtype=pl.String
        )
    )


def _descriptions(file: Path, keys: Sequence[str], classes: pl.DataFrame) -> pl.DataFrame:
    """Return the sentences of a CuPL file as items of the variant ``description``."""
    rows = [
        {
            "item_id": f"{class_id}#description#d{number:03d}",
            "text": text,
            "class_id": class_id,
            "variant": "description",
            "template_id": f"d{number:03d}",
            "content_sha256": text_sha256(text),
        }
        for class_id, texts in read_descriptions(file, keys, classes).items()
        for number, text in enumerate(texts)
    ]
    return pl.DataFrame(rows).with_columns(kind=pl.lit("class_name"))


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as err:
        msg = f"Cannot read {file}: {err.strerror or err}."
        raise ManifestError(msg) from err
