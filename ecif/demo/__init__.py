"""A rehearsal of the whole way of the data, offline: a corpus with planted mistakes, a model, a run, a verdict.

    scenes -> captions -> mistakes -> corpus (tars, parquet, stats, truth) -> training -> the flow -> evaluation

The truth about the mistakes lies beside the corpus and is read by `evaluation` alone.
"""
