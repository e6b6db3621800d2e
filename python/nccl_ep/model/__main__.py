# SPDX-License-Identifier: Apache-2.0
"""``python -m nccl_ep.model``: the model at the command line, with the routings of ep_bench."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from ep_bench.exits import UsageError
from ep_bench.report.files import check_target
from ep_bench.report.plot import require_matplotlib
from ep_bench.routing import Shape, file_shape, make_routing
from ep_bench.values import MOST_64_BITS, picture
from nccl_ep import model
from nccl_ep._arguments import positive
from nccl_ep._output import Output
from nccl_ep.errors import Error
from nccl_ep.model.prediction import Case, Prediction, predict
from nccl_ep.model.report import as_json, describe, table, write_plot
from nccl_ep.model.times import Machine
from nccl_ep.model.tokens import Tokens
from nccl_ep.plan import ALGORITHMS, DTYPES, LAYOUTS, add_top_k

TOKENS, TOP_K = 4096, 8
"""Where neither the command line nor a file says how many."""

MOST_DRAWN_TOKENS = 65536
"""Of all ranks together. Where there are more, so many say what is to be expected of all."""


def main(arguments: list[str] | None = None) -> int:
    """Prints the predictions; returns the exit code: 0 done, 1 refused, or not to
    be printed."""
    options = _parser().parse_args(arguments)
    output = Output("nccl_ep.model", Console())
    try:
        case, machine = _case(options), _machine(options)
        is_drawn = not options.routing.endswith(".npz")
        routing = f"{options.routing}, seed {options.seed}" if is_drawn else options.routing
        if options.plot:
            check_target("--plot", options.plot)
            require_matplotlib()
        rows: list[Prediction] = []
        for nodes in options.nodes:
            rows += predict(case, machine, _tokens(options, case, nodes * options.gpus_per_node))
        title = describe(case, machine, options.gpus_per_node, routing)
    except (Error, UsageError, OverflowError) as error:
        return _refuse(output, str(error))
    if options.json:
        output.say(as_json(rows, case, machine, routing))
    else:
        output.show(table(rows, title))
    if options.plot:
        try:
            write_plot(options.plot, rows, title)
        except OSError as error:
            return _refuse(output, f"--plot {options.plot}: {error.strerror or error}")
    return 1 if output.is_full else 0


def _refuse(output: Output, reason: str) -> int:
    output.say(reason, style="red")
    return 1


def _case(options: argparse.Namespace) -> Case:
    tokens, num_topk = options.tokens or TOKENS, options.topk or TOP_K
    if options.routing.endswith(".npz"):
        shape = file_shape(options.routing, options.experts)
        for name, value in (("--tokens", options.tokens), ("--top-k", options.topk)):
            if value:
                raise UsageError(
                    f"{name} and --routing {options.routing} exclude each other: the file decides"
                )
        tokens, num_topk = shape.num_tokens, shape.num_topk
    layout = options.layout or ("fl" if options.algorithm == "ht" else "em")
    return Case(
        algorithm=ALGORITHMS[options.algorithm],
        layout=LAYOUTS[layout],
        tokens=tokens,
        row_bytes=options.hidden * DTYPES[options.dtype].itemsize,
        num_experts=options.experts,
        num_topk=num_topk,
        windows=options.zero_copy == "on",
    )


def _machine(options: argparse.Namespace) -> Machine:
    return Machine(options.nvlink_gbps, options.rail_gbps, options.rail_latency_us, options.message_us)


def _tokens(options: argparse.Namespace, case: Case, num_ranks: int) -> Tokens:
    """Where the tokens of a file or of the drawn routing go; what is to be expected where those are many."""
    team_size = options.gpus_per_node
    if case.num_experts % num_ranks or case.num_topk > case.num_experts:
        raise UsageError(
            f"--experts {case.num_experts}: expected a multiple of the {num_ranks} ranks, and at least "
            f"--top-k {case.num_topk}"
        )
    if options.routing.endswith(".npz"):
        in_file = file_shape(options.routing, case.num_experts)
        if in_file.num_ranks != num_ranks:
            raise UsageError(
                f"{options.routing} has routes of {in_file.num_ranks} ranks, expected {num_ranks} (--nodes)"
            )
        return Tokens.of_routes(_routes(options, in_file), case.num_experts, team_size)
    drawn = min(case.tokens, max(1, MOST_DRAWN_TOKENS // num_ranks))
    routes = _routes(options, Shape(num_ranks, drawn, case.num_topk, case.num_experts))
    if drawn == case.tokens:
        return Tokens.of_routes(routes, case.num_experts, team_size)
    return Tokens.expected(np.concatenate(routes), case.tokens, num_ranks, case.num_experts, team_size)


def _routes(options: argparse.Namespace, shape: Shape) -> list[npt.NDArray[Any]]:
    return [routing.topk_idx for routing in make_routing(options.routing, shape, options.seed)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nccl_ep.model", description=str(model.__doc__).splitlines()[0]
    )
    add = parser.add_argument
    algorithm = "low latency or high throughput; default %(default)s"
    add("--algorithm", choices=sorted(ALGORITHMS), default="ht", help=algorithm)
    add("--layout", choices=sorted(LAYOUTS), help="default: fl in high throughput, em in low latency")
    add("--nodes", type=_numbers, default=[1], metavar="N,...", help="LSA teams; default 1")
    add("--gpus-per-node", type=positive, default=8, metavar="N", help="ranks of an LSA team; default 8")
    add("--tokens", type=positive, metavar="N", help=f"that a rank dispatches; default {TOKENS}")
    add("--hidden", type=positive, default=7168, metavar="N", help="elements of a row; default 7168")
    add("--experts", type=positive, default=256, metavar="N", help="of all ranks together; default 256")
    add_top_k(parser, type=positive, metavar="N", help=f"routes of a token; default {TOP_K}")
    add("--dtype", choices=sorted(DTYPES), default="bf16", help="of elements; default %(default)s")
    add("--zero-copy", choices=["on", "off"], default="on", help="outputs of dispatch in windows; default on")
    routing = "uniform, zipf:A, hot:N or a file that ends in .npz, as for ep_bench; default uniform"
    add("--routing", default="uniform", help=routing)
    add("--seed", type=_seed, default=1, help="of a routing that is drawn; default 1")
    machine = Machine()
    links = parser.add_argument_group("links")
    add = links.add_argument
    rate = "GB/s of a GPU each way"
    add("--nvlink-gbps", type=_rate, default=machine.nvlink_gbps, help=f"{rate}; default %(default)s")
    add("--rail-gbps", type=_rate, default=machine.rail_gbps, help=f"{rate}; default %(default)s")
    latency = "from a put to its signal at the receiver; default %(default)s"
    add("--rail-latency-us", type=_time, default=machine.rail_latency_us, help=latency)
    message = "of an adapter for each message; default %(default)s"
    add("--message-us", type=_time, default=machine.message_us, help=message)
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument(
        "--plot", type=picture, metavar="FILE", help="draw it over node counts: .png, .svg or .html"
    )
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) > MOST_64_BITS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to {MOST_64_BITS}")
    return int(text)


def _numbers(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]


def _rate(text: str) -> float:
    value = _time(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a positive number")
    return value


def _time(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number, not negative")
    return value


if __name__ == "__main__":
    sys.exit(main())
