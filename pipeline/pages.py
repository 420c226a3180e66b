"""The frame that all HTML pages share: one file each, with its style, that needs neither a network nor other files."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template


def page(title: str, subtitle: str, body: str, style: str = "") -> str:
    """Return a whole page as text.

    Args:
        title: of the page, plain text.
        subtitle: a line below it, plain text.
        body: HTML.
        style: CSS beyond what all pages share.
    """
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(title), subtitle=escape(subtitle), body=body, style=style)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[int] = ()) -> str:
    """Return an HTML table of cells that are HTML already; the columns in `text` are words, not numbers."""

    def cells(row: Sequence[str], tag: str) -> str:
        kinds = [' class="text"' if i in text else "" for i in range(len(row))]
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, row, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells(head, "th")}</tr></thead><tbody>{body}</tbody></table></div>'


def section(title: str, content: str) -> str:
    """Return a part of a page under its heading, nothing without content."""
    return f"<h2>{title}</h2>\n{content}" if content else ""
