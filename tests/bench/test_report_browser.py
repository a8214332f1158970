"""The report in a real browser: headless Chromium, from disk, at the widths of a phone and a desk.

Skipped, with the reason, where there is no Chromium or no playwright.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from itertools import cycle
from pathlib import Path

import polars as pl
import pytest

from bench import run_all, write_report
from bench.report.figures import INKS
from featstore import open_store
from featstore.plugins import _Given
from featstore.testing import write_set
from fitters.aligners.ridge import RidgeAligner
from fitters.from_store import find_fits
from fitters.methods import METHODS, Method
from tests.shorthand import sweep_runs

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium: install one, for instance with `apt-get install chromium`")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def visit(chromium, path, width=1200, scheme="light", *, csp=True, scripts=True, medium="screen"):
    """Open a page from disk; at the end, nothing was said on it and nothing but it was read."""
    context = chromium.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=not csp,
        java_script_enabled=scripts,
    )  # fmt: skip
    page, said, read = context.new_page(), [], []
    page.emulate_media(media=medium)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: read.append(request.url))
    page.goto(path.as_uri())
    yield page
    assert said == []
    assert {url for url in read if not url.startswith("data:")} == {path.as_uri()}
    context.close()


#: Where texts of a page lie, in HTML and in drawings; see there.
MEASURE = Path(__file__).with_name("measure_page.js").read_text(encoding="utf-8")

#: Width, colour scheme, medium and whether scripts run, of every view that is measured.
VIEWS = {
    "phone, dark": (320, "dark", "screen", True),
    "desk": (1440, "light", "screen", True),
    "wide desk, dark": (1920, "dark", "screen", True),
    "print from dark": (688, "dark", "print", True),
    "without scripts": (1440, "light", "screen", False),
}


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_can_be_read_and_asks_for_nothing(chromium, smoke_page, view):
    """One visit of a page per view: layout, colours, console, requests and accessibility."""
    width, scheme, medium, scripts = VIEWS[view]
    how = {"csp": False, "scripts": scripts, "medium": medium}
    with visit(chromium, smoke_page, width, scheme, **how) as page:
        if not scripts:
            assert page.locator("#pairs table.parts tbody tr:visible").count() > 0
            assert page.locator(".tools, .copy:visible").count() == 0
            page.locator("#every > summary").click()
            assert page.locator("a.sheet:visible").count() == 2
            page.locator("#method-1").check()
            assert page.locator(".own-1:visible").count() > 0
            assert page.locator(".own-0:not(.own-1):visible").count() == 0
            return
        found = page.evaluate(MEASURE)
        if medium == "print":
            # On paper sizes are points; what was not opened is left out, in the light palette.
            del found["small"]
            assert page.locator("#how:visible, #every:visible, .picker:visible").count() == 0
            box = page.locator("#verdict").bounding_box()
            assert box["y"] + box["height"] < 1001  # A4 within its margins
        framed, height = found.pop("framed"), found.pop("height")
        assert width < 1024 or framed == []
        assert {name: boxes for name, boxes in found.items() if boxes} == {}
        style = "getComputedStyle(document.documentElement).getPropertyValue('--paper')"
        light = medium == "print" or scheme == "light"
        papers = {"#fff", INKS["paper"].light} if light else {INKS["paper"].dark}
        assert page.evaluate(style) in papers
        assert width != 1440 or height < 7000
        assert page.evaluate(OUTSIDE) == []
        assert medium == "print" or violations(page) == []


#: The texts of drawings whose box does not lie in that of their drawing.
OUTSIDE = """() => [...document.querySelectorAll("svg")].flatMap((drawing) => {
  const box = drawing.getBoundingClientRect();
  return [...drawing.querySelectorAll("text")].filter((text) => {
    const own = text.getBoundingClientRect();
    return box.width && (own.left < box.left - 1 || own.right > box.right + 1
      || own.top < box.top - 1 || own.bottom > box.bottom + 1);
  }).map((text) => text.textContent);
})"""


def violations(page):
    """What axe-core finds on a page, all of it opened."""
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    page.wait_for_function("document.querySelectorAll('a.sheet').length === "
                           "document.querySelectorAll('#every table').length")  # fmt: skip
    # The rows of the longest tables are alike: a few of each are enough to check.
    page.evaluate("document.querySelectorAll('tr:nth-child(n+5)').forEach((row) => row.remove())")
    pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    page.evaluate(files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [(one["id"], one["nodes"][0]["html"]) for one in result["violations"]]


#: Each sets the title of the page, or asks for an address, if anything of it is more than text.
TEXTS = (
    "</script><script>document.title = 'broken'</script>",
    "</style></svg></title><img src=x onerror=\"document.title = 'broken'\">",
    '" onload="document.title = 1" autofocus onfocus="document.title = 2" x="',
    "' onmouseover='document.title = 3",
    "{{ 7 * 7 }}{% for x in range(9) %}x{% endfor %}{{ config }}",
    "\u202edetrever\u202c \u2066isolated \u0007bell \u009b31m",
    "<svg onload=document.title=4><a href=javascript:document.title=5>link</a></svg>",
    "<iframe src=http://127.0.0.1:9/ping></iframe><link rel=stylesheet href=//127.0.0.1:9/x.css>",
    r"$\frac{broken $ and \url{x} $x_1$ id=\"f0\" url(#f0) font: 1px x",
    "\N{ZERO WIDTH JOINER}\N{COMBINING ACUTE ACCENT}" * 40,
    "long " * 200_000,
)


def write_hostile_store(smoke: Path, root: Path) -> None:
    """Copy the store `smoke` to `root` with `TEXTS` for its captions and names, in turn."""
    store = open_store(smoke)
    texts: Iterator[str] = cycle(TEXTS)
    for info in store.sets():
        view = store.view(str(info.key))
        items = view.items
        if info.key.kind in ("caption", "class_name"):
            own = [next(texts) for _ in range(items.height)]
            items = items.with_columns(pl.Series("text", own))
        write_set(
            root, view.numpy(), items, dataset=info.key.dataset, kind=info.key.kind,
            encoder=info.encoder, space=info.attributes["space"], facts={"note": TEXTS[0]},
            bias=view.bias if info.key.kind == "head_weight" else None,
        )  # fmt: skip


@pytest.fixture(scope="module")
def hostile(smoke_store, tmp_path_factory):
    """A report whose captions, names, notes and method are hostile, as the command writes it."""
    root = tmp_path_factory.mktemp("hostile")
    write_hostile_store(smoke_store, root / "store")
    name = "<img src=x onerror=\"document.title = 'broken'\"> {{ 7 * 7 }} $\\frac{"
    method = Method(RidgeAligner, title=f"{name} </script>")
    METHODS._things[name] = _Given(method, "this process", found_anywhere=False)
    try:
        sets = find_fits(open_store(root / "store"))[0]
        lists = {"method": ("ridge", name), "source": ("none", "head"), "n_pairs": (0, 8)}
        lists |= {"mix": ("auto",), "seed": (0,), "penalty": ("auto",)}
        runs = sweep_runs(open_store(root / "store"), sets, lists)
        run_all(runs, root / "store", root / "results")
        write_report(root / "results", store=root / "store", out=root / "page.html")
    finally:
        del METHODS[name]
    return root / "page.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hostile_texts_stay_texts(chromium, hostile, scheme):
    with visit(chromium, hostile, scheme=scheme) as page:
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        for button in page.locator("button:visible").all()[:5]:
            button.click()
        page.locator("body").hover()
        shown, own = page.locator("body").inner_text(), hostile.read_text()
        assert page.title() == re.search(r"<title>([^<]*)</title>", own)[1].strip()
        assert page.evaluate("document.scripts.length") == 1
        active = "document.querySelectorAll('iframe, link, a[href^=javascript]').length"
        assert page.evaluate(active) == 0
        assert page.evaluate(
            "[...document.querySelectorAll('*')].flatMap((each) => [...each.attributes])"
            ".filter((each) => each.name.startsWith('on')).length"
        ) == 0  # fmt: skip
    assert sum(text[:40] in shown for text in TEXTS) > 5
    for text in ("{{ 7 * 7 }}", "</script>", "<svg onload", "<iframe src"):
        assert text in shown
    assert not {"\u202e", "\u2066", "\u0007", "\u009b"} & set(shown)
    assert hostile.stat().st_size < 3 * 2**20
