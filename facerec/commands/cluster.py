"""facerec cluster"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from facerec.commands import common
from facerec.embedders import DEFAULT_MARGIN
from facerec.errors import Exit, UsageError

if TYPE_CHECKING:
    from facerec.stages.cluster import ClusterReport

HELP = "photos of unknown people → clusters/, a folder a person; names and edits hold for the next run"
EXAMPLES = """\
facerec cluster photos/                           → clusters/person_001/ …, noise/, contact_sheet.png
facerec cluster --rename person_003 Ana           it is Ana, also when there are more photos
facerec cluster --merge Ana person_007            the two are one person
facerec cluster --split Ana                       in two, where they were joined last
facerec cluster --split Ana party_1~2 party_7     these faces are somebody else
facerec cluster --split noise party_3~1           and this one is somebody: a cluster of its own
facerec cluster --undo                            take the last of these back; again: the one before

To go on, put the photos of Ana (clusters.json says which they are) into raw_images/Ana/, then facerec detect; or
enrol her faces: facerec enroll Ana clusters/Ana/*.png"""

_LISTED = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("folder", nargs="?", type=Path, help="photos, flat or nested; leave it out to edit")
    parser.add_argument("--output", type=Path, default=Path("clusters"), help="default: %(default)s")
    edits = parser.add_mutually_exclusive_group()
    edits.add_argument("--rename", nargs=2, metavar=("OLD", "NEW"), help="give a cluster a name")
    edits.add_argument("--merge", nargs="+", metavar="NAME", help="make clusters one, under the first name")
    edits.add_argument(
        "--split",
        nargs="+",
        metavar=("NAME", "FACE"),
        help="move faces to a cluster of their own (default: the part that was joined last)",
    )
    edits.add_argument("--undo", action="store_true", help="take the last edit back")
    parser.add_argument(
        "--threshold",
        type=common.distance,
        metavar="D",
        help="largest mean distance of a person's faces (default: measured for the model; an edit: the last run's)",
    )
    parser.add_argument(
        "--min-size",
        type=common.positive,
        metavar="N",
        help="fewer faces are noise (default: 2; likewise), as faces that are too small or blurred to tell",
    )
    common.add_detector_arguments(parser, "all")
    common.add_embedder_arguments(parser)
    common.add_run_arguments(parser, jobs=True)


def run(args: argparse.Namespace) -> Exit:
    """Clusters a folder, or edits the clusters that there are."""
    from facerec.stages import cluster

    edits = args.rename or args.merge or args.split or args.undo
    if bool(edits) == (args.folder is not None):
        raise UsageError(
            "give a folder of photos, or an edit", "facerec cluster photos/, or --rename OLD NEW and so on"
        )
    report = _edit(args) if edits else _cluster(args)
    state = report.state
    faces = sum(len(f) for f in state.clusters.values())
    lines = [f"  {report.edit}"] if report.edit else []
    lines += [f"  {len(state.clusters)} people with {faces} faces, {len(state.noise)} faces of nobody"]
    lines += [f"  {len(f):4d}  {args.output / name}/" for name, f in list(state.clusters.items())[:_LISTED]]
    if len(state.clusters) > _LISTED:
        lines.append(f"  … and {len(state.clusters) - _LISTED} more")
    return common.finish(report, args.json, [*lines, f"  {args.output / cluster.SHEET}"])


def _cluster(args: argparse.Namespace) -> ClusterReport:
    from facerec import runtime
    from facerec.embedders import load_embedder
    from facerec.stages.cluster import MIN_SIZE, cluster
    from facerec.stages.common import require_folder
    from facerec.types import Crop

    require_folder(args.folder, "give a folder with photos")
    return cluster(
        args.folder,
        args.output,
        detector=common.make_detector(args, threads=1),
        embedder=load_embedder(args.embedder, model=args.model, crop=Crop(DEFAULT_MARGIN), threads=1),
        faces=args.faces,
        min_face=args.min_face,
        min_confidence=args.min_confidence,
        threshold=args.threshold,
        min_size=args.min_size or MIN_SIZE,
        jobs=args.jobs or runtime.cpu_count(),
        cluster=args.cluster,
        force=args.force,
        strict=args.strict,
        progress=common.bar,
    )


def _edit(args: argparse.Namespace) -> ClusterReport:
    from facerec.stages import cluster

    if args.undo:
        return cluster.undo(args.output, args.threshold, args.min_size)

    def change(state: cluster.State) -> cluster.Edit:
        if args.rename:
            return cluster.rename(state, *args.rename)
        if args.merge:
            return cluster.merge(state, args.merge)
        return cluster.split(args.output, state, args.split[0], args.split[1:])

    return cluster.edit(args.output, change, args.threshold, args.min_size)
