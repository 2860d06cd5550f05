"""The command line as it is typed: a process of its own, with a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAM = Path(sys.executable).parent / "bucketry"

_KEPT = ("PATH", "LANG", "TMPDIR")


@dataclass(frozen=True)
class Done:
    """``code``: the exit code. ``out`` and ``err``: what was printed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def fails(self, code: int, *words: str, secrets: Sequence[str] = ()) -> str:
        """Asserts that it failed as it should, with one line at the end that says why, and gives that line."""
        said = self.out + self.err
        assert self.code == code, said
        assert "Traceback" not in said
        assert self.err.endswith("\n")
        line = self.err.splitlines()[-1]
        assert line.startswith("bucketry: "), said
        assert sum(each.startswith("bucketry: ") for each in self.err.splitlines()) == 1, said
        for word in words:
            assert word in line, line
        for secret in secrets:
            assert secret not in said
        return line


@dataclass(frozen=True)
class Person:
    """Who types it. ``folder``: where; it holds their home, their cache and their temporary files."""

    folder: Path
    environ: Mapping[str, str]

    @classmethod
    def at(cls, folder: Path) -> Person:
        """With no Docker Engine, no proxies and no credentials."""
        environ = {name: os.environ[name] for name in _KEPT if name in os.environ}
        for name in ("home", "cache", "tmp", "work"):
            (folder / name).mkdir(parents=True)
        environ |= {
            "HOME": str(folder / "home"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "TMPDIR": str(folder / "tmp"),
            "DOCKER_CONFIG": str(folder / "home" / ".docker"),
            "DOCKER_HOST": f"unix://{folder}/none.sock",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        return cls(folder, environ)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def command(
        self, arguments: Sequence[str | Path], env: Mapping[str, str] | None = None, before: Sequence[str] = ()
    ) -> tuple[list[str], dict[str, str]]:
        """``before``: a program that starts it, such as one that takes rights away."""
        return [*before, str(PROGRAM), *map(str, arguments)], {**self.environ, **(env or {})}

    def types(
        self,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        timeout: float = 60,
    ) -> Done:
        command, environ = self.command(arguments, env, before)
        done = subprocess.run(
            command,
            env=environ,
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def left(self) -> list[str]:
        """Files in the work folder and the temporary one, and large ones in the cache: litter, after a failure."""
        found = [path for name in ("work", "tmp") for path in (self.folder / name).rglob("*") if path.is_file()]
        found += [path for path in (self.folder / "cache").rglob("*") if path.is_file() and path.stat().st_size > 4096]
        return sorted(str(path.relative_to(self.folder)) for path in found)
