"""Take the picture of the dashboard that the README shows, of the replay's pages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[2]
PAGE = ROOT / ".data" / "replay" / "reports" / "dashboard" / "index.html"
PICTURE = ROOT / "docs" / "pictures" / "dashboard.png"
WIDTH, HEIGHT = 1080, 900


def take(page: Path, picture: Path) -> None:
    """Photograph the top of a page as a reader first sees it."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=os.environ["CHROMIUM"], args=["--no-sandbox"]
        )
        opened = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        opened.goto(page.as_uri())
        opened.screenshot(path=picture)
        chromium.close()


def main() -> None:
    """Photograph the page that is named, or the replay's dashboard."""
    page = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else PAGE
    if not page.is_file():
        sys.exit(f"There is no {page}: `python3 bootstrap.py replay` writes it.")
    take(page, PICTURE)


if __name__ == "__main__":
    main()
