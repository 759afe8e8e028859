"""Jinja extension that the template's files are rendered with."""

from __future__ import annotations

import json
import re

from jinja2 import Environment
from jinja2.ext import Extension

_MARKDOWN = re.compile(r"[\\`*_\[\]<>&~|$]")
_AT_START = re.compile(r"^(#|[-+=]|\d+(?=[.)]))")


class TemplateExtension(Extension):
    """Keeps `${{ }}` literal and adds the filters `escaped` and `markdown`.

    A workflow's own expressions stand unescaped in the template, so that its source is valid YAML
    and can be linted as it is. An answer cannot follow a dollar sign directly for that reason.
    """

    def __init__(self, environment: Environment) -> None:
        """Register the filters."""
        super().__init__(environment)
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
    """Escape a line of text so that Markdown shows it as it was typed."""
    escaped = _MARKDOWN.sub(r"\\\g<0>", text)
    return _AT_START.sub(lambda found: _escape_start(found[0]), escaped)


def _escape_start(marker: str) -> str:
    return f"{marker}\\" if marker.isdigit() else f"\\{marker}"
