"""Values of wrong types for every argument of every public function: used rightly, or one sentence that names the argument."""

import inspect
import re
import warnings

import numpy as np
import pytest
import torch as th
from bad_input_tools import PLAYED, refuses, witness
from stable_baselines3.common.callbacks import CheckpointCallback
from toys import HORIZON, SAMPLES, PointEnv, assert_same, point, point_vec, state, tiny

from sb3_sgmrl import SGMRL, AdaptationReport, MetaEvalCallback, TaskDistEnv, evaluate_adaptation
from sb3_sgmrl.algorithms import ALGORITHMS
from sb3_sgmrl.baselines import MultiTaskPPO
from sb3_sgmrl.deployment import export_onnx, export_torchscript, load_episodes, save_episodes
from sb3_sgmrl.util.validation import check_device


class Stranger:
    """An object of a class that means nothing here."""


WRONG = [
    *("no", "True", "", "3", "3.7", "nan", b"1", 3.7, -7, 0, True, False, 10**30, 1e400, float("nan"), 1j),
    *([], [1], ["a"], (), (1, 2), {}, {"a": 1}, {1: 2}, set(), None, Stranger(), Stranger, len, lambda: 1, lambda p: "x"),
    *(np.array([0.5, 0.5]), np.float64(0.5), np.zeros((60, 60)), th.tensor(0.5), range(3), slice(1)),
]
# what no argument means; the others may be right for some
NEVER = [b"1", 1j, {1: 2}, Stranger(), np.zeros((60, 60)), slice(1)]
# functions of the user, which are called without arguments to make an environment, have errors of their own
WRONG_ENVS = [value for value in WRONG if not callable(value)]
# the algorithms share most arguments: a full attack on each of them takes half a minute
OF_CONSTRUCTORS = [
    pytest.param(algorithm.cls, name, marks=[] if algorithm.cls is SGMRL or name in own else pytest.mark.slow)
    for algorithm in ALGORITHMS.values()
    for own in [algorithm.cls.arguments.keys() - SGMRL.arguments.keys()]
    for name in inspect.signature(algorithm.cls).parameters
]


def one_sentence(error, name):
    text = str(error)
    assert "\n" not in text and text.endswith(".") and len(text) < 900, text
    assert (
        (name in ("task", "tasks") and text.startswith("Task "))
        or f"`{name}" in text
        or f"'{name}'" in text
        or f"{name}=" in text
    ), (name, text)


def survives(name, call, values):
    """Try all values; return those that were accepted."""
    accepted = []
    for value in values:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call(value)
            accepted.append(value)
        except (ValueError, TypeError, OSError) as error:
            one_sentence(error, name)
    return accepted


def never_among(accepted):
    assert not [value for value in accepted if any(value is never for never in NEVER)]


@pytest.mark.parametrize(("algorithm", "name"), OF_CONSTRUCTORS)
def test_every_argument_of_every_algorithm(algorithm, name):
    def make(value):
        env = value if name == "env" else "BernoulliBandit-v0"
        policy = value if name == "policy" else "MlpPolicy"
        fixed = {"n_episodes": 2, "meta_batch_size": 2, "policy_kwargs": {"net_arch": [2]}, "_init_setup_model": False}
        given = {} if name in ("env", "policy") else {name: value}
        if name == "_init_setup_model":
            del fixed[name]
        elif name == "policy_kwargs":
            del fixed[name]
            fixed["_init_setup_model"] = True
        elif name != "env":
            env = None  # no environment is made: it would take most of the time
        algorithm(policy, env, **{**fixed, **given})

    never_among(survives(name, make, WRONG_ENVS if name == "env" else WRONG))


@pytest.mark.parametrize("algorithm", [algorithm.cls for algorithm in ALGORITHMS.values()])
def test_every_attribute_that_is_set_afterwards(algorithm):
    model = tiny(algorithm, point_vec(1))
    for name in set(algorithm.arguments) - {"policy", "env"}:
        before = dict(vars(model))
        accepted = survives(name, lambda value, name=name: setattr(model, name, value), WRONG)
        never_among(accepted)
        vars(model).clear()
        vars(model).update(before)
    model.learn(1)


def test_booleans_are_no_texts():
    for name in ("first_order", "normalize_advantage", "control_variate_scaling", "_init_setup_model"):
        refuses(f"`{name}` must be True or False, got 'no'", tiny, SGMRL, witness(), **{name: "no"})
    refuses("policy_kwargs.'ortho_init'.` must be True or False", tiny, SGMRL, witness(), policy_kwargs={"ortho_init": "no"})
    refuses("outer_advantage.'normalize'.` must be", tiny, SGMRL, witness(), outer_advantage={"normalize": "no"})
    tiny(SGMRL, point_vec(1), normalize_advantage=np.bool_(True))


def test_networks_that_cannot_be_made():
    for kwargs in ({"net_arch": "abc"}, {"activation_fn": "tanh"}, {"net_arch": [-3]}, {"log_std_init": "x"}):
        refuses("`policy_kwargs` must fit ActorCriticPolicy", tiny, SGMRL, witness(), policy_kwargs=kwargs)
    with pytest.raises(ValueError, match=r"'net_archh' of `policy_kwargs` is not an argument of .*did you mean 'net_arch'"):
        tiny(SGMRL, witness(), policy_kwargs={"net_archh": [3]})
    refuses("`policy` must be MlpPolicy, because the observations are no images", SGMRL, "CnnPolicy", witness())
    refuses("`policy` must be one of MlpPolicy", SGMRL, "MlpPolizy", witness())


def test_seeds_and_devices():
    for seed in (3.7, "3", -1, True, 2**32):
        refuses("`seed` must be", tiny, SGMRL, witness(), seed=seed)
    for device in ("cuda:99", "abacus", "meta", 3, None, ""):
        refuses("`device` must be a PyTorch device of this machine", tiny, SGMRL, witness(), device=device)
    if not th.cuda.is_available():
        with pytest.raises(ValueError, match="got 'cuda'"):  # SB3 would take the processor
            check_device("device", "cuda")


def test_a_learning_rate_that_is_set_afterwards_is_used(tmp_path):
    model, other = tiny(SGMRL, point_vec(1)), tiny(SGMRL, point_vec(1), learning_rate=0.05)
    model.learning_rate = 0.05
    assert_same(state(model.learn(SAMPLES)), state(other.learn(SAMPLES)))
    model.learning_rate = lambda remaining: 0.5 * remaining
    assert model.lr_schedule(0.5) == 0.25
    with pytest.raises(ValueError, match="`learning_rate` must be a finite number"):
        model.learning_rate = "0.1"
    assert model.lr_schedule(0.5) == 0.25


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("seed", 3, "set_random_seed"),
        ("device", "cpu", "load"),
        ("n_envs", 3, "set_env"),
        ("engine", "auto", "set_env"),
        ("stats_window_size", 7, "new model"),
        ("policy_kwargs", {"net_arch": [3]}, "new model"),
    ],
)
def test_what_would_have_no_effect_is_refused(name, value, instead):
    model = tiny(SGMRL, point_vec(1))
    with pytest.raises(ValueError, match=f"`{name}` cannot be changed after construction.*{instead}"):
        setattr(model, name, value)


@pytest.mark.parametrize(
    "name", ["total_timesteps", "callback", "log_interval", "tb_log_name", "reset_num_timesteps", "progress_bar"]
)
def test_every_argument_of_learn(name):
    model = tiny(SGMRL, witness())
    for value in WRONG:
        if name == "total_timesteps" and isinstance(value, (int, float)) and value > 1:
            continue
        if name == "callback" and callable(value) and not isinstance(value, type):
            continue  # a function is called with the variables of the loop
        PLAYED.clear()
        survives(name, lambda value: model.learn(**{"total_timesteps": 0, name: value}), [value])
    refuses("`callback` must be a BaseCallback", model.learn, 1, callback=CheckpointCallback)
    refuses("`reset_num_timesteps` must be True or False", model.learn, 1, reset_num_timesteps="no")


@pytest.mark.parametrize("function", ["evaluate_adaptation", "adapt", "adapt_stepwise"])
def test_every_argument_of_adaptation(function):
    model = tiny(SGMRL, point_vec(2))
    call = evaluate_adaptation if function == "evaluate_adaptation" else getattr(model, function)
    first = {"model": model, "n_tasks": 2} if function == "evaluate_adaptation" else {"task": [0.1, 0.1]}
    for name in inspect.signature(call).parameters:
        never_among(
            survives(
                name,
                lambda value, name=name: call(**{**first, "n_episodes": 2, name: value}),
                WRONG_ENVS if name == "env" else WRONG,
            )
        )


def test_every_argument_of_the_distribution():
    for name in inspect.signature(TaskDistEnv).parameters:
        if name in ("env", "env_kwargs"):
            continue
        base = {"tasks": [[0.1, 0.1], [0.2, 0.2]]} if name in ("weights", "split", "split_seed", "test_tasks") else {}
        if name == "split_seed":
            base["split"] = 0.5
        never = survives(name, lambda value, name=name, base=base: TaskDistEnv(PointEnv(), **{**base, name: value}), WRONG)
        never_among(never)
    never_among(survives("env", TaskDistEnv, WRONG_ENVS))


def test_every_argument_of_the_evaluation_while_training():
    env = point_vec(1)
    for name in inspect.signature(MetaEvalCallback).parameters:
        if name == "eval_env":
            never_among(survives(name, MetaEvalCallback, WRONG_ENVS))
        else:
            survives(name, lambda value, name=name: MetaEvalCallback(env, **{name: value}), WRONG)


@pytest.mark.parametrize("name", ["path", "env", "device", "custom_objects", "inner_lr", "seed", "verbose", "first_order"])
def test_every_argument_of_load(name, tmp_path):
    tiny(SGMRL, point_vec(1)).save(tmp_path / "model")
    given = {"path": tmp_path / "model"}
    never_among(survives(name, lambda value: SGMRL.load(**{**given, name: value}), WRONG_ENVS if name == "env" else WRONG))


PATHS = {
    "export_onnx": lambda model, path: export_onnx(model, path),
    "export_torchscript": lambda model, path: export_torchscript(model, path),
    "load_episodes": lambda _, path: load_episodes(path),
    "save_episodes": lambda _, path: save_episodes(path, [(np.zeros((1, 3)), np.zeros((1, 2)), np.zeros(1))]),
    "from_csv": lambda _, path: AdaptationReport.from_csv(path),
    "to_csv": lambda _, path: AdaptationReport([np.zeros(1)], np.zeros((1, 1))).to_csv(path),
    "save": lambda model, path: model.save(path),
    "restore": lambda _, path: MultiTaskPPO("MlpPolicy", point(), n_envs=2).restore(path),
}


@pytest.mark.parametrize("name", PATHS)
def test_every_path(name):
    model = tiny(SGMRL, point_vec(1))
    for value in (None, 5, b"model", ["model"], ""):
        with pytest.raises(ValueError, match=f"`path` must be a path, got {re.escape(repr(value))}"):
            PATHS[name](model, value)


def test_right_values_are_still_right():
    model = tiny(SGMRL, point(), verbose=np.int64(0), n_envs=np.int32(2), device=th.device("cpu"), gamma=np.float32(0.9))
    model.learn(np.float64(1))
    assert model.num_timesteps == SAMPLES == 2 * 3 * 4 * HORIZON
