"""Policies: what a row of the score table says of a pair, and what the decision makes of it.

A policy is free to look at much (groups, expressions, a person's review), but its result has one form: a small frozen
file, such that whether a pair goes follows from its row, the row of the table beside its shard, and that file alone.
What would need the other pairs of the corpus when it is applied is not a policy here.
"""
