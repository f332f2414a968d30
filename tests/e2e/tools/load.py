"""Calls an address with a new connection for each request until it gets SIGTERM, then prints how many requests there were and which failed.
load.py ADDRESS PORT PATH THREADS"""
import collections
import signal
import socket
import sys
import threading
import time

address, port, path, threads = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
request = f"GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode()
over = threading.Event()
counts, failures, longest = [0] * threads, collections.Counter(), [0.0] * threads


def call():
    # One attempt: a failure is the client's to see.
    with socket.create_connection((address, port), timeout=5) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    if not answer.startswith(b"HTTP/1.1 200") and not answer.startswith(b"HTTP/1.0 200"):
        raise OSError(f"answered {answer[:60]!r}")


def run(number):
    while not over.is_set():
        begun = time.monotonic()
        try:
            call()
        except OSError as error:
            failures[f"{type(error).__name__} {error}"] += 1
        counts[number] += 1
        longest[number] = max(longest[number], time.monotonic() - begun)


signal.signal(signal.SIGTERM, lambda *_: over.set())
workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print(f"requests {sum(counts)} failed {sum(failures.values())} longest_ms {max(longest) * 1000:.0f} {dict(failures)}", flush=True)
