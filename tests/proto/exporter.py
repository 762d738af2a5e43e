# SPDX-License-Identifier: Apache-2.0
"""A kvbroker-exporter that serves, for the tests."""

import http.client
import re
import signal
import subprocess
import tempfile
import time

import promtext
from broker import WAIT_S, wait_until

FRESH_S = 0.15  # a document is shared for 100 ms


class Exporter:
    def __init__(self, program, stats, listen="127.0.0.1:0", **kw):
        self.err = tempfile.TemporaryFile("w+")
        self.proc = subprocess.Popen([program, "--stats", stats, "--listen", listen],
                                     stderr=self.err, **kw)
        found = wait_until(lambda: re.search(r"serving http://(\S+):(\d+)/", self.said()), self.said)
        self.host, self.port = found[1], int(found[2])

    def said(self):
        self.err.seek(0)
        return self.err.read()

    def ask(self, path="/metrics", method="GET", body=None):
        """(status, headers, text)"""
        c = http.client.HTTPConnection(self.host.strip("[]"), self.port, timeout=WAIT_S)
        try:
            c.request(method, path, body)
            r = c.getresponse()
            return r.status, dict(r.getheaders()), r.read().decode()
        finally:
            c.close()

    def metrics(self):
        time.sleep(FRESH_S)
        status, headers, text = self.ask()
        assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4"), headers
        return promtext.parse(text)

    def stop(self):
        self.proc.send_signal(signal.SIGTERM)
        code = self.proc.wait(WAIT_S)
        assert code == 0, (code, self.said())

    def kill(self):
        self.proc.kill()
        self.proc.wait()
