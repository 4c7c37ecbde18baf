"""Trainings that every number of ranks must do equally. Run as a program, one process is one rank of torchrun."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch as th
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.vec_env import VecNormalize
from toys import ACTIONS, FAMILY, HORIZON, LinearExtractor, PointEnv, SmallCnn, point, point_vec, tiny

from sb3_sgmrl import MAML, SGMRL, TaskDistEnv, from_vector_env
from sb3_sgmrl.distributed import start
from sb3_sgmrl.score_terms.names import SCORE_TERMS
from sb3_sgmrl.vec_env.engines import as_task_vec_env
from sb3_sgmrl.vec_env.process_vec_env import ProcessVecEnv
from sb3_sgmrl.vec_env.task_vec_env import TaskVecEnv


def digest(model: Any) -> str:
    """A hash of everything that training has changed."""
    found = hashlib.sha256()
    for value in model.policy.state_dict().values():
        found.update(value.numpy().tobytes())
    if model.step_sizes is not None:
        found.update(model.step_sizes.relative.detach().numpy().tobytes())
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        parts = normalizer.obs_rms if isinstance(normalizer.obs_rms, dict) else {"": normalizer.obs_rms}
        for statistics in (*parts.values(), normalizer.ret_rms):
            found.update(np.concatenate([np.ravel(statistics.mean), np.ravel(statistics.var), [statistics.count]]).tobytes())
    found.update(repr((model.num_timesteps, model._iteration)).encode())
    return found.hexdigest()[:16]


def train(algorithm: type, make_env: Callable[[], Any], *, n_iterations: int = 2, **settings: Any) -> str:
    """Train and return the hash."""
    return digest(trained(algorithm, make_env, n_iterations, **settings))


def trained(algorithm: type, make_env: Callable[[], Any], n_iterations: int = 2, **settings: Any) -> Any:
    """Train and return the model."""
    model = tiny(algorithm, make_env(), **{"meta_batch_size": 5, "n_episodes": 3, **settings})
    for _ in range(n_iterations):
        model.learn(1, reset_num_timesteps=False)
    assert model._iteration == n_iterations
    workers = [model.env.unwrapped] if model.env is not None else []
    for env in workers:
        env.close()
    return model


def _family(env_id: str, **kwargs: Any) -> Callable[[], TaskDistEnv]:
    return partial(TaskDistEnv, env_id, max_episode_steps=6, **kwargs)


def normalized(n_envs: int, **kwargs: Any) -> VecNormalize:
    """Workers in a VecNormalize."""
    return VecNormalize(point_vec(n_envs, end=0.2, **kwargs))


# the smallest selection that reaches every exchange, for the ordinary tests
SHORT: dict[str, Callable[..., str]] = {
    **{f"{algorithm.__name__}": partial(train, algorithm, partial(point, end=0.2), n_iterations=1) for algorithm in FAMILY},
    "SGMRL, weighted": partial(train, SGMRL, point, n_iterations=3, meta_batch_size=4),
    "critic, two inner steps": partial(
        train, SGMRL, partial(point_vec, 2, end=0.2), n_iterations=1, baseline="critic", n_inner_steps=2
    ),
    "counterfactual": partial(
        train, SGMRL, point, control_variate="counterfactual", score_coef=1, n_epochs=2, meta_batch_size=4
    ),
    "batched": partial(train, SGMRL, _family("Navigation2D-v0")),
    "task_regression": partial(
        train, SGMRL, point, control_variate="task_regression", score_coef=1, inner_lr_learning_rate=0.02
    ),
    "VecNormalize": partial(train, SGMRL, partial(normalized, 2), normalizer_update="phase"),
    "extractor": partial(
        train,
        SGMRL,
        point,
        n_iterations=1,
        meta_batch_size=9,
        n_episodes=2,
        policy_kwargs={"features_extractor_class": LinearExtractor},
    ),
}

_CNN: dict[str, Any] = {
    "policy_kwargs": {"features_extractor_class": SmallCnn, "normalize_images": True},
    "policy": "CnnPolicy",
}
_OWN_RATES: dict[str, Any] = {"inner_lr_learning_rate": 0.02}
_CRITIC: dict[str, Any] = {"baseline": "critic", "vf_epochs": 2}
_SOME_END = partial(point, end=0.2)
_IMAGES = partial(point, observation="image")


def _each(name: str, make_env: Callable[[], Any], **settings: Any) -> dict[str, Callable[[], str]]:
    """A run of every algorithm that has these settings."""
    having = [algorithm for algorithm in FAMILY if settings.keys() <= algorithm.arguments.keys()]
    return {f"{algorithm.__name__}, {name}": partial(train, algorithm, make_env, **settings) for algorithm in having}


def _columns_of_others(n_envs: int) -> TaskVecEnv:
    make = [lambda: TimeLimit(PointEnv(), HORIZON)] * n_envs
    vector_env = SyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP)
    return from_vector_env(
        vector_env,
        lambda env, column, task: env.envs[column].unwrapped.set_task(task),
        task_space=PointEnv().task_space,
        max_episode_steps=HORIZON,
    )


_LONG: dict[str, Callable[..., str]] = {
    **SHORT,
    # algorithms
    **_each("two inner steps", _SOME_END, n_inner_steps=2),
    **_each("outer episodes", point, n_inner_steps=2, n_outer_episodes=5),
    **_each("critic", partial(point_vec, 2, end=0.2), n_inner_steps=2, **_CRITIC),
    **_each("epochs", point, n_epochs=3),
    **_each("epochs with a limit", _SOME_END, n_epochs=3, target_kl=1e-4, n_inner_steps=2),
    **_each("step sizes", point, n_inner_steps=2, **_OWN_RATES),
    **_each("step sizes of entries", point, inner_lr_per="entry", **_OWN_RATES),
    **_each("restricted adaptation", _SOME_END, adapt_only="action_net*", n_inner_steps=2),
    "MAML, first order": partial(train, MAML, point, first_order=True),
    "MAML, lvc": partial(train, MAML, point, inner_surrogate="lvc", n_inner_steps=2),
    "MAML, dice": partial(train, MAML, point, inner_surrogate="dice", n_inner_steps=2),
    **_each("whole returns", _SOME_END, outer_advantage={"gae_lambda": 1.0, "normalize": False}),
    **_each("threads", _SOME_END, n_threads=2),
    **_each("seven tasks", _SOME_END, meta_batch_size=7),
    # control variates
    **{
        run: of
        for name in SCORE_TERMS
        for n in (1, 2)
        for run, of in _each(f"{name}, {n}", _SOME_END, control_variate=name, score_coef=1, n_inner_steps=n).items()
    },
    **_each("scaled", point, control_variate="leave_one_out_return", control_variate_scaling=True, score_coef=1),
    **{f"SGMRL, cnn, {name}": partial(train, SGMRL, _IMAGES, control_variate=name, **_CNN) for name in SCORE_TERMS},
    # observations and actions
    **_each("cnn", _IMAGES, **_CNN),
    **_each("cnn, two inner steps", _IMAGES, n_inner_steps=2, **_CNN),
    "dict": partial(
        train,
        SGMRL,
        partial(point, observation="dict"),
        policy="MultiInputPolicy",
        meta_batch_size=4,
        policy_kwargs={"share_features_extractor": False},
        **_CRITIC,
    ),
    **{f"action {name}": partial(train, SGMRL, partial(point, action=name)) for name in ACTIONS},
    # engines
    **{
        run: of
        for env_id in ("Navigation2D-v0", "BernoulliBandit-v0", "TabularMDP-v0")
        for run, of in _each(env_id, _family(env_id)).items()
    },
    "in processes": partial(train, SGMRL, point, engine="subprocess", n_envs=4),
    "in one process": partial(train, SGMRL, _family("Navigation2D-v0"), engine="in_process", n_envs=4),
    "few columns": partial(train, SGMRL, _family("Navigation2D-v0"), engine="batched", n_envs=4),
    "DummyVecEnv": partial(train, SGMRL, partial(point_vec, 2)),
    "SubprocVecEnv": partial(train, SGMRL, partial(point_vec, 2, subprocess=True)),
    "ProcessVecEnv": partial(train, SGMRL, lambda: ProcessVecEnv([point] * 3, n_processes=2)),
    "columns of others": partial(train, SGMRL, partial(_columns_of_others, 4)),
    "MuJoCo": partial(train, SGMRL, _family("HalfCheetahDir-v0")),
    # normalisation
    **_each("VecNormalize", partial(normalized, 2), normalizer_update="phase", n_inner_steps=2),
    "VecNormalize of a Dict": partial(
        train,
        SGMRL,
        lambda: VecNormalize(point_vec(3, observation="dict"), norm_obs_keys=["vector"]),
        policy="MultiInputPolicy",
        normalizer_update="phase",
    ),
    "VecNormalize, batched": partial(
        train, SGMRL, lambda: VecNormalize(as_task_vec_env("Navigation2D-v0", n_envs=4)), normalizer_update="phase"
    ),
}
# everything that may depend on the number of ranks, for five iterations
LONG: dict[str, Callable[[], str]] = {name: partial(run, n_iterations=5) for name, run in _LONG.items()}


def results(runs: Mapping[str, Callable[[], str]]) -> dict[str, str]:
    """The hash of each run."""
    th.set_num_threads(1)
    return {name: run() for name, run in runs.items()}


# what is summed over tasks, by every outer step and by the critic; stochastic gradient descent does not amplify rounding
_SGD = {"policy_kwargs": {"optimizer_class": th.optim.SGD}, "learning_rate": 0.1}
SUMS: dict[str, Callable[[], Any]] = {
    **{algorithm.__name__: partial(trained, algorithm, partial(point, end=0.2), 1, **_SGD) for algorithm in FAMILY},
    "critic": partial(trained, SGMRL, point, 1, baseline="critic", score_coef=1, n_inner_steps=2, **_SGD),
    "step sizes": partial(trained, SGMRL, point, 1, inner_lr_learning_rate=0.02, **_SGD),
}


def sums() -> dict[str, list[float]]:
    """The parameters of each run, and its step sizes, in one list."""
    th.set_num_threads(1)
    return {name: _numbers(run()) for name, run in SUMS.items()}


def _numbers(model: Any) -> list[float]:
    values = list(model.policy.state_dict().values())
    if model.step_sizes is not None:
        values.append(model.step_sizes.relative.detach())
    return th.cat([value.flatten() for value in values]).tolist()


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    if kind == "blocks":
        start(sum_by_blocks=True)
        print(json.dumps(sums()), flush=True)
    elif kind == "short":
        import rank_faults

        ranks = start(sum_by_blocks=True)
        in_blocks = sums()
        ranks.sums_by_blocks = False
        rank_faults.saved(arguments[0])
        print(json.dumps([results(SHORT), rank_faults.found(), in_blocks]), flush=True)
        rank_faults.error_to_be_shown()
    else:
        th.set_num_threads(1)
        found = {}
        for name in arguments or LONG:
            found[name] = LONG[name]()
            print(name, file=sys.stderr, flush=True)
        print(json.dumps(found), flush=True)
