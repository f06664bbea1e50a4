"""A real server of the page in a process of its own, and a real browser in front of it."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
START_S = 300  # on a machine with other work

# The server's own process. Hosts beside loopback that it looks up or connects to are written to the file named first,
# and nothing goes out. What stands in the second argument is executed before the page is imported.
SERVER = """
import sys
LOOPBACK = (None, "", "127.0.0.1", "::1", "localhost")
def told(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if host not in LOOPBACK:
        with open(sys.argv[1], "a") as file:
            print(event, host, file=file)
        raise PermissionError(host)
sys.addaudithook(told)
exec(sys.argv[2])
from irstd_ldm.cli.main import main
sys.exit(main(sys.argv[3:]))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url: str, process: subprocess.Popen) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(START_S * 2):
        try:
            opener.open(url, timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, process.communicate()
            time.sleep(0.5)
    raise TimeoutError(url)


class Server:
    """`irstd-ldm app` with arguments, in a working directory of its own, after a change of its constants."""

    def __init__(self, folder: Path, *arguments: str, change: str = ""):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder, self.contacts = folder, folder / "contacts.txt"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
        command = [
            sys.executable,
            "-c",
            SERVER,
            str(self.contacts),
            change,
            "app",
            "--port",
            str(self.port),
            *arguments,
        ]
        self.process = subprocess.Popen(
            ["env", "--default-signal=INT", *command],  # a shell's background job, which tests may be, ignores it
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(self.url, self.process)


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    """The page of the bundled detector."""
    pytest.importorskip("gradio")
    server = Server(tmp_path_factory.mktemp("server"), "--max-file-mb", "2")
    yield server
    server.process.terminate()
    server.process.communicate()


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    api = pytest.importorskip("playwright.sync_api")
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"the browser is absent: {CHROMIUM} (Debian's package chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(server: Server, chromium) -> Iterator[Callable]:
    """Opens the page in a session of its own; requests to other servers and errors of its scripts fail the test."""
    contexts, foreign, complaints = [], [], []

    def open_page():
        context = chromium.new_context(viewport={"width": 1400, "height": 1100}, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("request", lambda request: _is_foreign(request.url, server.url) and foreign.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(server.url)
        page.locator("#viewer .port[data-name='synthetic-sky.png']").wait_for()  # what it begins with
        page.locator("#summary strong").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not foreign and not complaints


def _is_foreign(address: str, own: str) -> bool:
    return not re.match(rf"(data:|blob:|{re.escape(own)}[/?]?)", address)
