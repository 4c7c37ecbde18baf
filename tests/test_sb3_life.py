"""What works with SB3's own algorithms works with these: callbacks, wrappers, environments, parameters, policies."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)
from toys import ALGORITHMS, HORIZON, PointEnv, SmallCnn, assert_same, differ, point, point_vec, state, tiny

from sb3_sgmrl import SGMRL, TaskDistEnv, evaluate_adaptation
from sb3_sgmrl.plots import navigation_trajectories

SAMPLES = 2 * 3 * 4 * HORIZON
GOAL = np.array([0.8, -0.3])


class Recorder(BaseCallback):
    """Writes down what happens and checks at each step that the model holds the meta-parameters."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.events = []
        self.stop_at = stop_at
        self.counted = []

    def _on_training_start(self):
        self.events.append("training start")

    def _on_rollout_start(self):
        self.events.append("rollout start")
        self.meta_parameters = state(self.model)

    def _on_step(self):
        self.events.append("step")
        self.counted.append(self.num_timesteps)
        assert self.num_timesteps == self.model.num_timesteps
        assert_same(self.meta_parameters, state(self.model))
        n_envs = self.training_env.num_envs
        for name in ("new_obs", "rewards", "dones", "infos", "actions"):
            assert len(self.locals[name]) == n_envs, name
        return self.n_calls != self.stop_at

    def _on_rollout_end(self):
        self.events.append("rollout end")
        assert_same(self.meta_parameters, state(self.model))

    def _on_training_end(self):
        self.events.append("training end")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_callbacks_are_called_as_by_sb3(algorithm):
    recorder = Recorder()
    tiny(algorithm, point_vec(4)).learn(2 * SAMPLES, callback=recorder)
    iteration = ["rollout start", *["step"] * (2 * 3 * HORIZON), "rollout end"]
    assert recorder.events == ["training start", *iteration, *iteration, "training end"]
    assert recorder.counted == list(range(4, 2 * SAMPLES + 1, 4))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("stop_at", [1, 7, 17, 30])
def test_a_false_return_stops_without_a_training_step(algorithm, stop_at):
    """In the first or the second phase, or at the very last step."""
    recorder = Recorder(stop_at)
    model = tiny(algorithm, point_vec(4))
    before = state(model)
    model.learn(10 * SAMPLES, callback=recorder)
    assert recorder.events == ["training start", "rollout start", *["step"] * stop_at, "training end"]
    assert_same(before, state(model))
    assert (model.num_timesteps, model._n_updates) == (4 * stop_at, 0)
    # the workers draw tasks again, and training can begin anew, as if nothing had been
    model.env.reset()
    assert len({tuple(task) for task in model.env.env_method("get_task")}) == 4
    assert_same(state(model.learn(1)), state(tiny(algorithm, point_vec(4)).learn(1)))


@pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type")
@pytest.mark.parametrize("env_id", ["point", "Navigation2D-v0"])
def test_eval_callback_scores_the_meta_policy(env_id, tmp_path):
    navigation = partial(TaskDistEnv, "Navigation2D-v0", max_episode_steps=5, early_end=False)
    env = point_vec(4) if env_id == "point" else navigation()
    eval_env = Monitor(point() if env_id == "point" else navigation())
    model = tiny(SGMRL, env)
    first = state(model)
    callback = EvalCallback(
        eval_env, best_model_save_path=str(tmp_path), log_path=str(tmp_path), eval_freq=7, n_eval_episodes=2, verbose=0
    )
    model.learn(1, callback=callback)
    results = np.load(tmp_path / "evaluations.npz")
    n_steps = 2 * 3 * HORIZON if env_id == "point" else 2 * HORIZON
    assert results["results"].shape == (n_steps // 7, 2) and (results["ep_lengths"] == 5).all()
    assert_same(state(SGMRL.load(tmp_path / "best_model")), first)


def test_stopping_without_improvement():
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=1, verbose=0)
    callback = EvalCallback(Monitor(point()), callback_after_eval=stop, eval_freq=2, n_eval_episodes=1, verbose=0)
    model = tiny(SGMRL, point_vec(4)).learn(100 * SAMPLES, callback=callback)
    assert model.num_timesteps < 100 * SAMPLES


def test_checkpoints_in_the_middle_of_a_phase_hold_the_meta_parameters(tmp_path):
    model = tiny(SGMRL, VecNormalize(point_vec(4)))
    first = state(model)
    callback = CheckpointCallback(save_freq=10, save_path=str(tmp_path), save_vecnormalize=True)
    model.learn(2 * SAMPLES, callback=callback)
    names = sorted(int(path.name.split("_")[2]) for path in tmp_path.glob("rl_model_*_steps.zip"))
    assert names == [40, 80, 120, 160, 200, 240]
    for steps in (40, 80, 120):  # of the first iteration
        assert_same(state(SGMRL.load(tmp_path / f"rl_model_{steps}_steps")), first)
    loaded = SGMRL.load(tmp_path / "rl_model_160_steps")
    assert differ(state(loaded), first) and loaded.num_timesteps == 160
    assert VecNormalize.load(tmp_path / "rl_model_vecnormalize_160_steps.pkl", point_vec(2)).obs_rms.count > 100


def test_stop_after_so_many_episodes():
    model = tiny(SGMRL, point_vec(4, end=0.2))
    ends = []

    class Count(BaseCallback):
        def _on_step(self):
            ends.append(int(self.locals["dones"].sum()))
            return True

    # SB3 multiplies by the number of workers
    stop = StopTrainingOnMaxEpisodes(max_episodes=4, verbose=0)
    model.learn(100 * SAMPLES, callback=[Count(), stop])
    assert 16 <= stop.n_episodes == sum(ends) < 16 + 4
    assert model._n_updates == 0


def test_every_n_timesteps():
    calls = []

    class Event(BaseCallback):
        def _on_step(self):
            calls.append(self.model.num_timesteps)
            return True

    tiny(SGMRL, point_vec(4)).learn(2 * SAMPLES, callback=EveryNTimesteps(n_steps=30, callback=Event()))
    assert calls == [32, 64, 96, 128, 160, 192, 224]


def test_a_function_as_callback_and_an_error_in_it():
    seen = []

    def callback(local_variables, global_variables):
        seen.append(sorted(local_variables.keys() & {"infos", "dones"}))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return True

    model = tiny(SGMRL, point_vec(4))
    with pytest.raises(KeyboardInterrupt):
        model.learn(SAMPLES, callback=callback)
    assert seen == [["dones", "infos"]] * 3
    model.env.reset()
    assert len({tuple(task) for task in model.env.env_method("get_task")}) == 4
    model.learn(1)


@pytest.mark.parametrize("kind", ["workers", "batched", "wrapped", "other wrappers"])
def test_workers_in_the_middle_of_a_phase_are_lent_to_nobody(kind):
    """Their tasks would be lost, and training go on with whatever comes."""

    def make():
        family = TaskDistEnv("Navigation2D-v0", max_episode_steps=HORIZON)
        workers = make_vec_env("Navigation2D-v0", 4, wrapper_class=TaskDistEnv, env_kwargs={"max_episode_steps": HORIZON})
        return {"workers": workers, "batched": family}.get(kind, VecNormalize(workers))

    played = []

    class Borrow(BaseCallback):
        def _all(self):
            model, env = self.model, self.training_env
            if kind == "other wrappers":
                env = VecNormalize(env.venv)
            yield lambda: navigation_trajectories(model, env, [[0.1, 0.2]])
            for given in (env,) if kind == "other wrappers" else (None, env):
                yield lambda given=given: evaluate_adaptation(model, given, n_tasks=2)
                yield lambda given=given: model.adapt(given)

        def _on_rollout_start(self):
            played.extend(borrow() for borrow in self._all())

        _on_rollout_end = _on_rollout_start

        def _on_step(self):
            if self.n_calls in (1, 7):
                for borrow in [*self._all(), lambda: self.model.learn(1)]:
                    with pytest.raises(ValueError, match=r"^`env` is being played by learn\(\): pass another environment\.$"):
                        borrow()
                # another one
                evaluate_adaptation(self.model, make(), n_tasks=2)
            return True

    model = tiny(SGMRL, make()).learn(1, callback=Borrow())
    assert len(played) == (6 if kind == "other wrappers" else 10)
    assert_same(state(model), state(tiny(SGMRL, make()).learn(1)))
    # afterwards they are free
    evaluate_adaptation(model, n_tasks=2)


def test_workers_are_lent_again_after_an_error_in_a_phase():
    def callback(local_variables, global_variables):
        raise KeyboardInterrupt

    model = tiny(SGMRL, point_vec(4))
    with pytest.raises(KeyboardInterrupt):
        model.learn(1, callback=callback)
    evaluate_adaptation(model, n_tasks=2)


@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_progress_bar():
    pytest.importorskip("tqdm")
    pytest.importorskip("rich")
    tiny(SGMRL, point_vec(4)).learn(1, progress_bar=True)


# ----------------------------------------------------------------------------------------------------------- environments


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_vec_normalize(algorithm):
    env = VecNormalize(point_vec(4), gamma=0.9)
    model = tiny(algorithm, env)
    assert model.get_vec_normalize_env() is env
    rewards = []

    class Look(BaseCallback):
        def _on_step(self):
            rewards.extend(env.get_original_reward())
            return True

    model.learn(1, callback=Look())
    assert env.obs_rms.count > SAMPLES / 2
    # returns are reported as the environment gives them
    assert np.mean([info["r"] for info in model.ep_info_buffer]) == pytest.approx(np.mean(rewards) * HORIZON, rel=1e-3)
    policy = model.adapt(task=GOAL)
    evaluate_policy(policy, env, n_eval_episodes=2, warn=False)


def test_vec_normalize_of_training_and_evaluation_are_synchronised():
    env, eval_env = VecNormalize(point_vec(4)), VecNormalize(point_vec(1), training=False)
    tiny(SGMRL, env).learn(1, callback=EvalCallback(eval_env, eval_freq=10, n_eval_episodes=1, verbose=0))
    assert eval_env.obs_rms.count > 50


def test_vec_monitor():
    env = VecMonitor(DummyVecEnv([point] * 4))
    model = tiny(SGMRL, env).learn(1)
    assert len(model.ep_info_buffer) == 24 and all(info["l"] == HORIZON for info in model.ep_info_buffer)


def test_vec_frame_stack():
    """Frames of the episode before must not be in the stack: the same with any number of workers."""
    results = []
    for n in (1, 4):
        model = tiny(SGMRL, VecFrameStack(point_vec(n, end=0.2), 3))
        assert model.observation_space.shape == (9,)
        results.append(state(model.learn(1)))
    assert_same(*results)


def test_images_are_transposed():
    kwargs = {"policy_kwargs": {"features_extractor_class": SmallCnn}}
    model = tiny(SGMRL, point_vec(2, observation="image"), "CnnPolicy", **kwargs)
    assert isinstance(model.env, VecTransposeImage) and model.observation_space.shape == (1, 36, 36)
    by_hand = tiny(SGMRL, VecTransposeImage(point_vec(3, observation="image")), "CnnPolicy", **kwargs)
    assert_same(state(model.learn(1)), state(by_hand.learn(1)))
    policy = model.adapt(point(observation="image"), task=GOAL)
    assert evaluate_policy(policy, model.env, n_eval_episodes=2)[0] < 0


def test_make_vec_env_with_a_registered_family():
    env = make_vec_env("Navigation2D-v0", 3, wrapper_class=TaskDistEnv, env_kwargs={"max_episode_steps": HORIZON})
    model = tiny(SGMRL, env).learn(1)
    # the wrapper is above the monitor, as in RL Zoo
    assert model.num_timesteps == SAMPLES and len(model.ep_info_buffer) == 24
    single = tiny(SGMRL, TaskDistEnv("Navigation2D-v0", max_episode_steps=HORIZON)).learn(1)
    assert_same(state(model), state(single))


def test_a_monitor_around_a_single_environment():
    assert_same(state(tiny(SGMRL, Monitor(point())).learn(1)), state(tiny(SGMRL, point()).learn(1)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_set_env_with_another_number_of_workers(algorithm):
    model, other = tiny(algorithm, point_vec(2)), tiny(algorithm, point_vec(2))
    model.learn(1)
    other.learn(1)
    model.set_env(point_vec(5))
    assert model.n_envs == model.get_env().num_envs == 5
    assert_same(state(model.learn(1, reset_num_timesteps=False)), state(other.learn(1, reset_num_timesteps=False)))
    model.set_env(point())  # a single one, too
    model.learn(1)
    model.set_env(VecNormalize(point_vec(3)))
    assert model.get_vec_normalize_env() is model.get_env()


def test_two_environments_that_differ_in_their_tasks_only():
    """``load(env=...)`` and ``set_env`` are how a meta-policy meets another family."""

    class Far(PointEnv):
        def sample_tasks(self, n, rng):
            return [np.array([1.0, 1.0])] * n

    model = tiny(SGMRL, point_vec(2))
    model.set_env(make_vec_env(lambda: TaskDistEnv(TimeLimit(Far(), HORIZON)), 2))
    tasks = []

    class Look(BaseCallback):
        def _on_step(self):
            tasks.extend(self.training_env.env_method("get_task"))
            return True

    model.learn(1, callback=Look())
    assert np.unique(tasks).tolist() == [1.0]


# ------------------------------------------------------------------------------------------------- parameters and policies


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_get_and_set_parameters(algorithm):
    model, other = tiny(algorithm, point_vec(2)).learn(1), tiny(algorithm, point_vec(3), seed=5)
    parameters = deepcopy(model.get_parameters())
    assert parameters.keys() == {"policy", "policy.optimizer"}
    other.set_parameters(parameters)
    assert_same(state(model), state(other))
    # sampling and training go on from them
    other._entropy, other._iteration = model._entropy, model._iteration
    assert_same(state(model.learn(1)), state(other.learn(1)))
    with pytest.raises(ValueError, match="parameters"):
        other.set_parameters({"policy": parameters["policy"]})
    partial = {"policy": {"log_std": th.full((2,), -1.0)}}
    other.set_parameters(partial, exact_match=False)
    assert other.policy.log_std.tolist() == [-1, -1]
    assert (other.functional.parameters()["log_std"] == -1).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_policy_in_the_place_of_the_first(algorithm):
    """Sampling, gradients and the critic follow it."""
    model, usual = (tiny(algorithm, point_vec(2), baseline="critic") for _ in range(2))
    other = tiny(algorithm, point_vec(2), seed=5)
    usual.set_parameters(other.get_parameters())
    left = model.policy
    before = deepcopy(left.state_dict())
    model.policy = other.policy
    assert model.functional.policy is other.policy and model.functional is model.functional
    assert_same(state(model.learn(1)), state(usual.learn(1)))
    for name, value in left.state_dict().items():
        assert th.equal(value, before[name])
    assert th.equal(model.adapt(task=GOAL).action_net.weight, usual.adapt(task=GOAL).action_net.weight)


def test_predict():
    model = tiny(SGMRL, point_vec(2)).learn(1)
    observations = model.env.reset()
    actions, _ = model.predict(observations, deterministic=True)
    assert actions.shape == (2, 2) and model.action_space.contains(actions[0])
    np.testing.assert_array_equal(actions[0], model.predict(observations[0], deterministic=True)[0])
    mean, std = evaluate_policy(model, model.env, n_eval_episodes=3)
    assert np.isfinite([mean, std]).all()


def test_logger(tmp_path):
    model = tiny(SGMRL, point_vec(2))
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(2 * SAMPLES)
    model.logger.close()
    header, *rows = (tmp_path / "progress.csv").read_text().splitlines()
    assert len(rows) == 2
    expected = {"rollout/ep_rew_mean", "rollout/ep_rew_mean_pre", "rollout/ep_rew_mean_post", "train/grad_norm", "time/fps"}
    assert expected <= set(header.split(","))


def test_verbose_prints_a_table(capsys):
    tiny(SGMRL, point_vec(2), verbose=1).learn(1)
    assert "ep_rew_mean_post" in capsys.readouterr().out
    tiny(SGMRL, point_vec(2)).learn(1)
    assert capsys.readouterr().out == ""
