"""Random streams do not meet, and stay those of earlier versions."""

import numpy as np

from sb3_sgmrl.data import streams

OF_ITERATIONS = ("EVALUATION", "ADAPTATION", "QUALITY", "DIRECTIONS", "SUCCESS")
OF_COMMANDS = ("EVAL_SEED", "REPORT_SEED")


def test_streams_do_not_meet():
    names = [getattr(streams, name) for name in OF_ITERATIONS]
    seeds = [*range(5), *(getattr(streams, name) for name in OF_COMMANDS)]
    states = {tuple(np.random.SeedSequence([seed, name]).generate_state(2)) for seed in seeds for name in [*range(9), *names]}
    assert len(states) == len(seeds) * (9 + len(names))
    # one word of entropy each, as iterations: another number of words could be read as another name
    assert all(2**31 < name < 2**32 for name in names)
    assert all(getattr(streams, name) >= 2**32 for name in OF_COMMANDS)


def test_streams_are_those_of_earlier_versions():
    """Or a seed no longer repeats what was published, and a saved model no longer resumes as it would have."""
    found = {name: getattr(streams, name) for name in (*OF_ITERATIONS, *OF_COMMANDS, "TASK")}
    assert found == {
        "EVALUATION": 4294967295,
        "ADAPTATION": 4294967294,
        "QUALITY": 4294967293,
        "DIRECTIONS": 4294967292,
        "SUCCESS": 4294967195,
        "EVAL_SEED": 1099511627776,
        "REPORT_SEED": 1099511627777,
        "TASK": 31324,
    }
