"""Headers against Pillow: `ImageOps.exif_transpose(Image.open(...)).size` for every format and orientation."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zlib
from contextlib import suppress

import pytest
from PIL import Image, ImageOps, features

from resflow import images
from resflow.errors import HeaderError
from resflow.images import HeaderTruncatedError, ImageHeader, read_header
from resflow.images.jpeg import read_frame, segments, without_metadata
from tests.data import DATA
from tests.decode import samples

avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
FORMATS = ["jpeg", "png", "webp", "tiff", pytest.param("avif", marks=avif)]
SIZES = [(1, 1), (7, 3), (3, 7), (640, 427), (17, 300)]  # width, height


def encode(kind: str, size: tuple[int, int], mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 128 if mode in ("L", "P") else None).save(buffer, kind.upper(), **options)
    return buffer.getvalue()


def exif(orientation: int, order: str = ">") -> bytes:
    head = (b"MM" if order == ">" else b"II") + struct.pack(order + "HI", 42, 8)
    software = struct.pack(order + "HHII", 0x0100, 4, 1, 999)  # EXIF carries widths, too: they are not the image's
    entry = struct.pack(order + "HHIHH", 274, 3, 1, orientation, 0)
    return b"Exif\0\0" + head + struct.pack(order + "H", 2) + software + entry + struct.pack(order + "I", 0)


def pillow_size(data: bytes) -> tuple[int, int]:
    """Height and width after EXIF orientation, by Pillow."""
    with Image.open(io.BytesIO(data)) as image:
        width, height = ImageOps.exif_transpose(image).size
    return height, width


def disagreements(cases: dict[str, bytes]) -> list[str]:
    """The law: the header's size is Pillow's."""
    wrong = []
    for name, data in cases.items():
        header = read_header(data)
        expected = pillow_size(data)
        if (header.height, header.width) != expected:
            wrong.append(f"{name}: {header} but Pillow says {expected}")
    return wrong


@pytest.mark.parametrize("kind", FORMATS)
def test_every_orientation_and_size_agrees_with_pillow(kind: str) -> None:
    cases = {
        f"{kind} {size} orientation {orientation} {order}": encode(kind, size, exif=exif(orientation, order))
        for size in SIZES
        for orientation in range(10)
        for order in "<>"
        if kind != "tiff"
    }
    if kind == "tiff":
        for size in SIZES:
            for orientation in range(10):
                cases[f"tiff {size} {orientation}"] = encode("tiff", size, tiffinfo={274: orientation})
    cases |= {f"{kind} {size}": encode(kind, size) for size in SIZES}
    assert disagreements(cases) == []


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_and_format_are_reported(kind: str, orientation: int) -> None:
    if kind == "tiff":
        data = encode("tiff", (20, 30), tiffinfo={274: orientation})
    else:
        data = encode(kind, (20, 30), exif=exif(orientation))
    height, width = (20, 30) if orientation >= 5 else (30, 20)
    assert read_header(data) == ImageHeader(kind, height, width, orientation)  # type: ignore[arg-type]
    assert read_header(memoryview(data)) == read_header(data)


def test_the_law_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resflow.images.jpeg.orientation_of", lambda *_: 1)
    assert len(disagreements({"turned": encode("jpeg", (20, 30), exif=exif(6))})) == 1


def test_variants_of_each_format_agree_with_pillow() -> None:
    animated = io.BytesIO()
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    frames[0].save(animated, "WEBP", save_all=True, append_images=frames[1:])
    big = io.BytesIO()
    Image.new("RGB", (33, 21)).save(big, "TIFF", big_tiff=True)
    cases = {
        "progressive jpeg": encode("jpeg", (90, 61), progressive=True),
        "grey jpeg": encode("jpeg", (90, 61), mode="L"),
        "cmyk jpeg": encode("jpeg", (90, 61), mode="CMYK"),
        "jpeg with a profile of several segments": encode("jpeg", (90, 61), icc_profile=bytes(200_000)),
        "jpeg with a comment": encode("jpeg", (90, 61), comment=b"\xff\xd8\xff\xc0 not a frame"),
        "lossless webp": encode("webp", (90, 61), lossless=True),
        "webp with alpha": encode("webp", (90, 61), mode="RGBA", exif=exif(8)),
        "animated webp": animated.getvalue(),
        "palette png": encode("png", (90, 61), mode="P"),
        "16-bit png": encode("png", (90, 61), mode="I;16"),
        "gif": encode("gif", (90, 61), mode="P"),
        "gif with comment": encode("gif", (90, 61), mode="P", comment=b"x" * 700),
        "bmp": encode("bmp", (90, 61)),
        "big tiff": big.getvalue(),
        "deflated tiff": encode("tiff", (90, 61), compression="tiff_adobe_deflate", tiffinfo={274: 5}),
        "jpeg after fill bytes": b"\xff\xd8" + b"\xff" * 5 + encode("jpeg", (9, 6))[3:],
    }
    assert disagreements(cases) == []


def test_gif_frame_larger_than_its_screen() -> None:
    data = bytearray(encode("gif", (90, 61), mode="P"))
    data[6:10] = struct.pack("<HH", 10, 10)
    assert disagreements({"gif": bytes(data)}) == []


def test_bmp_that_stores_the_top_row_first_and_bmp_of_os2() -> None:
    data = bytearray(encode("bmp", (12, 10)))
    data[22:26] = struct.pack("<i", -10)
    core = b"BM" + struct.pack("<IHHI", 26 + 24, 0, 0, 26) + struct.pack("<IHHHH", 12, 2, 3, 1, 24) + bytes(24)
    assert disagreements({"top down": bytes(data), "core": core}) == []


def test_big_endian_tiff() -> None:
    entries = [(256, 4, 3), (257, 3, 2 << 16), (258, 3, 8 << 16), (262, 3, 1 << 16), (273, 4, 200), (274, 3, 6 << 16)]
    entries += [(278, 4, 2), (279, 4, 6)]
    body = b"MM\0*" + struct.pack(">IH", 8, len(entries))
    body += b"".join(struct.pack(">HHII", tag, kind, 1, value) for tag, kind, value in entries) + bytes(4)
    data = body.ljust(200, b"\0") + bytes(6)
    assert disagreements({"tiff": data}) == []
    assert read_header(data) == ImageHeader("tiff", 3, 2, 6)


def test_big_tiff_that_points_beyond_all_addresses() -> None:
    data = b"II+\0" + struct.pack("<HHQQHHQQ", 8, 0, 16, 1, 256, 4, 99, 2**64 - 1) + bytes(8)
    with pytest.raises(HeaderError, match="tiff header is cut short"):
        read_header(data)


def jpeg_segments(data: bytes, *, before: bytes = b"", before_scan: bytes = b"") -> bytes:
    """Insert segments after the start of a JPEG, and before its scan."""
    scan = data.index(b"\xff\xda")
    return data[:2] + before + data[2:scan] + before_scan + data[scan:]


def app1(body: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def test_exif_wherever_it_stands() -> None:
    plain = encode("jpeg", (20, 30))
    cases = {
        "after XMP": jpeg_segments(plain, before=app1(XMP.replace(b'"6"', b'"3"')) + app1(exif(8))),
        "between frame header and scan": jpeg_segments(plain, before_scan=app1(exif(8))),
        "only XMP": jpeg_segments(plain, before=app1(XMP)),
        "EXIF before XMP": jpeg_segments(plain, before=app1(exif(1)) + app1(XMP)),
        "damaged EXIF": jpeg_segments(plain, before=app1(exif(6)[:20])),
        "EXIF that is no TIFF": jpeg_segments(plain, before=app1(b"Exif\0\0 nonsense here")),
        "marked twice": jpeg_segments(plain, before=app1(b"Exif\0\0" + exif(6))),
        "XMP in webp": encode("webp", (20, 30), xmp=XMP),
        "after the pixels of a png": png_with(exif(6)[6:], behind=True),
        "before the pixels of a png": png_with(exif(6)[6:], behind=False),
    }
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow remarks on damaged EXIF
        assert disagreements(cases) == []
    assert read_header(cases["between frame header and scan"]).orientation == 8
    assert read_header(cases["after the pixels of a png"]).orientation == 6


def png_with(body: bytes, *, behind: bool) -> bytes:
    data = encode("png", (20, 30))
    at = data.index(b"IEND") - 4 if behind else data.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    return data[:at] + chunk + data[at:]


@pytest.mark.parametrize("marker", sorted(set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}))
def test_all_frame_headers(marker: int) -> None:
    frame = struct.pack(">BBHBHHB", 0xFF, marker, 11, 8, 30, 20, 1) + b"\x01\x11\x00"
    data = b"\xff\xd8" + frame + b"\xff\xda\0\x02"
    assert read_header(data) == ImageHeader("jpeg", 30, 20, 1)


@pytest.mark.parametrize("kind", [*FORMATS, "gif", "bmp"])
def test_every_cut_is_told_from_damage_and_reading_on_as_told_ends_well(kind: str) -> None:
    mode = "P" if kind == "gif" else "RGB"
    data = encode(kind, (20, 30), mode=mode, **({"exif": exif(6)} if kind in ("jpeg", "png", "webp", "avif") else {}))
    whole = read_header(data)
    outcomes: list[bool] = []
    for count in range(len(data) + 1):
        try:
            outcomes.append(read_header(data[:count]) == whole)
        except HeaderTruncatedError as error:
            told = error.needed > count and "cut short" in str(error)
            outcomes.append(False)
            if not told:
                pytest.fail(f"{count} bytes: {error}, needed {error.needed}")
    assert outcomes == sorted(outcomes), "fewer bytes sufficed than failed later"
    count = 12
    while True:
        try:
            assert read_header(data[:count]) == whole
            break
        except HeaderTruncatedError as error:
            count = min(len(data), error.needed)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"not an image at all", ["no image header", "b'not an image", "expected JPEG, PNG"]),
        (b"\xff\xd8\xff\xd9" + bytes(20), ["jpeg header is damaged", "0xD9", "byte 2"]),
        (b"\xff\xd8\xff\xda\0\x08" + bytes(20), ["jpeg header is damaged", "before any frame header"]),
        (b"\xff\xd8\xff\xe0\0\x01" + bytes(20), ["jpeg header is damaged", "length 1"]),
        (
            b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 12, b"IHDR", 5, 5) + bytes(20),
            ["png", "expected b'IHDR' of 13"],
        ),
        (b"RIFF" + bytes(4) + b"WEBPVP8 " + bytes(20), ["webp header is damaged", "no VP8 start code"]),
        (b"RIFF" + bytes(4) + b"WEBPJUNK" + bytes(20), ["webp header is damaged", "b'JUNK'"]),
        (b"GIF89a" + bytes(7) + b"?" * 20, ["gif header is damaged", "0x3f"]),
        (b"II*\0" + struct.pack("<IH", 8, 0) + bytes(20), ["tiff header is damaged", "no width"]),
        (b"BM" + bytes(12) + struct.pack("<I", 41) + bytes(20), ["bmp header is damaged", "41 bytes"]),
        (struct.pack(">I4s", 4, b"ftyp") + b"avif" + bytes(20), ["avif header is damaged", "no meta box"]),
    ],
)
def test_damage_is_refused_in_words(data: bytes, words: list[str]) -> None:
    with pytest.raises(HeaderError) as caught:
        read_header(data)
    assert not isinstance(caught.value, HeaderTruncatedError)
    assert [word for word in words if word not in str(caught.value)] == []


def test_png_whose_header_fails_its_checksum() -> None:
    data = bytearray(encode("png", (20, 30)))
    data[19] ^= 1
    with pytest.raises(HeaderError, match="png header is damaged: the checksum of IHDR does not match"):
        read_header(bytes(data))


@pytest.mark.parametrize(("height", "width"), [(0, 10), (10, 0), (70_000, 1), (65_500, 65_500)])
def test_sizes_of_zero_and_beyond_the_limit_are_refused(height: int, width: int) -> None:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    data += struct.pack(">I4s", 0, b"IEND") + bytes(4)
    with pytest.raises(HeaderError, match=f"size is {height}x{width}"):
        read_header(data)


def test_errors_cross_process_borders() -> None:
    with pytest.raises(HeaderTruncatedError) as caught:
        read_header(b"\xff\xd8")
    copy = pickle.loads(pickle.dumps(caught.value.located(key="k", shard="s.tar")))
    assert type(copy) is HeaderTruncatedError
    assert "(sample s.tar/k)" in str(copy)


def test_random_damage_never_escapes_the_tree() -> None:
    import numpy as np

    generator = np.random.default_rng(0)
    for kind in ("jpeg", "png", "webp", "tiff", "gif", "bmp", "avif"):
        if kind == "avif" and not features.check("avif"):
            continue
        data = encode(kind, (20, 30), mode="P" if kind == "gif" else "RGB")
        for _ in range(300):
            damaged = np.frombuffer(data, np.uint8).copy()
            where = generator.integers(0, min(len(data), 400), 3)
            damaged[where] = generator.integers(0, 256, 3)
            try:
                header = read_header(damaged.tobytes())
            except HeaderError:
                continue
            assert 1 <= header.height <= images.MAX_SIDE
            assert 1 <= header.orientation <= 8


def test_real_images_agree_with_pillow() -> None:
    if not DATA.is_dir():
        pytest.skip(f"real images are not at {DATA} (set RESFLOW_TEST_DATA)")
    suffixes = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"}
    cases = {str(p): p.read_bytes() for p in sorted(DATA.rglob("*")) if p.suffix.lower() in suffixes}
    for path in sorted(DATA.glob("cifar10-test.tar")):
        with tarfile.open(path) as archive:
            for member in archive.getmembers()[:200]:
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None:
                    cases[f"{path}/{member.name}"] = file.read()
    assert cases
    wrong = []
    for name, data in cases.items():
        with Image.open(io.BytesIO(data)) as image:  # the size without decoding; exif_transpose decodes
            width, height = image.size
            orientation = image.getexif().get(274, 1)
        expected = (width, height) if orientation in (5, 6, 7, 8) else (height, width)
        header = read_header(data)
        if (header.height, header.width) != expected or header.orientation != (orientation or 1):
            wrong.append((name, header, expected, orientation))
    assert wrong == []


@pytest.mark.parametrize(
    "head",
    [
        b"P6\n4 3\n255\n",
        b"P6 4 3 255 ",
        b"P5\t4\r\n3\r\n65535\n",
        b"P1\n# made by hand\n4 # wide\n3\n",
        b"P4\n#\n#\n\n4\n#x\n3\n",
        b"P2\n0004 03\n7\n",
        b"P3\n" + b"# long\n" * 300 + b"4 3\n255\n",
    ],
)
def test_netpbm(head: bytes) -> None:
    body = b"1 " * 36 if head[:2] in (b"P1", b"P2", b"P3") else bytes(72)
    header = read_header(head + body)
    with Image.open(io.BytesIO(head + body)) as image:
        assert (header.format, header.width, header.height, header.orientation) == ("ppm", *image.size, 1)
    for end in range(len(head)):
        with suppress(HeaderTruncatedError):
            assert read_header(head[:end]) == header


@pytest.mark.parametrize(
    "data", [b"P6\n", b"P6\n-4 3\n", b"P6\n0 3\n255\n", b"P6\n4 x\n", b"P7\nWIDTH 4\n", b"P6 " + b"#" * 9000]
)
def test_wrong_netpbm(data: bytes) -> None:
    with pytest.raises(HeaderError):
        read_header(data)


def test_one_reader_of_markers_takes_fill_bytes_and_markers_without_length() -> None:
    data = samples.jpeg(24, 40)
    filled = data[:2] + b"\x00\xff\xff\x01\xff" + data[2:]  # a stray byte, fill bytes and TEM
    assert [marker for _, marker, _ in segments(filled)] == [marker for _, marker, _ in segments(data)]
    frame = read_frame(filled)
    assert frame is not None
    assert (frame.depth, frame.height, frame.width, frame.components) == (8, 24, 40, 3)
    assert without_metadata(filled) == filled
    assert read_frame(data[:2] + data[-2:]) is None
