SHELL=/bin/bash
LINT_PATHS=sb3_sgmrl/ tests/ examples/ docs/conf.py setup.py

pytest:
	python -m pytest -n 2

test-long:
	python -m pytest -m slow

# with exactly the lowest versions of pyproject.toml, in a virtual environment of its own
test-lowest:
	.ci/lowest

type:
	mypy

lint:
	ruff check ${LINT_PATHS}
	lint-imports

format:
	# Sort imports
	ruff check --select I ${LINT_PATHS} --fix
	# Reformat using black
	black ${LINT_PATHS}

check-codestyle:
	# Sort imports
	ruff check --select I ${LINT_PATHS}
	# Reformat using black
	black --check ${LINT_PATHS}

commit-checks: format type lint

doc:
	python -m sphinx -b html -W --keep-going docs docs/_build/html

mutants:
	python tests/mutation/mutation.py --sample 150 --seed 0

clean:
	rm -rf docs/_build

.PHONY: mutants pytest test-long type lint format check-codestyle commit-checks doc clean test-lowest
