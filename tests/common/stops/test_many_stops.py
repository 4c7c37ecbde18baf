"""Two hundred random stops of trainings, by callbacks, errors, signals and kills; all resume to the bit."""

import os
import random
import signal
import threading
import time

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecNormalize
from test_boundaries import SETTINGS, StopAt, counters
from toys import SAMPLES, assert_same, point, point_vec, state, tiny

from sb3_sgmrl import EMAML, TRPOMAML, ProMP, Reptile
from sb3_sgmrl.util.interrupts import undisturbed
from sb3_sgmrl.vec_env.engines import as_task_vec_env

ALL = {
    **SETTINGS,
    "emaml": (EMAML, {}),
    "promp": (ProMP, {"n_epochs": 2, "target_inner_kl": 0.01}),
    "trust region": (TRPOMAML, {"score_coef": 1.0}),
    "reptile": (Reptile, {}),
    "entries": (SETTINGS["step sizes"][0], {"inner_lr_learning_rate": 0.1, "inner_lr_per": "entry", "n_inner_steps": 2}),
}
ENGINES = ["one", "workers", "in_process", "subprocess", "sb3 processes"]
STOPS = ["callback", "error", "interrupt", "saved", "signal", "signal", "saved by signal", "kill"]


def env_of(engine):
    if engine in ("in_process", "subprocess"):
        return as_task_vec_env(point(), n_envs=3, engine=engine)
    return point_vec(1 if engine == "one" else 3, subprocess=engine == "sb3 processes")


def model_of(name, engine, normalized):
    algorithm, settings = ALL[name]
    env = env_of(engine)
    return tiny(algorithm, VecNormalize(env) if normalized else env, **settings)


def iteration_of(model):
    """The samples of a meta-iteration."""
    return SAMPLES // 2 * (model.n_inner_steps + 1)


def finish(model, total):
    return model.learn(max(0, total - model.num_timesteps), reset_num_timesteps=False)


def interrupted_after(seconds, model, total):
    """Train until a SIGINT arrives, at any instruction."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let background jobs ignore it
    try:
        timer.start()
        finish(model, total)
        timer.join()
        time.sleep(0.5)  # the signal arrives after the end of a short training
    except KeyboardInterrupt:
        return
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


def killed_after(seconds, model, total, path):
    """Train in a process that saves after each meta-iteration and is killed."""
    model.save(path)
    child = os.fork()
    if child == 0:
        try:
            callback = StopAt(0, "stop")
            callback._on_rollout_start = lambda: model.save(path)
            model.learn(total - model.num_timesteps, callback, reset_num_timesteps=False)
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def resumes_exactly(seed, tmp_path, finished):
    rng = random.Random(seed)
    name, engine, how = rng.choice(list(ALL)), rng.choice(ENGINES), rng.choice(STOPS)
    # the statistics of a VecNormalize depend on the number of workers
    normalized, other = rng.random() < 0.4, rng.choice(ENGINES[:3])
    if how == "kill":  # processes with threads and children of their own are not forked
        engine = rng.choice(["one", "workers"])
    if normalized:
        other = engine
    model = model_of(name, engine, normalized)
    total = 4 * iteration_of(model)
    # rewards of SB3's processes are float64, and those of others float32
    key = (name, engine if normalized and engine in ("one", "sb3 processes") else None, normalized)
    if key not in finished:
        whole = finish(model_of(name, engine, normalized), total)
        finished[key] = state(whole), counters(whole)
        whole.env.close()
    path = tmp_path / f"model_{seed}"
    steps = rng.randint(1, total // model.env.num_envs - 1)
    seconds = rng.uniform(0.0, 1.5)
    if how == "callback":
        model.learn(total, StopAt(steps, "stop"), reset_num_timesteps=False)
    elif how in ("error", "interrupt"):
        with pytest.raises((ZeroDivisionError, KeyboardInterrupt)):
            raising = {"error": ZeroDivisionError, "interrupt": KeyboardInterrupt}[how]
            model.learn(total, StopAt(steps // 2 + 1, raising), reset_num_timesteps=False)
    elif how == "saved":
        model.learn(total, StopAt(steps // 2 + 1, "save", path), reset_num_timesteps=False)
    elif how == "kill":
        killed_after(seconds, model, total, path)
    else:
        interrupted_after(seconds, model, total)
    if how in ("saved", "kill", "saved by signal") or rng.random() < 0.3:
        if how not in ("saved", "kill"):
            model.save(path)
        given = {"custom_objects": {"learning_rate": ALL[name][1]["learning_rate"]}} if name == "schedule" else {}
        model.env.close()
        model = type(model).load(path, env=env_of(other), **given)
    done = model.num_timesteps
    assert done % iteration_of(model) == 0 and model._iteration == done // iteration_of(model), (done, model._iteration)
    finish(model, total)
    parameters, counted = finished[key]
    assert_same(state(model), parameters)
    # the order of episodes, and which of them a full window holds, depends on the workers
    found, expected = ({**one, "returns": np.sort(one["returns"])} for one in (counters(model), counted))
    if len(expected["returns"]) == 100:
        del found["returns"], expected["returns"]
    assert_same(found, expected)
    model.env.close()
    return (name, engine, how, normalized), done


@pytest.fixture(scope="module")
def finished():
    return {}


@pytest.mark.parametrize("seed", [3, 11])
def test_a_few_random_stops(seed, tmp_path, finished):
    resumes_exactly(seed, tmp_path, finished)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(100, 300))
def test_random_stops(seed, tmp_path, finished):
    print(resumes_exactly(seed, tmp_path, finished))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_undisturbed_delays_an_interrupt(number):
    def press(*_):
        raise KeyboardInterrupt

    done = []
    before = signal.signal(number, press)
    try:
        with pytest.raises(KeyboardInterrupt):
            with undisturbed():
                os.kill(os.getpid(), number)
                time.sleep(0.01)
                done.append(np.zeros(1))
        assert signal.getsignal(number) is press
    finally:
        signal.signal(number, before)
    assert done
