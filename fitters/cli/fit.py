"""``fitters fit``: one alignment from the sets of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from featstore.command_line import print_json
from featstore.errors import did_you_mean


class NumberOrAuto(click.ParamType[Any]):
    """``auto``, or a number in a range."""

    name = "auto|number"

    def __init__(self, *, above_zero: bool) -> None:
        self._above_zero = above_zero

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | Literal["auto"]:
        """Return the number or "auto"; anything else is a usage error."""
        if value == "auto":
            return "auto"
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        good = 0 < number < float("inf") if self._above_zero else 0 <= number < float("inf")
        if not good:
            rule = "above 0" if self._above_zero else "not negative"
            self.fail(
                f"must be 'auto' or a finite number that is {rule}; got {value!r}.", param, ctx
            )
        return number


@click.command(
    "fit",
    epilog="Example: fitters fit ridge --store store --x stamps/image/tf_efficientnet_lite0 "
    "--head imagenet1k/head_weight/tf_efficientnet_lite0 "
    "--names imagenet1k/class_name/all-MiniLM-L6-v2 -o aligners/ridge-head",
)
@click.argument("method")
@click.option("--store", required=True, type=click.Path(path_type=Path), help="The store.")
@click.option("--x", required=True, help="Image set: dataset/image/encoder.")
@click.option("--y", help="Caption set, for real pairs.")
@click.option("--pairs", "split", default="train", show_default=True, help="Split of real pairs.")
@click.option("--n-pairs", type=click.IntRange(min=1), help="Images with a caption; default all.")
@click.option("--head", help="Head set, for prototypes: label set/head_weight/encoder.")
@click.option("--names", help="Class-name set of the head's label set.")
@click.option("--source", default="head", show_default=True, help="head, or a control.")
@click.option("--variants", default="name", show_default=True, help="Comma-separated.")
@click.option("--templates", default="none,photo", show_default=True, help="Comma-separated.")
@click.option("--penalty", type=NumberOrAuto(above_zero=False), default="auto", show_default=True)
@click.option("--mix", type=NumberOrAuto(above_zero=True), default="auto", show_default=True)
@click.option(
    "--criterion",
    type=click.Choice(["cosine", "rank"]),
    default="cosine",
    show_default=True,
    help="How leave-one-out chooses the penalty when there is no real pair.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--json", "as_json", is_flag=True, help="Print the alignment's facts as JSON.")
def fit_command(
    method: str,
    store: Path,
    x: str,
    y: str | None,
    split: str,
    n_pairs: int | None,
    head: str | None,
    names: str | None,
    source: str,
    variants: str,
    templates: str,
    penalty: float | Literal["auto"],
    mix: float | Literal["auto"],
    criterion: Literal["cosine", "rank"],
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Fit METHOD (ridge, ridge-x2y, kernel-ridge, procrustes, conse) and save it as the folder OUT.

    With --head and --names the head's rows are the anchors, with --y real pairs, with all three
    both. Penalty and mixing weight are chosen from these alone, never from a test image.
    """
    from featstore.store.store import open_store
    from fitters.jobs import FitRequest, fit_from_store
    from fitters.persist import save_alignment
    from fitters.recipe import METHODS

    if method not in METHODS:
        hint = did_you_mean(method, METHODS)
        msg = f"No method {method!r}. Methods: {', '.join(METHODS)}.{hint}"
        raise click.UsageError(msg, click.get_current_context())
    request = FitRequest(
        method=method,
        x=x,
        y=y,
        split=split,
        n_pairs=n_pairs,
        head=head,
        names=names,
        source=source,
        variants=_words(variants),
        templates=_words(templates),
        penalty=penalty,
        mix=mix,
        criterion=criterion,
        seed=seed,
    )
    alignment = fit_from_store(open_store(store), request)
    save_alignment(out, alignment)
    if as_json:
        print_json({"path": str(out), **alignment.facts})
        return
    facts = alignment.facts
    choice = facts["choice"]
    chosen = ", ".join(
        f"{name} {choice[name]:.3g}"
        for name in ("penalty", "gamma", "mix")
        if choice.get(name) is not None
    )
    click.echo(
        f"{out}: {method} on {facts['n_prototypes']:,} prototypes and {facts['n_real']:,} real "
        f"pairs{f' ({chosen})' if chosen else ''}"
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
