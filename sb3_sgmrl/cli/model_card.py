"""The text of a model card: what the model is, how it was measured, how to use it, and how it was trained."""

from __future__ import annotations

import platform
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pprint import pformat
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_sgmrl.common.arguments import argument_names
from sb3_sgmrl.common.evaluation import AdaptationReport, inner_steps
from sb3_sgmrl.tasks.task_dist_env import TaskDistEnv
from sb3_sgmrl.vec_env.task_workers import ask, find_horizon

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

    from sb3_sgmrl.cli.trained_model import TrainedModel
    from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm

_PACKAGES = ("sb3_sgmrl", "stable-baselines3", "torch", "gymnasium", "mujoco", "numpy")
_TAGS = (
    "deep-reinforcement-learning",
    "reinforcement-learning",
    "meta-reinforcement-learning",
    "stable-baselines3",
    "sb3_sgmrl",
)
# RL Zoo's hyperparameters that change observations or actions
_WRAPPERS = ("frame_stack", "env_wrapper", "vec_env_wrapper")


@dataclass(frozen=True)
class Measurement:
    """
    The returns of a model on unseen tasks.

    :param report: The returns
    :param n_episodes: The number of episodes per task and inner step
    :param seed: The seed of tasks and episodes
    :param n_inner_steps: The number of inner steps of the main result
    """

    report: AdaptationReport
    n_episodes: int
    seed: int
    n_inner_steps: int

    @property
    def mean(self) -> float:
        """The mean return after adaptation."""
        return float(self.report.returns[:, self.n_inner_steps].mean())

    @property
    def std(self) -> float:
        """The standard deviation of the return after adaptation, over tasks."""
        return float(self.report.returns[:, self.n_inner_steps].std())


def metadata(trained: TrainedModel, measured: Measurement) -> ModelCardData:
    """
    Make the metadata of the card for the Hub: library, tags, and the return after adaptation as ``mean_reward``.

    :param trained: The model
    :param measured: The measurement of the model
    :return: The metadata, which is written as YAML
    """
    from huggingface_hub import EvalResult, ModelCardData

    result = EvalResult(
        task_type="reinforcement-learning",
        task_name="meta-reinforcement-learning",
        dataset_type=trained.env_id,
        dataset_name=trained.env_id,
        metric_type="mean_reward",
        metric_name="mean_reward after adaptation",
        metric_value=f"{measured.mean:.2f} +/- {measured.std:.2f}",
    )
    return ModelCardData(
        library_name="stable-baselines3",
        tags=[*_TAGS, trained.env_id, trained.manager.algo],
        model_name=type(trained.model).__name__,
        eval_results=[result],
    )


def card_text(trained: TrainedModel, measured: Measurement, command: str, repo_id: str, pictures: Collection[str] = ()) -> str:
    """
    Write the text of the card.

    :param trained: The model
    :param measured: The measurement of the model
    :param command: The command that trained the model
    :param repo_id: The repository on the Hub
    :param pictures: The names of the pictures in the folder
    :return: The card in Markdown, without its metadata
    """
    model, report = trained.model, measured.report
    algorithm, shown = type(model).__name__, lambda name: f"\n![{name}]({name})\n" if name in pictures else ""
    rows = zip(report.mean_returns, report.returns.std(0), report.confidence_interval(), strict=True)
    table = "\n".join(
        f"| {k} | {mean:.2f} | {std:.2f} | [{low:.2f}, {high:.2f}] |" for k, (mean, std, (low, high)) in enumerate(rows)
    )
    kept = ask(trained.env, "has_test_tasks", indices=0)[0]
    origin = "test tasks" if kept else "drawn from the training distribution"
    settings = pformat(settings_of(model), sort_dicts=False, width=100)
    versions = "\n".join(
        f"| {name} | {found} |" for name, found in {"Python": platform.python_version(), **_versions()}.items()
    )
    seed = "without a seed" if model.seed is None else f"seed {model.seed}"
    return f"""# {algorithm} on {trained.env_id}

This policy adapts to a new task by a few policy-gradient steps on a few episodes. It was trained by **{algorithm}** on the
task family **{trained.env_id}** with sb3_sgmrl, gradient-based meta-reinforcement learning for
[Stable-Baselines3](https://github.com/DLR-RM/stable-baselines3).

## Return before and after adaptation

| inner steps | mean return | standard deviation over tasks | 95 % interval of the mean |
|---|---|---|---|
{table}
{shown("adaptation.png")}
`mean_reward` in the metadata is the return after {inner_steps(measured.n_inner_steps)}, ± the standard deviation over tasks.
The model was trained for {inner_steps(model.n_inner_steps)}.

## Protocol

| | |
|---|---|
| tasks | {len(report.tasks)}, {origin}, seed {measured.seed} |
| task range | {task_range(trained.env)} |
| measured tasks | {_extent(report.tasks)} |
| episodes | {measured.n_episodes} per task and inner step, both to measure the policy and for the next inner step |
| horizon | {_horizon(trained.env)} |
| actions | sampled from the policy |
| return | undiscounted sum of rewards of an episode, averaged over episodes, then over tasks |
| interval | percentile bootstrap over tasks |

## Use

```python
{_usage(trained, repo_id)}```

The file of the model is data: loading it runs no code. `huggingface_sb3` asks for the environment variable
`TRUST_REMOTE_CODE=True` nevertheless.

## Training

```bash
{command}
```

{model._iteration} meta-iterations in total, {seed}; {model.num_timesteps:,} environment steps in the last training run.
{shown("learning_curve.png")}
```python
{settings}
```

## Versions

The model was measured with these versions. Training may have used others.

| | |
|---|---|
{versions}
"""


def _versions() -> dict[str, str]:
    import sb3_sgmrl

    # the package may not be installed, but imported from its checkout
    return {name: sb3_sgmrl.__version__ if name == "sb3_sgmrl" else version(name) for name in _PACKAGES}


def settings_of(model: MetaOnPolicyAlgorithm) -> dict[str, Any]:
    """
    Return the hyperparameters of a model.

    :param model: The model
    :return: The arguments that affect learning, by name
    """
    wanted = argument_names(type(model), "learning")
    settings = {name: getattr(model, name) for name in type(model).arguments if name in wanted and hasattr(model, name)}
    return {"policy": model.policy_class.__name__, **{name: _readable(value) for name, value in settings.items()}}


def _readable(value: Any) -> Any:
    """Show a schedule by its first and last value; SB3 converts numbers to schedules."""
    if not callable(value) or isinstance(value, type):
        return value
    begin, end = value(1.0), value(0.0)
    return begin if begin == end else f"from {begin:g} to {end:g}"


def task_range(env: VecEnv) -> str:
    """
    Describe the space of tasks in a line.

    :param env: The workers that take tasks
    :return: The space, or what is known about it
    """
    space = ask(env, "task_space", indices=0)[0]
    if isinstance(space, spaces.Box) and np.size(space.low) <= 8:
        low, high = (" ".join(f"{x:.4g}" for x in np.ravel(bound)) for bound in (space.low, space.high))
        return f"shape {space.shape}, from ({low}) to ({high})"
    return "not declared by the environment" if space is None else " ".join(str(space).split()).replace("|", r"\|")


def _horizon(env: VecEnv) -> str:
    horizon = find_horizon(env)
    return "no time limit; the environment ends its episodes" if horizon is None else f"{horizon} steps"


def _extent(tasks: Sequence[Any]) -> str:
    try:
        values = np.array(tasks, dtype=np.float64).reshape(len(tasks), -1)
    except (TypeError, ValueError):
        return f"{len(tasks)} tasks that are not arrays"
    if values.shape[1] > 8:
        return f"{values.shape[1]} numbers each, from {values.min():.4g} to {values.max():.4g}"
    low, high = (" ".join(f"{x:.4g}" for x in bound) for bound in (values.min(0), values.max(0)))
    return f"from ({low}) to ({high})"


def _usage(trained: TrainedModel, repo_id: str) -> str:
    algorithm, n_steps = type(trained.model).__name__, trained.model.n_inner_steps
    with closing(gym.make(trained.env_id, **trained.manager.env_kwargs)) as made:
        has_tasks = is_wrapped(made, TaskDistEnv)
    arguments = "".join(f", {name}={value!r}" for name, value in trained.manager.env_kwargs.items())
    make = f'{"gym.make" if has_tasks else "TaskDistEnv"}("{trained.env_id}"{arguments})'
    wrappers = ", ".join(f"{name}: {trained.hyperparams[name]}" for name in _WRAPPERS if trained.hyperparams.get(name))
    normalized = unwrap_vec_normalize(trained.env) is not None
    lines = ["import gymnasium as gym"] if has_tasks else []
    lines += ["from huggingface_sb3 import load_from_hub"]
    imported = [algorithm, *([] if has_tasks else ["TaskDistEnv"]), "evaluate_adaptation"]
    lines += [f"from sb3_sgmrl import {', '.join(imported)}", ""]
    if not str(gym.spec(trained.env_id).entry_point).startswith("sb3_sgmrl."):
        lines += [f"# first import the module that registers {trained.env_id}"]
    if wrappers:
        normalized_too = " and VecNormalize" if normalized else ""
        lines += [f"env = ...  # {make}, in the wrappers of config.yml: {wrappers}{normalized_too}"]
    else:
        lines += [f"env = {make}"]
    lines += [f'model = {algorithm}.load(load_from_hub("{repo_id}", "{trained.name}.zip"), env=env)']
    if normalized:
        lines += ["model.env.training = False  # its VecNormalize has the statistics of training"]
    lines += [f"print(evaluate_adaptation(model, n_tasks=10, n_steps={n_steps}))"]
    lines += [f"policy = model.adapt(n_steps={n_steps})  # to a random task; pass task=... for another"]
    return "\n".join(lines) + "\n"
