"""Processes that wait for each other: all are started, say `ready`, and then go at once."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def ready(commands: Sequence[Sequence[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start a process a command and wait until each has said `ready`; whatever still runs at the end is killed."""
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for command in commands]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def say(processes: Sequence[subprocess.Popen[str]], line: str = "go") -> None:
    """Send a line to every process."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{line}\n")
        process.stdin.flush()


def together(commands: Sequence[Sequence[str]], seconds: float = 120) -> list[str]:
    """Let processes go once all are ready, and return what each printed since; each must end well."""
    with ready(commands) as processes:
        say(processes)
        ends = [process.communicate(timeout=seconds) for process in processes]
        assert [process.returncode for process in processes] == [0] * len(processes), ends
    return [out for out, _ in ends]
