"""facerec live"""

from __future__ import annotations

import argparse
import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facerec.commands import common
from facerec.embedders import EMBEDDERS
from facerec.errors import Exit, FacerecError, InputError, UsageError

if TYPE_CHECKING:
    from facerec.follower import Follower
    from facerec.tracking import Track
    from facerec.types import Image

HELP = "a camera or a video file: faces named as it runs"
EXAMPLES = """\
facerec live --camera 0
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

    from facerec.follower import Follower
    from facerec.live import live
    from facerec.video import Camera, Video, ahead, realtime
    from facerec.window import Window

    if args.video and args.output and args.video.resolve() == args.output.resolve():
        raise UsageError(f"{args.output} is the video itself", "choose another --output")
    window = None if args.headless else Window("facerec live")
    recognizer = common.make_recognizer(args, "all")

    def say(text: str) -> None:
        print(f"facerec: {text}", file=sys.stderr, flush=True)

    try:
        if args.video:
            source: Video | Camera = Video(args.video)
        else:
            source = Camera(int(args.camera) if args.camera.isdigit() else args.camera, say)
    except InputError as error:
        raise FacerecError(f"{args.video or f'camera {args.camera}'}: {error.what}", error.cure) from None
    fps = source.fps if isinstance(source, Video) else 15.0
    follower = Follower(recognizer, args.step, rate=fps if isinstance(source, Video) else 25.0)
    with source, contextlib.closing(ahead(source.frames()) if args.video else source.frames()) as frames:
        report = live(
            realtime(frames) if args.realtime else frames,
            follower,
            fps=fps,
            window=window,
            output=args.output,
            event=_print_event if args.json else lambda event: None,
            name=partial(enroll_track, follower, args.gallery or common.GALLERY),
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


def _print_event(event: dict[str, Any]) -> None:
    common.print_json(event)


def enroll_track(follower: Follower, gallery: Path, name: str, image: Image, track: Track) -> str:
    """Adds a track's face to the gallery and to the people that are recognised; returns what came of it."""
    from dataclasses import replace

    from facerec import gallery as galleries
    from facerec.classify import Classifier
    from facerec.images import crop_face
    from facerec.quality import TO_ENROLL, assess
    from facerec.stages.enroll import gallery_rows, require_name

    recognizer = follower.recognizer
    embedder, photos = recognizer.embedder, recognizer.classifier.photos
    crop = crop_face(image, track.face, embedder.space.crop, embedder.input_size)
    quality = assess(track.face, crop)
    # Some of OpenCV's windows know no capitals: who is enrolled keeps the spelling, who is new gets them.
    spelled = {person.casefold(): person for person in photos.people}
    name = spelled.get(name.casefold(), name.title() if name.islower() else name)
    try:
        require_name(name)
        if problems := quality.problems(TO_ENROLL):
            raise InputError(problems[0], "try again with a better view")
        rows = gallery_rows(name, [("live", crop, quality)], gallery, embedder, recognizer.detector.name)
        galleries.add(gallery, photos + rows)  # those who are known already too: the gallery is the newest from now on
    except (FacerecError, InputError) as error:
        return f"{name} is not added: {error}"
    known = Classifier.of_gallery("nearest", photos + rows, recognizer.classifier.gate)
    follower.recognizer = replace(recognizer, classifier=known)
    track.rename(name)
    return f"{name} is added to {gallery}"
