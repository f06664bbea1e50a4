"""Calls of the page over HTTP, as its own scripts make them, and as a stranger's may look."""

import json
import urllib.error
import urllib.request
import uuid
from typing import Any


def request(url: str, content: bytes | None = None, content_type: str = "application/json") -> tuple[int, bytes]:
    """Status and body of an answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    asked = urllib.request.Request(url, data=content, headers={"Content-Type": content_type} if content else {})
    try:
        with opener.open(asked, timeout=300) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def upload(url: str, name: str, content: bytes) -> tuple[int, bytes]:
    """Status and body of an upload; the body of one that succeeds is a list of its path."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return request(
        f"{url}/gradio_api/upload", head.encode() + content + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"
    )


def file_data(path: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


class Session:
    """One session of a page."""

    def __init__(self, url: str):
        self.url, self.name = url, uuid.uuid4().hex
        self._calls = json.loads(request(f"{url}/config")[1])["dependencies"]

    def join(self, name: str, data: list[Any]) -> tuple[int, bytes]:
        """Puts a call into the queue: that of a handler, by its name."""
        index = next(one["id"] for one in self._calls if one["api_name"] == name)
        call = {"fn_index": index, "data": data, "session_hash": self.name}
        return request(f"{self.url}/gradio_api/queue/join", json.dumps(call).encode())

    def messages(self, last: str = "close_stream") -> list[dict[str, Any]]:
        """What the server says of this session's calls, up to a message of the kind `last`."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        said: list[dict[str, Any]] = []
        with opener.open(f"{self.url}/gradio_api/queue/data?session_hash={self.name}", timeout=300) as lines:
            while not said or said[-1]["msg"] != last:
                line = lines.readline()
                said += [json.loads(line.removeprefix(b"data: "))] if line.strip() else []
        return said

    def call(self, name: str, data: list[Any]) -> dict[str, Any]:
        """The message that ends a call: `success`, and `output` with `data` or `error`."""
        status, content = self.join(name, data)
        assert status == 200, content
        return next(one for one in self.messages() if one["msg"] == "process_completed")

    def detect(self, file: dict[str, Any], steps: int = 1, ensemble: int = 1) -> dict[str, Any]:
        """The message that ends a detection in a file, or that refuses to read it."""
        read = self.call("read_file", [file])
        return self.call("detect_file", [None, steps, ensemble, "white-hot"]) if read["success"] else read
