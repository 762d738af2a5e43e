# SPDX-License-Identifier: Apache-2.0
"""Real engines, driven: engine.py in a process of its own, conversations to have with it, and its KV
events as a router hears them."""

import json
import os
import random
import subprocess
import sys
import tempfile
import threading

import tiny_model

HERE = os.path.dirname(os.path.abspath(__file__))
START_S = 300
ANSWER_S = 120
BLOCK = 128  # tokens, vLLM's default on CPUs
CONNECTOR = {"kv_connector": "KVBrokerConnector", "kv_role": "kv_both", "kv_connector_module_path": "kvbroker.vllm"}


def environment(model, sock):
    env = dict(os.environ, VLLM_CPU_KVCACHE_SPACE="1", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1",
               XDG_CACHE_HOME=os.path.join(os.path.dirname(model), "cache"))
    env.pop("KVBROKER_SOCKET", None)
    return dict(env, KVBROKER_SOCKET=sock) if sock else env


class Engine:
    """engine.py in a process group of its own."""

    def __init__(self, model, sock=None, connector=CONNECTOR, **llm):
        self.log = tempfile.TemporaryFile("w+")
        self.proc = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "engine.py"), model, "--connector",
             json.dumps(connector if sock else {}), "--llm", json.dumps({"dtype": "float32", **llm})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            env=environment(model, sock),
            start_new_session=True)
        self.version = self._answer(START_S)["ready"]

    def _answer(self, limit):
        timer = threading.Timer(limit, self.kill)
        timer.start()
        line = self.proc.stdout.readline()
        timer.cancel()
        if not line:
            raise AssertionError("the engine has ended, or took more than %d s:\n%s" % (limit, self.text()[-3000:]))
        return json.loads(line)

    def ask(self, **order):
        self.send(**order)
        return self.receive()

    def send(self, **order):
        self.proc.stdin.write(json.dumps(order) + "\n")
        self.proc.stdin.flush()

    def receive(self):
        return self._answer(ANSWER_S)

    def figures(self):
        found = self.ask(metrics="vllm:kvbroker_")["metrics"]
        return {name[len("vllm:kvbroker_"):]: value for name, value in found.items()}

    def forget(self):
        """The engine's own prefix cache, so that what it finds is the broker's."""
        assert self.ask(call="reset_prefix_cache")["result"] is True

    def find(self, **order):
        """The answer when the broker has something of its one prompt. What was stored a moment ago may still
        be on its way, and on a busy machine for long."""
        for _ in range(100):
            self.forget()
            out = self.ask(**order)
            if out["cached"][0]:
                return out
        raise AssertionError("nothing of it is found: %s" % out)

    def text(self):
        self.log.seek(0)
        return self.log.read()

    def kill(self):
        """As a crash would: no process of it says goodbye."""
        if self.proc.poll() is None:
            os.killpg(self.proc.pid, 9)
        self.proc.wait()


# ---- conversations -----------------------------------------------------------------------------


def conversations(seed=11, n=3):
    """First turns that share a system prompt, and what the user says in the turns after."""
    draw = random.Random(seed)

    def words(count):
        return [draw.randrange(3, tiny_model.VOCAB) for _ in range(count)]

    system = words(4 * BLOCK)
    return [(system + words(BLOCK + 40 * i), [words(90), words(150)]) for i in range(n)]


def talk(engine, said=None, between=None):
    """All turns of all conversations, one request at a time: the answers, and tokens found cached."""
    answers, cached = [], 0
    for first, later in said or conversations():
        history = list(first)
        for turn in [[]] + later:
            history += turn
            if between:
                between()
            out = engine.ask(prompts=[history], max_tokens=24)
            assert out["reasons"] == ["length"], out
            answers.append(out["tokens"][0])
            cached += out["cached"][0] or 0
            history = history + out["tokens"][0]
    return answers, cached


def same(got, want, what):
    for i, (a, b) in enumerate(zip(got, want)):
        assert a == b, "%s: answer %d is %s and not %s" % (what, i, a, b)
    assert len(got) == len(want)


class Events:
    """KV events of an engine, as a router hears them."""

    def __init__(self, where):
        import msgspec
        import zmq
        from vllm.distributed.kv_events import KVEventBatch

        self.endpoint = "ipc://" + where
        self.config = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": self.endpoint}
        self._events = []
        self._decoder = msgspec.msgpack.Decoder(KVEventBatch)
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt_string(zmq.SUBSCRIBE, "")
        self._socket.connect(self.endpoint)

    def heard(self, kind, medium, until=lambda hashes: True):
        """Hashes in events of a kind and medium from the start, in order, until so much was heard."""
        while True:
            hashes = [h for e in self._events if type(e).__name__ == kind and e.medium == medium
                      for h in e.block_hashes]
            if hashes and until(hashes):
                return hashes
            assert self._socket.poll(20000), "no more events; heard %s" % self._events
            self._events += self._decoder.decode(self._socket.recv_multipart()[-1]).events
