"""The method against the truth: models retrained without pairs, and what influence had said about it.

`python -m bench.method PART --work DIR` runs one part and prints its tables in markdown. Everything measured is kept
in DIR under a key that names all that determines it, so a part that was interrupted goes on where it stopped.
"""
