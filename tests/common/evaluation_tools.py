"""Models and callbacks to evaluate, and what they leave."""

import numpy as np
import pytest
from stable_baselines3.common.callbacks import (
    BaseCallback,
)
from toys import HORIZON, point_vec, tiny

from sb3_sgmrl import SGMRL, MetaEvalCallback

SAMPLES = 2 * 2 * 2 * HORIZON  # of a meta-iteration


def small(env=None, policy="MlpPolicy", **kwargs):
    return tiny(SGMRL, point_vec(2) if env is None else env, policy, meta_batch_size=2, n_episodes=2, **kwargs)


def meta_eval(env=None, **kwargs):
    settings = {"n_tasks": 2, "n_episodes": 2, "eval_freq": 1, "verbose": 0, **kwargs}
    return MetaEvalCallback(point_vec(2) if env is None else env, **settings)


def rows(folder, name="evaluations.npz"):
    with np.load(folder / name) as file:
        return {key: file[key] for key in file.files}


def refuses(match, function, *args, **kwargs):
    with pytest.raises(ValueError, match=match) as caught:
        function(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text and text.endswith("."), text


def refuses_to_learn(match, model, callback, **kwargs):
    """Before anything is played."""
    before = model.num_timesteps if kwargs else 0
    refuses(match, model.learn, 1, callback=callback, **kwargs)
    assert model.num_timesteps == before


class Count(BaseCallback):
    """Counts its calls and stops training at one of them."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.stop_at = stop_at

    def _on_step(self):
        return self.n_calls != self.stop_at
