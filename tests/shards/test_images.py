"""Images become the pixels that open_clip's own data loader makes of them, and nothing hostile gets further."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import webdataset
from open_clip.transform import image_transform

from ecif.shards.decode import Undecodable, decode_image, open_image
from ecif.shards.tar import Limits
from tests.shards.tars import Entry, pack


def noise(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> PIL.Image.Image:
    height, width = size[1], size[0]
    values = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    if mode == "I;16":
        return PIL.Image.fromarray((values[..., 0].astype(np.uint16) << 8) | values[..., 1])
    if mode == "CMYK":
        return PIL.Image.fromarray(values, "CMYK")
    rgba = PIL.Image.fromarray(values, "RGBA")
    return rgba if mode == "RGBA" else rgba.convert("RGB").convert(mode)


def saved(image: PIL.Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def palette_with_transparency(as_bytes: bool) -> bytes:
    return saved(noise("P"), "PNG", transparency=bytes(range(256)) if as_bytes else 3)


def turned() -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return saved(noise(), "JPEG", exif=exif)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: bytes) -> bytes:
    """A PNG of eight by six pixels with chunks put behind its header."""
    data = saved(PIL.Image.new("RGB", (8, 6), "red"), "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


GOOD = {
    "jpeg": ("jpg", saved(noise(), "JPEG")),
    "progressive jpeg": ("jpg", saved(noise(), "JPEG", progressive=True)),
    "grey jpeg": ("jpg", saved(noise("L"), "JPEG")),
    "cmyk jpeg": ("jpg", saved(noise("CMYK"), "JPEG")),
    "jpeg turned by exif": ("jpg", turned()),
    "mpo, two pictures": ("jpg", saved(noise(), "MPO", save_all=True, append_images=[noise("L").convert("RGB")])),
    "png": ("png", saved(noise(), "PNG")),
    "16-bit grey png": ("png", saved(noise("I;16"), "PNG")),
    "1-bit png": ("png", saved(noise("1"), "PNG")),
    "grey png with alpha": ("png", saved(noise("LA"), "PNG")),
    "png with alpha": ("png", saved(noise("RGBA"), "PNG")),
    "palette": ("png", saved(noise("P"), "PNG")),
    "palette with alpha in it": ("png", saved(noise("P").convert("PA").convert("RGBA").quantize(), "PNG")),
    "palette, one colour transparent": ("png", palette_with_transparency(False)),
    "palette, alpha of each colour": ("png", palette_with_transparency(True)),
    "animated png": ("png", saved(noise(), "PNG", save_all=True, append_images=[noise("L").convert("RGB")])),
    "webp": ("webp", saved(noise(), "WEBP")),
    "webp with alpha": ("webp", saved(noise("RGBA"), "WEBP", lossless=True)),
    "animated webp": ("webp", saved(noise(), "WEBP", save_all=True, append_images=[noise("L").convert("RGB")])),
    "png that says it is a jpeg": ("jpg", saved(noise("P"), "PNG")),
}


@pytest.mark.parametrize("name", GOOD)
def test_pixels_are_those_of_open_clips_own_loader(name: str) -> None:
    """Its pipeline is webdataset's decode("pilrgb"), then the model's transform: resize, crop, normalise."""
    extension, data = GOOD[name]
    transform = image_transform(24, is_train=False)
    pipeline = webdataset.DataPipeline(
        lambda: iter([{"__key__": "k", "__url__": "x", extension: data, "txt": b"c"}]),
        webdataset.decode("pilrgb"),
        webdataset.rename(image="jpg;png;jpeg;webp", text="txt"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = next(iter(pipeline))["image"]
    ours = decode_image(data)
    assert (ours.mode, ours.size) == ("RGB", theirs.size)
    assert ours.tobytes() == theirs.tobytes()
    assert (transform(ours) == transform(theirs)).all()


def test_conversion_before_resizing_makes_a_difference() -> None:
    """Why decode_image converts: the transform alone would resize palettes and transparency first."""
    transform = image_transform(24, is_train=False)
    data = palette_with_transparency(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not (transform(decode_image(data)) == transform(PIL.Image.open(io.BytesIO(data)))).all()


def refused(data: bytes, limits: Limits = Limits()) -> str:
    with pytest.raises(Undecodable) as caught:
        decode_image(data, limits)
    assert caught.value.detail
    return caught.value.status


@pytest.mark.parametrize("name", [name for name in GOOD if "two pictures" not in name and "animated" not in name])
def test_truncated_images_are_undecodable(name: str) -> None:
    data = GOOD[name][1]
    for cut in (len(data) // 4, len(data) // 2, len(data) * 3 // 4):
        assert refused(data[:cut]) == "undecodable_image"


def huge(width: int, height: int) -> bytes:
    data = saved(PIL.Image.new("RGB", (1, 1)), "PNG")
    return data[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + data[33:]


def huge_gif() -> bytes:
    data = bytearray(saved(PIL.Image.new("P", (1, 1)), "GIF"))
    data[6:10] = struct.pack("<HH", 65535, 65535)
    return bytes(data)


def huge_webp() -> bytes:
    frames = [PIL.Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = bytearray(saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    data[24:30] = struct.pack("<I", 16382)[:3] * 2
    return bytes(data)


BOMBS = {
    "png header": (huge(100_000, 100_000), "too_large_image"),
    "png header below pillow's limit": (huge(9_000, 9_000), "too_large_image"),
    "gif canvas": (huge_gif(), "too_large_image"),
    "webp canvas": (huge_webp(), "too_large_image"),
    "png zTXt": (png(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20), 9))), "undecodable_image"),
    "png iTXt": (png(chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(100 << 20), 9))), "undecodable_image"),
    "png iCCP": (png(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100 << 20), 9))), "undecodable_image"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(name: str) -> None:
    data, status = BOMBS[name]
    assert len(data) < 500_000
    assert refused(data) == status


def test_bombs_cost_little_memory(tmp_path: Path) -> None:
    """In a process of its own, because what a process has had at most never becomes less."""
    files = []
    for number, (data, _) in enumerate(BOMBS.values()):
        files.append(tmp_path / str(number))
        files[-1].write_bytes(data)
    script = (
        "import pathlib, resource, sys; from ecif.shards.decode import decode_image, Undecodable; import PIL.Image\n"
        "import PIL.PngImagePlugin, PIL.GifImagePlugin, PIL.WebPImagePlugin, PIL.JpegImagePlugin\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try: decode_image(pathlib.Path(path).read_bytes())\n"
        "    except Undecodable: pass\n"
        "    else: raise SystemExit('decoded ' + path)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *files], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100 << 10  # KiB


def test_of_many_frames_only_the_first_is_decoded() -> None:
    frames = [PIL.Image.new("P", (4, 4), i % 256) for i in range(2000)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:], optimize=False)
    image = open_image(data)
    assert decode_image(data).size == (4, 4)
    assert image.tell() == 0


def test_limits_above_those_of_pillow_count() -> None:
    before = PIL.Image.MAX_IMAGE_PIXELS
    try:
        assert open_image(huge(20_000, 20_000), Limits(pixels=400_000_000)).size == (20_000, 20_000)
        assert refused(huge(20_001, 20_000), Limits(pixels=400_000_000)) == "too_large_image"
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = before


OTHERS = {
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "ppm": b"P6 2 2 255\n" + bytes(12),
    "tga": bytes([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 2, 0, 24, 0]) + bytes(12),
    "html": b"<html><body>GIF89a</body></html>",
    "tar": pack([Entry("a.jpg", GOOD["jpeg"][1])]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_no_other_decoder_is_asked(name: str) -> None:
    assert refused(OTHERS[name]) == "undecodable_image"


def test_polyglots_are_what_their_first_bytes_say() -> None:
    picture = GOOD["jpeg"][1]
    assert decode_image(picture + b"PK\x03\x04" + bytes(100)).size == (40, 30)
    assert decode_image(GOOD["png"][1] + b"<script>").size == (40, 30)
    assert refused(b"GIF89a/*" + picture + b"*/") == "too_large_image"
    assert refused(b"%PDF-1.5\n" + picture) == "undecodable_image"


def odd_exif() -> bytes:
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + struct.pack("<HHII", 0x011A, 5, 1, 10**6) * 2
    data = saved(noise(), "JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


WARNING = {
    "exif": (odd_exif(), "RGB"),
    "palette": (palette_with_transparency(True), "RGB"),
    "apng": (png(chunk(b"acTL", bytes(8))), "RGB"),
    "large": (huge(10_000, 10_000), "too_large_image"),
}


@pytest.mark.parametrize("name", WARNING)
def test_pillow_warns_of_these(name: str) -> None:
    """Otherwise the next test would show nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = PIL.Image.open(io.BytesIO(WARNING[name][0]))
        if name != "large":
            image.convert("RGB")
    assert caught


@pytest.mark.parametrize("options", [(), ("-W", "error")])
def test_what_pillow_warns_of_neither_reaches_the_terminal_nor_raises(options: tuple[str, ...], tmp_path: Path) -> None:
    for name, (data, _) in WARNING.items():
        (tmp_path / name).write_bytes(data)
    script = (
        "import pathlib, sys; from ecif.shards.decode import decode_image, Undecodable\n"
        "for path in sys.argv[1:]:\n"
        "    try: print(decode_image(pathlib.Path(path).read_bytes()).mode)\n"
        "    except Undecodable as error: print(error.status)\n"
    )
    command = [sys.executable, *options, "-c", script, *(str(tmp_path / name) for name in WARNING)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected for _, expected in WARNING.values()]
    assert done.stderr == ""
