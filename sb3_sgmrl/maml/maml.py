from __future__ import annotations

from sb3_sgmrl.common.arguments import with_arguments
from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm


@with_arguments
class MAML(MetaOnPolicyAlgorithm):
    """
    Model-Agnostic Meta-Learning for reinforcement learning with one policy-gradient step of the meta-optimiser per iteration.

    MAML differentiates through the inner step with its episodes held fixed. It ignores how θ shapes these episodes.
    So its gradient is biased for the return after adaptation by sampled gradients; see :class:`~sb3_sgmrl.SGMRL`.
    ``first_order=True`` gives FO-MAML.
    Paper: https://arxiv.org/abs/1703.03400 (Finn, Abbeel, Levine 2017).
    """
