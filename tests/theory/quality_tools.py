"""Samples of meta-gradients."""


def covers(estimate, truth):
    low, high = estimate.interval
    return low <= truth <= high
