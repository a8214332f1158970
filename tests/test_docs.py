"""What the documents tell a user to type is what the commands take."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

from bench.cli.main import cli as bench_cli
from featstore.cli import cli as featstore_cli
from featstore.sources import SOURCES
from fitters.cli import cli as fitters_cli

ROOT = Path(__file__).parents[1]
GROUPS = {"featstore": featstore_cli, "fitters": fitters_cli, "bench": bench_cli}


def _demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", ROOT / "docs" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _demo_commands() -> list[str]:
    commands: list[str] = _demo().commands("OUT")
    return commands


def _readme_commands() -> list[str]:
    return _console_commands("README.md")


def _console_commands(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.split(" ")[0] in GROUPS]


def _source_commands() -> list[str]:
    return (
        _console_commands("docs/sources.md")
        + _console_commands("docs/extraction.md")
        + _console_commands("docs/many-devices.md")
        + _console_commands("docs/sharing.md")
        + _console_commands("docs/scaling.md")
        + _console_commands("docs/bench.md")
        + _console_commands("docs/reproduce.md")
        + _console_commands("docs/metrics.md")
        + _console_commands("docs/trained.md")
        + _console_commands("docs/few_shot.md")
        + _console_commands("docs/prompt_learning.md")
        + _console_commands("docs/fitting.md")
    )


def _parse(command: str) -> None:
    """Parse a command line with the real command, without running it."""
    name, *args = shlex.split(command)
    group: click.Command = GROUPS[name]
    context = click.Context(group, info_name=name)
    while isinstance(group, click.Group):
        found = group.get_command(context, args[0])
        assert found is not None, args[0]
        group, args = found, args[1:]
    group.make_context(command, list(args), parent=context)


@pytest.mark.parametrize(
    "command", _demo_commands() + _readme_commands() + _source_commands(), ids=lambda c: c[:60]
)
def test_commands_in_documents_parse(command: str) -> None:
    _parse(command)


def test_both_documents_hold_commands() -> None:
    assert len(_demo_commands()) == 14
    assert len(_readme_commands()) >= 10
    assert {command.split()[0] for command in _readme_commands()} == set(GROUPS)


def test_every_source_has_its_command_its_row_and_its_options_in_the_document() -> None:
    text = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
    commands = _source_commands()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    for source in SOURCES.values():
        assert source.example.split(" --option")[0] in " ".join(commands).replace(
            " --name cars", ""
        )
        (row,) = [row for row in rows if f"`{source.name}`" in row.split("|")[1]]
        own = set(source.options) - {"image", "caption", "label", "id"}
        if "columns" in row:
            own -= {"split"}
        assert own == set(re.findall(r"`(\w+)`", row.rsplit("|", 2)[1]))


def test_a_wrong_option_would_be_noticed() -> None:
    with pytest.raises(click.UsageError, match="--stroe"):
        _parse("featstore extract x --kind image --encoder timm:a --stroe s")


def test_links_between_documents_lead_somewhere() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for document in documents:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
    named = re.findall(r"(?:featstore|fitters|bench|tests|docs)/[\w/]+\.(?:py|md)", "".join(
        document.read_text(encoding="utf-8") for document in documents
    ))  # fmt: skip
    missing = sorted({name for name in named if not (ROOT / name).exists()})
    assert not missing, f"documents name files that do not exist: {missing}"


def test_the_demo_measures_each_step_and_passes_on_its_exit_code() -> None:
    run_step = _demo().run_step
    code, seconds, peak = run_step(f"{sys.executable} -c 'raise SystemExit(3)'")
    assert code == 3
    assert seconds > 0
    assert peak > 1
    assert run_step(f"{sys.executable} -c pass")[0] == 0
