"""The devices that tests run on: the CPU everywhere, a GPU where there is one."""

from __future__ import annotations

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``gpu`` on a machine without one."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; benchmarks/on_gpu.sh runs it on one"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The CPU, and a GPU."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _float32_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuDNN rounds the products of recurrent networks to 10 bits unless it is told not to."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
