# SPDX-License-Identifier: Apache-2.0
"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import nccl_ep
import pytest

NEEDS_ANOTHER_PACKAGE = {"nccl_ep.interop.torch"}
MODULES = ["nccl_ep"] + [
    module.name
    for module in pkgutil.walk_packages(nccl_ep.__path__, "nccl_ep.")
    if module.name not in NEEDS_ANOTHER_PACKAGE and not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
