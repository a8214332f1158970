"""What reads a dataset's official layout: folders, lists, Karpathy's JSON, pixels.

``reader = "food101"`` in a dataset.toml names the function `food101` here. A reader takes a `Disk`
and returns a `Listing` of its wanted splits.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from data_manifests.copies import (
    Disk,
    Listing,
    Row,
    caption_frame,
    image_frame,
    pixels_frame,
    sorted_labels,
)
from data_manifests.labels import plan_label_set
from data_manifests.plan import BuildError

#: A folder of Caltech 101 that is no class: clutter that detectors were trained against.
BACKGROUND = "BACKGROUND_Google"

#: Training images a class of Caltech 101, as in the usual protocol.
SHOTS = 30


def caltech101(disk: Disk) -> Listing:
    """List all images but the background: 30 a class are train, the rest test.

    The split depends on the paths alone.
    """
    groups: dict[str | None, list[str]] = defaultdict(list)
    for path, _, label in class_folders(disk, disk.folder(disk.facts["image_folders"]), "test"):
        if label != BACKGROUND:
            groups[label].append(path)
    rows: list[Row] = []
    for label, paths in groups.items():
        ordered = sorted(paths, key=lambda path: hashlib.sha256(path.encode()).digest())
        rows += [(path, "train" if n < SHOTS else "test", label) for n, path in enumerate(ordered)]
    return Listing(image_frame([row for row in rows if row[1] in disk.splits]), sorted_labels(rows))


def eurosat(disk: Disk) -> Listing:
    """List all images, split as the paper does: a stratified tenth is test."""
    from sklearn.model_selection import train_test_split

    rows = class_folders(disk, disk.folder(disk.facts["image_folders"]), "train")
    labels = [label for _, _, label in rows]
    _, test = train_test_split(range(len(rows)), test_size=0.1, random_state=42, stratify=labels)
    chosen = set(test)
    split_rows = [
        (path, "test" if place in chosen else "train", label)
        for place, (path, _, label) in enumerate(rows)
    ]
    return Listing(
        image_frame([row for row in split_rows if row[1] in disk.splits]), sorted_labels(rows)
    )


def imagenet1k(disk: Disk) -> Listing:
    """List the images of the wanted splits, in one folder a synset; labels are synsets.

    The label set is that of timm's files.
    """
    classes = plan_label_set(disk.facts).make(disk.root, None).classes
    assert classes is not None
    rows = [
        row
        for split in disk.splits
        for row in class_folders(disk, disk.folder(disk.facts["split_folders"][split]), split)
    ]
    return Listing(image_frame(rows), classes["synset"].to_list(), classes=classes)


#: The label set of both sizes of the training set, and of heads (timm's inat21).
INAT_LABEL_SET = "inat21"

#: Lists that have iNaturalist's categories; the smallest is read.
INAT_LISTS = ("categories.json", "val.json", "train_mini.json", "train.json")


def inat21(disk: Disk) -> Listing:
    """List the images of the wanted splits; the label set is from the dataset's categories.

    The label of a species is its number (``00042``), the first part of its folder's name.
    """
    given = next((name for name in INAT_LISTS if disk.has(name)), None)
    rows: list[Row] = []
    for split in disk.splits:
        folders = disk.facts["split_folders"][split]
        if given is not None and not any((disk.root / name).is_dir() for name in folders):
            continue  # told by the counts; the label set alone needs no folder
        rows += class_folders(disk, disk.folder(disk.facts["split_folders"][split]), split)
    found = {label for _, _, label in rows if label is not None}
    species: Mapping[str, Mapping[str, Any]] = (
        {folder: {} for folder in sorted(found)} if given is None else _listed_species(disk, given)
    )
    classes = _species_table(species)
    numbered = [(path, split, (label or "").partition("_")[0]) for path, split, label in rows]
    labels = [folder.partition("_")[0] for folder in species]
    return Listing(image_frame(numbered), labels, classes=classes)


def _listed_species(disk: Disk, name: str) -> dict[str, Mapping[str, Any]]:
    """Return folder -> category of a list, in the order of the categories' ids."""
    document = disk.json(name)
    categories = document["categories"] if isinstance(document, dict) else document
    rows = sorted(categories, key=lambda category: int(category["id"]))
    return {row["image_dir_name"]: row for row in rows}


def _species_table(species: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """Return the label set: name is the common one, lemmas are the common and the scientific."""
    numbers = [folder.partition("_")[0] for folder in species]
    wrong = [n for place, n in enumerate(numbers) if n != f"{place:05d}"]
    if wrong:
        raise BuildError(
            f"The folders of the species must be numbered 00000, 00001 … without a gap; after "
            f"{numbers.index(wrong[0]):,} of them comes {wrong[0]!r}. Unpack the archive again."
        )
    pairs = [
        (
            str(row.get("common_name") or "").strip(),
            str(row.get("name") or " ".join(folder.split("_")[6:])),
        )
        for folder, row in species.items()
    ]
    return (
        pl.DataFrame(
            {
                "index": range(len(pairs)),
                "name": [common or scientific for common, scientific in pairs],
                "lemmas": [
                    ", ".join(dict.fromkeys(part for part in pair if part)) for pair in pairs
                ],
                "class_id": [f"{INAT_LABEL_SET}/{number}" for number in numbers],
            },
            schema_overrides={"index": pl.Int64},
        )
        .with_columns(name_group=pl.col("name").str.to_lowercase())
        .with_columns(shared_name=pl.col("name_group").is_duplicated())
    )


def class_folders(disk: Disk, folder: str, split: str) -> list[Row]:
    """Return the images of ``folder/<label>/…/<file>``, each with its class folder as label.

    Raises
    ------
    BuildError
        If an image lies in no class folder.
    """
    depth = 0 if folder == "." else folder.count("/") + 1
    rows: list[Row] = []
    for path in disk.images(folder):
        parts = path.split("/")
        if len(parts) < depth + 2:
            raise BuildError(
                f"{disk.root / path} lies in no class folder. {folder} must hold one folder a "
                "class, with its images inside."
            )
        rows.append((path, split, parts[depth]))
    return rows


#: Level of FGVC-Aircraft -> the list of its classes.
AIRCRAFT_LEVELS = {"variant": "variants", "family": "families", "manufacturer": "manufacturers"}


def aircraft(disk: Disk) -> Listing:
    """List the images of a level, each with its class: one list a split and level."""
    level = disk.options["level"]
    rows: list[Row] = [
        (f"data/images/{image}.jpg", split, label)
        for split in disk.splits
        for image, label in disk.fields(f"data/images_{level}_{split}.txt", 2)
    ]
    return Listing(image_frame(rows), disk.lines(f"data/{AIRCRAFT_LEVELS[level]}.txt"))


def dtd(disk: Disk) -> Listing:
    """List the images of a partition: lines class/file, one list a split and partition."""
    rows: list[Row] = [
        (f"images/{line}", split, line.partition("/")[0])
        for split in disk.splits
        for line in disk.lines(f"labels/{split}{disk.options['partition']}.txt")
    ]
    return Listing(image_frame(rows), sorted_labels(rows))


def food101(disk: Disk) -> Listing:
    """List the images of a JSON a split: class -> list of class/number."""
    rows = []
    for split in disk.splits:
        name = f"meta/{split}.json"
        rows += [
            (f"images/{image}.jpg", split, str(label))
            for label, images in disk.json(name).items()
            for image in images
        ]
    return Listing(image_frame(rows), sorted_labels(rows))


#: The diagnoses of HAM10000 in the paper's order.
DIAGNOSES = ("nv", "mel", "bkl", "bcc", "akiec", "vasc", "df")

#: What HAM10000's table is called: Kaggle, Dataverse as downloaded, Dataverse's original.
HAM_TABLES = ("HAM10000_metadata.csv", "HAM10000_metadata.tab", "HAM10000_metadata")


def ham10000(disk: Disk) -> Listing:
    """List all images of a table of diagnoses, with their lesions; they lie in two folders."""
    name = next((name for name in HAM_TABLES if disk.has(name)), None)
    if name is None:
        raise BuildError(
            f"{disk.root} has none of {', '.join(HAM_TABLES)}: a table with the columns lesion_id, "
            "image_id and dx. It may lie elsewhere: -s metadata=PATH."
        )
    lines = disk.text(name).splitlines()
    reader = csv.DictReader(lines, delimiter="\t" if "\t" in lines[0] else ",")
    where = {path.rpartition("/")[2].rpartition(".")[0]: path for path in disk.images()}
    rows, lesions = [], []
    for row in reader:
        image, diagnosis = row["image_id"], row["dx"]
        rows.append((where.get(image, f"images/{image}.jpg"), "test", diagnosis))
        lesions.append(row["lesion_id"])
    return Listing(image_frame(rows, lesion_id=lesions), DIAGNOSES)


def pets(disk: Disk) -> Listing:
    """List the images of a list a split; the breed is the file name without its number.

    Classes stand in the order of the lists' numbers.
    """
    rows, numbers = [], {}
    for split in disk.splits:
        for image, number, _, _ in disk.fields(f"annotations/{disk.word(split)}.txt", 4):
            label = image.rpartition("_")[0].lower()
            numbers[label] = int(number)
            rows.append((f"images/{image}.jpg", split, label))
    return Listing(image_frame(rows), sorted(numbers, key=numbers.__getitem__))


#: Images of a class in the paper's few-shot split of Places365, to train on and to test.
PLACES_TRAIN, PLACES_TEST = 10, 40


def places365(disk: Disk) -> Listing:
    """List the validation images; labels are the categories without their letter.

    With ``few_shot=paper`` the images of each class are in the order of the sha256 of their names:
    the first `PLACES_TRAIN` are train, the next `PLACES_TEST` test, and the others left out.
    """
    categories = {
        int(number): category.split("/", 2)[-1]
        for category, number in disk.fields("categories_places365.txt", 2)
    }
    rows = [
        (f"val_256/{file.lstrip('/')}", "val", categories[int(number)])
        for file, number in disk.fields("places365_val.txt", 2)
    ]
    if disk.options["few_shot"] == "paper":
        rows = [row for row in _few_shot(rows) if row[1] in disk.splits]
    labels = [categories[number] for number in sorted(categories)]
    names = {label: label.replace("/", " ").replace("_", " ") for label in labels}
    return Listing(image_frame(rows), labels, names)


def _few_shot(rows: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    by_class: dict[str, list[str]] = {}
    for path, _, label in sorted(rows, key=lambda row: hashlib.sha256(row[0].encode()).hexdigest()):
        by_class.setdefault(label, []).append(path)
    splits = ["train"] * PLACES_TRAIN + ["test"] * PLACES_TEST
    return sorted(
        (path, split, label)
        for label, paths in by_class.items()
        for path, split in zip(paths, splits, strict=False)
    )


def resisc45(disk: Disk) -> Listing:
    """List the images of lists of file names; the class is the name without its number."""
    folder = disk.folder(disk.facts["image_folders"])
    rows: list[Row] = []
    for split in disk.splits:
        for name in disk.lines(f"resisc45-{split}.txt"):
            label = name.rpartition("_")[0]
            rows.append((f"{folder}/{label}/{name}", split, label))
    return Listing(image_frame(rows), sorted_labels(rows))


def sun397(disk: Disk) -> Listing:
    """List one of ten partitions, or all images; labels are the classes without their letter."""
    labels = [line[3:] for line in disk.lines("SUN397/ClassName.txt")]
    partition = disk.options["partition"]
    if partition == "all":
        paths = [(path, "all") for path in disk.images("SUN397", (".jpg",)) if "/sun_" in path]
    else:
        paths = [
            (f"SUN397{line}", split)
            for split in disk.splits
            for line in disk.lines(f"{disk.word(split)}_{int(partition):02d}.txt")
        ]
    rows = [(path, split, "/".join(path.split("/")[2:-1])) for path, split in paths]
    # A class in several kinds is named kind first, as in "indoor church".
    names = {label: " ".join(reversed(label.split("/"))).replace("_", " ") for label in labels}
    return Listing(image_frame(rows), labels, names)


def ucf101(disk: Disk) -> Listing:
    """List the middle frames of the videos of a fold; labels are the folders (Apply_Eye_Makeup)."""
    folder = disk.folder(disk.facts["image_folders"])
    order = disk.fields("ucfTrainTestlist/classInd.txt", 2)
    labels = [_words(action) for _, action in sorted(order, key=lambda row: int(row[0]))]
    rows = []
    for split in disk.splits:
        for line in disk.lines(f"ucfTrainTestlist/{split}list0{disk.options['fold']}.txt"):
            action, _, video = line.split()[0].partition("/")
            label = _words(action)
            rows.append((f"{folder}/{label}/{video.removesuffix('.avi')}.jpg", split, label))
    return Listing(image_frame(rows), labels)


def _words(action: str) -> str:
    """Return an action's words, joined by ``_``: ``ApplyEyeMakeup`` gives ``Apply_Eye_Makeup``."""
    return re.sub("(?<!^)(?=[A-Z])", "_", action)


def read_mat(disk: Disk, name: str, variable: str) -> Any:
    """Return one variable of a .mat file (version 5), squeezed."""
    from scipy.io import loadmat

    return loadmat(io.BytesIO(disk.read(name)), squeeze_me=True, variable_names=[variable])[
        variable
    ]


#: Split of Stanford Cars -> its annotations.
CARS_ANNOTATIONS = {
    "train": "devkit/cars_train_annos.mat",
    "test": "cars_test_annos_withlabels.mat",
}


def cars(disk: Disk) -> Listing:
    """List the images of MATLAB annotations; labels are the official numbers from 1."""
    names = [str(name) for name in read_mat(disk, "devkit/cars_meta.mat", "class_names").tolist()]
    rows = [
        (f"cars_{split}/{row['fname']}", split, str(int(row["class"])))
        for split in disk.splits
        for row in np.atleast_1d(read_mat(disk, CARS_ANNOTATIONS[split], "annotations"))
    ]
    numbered = {str(number): name for number, name in enumerate(names, start=1)}
    return Listing(image_frame(rows), list(numbered), numbered)


def flowers102(disk: Disk) -> Listing:
    """List the images whose numbers MATLAB files give; labels are the official ones from 1."""
    classes = read_mat(disk, "imagelabels.mat", "labels").tolist()
    rows = [
        (f"jpg/image_{number:05d}.jpg", split, str(classes[number - 1]))
        for split in disk.splits
        for number in read_mat(disk, "setid.mat", disk.word(split)).tolist()
    ]
    names = _flower_names(disk)
    return Listing(image_frame(rows), list(names), names)


def _flower_names(disk: Disk) -> dict[str, str]:
    """Return number -> name, in the order of the numbers."""
    if disk.has("cat_to_name.json"):
        given = {str(key): str(name) for key, name in disk.json("cat_to_name.json").items()}
        return dict(sorted(given.items(), key=lambda pair: int(pair[0])))
    try:
        from torchvision.datasets import Flowers102
    except ImportError as err:
        raise BuildError(
            "The names of the flowers are read from torchvision, which is not installed. Run pip "
            "install torchvision, or put cat_to_name.json beside the lists."
        ) from err
    return {str(n): str(name) for n, name in enumerate(Flowers102.classes, start=1)}


def coco(disk: Disk) -> Listing:
    """List the images of train2014 and val2014, and their captions."""
    rows: list[Row] = []
    captions, numbers = [], []
    for image in disk.json("dataset_coco.json")["images"]:
        if image["split"] in disk.splits:
            path = f"{image['filepath']}/{image['filename']}"
            rows.append((path, image["split"], None))
            numbers.append(int(image["cocoid"]))
            captions += karpathy_captions(disk, image, path)
    return Listing(image_frame(rows, cocoid=numbers), captions=caption_frame(captions))


#: The two usual files of all captions of Flickr30k.
TOKENS, CAPTIONS = "results_20130124.token", "captions.txt"


def flickr30k(disk: Disk) -> Listing:
    """List Karpathy's images; with train=paper all that are not in his test split are train.

    That includes the images which his JSON leaves out.
    """
    folder = disk.folder(disk.facts["image_folders"])
    rows, captions, source = [], [], []
    paper = disk.options["train"] == "paper"
    known = disk.json("dataset_flickr30k.json")["images"]
    for image in known:
        split = "train" if paper and image["split"] != "test" else image["split"]
        if split in disk.splits:
            path = f"{folder}/{image['filename']}"
            rows.append((path, split, None))
            source.append(image["split"])
            captions += karpathy_captions(disk, image, path)
    if paper and "train" in disk.splits:
        listed = {image["filename"] for image in known}
        texts = _all_captions(disk)
        for path in disk.images(folder, (".jpg",)):
            name = path.rpartition("/")[2]
            if name in listed:
                continue
            if name not in texts:
                raise BuildError(
                    f"{disk.root / path} has no caption in {TOKENS} or {CAPTIONS}, nor in "
                    "Karpathy's JSON. Remove the file, or fetch the captions again."
                )
            rows.append((path, "train", None))
            source.append("none")
            captions += [(f"{name}#{n}", path, text) for n, text in enumerate(texts[name])]
    return Listing(image_frame(rows, source_split=source), captions=caption_frame(captions))


def _all_captions(disk: Disk) -> dict[str, list[str]]:
    """Return file name -> captions, from whichever of the two files lies there."""
    given = disk.options["tokens"]
    name = next((name for name in (TOKENS, CAPTIONS) if disk.has(name)), None)
    if name is None:
        where = given or str(disk.root)
        raise BuildError(
            f"train=paper needs the captions of the images that Karpathy left out: {where} has "
            f"neither {TOKENS} (lines image.jpg#0, tab, caption) nor {CAPTIONS} (a first line "
            "image,caption, then lines image.jpg,caption). Give one with -s tokens=PATH."
        )
    lines = disk.lines(name)
    captions: dict[str, list[str]] = {}
    for line in lines if "\t" in lines[0] else lines[1:]:
        image, _, text = line.partition("\t") if "\t" in line else line.partition(",")
        captions.setdefault(image.partition("#")[0], []).append(text.strip().strip('"').strip())
    limit = 5 if disk.options["captions"] == "first5" else None
    return {image: texts[:limit] for image, texts in captions.items()}


def karpathy_captions(
    disk: Disk, image: Mapping[str, Any], path: str
) -> list[tuple[str, str, str]]:
    """Return (``sentid``, path, text) of an image of Karpathy's, of five texts at most if asked.

    A sentence that is blank but for spaces is no text; COCO has none, strangers' files might.
    """
    limit = 5 if disk.options["captions"] == "first5" else None
    return [
        (str(int(sentence["sentid"])), path, sentence["raw"].strip())
        for sentence in image["sentences"][:limit]
        if sentence["raw"].strip()
    ]


#: Bytes of one picture: red, green, blue planes of 32 x 32.
PIXELS = 3 * 32 * 32


def cifar(disk: Disk) -> Listing:
    """Return the pictures and labels of CIFAR, from its binary version.

    ``[records]`` of dataset.toml names the list of classes, how many bytes stand before each
    picture and which of them is the label; ``[files]`` says which files are of which split.
    """
    spec: Mapping[str, Any] = disk.facts["records"]
    names, before = disk.lines(spec["names"]), int(spec["label_bytes"])
    arrays, labels = {}, {}
    for split in disk.splits:
        files = [file for file, own in disk.file_names() if own.get("split") == split]
        data = b"".join(disk.read(file) for file in files)
        rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, before + PIXELS)
        classes = rows[:, int(spec["label_place"])]
        planes = rows[:, before:].reshape(-1, 3, 32, 32)
        arrays[split] = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
        labels[split] = [names[index] for index in classes]
    return Listing(pixels_frame(labels), names, arrays=arrays)


def mnist(disk: Disk) -> Listing:
    """Return the pictures and digits of MNIST: two IDX files a split, plain or gzipped."""
    arrays, labels = {}, {}
    for split in disk.splits:
        word = disk.word(split)
        arrays[split] = read_idx(disk, f"{word}-images-idx3-ubyte")
        digits = read_idx(disk, f"{word}-labels-idx1-ubyte")
        if arrays[split].ndim != 3 or digits.shape != arrays[split].shape[:1] or digits.max() > 9:
            raise BuildError(
                f"{word}: pictures of shape {arrays[split].shape} with labels of shape "
                f"{digits.shape} are no MNIST. Fetch the files again."
            )
        labels[split] = [str(digit) for digit in digits.tolist()]
    return Listing(pixels_frame(labels), [str(digit) for digit in range(10)], arrays=arrays)


#: How an IDX file of unsigned bytes begins. No other type is read.
_UBYTES = b"\0\0\x08"


def read_idx(disk: Disk, name: str) -> np.ndarray:
    """Return the array of an IDX file of unsigned bytes; ``name.gz`` serves as well.

    Returns
    -------
    ndarray of uint8

    Raises
    ------
    BuildError
        If neither is there, or it is damaged.
    """
    path = disk.path(name)
    if not disk.has(name) and not disk.has(f"{name}.gz"):
        raise BuildError(f"{path} is missing, and so is {name}.gz: an IDX file of unsigned bytes.")
    data = disk.read(name) if disk.has(name) else gzip.decompress(disk.read(f"{name}.gz"))
    if data[:3] != _UBYTES:
        raise BuildError(f"{path} is no IDX file of unsigned bytes: it begins {data[:4].hex()}.")
    start = 4 + 4 * data[3]
    shape = [int(size) for size in np.frombuffer(data[4:start], dtype=">u4")]
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
