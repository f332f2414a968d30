"""Registries for the case `pull`: Debian's docker-registry behind TLS, with basic and with token authentication, and a front
that misbehaves as real ones do. Runs in the network namespace of the outside machine until it is terminated.

    registry.py DIRECTORY ARCHIVE      keys, storage and logs go to DIRECTORY; ARCHIVE is what scripts/make-image made

    192.0.2.1:5000  the token server            192.0.2.1:5003  the front; the first part of a name says what it does
    192.0.2.1:5001  wants a user, says Basic    192.0.2.9:5004  the storage that the front redirects to
    192.0.2.1:5002  wants a token, says Bearer  192.0.2.1:5005  a certificate that nobody trusts
"""
import base64, ctypes, gzip, hashlib, http.client, http.server, io, json, os, shutil, signal, ssl, subprocess, sys, tarfile
import threading, time, urllib.parse
from pathlib import Path

DIRECTORY, ARCHIVE = Path(sys.argv[1]), sys.argv[2]
PLAIN = ("127.0.0.1", 5998)
USER, PASSWORD = "somebody", "right, with: colons"
LAYER_BYTES = 512 * 1024


def openssl(*words, data=None):
    return subprocess.run(["openssl", *words], check=True, capture_output=True, input=data, cwd=DIRECTORY).stdout


def make_keys():
    """The test's authority, a server key signed by it, one that nobody signed, and the token server's own."""
    (DIRECTORY / "extensions").write_text("subjectAltName=IP:192.0.2.1,IP:192.0.2.9\nextendedKeyUsage=serverAuth\n")
    for name in ("authority", "stranger", "tokens"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.crt", "-days",
                "2", "-subj", f"/CN=test {name}", "-addext", "subjectAltName=IP:192.0.2.1")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=registry")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "authority.crt", "-CAkey", "authority.key", "-CAcreateserial",
            "-out", "server.crt", "-days", "2", "-extfile", "extensions")


def start_registry(name, address, authentication=None, tls=True):
    """A docker-registry; all of them share one storage."""
    configuration = {"version": 0.1, "log": {"level": "warn"}, "http": {"addr": address},
                     "storage": {"filesystem": {"rootdirectory": str(DIRECTORY / "storage")}}}
    if tls:
        configuration["http"]["tls"] = {"certificate": str(DIRECTORY / "server.crt"), "key": str(DIRECTORY / "server.key")}
    if authentication:
        configuration["auth"] = authentication
    path = DIRECTORY / f"{name}.yml"
    path.write_text(json.dumps(configuration))  # JSON is YAML
    program = shutil.which("docker-registry") or "target/tools/usr/bin/docker-registry"
    log = open(DIRECTORY / f"{name}.log", "wb")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}
    prctl = ctypes.CDLL(None).prctl
    return subprocess.Popen([program, "serve", str(path)], stdout=log, stderr=log, env=environment,
                            preexec_fn=lambda: prctl(1, signal.SIGKILL))  # PR_SET_PDEATHSIG


def plain(method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(*PLAIN, timeout=20)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def push_blob(repository, data):
    status, headers, body = plain("POST", f"/v2/{repository}/blobs/uploads/")
    assert status == 202, (status, body)
    location = urllib.parse.urlsplit(headers["Location"])
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    path = f"{location.path}?{location.query}&digest={urllib.parse.quote(digest)}"
    status, _, body = plain("PUT", path, data, {"Content-Type": "application/octet-stream"})
    assert status == 201, (status, body)
    return digest


def unique_layer(seed):
    """A layer of one file that gzip cannot shrink, different for each image: what is here already is never fetched."""
    text = b"".join(hashlib.sha256(f"{seed} {block}".encode()).digest() for block in range(LAYER_BYTES // 32))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("unique")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    return buffer.getvalue()


def push(repository, base, configuration):
    """The test image with one more layer, tag 1, as Docker pushes it: gzip, schema 2. Gives the manifest's digest."""
    layers = [base, unique_layer(repository)]
    configuration = dict(configuration, rootfs={"type": "layers", "diff_ids": [
        "sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]}, history=[])
    document = json.dumps(configuration).encode()
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    packed = [gzip.compress(layer, 1, mtime=0) for layer in layers]
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": {
        "mediaType": "application/vnd.docker.container.image.v1+json", "size": len(document),
        "digest": push_blob(repository, document)}, "layers": [
        {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": len(layer),
         "digest": push_blob(repository, layer)} for layer in packed]}
    status, headers, body = plain("PUT", f"/v2/{repository}/manifests/1", json.dumps(manifest).encode(), {"Content-Type": kind})
    assert status == 201, (status, body)
    return headers["Docker-Content-Digest"]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, form, *arguments):
        with open(DIRECTORY / "requests.log", "a") as log:
            log.write(f"{self.server.server_port} {form % arguments}\n")

    def answer(self, status, body=b"", headers=()):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status, code, message, headers=()):
        self.answer(status, {"errors": [{"code": code, "message": message}]}, headers)


class Tokens(Handler):
    """As Docker Hub's: everybody may pull what is public; who asks for more without a login gets a token that allows nothing."""

    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        login = self.headers.get("Authorization")
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if login and login != expected:
            return self.answer(401, {"details": "incorrect username or password"})
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            if actions == "pull" and (login or name.startswith("public/")):
                access.append({"type": kind, "name": name, "actions": ["pull"]})
        now = int(time.time())
        certificate = "".join((DIRECTORY / "tokens.crt").read_text().splitlines()[1:-1])
        header = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
        claims = {"iss": "tests", "sub": "", "aud": query["service"][0], "exp": now + 300, "nbf": now - 10, "iat": now,
                  "jti": os.urandom(8).hex(), "access": access}
        encode = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=")
        text = encode(json.dumps(header).encode()) + b"." + encode(json.dumps(claims).encode())
        signature = openssl("dgst", "-sha256", "-sign", "tokens.key", data=text)
        self.answer(200, {"token": (text + b"." + encode(signature)).decode(), "expires_in": 300})


class Front(Handler):
    """Passes on to the registry, and does to an answer what the first part of the repository's name says."""
    cut = set()

    def do_GET(self):
        repository = self.path.split("/")[2] if self.path.count("/") > 3 else ""
        blob = "/blobs/" in self.path
        if repository == "limited":
            return self.refuse(429, "TOOMANYREQUESTS", "You have reached your unauthenticated pull rate limit.",
                               [("Retry-After", "1")])
        if repository == "broken":
            return self.answer(503, b"<html>the load balancer has no servers</html>")
        headers = {name: value for name, value in self.headers.items() if name.lower() in ("accept", "range")}
        status, fields, body = plain("GET", self.path, headers=headers)
        large = blob and len(body) > LAYER_BYTES // 4
        if large and repository == "moved":
            return self.answer(307, headers=[("Location", f"https://192.0.2.9:5004{self.path}?signature=x")])
        if large and repository == "downgraded":
            return self.answer(307, headers=[("Location", f"http://192.0.2.9:5006{self.path}")])
        if large and repository == "circular":
            return self.answer(307, headers=[("Location", self.path)])
        if repository == "forged" and "/manifests/sha256:" in self.path:
            body += b"\n"
        if large and repository == "damaged":
            body = body[:1000] + bytes(byte ^ 1 for byte in body[1000:1010]) + body[1010:]
        keep = [(name, fields[name]) for name in ("Content-Type", "Docker-Content-Digest", "Content-Range") if fields[name]]
        once = repository == "flaky" and self.path not in Front.cut
        if large and (repository == "halved" or once):
            Front.cut.add(self.path)
            self.send_response(status)
            for name, value in keep:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            # halved: nothing comes beyond a certain byte, whatever part is asked for.
            begin = int(fields["Content-Range"].split(" ")[1].split("-")[0]) if fields["Content-Range"] else 0
            self.wfile.write(body[:max(0, LAYER_BYTES // 2 - begin)])
            self.close_connection = True
            return self.wfile.flush()
        self.answer(status, body, keep)


class Storage(Handler):
    """Like S3: a second kind of authorization is refused."""

    def do_GET(self):
        if "Authorization" in self.headers:
            return self.answer(400, b"Only one auth mechanism allowed")
        status, _, body = plain("GET", self.path.split("?")[0])
        self.answer(status, body)


def serve(address, handler, key="server"):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(DIRECTORY / f"{key}.crt", DIRECTORY / f"{key}.key")

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def finish_request(self, request, client):  # in the connection's thread: a slow handshake holds up nobody
            with tls.wrap_socket(request, server_side=True) as stream:
                self.RequestHandlerClass(stream, client, self)

        def handle_error(self, request, client):
            with open(DIRECTORY / "requests.log", "a") as log:
                log.write(f"{address}: {sys.exc_info()[1]!r}\n")

    server = Server(address, handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    (DIRECTORY / "storage").mkdir(parents=True)
    make_keys()
    # perl is in every Debian, and its crypt() knows bcrypt, which docker-registry wants
    secret = subprocess.run(["perl", "-e", "print crypt($ARGV[0], q($2y$05$abcdefghijklmnopqrstuu))", PASSWORD], check=True,
                            capture_output=True, text=True).stdout
    (DIRECTORY / "users").write_text(f"{USER}:{secret}\n")
    programs = [
        start_registry("plain", "%s:%d" % PLAIN, tls=False),
        start_registry("basic", "192.0.2.1:5001", {"htpasswd": {"realm": "tests", "path": str(DIRECTORY / "users")}}),
        start_registry("token", "192.0.2.1:5002", {"token": {
            "realm": "https://192.0.2.1:5000/token", "service": "tests", "issuer": "tests",
            "rootcertbundle": str(DIRECTORY / "tokens.crt")}})]
    deadline = time.monotonic() + 20
    while True:
        try:
            if plain("GET", "/v2/")[0] == 200:
                break
        except OSError:
            pass
        if time.monotonic() > deadline or any(program.poll() is not None for program in programs):
            sys.exit("docker-registry does not start:\n" + "".join(log.read_text() for log in DIRECTORY.glob("*.log")))
        time.sleep(0.05)
    with tarfile.open(ARCHIVE) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))[0]
        configuration = json.load(tar.extractfile(manifest["Config"]))
        base = tar.extractfile(manifest["Layers"][0]).read()
    digests = {}
    for repository in ("public/app", "private/app", "login/app", "moved/app", "downgraded/app", "circular/app", "forged/app",
                       "damaged/app", "halved/app", "flaky/app", "fine/app"):
        digests[repository] = push(repository, base, configuration)
    serve(("192.0.2.1", 5000), Tokens)
    serve(("192.0.2.1", 5003), Front)
    serve(("192.0.2.9", 5004), Storage)
    serve(("192.0.2.1", 5005), Front, "stranger")
    (DIRECTORY / "digests.new").write_text("".join(f"{name} {digest}\n" for name, digest in digests.items()))
    (DIRECTORY / "digests.new").rename(DIRECTORY / "ready")
    for program in programs:
        program.wait()
    sys.exit("a docker-registry ended")


main()
