#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A whole engine as an exact oracle: whatever the broker does, logits are the same to the last bit.

mini-lm (docs/examples/mini_lm.c) answers the same prompts alone and over a broker: with reuse, from
another process, after pages went down and came back, after movers, engines and brokers were killed,
and with weights that are updated. Each way has its negative: with wrong pages read, or an epoch that
was not bumped, the same comparison must fail. (Pages of one prompt in another order would prove
nothing: positions are in the keys, and attention is a sum.)

usage: test_mini_lm.py kvbrokerd=PATH broker-ctl=PATH mini-lm=PATH libcuda=PATH broker=PATH
"""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

PROGRAMS = dict(arg.split("=", 1) for arg in sys.argv[1:])
sys.path.insert(0, os.path.dirname(PROGRAMS["broker"]))
from broker import WAIT_S, Broker, report, wait_until  # noqa: E402

ENV = {"FAKECUDA": "gpus=2,mem=4G", "LD_LIBRARY_PATH": os.path.dirname(PROGRAMS["libcuda"])}
BLOCK = 16
HOST, GPU = ("--device", "host:0"), ("--device", "cuda:0")


def text(seed, tokens):
    return "".join(random.Random(seed).choices("etaoin shrdlu,.", k=tokens))


class Engine:
    """One mini-lm; it is asked a prompt at a time."""

    def __init__(self, broker, *how):
        env = dict(os.environ, **ENV)
        how = how if broker else (*how, "--no-broker")
        if broker:
            env["KVBROKER_SOCKET"] = broker.sock
        self.proc = subprocess.Popen([PROGRAMS["mini-lm"], "--check", *how], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)

    def say(self, line):
        self.proc.stdin.write(line + "\n")
        self.proc.stdin.flush()

    def hear(self):
        words = self.proc.stdout.readline().split()
        if not words:
            raise AssertionError("mini-lm: %s, %s" % (self.proc.wait(WAIT_S), self.proc.stderr.read()))
        said = dict(zip(words[::2], words[1::2]))
        return {k: v if k in ("answer", "logits") else int(v) for k, v in said.items()}

    def ask(self, prompt):
        self.say(prompt)
        return self.hear()

    def do(self, command):
        self.say(":" + command)
        assert "version" in self.hear()

    def end(self):
        _, err = self.proc.communicate(timeout=WAIT_S)
        assert self.proc.returncode == 0, (self.proc.returncode, err)

    def kill(self):
        self.proc.kill()
        self.proc.communicate()


class Truth:
    """What answers have to be, by weights: engines that have never heard of a broker."""

    def __init__(self):
        self.known = {}

    def of(self, prompt, *how, version=0):
        key = (prompt, how, version)
        if key not in self.known:
            engine = Engine(None, "--run", "alone", *how)
            for _ in range(version):
                engine.do("update")
            self.known[key] = engine.ask(prompt)
            engine.end()
        return self.known[key]


TRUTH = Truth()


def right(said, prompt, *how, **which):
    want = TRUTH.of(prompt, *how, **which)
    assert (said["logits"], said["answer"]) == (want["logits"], want["answer"]), (said, want)
    return said


def wrong(said, prompt, **which):
    """The same comparison has to fail, in words too, of pages that are not those of the prompt."""
    want = TRUTH.of(prompt, **which)
    assert said["reused"] >= 2, "it had no page to be wrong in: %s" % said
    assert said["logits"] != want["logits"] and said["answer"] != want["answer"], (said, want)


def most(prompt):
    """Blocks that can be found of a prompt: all but that of the last token."""
    return (len(prompt) - 1) // BLOCK


def start(devices=("host:0=32M",), tier=None, store=None, where=None):
    where = where or tempfile.mkdtemp(prefix="kvb-mini-lm-")
    args = ("--warm", "0", *(("--host-tier", tier) if tier else ()),
            *(("--store", "%s/store=%s" % (where, store), "--drain", "5000") if store else ()))
    broker = Broker(PROGRAMS, args=args, env=ENV, devices=list(devices), where=where)
    assert broker.code is None, broker.text()
    for device in devices if tier else ():
        wait_until(lambda d=device: "device %s: its tier is ready" % d.split("=")[0] in broker.text(), broker.text)
    return broker


def with_broker(run, *args, **how):
    """Runs a case; afterwards nothing is left behind."""
    def case():
        brokers, engines = [start(**how)], []

        def engine(*options):
            engines.append(Engine(brokers[-1], *options))
            return engines[-1]

        def restart(number=signal.SIGKILL):
            brokers[-1].proc.send_signal(number)
            brokers[-1].proc.wait()
            return lambda: brokers.append(start(where=brokers[0].dir, **how))

        try:
            said = run(brokers[0], engine, *args) if run not in RESTARTING else run(restart, engine, *args)
            for e in engines:
                if e.proc.poll() is None:
                    e.end()
            brokers[-1].check_at_rest()
            brokers[-1].stop()
            return said
        finally:
            for e in engines:
                e.kill()
            for b in brokers:
                b.kill()
    return case


# ---- cases -------------------------------------------------------------------------------------

def reuse(_, engine, *how):
    """A conversation: each turn is the one before, what was answered, and more."""
    e = engine(*how)
    prompt, before, reused = text(1, 200), 0, 0
    for turn in range(5):
        said = right(e.ask(prompt), prompt)
        assert said["reused"] == before, (turn, before, said)
        reused += said["reused"]
        before = len(prompt) // BLOCK
        prompt += "".join(chr(97 + int(t) % 26) for t in said["answer"].split(",")) + text(turn + 2, 90)
    said = right(e.ask(prompt), prompt)
    again = right(e.ask(prompt), prompt)
    assert again["reused"] == most(prompt) and again["sealed"] <= 1, again
    wrong(engine("--wrong-pages", *how).ask(prompt), prompt)
    right(e.ask(prompt), prompt)  # that mistake was its own
    return "%d blocks reused" % reused


def other_process(_, engine, *how):
    """What one has computed another finds, during its life and after it."""
    prompts = [text(seed, 300) for seed in range(4)]
    a, b = engine(*how), engine(*how)
    for p in prompts:
        assert right(a.ask(p), p)["reused"] == 0
        assert right(b.ask(p), p)["reused"] == most(p)
    a.end(), b.end()
    c = engine(*how)
    for p in prompts:
        assert right(c.ask(p), p)["reused"] == most(p)
    longer = prompts[0] + text(9, 100)
    assert right(c.ask(longer), longer)["reused"] >= most(prompts[0])
    wrong(engine("--wrong-pages", *how).ask(longer), longer)


def more_than_fits(e, prompts):
    for p in prompts:
        said = right(e.ask(p), p)
        assert said["reused"] == 0 and said["sealed"] >= most(p), said


def ask_again(e, prompts):
    """Oldest first, so that each has to come from below: pages reused, and how many of those did."""
    reused = below = 0
    for p in prompts:
        said = right(e.ask(p), p)
        reused, below = reused + said["reused"], below + said["below"]
    return reused, below


def from_below(_, engine, *how):
    prompts = [text(seed, 480) for seed in range(14)]
    e = engine(*how)
    more_than_fits(e, prompts)
    reused, below = ask_again(e, prompts)
    assert below > 50, (reused, below)
    reused, below = ask_again(engine(*how), prompts)  # the second time, and somebody else
    assert below > 50, (reused, below)
    for p in prompts[:2]:  # were brought up for it
        said = engine("--wrong-pages", *how).ask(p)
        assert said["below"], said
        wrong(said, p)
    return "%d of %d blocks from below" % (below, reused)


def stored_and_found(restart, engine, *how):
    """The broker is killed and another started: what was in the store is found, by whoever asks."""
    prompts = [text(seed, 480) for seed in range(14)]
    e = engine(*how)
    more_than_fits(e, prompts)
    reused, below = ask_again(e, prompts)
    assert below > 50, (reused, below)
    e.end()
    restart()()
    total, below = ask_again(engine(*how), prompts)  # nothing is in memory
    assert below > 50, (total, below)
    said = engine("--wrong-pages", *how).ask(prompts[0])
    wrong(said, prompts[0])
    return "%d of %d blocks from the store of the one before" % (below, total)


def stopped_and_found(restart, engine, *how):
    """What was in memory when the broker was stopped is in the store, whichever memory it was."""
    prompts = [text(seed, 480) for seed in range(6)]  # fewer than fit
    e = engine(*how)
    more_than_fits(e, prompts)
    e.end()
    restart(signal.SIGTERM)()
    e = engine(*how)
    for p in prompts:
        said = right(e.ask(p), p)
        assert said["reused"] == said["below"] == most(p), said
    wrong(engine("--wrong-pages", *how).ask(prompts[0]), prompts[0])


def mover_pid(broker):
    for line in subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(broker.proc.pid)], capture_output=True,
                               text=True, check=True).stdout.splitlines():
        if "--mover=" in line:
            return int(line.split()[0])
    return None


def mover_killed(broker, engine, *how):
    """Between going down and coming up, and again: its successor brings up what it had written."""
    prompts = [text(seed, 480) for seed in range(14)]
    e = engine(*how)
    more_than_fits(e, prompts)
    total = 0
    for times in (2, 3):
        os.kill(wait_until(lambda: mover_pid(broker), "no mover"), signal.SIGKILL)
        right(e.ask(prompts[0]), prompts[0])  # while there is none
        wait_until(lambda n=times: broker.text().count("its tier is ready") >= n, broker.text)
        _, below = ask_again(e, prompts)
        assert below > 50, below
        total += below
    said = engine("--wrong-pages", *how).ask(prompts[0])
    wrong(said, prompts[0])
    return "%d blocks from below" % total


def broker_killed(restart, engine, *how):
    """At any moment of a request, which is answered as if nothing was; then there is a new one."""
    prompts = [text(seed, 500) for seed in range(3)]
    a, b = engine(*how), engine(*how)
    lost = 0
    for p in prompts:
        right(a.ask(p), p), right(b.ask(p), p)
    for tries, wait_s in enumerate((0.0, 0.01, 0.03, 0.06)):
        p = text(100 + tries, 500)  # not known: it takes its time
        a.say(p), b.say(prompts[tries % 3])
        time.sleep(wait_s)
        again = restart()
        lost += right(a.hear(), p)["again"]
        right(b.hear(), prompts[tries % 3])
        assert right(a.ask(p), p)["reused"] == 0  # without any
        again()
        wait_until(lambda: right(a.ask(p), p)["reused"], "it does not connect to the new one")
        wait_until(lambda: right(b.ask(p), p)["reused"], "the other does not")
    assert lost, "none of the requests was hit"
    wrong(engine("--wrong-pages", *how).ask(p), p)
    return "%d of 4 requests computed again" % lost


def engine_killed(_, engine):
    """In the midst of filling pages: what it published is whole, and what it did not is not there."""
    for tries, wait_s in enumerate((0.0, 0.01, 0.03, 0.06)):
        p = text(tries, 500)
        a, b = engine(), engine()
        right(a.ask(p[:400]), p[:400])
        a.say(p)
        time.sleep(wait_s)
        a.kill()
        assert right(b.ask(p), p)["reused"] >= most(p[:400])
    wrong(engine("--wrong-pages").ask(p), p)


def engine_kicked(broker, engine):
    """An operator ends the connection in the midst of a request: its leases count for nothing."""
    hit = 0
    for tries, wait_s in enumerate((0.0, 0.01, 0.03)):
        p = text(tries, 600)
        e = engine()
        right(e.ask(p[:300]), p[:300])
        e.say(p)
        time.sleep(wait_s)
        code, answer = broker.ask("client", "kick", str(broker.json("client", "list")["clients"][0]["id"]))
        assert code == 0, answer
        hit += right(e.hear(), p)["again"]
        wait_until(lambda: right(e.ask(p), p)["reused"], "it does not connect again")
        e.end()
    assert hit, "none of the requests was hit"
    return "%d of 3 requests computed again" % hit


def update(_, engine, *how):
    """Weights are updated under the same name: nothing of the old ones is reused."""
    how += ("--run", "r")
    prompts = [text(seed, 480) for seed in range(3)]
    p = prompts[-1]
    a, b = engine(*how), engine(*how)
    more_than_fits(a, prompts)
    assert right(a.ask(p), p)["reused"] == right(b.ask(p), p)["reused"] == most(p)
    assert TRUTH.of(p, version=1)["logits"] != TRUTH.of(p)["logits"]

    a.do("update")
    assert right(b.ask(p), p)["reused"] == 0  # has the old weights, and the old ones' KV is gone
    for q in prompts:
        assert right(a.ask(q), q, version=1)["reused"] == 0
    assert right(a.ask(p), p, version=1)["reused"] == most(p)
    said = right(b.ask(p), p)  # what is there now is of weights that it does not have
    assert said["reused"] == said["sealed"] == 0, said
    b.do("follow")
    assert right(b.ask(p), p, version=1)["reused"] == most(p)

    b.do("forget")  # and this is why
    wrong(b.ask(p), p, version=2)


def update_below(broker, engine):
    """As many pages as have to go down, then other weights: what lies below is not found either."""
    prompts = [text(seed, 480) for seed in range(14)]
    a = engine("--run", "r")
    more_than_fits(a, prompts)
    assert right(a.ask(prompts[0]), prompts[0])["below"]
    a.do("forget")
    said = a.ask(prompts[1])  # below, and wrong now
    assert said["below"], said
    wrong(said, prompts[1], version=1)
    a.do("update")
    for p in prompts[2:5]:
        said = right(a.ask(p), p, version=2)
        assert said["reused"] == said["below"] == 0, said


def update_while_there_is_no_broker(restart, engine):
    """A new broker knows no epochs of before: versions do not meet under it."""
    p = text(1, 480)
    a, b = engine("--run", "r"), engine("--run", "r")
    right(a.ask(p), p), right(b.ask(p), p)
    again = restart()
    right(a.ask(p), p)
    a.do("update")
    right(a.ask(p), p, version=1), right(b.ask(p), p)
    again()
    wait_until(lambda: right(b.ask(p), p)["reused"], "it does not connect")
    time.sleep(0.3)
    assert right(a.ask(p), p, version=1)["reused"] == 0
    assert right(a.ask(p), p, version=1)["reused"] == most(p)
    assert right(b.ask(p), p)["reused"] == most(p)
    a.do("forget")
    wrong(a.ask(p), p, version=2)


def other_weights(_, engine):
    """Another seed, another layout, a run: what is not the same is not found."""
    p = text(1, 300)
    right(engine().ask(p), p)
    for how in (("--seed", "2"), ("--packed",), ("--run", "r")):
        truth = how if how[0] == "--seed" else ()
        e = engine(*how)
        assert right(e.ask(p), p, *truth)["reused"] == 0
        assert right(e.ask(p), p, *truth)["reused"] == most(p)
    said = engine("--seed", "2").ask(p)
    assert said["reused"], said
    wrong(said, p)  # had they met, it would have shown


def operator_drops_it(broker, engine):
    """An epoch that an operator bumps costs the pages and nothing else, where weights never change."""
    p = text(1, 300)
    e = engine()
    right(e.ask(p), p)
    code, answer = broker.ask("epoch", "bump", broker.json("prefix", "top")["pages"][0]["digest"])
    assert code == 0, answer
    assert right(e.ask(p), p)["reused"] == 0
    assert right(e.ask(p), p)["reused"] == most(p)


def ranks(_, engine, *how):
    """Heads split over two spaces: a block is found in both or in none."""
    how += ("--ranks", "2")
    p, q = text(1, 300), text(2, 300)
    a, b = engine(*how), engine(*how)
    assert right(a.ask(p), p)["reused"] == 0
    assert right(b.ask(p), p)["reused"] == most(p)
    half = engine("--half", *how)
    assert right(half.ask(q), q)["sealed"]
    assert right(b.ask(q), q)["reused"] == 0
    half.kill()
    assert right(a.ask(q), q)["reused"] == most(q)
    wrong(engine("--wrong-pages", *how).ask(p), p)


def memory_for_a_part(_, engine):
    """Room for less than one prompt: what has no page is computed, and not shared."""
    p = text(1, 1200)
    for _ in range(2):
        e = engine("--packed", "--blocks", "64")
        for _ in range(2):
            said = right(e.ask(p), p)
    assert 0 < said["reused"] < most(p), said
    return "%d of %d blocks" % (said["reused"], most(p))


def command_line():
    def status(*argv, text=""):
        p = subprocess.run([PROGRAMS["mini-lm"], *argv], input=text, capture_output=True, text=True, check=False,
                           env=dict(os.environ, KVBROKER_SOCKET="/nonexistent/socket"), timeout=WAIT_S)
        assert p.returncode == 0 or p.stderr, p
        return p.returncode

    assert status("--help") == 0
    assert status("a prompt") == 0  # a broker that is not there is no failure
    assert status("--no-broker", text="a prompt\nanother\n") == 0
    for argv in (("--device", "disk:0"), ("--ranks", "3"), ("--blocks", "0"), ("--tokens", "x"), ("--seed", "-1"),
                 ("--nothing",), ("",), ("x" * 4096,)):
        assert status("--no-broker", *argv) == 2, argv
    assert status("--no-broker", text=":update\n") == 2
    assert status("--no-broker", "--run", "r", text=":nothing\n") == 2
    assert status("--no-broker", "--run", "r", text=":update\n") == 0


RESTARTING = (broker_killed, update_while_there_is_no_broker, stored_and_found, stopped_and_found)
SMALL, SMALL_GPU = ("host:0=8M",), ("cuda:0=8M",)
CASES = [
    ("reuse", with_broker(reuse)),
    ("reuse_packed", with_broker(reuse, "--packed")),
    ("reuse_gpu", with_broker(reuse, *GPU, devices=("cuda:0=32M",))),
    ("reuse_gpu_packed", with_broker(reuse, "--packed", *GPU, devices=("cuda:0=32M",))),
    ("other_process", with_broker(other_process)),
    ("other_process_gpu", with_broker(other_process, *GPU, devices=("cuda:0=32M",))),
    ("from_below", with_broker(from_below, devices=SMALL, tier="64M")),
    ("from_below_gpu", with_broker(from_below, *GPU, devices=SMALL_GPU, tier="64M")),
    ("from_store", with_broker(from_below, devices=SMALL, store="128M")),
    ("from_store_through_host", with_broker(from_below, devices=SMALL, tier="2M", store="128M")),
    ("from_store_gpu", with_broker(from_below, *GPU, devices=SMALL_GPU, tier="2M", store="128M")),
    ("stored_and_found", with_broker(stored_and_found, devices=SMALL, store="128M")),
    ("stored_and_found_gpu", with_broker(stored_and_found, *GPU, devices=SMALL_GPU, tier="2M", store="128M")),
    ("stopped_and_found", with_broker(stopped_and_found, devices=SMALL, store="128M")),
    ("stopped_and_found_gpu", with_broker(stopped_and_found, *GPU, devices=SMALL_GPU, tier="2M", store="128M")),
    ("mover_killed", with_broker(mover_killed, devices=SMALL, tier="64M")),
    ("mover_killed_gpu", with_broker(mover_killed, *GPU, devices=SMALL_GPU, tier="64M")),
    ("broker_killed", with_broker(broker_killed)),
    ("broker_killed_gpu", with_broker(broker_killed, *GPU, devices=("cuda:0=32M",))),
    ("engine_killed", with_broker(engine_killed)),
    ("engine_kicked", with_broker(engine_kicked)),
    ("update", with_broker(update)),
    ("update_below", with_broker(update_below, devices=SMALL, tier="64M")),
    ("update_stored", with_broker(update_below, devices=SMALL, store="128M")),
    ("update_while_there_is_no_broker", with_broker(update_while_there_is_no_broker)),
    ("other_weights", with_broker(other_weights, devices=("host:0=64M",))),
    ("operator_drops_it", with_broker(operator_drops_it)),
    ("ranks", with_broker(ranks, devices=("host:0=64M",))),
    ("ranks_gpu", with_broker(ranks, *GPU, devices=("cuda:0=32M", "cuda:1=32M"))),
    ("memory_for_a_part", with_broker(memory_for_a_part, devices=("host:0=2M",))),
    ("command_line", command_line),
]


def main():
    print("1..%d" % len(CASES), flush=True)
    for n, (name, run) in enumerate(CASES, 1):
        if re.search(os.environ.get("MINI_LM_ONLY", ""), name):
            report(n, name, run)


main()
