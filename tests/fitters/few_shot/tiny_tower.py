"""The tiny open_clip model with random weights, as the prompt learners take it."""

from types import SimpleNamespace

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer
from sklearn.datasets import load_digits
from sklearn.preprocessing import normalize

from featstore.encoders.open_clip import OpenClipPromptTower
from tests.featstore.encoders.open_clip_models import build

TOKENIZER = SimpleTokenizer(context_length=16)
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def tower_of(model, name="oc:tiny-clip"):
    """Return the prompt tower of a model, without a weights file."""
    encoder = SimpleNamespace(name=name, space={}, model=model, tokenizer=TOKENIZER, dim=24)
    return OpenClipPromptTower(encoder)


def tiny_tower(name="tiny-clip", seed=0):
    return tower_of(build(name, seed), f"oc:{name}")


def digit_rows(model, n):
    """Return unit rows of the first digits by the model's own image tower, and their labels."""
    data = load_digits()
    pictures = torch.from_numpy(data.images[:n].astype(np.float32) / 16)[:, None]
    pictures = torch.nn.functional.interpolate(pictures.expand(-1, 3, -1, -1), size=(32, 32))
    with torch.inference_mode():
        rows = model.encode_image(pictures - 0.5).numpy()
    return normalize(rows).astype(np.float32), data.target[:n].astype(np.int64)
