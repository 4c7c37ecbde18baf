"""``python -m sb3_sgmrl.adapt``: adapt a trained model to a task and save the policy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import set_random_seed

from sb3_sgmrl.cli.command_line import check_output, run_command
from sb3_sgmrl.cli.trained_model import Run, make_parser, open_run
from sb3_sgmrl.common.export import to_sb3
from sb3_sgmrl.util.files import replace_when_complete
from sb3_sgmrl.vec_env.task_workers import ask

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
    return parser


def _adapt(options: argparse.Namespace) -> None:
    if options.output is not None:
        check_output(options.output, (".zip",), options.overwrite)
    elif options.export is not None:
        raise ValueError(f"`--export {options.export}` needs a file to save to: pass `-o FILE.zip`.")
    with open_run(options) as run:
        policy = _print_returns(run)
        if options.output is not None:
            _save(run, policy)


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


def _save(run: Run, policy: ActorCriticPolicy) -> None:
    path, algorithm = run.options.output, run.options.export
    if algorithm is None:
        with replace_when_complete(path) as file:
            policy.save(file)  # type: ignore[arg-type]  # torch.save takes files
        print(f"Wrote {path}, for {type(policy).__name__}.load")
    else:
        env = run.manager.create_envs(1, eval_env=True)  # as many workers as for further training
        model = to_sb3(policy, env, _ALGORITHMS[algorithm], gamma=run.model.gamma, device=run.options.device)
        env.close()
        with replace_when_complete(path) as file:
            model.save(file)  # type: ignore[arg-type]
        print(f"Wrote {path}, for {algorithm}.load")
    if run.model.get_vec_normalize_env() is not None:
        load = f'{type(run.model).__name__}.load("{run.path}")'
        print(f"The policy expects normalised observations: use {load}.get_vec_normalize_env().")
