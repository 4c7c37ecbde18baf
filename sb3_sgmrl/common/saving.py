"""Save and load models as files of data that run no code. A model loads completely or not at all."""

from __future__ import annotations

import inspect
import io
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import check_for_correct_spaces, get_system_info
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_sgmrl.common.arguments import Argument, argument_names, check_arguments
from sb3_sgmrl.common.files.building import DERIVED, check_learned, check_parameters, check_settings, not_larger_than
from sb3_sgmrl.common.files.encoding import as_schedule
from sb3_sgmrl.common.files.legacy import is_legacy, legacy_algorithm, read_legacy
from sb3_sgmrl.common.files.model_file import ModelFile, read_algorithm, read_model, write_model
from sb3_sgmrl.common.files.network import network_of, restore_network
from sb3_sgmrl.common.files.schedules import check_schedule
from sb3_sgmrl.common.files.statistics import saved_normalizer, statistics_of, with_statistics
from sb3_sgmrl.policies.functional import FunctionalPolicy
from sb3_sgmrl.util.archive import BadFileError, is_archive
from sb3_sgmrl.util.files import replace_when_complete, with_zip_suffix
from sb3_sgmrl.util.user_warnings import warn_user
from sb3_sgmrl.util.validation import check_mapping, check_names, check_path

SelfSafelySaved = TypeVar("SelfSafelySaved", bound="SafelySaved")

SavePath = str | pathlib.Path | io.BufferedIOBase


def saved_algorithm(path: SavePath) -> str:
    """
    Return the name of the algorithm that saved a model.

    Nothing else of the file is decoded, and no code in it runs.

    :param path: The file, in any form that SB3's ``load`` accepts
    :return: The name of the algorithm's class
    :raises FileNotFoundError: When the file does not exist
    :raises ValueError: When the file is truncated or is not a model of this package
    """
    with _opened(path) as file:
        return legacy_algorithm(file) if is_legacy(file) else read_algorithm(file)  # type: ignore[arg-type]


def is_legacy_file(path: SavePath) -> bool:
    """
    Return whether a model is a pickle from before 0.1, without unpickling anything.

    :param path: The file, in any form that SB3's ``load`` accepts
    :return: Whether the model is from before 0.1
    :raises FileNotFoundError: When the file does not exist
    :raises ValueError: When the file is from before 0.1 and is damaged, or when another package saved it
    """
    with _opened(path) as file:
        return is_legacy(file) and bool(legacy_algorithm(file))  # type: ignore[arg-type]


def read_file(path: SavePath, trusted: bool = False, custom_objects: Mapping[str, Any] | None = None) -> ModelFile:
    """
    Read the file of a model without building the model.

    :param path: The file, in any form that SB3's ``load`` accepts
    :param trusted: Whether to also read pickles from before 0.1, which run the code in them
    :param custom_objects: The attributes to use instead of the file's attributes
    :return: The contents of the file
    :raises FileNotFoundError: When the file does not exist
    :raises ValueError: When the file was altered or is not a model of this package. Also when it names a class that files may
        not name, or is an untrusted pickle
    """
    with _opened(path) as file:
        if not is_legacy(file):  # type: ignore[arg-type]
            return read_model(file, custom_objects)  # type: ignore[arg-type]
        legacy_algorithm(file)  # type: ignore[arg-type]
        if not trusted:
            raise BadFileError(
                "is from before 0.1, a pickle that can run code when it is loaded: if you trust its author, convert it by "
                "`python -m sb3_sgmrl.convert old.zip new.zip` or pass `trusted=True`; else train the model again"
            )
        warn_user(
            f"`trusted=True`: unpickling `path` {path}, a file of before 0.1, which runs whatever code its author put there.",
        )
        return read_legacy(file, custom_objects)  # type: ignore[arg-type]


@contextmanager
def _opened(path: SavePath) -> Iterator[io.BufferedIOBase]:
    """Open a file for reading, and name the file in errors about it."""
    try:
        if isinstance(path, io.BufferedIOBase):
            position = path.tell()
            try:
                yield path
            finally:
                path.seek(position)
            return
        check_path("path", path)
        file = pathlib.Path(path)
        if not file.name:
            raise FileNotFoundError(f"There is no model at `path` {path}, which is a folder: name the file.")
        if not file.is_file() and file.suffix != ".zip" and with_zip_suffix(file).is_file():
            file = with_zip_suffix(file)
        if file.is_dir():
            raise FileNotFoundError(f"There is no model at `path` {path}, which is a folder: name the file.")
        if not file.is_file():  # reading a pipe would wait for its writer
            raise FileNotFoundError(f"There is no model at `path` {with_zip_suffix(file)}.")
        with open(file, "rb") as opened:
            yield opened
    except BadFileError as error:
        raise ValueError(f"`path` {path} {error}.") from error


class SafelySaved(BaseAlgorithm):
    """An SB3 algorithm that saves to files of data, which load completely or not at all."""

    arguments: ClassVar[dict[str, Argument]]
    inner_lr_learning_rate: float | None
    adapt_only: str | Sequence[str] | None

    @property
    def functional(self) -> FunctionalPolicy:
        """The policy as a function of its parameters."""
        raise NotImplementedError

    def check_settings(self) -> None:
        """
        Check that every attribute is in its range.

        :raises ValueError: When an attribute is outside its range; the error names the first one
        """

    def check_env(self, env: VecEnv) -> None:
        """
        Check that workers match the settings.

        :param env: The workers
        :raises ValueError: When the workers do not match the settings
        """

    def save(self, path: SavePath, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        Save the settings, parameters and optimisers as data, with the VecNormalize statistics if there are any.

        For your own classes and functions, the file holds only their names. An existing file is replaced only after the new
        file is complete.

        :param path: The file to write
        :param exclude: The attributes to leave out
        :param include: The attributes to save although they are left out by default
        """
        model = self._to_file({*(exclude or ())}, {*(include or ())})
        if isinstance(path, io.BufferedIOBase):
            return write_model(path, model)  # type: ignore[arg-type]
        with replace_when_complete(with_zip_suffix(path)) as file:
            write_model(file, model)

    def _to_file(self, exclude: set[str], include: set[str]) -> ModelFile:
        parts = {name.split(".")[0] for name in self._get_torch_save_params()[0]}
        left_out = {*self._excluded_save_params(), *DERIVED} - include | exclude | parts
        normalizer = self.get_vec_normalize_env()
        settings = {name: value for name, value in vars(self).items() if name not in left_out}
        if "learning_rate" in settings:
            settings["learning_rate"] = as_schedule(settings["learning_rate"])
        if "network" not in exclude:
            settings["network"] = network_of(self.policy)
        return ModelFile(
            type(self).__name__,
            settings,
            self.get_parameters(),
            None if normalizer is None else statistics_of(normalizer),
            sorted(exclude),
        )

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfSafelySaved],
        path: SavePath,
        env: GymEnv | str | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trusted: bool = False,
        **kwargs: Any,
    ) -> SelfSafelySaved:
        """
        Load a model saved by :meth:`save`, without running any code of the file.

        If the file names your own classes, register them with :func:`sb3_sgmrl.register` or pass them as ``custom_objects``.

        :param path: The file
        :param env: The environment for further training, as for the constructor. If the model was trained in a VecNormalize,
            ``env`` gets one with its statistics
        :param device: The device of the policy
        :param custom_objects: The attributes to use instead of the file's attributes
        :param print_system_info: Whether to print the package versions of the saved model and of this system
        :param force_reset: Whether to drop the last observation, so that training starts with a reset
        :param trusted: Whether to also load pickles from before 0.1, which run the code in them
        :param kwargs: The attributes to change, e.g. ``inner_lr``; ``seed`` starts new random streams
        :return: The model
        :raises ValueError: When the file was altered, is not a model of this package, or belongs to another algorithm. Also
            when the file names an unknown class or is an untrusted pickle. Also when an attribute is outside its range or does
            not match ``env``
        """
        if "n_envs" in kwargs:
            raise ValueError("`n_envs` cannot be changed by load: pass make_vec_env(..., n_envs=...) as `env`.")
        if "engine" in kwargs:
            raise ValueError("`engine` cannot be changed by load: pass a VecEnv as `env`.")
        of_load = inspect.signature(cls.load).parameters
        if (saved := saved_algorithm(path)) != cls.__name__:
            raise ValueError(f"`path` holds a model of {saved}, not of {cls.__name__}: use {saved}.load.")
        check_names(kwargs, argument_names(cls).union(of_load), f"is not an argument of {cls.__name__}")
        seed = kwargs.pop("seed", None)
        check_arguments(cls.arguments, {**kwargs, "seed": seed, "device": device})
        if custom_objects is not None:
            check_mapping("custom_objects", custom_objects)
        file = read_file(path, trusted, custom_objects)
        # a file holds learned step sizes with their optimiser, or neither; load cannot change that
        of_step_sizes = ["inner_lr_learning_rate", "inner_lr_per"]
        if file.settings.get("inner_lr_learning_rate") is not None:
            of_step_sizes.append("adapt_only")
        given = {name: kwargs.pop(name) for name in of_step_sizes if name in kwargs}
        if print_system_info:
            print("== CURRENT SYSTEM INFO ==")
            get_system_info()
            print("== SAVED MODEL SYSTEM INFO ==", *(f"- {name}: {found}" for name, found in file.versions.items()), sep="\n")
        try:
            model = cls._from_file(file, env, device, force_reset, custom_objects or {}, kwargs)
        except BadFileError as error:
            raise ValueError(f"`path` {path} {error}.") from error
        for name, value in given.items():
            if value != (saved_value := getattr(model, name)):
                raise ValueError(f"`{name}` cannot be changed by load: it is {saved_value!r} in `path`, got {value!r}.")
        if seed is not None:
            vars(model)["seed"] = int(seed)
            model.set_random_seed(model.seed)
        return model

    @classmethod
    def _from_file(
        cls: type[SelfSafelySaved],
        file: ModelFile,
        env: GymEnv | str | None,
        device: th.device | str,
        force_reset: bool,
        custom_objects: Mapping[str, Any],
        changes: Mapping[str, Any],
    ) -> SelfSafelySaved:
        added = {name: argument for name, argument in cls.arguments.items() if argument.earlier is not None}
        earlier = {name: argument.earlier for name, argument in added.items() if name not in file.left_out}
        settings = {**earlier, **file.settings}
        network = settings.pop("network", None)
        make: Any = cls
        model = make(policy=settings.get("policy_class", "MlpPolicy"), env=None, device=device, _init_setup_model=False)
        check_settings(model, settings, file.left_out, custom_objects)
        settings["policy_kwargs"] = {name: value for name, value in settings["policy_kwargs"].items() if name != "device"}
        given = changes.get("policy_kwargs", settings["policy_kwargs"])
        if given != settings["policy_kwargs"]:
            raise ValueError(f"`policy_kwargs` cannot be changed by load: they are {settings['policy_kwargs']} in `path`.")
        vec_env = None
        if env is not None:
            vec_env = cls._wrap_env(env, changes.get("verbose", settings["verbose"]))  # type: ignore[arg-type]
            if file.statistics is not None:
                vec_env = with_statistics(vec_env, file.statistics)
            check_for_correct_spaces(vec_env, settings["observation_space"], settings["action_space"])
            settings["n_envs"] = vec_env.num_envs
            if force_reset:
                settings["_last_obs"] = None
            # make the model with its environment, as the constructor does
            model = make(policy=settings["policy_class"], env=vec_env, device=device, _init_setup_model=False)
        vars(model).update(settings)
        with _settings_of_a_file():
            model.check_settings()
        vars(model).update(changes)
        model.check_settings()
        with not_larger_than(file.parameters), _settings_of_a_file():
            model._setup_model()
        check_parameters(model, file.parameters)
        check_learned(settings, dict(model.functional.parameters()))
        restore_network(model.policy, network)
        model.set_parameters(file.parameters, exact_match=True, device=device)  # type: ignore[arg-type]
        with _settings_of_a_file():
            model.check_settings()
        if vec_env is not None:
            model.check_env(vec_env)
        elif file.statistics is not None:
            spaces = settings["observation_space"], settings["action_space"]
            model._vec_normalize_env = saved_normalizer(file.statistics, *spaces)
        return model

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        check_schedule(self.learning_rate)
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def set_parameters(  # type: ignore[override]
        self, load_path_or_dict: str | dict[str, Any], exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        Set parameters from a file or from the result of ``get_parameters``.

        :param load_path_or_dict: The file of a model, or the state dictionaries by name
        :param exact_match: Whether every parameter must be present
        :param device: The device of the parameters
        :raises ValueError: When the file was altered or does not fit this model
        """
        parameters: Any = load_path_or_dict
        if not isinstance(load_path_or_dict, dict):
            with _opened(load_path_or_dict) as file:
                if is_archive(file):  # type: ignore[arg-type]
                    parameters = read_model(file, dict.fromkeys(vars(self))).parameters  # type: ignore[arg-type]
                    if exact_match:
                        check_parameters(self, parameters)
        super().set_parameters(parameters, exact_match, device)


def with_saved_statistics(model: BaseAlgorithm, env: VecEnv) -> VecEnv:
    """
    Return workers with the VecNormalize statistics of a model.

    :param model: The model, with an environment or loaded without one
    :param env: The workers for the model
    :return: The workers, in a VecNormalize with the saved statistics where needed
    :raises ValueError: When the VecNormalize of the workers has other settings or statistics
    """
    normalizer = model.get_vec_normalize_env()
    if not isinstance(normalizer, VecNormalize) or unwrap_vec_normalize(env) is normalizer:
        return env
    return with_statistics(env, statistics_of(normalizer))


@contextmanager
def _settings_of_a_file() -> Iterator[None]:
    """Convert errors about the settings of a file to ``BadFileError``."""
    try:
        yield
    except BadFileError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300].rstrip(".")
        raise BadFileError(f"has settings that make no model: {text}") from error
