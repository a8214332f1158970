"""Each optional package hidden for real: the command that needs it names what to install."""

from __future__ import annotations

import ast
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from PIL import Image

from featstore.errors import EXTRAS, IMPORTED_AS, MissingPackageError, needs_extra, package_of
from featstore.testing import toy_store
from tests.programs import Programs
from tests.typed import headstock

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

#: Extras that are environments for this project's own targets, not features of a command.
ENVIRONMENTS = {"demo", "test", "dev", "perf", "docs", "all"}

#: Modules that no extra brings, and why their absence is not the extras' affair.
OTHERS = {
    "tokenizers": "a requirement of transformers",
    "faiss": "whoever has an index of it has it",
    "lance": "whoever has a dataset of it has it",
    "tflite": "of the study of birds, whose package nobody but the user installs",
}

#: Packages of an extra without which nothing is missing.
FASTER = {"numkong": "NumPy converts to the same bits"}

#: Files in which people read what to do.
TEXTS = frozenset({".py", ".md", ".ipynb", ".toml", ".html", ".js", ".json"})

#: What a case's process has imported, so that it takes no seconds of every case: the packages too
#: but where pyarrow is hidden, which they find with pandas, and torch where what is hidden comes
#: after it.
LOADED = ("numpy", "polars", "headstock.__main__")
OURS = ("fitters.jobs", "bench.execution", "bench.suites.demo", "bench.report.page",
        "featstore.extraction", "featstore.sources.making")  # fmt: skip
NEED_TORCH = {"timm", "sentence-transformers", "transformers", "open_clip_torch"}

MAIN = {"headstock": "from headstock.__main__ import main; main()"}

_TEXTS = "headstock extract {labels} --kind class_name --store {out}/new --encoder"
_IMAGES = "{images} --kind image --store {out}/new --encoder timm:resnet18"
_FIT = "import fitters; p = fitters.Pairs(np.eye(4), np.eye(4)); fitters.fit("
_RNG = "rng=np.random.default_rng(0))"
_IMPORT = "{h5} --items {csv} --store {out}/new --dataset toy --kind image --encoder their:vit"
_OPEN = "import featstore; featstore.open_store({store!r})"
_OPTIMISERS = "import fitters, fitters.trained.training as o; a = fitters.preset('sail'); o"
_PROMPTS = "import fitters.few_shot as p; p"
_LION = "a._objective(a._parts(2, 2)), a"

#: Extra, module to hide, and a command that needs it, or Python code where a command would have
#: to compute for long before it gets there.
CASES = [
    ("hdf5", "h5py", f"headstock import {_IMPORT}"),
    ("sources", "pyarrow", "headstock data make {parquet} --as parquet -o {out}/m"),
    ("remote", "obstore", "headstock ls s3://team/features"),
    ("remote", "urllib3", "headstock show https://127.0.0.1:9/store toy/image/toy"),
    ("remote", "huggingface_hub", "headstock ls hf://datasets/a/b"),
    ("ray", "ray", "headstock eval run smoke -o {out}/results --engine ray"),
    ("report", "jinja2", "headstock report {out}/none --store {store} -o {out}/report.html"),
    ("report", "matplotlib", "headstock report {out}/none --store {store} -o {out}/report.html"),
    ("extract", "torch", f"headstock extract {_IMAGES}"),
    ("extract", "timm", f"headstock extract {_IMAGES}"),
    ("extract", "timm", "headstock try -o {out}/try"),
    ("extract", "pillow", f"headstock extract {_IMAGES}"),
    ("extract", "torchvision", f"headstock extract {_IMAGES}"),
    ("extract", "sentence-transformers", _TEXTS + " st:all-MiniLM-L6-v2"),
    ("extract", "transformers", _TEXTS + " hf:roberta-base"),
    ("extract", "open_clip_torch", _TEXTS + " oc:ViT-B-32"),
    ("sources", "pyarrow", f"{_OPEN}['toy/image/toy'].to_arrow()"),
    ("train", "torch", f"import numpy as np; {_FIT}'paper-mlp', real=p, {_RNG}"),
    ("train", "timm", f"{_OPTIMISERS}.make_optimiser({_LION})"),
    ("blake3", "blake3", "headstock store init {out}/store --hash blake3"),
    ("sign", "cryptography", "headstock store tag {store} --sign-key {out}/key.pem --new-key"),
    ("coop", "torch", f"{_PROMPTS}.prompt_learner('coop', None, [])"),
]  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the commands are given: real files that they would read if the package were there."""
    import h5py
    import pyarrow as pa
    from pyarrow import parquet

    root = tmp_path_factory.mktemp("places")
    (root / "pictures").mkdir()
    Image.new("RGB", (8, 8), "red").save(root / "pictures" / "a.png")
    picture = (root / "pictures" / "a.png").read_bytes()
    table = pa.table({"image": [{"bytes": picture, "path": "a.png"}], "caption": ["red"]})
    parquet.write_table(table, root / "a.parquet")
    toy_store(root / "store")
    (root / "names.txt").write_text("cat\ndog\n")
    (root / "items.csv").write_text("item_id\na\n")
    with h5py.File(root / "a.h5", "w") as file:
        file.create_dataset("embedding", data=[[1.0, 2.0]])
    for given, kind in (("names.txt", "labels"), ("pictures", "folder")):
        assert headstock("data", "make", root / given, "--as", kind, "-o", root / kind) == 0
    return {
        "store": str(root / "store"), "labels": str(root / "labels"),
        "images": str(root / "folder"), "parquet": str(root / "a.parquet"),
        "h5": str(root / "a.h5"), "csv": str(root / "items.csv"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def programs() -> Iterator[Callable[..., Programs]]:
    """Programs in processes that have imported more; the first of each kind starts one."""
    with ExitStack() as stack:
        yield cache(lambda *more: stack.enter_context(Programs(*LOADED, *more)))


@pytest.mark.parametrize(
    ("extra", "hidden", "line"), CASES, ids=[f"{c[0]}-{c[1]}-{n}" for n, c in enumerate(CASES)]
)
def test_a_missing_package_names_what_its_extra_requires(
    extra: str, hidden: str, line: str, places: dict[str, str], programs, tmp_path: Path
) -> None:
    filled = line.format(**places, out=str(tmp_path))
    name = filled.split(" ", 1)[0]
    program, words = (MAIN[name], filled.split()[1:]) if name in MAIN else (filled, [])
    module = IMPORTED_AS.get(hidden, hidden)
    more = () if hidden == "pyarrow" else (*OURS, *["torch"] * (hidden in NEED_TORCH))
    ended = programs(*more).run(program, words, hidden=[module])
    said = ended.said.splitlines()
    assert ended.code == 1, said
    packages = shlex.join(PROJECT["optional-dependencies"][extra])
    assert f"needs {module}: pip install {packages}." in said[-1]
    begins = f"{name}: error: " if name in MAIN else "featstore.errors.MissingPackageError: "
    assert said[-1].startswith(begins)
    if name in MAIN:
        # A suite has said what it is about to run, and what takes a second how far it is.
        told = [line for line in said[:-1] if not line.endswith(" so far")]
        assert told in ([], ["smoke: 181 runs, 0 finished, 181 new in 121 fits"])


def test_the_table_of_extras_is_that_of_the_project() -> None:
    extras = PROJECT["optional-dependencies"]
    assert {extra: list(required) for extra, required in EXTRAS.items()} == {
        extra: extras[extra] for extra in extras if extra not in ENVIRONMENTS
    }
    # Each is hidden above, in one extra or another.
    assert {package for _, package, _ in CASES} | FASTER.keys() == {
        package_of(requirement) for required in EXTRAS.values() for requirement in required
    }


def test_a_package_has_one_range_and_runs_no_code_of_weights() -> None:
    listed = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
    ranges: dict[str, set[str]] = {}
    for requirement in map(Requirement, listed):
        if requirement.name != PROJECT["name"]:
            ranges.setdefault(requirement.name, set()).add(str(requirement.specifier))
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}
    # Before 2.6 torch.load runs code even with weights_only (CVE-2025-32434); before 6
    # sentence-transformers runs that of a local folder of weights unasked.
    assert not SpecifierSet(*ranges["torch"]).contains("2.5.1")
    assert not SpecifierSet(*ranges["sentence-transformers"]).contains("5.7.0")


def test_nobody_is_told_to_install_this_project_from_an_index() -> None:
    """Its name is on none: whoever took it would run their code where that advice is followed."""
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile"]
    for folder in ("docs", "headstock", "featstore", "fitters", "bench", "data_manifests"):
        texts += [path for path in (ROOT / folder).rglob("*") if path.suffix in TEXTS]
    assert len(texts) > 200
    by_name = re.compile(r"headstock\[|(?:pip|uv|pipx)[^\n]*install[^\n]*[\s'\"]headstock\b(?!/)")
    found = [path for path in texts if by_name.search(path.read_text(encoding="utf-8"))]
    assert [str(path.relative_to(ROOT)) for path in found] == []


def test_the_page_about_installing_lists_every_extra() -> None:
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^pip install -e '\.\[(\w+)\]'", text, flags=re.MULTILINE))
    assert listed == set(PROJECT["optional-dependencies"])


def _imports(tree: ast.AST) -> Iterator[str]:
    """Yield the modules whose import runs: none of those for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield from _imports(node)
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


def test_every_import_is_needed_by_all_or_belongs_to_an_extra() -> None:
    """So that a command's last resort, `needs_extra` around all of it, knows what to say."""
    core = {
        re.split(r"[<>=\[]", requirement)[0].replace("-", "_").replace("scikit_learn", "sklearn")
        for requirement in PROJECT["dependencies"]
    }
    names = [package_of(requirement) for required in EXTRAS.values() for requirement in required]
    optional = {IMPORTED_AS.get(name, name) for name in names}
    own = {"featstore", "fitters", "bench", "data_manifests"}
    known = core | optional | own | set(OTHERS) | set(sys.stdlib_module_names)
    for package in sorted(own):
        for file in sorted((ROOT / package).rglob("*.py")):
            found = set(_imports(ast.parse(file.read_text(encoding="utf-8"))))
            assert found <= known, f"{file.relative_to(ROOT)} imports {sorted(found - known)}"


def test_an_absent_package_of_nobody_passes_through() -> None:
    with pytest.raises(ModuleNotFoundError, match="some_bug_of_ours"), needs_extra("This"):
        import some_bug_of_ours  # type: ignore[import-not-found]  # noqa: F401
    with pytest.raises(MissingPackageError) as caught, needs_extra("This", "train"):
        raise ModuleNotFoundError(name="torch")
    assert str(caught.value) == "This needs torch: pip install 'torch>=2.6' 'timm>=1.0.17'."
    assert caught.value.name == "torch"
