"""The report in a real browser: headless Chromium, from disk, at the widths of a phone and a desk.

Skipped, with the reason, where there is no Chromium or no playwright.
"""

import csv
import io
import re
import shutil
from importlib.resources import files
from pathlib import Path
from xml.etree.ElementTree import parse

import pytest

from bench import run_all, write_report
from bench.report.theme import INKS
from featstore import open_store
from fitters.aligners.ridge import RidgeAligner
from fitters.inventory import find_sets
from fitters.methods import METHODS, Method
from tests.bench.hostile_store import TEXTS, write_hostile_store
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


class Seen:
    """What happened on a page that nobody should see."""

    def __init__(self, page):
        self.messages, self.requests, self.dialogs = [], [], []
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))


@pytest.fixture(scope="module")
def file(nasty, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(nasty.html, encoding="utf-8")
    return path


@pytest.fixture
def opened(chromium, file):
    """Open the page; returns (page, what happened on it)."""
    contexts = []

    def open_page(scheme="light", width=1200, scripts=True):
        context = chromium.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900},
            java_script_enabled=scripts,
        )  # fmt: skip
        contexts.append(context)
        page = context.new_page()
        seen = Seen(page)
        page.goto(file.as_uri())
        return page, seen

    yield open_page
    for context in contexts:
        context.close()


#: Where texts of a page lie, in HTML and in drawings; see there.
MEASURE = Path(__file__).with_name("measure_page.js").read_text(encoding="utf-8")

#: Width, colour scheme, medium and whether scripts run, of every view that is measured.
VIEWS = {
    "phone, 320 px": (320, "light", "screen", True),
    "phone, dark": (420, "dark", "screen", True),
    "desk": (1440, "light", "screen", True),
    "desk, dark": (1440, "dark", "screen", True),
    "print from dark": (688, "dark", "print", True),
    "without scripts": (1440, "light", "screen", False),
}


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_can_be_read_and_asks_for_nothing(chromium, smoke_page, view):
    """One visit of a page per view: layout, colours, console, requests and accessibility."""
    width, scheme, medium, scripts = VIEWS[view]
    context = chromium.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 900},
        java_script_enabled=scripts, bypass_csp=True,
    )  # fmt: skip
    page = context.new_page()
    page.emulate_media(media=medium)
    seen = Seen(page)
    page.goto(smoke_page.as_uri())
    if not scripts:
        assert page.locator("#pairs table.parts tbody tr:visible").count() > 0
        assert page.locator(".tools, .copy:visible").count() == 0
        page.locator("#method-1").check()
        assert page.locator(".own-1:visible").count() > 0
        assert page.locator(".own-0:not(.own-1):visible").count() == 0
        assert (seen.messages, seen.dialogs) == ([], [])
        context.close()
        return
    found = page.evaluate(MEASURE)
    if medium == "print":
        # On paper sizes are points; all is opened, and the palette is the light one.
        del found["small"]
        assert page.locator("#how dd").first.is_visible()
        assert not page.locator("nav, .picker, .links").first.is_visible()
    wide = found.pop("framed") if width >= 1024 else []
    assert wide == []
    found.pop("framed", None)
    height = found.pop("height")
    assert {name: boxes for name, boxes in found.items() if boxes} == {}
    paper = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--paper')")
    light = medium == "print" or scheme == "light"
    assert paper in ({"#fff", INKS["paper"].light} if light else {INKS["paper"].dark})
    if width == 1440:
        assert height < 7000
        # The rows of the longest tables are alike: a few of each are enough to check.
        page.evaluate(
            "document.querySelectorAll('tr:nth-child(n+5)').forEach((row) => row.remove())"
        )
        page.evaluate(axe())
        result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        assert [(one["id"], one["nodes"][0]["html"]) for one in result["violations"]] == []
    assert (seen.messages, seen.dialogs) == ([], [])
    assert {url for url in seen.requests if not url.startswith("data:")} == {smoke_page.as_uri()}
    context.close()


def axe():
    """Return the source of axe-core, which checks accessibility."""
    pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    return files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def test_the_keyboard_reaches_and_works_everything(opened):
    page, _ = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.wait_for_function("location.hash === '#pairs'")  # the browser goes there when it likes
    heading = page.locator("#pairs table.parts thead button").first
    heading.focus()
    page.keyboard.press("Enter")
    first = page.locator("#pairs table.parts thead th").first
    expect = pytest.importorskip("playwright.sync_api").expect
    expect(first).to_have_attribute("aria-sort", "ascending")
    page.keyboard.press("Space")
    expect(first).to_have_attribute("aria-sort", "descending")
    # What scrolls by itself can be focused, so that arrow keys scroll it.
    assert page.evaluate(
        "[...document.querySelectorAll('.scroll, pre')].every((each) => each.tabIndex === 0)"
    )


def test_sorting_is_by_number(opened):
    page, _ = opened()
    table = page.locator("#pairs table.parts")
    headings = table.locator("thead th").all_inner_texts()
    column = headings.index("gain")
    table.locator("thead button", has_text=re.compile("^gain$")).click()
    cells = table.locator(f"tbody td:nth-child({column + 1})").all_inner_texts()
    values = [float(text.split(" ")[0].replace("\N{MINUS SIGN}", "-")) for text in cells]
    assert values == sorted(values)
    assert len(values) > 2


def test_filter_and_copy(opened):
    page, _ = opened()
    page.locator("#every > summary").click()
    table = page.locator("#every table.sortable").first
    tools = page.locator("#every .tools").first
    every = table.locator("tbody tr").count()
    tools.get_by_label("Filter").fill("procrustes shuffled")
    left = table.locator("tbody tr:visible")
    assert 0 < left.count() < every
    assert all("Procrustes" in text for text in left.all_inner_texts())
    assert tools.get_by_role("status").inner_text() == f"{left.count()} of {every} rows"
    copied = copy(page, tools, "CSV")
    rows = list(csv.DictReader(io.StringIO(copied)))
    assert len(rows) == left.count()
    assert {row["method"] for row in rows} == {"Procrustes"}
    assert set(rows[0]) == set(table.locator("thead th").all_inner_texts())
    tex = copy(page, tools, "TeX")
    assert tex.startswith("\\begin{tabular}")
    assert tex.count("\\\\\n") == left.count() + 1
    assert "$\\pm$" in tex
    assert not re.search(r"(?<!\\)%", tex)


def copy(page, tools, name):
    """Copy and return the text, from the clipboard or the sheet that stands in for it."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tools.get_by_role("button", name=f"Copy {name}").click()
    tools.get_by_text(re.compile(f"{name} (copied|below)")).wait_for()
    sheet = tools.get_by_label("Text to copy")
    if sheet.is_visible():
        return sheet.input_value()
    return page.evaluate("navigator.clipboard.readText()")


@pytest.fixture(scope="module")
def hostile(smoke_store, tmp_path_factory):
    """A report whose captions, names, notes and method are hostile, as the command writes it."""
    root = tmp_path_factory.mktemp("hostile")
    write_hostile_store(smoke_store, root / "store")
    name = "<img src=x onerror=\"document.title = 'broken'\"> {{ 7 * 7 }} $\\frac{"
    METHODS[name] = Method(RidgeAligner, title=f"{name} </script>")
    try:
        sets = find_sets(open_store(root / "store"))
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
    context = chromium.new_context(color_scheme=scheme, viewport={"width": 1200, "height": 900})
    page = context.new_page()
    seen = Seen(page)
    page.goto(hostile.as_uri())
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    for button in page.locator("button:visible").all()[:5]:
        button.click()
    page.locator("body").hover()
    shown = page.locator("body").inner_text()
    assert page.title() == re.search(r"<title>([^<]*)</title>", hostile.read_text())[1].strip()
    assert (seen.messages, seen.dialogs) == ([], [])
    assert {url for url in seen.requests if not url.startswith("data:")} == {hostile.as_uri()}
    assert page.evaluate("document.scripts.length") == 1
    assert (
        page.evaluate("document.querySelectorAll('iframe, link, a[href^=javascript]').length") == 0
    )
    assert page.evaluate(
        "[...document.querySelectorAll('*')].flatMap((each) => [...each.attributes])"
        ".filter((each) => each.name.startsWith('on')).length"
    ) == 0  # fmt: skip
    for text in TEXTS[:5]:
        assert text[:40] in shown
    assert "{{ 7 * 7 }}" in shown
    assert "\\u202edetrever" in shown
    assert not {"\u202e", "\u2066", "\u0007", "\u009b"} & set(shown)
    assert hostile.stat().st_size < 3 * 2**20
    context.close()
    for drawing in hostile.parent.glob("page_files/*.svg"):
        parse(drawing)  # well-formed, whatever the names hold
