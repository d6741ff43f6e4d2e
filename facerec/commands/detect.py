"""facerec detect"""

from __future__ import annotations

import argparse

from facerec import paths, stores
from facerec.commands import common
from facerec.embedders import DEFAULT_MARGIN
from facerec.errors import Exit, FacerecError, UsageError

HELP = "raw_images/NAME/ → processed/{train,test}/NAME/: faces of 160×160"
EXAMPLES = """\
facerec detect                          raw_images/ → processed/
facerec detect photos/ --min-face 60    another folder, large faces only (faster)
facerec detect s3://bucket/raw_images --output s3://bucket/processed    folders in a store
facerec detect group.jpg --json         print the faces of an image, write nothing"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "inputs",
        nargs="*",
        type=common.folder,
        default=[paths.RAW],
        help="a folder with a folder a person (default: raw_images), or images",
    )
    parser.add_argument("--output", type=common.folder, default=paths.PROCESSED, help="default: %(default)s")
    common.add_detector_arguments(parser, None)
    parser.add_argument(
        "--margin",
        type=float,
        default=DEFAULT_MARGIN,
        help="around the face, share of its box (default: %(default)s)",
    )
    parser.add_argument(
        "--test-size", type=float, default=0.3, metavar="SHARE", help="for testing (default: %(default)s)"
    )
    parser.add_argument(
        "--split", choices=("auto", "blocks", "random"), default="auto",
        help="blocks keeps neighbouring frames on one side; auto: blocks for extracted frames, else random",
    )  # fmt: skip
    common.add_run_arguments(parser, jobs=True)


def run(args: argparse.Namespace) -> Exit:
    """Runs the stage on a folder; prints the faces of images."""
    from facerec import runtime

    folders = [path for path in args.inputs if stores.is_folder(path)]
    if missing := [path for path in args.inputs if path != paths.RAW and not stores.exists(path)]:
        raise stores.absent(missing[0], f"there is no {missing[0]}", "give a folder with a folder a person, or images")
    if not folders and args.inputs != [paths.RAW]:
        return _print_faces(args)
    if len(args.inputs) > 1:
        raise UsageError("give one folder, or images", "put the people's folders into one folder")
    from facerec.manifests import read_manifest
    from facerec.stages.detect import GAP, detect
    from facerec.types import Crop

    if not 0 <= args.margin <= 1:
        raise UsageError(f"--margin {args.margin} is not between 0 and 1")
    report = detect(
        args.inputs[0],
        args.output,
        detector=common.make_detector(args, threads=1),
        crop=Crop(args.margin),
        faces=args.faces or "largest",
        min_face=args.min_face,
        min_confidence=args.min_confidence,
        test_size=args.test_size,
        split=args.split,
        jobs=args.jobs or runtime.cpu_count(),
        cluster=args.cluster,
        force=args.force,
        strict=args.strict,
        progress=common.bar,
    )
    kept_out = 0 if args.json else sum(record.split == GAP for record in read_manifest(args.output))
    extra = [f"  {kept_out} kept out, next to a test frame of their video"] if kept_out else []
    return common.finish(report, args.json, extra)


def _print_faces(args: argparse.Namespace) -> Exit:
    from facerec import runtime
    from facerec.errors import InputError
    from facerec.images import choose_faces, read_image

    detector = common.make_detector(args, threads=runtime.cpu_count())
    result = Exit.OK
    for path in args.inputs:
        error, faces = None, []
        try:
            image = read_image(path)
            faces = choose_faces(detector.detect(image), args.faces or "all", image.shape)
        except InputError as failure:
            if args.strict:
                raise FacerecError(f"{path}: {failure.what}", failure.cure) from None
            error, result = str(failure), Exit.SOME_FAILED
        if args.json:
            faces_json = [face.to_json() for face in faces]
            common.print_json({"image": str(path), "error": error, "faces": faces_json})
        elif error:
            print(f"{path}: {error}")
        else:
            print(f"{path}: {len(faces)} face{'' if len(faces) == 1 else 's'}")
            for face in faces:
                x, y, w, h = face.to_json()["box"]
                print(f"  {w:.0f}×{h:.0f} at ({x:.0f}, {y:.0f}), confidence {face.confidence:.3f}")
    return result
