"""Numbers as people read them, in the command line and on pages."""

from __future__ import annotations


def size_text(size: float) -> str:
    """``1.5 GiB``"""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def counted(count: int, one: str, many: str | None = None) -> str:
    """``1 tag``, ``1,234 tags``"""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
