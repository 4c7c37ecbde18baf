"""SB3's callbacks work as with its own algorithms."""

import csv
from functools import partial

import numpy as np
import pytest
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    VecNormalize,
)
from toys import ALGORITHMS, HORIZON, SAMPLES, assert_same, differ, point, point_vec, state, tiny

from sb3_sgmrl import SGMRL, TaskDistEnv, evaluate_adaptation
from sb3_sgmrl.plots import navigation_trajectories


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
    assert (model.num_timesteps, model._n_updates) == (0, 0)  # an iteration that does not end does not count
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
    assert differ(state(loaded), first) and loaded.num_timesteps == SAMPLES
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
                env.obs_rms = model.get_vec_normalize_env().obs_rms
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
                another = make()
                if isinstance(another, VecNormalize):
                    another.obs_rms = self.model.get_vec_normalize_env().obs_rms
                evaluate_adaptation(self.model, another, n_tasks=2)
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
def test_progress_bar(monkeypatch, capsys, tmp_path):
    """The bar as it is drawn: it ends at the total, although the last meta-iteration goes beyond it."""
    pytest.importorskip("tqdm")
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "200")
    model = tiny(SGMRL, point_vec(4))
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(SAMPLES + 1, progress_bar=True)
    model.logger.close()
    shown = " ".join(capsys.readouterr().err.split())
    assert model.num_timesteps == 2 * SAMPLES
    *_, last = csv.DictReader((tmp_path / "progress.csv").read_text().splitlines())
    returns = [float(last[f"rollout/ep_rew_mean_{name}"]) for name in ("pre", "post")]
    assert "iteration 2, return {:.1f} → {:.1f}: 100%".format(*returns) in shown
    assert f" {SAMPLES + 1}/{SAMPLES + 1} " in shown
    assert_same(state(model), state(tiny(SGMRL, point_vec(4)).learn(SAMPLES + 1)))
