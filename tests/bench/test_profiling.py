"""The profiler: stacks by function, and what to do where it is refused."""

import asyncio
import sys
from pathlib import Path

import pytest

from gateway.bench import profiling
from gateway.bench.profiling import by_function
from gateway.sandbox.errors import SandboxError


def test_stacks_are_counted_by_function() -> None:
    """Lines of one function are one; what calls itself is counted once in its total."""
    stacks = ["a (f.py:1);b (f.py:2) 3", "a (f.py:9);b (f.py:3) 1", "a (f.py:1);a (f.py:2) 4", "?"]
    assert [tuple(one) for one in by_function(stacks)] == [
        ("a (f.py)", 0.5, 1.0),
        ("b (f.py)", 0.5, 0.5),
    ]
    assert by_function([]) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("Error: Permission Denied: Try running again with elevated permissions", "ptrace_scope"),
        ("Error: Operation not permitted (os error 1)", "ptrace_scope"),
        ("Error: Failed to find a Python interpreter", "Failed to find"),
    ],
)
async def test_a_profiler_that_is_refused_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, told: str
) -> None:
    program = tmp_path / "py-spy"
    program.write_text(f'#!/bin/sh\necho "{words}" >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setattr(profiling, "program", lambda: program)
    with pytest.raises(SandboxError, match=told):
        await profiling.look(1, tmp_path / "out", "raw", 1)


async def test_a_profiler_sees_the_functions_of_a_process(tmp_path: Path) -> None:
    """The real one, over a process that burns in a function of that name."""
    script = tmp_path / "burn.py"
    script.write_text(
        "def burn():\n    print(flush=True)\n    while True:\n        sum(range(1000))\nburn()\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        try:
            profiling.program()
        except SandboxError:
            pytest.skip("py-spy, which is of oqim[load], is not installed")
        try:
            await profiling.look(process.pid, tmp_path / "stacks", "raw", 1)
        except SandboxError as error:
            if str(error) == profiling.NOT_PERMITTED:
                pytest.skip("this machine permits no ptrace")
            raise
    finally:
        process.kill()
        await process.wait()
    spent = by_function((tmp_path / "stacks").read_text().splitlines())
    assert spent[0].function == "burn (burn.py)"
    assert profiling.table(spent).splitlines()[1].endswith("burn (burn.py)")
