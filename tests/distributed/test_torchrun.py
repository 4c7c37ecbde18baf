"""Under torchrun itself: several hosts, the command, and restarts after faults at random moments."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from kill_run import main
from paths import ROOT
from rank_runs import LONG
from rank_tools import HERE, free_port

from sb3_sgmrl import SGMRL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

# the number of faults can be chosen, because 60 of them take a quarter of an hour
N_FAULTS = int(os.environ.get("N_FAULTS", 60))
FAULTS_PER_RUN = 15


def torchrun(*arguments, **kwargs):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def processes_that_name(text):
    """Processes whose command line contains a text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if text.encode() in command:
            found.append(int(folder.name))
    return found


# two network namespaces, connected by a cable alone; the arguments are the command, with ADDRESS in place of the own address
TWO_HOSTS = """
set -e
ip link set lo up
unshare --net sleep 900 & other=$!
trap "kill $other" EXIT
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
ip link add host1 type veth peer name host2 netns $other
in_other="nsenter --target $other --net"
ip addr add 10.7.0.1/24 dev host1; ip link set host1 up
$in_other ip addr add 10.7.0.2/24 dev host2; $in_other ip link set host2 up; $in_other ip link set lo up
on_second=("${@//ADDRESS/10.7.0.2}")
GLOO_SOCKET_IFNAME=host2 $in_other "${on_second[@]//is_host=1/is_host=0}" & second=$!
GLOO_SOCKET_IFNAME=host1 "${@//ADDRESS/10.7.0.1}"
wait $second
"""


def test_two_hosts_with_networks_of_their_own_equal_one_process():
    """Two agents of torchrun in two network namespaces."""
    in_namespace = ["unshare", "--user", "--map-root-user", "--net"]
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))) or subprocess.run([*in_namespace, "ip", "link"]).returncode:
        pytest.skip("network namespaces are not permitted")
    names = ["SGMRL", "ProMP", "VecNormalize"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += [
        "--rdzv-backend",
        "c10d",
        "--rdzv-id",
        "namespaces",
        "--rdzv-endpoint",
        "10.7.0.1:29400",
        "--local-addr",
        "ADDRESS",
    ]
    command += ["--rdzv-conf", "is_host=1"]
    command += [str(HERE / "rank_runs.py"), "long", *names]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [*in_namespace, "bash", "-c", TWO_HOSTS, "bash", *command]
    ended = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert found == 2 * [{name: LONG[name]() for name in names}]


def test_two_hosts_equal_one_process():
    """Two agents of torchrun with a rendezvous on loopback."""
    names = ["SGMRL", "ProMP", "VecNormalize"]
    rendezvous = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "two_hosts"]
    rendezvous += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    agents = [torchrun(*rendezvous, str(HERE / "rank_runs.py"), "long", *names) for _ in range(2)]
    ends = [agent.communicate(timeout=600) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], ends
    expected = {name: LONG[name]() for name in names}
    for output, _ in ends:
        assert {name: value for name, value in json.loads(output.splitlines()[-1]).items()} == expected


def test_the_command_writes_the_files_of_one_process(tmp_path):
    arguments = ["-m", "sb3_sgmrl.train", "--seed", "0", "-n", "2000", "--eval-tasks", "3"]
    arguments += ["-params", "meta_batch_size:3", "n_episodes:3"]
    many = torchrun("--nproc-per-node", "2", *arguments, "--log-folder", "two", cwd=tmp_path)
    output, errors = many.communicate(timeout=600)
    assert many.returncode == 0, errors
    assert output.count("Saving to ") == 1
    one = [sys.executable, *arguments, "--log-folder", "one"]
    subprocess.run(one, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    files = [{str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).rglob("*")} for name in ("one", "two")]
    assert files[0] == files[1]
    run = "sgmrl/Navigation2D-v0_1"
    models = [SGMRL.load(tmp_path / name / run / "Navigation2D-v0.zip").get_parameters()["policy"] for name in ("one", "two")]
    assert all(bool((models[0][key] == models[1][key]).all()) for key in models[0])
    assert (tmp_path / "one" / run / "adaptation.csv").read_text() == (tmp_path / "two" / run / "adaptation.csv").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_search_writes_its_best_settings(tmp_path, number):
    arguments = ["-m", "sb3_sgmrl.tune", "--seed", "0", "-n", "20000", "--eval-tasks", "2", "--n-trials", "100"]
    arguments += ["--log-folder", str(tmp_path), "-params", "meta_batch_size:3", "n_episodes:2"]
    agent = torchrun("--nproc-per-node", "2", *arguments)
    journal = tmp_path / "sgmrl" / "tuned_Navigation2D-v0_1.log"
    while agent.poll() is None and not (journal.exists() and '"trial_id":1,' in journal.read_text()):
        time.sleep(0.1)
    time.sleep(np.random.default_rng(number).uniform(0, 2))
    agent.send_signal(number)
    _, errors = agent.communicate(timeout=120)
    assert errors.count("Interrupted. ") == 1 and "\nerror: " not in errors, errors
    assert "The best settings so far are in" in errors and journal.with_suffix(".yml").exists()
    time.sleep(1)
    assert processes_that_name(str(tmp_path)) == []


def test_a_restarted_command_resumes_from_its_last_checkpoint(tmp_path):
    arguments = ["-m", "sb3_sgmrl.train", "--seed", "0", "-n", "90000", "--eval-freq", "-1", "--eval-tasks", "2"]
    arguments += ["--log-folder", "logs", "-params", "meta_batch_size:3", "n_episodes:3"]
    agent = torchrun("--nproc-per-node", "2", "--max-restarts", "2", *arguments, cwd=tmp_path)
    checkpoint = tmp_path / "logs/sgmrl/Navigation2D-v0_1/last_model.zip"
    while not checkpoint.exists() and agent.poll() is None:
        time.sleep(0.1)
    time.sleep(1)
    ranks = [pid for pid in processes_that_name("sb3_sgmrl.train") if pid != agent.pid and parent_of(pid) == agent.pid]
    os.kill(ranks[-1], signal.SIGKILL)
    _, errors = agent.communicate(timeout=1200)
    assert agent.returncode == 0, errors
    one = [sys.executable, *arguments, "--log-folder", "one"]
    subprocess.run(one, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    found = SGMRL.load(tmp_path / "logs/sgmrl/Navigation2D-v0_2/Navigation2D-v0.zip")
    expected = SGMRL.load(tmp_path / "one/sgmrl/Navigation2D-v0_1/Navigation2D-v0.zip")
    assert found.num_timesteps == expected.num_timesteps
    pairs = [model.get_parameters()["policy"] for model in (found, expected)]
    assert all(bool((pairs[0][key] == pairs[1][key]).all()) for key in pairs[0])


def parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return -1


@pytest.mark.parametrize("seed", range(-(-N_FAULTS // FAULTS_PER_RUN)))
def test_runs_with_random_faults_end_like_uninterrupted_ones(tmp_path, seed):
    """A killed rank, and a worker that exits, hangs or raises an error, each at a random moment."""
    n_faults = min(FAULTS_PER_RUN, N_FAULTS - FAULTS_PER_RUN * seed)
    n_iterations = 300
    (tmp_path / "many").mkdir()
    command = [str(HERE / "kill_run.py"), str(tmp_path / "many"), str(n_iterations), str(n_faults), str(seed)]
    agent = torchrun("--nproc-per-node", "2", "--max-restarts", str(n_faults), *command)
    _, errors = agent.communicate(timeout=3000)
    assert agent.returncode == 0, errors
    (tmp_path / "one").mkdir()
    main(str(tmp_path / "one"), n_iterations, 0, seed)
    found, expected = (json.loads((tmp_path / name / "end.json").read_text()) for name in ("many", "one"))
    assert found[:2] == expected[:2]
    faults = (tmp_path / "many" / "faults.txt").read_text().splitlines()
    print(*faults, sep="\n")
    assert found[2] > 0
    assert len(faults) - found[2] in (0, 1)  # the training may have ended before the last one
    faults = faults[: found[2]]
    for kind, words in (("exit", "died with exit code 3"), ("hang", "did not answer within 5"), ("raise", "the motor is hot")):
        if any(f" {kind} " in line for line in faults):
            assert words in errors
    assert processes_that_name(str(tmp_path / "many")) == []


@pytest.mark.parametrize("seed", range(3))
def test_sigterm_of_torchrun_leaves_no_process_and_a_whole_checkpoint(tmp_path, seed):
    for name in ("many", "one"):
        (tmp_path / name).mkdir()
    command = [str(HERE / "kill_run.py"), str(tmp_path / "many"), "60", "0", str(seed)]
    agent = torchrun("--nproc-per-node", "2", *command)
    while not (tmp_path / "many" / "last_model.zip").exists() and agent.poll() is None:
        time.sleep(0.05)
    time.sleep(np.random.default_rng(seed).uniform(0, 1))
    agent.terminate()
    agent.communicate(timeout=60)
    time.sleep(1)
    assert processes_that_name(str(tmp_path / "many")) == []
    again = torchrun("--nproc-per-node", "2", *command)
    _, errors = again.communicate(timeout=600)
    assert again.returncode == 0, errors
    main(str(tmp_path / "one"), 60, 0, seed)
    assert (
        json.loads((tmp_path / "many" / "end.json").read_text())[:2]
        == json.loads((tmp_path / "one" / "end.json").read_text())[:2]
    )
