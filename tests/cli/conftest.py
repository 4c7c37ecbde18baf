"""Commands on a family whose episodes are short."""

import gymnasium as gym
import pytest

import sb3_sgmrl  # noqa: F401  # registers the families


@pytest.fixture
def short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Navigation with ten steps in place of a hundred, for tests of what commands do and not of what is learned."""
    monkeypatch.setattr(gym.spec("Navigation2D-v0"), "max_episode_steps", 10)
