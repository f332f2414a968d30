"""What a cluster has on this machine, read from the kernel: pods' processes, shims, interfaces, mounts, nftables elements."""
import os, socket, struct
from pathlib import Path

# linux/netfilter/nfnetlink.h, nf_tables.h
NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES = 12, 10
NFT_MSG_NEWSET, NFT_MSG_GETSET, NFT_MSG_NEWSETELEM, NFT_MSG_GETSETELEM = 9, 10, 12, 13
NLM_F_REQUEST, NLM_F_DUMP, NLMSG_ERROR, NLMSG_DONE = 1, 0x300, 2, 3
NFTA_SET_TABLE, NFTA_SET_NAME = 1, 2
NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3


def cluster_group(shim):
    """The cluster's own control group, which holds `shims` and `pods`, found from one of its shims; v1 or v2."""
    best = None
    for line in Path(f"/proc/{shim}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        mount = Path("/sys/fs/cgroup") / controllers if controllers else Path("/sys/fs/cgroup")
        group = (mount / path.lstrip("/")).parent
        if path.endswith("/shims") and (group / "pods").is_dir():
            best = group
            if "pids" in controllers.split(","):
                break
    return best


def pod_groups(root):
    """Pods' groups by uid, found below the cluster's own."""
    found = {}
    for directory, names, _ in os.walk(root):
        for name in list(names):
            if name.startswith("pod") and name != "pods":
                found[name[3:]] = Path(directory) / name
                names.remove(name)
    return found


def processes_of(group):
    """{process id: start time in ticks} of all that runs below a group."""
    found = {}
    for directory, _, files in os.walk(group):
        if "cgroup.procs" not in files:
            continue
        try:
            ids = (Path(directory) / "cgroup.procs").read_text().split()
        except OSError:
            continue
        for one in ids:
            try:
                found[int(one)] = int(Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()[19])
            except (OSError, IndexError):
                pass
    return found


def shims(data_directory):
    """Process ids of the cluster's shims: their executable lies in its data directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "comm").read_text().strip() == "klynge-shim" and \
                        os.readlink(entry / "exe").startswith(str(data_directory)):
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def interfaces():
    return sorted(name for _, name in socket.if_nameindex() if name.startswith("kly"))


def mounts(data_directory):
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(data_directory) in line]


def routes():
    return sorted(line for line in Path("/proc/net/route").read_text().splitlines() if line.startswith("kly"))


def _attributes(data):
    found, at = {}, 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found.setdefault(kind & 0x3FFF, []).append(data[at + 4:at + length])
        at += (length + 3) & ~3
    return found


def _dump(message, answer, family, attributes=b""):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        netlink.settimeout(10)
        body = struct.pack("=BBH", family, 0, 0) + attributes
        kind = NFNL_SUBSYS_NFTABLES << 8 | message
        netlink.send(struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body)
        while True:
            data, at = netlink.recv(1 << 20), 0
            while at + 16 <= len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    code = struct.unpack_from("=i", data, at + 16)[0]
                    raise OSError(-code, f"nftables dump {message}: {os.strerror(-code)}")
                if kind == NFNL_SUBSYS_NFTABLES << 8 | answer:
                    yield _attributes(data[at + 20:at + length])
                at += (length + 3) & ~3


def _text(kind, value):
    value += b"\0"
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def nft_elements():
    """{"family table set": number of elements} of the cluster's tables. nft itself cannot list them all."""
    found = {}
    for family, word in ((2, "ip"), (10, "ip6"), (1, "inet")):
        for one in list(_dump(NFT_MSG_GETSET, NFT_MSG_NEWSET, family)):
            table, name = (one[key][0].rstrip(b"\0") for key in (NFTA_SET_TABLE, NFTA_SET_NAME))
            if not table.startswith(b"klynge"):
                continue
            wanted = _text(NFTA_SET_ELEM_LIST_TABLE, table) + _text(NFTA_SET_ELEM_LIST_SET, name)
            count = 0
            for part in _dump(NFT_MSG_GETSETELEM, NFT_MSG_NEWSETELEM, family, wanted):
                for listed in part.get(NFTA_SET_ELEM_LIST_ELEMENTS, []):
                    count += sum(len(each) for each in _attributes(listed).values())
            found[f"{word} {table.decode()} {name.decode()}"] = count
    return found
