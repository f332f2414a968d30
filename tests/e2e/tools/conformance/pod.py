"""What runs in the pods of the network conformance tests: servers that say who they are, and a client that does what it is asked.

pod.py [--http PORT] [--https PORT] [--udp PORT] [--linger SECONDS] [--bind ADDRESS]     each port option may be repeated
GET /hostname and /clientip answer in plain text, POST /do runs one of `doings`, /exit ends the process; everything else says in JSON how it was
asked. The environment variable SERVE_PORT_<port> makes a port answer with that text. UDP understands `hostname`, `clientip`, `echo TEXT`.
"""
import argparse
import http.client
import http.server
import json
import os
import random
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.parse


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *words):
        pass

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urllib.parse.urlsplit(self.path).path
        port = self.server.server_address[1]
        served = os.environ.get(f"SERVE_PORT_{port}")
        kind = "text/plain"
        if path == "/hostname":
            text = socket.gethostname()
        elif path == "/clientip":
            text = f"{self.client_address[0]}:{self.client_address[1]}"
        elif path == "/do" and self.command == "POST":
            kind, request = "application/json", json.loads(body)
            try:
                text = json.dumps({"result": doings[request.pop("do")](**request)})
            except Exception as error:  # whatever it was: the test wants to read it
                text = json.dumps({"error": repr(error)})
        elif served is not None and "JSON" not in os.environ:
            kind, text = ("text/html" if served.startswith("<") else "text/plain"), served
        else:
            kind = "application/json"
            text = json.dumps({"method": self.command, "path": self.path, "body": served, "received": body.decode(errors="replace"),
                               "headers": dict(self.headers)})
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def server_bind(self):
        """Without the name look-up of its base class."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = socket.gethostname(), self.server_address[1]


def serve_http(bind, port, secure):
    server = Server((bind, port), Handler)
    if secure:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain("/conform/tls.crt", "/conform/tls.key")
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def serve_udp(bind, port):
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((bind, port))

    def run():
        while True:
            data, client = listener.recvfrom(65536)
            words = data.decode(errors="replace").strip().split(" ", 1)
            if words[0] == "hostname":
                answer = socket.gethostname()
            elif words[0] == "clientip":
                answer = f"{client[0]}:{client[1]}"
            else:
                answer = words[-1]
            listener.sendto(answer.encode(), client)

    threading.Thread(target=run, daemon=True).start()


def failure(error):
    """One word for the outcomes that tests tell apart."""
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, (TimeoutError, socket.timeout)):
        return "timed out"
    if isinstance(error, socket.gaierror):
        return "no such name"
    return repr(error)


def do_http(host, port, path="/hostname", times=1, timeout=2, pause=0.0, source=""):
    """The bodies of GETs, each over a connection of its own (from the address `source`); `!why` where none came."""
    found = []
    for _ in range(times):
        try:
            connection = http.client.HTTPConnection(host, port, timeout=timeout, source_address=(source, 0) if source else None)
            connection.request("GET", path, headers={"Connection": "close"})
            found.append(connection.getresponse().read().decode())
            connection.close()
        except (OSError, http.client.HTTPException) as error:
            found.append("!" + failure(error))
        time.sleep(pause)
    return found


def do_udp(host, port, message="hostname", times=1, timeout=1, source_port=0, pause=0.0):
    """The answers to datagrams, each from a port of its own unless `source_port` is given; `!why` where none came."""
    found = []
    for _ in range(times):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(timeout)
            try:
                client.bind(("", source_port))
                client.connect((host, port))
                client.send(message.encode())
                found.append(client.recv(65536).decode())
            except OSError as error:
                found.append("!" + failure(error))
        time.sleep(pause)
    return found


TYPES = {"A": 1, "CNAME": 5, "PTR": 12, "TXT": 16, "AAAA": 28, "SRV": 33}


def name_at(message, at):
    labels, jumps, after = [], 0, None
    while True:
        length = message[at]
        if length & 0xC0:
            after = at + 2 if after is None else after
            at, jumps = (length & 0x3F) << 8 | message[at + 1], jumps + 1
            assert jumps < 20, "names that point in circles"
        elif length == 0:
            return ".".join(labels) + ".", (at + 1 if after is None else after)
        else:
            labels.append(message[at + 1:at + 1 + length].decode())
            at += 1 + length


def ask(server, name, kind, tcp, timeout):
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    number = random.randrange(65536)
    query = struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + question + b"\0" + struct.pack("!HH", TYPES[kind], 1)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as client:
        client.settimeout(timeout)
        client.connect((server, 53))
        if tcp:
            client.sendall(struct.pack("!H", len(query)) + query)
            stream = client.makefile("rb")
            message = stream.read(struct.unpack("!H", stream.read(2))[0])
        else:
            client.send(query)
            message = client.recv(4096)
    assert message[:2] == query[:2], "an answer to another question"
    code, answers = message[3] & 15, []
    at = name_at(message, 12)[1] + 4
    for _ in range(struct.unpack_from("!H", message, 6)[0]):
        owner, at = name_at(message, at)
        kind_number, _, ttl, length = struct.unpack_from("!HHIH", message, at)
        at += 10
        data = message[at:at + length]
        if kind_number == 1:
            value = socket.inet_ntoa(data)
        elif kind_number in (5, 12):
            value = name_at(message, at)[0]
        elif kind_number == 33:
            value = "%d %d %d " % struct.unpack_from("!HHH", data) + name_at(message, at + 6)[0]
        else:
            value = data.hex()
        words = [word for word, one in TYPES.items() if one == kind_number]
        answers.append({"name": owner, "type": words[0] if words else kind_number, "value": value, "ttl": ttl})
        at += length
    return code, answers


def do_dns(name, type="A", tcp=False, timeout=2):
    """What the pod's own resolver answers, by the pod's own search list, as the resolver library does it."""
    servers, search, ndots = [], [], 1
    for line in open("/etc/resolv.conf"):
        words = line.split()
        if words[:1] == ["nameserver"]:
            servers.append(words[1])
        elif words[:1] == ["search"]:
            search = words[1:]
        elif words[:1] == ["options"]:
            ndots = next((int(word[6:]) for word in words if word.startswith("ndots:")), ndots)
    if name.endswith("."):
        names = [name]
    else:
        whole, longer = [name + "."], [f"{name}.{domain}." for domain in search]
        names = whole + longer if name.count(".") >= ndots else longer + whole
    for one in names:
        code, answers = ask(servers[0], one, type, tcp, timeout)
        if answers:
            return {"name": one, "code": code, "answers": answers}
    return {"name": one, "code": code, "answers": []}


def do_resolve(host):
    """Addresses by the C library: /etc/hosts, search list and all."""
    try:
        return sorted({one[4][0] for one in socket.getaddrinfo(host, None, socket.AF_INET)})
    except socket.gaierror as error:
        return ["!" + str(error)]


def do_https(host, port, path, timeout=5):
    """The API as programs in pods call it: with the authority and the token that are mounted."""
    mounted = "/var/run/secrets/kubernetes.io/serviceaccount"
    tls = ssl.create_default_context(cafile=f"{mounted}/ca.crt")
    connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=tls)
    connection.request("GET", path, headers={"Authorization": "Bearer " + open(f"{mounted}/token").read(), "Connection": "close"})
    answer = connection.getresponse()
    return {"status": answer.status, "body": answer.read().decode()}


def do_sh(command, timeout=20):
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=timeout)
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr}


doings = {"http": do_http, "udp": do_udp, "dns": do_dns, "resolve": do_resolve, "https": do_https, "sh": do_sh}


def main():
    options = argparse.ArgumentParser()
    for name in ("--http", "--https", "--udp"):
        options.add_argument(name, type=int, action="append", default=[])
    options.add_argument("--bind", default="0.0.0.0")
    options.add_argument("--linger", type=float, default=0)
    chosen = options.parse_args()
    # blocked before the servers' threads begin, so that no thread ends the process in its own way
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    for port in chosen.http:
        serve_http(chosen.bind, port, False)
    for port in chosen.https:
        serve_http(chosen.bind, port, True)
    for port in chosen.udp:
        serve_udp(chosen.bind, port)
    print("serving", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    time.sleep(chosen.linger)
    sys.exit(0)


main()
