"""The gate."""
from __future__ import annotations
from tests.app.conftest import Served, error_of
import sys

def test_x(served: Served) -> None:
    assert isinstance(served, Served)
    assert served.infer(1.0).json["outputs"][0]["data"] == [3.0, -1.0]
    print([k for k in sys.modules if "conftest" in k])
