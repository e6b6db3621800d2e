# SPDX-License-Identifier: Apache-2.0
"""Where this package keeps its headers, kernel templates and libraries."""

from __future__ import annotations

import sys

from nccl_ep._paths import include_dir, library, library_dir, loopback_plugin, sim_library, template_dir

__all__ = ["include_dir", "library", "library_dir", "loopback_plugin", "sim_library", "template_dir"]

_ANSWERS = {
    "include": include_dir,
    "templates": template_dir,
    "libraries": library_dir,
    "library": library,
}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in _ANSWERS:
        sys.exit(f"usage: python -m nccl_ep.paths {'|'.join(_ANSWERS)}")
    print(_ANSWERS[sys.argv[1]]())
