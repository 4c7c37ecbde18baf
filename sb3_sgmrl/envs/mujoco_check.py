"""A check that the single and the batched form of a MuJoCo family agree."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from sb3_sgmrl.envs.mujoco_batch import MujocoTaskVectorEnv
from sb3_sgmrl.envs.mujoco_family import MujocoFamily
from sb3_sgmrl.envs.mujoco_model import model_field
from sb3_sgmrl.envs.mujoco_single import MujocoTaskEnv


def check_family(family: MujocoFamily, n_steps: int = 100, seed: int = 0) -> None:
    """
    Compare the single and the batched form of a family to the bit.

    Both play the same tasks, seeds and actions. The check compares models, observations, rewards and ends of episodes. Four
    columns play two short episodes each; one column plays a single episode and then is idle.

    :param family: The family
    :param n_steps: The number of steps
    :param seed: The seed of tasks, episodes and actions
    :raises ValueError: When the forms differ, a reward or an observation is not finite, or a simulation is unstable; the
        message names the quantity, the column and the step
    """
    if not isinstance(family, MujocoFamily):
        raise ValueError(f"`family` must be a MujocoFamily, got {family!r}.")
    if isinstance(n_steps, bool) or not isinstance(n_steps, (int, np.integer)) or n_steps < 1:
        raise ValueError(f"`n_steps` must be a positive integer, got {n_steps!r}.")
    n, horizon = 5, -(-int(n_steps) // 2)
    rng = np.random.default_rng(seed)
    # one column has one episode only
    schedules = [[(task, seed + column + i) for i, task in enumerate(_tasks(family, rng, column))] for column in range(n)]
    space = family.action_space
    scale = np.linspace(0.1, 1.0, n)[:, None] * (space.high - space.low)
    actions = (rng.normal(size=(n_steps, n, *space.shape)) * scale).astype(np.float32)
    batched = MujocoTaskVectorEnv(n, family, horizon)
    single = MujocoTaskEnv(family)
    for column, schedule in enumerate(schedules):
        batched.set_schedule(column, schedule)
    first, _ = batched.reset()
    models = [batched._batch.get_model(column) for column in range(n)]
    played = [batched.step(action) for action in actions]
    for column, schedule in enumerate(schedules):
        episodes = iter(schedule)
        _compare_finite(family, "observation", column, 0, _begin(single, next(episodes)), first[column])
        _compare_models(family, column, single.model, models[column])
        for step, (observations, rewards, terminations, truncations, infos) in enumerate(played, 1):
            observation, reward, terminated, _, _ = single.step(actions[step - 1, column])
            _check_stable(single, column, step)
            done = terminations[column] or truncations[column]
            theirs = infos["final_obs"][column] if done else observations[column]
            _compare_finite(family, "reward", column, step, reward, rewards[column])
            _compare(family, "terminated", column, step, terminated, terminations[column])
            _compare_finite(family, "observation", column, step, observation, theirs)
            if done:
                following = next(episodes, None)
                if following is None:
                    break
                _compare_finite(family, "observation", column, step, _begin(single, following), observations[column])
    batched.close()
    single.close()


def _check_stable(single: MujocoTaskEnv, column: int, step: int) -> None:
    warnings = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
    if any(single.data.warning[kind].number for kind in warnings):
        raise ValueError(
            f"The simulation of {type(single.family).__name__} is unstable and MuJoCo restarted it, column {column}, step "
            f"{step}: use a smaller time step or narrower bounds of the tasks."
        )


def _tasks(family: MujocoFamily, rng: np.random.Generator, column: int) -> list[np.ndarray]:
    return family.sample_tasks(1 if column == 0 else 2, rng)


def _begin(single: MujocoTaskEnv, episode: tuple[np.ndarray, int]) -> np.ndarray:
    task, seed = episode
    single.set_task(task)
    return single.reset(seed=seed)[0]


def _compare(family: MujocoFamily, name: str, column: int, step: int, single: Any, batched: Any) -> None:
    differ = np.argwhere(~((single == batched) | ((single != single) & (batched != batched))))  # NaN equals NaN
    if len(differ):
        index = tuple(differ[0].tolist())
        place = f"[{', '.join(map(str, index))}]" if index else ""
        raise ValueError(
            f"The single and the batched form of {type(family).__name__} differ in {name}{place}, column {column}, step "
            f"{step}: {_number(single, index)} and {_number(batched, index)}."
        )


def _compare_finite(family: MujocoFamily, name: str, column: int, step: int, single: Any, batched: Any) -> None:
    _compare(family, name, column, step, single, batched)
    wrong = np.ravel(single)[~np.isfinite(np.ravel(single))]
    if len(wrong):
        raise ValueError(
            f"The {name} of {type(family).__name__} must be finite, got {wrong[0]}, column {column}, step {step}."
        )


def _compare_models(family: MujocoFamily, column: int, single: mujoco.MjModel, batched: mujoco.MjModel) -> None:
    named = list(family.model_values(family.default_task[None]))  # first, because MuJoCo may derive the others from them
    others = [name for name in dir(single) if not name.startswith("_") and isinstance(getattr(single, name), np.ndarray)]
    for name in [*named, *others]:
        ours, theirs = (np.asarray(model_field(model, name)) for model in (single, batched))
        _compare(family, f"the model's {name}", column, 0, ours, theirs)


def _number(values: Any, index: tuple[int, ...]) -> str:
    return repr(np.asarray(values)[index].item())
