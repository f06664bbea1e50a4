"""The documentation builds without a warning and without the network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import irstd_ldm

ROOT = Path(__file__).resolve().parents[2]
# Whatever is not loopback is refused, as on a machine without a network.
BUILD = """
import sys
def refused(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise OSError(f"{event} {arguments[1:]}")
sys.addaudithook(refused)
from sphinx.cmd.build import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-c", BUILD, "-q", "-W", "--keep-going", "-d", str(folder / "doctrees")]
    built = subprocess.run(
        [*command, str(ROOT / "docs"), str(folder / "html")],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    return folder / "html"


def test_every_page_is_reached_from_the_index(site):
    index = (site / "index.html").read_text()
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 5
    for page in pages:
        assert str(page) == "index.html" or f'href="{page}"' in index, page


def test_every_public_name_has_its_entry(site):
    entries = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    for name in set(irstd_ldm.__all__) - {"__version__"}:
        assert f'id="irstd_ldm.{name}"' in entries, name


def test_docstrings_become_pages(site):
    page = (site / "api" / "pipelines.html").read_text()
    assert 'id="irstd_ldm.IRSTDLatentPipeline.__call__"' in page
    assert "max_fa_per_million_px" in page
    assert 'class="highlight-python' in page  # the fenced example
    assert 'href="#irstd_ldm.IRSTDPipelineOutput"' in page  # [`IRSTDPipelineOutput`]
    assert "[`" not in page and "```" not in page


def test_no_page_loads_from_another_server(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        for tag in ('src="http', 'rel="stylesheet" type="text/css" href="http', "@import"):
            assert tag not in text, page
