"""What the server of the page gives away: nothing but the page and a session's own files."""

import json
import os
import signal
import stat
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest

from irstd_ldm.cli.main import main

from .conftest import Server

ROOT = Path(__file__).resolve().parents[2]


def request(url: str, content: bytes | None = None, content_type: str = "application/json") -> tuple[int, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    asked = urllib.request.Request(url, data=content, headers={"Content-Type": content_type} if content else {})
    try:
        with opener.open(asked, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


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


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/", "https://example.org/", "HTTP://127.0.0.1:1/"])
def test_no_foreign_address_is_fetched(server, address):
    for route in ("file", "proxy"):
        assert request(f"{server.url}/gradio_api/{route}={address}")[0] in (400, 403, 404)


def test_a_call_cannot_name_a_file_of_the_server(server):
    config = json.loads(request(f"{server.url}/config")[1])
    upload = next(one for one in config["dependencies"] if one["targets"] and one["targets"][0][1] == "upload")
    for place in ("/etc/passwd", str(ROOT / "irstd_ldm" / "checkpoints" / "tiny" / "example.png")):
        file = {"path": place, "meta": {"_type": "gradio.FileData"}}
        call = {"fn_index": upload["id"], "data": [file, 1, 1, "white-hot"], "session_hash": "stranger"}
        joined, content = request(f"{server.url}/gradio_api/queue/join", json.dumps(call).encode())
        if joined == 200:
            content = request(f"{server.url}/gradio_api/queue/data?session_hash=stranger")[1]
            assert b'"success":true' not in content.replace(b" ", b"")
        assert b"root:" not in content


def test_an_upload_beyond_the_limit_is_refused(server):
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    for size, refused in ((1000, False), (3_000_000, True)):
        body = head + bytes(size) + b"\r\n--x--\r\n"
        status, _ = request(f"{server.url}/gradio_api/upload", body, "multipart/form-data; boundary=x")
        assert (status >= 400) == refused


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
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    status, content = request(
        f"{server.url}/gradio_api/upload", head + b"1\r\n--x--\r\n", "multipart/form-data; boundary=x"
    )
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
