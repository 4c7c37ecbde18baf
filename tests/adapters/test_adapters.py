"""Task distributions of benchmarks by others, where their packages are installed."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env
from toys import PointEnv, point, point_vec, tiny

from sb3_sgmrl import MAML, SGMRL, TaskDistEnv, evaluate_adaptation
from sb3_sgmrl.adapters import carl_contexts, evaluate_success, metaworld_benchmark, minigrid_layouts, robotics_goals


def first_observation(env, task, seed):
    env.set_task(task)
    return env.reset(seed=seed)[0]


def trajectory(env, task, seed, n_steps=10):
    """Observations, rewards and ends of an episode with actions that are the same in each."""
    observation = first_observation(env, task, seed)
    env.action_space.seed(0)
    played = [(observation, 0.0, False, False)]
    for _ in range(n_steps):
        played.append(env.step(env.action_space.sample())[:4])
        assert env.observation_space.contains(played[-1][0])
        if played[-1][2] or played[-1][3]:
            break
    return played


def is_a_task_distribution(env, policy="MlpPolicy", has_spec=True):
    """What holds for the distribution of any adapter."""
    assert env.horizon is not None
    if has_spec:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice
            check_env(env, skip_render_check=True)
    one, other = env.sample_tasks(2, rng=0)
    np.testing.assert_equal(env.sample_tasks(2, rng=0), [one, other])
    # the task and the seed determine an episode, on whichever worker, and whatever was played before
    expected = trajectory(env, one, 3)
    trajectory(env, other, 4)
    np.testing.assert_equal(trajectory(env, one, 3), expected)
    model = SGMRL(policy, env, meta_batch_size=2, n_episodes=2, n_envs=2, seed=0)
    np.testing.assert_equal(trajectory(model.env.envs[1].env, one, 3), expected)
    env.set_task(None)
    model.learn(1)
    assert np.isfinite(evaluate_adaptation(model, n_tasks=2).returns).all()
    return model


# --------------------------------------------------------------------------------------------------- gymnasium-robotics


@pytest.fixture
def robotics():
    return pytest.importorskip("gymnasium_robotics")


def maze(**kwargs):
    return robotics_goals("PointMaze_OpenDense-v3", max_episode_steps=20, **kwargs)


def test_goals_of_a_maze(robotics):
    env = maze()
    assert env.observation_space.shape == (4,)
    goals = np.array(env.sample_tasks(20, rng=0))
    assert len(np.unique(goals, axis=0)) == 20
    x, y = env.unwrapped.maze.x_map_center, env.unwrapped.maze.y_map_center
    assert (np.abs(goals) < [x, y]).all()  # inside the walls
    model = is_a_task_distribution(env)
    assert set(np.unique(evaluate_success(model, n_tasks=2, n_episodes=2).returns)) <= {0, 1 / 3, 2 / 3, 1}


def test_the_goal_is_in_force_and_stays(robotics):
    env = maze()
    goal = np.array([0.5, -0.5])
    env.set_task(goal)
    for seed in range(3):
        env.reset(seed=seed)
        np.testing.assert_array_equal(env.unwrapped.goal, goal)
        observation, reward, *_ = env.step(np.zeros(2))
        assert reward == pytest.approx(np.exp(-np.linalg.norm(observation[:2] - goal)))
    np.testing.assert_array_equal(env.unwrapped.model.site("target").pos[:2], goal)


def test_drawing_goals_does_not_disturb_an_episode(robotics):
    env = maze()
    undisturbed = trajectory(env, [0.5, -0.5], 0)
    env.reset(seed=0)
    env.action_space.seed(0)
    for step in undisturbed[1:]:
        env.sample_tasks(1, rng=1)
        np.testing.assert_equal(env.step(env.action_space.sample())[:4], step)


def test_goals_of_a_person(robotics):
    env = maze(tasks=[[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]], split=0.25)
    assert env.has_test_tasks
    np.testing.assert_array_equal(env.check_task([0.0, 1.0]), [0.0, 1.0])


def test_goals_of_a_robot(robotics):
    try:
        env = robotics_goals("FetchReachDense-v4", max_episode_steps=10)
    except AssertionError:
        pytest.skip("this version of gymnasium-robotics does not load its robots with this version of MuJoCo")
    goal = env.sample_tasks(1, rng=0)[0]
    first_observation(env, goal, 0)
    *_, reward, _, _, _ = env.step(np.zeros(4))
    assert reward == pytest.approx(-np.linalg.norm(env.unwrapped.data.site("robot0:grip").xpos - goal), abs=1e-6)
    is_a_task_distribution(env)


def test_what_has_no_goal_or_moves_it(robotics):
    with pytest.raises(ValueError, match="`env` must be a goal environment"):
        robotics_goals("Pendulum-v1")
    with pytest.raises(ValueError, match="`reset_target` must be False"):
        robotics_goals("PointMaze_OpenDense-v3", reset_target=True)


# ------------------------------------------------------------------------------------------------------------- MiniGrid


@pytest.fixture
def grids():
    return pytest.importorskip("minigrid")


def test_layouts(grids):
    env = minigrid_layouts("MiniGrid-Fetch-5x5-N2-v0", max_steps=20)
    assert set(env.observation_space) == {"image", "direction"}
    assert isinstance(env.action_space, spaces.Discrete)
    assert env.horizon == 20

    def layout(task, seed):
        env.set_task(task)
        env.reset(seed=seed)
        base = env.unwrapped
        return base.grid.encode().tolist(), base.agent_pos, base.agent_dir, base.targetType, base.targetColor

    assert layout(3, 0) == layout(3, 1) != layout(4, 0)
    bare = gym.make("MiniGrid-Fetch-5x5-N2-v0")
    bare.reset(seed=3)
    assert layout(3, 0)[0] == bare.unwrapped.grid.encode().tolist()
    is_a_task_distribution(env, "MultiInputPolicy")


def test_training_and_test_layouts(grids):
    env = minigrid_layouts("MiniGrid-Empty-5x5-v0", layouts=range(10), test_layouts=[70, 80])
    assert set(env.sample_tasks(200, rng=0)) == set(range(10))
    assert set(env.sample_tasks(20, rng=0, split="test")) == {70, 80}
    assert not minigrid_layouts("MiniGrid-Empty-5x5-v0", test_layouts=None).has_test_tasks


def test_tasks_drawn_at_resets_do_not_go_in_circles(grids):
    env = minigrid_layouts("MiniGrid-Empty-5x5-v0", layouts=range(100))
    drawn = [env.reset(seed=0)[1]["task"]] + [env.reset()[1]["task"] for _ in range(30)]
    assert len(set(drawn)) > 20


def test_what_moves_in_a_grid_is_not_the_same_in_every_episode(grids):
    env = minigrid_layouts("MiniGrid-Dynamic-Obstacles-8x8-v0")

    def obstacles(seed):
        env.set_task(0)
        env.reset(seed=seed)
        places = [[tuple(ball.cur_pos) for ball in env.unwrapped.obstacles]]
        env.step(0)
        return [*places, [tuple(ball.cur_pos) for ball in env.unwrapped.obstacles]]

    (before, after), (before_other, after_other) = obstacles(0), obstacles(1)
    assert before == before_other
    assert after != after_other
    assert obstacles(0) == [before, after]


def test_pixels_and_symbols(grids):
    from minigrid.wrappers import ImgObsWrapper, RGBImgPartialObsWrapper

    made = gym.make("MiniGrid-Fetch-5x5-N2-v0", max_steps=5)
    assert minigrid_layouts(ImgObsWrapper(made)).observation_space == spaces.Box(0, 10, (7, 7, 3), np.uint8)
    env = minigrid_layouts(ImgObsWrapper(RGBImgPartialObsWrapper(made)))
    assert env.observation_space == spaces.Box(0, 255, (56, 56, 3), np.uint8)
    tiny(
        MAML, env, policy="CnnPolicy", policy_kwargs={"net_arch": [], "features_extractor_kwargs": {"features_dim": 8}}
    ).learn(1)


def test_what_is_no_grid(grids):
    with pytest.raises(ValueError, match="`env` must be an environment of MiniGrid"):
        minigrid_layouts("Pendulum-v1")


# ----------------------------------------------------------------------------------------------------------------- CARL


@pytest.fixture
def pendulum():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of environments that are not installed
        return pytest.importorskip("carl.envs").CARLPendulum


@pytest.mark.filterwarnings("ignore")
def test_contexts(pendulum):
    env = carl_contexts(pendulum, {"g": (5.0, 10.0), "l": (0.5, 1.5)}, {"l": (1.5, 2.0), "g": (5.0, 10.0)})
    assert env.observation_space.shape == (3,)
    test = np.array(env.sample_tasks(20, rng=0, split="test"))
    assert ((test[:, 1] >= 1.5) & (test[:, 1] <= 2.0) & (test[:, 0] >= 5.0)).all()
    for task in ([6.0, 0.7], [9.0, 1.2], [6.0, 0.7]):
        env.set_task(task)
        for _ in range(2):
            env.reset()
            assert (env.unwrapped.g, env.unwrapped.l, env.unwrapped.m) == (*task, 1)
    is_a_task_distribution(env, has_spec=False)


@pytest.mark.filterwarnings("ignore")
def test_contexts_that_are_none(pendulum):
    for contexts, match in (
        ({"gravitation": (0, 1)}, "`contexts` must give ranges of gravity, dt, g"),
        ({}, "`contexts` must give ranges"),
        ({"g": (10, 5)}, "from low to high for g"),
        ({"g": (0, np.inf)}, "finite range"),
    ):
        with pytest.raises(ValueError, match=match):
            carl_contexts(pendulum, contexts)
    with pytest.raises(ValueError, match="`test_contexts` must give ranges of the features of `contexts`, g"):
        carl_contexts(pendulum, {"g": (5, 10)}, {"l": (1, 2)})
    with pytest.raises(ValueError, match="`env` must be an environment of CARL"):
        carl_contexts("Pendulum-v1", {"g": (5, 10)})


# ----------------------------------------------------------------------------------------------------------- Meta-World


@pytest.fixture(scope="module")
def metaworld():
    return pytest.importorskip("metaworld")


@pytest.fixture(scope="module")
def ml1(metaworld):
    return metaworld_benchmark("reach-v3", max_episode_steps=10)


def test_ml1_trains_and_tests_on_the_goals_of_the_benchmark(metaworld, ml1):
    import pickle

    benchmark = metaworld.ML1("reach-v3", seed=0)

    def goals(tasks):
        return {tuple(pickle.loads(task.data)["rand_vec"]) for task in tasks}

    def drawn(split):
        return {tuple(pickle.loads(ml1.unwrapped.tasks[name].data)["rand_vec"]) for name in ml1.sample_tasks(500, 0, split)}

    assert drawn("train") == goals(benchmark.train_tasks)
    assert drawn("test") == goals(benchmark.test_tasks)
    assert not drawn("train") & drawn("test")


def test_ml1_task_is_in_force(ml1):
    import pickle

    for name in (("reach-v3", 3), ("reach-v3", 60)):
        observation = first_observation(ml1, name, 0)
        wanted = pickle.loads(ml1.unwrapped.tasks[name].data)["rand_vec"]
        np.testing.assert_array_equal(ml1.unwrapped._made["reach-v3"]._target_pos, wanted[3:])
        np.testing.assert_array_equal(observation[-3:], 0)  # the goal is not observed
    ml1.set_task(None)


@pytest.mark.filterwarnings("ignore")
def test_ml1_is_learnt_and_judged_by_success(ml1):
    model = is_a_task_distribution(ml1)
    report = evaluate_success(model, n_tasks=2, n_episodes=2)
    assert report.returns.shape == (2, 2)
    assert all(number >= 50 for _, number in report.tasks)


def test_ml10_has_other_environments_for_testing(metaworld):
    env = metaworld_benchmark("ML10", max_episode_steps=5)
    train, test = ({name for name, _ in env.sample_tasks(1000, 0, split)} for split in ("train", "test"))
    assert (len(train), len(test), len(train & test)) == (10, 5, 0)
    tiny(MAML, env, n_envs=2).learn(1)
    for task in env.sample_tasks(5, rng=0):
        assert env.observation_space.contains(first_observation(env, task, 0))
        assert type(env.unwrapped._made[task[0]]) is env.unwrapped.classes[task[0]]


@pytest.mark.slow
def test_ml45(metaworld):
    env = metaworld_benchmark("ML45", max_episode_steps=5)
    train, test = ({name for name, _ in env.sample_tasks(5000, 0, split)} for split in ("train", "test"))
    assert (len(train), len(test), len(train & test)) == (45, 5, 0)


def test_what_is_no_benchmark(metaworld):
    with pytest.raises(ValueError, match=r"`name` must be ML10, ML25, ML45 or the name of an environment.*'reach'"):
        metaworld_benchmark("reach")
    with pytest.raises(ValueError, match="`max_episode_steps` must be from 1 to 500"):
        metaworld_benchmark("reach-v3", max_episode_steps=501)


# -------------------------------------------------------------------------------------------------------- success rates


class Reports(PointEnv):
    """A success is reported at the second step of an episode, of tasks whose first coordinate is positive."""

    def reset(self, **kwargs):
        self.n = 0
        return super().reset(**kwargs)

    def step(self, action):
        self.n += 1
        *rest, info = super().step(action)
        return *rest, {**info, "is_success": float(self.n == 2 and self.goal[0] > 0)}


TASKS = [[0.5, 0.1], [-0.5, 0.1], [0.9, -0.3]]


@pytest.mark.parametrize("n_envs", [1, 2, 5])
def test_success_at_any_step(n_envs):
    model = tiny(MAML, make_vec_env(lambda: TaskDistEnv(TimeLimit(Reports(), 5)), n_envs))
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    report = evaluate_success(model, tasks=TASKS, n_steps=2, n_episodes=2)
    np.testing.assert_array_equal(report.returns, np.array([[1.0] * 3, [0.0] * 3, [1.0] * 3]))
    assert all(th.equal(value, before[key]) for key, value in model.policy.state_dict().items())
    assert "mean success rate" in str(report)
    model.env.reset()  # the workers draw their own tasks again
    assert model.env.env_method("get_pinned_task") == [None] * n_envs


class Reached(PointEnv):
    """Success depends on the policy and on the episode."""

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, {**info, "success": bool(action[0] + self.np_random.normal() > 0.5)}


def test_success_rates_do_not_depend_on_the_workers_and_are_those_of_the_adapted_policy():
    def rates(n_envs, **kwargs):
        model = tiny(MAML, TaskDistEnv(TimeLimit(Reached(), 1)), n_envs=n_envs, inner_lr=0.1)
        return evaluate_success(model, tasks=TASKS, n_eval_episodes=50, **kwargs).returns

    one = rates(1)
    np.testing.assert_array_equal(one, rates(7))
    assert 0.05 < one[:, 0].mean() < 0.95
    assert (one[:, 0] != one[:, 1]).any()
    assert not np.array_equal(one, rates(1, seed=1))


def test_an_environment_that_does_not_report_success():
    with pytest.raises(ValueError, match="`env` must report success"):
        evaluate_success(tiny(SGMRL, point_vec(2)), n_tasks=1)
    model = tiny(SGMRL, point())
    for name in ("n_tasks", "n_steps", "n_episodes", "n_eval_episodes"):
        with pytest.raises(ValueError, match=f"`{name}` must be a positive integer"):
            evaluate_success(model, **{name: 0})
    with pytest.raises(ValueError, match="is not in the task space"):
        evaluate_success(model, tasks=[[5.0, 5.0]])
