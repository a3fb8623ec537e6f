"""Look at every built page in a browser, without a network: ``python docs/check_pages.py docs/_build/html``.

At 1,400 and at 400 pixels, light and dark, a page must not scroll sideways, show TeX, load anything from elsewhere,
print an error to the console or have a broken image or link. A Chromium must be installed (``CHROMIUM`` names another).
"""

import os
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

from playwright.sync_api import Page, sync_playwright

WIDTHS = (1400, 400)
SCHEMES = ("light", "dark")

FAULTS = """() => {
  const found = [];
  const root = document.scrollingElement;
  if (root.scrollWidth > window.innerWidth + 1) {
    const outside = element => element.getBoundingClientRect().right > window.innerWidth + 1;
    const wide = [...document.querySelectorAll("article *")].find(outside);
    found.push(`scrolls sideways to ${root.scrollWidth} (${wide ? wide.tagName + "." + wide.className : "?"})`);
  }
  for (const math of document.querySelectorAll(".math, .tex2jax_process"))
    if (/\\\\\\(|\\\\\\[|\\$\\$/.test(math.innerText)) found.push("shows TeX: " + math.innerText.slice(0, 40));
  for (const image of document.images) {
    const source = image.getAttribute("src");
    if (!image.complete || !image.naturalWidth) found.push("image " + source + " is missing");
    // Sphinx puts the file's name where no text is given.
    const named = image.alt && !/\\.(png|svg|jpe?g)$/.test(image.alt);
    if (!named && image.closest("article")) found.push("image " + source + " has no text in its place");
  }
  if (document.querySelector("mjx-merror")) found.push("a formula has an error");
  return found;
}"""
LINKS = "() => [...document.querySelectorAll('a[href]')].map(a => a.href)"
TARGETS = "() => [...document.querySelectorAll('[id], [name]')].flatMap(e => [e.id, e.getAttribute('name')])"


def browser_path() -> str | None:
    """An installed Chromium; None lets the driver look for its own."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def look_at(page: Page, file: Path, faults: list[str]) -> None:
    """Faults of one page in all sizes and schemes."""
    page.goto(file.as_uri())
    page.evaluate("async () => { if (window.MathJax && MathJax.startup) await MathJax.startup.promise; }")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 1000})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            faults += [f"{file.name} at {width} pixels, {scheme}: {fault}" for fault in page.evaluate(FAULTS)]


def main(folder: str) -> int:
    root = Path(folder).resolve()
    files = sorted(
        file for file in root.rglob("*.html") if "_modules" not in file.parts and "_static" not in file.parts
    )
    if not files:
        raise FileNotFoundError(f"{root} holds no pages; make docs first")
    faults: list[str] = []
    links: dict[str, set[str]] = {}
    targets: dict[str, set[str]] = {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        context = browser.new_context(offline=True)
        page = context.new_page()
        page.on(
            "console", lambda message: faults.append(f"{page.url}: {message.text}") if message.type == "error" else None
        )
        page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))
        page.on(
            "request",
            lambda request: (
                faults.append(f"{page.url} loads {request.url}") if request.url.startswith("http") else None
            ),
        )
        for number, file in enumerate(files, start=1):
            look_at(page, file, faults)
            links[file.as_uri()] = set(page.evaluate(LINKS))
            targets[file.as_uri()] = set(page.evaluate(TARGETS))
            if number % 50 == 0:
                print(f"{number} of {len(files)} pages", flush=True)
        browser.close()
    for source, found in links.items():
        for link in found:
            address, place = urldefrag(link)
            if not address.startswith("file:"):
                continue
            if not Path(unquote(address.removeprefix("file://"))).exists():
                faults.append(f"{source}: {link} leads nowhere")
            elif place and address in targets and unquote(place) not in targets[address]:
                faults.append(f"{source}: there is no {place} on {Path(address).name}")
    print(*faults, sep="\n")
    print(f"{len(files)} pages, {len(faults)} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
