"""Videos of a policy before and after each inner step, side by side."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
_FPS = 30  # for environments that do not define it


def has_display() -> bool:
    """
    Check for a display.

    :return: Whether a window can be opened
    """
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def choose_gl_backend() -> str | None:
    """
    Set the environment variable MUJOCO_GL to a backend that renders without a display.

    An existing value is kept, and with a display nothing is set. Call this function before MuJoCo is imported, because MuJoCo
    reads the variable at import.

    :return: The value of MUJOCO_GL; None when it is not set
    """
    if has_display() or "MUJOCO_GL" in os.environ:
        return os.environ.get("MUJOCO_GL")
    for name in ("egl", "osmesa"):
        # a separate process: PyOpenGL supports only one backend per process, and loading the wrong one cannot be undone
        code = f"import mujoco.{name}; mujoco.{name}.GLContext(16, 16).make_current()"
        environment = {**os.environ, "MUJOCO_GL": name}
        if subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False).returncode == 0:
            os.environ["MUJOCO_GL"] = name
            return name
    return None


def check_video(path: str, overwrite: bool, option: str = "--output") -> None:
    """
    Check that a video can be written.

    :param path: The video file
    :param overwrite: Whether an existing file may be replaced
    :param option: The option that names the file, for errors
    :raises ValueError: When the file cannot be written
    """
    check_output(path, SUFFIXES, overwrite, option)
    if path.lower().endswith(".mp4") and find_spec("imageio_ffmpeg") is None:
        raise ValueError(f"`{option}` needs imageio-ffmpeg for .mp4, got {path}: install the extra [zoo], or write a .gif.")


def record(run: Run, path: str, deterministic: bool = False) -> None:
    """
    Play an episode after each number of inner steps and write the episodes side by side into a video.

    :param run: A model at its task
    :param path: The video file, ending in .mp4 or .gif
    :param deterministic: Whether to play the mean action instead of sampled actions
    :raises ValueError: When the environment or the machine cannot render pictures
    """
    modes = run.manager.render_modes()
    if "rgb_array" not in modes:
        raise ValueError(f"`--env` must have the render mode 'rgb_array', got {run.options.env} with render modes {modes}.")
    captions, clips = [], []
    viewer = run.manager.create_viewer("rgb_array")
    try:
        for k, policy in run.policies():
            with frame_counter(after(k)) as count:
                reward, frames = play_episode(viewer, policy, run.task, run.options.seed, deterministic, count)
            captions.append(f"{after(k)}: {reward:.2f}")
            clips.append([frame for frame in frames if frame is not None])
        fps = viewer.get_attr("metadata")[0].get("render_fps", _FPS)
    # OpenGL and its loaders raise any of these errors
    except (gym.error.DependencyNotInstalled, ImportError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"`--env {run.options.env}` cannot be rendered ({error}): set MUJOCO_GL to egl or osmesa and install libegl1 or "
            "libosmesa6."
        ) from error
    finally:
        viewer.close()
    write_video(path, side_by_side(clips, captions), fps)
    print(f"Wrote {path}: an episode {', '.join(captions)}")


@contextmanager
def frame_counter(text: str) -> Iterator[Callable[[], object]]:
    """
    Count frames on a terminal, for a ``with`` statement.

    :param text: The text beside the number
    :return: A function to call for each frame
    """
    from tqdm.auto import tqdm

    with tqdm(desc=text, unit=" frames", disable=not sys.stderr.isatty()) as bar:
        yield bar.update


def side_by_side(
    clips: Sequence[Sequence[np.ndarray]], captions: Sequence[str], n_columns: int = _COLUMNS, min_size: int = _MIN_SIZE
) -> list[np.ndarray]:
    """
    Arrange episodes side by side.

    :param clips: The pictures of each episode, shape (height, width, 3), dtype uint8; a shorter episode repeats its last
        picture
    :param captions: The text above each episode
    :param n_columns: The number of episodes in a row
    :param min_size: The size in pixels to which smaller pictures are enlarged
    :return: The pictures of all episodes, with even height and width
    """
    scale = max(1, math.ceil(min_size / max(clips[0][0].shape[:2])))
    headers = [_caption(text, clip[0].shape[1] * scale) for text, clip in zip(captions, clips, strict=True)]
    blank = np.full_like(np.concatenate([headers[0], _enlarged(clips[0][0], scale)]), 255)
    frames = []
    for t in range(max(map(len, clips))):
        panels = [
            np.concatenate([header, _enlarged(clip[min(t, len(clip) - 1)], scale)])
            for header, clip in zip(headers, clips, strict=True)
        ]
        n_columns = min(n_columns, len(panels))
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
    Write a video.

    :param path: The file, ending in .mp4 or .gif; an existing file is replaced when the video is complete
    :param frames: The pictures, shape (height, width, 3), dtype uint8
    :param fps: The number of pictures per second
    """
    import imageio.v2 as imageio

    is_gif = path.lower().endswith(".gif")
    options: dict[str, Any] = {"duration": 1000 / fps, "loop": 0} if is_gif else {"fps": fps, "macro_block_size": 2}
    data = imageio.mimwrite("<bytes>", list(frames), format="gif" if is_gif else "mp4", **options)
    with replace_when_complete(path) as file:
        file.write(data)
