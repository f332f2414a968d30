"""Makes the root of a machine without a disk: initramfs.py DEBIAN-ROOT TEST-PROGRAM OUTPUT. It runs the program and turns itself off.

busybox of this machine, the kernel's modules for networks and ciphers of Debian's root, and a newc archive written here (cpio may not be there)."""

import os
import sys

root, program, output = sys.argv[1:]
MODULES = ["kernel/net", "kernel/drivers/net", "kernel/crypto", "kernel/lib", "kernel/arch"]
UNWANTED = ["ethernet", "bonding", "hyperv", "wwan", "team", "bluetooth", "sunrpc", "ceph"]
WANTED = "af_packet ipv6 wireguard tun veth bridge vxlan nf_tables nft_chain_nat nft_masq nft_ct nft_fib_ipv4 nft_fib_ipv6 nft_numgen nft_reject nf_conntrack_netlink sctp"
INIT = f"""#!/bin/sh
export PATH=/bin:/sbin RUST_BACKTRACE=0
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp; mount -t tmpfs run /run
for module in {WANTED}; do modprobe $module || echo "no module $module"; done
echo "kernel $(uname -r)"
/test --nocapture --test-threads=2
poweroff -f
"""

archive = open(output, "wb")
count = 0
made = set()


def entry(name, mode, data=b"", major=0, minor=0):
    global count
    count += 1
    path = name.encode() + b"\0"
    fields = [count, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(path), 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    for part in (head, data):
        archive.write(part + b"\0" * (-len(part) % 4))


def directory(path):
    if path and path not in made:
        directory(os.path.dirname(path))
        made.add(path)
        entry(path, 0o40755)


def file(path, source, mode):
    directory(os.path.dirname(path))
    with open(source, "rb") as content:
        entry(path, 0o100000 | mode, content.read())


for path in ["bin", "sbin", "proc", "sys", "dev", "tmp", "etc", "run"]:
    directory(path)
file("bin/busybox", "/bin/busybox", 0o755)
for applet in ["bin/sh", "bin/mount", "bin/uname", "bin/poweroff", "bin/sleep", "sbin/modprobe"]:
    entry(applet, 0o120777, b"/bin/busybox")
entry("dev/console", 0o20600, b"", 5, 1)
entry("dev/null", 0o20666, b"", 1, 3)
modules = os.path.join(root, "usr/lib/modules")
for base, _, names in os.walk(modules):
    inside = "/".join(os.path.relpath(base, modules).split("/")[1:])
    if inside and not any(inside.startswith(part) for part in MODULES) or any(part in inside for part in UNWANTED):
        continue
    for name in names:
        source = os.path.join(base, name)
        if os.path.isfile(source) and not os.path.islink(source):
            file("lib/modules/" + os.path.relpath(source, modules), source, 0o644)
file("test", program, 0o755)
entry("init", 0o100755, INIT.encode())
entry("TRAILER!!!", 0)
archive.close()
