"""The only importer of the compiled core, and the check that it belongs to this code.

A stale binary decides by old rules; it is refused at start instead.
"""

from importlib.metadata import version

from gateway import _core
from gateway._core import (
    HEADERS_MAX,
    Admission,
    Answers,
    Claims,
    Commission,
    Core,
    Counter,
    Decider,
    Histogram,
    Iso8583,
    Missing,
    Plain,
    RawAnswers,
    Refusal,
    RuleSet,
    Simulation,
    Staged,
    Told,
    idempotency,
    is_pan,
    problem_kinds,
    read_body,
    read_plain,
    read_rules,
    record_json,
    rfc3339,
    year_month,
)

__all__ = [
    "HEADERS_MAX",
    "Admission",
    "Answers",
    "Claims",
    "Commission",
    "Core",
    "Counter",
    "Decider",
    "Histogram",
    "Iso8583",
    "Missing",
    "Plain",
    "RawAnswers",
    "Refusal",
    "RuleSet",
    "Simulation",
    "Staged",
    "Told",
    "check_version",
    "idempotency",
    "is_pan",
    "problem_kinds",
    "read_body",
    "read_plain",
    "read_rules",
    "record_json",
    "rfc3339",
    "year_month",
]


def check_version() -> None:
    """Raise RuntimeError when the compiled core was not built from this version of the code."""
    wanted = version("oqim")
    if _core.__version__ != wanted:
        message = (
            f"the compiled core is {_core.__version__} and the code is {wanted}: "
            "build it again with `make build`"
        )
        raise RuntimeError(message)
