"""Datasets whose images are named by lists: text, JSON, a table, MATLAB files."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from typing import Any

import numpy as np

from data_manifests.official.disk import Disk, Listing, Row, image_frame, sorted_labels
from data_manifests.plan import BuildError

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
        document = disk.json(name)
        if not isinstance(document, dict):
            raise BuildError(f"{disk.path(name)} is no JSON object class -> list. Fetch it again.")
        rows += [
            (f"images/{image}.jpg", split, str(label))
            for label, images in document.items()
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
        if diagnosis not in DIAGNOSES:
            raise BuildError(
                f"{name} gives {image} the diagnosis {diagnosis!r}; known: {DIAGNOSES}."
            )
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
    rows = []
    for file, number in disk.fields("places365_val.txt", 2):
        if int(number) not in categories:
            raise BuildError(
                f"places365_val.txt gives {file} the category {number}, which is not listed."
            )
        rows.append((f"val_256/{file.lstrip('/')}", "val", categories[int(number)]))
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
    folder = disk.image_folder()
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
    strange = sorted({label for _, _, label in rows} - set(labels))
    if strange:
        raise BuildError(
            f"{len(strange):,} classes are not in ClassName.txt (first: {strange[0]!r})."
        )
    # A class in several kinds is named kind first, as in "indoor church".
    names = {label: " ".join(reversed(label.split("/"))).replace("_", " ") for label in labels}
    return Listing(image_frame(rows), labels, names)


def ucf101(disk: Disk) -> Listing:
    """List the middle frames of the videos of a fold; labels are the folders (Apply_Eye_Makeup)."""
    folder = disk.image_folder()
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
    """Return one variable of a .mat file (version 5), squeezed.

    Raises
    ------
    BuildError
        If the file is missing, no .mat file, or lacks the variable.
    """
    from scipy.io import loadmat

    data = disk.read(name)
    try:
        return loadmat(io.BytesIO(data), squeeze_me=True, variable_names=[variable])[variable]
    except Exception as err:  # damaged files make scipy raise nearly anything
        why = f"it has no variable {variable!r}" if isinstance(err, KeyError) else str(err)[:200]
        raise BuildError(
            f"Cannot read {disk.path(name)} as a .mat file: {why}. Fetch it again."
        ) from err


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
    rows = []
    for split in disk.splits:
        for number in read_mat(disk, "setid.mat", disk.word(split)).tolist():
            if not 1 <= number <= len(classes):
                raise BuildError(
                    f"setid.mat names image {number:,}; imagelabels.mat has {len(classes):,}."
                )
            rows.append((f"jpg/image_{number:05d}.jpg", split, str(classes[number - 1])))
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
