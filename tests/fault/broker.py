# SPDX-License-Identifier: Apache-2.0
"""A private daemon, what must hold of it when its clients have gone, and cases in TAP.

Figures of the daemon come from itself (broker-ctl, health --deep) and, where that would be to
believe the accused, from the process file system. Every wait has an end.
"""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback

WAIT_S = 30  # how long anything may take on a busy machine
MAGIC = 0x3142564B
HELLO, HELLO_REPLY, CTL, CTL_REPLY = 1, 2, 9, 10
BAD_WORDS = ("AddressSanitizer", "LeakSanitizer", "ThreadSanitizer", "runtime error:", "Assertion")
TENANTS = ("--tenant", "default,uid=%d" % os.getuid(), "--tenant", "other,min=16M,uid=%d" % os.getuid())


def wait_until(what, why, timeout=WAIT_S):
    end = time.monotonic() + timeout
    while True:
        seen = what()
        if seen:
            return seen
        if time.monotonic() > end:
            raise AssertionError(why() if callable(why) else why)
        time.sleep(0.005)


class Admin:
    """A connection of an operator, spoken by hand: no process a question."""

    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.s.settimeout(WAIT_S)
        self.fds = []
        try:
            self.s.connect(path)
            body = struct.pack("=IIIIIIQ32s32s4Q", 1, 1, 2, 0, 0, 0, 0, b"", b"test", 0, 0, 0, 0)
            self.s.send(struct.pack("=IHHII", MAGIC, HELLO, 0, 16 + len(body), 0) + body)
            data, self.fds, _, _ = socket.recv_fds(self.s, 8192, 4)
            if len(data) < 16 or struct.unpack_from("=IH", data)[1] != HELLO_REPLY:
                raise ConnectionError("no operator's connection: %r" % data[:80])
        except OSError:
            self.close()
            raise

    def ask(self, *argv, flags=0):
        """(exit code, answer)"""
        self.send(*argv, flags=flags)
        return self.take()

    def send(self, *argv, flags=0):
        text = b"".join(a.encode() + b"\0" for a in argv)
        self.s.send(struct.pack("=IHHII", MAGIC, CTL, 0, 24 + len(text), 0)
                    + struct.pack("=II", flags, len(argv)) + text)

    def take(self):
        out = b""
        while True:
            data = self.s.recv(8192)
            if not data:
                raise ConnectionError("the daemon hung up")
            code, last = struct.unpack_from("=II", data, 16)
            out += data[24:]
            if last:
                return code, json.loads(out)

    def close(self):
        for fd in self.fds:
            os.close(fd)
        self.s.close()


def alive(pid):
    """Not a process that ended and was not waited for."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_gone(*pids):
    wait_until(lambda: not any(alive(pid) for pid in pids), "still there: %s" % (pids,))


class Broker:
    def __init__(self, programs, args=TENANTS, env=None, where=None, nofile=None, size="64M", devices=None):
        self.ctl_program = programs["broker-ctl"]
        self.dir = where or tempfile.mkdtemp(prefix="kvb-fault-")
        self.sock = self.dir + "/sock"
        self.log = self.dir + "/log"
        devices = [word for device in devices or ["host:0=" + size] for word in ("--device", device)]
        limit = ["prlimit", "--nofile=%d" % nofile] if nofile else []
        with open(self.log, "w") as log:
            self.proc = subprocess.Popen(
                limit + [programs["kvbrokerd"], "--socket", self.sock, "--state-dir", self.dir + "/state",
                         *devices, "--max-pages", "8192", "--drain", "100",
                         "--revoke-grace", "100", *args],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=dict(os.environ, **(env or {})))
        wait_until(lambda: "ready:" in self.text() or self.proc.poll() is not None,
                   "the daemon neither starts nor refuses to")
        self.code = self.proc.poll()  # None: it runs
        self.fds = self.count_fds() if self.code is None else 0

    def text(self):
        with open(self.log, errors="replace") as log:
            return log.read()

    def count_fds(self):
        return len(os.listdir("/proc/%d/fd" % self.proc.pid))

    def fd_list(self):
        def target(fd):
            try:
                return os.readlink("/proc/%d/fd/%s" % (self.proc.pid, fd))
            except OSError:
                return "closed meanwhile"
        return " ".join(sorted(target(fd) for fd in os.listdir("/proc/%d/fd" % self.proc.pid)))

    def json(self, *args):
        p = subprocess.run([self.ctl_program, "-S", self.sock, "-j", *args], capture_output=True,
                           text=True, timeout=WAIT_S, check=False)
        return json.loads(p.stdout) if p.returncode == 0 else None

    def ask(self, *argv):
        """A question of an operator; asked again if the connection is what the fault hit."""
        for again in (True, True, False):
            admin = None
            try:
                admin = Admin(self.sock)
                return admin.ask(*argv)
            except OSError:
                assert self.proc.poll() is None, "the daemon has ended:\n" + self.text()[-2000:]
                if not again:
                    raise
            finally:
                if admin:
                    admin.close()

    def check_alive(self):
        assert self.proc.poll() is None, "the daemon has ended (%s):\n%s" % (
            self.proc.returncode, self.text()[-3000:])

    def check_at_rest(self, clients=0):
        """Everything that was taken is back, but what `clients` still there hold."""
        self.check_alive()
        wait_until(lambda: (self.json("status") or {}).get("clients") == clients,
                   lambda: "clients that are gone are still there: %s" % self.json("client", "list"))
        status = wait_until(lambda: self.json("status"), "broker-ctl status fails")
        assert status["clients_reaping"] == 0, status
        for t in wait_until(lambda: self.json("tenant", "list"), "tenant list fails")["tenants"]:
            assert clients or (t["leases"], t["pins"], t["pages_held"]) == (0, 0, 0), t
        code, answer = self.ask("health", "--deep")
        assert code == 0 and answer["tables"] == "sound", answer

    def check_empty(self, fds=None):
        """Nothing is left when the last client left: tenants can go, and with them every byte."""
        self.check_at_rest()
        for name in ("default", "other"):
            wait_until(lambda n=name: self.ask("tenant", "delete", n)[0] in (0, 4),
                       lambda n=name: "tenant %s cannot be deleted: %s" % (n, self.ask("tenant", "delete", n)))
        wait_until(lambda: all(self.ask("tenant", "delete", n)[0] == 4 for n in ("default", "other")),
                   "tenants do not go")
        for device in self.json("gpu", "list")["devices"]:
            assert device["granted_bytes"] == 0 and device["slabs"] == 0, device
        want = fds or self.fds
        wait_until(lambda: self.count_fds() <= want,
                   lambda: "%d fds, %d after the start: %s" % (self.count_fds(), want, self.fd_list()))

    def stop(self):
        """The daemon ends well; what it was is removed."""
        self.check_alive()
        self.proc.send_signal(signal.SIGTERM)
        try:
            code = self.proc.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("the daemon does not stop:\n" + self.text()[-2000:]) from None
        self.check_words()
        assert code == 0, "exit status %s:\n%s" % (code, self.text()[-3000:])
        shutil.rmtree(self.dir, ignore_errors=True)

    def check_words(self):
        text = self.text()
        for word in BAD_WORDS:
            assert word not in text, text[-6000:]

    def kill(self):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


class Client:
    """A program of the tests that answers lines."""

    def __init__(self, *argv):
        self.proc = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE, text=True)
        self.expect("ready\n")

    def expect(self, line):
        got = self.proc.stdout.readline()
        if got != line:
            self.proc.kill()
            raise AssertionError("client: %r %s" % (got, self.proc.communicate()[1]))

    def check(self):
        self.proc.stdin.write("check\n")
        self.proc.stdin.flush()
        self.expect("ok\n")

    def end(self):
        out, err = self.proc.communicate(timeout=WAIT_S)
        assert self.proc.returncode == 0, (self.proc.returncode, out, err)

    def kill(self):
        self.proc.kill()
        self.proc.communicate()


def parse_programs():
    """NAME=PATH arguments."""
    return dict(arg.split("=", 1) for arg in sys.argv[1:] if "=" in arg)


def report(n, name, run):
    """Runs one case and says how it went."""
    began = time.monotonic()
    try:
        said = run()
        print("ok %d - %s%s # %.1f s" % (n, name, " (%s)" % said if said else "", time.monotonic() - began),
              flush=True)
    except Exception as error:  # each case stands alone
        print("not ok %d - %s" % (n, name), flush=True)
        where = traceback.extract_tb(error.__traceback__)[-1]
        for line in ("%s at %s:%d: %s" % (type(error).__name__, os.path.basename(where.filename),
                                          where.lineno, error)).splitlines():
            print("# " + line, flush=True)
