#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""broker-ctl against a running daemon: exit codes of every class, JSON of every command, dry runs that
change nothing, and the control protocol spoken badly.

Usage: test_ctl.py KVBROKERD BROKER_CTL CTL_ENGINE. Speaks TAP."""

import json
import os
import pty
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

KVBROKERD, BROKER_CTL, CTL_ENGINE = sys.argv[1:4]
NS = "a91f03c2"
MAGIC, HELLO, HELLO_REPLY, ERROR, CTL, CTL_REPLY = 0x3142564B, 1, 2, 8, 9, 10


def hash_of(i):
    return "%02x" % (i + 1) * 16


class Broker:
    """A daemon of our own."""

    def __init__(self, *args):
        self.dir = tempfile.mkdtemp(prefix="kvb-ctl.")
        self.sock = self.dir + "/sock"
        self.log = open(self.dir + "/log", "wb")
        self.proc = subprocess.Popen(
            [KVBROKERD, "--socket", self.sock, "--state-dir", self.dir, "--device", "host:0=256M",
             "--tenant", f"default,uid={os.getuid()}",
             "--tenant", f"rl,min=32M,high=64M,max=128M,weight=2,uid={os.getuid()}",
             "--tenant", "other,uid=4711", "--foreground", *args],
            stdout=self.log, stderr=self.log)
        for _ in range(200):
            if self.ctl("health")[0] == 0:
                return
            time.sleep(0.05)
        raise RuntimeError("the daemon is not ready: " + open(self.dir + "/log").read()[-500:])

    def ctl(self, *args, sock=None, **kw):
        p = subprocess.run([BROKER_CTL, "-S", sock or self.sock, *args], capture_output=True, text=True,
                           stdin=subprocess.DEVNULL, timeout=60, **kw)
        return p.returncode, p.stdout, p.stderr

    def json(self, *args):
        code, out, err = self.ctl("-j", *args)
        assert code == 0, (args, code, err)
        return json.loads(out)

    def engine(self, tenant="rl", pages=8):
        return Engine(self.sock, tenant, pages)

    def stop(self):
        self.proc.send_signal(signal.SIGTERM)
        try:
            code = self.proc.wait(30)
        finally:
            self.proc.kill()
        assert code == 0, (code, open(self.dir + "/log").read()[-800:])
        shutil.rmtree(self.dir)


class Engine:
    def __init__(self, sock, tenant, pages):
        self.proc = subprocess.Popen([CTL_ENGINE, sock, tenant, str(pages)], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, text=True)
        self.answer()

    def answer(self):
        line = self.proc.stdout.readline()
        assert line == "ok\n", "the engine says %r" % line

    def do(self, line):
        self.proc.stdin.write(line + "\n")
        self.proc.stdin.flush()
        self.answer()

    def end(self):
        self.proc.stdin.close()
        self.proc.wait(20)


def wait_until(what, timeout=10):
    end = time.time() + timeout
    while time.time() < end:
        if what():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come about")


# ---- a control connection spoken by hand -------------------------------------------------------

def header(kind, length):
    return struct.pack("=IHHII", MAGIC, kind, 0, length, 0)


def hello():
    body = struct.pack("=IIIIIIQ32s32s4Q", 1, 1, 2, 0, 0, 0, 0, b"", b"test", 0, 0, 0, 0)
    return header(HELLO, 16 + len(body)) + body


def ctl_message(argv, flags=0, argc=None, tail=b""):
    text = b"".join(a.encode() + b"\0" for a in argv) + tail
    return header(CTL, 24 + len(text)) + struct.pack("=II", flags, len(argv) if argc is None else argc) + text


class Raw:
    def __init__(self, broker):
        self.s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.s.settimeout(10)
        self.s.connect(broker.sock)
        self.s.send(hello())
        data, fds, _, _ = socket.recv_fds(self.s, 8192, 4)
        assert struct.unpack_from("=IH", data)[1] == HELLO_REPLY and len(fds) == 1, data
        self.fd = fds[0]

    def reply(self):
        """(exit code, JSON), or None: the daemon hung up."""
        text, code = b"", 0
        while True:
            try:
                data = self.s.recv(8192)
            except ConnectionResetError:
                return None
            if not data or struct.unpack_from("=IH", data)[1] == ERROR:
                return None
            code, last = struct.unpack_from("=II", data, 16)
            text += data[24:]
            if last:
                return code, json.loads(text)

    def close(self):
        os.close(self.fd)
        self.s.close()


# ---- the tests ---------------------------------------------------------------------------------

def test_json_of_every_command(b):
    e = b.engine()
    e.do("alloc 3")
    client = str(b.json("client", "list")["clients"][0]["id"])
    for args in (["status"], ["health"], ["health", "--deep"], ["stat"], ["client", "list"],
                 ["client", "show", client], ["-n", "client", "kick", client], ["tenant", "list"],
                 ["tenant", "show", "rl"], ["-n", "tenant", "set", "rl", "max=50%"],
                 ["-n", "tenant", "delete", "other"], ["ns", "list"], ["ns", "show", NS],
                 ["-n", "epoch", "bump", NS], ["prefix", "lookup", NS, hash_of(0)],
                 ["prefix", "explain", NS, hash_of(0), hash_of(60)],
                 ["-n", "prefix", "pin", NS, hash_of(0)], ["-n", "prefix", "unpin", NS, hash_of(0)],
                 ["prefix", "top"], ["space", "list"], ["gpu", "list"], ["tier", "list"],
                 ["numa", "show"], ["policy", "show"],
                 ["version"], ["version", "--features"]):
        assert isinstance(b.json(*args), dict), args
        code, out, err = b.ctl("-p", *args)
        assert code == 0 and json.loads(out) is not None, (args, err)
    lines = b.ctl("-j", "stat", "0.1", "3")[1].splitlines()
    assert len(lines) == 3 and all("keys_per_s" in json.loads(line) for line in lines), lines
    e.end()


def test_what_an_engine_holds_is_shown(b):
    e = b.engine(pages=8)
    e.do("alloc 3")
    c = b.json("client", "list")["clients"][0]
    assert c["name"] == "ctl_engine" and c["tenant"] == "rl" and c["state"] == "attached", c
    assert c["pid"] == e.proc.pid and c["pages_held"] == 3 and c["leases"] == 8, c
    assert c["held_bytes"] == 3 * 65536, c
    d = b.json("gpu", "list")["devices"][0]
    assert d["name"] == "host:0" and d["driver"] == "host" and d["capacity_bytes"] == 256 << 20, d
    assert d["cached_bytes"] == 8 * 65536 and d["held_bytes"] == 3 * 65536, d
    assert d["granted_bytes"] == d["held_bytes"] + d["cached_bytes"] + d["idle_bytes"], d
    n = b.json("ns", "show", "A91F")
    assert n["digest"] == NS + "0" * 56 and n["pages"] == 8 and n["clients"] == 1, n
    t = b.json("tenant", "show", "rl")
    assert t["used_bytes"] == d["granted_bytes"] and t["min_bytes"] == 32 << 20, t
    s = b.json("space", "list")["spaces"][0]
    assert s["page_bytes"] == 65536 and s["clients"] == 1, s
    e.end()
    wait_until(lambda: not b.json("client", "list")["clients"])
    assert b.json("status")["leases"] == 0


def test_no_tier_below_is_told(b):
    rows = b.json("tier", "list")["tiers"]
    assert len(rows) == 1 and rows[0]["tier"] == "device" and rows[0]["device"] == "host:0", rows
    assert all(rows[0][k] is None for k in ("below", "ready", "why", "filled_bytes", "misplaced_bytes")), rows
    assert all(rows[0][k] == 0 for k in ("demoted", "promoted", "dropped", "flights", "failed", "ripe")), rows
    d = b.json("gpu", "list")["devices"][0]
    assert d["mover_pid"] is None and d["mover_restarts"] == 0 and d["state"] == "ok", d
    s = b.json("status")
    assert s["tiers"] == rows and s["hit_ratio_host"] is None and s["loads"] == 0, s
    assert "host tier" not in b.ctl("status")[1]
    assert b.json("version", "--features")["features"]["lower_tier"] is False
    assert b.ctl("tier", "list", "-H", "-o", "tier,device")[1].split() == ["device", "host:0"]


def test_fields_csv_and_header(b):
    code, out, _ = b.ctl("tenant", "list", "--csv", "-o", "weight,tenant")
    assert code == 0 and out == "weight,tenant\n1,default\n2,rl\n1,other\n", out
    assert b.ctl("tenant", "list", "-H", "-o", "tenant")[1] == "default\nrl\nother\n"
    assert b.json("-o", "tenant", "tenant", "list")["tenants"][1] == {"tenant": "rl"}
    code, out, err = b.ctl("tenant", "list", "-o", "nonsense")
    assert (code, out) == (2, "") and "nonsense" in err, err
    assert b.ctl("policy", "show", "-H", "-o", "policy")[1] == "lru\n"


def test_exit_codes(b):
    e = b.engine()
    assert b.ctl("status", sock="/nonexistent/sock")[0] == 3
    assert b.ctl("health", sock="/nonexistent/sock")[0] == 3
    assert b.ctl("numa", "show", sock="/nonexistent/sock")[0] == 3
    assert b.ctl("version", sock="/nonexistent/sock")[0] == 0
    for bad in ([], ["stauts"], ["client"], ["status", "--nope"], ["status", "-n"], ["status", "extra"],
                ["tenant", "list", "-t"], ["-t", "0", "status"], ["stat", "0"], ["stat", "1", "0"],
                ["client", "kick", "x", "-y"], ["client", "kick", "0"], ["epoch", "bump", "xyz", "-y"],
                ["prefix", "lookup", NS, "12"], ["prefix", "top", "--by", "size"],
                ["prefix", "top", "--count", "501"], ["tenant", "set", "rl", "min=7Q"],
                ["tenant", "set", "rl", "weight=0"], ["tenant", "set", "a/b"],
                ["tenant", "set", "rl", "colour=red"], ["tenant", "set", "rl", "min=2G", "max=1G"],
                ["tenant", "set", "rl", "device=host:9"], ["-n", "-y", "epoch", "bump", NS],
                ["numa"], ["numa", "show", "0"], ["numa", "show", "--csv"],
                ["tier"], ["tier", "list", "host:0"], ["tier", "list", "-o", "nonsense"], ["gpu", "drain"],
                ["gpu", "drain", "host:0", "-y"], ["gpu", "drain", "host:0"], ["gpu", "drain", "host:0", "-n", "-y"],
                ["gpu", "resume", "host:0"], ["gpu", "resume", "host:0", "--force"], ["gpu", "list", "--force"]):
        code, out, err = b.ctl(*bad)
        assert code == 2 and out == "" and err.startswith("broker-ctl: "), (bad, code, out, err)
    for none in (["client", "show", "99"], ["client", "kick", "99", "-y"], ["tenant", "show", "no"],
                 ["tenant", "delete", "no", "-y"], ["ns", "show", "77"], ["epoch", "bump", "77", "-y"],
                 ["prefix", "evict", NS, hash_of(60), "-y"], ["gpu", "drain", "cuda:0", "-y"],
                 ["gpu", "drain", "nonsense", "-y"], ["gpu", "resume", "cuda:0"],
                 ["prefix", "lookup", NS, hash_of(0), "--space", "60"]):
        assert b.ctl(*none)[0] == 4, none
    assert b.ctl("prefix", "evict", NS, hash_of(0), "-y")[0] == 6
    assert b.ctl("tenant", "delete", "rl", "-y")[0] == 6
    code, _, err = b.ctl("tenant", "set", "rl", "min=2G", "high=all", "max=all")
    assert code == 1 and "asked 2.0G min for tenant rl" in err, err
    assert b.ctl("-q", "prefix", "evict", NS, hash_of(0), "-y") == (6, "", "")
    e.do("release")
    assert b.ctl("prefix", "evict", NS, hash_of(0), hash_of(60), "-y")[0] == 8
    assert b.ctl("prefix", "evict", NS, hash_of(1), "-y")[0] == 0
    assert "nearest is 'status'" in b.ctl("stauts")[2]
    e.end()


def test_timeout_and_silent_daemon(b):
    os.kill(b.proc.pid, signal.SIGSTOP)
    try:
        began = time.time()
        assert b.ctl("-t", "0.3", "status")[0] == 7
        assert b.ctl("-t", "0.3", "health")[0] == 3
        assert time.time() - began < 5
    finally:
        os.kill(b.proc.pid, signal.SIGCONT)
    assert b.ctl("status")[0] == 0


def test_permission(b):
    if os.getuid() != 0:
        return "only root can be somebody else"
    os.chmod(b.dir, 0o755)
    os.chmod(b.sock, 0o666)
    e = b.engine()
    client = str(b.json("client", "list")["clients"][0]["id"])
    nobody = dict(user=65534, group=65534, extra_groups=[])
    # The program may lie where nobody can reach it.
    shutil.copy(BROKER_CTL, b.dir + "/ctl")

    def ctl(*args):
        return subprocess.run([b.dir + "/ctl", "-S", b.sock, *args], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, **nobody).returncode
    assert ctl("status") == 0
    for args in (["client", "kick", client, "-y"], ["epoch", "bump", NS, "-y"], ["health", "--deep"],
                 ["tenant", "set", "rl", "weight=9"], ["tenant", "delete", "other", "-y"],
                 ["prefix", "lookup", NS, hash_of(0)], ["prefix", "top", NS], ["gpu", "drain", "cuda:0", "-y"],
                 ["gpu", "resume", "cuda:0"]):
        assert ctl(*args) == 5, args
    out = subprocess.run([b.dir + "/ctl", "-S", b.sock, "-j", "prefix", "top"], capture_output=True,
                         text=True, **nobody)
    assert json.loads(out.stdout) == {"pages": []}, out
    os.chmod(b.sock, 0o600)
    assert ctl("status") == 5
    e.end()
    return None


def test_dry_run_changes_nothing(b):
    e = b.engine()
    e.do("release")
    client = str(b.json("client", "list")["clients"][0]["id"])

    def seen():
        s = {k: b.json(*k)[n] for k, n in ((("tenant", "list"), "tenants"), (("ns", "list"), "namespaces"),
                                           (("prefix", "top"), "pages"), (("space", "list"), "spaces"))}
        return json.dumps([[{k: v for k, v in row.items() if k != "idle_s"} for row in rows]
                           for rows in s.values()])
    before = seen()
    for args in (["client", "kick", client], ["tenant", "set", "rl", "min=16M", "weight=7"],
                 ["tenant", "set", "new", "min=1M"], ["tenant", "delete", "other"], ["epoch", "bump", NS],
                 ["prefix", "pin", NS, hash_of(0)], ["prefix", "evict", NS, hash_of(0)]):
        code, out, err = b.ctl("-n", *args)
        assert code == 0 and out.startswith("would ") and "(dry run)" in out, (args, out, err)
        assert b.json("-n", *args)["dry_run"] is True, args
    assert seen() == before
    plan = b.json("-n", "epoch", "bump", NS)
    assert plan["pages"] == 8 and plan["bytes"] == 8 * 65536 and plan["leased_pages"] == 0, plan
    assert plan["to"] == plan["from"] + 1
    assert len(b.json("client", "list")["clients"]) == 1
    e.end()


def test_changes_change(b):
    e = b.engine()
    plan = b.json("-n", "epoch", "bump", NS)
    assert plan["leased_pages"] == 8 and plan["clients"] == 1, plan
    e.do("release")
    keys = [hash_of(i) for i in range(8)]
    answer = b.json("prefix", "lookup", NS, *keys)
    assert answer["matched"] == 8, answer
    assert b.json("prefix", "pin", NS, keys[0])["pages"] == 1
    assert b.ctl("prefix", "evict", NS, keys[0], "-y")[0] == 6
    assert b.json("prefix", "unpin", NS, keys[0])["pages"] == 1
    assert b.json("-y", "prefix", "evict", NS, keys[0])["pages"] == 1
    answer = b.json("prefix", "explain", NS, *keys)
    assert answer["matched"] == 0 and answer["miss"] == 0, answer
    assert "evicted since" in answer["reasons"][0], answer
    assert b.json("prefix", "lookup", NS, keys[1], "--salt", "7")["matched"] == 0
    assert "another salt" in b.json("prefix", "explain", NS, keys[1], "--salt", "7")["reasons"][0]
    top = b.json("prefix", "top", NS, "--by", "idle", "--count", "3")["pages"]
    assert len(top) == 3 and all(p["hash"] in keys for p in top), top
    bumped = b.json("-y", "epoch", "bump", NS)
    assert bumped["to"] == bumped["from"] + 1 == b.json("ns", "show", NS)["epoch"], bumped
    assert b.json("prefix", "lookup", NS, keys[1])["matched"] == 0
    made = b.json("tenant", "set", "new", "min=25%", f"uid={os.getuid()}")
    assert made["created"] and b.json("tenant", "show", "new")["min_bytes"] == 64 << 20, made
    b.json("tenant", "set", "new", "max=80M", "weight=5")
    t = b.json("tenant", "show", "new")
    assert (t["min_bytes"], t["high_bytes"], t["max_bytes"], t["weight"]) == (64 << 20, 80 << 20, 80 << 20, 5), t
    assert b.json("-y", "tenant", "delete", "new")["deleted"] is True
    assert b.ctl("tenant", "show", "new")[0] == 4
    e.end()


def test_tenant_with_memory_is_emptied_and_deleted(b):
    e = b.engine()
    e.end()
    wait_until(lambda: not b.json("client", "list")["clients"])
    assert b.json("tenant", "show", "rl")["used_bytes"] > 0
    wait_until(lambda: b.ctl("tenant", "delete", "rl", "-y")[0] in (0, 4))
    assert b.ctl("tenant", "show", "rl")[0] == 4
    assert b.json("gpu", "list")["devices"][0]["granted_bytes"] == 0
    assert b.json("health", "--deep")["deep"]["tables"] == "sound"


def test_kick(b):
    e = b.engine()
    client = str(b.json("client", "list")["clients"][0]["id"])
    b.json("-y", "client", "kick", client)
    e.proc.stdin.write("alloc 1\n")
    e.proc.stdin.flush()
    assert e.proc.stdout.readline() == ""
    e.proc.wait(20)
    wait_until(lambda: not b.json("client", "list")["clients"])
    status = b.json("status")
    assert status["kicked"] == 1 and status["leases"] == 0 and status["protocol_errors"] == 0, status


def test_asks_on_a_terminal(b):
    e = b.engine()
    for answer, code in ((b"n\n", 1), (b"y\n", 0)):
        master, slave = pty.openpty()
        os.write(master, answer)
        p = subprocess.run([BROKER_CTL, "-S", b.sock, "epoch", "bump", NS], stdin=slave, stderr=slave,
                           stdout=subprocess.PIPE, timeout=20)
        shown = ""
        while "Go on?" not in shown and select.select([master], [], [], 10)[0]:  # it comes in pieces
            shown += os.read(master, 4096).decode()
        os.close(master)
        os.close(slave)
        assert p.returncode == code and "would move" in shown and "Go on?" in shown, (p, shown)
    assert b.json("ns", "show", NS)["epoch"] == 2
    e.end()


def test_output_that_fails(b):
    with open("/dev/full", "w") as full:
        assert subprocess.run([BROKER_CTL, "-S", b.sock, "status"], stdout=full,
                              stderr=subprocess.DEVNULL).returncode == 1
    r, w = os.pipe()
    os.close(r)
    p = subprocess.run([BROKER_CTL, "-S", b.sock, "stat", "0.1"], stdout=w, timeout=20,
                       stderr=subprocess.PIPE)
    os.close(w)
    assert (p.returncode, p.stderr) == (0, b""), p


def test_completion_is_bash(b):
    p = subprocess.run([BROKER_CTL, "completion", "bash"], capture_output=True, text=True)
    assert p.returncode == 0, p
    probe = p.stdout + '\nCOMP_WORDS=(broker-ctl tenant s); COMP_CWORD=2; _broker_ctl; echo "${COMPREPLY[*]}"\n'
    out = subprocess.run(["bash", "-c", probe], capture_output=True, text=True)
    assert out.stdout.split() == ["show", "set"] and out.stderr == "", out
    assert "'numa show')" in p.stdout, p.stdout


def test_malformed_requests(b):
    good = ["prefix", "top"]
    for message in (ctl_message(good, flags=2), ctl_message(good, argc=0), ctl_message(good, argc=3),
                    ctl_message(good, argc=1), ctl_message(good, argc=0xFFFFFFFF),
                    ctl_message(good, tail=b"unterminated"), ctl_message([], argc=1),
                    ctl_message(["a"] * 300), ctl_message(good)[:20], header(CTL, 24) + b"\0" * 4,
                    header(CTL, 9999) + ctl_message(good)[16:], hello(),
                    b"\0" * 24, header(77, 24) + b"\0" * 8):
        raw = Raw(b)
        raw.s.send(message)
        assert raw.reply() is None, message
        raw.close()
    # Known framing, unknown words: an answer, and the connection goes on.
    raw = Raw(b)
    for argv, want in ((["no", "such"], 2), (["\x1b[31m", "\xff"], 2), (["prefix"], 2), ([""], 2),
                       (["client", "kick", "18446744073709551616"], 2), (["client", "kick", "4294967295"], 4),
                       (["prefix", "lookup", NS * 20, hash_of(0)], 4), (["tenant", "set", "t" * 32], 2),
                       (["tenant", "set", "t", "min=-1"], 2), (["health", "--shallow"], 2),
                       (["prefix", "top", "--count"], 2), (good, 0)):
        raw.s.send(ctl_message(argv))
        code, answer = raw.reply()
        assert code == want and ("error" in answer) == (want != 0), (argv, code, answer)
    raw.s.send(ctl_message(good, flags=1))
    assert raw.reply()[0] == 2
    raw.close()
    assert b.ctl("health", "--deep")[0] == 0


def test_two_requests_at_once_end_the_connection(b):
    raw = Raw(b)
    os.kill(b.proc.pid, signal.SIGSTOP)
    try:
        raw.s.send(ctl_message(["prefix", "top"]))
        raw.s.send(ctl_message(["prefix", "top"]))
    finally:
        os.kill(b.proc.pid, signal.SIGCONT)
    assert raw.reply() is None
    raw.close()
    assert b.ctl("health")[0] == 0


def test_reader_that_leaves_mid_walk(b):
    for _ in range(50):
        raw = Raw(b)
        raw.s.send(ctl_message(["prefix", "top"]))
        raw.close()
    assert b.ctl("health", "--deep")[0] == 0


def test_stats_fd_is_read_only(b):
    raw = Raw(b)
    try:
        os.pwrite(raw.fd, b"x", 0)
        raise AssertionError("the segment takes writes")
    except OSError:
        pass
    assert os.fstat(raw.fd).st_mode & 0o777 == 0o644
    raw.close()


def main():
    tests = [(n, f) for n, f in globals().items() if n.startswith("test_")]
    print("1..%d" % len(tests), flush=True)
    for i, (name, test) in enumerate(tests, 1):
        b = None
        try:
            b = Broker()
            skip = test(b)
            b.stop()
            print("ok %d - %s%s" % (i, name, " # SKIP " + skip if skip else ""), flush=True)
        except Exception as error:  # each case stands alone
            print("not ok %d - %s" % (i, name), flush=True)
            print("# %s: %s" % (type(error).__name__, str(error).replace("\n", "\n# ")), flush=True)
            if b:
                b.proc.kill()
                b.proc.wait()


main()
