# A contributor: a clone, its tasks, and a test that sees a mistake. From the root of the checkout, with the Python of
# `make setup` as `python`.
set -ev

git clone -q --depth 1 "file://$PWD" ~/brim
cd ~/brim
git status --short

# the tasks
make

# without a Python that will do, make says what to install
make setup PYTHON=no-python 2>&1 || echo "exit status $?"

# a test, a mistake in what it tests, and the mistake undone
python -m pytest -q -p no:cacheprovider tests/engine/scheduling/test_buckets.py
sed -i.before 's/bisect_left/bisect_right/' engine/scheduling/buckets.py
python -m pytest -q -p no:cacheprovider tests/engine/scheduling/test_buckets.py --tb=no | tail -n 1
git checkout -q engine
python -m ruff check .
