"""Bodies that are too large, too deep, cut off or lies, sent to the API: each is refused in time, and the server goes on.

    bad_requests.py NAMESPACE
"""
import os, socket, ssl, struct, sys, time
from pathlib import Path
from cluster import Cluster, Unanswered

NAMESPACE = sys.argv[1]
DATA = Path(os.environ["WORK"]) / "data"
PATH = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
SECONDS_MAX = 10
MEMORY_BYTES_MAX = 1 << 30
PROTOBUF = "application/vnd.kubernetes.protobuf"


def varint(number):
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes(found + bytes([number]))


def field(number, content):
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def envelope(raw, kind=b"ConfigMap"):
    return b"k8s\0" + field(1, field(1, b"v1") + field(2, kind)) + field(2, raw)


def nested(number, depth):
    """A field in itself, `depth` times, built from the inside."""
    content = b""
    for _ in range(depth):
        content = field(number, content)
        if len(content) > 2 << 20:
            break
    return content


def yaml_bomb():
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 12)]
    return ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bomb}\ndata:\n  " + "\n  ".join(lines)).encode()


def configmap(data, name="bad"):
    return b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"' + name.encode() + b'"},"data":{"a":' + data + b"}}"


CASES = [
    # what, body, content type, wanted code, what the message says
    ("a body of 4 MiB", configmap(b'"' + b"x" * (4 << 20) + b'"'), "application/json", {413}, "too large"),
    ("an object past its kind's limit", configmap(b'"' + b"x" * ((1 << 20) + 1) + b'"'), "application/json", {422}, "Too long"),
    ("no JSON", b"{", "application/json", {400}, ""),
    ("nothing", b"", "application/json", {400}, ""),
    ("half a JSON", configmap(b'"x"')[:-5], "application/json", {400}, ""),
    ("bytes that are no text", configmap(b'"\xff\xfe"'), "application/json", {400}, ""),
    ("JSON a million deep", b"[" * 1_000_000, "application/json", {400, 413}, ""),
    ("objects 100,000 deep", configmap(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "application/json", {400, 413}, ""),
    ("a number without end", configmap(b"1" * 1_000_000), "application/json", {400}, ""),
    ("a list where a map belongs", b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"bad"},"data":[1]}',
     "application/json", {400}, ""),
    ("a million small members", b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"bad"},"data":{' + b",".join(
        b'"%d":""' % number for number in range(250_000)) + b"}}", "application/json", {413, 422}, ""),
    ("another kind", b'{"apiVersion":"v1","kind":"Secret","metadata":{"name":"bad"}}', "application/json", {400}, ""),
    ("aliases that multiply", yaml_bomb(), "application/yaml", {400, 413}, ""),
    ("an alias of itself", b"apiVersion: v1\nkind: ConfigMap\nmetadata: &m {name: bad, x: *m}\n", "application/yaml", {400, 413}, ""),
    ("YAML 100,000 deep", b"[" * 100_000, "application/yaml", {400, 413}, ""),
    ("a tab in YAML", b"apiVersion: v1\n\tkind: x: y\n", "application/yaml", {400}, ""),
    ("no protobuf", b"k8s\0" + b"\xff" * 64, PROTOBUF, {400}, ""),
    ("protobuf without its magic", field(2, b"x"), PROTOBUF, {400}, ""),
    ("a length of 2^63", b"k8s\0" + b"\x12" + b"\xff" * 8 + b"\x7f" + b"x", PROTOBUF, {400}, ""),
    ("a length past the end", envelope(b"\x0a" + varint(1 << 30) + b"x"), PROTOBUF, {400}, ""),
    ("a varint that does not end", envelope(b"\x80" * 1000), PROTOBUF, {400}, ""),
    ("protobuf of 4 MiB", envelope(field(2, b"x" * (4 << 20))), PROTOBUF, {413}, "too large"),
    ("a type nobody speaks", configmap(b'"x"'), "application/x-unknown", {415}, ""),
    ("a patch that is no list", b'{"op":"add"}', "application/json-patch+json", {400, 405, 415}, ""),
]
PATCHES = [
    ("a JSON patch of 20,000 operations", b"[" + b",".join([b'{"op":"add","path":"/data/a","value":"x"}'] * 20_000) + b"]",
     "application/json-patch+json", {413, 422}),
    ("a JSON patch that doubles", b'[{"op":"add","path":"/data/a","value":"' + b"x" * 1000 + b'"},' + b",".join(
        b'{"op":"copy","from":"/data","path":"/data/%d"}' % number for number in range(40)) + b"]",
     "application/json-patch+json", {400, 413, 422}),
    ("a merge patch 100,000 deep", b'{"data":' * 100_000 + b"1" + b"}" * 100_000, "application/merge-patch+json", {400, 413}),
    ("a strategic patch with a strange directive", b'{"data":{"$patch":"explode"}}', "application/strategic-merge-patch+json",
     {400, 422, 500}),
    ("an apply 100,000 deep", b"{a: " * 100_000, "application/apply-patch+yaml", {400, 413}),
]


def memory_bytes(process):
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def check(cluster, problems, what, method, path, body, kind, codes, words=""):
    begun = time.monotonic()
    try:
        code, answer = cluster.request(method, path, body, kind, timeout=SECONDS_MAX * 2)
    except Unanswered as error:
        problems.append(f"{what}: {error}")
        return
    took = time.monotonic() - begun
    if code not in codes or answer.get("kind") != "Status" or words.lower() not in answer.get("message", "").lower():
        problems.append(f"{what}: {code} {str(answer)[:300]}, expected {sorted(codes)} and {words!r}")
    if took > SECONDS_MAX:
        problems.append(f"{what}: the answer took {took:.1f} s")


def half_requests(cluster, count):
    """Connections that never finish what they began; they stay open while the rest is asked."""
    held = []
    for number in range(count):
        stream = cluster.tls.wrap_socket(socket.create_connection((cluster.host, cluster.port), 5),
                                         server_hostname=cluster.host)
        stream.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{" %
                       PATH.encode() if number % 2 else b"GET / HTTP/1.1\r\nX-")
        held.append(stream)
    for _ in range(count):  # not even TLS
        plain = socket.create_connection((cluster.host, cluster.port), 5)
        plain.sendall(struct.pack(">BHH", 22, 0x0301, 16000))
        held.append(plain)
    return held


def main():
    cluster = Cluster(DATA / "kubeconfig")
    server = (DATA / "server.pid").read_text()
    problems = []
    status, _ = cluster.request("POST", PATH, configmap(b'"kept"', "kept"))
    assert status == 201, status
    held = half_requests(cluster, 100)
    for what, body, kind, codes, words in CASES:
        check(cluster, problems, what, "POST", PATH, body, kind, codes, words)
    for what, body, kind, codes in PATCHES:
        path = f"{PATH}/kept" + ("?fieldManager=bad&force=true" if "apply" in kind else "")
        check(cluster, problems, what, "PATCH", path, body, kind, codes)
    for query in ("labelSelector=" + "a," * 4000, "labelSelector=a%20in%20(", "fieldSelector=x%3D%3D%3D", "limit=x",
                  "continue=!!", "resourceVersion=x", "watch=1&resourceVersion=-1"):
        check(cluster, problems, f"GET ?{query[:40]}", "GET", f"{PATH}?{query}", None, "", {400, 410, 422})
    # An address or header without end is refused by the connection itself.
    for what, path in (("an address of 200 kB", PATH + "?labelSelector=" + "a" * 200_000),):
        try:
            code, _ = cluster.request("GET", path, decode=False)
            if code not in (400, 414, 431):
                problems.append(f"{what}: {code}")
        except Unanswered:
            pass
    for stream in held:
        stream.close()
    code, answer = cluster.request("GET", f"{PATH}/kept")
    if code != 200 or answer.get("data") != {"a": "kept"}:
        problems.append(f"the object that nobody was allowed to change: {code} {answer}")
    if (DATA / "server.pid").read_text() != server or not Path(f"/proc/{server}").exists():
        problems.append("the server ended")
    elif memory_bytes(server) > MEMORY_BYTES_MAX:
        problems.append(f"the server has {memory_bytes(server)} bytes of memory")
    else:
        print(f"{len(CASES) + len(PATCHES)} bodies refused; the server has {memory_bytes(server) >> 20} MiB of memory")
    if problems:
        sys.exit("\n".join(problems))


main()
