"""A small manifest by hand: its facts and tables."""

import polars as pl

FACTS = {"name": "zoo", "revision": "1", "pitfalls": ["few", "animals"]}


def classes(**changes):
    columns = {
        "class_id": ["zoo/cat", "zoo/dog"],
        "index": [0, 1],
        "name": ["cat", "dog"],
        "shared_name": [False, False],
    }
    return pl.DataFrame(columns | changes)


def images(**changes):
    columns = {
        "item_id": ["zoo/1", "zoo/2", "zoo/3"],
        "uri": ["images/1.png", "images/2.png", "images/deep/3.png"],
        "class_id": ["zoo/cat", "zoo/dog", "zoo/dog"],
        "split": ["train", "test", None],
    }
    return pl.DataFrame(columns | changes)


def captions(**changes):
    columns = {
        "item_id": ["zoo/1#en", "zoo/2#en"],
        "text": ["A cat.", "Zwölf Hunde 犬"],
        "parent_id": ["zoo/1", "zoo/2"],
        "split": ["train", "test"],
    }
    return pl.DataFrame(columns | changes)
