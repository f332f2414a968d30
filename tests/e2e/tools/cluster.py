"""A plain client of the cluster's API for the cases that need more than kubectl: one HTTPS request, answered or not."""
import base64, http.client, json, os, ssl, subprocess, tempfile, threading, urllib.parse


class Unanswered(Exception):
    """The request broke off or was refused: what it asked for may or may not have happened."""


class Cluster:
    def __init__(self, kubeconfig):
        self.kubectl = os.environ["KUBECTLS"].split()[-1]
        shown = subprocess.run(
            [self.kubectl, "--kubeconfig", kubeconfig, "config", "view", "--raw", "-o", "json"],
            check=True, capture_output=True, timeout=30)
        config = json.loads(shown.stdout)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        address = urllib.parse.urlsplit(cluster["server"])
        self.host, self.port = address.hostname, address.port
        self.tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]))
            pair.write(base64.b64decode(user["client-key-data"]))
            pair.flush()
            self.tls.load_cert_chain(pair.name)
        self.local = threading.local()

    def request(self, method, path, body=None, content_type="application/json", timeout=10, decode=True):
        """(HTTP status, decoded body); Unanswered where no whole answer came."""
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        headers = {"Content-Type": content_type} if data is not None else {}
        try:
            connection = getattr(self.local, "connection", None)
            if connection is None:
                connection = http.client.HTTPSConnection(self.host, self.port, context=self.tls, timeout=timeout)
                self.local.connection = connection
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, (json.loads(text) if decode else text)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.disconnect()
            raise Unanswered(f"{method} {path}: {error!r}") from error

    def disconnect(self):
        """This thread's next request gets a new connection."""
        connection = getattr(self.local, "connection", None)
        if connection is not None:
            connection.close()
        self.local.connection = None

    def get(self, path):
        status, body = self.request("GET", path)
        if status != 200:
            raise Unanswered(f"GET {path}: {status} {body}")
        return body

    def items(self, path):
        return self.get(path)["items"]
