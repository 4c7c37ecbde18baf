"""Episodes recorded without tasks, and their files."""

import pickle
import warnings
import zipfile

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.vec_env import VecNormalize
from toys import HORIZON, PointEnv, SmallCnn, assert_same, point_vec, tiny

from sb3_sgmrl import MAML, SGMRL
from sb3_sgmrl.data.batch import PhaseBatch
from sb3_sgmrl.deployment import EpisodeRecorder, load_episodes, save_episodes

SMALL = {"features_extractor_class": SmallCnn, "net_arch": [3]}
KINDS = {
    "vector": ("MlpPolicy", {}, {}),
    "ends": ("MlpPolicy", {"end": 0.3, "action": "discrete", "observation": "discrete"}, {}),
    "multi_binary": ("MlpPolicy", {"action": "multi_binary"}, {}),
    "image": ("CnnPolicy", {"observation": "image", "action": "multi_discrete"}, {"policy_kwargs": SMALL}),
    "dict": ("MultiInputPolicy", {"observation": "dict"}, {}),
}


def robot(**kwargs):
    """Not a TaskDistEnv."""
    return TimeLimit(PointEnv(**kwargs), HORIZON)


def policy_state(policy):
    return {name: value.detach().numpy().copy() for name, value in policy.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_played_episodes_adapt_also_from_a_file(kind, tmp_path):
    policy_class, family, settings = KINDS[kind]
    model = tiny(SGMRL, point_vec(1, **family), policy_class, **settings)
    recorder = EpisodeRecorder(robot(**family))
    first = recorder.play(model, 6)  # its actions are those of the policy: no warning
    assert first.n_tasks == 1 and first.mask.shape[1] == len(recorder.episodes) == 6
    recorder.save(tmp_path / "log.npz")
    once = model.adapt(episodes=first)
    again = model.adapt(episodes=PhaseBatch.from_episodes(load_episodes(tmp_path / "log.npz")))
    assert_same(policy_state(once), policy_state(again))
    second = recorder.play(model, 6, policy=once, seed=1)
    assert len(recorder.episodes) == 6
    twice = model.adapt(episodes=[first, second])
    assert not np.array_equal(policy_state(once)["action_net.weight"], policy_state(twice)["action_net.weight"])


def test_the_recorder_keeps_unclipped_actions_and_the_environment_gets_clipped_ones():
    class Witness(PointEnv):
        taken = []  # noqa: RUF012

        def step(self, action):
            self.taken.append(np.array(action))
            return super().step(action)

    recorder = EpisodeRecorder(TimeLimit(Witness(), 3))
    actions = np.array([[2.0, 0.1], [-3.0, -0.2], [0.5, 9.0]])
    observations = [recorder.reset(seed=0)[0]]
    rewards = []
    for action in actions:
        observation, reward, _, _, _ = recorder.step(action)
        observations.append(observation)
        rewards.append(reward)
    ((recorded, kept, earned),) = recorder.episodes
    np.testing.assert_array_equal(kept, actions.astype(np.float32))
    np.testing.assert_array_equal(Witness.taken, actions.astype(np.float32).clip(-1, 1))
    np.testing.assert_array_equal(recorded, observations[:-1])
    np.testing.assert_array_equal(earned, rewards)
    recorder.reset()
    recorder.step(actions[0])
    recorder.reset()  # drops what was not finished
    assert len(recorder.episodes) == 1 and len(recorder.batch().rewards[0]) == 1


def test_play_normalises_and_follows_its_seed():
    env = VecNormalize(point_vec(2), clip_obs=2.0)
    model = tiny(MAML, env).learn(1)
    env.obs_rms.mean += 5.0
    recorder = EpisodeRecorder(robot())
    batch, again, other = (recorder.play(model, 30, seed=seed) for seed in (0, 0, 1))
    assert batch.is_raw
    np.testing.assert_array_equal(batch.actions, again.actions)
    assert not np.array_equal(batch.actions, other.actions)
    model.adapt(episodes=batch)  # drawn at the normalised observations: no warning
    env.obs_rms.mean -= 5.0
    model.policy.action_net.weight.data.mul_(50)
    with pytest.warns(UserWarning, match="not drawn by this policy"):
        model.adapt(episodes=batch)


def test_a_robot_that_does_not_fit_does_not_move():
    model = tiny(SGMRL, point_vec(1))

    class Still(PointEnv):
        def reset(self, **kwargs):
            raise AssertionError("it moved")

    for family in ({"action": "discrete"}, {"observation": "image"}, {"observation": "dict"}):
        with pytest.raises(ValueError, match="`env` does not fit the model: `episodes` must hold"):
            EpisodeRecorder(Still(**family)).play(model, 1)
    with pytest.raises(ValueError, match="`n_episodes` must be a positive integer"):
        EpisodeRecorder(Still()).play(model, 0)
    with pytest.raises(ValueError, match="`seed` must be a non-negative integer"):
        EpisodeRecorder(Still()).play(model, 1, seed=-1)


def test_without_a_complete_episode_there_is_nothing_to_save(tmp_path):
    recorder = EpisodeRecorder(PointEnv())
    recorder.reset(seed=0)
    recorder.step([0.0, 0.0])
    for call in (recorder.batch, lambda: recorder.save(tmp_path / "log.npz")):
        with pytest.raises(ValueError, match="`env` has ended no episode yet"):
            call()
    assert not list(tmp_path.iterdir())


def test_a_recorder_can_be_made_again():
    gym.register("Recorded-v0", lambda: PointEnv(), max_episode_steps=3)
    try:
        recorder = EpisodeRecorder(gym.make("Recorded-v0"))
        assert isinstance(gym.make(recorder.spec), EpisodeRecorder)
    finally:
        del gym.registry["Recorded-v0"]


# --------------------------------------------------------------------------------------------------------------- files

EPISODE = (np.zeros((2, 3), np.float32), np.ones((2, 2), np.float32), np.arange(2.0))


class Planted:
    def __reduce__(self):
        return (pytest.fail, ("code of the file ran",))


def arrays(**changes):
    usual = {"lengths": np.array([2]), "observations": EPISODE[0], "actions": EPISODE[1], "rewards": EPISODE[2]}
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


def zipped(path, **contents):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def doubled(path):
    np.savez(path, **arrays())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the double name
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("rewards.npy", archive.read("rewards.npy"))


def damaged(path):
    np.savez_compressed(path, **arrays())
    content = bytearray(path.read_bytes())
    start = 30 + content[26] + content[28]  # after the header, the name and the extra field of the first array
    content[start] = 255  # no kind of block
    path.write_bytes(content)


WRONG_FILES = {
    "no zip": lambda path: path.write_bytes(b"episodes"),
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: (np.savez(path, **arrays()), path.write_bytes(path.read_bytes()[:300])),
    "npy": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Planted())),
    "pickled array": lambda path: np.savez(path, **arrays(actions=np.array([Planted(), 1], dtype=object))),
    "no lengths": lambda path: np.savez(path, **arrays(lengths=None)),
    "no observations": lambda path: np.savez(path, **arrays(observations=None)),
    "no actions": lambda path: np.savez(path, **arrays(actions=None)),
    "other lengths": lambda path: np.savez(path, **arrays(lengths=np.array([3]))),
    "lengths below one": lambda path: np.savez(path, **arrays(lengths=np.array([2, 0]))),
    "negative lengths": lambda path: np.savez(path, **arrays(lengths=np.array([3, -1]))),
    "lengths of floats": lambda path: np.savez(path, **arrays(lengths=np.array([2.0]))),
    "lengths that overflow": lambda path: np.savez(path, **arrays(lengths=np.array([2**63, 2**63 + 2], np.uint64))),
    "a number": lambda path: np.savez(path, **arrays(rewards=np.array(1.0))),
    "text": lambda path: zipped(path, lengths=b"2", observations=b"0", actions=b"0", rewards=b"0"),
    "damaged in the middle": damaged,
    "an unknown array": lambda path: np.savez(path, **arrays(costs=np.zeros(2))),
    "two kinds of observations": lambda path: np.savez(path, **arrays(**{"observations/a": EPISODE[0]})),
    "an array twice": doubled,
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_files_that_hold_no_episodes(kind, tmp_path):
    path = tmp_path / "log.npz"
    WRONG_FILES[kind](path)
    with pytest.raises(ValueError, match=r"`path` .*log\.npz must") as error:
        load_episodes(path)
    assert "\n" not in str(error.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="There are no episodes at `path`"):
        load_episodes(tmp_path / "log.npz")
    with pytest.raises(ValueError, match=r"`path` must end in \.npz"):
        save_episodes(tmp_path / "log.csv", [EPISODE])
    with pytest.raises(ValueError, match="must have actions for each"):
        save_episodes(tmp_path / "log.npz", [(EPISODE[0], EPISODE[1][:1], EPISODE[2])])
    save_episodes(tmp_path / "log.npz", [EPISODE, EPISODE])
    for name in ("lengths", "observations", "actions", "rewards"):
        assert name in np.load(tmp_path / "log.npz", allow_pickle=False).files
    for found in load_episodes(tmp_path / "log.npz"):
        for part, wanted in zip(found, EPISODE, strict=True):
            np.testing.assert_array_equal(part, wanted)
            assert part.dtype == wanted.dtype


def test_arrays_of_objects_are_not_written(tmp_path):
    actions = np.array([[0.1, 0.2]] * 3, dtype=object)
    with pytest.raises(ValueError, match=r"`episodes\[0\]` must have actions that are numbers"):
        save_episodes(tmp_path / "log.npz", [(np.zeros((3, 2)), actions, np.zeros(3))])
    assert not list(tmp_path.iterdir())
