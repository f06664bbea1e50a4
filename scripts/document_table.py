"""Tables of a script inside a Markdown document, each between two marks."""

from pathlib import Path

END = "<!-- end of the table -->"
BEGINNING = "<!-- table of scripts/"


def begin(script: str) -> str:
    """The mark before the table of `script`, such as pixel_steps.py."""
    return f"{BEGINNING}{script} -->"


def insert(document: Path, script: str, text: str) -> None:
    """Put `text` between the script's mark and the first end mark after it.

    Raises:
        ValueError: The document has not exactly one mark of the script, or no end mark before the next table.
    """
    content, mark = document.read_text(encoding="utf-8"), begin(script)
    before, _, rest = content.partition(mark)
    old, end, after = rest.partition(END)
    if content.count(mark) != 1 or not end or BEGINNING in old:
        raise ValueError(f"{document} must have one line {mark!r} and, before the next table, one line {END!r}")
    document.write_text(f"{before}{mark}\n{text}\n{END}{after}", encoding="utf-8")
