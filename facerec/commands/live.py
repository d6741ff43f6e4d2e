"""facerec live"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facerec import paths
from facerec.commands import common
from facerec.embedders import EMBEDDERS
from facerec.errors import Exit, FacerecError, InputError, UsageError

if TYPE_CHECKING:
    from facerec.classify import Classifier
    from facerec.galleries import Gallery
    from facerec.recognizer import Recognizer

HELP = "a camera or a video file: faces named as it runs"
EXAMPLES = """\
facerec live --camera 0
facerec live --camera 0 --greet               "Hello Ana", once a visit
facerec live party.mp4 --headless --output named.mp4
facerec live party.mp4 --headless --json      a line of JSON when a face appears, is named, leaves; a summary"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("video", nargs="?", type=Path, help="a video file instead of a camera")
    parser.add_argument("--camera", metavar="N", help="number of the camera, or a stream's address")
    common.add_names_arguments(parser)
    parser.add_argument("--headless", action="store_true", help="no window")
    parser.add_argument("--output", type=Path, metavar="FILE.mp4", help="write the annotated video there")
    parser.add_argument("--json", action="store_true", help="a line of JSON an event, and a summary")
    parser.add_argument("--greet", action="store_true", help="say hello by name, once a person and visit")
    parser.add_argument("--realtime", action="store_true", help="play a file at its own speed")
    parser.add_argument(
        "--step", type=common.positive, metavar="K",
        help="look for faces in every K-th frame (default: what the machine can do)",
    )  # fmt: skip
    common.add_detector_arguments(parser, None, choose=False)
    parser.add_argument("--embedder", choices=EMBEDDERS, default=EMBEDDERS[0], help="engine (default: %(default)s)")
    parser.set_defaults(min_face=40)


def run(args: argparse.Namespace) -> Exit:
    """Opens the source and runs until it ends."""
    if (args.video is None) == (args.camera is None):
        raise UsageError("one source is needed", "facerec live --camera 0, or facerec live party.mp4")
    if args.output and args.output.suffix.lower() != ".mp4":
        raise UsageError(f"{args.output} is not an .mp4 file", "name the output FILE.mp4")

    from facerec.desk import Desk, Known
    from facerec.follower import Follower
    from facerec.galleries import open_gallery
    from facerec.greet import Greeter
    from facerec.live import live
    from facerec.stages.learn import Learner
    from facerec.stages.names import Watch, names_of, of_nobody
    from facerec.video import Camera, Video, VideoWriter, ahead, realtime
    from facerec.window import Window

    if args.video and args.output and args.video.resolve() == args.output.resolve():
        raise UsageError(f"{args.output} is the video itself", "choose another --output")
    window = None if args.headless else Window("facerec live")
    given = args.classifier or args.gallery
    alone = window is not None and not given and paths.names() is None  # the window can name the first person
    by = paths.GALLERY if alone else given or common.newest_names()
    if by in (args.gallery, paths.GALLERY):
        args.gallery, args.classifier = by, None
    else:
        args.classifier = by
    gallery = open_gallery(args.gallery or paths.GALLERY)
    watched = open_gallery(args.classifier or gallery.where)
    state = watched.state()
    recognizer = _knows_nobody(args) if alone else common.make_recognizer(args, "all")

    def read(gallery: Gallery) -> Classifier:
        if args.classifier:
            return common.load_names(args)
        return names_of(gallery, args.by, common.euclidean(args), args.gate_margin, index=args.index, nobody=True)

    try:
        source: Video | Camera = Video(args.video) if args.video else common.open_camera(args.camera)
    except InputError as error:
        raise FacerecError(f"{args.video}: {error.what}", error.cure) from None
    fps = source.fps if isinstance(source, Video) else 15.0
    follower = Follower(recognizer, args.step, rate=fps if isinstance(source, Video) else 25.0)
    gate = recognizer.classifier.gate
    watch = Watch(watched, read, state, of_nobody(recognizer.embedder, gate.threshold, gate.margin))
    learner = Learner(follower, gallery, args.by, watch, args.classifier)
    known = Known(learner.name, learner.save, learner.load)
    desk = Desk(window, known, paths.SNAPSHOTS) if window else None
    if isinstance(source, Video):
        pictures = ahead(source.frames())
    else:
        pictures = source.frames(desk.idle) if desk else source.frames()
    with source, contextlib.closing(learner), contextlib.closing(pictures) as frames:
        report = live(
            realtime(frames) if args.realtime else frames,
            follower,
            desk=desk,
            writer=VideoWriter(args.output, fps) if args.output else None,
            greeter=Greeter() if args.greet else None,
            event=_print_event if args.json else lambda event: None,
            refresh=learner.refresh,
        )
    if args.json:
        common.print_json(report.to_json())
    else:
        names = (
            ", ".join(f"{name} in {n}" for name, n in sorted(report.names.items(), key=lambda x: -x[1]))
            or "nobody named"
        )
        rate = report.frames / max(report.seconds, 1e-9)
        print(f"live: {report.frames} frames, {rate:.1f} a second, {report.tracks} faces followed; {names}")
        if args.output:
            print(args.output, file=sys.stderr)
    if report.interrupted:
        return Exit.INTERRUPTED
    if report.frames == 0:
        raise FacerecError("not one frame came", "is the camera used by another program, or the file damaged?")
    if isinstance(source, Camera) and source.lost:
        raise FacerecError(f"camera {args.camera} stopped", "plug it in again, then start again")
    if isinstance(source, Video) and source.cut_off:
        print(f"  failed: {args.video}: {source.cut_off}", file=sys.stderr)
        return Exit.SOME_FAILED
    return Exit.OK


def _knows_nobody(args: argparse.Namespace) -> Recognizer:
    from facerec import runtime
    from facerec.embedders import DEFAULT_MARGIN, load_embedder
    from facerec.recognizer import Recognizer
    from facerec.stages.names import of_nobody
    from facerec.types import Crop

    common.say("nobody is known yet: press n to name a face")
    threads = runtime.cpu_count()
    embedder = load_embedder(args.embedder, crop=Crop(DEFAULT_MARGIN), threads=threads)
    classifier = of_nobody(embedder, common.euclidean(args), args.gate_margin)
    return Recognizer(common.make_detector(args, threads), embedder, classifier)


def _print_event(event: dict[str, Any]) -> None:
    common.print_json(event)
