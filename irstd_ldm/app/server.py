"""Serving the page: on this machine alone unless told otherwise, and without the network."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = "127.0.0.1"
MAX_FILE_MB = 64
MAX_WAITING = 32  # calls that may wait, while one detection and a few lighter calls run
MAX_READS, MAX_READS_OF_CLIENT = 4, 2  # files that are read at a time
LIFETIME_S = 3600  # uploads and results are kept this long
UPLOADS_OF_CLIENT, UPLOADS_OF_ALL = 8, 64  # uploads of the largest size that are kept at a time
MAX_SESSIONS = 16  # sessions whose results are kept in memory, up to 200 MB each
CSS = """
footer { display: none !important; }
#scenes .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)) !important; overflow: hidden; }
.gradio-container { max-width: 1500px !important; margin: 0 auto !important; }
@media (max-width: 700px) {
  .gradio-container, .gradio-container .main, #parts, #parts > .column { min-width: 0 !important; max-width: 100vw; }
  #parts > .column { width: calc(100vw - 64px); flex: none !important; }
  #parts > .column:last-child { order: -1; }
  #table { overflow-x: auto; }
}
"""
# Thermal pictures are looked at in the dark; `?__theme=light` is the other one.
DARK = "() => new URLSearchParams(location.search).has('__theme') || document.body.classList.add('dark')"
# The browser loads from this server alone; gradio's and the viewer's scripts are inline and built from text.
CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'"
)


class LocalOnly:
    """Refuses to fetch foreign addresses, which gradio's file route offers; `UploadsOnly` does so in calls' bodies."""

    def __init__(self, app: "ASGIApp"):
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if any(f"/{route}=http" in scope["path"] for route in ("file", "proxy")):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"no foreign addresses"})
            return

        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [(b"content-security-policy", CONTENT_POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        await self.app(scope, receive, send_with_policy)


class UploadQuota:
    """Answers 429 to uploads of an address, or to all, once these have sent their bytes within `lifetime_s` seconds.

    The upload that crosses a quota is finished; gradio's `max_file_size` bounds it.
    """

    def __init__(self, app: "ASGIApp", client_bytes: int, all_bytes: int, lifetime_s: float = LIFETIME_S):
        self.app, self.client_bytes, self.all_bytes, self.lifetime_s = app, client_bytes, all_bytes, lifetime_s
        self._uploads: list[_Upload] = []

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith("/upload"):
            await self.app(scope, receive, send)
            return
        now, client = time.monotonic(), (scope["client"] or ("",))[0]
        self._uploads = [one for one in self._uploads if now - one.start < self.lifetime_s]
        of_client = sum(one.num_bytes for one in self._uploads if one.client == client)
        if of_client >= self.client_bytes or sum(one.num_bytes for one in self._uploads) >= self.all_bytes:
            while (await receive()).get("more_body"):  # a client that is not listened to sees no answer
                pass
            await send({"type": "http.response.start", "status": 429, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"too many uploads within the hour"})
            return
        upload = _Upload(client, now)
        self._uploads.append(upload)

        async def counted() -> Any:
            message = await receive()
            upload.num_bytes += len(message.get("body", b""))
            return message

        await self.app(scope, counted, send)


@dataclass
class _Upload:
    client: str
    start: float
    num_bytes: int = 0


@contextmanager
def private_folder() -> Iterator[None]:
    """A folder of this process for all temporary files, and no telemetry; entered before gradio is imported."""
    environment, earlier = dict(os.environ), tempfile.tempdir
    with TemporaryDirectory(prefix="irstd-ldm-app-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        os.environ |= {
            "GRADIO_TEMP_DIR": os.path.join(folder, "served"),
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        try:
            yield
        finally:
            tempfile.tempdir = earlier
            os.environ.clear()
            os.environ |= environment


def launch_options(max_file_mb: int = MAX_FILE_MB) -> dict[str, Any]:
    """Arguments of `launch` for every server of the page, wherever it is bound; `max_file_mb` counts 10^6 bytes."""
    import gradio as gr
    from starlette.middleware import Middleware

    largest = max_file_mb * 10**6
    quotas = {"client_bytes": UPLOADS_OF_CLIENT * largest, "all_bytes": UPLOADS_OF_ALL * largest}
    return {
        "theme": gr.themes.Default(
            primary_hue="amber",
            neutral_hue="zinc",
            font=("system-ui", "sans-serif"),
            font_mono=("ui-monospace", "monospace"),
        ),
        "js": DARK,
        "css": CSS,
        "max_file_size": largest,
        "allowed_paths": [],
        "state_session_capacity": MAX_SESSIONS,
        "app_kwargs": {"middleware": [Middleware(LocalOnly), Middleware(UploadQuota, **quotas)]},
        "footer_links": [],
        "share": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "run_history": False,
        "mcp_server": False,
        "pwa": False,
        "quiet": True,
        "show_error": True,
    }
