"""Parts of the hyperparameter search: the search space, the reports of a trial, and the entry of the best trial."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from stable_baselines3.common.callbacks import BaseCallback
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from sb3_sgmrl.algorithms import ALGORITHMS
from sb3_sgmrl.cli.zoo.checks import evaluated
from sb3_sgmrl.common.arguments import ARGUMENTS
from sb3_sgmrl.util.files import replace_when_complete

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sb3_sgmrl.common.callbacks import MetaEvalCallback

# The space of all algorithms. The costs of adaptation, n_episodes and n_inner_steps, belong to the problem and stay fixed.
SEARCH_SPACE: dict[str, BaseDistribution] = {
    "inner_lr": FloatDistribution(0.01, 2.0, log=True),
    "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "meta_batch_size": CategoricalDistribution([5, 10, 20, 40]),
    "one_minus_gamma": FloatDistribution(1e-3, 0.1, log=True),
    "one_minus_gae_lambda": FloatDistribution(1e-3, 0.2, log=True),
    "max_grad_norm": FloatDistribution(0.1, 10.0, log=True),
    "net_arch": CategoricalDistribution(["small", "medium"]),
}
# the additional space for continuous actions
LOG_STD_INIT = FloatDistribution(-2.0, 0.5)
# the additional space of SG-MRL
SCORE_SPACE: dict[str, BaseDistribution] = {"score_gae_lambda": FloatDistribution(0.8, 1.0)}

_NET_ARCHS = {"small": [64, 64], "medium": [100, 100]}
_OF_THE_POLICY = ("net_arch", "log_std_init")
# attribute of a trial: arguments that override the trial's parameters
_AS_GIVEN = "as given"


def search_space(algo: str, is_continuous: bool) -> dict[str, BaseDistribution]:
    """
    Return the search space of an algorithm.

    :param algo: The name of the algorithm
    :param is_continuous: Whether actions are continuous
    :return: The distributions, by name of a trial's parameter
    """
    algorithm = ALGORITHMS[algo]
    everywhere = {**SEARCH_SPACE, **SCORE_SPACE}
    foreign = (ARGUMENTS.keys() | SCORE_SPACE.keys()) - algorithm.cls.arguments.keys() | algorithm.search.keys()
    space = {name: values for name, values in everywhere.items() if name not in foreign}
    space.update({name: FloatDistribution(*range_, log=True) for name, range_ in algorithm.search.items() if range_})
    return {**space, "log_std_init": LOG_STD_INIT} if is_continuous else space


def sample_params(
    algo: str, trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Draw hyperparameters.

    :param algo: The algorithm
    :param trial: The trial of Optuna
    :param n_actions: The dimension of continuous actions, otherwise 0
    :param n_envs: Not used, part of RL Zoo's signature
    :param additional_args: Not used
    :return: The arguments of the algorithm
    """
    for name, distribution in search_space(algo, n_actions > 0).items():
        if isinstance(distribution, FloatDistribution):
            trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
        else:
            assert isinstance(distribution, CategoricalDistribution)
            trial.suggest_categorical(name, distribution.choices)
    return arguments_of(trial)


def arguments_of(trial: optuna.Trial | optuna.trial.FrozenTrial) -> dict[str, Any]:
    """
    Return the arguments of the algorithm in a trial.

    :param trial: The trial
    :return: The arguments of the algorithm
    """
    arguments = convert_params(trial.params)
    for name, value in trial.user_attrs.get(_AS_GIVEN, {}).items():
        (arguments["policy_kwargs"] if name in _OF_THE_POLICY else arguments)[name] = value
    return arguments


def convert_params(sampled_params: Mapping[str, Any]) -> dict[str, Any]:
    """
    Convert parameters of a trial to arguments of the algorithm.

    :param sampled_params: The parameters of a trial
    :return: The arguments of the algorithm
    """
    params = dict(sampled_params)
    for name in ("gamma", "gae_lambda"):
        params[name] = 1 - params.pop(f"one_minus_{name}")
    params["policy_kwargs"] = {"net_arch": _NET_ARCHS[params.pop("net_arch")]}
    if "log_std_init" in params:
        params["policy_kwargs"]["log_std_init"] = params.pop("log_std_init")
    return params


@dataclass(frozen=True)
class FirstGuess:
    """
    The settings at the start of the search.

    :param params: The parameters of a trial; a number outside the search space becomes the nearest number inside, for the
        sampler
    :param as_given: The arguments of the algorithm outside the search space, which the trial uses unchanged
    """

    params: dict[str, Any]
    as_given: dict[str, Any]


def first_guess(algo: str, settings: Mapping[str, Any], is_continuous: bool) -> FirstGuess:
    """
    Make a first trial from the current settings.

    :param algo: The algorithm
    :param settings: The arguments of the algorithm
    :param is_continuous: Whether actions are continuous
    :return: The first trial
    """
    policy_kwargs = settings.get("policy_kwargs") or {}
    arguments = {**settings, "log_std_init": 0.0, "net_arch": None, **policy_kwargs}
    known = dict(arguments)
    known.update({f"one_minus_{name}": 1 - settings[name] for name in ("gamma", "gae_lambda")})
    known["net_arch"] = {str(arch): name for name, arch in _NET_ARCHS.items()}.get(str(arguments["net_arch"]))
    if known.get("max_grad_norm", 0.0) is None:
        known["max_grad_norm"] = math.inf
    params, as_given = {}, {}
    for name, distribution in search_space(algo, is_continuous).items():
        if not _contains(distribution, known[name]):
            argument = name.removeprefix("one_minus_")
            as_given[argument] = arguments[argument]
        if isinstance(known[name], (int, float)):
            params[name] = _nearest(distribution, known[name])
        elif name not in as_given:
            params[name] = known[name]
    return FirstGuess(params, as_given)


def _nearest(distribution: BaseDistribution, value: float) -> float:
    if isinstance(distribution, FloatDistribution):
        return min(max(value, distribution.low), distribution.high)
    assert isinstance(distribution, CategoricalDistribution)
    return min(distribution.choices, key=lambda choice: abs(choice - value))  # type: ignore[operator, arg-type, return-value]


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, FloatDistribution):
        return isinstance(value, (int, float)) and distribution.low <= value <= distribution.high
    assert isinstance(distribution, CategoricalDistribution)
    return value in distribution.choices


def merged(hyperparams: Mapping[str, Any], sampled: Mapping[str, Any]) -> dict[str, Any]:
    """
    Replace arguments of the algorithm by sampled arguments.

    :param hyperparams: The arguments of the algorithm
    :param sampled: The sampled arguments; inside ``policy_kwargs`` only the sampled keys are replaced
    :return: All arguments
    """
    policy_kwargs = {**(hyperparams.get("policy_kwargs") or {}), **sampled.get("policy_kwargs", {})}
    return {**hyperparams, **sampled, "policy_kwargs": policy_kwargs}


def open_study(storage: str, study_name: str, first: FirstGuess, searched_with: Mapping[str, Any]) -> optuna.Study:
    """
    Open an existing study, or make a new study with a given first trial.

    :param storage: A journal file, ending in ``.log``, or the URL of a database
    :param study_name: The name of the study in the storage
    :param first: The first trial
    :param searched_with: The options of the command, and their values, that all trials must share to be comparable
    :return: The study
    :raises ValueError: When the study cannot be opened, or its trials have other values of the options
    """
    opened: Any = storage
    try:
        if storage.endswith(".log"):
            Path(storage).parent.mkdir(parents=True, exist_ok=True)
            opened = JournalStorage(JournalFileBackend(storage))
        study = optuna.create_study(storage=opened, study_name=study_name, load_if_exists=True, direction="maximize")
    # the file, the URL and the database raise different errors
    except Exception as error:
        raise ValueError(f"`--storage` must be FILE.log or sqlite:///FILE, got {storage}: {error}") from error
    for option, value in searched_with.items():
        kept = study.user_attrs.get(option, value)  # older studies do not have it
        if kept != value:
            raise ValueError(
                f"`{option}` must be {kept} to resume the study {study_name} in {storage}, got {value}: change it or choose "
                "another `--study-name`."
            )
    if not study.trials:
        for option, value in searched_with.items():
            study.set_user_attr(option, value)
    if all(trial.state == TrialState.FAIL for trial in study.trials):  # also after Ctrl-C in the first trial
        study.enqueue_trial(first.params, {_AS_GIVEN: first.as_given} if first.as_given else None)
        if first.as_given:
            outside = ", ".join(f"{name}={value}" for name, value in first.as_given.items())
            print(f"The first trial uses the current settings, including values outside the search space: {outside}.")
    return study


def has_best(study: optuna.Study) -> bool:
    """
    Check whether a study has a finished trial.

    :param study: The study
    :return: Whether a trial finished
    """
    return bool(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))


def check_entry(entry: Mapping[str, Any]) -> None:
    """
    Check that hyperparameters can be written as YAML.

    :param entry: The hyperparameters
    :raises ValueError: When they contain Python objects
    """
    try:
        yaml.safe_dump(dict(entry))
    except yaml.YAMLError as error:
        raise ValueError(
            "`-params` with Python objects must be text, so that they can be written to a file, as in "
            f"policy_kwargs:\"'dict(activation_fn=nn.ReLU)'\", got {error.args[-1]}."
        ) from error


def write_entry(path: str, env_id: str, entry: Mapping[str, Any], best: optuna.trial.FrozenTrial, n_timesteps: int) -> None:
    """
    Write hyperparameters, with the values of a trial in place of their own.

    :param path: The file, as ``train --conf-file`` reads it
    :param env_id: The name of the entry
    :param entry: The hyperparameters as in a file
    :param best: The trial
    :param n_timesteps: The number of samples of a trial
    """
    sampled = arguments_of(best)
    written = {**_plain(entry), **_plain(sampled), "policy_kwargs": _policy_entry(entry, sampled["policy_kwargs"])}
    lines = (
        f"# python {' '.join(sys.orig_argv[1:])}",
        f"# Best trial: number {best.number}, {n_timesteps} samples, return after adaptation {best.value:.2f}",
        "",
    )
    with replace_when_complete(path) as file:
        file.write(("\n".join(lines) + yaml.safe_dump({env_id: written}, sort_keys=False)).encode())


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in values.items()}


def _policy_entry(entry: Mapping[str, Any], sampled: Mapping[str, Any]) -> Any:
    """Merge sampled values with the entry's other ``policy_kwargs``, which may be Python text."""
    before = entry.get("policy_kwargs") or {}
    if not isinstance(before, str):
        return {**before, **_plain(sampled)}
    rest = {name: value for name, value in evaluated(before).items() if name not in _OF_THE_POLICY}
    return f"dict({before}, {', '.join(f'{k}={v!r}' for k, v in _plain(sampled).items())})" if rest else _plain(sampled)


@contextmanager
def trials_bar(show: bool, n_trials: int, n_timesteps: int) -> Iterator[tqdm]:
    """
    Show a progress bar over the samples of all trials, below Optuna's lines.

    :param show: Whether to show the bar
    :param n_trials: The number of trials
    :param n_timesteps: The number of samples of each trial
    :return: The bar
    """
    logger, of_trials = optuna.logging.get_logger("optuna"), optuna.logging.get_logger("optuna.study._optimize")
    of_trials.addFilter(_without_traceback_of_ctrl_c)
    with tqdm(total=n_trials * n_timesteps, disable=not show, unit="step", unit_scale=True, dynamic_ncols=True) as bar:
        try:
            if not show:
                yield bar
                return
            optuna.logging.enable_propagation()
            optuna.logging.disable_default_handler()
            with logging_redirect_tqdm([logger]):
                yield bar
        finally:
            of_trials.removeFilter(_without_traceback_of_ctrl_c)
            optuna.logging.enable_default_handler()
            optuna.logging.disable_propagation()


def _without_traceback_of_ctrl_c(record: logging.LogRecord) -> bool:
    if record.exc_info and record.exc_info[0] is KeyboardInterrupt:
        record.exc_info = None
    return True


class ReportToTrial(BaseCallback):
    """
    Report the return after adaptation to Optuna after each evaluation, and stop when Optuna prunes the trial.

    :param trial: The trial
    """

    parent: MetaEvalCallback

    def __init__(self, trial: optuna.Trial) -> None:
        super().__init__()
        self.trial = trial
        self.is_pruned = False

    def _on_step(self) -> bool:
        assert self.parent.last_report is not None
        self.trial.report(float(self.parent.last_report.mean_returns[-1]), self.n_calls)
        # stays pruned at the evaluation that ends training
        self.is_pruned = self.trial.should_prune() or self.is_pruned
        return not self.is_pruned


class TrialProgress(BaseCallback):
    """
    Advance a progress bar by the samples of one trial.

    :param bar: The bar of all trials
    :param n_timesteps: The number of samples of a trial
    """

    def __init__(self, bar: tqdm | None, n_timesteps: int) -> None:
        super().__init__()
        self.bar = bar
        self.n_timesteps = n_timesteps
        self.done = 0

    def _on_step(self) -> bool:
        self._advance(self.num_timesteps)
        return True

    def finish(self) -> None:
        """Advance the bar to the end of the trial, which may have ended early."""
        self._advance(self.n_timesteps)

    def _advance(self, done: int) -> None:
        done = min(done, self.n_timesteps)
        if self.bar is not None:
            self.bar.update(done - self.done)
        self.done = done
