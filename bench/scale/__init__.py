"""What orchestration costs when a corpus has a million shards: simulated, measured, and priced (docs/scale.md).

`corpus` lays out shards with sizes and no bytes, `standins` puts functions that return at once in the place of what
needs a model, `planning` measures the steps before the first shard is scored, `driving` the flow `clean` itself, with a
real Prefect server, and `cost` turns throughput and prices into hours and money.
"""
