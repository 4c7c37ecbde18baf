"""
Measure how good each estimator of the meta-gradient is at a given policy.

    python examples/gradient_quality.py --env Navigation2D-v0 --train 400_000 4_000_000 --batches 100 --directions 1000
    python examples/gradient_quality.py --env HalfCheetahDir-v0 --model logs/model.zip --estimators maml sgmrl
    python examples/gradient_quality.py --env TabularMDP-v0 --reference exact --plain --episodes 5 20 80

The script reports bias against a reference, variance, signal-to-noise ratio and cost. With ``--directions`` it adds the
change of V along each mean direction. It prints tables and draws figures.

With ``--model`` the settings come from the model. With ``--train`` the script trains one MAML policy per number of steps,
with the hyperparameters of the package (``hyperparams/maml.yml``). It reuses policies that are in the folder. Pass ``--set
inner_lr=0.2`` to change a setting. ``--reference exact`` needs TabularMDP-v0, where returns can be computed.
"""

import argparse
import json
import pathlib
import sys

import numpy as np
from run_folders import SETTINGS, check_same, check_set, family, setting, settings_of

from sb3_sgmrl import EMAML, MAML, SGMRL
from sb3_sgmrl.algorithms import algorithm_of
from sb3_sgmrl.cli.command_line import run_command
from sb3_sgmrl.common.saving import saved_algorithm
from sb3_sgmrl.plots import plot_gradient_quality, plot_quality_sweep
from sb3_sgmrl.score_terms.names import SCORE_TERMS
from sb3_sgmrl.theory import (
    TabularReference,
    compare_gradients,
    directional_change,
    make_estimators,
    quality_table,
    sample_gradients,
)
from sb3_sgmrl.theory.statistics import align, with_interval
from sb3_sgmrl.util.validation import check_positive

# an outer surrogate in which every estimate is in the units of the return
PLAIN = {"gae_lambda": 1.0, "baseline": "none", "normalize": False, "discount_from": "episode", "time_reduction": "sum"}
ESTIMATORS = {
    "maml": (MAML, {}),
    "fo-maml": (MAML, {"first_order": True}),
    "lvc": (MAML, {"inner_surrogate": "lvc"}),
    "dice": (MAML, {"inner_surrogate": "dice"}),
    "emaml": (EMAML, {}),
    # a regression on earlier iterations has none here
    "sgmrl": (SGMRL, {}),
    **{name: (SGMRL, {"control_variate": name}) for name in SCORE_TERMS if name != "task_regression"},
    "exact": (TabularReference, {}),
}
SCORE_COEFS = (0.0, 0.25, 0.5, 0.75, 1.0)


def integer(text):
    return int(float(text))


def load(arguments, path):
    return algorithm_of(saved_algorithm(path)).cls.load(
        path, env=family(arguments), n_threads=arguments.threads, **settings(arguments)
    )


def settings(arguments):
    plain = {"outer_advantage": PLAIN} if arguments.plain else {}
    return {**plain, **dict(map(setting, arguments.set))}


def training_settings(arguments):
    return {**settings_of("maml", arguments.env), **settings(arguments)}


def conditions(arguments):
    """Return everything except the length that changes the trained policies."""
    given = {name: getattr(arguments, name) for name in ("env", "horizon", "seed")}
    return json.loads(json.dumps({**given, **training_settings(arguments)}))


def check(arguments):
    """Raise all errors before training and sampling start."""
    check_positive(**{f"episodes {n}": n for n in arguments.episodes})
    for name, least in (("batches", 3), ("directions", 0), ("train", 0)):
        value = np.min(getattr(arguments, name))
        if value < least:
            raise ValueError(f"--{name} must be at least {least}, got {value}.")
    if not 0 <= arguments.score_coef <= 1:
        raise ValueError(f"--score-coef must lie in [0, 1], got {arguments.score_coef}.")
    algorithm = algorithm_of(saved_algorithm(arguments.model)).cls if arguments.model else MAML
    check_set(arguments, algorithm)
    if not arguments.model:
        check_same(pathlib.Path(arguments.folder), conditions(arguments))


def policies(arguments):
    """Yield names and models: ``--model``, or MAML after each number of steps."""
    if arguments.model:
        yield pathlib.Path(arguments.model).stem, load(arguments, arguments.model)
        return
    own = training_settings(arguments)
    folder = pathlib.Path(arguments.folder)
    for steps in sorted(arguments.train):
        name = f"maml-{steps}"
        path = folder / f"{name}.zip"
        if not path.exists():
            model = MAML("MlpPolicy", family(arguments), seed=arguments.seed, n_threads=arguments.threads, **own)
            model.learn(steps, progress_bar=True).save(path)
            (folder / SETTINGS).write_text(json.dumps(conditions(arguments), indent=1))
        yield name, load(arguments, path)


def estimator(arguments, name):
    """Return class and arguments. The weight of the score term is fixed, because there are no earlier iterations."""
    algorithm, own = ESTIMATORS[name]
    return algorithm, {**own, "score_coef": arguments.score_coef} if algorithm is SGMRL else own


def measure(arguments, model, settings, **shared):
    """Return the sample and the quality of the estimators, including the reference."""
    reference = {arguments.reference: estimator(arguments, arguments.reference)}
    estimators = make_estimators(model, {**settings, **reference}, **shared)
    sample = sample_gradients(
        estimators,
        arguments.batches,
        arguments.reference,
        max(arguments.batches, arguments.reference_batches or 0),
        arguments.seed,
        progress_bar=True,
    )
    return sample, compare_gradients(sample, arguments.reference)


class Report:
    """Prints text and writes it to a folder, with figures."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.text = ""

    def write(self, text):
        print(f"\n{text}", flush=True)
        self.text += f"{text}\n\n"
        (self.folder / "quality.txt").write_text(self.text, encoding="utf-8")

    def draw(self, figure, name):
        figure.savefig(self.folder / f"{name}.png", dpi=110)
        print(f"Figure: {self.folder / name}.png")


def compare_estimators(arguments, report, policy, model):
    """Report the main table and the change of V along the mean directions."""
    sample, quality = measure(arguments, model, {name: estimator(arguments, name) for name in arguments.estimators})
    report.write(
        f"{arguments.env}, policy {policy}: {arguments.batches} meta-batches of {model.meta_batch_size} tasks, reference "
        f"{arguments.reference} from {len(sample.gradients[arguments.reference])}\n{quality_table(quality)}"
    )
    change, baseline = None, "maml" if "maml" in quality else arguments.estimators[0]
    if arguments.directions:
        means = {name: sample.mean(name) for name in quality}
        change = directional_change(
            model, means, arguments.step_sizes, arguments.directions, arguments.seed, progress_bar=True
        )
        report.write(
            f"Change of V, the discounted return after adaptation, over {arguments.directions} tasks with common random "
            f"numbers\n{change.table(baseline)}"
        )
    report.draw(plot_gradient_quality(quality, change, baseline), f"quality-{policy}")


def compare_episodes(arguments, report, policy, model):
    """Report quality against the number of inner episodes, with a fixed number of outer episodes."""
    n_outer = model.episodes_per_phase[-1]
    settings = {name: estimator(arguments, name) for name in arguments.estimators}
    by_number = {
        n: measure(arguments, model, settings, n_episodes=n, n_outer_episodes=n_outer)[1] for n in sorted(arguments.episodes)
    }
    rows = [["", *(f"N = {n}" for n in by_number)]]
    for name in arguments.estimators:
        variances = [quality[name].variance for quality in by_number.values()]
        rows.append([name, *(with_interval(variance.value, variance.interval) for variance in variances)])
    report.write(
        f"{arguments.env}, policy {policy}: variance of a meta-batch against the number N of inner episodes\n{align(rows)}"
    )
    sweeps = {name: {n: quality[name] for n, quality in by_number.items()} for name in arguments.estimators}
    report.draw(plot_quality_sweep(sweeps, "inner episodes N", "log"), f"episodes-{policy}")


def compare_score_coefs(arguments, report, policy, model):
    """Report bias and variance between MAML and SG-MRL."""
    forms = {name: ESTIMATORS[name] for name in arguments.estimators if ESTIMATORS[name][0] is SGMRL}
    labels = {(name, coef): f"{name}, {coef:g}" for name in forms for coef in SCORE_COEFS}
    settings = {label: (SGMRL, {**forms[name][1], "score_coef": coef}) for (name, coef), label in labels.items()}
    _, quality = measure(arguments, model, settings)
    report.write(f"{arguments.env}, policy {policy}: weight of the score term\n{quality_table(quality)}")
    sweeps = {name: {coef: quality[labels[name, coef]] for coef in SCORE_COEFS} for name in forms}
    report.draw(plot_quality_sweep(sweeps, "score_coef λ"), f"score_coef-{policy}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Navigation2D-v0", help="id of a registered family")
    parser.add_argument("--horizon", type=int, help="steps of an episode (default: as registered)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", help="saved model of any algorithm of the package; supplies policy and settings")
    source.add_argument(
        "--train", nargs="+", type=integer, default=[0], help="train MAML for this many steps; 0 is the untrained policy"
    )
    parser.add_argument(
        "--estimators",
        nargs="+",
        default=["maml", "lvc", "sgmrl", "leave_one_out_return", "none"],
        choices=list(ESTIMATORS),
        metavar="NAME",
        help=f"estimators to measure: {', '.join(ESTIMATORS)}. The name of a control variate is SGMRL with this control "
        "variate. none is eq. (13) of the paper literally. exact needs TabularMDP-v0",
    )
    parser.add_argument(
        "--reference",
        choices=list(ESTIMATORS),
        metavar="NAME",
        help="estimator to compare the others with (default: exact on TabularMDP-v0, sgmrl elsewhere)",
    )
    parser.add_argument("--batches", type=int, default=40, help="number of independent meta-batches for each estimator")
    parser.add_argument("--reference-batches", type=int, help="meta-batches of the reference (default: as --batches)")
    parser.add_argument(
        "--directions", type=int, default=0, help="tasks for the change of V along the mean directions; 0 skips this test"
    )
    parser.add_argument("--step-sizes", nargs="+", type=float, default=[0.01, 0.02], help="lengths of steps along directions")
    parser.add_argument(
        "--episodes", nargs="+", type=int, default=[], help="also measure with these numbers of inner episodes"
    )
    parser.add_argument(
        "--score-coef",
        type=float,
        default=1.0,
        help="weight of the score term of SGMRL (in training the default depends on earlier iterations)",
    )
    parser.add_argument(
        "--score-coefs", action="store_true", help=f"also measure SGMRL with score_coef {', '.join(map(str, SCORE_COEFS))}"
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="switch off the baseline, normalisation and discounting from the step in the outer surrogate. "
        "Estimates then have the units of the return, and exact score terms have no bias. --reference exact needs this option",
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="arguments of the algorithms")
    parser.add_argument("--seed", type=int, default=0, help="seed of training, meta-batches and directions")
    parser.add_argument("--threads", type=int, help="threads for gradients (default: one per processor)")
    parser.add_argument("--folder", default="logs/quality", help="folder for models, tables and figures")
    arguments = parser.parse_args()
    tabular = arguments.env == "TabularMDP-v0"
    arguments.reference = arguments.reference or ("exact" if tabular else "sgmrl")
    if "exact" in (arguments.reference, *arguments.estimators):
        if not tabular:
            parser.error("exact needs --env TabularMDP-v0, where returns can be computed")
        if not arguments.plain:
            parser.error("exact needs --plain: other outer surrogates have other units")
    if arguments.score_coefs and not any(ESTIMATORS[name][0] is SGMRL for name in arguments.estimators):
        parser.error("--score-coefs needs a form of SGMRL among --estimators")
    if error := run_command(lambda: check(arguments)):
        sys.exit(error)
    report = Report(arguments.folder)
    for policy, model in policies(arguments):
        compare_estimators(arguments, report, policy, model)
        if arguments.episodes:
            compare_episodes(arguments, report, policy, model)
        if arguments.score_coefs:
            compare_score_coefs(arguments, report, policy, model)


if __name__ == "__main__":
    main()
