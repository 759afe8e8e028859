"""Take the picture of the dashboard that the README shows, of the replay's pages.

The picture carries a fingerprint of what draws the page. Where that has changed since, the session
`browser` fails: the picture shows a page that is no more.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from {{cookiecutter.package_name}}.reporting import pages
from {{cookiecutter.package_name}}.serving import panels

ROOT = Path(__file__).parents[2]
PAGE = ROOT / ".data" / "replay" / "reports" / "dashboard" / "index.html"
PICTURE = ROOT / "docs" / "pictures" / "dashboard.png"
WIDTH, HEIGHT = 1080, 1060
TEMPLATES = Path(pages.__file__).parent / "templates"
# What draws the part of the page that the picture shows.
DRAWN_BY = (
    Path(panels.__file__),
    *(
        TEMPLATES / name
        for name in (
            "dashboard.html.jinja",
            "page.html.jinja",
            "performance.vl.json.jinja",
            "theme.json",
        )
    ),
)
_END = 12  # bytes of the last chunk of a PNG, which is empty
_FINGERPRINT = re.compile(rb"tEXtPage\0([0-9a-f]{64})")


def take(browser: Browser, page: Path, picture: Path) -> None:
    """Photograph the top of a page as a reader first sees it."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    opened = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    opened.goto(page.as_uri())
    taken = opened.screenshot()
    opened.close()
    picture.write_bytes(with_fingerprint(taken, fingerprint()))


def fingerprint(files: Iterable[Path] = DRAWN_BY) -> str:
    """SHA-256 of what draws the page; line ends do not count."""
    texts = [path.read_text(encoding="utf-8") for path in files]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def with_fingerprint(png: bytes, digest: str) -> bytes:
    """A PNG with a chunk of text more, before its last."""
    chunk = b"tEXtPage\0" + digest.encode()
    length = len(chunk) - len(b"tEXt")
    framed = struct.pack(">I", length) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:-_END] + framed + png[-_END:]


def fingerprint_of(picture: Path) -> str | None:
    """The fingerprint that a picture carries; None: it carries none."""
    found = _FINGERPRINT.search(picture.read_bytes())
    return found[1].decode() if found else None


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
