"""The command line: parsing, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import argparse
import gc
import io
import logging
import os
import signal
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import NoReturn, TextIO

from facerec import __version__
from facerec.commands import (
    app,
    audit,
    blur,
    calibrate,
    capture,
    cluster,
    detect,
    embed,
    enroll,
    evaluate,
    explain,
    extract,
    finetune,
    forget,
    gallery,
    live,
    models,
    people,
    predict,
    rename,
    show,
    train,
    verify,
)
from facerec.errors import Exit, FacerecError, UsageError

COMMANDS = {
    "capture": capture,
    "extract": extract,
    "detect": detect,
    "show": show,
    "embed": embed,
    "train": train,
    "predict": predict,
    "live": live,
    "app": app,
    "blur": blur,
    "verify": verify,
    "explain": explain,
    "enroll": enroll,
    "people": people,
    "rename": rename,
    "forget": forget,
    "gallery": gallery,
    "audit": audit,
    "calibrate": calibrate,
    "evaluate": evaluate,
    "cluster": cluster,
    "finetune": finetune,
    "models": models,
}

_DESCRIPTION = """\
From a folder of videos or photos to a face recogniser you can trust. Each stage writes a folder
that you can open and look at:

  videos/ ──extract──► raw_images/ ──detect──► processed/ ──embed──► embeddings/ ──train──► classifiers/
                                                            img.jpg ──predict──► names ◄───────┘"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("facerec", description=_DESCRIPTION, formatter_class=raw, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"facerec {__version__}")
    parser.set_defaults(verbose=False)  # else a command would undo what stands before it
    _add_verbose(parser)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        examples = "examples:\n" + textwrap.indent(module.EXAMPLES, "  ")
        sub = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=examples,
            formatter_class=raw,
            allow_abbrev=False,
        )
        module.add_arguments(sub)
        for each in (sub, *_below(sub)):
            _add_verbose(each)
    return parser


def _add_verbose(parser: argparse.ArgumentParser) -> None:
    """-v, which counts wherever it stands."""
    text = "say which engine, model and settings are used"
    parser.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help=text)


def _below(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A command's own commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def entry() -> NoReturn:
    """What the ``facerec`` command runs: `main`, then an exit that does not wait for threads.

    A service manager's SIGTERM, and SIGHUP when the terminal is closed, end a command as Ctrl-C does: with its files
    closed.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_DFL:  # under nohup it is ignored
            signal.signal(number, signal.default_int_handler)
    code = main()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # a full disk, of which `main` has told
            _discard(stream)
    if code in (Exit.ERROR, Exit.INTERRUPTED):
        os._exit(code)  # workers may still be inside native code, which aborts when it is unwound
    gc.freeze()  # the process ends: no last search for cycles among scikit-learn's objects, 0.15 s
    sys.exit(code)


def _discard(stream: TextIO) -> None:
    """Drops what a stream still holds, and whatever else is written to it: Python's own last flush must not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _debugging() -> bool:
    return os.environ.get("FACEREC_DEBUG", "") not in ("", "0")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; ``FACEREC_DEBUG=1`` shows tracebacks."""
    os.umask(0o077)  # faces are biometric data: what is written is for its owner only
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123 - closed by who started us
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show
    args = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="facerec: %(message)s", stream=sys.stderr)
    logging.getLogger("facerec").setLevel(logging.INFO if args.verbose else logging.WARNING)
    code: Exit | None = None
    try:
        code = COMMANDS[args.command].run(args)
        sys.stdout.flush()
        return code
    except FacerecError as error:
        if _debugging():
            raise
        print(f"facerec: error: {error}", file=sys.stderr)
        return Exit.USAGE if isinstance(error, UsageError) else Exit.ERROR
    except KeyboardInterrupt:
        print("\nfacerec: interrupted; run the same command again to go on", file=sys.stderr)
        return Exit.INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `facerec predict … | head`
        _discard(sys.stdout)
        if code is not None:
            return code
        try:
            print("facerec: stopped before the end, since nobody reads the output any more", file=sys.stderr)
        except OSError:  # with 2>&1
            _discard(sys.stderr)
        return Exit.UNREAD
    except OSError as error:
        if _debugging():
            raise
        where = f"{error.filename}: " if error.filename else ""
        cure = "check the path, its permissions and the disk"
        print(f"facerec: error: {where}{error.strerror or error} — {cure}", file=sys.stderr)
        return Exit.ERROR
