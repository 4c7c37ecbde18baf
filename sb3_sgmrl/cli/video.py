"""Videos of a policy before and after each inner step, side by side."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np

from sb3_sgmrl.cli.command_line import check_output
from sb3_sgmrl.cli.trained_model import Run, play_episode
from sb3_sgmrl.common.evaluation import after
from sb3_sgmrl.util.files import replace_when_complete

SUFFIXES = (".mp4", ".gif")
_COLUMNS = 4
_MIN_SIZE = 320
_CAPTION_HEIGHT = 24
_FPS = 30  # where the environment does not say


def has_display() -> bool:
    """
    :return: whether a window can be opened
    """
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def choose_gl_backend() -> str | None:
    """
    Where there is no display, set MUJOCO_GL to what can draw without one, unless it is set. MuJoCo reads it when it is
    imported, so this comes before.

    :return: the value of MUJOCO_GL; None where nothing need or can be done
    """
    if has_display() or "MUJOCO_GL" in os.environ:
        return os.environ.get("MUJOCO_GL")
    for name in ("egl", "osmesa"):
        # a process of its own: PyOpenGL is for one of them only, and loading the wrong one cannot be undone
        code = f"import mujoco.{name}; mujoco.{name}.GLContext(16, 16).make_current()"
        environment = {**os.environ, "MUJOCO_GL": name}
        if subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False).returncode == 0:
            os.environ["MUJOCO_GL"] = name
            return name
    return None


def check_video(path: str, overwrite: bool) -> None:
    """
    :param path: of the video
    :param overwrite: whether it may be there already
    :raises ValueError: when it cannot be written
    """
    check_output(path, SUFFIXES, overwrite)
    if path.lower().endswith(".mp4") and find_spec("imageio_ffmpeg") is None:
        raise ValueError(f"{path} needs imageio-ffmpeg, which the extra [zoo] brings; a .gif does not.")


def record(run: Run, path: str, deterministic: bool = False) -> None:
    """
    Play an episode after each number of inner steps and write them side by side into a video.

    :param run: a model at its task
    :param path: the video, ending in .mp4 or .gif
    :param deterministic: play the mean action instead of drawn ones
    :raises ValueError: for an environment that draws no pictures, or a machine that has nothing to draw with
    """
    modes = run.manager.render_modes()
    if "rgb_array" not in modes:
        raise ValueError(f"{run.options.env} draws no pictures: it has the render modes {modes}, not 'rgb_array'.")
    captions, clips = [], []
    viewer = run.manager.create_viewer("rgb_array")
    try:
        for k, policy in run.policies():
            reward, frames = play_episode(viewer, policy, run.task, run.options.seed, deterministic)
            captions.append(f"{after(k)}: {reward:.2f}")
            clips.append([frame for frame in frames if frame is not None])
        fps = viewer.get_attr("metadata")[0].get("render_fps", _FPS)
    # whatever OpenGL and its loaders raise; none of them has an exception of its own
    except (gym.error.DependencyNotInstalled, ImportError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{run.options.env} cannot be drawn here ({error}): MUJOCO_GL must be egl or osmesa, and libegl1 or libosmesa6 be "
            "installed."
        ) from error
    finally:
        viewer.close()
    write_video(path, side_by_side(clips, captions), fps)
    print(f"Wrote {path}: an episode {', '.join(captions)}")


def side_by_side(clips: Sequence[Sequence[np.ndarray]], captions: Sequence[str]) -> list[np.ndarray]:
    """
    :param clips: pictures of each episode, shape (height, width, 3), dtype uint8; those that end early stand still at the end
    :param captions: text above each
    :return: pictures of all of them, in rows of four, with even height and width
    """
    scale = max(1, math.ceil(_MIN_SIZE / max(clips[0][0].shape[:2])))
    headers = [_caption(text, clip[0].shape[1] * scale) for text, clip in zip(captions, clips, strict=True)]
    blank = np.full_like(np.concatenate([headers[0], _enlarged(clips[0][0], scale)]), 255)
    frames = []
    for t in range(max(map(len, clips))):
        panels = [
            np.concatenate([header, _enlarged(clip[min(t, len(clip) - 1)], scale)])
            for header, clip in zip(headers, clips, strict=True)
        ]
        n_columns = min(_COLUMNS, len(panels))
        panels += [blank] * (-len(panels) % n_columns)
        rows = [np.concatenate(panels[i : i + n_columns], axis=1) for i in range(0, len(panels), n_columns)]
        frame = np.concatenate(rows)
        frames.append(np.pad(frame, ((0, len(frame) % 2), (0, frame.shape[1] % 2), (0, 0))))
    return frames


def _enlarged(picture: np.ndarray, scale: int) -> np.ndarray:
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def _caption(text: str, width: int) -> np.ndarray:
    from PIL import Image, ImageDraw  # comes with imageio

    strip = Image.new("RGB", (width, _CAPTION_HEIGHT), "white")
    ImageDraw.Draw(strip).text((6, 6), text, fill="black")
    return np.asarray(strip)


def write_video(path: str, frames: Sequence[np.ndarray], fps: float) -> None:
    """
    :param path: the file, ending in .mp4 or .gif; an existing one is replaced when everything was written
    :param frames: pictures, shape (height, width, 3), dtype uint8
    :param fps: pictures per second
    """
    import imageio.v2 as imageio

    is_gif = path.lower().endswith(".gif")
    options: dict[str, Any] = {"duration": 1000 / fps, "loop": 0} if is_gif else {"fps": fps, "macro_block_size": 2}
    data = imageio.mimwrite("<bytes>", list(frames), format="gif" if is_gif else "mp4", **options)
    with replace_when_complete(path) as file:
        file.write(data)
