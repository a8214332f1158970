"""``fitters export``: an alignment's arrays, or a synthesised head, for other programs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from featstore.command_line import StorePlace, StoreType, print_json
from featstore.durable import write_durably
from fitters.alignment import Alignment
from fitters.errors import AlignmentWriteError

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
    from fitters.persist import read_alignment

    context = click.get_current_context()
    chosen = file_format or out.suffix.removeprefix(".")
    if chosen not in ("safetensors", "npz"):
        msg = (
            "Say the format with --format, or end the file in .safetensors or .npz; got "
            f"{out.name!r}."
        )
        raise click.UsageError(msg, context)
    if (store is None) != (names is None):
        msg = "--names and --store go together."
        raise click.UsageError(msg, context)
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
        msg = f"Cannot write {out}: {err.strerror or err}. Choose a folder that you may write."
        raise AlignmentWriteError(msg) from err
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
    from featstore.store.opening import open_store
    from fitters.spaces import project_view

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
