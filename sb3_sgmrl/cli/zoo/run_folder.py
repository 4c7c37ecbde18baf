"""
Read the settings that RL Zoo saved in the folder of a run, without running any code.

The folder may have been downloaded. RL Zoo itself unpickles, evaluates and imports its contents.
"""

from __future__ import annotations

import ast
import pathlib
import re
import reprlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import yaml

from sb3_sgmrl.algorithms import ALGORITHMS
from sb3_sgmrl.cli.zoo.hyperparameter_file import with_numbers_and_unique_names
from sb3_sgmrl.common.arguments import argument_names
from sb3_sgmrl.common.files.classes import class_of
from sb3_sgmrl.util.validation import check_names

# the size limit of a settings file, in bytes
_LARGEST = 2**20
_PYTHON = "tag:yaml.org,2002:python/"
# hyperparameters that make environments; the model's own file holds all others
_OF_ENVIRONMENTS = ("n_envs", "env_wrapper", "vec_env_wrapper", "frame_stack", "normalize", "env_kwargs", "monitor_kwargs")
# hyperparameters that RL Zoo reads itself
ZOO_HYPERPARAMETERS = {"n_timesteps", "policy", "callback", *_OF_ENVIRONMENTS}
_COUNTS = ("meta_batch_size", "n_episodes", "n_outer_episodes", "n_inner_steps")
# modules whose wrappers a folder may name: the commands install them, and their wrappers do not run their arguments
_WRAPPERS = (
    *("rl_zoo3.wrappers.", "gymnasium.wrappers.", "stable_baselines3.common.atari_wrappers.", "sb3_contrib.common.wrappers."),
    *("stable_baselines3.common.vec_env.", "minigrid.wrappers.", "sb3_sgmrl."),
)
_WRITERS = ("RecordVideo", "VecVideoRecorder", "VecMonitor")
_PREFIXES = {"nn": "torch.nn", "th": "torch", "torch": "torch"}
# the form of an ID for which gym.make would import a module
_MODULE_AND_ID = re.compile(r"[\w.]+:[\w/-]+")


@with_numbers_and_unique_names
class _Loader(yaml.SafeLoader):
    """A YAML loader for RL Zoo's files: plain YAML, ordered dictionaries, tuples and names of classes."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # merging could expand a small file to a huge dictionary
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "it merges dictionaries", node.start_mark)


def _ordered(loader: _Loader, node: yaml.Node) -> OrderedDict[Any, Any]:
    if not isinstance(node, yaml.SequenceNode) or len(node.value) != 1:
        raise yaml.constructor.ConstructorError(None, None, "an ordered dictionary has one list of pairs", node.start_mark)
    (pairs,) = loader.construct_sequence(node, deep=True)
    return OrderedDict(tuple(pair) for pair in pairs)


def _named(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    """Return a class that files may name, or the name of any other class."""
    name = re.sub(r"^torch\.nn\.modules\.\w+\.", "torch.nn.", re.sub(r"^torch\.optim\.\w+\.(?=\w+$)", "torch.optim.", suffix))
    return class_of(name) or suffix


_Loader.add_constructor(f"{_PYTHON}object/apply:collections.OrderedDict", _ordered)
_Loader.add_constructor(f"{_PYTHON}tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True)))
_Loader.add_multi_constructor(f"{_PYTHON}name:", _named)


def saved_arguments(settings: pathlib.Path) -> dict[str, Any]:
    """
    Read the training arguments of a run.

    :param settings: The folder of settings that RL Zoo made for the run
    :return: The arguments by name; empty if they were not saved
    :raises ValueError: When the file holds anything other than data
    """
    return _read(settings / "args.yml")


def saved_hyperparameters(settings: pathlib.Path, packages: Sequence[str] = ()) -> dict[str, Any]:
    """
    Read the hyperparameters of a run that make environments.

    :param settings: The folder of settings that RL Zoo made for the run
    :param packages: The modules named by the user, whose wrappers are also allowed
    :return: The hyperparameters that make environments; empty if they were not saved
    :raises ValueError: When the file holds anything other than data, or names a wrapper of another module
    """
    path = settings / "config.yml"
    saved = _read(path)
    found = {name: value for name, value in saved.items() if name in (*_OF_ENVIRONMENTS, *_COUNTS)}
    with _of(path):
        known = set().union(*(argument_names(algorithm.cls) for algorithm in ALGORITHMS.values()), ZOO_HYPERPARAMETERS)
        check_names(saved, known, "is not a hyperparameter")
        for name in ("normalize", "monitor_kwargs", "env_kwargs"):
            if isinstance(found.get(name), str):
                found[name] = parse_expression(found[name])
            if not isinstance(found.get(name), (dict, bool, type(None))):
                raise ValueError(f"{name} must be a dictionary, got {reprlib.repr(found[name])}")
        for name in ("env_wrapper", "vec_env_wrapper"):
            _check_wrappers(name, found.get(name), packages)
        check_no_modules(found.get("env_kwargs") or {})
    return found


def saved_env_kwargs(settings: pathlib.Path) -> dict[str, Any]:
    """
    Read the arguments of the environment from the command line of the training.

    :param settings: The folder of settings that RL Zoo made for the run
    :return: The arguments of the environment
    :raises ValueError: When the file holds anything other than data
    """
    with _of(settings / "args.yml"):
        given = saved_arguments(settings).get("env_kwargs") or {}
        if not isinstance(given, dict):
            raise ValueError(f"env_kwargs must be a dictionary, got {reprlib.repr(given)}")
        check_no_modules(given)
    return dict(given)


@contextmanager
def _of(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        text = str(error)
        raise ValueError(text if str(path) in text else f"{path}: {text.rstrip('.')}.") from error


def _read(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} is larger than {_LARGEST} bytes, which settings never are.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError, RecursionError) as error:
        problem = getattr(error, "problem", None) or str(error)
        text = " ".join(str(problem).split())[:200].rstrip(".")
        raise ValueError(f"{path} holds something else than data, which is never run: {text}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold name: value lines.")
    return dict(content)


def _check_wrappers(name: str, value: Any, packages: Sequence[str]) -> None:
    for item in value if isinstance(value, list) else [value]:
        path = next(iter(item)) if isinstance(item, dict) and len(item) == 1 else item
        if path is None:
            continue
        if not isinstance(path, str):
            raise ValueError(f"{name} must name a wrapper, got {reprlib.repr(path)}")
        of_user = any(path.startswith(f"{package}.") for package in packages)
        if not of_user and (not path.startswith(_WRAPPERS) or path.split(".")[-1] in _WRITERS):
            module = path.rpartition(".")[0]
            raise ValueError(f"{name} names {path}, which a run folder may not import: --gym-packages {module} allows it")


def check_no_modules(env_kwargs: Mapping[str, Any]) -> None:
    """
    Check that no environment argument makes Gymnasium import a module.

    :param env_kwargs: The arguments of an environment, from a file
    :raises ValueError: When an argument has the form MODULE:ID, which Gymnasium would import
    """
    # visit each part once, even if YAML refers to it several times
    seen, left = set(), [env_kwargs]
    while left:
        value: Any = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple)):
            left += value
        elif isinstance(value, str) and _MODULE_AND_ID.fullmatch(value):
            raise ValueError(
                f"env_kwargs hold {value[:100]!r}, which would be imported: give it by --env-kwargs if you trust it"
            )


def parse_expression(text: str) -> Any:
    """
    Parse a Python expression in RL Zoo's hyperparameters without running it.

    An example is ``dict(net_arch=[100, 100], activation_fn=nn.ReLU)``.

    :param text: The expression: literals, ``dict(...)``, and names of classes that files may name
    :return: The value
    :raises ValueError: When the expression contains anything else
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text[:100]!r} is not Python") from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        if all(keyword.arg is not None for keyword in node.keywords):
            return {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    elif isinstance(node, ast.Dict) and all(key is not None for key in node.keys):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key is not None}
    elif isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    elif isinstance(node, ast.Tuple):
        return tuple(_value(item) for item in node.elts)
    elif isinstance(node, ast.Attribute):
        first, _, rest = ast.unparse(node).partition(".")
        found = class_of(f"{_PREFIXES.get(first, first)}.{rest}")
        if found is not None:
            return found
    else:
        try:
            return ast.literal_eval(node)
        except ValueError:
            pass
    raise ValueError(f"{ast.unparse(node)[:100]!r} is neither a literal, dict(...), nor a class such as nn.ReLU")
