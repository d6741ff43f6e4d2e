"""facerec app"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import ipaddress
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from pathlib import Path

from facerec.commands import common
from facerec.errors import Exit, FacerecError, UsageError

WARM_UP = "warm-up"
HELP = "a page in the browser: recognise, live camera, people, training, reports"
EXAMPLES = """\
facerec app                             http://127.0.0.1:8501, for this machine only
facerec app --port 8600 --no-browser
facerec app --gallery postgresql://faces@db/faces
facerec app --address 0.0.0.0           for others on the network, who need the token that is printed"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--address", default="127.0.0.1", help="to listen at (default: %(default)s)")
    parser.add_argument("--port", type=common.whole(1, 65535), default=8501, help="default: %(default)s")
    parser.add_argument("--no-browser", action="store_true", help="open none")
    parser.add_argument(
        "--gallery", type=common.gallery, metavar="FILE",
        help="or postgresql://… (default: embeddings/gallery.npz, names from the newest of classifiers and gallery)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> Exit:
    """Serves the page until Ctrl-C."""
    from facerec.app import ADMITTED, GALLERY, TOKEN
    from facerec.galleries import open_gallery

    os.environ.pop(GALLERY, None)
    if args.gallery:
        open_gallery(args.gallery).exists()  # what is wrong with it is said here, not to visitors
        os.environ[GALLERY] = str(args.gallery)
    for package in ("streamlit", "streamlit_webrtc"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"the page needs {package}", "pip install 'facerec[app]'")
    from streamlit import net_util
    from streamlit.runtime import Runtime
    from streamlit.web import bootstrap

    try:
        family = socket.AF_INET6 if ":" in args.address else socket.AF_INET
        socket.create_server((args.address, args.port), family=family).close()
    except OSError as error:
        raise FacerecError(
            f"{args.address}:{args.port} cannot be listened at ({error.strerror or error})",
            "choose another --port or --address",
        ) from None
    net_util.get_external_ip = lambda: None  # asks a server on the web, whenever a page of another origin calls
    host = f"[{args.address}]" if ":" in args.address else args.address
    url = f"http://{host}:{args.port}"
    if is_loopback(args.address):
        os.environ.pop(TOKEN, None)
    else:
        token = os.environ[TOKEN] = os.environ.get(TOKEN) or secrets.token_urlsafe(24)
        url += f"/?token={token}"
        active = Runtime.is_active_session

        def admitted(runtime: Runtime, session_id: str) -> bool:
            return session_id in ADMITTED and active(runtime, session_id)

        Runtime.is_active_session = admitted  # type: ignore[assignment]  # asked before an upload is read
    options = {
        "server.address": args.address,
        "server.port": args.port,
        "server.headless": args.no_browser or not is_loopback(args.address),  # it would open the page without the token
        # a page elsewhere must not get in by a name that it lets point here (DNS rebinding)
        "server.allowedHosts": ["localhost", "127.0.0.1", "::1", args.address] if is_loopback(args.address) else [],
        "server.maxUploadSize": 500,
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": False,
        "browser.serverAddress": host,
        "client.toolbarMode": "viewer",
        "client.showErrorDetails": "none",
        "global.developmentMode": False,
    }
    threading.Thread(target=_warm_up, name=WARM_UP, daemon=True).start()
    print(f"facerec: {url}  (Ctrl-C ends it)", file=sys.stderr, flush=True)
    flags = {name.replace(".", "_"): value for name, value in options.items()}
    bootstrap.load_config_options(flag_options=flags)
    hangup = getattr(signal, "SIGHUP", None)
    if hangup and signal.getsignal(hangup) == signal.default_int_handler:  # the terminal is closed: as at SIGTERM,
        signal.signal(hangup, lambda *_: signal.raise_signal(signal.SIGTERM))  # which leaves no upload behind
    bootstrap.run(str(Path(__file__).parents[1] / "app" / "main.py"), False, [], flags)
    return Exit.OK


def _warm_up() -> None:
    """Imports the pages and loads the networks while the browser opens, so that the first picture waits for less."""
    # not live: the server knows its component only when a visitor's page is the first to import it
    from facerec.app import evaluate, people, recognise, settings, toolkit, train  # noqa: F401

    def of_another_thread(record: logging.LogRecord) -> bool:
        return threading.current_thread().name != WARM_UP

    # Streamlit's caches say that no visitor is there, which is so
    logging.getLogger("streamlit.runtime.scriptrunner_utils.script_run_context").addFilter(of_another_thread)
    chosen = toolkit.Settings()
    with contextlib.suppress(FacerecError):  # whoever opens the page is told
        toolkit.detector(chosen.detector, chosen.min_face)
        toolkit.gallery_embedder(chosen.model)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
