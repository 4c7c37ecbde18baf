"""
The constants of the convergence theory for one inner step.

Sources: Lemma 1, Proposition 1, Theorem 1 and Corollary 1 of the paper. The paper numbers the steps of an episode 0, …, H;
here ``n_steps`` is H + 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class PolicyBounds:
    """
    Bounds of Assumptions 2 and 3 that hold for all states, actions and parameters.

    :param score: The bound G, with ‖∇log π‖ ≤ G
    :param curvature: The bound L, with ‖∇²log π‖ ≤ L in the spectral norm
    :param curvature_slope: The constant ρ, a Lipschitz constant of ∇²log π
    """

    score: float
    curvature: float
    curvature_slope: float


def softmax_bounds(feature_norm: float = math.sqrt(2)) -> PolicyBounds:
    """
    Compute G, L and ρ of a softmax policy whose logits are linear in the parameters.

    The logits are z = A_s θ with ‖A_s‖ ≤ φ, the norm of the features. The policy of :func:`~sb3_sgmrl.theory.softmax_policy`
    has a logit per state and action and a bias per action. These are two features that equal 1, so φ = √2; without the bias φ
    = 1. The bounds do not depend on the number of states or actions.

    - log π(a) = z_a − log Σ exp z has the gradient e_a − p with respect to z. Its norm is below √2, so G = √2 φ. The policy
      approaches this supremum as the action becomes improbable beside a single other action.
    - The Hessian is −(diag p − p pᵀ). Along a unit vector v it is the negative variance of v under p. This variance is at most
      a quarter of the squared range of v, and the range is at most √2. So L = φ²/2, which two actions with probability ½ each
      reach.
    - The derivative of the Hessian is a symmetric trilinear form. Its norm is the largest third central moment E(v − Ev)³ of a
      unit vector. For a given mean this moment is largest for two values. It is then d³ p(1 − p)(1 − 2p), with d the distance
      of the values. So it is at most d³/(6√3), and d ≤ √2. So ρ = φ³ √6/9, which p = (1 ± 1/√3)/2 reaches.

    :param feature_norm: The norm φ of the features
    :return: The bounds, which are tight
    """
    return PolicyBounds(math.sqrt(2) * feature_norm, feature_norm**2 / 2, math.sqrt(6) / 9 * feature_norm**3)


@dataclass(frozen=True)
class ConvergenceConstants:
    """
    Constants that follow from Assumptions 1 to 3 for V with one inner step ψ = θ + α ĝ(θ, D).

    All constants are as in the paper, except ``estimator_bound``, which corrects the paper's bound.

    :param policy: The bounds G, L and ρ
    :param max_reward: The largest reward R; rewards lie in [0, R]
    :param gamma: The discount factor γ, below 1
    :param n_steps: The number of steps of an episode, H + 1
    :param n_episodes: The number of episodes of an inner batch, D_in
    :param inner_lr: The inner learning rate α; the paper requires at most :attr:`max_inner_lr`
    """

    policy: PolicyBounds
    max_reward: float
    gamma: float
    n_steps: int
    n_episodes: int
    inner_lr: float

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < 1:
            raise ValueError(f"`gamma` must lie in [0, 1), got {self.gamma!r}.")

    @property
    def _discounted(self) -> float:
        """The bound R/(1 − γ)² of Σ_h R^h(τ)."""
        return self.max_reward / (1 - self.gamma) ** 2

    @property
    def gradient_bound(self) -> float:
        """
        The bound η_G = G R/(1 − γ)² of ‖∇ν(τ)‖, ‖∇J‖ and their estimates, Lemma 1 (i).

        It is also a Lipschitz constant of J.
        """
        return self.policy.score * self._discounted

    @property
    def hessian_bound(self) -> float:
        """
        The bound η_H = ((H + 1) G² + L) R/(1 − γ)² of eq. (8), Lemma 1 (ii).

        It is also a Lipschitz constant of ∇J.
        """
        return (self.n_steps * self.policy.score**2 + self.policy.curvature) * self._discounted

    @property
    def hessian_slope(self) -> float:
        """The Lipschitz constant η_ρ = (2 (H + 1) G L + ρ) R/(1 − γ)² of eq. (9) for given episodes, Lemma 1 (iii)."""
        policy = self.policy
        return (2 * self.n_steps * policy.score * policy.curvature + policy.curvature_slope) * self._discounted

    @property
    def max_inner_lr(self) -> float:
        """The largest inner learning rate α of Proposition 1, 1/η_H."""
        return 1 / self.hessian_bound

    @property
    def smoothness(self) -> float:
        """
        The Lipschitz constant L_V of ∇V, Proposition 1 (i).

        L_V = α η_ρ η_G + 4 η_H + 8 R D_in (H + 1)(L + D_in G² (H + 1)).
        """
        n_scores = self.n_episodes * self.n_steps
        scores = self.policy.curvature + n_scores * self.policy.score**2
        inner = self.inner_lr * self.hessian_slope * self.gradient_bound
        return inner + 4 * self.hessian_bound + 8 * self.max_reward * n_scores * scores

    @property
    def max_learning_rate(self) -> float:
        """The largest learning rate β of Theorem 1, 1/L_V."""
        return 1 / self.smoothness

    @property
    def paper_estimator_bound(self) -> float:
        """
        The bound G_V = 2 G R [(1 − γ)⁻² + D_in (H + 1)] that Proposition 1 (ii) states for ‖∇̃V‖.

        It does not hold for γ > ½: the score term is J̃ times D_in (H + 1) scores, and J̃ can be R/(1 − γ), not 2R. Use
        :attr:`estimator_bound` instead, which holds.
        """
        return 2 * (self.gradient_bound + self.policy.score * self.max_reward * self.n_episodes * self.n_steps)

    @property
    def estimator_bound(self) -> float:
        """
        The bound G R [2 (1 − γ)⁻² + D_in (H + 1)/(1 − γ)] of ‖∇̃V‖ for α ≤ :attr:`max_inner_lr`.

        The first part is ‖I + α∇²ν‖ ≤ 2 times η_G. The second part is J̃ ≤ R/(1 − γ) times the scores. The bound is below
        :attr:`paper_estimator_bound` for γ < ½.
        """
        scores = self.n_episodes * self.n_steps * self.policy.score
        return 2 * self.gradient_bound + self.max_reward / (1 - self.gamma) * scores

    def squared_gradient_bound(self, learning_rate: float, batch_size: int, epsilon: float = 0.0) -> float:
        """
        Compute the bound of Theorem 1 on E‖∇V‖², 2 G_V² L_V β/(B D_o) + ε².

        It uses :attr:`estimator_bound` for G_V, and D_o = 1. More outer episodes do not lower the bound as the theorem states.
        Tasks and inner batches are drawn B times for any number of outer episodes, so only B divides their noise.

        :param learning_rate: The learning rate β, at most :attr:`max_learning_rate`
        :param batch_size: The meta-batch size B
        :param epsilon: The accuracy ε
        :return: The bound
        """
        return 2 * self.estimator_bound**2 * self.smoothness * learning_rate / batch_size + epsilon**2

    def sufficient_batch_size(self, epsilon: float) -> int:
        """
        Compute the meta-batch size B of Corollary 1 (i), for β = 1/L_V and one outer episode per task.

        :param epsilon: The accuracy ε
        :return: The meta-batch size 8 G_V²/ε², rounded up
        """
        return math.ceil(8 * self.estimator_bound**2 / epsilon**2)
