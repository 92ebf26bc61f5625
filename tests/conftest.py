"""Fixtures that several test files use."""

from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)  # small tensors in parallel test processes: threads would only wait for each other


@pytest.fixture
def double_results() -> Iterator[None]:
    """Results in float64, so that they can be compared with the oracle to the last digits."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
