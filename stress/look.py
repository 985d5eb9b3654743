"""Open a report in headless Chromium: .venv/bin/python stress/look.py REPORT [OUT].

Prints its size, what it asks other hosts for, what the browser complains about, and what its first
view says; moves the divider and zooms; writes pictures of it to OUT: light, dark, a telephone.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

VIEWS = {
    "light": ({"width": 1280, "height": 800}, "light"),
    "dark": ({"width": 1280, "height": 800}, "dark"),
    "telephone": ({"width": 390, "height": 844}, "light"),
}


def look(browser: Browser, file: Path, out: Path | None) -> int:
    """Look at a report in every view; how many faults were found."""
    faults = 0
    print(f"size: {file.stat().st_size / 1e6:.2f} MB")
    for name, (viewport, scheme) in VIEWS.items():
        page = browser.new_context(viewport=viewport, color_scheme=scheme).new_page()
        requests: list[str] = []
        messages: list[str] = []
        page.on("request", lambda request, seen=requests: seen.append(request.url))
        page.on("console", lambda message, seen=messages: seen.append(message.text))
        page.on("pageerror", lambda error, seen=messages: seen.append(str(error)))
        page.goto(file.absolute().as_uri())
        asked = [url for url in requests if not url.startswith("data:")][1:]
        verdict = page.locator(".verdict").first
        inside = verdict.locator(".badge").first.bounding_box()["y"] < viewport["height"]
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        moved = _moves(page)
        print(
            f"{name}: {len(asked)} requests, {len(messages)} messages, verdict "
            f"{'in' if inside else 'NOT IN'} the first view, {max(0, wide)} pixels too wide, "
            f"divider and zoom {'move' if moved else 'DO NOT MOVE'}"
        )
        for text in [*asked, *messages]:
            print(f"  {text[:200]}")
        faults += len(asked) + len(messages) + (not inside) + (wide > 0) + (not moved)
        if name == "light":
            print("first view:", " / ".join(verdict.locator("div").first.inner_text().splitlines()))
        if out is not None:
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=out / f"{name}.png")
            page.screenshot(path=out / f"{name}_whole.png", full_page=True)
    return faults


def _moves(page) -> bool:
    """Whether the keyboard moves the divider and zooms; a page without pictures has none."""
    slider = page.locator(".viewer input").first
    if slider.count() == 0:
        return True
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.locator(".stage").first.focus()
    page.keyboard.press("+")
    moved = page.evaluate(
        "[document.querySelector('.divider').style.left,"
        " document.querySelector('.viewer img').style.transform]"
    )
    return moved[0] == "51%" and moved[1].endswith("scale(1.5)")


def main() -> None:
    """Read the command line."""
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    out = Path(sys.argv[2]) if len(sys.argv) == 3 else None
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if binary is None:
        sys.exit("no Chromium is installed (Debian: apt-get install chromium)")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=binary, args=["--no-sandbox", "--disable-gpu"]
        )
        sys.exit(min(1, look(browser, Path(sys.argv[1]), out)))


if __name__ == "__main__":
    main()
