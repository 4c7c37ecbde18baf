"""
Test Theorem 1 and Corollary 1 with exact gradients: measure ‖∇V(θ_k)‖ under SG-MRL, MAML and first-order MAML.

    python examples/convergence.py
    python examples/convergence.py --quick

The script shows how small ‖∇V‖ becomes and how many episodes that takes. There are three tabular tasks that need different
actions, and updates are plain stochastic gradient ascent.

Gradients come from ``meta_gradient``, the function that training calls. Episodes come from the table of all trajectories, and
∇V is exact. The script prints tables and draws a figure.
"""

import argparse
import functools
import pathlib
from dataclasses import dataclass

import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_sgmrl.gradient.advantages import AdvantageSettings
from sb3_sgmrl.gradient.objective import MetaObjective
from sb3_sgmrl.theory import ConvergenceConstants, Estimate, TabularMDP, TabularTasks, attained, softmax_bounds
from sb3_sgmrl.theory.gradient_sample import with_progress
from sb3_sgmrl.theory.statistics import align, with_interval
from sb3_sgmrl.util.processes import process_pool

GAMMA, INNER_LR, N_EPISODES, LEARNING_RATE = 0.9, 2.0, 2, 1.0
# rewards r(s, a) of the tasks; every action leads from state 0 to state 1, and the episode ends after one more step
REWARDS = ([[1.0, 0.0], [1.0, 0.0]], [[0.75, 0.0], [0.5, 0.0]], [[0.0, 0.75], [0.0, 0.75]])
START = (0.1, 0.5)  # probabilities of action 0 in the two states
NAMES = {"sgmrl": "SG-MRL", "maml": "MAML", "fo-maml": "FO-MAML"}
N_ITERATIONS, N_LAST = 50, 15  # with the constant step; ‖∇V‖ is averaged over the last N_LAST
SMALL_BATCH = 4  # B of regime (ii)
OUTER_BATCH = 16  # B of the runs with a growing number of outer episodes


@functools.cache
def problem():
    th.set_num_threads(1)
    plain = AdvantageSettings(
        GAMMA, gae_lambda=1.0, baseline="none", normalize=False, discount_from="episode", time_reduction="sum"
    )
    transitions = np.zeros((2, 2, 2))
    transitions[0, :, 1] = transitions[1, :, 0] = 1.0
    mdps = [TabularMDP(transitions, np.array(rewards), np.array([1.0, 0.0]), horizon=2) for rewards in REWARDS]
    return TabularTasks(mdps, MetaObjective(plain, plain, INNER_LR), N_EPISODES)


def start():
    """Return parameters with the logits of action 0; all others are zero."""
    theta = np.zeros(6)
    theta[:2] = np.log(START) - np.log1p(-np.array(START))
    return theta


def exact_norms(thetas):
    return problem().expected_gradients(th.as_tensor(np.array(thetas)))["sgmrl"].norm(dim=1).numpy()


@dataclass(frozen=True)
class Run:
    """Run stochastic gradient ascent and compute ‖∇V‖ every ``every`` iterations."""

    algorithm: str
    batch_size: int
    n_outer: int = 1
    learning_rate: float = LEARNING_RATE
    n_iterations: int = N_ITERATIONS
    every: int = 1

    @property
    def iterations(self):
        return np.arange(0, self.n_iterations + 1, self.every)

    def norms(self, seed):
        names = [list(NAMES).index(self.algorithm), self.batch_size, self.n_outer, self.n_iterations]
        rng, theta, thetas = np.random.default_rng([seed, *names]), start(), []
        for k in range(self.n_iterations + 1):
            if k % self.every == 0:
                thetas.append(theta)
            gradient = problem().draw_gradient(self.algorithm, theta, self.batch_size, self.n_outer, rng)
            theta = theta + self.learning_rate * gradient
        return exact_norms(thetas)


def constant_step(epsilon):
    """Regime (i): B = 4/ε², β constant."""
    return Run("sgmrl", round(4 * epsilon**-2))


def small_batch(epsilon):
    """Regime (ii): B constant, β = B ε²/4; the iterations cover the same distance as 12 with β = 1."""
    learning_rate = SMALL_BATCH * epsilon**2 / 4
    n_iterations = round(12 / learning_rate)
    return Run("sgmrl", SMALL_BATCH, 1, learning_rate, n_iterations, max(1, n_iterations // 200))


REGIMES = {"(i) large batch, constant step": constant_step, "(ii) constant batch, small step": small_batch}


def play(job):
    run, seed = job
    return run.norms(seed)


def play_all(runs, n_seeds, n_workers):
    """Compute ‖∇V(θ_k)‖ of every run, shape (n_seeds, n_checkpoints), for any number of processes."""
    jobs = sorted(((run, seed) for run in runs for seed in range(n_seeds)), key=lambda job: -job[0].n_iterations)
    with process_pool(n_workers) as pool:
        results = pool.map(play, jobs)
        found = {job: next(results) for job in with_progress(jobs, "runs", True)}
    return {run: np.stack([found[run, seed] for seed in range(n_seeds)]) for run in runs}


def floor(norms):
    """Return the mean of ‖∇V‖ over the last iterations, with an interval over seeds."""
    return Estimate.of_mean(norms[:, -N_LAST:].mean(1))


def reached(run, norms, epsilon):
    """Find the iteration after which the mean of ‖∇V‖ over seeds stays at most ε; NaN if there is none."""
    above = np.flatnonzero(norms.mean(0) > epsilon)
    first = above[-1] + 1 if len(above) else 0
    return float(run.iterations[first]) if first < norms.shape[1] else np.nan


def episodes_needed(run, norms, epsilon):
    """Count the inner and outer episodes of all tasks until ‖∇V‖ stays at most ε."""
    return reached(run, norms, epsilon) * run.batch_size * (N_EPISODES + run.n_outer)


def slope(numbers):
    """Fit the slope of log episodes against log ε; NaN if some ε was not reached, or was reached at once."""
    needed = np.array(list(numbers.values()))
    return float(np.polyfit(np.log(list(numbers)), np.log(needed), 1)[0]) if (needed > 0).all() else np.nan


def bootstrap(statistic, samples, n_resamples=1000):
    """Return the 95 % interval of a statistic of {ε: (run, norms)} over resampled seeds."""
    rng = np.random.default_rng(0)
    values = []
    for _ in range(n_resamples):
        values.append(statistic({e: (run, norms[rng.integers(len(norms), size=len(norms))]) for e, (run, norms) in samples}))
    return tuple(np.quantile(values, [0.025, 0.975]))  # NaN if some resamples did not reach ε


def follow_expectations(n_iterations=400):
    """Follow the mean gradients of the three algorithms; return the limits and ‖∇V‖, (n_iterations + 1, 3)."""
    thetas, norms = th.as_tensor(start()).repeat(3, 1), []
    for _ in range(n_iterations + 1):
        gradients = problem().expected_gradients(thetas)
        norms.append(gradients["sgmrl"].norm(dim=1).numpy())
        own = th.stack([gradients[name][i] for i, name in enumerate(NAMES)])
        last, thetas = thetas, thetas + LEARNING_RATE * own
    return last, own.norm(dim=1).numpy(), np.array(norms)


def largest_curvature(thetas):
    return max(float(th.linalg.matrix_norm(problem().hessian(theta), 2)) for theta in thetas)


def report_limits(thetas, own, norms):
    rows = [["", "norm of own mean gradient", "‖∇V‖", "V", "probabilities of action 0"]]
    values = problem().values(thetas).numpy()
    for i, name in enumerate(NAMES.values()):
        p = problem().log_prob(thetas[i]).exp()[:: problem().n_actions]
        rows.append([name, f"{own[i]:.1e}", f"{norms[-1, i]:.1e}", f"{values[i]:.4f}", ", ".join(f"{x:.3f}" for x in p)])
    curvatures = np.linalg.eigvalsh(problem().hessian(thetas[0]).numpy())[:2]
    print(f"Batches of infinite size, {len(norms) - 1} iterations\n{align(rows)}")
    print(f"Curvature of V at the limit of SG-MRL: {curvatures[0]:.3f} and {curvatures[1]:.3f}")
    print(f"Largest curvature at the start and the three limits: {largest_curvature([th.as_tensor(start()), *thetas]):.3f}")


def report_floors(title, label, floors):
    columns = max(map(list, floors.values()), key=len)
    rows = [[label, *map(str, columns)]]
    for value, row in floors.items():
        rows.append([str(value), *(with_interval(row[c].value, row[c].interval) if c in row else "" for c in columns)])
    print(f"\n{title}\n{align(rows)}", flush=True)


def report_regimes(samples):
    """Print the table of Corollary 1; return by regime {ε: (episodes, interval)} and a label with the slope."""
    rows, curves = [["", "ε", "B", "β", "iterations", "episodes"]], {}
    for regime, by_epsilon in samples.items():
        needed = {}
        for epsilon, (run, norms) in by_epsilon.items():
            interval = bootstrap(lambda s: episodes_needed(*s[epsilon], epsilon), [(epsilon, (run, norms))])  # noqa: B023
            needed[epsilon] = (episodes_needed(run, norms, epsilon), interval)
            cells = [f"{epsilon:.4g}", str(run.batch_size), f"{run.learning_rate:.3g}", f"{reached(run, norms, epsilon):g}"]
            rows.append([regime, *cells, with_interval(*needed[epsilon])])

        def slope_of(sample):
            return slope({e: episodes_needed(run, norms, e) for e, (run, norms) in sample.items()})

        label = with_interval(slope_of(by_epsilon), bootstrap(slope_of, list(by_epsilon.items())))
        curves[regime] = (needed, label)
    print(f"\nUntil the mean of ‖∇V‖ stays at most ε\n{align(rows)}")
    for regime, (_, label) in curves.items():
        print(f"{regime}: episodes grow as ε to the power {label}; Corollary 1 allows -4")
    return curves


def report_constants(epsilon):
    constants = ConvergenceConstants(softmax_bounds(), 1.0, GAMMA, 2, N_EPISODES, INNER_LR)
    logits = np.array([-6.0, -1.3, 0.0, 1.3, 6.0])
    thetas = np.array([[a, b, 0, 0, 0, 0] for a in logits for b in logits[::2]])
    found = attained(problem(), thetas)
    names = {"score": "G", "curvature": "L", "curvature_slope": "ρ", "gradient_bound": "η_G", "hessian_bound": "η_H"}
    names |= {"hessian_slope": "η_ρ", "smoothness": "L_V", "paper_estimator_bound": "G_V", "estimator_bound": "G_V, corrected"}
    found["paper_estimator_bound"] = found["estimator_bound"]
    rows = [["", "bound", f"largest at {len(thetas)} policies"]]
    for name, symbol in names.items():
        bound = getattr(constants.policy if hasattr(constants.policy, name) else constants, name)
        rows.append([symbol, f"{bound:.4g}", f"{found[name]:.4g}"])
    print(f"\nConstants of the theory for these tasks\n{align(rows)}")
    print(
        f"α ≤ 1/η_H = {constants.max_inner_lr:.2g}, here {INNER_LR:g}; β ≤ 1/L_V = {constants.max_learning_rate:.2g}, here 1;"
    )
    needed, used = constants.sufficient_batch_size(epsilon), constant_step(epsilon).batch_size
    print(f"B ≥ 8 G_V²/ε² = {needed:.2g} for ε = {epsilon:.3g}, here {used:.2g}")


def draw(expected, norms, floors, outer, curves):
    figure = Figure(figsize=(13.2, 4.0), layout="constrained")
    path, against_batch, needed = figure.subplots(1, 3)
    common = [size for size, row in floors.items() if len(row) == len(NAMES)]
    for i, (algorithm, name) in enumerate(NAMES.items()):
        sizes = [size for size, row in floors.items() if name in row]
        for size, alpha in zip(common[-2:], (0.35, 0.7), strict=False):
            path.plot(norms[Run(algorithm, size)].mean(0), color=f"C{i}", alpha=alpha, label=f"{name}, B = {size}")
        path.plot(expected[: N_ITERATIONS + 1, i], "--", color=f"C{i}", label=f"{name}, B infinite")
        estimates = [floors[size][name] for size in sizes]
        means, errors = [e.value for e in estimates], [e.value - e.interval[0] for e in estimates]
        against_batch.errorbar(sizes, means, errors, marker="o", color=f"C{i}", label=name)
        against_batch.axhline(max(expected[-1, i], 1e-9), linestyle="--", color=f"C{i}", linewidth=1)
    path.set(xlabel="iteration k", ylabel="‖∇V(θ_k)‖, mean over seeds", yscale="log", ylim=(1e-4, None))
    path.legend(frameon=False, fontsize="x-small", loc="lower left")
    outer_means = [row["SG-MRL"].value for row in outer.values()]
    episodes = [n * OUTER_BATCH for n in outer]
    against_batch.plot(episodes, outer_means, "x:", color="C0", label=f"SG-MRL, B = {OUTER_BATCH}, more outer episodes")
    against_batch.set(xlabel="outer episodes per iteration, B · D_o", ylabel="‖∇V‖ in the end", xscale="log", yscale="log")
    against_batch.set_ylim(bottom=min(row["SG-MRL"].value for row in floors.values()) / 2)
    against_batch.legend(frameon=False, fontsize="small")
    for i, (regime, (points, label)) in enumerate(curves.items()):
        epsilons, values = list(points), np.array([value for value, _ in points.values()])
        low, high = np.array([interval for _, interval in points.values()]).T
        reach = np.maximum((values - low, high - values), 0)
        needed.errorbar(epsilons, values, reach, fmt="o-", color=f"C{i + 3}", label=f"{regime}\n{label}")
    every = {epsilon: value for points, _ in curves.values() for epsilon, (value, _) in points.items()}
    ends = np.array([max(every), min(every)])
    for power, style in ((-4, ":"), (-2, "--")):
        needed.plot(ends, every[ends[0]] * (ends / ends[0]) ** power, style, color="0.5", label=f"ε to the power {power}")
    ticks = sorted(epsilon for epsilon in every if np.log2(epsilon).is_integer())
    needed.set_xscale("log")
    needed.set_xticks(ticks, [f"1/{1 / epsilon:g}" for epsilon in ticks])
    needed.minorticks_off()
    needed.set(xlabel="ε", ylabel="episodes until ‖∇V‖ ≤ ε", yscale="log")
    needed.legend(frameon=False, fontsize="x-small")
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6, help="number of runs of each setting")
    parser.add_argument("--quick", action="store_true", help="use a few small batches: seconds instead of minutes")
    parser.add_argument("--workers", type=int, default=2, help="number of processes; it does not change results")
    parser.add_argument("--folder", default="logs/convergence", help="folder for the figure")
    arguments = parser.parse_args()
    if arguments.seeds < 2 or arguments.workers < 1:
        parser.error("--seeds must be at least 2 and --workers at least 1")
    sizes = [4**k for k in (range(1, 4) if arguments.quick else range(1, 7))]
    sizes_of = {"sgmrl": sizes, "maml": sizes[1::2], "fo-maml": sizes[1::2]}
    n_outer = [1, 16] if arguments.quick else [1, 16, 256]
    by_regime = {
        constant_step: [2.0**-k for k in ((1.5, 2) if arguments.quick else (3, 4, 5, 6))],
        small_batch: [2.0**-k for k in ((2, 2.5) if arguments.quick else (2.5, 3, 3.5, 4))],
    }
    print(f"V = expected return after adaptation, 3 tasks, N = {N_EPISODES}, α = {INNER_LR:g}, γ = {GAMMA:g}, start {START}\n")
    limits, own, expected = follow_expectations()
    report_limits(limits, own, expected)
    runs = [Run(algorithm, size) for algorithm in NAMES for size in sizes_of[algorithm]]
    outer_runs = {n: Run("sgmrl", OUTER_BATCH, n) for n in n_outer}
    regimes = {name: {e: make(e) for e in by_regime[make]} for name, make in REGIMES.items()}
    every = {*runs, *outer_runs.values(), *(run for row in regimes.values() for run in row.values())}
    norms = play_all(sorted(every, key=repr), arguments.seeds, arguments.workers)
    floors = {
        size: {name: floor(norms[Run(key, size)]) for key, name in NAMES.items() if size in sizes_of[key]} for size in sizes
    }
    outer = {n: {"SG-MRL": floor(norms[run])} for n, run in outer_runs.items()}
    steps = f"β = {LEARNING_RATE:g}, iterations {N_ITERATIONS - N_LAST + 1} to {N_ITERATIONS}, {arguments.seeds} seeds"
    report_floors(f"Mean of ‖∇V‖ against the number B of tasks, one outer episode each, {steps}", "B", floors)
    report_floors(f"The same for B = {OUTER_BATCH} against the number D_o of outer episodes", "D_o", outer)
    curves = report_regimes({name: {e: (run, norms[run]) for e, run in row.items()} for name, row in regimes.items()})
    if not arguments.quick:
        report_constants(min(by_regime[constant_step]))
    folder = pathlib.Path(arguments.folder)
    folder.mkdir(parents=True, exist_ok=True)
    draw(expected, norms, floors, outer, curves).savefig(folder / "convergence.png", dpi=110)
    print(f"\nFigure: {folder / 'convergence.png'}")


if __name__ == "__main__":
    main()
