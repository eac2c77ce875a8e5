from __future__ import annotations

from ecif.interop.uids import MOST_PLACES, duplicates


def test_uids_that_stand_at_several_samples() -> None:
    samples = [
        ("a", "0", "x"),
        ("b", "0", "y"),
        ("a", "1", "x\n\0\\"),
        ("ü", "1", "y"),
        ("ü", "2", "\ud800"),
        ("", "2", "z"),
    ]
    found = sorted(duplicates(iter(samples)), key=lambda collision: collision.uid)
    assert [(collision.uid, collision.count, collision.places) for collision in found] == [
        ("a", 2, (("0", "x"), ("1", "x\n\0\\"))),
        ("ü", 2, (("1", "y"), ("2", "\ud800"))),
    ]


def test_one_uid_at_more_samples_than_are_told_or_fit() -> None:
    samples = ((uid, "0", str(n)) for n in range(100) for uid in ("same", str(n)))
    (found,) = duplicates(samples, bucket_bytes=24 * 5)
    assert (found.uid, found.count) == ("same", 100)
    assert found.places == tuple(("0", str(n)) for n in range(MOST_PLACES))
