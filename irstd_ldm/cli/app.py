"""`irstd-ldm app`: the page on which a detector can be tried."""

import argparse
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from ..app.server import LOOPBACK, launch_options, private_folder
from ..extras import install_command
from . import EXIT_INTERRUPTED, EXIT_USAGE, CommandError, describe
from .model import load_pipeline, model_name, resolve_device


def run(args: argparse.Namespace) -> NoReturn:
    """Serves the page until it is interrupted or terminated."""
    try:
        port = serving_port(args.host, args.port)
    except (OSError, UnicodeError) as error:  # a UnicodeError means that no host can have this name
        reason = describe("", error).error
        raise CommandError(f"--host {args.host} --port {args.port}: cannot serve there: {reason}") from error
    with terminated_in_order(), private_folder():
        try:
            from ..app.page import build_page
        except ImportError as error:
            raise CommandError(f"the page needs gradio: {install_command('demo')} ({error})", EXIT_USAGE) from error
        page = build_page(load_pipeline(args, resolve_device(args.device)), model_name(args))
        try:
            options = launch_options(args.max_file_mb)
            page.launch(server_name=args.host, server_port=port, prevent_thread_lock=True, **options)
        except OSError as error:  # another process has taken the port since
            raise CommandError(f"--host {args.host} --port {port}: cannot serve there: {error}") from error
        try:
            reach = "this machine alone" if args.host == LOOPBACK else "everyone who can reach this address"
            print(f"http://{args.host}:{port} ({reach}); Ctrl-C ends it", flush=True)
            while True:
                threading.Event().wait()
        finally:
            page.close(verbose=False)


def serving_port(host: str, port: int) -> int:
    """The port, or a free one for 0, after a try: gradio's server tells in lines of its own why it cannot start."""
    family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    with socket.create_server(address[:2], family=family) as server:
        return server.getsockname()[1]


@contextmanager
def terminated_in_order() -> Iterator[None]:
    """SIGTERM ends the block as an exception, so that temporary files are removed."""
    earlier = signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)
