"""facerec live"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from facerec.commands import common
from facerec.embedders import EMBEDDERS
from facerec.errors import Exit, FacerecError, InputError, UsageError

if TYPE_CHECKING:
    from facerec.types import Prediction
    from facerec.video import Frame

HELP = "a camera or a video file: faces named as it runs"
EXAMPLES = """\
facerec live --camera 0
facerec live party.mp4 --headless --output named.mp4
facerec live party.mp4 --headless --json      a line of JSON a frame, a summary at the end"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("video", nargs="?", type=Path, help="a video file instead of a camera")
    parser.add_argument("--camera", metavar="N", help="number of the camera, or a stream's address")
    common.add_names_arguments(parser)
    parser.add_argument("--headless", action="store_true", help="no window")
    parser.add_argument("--output", type=Path, metavar="FILE.mp4", help="write the annotated video there")
    parser.add_argument("--json", action="store_true", help="a line of JSON a frame")
    common.add_detector_arguments(parser, "all")
    parser.add_argument("--embedder", choices=EMBEDDERS, default=EMBEDDERS[0], help="engine (default: %(default)s)")
    parser.set_defaults(min_face=40)


def run(args: argparse.Namespace) -> Exit:
    """Opens the source and runs until it ends."""
    if (args.video is None) == (args.camera is None):
        raise UsageError("one source is needed", "facerec live --camera 0, or facerec live party.mp4")
    if args.output and args.output.suffix.lower() != ".mp4":
        raise UsageError(f"{args.output} is not an .mp4 file", "name the output FILE.mp4")

    from facerec.live import live
    from facerec.video import Camera, Video
    from facerec.window import Window

    def seen(frame: Frame, predictions: list[Prediction]) -> None:
        if args.json:
            line = {
                "event": "frame",
                "frame": frame.index,
                "time": frame.seconds,
                "faces": [p.to_json() for p in predictions],
            }
            common.print_json(line)

    if args.video and args.output and args.video.resolve() == args.output.resolve():
        raise UsageError(f"{args.output} is the video itself", "choose another --output")
    window = None if args.headless else Window("facerec live")
    recognizer = common.make_recognizer(args, args.faces)
    try:
        if args.video:
            source: Video | Camera = Video(args.video)
        else:
            source = Camera(int(args.camera) if args.camera.isdigit() else args.camera)
    except InputError as error:
        raise FacerecError(f"{args.video or f'camera {args.camera}'}: {error.what}", error.cure) from None
    with source:
        fps = source.fps if isinstance(source, Video) else 15.0
        report = live(source.frames(), recognizer, fps=fps, window=window, output=args.output, seen=seen)
    if args.json:
        summary = {"event": "summary", "frames": report.frames, "seconds": round(report.seconds, 3)}
        summary |= {
            "unique_fps": round(report.frames / max(report.seconds, 1e-9), 2),
            "faces": report.faces,
            "names": report.names,
        }
        common.print_json(summary)
    else:
        names = (
            ", ".join(f"{name} in {n}" for name, n in sorted(report.names.items(), key=lambda x: -x[1]))
            or "nobody named"
        )
        rate = report.frames / max(report.seconds, 1e-9)
        print(f"live: {report.frames} frames, {rate:.1f} a second, {report.faces} faces; {names}")
        if args.output:
            print(args.output, file=sys.stderr)
    if report.interrupted:
        return Exit.INTERRUPTED
    if report.frames == 0:
        raise FacerecError("not one frame came", "is the camera used by another program, or the file damaged?")
    if isinstance(source, Video) and source.cut_off:
        print(f"  failed: {args.video}: {source.cut_off}", file=sys.stderr)
        return Exit.SOME_FAILED
    return Exit.OK
