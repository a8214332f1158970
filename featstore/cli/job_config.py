"""``--config job.toml``: options of a job from a file; what is typed wins."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click

from featstore.cli.encoder_options import DEFAULT, PER_ENCODER
from featstore.errors import did_you_mean

#: What an [[encoder]] table may say beside its name, and the parameter that it goes to.
_OF_ENCODER = {attribute: parameter for parameter, attribute in PER_ENCODER.items()}
_ENCODER = {"name": "encoders", **_OF_ENCODER}

#: Names in a file that differ from the names of the parameters.
_NAMES = {"kind": "kinds", "encoder": "encoders", **_OF_ENCODER}

#: Parameters that a file cannot set.
_NOT_IN_FILES = frozenset({"config", "as_json", "measure", "help"})


def read_config(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """Make the options in a file the defaults of a command; the callback of ``--config``.

    Keys are the names of options with underscores, ``manifest`` and ``store`` included.
    Encoders are names, or ``[[encoder]]`` tables with ``name``, ``weights``, ``pool``,
    ``prefix``, ``prompt_name`` and ``max_length``.

    Raises
    ------
    click.UsageError
        If the file cannot be read, or has a key that is no option.
    """
    if path is None:
        return None
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        msg = f"Cannot read {path}: {err.strerror or err}."
        raise click.UsageError(msg, ctx) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        msg = f"{path} is no TOML: {err}."
        raise click.UsageError(msg, ctx) from err
    ctx.default_map = {**(ctx.default_map or {}), **_defaults(ctx, path, found)}
    return path


def _defaults(ctx: click.Context, path: Path, found: dict[str, Any]) -> dict[str, Any]:
    parameters = {
        parameter.name: parameter
        for parameter in ctx.command.params
        if parameter.name and parameter.name not in _NOT_IN_FILES
    }
    spelled = {value: key for key, value in _NAMES.items()}
    known = {spelled.get(name, name): name for name in parameters}
    defaults: dict[str, Any] = {}
    for key, value in found.items():
        if key not in known:
            names = ", ".join(sorted(known))
            msg = f"{path}: unknown key {key!r}. Keys: {names}.{did_you_mean(key, known)}"
            raise click.UsageError(msg, ctx)
        if key == "encoder" and isinstance(value, list) and all(isinstance(v, dict) for v in value):
            defaults |= _encoder_tables(ctx, path, value)
            continue
        many = getattr(parameters[known[key]], "multiple", False)
        defaults[known[key]] = value if not many or isinstance(value, list) else [value]
    return defaults


def _encoder_tables(
    ctx: click.Context, path: Path, tables: list[dict[str, Any]]
) -> dict[str, list[str]]:
    """Return the lists that [[encoder]] tables stand for."""
    for table in tables:
        for key in table:
            if key not in _ENCODER:
                msg = (
                    f"{path}: unknown key {key!r} in [[encoder]]. Keys: {', '.join(_ENCODER)}."
                    f"{did_you_mean(key, _ENCODER)}"
                )
                raise click.UsageError(msg, ctx)
        if "name" not in table:
            msg = f"{path}: an [[encoder]] has no name."
            raise click.UsageError(msg, ctx)
    lists = {"encoders": [str(table["name"]) for table in tables]}
    for key, parameter in _OF_ENCODER.items():
        if any(key in table for table in tables):
            lists[parameter] = [str(table.get(key, DEFAULT)) for table in tables]
    return lists
