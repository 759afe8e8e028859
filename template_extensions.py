"""Jinja extension that the template's files are rendered with."""

from __future__ import annotations

import json
import re
import sys

from jinja2 import Environment
from jinja2.ext import Extension

from template_answers import default_slug, derived

_MARKDOWN = re.compile(r"[\\`*_\[\]<>&~|$]")
_AT_START = re.compile(r"^(#|[-+=]|\d+(?=[.)]))")
# What ends a heading, and what readers of Markdown turn into links by themselves.
_AT_END = re.compile(r"(?<= )#+$")
_LINK = re.compile(r"(?i)\b(?:https?:|ftp:|mailto:|www\.)|@")


class TemplateExtension(Extension):
    """Keeps `${{ }}` literal; filters: `default_slug`, `derived`, `escaped` and `markdown`.

    A workflow's own expressions stand unescaped in the template, so that its source is valid YAML
    and can be linted as it is. An answer cannot follow a dollar sign directly for that reason.
    """

    def __init__(self, environment: Environment) -> None:
        """Register the filters."""
        super().__init__(environment)
        # cruft renders two versions of the template in one process: each imports its own modules.
        for module in (__name__, default_slug.__module__):
            sys.modules.pop(module, None)
        environment.filters["default_slug"] = default_slug
        environment.filters["derived"] = derived
        environment.filters["escaped"] = escaped
        environment.filters["markdown"] = markdown

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:  # noqa: ARG002
        """Turn every `${{` into a literal."""
        return source.replace("${{", "{{ '${{' }}")


def escaped(text: str) -> str:
    """Escape a line of text to stand between the double quotes of TOML, YAML or JSON.

    Jinja's own `tojson` writes characters beyond U+FFFF as two surrogates, which TOML refuses.
    """
    return json.dumps(text, ensure_ascii=False)[1:-1]


def markdown(text: str) -> str:
    """Escape a line of text so that Markdown shows it as it was typed, without links of its own."""
    escaped = _MARKDOWN.sub(r"\\\g<0>", text)
    escaped = _AT_START.sub(lambda found: _escape_start(found[0]), escaped)
    escaped = _AT_END.sub(lambda found: "\\#" * len(found[0]), escaped)
    return _LINK.sub(lambda found: _unlinked(found[0]), escaped)


def _escape_start(marker: str) -> str:
    return f"{marker}\\" if marker.isdigit() else f"\\{marker}"


def _unlinked(start: str) -> str:
    """The start of an address with its last character escaped: no link, and it looks the same."""
    return f"{start[:-1]}\\{start[-1]}"
