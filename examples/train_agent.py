"""
Train an agent for the folder of trained agents, measure it, and write its card.

    python examples/train_agent.py --env Navigation2D-v0
    python examples/train_agent.py --algo maml --env HalfCheetahDir-v0 -- -n 16000000 -params n_epochs:5

What follows ``--`` goes to ``python -m sb3_sgmrl.train``. The agent has the layout of RL Zoo:

    trained_agents/sgmrl/Navigation2D-v0_1/Navigation2D-v0.zip       the model
                                           Navigation2D-v0/          its environment's settings and the command
                                           README.md                 the card, with its pictures
                                           results.json              the returns on unseen tasks, and the model's hash
"""

import argparse
import hashlib
import json
import pathlib
import re
import shlex
import shutil
import sys
import tempfile

from huggingface_sb3 import EnvironmentName
from rl_zoo3.utils import get_latest_run_id

from sb3_sgmrl.algorithms import ALGORITHMS, TRAINED_AGENTS
from sb3_sgmrl.cli import card, train
from sb3_sgmrl.cli.command_line import run_command

# where the whole run stays, with its checkpoints and evaluations
LOGS = "logs/trained_agents"
USE = """## Use

```bash
python -m sb3_sgmrl.enjoy --algo {algo} --env {env} -f trained_agents
```

```python
from sb3_sgmrl import evaluate_adaptation, load_trained

model = load_trained("{env}", "{algo}")
print(evaluate_adaptation(model, n_tasks=10, n_steps=1))
policy = model.adapt(n_steps=1)  # to a random task; pass task=... for another
```

"""


def make(arguments):
    target = pathlib.Path(arguments.folder) / arguments.algo / f"{arguments.env}_1"
    if target.exists():
        raise ValueError(f"`--folder` already has {target}: remove it to train the agent again.")
    which = ["--algo", arguments.algo, "--env", arguments.env, "-f", LOGS]
    with tempfile.TemporaryDirectory() as work:
        training = [*which, "--seed", str(arguments.seed), *arguments.options]
        command = shlex.join(["python", "-m", "sb3_sgmrl.train", *training])
        if code := train.main(training):
            sys.exit(code)
        if code := card.main([*which, "--n-tasks", str(arguments.n_tasks), "--command", command, "-o", f"{work}/card"]):
            sys.exit(code)
        runs = pathlib.Path(LOGS, arguments.algo)
        run = runs / f"{arguments.env}_{get_latest_run_id(str(runs), EnvironmentName(arguments.env))}"
        described, agent = pathlib.Path(work, "card"), pathlib.Path(work, "agent")
        settings = agent / arguments.env
        settings.mkdir(parents=True)
        (settings / "command.txt").write_text(command + "\n", encoding="utf-8")
        shutil.copy(run / arguments.env / "config.yml", settings)
        model = run / f"{arguments.env}.zip"
        for file in [model, *described.glob("*.png")]:
            shutil.copy(file, agent)
        results = json.loads((described / "results.json").read_text(encoding="utf-8"))
        results["sha256"] = hashlib.sha256(model.read_bytes()).hexdigest()
        (agent / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        text = (described / "README.md").read_text(encoding="utf-8")
        use = USE.format(env=arguments.env, algo=arguments.algo)
        (agent / "README.md").write_text(re.sub(r"## Use\n.*?(?=## Training)", use, text, flags=re.DOTALL), encoding="utf-8")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(agent, target)
    print(f"Wrote {target}. Draw its picture and write its row of the table: python examples/agent_pictures.py")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", default="sgmrl", choices=list(ALGORITHMS), help="algorithm (sgmrl)")
    parser.add_argument("--env", default="Navigation2D-v0", help="id of a registered family (Navigation2D-v0)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (0)")
    parser.add_argument("--n-tasks", type=int, default=100, help="number of unseen tasks to measure on (100)")
    parser.add_argument("--folder", default=TRAINED_AGENTS, help="folder of trained agents (that of the repository)")
    parser.add_argument("options", nargs="*", help="options of sb3_sgmrl.train, after --")
    arguments = parser.parse_args()
    sys.exit(run_command(lambda: make(arguments)))


if __name__ == "__main__":
    main()
