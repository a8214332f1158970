"""Options that are given once for each ``--encoder``: its weights, pool, prompt and length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

from featstore.extraction.options import EncoderChoice

#: Stands for what the model does by itself, where another encoder is given something.
DEFAULT = "-"

#: Parameter of the command -> attribute of `EncoderChoice`, which is also the flag's name and
#: the key of a TOML file, there with underscores.
PER_ENCODER = {
    "weights": "weights",
    "pools": "pool",
    "prefixes": "prefix",
    "prompt_names": "prompt_name",
    "max_lengths": "max_length",
}


class MaxLength(click.ParamType):  # type: ignore[type-arg]
    """A positive number of tokens, or ``-``."""

    name = "N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Return the number, or "-"."""
        if value in (DEFAULT, ""):
            return DEFAULT
        try:
            number = int(value)
        except (TypeError, ValueError):
            number = 0
        if number < 1:
            self.fail(f"{value!r} is no positive number of tokens, and not '-'.", param, ctx)
        return number


ENCODER_OPTIONS = [
    click.option(
        "--encoder",
        "encoders",
        multiple=True,
        required=True,
        help="family:name, such as timm:resnet50 or st:NAME; repeat it for several in one pass.",
    ),
    click.option(
        "--weights",
        multiple=True,
        help="package:NAME, a file, a folder or hub (the default); this and the four below: one "
        "for each --encoder, - for what the model does by itself.",
    ),
    click.option(
        "--pool",
        "pools",
        multiple=True,
        help="timm: cls, patch_mean, cls+patch_mean or layer:NAME, instead of the head's input; "
        "hf: cls, mean, pooler or last.",
    ),
    click.option(
        "--prefix", "prefixes", multiple=True, help="st, hf: put before every text ('query: ')."
    ),
    click.option(
        "--prompt-name",
        "prompt_names",
        multiple=True,
        help="st: one of the model's own prompts, put before every text.",
    ),
    click.option(
        "--max-length",
        "max_lengths",
        multiple=True,
        type=MaxLength(),
        help="st, hf: tokens of a text that the model sees, fewer than it could.",
    ),
]


def encoder_choices(given: Mapping[str, Any]) -> list[EncoderChoice]:
    """Return the encoders of a command line.

    Parameters
    ----------
    given : mapping
        The parameters of the command.

    Raises
    ------
    click.UsageError
        If there are weights, pools …, but not one for each.
    """
    encoders: tuple[str, ...] = given["encoders"]
    values_of = {parameter: _values(parameter, given) for parameter in PER_ENCODER}
    for parameter, attribute in PER_ENCODER.items():
        values = values_of[parameter]
        if values and len(values) != len(encoders):
            msg = (
                f"{len(values)} --{attribute.replace('_', '-')} for {len(encoders)} --encoder: "
                f"give one for each, in their order ({DEFAULT!r} is what the model does by itself)."
            )
            raise click.UsageError(msg)
    return [
        EncoderChoice(
            name,
            **{
                attribute: _meant(attribute, values_of[parameter][number])
                for parameter, attribute in PER_ENCODER.items()
                if values_of[parameter]
            },
        )
        for number, name in enumerate(encoders)
    ]


def _values(parameter: str, given: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what was given; what a file says of its encoders is not of those that are typed."""
    ctx = click.get_current_context()
    typed = ctx.get_parameter_source("encoders") is ParameterSource.COMMANDLINE
    from_file = ctx.get_parameter_source(parameter) is ParameterSource.DEFAULT_MAP
    return () if typed and from_file else tuple(given[parameter])


def _meant(attribute: str, value: Any) -> Any:
    # An empty prefix is one: it takes the prompt away that a model has by itself.
    return None if value == DEFAULT or (value == "" and attribute != "prefix") else value
