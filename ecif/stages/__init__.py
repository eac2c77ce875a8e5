"""The stages: each reads files, writes files, and can be repeated alone."""
