#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A daemon that goes by a file: start, show, diff, reload all or nothing, set, SIGHUP, and who may.

Usage: test_config.py kvbrokerd=PATH broker-ctl=PATH broker=PATH ... Speaks TAP."""

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

PROGRAMS = dict(arg.split("=", 1) for arg in sys.argv[1:] if "=" in arg)
spec = importlib.util.spec_from_file_location("broker", PROGRAMS["broker"])
broker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(broker)

UID = os.getuid()
FILE = f"""# for a test
device "host:0" {{ size = 96M }}
max_pages = 8192
revoke_grace = 2000
tenant a {{
    uid = {UID}
    min = 16M
}}
tenant b {{
    min = 64M
    max = 80M
}}
"""


def alone(*args, **kw):
    """broker-ctl without a daemon."""
    p = subprocess.run([PROGRAMS["broker-ctl"], *args], capture_output=True, text=True,
                       stdin=subprocess.DEVNULL, timeout=broker.WAIT_S, check=False, **kw)
    return p.returncode, p.stdout, p.stderr


class Daemon:
    def __init__(self, text=FILE, args=(), config=True):
        self.dir = tempfile.mkdtemp(prefix="kvb-config.")
        self.sock, self.file = self.dir + "/sock", self.dir + "/broker.conf"
        self.write(text)
        from_file = ["--config", self.file] if config else []
        with open(self.dir + "/log", "w") as log:
            self.proc = subprocess.Popen(
                [PROGRAMS["kvbrokerd"], *from_file, "--socket", self.sock,
                 "--state-dir", self.dir + "/state", *args],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        broker.wait_until(lambda: "ready:" in self.log() or self.proc.poll() is not None, "it does not start")
        assert self.proc.poll() is None, self.log()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.proc.send_signal(signal.SIGTERM)
        try:
            code = self.proc.wait(broker.WAIT_S)
        finally:
            self.proc.kill()
        log = self.log()
        shutil.rmtree(self.dir)
        if kind is None:
            assert code == 0, log
            assert not any(word in log for word in broker.BAD_WORDS), log

    def write(self, text):
        with open(self.file, "w") as f:
            f.write(text)

    def log(self):
        with open(self.dir + "/log", errors="replace") as f:
            return f.read()

    def ctl(self, *args, **kw):
        return alone("-S", self.sock, *args, **kw)

    def json(self, *args, code=0):
        got, out, err = self.ctl("-j", *args)
        assert got == code, (args, got, out, err)
        return json.loads(out)

    def show(self):
        return {row["key"]: (row["value"], row["origin"]) for row in self.json("config", "show")["settings"]}

    def min_of(self, tenant):
        return self.json("tenant", "show", tenant)["min_bytes"] >> 20


def changes(answer):
    return {c["key"]: (c["from"], c["to"], c["live"]) for c in answer["changes"]}


def test_starts_from_a_file():
    with Daemon(args=("--drain", "70")) as d:
        shown = d.show()
        assert shown["device.host:0.size"] == ("96M", d.file + ":2"), shown
        assert shown["revoke_grace"] == ("2000", d.file + ":4"), shown
        assert shown["drain"] == ("70", "command line"), shown
        assert shown["attach_deadline"] == ("5000", "default"), shown
        assert shown["tenant.b.host:0.max"] == ("80M", d.file + ":10"), shown
        assert (d.min_of("a"), d.min_of("b")) == (16, 64)
        text = d.ctl("config", "show", "-H", "-o", "origin,key")[1]
        assert re.search(r"^command line +drain$", text, re.M), text


def test_does_not_start_from_a_bad_file():
    folder = tempfile.mkdtemp(prefix="kvb-config.")
    path = folder + "/bad.conf"
    for text, why in (("device host:0 { size = 64M }\nmax_page = 9\n",
                       ":2: max_page: no such option; did you mean 'max_pages'?"),
                      ("device host:0 {\n  size = 64Q }\n", ":2: device host:0: size: '64Q' is not a size"),
                      ("", ": no device: nothing to serve")):
        with open(path, "w") as f:
            f.write(text)
        p = subprocess.run([PROGRAMS["kvbrokerd"], "--config", path], capture_output=True, text=True, check=False,
                           timeout=broker.WAIT_S)
        assert p.returncode == 2 and p.stderr.startswith("kvbrokerd: " + path + why), p
        p = alone("config", "check", path)
        assert p[0] == 2 and p[1] == "" and path + why in p[2], p
    shutil.rmtree(folder)


def test_check_needs_no_daemon():
    folder = tempfile.mkdtemp(prefix="kvb-config.")
    path = folder + "/good.conf"
    with open(path, "w") as f:
        f.write(FILE)
    assert alone("config", "check", path) == (
        0, path + ": good: 1 devices, 0 stores, 2 tenants\n", "")
    code, out, _ = alone("config", "check", "-j", path)
    assert code == 0 and json.loads(out)["tenants"] == 2, out
    assert alone("-q", "config", "check", path + ".not") == (2, "", "")
    for args in (["config", "show"], ["config", "diff"], ["config", "reload"], ["config", "set", "drain", "3"]):
        assert alone("-S", "/nonexistent", *args)[0] == 3, args
    shutil.rmtree(folder)


def test_reload_takes_all_of_it():
    with Daemon(args=("--drain", "70")) as d:
        assert changes(d.json("config", "diff")) == {}
        # b gives up what a asks for: neither could be set before the other in the file's order
        d.write(FILE.replace("min = 16M", "min = 76M").replace("min = 64M", "min = 4M")
                .replace("2000", "2500").replace("max = 80M", "max = 60M\n    weight = 3")
                + f"tenant c {{ min = 12M }}\nrevoke = kick\ndrain = 5\nlog_level = debug\n")
        want = {"revoke": ("extend", "kick", True), "revoke_grace": ("2000", "2500", True),
                "log_level": ("info", "debug", True), "tenant.a.host:0.min": ("16M", "76M", True),
                "tenant.b.host:0.min": ("64M", "4M", True), "tenant.b.host:0.high": ("80M", "60M", True),
                "tenant.b.host:0.max": ("80M", "60M", True), "tenant.b.host:0.weight": ("1", "3", True),
                "tenant.c": ("", "made", True), "tenant.c.host:0.min": ("0", "12M", True)}
        before = d.show()
        assert changes(d.json("config", "diff")) == want
        assert changes(d.json("-n", "config", "reload")) == want
        assert d.show() == before, "a dry run changed something"
        answer = d.json("config", "reload")
        assert changes(answer) == want and not answer["refused"] and not answer["dry_run"], answer
        assert (d.min_of("a"), d.min_of("b"), d.min_of("c")) == (76, 4, 12)
        shown = d.show()
        assert shown["revoke"] == ("kick", d.file + ":15"), shown
        assert shown["drain"] == ("70", "command line"), shown
        assert "config: tenant.a.host:0.min: 16M -> 76M" in d.log() and "config: revoke: extend -> kick" in d.log()
        assert changes(d.json("config", "diff")) == {}
        assert d.ctl("health", "--deep")[0] == 0
        assert d.json("tenant", "show", "b")["weight"] == 3


def test_reload_does_nothing_of_what_needs_a_restart():
    with Daemon() as d:
        before = d.show()
        for text, key in ((FILE.replace("8192", "8193"), "max_pages"), (FILE.replace("96M", "80M"), "device.host:0"),
                          (FILE + "device cuda:7 { size = 200M }\n", "device.cuda:7"),
                          (FILE + "store /tmp/x { size = 4M }\n", "store./tmp/x"), (FILE + "io = epoll\n", "io")):
            d.write(text.replace("2000", "7"))
            code, out, err = d.ctl("config", "reload")
            assert code == 1 and out == "" and key in err and "restart" in err and "nothing was changed" in err, err
            answer = d.json("-n", "config", "reload", code=1)
            assert answer["refused"] and changes(answer)[key][2] is False and changes(answer)["revoke_grace"][2], answer
            assert d.show() == before, text


def test_reload_does_nothing_of_a_bad_file():
    with Daemon() as d:
        before = d.show()
        for text, why in ((FILE.replace("2000", "x"), ":4: revoke_grace: 'x' is not"),
                          (FILE + "tenant a {}\n", ":13: tenant a: given twice"),
                          (FILE + "socket = \"x\n", ":13: 0x0a: a string"), ("\0" * 99, ":1: 0x00: it is not text"),
                          (FILE + "tenant d { min = 17M }\n", ":13: tenant: d: asks for 17.0M")):
            d.write(text)
            for args in (["config", "reload"], ["-n", "config", "reload"], ["config", "diff"],
                         ["config", "diff", d.file]):
                code, out, err = d.ctl(*args)
                assert code == 2 and out == "" and d.file + why in err, (args, err)
        os.unlink(d.file)
        code, _, err = d.ctl("config", "reload")
        assert code == 2 and "cannot be read: No such file" in err, err
        os.mkfifo(d.file)
        code, _, err = d.ctl("config", "reload")
        assert code == 2 and "it is not a file" in err, err
        assert d.show() == before
        os.unlink(d.file)
        d.write(FILE)
        assert d.json("config", "reload")["changes"] == []


def test_budgets_that_cannot_be_kept_together():
    with Daemon() as d:
        assert d.ctl("tenant", "set", "extra", "min=14M")[0] == 0
        assert d.json("config", "diff")["kept"] == ["extra"]
        d.write(FILE.replace("min = 16M", "min = 19M").replace("2000", "7"))
        before = d.show()
        code, _, err = d.ctl("config", "reload")
        assert code == 1 and "minima of all tenants on host:0" in err and "97.0M" in err, err
        assert d.show() == before
        assert d.ctl("tenant", "set", "extra", "min=13M")[0] == 0
        assert d.ctl("config", "reload")[0] == 0
        assert d.min_of("a") == 19 and d.min_of("extra") == 13
        assert d.show()["tenant.extra.host:0.min"] == ("13M", "set")


def test_set_until_the_next_reload():
    with Daemon() as d:
        assert d.json("-n", "config", "set", "revoke_grace", "9") == {
            "key": "revoke_grace", "from": "2000", "to": "9", "dry_run": True}
        assert d.show()["revoke_grace"] == ("2000", d.file + ":4")
        assert d.ctl("config", "set", "revoke_grace", "9") == (0, "revoke_grace 2000 -> 9\n", "")
        assert d.ctl("tenant", "set", "a", "weight=5")[0] == 0
        shown = d.show()
        assert shown["revoke_grace"] == ("9", "set") and shown["tenant.a.host:0.weight"] == ("5", "set"), shown
        assert changes(d.json("config", "reload")) == {"revoke_grace": ("9", "2000", True),
                                                       "tenant.a.host:0.weight": ("5", "1", True)}
        assert d.show()["revoke_grace"] == ("2000", d.file + ":4")
        for args, code, why in ((["revoke_grace", "x"], 2, "'x' is not a number"),
                                (["revoke_grase", "1"], 2, "did you mean 'revoke_grace'"),
                                (["max_pages", "9"], 1, "at a restart only"),
                                (["tenant.a.min", "9"], 2, "tenant set"),
                                (["device", "9"], 1, "at a restart only"),
                                (["nonsense", "9"], 2, "no such setting")):
            got, out, err = d.ctl("config", "set", *args)
            assert got == code and out == "" and why in err, (args, got, err)


def test_what_is_set_is_gone_by():
    with Daemon() as d:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
            silent.settimeout(broker.WAIT_S)
            silent.connect(d.sock)
            assert d.ctl("config", "set", "attach_deadline", "1")[0] == 0
            data = b"x"
            while data:  # what it is told, and then the end
                try:
                    data = silent.recv(8192)
                except ConnectionResetError:
                    data = b""
        assert d.ctl("config", "set", "attach_deadline", "5000")[0] == 0
        assert d.ctl("config", "set", "log_level", "error")[0] == 0
        before = d.log()
        assert d.ctl("config", "set", "drain", "7")[0] == 0 and d.log() == before
        assert d.ctl("config", "set", "log_level", "info")[0] == 0
        assert "config: log_level: error -> info" in d.log()


def test_what_is_stored_follows_the_setting():
    folder = tempfile.mkdtemp(prefix="kvb-config.")
    with open(folder + "/trace", "w") as f:
        for i in range(30):
            f.write(json.dumps({"timestamp": i, "hash_ids": list(range(i * 100, i * 100 + 100))}) + "\n")
    with Daemon(f'device host:0 {{ size = 16M }}\nstore "{folder}/store" {{ size = 256M }}\n') as d:
        def dropped():
            """Pages that went without being written, of blocks that nobody asked for twice."""
            before = d.json("tier", "list")["tiers"][0]["dropped"]
            subprocess.run([PROGRAMS["kvb-replay"], "--trace", folder + "/trace", "--broker", d.sock, "--device",
                            "host:0", "--page-bytes", "16K", "--clients", "1"], check=True, stdout=subprocess.DEVNULL,
                           timeout=broker.WAIT_S)
            d.ctl("-y", "epoch", "bump", d.json("ns", "list")["namespaces"][0]["ns"])
            return d.json("tier", "list")["tiers"][0]["dropped"] - before
        assert d.ctl("config", "set", "store_admit", "filter")[0] == 0
        assert dropped() > 1000
        assert d.ctl("config", "reload")[0] == 0 and d.show()["store_admit"] == ("all", "default")
        assert dropped() < 200
    shutil.rmtree(folder)


def test_sighup_reloads():
    with Daemon() as d:
        d.write(FILE.replace("2000", "7"))
        d.proc.send_signal(signal.SIGHUP)
        broker.wait_until(lambda: "revoke_grace: 2000 -> 7" in d.log(), d.log)
        assert d.show()["revoke_grace"][0] == "7"
        d.write("revoke_grace = x\n")
        d.proc.send_signal(signal.SIGHUP)
        broker.wait_until(lambda: "SIGHUP: nothing was changed: " + d.file + ":1: revoke_grace" in d.log(), d.log)
        os.unlink(d.file)
        d.proc.send_signal(signal.SIGHUP)
        broker.wait_until(lambda: "cannot be read: No such file" in d.log(), d.log)
        assert d.show()["revoke_grace"][0] == "7"


def test_without_a_file():
    with Daemon(args=("--device", "host:0=64M", "--max-pages", "8192"), config=False) as d:
        d.proc.send_signal(signal.SIGHUP)
        broker.wait_until(lambda: "without a file" in d.log(), d.log)
        for args in (["config", "reload"], ["config", "diff"]):
            code, _, err = d.ctl(*args)
            assert code == 1 and "--config FILE" in err, err
        assert d.show()["device.host:0.size"] == ("64M", "command line")
        assert d.show()["tenant.default.host:0.min"] == ("0", "default")
        # another's file can be compared with all the same, named from where one stands
        d.write("drain = 3\ndevice host:0 { size = 3M }\n")
        assert changes(json.loads(d.ctl("-j", "config", "diff", "broker.conf", cwd=d.dir)[1])) == {
            "drain": ("5000", "3", True)}
        assert d.ctl("config", "diff", "not-there", cwd=d.dir)[0] == 2


def test_operators_only():
    if UID != 0:
        return "needs root to be somebody else"
    with Daemon(args=("--socket-mode", "0666")) as d:
        before = d.show()
        os.chmod(d.dir, 0o755)
        shutil.copy(PROGRAMS["broker-ctl"], d.dir + "/ctl")
        os.chmod(d.dir + "/ctl", 0o755)
        d.write(FILE.replace("2000", "7"))
        for args in (["config", "show"], ["config", "diff"], ["config", "diff", "/etc/passwd"], ["config", "reload"],
                     ["-n", "config", "reload"], ["config", "set", "drain", "7"]):
            p = subprocess.run([d.dir + "/ctl", "-S", d.sock, *args], capture_output=True, text=True, check=False,
                               user=65534, group=65534, extra_groups=[], timeout=broker.WAIT_S)
            assert p.returncode == 5 and p.stdout == "", (args, p)
        assert d.show() == before
    return None


def test_devices_may_change_places():
    text = 'device "cuda:0" { size = 64M }\ndevice "host:0" { size = 64M }\nhost_tier = 0\nwarm = 0\n'
    tenant = "tenant a {\n device = %s\n min = 8M\n}\n"
    env = {"LD_LIBRARY_PATH": os.path.dirname(PROGRAMS["libcuda"])}
    os.environ.update(env)
    with Daemon(text + tenant % "host:0") as d:
        d.write("\n".join(sorted(text.splitlines(), reverse=True)) + "\n" + tenant % "host:0" +
                "tenant a { device = cuda:0 min = 4M }\n")
        assert changes(d.json("config", "reload")) == {"tenant.a.cuda:0.min": ("0", "4M", True)}
        shown = d.show()
        assert shown["tenant.a.host:0.min"] == ("8M", d.file + ":6"), shown
        assert shown["tenant.a.cuda:0.min"] == ("4M", d.file + ":9"), shown
        assert shown["device.cuda:0.size"] == ("64M", d.file + ":4"), shown


def test_completion_knows_it():
    script = alone("completion", "bash")[1]
    for words in ("config check", "config show", "config diff", "config reload", "config set"):
        assert "'%s')" % words in script, words
    assert re.search(r"config\) list=' check show diff reload set'", script), script


def main():
    tests = [(n, f) for n, f in globals().items() if n.startswith("test_")]
    print("1..%d" % len(tests), flush=True)
    for i, (name, test) in enumerate(tests, 1):
        broker.report(i, name[5:], test)


main()
