"""
Draw a picture of each trained agent before and after adaptation, and write the tables of agents into their page.

    python examples/agent_pictures.py

A robot gets a moving picture, navigation its trajectories, a bandit its pulls, and any other family its returns. A picture
holds the hash of its model, so the command draws new and changed agents alone.
"""

import argparse
import json
import pathlib
import sys
from io import BytesIO
from itertools import combinations

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sb3_sgmrl import evaluate_adaptation
from sb3_sgmrl.algorithms import TRAINED_AGENTS, load_trained, trained_agents
from sb3_sgmrl.cli.command_line import run_command
from sb3_sgmrl.cli.trained_model import load_model, play_episode
from sb3_sgmrl.cli.video import choose_gl_backend, frame_counter, side_by_side
from sb3_sgmrl.common.evaluation import after, draw_test_tasks
from sb3_sgmrl.util.files import replace_when_complete
from sb3_sgmrl.util.validation import check_positive

PAGE, IMAGES = "docs/how_to/trained_agents.md", "docs/images/agents"
BEGIN, END = "<!-- agents: written by examples/agent_pictures.py -->\n", "<!-- end of agents -->\n"
# inner steps of the table; every card has them
N_STEPS = 3
# size of a panel of a moving picture in pixels
WIDTH, HEIGHT = 208, 132
# numbers of colours, of which the first that leaves the file small is taken
COLOURS, MAX_BYTES = (16, 12, 8), 400 * 1024
# seconds between two frames, at least two steps
SECONDS = 0.05
# robots are shown at two of this number of tasks, the ones farthest apart
N_DRAWN = 10


def home(folder, algo, env):
    return pathlib.Path(folder) / algo / f"{env}_1"


def results_of(folder, algo, env):
    return json.loads((home(folder, algo, env) / "results.json").read_text(encoding="utf-8"))


def picture_of(images, algo, env):
    """Return the picture of an agent; None without one."""
    return next(iter(sorted(pathlib.Path(images).glob(f"{algo}-{env}.*"))), None)


def model_in(picture):
    """Return the hash of the model that a picture shows."""
    if picture is None:
        return None
    with Image.open(picture) as image:
        comment = image.info.get("comment", "")
    return comment.decode() if isinstance(comment, bytes) else comment


# ---------------------------------------------------------------- pictures


def draw(algo, env, arguments):
    """Draw the picture of an agent."""
    from sb3_sgmrl.envs.bandit import BernoulliBanditEnv
    from sb3_sgmrl.envs.mujoco_single import MujocoTaskEnv
    from sb3_sgmrl.plots import is_navigation, navigation_trajectories, plot_adaptation, plot_trajectories

    file = home(arguments.folder, algo, env) / f"{env}.zip"
    sha = results_of(arguments.folder, algo, env)["sha256"]
    path = pathlib.Path(arguments.images) / f"{algo}-{env}"
    with load_model(file, algo, env) as trained:
        base = trained.env.get_attr("unwrapped", 0)[0]
        if isinstance(base, MujocoTaskEnv):
            return write_gif(path.with_suffix(".gif"), *film(trained, arguments), sha)
        tasks = draw_test_tasks(trained.env, 3, arguments.seed)
        played = {"tasks": tasks, "n_steps": N_STEPS, "seed": arguments.seed}
        if is_navigation(trained.env):
            figure = plot_trajectories(navigation_trajectories(trained.model, trained.env, **played))
        elif isinstance(base, BernoulliBanditEnv):
            figure = plot_pulls(trained, **played)
        else:
            figure = plot_adaptation(evaluate_adaptation(trained.model, trained.env, **played))
    return write_png(path.with_suffix(".png"), figure, sha)


def film(trained, arguments):
    """Play a robot before and after adaptation to two tasks, one after the other; return frames and milliseconds of each."""
    tasks = draw_test_tasks(trained.env, N_DRAWN, arguments.seed)
    tasks = max(combinations(tasks, 2), key=lambda pair: np.linalg.norm(pair[0] - pair[1]))
    trained.manager.eval_env_kwargs = {**trained.manager.eval_env_kwargs, "width": WIDTH, "height": HEIGHT}
    viewer = trained.manager.create_viewer("rgb_array")
    n_steps, movie = trained.model.n_inner_steps, []
    try:
        fps = viewer.get_attr("metadata")[0]["render_fps"]
        every = max(2, round(fps * SECONDS))
        draw_quickly(viewer.get_attr("unwrapped")[0].model)
        for number, task in enumerate(tasks, 1):
            adapted = trained.model.adapt_stepwise(trained.env, task, n_steps, seed=arguments.seed)[-1]
            clips, captions = [], []
            for k, policy in ((0, trained.model.policy), (n_steps, adapted)):
                shown = range(0, every * arguments.frames, every)
                with frame_counter(f"{name_of(task, number)}, {after(k)}") as count:
                    total, frames = play_episode(viewer, policy, task, arguments.seed, on_step=count, shown=shown)
                clips.append(frames)
                captions.append(f"{name_of(task, number)}, {after(k)}: {total:.0f}")
            movie += side_by_side(clips, captions, min_size=1)
    finally:
        viewer.close()
    return movie, round(1000 * every / fps)


def draw_quickly(model):
    """Leave out shadows and reflections, which take most of the time."""
    model.vis.quality.shadowsize = 0
    model.mat_reflectance[:] = 0


def name_of(task, number):
    """Name a task by its values, or by its number where it has many."""
    return f"task {', '.join(f'{value:.2g}' for value in task)}" if len(task) < 3 else f"task {number}"


def write_gif(path, frames, milliseconds, comment):
    images = [Image.fromarray(frame) for frame in frames]
    # viewers slow down pictures of less than 20 milliseconds
    options = {"duration": max(20, milliseconds), "loop": 0, "optimize": True, "comment": comment.encode()}
    for n_colours in COLOURS:
        # the method that keeps rare colours, such as the robot's
        palette = images[len(images) // 2].quantize(n_colours, Image.Quantize.MAXCOVERAGE)
        first, *others = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
        content = BytesIO()
        first.save(content, "GIF", save_all=True, append_images=others, **options)
        if content.tell() <= MAX_BYTES:
            break
    with replace_when_complete(path) as file:
        file.write(content.getvalue())
    return path


def plot_pulls(trained, tasks, n_steps, seed):
    """Plot how often a bandit's policy pulls each arm after 0, 1, … inner steps, beside what the arms pay."""
    import torch as th
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from sb3_sgmrl.plots.style import Figure, legend_below

    n_pulls = trained.env.get_attr("spec", 0)[0].max_episode_steps
    observation = th.ones(1, 1, device=trained.model.device)
    figure = Figure(figsize=(2.9 * len(tasks), 2.9), layout="constrained")
    axes = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    colours = ["0.65", *(f"C{k}" for k in range(n_steps))]
    for axis, task in zip(axes, tasks, strict=True):
        policies = [trained.model.policy, *trained.model.adapt_stepwise(trained.env, task, n_steps, seed=seed)]
        arms = np.arange(1, len(task) + 1)
        regrets = []
        width = 0.8 / len(policies)
        for k, policy in enumerate(policies):
            with th.no_grad():
                pulls = policy.get_distribution(observation).distribution.probs[0].cpu().numpy()
            axis.bar(arms + (k - (len(policies) - 1) / 2) * width, pulls, width, color=colours[k])
            regrets.append(n_pulls * (task.max() - pulls @ task))
        axis.hlines(task, arms - 0.45, arms + 0.45, color="black", linewidth=1.5)
        axis.set(xlabel="arm", xticks=arms, ylim=(0, 1.02))
        axis.set_title(f"regret {regrets[0]:.1f} → {regrets[-1]:.1f}", fontsize="medium")
    axes[0].set_ylabel("share of pulls")
    bars = [Patch(color=colour, label=after(k)) for k, colour in enumerate(colours)]
    legend_below(figure, [*bars, Line2D([], [], color="black", label="probability of a reward")])
    return figure


def write_png(path, figure, comment):
    file, info = BytesIO(), PngInfo()
    figure.savefig(file, format="png", dpi=100)
    info.add_text("comment", comment)
    with replace_when_complete(path) as target:
        # a third of the size
        Image.open(file).convert("RGB").quantize(128).save(target, "PNG", optimize=True, pnginfo=info)
    return path


# ---------------------------------------------------------------- page


def tables(folder, images):
    """Write the table of a folder of agents, and the picture and the command of each."""
    head = ["agent", "algorithm", "before", *(f"{k} step{'s' * (k > 1)}" for k in range(1, N_STEPS + 1)), "million steps"]
    table, sections = [row(head), row(["---"] * len(head))], []
    for algo, env in trained_agents(folder):
        means = results_of(folder, algo, env)["mean_returns"][: N_STEPS + 1]
        steps = load_trained(env, algo, folder).num_timesteps / 1e6
        returns = [f"{mean:.{1 if abs(mean) < 100 else 0}f}" for mean in means]
        table.append(row([f"[{env}](#{env.lower()}-{algo})", algo, *returns, f"{steps:.3g}"]))
        command = (home(folder, algo, env) / env / "command.txt").read_text(encoding="utf-8").strip()
        picture = picture_of(images, algo, env)
        shown = "" if picture is None else f"![{env} before and after adaptation](../images/agents/{picture.name})\n\n"
        card = f"The card is `trained_agents/{algo}/{env}_1/README.md`."
        sections.append(f"### {env}, {algo}\n\n{shown}Trained by `{command}`. {card}\n")
    return "\n".join(["", *table, "", *sections, ""])


def row(cells):
    return f"| {' | '.join(cells)} |"


def with_tables(page, folder, images):
    """Replace the tables of a page."""
    before, begin, rest = page.partition(BEGIN)
    _, end, following = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"`--page` must hold the lines {BEGIN.strip()} and {END.strip()}.")
    return before + begin + tables(folder, images) + end + following


def make(arguments):
    check_positive(**{"--frames": arguments.frames})
    agents = trained_agents(arguments.folder)
    if not agents:
        raise ValueError(f"`--folder` must be a folder of trained agents, got {arguments.folder}, which has none.")
    page = pathlib.Path(arguments.page)
    with_tables(page.read_text(encoding="utf-8"), arguments.folder, arguments.images)  # its errors come before the drawing
    choose_gl_backend()
    for algo, env in agents:
        old = picture_of(arguments.images, algo, env)
        if arguments.overwrite or model_in(old) != results_of(arguments.folder, algo, env)["sha256"]:
            path = draw(algo, env, arguments)
            print(f"Wrote {path}, {path.stat().st_size // 1024} KiB", flush=True)
    text = with_tables(page.read_text(encoding="utf-8"), arguments.folder, arguments.images)
    with replace_when_complete(page) as file:
        file.write(text.encode())
    print(f"Wrote {page}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=TRAINED_AGENTS, help="folder of trained agents (that of the repository)")
    parser.add_argument("--images", default=IMAGES, help=f"folder for pictures ({IMAGES})")
    parser.add_argument("--page", default=PAGE, help=f"page with the tables ({PAGE})")
    parser.add_argument("--frames", type=int, default=36, help="most frames of each of the two tasks of a robot (36)")
    parser.add_argument("--seed", type=int, default=0, help="seed of tasks and episodes (0)")
    parser.add_argument("--overwrite", action="store_true", help="draw the pictures of all agents again")
    arguments = parser.parse_args()
    sys.exit(run_command(lambda: make(arguments)))


if __name__ == "__main__":
    main()
