"""The pages of a reference in Chromium, opened as files: wide and narrow, light and dark."""

import re
from itertools import pairwise
from urllib.parse import unquote, urlparse

import pytest

from tests.explore.test_browser import CHROMIUM, playwright
from tests.paper.small_reference import make_reference

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH")

LOOK = """() => {
    const style = tag => getComputedStyle(tag);
    const texts = "p, li, a, dt, dd, h1, h2, h3, code, td, th, small, strong, pre, pre span";
    const shown = [...document.querySelectorAll(texts)];
    const behind = tag => {
        while (tag && style(tag).backgroundColor === "rgba(0, 0, 0, 0)") tag = tag.parentElement;
        return tag ? style(tag).backgroundColor : null;
    };
    return {
        width: [document.scrollingElement.scrollWidth, innerWidth],
        links: [...document.querySelectorAll("a[href]")].map(link => link.href),
        images: [...document.images].map(image => [image.naturalWidth, image.clientWidth, image.alt,
                                                   style(image).backgroundColor]),
        levels: [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map(tag => Number(tag.tagName[1])),
        colours: shown.map(tag => [style(tag).color, behind(tag)]),
    };
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_reference(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def luminance(colour):
    """Relative luminance of "rgb(r, g, b)", as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(pair):
    dark, light = sorted(map(luminance, pair))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages(folder, browser, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, complaints, requests = context.new_page(), [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: requests.append(request.url))
    for name in ("index.html", "notebooks/table1.html", "notebooks/fig3.html"):
        page.goto((folder / name).as_uri())
        seen = page.evaluate(LOOK)
        assert seen["width"][0] <= seen["width"][1] == width, name
        for link in map(urlparse, seen["links"]):
            assert link.scheme == "file"
            if link.fragment:
                assert page.locator(f"[id='{link.fragment}']").count() == 1
            else:
                path = unquote(link.path)
                assert (folder / path).is_file(), path
        for natural, shown, alt, background in seen["images"]:
            assert natural > 0 and shown <= width and len(alt) > 20
            assert background == "rgb(255, 255, 255)"
        levels = seen["levels"]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        assert len(seen["colours"]) > 5
        assert min(map(contrast, seen["colours"])) >= 4.5, name  # WCAG 2, level AA
        dark = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.1
        assert dark == (scheme == "dark")
        if name == "index.html":
            assert len(seen["images"]) == 1
            box = page.locator(".scroll").first  # the table of ten columns
            inner, outer = box.evaluate("box => [box.scrollWidth, box.clientWidth]")
            assert outer <= width and (inner > outer) == (width == 400)
    assert complaints == []
    assert all(re.match("(file|data):", address) for address in requests)
    context.close()
