"""The result for a seed depends on nothing but the seed."""

import pytest
from stable_baselines3.common.env_util import make_vec_env
from toys import ALGORITHMS, assert_same, differ, point_vec, rotated, state, tiny

from sb3_sgmrl import SGMRL, TaskDistEnv


def after_two_iterations(algorithm, env, **kwargs):
    kwargs = {"net_arch": [5], **kwargs}
    settings = {key: value for key, value in kwargs.items() if key != "net_arch"}
    model = tiny(algorithm, env, policy_kwargs={"net_arch": kwargs["net_arch"]}, **settings)
    model.learn(model.num_timesteps + 1)
    model.learn(1, reset_num_timesteps=False)
    assert model._n_updates == 2
    if model.env.__class__.__name__ == "SubprocVecEnv":
        model.env.close()
    return state(model)


SETTINGS = [{}, {"net_arch": [64, 64]}, {"n_inner_steps": 2, "n_outer_episodes": 7}, {"baseline": "critic"}]


@pytest.mark.parametrize(("algorithm", "settings"), rotated(ALGORITHMS, SETTINGS), ids=str)
def test_the_number_of_workers_makes_no_difference(algorithm, settings):
    results = [after_two_iterations(algorithm, point_vec(n, end=0.2), **settings) for n in (1, 3, 7)]
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


@pytest.mark.parametrize(
    "settings",
    [
        {"control_variate": "task_regression"},
        {"control_variate": "counterfactual", "control_variate_scaling": True},
        {"action": "multi_discrete"},
        {"action": "discrete"},
    ],
    ids=str,
)
def test_nor_do_they_with_other_settings(settings):
    kwargs = {"action": settings["action"]} if "action" in settings else {}
    settings = {} if kwargs else settings
    results = [after_two_iterations(SGMRL, point_vec(n, end=0.2, **kwargs), **settings) for n in (1, 3, 7)]
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_worker_processes_make_no_difference(algorithm):
    results = [after_two_iterations(algorithm, point_vec(2, subprocess=s, end=0.2)) for s in (False, True)]
    assert_same(*results)


@pytest.mark.parametrize("env_id", ["Navigation2D-v0", "BernoulliBandit-v0", "TabularMDP-v0"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_batched_engine_makes_no_difference(algorithm, env_id):
    """Bit-equal as well."""

    def make():
        return TaskDistEnv(env_id, max_episode_steps=6)

    assert_same(*(after_two_iterations(algorithm, env) for env in (make(), make_vec_env(make, 3))))


def test_the_number_of_threads_makes_no_difference():
    results = [after_two_iterations(SGMRL, point_vec(3), n_threads=n, meta_batch_size=5) for n in (1, 2, 4)]
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_seeds(algorithm):
    results = [after_two_iterations(algorithm, point_vec(3), seed=seed) for seed in (1, 1, 2, None, None)]
    assert_same(results[0], results[1])
    for i, j in ((0, 2), (0, 3), (3, 4)):
        assert differ(results[i], results[j])
