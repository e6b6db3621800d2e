# SPDX-License-Identifier: Apache-2.0
"""The command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nccl_ep

from ep_bench.cases import Sweep
from ep_bench.exits import UsageError
from ep_bench.formats import DTYPES
from ep_bench.kill import Kill, check_kill, kill_of
from ep_bench.operations import OPERATIONS
from ep_bench.recipes import NO_RECIPE, recipe_of
from ep_bench.routing import check_spec
from ep_bench.values import (
    MOST_64_BITS,
    as_read_by,
    library_path,
    list_of,
    number,
    one_of,
    picture,
    seconds_of,
    switch,
)

EPILOG = """\
Options marked [list] take several values, separated by commas; every combination is measured.

Times are of the slowest rank in each iteration: kernel is the time of the kernels alone (needs cupti-python),
graph is a captured graph of 20 operations replayed, per operation, host is from the call to its completion.
Results are verified in every mode before they are timed: dispatch to the bit, combine against a float64 sum.
On the simulator there is no time: rows say how many bytes really crossed links.

Ranks are started here, one process for each GPU, or found in the environment of mpirun, srun or torchrun.

--nodes N: simulated ranks are on so many hosts. Ranks that are started here on GPUs get the loopback plugin,
with which the GPUs of one host are several nodes to NCCL; their times tell nothing. Ranks that a launcher
started are where they are, and it is an error if NCCL has another number of LSA teams.

--compare runs another libnccl_ep.so.0 in turn with this one on the same inputs. For NVIDIA's (PyPI
nccl-extensions), set NCCL_EP_HOME, NCCL_HOME, CUDA_HOME and NCCL_EP_JIT_CACHE_DIR as it wants. Its limits: in
low latency hidden a multiple of 512, top-k at most 31, zero copy in rank-major only; in high throughput 8192
tokens, 16 SMs, and dispatch and combine in turn, which is how both libraries are measured there.

--recipe: fwd dispatches rows that the caller has quantized. TOKEN is e4m3, e5m2, float4x2, bf16, fp16 or
fp32, SCALE fp32, fp16, bf16, e4m3, e5m2 or uint8, and N elements share a scale, 128 unless it is given.
mxfp8 is fwd:e4m3/uint8/32, nvfp4 is fwd:float4x2/e4m3/16. ds-fp8 quantizes bf16 in dispatch, fp8-combine
and, in low latency, nvfp4-combine in combine. exact makes groups with exact_combine, of em. Rows
of combine are of --dtype.

--pass, --eager, --budget, --alignment and --overflow are of high throughput. Without --eager and --budget the
budget is what the fullest rank needs. With a smaller one and --overflow drop, rows are dropped, and counted.

--kill measures how ranks go on without one of them. It dies as iteration ITER, counted from 0, begins: its
process kills itself, or on the simulator its GPU falls silent. Reported are the longest iteration of the
others, whom they have masked, and whether their results are right. One case, --op pair, --mode host or graph.

A routing file has int arrays topk_idx [ranks, tokens, top-k], or topk_idx_0 [tokens, top-k] and so on, with
-1 for no route, and if you like topk_weights likewise.

Exit codes: 0 all right; 2 usage; 3 wrong data; 4 a hang or fault; 5 a crash; 130 Ctrl-C.
"""


@dataclass(frozen=True)
class Defaults:
    """What is used where the command line says nothing."""

    ranks: int
    tokens: tuple[int, ...]
    hidden: tuple[int, ...]
    experts: tuple[int, ...]
    modes: tuple[str, ...]
    timeout: float | None


DEFAULTS = {
    ("cuda", "ll"): Defaults(0, (1, 8, 32, 128), (7168,), (256,), ("kernel", "graph", "host"), 120.0),
    ("cuda", "ht"): Defaults(0, (1024, 4096), (7168,), (256,), ("kernel", "graph", "host"), 120.0),
    ("sim", "ll"): Defaults(8, (8, 40), (512,), (64,), ("graph", "host"), None),
    ("sim", "ht"): Defaults(8, (40,), (512,), (64,), ("graph", "host"), None),
}
KILL_TIMEOUT_NS = 500_000_000
LAYOUTS = {"ll": ("em", "rm"), "ht": ("fl", "em")}


@dataclass(frozen=True)
class Options:
    """The command line, with defaults filled in for the device.

    Attributes:
        nodes: that ranks are on, each an LSA team. None: on GPUs, where they happen to be.
        kill: a rank that dies, and the iteration as which begins it does. None: nobody.
    """

    device: str
    ranks: int
    nodes: int | None
    sweep: Sweep
    ops: tuple[str, ...]
    modes: tuple[str, ...]
    iters: int
    warmup: int
    seed: int
    compare: Path | None
    json: str | None
    csv: str | None
    plot: str | None
    timeout: float | None
    verbose: bool
    kill: Kill | None = None


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; ends the program with a message if it cannot."""
    return _parser().parse_args(arguments)


def settle(given: argparse.Namespace, device: str, num_ranks: int | None) -> Options:
    """Fills in the defaults.

    Args:
        given: from :func:`parse`.
        device: ``cuda`` or ``sim``.
        num_ranks: how many ranks there are, if that is not for the command line to say.
    """
    defaults = DEFAULTS[device, given.algorithm]
    if given.kill is not None:
        given, defaults = _for_kill(given, defaults)
    if num_ranks and given.ranks and given.ranks != num_ranks:
        raise UsageError(
            f"--ranks {given.ranks}: expected {num_ranks}, the number of ranks in the environment"
        )
    _check_algorithm(given)
    modes = given.mode or tuple(mode for mode in defaults.modes if not (given.eager and mode == "graph"))
    if given.eager and "graph" in modes:
        raise UsageError("--mode graph: a graph cannot hold --eager dispatches; expected kernel or host")
    if device == "sim":
        _check_simulator(given, modes)
    ranks = num_ranks or given.ranks or defaults.ranks
    if given.nodes and ranks % given.nodes:
        raise UsageError(f"--nodes {given.nodes}: expected a divisor of the {ranks} ranks")
    options = Options(
        device=device,
        ranks=ranks,
        nodes=given.nodes or (1 if device == "sim" else None),
        sweep=_sweep(given, defaults),
        ops=given.op,
        modes=modes,
        iters=given.iters,
        warmup=given.warmup,
        seed=given.seed,
        compare=given.compare,
        json=given.json,
        csv=given.csv,
        plot=given.plot,
        timeout=defaults.timeout if given.timeout is None else given.timeout,
        verbose=given.verbose,
        kill=given.kill,
    )
    if options.kill is not None:
        check_kill(options.kill, options.ranks, options.iters)
        _check_for_kill(given, options)
    return options


def _for_kill(given: argparse.Namespace, defaults: Defaults) -> tuple[argparse.Namespace, Defaults]:
    """One case, one operation and one mode where the command line says nothing."""
    one = {"layout": LAYOUTS[given.algorithm][:1], "mode": ("host",)}
    chosen = {name: getattr(given, name) or value for name, value in one.items()}
    ops = ("pair",) if given.op == tuple(OPERATIONS) else given.op
    timeout_ns = given.timeout_ns or KILL_TIMEOUT_NS
    values = vars(given) | chosen | {"op": ops, "timeout_ns": timeout_ns}
    return argparse.Namespace(**values), replace(defaults, tokens=defaults.tokens[:1])


def _check_for_kill(given: argparse.Namespace, options: Options) -> None:
    """UsageError for what cannot be had from a run in which a rank dies."""
    if not given.mask:
        raise UsageError(f"--kill {options.kill}: expected --mask; other groups end with a rank")
    for name in ("compare", "csv", "plot"):
        if getattr(given, name):
            raise UsageError(f"--{name} and --kill exclude each other; expected --json")
    cases = options.sweep.cases(options.ranks, options.seed, options.nodes or 1)
    if len(cases) > 1 or len(options.modes) > 1:
        raise UsageError(
            f"--kill {options.kill}: expected one case and one mode, here are {len(cases)} and "
            f"{len(options.modes)}"
        )
    if options.ops != ("pair",):
        raise UsageError(f"--op {','.join(options.ops)}: expected pair with --kill")
    if options.modes == ("kernel",):
        raise UsageError("--mode kernel: expected host or graph with --kill")
    if given.algorithm == "ht" and 1 < (options.nodes or 1) < options.ranks:
        raise UsageError(
            f"--nodes {options.nodes}: expected 1 or {options.ranks} with --kill and --algorithm ht, where "
            "some of the others lose all of a dead rank's node"
        )


def _check_simulator(given: argparse.Namespace, modes: Sequence[str]) -> None:
    """UsageError for what takes time, which simulated GPUs do not."""
    if "kernel" in modes:
        raise UsageError("--mode kernel: the simulator has no time; expected graph or host")
    if given.compare:
        raise UsageError("--compare: the simulator has no time to compare; expected --device cuda")
    if given.plot and not any(OPERATIONS[op].trips for op in given.op):
        ops = ",".join(given.op)
        raise UsageError(f"--op {ops}: nothing to draw on the simulator; expected others with --plot")


def _check_algorithm(given: argparse.Namespace) -> None:
    """UsageError for options that do not go with the algorithm, or with one another."""
    layouts = LAYOUTS[given.algorithm]
    for layout in given.layout or ():
        if layout not in layouts:
            raise UsageError(
                f"--layout {layout}: expected {' or '.join(layouts)} with --algorithm {given.algorithm}"
            )
    if given.algorithm == "ll":
        for name in ("pass", "eager", "budget", "alignment", "overflow"):
            value = getattr(given, name)
            if value:
                text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                option = f"--{name}" if value is True else f"--{name} {text}"
                raise UsageError(f"{option}: expected --algorithm ht; low latency has no such option")
    _check_combine(given)
    if given.eager and given.budget:
        raise UsageError(f"--budget {given.budget} and --eager exclude each other: eager is without a budget")
    if given.eager and given.overflow == "drop":
        raise UsageError("--overflow drop: expected trap with --eager; without a budget nothing overflows")
    if given.alignment and max(given.alignment) > 1 and "em" not in (given.layout or layouts):
        raise UsageError(f"--alignment {max(given.alignment)}: expected --layout em; fl has no experts' rows")


def _check_combine(given: argparse.Namespace) -> None:
    """UsageError for options that do not go with what a recipe does in combine."""
    recipe, is_forward = given.recipe, "bwd" not in (getattr(given, "pass") or ())
    if recipe.exact and set(given.layout or ()) - {"em"}:
        raise UsageError(f"--layout {','.join(given.layout)}: expected em with --recipe {recipe}")
    if recipe.has_global_scales and given.algorithm == "ht":
        raise UsageError(f"--algorithm ht: expected ll with --recipe {recipe}")
    if recipe.quantizes_combine and given.algorithm == "ht" and not is_forward:
        raise UsageError(f"--pass bwd: expected fwd with --recipe {recipe}")


def _sweep(given: argparse.Namespace, defaults: Defaults) -> Sweep:
    from_file = [spec for spec in given.routing if spec.endswith(".npz")]
    for name, value in (("--tokens", given.tokens), ("--top-k", given.top_k)):
        if from_file and value:
            raise UsageError(f"{name} and --routing {from_file[0]} exclude each other: the file decides")
    return Sweep(
        algorithm=given.algorithm,
        layout=given.layout or (("em",) if given.recipe.exact else LAYOUTS[given.algorithm]),
        tokens=given.tokens or defaults.tokens,
        hidden=given.hidden or defaults.hidden,
        top_k=given.top_k or (8,),
        experts=given.experts or defaults.experts,
        dtype=given.dtype,
        routing=given.routing,
        sms=given.sms,
        zero_copy=given.zero_copy,
        pass_direction=getattr(given, "pass") or ("fwd",),
        alignment=given.alignment or (1,),
        eager=given.eager,
        budget=given.budget or 0,
        overflow=given.overflow or "trap",
        recipe=given.recipe,
        mask=given.mask,
        timeout_ns=given.timeout_ns,
    )


Add = Callable[..., argparse.Action]


def _default(name: str) -> str:
    """A default that depends on device and algorithm, for an option's help."""

    def of_device(device: str) -> str:
        ll, ht = (",".join(map(str, getattr(DEFAULTS[device, algorithm], name))) for algorithm in LAYOUTS)
        return ll if ll == ht else f"{ll}, in ht {ht}"

    return f"default {of_device('cuda')}; simulated {of_device('sim')}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ep_bench",
        description="Measures expert-parallel dispatch and combine, and verifies what it measures.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for add_some in (_add_ranks, _add_cases, _add_ways, _add_deaths, _add_high_throughput, _add_reports):
        add_some(parser.add_argument)
    return parser


def _add_ranks(add: Add) -> None:
    """Where it is measured."""
    add("--version", action="version", version=f"%(prog)s {nccl_ep.__version__}")
    add("--device", choices=("auto", "cuda", "sim"), default="auto", help="default: GPUs if there are any")
    add("--ranks", type=number(1), metavar="N", help="default: all GPUs, or 8 simulated ones")
    add("--nodes", type=number(1), metavar="N",
        help="nodes that ranks are on, each an LSA team; see below")  # fmt: skip


def _add_cases(add: Add) -> None:
    """What is measured."""
    add(
        "--algorithm", choices=tuple(LAYOUTS), default="ll", help="low latency or high throughput; default ll"
    )
    add("--layout", type=list_of(one_of("em", "rm", "fl")), metavar="L",
        help="em: expert-major, rm: rank-major, ll only, fl: flat, ht only [list]; default both")  # fmt: skip
    add("--op", type=list_of(one_of(*OPERATIONS)), default=tuple(OPERATIONS),
        help=f"{', '.join(OPERATIONS)} [list]; default all")  # fmt: skip
    add("--tokens", type=list_of(number(1)), metavar="N",
        help=f"tokens per rank [list]; {_default('tokens')}")  # fmt: skip
    add("--hidden", type=list_of(number(1)), metavar="N",
        help=f"elements of a row [list]; {_default('hidden')}")  # fmt: skip
    add("--top-k", type=list_of(number(1)), metavar="N", help="routes of a token [list]; default 8")
    add("--experts", type=list_of(number(1)), metavar="N",
        help=f"of all ranks together [list]; {_default('experts')}")  # fmt: skip
    add(
        "--dtype",
        type=list_of(one_of(*DTYPES)),
        default=("bf16",),
        help="bf16, fp16, fp32 [list]; default bf16",
    )
    add("--routing", type=list_of(as_read_by(check_spec)), default=("uniform",), metavar="R",
        help="uniform, zipf:A, hot:N (to N experts) or FILE.npz [list]; default uniform")  # fmt: skip


def _add_ways(add: Add) -> None:
    """How it is measured, and with what choices."""
    add("--mode", type=list_of(one_of("kernel", "graph", "host")),
        help=f"kernel, graph, host [list]; {_default('modes')}")  # fmt: skip
    add("--iters", type=number(1), default=100, metavar="N", help="timed iterations; default 100")
    add("--warmup", type=number(0), default=20, metavar="N", help="untimed iterations; default 20")
    add("--sms", type=list_of(number(0)), default=(0,), metavar="N",
        help="most SMs to use, 0 lets the library choose [list]; default 0")  # fmt: skip
    add("--zero-copy", type=list_of(switch), nargs="?", const=(True,), default=(False,), metavar="on,off",
        help="receive into a window, in ll rank-major only, and in ht combine from one [list]; "
        "default off")  # fmt: skip
    add("--recipe", type=as_read_by(recipe_of), default=NO_RECIPE, metavar="R",
        help="none, fwd:TOKEN/SCALE[/N], mxfp8, nvfp4, ds-fp8, fp8-combine, nvfp4-combine or exact; "
        "see below")  # fmt: skip


def _add_deaths(add: Add) -> None:
    """Ranks that die."""
    add("--mask", action="store_true", help="groups that go on without ranks that do not answer")
    add("--kill", type=as_read_by(kill_of), metavar="RANK@ITER",
        help="with --mask: a rank dies as an iteration begins, see below")  # fmt: skip
    add("--timeout-ns", type=number(1, MOST_64_BITS), default=0, metavar="N",
        help="how long kernels wait for a rank; default 100 s, with --kill 0.5 s")  # fmt: skip


def _add_high_throughput(add: Add) -> None:
    """High throughput alone has these."""
    add("--pass", type=list_of(one_of("fwd", "bwd")), metavar="P", help="fwd, bwd [list]; default fwd")
    add("--eager", action="store_true", help="outputs as long as what arrives, instead of a budget")
    add("--budget", type=number(1), metavar="N", help="rows that a rank may receive, padding included")
    add(
        "--alignment",
        type=list_of(number(1)),
        metavar="N",
        help="of each expert's rows in em [list]; default 1",
    )
    add("--overflow", choices=("trap", "drop"), help="what to do with rows beyond the budget; default trap")


def _add_reports(add: Add) -> None:
    """The run and what comes out of it."""
    add(
        "--seed", type=number(1, MOST_64_BITS), default=1, metavar="N",
        help="of routing, numbers and simulator; default 1",
    )  # fmt: skip
    add("--compare", type=library_path, metavar="PATH", help="another libnccl_ep.so.0, measured in turn")
    add("--json", metavar="FILE", help="write rows as JSON; - is standard output")
    add("--csv", metavar="FILE", help="write rows as CSV; - is standard output")
    add("--plot", type=picture, metavar="FILE", help="draw rows: .png, .svg or .html")
    add("--timeout", type=seconds_of, metavar="S",
        help="seconds without progress that count as a hang; default 120, none on the simulator")  # fmt: skip
    add("--verbose", action="store_true", help="more columns: routing, host time of a call, spread of ratios")
