"""The base of what is closed at the end of `with`."""

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """Has `close`, and calls it at the end of `with`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None: ...
