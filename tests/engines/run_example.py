#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An example of the documentation, as a reader runs it, against a daemon of its own.

usage: run_example.py EXAMPLE kvbrokerd=PATH broker-ctl=PATH
"""

import os
import subprocess
import sys

import broker

preload = os.environ.pop("LD_PRELOAD", None)  # a sanitizer's: for the example alone
daemon = broker.Broker(broker.parse_programs(), args=())
try:
    env = dict(os.environ, KVBROKER_SOCKET=daemon.sock, **({"LD_PRELOAD": preload} if preload else {}))
    code = subprocess.run([sys.executable, sys.argv[1]], env=env, timeout=50, check=False).returncode
    daemon.check_at_rest()
    daemon.stop()
finally:
    daemon.kill()
sys.exit(code)
