"""A resolver outside the cluster: answers every A question with one address. resolver.py BIND-ADDRESS ANSWER"""
import socket
import sys

listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.bind((sys.argv[1], 53))
print("listening", flush=True)
while True:
    question, client = listener.recvfrom(512)
    end = question.index(b"\0", 12) + 5
    is_a = question[end - 4 : end - 2] == b"\0\1"
    head = question[:2] + b"\x81\x80" + b"\0\1" + (b"\0\1" if is_a else b"\0\0") + b"\0\0\0\0"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\x1e\0\4" + socket.inet_aton(sys.argv[2]) if is_a else b""
    listener.sendto(head + question[12:end] + answer, client)
