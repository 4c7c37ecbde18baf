"""The trained agents of the repository are what their cards say."""

import hashlib
import json
import math
import runpy
import shutil
import sys

import pytest
from paths import EXAMPLES, ROOT
from run_examples import run_example

from sb3_sgmrl import evaluate_adaptation, load_trained
from sb3_sgmrl.algorithms import TRAINED_AGENTS, trained_agents
from sb3_sgmrl.cli import enjoy

AGENTS = trained_agents()


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(TRAINED_AGENTS / "sgmrl" / "Navigation2D-v0_1", tmp_path / "sgmrl" / "Navigation2D-v0_1")
    return tmp_path


def check_measured(algo, env, n_tasks):
    """The return after adaptation to other tasks is that of the card."""
    results = json.loads((TRAINED_AGENTS / algo / f"{env}_1" / "results.json").read_text())
    model, k = load_trained(env, algo), results["n_inner_steps"]
    report = evaluate_adaptation(model, None, n_tasks, k, n_episodes=results["n_eval_episodes"], seed=3)
    # three standard deviations of the difference between two means over tasks
    tolerance = 3 * results["std_reward"] * math.sqrt(1 / n_tasks + 1 / results["n_tasks"])
    assert abs(report.mean_returns[k] - results["mean_reward"]) < tolerance


@pytest.mark.parametrize(("algo", "env"), AGENTS)
def test_an_agent_is_that_of_its_card(algo, env):
    home = TRAINED_AGENTS / algo / f"{env}_1"
    results = json.loads((home / "results.json").read_text())
    assert hashlib.sha256((home / f"{env}.zip").read_bytes()).hexdigest() == results["sha256"]
    assert "```bash\npython -m sb3_sgmrl.train " in (home / "README.md").read_text()
    assert load_trained(env, algo).n_inner_steps == results["n_inner_steps"]


# the others take seconds each
QUICK = {"Navigation2D-v0", "BernoulliBandit-v0", "HalfCheetahDir-v0"}


@pytest.mark.parametrize(("algo", "env"), [agent for agent in AGENTS if agent[1] in QUICK])
def test_an_agent_adapts(algo, env):
    check_measured(algo, env, n_tasks=3)


@pytest.mark.slow
@pytest.mark.parametrize(("algo", "env"), AGENTS)
def test_an_agent_adapts_as_its_card_says(algo, env):
    check_measured(algo, env, n_tasks=20)


def test_what_has_no_agent_is_named(folder):
    def refuses(match, *arguments):
        with pytest.raises(ValueError, match=match) as error:
            load_trained(*arguments, folder=folder)
        assert "\n" not in str(error.value)

    assert trained_agents(folder) == [("sgmrl", "Navigation2D-v0")]
    refuses("`env` Navigation2D-v7 is another version", "Navigation2D-v7")
    refuses("`env` TabularMDP-v0 has no trained agent in .*: there are Navigation2D-v0", "TabularMDP-v0")
    refuses("`algo` 'maml' has no agent trained on Navigation2D-v0 in .*: use sgmrl", "Navigation2D-v0", "maml")
    refuses("`env` Navigation2D must be an id with its version, .*: Navigation2D-v0", "Navigation2D")
    refuses("`algo` must be one of sgmrl", "Navigation2D-v0", "ppo")
    shutil.move(folder / "sgmrl" / "Navigation2D-v0_1", folder / "sgmrl" / "Other-v0_1")
    refuses("has no trained agents: train one .* because the wheel does not have it", "Navigation2D-v0")
    with pytest.raises(ValueError, match="no trained agents"):
        load_trained("Navigation2D-v0", folder=folder / "missing")


def test_an_agent_has_the_environment_of_its_card(folder):
    home = folder / "sgmrl" / "Navigation2D-v0_1"
    results = json.loads((home / "results.json").read_text())
    (home / "results.json").write_text(json.dumps(results | {"env_kwargs": {"squared": True}}))
    assert load_trained("Navigation2D-v0", folder=folder).get_env().get_attr("spec")[0].kwargs["squared"]
    for wrong in ({"squared": "module:Class-v0"}, {"squared": {"a": ["b"]}}, [1]):
        (home / "results.json").write_text(json.dumps(results | {"env_kwargs": wrong}))
        with pytest.raises(ValueError, match=r"`env_kwargs` in .*results.json must be a dictionary of numbers, got"):
            load_trained("Navigation2D-v0", folder=folder)
    (home / "results.json").write_text(json.dumps(results | {"env_kwargs": {"colour": 1}}))
    with pytest.raises(ValueError, match=r"`env_kwargs` in .*results.json must be arguments of Navigation2D-v0, got .*colour"):
        load_trained("Navigation2D-v0", folder=folder)
    for damaged in ("", "[]", "{"):
        (home / "results.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"results.json must be written by python -m sb3_sgmrl.card, but"):
            load_trained("Navigation2D-v0", folder=folder)
    (home / "results.json").unlink()
    assert load_trained("Navigation2D-v0", folder=folder).get_env() is None


def test_an_agent_of_another_algorithm_is_refused(folder):
    shutil.move(folder / "sgmrl", folder / "maml")
    with pytest.raises(ValueError, match="holds a model of SGMRL, not of MAML"):
        load_trained("Navigation2D-v0", "maml", folder)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((5,), "env"),
        ((None,), "env"),
        (("Navigation2D-v0", ["sgmrl"]), "algo"),
        (("Navigation2D-v0", "sgmrl", None), "folder"),
    ],
)
def test_names_of_other_types_are_refused(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        load_trained(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--algo", "maml"], "`--algo` 'maml' has no agent trained on Navigation2D-v0 in FOLDER: use sgmrl."),
        (["--env", "TabularMDP-v0"], "`--env` TabularMDP-v0 has no trained agent in FOLDER: there are Navigation2D-v0."),
        (["--load-best"], "No model found for sgmrl on Navigation2D-v0, path: FOLDER/sgmrl/Navigation2D-v0_1/best_model.zip"),
        (["-f", "nowhere"], "`--folder` nowhere has no trained agents: train one by"),
    ],
)
def test_enjoy_says_what_a_folder_of_agents_has(arguments, error, folder, capsys):
    assert enjoy.main(["-f", str(folder), *arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: " + error.replace("FOLDER", str(folder))) and text.count("\n") == 1


# ---------------------------------------------------------------- pictures


def test_the_page_of_the_agents_is_up_to_date():
    """After a new agent, run examples/agent_pictures.py."""
    example = runpy.run_path(str(EXAMPLES / "agent_pictures.py"))
    page, images = ROOT / example["PAGE"], ROOT / example["IMAGES"]
    text = page.read_text(encoding="utf-8")
    assert example["with_tables"](text, TRAINED_AGENTS, images) == text
    for algo, env in AGENTS:
        picture = example["picture_of"](images, algo, env)
        results = json.loads((TRAINED_AGENTS / algo / f"{env}_1" / "results.json").read_text())
        assert example["model_in"](picture) == results["sha256"], env
        assert picture.stat().st_size <= example["MAX_BYTES"]
    assert len(list(images.iterdir())) == len(AGENTS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_agent_is_drawn(tmp_path, monkeypatch):
    if sys.platform == "linux":
        monkeypatch.setenv("MUJOCO_GL", "egl")
    shutil.copytree(ROOT / "docs" / "how_to", tmp_path / "docs" / "how_to")
    written = [f"docs/images/agents/{algo}-{env}." for algo, env in AGENTS]
    output = run_example(tmp_path, "agent_pictures.py", "--frames", "2")
    assert [line[6 : line.index(".") + 1] for line in output.splitlines()] == [*written, "docs/how_to/trained_agents."]
    page = (ROOT / "docs" / "how_to" / "trained_agents.md").read_text(encoding="utf-8")
    assert (tmp_path / "docs" / "how_to" / "trained_agents.md").read_text(encoding="utf-8") == page
    # pictures of the same models are kept
    assert len(run_example(tmp_path, "agent_pictures.py").splitlines()) == 1
