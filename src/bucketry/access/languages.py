"""Whether a pattern for repositories matches any name at all, and whether others match all that it matches.

Both are exact: the pattern's automaton runs beside the one of the grammar of names (distribution spec, "Pulling
manifests"), over the characters that matter.
"""

from __future__ import annotations

import re
import string
from collections import deque
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from bucketry.oci.glob import RepositoryGlob
from bucketry.oci.reference import MAX_NAME

_TOKEN: Final = re.compile(r"/\*\*|\*\*/|\*\*|\*|\?|[^*?]")
_ALNUM: Final = frozenset(string.ascii_lowercase + string.digits)
_SEPARATORS: Final = "._-/"
_MAX_STATES: Final = 2_000

# Where one is in a name: at the begin of a part, after a letter or digit (the only end of a name), after a
# separator that is complete, after one underscore, after dashes.
_BEGIN, _INSIDE, _AFTER, _UNDERSCORE, _DASHES = range(5)


def _grammar(state: int, character: str) -> int | None:
    if character in _ALNUM:
        return _INSIDE
    if state == _INSIDE:
        return {".": _AFTER, "_": _UNDERSCORE, "-": _DASHES, "/": _BEGIN}.get(character)
    if state == _UNDERSCORE and character == "_":
        return _AFTER
    if state == _DASHES and character == "-":
        return _DASHES
    return None


class _Automaton:
    """Non-deterministic; a set of its states is a bit mask."""

    def __init__(self, pattern: str) -> None:
        self._edges: list[list[tuple[str, int]]] = [[]]
        self._free: list[list[int]] = [[]]
        at = 0
        for token in _TOKEN.findall(pattern):
            at = self._add(token, at)
        self.literals = frozenset(pattern) - frozenset("*?")
        self._closures = [self._closure(state) for state in range(len(self._edges))]
        self.start = self._closures[0]
        self._end = 1 << at
        self._moves: dict[tuple[int, str], int] = {}

    def _state(self) -> int:
        self._edges.append([])
        self._free.append([])
        return len(self._edges) - 1

    def _add(self, token: str, at: int) -> int:
        # A label is a character, or * for all but the slash, or ** for all.
        if token in ("*", "**"):
            self._edges[at].append((token, at))
        after = self._state()
        match token:
            case "*" | "**":
                self._free[at].append(after)
            case "?":
                self._edges[at].append(("*", after))
            case "/**" | "**/":
                any_ = self._state()
                self._edges[any_].append(("**", any_))
                self._free[at].append(after)
                if token == "/**":
                    self._edges[at].append(("/", any_))
                    self._free[any_].append(after)
                else:
                    self._free[at].append(any_)
                    self._edges[any_].append(("/", after))
            case _:
                self._edges[at].append((token, after))
        return after

    def _closure(self, state: int) -> int:
        mask, todo = 0, [state]
        while todo:
            one = todo.pop()
            if not mask >> one & 1:
                mask |= 1 << one
                todo += self._free[one]
        return mask

    def move(self, mask: int, character: str) -> int:
        key = (mask, character)
        if key not in self._moves:
            after, rest = 0, mask
            while rest:
                lowest = rest & -rest
                rest ^= lowest
                for label, target in self._edges[lowest.bit_length() - 1]:
                    if label in (character, "**") or (label == "*" and character != "/"):
                        after |= self._closures[target]
            self._moves[key] = after
        return self._moves[key]

    def ends(self, mask: int) -> bool:
        return bool(mask & self._end)


def _alphabet(automata: Iterable[_Automaton]) -> str:
    """The characters that some pattern names, the separators, and one letter or digit that stands for the rest."""
    named = frozenset(_SEPARATORS).union(*(automaton.literals for automaton in automata))
    return "".join(sorted(named | set(sorted(_ALNUM - named)[:1])))


@lru_cache(maxsize=512)
def can_match(pattern: str) -> bool:
    """Whether there is a repository name, of at most `MAX_NAME` characters, that this pattern matches."""
    automaton = _Automaton(pattern)
    alphabet = _alphabet([automaton])
    seen, edge = set(), [(automaton.start, _BEGIN)]
    for _ in range(MAX_NAME + 1):
        after = []
        for mask, place in edge:
            if place == _INSIDE and automaton.ends(mask):
                return True
            for character in alphabet:
                state = (automaton.move(mask, character), _grammar(place, character))
                if state[0] and state[1] is not None and state not in seen:
                    seen.add(state)
                    after.append((state[0], state[1]))
        edge = after
    return False


@lru_cache(maxsize=4096)
def covers(patterns: tuple[str, ...], pattern: str) -> bool:
    """Whether every name that ``pattern`` matches is matched by one of ``patterns``.

    Where that would take long to find out, the answer is False.
    """
    if pattern in patterns or "**" in patterns:
        return True
    literal = RepositoryGlob(pattern).literal
    if literal is not None:
        return any(RepositoryGlob(other).matches(literal) for other in patterns)
    inner, outer = _Automaton(pattern), [_Automaton(other) for other in patterns]
    return _included(inner, outer, _alphabet([inner, *outer]))


def _included(inner: _Automaton, outer: Sequence[_Automaton], alphabet: str) -> bool:
    start = (inner.start, tuple(automaton.start for automaton in outer), _BEGIN)
    seen, todo = {start}, deque([start])
    while todo:
        mask, masks, place = todo.popleft()
        if (
            place == _INSIDE
            and inner.ends(mask)
            and not any(automaton.ends(other) for automaton, other in zip(outer, masks, strict=True))
        ):
            return False
        for character in alphabet:
            then, following = inner.move(mask, character), _grammar(place, character)
            if not then or following is None:
                continue
            others = tuple(automaton.move(other, character) for automaton, other in zip(outer, masks, strict=True))
            state = (then, others, following)
            if state not in seen:
                if len(seen) >= _MAX_STATES:
                    return False
                seen.add(state)
                todo.append(state)
    return True
