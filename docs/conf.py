"""Sphinx: `make docs`, or `sphinx-build -W docs docs/_build`. Needs irstd-ldm[docs] and no network."""

import re

from docutils import nodes
from docutils.parsers.rst import Directive

import irstd_ldm
from irstd_ldm.cli.main import build_parser

project = "irstd-ldm"
copyright = "the irstd-ldm authors, Apache-2.0"
version = release = irstd_ldm.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"irstd-ldm {version}"
html_copy_source = False
html_show_sourcelink = False
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # some links lead to files beside docs/

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[`([\w.]+)`\]")
CODE = re.compile(r"(?<![`\w:])`([^`\n]+)`(?!`)")


def docstring_as_rst(app, what, name, obj, options, lines: list[str]) -> None:
    """Our docstrings are Markdown, as diffusers' are: fenced examples, `code` and [`links`]."""
    text = "\n".join(lines)
    text = FENCE.sub(lambda found: f"{found[1]}.. code-block:: python\n\n{_indented(found[3])}", text)
    text = LINK.sub(r":py:obj:`\1`\\ ", text)
    text = CODE.sub(r"``\1``\\ ", text)
    lines[:] = text.split("\n")


def _indented(code: str) -> str:
    return "".join(f"    {line}" if line.strip() else line for line in code.splitlines(keepends=True))


class CommandHelp(Directive):
    """What `irstd-ldm COMMAND --help` prints."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (commands,) = (action for action in build_parser()._actions if action.dest == "command")
        return [nodes.literal_block(text=commands.choices[self.arguments[0]].format_help())]


def list_pipelines(app, page: str, source: list[str]) -> None:
    """Puts an entry of each public pipeline where the page says PIPELINES."""
    if page == "api/pipelines":
        names = [name for name, module in irstd_ldm.PUBLIC.items() if module.startswith(".pipelines.pipeline_")]
        options = "   :special-members: __call__\n   :inherited-members: DiffusionPipeline, ConfigMixin\n"
        entries = [f".. autoclass:: irstd_ldm.{name}\n{options}" for name in names]
        source[0] = source[0].replace("PIPELINES\n", "\n".join(entries))


def setup(app) -> None:
    app.connect("source-read", list_pipelines)
    app.add_directive("command-help", CommandHelp)
    app.connect("autodoc-process-docstring", docstring_as_rst, priority=100)
