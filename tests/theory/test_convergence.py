"""The constants of the convergence theory against what they bound, and the experiment on convergence."""

import math

import numpy as np
import pytest
import torch as th
from run_examples import run_example
from scipy.optimize import brentq

from sb3_sgmrl.common.phases import task_phases
from sb3_sgmrl.gradient.advantages import AdvantageSettings
from sb3_sgmrl.gradient.objective import MetaObjective
from sb3_sgmrl.score_terms.control_variates import none
from sb3_sgmrl.theory import (
    ConvergenceConstants,
    TabularMDP,
    TabularTasks,
    attained,
    exact_gradient,
    expectation,
    softmax_bounds,
)
from sb3_sgmrl.theory.enumeration import take

ALGORITHMS = ["sgmrl", "maml", "fo-maml"]
PRACTICAL = AdvantageSettings(gamma=0.9, gae_lambda=0.95, baseline="linear", normalize=True)


def plain(gamma):
    return AdvantageSettings(
        gamma, gae_lambda=1.0, baseline="none", normalize=False, discount_from="episode", time_reduction="sum"
    )


def one_state(rewards, horizon=1):
    """Every action has its reward and leads back to the only state."""
    return TabularMDP(np.ones((1, len(rewards), 1)), np.array([rewards], dtype=float), np.ones(1), horizon)


def problem_of(mdps, gamma, inner_lr, n_episodes=2, inner=None, **kwargs):
    goal = MetaObjective(inner=inner or plain(gamma), outer=plain(gamma), inner_lr=inner_lr)
    return TabularTasks(mdps, goal, n_episodes, **kwargs)


@pytest.fixture(scope="module", params=["plain", "practical"])
def problem(request):
    mdps = [TabularMDP.random(2, 2, 2, np.random.default_rng(seed), deterministic=True) for seed in (0, 1)]
    return problem_of(mdps, 0.9, 1.5, inner=PRACTICAL if request.param == "practical" else None)


THETA = np.random.default_rng(5).standard_normal(6)


def flat(parameters):
    return th.cat([value.flatten() for value in parameters.values()]).numpy()


def at(problem, theta):
    """The policy as a function, with these parameters."""
    problem.policy.policy.load_state_dict({**problem.policy.policy.state_dict(), **problem.parameters(theta)})
    return problem.policy


# ---------------------------------------------------------------- expected gradients, and draws


def test_log_probabilities_are_those_of_the_policy():
    mdp = TabularMDP.random(3, 4, 1, np.random.default_rng(0))
    problem = problem_of([mdp], 0.9, 1.0, 1)
    theta = np.random.default_rng(1).standard_normal(16)
    states, actions = (th.as_tensor(x) for x in np.divmod(np.arange(12), 4))
    expected = problem.policy.log_prob(problem.parameters(theta), states, actions)
    assert th.allclose(problem.log_prob(th.from_numpy(theta)), expected, rtol=0, atol=1e-14)


def test_expected_gradient_of_sgmrl_is_that_of_v(problem):
    found = problem.expected_gradients(th.from_numpy(THETA)[None])["sgmrl"][0]
    exact = exact_gradient(at(problem, THETA), problem.mdps, problem.objective, 2, 1)
    assert found.numpy() == pytest.approx(flat(exact), abs=1e-12)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_expected_gradients_are_those_of_what_training_computes(problem, algorithm):
    """The estimate, averaged over every batch of every task."""
    policy = at(problem, THETA)
    by_task = [
        flat(expectation(policy, [mdp], problem.objective, [2, 1], lambda traces: problem.estimate(algorithm, traces)))
        for mdp in problem.mdps
    ]
    found = problem.expected_gradients(th.from_numpy(THETA)[None])[algorithm][0].numpy()
    assert found == pytest.approx(np.mean(by_task, axis=0), abs=1e-12)


def test_value_and_hessian_belong_to_the_gradient():
    mdp = TabularMDP.random(2, 2, 2, np.random.default_rng(3))  # with chance in its transitions
    problem = problem_of([mdp], 0.9, 1.0, 1)
    steps = 1e-5 * np.eye(6)
    ahead, behind = th.from_numpy(THETA + steps), th.from_numpy(THETA - steps)
    gradient = problem.expected_gradients(th.from_numpy(THETA)[None])["sgmrl"][0]
    assert th.allclose((problem.values(ahead) - problem.values(behind)) / 2e-5, gradient, rtol=0, atol=1e-9)
    rows = (problem.expected_gradients(ahead)["sgmrl"] - problem.expected_gradients(behind)["sgmrl"]) / 2e-5
    assert th.allclose(rows, problem.hessian(th.from_numpy(THETA)), rtol=0, atol=1e-9)


def test_tasks_that_come_as_one_have_the_mean_of_their_gradients(problem):
    n_tasks, n_outer = 9, 3
    drawn = problem.draw_traces(THETA, n_tasks, n_outer, np.random.default_rng(0))
    one_by_one = []
    for count, (inner, outer) in drawn:
        assert outer.batch.n_episodes == count * n_outer
        for i in range(count):
            part = take(outer.batch, np.arange(i * n_outer, (i + 1) * n_outer))
            one_by_one.append([inner, *task_phases(problem.policy, problem.objective.outer, part, [outer.parameters])])
    assert len(one_by_one) == n_tasks > len(drawn)
    for algorithm in ALGORITHMS:
        merged = sum(count / n_tasks * flat(problem.estimate(algorithm, [trace])) for count, trace in drawn)
        assert merged == pytest.approx(flat(problem.estimate(algorithm, one_by_one)), abs=1e-12)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_draws_have_the_expected_mean(problem, algorithm):
    n_tasks = 200_000
    found = problem.draw_gradient(algorithm, THETA, n_tasks, 1, np.random.default_rng(0))
    single = [problem.draw_gradient(algorithm, THETA, 1, 1, np.random.default_rng(seed)) for seed in range(60)]
    expected = problem.expected_gradients(th.from_numpy(THETA)[None])[algorithm][0].numpy()
    error = np.sqrt(np.var(single, axis=0).sum() / n_tasks)
    assert np.linalg.norm(found - expected) < 3 * error < 0.2 * np.linalg.norm(expected)


def test_noise_falls_with_tasks_but_not_with_outer_episodes():
    """Theorem 1 divides by B · D_o, but tasks and inner batches are drawn B times only."""
    problem = problem_of([one_state([1, 0]), one_state([0, 1])], 0.0, 2.0)
    theta, rng = np.zeros(4), np.random.default_rng(0)
    exact = problem.expected_gradients(th.from_numpy(theta)[None])["sgmrl"][0].numpy()

    def noise(n_tasks, n_outer):
        draws = [problem.draw_gradient("sgmrl", theta, n_tasks, n_outer, rng) for _ in range(100)]
        return np.mean(np.sum((np.array(draws) - exact) ** 2, axis=1))

    one = noise(1, 1)
    assert noise(1, 400) > 0.3 * one
    assert noise(400, 1) < 0.005 * one


# ---------------------------------------------------------------- constants


@pytest.mark.parametrize("n_actions", [2, 3])
def test_softmax_bounds_hold_and_cannot_be_lowered(n_actions):
    bounds = softmax_bounds()
    problem = problem_of([one_state([1.0] + [0.0] * (n_actions - 1))], 0.0, 0.1, 1, control_variate=none)
    rng = np.random.default_rng(0)
    random = np.concatenate([scale * rng.standard_normal((10, 2 * n_actions)) for scale in (0.3, 3.0)])
    # all but two actions are improbable, one of the two has probability 1e-6, ½ or (1 + 1/√3)/2
    extreme = np.zeros((3, 2 * n_actions))
    extreme[:, 2:n_actions] = -25.0
    extreme[:, 0] = -math.log(1e6), 0.0, math.log((math.sqrt(3) + 1) / (math.sqrt(3) - 1))
    for thetas, at_least in ((random, 0.0), (extreme, 1 - 1e-5)):
        found = attained(problem, thetas)
        for name in ("score", "curvature", "curvature_slope"):
            assert at_least < found[name] / getattr(bounds, name) < 1 + 1e-6, name


def test_constants_of_a_small_example():
    """By hand, with G = 2 and L = 1: 4·5 + 8·(1 + 4), 8·(4·(1 + 2·4)), 2·2·(4 + 3·2)."""
    bounds = softmax_bounds()
    assert (bounds.score, bounds.curvature) == pytest.approx((2.0, 1.0))
    assert softmax_bounds(1.0).score == pytest.approx(math.sqrt(2))
    simple = ConvergenceConstants(bounds, 1.0, 0.0, 1, 1, 0.0)
    assert simple.smoothness == pytest.approx(60.0)
    assert (simple.max_inner_lr, simple.max_learning_rate) == pytest.approx((1 / 5, 1 / 60))
    more = ConvergenceConstants(bounds, 3.0, 0.5, 2, 3, 0.0)
    assert more.gradient_bound == pytest.approx(2 * 3 * 4)
    assert more.hessian_bound == pytest.approx((2 * 4 + 1) * 3 * 4)
    assert more.hessian_slope == pytest.approx((2 * 2 * 2 + bounds.curvature_slope) * 3 * 4)
    assert more.smoothness == pytest.approx(4 * 108 + 8 * 3 * 3 * 2 * (1 + 3 * 4 * 2))
    assert more.paper_estimator_bound == pytest.approx(2 * 2 * 3 * (4 + 3 * 2)) == more.estimator_bound
    assert simple.squared_gradient_bound(1 / 60, 32, 0.1) == pytest.approx(2 * simple.estimator_bound**2 / 32 + 0.01)
    assert simple.sufficient_batch_size(0.5) == math.ceil(32 * simple.estimator_bound**2)
    with pytest.raises(ValueError, match=r"`gamma` must lie in \[0, 1\), got 1"):
        ConvergenceConstants(bounds, 1.0, 1.0, 1, 1, 0.0)


def ratios(problem, thetas, inner_lr):
    """What is attained of each bound."""
    n_steps = problem.mdps[0].horizon
    gamma = problem.objective.outer.gamma
    constants = ConvergenceConstants(softmax_bounds(), 1.0, gamma, n_steps, problem.n_episodes, inner_lr)
    found = attained(problem, thetas)
    return {name: value / getattr(constants, name) for name, value in found.items() if hasattr(constants, name)}


@pytest.mark.parametrize("variate", ["none", "leave_one_out_return"])
def test_every_bound_holds(variate):
    rng = np.random.default_rng(0)
    mdps = [TabularMDP.random(2, 2, 2, rng, deterministic=True) for _ in range(2)]
    mdps = [TabularMDP(mdp.transitions, rng.uniform(0, 1, (2, 2)).round(), mdp.initial, 2) for mdp in mdps]
    inner_lr = ConvergenceConstants(softmax_bounds(), 1.0, 0.6, 2, 2, 0.0).max_inner_lr
    problem = problem_of(mdps, 0.6, inner_lr, **({"control_variate": none} if variate == "none" else {}))
    thetas = np.concatenate([scale * rng.standard_normal((2, 6)) for scale in (0.3, 1.0, 5.0)])
    found = ratios(problem, thetas, inner_lr)
    assert set(found) == {"gradient_bound", "hessian_bound", "hessian_slope", "smoothness", "estimator_bound"}
    assert max(found.values()) < 1
    # along segments as well, which the second derivative at their ends does not say
    ends = rng.permutation(thetas)
    slopes = np.diff([problem.expected_gradients(th.from_numpy(x))["sgmrl"].numpy() for x in (thetas, ends)], axis=0)[0]
    lengths = np.linalg.norm(ends - thetas, axis=1)
    smoothness = ConvergenceConstants(softmax_bounds(), 1.0, 0.6, 2, 2, inner_lr).smoothness
    moved = lengths > 0
    assert moved.any() and (np.linalg.norm(slopes, axis=1)[moved] <= smoothness * lengths[moved]).all()


def test_bounds_are_nearly_attained():
    """All actions have reward 1, and an improbable one is played at each of four steps; γ = 0 leaves R/(1 − γ)² = R."""
    inner_lr = 1e-3
    problem = problem_of([one_state([1, 1], horizon=4)], 0.0, inner_lr, 1, control_variate=none)
    found = ratios(problem, np.array([[-14.0, 0, 0, 0], [-math.log(2), 0, 0, 0]]), inner_lr)
    assert 0.99 < found["gradient_bound"] < 1
    assert 0.99 * 16 / 17 < found["hessian_bound"] < 1  # (H + 1) G² of (H + 1) G² + L
    assert 0.5 < found["hessian_slope"] < 1
    assert 0.99 * 5 / 6 < found["estimator_bound"] < 1  # α is small, so 1 of 2 in ‖I + α∇²ν‖ ≤ 2


def test_slope_of_the_hessian_estimate_by_hand():
    """
    One state and one step, reward 1. Along the unit vector that prefers action 0, log π(0) has the derivatives 2(1 − p),
    −4p(1 − p) and −8p(1 − p)(1 − 2p), so that of eq. (8) is −8p(1 − p)(3 − 4p); that of action 1 is smaller for p = 1/3.
    """
    problem = problem_of([one_state([1, 1])], 0.0, 0.1, 1, control_variate=none)
    found = attained(problem, np.array([[-math.log(2), 0, 0, 0]]))["hessian_slope"]
    assert found == pytest.approx(8 * (2 / 9) * (5 / 3), rel=1e-9)


def test_bound_of_the_estimator_in_the_paper_does_not_hold():
    """γ = 0.9, all rewards are 1, and an improbable action is played at each of five steps of forty inner episodes."""
    constants = ConvergenceConstants(softmax_bounds(), 1.0, 0.9, 5, 40, 0.0)
    problem = problem_of([one_state([1, 1], horizon=5)], 0.9, constants.max_inner_lr, 1, control_variate=none)
    parameters = problem.parameters(np.array([-14.0, 0, 0, 0]))
    batch = problem.tasks[0].batch
    (always,) = np.flatnonzero((batch.actions == 0).all(1))
    inner = task_phases(problem.policy, problem.objective.inner, take(batch, [always] * 40), [parameters])[0]
    outer = task_phases(problem.policy, problem.objective.outer, take(batch, [always]), [parameters])[0]
    norm = np.linalg.norm(flat(problem.estimate("sgmrl", [[inner, outer]])))
    assert constants.paper_estimator_bound * 1.3 < norm < constants.estimator_bound


# ---------------------------------------------------------------- where the algorithms go


def test_maml_has_a_floor_where_the_theorem_applies():
    """α = 1/η_H, one state and one step: V has its maximum inside, SG-MRL's mean gradient vanishes there, MAML's does not."""
    inner_lr = ConvergenceConstants(softmax_bounds(), 1.0, 0.0, 1, 2, 0.0).max_inner_lr
    problem = problem_of([one_state([1, 0.5]), one_state([0, 0.5])], 0.0, inner_lr)

    def gradients(*logits):
        return problem.expected_gradients(th.tensor([[logit, 0.0, 0.0, 0.0] for logit in logits], dtype=th.float64))

    largest = float(gradients(*np.linspace(-6, 6, 121))["sgmrl"].norm(dim=1).max())
    norms = {}
    for algorithm in ALGORITHMS:
        assert gradients(-3.0)[algorithm][0, 0] > 0 > gradients(3.0)[algorithm][0, 0]
        limit = brentq(lambda logit, name=algorithm: float(gradients(logit)[name][0, 0]), -3, 3, xtol=1e-12)
        norms[algorithm] = float(gradients(limit)["sgmrl"].norm()) / largest
    assert norms["sgmrl"] < 1e-9
    assert norms["maml"] > 0.9
    assert norms["fo-maml"] > 0.05


@pytest.mark.slow
def test_example(tmp_path):
    lines = run_example(
        tmp_path, "convergence.py", "--quick", "--seeds", "2", "--workers", "1", "--folder", "figures"
    ).splitlines()
    limits = {line.split()[0]: float(line.split()[2]) for line in lines if line.startswith(("SG-MRL ", "MAML ", "FO-MAML "))}
    assert limits["SG-MRL"] < 1e-9
    assert min(limits["MAML"], limits["FO-MAML"]) > 0.1
    (row,) = (line.split() for line in lines if line.startswith("64 "))
    assert float(row[1]) < 0.1
    assert sum("Corollary 1 allows -4" in line for line in lines) == 2
    assert (tmp_path / "figures" / "convergence.png").exists()
