"""
The constants of the convergence theory: Lemma 1, Proposition 1, Theorem 1 and Corollary 1 of the paper, for one inner step.

The paper counts the steps of an episode 0, …, H; here ``n_steps`` is H + 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class PolicyBounds:
    """
    Assumptions 2 and 3, for all states, actions and parameters.

    :param score: G, with ‖∇log π‖ ≤ G
    :param curvature: L, with ‖∇²log π‖ ≤ L in the spectral norm
    :param curvature_slope: ρ, a Lipschitz constant of ∇²log π
    """

    score: float
    curvature: float
    curvature_slope: float


def softmax_bounds(feature_norm: float = math.sqrt(2)) -> PolicyBounds:
    """
    G, L and ρ of a softmax policy whose logits are linear in the parameters, z = A_s θ with ‖A_s‖ ≤ φ, the norm of the
    features. A logit per state and action and a bias per action, as in :func:`~sb3_sgmrl.theory.softmax_policy`, are two
    features that are 1, so φ = √2; without the bias it is 1. The bounds do not depend on the number of states or actions.

    - log π(a) = z_a − log Σ exp z has the gradient e_a − p by z, whose norm is below √2: G = √2 φ, the supremum, approached as
      the action becomes improbable beside a single other one.
    - Its Hessian is −(diag p − p pᵀ). Along a unit vector v that is the variance of v under p, at most a quarter of the
      squared range of v, which is at most √2: L = φ²/2, reached by two actions with probability ½ each.
    - The derivative of the Hessian is a symmetric trilinear form, so its norm is the largest third central moment
      E(v − Ev)³ of a unit vector. For a given mean that is largest for two values, d³ p(1 − p)(1 − 2p) with d their distance,
      so it is at most d³/(6√3), and d ≤ √2: ρ = φ³ √6/9, reached at p = (1 ± 1/√3)/2.

    :param feature_norm: φ
    :return: the bounds, none of which can be lowered
    """
    return PolicyBounds(math.sqrt(2) * feature_norm, feature_norm**2 / 2, math.sqrt(6) / 9 * feature_norm**3)


@dataclass(frozen=True)
class ConvergenceConstants:
    """
    What follows from Assumptions 1 to 3 for V with one inner step ψ = θ + α ĝ(θ, D), as the paper has it, and
    ``estimator_bound`` with a correction.

    :param policy: G, L and ρ
    :param max_reward: R; rewards lie in [0, R]
    :param gamma: γ, below 1
    :param n_steps: steps of an episode, H + 1
    :param n_episodes: D_in, episodes of an inner batch
    :param inner_lr: α; the paper asks for at most :attr:`max_inner_lr`
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
        """R/(1 − γ)², which bounds Σ_h R^h(τ)."""
        return self.max_reward / (1 - self.gamma) ** 2

    @property
    def gradient_bound(self) -> float:
        """η_G = G R/(1 − γ)², Lemma 1 (i): bounds ‖∇ν(τ)‖, ‖∇J‖ and their estimates, and is a Lipschitz constant of J."""
        return self.policy.score * self._discounted

    @property
    def hessian_bound(self) -> float:
        """η_H = ((H + 1) G² + L) R/(1 − γ)², Lemma 1 (ii): bounds eq. (8), and is a Lipschitz constant of ∇J."""
        return (self.n_steps * self.policy.score**2 + self.policy.curvature) * self._discounted

    @property
    def hessian_slope(self) -> float:
        """η_ρ = (2 (H + 1) G L + ρ) R/(1 − γ)², Lemma 1 (iii): a Lipschitz constant of eq. (9) for given episodes."""
        policy = self.policy
        return (2 * self.n_steps * policy.score * policy.curvature + policy.curvature_slope) * self._discounted

    @property
    def max_inner_lr(self) -> float:
        """1/η_H, the largest α of Proposition 1."""
        return 1 / self.hessian_bound

    @property
    def smoothness(self) -> float:
        """L_V = α η_ρ η_G + 4 η_H + 8 R D_in (H + 1)(L + D_in G² (H + 1)), Proposition 1 (i): a Lipschitz constant of ∇V."""
        n_scores = self.n_episodes * self.n_steps
        scores = self.policy.curvature + n_scores * self.policy.score**2
        inner = self.inner_lr * self.hessian_slope * self.gradient_bound
        return inner + 4 * self.hessian_bound + 8 * self.max_reward * n_scores * scores

    @property
    def max_learning_rate(self) -> float:
        """1/L_V, the largest β of Theorem 1."""
        return 1 / self.smoothness

    @property
    def paper_estimator_bound(self) -> float:
        """
        G_V = 2 G R [(1 − γ)⁻² + D_in (H + 1)], which Proposition 1 (ii) states for ‖∇̃V‖. It does not hold for γ > ½: the
        score term is J̃ times D_in (H + 1) scores, and J̃ can be R/(1 − γ), not 2R. :attr:`estimator_bound` holds.
        """
        return 2 * (self.gradient_bound + self.policy.score * self.max_reward * self.n_episodes * self.n_steps)

    @property
    def estimator_bound(self) -> float:
        """
        G R [2 (1 − γ)⁻² + D_in (H + 1)/(1 − γ)], which bounds ‖∇̃V‖ for α ≤ :attr:`max_inner_lr`: ‖I + α∇²ν‖ ≤ 2 times η_G, and
        J̃ ≤ R/(1 − γ) times the scores. It is below :attr:`paper_estimator_bound` for γ < ½.
        """
        scores = self.n_episodes * self.n_steps * self.policy.score
        return 2 * self.gradient_bound + self.max_reward / (1 - self.gamma) * scores

    def squared_gradient_bound(self, learning_rate: float, batch_size: int, epsilon: float = 0.0) -> float:
        """
        What Theorem 1 promises for E‖∇V‖², 2 G_V² L_V β/(B D_o) + ε², with the bound on ∇̃V that holds and D_o = 1. More outer
        episodes do not do what the theorem says: tasks and inner batches are drawn B times, however many outer episodes there
        are, and their noise is divided by B alone.

        :param learning_rate: β, at most :attr:`max_learning_rate`
        :param batch_size: B
        :param epsilon: ε
        :return: the bound
        """
        return 2 * self.estimator_bound**2 * self.smoothness * learning_rate / batch_size + epsilon**2

    def sufficient_batch_size(self, epsilon: float) -> int:
        """
        :param epsilon: ε
        :return: 8 G_V²/ε², the B of Corollary 1 (i) for β = 1/L_V and one outer episode per task
        """
        return math.ceil(8 * self.estimator_bound**2 / epsilon**2)
