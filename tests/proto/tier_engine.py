# SPDX-License-Identifier: Apache-2.0
"""tests/proto/tier_client.c, driven: an engine that does a line and answers with a word and numbers."""

import os
import subprocess

from broker import WAIT_S


class TierEngine:
    def __init__(self, program, broker, device="host:0", tenant="default", *geometry, env=None):
        self.proc = subprocess.Popen([program, broker.sock, device, tenant, *map(str, geometry)],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                     text=True, env=dict(os.environ, **(env or {})))
        self.slab = self.hear("ready")[0]  # pages of one

    def hear(self, word):
        line = self.proc.stdout.readline()
        if not line:
            raise AssertionError("client: %s, %s" % (self.proc.wait(WAIT_S), self.proc.stderr.read()))
        first, *rest = line.split()
        assert first == word, line
        return [int(number) for number in rest]

    def say(self, line):
        self.proc.stdin.write(line + "\n")
        self.proc.stdin.flush()

    def do(self, line, word):
        self.say(line)
        return self.hear(word)

    def end(self):
        _, err = self.proc.communicate(timeout=WAIT_S)
        assert self.proc.returncode == 0, (self.proc.returncode, err)

    def kill(self):
        self.proc.kill()
        self.proc.communicate()
