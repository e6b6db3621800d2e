# SPDX-License-Identifier: Apache-2.0
"""The GPUs of one host as several nodes: NCCL's GPU-initiated networking without a network adapter.

``python -m nccl_ep.loopback --nodes 2 -- torchrun --nproc-per-node 4 train.py`` runs a program whose ranks
reach the ranks of their own node as usual, and all others through NCCL's GIN, over a plugin that copies
between the GPUs. It is for tests: it tells nothing about speed.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shlex
import sys

from nccl_ep import paths
from nccl_ep._arguments import positive

__all__ = ["environment"]

NEEDED = {
    "NCCL_GIN_ENABLE": "1",
    "NCCL_GIN_TYPE": "2",  # through the CPU proxy, also where a real adapter offers more
    "NCCL_CROSS_NIC": "2",  # any rank reaches any other
    "NCCL_RMA_DISABLE": "1",  # the host's own puts, which would have one more thread for each rank
    "NCCL_NVLS_ENABLE": "0",  # multicast would reach across the nodes
    # Streams that share a hardware queue can put a copy behind the kernel that waits for it.
    "CUDA_DEVICE_MAX_CONNECTIONS": "32",
}
"""What NCCL and CUDA need besides the plugin and the size of a node."""

LONGEST_PATH = 254  # NCCL ignores plugins with longer ones


def environment(
    num_nodes: int,
    num_ranks: int,
    *,
    delay_us: int | None = None,
    reorder: bool = False,
    seed: int | None = None,
) -> dict[str, str]:
    """The environment variables for the ranks of a program, which replace those of the same names.

    Args:
        num_nodes: how many nodes there shall seem to be. Consecutive ranks are on a node.
        num_ranks: how many ranks the program has, each with a GPU of this host.
        delay_us: transfers start up to this many microseconds late.
        reorder: transfers overtake one another where NCCL allows it.
        seed: of the delays and the order.

    Raises:
        ValueError: the ranks cannot be divided evenly, or NCCL could not open the plugin under its path.
        FileNotFoundError: the plugin is not installed.

    Example:
        >>> environment(2, 8)["NCCL_LSA_TEAM_SIZE"]
        '4'
    """
    if num_nodes < 1 or num_ranks < 1 or num_ranks % num_nodes:
        raise ValueError(f"{num_ranks} ranks on {num_nodes} nodes: expected the same number on every node")
    plugin = str(paths.loopback_plugin())
    if len(plugin) > LONGEST_PATH or "," in plugin:
        raise ValueError(
            f"NCCL cannot open {plugin}: expected a path of at most {LONGEST_PATH} characters without a "
            "comma; install nccl_ep in another folder"
        )
    variables = {"NCCL_RMA_PLUGIN": plugin, "NCCL_LSA_TEAM_SIZE": str(num_ranks // num_nodes), **NEEDED}
    if delay_us is not None:
        variables["NCCL_EP_LOOPBACK_DELAY_US"] = str(delay_us)
    if reorder:
        variables["NCCL_EP_LOOPBACK_REORDER"] = "1"
    if seed is not None:
        variables["NCCL_EP_LOOPBACK_SEED"] = str(seed)
    return variables


def num_visible_gpus() -> int:
    """GPUs that CUDA shows to this process, by ``CUDA_VISIBLE_DEVICES`` among others.

    Raises:
        ValueError: there is none.
    """
    count = ctypes.c_int(0)
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        cuda.cuInit(0)
        cuda.cuDeviceGetCount(ctypes.byref(count))
    except OSError:
        pass  # no driver, no GPUs
    if count.value == 0:
        raise ValueError("CUDA shows no GPU here; --ranks says how many ranks there will be elsewhere")
    return count.value


def main(arguments: list[str] | None = None) -> int:
    """Becomes the command; returns the exit code if it cannot: 0 printed, 1 refused, 127 no such command."""
    parser = _parser()
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command and not options.print:
        parser.error("expected a command behind --, or --print")
    try:
        variables = environment(
            options.nodes,
            options.ranks or num_visible_gpus(),
            delay_us=options.delay_us,
            reorder=options.reorder,
            seed=options.seed,
        )
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.print:
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items()))
        return 0
    try:
        os.execvpe(command[0], command, {**os.environ, **variables})
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nccl_ep.loopback",
        description=__doc__,
        usage="%(prog)s --nodes N [options] -- COMMAND...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--nodes", type=positive, required=True, metavar="N", help="how many nodes there shall seem to be")
    add("--ranks", type=positive, metavar="N", help="ranks of the command; default: one for each visible GPU")
    add("--delay-us", type=positive, metavar="N", help="start transfers up to this late")
    add("--reorder", action="store_true", help="let transfers overtake one another where NCCL allows it")
    add("--seed", type=positive, metavar="N", help="of delays and order; default 1")
    add("--print", action="store_true", help="show the variables, for a shell, instead of running a command")
    add("command", nargs=argparse.REMAINDER, help="what to run with them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
