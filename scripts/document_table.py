"""Tables of a script inside a Markdown document, between two marks."""

from pathlib import Path

END = "<!-- end of the table -->"


def begin(script: str) -> str:
    """The mark before the table of `script`, such as pixel_steps.py."""
    return f"<!-- table of scripts/{script} -->"


def insert(document: Path, script: str, text: str) -> None:
    """Put `text` between the document's two marks.

    Raises:
        ValueError: The document has not exactly one of each mark.
    """
    content, mark = document.read_text(encoding="utf-8"), begin(script)
    if content.count(mark) != 1 or content.count(END) != 1:
        raise ValueError(f"{document} must have one line {mark!r} and one line {END!r}")
    before, _, rest = content.partition(mark)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{mark}\n{text}\n{END}{after}", encoding="utf-8")
