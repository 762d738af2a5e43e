#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvbroker-exporter beside a running daemon: what it serves is the text format, read strictly; the
figures are those of broker-ctl; a daemon that dies is told as dead and found again; slow and many
clients keep nobody else waiting. promtool judges too, where there is one ($PROMTOOL, or in $PATH).

usage: test_exporter.py kvbrokerd=PATH broker-ctl=PATH exporter=PATH client=PATH engine=PATH libcuda=PATH
       libnvidia-ml=PATH broker=PATH man=PATH
"""

import concurrent.futures
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

PROGRAMS = dict(arg.split("=", 1) for arg in sys.argv[1:])
sys.path.insert(0, os.path.dirname(PROGRAMS["broker"]))
import promtext  # noqa: E402
from broker import Broker, TENANTS, WAIT_S, report, wait_until  # noqa: E402
from exporter import Exporter  # noqa: E402
from tier_engine import TierEngine  # noqa: E402

IDLE_S = 10  # after which a connection is closed
ENV = {"FAKECUDA": "gpus=1,mem=8G,node=exporter%d" % os.getpid(),
       "LD_LIBRARY_PATH": os.path.dirname(PROGRAMS["libcuda"]) + ":" + os.path.dirname(PROGRAMS["libnvidia-ml"])}


class Lines:
    """tests/proto/ctl_engine.c, which does a thing a line."""

    def __init__(self, *argv):
        self.proc = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.proc.stdout.readline().split()[0] == "ok"

    def do(self, line):
        self.proc.stdin.write(line + "\n")
        self.proc.stdin.flush()
        return self.proc.stdout.readline().split()

    def end(self):
        self.proc.communicate(timeout=WAIT_S)


def stats_of(broker):
    return broker.dir + "/state/stats"


def run(*args):
    return subprocess.run([PROGRAMS["exporter"], *args], capture_output=True, text=True, timeout=WAIT_S, check=False)


def with_broker(case, **kw):
    broker = Broker(PROGRAMS, **kw)
    try:
        said = case(broker)
        broker.stop()
        return said
    except BaseException:
        broker.kill()
        raise


def with_exporter(case, **kw):
    def both(broker):
        exporter = Exporter(PROGRAMS["exporter"], stats_of(broker))
        try:
            said = case(broker, exporter)
            exporter.stop()
            return said
        finally:
            exporter.kill()
    return with_broker(both, **kw)


# ---- without a daemon -----------------------------------------------------------------------

def parser_is_strict():
    promtext.check_itself()


def nonsense_is_refused():
    listen = ("--listen", "127.0.0.1:0")
    for args, word in (((), "--listen or --textfile"), (listen + ("--textfile", "x"), "give one"),
                       (listen + ("--interval", "5"), "--textfile"), (("--textfile", "x", "--interval", "0"), "0.1"),
                       (("--textfile", "x", "--interval", "nan"), "seconds"), (listen + ("x",), "'x'"),
                       (("--listen", "127.0.0.1"), "no address and port"), (("--listen", ":80"), "no address"),
                       (("--listen", "127.0.0.1:65536"), "no address"), (("--listen", "::1:80"), "no address"),
                       (("--listen", "localhost:80"), "no address"), (("--listen", "[127.0.0.1:80"), "no address"),
                       (("--listen", "127.0.0.1:-1"), "no address"), (("--stats", "/") + listen, "--stats"),
                       (("--farce",), "farce"), (("--listen",), "listen")):
        p = run(*args)
        assert p.returncode == 2 and word in p.stderr and not p.stdout, (args, p)
    p = run("--textfile", "/nowhere/x.prom")
    assert p.returncode == 1 and "/nowhere/x.prom" in p.stderr, p
    with socket.create_server(("127.0.0.1", 0)) as taken:
        p = run("--listen", "127.0.0.1:%d" % taken.getsockname()[1])
        assert p.returncode == 1 and "in use" in p.stderr, p
    assert run("--version").stdout.startswith("kvbroker-exporter ")


def help_and_page_name_the_same_options():
    with open(PROGRAMS["man"]) as f:
        heads = re.findall(r"^\.TP\n(.*)$", f.read().replace("\\-", "-"), re.M)
    shown = set(re.findall(r"--[a-z-]+", run("--help").stdout))
    assert shown == set(re.findall(r"--[a-z-]+", "".join(heads))), (shown, heads)


def daemon_that_is_not_there_is_down():
    exporter = Exporter(PROGRAMS["exporter"], "/nowhere/stats")
    status, _, text = exporter.ask("/health")
    assert status == 503 and "no daemon has run here" in text, text
    m = exporter.metrics()
    assert promtext.value(m, "kvbroker_up") == 0 and set(m) == {"kvbroker_up", "kvbroker_exporter_build_info"}, set(m)
    status, _, text = exporter.ask("/")
    assert status == 200 and "no daemon has run here" in text
    exporter.stop()


# ---- beside one -----------------------------------------------------------------------------

def every_metric_is_in_the_page():
    """A daemon that has everything: a GPU, a host tier, clients, namespaces."""
    with open(PROGRAMS["man"]) as f:
        page = set(re.findall(r"^\.B (kvbroker_\w+)$", f.read(), re.M))

    def case(broker, exporter):
        engine = TierEngine(PROGRAMS["client"], broker, "cuda:0", env=ENV)
        assert engine.do("grow 1", "grown") == [1] and engine.do("put 0 8", "put") == [8]
        wait_until(lambda: broker.json("gpu", "list")["devices"][0]["others_bytes"], "the GPU is not looked at")
        m = exporter.metrics()
        assert set(m) == page, (sorted(set(m) - page), sorted(page - set(m)))
        assert any(dict(k[1]).get("device") == "cuda:0" for k in m["kvbroker_gpu_info"].samples)
        n = sum(len(f.samples) for f in m.values())
        engine.end()
        return "%d metrics, %d samples" % (len(m), n)
    with tempfile.NamedTemporaryFile("w") as used:
        used.write("7000 1000")
        used.flush()
        return with_exporter(case, env=dict(ENV, FAKENVML=used.name), devices=["cuda:0=64M"],
                             args=(*TENANTS, "--host-tier", "64M"))


def one_host_device_gives_forty_samples(broker, exporter):
    _, _, text = exporter.ask()
    n = len([line for line in text.splitlines() if line.startswith("kvbroker_")])
    assert n >= 40, n
    return "%d samples" % n


def promtool_agrees(broker, exporter):
    promtool = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if not promtool:
        return "no promtool here: only the parser of the tests"
    p = subprocess.run([promtool, "check", "metrics"], input=exporter.ask()[2], capture_output=True, text=True,
                       timeout=WAIT_S, check=False)
    assert p.returncode == 0 and not p.stdout + p.stderr, p
    return "promtool"


def figures_are_those_of_broker_ctl(broker, exporter):
    engine = Lines(PROGRAMS["engine"], broker.sock, "other", "20")
    engine.do("release")
    engine.do("alloc 20")  # the slab has 32 pages, so some of the 20 sealed ones have to go
    status, tenants, clients, spaces = (broker.json(*w.split()) for w in (
        "status", "tenant list", "client list", "ns list"))
    m = exporter.metrics()

    def same(metric, want, /, **labels):
        got = promtext.value(m, "kvbroker_" + metric, **labels)
        assert got == (want if want is not None else float("inf")), (metric, labels, got, want)

    for ours, theirs in (("clients", "clients"), ("tenants", "tenants"), ("indexed_pages", "pages_indexed"),
                         ("leases", "leases"), ("lookups_total", "lookups"), ("state_bytes", "state_bytes"),
                         ("page_records_max", "pages_max"), ("protocol_errors_total", "protocol_errors")):
        same(ours, status[theirs])
    for d in status["devices"]:
        for ours in ("capacity_bytes", "mapped_bytes", "held_bytes", "cached_bytes", "free_bytes", "evictions_total",
                     "slabs", "pages", "free_pages"):
            theirs = {"mapped_bytes": "granted_bytes", "evictions_total": "evictions", "free_pages": "pages_free"}
            same(ours, d[theirs.get(ours, ours)], device=d["name"], tier="device")
    assert status["devices"][0]["evictions"] >= 8, status["devices"]
    for t in tenants["tenants"]:
        for ours, theirs in (("usage", "used"), ("min", "min"), ("high", "high"), ("max", "max")):
            same("tenant_%s_bytes" % ours, t[theirs + "_bytes"], tenant=t["tenant"], device=t["device"])
        same("tenant_weight", t["weight"], tenant=t["tenant"], device=t["device"])
        for ours, theirs in (("allocated_pages_total", "allocs"), ("sealed_pages_total", "seals"),
                             ("evictions_total", "evictions"), ("clients", "clients"), ("held_pages", "pages_held")):
            same("tenant_" + ours, t[theirs], tenant=t["tenant"])
    for c in clients["clients"]:
        for key in ("held_bytes", "leases", "leases_max", "pins"):
            same("client_" + key, c[key], client=str(c["id"]))
        same("client_info", 1, client=str(c["id"]), name=c["name"], tenant=c["tenant"], pid=str(c["pid"]))
    for n in spaces["namespaces"]:
        for key, theirs in (("epoch", "epoch"), ("pages", "pages"), ("lookups_total", "lookups")):
            same("namespace_" + key, n[theirs], tenant=n["tenant"], ns=n["ns"])
    assert clients["clients"] and spaces["namespaces"]
    engine.end()
    wait_until(lambda: broker.json("status")["clients"] == 0 and not broker.json("status")["clients_reaping"],
               "the engine's end is not seen")
    m = exporter.metrics()
    same("clients_reclaimed_total", 1)
    count = m["kvbroker_client_reclaim_duration_seconds"].samples[("kvbroker_client_reclaim_duration_seconds_count", ())]
    assert count == 1, count
    sum_s = m["kvbroker_client_reclaim_duration_seconds"].samples[("kvbroker_client_reclaim_duration_seconds_sum", ())]
    assert abs(sum_s - broker.json("stat")["reclaim_p99_s"]) < 1e-9, sum_s


def http_is_as_told(broker, exporter):
    assert exporter.ask("/health")[0::2] == (200, "ready\n")
    status, headers, text = exporter.ask("/")
    assert status == 200 and headers["Content-Type"].startswith("text/html") and "host:0" in text, text
    assert "<script" not in text and "http://" not in text and "https://" not in text and "src=" not in text
    assert exporter.ask("/metrics?x=1")[0] == 200 and exporter.ask("/metrics/")[0] == 404
    status, headers, text = exporter.ask("/metrics", "POST", "x" * 100000)
    assert status == 405 and headers["Allow"] == "GET, HEAD", (status, headers)
    status, headers, text = exporter.ask("/metrics", "HEAD")
    assert status == 200 and not text and int(headers["Content-Length"]) > 1000
    with socket.create_connection((exporter.host, exporter.port), WAIT_S) as s:
        s.sendall(b"GARBAGE\0\xff\r\n\r\n")
        s.recv(4096)
    with socket.create_connection((exporter.host, exporter.port), WAIT_S) as s:
        s.sendall(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 100000)
        try:
            while s.recv(4096):
                pass
        except ConnectionResetError:
            pass
    assert exporter.ask("/health")[0] == 200


def readers_cost_the_daemon_nothing(broker, exporter):
    turns = promtext.value(exporter.metrics(), "kvbroker_loop_turns_total")
    with open("/proc/%d/status" % broker.proc.pid) as f:
        before = re.findall(r"ctxt_switches:\s+(\d+)", f.read())
    for _ in range(20):
        exporter.metrics()
    with open("/proc/%d/status" % broker.proc.pid) as f:
        after = re.findall(r"ctxt_switches:\s+(\d+)", f.read())
    assert promtext.value(exporter.metrics(), "kvbroker_loop_turns_total") - turns <= 20
    assert int(after[0]) - int(before[0]) <= 20, (before, after)
    return "%d switches in 3 s" % (int(after[0]) - int(before[0]))


def many_scrapes_at_once(broker, exporter):
    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda _: exporter.ask(), range(200)))
    for status, _, text in answers:
        assert status == 200
    for text in set(text for _, _, text in answers):
        assert promtext.value(promtext.parse(text), "kvbroker_up") == 1


def slow_clients_keep_nobody_waiting(broker, exporter):
    slow = []
    try:
        for i in range(100):
            s = socket.create_connection((exporter.host, exporter.port), WAIT_S)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            slow.append(s)
            # Half of a request, or many whole ones of which no answer is read.
            s.sendall(b"GET /metrics HTT" if i % 2 else b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        began = time.monotonic()
        for _ in range(10):
            assert exporter.ask()[0] == 200
        took = time.monotonic() - began
        assert took < IDLE_S, took  # it has not waited for the first of them to be closed
        # They are not kept for ever.
        slow[1].settimeout(WAIT_S)
        assert slow[1].recv(4096) == b""
    finally:
        for s in slow:
            s.close()
    return "10 scrapes in %.0f ms" % (took * 1e3)


def stops_under_clients_that_stay(broker):
    exporter = Exporter(PROGRAMS["exporter"], stats_of(broker))
    with socket.create_connection((exporter.host, exporter.port), WAIT_S) as s:
        s.sendall(b"GET /metrics HTT")
        began = time.monotonic()
        exporter.stop()
        assert time.monotonic() - began < IDLE_S
    # Its port is free at once.
    Exporter(PROGRAMS["exporter"], stats_of(broker), listen="127.0.0.1:%d" % exporter.port).stop()


def daemon_dies_and_returns():
    where = tempfile.mkdtemp(prefix="kvb-exporter-")
    broker = Broker(PROGRAMS, where=where)
    exporter = Exporter(PROGRAMS["exporter"], where + "/state/stats")
    try:
        for round_ in range(3):
            wait_until(lambda: exporter.ask("/health")[0] == 200, "it is not up")
            m = exporter.metrics()
            assert promtext.value(m, "kvbroker_up") == 1 and "kvbroker_capacity_bytes" in m
            begun = promtext.value(m, "kvbroker_start_time_seconds")
            assert abs(begun - time.time()) < 120, begun
            # Not waited for at once: a zombie has died too.
            broker.proc.send_signal(signal.SIGKILL if round_ % 2 == 0 else signal.SIGTERM)
            wait_until(lambda: exporter.ask("/health")[0] == 503, "it is not down")
            m = exporter.metrics()
            assert promtext.value(m, "kvbroker_up") == 0 and set(m) == {"kvbroker_up", "kvbroker_exporter_build_info"}
            assert "ended" in exporter.ask("/")[2] or "stopped" in exporter.ask("/")[2]
            broker.proc.wait(WAIT_S)
            assert os.path.exists(where + "/state/stats")
            broker = Broker(PROGRAMS, where=where)
        assert exporter.said().count(" is up") == 3 and exporter.said().count(" is down") >= 3, exporter.said()
        exporter.stop()
    finally:
        exporter.kill()
        broker.kill()


def textfile_is_whole_at_any_time(broker):
    path = broker.dir + "/k.prom"
    p = run("--stats", stats_of(broker), "--textfile", path)
    assert p.returncode == 0, p
    with open(path) as f:
        assert promtext.value(promtext.parse(f.read()), "kvbroker_up") == 1
    os.unlink(path)
    writer = subprocess.Popen([PROGRAMS["exporter"], "--stats", stats_of(broker), "--textfile", path,
                               "--interval", "0.1"], stderr=subprocess.PIPE)
    try:
        wait_until(lambda: os.path.exists(path), "it does not come")
        seen = set()

        def replaced():
            with open(path) as f:
                text = f.read()
                seen.add(os.fstat(f.fileno()).st_mtime_ns)
            assert promtext.value(promtext.parse(text), "kvbroker_up") == 1
            return len(seen) > 5
        wait_until(replaced, lambda: "it is not replaced: %s" % seen)
        writer.send_signal(signal.SIGTERM)
        assert writer.wait(WAIT_S) == 0
        assert not [f for f in os.listdir(broker.dir) if f.startswith("k.prom")], os.listdir(broker.dir)
    finally:
        writer.kill()
        writer.communicate()


def needs_no_privilege(broker):
    if os.getuid() != 0:
        return "all of this ran without"
    os.chmod(broker.dir, 0o755)
    exporter = Exporter(PROGRAMS["exporter"], stats_of(broker), user=65534, group=65534, extra_groups=[])
    assert promtext.value(exporter.metrics(), "kvbroker_up") == 1
    exporter.stop()
    os.chmod(broker.dir + "/state", 0o700)
    exporter = Exporter(PROGRAMS["exporter"], stats_of(broker), user=65534, group=65534, extra_groups=[])
    status, _, text = exporter.ask("/health")
    assert status == 503 and "Permission denied" in text, text
    exporter.stop()
    return "as nobody"


def main():
    alone = [parser_is_strict, nonsense_is_refused, help_and_page_name_the_same_options,
             daemon_that_is_not_there_is_down, every_metric_is_in_the_page, daemon_dies_and_returns]
    beside = [one_host_device_gives_forty_samples, promtool_agrees, figures_are_those_of_broker_ctl, http_is_as_told,
              readers_cost_the_daemon_nothing, many_scrapes_at_once, slow_clients_keep_nobody_waiting]
    brokers = [stops_under_clients_that_stay, textfile_is_whole_at_any_time, needs_no_privilege]
    cases = alone + [lambda c=c: with_exporter(c) for c in beside] + [lambda c=c: with_broker(c) for c in brokers]
    print("1..%d" % len(cases), flush=True)
    for n, (case, named) in enumerate(zip(cases, alone + beside + brokers), 1):
        report(n, named.__name__, case)


main()
