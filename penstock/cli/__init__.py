# PYTHON_ARGCOMPLETE_OK
"""The command line: ``penstock COMMAND ...``. Parses, calls public functions, prints.

stdout is the result, stderr the progress and the errors. Exit code 0, 1 (a clear error), 2
(usage) or 130 (Ctrl-C). Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import NoReturn, TypeAlias

from penstock import __version__
from penstock.cli.completion import cascades, complete, completes, machines, published
from penstock.errors import PenstockError, nearest

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what may come next
        complete(parser)
    options = parser.parse_args(_spread(list(sys.argv[1:] if argv is None else argv)))
    if options.command is None:
        parser.print_help()
        return 2
    if options.command == "explore" and not (options.target or _names_machines(options.sweep)):
        parser.error("explore needs --target T, or --sweep target=T,...")
    started = time.perf_counter(), time.process_time()
    from penstock.cli import commands

    try:
        commands.COMMANDS[options.command](options)
        sys.stdout.flush()
        if options.verbose:
            wall, busy = time.perf_counter() - started[0], time.process_time() - started[1]
            print(
                f"penstock: {options.command}: {wall:.2f} s, {busy:.2f} s of CPU", file=sys.stderr
            )
        return 0
    except (PenstockError, MemoryError) as error:
        if options.traceback:
            raise
        print(f"penstock: {_text(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `| head` has seen enough; nothing is left to be flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("penstock: interrupted", file=sys.stderr)
        return 130


def _text(error: PenstockError | MemoryError) -> str:
    if isinstance(error, PenstockError):
        return str(error)
    said = f": {error}" if str(error) else ""
    return f"out of memory{said}\nfix: make the extents smaller"


def _names_machines(sweep: Sequence[str]) -> bool:
    return any(each.partition("=")[0].strip() == "target" for each in sweep)


class _Parser(argparse.ArgumentParser):
    """Says what may have been meant."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, with the nearest choice or option; exit with 2."""
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        unknown = re.match(r"unrecognized arguments: (--\S+)", message)
        if wrong:
            near = nearest(wrong[1], re.findall(r"'?([\w.-]+)'?", wrong[2]))
            message = message.partition(" (choose")[0] if near else message
        else:
            near = nearest(unknown[1], self.options()) if unknown else ""
        super().error(f"{message}; did you mean {near}?" if near else message)

    def options(self) -> list[str]:
        """Return the long options of this parser and of all its commands."""
        found = [each for each in self._option_string_actions if each.startswith("--")]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                found += [name for each in action.choices.values() for name in each.options()]
        return list(dict.fromkeys(found))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="penstock",
        description="From an attention algorithm, as a cascade of Einsums, to checked hardware.",
    )
    parser.add_argument("--version", action="version", version=f"penstock {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    parser.set_defaults(verbose=False)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for add in (_show, _run, _passes, _explore, _simulate, _generate, _verify, _report):
        add(subparsers)
    _compare(subparsers)
    _rewrite(subparsers)
    _reproduce(subparsers)
    _synth(subparsers)
    _tiles(subparsers)
    _tune(subparsers)
    _targets(subparsers)
    _zoo(subparsers)
    _command(subparsers, "models", "list the published models whose sizes --model gives")
    _completion(subparsers)
    _demo(subparsers)
    return parser


_PAIRS = ("--shape", "--const", "--set", "--small", "--sweep", "--tile")


def _spread(argv: list[str]) -> list[str]:
    """Give each pair of ``--shape m=8 p=8`` its own option, so that a file name may follow."""
    spread: list[str] = []
    option, fresh = "", False
    for word in _joined(argv):
        if word in _PAIRS:
            option, fresh = word, True
            spread.append(word)
        elif option and "=" in word and not word.startswith("-"):
            spread += [word] if fresh else [option, word]
            fresh = False
        else:
            option = ""
            spread.append(word)
    return spread


def _joined(argv: list[str]) -> list[str]:
    """Make one word of ``m=8..64 step 8``."""
    joined: list[str] = []
    for word in argv:
        previous = joined[-1] if joined else ""
        steps = "=" in previous and ".." in previous
        if (word == "step" and steps) or (steps and previous.endswith(" step")):
            joined[-1] = f"{previous} {word}"
        else:
            joined.append(word)
    return joined


Subparsers: TypeAlias = "argparse._SubParsersAction[_Parser]"


def _command(subparsers: Subparsers, name: str, help_text: str) -> argparse.ArgumentParser:
    epilog = f"example: penstock {name} {EXAMPLES[name]}".rstrip()
    parser = subparsers.add_parser(name, help=help_text, description=help_text, epilog=epilog)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="say on stderr how long it took"
    )
    parser.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS)
    return parser


EXAMPLES = {
    "show": "sliding_window",
    "run": "attention --inputs in.npz --out out.npz",
    "passes": "attention --json",
    "explore": "gqa_causal --target fusemax --model llama3-8b --shape p=2048 m=2048 -o design.json",
    "simulate": "attention --target mesh4x4 --shape h=1 p=8 m=8 e=4 f=4",
    "generate": "design.json --backend hls -o project",
    "verify": "design.json --backend loops tvm hls",
    "report": "design.json --verify tvm -o report.html",
    "compare": "a.json b.json -o both.html",
    "rewrite": "attention --passes 1",
    "reproduce": "fusemax -o fusemax.html",
    "synth": "design.json --family xcup",
    "tiles": "sliding_window --shape h=1 p=4096 m=4096 --tile p=128 m=128",
    "tune": "causal_attention --shape h=8 p=1024 m=1024 e=64 f=64",
    "targets": "fusemax --json",
    "models": "--json",
    "completion": "bash >> ~/.bashrc",
    "zoo": "attention",
    "demo": "--out build",
}


def _source(parser: argparse.ArgumentParser, what: str) -> None:
    completes(parser.add_argument("file", metavar="FILE", help=what), cascades)
    sizes = "heads and widths of a published model (see 'penstock models')"
    completes(parser.add_argument("--model", metavar="M", help=sizes), published)
    parser.add_argument(
        "--shape",
        metavar="RANK=N",
        action="append",
        default=[],
        help="extents of rank variables, e.g. --shape m=1024 p=1024",
    )
    parser.add_argument(
        "--const",
        metavar="NAME=X",
        action="append",
        default=[],
        help="values of upper-case constants, e.g. --const SC=0.125",
    )


CASCADE = "a cascade file, a design.json, or the name of a stock cascade (see 'penstock zoo')"
DESIGN = "a design.json, as 'penstock explore' writes it"


def _machine(parser: argparse.ArgumentParser, *, required: bool) -> None:
    told = "a machine by name (see 'penstock targets') or a JSON file of one"
    completes(parser.add_argument("--target", metavar="T", required=required, help=told), machines)
    parser.add_argument(
        "--set",
        metavar="PATH=X",
        action="append",
        default=[],
        help="change a number of the machine, e.g. --set pe2d.rows=128 gb.capacity_bytes=8388608",
    )
    parser.add_argument("--format", metavar="F", help="number format: fp32, fp16, fixed<16,6>, ...")


def _show(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "show", "print a cascade or a design")
    _source(parser, CASCADE)


def _run(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "run", "evaluate a cascade on arrays")
    _source(parser, CASCADE)
    parser.add_argument("--inputs", metavar="NPZ", required=True, help="arrays by tensor name")
    parser.add_argument("--out", metavar="NPZ", help="where to write the outputs")
    parser.add_argument(
        "--backend",
        metavar="B",
        default="interpreter",
        help="interpreter (default), loops, tvm or hls",
    )
    parser.add_argument("--mapping", metavar="FILE", help="a mapping file for the backend")
    _machine(parser, required=False)


def _passes(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "passes", "count the passes over each rank of each tensor")
    _source(parser, CASCADE)


def _explore(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "explore", "find the best mapping of a cascade to a machine")
    _source(parser, CASCADE)
    _machine(parser, required=False)
    parser.add_argument(
        "--objective",
        default="latency",
        choices=["latency", "energy", "edp", "area", "front"],
        help="what is best; area: of the machines of a sweep; front: all that none beats in "
        "latency and energy",
    )
    parser.add_argument("--mapping", metavar="FILE", help="evaluate this mapping, do not search")
    parser.add_argument(
        "--formats",
        metavar="F,G",
        help="word lengths side by side, e.g. 'fixed<16,6>,fixed<12,4>,fp32': error, cycles, parts",
    )
    parser.add_argument(
        "--variants",
        metavar="FILE",
        nargs="*",
        help="cascades that compute the same: the best of all wins; without a name, those that "
        "the rewrites derive; tiles (m0) without --shape are searched",
    )
    parser.add_argument(
        "--tile",
        metavar="N",
        type=int,
        default=0,
        help="stream over tiles of N coordinates of the rank with the most passes",
    )
    parser.add_argument(
        "--part",
        metavar="N",
        type=int,
        default=0,
        help="with --tile: parts of N coordinates side by side, merged at the end (split-K)",
    )
    parser.add_argument("-o", "--out", metavar="JSON", help="write the design, or the sweep, here")
    _sweep(parser)


def _sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sweep",
        metavar="NAME=VALUES",
        action="append",
        default=[],
        help="the best mapping for each machine or shape: array=64..512 buffer=1MB..64MB "
        "m=1024..8192 step 1024 target=fusemax,flat (ranges double, or add with step)",
    )
    parser.add_argument("--jobs", metavar="N", type=int, help="processes of a sweep; default all")
    parser.add_argument("--cluster", metavar="URL", help="Dask scheduler that runs the sweep")
    parser.add_argument("--resume", metavar="FILE", help="journal of a sweep to go on with")
    parser.add_argument("--report", metavar="HTML", help="write the report here")


def _simulate(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "simulate", "simulate a design cycle by cycle, with values")
    _source(parser, CASCADE)
    _machine(parser, required=False)
    parser.add_argument("--mapping", metavar="FILE", help="use this mapping")
    parser.add_argument("--inputs", metavar="NPZ", help="arrays; random ones if left out")
    parser.add_argument(
        "--timing",
        action="store_true",
        help="cycles only, for large shapes: what repeats is simulated once and multiplied",
    )
    parser.add_argument(
        "--full", action="store_true", help="with --timing, simulate what repeats all the same"
    )
    parser.add_argument(
        "--trace", metavar="JSON", help="write what each unit does when, for ui.perfetto.dev"
    )
    parser.add_argument(
        "--clocked",
        action="store_true",
        help="the cycles of the design's RTL, exactly, on a small array in fixed point",
    )


def _generate(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "generate", "write the code of a design")
    _source(parser, CASCADE)
    _machine(parser, required=False)
    parser.add_argument("--mapping", metavar="FILE", help="use this mapping")
    parser.add_argument("--backend", metavar="B", required=True, help="tvm, cuda, hls, loops, rtl")
    parser.add_argument(
        "--oversize", action="store_true", help="write an HLS project that its part has no room for"
    )
    parser.add_argument("-o", "--out", metavar="FOLDER", help="where to write; else to stdout")


def _verify(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "verify", "run the code of a design against the interpreter")
    _source(parser, CASCADE)
    _machine(parser, required=False)
    parser.add_argument("--mapping", metavar="FILE", help="use this mapping")
    parser.add_argument(
        "--backend",
        metavar="B",
        nargs="+",
        default=["loops"],
        help="loops, tvm, hls, sim (one or more)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs")
    parser.add_argument(
        "--rtl",
        action="store_true",
        help="run the design's RTL in Verilator and the simulator: equal in every cycle and bit?",
    )
    parser.add_argument(
        "--cases", metavar="N", type=int, default=8, help="random data and stalls for --rtl"
    )
    parser.add_argument(
        "--rtl-dir",
        metavar="FOLDER",
        help="as --rtl, with the SystemVerilog of a folder: what was generated, and edited",
    )
    _fit(parser)


def _report(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "report", "write the HTML report of a design")
    _source(parser, CASCADE)
    _machine(parser, required=False)
    parser.add_argument("--mapping", metavar="FILE", help="use this mapping")
    parser.add_argument("-o", "--out", metavar="HTML", default="report.html")
    parser.add_argument(
        "--markdown", action="store_true", help="print Markdown, for a pull request; write nothing"
    )
    parser.add_argument(
        "--verify", metavar="B", nargs="+", default=[], help="run this code too: loops, tvm, hls"
    )
    parser.add_argument(
        "--synth", metavar="F", help="count the cells of its RTL on an FPGA family too (yosys)"
    )
    parser.add_argument(
        "--small",
        metavar="RANK=N",
        action="append",
        default=[],
        help="simulate the design with these extents, for the timeline",
    )


def _compare(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "compare", "print several designs side by side")
    parser.add_argument("files", metavar="FILE", nargs="+", help=DESIGN)
    parser.add_argument("-o", "--out", metavar="HTML", help="write a report of all of them here")


def _rewrite(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "rewrite", "derive the form with the fewest passes over a rank")
    _source(parser, CASCADE)
    parser.add_argument("--passes", metavar="N", type=int, help="fail if there must be more")
    parser.add_argument("--rank", metavar="R", help="save passes over this rank")
    parser.add_argument("--tile", metavar="N", type=int, default=64, help="coordinates of a tile")
    parser.add_argument("--tree", action="store_true", help="the form with parts that are merged")
    parser.add_argument("--format", metavar="F", help="number format to try forms in; fp32")
    for sign in ("positive", "negative"):
        text = f"inputs that have only {sign} numbers"
        parser.add_argument(f"--{sign}", metavar="T", nargs="+", default=[], help=text)
    parser.add_argument("-o", "--out", metavar="FILE", help="write the derived cascade here")


def _tiles(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "tiles", "count the tiles that predicates leave empty or full")
    _source(parser, CASCADE)
    parser.add_argument(
        "--tile",
        metavar="RANK=N",
        action="append",
        default=[],
        help="coordinates of a tile, e.g. --tile p=128 m=128; a rank left out is not cut",
    )
    parser.add_argument("--inputs", metavar="NPZ", help="arrays that predicates read")


def _tune(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "tune", "measure the tiles of a CPU kernel on this machine")
    _source(parser, CASCADE)
    parser.add_argument("--format", default="fp32", help="number format (default: fp32)")
    parser.add_argument(
        "--database",
        metavar="FILE",
        help="JSON lines of what was measured; a second run goes on there (default: the one that "
        "penstock.jit reads, in $PENSTOCK_CACHE or ~/.cache/penstock)",
    )


def _targets(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "targets", "list the machines, or print one")
    completes(parser.add_argument("name", nargs="?", metavar="T", help="one machine"), machines)


def _zoo(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "zoo", "list the stock cascades, or print one")
    completes(parser.add_argument("name", nargs="?", metavar="NAME", help="one cascade"), cascades)


def _completion(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "completion", "print what makes a shell complete penstock")
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="which shell")


def _demo(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "demo", "the main job: BERT and Llama-3, from cascade to report")
    parser.add_argument("--out", metavar="FOLDER", default="build", help="where to write")


def _synth(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "synth", "count what SystemVerilog becomes on an FPGA, by yosys")
    parser.add_argument(
        "file", metavar="FILE", nargs="+", help="a design.json, or SystemVerilog, in order"
    )
    parser.add_argument("--top", metavar="MODULE", help="the outermost module of SystemVerilog")
    _fit(parser)
    parser.add_argument(
        "--family", metavar="F", default="xcup", help="xc7, xcu, xcup (default) or ecp5"
    )
    parser.add_argument(
        "--route", action="store_true", help="place and route too, for a clock (ecp5)"
    )


def _fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fit",
        action="store_true",
        help="make the memories of the RTL as small as the design allows",
    )


def _reproduce(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "reproduce", "count a published study again")
    parser.add_argument("study", choices=["fusemax"], help="which one")
    parser.add_argument(
        "--search",
        nargs="*",
        metavar="LENGTH",
        help="lengths at which mappings are searched too: 1K .. 1M; all, if not given",
    )
    parser.add_argument(
        "--as-published", action="store_true", help="with the errors of the published count"
    )
    parser.add_argument(
        "--simulate",
        nargs="*",
        metavar="LENGTH",
        help="the utilisation against a clock, for all lengths (about ten minutes) or some: 1K 4K",
    )
    parser.add_argument("-o", "--out", metavar="HTML", help="write the report here")
