# SPDX-License-Identifier: Apache-2.0
"""What the Xen lab boots, from Debian packages, kept in .cache between runs: Xen, a Debian kernel for dom0 and guests, the
initial RAM disk of the guests, and that of dom0, which is all that dom0 has.

dom0's initial RAM disk is made of two archives: what comes from packages, and what was built here (our programs and
the libraries that they want), which is made anew for each session.
"""

import gzip
import hashlib
import lzma
import os
import re
import struct
import subprocess
from pathlib import Path

from lib import packages
from lib.cpio import Archive
from lib.images import building, busybox, initrd, module_files, write_whole
from lib.paths import CACHE, TOP, built, program, system_program

KERNEL_PACKAGE = "linux-image-amd64"  # a metapackage: it depends on the kernel of the day
PACKAGE_GROUP = "xenlab"
KERNEL_PACKAGE_32 = "linux-image-686-pae"
PACKAGE_GROUP_32 = "xenlab32"
HERE = Path(__file__).resolve().parent
LIBRARIES = "lib/x86_64-linux-gnu"
TOOLS = "usr/lib/xen-4.17/bin"
TOOL_PROGRAMS = ("xl", "xenstored", "xenconsoled", "xen-init-dom0", "libxl-save-helper")
DOM0_MODULES = ("xen_privcmd", "xenfs", "xen_evtchn", "xen_gntdev", "xen_gntalloc", "xen_blkback", "xen_netback", "bridge", "loop", "dm_log_writes",
                "tun", "veth", "af_packet", "ext4", "virtio_pci", "virtio_console", "9pnet_virtio", "9p")
GUEST_MODULES = ("xen_blkfront", "xen_netfront", "af_packet", "ipv6", "crc32c_generic", "ext4")
PROGRAMS = ("creedenced", "creedence-vbd", "creedence-cache", "creedence-switch", "creedence")
GUEST_TOOLS = ("guest-writer", "guest-disk", "guest-net")
DOM0_TOOLS = ("xen-check", "log-writes")
OURS = "opt/creedence"
# What Xen calls reserved in the four top entries of a PAE guest's page tables: bits 63 to 52, 8 to 5, 2 and 1. QEMU sets one of them,
# 5, as if those entries were accessed like others; a CPU does not. Xen would find none of a 32-bit guest's instructions.
RESERVED_PAE, RESERVED_PAE_QEMU = (struct.pack("<Q", 0xfff00000000001e6 & ~accessed) for accessed in (0, 1 << 5))


def unpacked():
    """The packages, unpacked."""
    directory = CACHE / "xen-packages"
    with building("xen-packages"):
        if not directory.exists():
            packages.unpack(directory, packages.group(PACKAGE_GROUP), KERNEL_PACKAGE)
    return directory


def _only(directory, pattern):
    [path] = directory.glob(pattern)
    return path


def xen():
    """The hypervisor, as QEMU boots it (multiboot), with one bit changed for 32-bit guests."""
    path = CACHE / "xen-hypervisor-pae"
    with building("xen-hypervisor"):
        packed = _only(unpacked(), "boot/xen-4.17-amd64.gz")
        if not path.exists() or path.stat().st_mtime < packed.stat().st_ctime:
            write_whole(path, gzip.decompress(packed.read_bytes()).replace(RESERVED_PAE, RESERVED_PAE_QEMU))
    return path


def takes_32_bits():
    """Whether that bit was found."""
    return RESERVED_PAE_QEMU in xen().read_bytes()


def kernel():
    return _kernel("xen-kernel", unpacked())


def _kernel(name, packages_in):
    """The kernel as an ELF file: a PV domain's loader would take minutes, under TCG, to unpack it."""
    path = CACHE / name
    with building(name):
        packed = _only(packages_in, "boot/vmlinuz-*")
        if not path.exists() or path.stat().st_mtime < packed.stat().st_ctime:
            image = packed.read_bytes()
            # The boot protocol's header: where the payload is, after the sectors of the 16-bit part (x86/boot.rst).
            offset, length = struct.unpack_from("<II", image, 0x248)
            start = ((image[0x1f1] or 4) + 1) * 512 + offset
            write_whole(path, lzma.LZMADecompressor().decompress(image[start:start + length]))
    return path


def modules():
    return _only(unpacked(), "lib/modules/*")


def guest_tools():
    return [built(f"tests/{name}") for name in GUEST_TOOLS]


def guest_initrd():
    """The initial RAM disk of the guests, with the tools that are built here."""
    return initrd("xen", module_files(modules(), GUEST_MODULES)).read_bytes() + _tools_archive(guest_tools())


def _tools_archive(tools):
    archive = Archive()
    for path in tools:
        archive.file(f"tools/{path.name}", path.read_bytes(), executable=True)
    return archive.bytes()


def _unpacked_32():
    """Debian's packages for i386: a kernel, a shell, a C library for the guest tools."""
    directory = CACHE / "xen-packages-i386"
    with building("xen-packages-i386"):
        if not directory.exists():
            environment = packages.foreign("i386", CACHE / "apt-i386")
            packages.unpack(directory, packages.group(PACKAGE_GROUP_32), KERNEL_PACKAGE_32, environment)
    return directory


def _guest_tools_32(directory):
    """The guest tools, made with this machine's compiler and the other architecture's C library."""
    root = _unpacked_32()
    places = [root / "usr/lib/i386-linux-gnu", _only(root, "usr/lib/gcc/i686-linux-gnu/*")]
    for name in GUEST_TOOLS:
        done = subprocess.run([system_program("gcc", "gcc"), "-m32", "-static", "-pthread", "-O2", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64",
                               f"--sysroot={root}", *(f"{option}{place}/" for place in places for option in ("-B", "-L")),
                               TOP / "tests/guest" / f"{name}.c", "-o", directory / name],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
    return [directory / name for name in GUEST_TOOLS]


def guest_32(directory):
    """(kernel, initial RAM disk) of a 32-bit guest, as files in the directory."""
    root = _unpacked_32()
    shell = (root / "bin/busybox").read_bytes()
    modules = module_files(_only(root, "lib/modules/*"), GUEST_MODULES)
    ramdisk = directory / "initrd-32"
    ramdisk.write_bytes(initrd("xen-32", modules, shell).read_bytes() + _tools_archive(_guest_tools_32(directory)))
    return _kernel("xen-kernel-32", root), ramdisk


def libraries_of(files, search=()):
    """The shared libraries that programs need, and the loader: {name in the library directory: path}."""
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(str(path) for path in search)}
    found = {}
    for file in files:
        shown = subprocess.run(["ldd", file], env=environment, capture_output=True, text=True, check=True).stdout
        assert "not found" not in shown, f"{file} needs libraries that are not there: {shown}"
        for name, path in re.findall(r"^\t(\S+) => (/\S+)", shown, re.MULTILINE):
            found[name] = Path(path).resolve()
    return found


def _add_libraries(archive, libraries):
    for name, path in sorted(libraries.items()):
        archive.file(f"{LIBRARIES}/{name}", path.read_bytes(), executable=True)


def _add_dom0_tree(archive):
    for name in ("dev", "proc", "sys", "tmp", "root", "share", "mnt", "run/xen", "run/xenstored", "run/lock", "var/lib/xen", "var/lib/xenstored",
                 "var/log/xen/console"):
        archive.directory(name)
    archive.symlink("var/run", "../run")
    archive.symlink("var/lock", "../run/lock")
    archive.symlink(f"usr/{LIBRARIES}", f"../../{LIBRARIES}")
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", busybox(), executable=True)
    archive.symlink("bin/sh", "busybox")
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    archive.file("etc/group", b"root:x:0:\n")
    # Guests are few and small: dom0's memory stays as it is.
    archive.file("etc/xen/xl.conf", b'autoballoon="off"\nclaim_mode=0\n')


def _add_xen_tools(archive, root):
    """xl and its daemons, with the libraries that they need."""
    tools = [root / TOOLS / name for name in TOOL_PROGRAMS]
    for path in tools:
        archive.file(f"{TOOLS}/{path.name}", path.read_bytes(), executable=True)
        archive.symlink(f"usr/sbin/{path.name}", f"/{TOOLS}/{path.name}")
    stores = [path for path in (root / "usr/bin").glob("xenstore*") if not path.is_symlink()]
    for path in (root / "usr/bin").glob("xenstore*"):
        if path.is_symlink():
            archive.symlink(f"usr/bin/{path.name}", os.readlink(path))
        else:
            archive.file(f"usr/bin/{path.name}", path.read_bytes(), executable=True)
    _add_libraries(archive, libraries_of([*tools, *stores], [root / "usr" / LIBRARIES]))
    archive.file("lib64/ld-linux-x86-64.so.2", Path("/lib64/ld-linux-x86-64.so.2").read_bytes(), executable=True)
    archive.file(f"{LIBRARIES}/libgcc_s.so.1", Path(f"/{LIBRARIES}/libgcc_s.so.1").read_bytes(), executable=True)


def _add_modules(archive):
    directory = modules()
    target = f"lib/modules/{directory.name}"
    for path in module_files(directory, DOM0_MODULES):
        archive.file(f"{target}/{path.relative_to(directory)}", path.read_bytes())
    for name in ("modules.dep", "modules.alias", "modules.symbols", "modules.builtin"):
        archive.file(f"{target}/{name}", (directory / name).read_bytes())


def _dom0_base():
    """What comes from packages, and the lab's own scripts."""
    archive = Archive()
    _add_dom0_tree(archive)
    _add_xen_tools(archive, unpacked())
    _add_modules(archive)
    archive.file("lab/kernel", kernel().read_bytes())
    archive.file("init", (HERE / "dom0" / "init").read_bytes(), executable=True)
    for script in sorted((HERE / "dom0").glob("*-lab")):
        archive.file(f"etc/xen/scripts/{script.name}", script.read_bytes(), executable=True)
    return archive.bytes()


def dom0_base():
    """The path of the first archive. It is made again when anything changes that goes into it."""
    inputs = hashlib.sha256(str(unpacked().stat().st_ctime_ns).encode() + str(DOM0_MODULES).encode())
    for path in [HERE / "images.py", *sorted((HERE / "dom0").iterdir()), *sorted(libraries_of(["/bin/true"]).values())]:
        inputs.update(path.read_bytes())
    path = CACHE / f"xen-dom0-{inputs.hexdigest()[:16]}.cpio"
    with building("xen-dom0"):
        if not path.exists():
            for stale in CACHE.glob("xen-dom0-*.cpio"):
                stale.unlink()
            write_whole(path, _dom0_base())
    return path


def dom0_ours():
    """The second archive: our programs with the libraries that they want, the scripts for xl, and what guests run."""
    archive = Archive()
    programs = [program(name) for name in PROGRAMS] + [built(f"tests/{name}") for name in DOM0_TOOLS]
    for path in [*programs, *guest_tools()]:
        archive.file(f"{OURS}/bin/{path.name}", path.read_bytes(), executable=True)
    _add_libraries(archive, libraries_of(programs))
    for script in sorted((TOP / "contrib" / "xen").glob("*-creedence")):
        archive.file(f"etc/xen/scripts/{script.name}", script.read_bytes(), executable=True)
    archive.file("lab/initrd", guest_initrd())
    return archive.bytes()
