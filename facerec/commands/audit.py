"""facerec audit"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from facerec import paths
from facerec.commands import common
from facerec.errors import Exit, UsageError

if TYPE_CHECKING:
    from facerec.audit import Finding
    from facerec.draw import Colour
    from facerec.galleries import Gallery
    from facerec.types import Embeddings, Image

    Crop = Callable[[str], Image | None]

HELP = "labels that look wrong: one person under two names, two under one, stray and doubled photos"
EXAMPLES = """\
facerec audit                           embeddings/gallery.npz, or else embeddings/faces.npz
facerec audit embeddings/faces.npz --photos 5
facerec audit --lookalikes Ana Bea      Ana is not Bea: not reported again, and a wider margin between them
facerec audit --not-lookalikes Ana Bea  withdraws it"""

_COLUMNS, _SHOWN, _LISTED = 8, 25, 4  # tiles and findings of the sheet; photos named in the text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("file", nargs="?", type=Path, help=f"default: {paths.GALLERY}, or else {paths.EMBEDDINGS}")
    source.add_argument("--gallery", type=common.gallery, metavar="FILE", help="the same, or postgresql://…")
    parser.add_argument("--photos", type=common.positive, default=3, metavar="N", help="needed (default: %(default)s)")
    parser.add_argument(
        "--threshold", type=common.distance, metavar="D", help="of one person's photos (default: the gate's)"
    )
    parser.add_argument("--processed", type=Path, default=paths.PROCESSED, help="crops (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("audit/contact_sheet.png"), help="of the photos (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    pair = parser.add_mutually_exclusive_group()
    pair.add_argument("--lookalikes", nargs=2, metavar=("A", "B"), help="declare that A is not B, and do no more")
    pair.add_argument("--not-lookalikes", nargs=2, metavar=("A", "B"), help="withdraw that, and do no more")


def run(args: argparse.Namespace) -> Exit:
    """Prints the findings and draws their photos; or declares look-alikes."""
    from facerec.audit import KINDS, audit
    from facerec.galleries import open_gallery, picture
    from facerec.stages.common import canonical
    from facerec.stages.train import default_gate

    where = args.gallery or args.file or (paths.GALLERY if paths.GALLERY.exists() else paths.EMBEDDINGS)
    gallery = open_gallery(where)
    if pair := args.lookalikes or args.not_lookalikes:
        return _declare(gallery, *map(canonical, pair), withdraw=args.lookalikes is None, as_json=args.json)
    if args.output.suffix.lower() not in (".png", ".jpg"):
        raise UsageError(f"{args.output} is no .png or .jpg", "choose another --output")
    embeddings = gallery.load()
    threshold = default_gate(embeddings, args.threshold).threshold
    named = _with_originals(embeddings, args.processed)
    findings = audit(named, threshold, args.photos)
    missing = _draw(findings, embeddings, lambda source: picture(source, gallery, args.processed), args.output)
    drawn = missing is not None
    if args.json:
        report = {
            "file": str(gallery),
            "photos": len(embeddings),
            "people": len(embeddings.people),
            "threshold": threshold,
            "findings": [finding.to_json(embeddings) for finding in findings],
            "lookalikes": embeddings.lookalikes,
            "sheet": str(args.output) if drawn else None,
            "missing_pictures": missing or [],
        }
        common.print_json(report)
        return Exit.OK
    _print(findings, named)
    count = f"{len(findings)} finding{'' if len(findings) == 1 else 's'}"
    print(f"audit: {count} in {len(embeddings)} photos of {len(embeddings.people)} people ({gallery})")
    if any(finding.kind == KINDS[0] for finding in findings):
        print(f"  who are two: facerec audit {shlex.quote(str(gallery))} --lookalikes A B")
    if embeddings.lookalikes:
        print("  declared look-alikes: " + "; ".join(f"{a} and {b}" for a, b in embeddings.lookalikes))
    if missing:
        print(f"  {len(missing)} pictures are missing, the first is {missing[0]}; --processed names their folder")
    if drawn:
        print(f"  {args.output}")
    return Exit.OK


def _with_originals(embeddings: Embeddings, processed: Path) -> Embeddings:
    """With the photos as sources that the crops were cut out of: those are the user's to move or remove."""
    import numpy as np

    from facerec.manifests import read_manifest

    photo = {output["path"]: record.input for record in read_manifest(processed) for output in record.outputs}
    sources = np.array([photo.get(source, source) for source in embeddings.sources.tolist()], np.str_)
    return replace(embeddings, sources=sources)


def _declare(gallery: Gallery, first: str, second: str, *, withdraw: bool, as_json: bool) -> Exit:
    from facerec.galleries.people import tell_apart

    pairs = tell_apart(gallery, first, second, withdraw=withdraw)
    if as_json:
        common.print_json({"file": str(gallery), "lookalikes": pairs})
    else:
        verb = "no longer declared look-alikes" if withdraw else "declared look-alikes: they are two people"
        print(f"audit: {first} and {second} are {verb} ({gallery})")
        print(f"  declared: {'; '.join(f'{a} and {b}' for a, b in pairs) or 'nobody'}")
        print("  a classifier knows it after the next `facerec train`")
    return Exit.OK


def _print(findings: list[Finding], embeddings: Embeddings) -> None:
    """By kind, numbered as on the contact sheet."""
    kind = ""
    for number, finding in enumerate(findings, 1):
        if finding.kind != kind:
            kind = finding.kind
            print(f"{kind} ({sum(f.kind == kind for f in findings)})")
        print(f"  {number}. {finding.text}: {finding.advice}")
        for group in finding.photos:
            names = [str(embeddings.sources[i]) for i in group[:_LISTED]]
            more = f" and {len(group) - _LISTED} more" if len(group) > _LISTED else ""
            print(f"       {', '.join(names)}{more}")


def _draw(findings: list[Finding], embeddings: Embeddings, crop: Crop, output: Path) -> list[str] | None:
    """Draws a row of photos a finding; returns which pictures could not be read, or None if there is no sheet."""
    from facerec.artifacts import write_image
    from facerec.audit import KINDS
    from facerec.draw import contact_sheet

    shown = [(number, f) for number, f in enumerate(findings, 1) if f.kind != KINDS[-1]]
    if not shown:
        if output.is_file():  # an earlier one would be taken for this run's
            output.unlink()
        return None
    missing: list[str] = []
    tiles = [tile for number, finding in shown[:_SHOWN] for tile in _row(number, finding, embeddings, crop, missing)]
    title = f"{min(len(shown), _SHOWN)} of {len(shown)} findings with photos; numbers as in the text"
    write_image(output, contact_sheet(tiles, _COLUMNS, 120, 120, title))
    return missing


def _row(
    number: int, finding: Finding, embeddings: Embeddings, crop: Crop, missing: list[str]
) -> Iterator[tuple[Image, str, Colour]]:
    """A finding's tiles: as many of each group as fit side by side, each group in a colour, the rest left white."""
    import numpy as np

    from facerec.draw import BLUE, GREEN, ORANGE, WHITE

    left, columns = _COLUMNS, 0
    for k, (group, colour) in enumerate(zip(finding.photos, (ORANGE, BLUE, GREEN), strict=False)):
        room = left // (len(finding.photos) - k)
        for row in group[:room]:
            image = crop(str(embeddings.sources[row]))
            if image is None:
                missing.append(str(embeddings.sources[row]))
            label = f"{number}. {embeddings.labels[row]}" if not columns else str(embeddings.labels[row])
            yield np.full((120, 120, 3), 225, np.uint8) if image is None else image, label, colour
            columns += 1
        left -= min(len(group), room)
    for _ in range(columns, _COLUMNS):
        yield np.full((120, 120, 3), 255, np.uint8), "", WHITE
