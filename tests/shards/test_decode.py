"""Whatever a sample holds, it becomes a pair or one counted status."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecif.shards.decode import STATUSES, Pair, Refused, Undecodable, decode_image, open_image, to_pair
from ecif.shards.samples import Sample, group
from ecif.shards.tar import Limits, read_members
from tests.shards.tars import Entry, pack


def one(entries: list[Entry]) -> Sample:
    items = list(group(read_members(io.BytesIO(pack(entries)), "x.tar")))
    assert isinstance(items[-1], Sample)
    return items[-1]


def picture(format: str = "PNG", size: tuple[int, int] = (8, 6), mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new(mode, size, 90).save(buffer, format, **options)
    return buffer.getvalue()


def refusal(entries: list[Entry], caption: str = "txt", limits: Limits = Limits()) -> str:
    found = to_pair(one(entries), "00000", caption, limits)
    assert isinstance(found, Refused)
    assert found.status in STATUSES
    assert found.detail
    return found.status


def test_a_pair() -> None:
    found = to_pair(one([Entry("k.jpg", b"img"), Entry("k.txt", "Üben\n".encode())]), "00000", "txt")
    uid = hashlib.sha256(b"00000/k").hexdigest()[:32]
    assert found == Pair(uid=uid, key="k", index=0, image=b"img", caption="Üben\n")


def test_the_uid_of_the_json_member_counts() -> None:
    uid = "0123456789abcdef" * 2
    entries = [Entry("k.jpg", b"img"), Entry("k.txt", b"c"), Entry("k.json", json.dumps({"uid": uid}).encode())]
    assert to_pair(one(entries), "00000", "txt").uid == uid


@pytest.mark.parametrize(
    "record", [b"", b"{", b"[1]", b'{"uid": true}', b'{"uid": ""}', b'{"uid": "\\ud800"}', b"\xff", b"[" * 100_000]
)
def test_a_json_member_without_a_usable_uid_falls_back(record: bytes) -> None:
    found = to_pair(one([Entry("k.jpg", b"img"), Entry("k.txt", b"c"), Entry("k.json", record)]), "00000", "txt")
    assert isinstance(found, Pair)
    assert found.uid == hashlib.sha256(b"00000/k").hexdigest()[:32]


@pytest.mark.parametrize("extension", ["jpg", "JPEG", "Png", "webp", "gif"])
def test_image_extensions(extension: str) -> None:
    assert isinstance(to_pair(one([Entry(f"k.{extension}", b"img"), Entry("k.txt", b"c")]), "0", "txt"), Pair)


def test_of_several_images_the_one_that_open_clip_takes() -> None:
    entries = [Entry("k.webp", b"w"), Entry("k.png", b"p"), Entry("k.jpg", b"j"), Entry("k.txt", b"c")]
    found = to_pair(one(entries), "0", "txt")
    assert isinstance(found, Pair)
    assert found.image == b"j"


def test_refusals_of_samples() -> None:
    image, text = Entry("k.jpg", b"img"), Entry("k.txt", b"c")
    assert refusal([text]) == "no_image"
    assert refusal([Entry("k.seg.png", b"x"), text]) == "no_image"
    assert refusal([Entry("k.jpg"), text]) == "empty_image"
    assert refusal([image]) == "no_caption"
    assert refusal([image, Entry("k.txt")]) == "no_caption"
    assert refusal([image, Entry("k.txt", b" \n\t")]) == "no_caption"
    assert refusal([image, Entry("k.txt", b"caf\xe9")]) == "non_utf8_caption"
    assert refusal([image, Entry("k.txt", b"x" * 11)], limits=Limits(caption_bytes=10)) == "too_large_caption"
    assert refusal([image, text, Entry("k.JPG", b"x")]) == "duplicate_member"
    assert refusal([image, text, Entry("l.txt", b"c"), image, text]) == "duplicate_key"


@pytest.mark.parametrize(
    ("record", "status"),
    [
        (None, "no_caption"),
        (b"{}", "no_caption"),
        (b"not json", "no_caption"),
        (b'{"caption": null}', "no_caption"),
        (b'{"caption": ["a"]}', "no_caption"),
        (b'{"caption": "  "}', "no_caption"),
        (b'{"caption": "\\ud800"}', "non_utf8_caption"),
        (b'{"caption": "\xe9"}', "non_utf8_caption"),
        (b'{"caption": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}', "too_large_caption"),
        (b'{"caption": "a"}' + b" " * 200, "too_large_caption"),
    ],
)
def test_refusals_of_json_captions(record: bytes | None, status: str) -> None:
    entries = [Entry("k.jpg", b"img")] + ([] if record is None else [Entry("k.json", record)])
    assert refusal(entries, "json:caption", Limits(caption_bytes=30, json_bytes=100)) == status


@pytest.mark.parametrize(
    ("record", "status"),
    [
        (b'{"caption": "c", "a": [[1]]}', None),
        (b'{"caption": "c", "a": [[[1]]]}', "too_deep_json"),
        (b'{"caption": "c", "a": [[],[],[],{},[]]}', None),
        (b'{"caption": "[[[[{{{{"}', None),
        (b'{"caption": "\\"[[[["}', None),
        (b'{"caption": "c", "a": "\\\\", "b": [[[1]]]}', "too_deep_json"),
        (b"[" * 100_000, "too_deep_json"),
        (b'{"a":' * 100_000, "too_deep_json"),
        (b"[" * 100_000 + b"]" * 100_000, "too_deep_json"),
        (b'"' + b'\\"' * 100_000, "no_caption"),
        (b'{"caption": "c", "a": [[' + b'"' * 99_999 + b"[[[[", "no_caption"),
    ],
)
def test_the_nesting_of_json_is_limited_before_it_is_parsed(record: bytes, status: str | None) -> None:
    entries = [Entry("k.jpg", b"img"), Entry("k.json", record)]
    if status is None:
        assert isinstance(to_pair(one(entries), "0", "json:caption", Limits(json_depth=3)), Pair)
    else:
        assert refusal(entries, "json:caption", Limits(json_depth=3)) == status


def test_json_that_is_too_deep_is_not_asked_for_a_uid() -> None:
    record = b'{"uid": "u", "a": [[[1]]]}'
    entries = [Entry("k.jpg", b"img"), Entry("k.txt", b"c"), Entry("k.json", record)]
    shallow, deep = (to_pair(one(entries), "0", "txt", Limits(json_depth=depth)) for depth in (3, 4))
    assert isinstance(shallow, Pair)
    assert (len(shallow.uid), deep.uid) == (32, "u")


@pytest.mark.parametrize(
    ("record", "uid"),
    [
        ({"uid": "u", "SAMPLE_ID": 1}, "u"),
        ({"uid": None, "SAMPLE_ID": 123456789012345678}, "123456789012345678"),
        ({"sample_id": "s", "id": 3}, "s"),
    ],
)
def test_uids_under_other_names(record: dict[str, Any], uid: str) -> None:
    data = b"\xef\xbb\xbf" + json.dumps(record).encode()
    assert to_pair(one([Entry("k.jpg", b"img"), Entry("k.txt", b"c"), Entry("k.json", data)]), "0", "txt").uid == uid


def test_a_json_caption() -> None:
    record = json.dumps({"caption": "übt", "uid": "u"}).encode()
    found = to_pair(one([Entry("k.jpg", b"img"), Entry("k.json", record)]), "0", "json:caption")
    assert isinstance(found, Pair)
    assert (found.caption, found.uid) == ("übt", "u")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_decoding(format: str) -> None:
    image = decode_image(picture(format))
    assert image.size == (8, 6)
    assert image.convert("RGB").getpixel((0, 0)) is not None


def status(data: bytes, limits: Limits = Limits()) -> str:
    with pytest.raises(Undecodable) as caught:
        decode_image(data, limits)
    assert caught.value.detail
    return caught.value.status


@pytest.mark.parametrize("format", ["TIFF", "BMP", "ICO", "JPEG2000"])
def test_other_formats_are_unsupported(format: str) -> None:
    assert status(picture(format, size=(16, 16))) == "unsupported_image"


def test_what_is_no_image_is_undecodable() -> None:
    for data in (b"", b"<html>404</html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8 "):
        assert status(data) == "undecodable_image"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP"])
def test_cut_images_are_undecodable_and_never_anything_else(format: str) -> None:
    noise = PIL.Image.effect_noise((64, 64), 80).convert("RGB")
    buffer = io.BytesIO()
    noise.save(buffer, format)
    data = buffer.getvalue()
    for cut in range(0, len(data) // 2, 97):
        assert status(data[:cut]) == "undecodable_image"


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP"]), st.integers(0), st.binary(min_size=1, max_size=8))
def test_damaged_images_decode_or_are_refused(format: str, where: int, noise: bytes) -> None:
    data = bytearray(picture(format, size=(32, 32)))
    place = where % len(data)
    data[place : place + len(noise)] = noise
    try:
        decode_image(bytes(data))
    except Undecodable as error:
        assert error.status in STATUSES


def test_size_is_checked_before_pixels_are_decoded() -> None:
    data = picture("PNG", size=(1000, 1000))
    assert status(data, Limits(pixels=999_999)) == "too_large_image"
    assert decode_image(data, Limits(pixels=1_000_000)).size == (1000, 1000)
    assert status(data[:60], Limits(pixels=10)) == "too_large_image"
    assert open_image(data[:60]).size == (1000, 1000)


@pytest.mark.parametrize("side", [8, 16, 17, 32, 64, 100, 300])
def test_a_draft_of_a_jpeg_is_no_smaller_than_what_is_needed_and_less_than_twice_that(side: int) -> None:
    data = picture("JPEG", (300, 200))
    whole, draft = decode_image(data), decode_image(data, draft=side)
    assert whole.size == (300, 200)
    shorter = min(draft.size)
    assert shorter >= min(side, 200)
    assert shorter in (200, 100, 50, 25)
    assert shorter < 2 * side or shorter == 25
    assert draft.mode == "RGB"


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_a_draft_has_the_colours_of_the_whole(mode: str) -> None:
    data = picture("JPEG", (64, 64), mode)
    whole, draft = decode_image(data), decode_image(data, draft=16)
    assert draft.size == (16, 16)
    assert draft.getpixel((3, 3)) == whole.getpixel((3, 3))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF"])
def test_other_formats_know_no_draft(format: str) -> None:
    data = picture(format, (64, 64))
    assert decode_image(data, draft=16).tobytes() == decode_image(data).tobytes()
