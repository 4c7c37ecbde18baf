"""Training on several processes and hosts under torchrun, equal to the bit for every number of them."""

from sb3_sgmrl.distributed.ranks import ALONE, RankError, Ranks
from sb3_sgmrl.distributed.torch_ranks import n_ranks, own_rank, start

__all__ = ["ALONE", "RankError", "Ranks", "n_ranks", "own_rank", "start"]
