"""A benchmark's numbers as people read them: Markdown, in docs/performance.md and README.md.

Only what is between the two marks of a page is written; everything around them is people's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.bench import law_curves
from gateway.bench.results import PROCESSES
from gateway.bench.rows import AGAINST, DIRECT, Law
from gateway.sandbox.errors import SandboxError

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
CURVES = "performance-scaling.svg"
# A payment's, at so many clients.
COUNTED_AT, COMMITS_GOAL, WAL_BYTES_GOAL = 64, 0.2, 2_500

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
    at_rate = [row for row in rows if row["kind"] == "open"]
    parts = [_conditions(conditions)]
    if load:
        parts += ["### Durable payments", _table(_LOAD, [_load_cells(row) for row in load])]
    if done:
        parts += [
            "### What a payment costs",
            "CPU microseconds a payment by process; of the peer's blocks, a request or a "
            "transaction. `servers` is all but the generator and the gateway that idles; what "
            "pgbench itself takes is not counted. A commit is a writing transaction, a batch one "
            "flush of the journal, two of which make a payment; WAL holds the whole pages that "
            "follow a CHECKPOINT.",
            _table(_COST, [cells for row in done for cells in _cost_cells(row)]),
            _counts_text(done),
        ]
    if at_rate:
        parts += [
            "### At a fixed rate",
            "Open loop: a latency is counted from when the request was due. `direct` is paid over "
            "the immediate connector.",
            _table(_OPEN, [cells for row in at_rate for cells in _open_cells(row)]),
        ]
    if micro:
        parts += ["### Small things", _table(_MICRO, [_micro_cells(row) for row in micro])]
    if laws:
        parts += ["### As things grow", *map(_law_text, laws)]
        parts.append(f"![{law_curves.TITLE}]({CURVES})")
    return "\n\n".join(parts) + "\n"


def headline(conditions: Mapping[str, Any], rows: Sequence[Figures]) -> str:
    """Return a run in one table, for those who only look."""
    found = [row for row in rows if row["kind"] != "law" and not row.get("skipped")]
    plan = conditions["plan"]
    cells = [cells for row in found for cells in _headline_cells(row)]
    return (
        f"{_table(_HEADLINE, cells)}\n\n"
        f"Measured {conditions['at']}: {conditions['cores']} cores, "
        f"{plan['workers']} gateway process(es), load average {conditions['load_average']:.1f} "
        "before it began.\n"
    )


def write(root: Path, conditions: Mapping[str, Any], rows: Sequence[Figures]) -> list[Path]:
    """Put a run between the marks of docs/performance.md and of README.md, and draw its curves.

    Returns:
        What was written.

    Raises:
        SandboxError: a page has not just one pair of marks; nothing was written.
    """
    docs = root / "docs"
    texts = {
        path: _between_marks(path, text)
        for path, text in (
            (docs / "performance.md", page(conditions, rows)),
            (root / "README.md", headline(conditions, rows)),
        )
    }
    laws = [law_of(row) for row in rows if row["kind"] == "law"]
    if laws:
        texts[docs / CURVES] = law_curves.picture(laws)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(texts)


def _between_marks(path: Path, text: str) -> str:
    """Return a page with another text between its marks. Raises SandboxError."""
    try:
        found = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SandboxError(f"{path} cannot be read: {error.strerror}") from error
    if found.count(BEGIN) != 1 or found.count(END) != 1 or found.index(BEGIN) > found.index(END):
        raise SandboxError(f"{path} must have {BEGIN} and, after it, {END}, once each")
    before, after = found.partition(BEGIN)[0], found.partition(END)[2]
    return f"{before}{BEGIN}\n{text}{END}{after}"


def law_of(row: Figures) -> Law:
    """Return a law from its figures."""
    points = tuple((size, us, times) for size, us, times in row["points"])
    return Law(
        row["row"],
        row["what"],
        row["grows"],
        points,
        row["goal"],
        row["note"],
        tuple(row["labels"]),
        tuple(row["broken"]),
        {name: tuple(us) for name, us in row["cpu_us"].items()},
    )


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
            f"{plan['warm_up_s']:g} s of each, CHECKPOINT before each block; a block of a peer, or "
            "of ours, serves every row that needs it in its round. "
            f"{plan['users']:,} users with a card of each scheme, a few paying most; 1% replays; "
            "closed loop but where it says otherwise, so that latencies hide stalls. After each "
            "group of rows the books are checked: ours, the processors', and the peers' where they "
            "have some."
        )
    return "\n".join(lines)


_LOAD = (
    "row", "clients", "against", "its /s", "payments /s", "ratio (spread)", "goal", "met",
    "p50 / p99 ms", "books",
)  # fmt: skip
_COST = ("row", "whose", *PROCESSES, "the peer", "servers", "commits", "WAL bytes", "batch")
_OPEN = ("row", "what", "aimed at", "found", "met", "books")
_HEADLINE = ("what", "ours", "against", "its", "ratio (spread)", "goal", "met")
_MICRO = ("row", "what", "us", "against", "us there", "ratio (spread)", "goal", "met")


def _met(row: Figures) -> str:
    return _yes(row["is_met"])


def _yes(is_met: bool) -> str:
    return "yes" if is_met else "**no**"


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
            f"{_servers_us(ours, of_peer=False):.0f}",
            f"{row['writing_transactions_per_payment']:.3f}",
            f"{row['wal_bytes_per_payment']:,.0f}",
            "-" if batch is None else f"{batch:.1f}",
        ],
        [
            "",
            "the peer's",
            *(cpu(theirs, name) for name in (*PROCESSES, "peer")),
            f"{_servers_us(theirs, of_peer=True):.0f}",
            *[""] * 3,
        ],
    ]


def _servers_us(spent: Mapping[str, float], *, of_peer: bool) -> float:
    """Return what all servers took that a payment needs, the generator and who idles left out."""
    idle = ("generator", "gateway" if of_peer else "peer")
    return sum(us for name, us in spent.items() if name not in idle)


def _counts_text(rows: Sequence[Figures]) -> str:
    """Say whether the goals in counts were reached, which are set for 64 clients."""
    few = [row for row in rows if row["clients"] == COUNTED_AT]
    if not few:
        return f"Goals in counts are set for {COUNTED_AT} clients, which were not measured."
    commits = max(row["writing_transactions_per_payment"] for row in few)
    wal = max(row["wal_bytes_per_payment"] for row in few)
    return (
        f"At {COUNTED_AT} clients under {COMMITS_GOAL} commits and {WAL_BYTES_GOAL:,} bytes of WAL "
        f"a payment were aimed at. The most of a row: {commits:.3f} commits, met: "
        f"{_yes(commits < COMMITS_GOAL)}; {wal:,.0f} bytes, met: {_yes(wal < WAL_BYTES_GOAL)}."
    )


def _headline_cells(row: Figures) -> list[list[str]]:
    if row["kind"] == "open":
        what, against = f"payments {row['what']}", "open loop"
        return [
            [what, found, against, "-", "-", aimed_at, _yes(met)]
            for aimed_at, found, met in row["cells"]
        ]
    if row["kind"] == "micro":
        ours, theirs = f"{row['ours_us']:.2f} us", f"{row['theirs_us']:.1f} us"
        least, greatest, places = "least", "greatest", 1
        what, against = row["what"], row["against"]
    else:
        ours, theirs = f"{row['payments_per_s']:,.0f} /s", f"{row['peer_per_s']:,.0f} /s"
        least, greatest, places = "ratio_least", "ratio_greatest", 3
        way = "without a processor" if row["scheme"] == DIRECT else f"over {row['scheme'].upper()}"
        what = f"durable payments {way}, {row['clients']} clients"
        against = AGAINST[row["against"]]
    ratio = _spread(row, least, greatest, places)
    return [[what, ours, against, theirs, ratio, f"{row['goal']:g}", _met(row)]]


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


def _open_cells(row: Figures) -> list[list[str]]:
    if row["skipped"]:
        return [[row["row"], row["what"], "-", f"void: {row['skipped']}", "-", "-"]]
    books = "hold" if not row["broken"] else "**broken**"
    heads = [[row["row"], row["what"]], *[["", ""]] * (len(row["cells"]) - 1)]
    return [
        [*head, aimed_at, found, _yes(met), books]
        for head, (aimed_at, found, met) in zip(heads, row["cells"], strict=True)
    ]


def _law_text(row: Figures) -> str:
    labels = row["labels"] or [f"{size:,}" for size, _, _ in row["points"]]
    head = (row["grows"], *labels)
    costs = [f"{row['what']}, us", *(f"{us:.2f}" for _, us, _ in row["points"])]
    times = ["times the first", *(f"{times:.2f}" for _, _, times in row["points"])]
    spent = [
        [f"of a core, us: {name}", *(f"{each:.1f}" for each in us)]
        for name, us in row["cpu_us"].items()
    ]
    words = f"{_law_goal(row['goal'])}; met: {_met(row)}."
    if row["broken"]:
        words += f" **Broken:** {'; '.join(row['broken'])}."
    elif row["note"]:
        words += f" {row['note'][0].upper()}{row['note'][1:]}."
    return f"{_table(head, [costs, times, *spent])}\n\n{words}"


def _law_goal(goal: float | None) -> str:
    if goal is None:
        return "Exact limits and the promise of revocation were aimed at"
    if goal < 1:
        return f"At least {1 / goal:.1f}x as many was aimed at"
    return f"Within {goal:g}x was aimed at"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
