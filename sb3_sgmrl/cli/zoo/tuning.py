"""The search for hyperparameters: what is searched, how a trial reports, and the entry that the best trial leaves."""

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
from sb3_sgmrl.util.files import replace_when_complete

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sb3_sgmrl.common.callbacks import MetaEvalCallback

# Of all algorithms. What adaptation may cost, n_episodes and n_inner_steps, belongs to the problem and stays as it is.
SEARCH_SPACE: dict[str, BaseDistribution] = {
    "inner_lr": FloatDistribution(0.01, 2.0, log=True),
    "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "meta_batch_size": CategoricalDistribution([5, 10, 20, 40]),
    "one_minus_gamma": FloatDistribution(1e-3, 0.1, log=True),
    "one_minus_gae_lambda": FloatDistribution(1e-3, 0.2, log=True),
    "max_grad_norm": FloatDistribution(0.1, 10.0, log=True),
    "net_arch": CategoricalDistribution(["small", "medium"]),
}
# of continuous actions
LOG_STD_INIT = FloatDistribution(-2.0, 0.5)
# of SG-MRL alone
SCORE_SPACE: dict[str, BaseDistribution] = {"score_gae_lambda": FloatDistribution(0.8, 1.0)}

_NET_ARCHS = {"small": [64, 64], "medium": [100, 100]}
_OF_THE_POLICY = ("net_arch", "log_std_init")
# attribute of a trial: arguments that it is played with instead of those its parameters say
_AS_GIVEN = "as given"


def search_space(algo: str, is_continuous: bool) -> dict[str, BaseDistribution]:
    """
    :param algo: ``sgmrl``, ``maml`` or ``emaml``
    :param is_continuous: whether actions are
    :return: what is searched, by name of the parameter of a trial
    """
    space = {
        **SEARCH_SPACE,
        **{name: values for name, values in SCORE_SPACE.items() if name in ALGORITHMS[algo].cls.arguments},
    }
    return {**space, "log_std_init": LOG_STD_INIT} if is_continuous else space


def sample_params(
    algo: str, trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Draw hyperparameters.

    :param algo: the algorithm
    :param trial: a trial of Optuna
    :param n_actions: dimension of continuous actions, else 0
    :param n_envs: not used, part of RL Zoo's signature
    :param additional_args: not used
    :return: arguments of the algorithm
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
    :param trial: a trial
    :return: arguments of the algorithm that it is played with
    """
    arguments = convert_params(trial.params)
    for name, value in trial.user_attrs.get(_AS_GIVEN, {}).items():
        (arguments["policy_kwargs"] if name in _OF_THE_POLICY else arguments)[name] = value
    return arguments


def convert_params(sampled_params: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param sampled_params: parameters of a trial
    :return: arguments of the algorithm
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
    The settings that the search starts from.

    :param params: parameters of a trial; for a number outside of the search space the nearest inside, for the sampler to know
    :param as_given: arguments of the algorithm outside of the search space, which the trial is played with all the same
    """

    params: dict[str, Any]
    as_given: dict[str, Any]


def first_guess(algo: str, settings: Mapping[str, Any], is_continuous: bool) -> FirstGuess:
    """
    :param algo: the algorithm
    :param settings: its arguments
    :param is_continuous: whether actions are
    :return: a trial with these settings
    """
    policy_kwargs = settings.get("policy_kwargs") or {}
    arguments = {**settings, "log_std_init": 0.0, "net_arch": None, **policy_kwargs}
    known = dict(arguments)
    known.update({f"one_minus_{name}": 1 - settings[name] for name in ("gamma", "gae_lambda")})
    known["net_arch"] = {str(arch): name for name, arch in _NET_ARCHS.items()}.get(str(arguments["net_arch"]))
    if known["max_grad_norm"] is None:
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
    :param hyperparams: arguments of the algorithm
    :param sampled: those that take their place; of ``policy_kwargs`` only those that were sampled
    :return: all of them
    """
    policy_kwargs = {**(hyperparams.get("policy_kwargs") or {}), **sampled.get("policy_kwargs", {})}
    return {**hyperparams, **sampled, "policy_kwargs": policy_kwargs}


def open_study(storage: str, study_name: str, first: FirstGuess, searched_with: Mapping[str, Any]) -> optuna.Study:
    """
    Open a study, or make a new one whose first trial is given.

    :param storage: a journal file, ending in ``.log``, or the URL of a database
    :param study_name: name of the study in there
    :param first: the first trial
    :param searched_with: what all trials must have in common to be compared: options of the command and their values
    :return: the study
    :raises ValueError: when there is no opening it, or its trials have something else in common
    """
    opened: Any = storage
    try:
        if storage.endswith(".log"):
            Path(storage).parent.mkdir(parents=True, exist_ok=True)
            opened = JournalStorage(JournalFileBackend(storage))
        study = optuna.create_study(storage=opened, study_name=study_name, load_if_exists=True, direction="maximize")
    # of the file, the URL or the database
    except Exception as error:
        raise ValueError(f"--storage {storage} cannot be opened; it must be FILE.log or sqlite:///FILE: {error}") from error
    for option, value in searched_with.items():
        kept = study.user_attrs.get(option, value)  # studies of before do not have it
        if kept != value:
            raise ValueError(
                f"--study-name {study_name} in --storage {storage} was searched with {option} {kept}, got {value}: "
                "go on with that, or choose another --study-name."
            )
    if not study.trials:
        for option, value in searched_with.items():
            study.set_user_attr(option, value)
    if all(trial.state == TrialState.FAIL for trial in study.trials):  # also after Ctrl-C in the first trial
        study.enqueue_trial(first.params, {_AS_GIVEN: first.as_given} if first.as_given else None)
        if first.as_given:
            outside = ", ".join(f"{name}={value}" for name, value in first.as_given.items())
            print(f"The first trial has the settings there are, also those outside of what is searched: {outside}.")
    return study


def has_best(study: optuna.Study) -> bool:
    """
    :param study: a study
    :return: whether a trial was finished
    """
    return bool(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))


def check_entry(entry: Mapping[str, Any]) -> None:
    """
    :param entry: hyperparameters, to be written with those of the best trial
    :raises ValueError: when they cannot be written as YAML
    """
    try:
        yaml.safe_dump(dict(entry))
    except yaml.YAMLError as error:
        raise ValueError(
            "hyperparameters that hold Python objects must be text to be written to a file, as in "
            "-params policy_kwargs:\"'dict(activation_fn=nn.ReLU)'\"."
        ) from error


def write_entry(path: str, env_id: str, entry: Mapping[str, Any], best: optuna.trial.FrozenTrial, n_timesteps: int) -> None:
    """
    Write hyperparameters with those of a trial in place of their own.

    :param path: the file, as ``train --conf-file`` takes it
    :param env_id: name of the entry
    :param entry: hyperparameters as they were in a file
    :param best: the trial
    :param n_timesteps: samples of a trial
    """
    sampled = arguments_of(best)
    written = {**_plain(entry), **_plain(sampled), "policy_kwargs": _policy_entry(entry, sampled["policy_kwargs"])}
    lines = (
        f"# python {' '.join(sys.orig_argv[1:])}",
        f"# Best of the trials of {n_timesteps} samples: number {best.number}, return after adaptation {best.value:.2f}",
        "",
    )
    with replace_when_complete(path) as file:
        file.write(("\n".join(lines) + yaml.safe_dump({env_id: written}, sort_keys=False)).encode())


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in values.items()}


def _policy_entry(entry: Mapping[str, Any], sampled: Mapping[str, Any]) -> Any:
    """With what else the entry has, which may be Python that is no YAML."""
    before = entry.get("policy_kwargs") or {}
    if not isinstance(before, str):
        return {**before, **_plain(sampled)}
    rest = {name: value for name, value in evaluated(before).items() if name not in _OF_THE_POLICY}
    return f"dict({before}, {', '.join(f'{k}={v!r}' for k, v in _plain(sampled).items())})" if rest else _plain(sampled)


@contextmanager
def trials_bar(show: bool, n_trials: int, n_timesteps: int) -> Iterator[tqdm]:
    """
    A progress bar over the samples of all trials, under Optuna's lines.

    :param show: whether to show it
    :param n_trials: number of trials
    :param n_timesteps: samples of each
    :return: the bar
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
    After each evaluation: tell Optuna the return after adaptation and stop when it prunes the trial.

    :param trial: the trial
    """

    parent: MetaEvalCallback

    def __init__(self, trial: optuna.Trial) -> None:
        super().__init__()
        self.trial = trial
        self.is_pruned = False

    def _on_step(self) -> bool:
        assert self.parent.last_report is not None
        self.trial.report(float(self.parent.last_report.mean_returns[-1]), self.n_calls)
        self.is_pruned = self.trial.should_prune()
        return not self.is_pruned


class TrialProgress(BaseCallback):
    """
    Moves a bar by the samples of one trial, and to the end of the trial at its end.

    :param bar: the bar of all trials
    :param n_timesteps: samples of a trial
    """

    def __init__(self, bar: tqdm | None, n_timesteps: int) -> None:
        super().__init__()
        self.bar = bar
        self.left = n_timesteps

    def _on_step(self) -> bool:
        self._advance(self.training_env.num_envs)
        return True

    def finish(self) -> None:
        """The trial has ended, early or not."""
        self._advance(self.left)

    def _advance(self, n: int) -> None:
        n = min(n, self.left)
        self.left -= n
        if self.bar is not None:
            self.bar.update(n)
