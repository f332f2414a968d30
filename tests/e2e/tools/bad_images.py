"""Image archives that lie or want to break out. Writes NAME.tar into a directory, one for each line of what it prints.

    bad_images.py DIRECTORY ESCAPE      ESCAPE: a path on the host that must never come to be, or change
"""
import gzip, hashlib, io, json, os, sys, tarfile, zlib

DIRECTORY, ESCAPE = sys.argv[1:]
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


def entry(name, kind=tarfile.REGTYPE, content=b"", link="", mode=0o755, **more):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mode = kind, len(content), link, mode
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def tar(*entries, **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def digest(data):
    return hashlib.sha256(data).hexdigest()


def archive(name, layers, diff_ids=None, packed=None, paths=None, more=(), configuration=None, manifest=None):
    """A `docker save` archive; `packed` is what the files hold where it is not the layers themselves."""
    if configuration is None:
        configuration = json.dumps({"architecture": MACHINE, "os": "linux", "config": {"Cmd": ["true"]}, "rootfs": {
            "type": "layers", "diff_ids": diff_ids or ["sha256:" + digest(layer) for layer in layers]}}).encode()
    paths = paths or [f"{index}/layer.tar" for index in range(len(layers))]
    if manifest is None:
        manifest = json.dumps([{"Config": "config.json", "RepoTags": [f"bad/{name}:1"], "Layers": paths}]).encode()
    files = [entry("manifest.json", content=manifest), entry("config.json", content=configuration)]
    files += [entry(f"{index}/layer.tar", content=layer) for index, layer in enumerate(packed or layers)]
    write(name, tar(*files, *more))


def write(name, data):
    with open(f"{DIRECTORY}/{name}.tar", "wb") as file:
        file.write(data)
    print(name)


def zeros(length):
    """A gzip stream of a layer with one file of zeros, without holding it; and the layer's digest."""
    info, _ = entry("zeros")
    info.size = length
    pack, whole = zlib.compressobj(9, zlib.DEFLATED, 31), hashlib.sha256()
    parts = []
    block = bytes(1 << 20)
    for data in [info.tobuf(), *([block] * (length >> 20)), bytes(1024)]:
        whole.update(data)
        parts.append(pack.compress(data))
    parts.append(pack.flush())
    return b"".join(parts), "sha256:" + whole.hexdigest()


os.makedirs(DIRECTORY, exist_ok=True)
LINK, HARD, DIR = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
good = tar(entry("bin", DIR), entry("bin/true", content=b"#!/bin/sh\n"))
up = "../" * 30
# Refused, each of them.
archive("dots", [tar(entry(up + ESCAPE.lstrip("/"), content=b"out"))])
archive("dots-inside", [tar(entry("a", DIR), entry("a/../../../../x", content=b"out"))])
archive("hard-link-dots", [tar(entry("stolen", HARD, link=up + "etc/shadow"))])
archive("hard-link-absent", [tar(entry("stolen", HARD, link="etc/shadow"))])
archive("digest", [good], diff_ids=["sha256:" + "0" * 64])
archive("no-digest", [good], diff_ids=["md5:0"])
archive("digest-path", [good], diff_ids=["sha256:" + up + "x"])
archive("more-layers", [good, good], diff_ids=["sha256:" + digest(good)])
archive("layer-cut", [good], packed=[good[:700]])
archive("layer-gzip-cut", [good], packed=[gzip.compress(good)[:-20]])
archive("layer-noise", [os.urandom(4096)])
archive("layer-path", [good], paths=[up + "etc/passwd"])
archive("layer-link", [], diff_ids=["sha256:" + digest(good)], paths=["0/layer.tar"], more=[
    entry("0/layer.tar", LINK, link="/etc/passwd")])
archive("configuration-large", [good], configuration=b'{"x":"' + b"x" * (9 << 20) + b'"}')
archive("configuration-deep", [good], configuration=b'{"a":' * 100_000)
archive("manifest-empty", [good], manifest=b"[]")
archive("manifest-noise", [good], manifest=b"\x00\xff")
archive("whiteout-parent", [good, tar(entry("bin/.wh...", content=b""))])
archive("whiteout-self", [good, tar(entry("bin/.wh..", content=b""))])
bomb, diff_id = zeros(320 << 20)
archive("bomb", [b""], diff_ids=[diff_id], packed=[bomb])
huge = entry("huge")[0]
huge.size = 1 << 60
archive("huge-entry", [huge.tobuf() + bytes(512)])
write("cut", open(f"{DIRECTORY}/digest.tar", "rb").read()[:1500])
write("noise", os.urandom(10_000))
write("empty", b"")
# Taken, because it is what an image may hold; but nothing happens outside of its own directory.
print("--")
archive("absolute", [tar(entry(ESCAPE, content=b"in the image"))])
inside = [entry(os.path.dirname(ESCAPE).lstrip("/").rsplit("/", depth)[0], DIR)
          for depth in range(ESCAPE.count("/") - 2, -1, -1)]
archive("through-a-link", [tar(*inside, entry("out", LINK, link=os.path.dirname(ESCAPE)),
                               entry("out/" + os.path.basename(ESCAPE), content=b"in the image"))])
archive("whiteout-through-a-link", [tar(*inside, entry("out", LINK, link=os.path.dirname(ESCAPE))),
                                    tar(entry("out/.wh." + os.path.basename(ESCAPE) + ".kept"), entry("out/.wh..wh..opq"))])
archive("hard-link-to-a-link", [tar(entry("link", LINK, link=ESCAPE + ".kept"), entry("stolen", HARD, link="link"),
                                    entry("stolen", content=b"written through"))])
