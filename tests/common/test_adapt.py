"""Adapting a trained model to a task."""

import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from toys import ALGORITHMS, HORIZON, PointEnv, assert_same, differ, point, point_vec, state, tiny

from sb3_sgmrl import MAML, SGMRL, TaskDistEnv
from sb3_sgmrl.common.phases import adapt_tasks, task_phases
from sb3_sgmrl.common.sampling import collect_phase
from sb3_sgmrl.data.streams import ADAPTATION
from sb3_sgmrl.vec_env.borrowing import tasks_released_afterwards

GOAL = np.array([0.8, -0.3])


def policy_state(policy):
    return {name: value.detach().numpy().copy() for name, value in policy.state_dict().items()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("n_steps", [1, 3])
def test_adapt_takes_inner_steps_and_leaves_the_model_alone(algorithm, n_steps, tmp_path):
    model = tiny(algorithm, point_vec(3)).learn(1)
    before, optimizer = state(model), str(model.policy.optimizer.state_dict())
    numbers = (model.num_timesteps, model._n_updates, model._iteration)
    policy = model.adapt(task=GOAL, n_steps=n_steps, n_episodes=6, seed=7)
    assert_same(before, state(model))
    assert optimizer == str(model.policy.optimizer.state_dict())
    assert numbers == (model.num_timesteps, model._n_updates, model._iteration)
    changed = differ(before, policy_state(policy))
    assert changed == set(model.functional.adapted_names)
    # by hand
    parameters = model.functional.parameters()
    for step in range(n_steps):
        with tasks_released_afterwards(model.env):
            phase = collect_phase(model.env, model.functional, [parameters], [GOAL], 6, [7, ADAPTATION, 1, step])
        phases = task_phases(model.functional, model.objective.inner, phase, [parameters])
        parameters = adapt_tasks(model.functional, model.objective, phases, [GOAL])[0]
    for name, value in parameters.items():
        np.testing.assert_array_equal(dict(policy.named_parameters())[name].detach().numpy(), value.numpy())
    # an ordinary policy of SB3
    assert type(policy) is type(model.policy)
    policy.save(tmp_path / "policy")
    loaded = type(policy).load(tmp_path / "policy")
    assert_same(policy_state(loaded), policy_state(policy))
    env = point()
    env.set_task(GOAL)
    assert evaluate_policy(loaded, Monitor(env), n_eval_episodes=2)[0] < 0
    np.testing.assert_array_equal(*(p.predict(np.ones(3, np.float32), deterministic=True)[0] for p in (policy, loaded)))


def test_adapt_follows_task_seed_and_number_of_episodes_but_not_workers():
    model = tiny(SGMRL, point_vec(3))
    usual = policy_state(model.adapt(task=GOAL))
    assert_same(usual, policy_state(model.adapt(task=GOAL.tolist())))
    assert_same(usual, policy_state(model.adapt(point_vec(5), task=GOAL)))
    assert_same(usual, policy_state(model.adapt(point(), task=GOAL)))
    assert_same(usual, policy_state(model.adapt(task=GOAL, n_episodes=4)))
    for kwargs in ({"seed": 1}, {"n_episodes": 5}, {"n_steps": 2}, {"task": -GOAL}):
        assert differ(usual, policy_state(model.adapt(**{"task": GOAL, **kwargs})))


FAMILIES = {
    "clones": point,
    "batched": lambda: TaskDistEnv("Navigation2D-v0", max_episode_steps=HORIZON),
    "workers": lambda: point_vec(3),
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_adapt_to_the_task_that_is_pinned_on_an_environment(kind):
    goal = GOAL / 2
    env, model = FAMILIES[kind](), tiny(SGMRL, FAMILIES["batched" if kind == "batched" else "clones"]())
    if kind == "workers":
        env.env_method("set_task", goal)
    else:
        env.set_task(goal)
    assert_same(policy_state(model.adapt(env)), policy_state(model.adapt(task=goal)))
    # it is not forgotten
    pinned = env.env_method("get_task")[0] if kind == "workers" else env.get_task()
    np.testing.assert_array_equal(pinned, goal)


@pytest.mark.parametrize("kind", FAMILIES)
def test_adapt_to_a_random_task(kind):
    env = FAMILIES[kind]()
    model = tiny(SGMRL, env)
    model.learn(1)
    sample = FAMILIES["batched" if kind == "batched" else "clones"]().sample_tasks
    policies = [policy_state(model.adapt(seed=seed)) for seed in (1, 1, 2)]
    assert_same(policies[0], policies[1])
    assert differ(policies[0], policies[2])
    for seed in (1, 2):
        assert_same(policies[seed], policy_state(model.adapt(task=sample(1, [seed, ADAPTATION, 0])[0], seed=seed)))


def test_adapt_to_given_episodes():
    model = tiny(MAML, point_vec(3))
    with tasks_released_afterwards(model.env):
        episodes = collect_phase(
            model.env, model.functional, [model.functional.parameters()], [GOAL], 4, [0, ADAPTATION, 1, 0]
        )
    model.set_env(point_vec(2))
    steps = model.env.step_async
    model.env.step_async = None  # nothing is played
    policy = model.adapt(episodes=episodes)
    model.env.step_async = steps
    assert_same(policy_state(policy), policy_state(model.adapt(task=GOAL)))


def test_adapting_helps():
    """After training on one family of two goals, a step of adaptation on either brings the return up."""
    env = make_vec_env(
        lambda: TaskDistEnv(TimeLimit(PointEnv(), HORIZON), tasks=[[1.0, 0.0], [-1.0, 0.0]], set_task="goal"), 20
    )
    model = tiny(SGMRL, env, meta_batch_size=6, n_episodes=20, learning_rate=0.05, inner_lr=0.5)
    model.learn(8 * 2 * 120 * HORIZON)
    for task in ([1.0, 0.0], [-1.0, 0.0]):
        env.env_method("set_task", task)
        before, after = (
            evaluate_policy(policy, env, 100, deterministic=False)[0] for policy in (model, model.adapt(task=task))
        )
        assert after > before + 0.5, (before, after)
