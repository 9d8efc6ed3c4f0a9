# SPDX-License-Identifier: Apache-2.0
"""A machine that runs Xen, dom0 and real guests, under QEMU without KVM.

    with Lab(run_dir) as lab:                   # or Lab(run_dir, snapshot)
        lab.dom0.check("xl list")
        guest = lab.create("u1", disks=[...], cards=[...]).wait_ready()
        guest.check("dd if=/dev/xvda of=/dev/null bs=1M count=1")
        lab.destroy(guest)

dom0 and each guest have a shell of their own (lib/console.py), on ports of a virtio serial device of dom0's, so that
commands in several of them can run at the same time. `lab.share` is a directory that is /share in dom0.

A snapshot is the machine's memory, as a memfd, and the state of its devices. Machines that start from it map the memory and
keep what they change to themselves, so that each is there at once, and any number can be had from one boot. The machine that
was saved is gone.
"""

import json
import os
import re
import shlex
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from lib.console import Console, GuestError
from lib.images import READY_MARK, guest_archive
from lib.paths import system_program
from lib.process import Process, wait_until
from xen import images

MACHINE_MIB = 3072  # what is not used is not there: the file is sparse
DOM0_MIB = 448
GUEST_MIB = 112
GUEST_PORTS = 6  # guests whose console the tests can have at the same time
BOOT_TIMEOUT_S = 120  # 7 s on an idle machine
BOOT_TRIES = 3
PVH_BOOT_S = 45  # 6 s on an idle machine
# What Xen says, and ends, if QEMU's clock stood still while it was looked at: this machine had too much to do.
NO_TIMER = "IO-APIC + timer doesn't work"
# Nothing here has to be secure, and TCG is slow: no mitigations, no self-tests. QEMU has no invariant TSC, so Xen emulates it for a PVH
# dom0: random offsets of the kernel's stack would end each system call with a way to the hypervisor and back.
KERNEL_ARGS = ("panic=-1 quiet loglevel=4 randomize_kstack_offset=off rodata=off swiotlb=512 cryptomgr.notests mitigations=off tsc=reliable nowatchdog audit=0 "
               "apparmor=0 lsm=none random.trust_cpu=on")
# Without the x2APIC, a PVH guest is twice as fast here.
KIND_ARGS = {"pv": "", "pvh": " nox2apic"}


@dataclass(frozen=True)
class Machine:
    """What a kind of dom0 wants of QEMU and of Xen."""
    board: str
    devices: tuple = ()
    virtio: str = ""  # options of each virtio device
    xen_args: str = ""


# A PVH dom0's addresses are not the machine's: what its devices read and write goes through an IOMMU. Intel's, because QEMU cannot
# save AMD's; its page tables are not those that the processor uses, which is AMD's.
MACHINES = {"pv": Machine("pc"),
            "pvh": Machine("q35,kernel-irqchip=split", ("-device", "intel-iommu,intremap=on"), ",iommu_platform=on,disable-legacy=on",
                           " dom0=pvh iommu=no-sharept")}


class Qmp:
    """QEMU's monitor."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rwb")
        self.file.readline()
        self.call("qmp_capabilities")

    def call(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "error" in answer:
                raise RuntimeError(f"QEMU: {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


@dataclass
class Snapshot:
    memory: int  # a descriptor
    devices: Path
    initrd: Path  # QEMU loads it again, to no effect
    guests: dict  # those that run: name -> port of the console
    dom0_kind: str

    def close(self):
        os.close(self.memory)


@dataclass
class Disk:
    """A disk of a guest as xl has it: `options` without target, which stands last."""
    target: str
    vdev: str = "xvda"
    options: str = "access=rw,format=raw,script=block-lab"

    def text(self):
        return f"vdev={self.vdev},{self.options},target={self.target}"


@dataclass
class Card:
    mac: str
    options: str = "script=vif-lab,bridge=xenbr0"

    def text(self):
        return f"mac={self.mac},{self.options}"


class SerialConsole(Console):
    """A console at a port of the machine's serial device."""

    def __init__(self, name, run_dir, path):
        super().__init__(name, run_dir / f"{name}.console")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.open(self.socket.makefile("rb"), self.socket.makefile("wb"))

    def wait_ready(self, timeout_s=60):
        self.wait_for(f"^{READY_MARK}\n", timeout_s)
        return self

    def close(self):
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.wait_closed(5)
        self.socket.close()


class Domain(SerialConsole):
    """A guest. `port` is where its console is; after a reboot it is another domain: reconnect() first."""

    def __init__(self, lab, name, port):
        self.lab = lab
        self.port = port
        super().__init__(name, lab.run_dir, lab.port_path(port))

    @property
    def domid(self):
        return int(self.lab.dom0.check(f"xl domid {self.name}"))

    def connect(self):
        self.lab.dom0.check(f"console {self.port} {self.name}")
        return self

    def is_there(self):
        return self.lab.dom0.run(f"xl domid {self.name} 2>/dev/null")[0] == 0


class Lab:
    """The machine, booted (with a dom0 of a kind of MACHINES), or from a snapshot."""

    def __init__(self, run_dir, snapshot=None, dom0_kind="pv"):
        self.run_dir = Path(run_dir)
        self.share = self.run_dir / "share"
        self.share.mkdir(exist_ok=True)
        self.snapshot = snapshot
        self.dom0_kind = snapshot.dom0_kind if snapshot else dom0_kind
        self.machine = MACHINES[self.dom0_kind]
        self.memory = snapshot.memory if snapshot else None
        self.dom0 = None
        self.qmp = None
        self.process = None
        self.guests = {}

    # -- life

    def port_path(self, port):
        return self.run_dir / f"port-{port}"

    def _memory_words(self):
        """Who starts from a snapshot writes to pages of its own."""
        share = "off" if self.snapshot else "on"
        return ["-object", f"memory-backend-file,id=memory,size={MACHINE_MIB}M,share={share},mem-path=/proc/{os.getpid()}/fd/{self.memory}",
                "-M", f"{self.machine.board},memory-backend=memory", "-m", MACHINE_MIB, *self.machine.devices]

    def _port_words(self):
        words = ["-device", f"virtio-serial-pci,max_ports={GUEST_PORTS + 2}{self.machine.virtio}"]
        for port in range(1, GUEST_PORTS + 2):
            words += ["-chardev", f"socket,id=port{port},path={self.port_path(port)},server=on,wait=off",
                      "-device", f"virtserialport,chardev=port{port},nr={port}"]
        return words

    def _initrd(self):
        return self.snapshot.initrd if self.snapshot else self.run_dir / "dom0.cpio"

    def _make_initrd(self):
        with open(self._initrd(), "wb") as whole:
            with open(images.dom0_base(), "rb") as base:
                shutil.copyfileobj(base, whole)
            whole.write(images.dom0_ours())

    def _command(self):
        """Both machines of a snapshot have the same devices."""
        xen_args = (f"console=com1 com1=115200,8n1 dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M dom0_max_vcpus=1 bootscrub=0 loglvl=warning "
                    f"guest_loglvl=info{self.machine.xen_args}")
        return [system_program("qemu-system-x86_64", "qemu-system-x86"),
                # What dom0 and PVH guests want of a CPU; without rdrand, xl waits for random numbers.
                "-accel", "tcg,thread=multi", "-cpu", "qemu64,+rdrand,+npt", "-smp", "2", *self._memory_words(),
                "-nodefaults", "-display", "none", "-vga", "none", "-no-reboot",
                "-serial", f"file:{self.run_dir}/xen.console", "-qmp", f"unix:{self.run_dir}/qmp,server=on,wait=off",
                *self._port_words(), "-fsdev", f"local,id=share,path={self.share},security_model=none",
                "-device", f"virtio-9p-pci,fsdev=share,mount_tag=share{self.machine.virtio}",
                "-kernel", images.xen(), "-append", xen_args,
                "-initrd", f"{images.kernel()} console=hvc0 8250.nr_uarts=0 i8042.noprobe=1 {KERNEL_ARGS},{self._initrd()}",
                *(["-incoming", "defer"] if self.snapshot else [])]

    def start(self):
        if not self.snapshot:
            self._make_initrd()
            self.memory = os.memfd_create("xen-lab")
            os.ftruncate(self.memory, MACHINE_MIB << 20)
        self.process = Process(self._command(), self.run_dir / "qemu.log", name="xen-lab")
        self.process.wait_for(lambda: (self.run_dir / "qmp").exists(), 20, "QEMU")
        self.qmp = wait_until(self._monitor, 20, "QEMU's monitor")
        self.dom0 = SerialConsole("dom0", self.run_dir, self.port_path(1))
        if self.snapshot:
            self._restore()
        else:
            self.dom0.wait_ready(BOOT_TIMEOUT_S)
        return self

    def _monitor(self):
        try:
            return Qmp(self.run_dir / "qmp")
        except ConnectionRefusedError:
            return None

    def stop(self):
        for console in [self.dom0, *self.guests.values()]:
            if console:
                console.close()
        if self.process:
            self.process.kill()
        if self.memory is not None and not self.snapshot:
            os.close(self.memory)
            self.memory = None

    def __enter__(self):
        for tries_left in reversed(range(BOOT_TRIES)):
            try:
                return self.start()
            except BaseException:
                self.stop()
                if tries_left == 0 or self.snapshot or NO_TIMER not in self.console_of_xen():
                    raise

    def __exit__(self, *unused):
        self.stop()

    # -- snapshots

    def _only_devices(self):
        self.qmp.call("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])

    def _stop_outside_domains(self):
        """Stop the machine while no processor runs a domain by SVM, which QEMU could not take up again. Guests are paused; a PVH dom0 has
        to be idle for once."""
        self.qmp.call("stop")
        if self.dom0_kind == "pv":
            return True
        registers = self.qmp.call("human-monitor-command", **{"command-line": "info registers -a"})
        if set(re.findall(r"HLT=(\d)", registers)) == {"1"}:
            return True
        self.qmp.call("cont")
        return False

    def save(self):
        """Stop the machine for good; what it was, to be started from any number of times."""
        devices = self.run_dir / "devices"
        self.dom0.check(f"for name in {' '.join(self.guests)}; do xl pause $name; done")
        wait_until(self._stop_outside_domains, 60, "an idle moment of dom0's")
        self._only_devices()
        self.qmp.call("migrate", uri=f"exec:cat >{devices}")
        wait_until(lambda: self.qmp.call("query-migrate").get("status") in ("completed", "failed"), 60, "the snapshot")
        assert self.qmp.call("query-migrate")["status"] == "completed"
        snapshot = Snapshot(self.memory, devices, self._initrd(), {name: guest.port for name, guest in self.guests.items()},
                            self.dom0_kind)
        self.memory = None  # it is the snapshot's
        self.stop()
        return snapshot

    def _restore(self):
        # Before the machine runs: a console whose other end is away has ended, to those who read it.
        self.guests = {name: Domain(self, name, port) for name, port in self.snapshot.guests.items()}
        self._only_devices()
        self.qmp.call("migrate-incoming", uri=f"exec:cat {self.snapshot.devices}")
        try:
            wait_until(lambda: self.qmp.call("query-status")["status"] in ("paused", "running"), 60, "the snapshot to be there")
        except OSError:
            self.process.wait_for(lambda: False, 10, "the snapshot to be there")  # tells what QEMU said
        self.qmp.call("cont")
        self.dom0.check(f"share; for name in {' '.join(self.guests)}; do xl unpause $name; done")

    # -- dom0

    def console_of_xen(self):
        return (self.run_dir / "xen.console").read_text(errors="replace")

    # -- guests

    def create(self, name, kind="pv", disks=(), cards=(), mem_mib=GUEST_MIB, vcpus=1, console=True, script=None, extra="",
               boot=("/lab/kernel", "/lab/initrd")):
        """A guest, started; wait_ready() tells when it runs. With no console to talk to it is None. `script` is run by its /init before
        that, and may never come back. `boot`: another kernel and initial RAM disk, as dom0 has them."""
        kernel, ramdisk = boot
        if script:
            (self.share / f"{name}.cpio").write_bytes(guest_archive({}, script, disks=0))
            ramdisk = f"/tmp/{name}.initrd"
            self.dom0.check(f"cat {boot[1]} /share/{name}.cpio >{ramdisk}")
        config = [f'name="{name}"', f'type="{kind}"', f'kernel="{kernel}"', f'ramdisk="{ramdisk}"', f"memory={mem_mib}",
                  f"vcpus={vcpus}", f'extra="console=hvc0 {KERNEL_ARGS}{KIND_ARGS[kind]}"',
                  f"disk={json.dumps([disk.text() for disk in disks])}", f"vif={json.dumps([card.text() for card in cards])}", extra]
        self.dom0.check(f"printf '%s\\n' {shlex.join(config)} >/tmp/{name}.cfg && xl create -q /tmp/{name}.cfg", 120)
        return self.console(name) if console else None

    def console(self, name):
        """The guest's console, at a port that is free."""
        if name not in self.guests:
            taken = {guest.port for guest in self.guests.values()}
            port = next(port for port in range(2, GUEST_PORTS + 2) if port not in taken)
            self.guests[name] = Domain(self, name, port)
        return self.guests[name].connect()

    def attach_disk(self, guest, disk):
        self.dom0.check(f"xl block-attach {guest.name} '{disk.text()}'")

    def attach_card(self, guest, card):
        self.dom0.check(f"xl network-attach {guest.name} {card.text().replace(',', ' ')}")

    def destroy(self, guest):
        self.dom0.check(f"xl destroy {guest.name}")
        self.forget(guest)

    def wait_reboot(self, guest, old_domid, timeout_s=60):
        """Until the guest is another domain, whose console is ours again."""

        def look():
            status, output = self.dom0.run(f"xl domid {guest.name} 2>/dev/null")
            return status == 0 and int(output) != old_domid

        wait_until(look, timeout_s, f"{guest.name} to reboot")
        guest.connect()

    def wait_gone(self, guest, timeout_s=30):
        wait_until(lambda: not guest.is_there(), timeout_s, f"{guest.name} to end")
        self.forget(guest)

    def forget(self, guest):
        """The guest is gone, or ours no longer: its port is free."""
        del self.guests[guest.name]
        guest.close()


def start_guests(lab):
    """u1 and u2 are paravirtual, h1 has hardware's help (PVH). None has a device yet."""
    paravirtual = [lab.create("u1"), lab.create("u2")]
    create_pvh(lab, "h1")
    for guest in paravirtual:
        guest.wait_ready(BOOT_TIMEOUT_S)


def create_pvh(lab, name, **words):
    """A PVH guest, ready. On a busy machine QEMU's SVM leaves one asleep for good now and then while it boots; another may be luckier."""
    for tries_left in reversed(range(BOOT_TRIES)):
        guest = lab.create(name, "pvh", **words)
        try:
            return guest.wait_ready(PVH_BOOT_S)
        except GuestError:
            if tries_left == 0:
                raise
            lab.destroy(guest)
