"""ECIF: clean image-text corpora by the influence of every pair on a contrastive model.

Importing this package is cheap on purpose: it pulls in neither torch nor prefect, so that the command
line answers at once. The rooms of the package are listed in docs/architecture.md.
"""

__version__ = "0.1.0"

# Raised whenever the same input and settings would give other scores or other bytes; part of every key, so
# that results of two versions never mix in one output.
ALGO_VERSION = 3
