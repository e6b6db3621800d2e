# SPDX-License-Identifier: Apache-2.0
"""Expert-parallel dispatch and combine on the NCCL Device API, on GPUs and on a simulated GPU cluster.

Start with :class:`Group` and :class:`Handle`; :mod:`nccl_ep.sim` has a cluster for machines without GPUs.
"""

from __future__ import annotations

from pathlib import Path

from packaging.version import Version

from nccl_ep._ffi import Library, constants, default_library
from nccl_ep.capabilities import Capabilities, CapabilityQuery, TensorPath
from nccl_ep.config import (
    AllocConfig,
    AllocFn,
    CombineConfig,
    CompleteConfig,
    DispatchConfig,
    FreeFn,
    GroupConfig,
    HandleConfig,
)
from nccl_ep.dtypes import DataType
from nccl_ep.elastic import ElasticBuffer
from nccl_ep.enums import (
    Algorithm,
    CombineQuantizationRecipe,
    DispatchQuantizationRecipe,
    ExpertIdKind,
    Layout,
    Operation,
    OverflowPolicy,
    PassDir,
    RowPath,
    ZeroCopyMode,
)
from nccl_ep.errors import (
    CudaError,
    Error,
    InProgress,
    InternalError,
    InvalidArgument,
    InvalidUsage,
    RemoteError,
    SystemFailure,
    Timeout,
)
from nccl_ep.group import Group
from nccl_ep.handle import Handle
from nccl_ep.io import CombineInputs, CombineOutputs, DispatchInputs, DispatchOutputs, LayoutInfo
from nccl_ep.tensor import Tensor

__version__ = ".".join(str(constants[f"NCCL_EP_{part}"]) for part in ("MAJOR", "MINOR", "PATCH"))


def get_lib_version() -> Version:
    """The version of the C library in this package."""
    return Version(".".join(map(str, default_library().version())))


def get_lib_path() -> Path:
    """The C library in this package."""
    return default_library().path


__all__ = [
    "Algorithm",
    "AllocConfig",
    "AllocFn",
    "Capabilities",
    "CapabilityQuery",
    "CombineConfig",
    "CombineInputs",
    "CombineOutputs",
    "CombineQuantizationRecipe",
    "CompleteConfig",
    "CudaError",
    "DataType",
    "DispatchConfig",
    "DispatchInputs",
    "DispatchOutputs",
    "DispatchQuantizationRecipe",
    "ElasticBuffer",
    "Error",
    "ExpertIdKind",
    "FreeFn",
    "Group",
    "GroupConfig",
    "Handle",
    "HandleConfig",
    "InProgress",
    "InternalError",
    "InvalidArgument",
    "InvalidUsage",
    "Layout",
    "LayoutInfo",
    "Library",
    "Operation",
    "OverflowPolicy",
    "PassDir",
    "RemoteError",
    "RowPath",
    "SystemFailure",
    "Tensor",
    "TensorPath",
    "Timeout",
    "ZeroCopyMode",
    "__version__",
    "get_lib_path",
    "get_lib_version",
]
