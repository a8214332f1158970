"""The `bench` command."""

from bench.cli.main import cli, main

__all__ = ["cli", "main"]
