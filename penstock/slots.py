"""Room for what runs at once, as whoever begins an operation takes it and gives it back."""

from typing import Protocol


class Slots(Protocol):
    """What an `asyncio.Semaphore` is."""

    async def acquire(self) -> object: ...

    def release(self) -> None: ...


class Lane:
    """Slots for operations whose handlers need room elsewhere too, such as a process.

    That is taken first: what waits for a process holds no slot, and cannot keep those out that need none.
    """

    def __init__(self, room: Slots, slots: Slots) -> None:
        self._room = room
        self._slots = slots

    async def acquire(self) -> None:
        await self._room.acquire()
        try:
            await self._slots.acquire()
        except BaseException:
            self._room.release()
            raise

    def release(self) -> None:
        self._slots.release()
        self._room.release()
