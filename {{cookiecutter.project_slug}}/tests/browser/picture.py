"""Take the picture of the dashboard that the README shows, of the replay's pages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[2]
PAGE = ROOT / ".data" / "replay" / "reports" / "dashboard" / "index.html"
PICTURE = ROOT / "docs" / "pictures" / "dashboard.png"
WIDTH, HEIGHT = 1080, 900


def take(browser: Browser, page: Path, picture: Path) -> None:
    """Photograph the top of a page as a reader first sees it."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    opened = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    opened.goto(page.as_uri())
    opened.screenshot(path=picture)
    opened.close()


def main() -> None:
    """Photograph the page that is named, or the replay's dashboard."""
    page = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else PAGE
    if not page.is_file():
        sys.exit(f"There is no {page}: `python3 bootstrap.py replay` writes it.")
    with sync_playwright() as driver:
        # Containers and root have no user namespaces for the sandbox; what is opened is our own.
        chromium = driver.chromium.launch(
            executable_path=os.environ["CHROMIUM"], args=["--no-sandbox"]
        )
        take(chromium, page, PICTURE)
        chromium.close()


if __name__ == "__main__":
    main()
