"""The only code that decodes, orients, crops and encodes pictures."""

from __future__ import annotations

import contextlib
import io
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from facerec import stores
from facerec.errors import FacerecError, InputError
from facerec.scratch import Names, packed
from facerec.types import Crop, Face, FaceChoice, Image

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
    | {".avif", ".heic", ".heif"}  # where Pillow cannot read them, they are reported, never passed over
)

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "AVIF", "HEIF")
"""What a picture is believed to be by its content: others start programs (EPS starts Ghostscript)."""
MAX_PIXELS, MAX_SIDE = 120_000_000, 32_000  # OpenCV's remap ends at 32767
"""Larger pictures are refused before they are decoded: a small file can claim terabytes."""
MAX_SHRINK = 0.5  # beyond, taking each pixel from its four neighbours leaves out others
CAMERA_BITS = 8, 10, 12, 14, 16  # of a grey value, in files of 16 or 32

# Where the five keypoints of a frontal face stand in a 112×112 picture (InsightFace's ArcFace template).
_TEMPLATE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def path_below(source: str, folders: Iterable[Path]) -> Path | None:
    """A file that a file names, in the first of the folders that it lies in; None where it is in none.

    What leads out of the folders is not followed: the file may be somebody else's.
    """
    for folder in folders:
        path = folder / source
        if path.is_file() and folder.resolve() in path.resolve().parents:
            return path
    return None


def read_below(source: str, folders: Iterable[Path]) -> Image | None:
    """A picture that a file names, as `path_below` finds it; None where none can be read."""
    if path := path_below(source, folders):
        with contextlib.suppress(InputError):
            return read_image(path)
    return None


def natural_key(path: Path | str) -> bytes:
    """Sort key that puts frame_2 before frame_10: the words between numbers, and the numbers after their lengths."""
    parts = re.split(r"(\d+)", str(path))
    numbers = (str(int(part)).encode() for part in parts[1::2])
    words = (packed(part) + b"\0" for part in parts[::2])
    return next(words) + b"".join(len(n).to_bytes(4) + n + word for n, word in zip(numbers, words, strict=True))


def is_image(path: Path) -> bool:
    """Whether the name is that of a picture (hidden files are not)."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def walk_files(folder: Path, wanted: Callable[[Path], bool]) -> Iterator[Path]:
    """Files below `folder` whose names are `wanted`, in no order; in memory is one folder at a time.

    Follows links to folders, each folder once; takes links that lead nowhere too, so that they are
    reported; passes over what is hidden, and over pipes and devices.

    Raises:
        FacerecError: a folder, or a link that may be one to a folder, leads to nothing that can be read: what was made
            of the files in it would be taken for that of files that are gone.
    """

    def unreadable(error: OSError) -> None:
        what = f"{error.filename} cannot be read ({error.strerror})"
        raise FacerecError(what, "check its permissions and its disk, or move it away") from error

    if stores.in_store(folder):
        yield from filter(wanted, (folder / name for name in stores.names(folder)))
        return
    with contextlib.closing(Names()) as seen:
        for top, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
            here = Path(top)
            if not seen.add(str(here.resolve())):
                folders.clear()
                continue
            folders[:] = [name for name in folders if not name.startswith(".")]
            for path in (here / name for name in files if not name.startswith(".")):
                if wanted(path):
                    if path.is_file() or not path.exists():
                        yield path
                elif path.is_symlink() and not path.exists():
                    raise FacerecError(f"the link {path} leads nowhere", "mount the disk it leads to, or remove it")


def find_files(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """`walk_files` in natural order."""
    return sorted(walk_files(folder, wanted), key=natural_key)


def find_images(folder: Path) -> list[Path]:
    """All pictures below `folder`, as `find_files` finds them."""
    return find_files(folder, is_image)


def decode_image(data: bytes, most: int = MAX_PIXELS) -> Image:
    """Bytes of any common format → (h, w, 3) uint8 RGB, upright (EXIF orientation applied).

    Grayscale, palette, alpha (on white), 16-bit, floating-point and CMYK pictures are converted.

    Args:
        data: the file.
        most: pixels that are taken.

    Raises:
        InputError: not a picture, truncated, larger than `most`, or with a side longer than `MAX_SIDE`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning; ours is stricter
            picture = _opened(data)
            if picture.width * picture.height > most or max(picture.size) > MAX_SIDE:
                raise InputError(f"too large: {picture.width}×{picture.height} pixels", "make it smaller")
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I") or picture.mode == "F":
                values = np.nan_to_num(np.asarray(picture, np.float32), posinf=0, neginf=0)
                whites = (1.0, *(2.0**bits - 1 for bits in CAMERA_BITS))  # a picture does not say which
                white = next((white for white in whites if values.max() <= white), values.max())
                picture = Pillow.fromarray((np.clip(values / white, 0, 1) * 255).astype(np.uint8))
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                ground = Pillow.new("RGBA", picture.size, "white")
                picture = Pillow.alpha_composite(ground, picture)
            return np.ascontiguousarray(picture.convert("RGB"))
    except InputError:
        raise
    except Pillow.DecompressionBombError:
        raise InputError("too large", "make it smaller") from None
    except UnidentifiedImageError:
        raise InputError("not a picture that can be read", "check the file, or convert it to JPEG") from None
    except Exception as error:  # decoders raise anything at all on damaged files
        raise InputError(f"damaged picture ({error})", "copy or export it again") from None


def _opened(data: bytes) -> Pillow.Image:
    try:
        return Pillow.open(io.BytesIO(data), formats=FORMATS)
    except KeyError:  # one of them is not known here
        return Pillow.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Pillow.OPEN])


def read_image(path: Path) -> Image:
    """Reads a picture as (h, w, 3) uint8 RGB, upright. Any file name works on any system.

    Raises:
        InputError: unreadable, not a picture, truncated or too large; the caller says which file.
    """
    return decode_image(read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """A regular file's bytes, or an `InputError` that says why not."""
    try:
        if not stores.in_store(path) and path.exists() and not path.is_file():
            raise InputError("not a regular file", "give a picture")
        data = stores.read(path) if stores.in_store(path) else path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", "check the path and permissions") from None
    if not data:
        raise InputError("the file is empty", "copy it again")
    return data


def encode_image(image: Image, suffix: str) -> bytes:
    """RGB → PNG (lossless) or JPEG (quality 95) bytes, by the suffix."""
    if suffix.lower() in (".jpg", ".jpeg"):
        ok, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    else:
        # run lengths: of faces the same size as zlib's search for matches, in half the time
        ok, data = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE])
    if not ok:
        raise InputError(f"a picture of shape {image.shape} cannot be encoded as {suffix}")
    return data.tobytes()


def choose_faces(faces: list[Face], choice: FaceChoice, shape: tuple[int, ...]) -> list[Face]:
    """The faces that a stage goes on with: ``all``, or the ``largest`` or most ``central`` one.

    Args:
        faces: what the detector found.
        choice: which of them.
        shape: (h, w, …) of the image.
    """
    if choice == "all" or len(faces) < 2:
        return faces
    if choice == "largest":
        return [max(faces, key=lambda f: (f.box[2] - f.box[0]) * (f.box[3] - f.box[1]))]
    cx, cy = shape[1] / 2, shape[0] / 2
    return [min(faces, key=lambda f: np.hypot((f.box[0] + f.box[2]) / 2 - cx, (f.box[1] + f.box[3]) / 2 - cy))]


def crop_face(image: Image, face: Face, crop: Crop, size: int) -> Image:
    """Cuts a face out of its photograph.

    Args:
        image: RGB.
        face: with keypoints, where ``crop.aligned``.
        crop: margin and shape.
        size: side of the result, pixels.

    Returns:
        (size, size, 3) uint8 RGB.

    Raises:
        InputError: an aligned crop of a face without keypoints, or a face outside the image.
    """
    if crop.aligned:
        if face.keypoints is None:
            raise InputError("this detector finds no keypoints to align by", "choose a crop that is not aligned")
        template = (_TEMPLATE_112 - 56) / (1 + 2 * crop.margin) * (size / 112) + size / 2
        matrix = similarity(np.asarray(face.keypoints, np.float64), template)
        if np.hypot(*matrix[:, 0]) < MAX_SHRINK:
            image, matrix = _shrunk(image, matrix, size)
        return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR).astype(np.uint8)
    h, w = image.shape[:2]
    x1, y1, x2, y2 = face.box
    bw, bh = x2 - x1, y2 - y1
    if crop.square:
        side = max(bw, bh)
        x1, x2 = x1 - (side - bw) / 2, x2 + (side - bw) / 2
        y1, y2 = y1 - (side - bh) / 2, y2 + (side - bh) / 2
        bw = bh = side
    left, right = round(max(x1 - crop.margin * bw, 0)), round(min(x2 + crop.margin * bw, w))
    top, bottom = round(max(y1 - crop.margin * bh, 0)), round(min(y2 + crop.margin * bh, h))
    if right - left < 2 or bottom - top < 2:
        raise InputError("the face lies outside the picture")
    patch = image[top:bottom, left:right]
    shrinks = patch.shape[0] >= size and patch.shape[1] >= size
    return cv2.resize(patch, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR).astype(
        np.uint8
    )


def _shrunk(image: Image, matrix: npt.NDArray[np.float64], size: int) -> tuple[Image, npt.NDArray[np.float64]]:
    """What a similarity (2, 3) maps to a square, averaged to its scale, and the similarity that is left to do."""
    around = np.array([[-1, -1], [size, -1], [-1, size], [size, size]], np.float64)  # neighbours of the outermost too
    inside = cv2.transform(around[None], cv2.invertAffineTransform(matrix))[0]
    limits = np.array(image.shape[1::-1])
    low = np.clip(np.floor(inside.min(0)), 0, limits - 1).astype(int)
    high = np.clip(np.ceil(inside.max(0)) + 1, low + 1, limits).astype(int)
    sides = np.maximum(np.rint((high - low) * np.hypot(*matrix[:, 0])), 1).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    share = sides / (high - low)
    turn = matrix[:, :2] / share
    move = matrix[:, 2] + matrix[:, :2] @ (low + 0.5 / share - 0.5)  # pixels' middles stay in place
    return cv2.resize(part, sides.tolist(), interpolation=cv2.INTER_AREA).astype(np.uint8), np.c_[turn, move]


def similarity(source: npt.NDArray[np.float64], target: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Least-squares similarity transform (2, 3) from `source` (n, 2) to `target` (n, 2).

    Umeyama, "Least-squares estimation of transformation parameters", PAMI 1991, eq. 40-43.
    """
    mean_s, mean_t = source.mean(0), target.mean(0)
    s, t = source - mean_s, target - mean_t
    u, d, vt = np.linalg.svd(t.T @ s / len(s))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * sign) @ vt
    scale = (d * sign).sum() / (s**2).sum(1).mean()
    return np.hstack([scale * rotation, (mean_t - scale * rotation @ mean_s)[:, None]])


def thumbnail(image: Image) -> npt.NDArray[np.float32]:
    """(32, 32) float32 grey miniature in 0..255, to compare frames by."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)


def sharpness(image: Image) -> float:
    """Variance of the Laplacian of the grey picture at 480 pixels height (higher = sharper).

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if grey.shape[0] > 480:
        grey = cv2.resize(grey, (round(grey.shape[1] * 480 / grey.shape[0]), 480), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def stack_crops(crops: Iterable[Image], size: int) -> npt.NDArray[np.uint8]:
    """Crops of one size → (n, size, size, 3) uint8; n = 0 is allowed."""
    rows = list(crops)
    return np.stack(rows) if rows else np.empty((0, size, size, 3), np.uint8)
