"""Pictures show the numbers they are drawn from; the command draws each of them from files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from report_tools import reports_of, saved
from stable_baselines3.common.logger import configure
from toys import error_of, point, tiny

from sb3_sgmrl import MAML, SGMRL, AdaptationReport, MetaEvalCallback, evaluate_adaptation
from sb3_sgmrl.cli import plot
from sb3_sgmrl.plots import (
    LearningCurve,
    bootstrap,
    plot_adaptation,
    plot_gradient_terms,
    plot_learning_curves,
    plot_performance_profiles,
    plot_probability_of_improvement,
    read_progress,
    scores,
)
from sb3_sgmrl.theory import GradientQualityCallback

metrics = pytest.importorskip("rliable.metrics")


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the bootstrap, and no display."""
    monkeypatch.setattr(bootstrap, "N_BOOTSTRAP", 50)
    monkeypatch.setattr(scores, "N_BOOTSTRAP", 50)
    monkeypatch.delenv("DISPLAY", raising=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Folders of two algorithms with two seeds each."""
    folders: dict[str, list[Path]] = {}
    for name, algorithm in (("sgmrl", SGMRL), ("maml", MAML)):
        for seed in range(2):
            folder = tmp_path_factory.getbasetemp() / "runs" / f"{name}-{seed}"
            model = tiny(algorithm, point(), seed=seed, **({"score_coef": 1.0} if name == "sgmrl" else {}))
            model.set_logger(configure(str(folder), ["csv"]))
            others = {"pathwise term": (MAML, {})} if name == "sgmrl" else {}
            evaluation = MetaEvalCallback(point(), n_tasks=3, n_steps=2, eval_freq=2, log_path=str(folder), verbose=0)
            model.learn(350 + 120 * seed, [evaluation, GradientQualityCallback(others, eval_freq=2, n_batches=3)])
            model.logger.close()
            model.save(folder / "model")
            evaluate_adaptation(model, n_tasks=4, n_steps=2, seed=1).to_csv(folder / "adaptation.csv")
            folders.setdefault(name, []).append(folder)
    return folders


# ---------------------------------------------------------------- what runs leave


@pytest.mark.parametrize("tasks", [[np.array([0.1, -2 / 3]), np.array([1e-17, 3.0])], ["left", "up and right"]])
@pytest.mark.parametrize("measure", ["return", "success rate"])
def test_reports_are_read_as_they_were_written(tasks: list, measure: str, tmp_path: Path) -> None:
    report = AdaptationReport(tasks, np.array([[1 / 3, 2.0], [-4.0, 1e9]]), measure)
    report.to_csv(tmp_path / "report.csv")
    again = AdaptationReport.from_csv(tmp_path / "report.csv")
    np.testing.assert_array_equal(again.returns, report.returns)
    np.testing.assert_array_equal(again.tasks, report.tasks)
    assert again.measure == measure


@pytest.mark.parametrize(
    "task, expected",
    [
        ([0.3, -0.4], [0.3, -0.4]),
        ((1, 2 / 3), [1.0, 2 / 3]),
        ([[1, 2], [3, 4]], [1.0, 2.0, 3.0, 4.0]),
        (["0.3", "-0.4"], "['0.3', '-0.4']"),
        ([[1], [2, 3]], "[[1], [2, 3]]"),
        ("left, then right", "left, then right"),
    ],
)
def test_numbers_in_sequences_are_read_back(task: Any, expected: Any, tmp_path: Path) -> None:
    AdaptationReport([task], np.zeros((1, 2))).to_csv(tmp_path / "report.csv")
    (again,) = AdaptationReport.from_csv(tmp_path / "report.csv").tasks
    assert isinstance(again, str if isinstance(expected, str) else np.ndarray)
    np.testing.assert_array_equal(again, expected)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "task,return_after_0\n", "task,return_after_0\nleft,much\n"])
def test_what_is_no_report(text: str, tmp_path: Path) -> None:
    (tmp_path / "report.csv").write_text(text)
    with pytest.raises(ValueError, match=r"report\.csv is not a report"):
        AdaptationReport.from_csv(tmp_path / "report.csv")


def test_curves_of_a_run(runs: dict[str, list[Path]], tmp_path: Path) -> None:
    folder = runs["sgmrl"][0]
    curve, progress = LearningCurve.from_progress(folder), read_progress(folder / "progress.csv")
    n_iterations = 3  # of 3 tasks, 2 phases of 4 episodes, 5 steps
    np.testing.assert_array_equal(curve.timesteps, 120 * np.arange(1, n_iterations + 1))
    assert curve.before.shape == curve.after.shape == (1, n_iterations)
    gain = progress["rollout/adaptation_gain"]
    np.testing.assert_allclose((curve.after - curve.before)[0], gain[~np.isnan(gain)], rtol=1e-6)
    curve = LearningCurve.from_evaluations(folder)
    with np.load(folder / "evaluations.npz") as file:
        np.testing.assert_array_equal(curve.timesteps, file["timesteps"])
        np.testing.assert_array_equal(curve.before, file["results"][:, :, 0].T)
        np.testing.assert_array_equal(curve.after, file["results"][:, :, 2].T)
    np.testing.assert_array_equal(curve.smoothed(2).after, curve.after)  # at most half of three points
    longer = LearningCurve(np.arange(4.0), np.zeros((1, 4)), np.array([[1.0, 3.0, 4.0, 8.0]]))
    np.testing.assert_array_equal(longer.smoothed(2).after, [[2.0, 3.5, 6.0]])
    np.testing.assert_array_equal(longer.smoothed(9).timesteps, [0.5, 1.5, 2.5])
    with pytest.raises(ValueError, match="not the log"):
        LearningCurve.from_progress(folder / "adaptation.csv")
    with pytest.raises(ValueError, match="MetaEvalCallback"):
        LearningCurve.from_evaluations(folder / "adaptation.csv")
    with pytest.raises(ValueError, match="window"):
        curve.smoothed(0)


# ---------------------------------------------------------------- learning curves


def test_learning_curves_are_interquartile_means(tmp_path: Path) -> None:
    steps = np.array([0.0, 100.0, 200.0])
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 5, 4, 3))
    curves = [LearningCurve(steps, before[i], after[i]) for i in range(5)]
    state = np.random.get_state()[1].copy()
    figure = saved(plot_learning_curves({"A": curves, "B": curves[0]}), tmp_path)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    (axis,) = figure.axes
    before_a, _, after_a, after_b = axis.lines
    np.testing.assert_allclose(before_a.get_ydata(), [metrics.aggregate_iqm(before[..., k]) for k in range(3)])
    np.testing.assert_allclose(after_a.get_ydata(), [metrics.aggregate_iqm(after[..., k]) for k in range(3)])
    np.testing.assert_allclose(after_b.get_ydata(), [metrics.aggregate_iqm(after[:1, :, k]) for k in range(3)])
    assert len(axis.collections) == 2  # a single run has no band
    again = plot_learning_curves({"A": curves, "B": curves[0]}).axes[0]
    for one, other in zip(axis.collections, again.collections, strict=True):
        np.testing.assert_array_equal(one.get_paths()[0].vertices, other.get_paths()[0].vertices)
    wide, narrow = (plot_learning_curves({"A": curves}, level=level).axes[0].collections[1] for level in (0.95, 0.5))
    assert np.ptp(wide.get_paths()[0].vertices[:, 1]) > np.ptp(narrow.get_paths()[0].vertices[:, 1])
    assert "cut" not in axis.get_title() and "1 to 5 runs" in axis.get_title()
    with pytest.raises(ValueError, match="level"):
        plot_learning_curves({"A": curves}, level=95)
    with pytest.raises(ValueError, match="curves"):
        plot_learning_curves({"A": []})
    with pytest.raises(ValueError, match=r"'A' must be evaluated on equally many tasks, got numbers of tasks \[1, 4\]"):
        plot_learning_curves({"A": [curves[0], LearningCurve(steps, before[0, :1], after[0, :1])]})


def test_runs_are_cut_to_what_all_have(tmp_path: Path) -> None:
    def line(steps: list[float]) -> LearningCurve:
        array = np.array(steps)
        return LearningCurve(array, -array[None], array[None])

    figure = plot_learning_curves({"A": [line([10, 90, 300]), line([0, 50, 160])]})
    (axis,) = figure.axes
    for drawn, sign in zip(axis.lines, (-1, 1), strict=True):
        # of the run with the fewest measurements, both ends of what is common included
        np.testing.assert_allclose(drawn.get_xdata(), [10, 90, 160])
        np.testing.assert_allclose(drawn.get_ydata(), sign * np.array([10, 90, 160]))
    assert "cut to the 160 steps of the shortest" in axis.get_title()
    (axis,) = plot_learning_curves({"A": [line([5000]), line([4981])]}).axes  # one meta-iteration each
    np.testing.assert_allclose(axis.lines[1].get_xydata(), [[4981, 4990.5]])
    with pytest.raises(ValueError, match="no steps in common"):
        plot_learning_curves({"A": [line([10, 90]), line([100, 160])]})


# ---------------------------------------------------------------- final returns


def test_adaptation_of_several_seeds(tmp_path: Path) -> None:
    reports = reports_of(0.0)
    figure = saved(plot_adaptation({"A": reports, "B": reports[0]}), tmp_path)
    (axis,) = figure.axes
    np.testing.assert_allclose(axis.lines[0].get_ydata(), np.mean([r.mean_returns for r in reports], axis=0))
    np.testing.assert_allclose(axis.lines[1].get_ydata(), reports[0].mean_returns)
    assert "runs and tasks" in axis.get_title()
    low, high = reports[0].confidence_interval().T
    vertices = axis.collections[1].get_paths()[0].vertices
    assert {*low, *high} <= {*vertices[:, 1]}
    with pytest.raises(ValueError, match=r"'A' must have the same numbers of tasks.*3 tasks, 2 inner steps and 4 tasks"):
        plot_adaptation({"A": [reports[0], reports_of(0.0, n_tasks=3)[0]]})
    with pytest.raises(ValueError, match="reports"):
        plot_adaptation({})


def test_performance_profiles(tmp_path: Path) -> None:
    reports = {"A": reports_of(0.0), "B": reports_of(1.0)}
    (axis,) = saved(plot_performance_profiles(reports, n_steps=1), tmp_path).axes
    for i, of_name in enumerate(reports.values()):
        for drawn, k in ((axis.lines[2 * i], 1), (axis.lines[2 * i + 1], 0)):
            returns = np.array([report.returns[:, k] for report in of_name])
            above = [(returns > threshold).mean() for threshold in drawn.get_xdata()]
            np.testing.assert_allclose(drawn.get_ydata(), above)
    assert len(axis.collections) == 2 and "1 inner step;" in axis.get_title()
    with pytest.raises(ValueError, match="between 0 and 2"):
        plot_performance_profiles(reports, n_steps=3)
    moved = [AdaptationReport([task + 1 for task in report.tasks], report.returns) for report in reports["A"]]
    with pytest.raises(ValueError, match="same tasks"):
        plot_performance_profiles({"A": reports["A"], "B": moved})
    as_read = [AdaptationReport([np.float32(task) for task in report.tasks], report.returns) for report in reports["A"]]
    plot_performance_profiles({"A": reports["A"], "B": as_read})
    alike = AdaptationReport(reports["A"][0].tasks, np.ones((4, 3)))
    low, high = plot_performance_profiles({"A": alike}).axes[0].lines[0].get_xdata()[[0, -1]]
    assert low < 1 < high


def test_probability_of_improvement(tmp_path: Path) -> None:
    reports = {"A": reports_of(0.0), "B": reports_of(1.0, n_runs=2), "C": reports_of(0.5)}
    (axis,) = saved(plot_probability_of_improvement(reports), tmp_path).axes
    finals = {name: np.array([report.returns[:, 2] for report in of_name]) for name, of_name in reports.items()}
    assert [label.get_text() for label in axis.get_yticklabels()] == ["A > B", "A > C", "B > C"]
    for bar, (one, other), line in zip(axis.patches, ("AB", "AC", "BC"), axis.lines, strict=False):
        expected = metrics.probability_of_improvement(finals[one], finals[other])
        assert line.get_xdata()[0] == pytest.approx(expected)
        assert 0 <= bar.get_x() <= expected <= bar.get_x() + bar.get_width() + 1e-9
    (axis,) = plot_probability_of_improvement(reports, reference="B").axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["A > B", "C > B"]
    with pytest.raises(ValueError, match="`reference` must be one of A, B, C, got 'D'"):
        plot_probability_of_improvement(reports, reference="D")
    ties = np.array([[1.0, 2.0], [1.0, 3.0]])
    assert scores.probability_of_improvement(ties, ties[:1]) == metrics.probability_of_improvement(ties, ties[:1])
    with pytest.raises(ValueError, match="at least two"):
        plot_probability_of_improvement({"A": reports["A"]})
    moved = [AdaptationReport([task + 1 for task in report.tasks], report.returns) for report in reports["A"]]
    with pytest.raises(ValueError, match="same tasks"):
        plot_probability_of_improvement({"A": reports["A"], "B": moved})


# ---------------------------------------------------------------- gradients


def test_gradient_terms(runs: dict[str, list[Path]], tmp_path: Path) -> None:
    logs = {name: [read_progress(folder) for folder in folders] for name, folders in runs.items()}
    figure = saved(plot_gradient_terms(logs), tmp_path)
    (norm, ratio, variance), (of_maml, nothing, _) = np.reshape(figure.axes, (2, 3))
    labels = {line.get_label() for axis in (norm, ratio, variance) for line in axis.lines}
    assert labels >= {
        "meta-gradient",
        "pathwise term",
        "score term",
        "cosine of the terms",
        "weight of the score term",
        "SGMRL",
    }
    assert [line.get_label() for line in of_maml.lines] == ["meta-gradient"]
    assert not nothing.lines and nothing.texts[0].get_text() == "no score term"
    one = plot_gradient_terms({"MAML": logs["maml"][0]})
    (line,) = one.axes[0].lines
    logged = logs["maml"][0]["train/grad_norm"]
    np.testing.assert_allclose(line.get_ydata(), logged[~np.isnan(logged)])
    assert len(one.axes) == 2
    with pytest.raises(ValueError, match="no meta-gradients"):
        plot_gradient_terms({"A": {key: values for key, values in logs["maml"][0].items() if "/" not in key or "time" in key}})


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    "kind, options",
    [
        ("adaptation", ["--level", "0.9"]),
        ("curves", []),
        ("curves", ["--read", "progress", "--smooth", "2"]),
        ("profile", ["--n-steps", "1"]),
        ("improvement", []),
        ("tasks", ["--parameters", "1", "--names", "height"]),
        ("gradient", ["--smooth", "2"]),
    ],
)
def test_command_draws_each_kind(
    kind: str, options: list[str], runs: dict[str, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [str(folder) for folders in runs.values() for folder in folders]
    output = tmp_path / "picture.pdf"
    assert plot.main([kind, *sources, "-o", str(output), *options]) == 0, capsys.readouterr().err
    assert output.read_bytes().startswith(b"%PDF") and f"Wrote {output}" in capsys.readouterr().out


def test_command_plays_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny(SGMRL, "Navigation2D-v0", meta_batch_size=2, n_episodes=2)
    model.save("a_model")
    drawn: dict[str, Figure] = {}
    monkeypatch.setattr(plot, "write_figure", lambda figure, path, dpi: drawn.update({path: figure}))
    arguments = ["a_model.zip", "other=a_model.zip", "--env", "Navigation2D-v0", "--n-steps", "2", "--seed", "3"]
    assert plot.main(["adaptation", *arguments, "--n-tasks", "3"]) == 0
    line, other = drawn["adaptation.png"].axes[0].lines
    report = evaluate_adaptation(model, n_tasks=3, n_steps=2, seed=3)
    np.testing.assert_allclose(line.get_ydata(), report.mean_returns)
    assert (line.get_label(), other.get_label()) == ("a_model", "other")
    assert plot.main(["trajectories", *arguments, "--n-tasks", "2"]) == 0
    assert len(drawn["trajectories.png"].axes) == 2 * 2


def test_runs_of_two_algorithms_are_no_curve(
    runs: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, name in enumerate(runs):
        shutil.copytree(runs[name][0], tmp_path / f"run-{i}")
    monkeypatch.chdir(tmp_path)
    for kind in ("profile", "adaptation", "curves", "gradient"):
        for sources in (["run-0", "run-1"], ["X=run-0", "X=run-1"]):
            error = error_of(plot, [kind, *sources], capsys)
            assert "would mix runs of MAML and SGMRL in one curve: name each by NAME=SOURCE." in error
    error = error_of(plot, ["profile", "run-0/adaptation.csv", "run-1/adaptation.csv"], capsys)
    assert "would mix runs of MAML and SGMRL" in error
    error = error_of(plot, ["improvement", "A=run-0", "B=run-1", "--reference", "C"], capsys)
    assert "`--reference` must be one of A, B, got 'C'." in error
    assert plot.main(["improvement", "A=run-0", "B=run-1", "--reference", "B"]) == 0


def test_command_names_runs_as_rl_zoo_does(tmp_path: Path) -> None:
    settings = tmp_path / "logs" / "maml" / "Navigation2D-v0_3" / "Navigation2D-v0"
    settings.mkdir(parents=True)
    (settings / "args.yml").touch()
    (tmp_path / "SG-MRL-12").mkdir()
    assert plot._source(str(settings.parent)).name == "maml"
    assert plot._source(str(tmp_path / "SG-MRL-12")).name == "SG-MRL"
    assert plot._source(f"E-MAML={tmp_path}") == plot.Source("E-MAML", tmp_path)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["curves", "nowhere"], "`SOURCE` must be an existing file or folder, got nowhere"),
        (["curves", "RUN", "-o", "picture.jpeg2"], "must end in .png"),
        (
            ["curves", "RUN", "-o", "there.png/picture.png"],
            "`--output` must be in a writable folder, got there.png/picture.png",
        ),
        (["curves", "RUN", "-o", "there.png"], "`--output` must be a new file, got the existing there.png"),
        (["curves", "RUN", "--smooth", "0"], "`window` must be a positive integer"),
        (["curves", "."], "`SOURCE` must contain progress.csv, the log"),
        (["adaptation", "."], "`SOURCE` must contain adaptation.csv, a report"),
        (["adaptation", "RUN/progress.csv"], "is not a report"),
        (["adaptation", "RUN/model.zip"], "`--env` is missing"),
        (["adaptation", "RUN", "--level", "95"], "`level` must lie between 0 and 1"),
        (["improvement", "RUN"], "at least two algorithms"),
        (["tasks", "RUN", "--parameters", "2"], "`--parameters` must select one or two numbers of a task of"),
        (["trajectories", "RUN", "--n-tasks", "0"], "`--n-tasks` must be a positive integer"),
    ],
)
def test_command_errors_are_one_sentence(
    arguments: list[str],
    words: str,
    runs: dict[str, list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.png").touch()
    assert words in error_of(plot, [argument.replace("RUN", str(runs["maml"][0])) for argument in arguments], capsys)
    assert [file.name for file in tmp_path.iterdir()] == ["there.png"] and not (tmp_path / "there.png").read_bytes()


def test_help_explains_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        plot.main(["--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and all(f"\n  {kind} " in shown for kind in plot._KINDS)
