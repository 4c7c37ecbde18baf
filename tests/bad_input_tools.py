"""A witness of episodes that must not be played, and what a refusal is."""

import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env
from toys import HORIZON, PointEnv

from sb3_sgmrl import TaskDistEnv

PLAYED = []


class Witness(PointEnv):
    """Tells when it is played."""

    def reset(self, **kwargs):
        PLAYED.append("reset")
        return super().reset(**kwargs)

    def step(self, action):
        PLAYED.append("step")
        return super().step(action)


def witness(n_envs=2):
    return make_vec_env(lambda: TaskDistEnv(TimeLimit(Witness(), HORIZON)), n_envs)


def refuses(match, function, *args, error=ValueError, **kwargs):
    PLAYED.clear()
    with pytest.raises(error, match=match) as caught:
        function(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text and text.endswith("."), text
    assert PLAYED == []
