"""What the template's Jinja extension does to sources and answers."""

from __future__ import annotations

import json
import tomllib

import pytest
import yaml
from jinja2 import Environment
from markdown_it import MarkdownIt

from template_extensions import TemplateExtension, escaped, markdown

TEXTS = [
    "plain",
    'it\'s "quoted"',
    "back\\slash \\u0041",
    "# 1. <b>bold</b> &amp; & `code` *a* _b_ [x](y) ~~z~~ | $x$",
    "#1",
    "- item",
    "+ item",
    "1. item",
    "12) item",
    "= title",
    "> quote",
    "~~~",
    "über 飛 🛫",
    "C:\\new\\table",
    "yes",
    "null",
    "%s {0} #",
    "https://example.org",
]


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


@pytest.mark.parametrize("text", TEXTS)
def test_escaped_text_is_read_back_unchanged(text: str) -> None:
    line = render('key = "{{ text | escaped }}"', text=text)
    assert tomllib.loads(line)["key"] == text
    assert yaml.safe_load(line.replace(" =", ":"))["key"] == text
    assert json.loads(f'"{escaped(text)}"') == text


@pytest.mark.parametrize("text", TEXTS)
def test_markdown_shows_the_text_as_typed(text: str) -> None:
    opening, inline, _ = MarkdownIt().enable("table").parse(markdown(text))
    assert opening.type == "paragraph_open"
    assert "".join(child.content for child in inline.children or ()) == text


def test_plain_prose_is_not_littered_with_escapes() -> None:
    prose = "Predicts late arrivals (by carrier), 24/7; it's checked: twice - at least!"
    assert markdown(prose) == prose
