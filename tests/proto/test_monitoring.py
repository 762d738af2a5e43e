#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The dashboard and the rules that are shipped, against a real scrape: every metric in them is there, with
the labels they ask for. Where there is a Prometheus ($PROMETHEUS and $PROMTOOL, or in $PATH) it runs
them: each query has an answer, and a daemon that dies raises the alert.

usage: test_monitoring.py kvbrokerd=PATH broker-ctl=PATH exporter=PATH client=PATH libcuda=PATH
       libnvidia-ml=PATH broker=PATH packaging=FOLDER
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request

PROGRAMS = dict(arg.split("=", 1) for arg in sys.argv[1:])
sys.path.insert(0, os.path.dirname(PROGRAMS["broker"]))
from broker import Broker, TENANTS, WAIT_S, report, wait_until  # noqa: E402
from exporter import Exporter  # noqa: E402
from tier_engine import TierEngine  # noqa: E402

RULES = PROGRAMS["packaging"] + "/prometheus/kvbroker.rules.yml"
DASHBOARD = PROGRAMS["packaging"] + "/grafana/kvbroker.json"
ENV = {"FAKECUDA": "gpus=1,mem=8G,node=monitor%d" % os.getpid(),
       "LD_LIBRARY_PATH": os.path.dirname(PROGRAMS["libcuda"]) + ":" + os.path.dirname(PROGRAMS["libnvidia-ml"])}
SCRAPED = {"instance", "job", "le"}  # labels that come with a scrape, or with histograms
NAME = re.compile(r"\bkvbroker[_:][a-zA-Z0-9_:]+")


def tool(name):
    return os.environ.get(name.upper()) or shutil.which(name)


# ---- what is shipped ------------------------------------------------------------------------

def dashboard():
    with open(DASHBOARD) as f:
        return json.load(f)


def panels():
    return [p for p in dashboard()["panels"] if p["type"] != "row"]


def rules():
    """[(alert or record, its name, expression, text)]: the file has one form, so no YAML reader is needed."""
    with open(RULES) as f:
        text = f.read()
    blocks = re.split(r"^ +- (?=alert|record)", text, flags=re.M)[1:]
    found = []
    for b in blocks:
        kind, name = re.match(r"(\w+): (\S+)\n", b).groups()
        found.append((kind, name, re.search(r"^ +expr: (.*)$", b, re.M)[1], b))
    return found


def expressions():
    return [(p["title"], t["expr"], t["legendFormat"]) for p in panels() for t in p["targets"]] + [
        (name, expr, text) for _, name, expr, text in rules()]


# ---- a scrape that has everything -----------------------------------------------------------

class World:
    """A daemon with a GPU, a host tier and an engine, and its exporter."""

    def __init__(self):
        self.used = tempfile.NamedTemporaryFile("w")
        self.used.write("7000 1000")
        self.used.flush()
        self.broker = Broker(PROGRAMS, env=dict(ENV, FAKENVML=self.used.name), devices=["cuda:0=64M"],
                             args=(*TENANTS, "--host-tier", "64M"))
        self.exporter = self.engine = None
        self.exporter = Exporter(PROGRAMS["exporter"], self.broker.dir + "/state/stats")
        self.engine = TierEngine(PROGRAMS["client"], self.broker, "cuda:0", env=ENV)
        assert self.engine.do("grow 1", "grown") == [1] and self.engine.do("put 0 8", "put") == [8]
        assert self.engine.do("get 0 8", "got")[0] == 8
        wait_until(lambda: self.broker.json("gpu", "list")["devices"][0]["others_bytes"], "the GPU is not looked at")

    def end(self):
        if self.engine:
            self.engine.kill()
        if self.exporter:
            self.exporter.kill()
        self.broker.kill()
        self.used.close()


def what_is_asked_for_is_served(world):
    families = world.exporter.metrics()
    samples, every = {}, set(SCRAPED)
    for f in families.values():
        for name, labels in f.samples:
            samples.setdefault(name, set()).update(k for k, _ in labels)
            every.update(k for k, _ in labels)
    for kind, name, _, _ in rules():
        if kind == "record":
            samples[name] = set()
    used = set()
    for where, expr, text in expressions():
        for m in re.finditer(NAME.pattern + r"(\{[^}]*\})?", expr):
            name = m[0].split("{")[0]
            assert name in samples, "%s asks for %s, which is not served" % (where, name)
            used.add(name)
            for label in re.findall(r"(\w+) *[=!]~?", m[1] or ""):
                assert label in samples[name] | {"instance"}, "%s: %s has no label %s" % (where, name, label)
        for words in re.findall(r"\b(?:by|on|without|ignoring|group_left) \(([^)]*)\)", expr):
            assert set(words.replace(" ", "").split(",")) <= every, "%s: %s" % (where, words)
        legend = set(re.findall(r"\{\{ *\$labels\.(\w+)|\{\{(\w+)\}\}", text))
        assert {a or b for a, b in legend} <= every, "%s: %s" % (where, legend)
    return "%d queries, %d metrics" % (len(expressions()), len(used))


def dashboard_is_whole(_world):
    d = dashboard()
    ids = [p["id"] for p in d["panels"]]
    assert len(set(ids)) == len(ids) and d["uid"] == "kvbroker", ids
    variables = {v["name"] for v in d["templating"]["list"]}
    for p in panels():
        assert p["title"] and p["targets"], p
        for t in p["targets"]:
            asked = set(re.findall(r"\$(\w+)", t["expr"])) - {"__rate_interval"}
            assert asked <= variables and "instance" in asked, (p["title"], t["expr"])
    # Boxes do not lie on each other.
    taken = set()
    for p in d["panels"]:
        g = p["gridPos"]
        cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        assert g["x"] + g["w"] <= 24 and not cells & taken, p["title"]
        taken |= cells
    return "%d panels" % len(panels())


def alerts_tell_what_to_do(_world):
    assert len([1 for kind, *_ in rules() if kind == "alert"]) >= 5
    for kind, name, expr, text in rules():
        if kind == "record":
            assert name.startswith("kvbroker:") and name.count(":") == 2, name
            continue
        assert re.search(r"severity: (critical|warning)$", text, re.M), name
        assert "instance" in text and re.search(r"description: .{20}", text), name
    if not tool("promtool"):
        return "no promtool here: their form alone"
    p = subprocess.run([tool("promtool"), "check", "rules", RULES], capture_output=True, text=True, timeout=WAIT_S,
                       check=False)
    assert p.returncode == 0, p
    return "promtool"


# ---- a real Prometheus ----------------------------------------------------------------------

class Prometheus:
    def __init__(self, program, target, folder):
        with socket.create_server(("127.0.0.1", 0)) as s:
            self.url = "http://127.0.0.1:%d" % s.getsockname()[1]
        with open(folder + "/config.yml", "w") as f:
            f.write("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%s]\n"
                    "scrape_configs:\n- job_name: kvbroker\n  static_configs: [{targets: ['127.0.0.1:%d']}]\n"
                    % (json.dumps(os.path.realpath(RULES)), target))
        with open(folder + "/log", "w") as log:
            self.proc = subprocess.Popen(
                [program, "--config.file=" + folder + "/config.yml", "--storage.tsdb.path=" + folder + "/data",
                 "--web.listen-address=" + self.url[len("http://"):]], stdout=log, stderr=log)

    def get(self, path, **words):
        with urllib.request.urlopen(self.url + "/api/v1/" + path + "?" + urllib.parse.urlencode(words),
                                    timeout=WAIT_S) as r:
            answer = json.load(r)
        assert answer["status"] == "success", answer
        return answer["data"]

    def value(self, expr):
        """Of the first series; None while there is none, or no Prometheus yet."""
        try:
            found = self.get("query", query=expr)["result"]
        except OSError:
            return None
        return found and float(found[0]["value"][1])

    def alerts(self):
        return {a["labels"]["alertname"] for a in self.get("alerts")["alerts"]}

    def end(self):
        self.proc.terminate()
        self.proc.wait(WAIT_S)


def prometheus_runs_them(world):
    program = tool("prometheus")
    if not program:
        return "no prometheus here: not run"
    with tempfile.TemporaryDirectory() as folder:
        prometheus = Prometheus(program, world.exporter.port, folder)
        try:
            wait_until(lambda: (prometheus.value("count_over_time(kvbroker_up[1m])") or 0) >= 3, "nothing is scraped")
            # No query is a mistake, and all but those of what need not be have an answer.
            for where, expr, _ in expressions():
                for variable, text in (("$__rate_interval", "1m"), ("$instance", ".*"), ("$device", ".*")):
                    expr = expr.replace(variable, text)
                found = prometheus.get("query", query=expr)["result"]
                assert found or re.search(r"[<>=]=? *[0-9+k]", expr), "%s: no answer to %s" % (where, expr)
            health = prometheus.get("rules")["groups"]
            assert all(r["health"] == "ok" for g in health for r in g["rules"]), health
            assert "KvbrokerDown" not in prometheus.alerts()
            world.broker.proc.kill()
            wait_until(lambda: "KvbrokerDown" in prometheus.alerts(), "the alert does not come")
        finally:
            prometheus.end()
    return "prometheus"


def main():
    cases = [what_is_asked_for_is_served, dashboard_is_whole, alerts_tell_what_to_do, prometheus_runs_them]
    print("1..%d" % len(cases), flush=True)
    world = World()
    try:
        for n, case in enumerate(cases, 1):
            report(n, case.__name__, lambda c=case: c(world))
    finally:
        world.end()


main()
