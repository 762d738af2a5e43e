# SPDX-License-Identifier: Apache-2.0
"""The text format of Prometheus, read strictly: what a scraper would forgive is an error here.

Beside the grammar this holds a document to what a scrape needs (a family's samples together, under one
HELP and one TYPE; no sample twice; histograms that add up) and to the customs of names that
`promtool check metrics` looks for.
"""

import math
import re

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
SAMPLE = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)(?:\{(.*)\})? (\S+)\Z")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|\Z)')
NUMBER = re.compile(r"[+-]?(\d+(\.\d+)?([eE][+-]?\d+)?|Inf)\Z")
TYPES = ("gauge", "counter", "histogram")
UNITS = ("_milliseconds", "_ms", "_us", "_ns", "_kb", "_mb", "_kilobytes", "_percent", "_minutes")


class Family:
    def __init__(self, name, text):
        self.name, self.help, self.type = name, text, None
        self.samples = {}  # (name, ((label, value), ...)) -> number


def labels_of(text, line):
    """[(label, value)] in their order."""
    out, at = [], 0
    while at < len(text):
        m = LABEL.match(text, at)
        assert m, "labels: %s" % line
        assert m[1] not in (k for k, _ in out), "a label twice: %s" % line
        assert not m[1].startswith("__"), "a label of Prometheus itself: %s" % line
        out.append((m[1], re.sub(r"\\(.)", lambda e: "\n" if e[1] == "n" else e[1], m[2])))
        at = m.end()
        assert at < len(text) or m[3] == "", "a comma at the end: %s" % line
    return out


def number(text, line):
    assert NUMBER.match(text), "no number: %s" % line
    return float(text.replace("Inf", "inf"))


def head(line, families, done):
    _, what, name, rest = line.split(" ", 3)
    assert NAME.match(name), line
    if what == "HELP":
        assert name not in families, "HELP twice, or samples apart: %s" % line
        assert rest.strip() and "\\" not in rest, line
        families[name] = Family(name, rest)
        return families[name]
    assert what == "TYPE" and done and done.name == name and done.type is None, "TYPE without its HELP: %s" % line
    assert rest in TYPES, line
    done.type = rest
    return done


def sample(line, family):
    m = SAMPLE.match(line)
    assert m, "no sample: %s" % line
    name, labels = m[1], labels_of(m[2], line) if m[2] is not None else []
    assert m[2] is None or labels, "empty braces: %s" % line
    assert family and family.type, "a sample without HELP and TYPE: %s" % line
    suffixes = ("_bucket", "_sum", "_count") if family.type == "histogram" else ("",)
    assert name in [family.name + s for s in suffixes], "a sample of another family: %s" % line
    key = (name, tuple(sorted(labels)))
    assert key not in family.samples, "twice: %s" % line
    family.samples[key] = number(m[3], line)
    if family.type == "counter":
        assert 0 <= family.samples[key] < math.inf, "a counter is finite and not negative: %s" % line


def check_histogram(f):
    bounds = [(float(dict(k[1])["le"].replace("Inf", "inf")), v) for k, v in f.samples.items()
              if k[0] == f.name + "_bucket"]
    assert bounds == sorted(bounds) and len(set(b for b, _ in bounds)) == len(bounds), f.name
    assert [v for _, v in bounds] == sorted(v for _, v in bounds), "buckets go down: %s" % f.name
    assert bounds[-1][0] == math.inf and bounds[-1][1] == f.samples[(f.name + "_count", ())], f.name
    assert f.samples[(f.name + "_sum", ())] >= 0, f.name


def check_customs(f):
    assert f.samples, "no samples: %s" % f.name
    assert (f.type == "counter") == f.name.endswith("_total"), "%s is a %s" % (f.name, f.type)
    assert not f.name.endswith(UNITS + ("_bucket", "_sum", "_count")), f.name
    assert not any(t in f.name.split("_") for t in TYPES), f.name
    assert f.help.endswith("."), f.name
    if f.type == "histogram":
        check_histogram(f)


def parse(text):
    """{name: Family}; AssertionError where it is not as it must be."""
    families, now = {}, None
    assert text.endswith("\n"), "no newline at the end"
    for line in text[:-1].split("\n"):
        assert line == line.strip() and line, "blanks: %r" % line
        if line.startswith("#"):
            now = head(line, families, now)
        else:
            sample(line, now)
    for f in families.values():
        check_customs(f)
    return families


def value(families, name, /, **labels):
    """The one sample of a family that has exactly these labels."""
    return families[name].samples[(name, tuple(sorted(labels.items())))]


# What it must not take, each for one reason.
BAD = (
    "a 1\n", "# HELP a A.\n# TYPE a gauge\na 1", "# HELP a A.\n# TYPE a gauge\na 1\n\n", "# HELP a A.\na 1\n",
    "# TYPE a gauge\na 1\n", "# HELP a A.\n# TYPE a summary\na 1\n", "# HELP a A.\n# TYPE a gauge\nb 1\n",
    "# HELP a A.\n# TYPE a gauge\na 1\na 2\n", '# HELP a A.\n# TYPE a gauge\na{x="1",x="2"} 1\n',
    '# HELP a A.\n# TYPE a gauge\na{x="1",} 1\n', '# HELP a A.\n# TYPE a gauge\na{x="\\q"} 1\n',
    '# HELP a A.\n# TYPE a gauge\na{x=1} 1\n', "# HELP a A.\n# TYPE a gauge\na one\n",
    "# HELP a A.\n# TYPE a counter\na 1\n", "# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n",
    "# HELP a_total A.\n# TYPE a_total counter\na_total -1\n", "# HELP a A.\n# TYPE a gauge\n",
    "# HELP a A.\n# TYPE a gauge\na{} 1\n", "# HELP a_ms A.\n# TYPE a_ms gauge\na_ms 1\n",
    "# HELP a A.\n# TYPE a gauge\na 1\n# HELP b B.\n# TYPE b gauge\nb 1\n# HELP a A.\n# TYPE a gauge\na{x=\"1\"} 1\n",
    '# HELP h H.\n# TYPE h histogram\nh_bucket{le="1"} 3\nh_bucket{le="+Inf"} 2\nh_sum 1\nh_count 2\n',
    '# HELP h H.\n# TYPE h histogram\nh_bucket{le="1"} 1\nh_bucket{le="+Inf"} 2\nh_sum 1\nh_count 3\n',
)
GOOD = ('# HELP a A.\n# TYPE a gauge\na{x="q\\"\\\\\\n, }"} +Inf\na 1.5\n# HELP h H.\n# TYPE h histogram\n'
        'h_bucket{le="0.5"} 1\nh_bucket{le="+Inf"} 2\nh_sum 1.25\nh_count 2\n')


def check_itself():
    parsed = parse(GOOD)
    assert value(parsed, "a", x='q"\\\n, }') == math.inf and value(parsed, "a") == 1.5
    for text in BAD:
        try:
            parse(text)
        except (AssertionError, ValueError):
            continue
        raise AssertionError("it takes %r" % text)
