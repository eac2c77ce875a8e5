"""Calibration: what canaries say about the scores, and the detector that is learned from them.

Canaries are pairs whose caption is known to be wrong, because it was planted in memory while a shard was scored. They
are labelled mistakes; real pairs are unlabelled, some of them wrong by nature. From both follows, per output:

    gather    a bounded sample of both, from the tables
    measure   how well each score tells canaries from real pairs, by kind, with intervals
    learned   a sum of the score columns, p_misaligned: its arithmetic
    fitting   and how its weights are chosen
    prior     the share of natural mistakes
    curve     precision and recall at any cut
    state     all of it, frozen in one file

Canaries are not natural mistakes, and no number here knows how far they differ (docs/calibration.md).
"""
