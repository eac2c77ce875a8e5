"""What cleaning does to a model: the same small model trained on a corpus as it is, without what scores would drop, and
without as many pairs at random, each several times.

    population   the pairs that take part, and how bad each score says they are
    variants     which of them a variant leaves out
    material     these pairs and those that judge, decoded
    judging      recall and accuracy of a trained model
    intervals    means and paired differences over seeds, with intervals
    study        every variant with every seed, kept one by one
    table        what comes out
"""
