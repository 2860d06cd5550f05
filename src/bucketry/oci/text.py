"""How a stranger's text is repeated in a message: short, quoted, plain ASCII."""

from __future__ import annotations


def quoted(text: str, limit: int = 80) -> str:
    """``text`` as an ASCII literal, so that no control character or bidi mark reaches a terminal or a log.

    At most ``limit`` characters of it are shown; three dots outside the quotes say that there were more.
    """
    if len(text) <= limit:
        return ascii(text)
    return f"{text[:limit]!a}..."
