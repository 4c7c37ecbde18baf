"""``python -m sb3_sgmrl.compare``: algorithms and baselines side by side, with paired seeds."""
