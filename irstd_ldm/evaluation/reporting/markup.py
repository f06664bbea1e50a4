"""The few HTML elements that a report is made of; every text is escaped, every picture is inline."""

import base64
from collections.abc import Iterable, Sequence
from html import escape


def tag(name: str, content: str = "", **attributes: str | None) -> str:
    """An element around markup; an attribute of None is left out, `class_` is `class`."""
    given = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items() if value is not None)
    return f"<{name}{given}>{content}</{name}>"


def heading(level: int, text: str) -> str:
    return tag(f"h{level}", escape(text))


def paragraph(text: str, class_: str | None = None) -> str:
    return tag("p", escape(text), class_=class_)


def link(text: str, address: str | None) -> str:
    """The text, linked where there is an address."""
    return escape(text) if address is None else tag("a", escape(text), href=address)


def bullets(items: Iterable[str]) -> str:
    """A list of texts."""
    return tag("ul", "".join(tag("li", escape(item)) for item in items))


def terms(items: Iterable[tuple[str, str]]) -> str:
    """A list of pairs of texts: what, and its value or meaning."""
    return tag("dl", "".join(tag("dt", escape(key)) + tag("dd", escape(value)) for key, value in items))


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts; the first cell of a row is its header, cells that begin with a digit or sign are numbers."""
    rows = list(rows)
    head = tag("th", escape(header[0]), scope="col")
    for column, name in enumerate(header[1:], start=1):
        numeric = any(_is_number(row[column]) for row in rows)
        head += tag("th", escape(name), scope="col", class_="number" if numeric else None)
    head = tag("tr", head)
    body = "".join(
        tag("tr", tag("th", escape(first), scope="row") + "".join(_cell(cell) for cell in rest))
        for first, *rest in rows
    )
    inner = tag("caption", tag("span", escape(caption))) + tag("thead", head) + tag("tbody", body)
    return tag("div", tag("table", inner), class_="scroll", tabindex="0")


def details(summary: str, content: str) -> str:
    """Markup that opens on demand."""
    return tag("details", tag("summary", escape(summary)) + content)


def image(png: bytes, alt: str, class_: str | None = None) -> str:
    """A PNG file as part of the page."""
    class_attribute = "" if class_ is None else f' class="{escape(class_)}"'
    return f'<img{class_attribute} src="{_data_uri(png)}" alt="{escape(alt)}">'


def themed_image(light: bytes, dark: bytes, alt: str) -> str:
    """Two PNG files of one picture, chosen by the reader's colour scheme."""
    source = f'<source srcset="{_data_uri(dark)}" media="(prefers-color-scheme: dark)">'
    return tag("picture", source + image(light, alt))


def figure(content: str, caption: str) -> str:
    """Markup with a caption that is markup."""
    return tag("figure", content + tag("figcaption", caption))


def _cell(text: str) -> str:
    return tag("td", escape(text).replace("\n", "<br>"), class_="number" if _is_number(text) else None)


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text.startswith(("+", "-", "−"))


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
