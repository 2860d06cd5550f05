from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tests.unit.registry.helpers import FakeClock

from bucketry.access.htpasswd import htpasswd_line, parse_htpasswd
from bucketry.server.auth.errors import TooManyAttempts
from bucketry.server.auth.passwords import MAX_NAME, MAX_PASSWORD, Passwords

KEY = bytes(range(32))
RELOAD = 10.0


class Hash:
    """A slow hash that a test opens; counts how often, and how many at once, it is worked on."""

    def __init__(self, right: str = "right") -> None:
        self.calls = 0
        self.at_once = 0
        self.most_at_once = 0
        self.open = threading.Event()
        self.open.set()
        self._right = right
        self._lock = threading.Lock()

    def of(self, password: str) -> Callable[[], bool]:
        def verify() -> bool:
            with self._lock:
                self.calls += 1
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
            assert self.open.wait(10)
            with self._lock:
                self.at_once -= 1
            return password == self._right

        return verify


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def slow() -> Hash:
    return Hash()


@pytest.fixture
def passwords(clock: FakeClock, slow: Hash) -> Iterator[Passwords]:
    passwords = Passwords(key=KEY, monotonic=clock.monotonic, remember=RELOAD, threads=2, waiting=8, remembered=10)
    yield passwords
    slow.open.set()
    passwords.close()


async def check(
    passwords: Passwords, slow: Hash, password: str = "right", *, name: str = "alice", stored: str = "$2y$a"
) -> bool:
    return await passwords.check(name, password, stored=stored, verify=slow.of(password))


async def test_a_right_password_is_hashed_once_in_ten_seconds(
    passwords: Passwords, slow: Hash, clock: FakeClock
) -> None:
    for _ in range(10):
        assert await check(passwords, slow)
    assert slow.calls == 1

    clock.advance(RELOAD)
    assert await check(passwords, slow)
    assert slow.calls == 2


async def test_a_wrong_password_is_never_remembered(passwords: Passwords, slow: Hash) -> None:
    for number in range(5):
        assert not await check(passwords, slow, "wrong")
        assert slow.calls == number + 1


async def test_another_name_another_password_or_another_hash_is_another_question(
    passwords: Passwords, slow: Hash
) -> None:
    assert await check(passwords, slow)

    assert not await check(passwords, slow, "righ")
    assert await check(passwords, slow, name="bob")
    assert await check(passwords, slow, stored="$2y$b")
    assert await check(passwords, slow, name="alic", stored="e$2y$a")

    assert slow.calls == 5


async def test_a_password_that_was_right_and_is_no_more_is_forgotten(
    passwords: Passwords, slow: Hash, clock: FakeClock
) -> None:
    assert await check(passwords, slow)
    clock.advance(RELOAD)

    assert not await passwords.check("alice", "right", stored="$2y$a", verify=lambda: False)
    assert not await passwords.check("alice", "right", stored="$2y$a", verify=lambda: False)


async def test_the_same_question_asked_at_once_is_answered_once(passwords: Passwords, slow: Hash) -> None:
    slow.open.clear()
    asked = [asyncio.create_task(check(passwords, slow)) for _ in range(50)]
    await asyncio.sleep(0.05)
    slow.open.set()

    assert await asyncio.gather(*asked) == [True] * 50
    assert slow.calls == 1


async def test_no_more_are_hashed_at_once_than_there_are_threads_and_the_loop_goes_on(
    passwords: Passwords, slow: Hash
) -> None:
    slow.open.clear()
    asked = [asyncio.create_task(check(passwords, slow, str(number))) for number in range(8)]
    began = time.monotonic()
    await asyncio.sleep(0.05)
    assert time.monotonic() - began < 1

    with pytest.raises(TooManyAttempts, match="try again") as caught:
        await check(passwords, slow, "one too many")
    assert caught.value.retry_after > 0

    slow.open.set()
    assert await asyncio.gather(*asked) == [False] * 8
    assert slow.most_at_once == 2
    assert await check(passwords, slow)


async def test_a_known_password_is_right_while_others_wait(passwords: Passwords, slow: Hash) -> None:
    assert await check(passwords, slow)
    slow.open.clear()
    waiting = [asyncio.create_task(check(passwords, slow, str(number))) for number in range(8)]
    await asyncio.sleep(0.02)

    assert await check(passwords, slow)

    slow.open.set()
    await asyncio.gather(*waiting)


async def test_one_that_goes_away_does_not_take_the_answer_from_others(passwords: Passwords, slow: Hash) -> None:
    slow.open.clear()
    leaving, staying = (asyncio.create_task(check(passwords, slow)) for _ in range(2))
    await asyncio.sleep(0.02)
    leaving.cancel()
    await asyncio.sleep(0)
    slow.open.set()

    assert await staying
    assert slow.calls == 1


async def test_what_was_right_or_is_being_looked_at_is_no_guess(
    passwords: Passwords, slow: Hash, clock: FakeClock
) -> None:
    def no_guess(password: str = "right", stored: str = "$2y$a") -> bool:
        return passwords.is_no_guess("alice", password, stored=stored)

    slow.open.clear()
    assert not no_guess()
    asked = asyncio.create_task(check(passwords, slow))
    await asyncio.sleep(0.02)
    assert no_guess()
    assert not no_guess("wrong")
    slow.open.set()
    await asked
    assert no_guess()
    assert not no_guess(stored="$2y$b")
    clock.advance(RELOAD)
    assert not no_guess()


@pytest.mark.parametrize(("name", "password"), [("alice", "x" * (MAX_PASSWORD + 1)), ("a" * (MAX_NAME + 1), "right")])
async def test_what_is_too_long_is_wrong_without_a_look(
    passwords: Passwords, slow: Hash, name: str, password: str
) -> None:
    assert not await check(passwords, slow, password, name=name)
    assert slow.calls == 0


async def test_what_is_remembered_is_bounded_and_holds_no_password(passwords: Passwords, slow: Hash) -> None:
    for number in range(50):
        assert await check(passwords, slow, name=f"user{number}")

    assert len(passwords._right) == 10
    assert all(len(question) == 32 for question in passwords._right)
    assert not passwords._asked


async def test_what_a_process_remembers_is_of_no_use_to_another(clock: FakeClock, slow: Hash) -> None:
    questions: set[bytes] = set()
    for number in range(2):
        passwords = Passwords(key=bytes([number]) * 32, monotonic=clock.monotonic, remember=RELOAD)
        await check(passwords, slow)
        questions.update(passwords._right)
        passwords.close()

    assert len(questions) == 2
    with pytest.raises(ValueError, match="32 bytes"):
        Passwords(key=b"short", monotonic=clock.monotonic, remember=RELOAD)


async def test_a_hash_that_fails_fails_for_all_who_ask_and_is_asked_again(passwords: Passwords) -> None:
    def broken() -> bool:
        raise MemoryError("no memory for argon2")

    for _ in range(2):
        done = await asyncio.gather(
            *(passwords.check("a", "b", stored="c", verify=broken) for _ in range(3)), return_exceptions=True
        )
        assert [type(error) for error in done] == [MemoryError] * 3
    assert await passwords.check("a", "b", stored="c", verify=lambda: True)


async def test_names_and_passwords_that_cannot_be_encoded_are_only_wrong(passwords: Passwords, slow: Hash) -> None:
    assert not await check(passwords, slow, "\ud800", name="\udfff")


async def test_passwords_of_a_real_file_are_checked(passwords: Passwords) -> None:
    users = parse_htpasswd(htpasswd_line("alice", "correct horse", salt=bytes(16)), path="htpasswd")

    async def ask(name: str, password: str) -> bool:
        return await passwords.check(name, password, stored="1", verify=lambda: users.verify(name, password))

    assert await ask("alice", "correct horse")
    assert not await ask("alice", "battery staple")
    assert not await ask("bob", "correct horse")
