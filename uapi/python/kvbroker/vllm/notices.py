# SPDX-License-Identifier: Apache-2.0
"""That weights change, told by a worker to the scheduler's half before anything is scheduled with them.

vLLM has no hook for it: weights change in the workers, by calls that the engine core only hands on, and
what a worker reports comes a step too late. So the scheduler's half listens at a socket of its own, by
the name of the engine, that is gone with its process; a worker's call ends when what it says was heard.
What is heard is dealt with by the engine's loop, before it looks anything up.

    {"begin": true}        weights are being changed
    {"weights": what}      they are what `what` says, in identity.namespace_digest()'s terms; null: unknown
    {"kept": true}         they are what they were before the last reset
"""

import json
import logging
import os
import socket
import struct
import threading
from collections import deque
from typing import Any, Deque, Dict, List

from .settings import refuse

log = logging.getLogger("vllm.kvbroker")

ANSWER_S = 5.0
MOST_BYTES = 1 << 16
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def _name(engine: str) -> str:
    return "\0kvbroker-vllm-" + engine


class Listener:
    """The scheduler's end. Only processes of this user are heard."""

    def __init__(self, engine: str) -> None:
        self._closed = False
        self._heard: Deque[Dict[str, Any]] = deque()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            self._socket.bind(_name(engine))
        except OSError as error:
            refuse("engine_id %r of kv_transfer_config is another engine's on this machine (%s); leave it out, or give "
                   "each its own" % (engine, error))
        self._thread = threading.Thread(target=self._listen, name="kvbroker-notices", daemon=True)
        self._thread.start()

    def take(self) -> List[Dict[str, Any]]:
        """What was heard since the last time, in order."""
        notices = []
        while self._heard:
            notices.append(self._heard.popleft())
        return notices

    def _listen(self) -> None:
        while True:
            data, control, _, sender = self._socket.recvmsg(MOST_BYTES, socket.CMSG_SPACE(CREDENTIALS.size))
            if self._closed:
                return
            uids = [CREDENTIALS.unpack(value[:CREDENTIALS.size])[1] for level, kind, value in control
                    if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)]
            try:
                notice = json.loads(data)
                if uids != [os.getuid()] or not isinstance(notice, dict):
                    raise ValueError("from user %s, or no object" % uids)
                self._heard.append(notice)
                self._socket.sendto(b"heard", sender)
            except (OSError, ValueError) as error:
                log.warning("kvbroker: a notice was not taken: %s", error)

    def close(self) -> None:
        self._closed = True
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


def tell(engine: str, **notice: Any) -> None:
    """A worker's end: RuntimeError when it was not heard, as the engine would go on with what its earlier
    weights have computed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
        end.bind("")  # a name of the kernel's choice, to be answered at
        end.settimeout(ANSWER_S)
        try:
            end.sendto(json.dumps(notice).encode(), _name(engine))
            end.recv(16)
        except OSError as error:
            raise RuntimeError("kvbroker: the engine core did not hear that weights change (%s); reset its prefix cache "
                               "with reset_connector before it is used again" % error) from error
