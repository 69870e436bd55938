"""The tree that is drawn in `engine/errors.py` is the tree that is there."""

from __future__ import annotations

import inspect
import re

from engine import errors
from engine.errors import BrimError, QueueFull, UnknownModel

# depth, name and retry of a line such as "    │   ├── NotReady         retry   still loading"
LINE = re.compile(r"^    (?P<indent>(?:[│ ]   )*)[├└]── (?P<name>\w+) +(?P<retry>retry|never) ")


def drawn() -> dict[str, tuple[str, bool]]:
    """Name -> its parent and whether it is worth a retry, from the module's docstring."""
    path = ["BrimError"]
    tree = {}
    for line in (errors.__doc__ or "").splitlines():
        if found := LINE.match(line):
            depth = len(found["indent"]) // 4 + 1
            path[depth:] = [found["name"]]
            tree[found["name"]] = path[depth - 1], found["retry"] == "retry"
    return tree


def test_the_drawing_shows_every_error_its_parent_and_whether_to_retry() -> None:
    classes = {
        name: (value.__bases__[0].__name__, value.retry)
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BrimError) and value is not BrimError
    }
    assert drawn() == classes


def test_a_refusal_says_when_to_come_back() -> None:
    error = QueueFull("full", 2.5)
    assert (str(error), error.retry_after_s) == ("full", 2.5)


def test_an_unknown_model_hears_which_ones_there_are() -> None:
    assert str(UnknownModel("c", ("a", "b"))) == "unknown model 'c'; this server has a, b"
    assert str(UnknownModel("c", ())) == "unknown model 'c'; this server has none"
