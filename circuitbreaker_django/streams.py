"""Streaming responses, followed until their content has ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from django.http import StreamingHttpResponse

from circuitbreaker_django.core.call import Call
from circuitbreaker_django.core.states import Outcome


def follow(response: StreamingHttpResponse, call: Call) -> None:
    """Let the call end when the content of its response does.

    Exhausted is a success, an exception is what it is for any call, and closed before the end,
    as when the visitor goes away, is neutral. Headers stay, and all that the response
    closes. A ``FileResponse`` is read here: a server's ``wsgi.file_wrapper`` would send the
    file without anybody seeing the end.
    """
    content: Any = response.streaming_content
    # Their close() joins what the response closes.
    response.streaming_content = (
        AsyncStream(content, call) if response.is_async else SyncStream(content, call)
    )


class Stream:
    """Content that tells its call when it has ended, once."""

    def __init__(self, content: Any, call: Call) -> None:
        self._content = content
        self._call = call
        self._told = False

    def close(self) -> None:
        """Nobody wants to have the rest."""
        self._ended(GeneratorExit())

    def _ended(self, error: BaseException) -> None:
        if not self._told:
            self._told = True
            if isinstance(error, StopIteration | StopAsyncIteration):
                self._call.end(Outcome.SUCCESS)
            else:
                self._call.failed(error)


class SyncStream(Stream, Iterator[bytes]):
    """The content of a sync response."""

    def __next__(self) -> bytes:
        self._call.go_inside()
        try:
            part: bytes = next(self._content)
        except BaseException as error:
            self._ended(error)
            raise
        finally:
            self._call.step_out()
        return part


class AsyncStream(Stream, AsyncIterator[bytes]):
    """The content of an async response."""

    async def __anext__(self) -> bytes:
        self._call.go_inside()
        try:
            part: bytes = await anext(self._content)
        except BaseException as error:
            self._ended(error)
            raise
        finally:
            self._call.step_out()
        return part
