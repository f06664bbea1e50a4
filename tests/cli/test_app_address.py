"""`irstd-ldm app`: an address that cannot be served is one line."""

import socket
import subprocess
import sys

import pytest

from irstd_ldm.cli.app import serving_port
from irstd_ldm.cli.main import main


@pytest.mark.parametrize("host", ["256.1.1.1", "a" * 70 + ".de"])
def test_a_host_that_is_none_is_one_line(capfd, host):
    assert main(["app", "--host", host, "--model", "/no/model"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"irstd-ldm app: --host {host} --port 7860: cannot serve there: ")


def test_port_0_is_any_free_port(tiny_checkpoint):
    pytest.importorskip("gradio")
    assert 0 < serving_port("127.0.0.1", 0) < 2**16
    command = [sys.executable, "-m", "irstd_ldm.cli", "app", "--port", "0", "--model", str(tiny_checkpoint)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:") and not address.endswith(":0")
        socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1]))).close()
    finally:
        server.terminate()
        server.communicate()
