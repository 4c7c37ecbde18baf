"""``python -m sb3_sgmrl.adapt``: adapt a trained model to a task and save the policy."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import set_random_seed

from sb3_sgmrl.cli.command_line import check_output, run_command
from sb3_sgmrl.cli.trained_model import Run, load_without_env, make_parser, open_run
from sb3_sgmrl.common.export import to_sb3
from sb3_sgmrl.data.batch import PhaseBatch
from sb3_sgmrl.deployment import export_onnx, export_torchscript, guarded_adapt, load_episodes
from sb3_sgmrl.deployment.export import import_onnx
from sb3_sgmrl.util.files import replace_when_complete
from sb3_sgmrl.vec_env.task_workers import ask

if TYPE_CHECKING:
    from sb3_sgmrl.common.meta_algorithm import MetaOnPolicyAlgorithm

_ALGORITHMS: dict[str, type[OnPolicyAlgorithm]] = {"PPO": PPO, "A2C": A2C}


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param argv: The arguments of the command; the arguments of the process when None
    :return: The exit code: 0, 2 after an error in the arguments or settings, 130 after Ctrl-C
    """
    options = _parser().parse_args(argv)
    return run_command(lambda: _adapt(options), show_traceback=options.verbose > 1)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "python -m sb3_sgmrl.adapt",
        "Adapt a model trained by sb3_sgmrl.train to a task of its own family, or of your own environment with the same "
        "spaces. Prints the return of the policy after each inner step. Saves the last policy as an SB3 policy, or "
        "inside an SB3 model for further training.",
        adapt_steps=None,  # more inner steps than in training may adapt worse
    )
    parser.add_argument("-o", "--output", metavar="FILE.zip", help="file to save the policy to (nothing is saved)")
    parser.add_argument(
        "--export",
        choices=sorted(_ALGORITHMS),
        help="save a model of this algorithm with the adapted policy, instead of the policy alone",
    )
    parser.add_argument("--onnx", metavar="FILE.onnx", help="also export the policy to ONNX, with the normalisation")
    parser.add_argument("--torchscript", metavar="FILE.pt", help="also export the policy to TorchScript")
    log = parser.add_argument_group("logged episodes, in place of a task to play")
    log.add_argument(
        "--episodes",
        nargs="+",
        metavar="FILE.npz",
        help="adapt to recorded episodes, one file for each inner step; no environment is needed",
    )
    log.add_argument("--guard", action="store_true", help="take the last inner step only if it is no worse by an estimate")
    log.add_argument("--held-out", metavar="FILE.npz", help="judge the step by these episodes, which it does not use")
    return parser


def _adapt(options: argparse.Namespace) -> None:
    if options.output is not None:
        check_output(options.output, (".zip",), options.overwrite)
    elif options.export is not None:
        raise ValueError(f"`--export {options.export}` needs a file to save to: pass `-o FILE.zip`.")
    if options.onnx is not None:
        check_output(options.onnx, (".onnx",), options.overwrite, "--onnx")
        import_onnx()
    if options.torchscript is not None:
        check_output(options.torchscript, (".pt",), options.overwrite, "--torchscript")
    if options.episodes is not None:
        _adapt_to_log(options)
        return
    if options.guard or options.held_out is not None:
        raise ValueError("`--guard` and `--held-out` need recorded episodes: pass `--episodes FILE.npz`.")
    with open_run(options) as run:
        policy = _print_returns(run)
        if options.export is not None:
            _save_model(run, policy)
        _write(options, run.path, run.model, policy)


def _adapt_to_log(options: argparse.Namespace) -> None:
    """Adapt to the episodes of files, without an environment."""
    given = {
        "--task": options.task,
        "--task-file": options.task_file,
        "--adapt-steps": options.adapt_steps,
        "--n-episodes": options.n_episodes,
    }
    for name, value in {**given, "--export": options.export, "--env-kwargs": options.env_kwargs or None}.items():
        if value is not None:
            raise ValueError(f"`{name}` must be left out with `--episodes`, because nothing is played.")
    if options.held_out is not None and not options.guard:
        raise ValueError("`--held-out` needs `--guard`, which judges the step.")
    path, model = load_without_env(options)
    batches = [PhaseBatch.from_episodes(load_episodes(file)) for file in options.episodes]
    print(f"{'inner step':>11} {'episodes':>9} {'mean return before it':>22}")
    for k, batch in enumerate(batches, 1):
        print(f"{k:>11} {batch.episode_returns.size:>9} {batch.episode_returns.mean():>22.2f}")
    if options.guard:
        held_out = None if options.held_out is None else PhaseBatch.from_episodes(load_episodes(options.held_out))
        guarded = guarded_adapt(model, batches, held_out)
        print(guarded)
        policy = guarded.policy
    else:
        policy = model.adapt(episodes=batches)
    _write(options, path, model, policy)


def _print_returns(run: Run) -> ActorCriticPolicy:
    """Print the return after each inner step and return the last policy."""
    print(f"Task {run.task}\n{'inner steps':>11} {'mean return':>12} {'std error':>10}   over {run.n_episodes} episodes")
    ask(run.env, "set_task", run.task)
    seed = run.options.seed % 2**32  # SB3 accepts no larger seeds
    for k, policy in run.policies():
        set_random_seed(seed)
        run.env.seed(seed)
        returns, _ = evaluate_policy(policy, run.env, run.n_episodes, deterministic=False, return_episode_rewards=True)
        error = np.std(returns, ddof=1) / np.sqrt(run.n_episodes) if run.n_episodes > 1 else np.nan
        print(f"{k:>11} {np.mean(returns):>12.2f} {error:>10.2f}")
    return policy


def _save_model(run: Run, policy: ActorCriticPolicy) -> None:
    """Save an SB3 model with the adapted policy."""
    path, algorithm = run.options.output, run.options.export
    env = run.manager.create_envs(1, eval_env=True)  # as many workers as for further training
    model = to_sb3(policy, env, _ALGORITHMS[algorithm], gamma=run.model.gamma, device=run.options.device)
    env.close()
    with replace_when_complete(path) as file:
        model.save(file)  # type: ignore[arg-type]
    print(f"Wrote {path}, for {algorithm}.load")


def _write(options: argparse.Namespace, path: pathlib.Path, model: MetaOnPolicyAlgorithm, policy: ActorCriticPolicy) -> None:
    """Write the policy to the files that the options name."""
    if options.output is not None:
        if options.export is None:
            with replace_when_complete(options.output) as file:
                policy.save(file)  # type: ignore[arg-type]  # torch.save takes files
            print(f"Wrote {options.output}, for {type(policy).__name__}.load")
        if model.get_vec_normalize_env() is not None:
            load = f'{type(model).__name__}.load("{path}")'
            print(f"The policy expects normalised observations: use {load}.get_vec_normalize_env().")
    for file_name, export in ((options.onnx, export_onnx), (options.torchscript, export_torchscript)):
        if file_name is not None:
            export(model, file_name, policy)
            print(f"Wrote {file_name}, which takes observations as the environment returns them")
