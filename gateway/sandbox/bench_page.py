"""A benchmark's numbers as people read them: Markdown, and its place in docs/performance.md.

Only what is between the two marks is written; everything around them is people's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.sandbox import bench_svg
from gateway.sandbox.bench_report import PROCESSES
from gateway.sandbox.bench_rows import AGAINST, Law
from gateway.sandbox.errors import SandboxError

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
CURVES = "performance-scaling.svg"

Figures = Mapping[str, Any]


def page(conditions: Mapping[str, Any], rows: Sequence[Figures]) -> str:
    """Return what a run found, as Markdown.

    Args:
        conditions: as the report keeps them.
        rows: figures as they were measured; any part of them.
    """
    load = [row for row in rows if row["kind"] == "load"]
    done = [row for row in load if "skipped" not in row]
    micro = [row for row in rows if row["kind"] == "micro"]
    laws = [row for row in rows if row["kind"] == "law"]
    parts = [_conditions(conditions)]
    if load:
        parts += ["### Durable payments", _table(_LOAD, [_load_cells(row) for row in load])]
    if done:
        parts += [
            "### What a payment costs",
            "CPU microseconds a payment by process; of the peer's blocks, a request or a "
            "transaction. A commit is a writing transaction, a batch one flush of the journal, two "
            "of which make a payment; WAL holds the whole pages that follow a CHECKPOINT.",
            _table(_COST, [cells for row in done for cells in _cost_cells(row)]),
        ]
    if micro:
        parts += ["### Small things", _table(_MICRO, [_micro_cells(row) for row in micro])]
    if laws:
        parts += ["### As things grow", *map(_law_text, laws)]
        parts.append(f"![What a decision costs as something grows]({CURVES})")
    return "\n\n".join(parts) + "\n"


def write(docs: Path, text: str, rows: Sequence[Figures]) -> list[Path]:
    """Put a page between the marks, and the curves beside it; returns what was written.

    Raises:
        SandboxError: the page has not just one pair of marks.
    """
    path = docs / "performance.md"
    try:
        found = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SandboxError(f"{path} cannot be read: {error.strerror}") from error
    if found.count(BEGIN) != 1 or found.count(END) != 1 or found.index(BEGIN) > found.index(END):
        raise SandboxError(f"{path} must have {BEGIN} and, after it, {END}, once each")
    before, after = found.partition(BEGIN)[0], found.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")
    written = [path]
    laws = [law_of(row) for row in rows if row["kind"] == "law"]
    if laws:
        curves = docs / CURVES
        curves.write_text(bench_svg.draw(laws), encoding="utf-8")
        written.append(curves)
    return written


def law_of(row: Figures) -> Law:
    """Return a law from its figures."""
    points = tuple((size, us, times) for size, us, times in row["points"])
    return Law(row["row"], row["what"], row["grows"], points, row["goal"], row["note"])


def _conditions(found: Mapping[str, Any]) -> str:
    plan = found["plan"]
    libraries = ", ".join(f"{name} {number}" for name, number in found["libraries"].items())
    lines = [
        f"Measured {found['at']} by `make bench`; Oqim {found['oqim']}, "
        f"{plan['workers']} gateway process(es), {found['cores']} cores "
        f"({found['processor']}; {found['machine']}), load average {found['load_average']:.1f} "
        f"before it began. Python {found['python']}; {libraries}."
    ]
    if "postgresql" in found:
        postgres = dict(found["postgresql"])
        number = postgres.pop("server_version")
        settings = ", ".join(f"`{name}={value}`" for name, value in postgres.items())
        lines.append(f"PostgreSQL {number}: {settings}. Valkey {found['valkey']}.")
        lines.append(
            f"{plan['pairs']} pairs of {plan['seconds']:g} s a row, block by block in turn, after "
            f"{plan['warm_up_s']:g} s of each, CHECKPOINT before each block; {plan['users']:,} "
            "users with three cards each, a few paying most; 1% replays; closed loop, so that "
            "latencies hide stalls. After each row the books are checked: ours, the processor's, "
            "and the peer's where it has some."
        )
    return "\n".join(lines)


_LOAD = (
    "row", "clients", "against", "its /s", "payments /s", "ratio (spread)", "goal", "met",
    "p50 / p99 ms", "books",
)  # fmt: skip
_COST = ("row", "whose", *PROCESSES, "the peer", "commits", "WAL bytes", "batch")
_MICRO = ("row", "what", "us", "against", "us there", "ratio (spread)", "goal", "met")


def _met(row: Figures) -> str:
    return "yes" if row["is_met"] else "**no**"


def _spread(row: Figures, least: str, greatest: str, places: int) -> str:
    return f"{row['ratio']:.{places}f} ({row[least]:.{places}f} to {row[greatest]:.{places}f})"


def _load_cells(row: Figures) -> list[str]:
    cells = [row["row"], str(row["clients"]), AGAINST[row["against"]]]
    if "skipped" in row:
        left_out = f"left out: {row['skipped']}"
        return [*cells, left_out, "-", "-", f"{row['goal']:g}x", "-", "-", "-"]
    return [
        *cells,
        f"{row['peer_per_s']:,.0f}",
        f"{row['payments_per_s']:,.0f}",
        _spread(row, "ratio_least", "ratio_greatest", 3),
        f"{row['goal']:g}x",
        _met(row),
        f"{row['p50_ms']:.1f} / {row['p99_ms']:.1f}",
        "hold" if not row["broken"] else "**broken**",
    ]


def _cost_cells(row: Figures) -> list[list[str]]:
    def cpu(spent: Mapping[str, float], name: str) -> str:
        return f"{spent[name]:.0f}" if spent.get(name) else "-"

    batch = row["batch_size_mean"]
    ours, theirs = row["cpu_us"], row["peer_cpu_us"]
    return [
        [
            row["row"],
            "ours",
            *(cpu(ours, name) for name in PROCESSES),
            "-",
            f"{row['writing_transactions_per_payment']:.3f}",
            f"{row['wal_bytes_per_payment']:,.0f}",
            "-" if batch is None else f"{batch:.1f}",
        ],
        ["", "the peer's", *(cpu(theirs, name) for name in (*PROCESSES, "peer")), "", "", ""],
    ]


def _micro_cells(row: Figures) -> list[str]:
    goal = f"{row['goal']:g}x"
    if row["limit_us"] is not None:
        goal += f", under {row['limit_us']:g} us"
    return [
        row["row"],
        row["what"],
        f"{row['ours_us']:.2f}",
        row["against"],
        f"{row['theirs_us']:.1f}",
        _spread(row, "least", "greatest", 1) + "x",
        goal,
        _met(row),
    ]


def _law_text(row: Figures) -> str:
    head = (row["grows"], *(f"{size:,}" for size, _, _ in row["points"]))
    costs = [f"{row['what']}, us", *(f"{us:.2f}" for _, us, _ in row["points"])]
    times = ["times the first", *(f"{times:.2f}" for _, _, times in row["points"])]
    words = f"Within {row['goal']:g}x was aimed at; met: {_met(row)}."
    if row["note"]:
        words += f" {row['note'][0].upper()}{row['note'][1:]}."
    return f"{_table(head, [costs, times])}\n\n{words}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
