# SPDX-License-Identifier: Apache-2.0
"""Exceptions, one class a kind of trouble.

Every one is a KvbError and an OSError: `errno` is the library's, `strerror` its sentence (what, why
and what to do), `done` how many operands of a batch were done before. Where Python has a class of
its own for the same thing, it is that, too: `except TimeoutError` works.
"""

import errno as _errno
from typing import Dict, Type


class KvbError(OSError):
    """An error of libkvbroker. done: operands of the batch that were done before it."""

    done: int = 0


class NoBrokerError(KvbError, ConnectionRefusedError):
    """Nothing listens at the socket."""


class BrokerGoneError(KvbError, ConnectionResetError):
    """The broker has gone, or has given up on this client. Final: connect again."""


class ClosedError(KvbError, ValueError):
    """The connection or the space was closed, or belongs to the process that forked."""


class QuotaError(KvbError):
    """A quota of leases, pins or memory is used up."""


class NoMemoryError(KvbError, MemoryError):
    """There is no memory to be had."""


class StaleEpochError(KvbError):
    """The namespace's epoch has passed: open the namespace again."""


class NotFoundError(KvbError, LookupError):
    """Not a page that this client holds or leases, or no longer; or no tenant of that name."""


class BusyError(KvbError, BlockingIOError):
    """In use: by another thread, or pages are still held; or there is no room just now."""


class TimedOutError(KvbError, TimeoutError):
    """It took too long."""


class DeniedError(KvbError, PermissionError):
    """No right to it."""


class InvalidError(KvbError, ValueError):
    """An argument is out of range."""


_CLASSES: Dict[int, Type[KvbError]] = {
    _errno.ECONNREFUSED: NoBrokerError,
    _errno.ENOTCONN: BrokerGoneError,
    _errno.EPROTO: BrokerGoneError,
    _errno.EBADF: ClosedError,
    _errno.EOWNERDEAD: ClosedError,
    _errno.EDQUOT: QuotaError,
    _errno.ENOSPC: NoMemoryError,
    _errno.ENOMEM: NoMemoryError,
    _errno.ESTALE: StaleEpochError,
    _errno.ENOENT: NotFoundError,
    _errno.EBUSY: BusyError,
    _errno.EAGAIN: BusyError,
    _errno.ETIME: TimedOutError,
    _errno.ETIMEDOUT: TimedOutError,
    _errno.EACCES: DeniedError,
    _errno.EPERM: DeniedError,
    _errno.EINVAL: InvalidError,
}


def make_error(errno: int, text: str, done: int = 0) -> KvbError:
    """The exception for a positive errno of the library."""
    if errno == _errno.ENOENT and text.startswith("no broker"):
        errno_class: Type[KvbError] = NoBrokerError
    else:
        errno_class = _CLASSES.get(errno, KvbError)
    error = errno_class(errno, text)
    error.done = done
    return error
