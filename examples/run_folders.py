"""Parts that examples share: the package's hyperparameters, and folders whose runs are not mixed with others."""

import ast
import json

import gymnasium as gym

from sb3_sgmrl import TaskDistEnv
from sb3_sgmrl.cli.command_line import import_env
from sb3_sgmrl.cli.compare.kinds import family_arguments, hyperparameters
from sb3_sgmrl.cli.zoo.run_folder import parse_expression
from sb3_sgmrl.common.arguments import argument_names
from sb3_sgmrl.util.validation import check_names

SETTINGS = "settings.json"


def settings_of(algorithm, env_id):
    """Read the arguments of the algorithm from the hyperparameters of the package."""
    settings = hyperparameters(algorithm, env_id)
    del settings["policy"]
    if isinstance(settings.get("policy_kwargs"), str):
        settings["policy_kwargs"] = parse_expression(settings["policy_kwargs"])
    return settings


def setting(text):
    """Read NAME=VALUE, where the value is Python or else text."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def family(arguments):
    own = family_arguments(arguments.env)
    env_id = import_env(arguments.env, ["sb3_sgmrl"])
    return TaskDistEnv(gym.make(env_id, max_episode_steps=arguments.horizon, **own))


def check_set(arguments, algorithm):
    """Raise if a name in ``--set`` is no argument of the class."""
    names = [setting(text)[0] for text in arguments.set]
    check_names(names, argument_names(algorithm), f"is not an argument of {algorithm.__name__}")


def check_same(folder, settings):
    """Raise if the folder has a run with other settings."""
    file = folder / SETTINGS
    old = json.loads(file.read_text()) if file.exists() else settings
    others = [name for name in {**old, **settings} if old.get(name) != settings.get(name)]
    if others:
        raise ValueError(f"{folder} was trained with another {', '.join(others)}: choose another --folder.")
