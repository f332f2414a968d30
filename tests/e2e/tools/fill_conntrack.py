"""Fills this network namespace's table of tracked connections with ones that nobody answers. fill_conntrack.py ADDRESS: somebody who drops them."""
import pathlib, socket, sys

PROC = pathlib.Path("/proc/sys/net/netfilter")
most = int((PROC / "nf_conntrack_max").read_text())


def count():
    return int((PROC / "nf_conntrack_count").read_text())


for _ in range(most // 60000 + 3):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for port in range(1024, 61024):
            try:
                client.sendto(b"", (sys.argv[1], port))
            except OSError:
                pass  # the answer to an earlier one that nobody listens, or the kernel dropped this one: the table is full
    if count() > most * 19 // 20:
        break
print(f"{count()} of {most} connections")
sys.exit(0 if count() > most * 9 // 10 else 1)
