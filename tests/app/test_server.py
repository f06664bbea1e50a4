"""What the server of the page gives away: nothing but the page and a session's own files."""

import json
import os
import signal
import stat
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from irstd_ldm.app.server import UploadQuota
from irstd_ldm.cli.main import main

from .calls import Session, file_data, request, upload
from .conftest import Server

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "irstd_ldm" / "checkpoints" / "tiny"


NOT_UPLOADED = "a call may name files uploaded to this page, no others"


def test_the_page_says_that_it_loads_from_here_alone(server):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(server.url, timeout=60) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert b"fonts.googleapis.com" not in answer.read()


@pytest.mark.parametrize("route", ["gradio_api/file=", "file=", "gradio_api/stream/", "static/", "assets/", "theme/"])
def test_no_file_of_the_server_is_readable(server, route):
    secret = server.folder / "secret.txt"
    secret.write_text("root:x:0:0 install_requires")
    up = "../" * 12
    places = [
        "/etc/passwd",
        str(ROOT / "setup.py"),
        f"{ROOT}/irstd_ldm/../setup.py",
        f"{up}etc/passwd",
        quote(f"{up}etc/passwd", safe=""),
        "%2e%2e/" * 12 + "etc/passwd",
        "//etc/passwd",
        "secret.txt",
        "./secret.txt",
        str(secret),
        "file:///etc/passwd",
    ]
    for place in places:
        status, content = request(f"{server.url}/{route}{place}")
        assert status >= 400, place
        assert b"root:" not in content and b"install_requires" not in content, place


class Foreign(ThreadingHTTPServer):
    """Another server on loopback; it counts who comes."""

    def __init__(self):
        self.visits: list[str] = []
        foreign = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                foreign.visits.append(self.path)
                self.send_error(404)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def foreign() -> Iterator[Foreign]:
    with Foreign() as foreign:
        threading.Thread(target=foreign.serve_forever, daemon=True).start()
        assert request(f"http://127.0.0.1:{foreign.server_port}/probe")[0] == 404 and foreign.visits == ["/probe"]
        foreign.visits.clear()
        yield foreign
        foreign.shutdown()


@pytest.fixture(scope="module")
def uploaded(server) -> str:
    """The path of a file that the page has."""
    status, content = upload(server.url, "a.png", (CHECKPOINT / "example.png").read_bytes())
    assert status == 200
    return json.loads(content)[0]


@pytest.mark.parametrize("scheme", ["http", "https", "HTTP"])
@pytest.mark.parametrize("host", ["127.0.0.1", "images.example"])
def test_no_foreign_address_is_fetched(server, foreign, uploaded, host, scheme):
    """`images.example` is of nobody (RFC 2606); the server's process refuses to look it up, and tells."""
    address = f"{scheme}://{host}:{foreign.server_port}/x.png"
    for route in ("file", "proxy"):
        assert request(f"{server.url}/gradio_api/{route}={address}")[0] in (400, 403, 404)
    session = Session(server.url)
    up = "/.." * 12
    for file in (
        file_data(address),
        file_data(f"{scheme}://{host}:{foreign.server_port}{up}{uploaded}"),  # as a path it leads to the upload
        file_data(address) | {"url": address, "is_stream": True},
        [file_data(address)],
    ):
        for name, data in (("read_file", [file]), ("detect_file", [None, file, 1, "white-hot"])):
            ended = session.call(name, data)
            assert ended["success"] is False and ended["output"]["error"] == NOT_UPLOADED
    call = json.dumps({"data": [file_data(address)], "session_hash": session.name}).encode()
    for route in ("run", "api"):
        assert request(f"{server.url}/gradio_api/{route}/read_file", call)[0] == 404
    event = json.loads(request(f"{server.url}/gradio_api/call/read_file", call)[1])["event_id"]
    assert NOT_UPLOADED.encode() in request(f"{server.url}/gradio_api/call/read_file/{event}")[1]
    assert foreign.visits == []
    assert not server.contacts.exists(), server.contacts.read_text()


def test_an_address_beside_an_upload_is_not_fetched(server, foreign, uploaded):
    """A browser sends the address at which the server gave the file; nothing is asked there."""
    file = file_data(uploaded) | {"url": f"http://127.0.0.1:{foreign.server_port}/x.png"}
    assert Session(server.url).detect(file)["success"] is True
    assert foreign.visits == []


@pytest.mark.parametrize(
    "place", ["/etc/passwd", str(CHECKPOINT / "example.png"), "{folder}/../../passwd", "example.png", ""]
)
def test_a_call_cannot_name_a_file_of_the_server(server, uploaded, place):
    path = place.replace("{folder}", str(Path(uploaded).parent))
    ended = Session(server.url).detect(file_data(path))
    assert ended["success"] is False and ended["output"]["error"] == NOT_UPLOADED


def test_an_upload_beyond_the_limit_is_refused(server):
    for size, refused in ((1000, False), (3_000_000, True)):
        assert (upload(server.url, "a.png", bytes(size))[0] >= 400) == refused


def test_uploads_have_quotas_of_a_client_and_of_all():
    """An address that has sent 10 bytes within the time sends no more; others do, until all together have sent 15."""
    received = []

    async def app(scope, receive, send):
        received.append((await receive())["body"])

    def post(client: str, body: bytes, path: str = "/gradio_api/upload") -> int:
        """Status of the answer; 0 where the request went through."""
        sent = []

        async def receive():
            return {"type": "http.request", "body": body}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": path, "client": (client, 1)}
        with suppress(StopIteration):  # nothing here waits, and a browser's tests may have left a loop running
            quota(scope, receive, send).send(None)
        return sent[0]["status"] if sent else 0

    quota = UploadQuota(app, client_bytes=10, all_bytes=15)
    assert [post("a", b"x" * 6), post("a", b"x" * 6), post("a", b"x")] == [0, 0, 429]
    assert [post("b", b"x" * 3), post("b", b"x"), post("c", b"x")] == [0, 429, 429]
    assert post("a", b"x", "/gradio_api/queue/join") == 0
    assert len(received) == 4
    quota.lifetime_s = 0.0
    assert post("a", b"x") == 0


SLOW = """
import time
import irstd_ldm.app.handlers as handlers
read = handlers.read_apart
handlers.read_apart = lambda path, *rest: (time.sleep(600 * path.name.startswith("slow")), read(path, *rest))[1]
"""


def test_slow_files_of_a_client_block_no_detection(tmp_path, tiny_checkpoint):
    """Two files are being read for minutes; a third of that client is refused, what is read already is detected.

    Its uploads end with its quota, here one largest file.
    """
    few = "import irstd_ldm.app.server as server; server.UPLOADS_OF_CLIENT = 1"
    server = Server(tmp_path, "--model", str(tiny_checkpoint), "--max-file-mb", "1", change=f"{few}\n{SLOW}")
    try:
        content = (CHECKPOINT / "example.png").read_bytes()
        slow, fast = (
            file_data(json.loads(upload(server.url, name, content)[1])[0]) for name in ("slow.png", "fast.png")
        )
        ready, *reading = (Session(server.url) for _ in range(3))
        assert ready.call("read_file", [fast])["success"] is True
        for session in reading:
            assert session.join("read_file", [slow])[0] == 200
            assert session.messages(last="process_starts")
        refused = Session(server.url).call("read_file", [fast])
        assert refused["success"] is False and "still being read" in refused["output"]["error"]
        ended = ready.call("detect_file", [None, 1, 1, "white-hot"])
        assert ended["success"] is True, ended["output"]
        assert [upload(server.url, "a.png", bytes(950_000))[0] for _ in range(2)] == [200, 429]
    finally:
        server.process.kill()
        server.process.communicate()


def test_a_full_queue_refuses_calls(tmp_path, tiny_checkpoint):
    """Two may wait while one is detected, 16 million pixels by 8 members, nearly the most that a page takes."""
    change = "import irstd_ldm.app.server as server; server.MAX_WAITING = 2"
    server = Server(tmp_path, "--model", str(tiny_checkpoint), change=change)
    try:
        np.save(tmp_path / "large.npy", np.zeros((4000, 4000), np.uint8))
        status, content = upload(server.url, "large.npy", (tmp_path / "large.npy").read_bytes())
        assert status == 200
        data = [None, 1, 8, "white-hot"]
        running = Session(server.url)
        assert running.call("read_file", [file_data(json.loads(content)[0])])["success"] is True
        assert running.join("detect_file", data)[0] == 200
        assert running.messages(last="process_starts")
        waiting = [Session(server.url) for _ in range(2)]
        assert [session.join("detect_file", data)[0] for session in waiting] == [200, 200]
        status, content = Session(server.url).join("detect_file", data)
        assert status == 503 and b"Queue is full" in content
    finally:
        server.process.kill()
        server.process.communicate()


def test_it_is_bound_to_loopback_and_speaks_to_nobody(server):
    listening = {
        fields[1]
        for table in ("tcp", "tcp6")
        for fields in map(str.split, Path(f"/proc/{server.process.pid}/net/{table}").read_text().splitlines()[1:])
        if fields[1].endswith(f":{server.port:04X}") and fields[3] == "0A"
    }
    assert listening == {f"0100007F:{server.port:04X}"}
    assert not server.contacts.exists(), server.contacts.read_text()


def test_what_it_stores_is_in_a_private_folder(server):
    environment = Path(f"/proc/{server.process.pid}/environ")  # as it started: the process sets its own folder later
    assert b"GRADIO_TEMP_DIR" not in environment.read_bytes()
    status, content = upload(server.url, "a.png", b"1")
    assert status == 200
    (stored,) = map(Path, json.loads(content))
    folder = next(parent for parent in stored.parents if parent.name.startswith("irstd-ldm-app-"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_it_ends(tmp_path, tiny_checkpoint, ending, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server = Server(tmp_path, "--model", str(tiny_checkpoint))
    stored = [path for path in tmp_path.iterdir() if path.name.startswith("irstd-ldm-app-")]
    assert len(stored) == 1
    assert server.process.stdout.readline() == f"{server.url} (this machine alone); Ctrl-C ends it\n"
    server.process.send_signal(ending)
    _, err = server.process.communicate(timeout=60)
    assert server.process.returncode == 130 and "Traceback" not in err
    assert not stored[0].exists()


def test_a_page_that_cannot_start_leaves_the_process_as_it_was(server, tiny_checkpoint):
    before = tempfile.gettempdir(), dict(os.environ), signal.getsignal(signal.SIGTERM)
    assert main(["app", "--port", str(server.port), "--model", str(tiny_checkpoint)]) == 1
    assert (tempfile.gettempdir(), dict(os.environ), signal.getsignal(signal.SIGTERM)) == before
    with tempfile.TemporaryDirectory() as folder:
        assert Path(folder).is_dir()


def test_a_port_in_use_is_one_line(server, tiny_checkpoint, capsys):
    assert main(["app", "--port", str(server.port), "--model", str(tiny_checkpoint)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"irstd-ldm app: --host 127.0.0.1 --port {server.port}: cannot serve there: ")
