"""What `extract` and `plan` can be told: names, defaults and values stay, and each has a help."""

from __future__ import annotations

import re

import click

from featstore.cli.extract import extract_command

#: Flag -> how its value is shown, and the default; a star for one that may be repeated.
OPTIONS = """
--kind* [image|caption|class_name|head_weight] required
--encoder* TEXT required
--weights* TEXT
--pool* TEXT
--layers* NAME[,NAME…]
--prefix* TEXT
--prompt-name* TEXT
--max-length* N
--trust-remote-code
--store STORE required
--label-set TEXT
--label-file PATH
--check-names TEXT
--check-weights TEXT
--device TEXT auto
--precision [float32|bfloat16|float16|auto] auto
--save-dtype [float16|bfloat16|float32] float16
--batch-size N|AUTO
--threads INTEGER>=1
--jobs INTEGER>=1
--decode-timeout FLOAT>=0 60.0
--decode [cpu|scaled|gpu] cpu
--resize [pillow|torchvision] pillow
--tiff
--max-pixels INTEGER>=1 100000000
--thumbnails
--limit INTEGER>=1
--on-error [skip|fail] skip
--max-failures INTEGER>=0
--retry-failed
--compile
--wait FLOAT>=0 0.0
--staging PATH
--config PATH
--devices TEXT
--engine [local|ray] local
--ray-address TEXT
--rank N|AUTO
--world-size INTEGER>=1
--log PATH
--no-log
--dry-run
--json
"""


def _shown(command: click.Command) -> set[str]:
    ctx = click.Context(command)
    found = set()
    for parameter in command.params:
        if not isinstance(parameter, click.Option):
            continue
        default = parameter.get_default(ctx)
        words = [
            parameter.opts[0] + ("*" if parameter.multiple else ""),
            "" if parameter.is_flag else _metavar(parameter, ctx),
            "required" if parameter.required else "",
            str(default) if isinstance(default, str | int | float) and default is not False else "",
        ]
        found.add(" ".join(filter(None, words)))
    return found


def _metavar(parameter: click.Option, ctx: click.Context) -> str:
    if isinstance(parameter.type, click.IntRange | click.FloatRange):
        number = "INTEGER" if isinstance(parameter.type, click.IntRange) else "FLOAT"
        return f"{number}>={parameter.type.min:g}"
    return parameter.make_metavar(ctx)


def test_the_options_are_these() -> None:
    assert _shown(extract_command) == set(OPTIONS.strip().splitlines())


def test_every_option_has_a_help_sentence() -> None:
    for parameter in extract_command.params:
        if isinstance(parameter, click.Option):
            text = parameter.help or ""
            assert re.match(r"(?!Of |Its )[A-Z].* .* .*[.)]$", text), (parameter.opts, text)
