"""Miniatures of datasets in exactly their official layouts: same names, formats and quirks."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np

from tests.small_files import write


def food101(root: Path) -> Path:
    lists = {
        "train": {"waffles": ["waffles/2", "waffles/1"], "apple_pie": ["apple_pie/7"]},
        "test": {"waffles": ["waffles/3"], "apple_pie": ["apple_pie/8", "apple_pie/9"]},
    }
    files: dict = {"food-101/meta/classes.txt": "apple_pie\nwaffles\n"}
    for split, own in lists.items():
        files[f"food-101/meta/{split}.json"] = own
        images = [image for group in own.values() for image in group]
        files[f"food-101/meta/{split}.txt"] = "\n".join(images)
        for number, image in enumerate(images):
            files[f"food-101/images/{image}.jpg"] = number
    files["food-101/images/.DS_Store"] = "macOS"
    return write(root, files)


def pets(root: Path) -> Path:
    train = "Abyssinian_100 1 1 1\namerican_bulldog_100 2 2 1\nBengal_7 3 1 2\n"
    test = "american_bulldog_2 2 2 1\nAbyssinian_1 1 1 1\nBengal_8 3 1 2\n"
    files: dict = {
        "oxford-iiit-pet/annotations/trainval.txt": train,
        "oxford-iiit-pet/annotations/test.txt": test,
        "oxford-iiit-pet/annotations/list.txt": "#Image CLASS-ID SPECIES BREED ID\n" + train + test,
        "oxford-iiit-pet/annotations/trimaps/._Abyssinian_1.png": "macOS",
        "oxford-iiit-pet/images/Abyssinian_100.mat": "a stray file of the archive",
    }
    for number, line in enumerate((train + test).splitlines()):
        files[f"oxford-iiit-pet/images/{line.split()[0]}.jpg"] = number
    return write(root, files)


def flowers102(root: Path, *, names: bool = False) -> Path:
    from scipy.io import savemat

    folder = root / "flowers-102"
    write(root, {f"flowers-102/jpg/image_{n:05d}.jpg": n for n in range(1, 9)})
    labels = np.array([[77, 77, 1, 1, 102, 93, 16, 16]], dtype=np.uint8)
    savemat(folder / "imagelabels.mat", {"labels": labels})
    sets = {"trnid": [[8, 1, 3]], "valid": [[2, 5]], "tstid": [[7, 4, 6]]}
    savemat(folder / "setid.mat", {key: np.array(v, dtype=np.uint16) for key, v in sets.items()})
    if names:
        own = {str(n): f"flower {n}" for n in range(1, 103)}
        write(root, {"flowers-102/cat_to_name.json": own})
    return root


def dtd(root: Path) -> Path:
    files: dict = {"dtd/dtd/labels/labels_joint_anno.txt": "banded/banded_0001.jpg banded lined\n"}
    number = 0
    for split in ("train", "val", "test"):
        names = []
        for label in ("polka-dotted", "banded"):
            for _ in range(2):
                number += 1
                names.append(f"{label}/{label}_{number:04d}.jpg")
                files[f"dtd/dtd/images/{names[-1]}"] = number
        files[f"dtd/dtd/labels/{split}1.txt"] = "\n".join(names) + "\n"
        files[f"dtd/dtd/labels/{split}2.txt"] = "\n".join(names[:3]) + "\n"
    return write(root, files)


def eurosat(root: Path, per_class: int = 10) -> Path:
    files = {
        f"eurosat/2750/{label}/{label}_{n}.jpg": n
        for label in ("SeaLake", "AnnualCrop", "Forest")
        for n in range(1, per_class + 1)
    }
    return write(root, files)


def resisc45(root: Path) -> Path:
    files: dict = {}
    for split, numbers in ({"train": [1, 3], "val": [2], "test": [4]}).items():
        names = [f"{label}_{n:03d}.jpg" for n in numbers for label in ("sea_ice", "airplane")]
        files[f"resisc45-{split}.txt"] = "\n".join(names)  # without a last newline, as published
        for name in names:
            files[f"NWPU-RESISC45/{name.rpartition('_')[0]}/{name}"] = len(files)
    return write(root, files)


def places365(root: Path) -> Path:
    files: dict = {
        "categories_places365.txt": "/a/airfield 0\n/a/apartment_building/outdoor 1\n"
        "/z/zen_garden 2\n",
        "places365_val.txt": "Places365_val_00000001.jpg 2\nPlaces365_val_00000002.jpg 1\n"
        "Places365_val_00000003.jpg 0\n",
    }
    for n in (1, 2, 3):
        files[f"val_256/Places365_val_{n:08d}.jpg"] = n
    return write(root, files)


def ham10000(root: Path, table: str = "HAM10000_metadata.csv") -> Path:
    sign = "\t" if table.endswith(".tab") else ","
    head = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    rows = [
        ["HAM_0000118", "ISIC_0027419", "bkl", "histo", "80.0", "male", "scalp"],
        ["HAM_0000118", "ISIC_0025030", "bkl", "histo", "80.0", "male", "scalp"],
        ["HAM_0002730", "ISIC_0026769", "nv", "follow_up", "", "unknown", "back"],
    ]
    return write(
        root,
        {
            table: "\n".join(sign.join(row) for row in [head, *rows]) + "\n",
            "HAM10000_images_part_1/ISIC_0027419.jpg": 1,
            "HAM10000_images_part_1/ISIC_0025030.jpg": 2,
            "HAM10000_images_part_2/ISIC_0026769.jpg": 3,
        },
    )


SPECIES = (
    "00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris",
    "00001_Animalia_Annelida_Polychaeta_Sabellida_Sabellidae_Sabella_spallanzanii",
)


def inat21(root: Path, *, torchvision: bool = True, lists: bool = False) -> Path:
    words = (
        {"train": "2021_train", "train_mini": "2021_train_mini", "val": "2021_valid"}
        if torchvision
        else {"train": "train", "train_mini": "train_mini", "val": "val"}
    )
    files: dict = {}
    for split, count in (("train", 3), ("train_mini", 2), ("val", 1)):
        for place, species in enumerate(SPECIES):
            for n in range(count):
                files[f"{words[split]}/{species}/{split}-{place}{n}-ab12.jpg"] = n
    if lists:
        categories = [
            {
                "id": place,
                "name": " ".join(species.split("_")[6:]),
                "common_name": ["Common Earthworm", ""][place],
                "image_dir_name": species,
            }
            for place, species in enumerate(SPECIES)
        ]
        files["val.json"] = {"info": {}, "images": [], "categories": categories[::-1]}
    return write(root, files)


SYNSETS = ("n01440764", "n01443537", "n02085620")


def imagenet1k(root: Path) -> Path:
    files: dict = {}
    for place, synset in enumerate(SYNSETS):
        files[f"val/{synset}/ILSVRC2012_val_0000029{place}.JPEG"] = place
        for n in range(2):
            files[f"train/{synset}/{synset}_{n}9.JPEG"] = n
    return write(root, files)


def sun397(root: Path) -> Path:
    classes = ["/a/abbey", "/c/church/indoor", "/c/church/outdoor"]
    files: dict = {"SUN397/ClassName.txt": "\n".join(classes) + "\n", "SUN397/README.txt": "read"}
    lists: dict = {"Training": [], "Testing": []}
    for place, name in enumerate(classes):
        for n, word in enumerate(("Training", "Testing", None)):
            path = f"{name}/sun_a{place}{n}.jpg"
            files[f"SUN397{path}"] = place + n
            if word:
                lists[word].append(path)
    for word, own in lists.items():
        files[f"{word}_01.txt"] = "\n".join(own) + "\n"
    return write(root, files)


def cars(root: Path) -> Path:
    from scipy.io import savemat

    names = np.array(["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012"], dtype=object)
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    record = [(name, object) for name in fields]
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": names})
    for split, file in (
        {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    ).items():
        rows = [(1, 2, 3, 4, label, f"{n:05d}.jpg") for n, label in enumerate((2, 1, 2), start=1)]
        savemat(folder / file, {"annotations": np.array(rows, dtype=record)})
        write(folder, {f"cars_{split}/{row[-1]}": n for n, row in enumerate(rows)})
    return root


def aircraft(root: Path) -> Path:
    base = "fgvc-aircraft-2013b/data"
    files: dict = {
        f"{base}/variants.txt": "707-320\nAn-12\n",
        f"{base}/families.txt": "Boeing 707\nAn-12\n",
        f"{base}/manufacturers.txt": "Boeing\nAntonov\n",
    }
    number = 1025794
    for split in ("train", "val", "test"):
        rows = []
        for place in (1, 0):
            number += 1
            files[f"{base}/images/{number:07d}.jpg"] = place
            rows.append((f"{number:07d}", place))
        for level, names in (
            ("variant", ["707-320", "An-12"]),
            ("family", ["Boeing 707", "An-12"]),
            ("manufacturer", ["Boeing", "Antonov"]),
        ):
            files[f"{base}/images_{level}_{split}.txt"] = "".join(
                f"{image} {names[place]}\n" for image, place in rows
            )
    return write(root, files)


def caltech101(root: Path, count: int = 33) -> Path:
    files: dict = {"caltech101/101_ObjectCategories/BACKGROUND_Google/image_0001.jpg": 1}
    for label in ("accordion", "Faces_easy", "airplanes"):
        for n in range(1, count + 1):
            files[f"caltech101/101_ObjectCategories/{label}/image_{n:04d}.jpg"] = n
    return write(root, files)


def ucf101(root: Path) -> Path:
    files: dict = {
        "ucfTrainTestlist/classInd.txt": "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n3 YoYo\r\n",
        "ucfTrainTestlist/trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
        "HandstandPushups/v_HandStandPushups_g08_c01.avi 2\r\nYoYo/v_YoYo_g09_c02.avi 3\r\n",
        "ucfTrainTestlist/testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\r\n",
    }
    for n, path in enumerate((
        "Apply_Eye_Makeup/v_ApplyEyeMakeup_g08_c01", "Handstand_Pushups/v_HandStandPushups_g08_c01",
        "Yo_Yo/v_YoYo_g09_c02", "Apply_Eye_Makeup/v_ApplyEyeMakeup_g01_c01",
    )):  # fmt: skip
        files[f"UCF-101-midframes/{path}.jpg"] = n
    return write(root, files)


def karpathy(images: list[tuple[str, str, str, int]], dataset: str, coco: bool) -> dict:
    """Return Karpathy's JSON of (folder, file, split, captions)."""
    rows, sentence = [], 0
    for number, (folder, file, split, count) in enumerate(images):
        ids = list(range(sentence, sentence + count))
        sentence += count
        row = {
            "sentids": ids,
            "imgid": number,
            "sentences": [
                {"tokens": ["a"], "raw": f"Caption {i} of {file}. ", "imgid": number, "sentid": i}
                for i in ids
            ],
            "split": split,
            "filename": file,
        }
        if coco:
            row |= {"filepath": folder, "cocoid": 100 + number}
        rows.append(row)
    return {"images": rows, "dataset": dataset}


def flickr30k(root: Path, *, tokens: str = "results_20130124.token") -> Path:
    """Four images of Karpathy's, and one that only the file of all captions knows."""
    images = [("", f"100{n}.jpg", split, 6 if n == 0 else 5)
              for n, split in enumerate(("train", "val", "test", "train"))]  # fmt: skip
    names = [image[1] for image in images] + ["36979.jpg"]
    files: dict = {"dataset_flickr30k.json": karpathy(images, "flickr30k", coco=False)}
    if tokens == "captions.txt":
        line, files[tokens] = "{0},Caption {1} of {0} .\n", "image,caption\n"
    else:
        line, files[tokens] = "{0}#{1}\tCaption {1} of {0} .\n", ""
    files[tokens] += "".join(line.format(name, i) for name in names for i in range(5))
    for n, name in enumerate(names):
        files[f"flickr30k-images/{name}"] = n
    return write(root, files)


def coco(root: Path) -> Path:
    images = [
        ("val2014", "COCO_val2014_000000000042.jpg", "test", 6),
        ("val2014", "COCO_val2014_000000000073.jpg", "restval", 5),
        ("val2014", "COCO_val2014_000000000074.jpg", "val", 7),
        ("train2014", "COCO_train2014_000000000009.jpg", "train", 5),
    ]
    files: dict = {"dataset_coco.json": karpathy(images, "coco", coco=True)}
    for n, (folder, name, _, _) in enumerate(images):
        files[f"{folder}/{name}"] = n
    return write(root, files)


# ---- arrays of pixels: CIFAR, pickled and binary, and MNIST ----------------------------------


CIFAR_NAMES = {
    "cifar10": [
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ],
    "cifar100": [f"thing_{n}" for n in range(100)],
}  # fmt: skip


def cifar_parts(name: str) -> dict[str, tuple[np.ndarray, list[int]]]:
    """Return file -> (planes, labels) of the Python version."""
    draw = np.random.default_rng(5)
    files = (
        [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
        if name == "cifar10"
        else ["train", "test"]
    )
    classes = len(CIFAR_NAMES[name])
    return {
        file: (
            draw.integers(0, 256, (3, 3072), dtype=np.uint8),
            draw.integers(0, classes, 3).tolist(),
        )
        for file in files
    }


def cifar_python(root: Path, name: str) -> Path:
    fine = name == "cifar100"
    folder = "cifar-100-python" if fine else "cifar-10-batches-py"
    files: dict = {}
    for file, (planes, labels) in cifar_parts(name).items():
        document = {
            "batch_label": "a batch",
            "fine_labels" if fine else "labels": labels,
            "data": planes,
            "filenames": [f"{n}.png" for n in range(len(labels))],
        }
        if fine:
            document["coarse_labels"] = [0] * len(labels)
        files[f"{folder}/{file}"] = pickle.dumps(document)
    meta = {("fine_label_names" if fine else "label_names"): CIFAR_NAMES[name], "num_vis": 3072}
    files[f"{folder}/{'meta' if fine else 'batches.meta'}"] = pickle.dumps(meta)
    return write(root, files)


def cifar_binary(root: Path, name: str) -> Path:
    fine = name == "cifar100"
    folder = "cifar-100-binary" if fine else "cifar-10-batches-bin"
    files: dict = {}
    for file, (planes, labels) in cifar_parts(name).items():
        rows = [
            bytes([0] * fine + [label]) + row.tobytes()
            for row, label in zip(planes, labels, strict=True)
        ]
        files[f"{folder}/{file}.bin"] = b"".join(rows)
    list_name = "fine_label_names.txt" if fine else "batches.meta.txt"
    files[f"{folder}/{list_name}"] = "\n".join(CIFAR_NAMES[name]) + "\n\n"
    return write(root, files)


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


def mnist(root: Path, *, packed: bool = False) -> Path:
    draw = np.random.default_rng(3)
    files: dict = {}
    for word, count in (("train", 4), ("t10k", 2)):
        pictures = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for name, array in (
            ("images-idx3", pictures),
            ("labels-idx1", draw.integers(0, 10, count, dtype=np.uint8)),
        ):
            data = idx(array)
            where = f"MNIST/raw/{word}-{name}-ubyte"
            files[where + (".gz" if packed else "")] = gzip.compress(data) if packed else data
    return write(root, files)


#: Dataset -> its miniature.
MINIATURES = {
    "flickr30k": flickr30k,
    "coco": coco,
    "food101": food101,
    "pets": pets,
    "flowers102": flowers102,
    "cifar10": lambda root: cifar_binary(root, "cifar10"),
    "cifar100": lambda root: cifar_binary(root, "cifar100"),
    "dtd": dtd,
    "eurosat": eurosat,
    "resisc45": resisc45,
    "places365": places365,
    "ham10000": ham10000,
    "inat21": inat21,
    "inat21_mini": inat21,
    "imagenet1k": imagenet1k,
    "mnist": mnist,
    "sun397": sun397,
    "cars": cars,
    "aircraft": aircraft,
    "caltech101": caltech101,
    "ucf101": ucf101,
}
