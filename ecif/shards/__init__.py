"""WebDataset shards: raw tar members, samples, pairs, sidecars, and what can be wrong with them."""
