# SPDX-License-Identifier: Apache-2.0
"""Real guests whose disks and network cards are vhost-user sockets: User-mode Linux, and QEMU without KVM.

    with UmlGuest(run_dir, [disk_socket], cards=[Card(card_socket)]) as guest:
        guest.wait_ready()
        guest.check("mount /dev/vda /mnt && ls /mnt")
        guest.check("ip link set eth0 up")
        guest.power_off()

A guest runs the initial RAM disk of lib/images.py. Its console is a shell: run() sends one line and
returns its status and output. `script` is run before that (and may switch to the root file system of the
disk and never come back).
"""

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from lib.console import Console
from lib.images import READY_MARK, guest_archive, qemu_kernel, uml_kernel
from lib.paths import built, system_program

UML_BLOCK_DEVICE = 2  # the virtio device ids, in virtio_uml.device=SOCKET:ID
UML_NETWORK_DEVICE = 1


@dataclass
class Card:
    """A network card: its vhost-user socket. The rest is QEMU's: a User-mode Linux guest takes what the socket's owner says."""
    socket: Path
    mac: str = None
    queues: int = 1
    packed: bool = False
    mtu: int = None  # host_mtu: what the driver takes for its own
    device_args: str = ""  # more properties of virtio-net-pci


class Guest(Console):
    """A guest as a process with a console. Subclasses say how it is started."""

    counter = 0

    def __init__(self, run_dir, disks, script=None, files=None, mem_mib=256, name=None, kernel_args="", cards=()):
        Guest.counter += 1
        self.run_dir = Path(run_dir)
        name = name or f"{type(self).__name__}-{Guest.counter}"
        super().__init__(name, self.run_dir / f"{name}.console")
        self.disks = [str(disk) for disk in disks]
        self.cards = list(cards)
        self.mem_mib = mem_mib
        self.kernel_args = kernel_args
        self.initrd = self.run_dir / f"{self.name}.initrd"
        self._script = script
        self._files = files or {}
        self.popen = None
        self.started_at = None
        self.ready_s = None

    # -- for subclasses

    def command(self):
        raise NotImplementedError

    def environment(self):
        return {}

    def base_initrd(self):
        raise NotImplementedError

    # -- life

    def start(self):
        self.initrd.write_bytes(self.base_initrd().read_bytes() + guest_archive(
            self._files, self._script, len(self.disks), len(self.cards)))
        self.started_at = time.monotonic()
        self.popen = subprocess.Popen(
            [str(word) for word in self.command()], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env={**os.environ, **self.environment()}, start_new_session=True)
        self.open(self.popen.stdout, self.popen.stdin)
        return self

    def __enter__(self):
        return self.start()

    def __exit__(self, *unused):
        self.kill()

    @property
    def pid(self):
        return self.popen.pid

    def running(self):
        return self.popen is not None and self.popen.poll() is None

    def kill(self):
        """SIGKILL to the guest's whole session: a stuck guest ignores anything else, and UML has helpers."""
        if self.popen is not None:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.popen.wait()
            self.popen.stdin.close()
        self.initrd.unlink(missing_ok=True)

    def wait_end(self, timeout_s):
        try:
            status = self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.fail(f"still running after {timeout_s} s")
        self.wait_closed(5)  # the rest of the console
        return status

    def power_off(self, timeout_s=30):
        self.send("sync; poweroff -f")
        return self.wait_end(timeout_s)

    def wait_ready(self, timeout_s=60):
        self.wait_for(f"^{READY_MARK}\n", timeout_s)
        self.ready_s = time.monotonic() - self.started_at
        return self


class UmlGuest(Guest):
    """User-mode Linux: a kernel as a process, at native speed, one CPU. Its virtio_uml driver is the
    vhost-user front end; it drops a device for good when the socket closes."""

    def base_initrd(self):
        return uml_kernel()[1]

    def environment(self):
        return {"TMPDIR": "/dev/shm",  # its memory is a file: keep it off the disk
                "LD_PRELOAD": str(built("contrib/uml/uml-xstate.so"))}  # a host with AMX; a disk and a card

    def command(self):
        return [uml_kernel()[0], f"mem={self.mem_mib}M", f"initrd={self.initrd}", "quiet", "con=null", "con0=fd:0,fd:1",
                *[f"virtio_uml.device={disk}:{UML_BLOCK_DEVICE}" for disk in self.disks],
                *[f"virtio_uml.device={card.socket}:{UML_NETWORK_DEVICE}" for card in self.cards], *self.kernel_args.split()]


class QemuGuest(Guest):
    """QEMU with TCG: a Debian kernel for clouds, several CPUs and queues, reconnection."""

    def __init__(self, *args, queues=1, cpus=1, reconnect_s=None, device_args="", **kwargs):
        kwargs.setdefault("mem_mib", 384)
        super().__init__(*args, **kwargs)
        self.queues = queues
        self.cpus = cpus
        self.reconnect_s = reconnect_s
        self.device_args = device_args
        self.qmp_path = self.run_dir / f"{self.name}.qmp"

    def base_initrd(self):
        return qemu_kernel()[1]

    def _devices(self):
        reconnect = f",reconnect={self.reconnect_s}" if self.reconnect_s else ""
        words = []
        for index, disk in enumerate(self.disks):
            words += ["-chardev", f"socket,id=c{index},path={disk}{reconnect}",
                      "-device", f"vhost-user-blk-pci,chardev=c{index},num-queues={self.queues}{self.device_args}"]
        for index, card in enumerate(self.cards):
            queues = f",queues={card.queues}" if card.queues > 1 else ""
            # Without interrupt vectors (MSI-X): with them, QEMU 7.2 ends when a vhost-user back end comes back.
            device = f"virtio-net-pci,netdev=n{index},vectors=0"
            device += f",mac={card.mac}" if card.mac else ""
            device += ",mq=on" if card.queues > 1 else ""
            device += ",packed=on" if card.packed else ""
            device += f",host_mtu={card.mtu}" if card.mtu else ""
            words += ["-chardev", f"socket,id=k{index},path={card.socket}{reconnect}",
                      "-netdev", f"vhost-user,chardev=k{index},id=n{index}{queues}", "-device", device + card.device_args]
        return words

    def command(self):
        return [system_program("qemu-system-x86_64", "qemu-system-x86"),
                "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", self.cpus,
                "-M", "q35,memory-backend=mem", "-m", self.mem_mib,
                "-object", f"memory-backend-memfd,id=mem,size={self.mem_mib}M,share=on",
                "-kernel", qemu_kernel()[0], "-initrd", self.initrd,
                "-append", f"console=ttyS0 quiet panic=-1 {self.kernel_args}",
                "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-nic", "none",
                "-qmp", f"unix:{self.qmp_path},server=on,wait=off", *self._devices()]


GUESTS = {"uml": UmlGuest, "qemu": QemuGuest}
