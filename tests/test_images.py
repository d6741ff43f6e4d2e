"""Pictures: decoding of whatever people have, cropping, choosing, comparing."""

import io
import re

import cv2
import numpy as np
import pytest
from conftest import photo, save
from PIL import Image as Pillow

from facerec import images
from facerec.errors import InputError
from facerec.images import (
    _TEMPLATE_112,
    choose_faces,
    crop_face,
    decode_image,
    encode_image,
    find_images,
    natural_key,
    read_below,
    read_image,
    sharpness,
    similarity,
)
from facerec.types import Crop, Face

CORNERS = np.zeros((40, 60, 3), np.uint8)
CORNERS[:20, :30] = (250, 0, 0)  # red upper left, green upper right, blue lower left, black
CORNERS[:20, 30:] = (0, 250, 0)
CORNERS[20:, :30] = (0, 0, 250)


def data_of(picture, form="PNG", **options):
    buffer = io.BytesIO()
    (Pillow.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(buffer, form, **options)
    return buffer.getvalue()


# --- decoding ------------------------------------------------------------------------------------

STORED = {  # orientation → how the upright picture lies in the file
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(orientation, form):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](CORNERS))
    image = decode_image(data_of(stored, form, exif=exif))
    assert image.shape == CORNERS.shape
    assert np.abs(image.astype(int) - CORNERS)[5:-5:10, 5:-5:10].max() < 30


GREY = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (40, 1))
ALPHA = np.dstack([CORNERS, np.full((40, 60), 255, np.uint8)])
ALPHA[30:, 40:, 3] = 0


KINDS = {
    "grey": (data_of(GREY), np.dstack([GREY] * 3)),
    "grey16": (data_of((GREY.astype(np.uint16) << 8) + 77), np.dstack([GREY] * 3)),
    "tiff16": (data_of((GREY.astype(np.uint16) << 8) + 77, "TIFF"), np.dstack([GREY] * 3)),
    "int32": (data_of(GREY.astype(np.int32), "TIFF"), np.dstack([GREY] * 3)),
    "bilevel": (data_of(GREY > 100), np.dstack([(GREY > 100) * 255] * 3)),
    "palette": (data_of(Pillow.fromarray(CORNERS).quantize(8)), CORNERS),
    "gif": (data_of(Pillow.fromarray(CORNERS).quantize(8), "GIF"), CORNERS),
    "alpha": (data_of(ALPHA), np.where(ALPHA[..., 3:] == 0, 255, CORNERS)),
    "grey+alpha": (data_of(np.dstack([GREY, GREY]), "PNG"), None),
    "cmyk": (data_of(Pillow.fromarray(CORNERS).convert("CMYK"), "TIFF"), CORNERS),
    "cmyk-jpeg": (data_of(Pillow.fromarray(CORNERS).convert("CMYK"), "JPEG", quality=95), CORNERS),
    "webp": (data_of(CORNERS, "WEBP", lossless=True), CORNERS),
    "bmp": (data_of(CORNERS, "BMP"), CORNERS),
    "ppm": (data_of(CORNERS, "PPM"), CORNERS),
}


@pytest.mark.parametrize(("data", "expected"), KINDS.values(), ids=KINDS)
def test_every_kind_of_picture_becomes_rgb(data, expected):
    image = decode_image(data)
    assert image.shape == (40, 60, 3) and image.dtype == np.uint8
    if expected is None:  # grey + alpha on white
        a = GREY / 255
        expected = np.dstack([GREY * a + 255 * (1 - a)] * 3)
    assert np.abs(image.astype(float) - expected)[5:-5:10, 5:-5:10].max() <= 8


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_pixel_that_is_no_number_does_not_make_a_picture_black(bad):
    values = GREY.astype(np.float32) / 255
    values[0, 0] = bad
    assert np.abs(decode_image(data_of(values, "TIFF"))[..., 0].astype(int) - GREY)[1:].max() <= 1


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_camera_that_uses_some_of_16_bits_gives_no_dark_picture(bits):
    grey = decode_image(data_of(Pillow.fromarray((GREY.astype(float) / 255 * (2**bits - 1)).astype(np.uint16))))
    assert np.abs(grey[..., 0].astype(int) - GREY).max() <= 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"I am a text, not a picture.\n" * 9, "not a picture"),
        (data_of(photo(1), "JPEG")[:-900], "damaged"),
        (data_of(photo(1))[:700], "damaged"),
        (data_of(photo(1))[:20], ""),
    ],
    ids=["empty file", "text", "cut-off JPEG", "cut-off PNG", "header only"],
)
def test_a_bad_picture_is_an_input_error_that_says_why(tmp_path, content, message):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{message}.* — "):
        read_image(path)


def test_a_missing_picture_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_damaged_bytes_never_raise_anything_but_input_errors(form):
    rng = np.random.default_rng(0)
    exif = Pillow.Exif()
    exif[0x0112] = 6
    whole = np.frombuffer(data_of(photo(2), form, **({} if form in ("GIF", "BMP") else {"exif": exif})), np.uint8)
    refused = 0
    for _ in range(300):
        broken = whole.copy()
        at = rng.integers(0, min(len(whole), rng.choice([60, 400, len(whole)])), 3)
        broken[at] = rng.integers(0, 256, 3)
        try:
            assert decode_image(broken.tobytes()).ndim == 3
        except InputError:
            refused += 1
    assert refused


@pytest.mark.parametrize("side", [11_000, 13_000, 40_000])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(side):
    header = bytearray(data_of(np.zeros((1, 1), np.uint8), "BMP"))
    header[18:26] = side.to_bytes(4, "little") * 2
    with pytest.raises(InputError, match="smaller" if side**2 > images.MAX_PIXELS else "damaged"):
        decode_image(bytes(header))


@pytest.mark.parametrize("name", ["Ünal 李.jpg", "spaces and 'quotes'.PNG", "émoji 🙂.webp"])
def test_any_file_name_can_be_read(tmp_path, name):
    assert read_image(save(tmp_path / "Çağ" / name, CORNERS)).shape == CORNERS.shape


@pytest.mark.parametrize(("suffix", "worst"), [(".png", 0), (".jpg", 12)])
def test_encoding_and_decoding_gives_the_picture_back(suffix, worst):
    smooth = cv2.GaussianBlur(photo(3, [(200, 60, 60)]), (9, 9), 3)
    assert np.abs(decode_image(encode_image(smooth, suffix)).astype(int) - smooth).max() <= worst


# --- finding -------------------------------------------------------------------------------------


def test_images_are_found_below_in_natural_order_without_hidden_ones(tmp_path):
    for name in ("b/10.jpg", "b/2.JPG", "a.png", ".hidden.jpg", ".cache/x.jpg", "b/.x/y.png"):
        save(tmp_path / name, CORNERS)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.jpg").mkdir()
    assert [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)] == [
        "a.png",
        "b/2.JPG",
        "b/10.jpg",
    ]


@pytest.mark.parametrize(
    "names", [["f_1", "f_2", "f_10"], ["2a", "10a", "b"], ["a", "a1", "a1b"], ["1²2", "1²10", "1①1"]]
)
def test_natural_key_orders_numbers_by_value(names):
    assert sorted(reversed(names), key=natural_key) == names


def test_natural_key_compares_words_and_numbers_in_turn():
    rng = np.random.default_rng(3)
    texts = ["".join(rng.choice(list("ab/ .019٣李\udc80"), rng.integers(0, 9))) for _ in range(2000)]

    def parts(text):
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]

    assert sorted(texts, key=natural_key) == sorted(texts, key=parts)


# --- choosing and cropping -----------------------------------------------------------------------

SMALL_CENTRAL, LARGE_ASIDE = Face((45, 45, 55, 55), 0.8), Face((0, 0, 30, 30), 0.9)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("all", [LARGE_ASIDE, SMALL_CENTRAL]),
        ("largest", [LARGE_ASIDE]),
        ("central", [SMALL_CENTRAL]),
    ],
)
def test_choose_faces(choice, expected):
    assert choose_faces([LARGE_ASIDE, SMALL_CENTRAL], choice, (100, 100, 3)) == expected
    assert choose_faces([], choice, (100, 100, 3)) == []


RAMP = np.dstack(np.broadcast_arrays(*np.mgrid[0:200, 0:200], 0)).astype(np.uint8)  # red = y, green = x


@pytest.mark.parametrize(
    ("box", "crop", "expected"),
    [
        ((50, 60, 90, 100), Crop(0), (50, 60, 90, 100)),
        ((50, 60, 90, 100), Crop(0.25), (40, 50, 100, 110)),
        ((50, 60, 70, 100), Crop(0), (50, 60, 70, 100)),
        ((50, 60, 70, 100), Crop(0, square=True), (40, 60, 80, 100)),
        ((50, 60, 70, 100), Crop(0.25, square=True), (30, 50, 90, 110)),
        ((0, 150, 40, 200), Crop(0.5), (0, 125, 60, 200)),
        ((-10, -10, 30, 30), Crop(0), (0, 0, 30, 30)),
    ],
    ids=["plain", "margin", "stretched", "square", "square with margin", "border", "beyond the border"],
)
def test_a_crop_shows_this_part_of_the_picture(box, crop, expected):
    cut = crop_face(RAMP, Face(box, 1), crop, 80).astype(float)
    x1, y1, x2, y2 = expected
    assert cut.shape == (80, 80, 3)
    assert cut[:, 0, 1].mean() == pytest.approx(x1, abs=1.5) and cut[:, -1, 1].mean() == pytest.approx(x2 - 1, abs=1.5)
    assert cut[0, :, 0].mean() == pytest.approx(y1, abs=1.5) and cut[-1, :, 0].mean() == pytest.approx(y2 - 1, abs=1.5)


@pytest.mark.parametrize("box", [(300, 300, 340, 340), (50, 50, 50.4, 90)])
def test_a_face_outside_the_picture_is_an_input_error(box):
    with pytest.raises(InputError, match="outside"):
        crop_face(RAMP, Face(box, 1), Crop(0), 80)


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_an_aligned_crop_puts_the_keypoints_upright_where_the_template_has_them(margin):
    upright = np.array([(38, 52), (74, 52), (56, 72), (42, 92), (71, 92)], float)
    angle = np.deg2rad(30)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (upright - 56) @ turn.T * 0.9 + 100
    image = np.zeros((200, 200, 3), np.uint8)
    for k, (x, y) in enumerate(points):
        cv2.circle(image, (round(x), round(y)), 5, (60 + 40 * k, 0, 0), -1)
    cut = crop_face(image, Face((50, 50, 150, 150), 1, points), Crop(margin, aligned=True), 112)
    for k, (x, y) in enumerate((upright - 56) / (1 + 2 * margin) + 56):
        assert cut[round(y), round(x), 0] == pytest.approx(60 + 40 * k, abs=12)


def test_an_aligned_crop_of_a_large_photo_averages_its_pixels():
    """Of noise nothing is left then; four neighbours alone would keep half of it."""
    points = _TEMPLATE_112 * 8 + 3.5  # the middle of eight pixels
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 1), np.uint8).repeat(3, axis=2)
    face = Face((100, 100, 800, 800), 1, points)
    assert crop_face(noise, face, Crop(0, aligned=True), 112).std() < 20
    clouds = cv2.GaussianBlur(noise, (0, 0), 20)
    clouds = cv2.normalize(clouds, None, 0, 255, cv2.NORM_MINMAX)
    small = cv2.resize(clouds, (125, 125), interpolation=cv2.INTER_AREA)
    expected = crop_face(small, Face((12, 12, 100, 100), 1, (points + 0.5) / 8 - 0.5), Crop(0, aligned=True), 112)
    found = crop_face(clouds, face, Crop(0, aligned=True), 112)
    assert np.abs(found.astype(int) - expected).mean() < 2 < expected.std() / 10
    assert np.abs(found[0].astype(int) - expected[0]).mean() < 4  # nothing black from outside


def test_an_aligned_crop_needs_keypoints():
    with pytest.raises(InputError, match="keypoints"):
        crop_face(RAMP, Face((50, 50, 90, 90), 1), Crop(0, aligned=True), 80)


@pytest.mark.parametrize("seed", range(5))
def test_similarity_recovers_scale_rotation_and_shift(seed):
    rng = np.random.default_rng(seed)
    angle, scale, shift = rng.uniform(-3, 3), rng.uniform(0.2, 5), rng.uniform(-50, 50, 2)
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = rng.uniform(0, 100, (5, 2))
    found = similarity(points, points @ rotation.T + shift)
    np.testing.assert_allclose(found, np.column_stack([rotation, shift]), atol=1e-9)


def test_similarity_never_mirrors():
    points = np.random.default_rng(0).uniform(0, 100, (5, 2))
    assert np.linalg.det(similarity(points, points * [-1, 1])[:, :2]) > 0


def test_a_blurred_picture_is_less_sharp_at_any_size():
    noise = photo(4, height=960)
    assert sharpness(noise) > 3 * sharpness(cv2.GaussianBlur(noise, (9, 9), 3))
    assert images.stack_crops([], 160).shape == (0, 160, 160, 3)


def test_what_leads_out_of_the_folders_is_not_read(tmp_path):
    picture = np.full((8, 8, 3), 90, np.uint8)
    for name in ("crops/ana/1.png", "secret.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), picture)
    (tmp_path / "crops/ana/damaged.png").write_bytes(b"x")
    assert (read_below("ana/1.png", [tmp_path / "none", tmp_path / "crops"]) == picture).all()
    for source in ("../secret.png", str(tmp_path / "secret.png"), "ana/2.png", "ana/damaged.png", "ana"):
        assert read_below(source, [tmp_path / "crops"]) is None


def test_a_picture_that_would_start_a_program_is_refused(tmp_path, monkeypatch):
    started = tmp_path / "started"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {started}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(InputError, match="not a picture"):
        decode_image(eps)
    assert not started.exists()


def test_a_format_that_this_pillow_lacks_hides_no_other(monkeypatch):
    Pillow.init()
    known = {name: opener for name, opener in Pillow.OPEN.items() if name != "AVIF"}
    white = Pillow.new("RGB", (4, 3), "white")
    known["HEIF"] = (lambda file, name: white), (lambda start: start.startswith(b"heif"))
    monkeypatch.setattr(Pillow, "OPEN", known)
    assert decode_image(b"heif, says its plugin").shape == (3, 4, 3)
    with pytest.raises(InputError, match="not a picture"):
        decode_image(b"nothing of the kind")
