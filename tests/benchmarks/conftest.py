"""The stock peer is written with ``pyro.module``: what it leaves in the parameter store ends with its tests."""

import pyro
import pytest


@pytest.fixture(autouse=True)
def _own_parameter_store():
    with pyro.get_param_store().scope():
        yield
