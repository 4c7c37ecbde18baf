"""The examples run as they stand, in a folder of their own."""

import importlib.util
import pathlib
import re

import pytest
from paths import EXAMPLES
from run_examples import error_of, run_example

from sb3_sgmrl import MAML


def returns_after(inner_steps, table):
    """The mean returns in the rows of reports for that number of inner steps."""
    rows = [line.split() for line in table.splitlines() if "[" in line]
    return [float(row[1]) for row in rows if row[0] == str(inner_steps)]


@pytest.mark.slow
def test_quickstart_learns(tmp_path):
    output = run_example(tmp_path, "quickstart.py")
    untrained, trained = returns_after(2, output)
    assert trained > untrained + 5
    assert trained > returns_after(0, output)[1] + 5
    assert (tmp_path / "quickstart.zip").exists()


OWN_TASKS = sorted(path.relative_to(EXAMPLES).as_posix() for path in (EXAMPLES / "tasks").glob("*.py"))

NEEDS = {
    "tasks/robotics_goals.py": "gymnasium_robotics",
    "tasks/minigrid_layouts.py": "minigrid",
    "tasks/carl_contexts.py": "carl",
    "tasks/metaworld_ml1.py": "metaworld",
}


# the others differ in one line each
QUICK = ("tasks/attribute.py",)


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OWN_TASKS])
def test_own_tasks(name, tmp_path):
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"needs {NEEDS[name]}")
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    assert "(sys.argv[1]) if len(sys.argv) > 1" in text
    # CARL warns of every package that it could use
    output = run_example(tmp_path, name, "1", warns="carl" in name)
    assert len(returns_after(0, output)) == len(returns_after(1, output)) >= 1


# one policy is good at all of its tasks, as its docstring says
NOTHING_TO_ADAPT_TO = {"tasks/attribute.py"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OWN_TASKS if name not in NEEDS.keys() | NOTHING_TO_ADAPT_TO])
def test_own_tasks_are_adapted_to(name, tmp_path):
    output = run_example(tmp_path, name)
    assert returns_after(1, output)[0] > returns_after(0, output)[0]


def test_every_example_that_needs_a_package_is_there():
    assert NEEDS.keys() <= set(OWN_TASKS)


@pytest.mark.slow
def test_exact_gradient(tmp_path):
    lines = run_example(tmp_path, "exact_gradient.py", "--horizon", "1", "--seed", "4").splitlines()
    errors = {line[:37].strip(): [float(error) for error in line[37:].split()] for line in lines[1:-1]}
    for name, row in errors.items():
        if name.startswith("exact") or "true difference" in name:
            assert max(row) < 1e-10, name
    assert min(errors["eq. (13) with the Hessian of eq. (9)"]) > 0.1
    assert min(errors["MAML (pathwise, no score term)"]) > 0.1


@pytest.mark.slow
def test_bandits(tmp_path):
    options = ["--timesteps", "1", "--seeds", "0", "--n-tasks", "50", "--pulls", "40"]
    output = run_example(tmp_path, "bandits.py", *options)
    regrets = {row[:18].strip(): float(row[18:].split()[0].strip(",")) for row in output.splitlines()[-5:]}
    assert list(regrets) == ["Thompson sampling", "random", "RL²", "SG-MRL", "MAML"]
    # the regret of a random pull is 1/3
    assert 0 < regrets["Thompson sampling"] < 0.8 * regrets["random"]
    assert regrets["random"] == pytest.approx(40 / 3, rel=0.2)
    assert run_example(tmp_path, "bandits.py", *options, "--print").splitlines()[-5:] == output.splitlines()[-5:]


@pytest.mark.slow
def test_benchmark_speed(tmp_path):
    output = run_example(
        tmp_path, "benchmark_speed.py", "--families", "Navigation2D-v0", "--repeats", "1", "--tables", "algorithms", "vec-env"
    )
    assert "VecEnv ÷ pure physics, 400 columns" in output
    for label in ("rest of sampling", "meta-gradient", "total ÷ pure physics", "total ÷ MAML"):
        row = next(line for line in output.splitlines() if line.startswith(f"| {label} "))
        assert [float(cell.split()[0]) > 0 for cell in row.split("|")[2:-1]] == [True] * 3
    assert (tmp_path / "logs" / "speed" / "speed.md").read_text() in output
    assert (tmp_path / "logs" / "speed" / "speed.png").exists()


@pytest.mark.slow
def test_device_check(tmp_path):
    output = run_example(tmp_path, "device_check.py", "--quick", "--repeats", "1")
    assert "No device was found" in output or "Comparing with" in output
    assert "TOO LARGE" not in output and len(output.splitlines()) == 14


@pytest.mark.slow
def test_benchmark_ranks(tmp_path):
    output = run_example(tmp_path, "benchmark_ranks.py", "--quick", "--repeats", "1", "--only", "navigation", warns=True)
    lines = output.splitlines()
    assert lines[1].startswith("# navigation 1/1 after ")
    assert len([line for line in lines if line.startswith("| navigation | ")]) == 2


@pytest.mark.slow
def test_gradient_quality(tmp_path):
    small = ["--train", "0", "--batches", "4", "--threads", "1", "--set", "meta_batch_size=2", "n_episodes=4"]
    every = ["--directions", "4", "--episodes", "2", "4", "--score-coefs", "--folder", "quality"]
    tabular = ["--env", "TabularMDP-v0", "--plain", "--estimators", "maml", "sgmrl"]
    output = run_example(tmp_path, "gradient_quality.py", *small, *every, *tabular)
    assert (tmp_path / "quality" / "quality.txt").read_text().splitlines()[0] in output
    rows = [line.split()[0] for line in output.splitlines() if line.startswith(("maml ", "sgmrl", "exact "))]
    directions = ["maml", "maml", "sgmrl", "sgmrl", "exact", "exact"]
    assert rows == ["maml", "sgmrl", "exact", *directions, "maml", "sgmrl", *["sgmrl,"] * 5, "exact"]
    for figure in ("quality", "episodes", "score_coef"):
        assert (tmp_path / "quality" / f"{figure}-maml-0.png").exists()
    other = ["--env", "Navigation2D-v0", "--estimators", "maml", "--folder", "quality"]
    assert "quality was trained with another env, inner_lr" in error_of(tmp_path, "gradient_quality.py", *small, *other)
    for wrong, complaint in (
        (["--set", "n_epsodes=2"], "did you mean 'n_episodes'?"),
        (["--batches", "2"], "--batches must be at least 3, got 2."),
        (["--model", "nope.zip"], "There is no model at `path` nope.zip."),
    ):
        assert complaint in error_of(tmp_path, "gradient_quality.py", *wrong, "--folder", "new")
    assert not (tmp_path / "new").exists()
    again = ["--model", "quality/maml-0.zip", "--estimators", "maml", "--reference", "maml", "--folder", "again"]
    output = run_example(tmp_path, "gradient_quality.py", "--env", "TabularMDP-v0", "--batches", "3", *again)
    assert "policy maml-0: 3 meta-batches of 2 tasks, reference maml from 3" in output


@pytest.mark.slow
def test_gradient_quality_of_a_weight_and_a_horizon(tmp_path):
    small = ["--train", "1", "--batches", "3", "--threads", "1", "--set", "meta_batch_size=2", "n_episodes=4"]
    options = ["--estimators", "maml", "sgmrl", "--reference", "maml", "--score-coef", "0", "--horizon", "10"]
    output = run_example(tmp_path, "gradient_quality.py", *small, *options, "--folder", "quality")
    maml, sgmrl = (line for line in output.splitlines() if line.startswith(("maml ", "sgmrl ")))
    variance = re.search(r"\S+ \[[^]]*\]", maml).group()
    assert variance in sgmrl  # without its score term it is MAML
    assert MAML.load(tmp_path / "quality" / "maml-1.zip").num_timesteps <= 2 * 2 * 4 * 10


@pytest.mark.slow
def test_pictures(tmp_path):
    small = ["--timesteps", "1300", "--batch-size", "2", "--n-tasks", "3", "--seeds", "0", "1", "--images", "images"]
    output = run_example(tmp_path, "pictures.py", *small)
    page = (EXAMPLES.parent / "docs" / "guide" / "pictures.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"\(\.\./images/pictures/(\w+\.png)\)", page))
    # every picture of the page is one that the command makes
    assert shown == {path.name for path in (tmp_path / "images").iterdir()}
    assert all(f"Wrote {pathlib.Path('images') / name}" in output for name in shown)
    assert {path.name for path in (tmp_path / "logs" / "pictures").iterdir()} == {"SG-MRL-0", "SG-MRL-1", "MAML-0", "MAML-1"}


@pytest.mark.parametrize("name", ["arm", pytest.param("legged", marks=pytest.mark.slow)])
def test_own_robots(name, tmp_path):
    output = run_example(tmp_path, f"own_robot/{name}.py", "1")
    assert output.startswith("A task is task[0], task[1], body_mass:")
    assert len(returns_after(0, output)) == len(returns_after(1, output)) == 1


@pytest.mark.slow
def test_the_own_arm_is_adapted_to(tmp_path):
    output = run_example(tmp_path, "own_robot/arm.py")
    assert returns_after(1, output)[0] > returns_after(0, output)[0]


def test_from_an_xml_to_a_network_takes_few_lines():
    lines = (EXAMPLES / "own_robot" / "deploy.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) < 40


@pytest.mark.slow
def test_the_own_arm_is_deployed(tmp_path):
    pytest.importorskip("onnxruntime")
    output = run_example(tmp_path, "own_robot/deploy.py")
    assert "The adapted policy is taken." in output
    assert (tmp_path / "policy.onnx").exists() and (tmp_path / "log.npz").exists()
    gain, half = re.search(r"after: \+([\d.]+) ± ([\d.]+)", output).groups()
    assert float(gain) > float(half)
