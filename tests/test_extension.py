"""What the template's Jinja extension does to sources and answers."""

from __future__ import annotations

import json
import re
import sys
import tomllib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment
from markdown_it import MarkdownIt
from names import TEXTS

from template_answers import problem_with_text
from template_extensions import TemplateExtension, escaped, markdown

TYPED = [
    *(text for texts in TEXTS.values() for text in texts),
    "# 1. <b>bold</b> &amp; & `code` *a* _b_ [x](y) ~~z~~ | $x$",
    "see www.example.org, HTTP://example.org or ops@example.org",
    "![image](x) &lt; a & b ~~z~~ ~ *",
]
# What `template_answers` lets through.
ANY_TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"))
).filter(lambda text: problem_with_text("author", text) is None)


def render(source: str, **values: str) -> str:
    environment = Environment(  # noqa: S701 - text, not pages
        extensions=[TemplateExtension], trim_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(source).render(**values)


@pytest.mark.parametrize(
    "source",
    [
        "${{ secrets.TOKEN }}",
        "if: ${{ github.ref == 'refs/heads/main' && !cancelled() }}\n",
        "a: ${{ a }}-${{ b }}\nb: ${{\n  c\n}}\n",
        "$ {x} $x ${x} $${{ x }}\n",
    ],
)
def test_workflow_expressions_stay(source: str) -> None:
    assert render(source) == source


def test_workflow_expressions_stay_beside_answers() -> None:
    assert render("${{ x }} {{ y }} ${{ z }}", y="Y") == "${{ x }} Y ${{ z }}"


@pytest.mark.parametrize("text", TYPED)
def test_escaped_text_is_read_back_unchanged(text: str) -> None:
    require_read_back(text)


@given(ANY_TEXT)
def test_any_text_is_read_back_unchanged(text: str) -> None:
    require_read_back(text)


def require_read_back(text: str) -> None:
    line = render('key = "{{ text | escaped }}"', text=text)
    assert tomllib.loads(line)["key"] == text
    assert yaml.safe_load(line.replace(" =", ":", 1))["key"] == text
    assert json.loads(f'"{escaped(text)}"') == text


@pytest.mark.parametrize("text", TYPED)
def test_markdown_shows_the_text_as_typed(text: str) -> None:
    require_shown(text)


@given(ANY_TEXT)
def test_markdown_shows_any_text_as_typed(text: str) -> None:
    require_shown(text)


def require_shown(text: str) -> None:
    for opening, line in (("paragraph_open", ""), ("heading_open", "# ")):
        start, inline, _ = MarkdownIt().enable("table").parse(line + markdown(text))
        parts = inline.children or []
        assert start.type == opening
        assert "".join(part.content for part in parts) == text
        assert {part.type for part in parts} <= {"text", "text_special"}


@pytest.mark.parametrize("address", ["https://a.org", "http://a", "www.a.org", "a@b.org"])
def test_markdown_leaves_nothing_that_readers_turn_into_links(address: str) -> None:
    assert not re.search(r"(?i)https?:/|www\.|[a-z]@", markdown(f"see {address}"))


def test_each_version_of_the_template_imports_its_own_modules() -> None:
    Environment(extensions=[TemplateExtension])  # noqa: S701 - text, not pages
    assert sys.modules.keys().isdisjoint({"template_extensions", "template_answers"})


def test_plain_prose_is_not_littered_with_escapes() -> None:
    prose = "Predicts late arrivals (by carrier), 24/7; it's checked: twice - at least!"
    assert markdown(prose) == prose
