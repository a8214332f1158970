"""``featstore doctor``: what is wrong with this machine, the cache or a store, and what to do."""

from __future__ import annotations

from dataclasses import asdict

import click

from featstore.command_line import EXIT_ERROR, StorePlace, StoreType, print_json
from featstore.share.doctor import examine

_SIGNS = {"fine": "ok", "note": "note", "wrong": "WRONG"}


@click.command("doctor", epilog="Example: featstore doctor s3://team/features")
@click.argument("store", type=StoreType(), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def doctor_command(store: StorePlace | None, as_json: bool) -> int:
    """Check the environment, the cache, and STORE if one is given; say what to do.

    Writes nothing to a store, and prints no credentials. Exits 1 if something is wrong.
    """
    findings = list(examine(store))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{_SIGNS[finding.state]:<6} {finding.what}: {finding.said}")
            if finding.advice and finding.state != "fine":
                click.echo(f"       {finding.advice}")
    return EXIT_ERROR if any(finding.state == "wrong" for finding in findings) else 0
