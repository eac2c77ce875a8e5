"""Curvature of the contrastive loss: sketches, second moments of projected gradients, damped solvers, an oracle.

    H = (N / N_fit) sum over fit batches of C_b + delta I

with N the pairs of the corpus, N_fit those of the fit, and C_b the curvature of one batch: the generalised
Gauss-Newton matrix J^T M J (`ggn`), which keeps the coupling between the samples of a batch, or the sum of
outer products of per-sample gradients of Pos (`fisher`), which drops it. Because L_batch is a sum over pairs,
H^-1 grad then means what it says: the change of the parameters when one of N pairs is removed.

    sketches    rank-1 samples of J^T M J, in the logits
    moments     sums over batches of what a structure keeps: joint, per layer, diagonal; sides for a PCA
    factors     H^-1 v and H^(-1/2) v for each structure
    reference   Gauss-Newton-vector products and conjugate gradients
"""

from ecif.curvature.factors import Block as Block
from ecif.curvature.factors import Curvature as Curvature
from ecif.curvature.factors import Diagonal as Diagonal
from ecif.curvature.factors import Factor as Factor
from ecif.curvature.factors import factorise as factorise
from ecif.curvature.factors import from_moments as from_moments
from ecif.curvature.factors import identity as identity
from ecif.curvature.factors import load_factor as load_factor
from ecif.curvature.moments import MOMENT_DTYPE as MOMENT_DTYPE
from ecif.curvature.moments import Structure as Structure
from ecif.curvature.moments import gram as gram
from ecif.curvature.moments import second_moments as second_moments
from ecif.curvature.moments import sides as sides
from ecif.curvature.reference import conjugate_gradients as conjugate_gradients
from ecif.curvature.reference import ggn_product as ggn_product
from ecif.curvature.sketches import Cotangents as Cotangents
from ecif.curvature.sketches import ggn_sketches as ggn_sketches
from ecif.curvature.sketches import through_logits as through_logits
