"""The options that ``featstore extract`` and ``featstore plan`` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from featstore.cli.encoder_options import ENCODER_OPTIONS
from featstore.cli.job_config import read_config
from featstore.extraction.options import DECODE_TIMEOUT, Options

KINDS = ["image", "caption", "class_name", "head_weight"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class BatchSize(click.ParamType):  # type: ignore[type-arg]
    """A positive number, or ``auto``."""

    name = "N|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Literal["auto"]:
        """Return the number, or "auto"."""
        if value == "auto":
            return "auto"
        try:
            number = int(value)
        except (TypeError, ValueError):
            number = 0
        if number < 1:
            self.fail(f"{value!r} is no positive number, and not 'auto'.", param, ctx)
        return number


_OPTIONS = [
    click.argument("manifest", required=False, type=click.Path(path_type=Path)),
    click.option("--kind", "kinds", multiple=True, required=True, type=click.Choice(KINDS)),
    *ENCODER_OPTIONS,
    click.option("--store", required=True, type=click.Path(path_type=Path), help="The store."),
    click.option(
        "--label-set", help="Label set of a head, if its number of classes does not say it."
    ),
    click.option(
        "--label-file",
        type=click.Path(path_type=Path),
        help="Classes of a head, in the order of its rows, instead of MANIFEST: .txt, .csv, .json.",
    ),
    click.option(
        "--check-names", help="Text encoder that checks a head's rows against the class names."
    ),
    click.option("--check-weights", help="Its weights."),
    click.option("--device", default="cpu", show_default=True),
    click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        default="float32",
        show_default=True,
        help="Of the forward pass; its cosine to float32 is recorded.",
    ),
    click.option(
        "--save-dtype",
        type=click.Choice(["float16", "bfloat16", "float32"]),
        default="float16",
        show_default=True,
        help="Stored dtype of images and texts; heads are float32.",
    ),
    click.option(
        "--batch-size", type=BatchSize(), help="Default: the encoder's. auto halves until it fits."
    ),
    click.option("--threads", type=click.IntRange(min=1), help="Threads of the forward pass."),
    click.option("--workers", type=click.IntRange(min=1), help="Decoding processes."),
    click.option(
        "--decode-timeout",
        type=click.FloatRange(min=0),
        default=DECODE_TIMEOUT,
        show_default=True,
        help="Seconds that one image may take; 0 decodes in threads, without a limit.",
    ),
    click.option(
        "--decode",
        type=click.Choice(["cpu", "gpu"]),
        default="cpu",
        show_default=True,
        help="gpu: plain JPEG files by nvJPEG, which makes another embedding space.",
    ),
    click.option("--tiff", is_flag=True, help="Decode TIFF files too; they fail otherwise."),
    click.option("--thumbnails", is_flag=True, help="Keep a small WebP of every image."),
    click.option(
        "--views",
        type=click.IntRange(min=0),
        default=0,
        help="Encode N seeded augmented views of each image, as a dataset of their own.",
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the views."),
    click.option("--limit", type=click.IntRange(min=1), help="Only the first N items."),
    click.option(
        "--on-error",
        type=click.Choice(["skip", "fail"]),
        default="skip",
        show_default=True,
        help="What an item that cannot be read costs: its row, or the job.",
    ),
    click.option(
        "--max-failures",
        type=click.IntRange(min=0),
        help="Items that may fail; default the larger of 10 and 0.1 %.",
    ),
    click.option("--retry-failed", is_flag=True, help="Try failed items of a finished set again."),
    click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model."),
    click.option("--compile", "compiled", is_flag=True, help="Compile the forward pass."),
    click.option(
        "--wait",
        type=click.FloatRange(min=0),
        default=0.0,
        help="Seconds to wait for another writer of the set.",
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        callback=read_config,
        help="TOML file with any of these options; what is typed wins.",
    ),
]


def job_options(function: _Function) -> _Function:
    """Give a command the options of a job."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def options_of(given: dict[str, Any], **more: Any) -> Options:
    """Return the options of a job from the parameters of a command."""
    return Options(
        dtype=given["save_dtype"],
        precision=given["precision"],
        device=given["device"],
        batch_size=given["batch_size"],
        threads=given["threads"],
        workers=given["workers"],
        decode_timeout=given["decode_timeout"] or None,
        decode=given["decode"],
        tiff=given["tiff"],
        thumbnails=given["thumbnails"],
        views=given["views"],
        seed=given["seed"],
        limit=given["limit"],
        on_error=given["on_error"],
        max_failures=given["max_failures"],
        retry_failed=given["retry_failed"],
        trust_remote_code=given["trust_remote_code"],
        compile=given["compiled"],
        wait=given["wait"],
        **more,
    )
