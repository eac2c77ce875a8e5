"""Whatever is done to a tar: it is read right, or refused with its place. bench.fuzz runs the same for hours."""

from __future__ import annotations

import json
import random

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.shards import invariants
from tests.shards.damage import any_tars, compress, damage, damaged, spoil
from tests.shards.tars import Tar, extension, header, records

PROPERTY = settings(deadline=None, max_examples=100, derandomize=True, suppress_health_check=list(HealthCheck))
CHOICES = st.randoms(use_true_random=False)
STEPS = st.sampled_from([1, 7, 511, 512, 513, 1500, 10_240])


@PROPERTY
@given(any_tars(), STEPS)
def test_whole_tars_of_all_dialects_are_read_as_tarfile_and_webdataset_read_them(data: Tar, step: int) -> None:
    assert invariants.check_tar(data, step)


@PROPERTY
@given(damaged(), STEPS)
@example(Tar(extension(b"g", records(comment=b"x"))), 512)
@example(Tar(header(mtime=b"x" * 12) + bytes(1024)), 512)
@example(Tar(extension(b"x", records(size=b"600")) + header() + bytes(1024)), 512)
def test_damaged_tars_are_refused_or_read_as_tarfile_reads_them(data: Tar, step: int) -> None:
    assert invariants.check_tar(data, step)


@PROPERTY
@given(any_tars(), st.integers(0))
def test_a_cut_is_noticed_unless_it_is_between_two_members(data: Tar, at: int) -> None:
    assert invariants.check_cut(data, at % (len(data) + 1))


@PROPERTY
@given(any_tars(), CHOICES, st.booleans(), st.booleans(), STEPS)
def test_gzip_is_what_is_in_it_or_refused(
    data: bytes, choose: random.Random, inside: bool, outside: bool, step: int
) -> None:
    packed = compress(damage(data, choose) if inside else data, choose)
    packed = spoil(packed, choose) if outside else packed
    if packed[:2] == b"\x1f\x8b":
        assert invariants.check_gzip(packed, step)


@PROPERTY
@given(st.sampled_from(invariants.seed_images()), CHOICES)
def test_spoiled_images_are_pixels_as_webdataset_gets_them_or_a_status(data: bytes, choose: random.Random) -> None:
    assert invariants.check_image(spoil(data, choose))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@PROPERTY
@given(st.dictionaries(st.sampled_from(["caption", "uid", "SAMPLE_ID", "x"]), JSON), CHOICES, st.booleans())
def test_records_of_any_kind(record: dict[str, object], choose: random.Random, broken: bool) -> None:
    data = json.dumps(record).encode()
    assert invariants.check_record(spoil(data, choose) if broken else data)
