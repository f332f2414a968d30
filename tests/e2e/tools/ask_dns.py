"""Asks a DNS server for an A record over UDP, once. ask_dns.py SERVER NAME: prints the addresses; fails without any."""
import socket, struct, sys

question = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0)
question += b"".join(bytes([len(label)]) + label.encode() for label in sys.argv[2].split(".")) + b"\0\0\1\0\1"
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(3)
    client.connect((sys.argv[1], 53))
    client.send(question)
    answer = client.recv(4096)
count, at = struct.unpack_from(">H", answer, 6)[0], len(question)
for _ in range(count):
    # Every name in our answers is a pointer of two bytes.
    kind, length = struct.unpack_from(">2xH6xH", answer, at)
    if kind == 1:
        print(socket.inet_ntoa(answer[at + 12 : at + 12 + length]))
    at += 12 + length
sys.exit(0 if count else 1)
