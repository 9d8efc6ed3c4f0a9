# SPDX-License-Identifier: Apache-2.0
"""The switches that are compared, and what drives them: ours, Open vSwitch with DPDK, testpmd, our own front ends."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from lib.process import ProcessError, wait_until

from suite.bed import BenchError
from suite.measure import progress

HUGE_PAGES = 1200  # of 2 MiB: what DPDK on both sides and our own generator take
GENERATOR_HUGE_PAGES = 300  # what our own takes, with four ports and buffers for whole segments
SETTLE_S = 1.0


def _shown(words):
    return " ".join(str(word) for word in words)


def have_huge_pages(count=HUGE_PAGES):
    """Reserve them; neither DPDK nor who asks for --huge can do without."""
    path = Path("/proc/sys/vm/nr_hugepages")
    if int(path.read_text()) < count:
        path.write_text(f"{count}\n")
    if int(path.read_text()) < count:
        raise BenchError(f"this machine has no {count} huge pages of 2 MiB to give")


def must_have(program, package):
    if not shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/openvswitch-switch-dpdk"):
        raise BenchError(f"no {program}: tools/install-deps.sh bench installs {package}")


class Switch:
    """A switch with `ports` vhost-user ports, numbered from 1, and OpenFlow rules in ovs-ofctl's syntax."""

    listens = True  # or the generator does

    def __init__(self, bed, name, ports=2):
        self.bed = bed
        self.name = name
        self.ports = ports
        self.folder = bed.work / ("sw-" + re.sub(r"\W+", "-", name))
        self.sockets = [self.folder / f"v{n}.sock" for n in range(ports)]
        self.processes = []

    def __enter__(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *unused):
        for process in reversed(self.processes):
            process.terminate(20)
            if process in self.bed.group.processes:
                self.bed.group.processes.remove(process)
        self.processes = []
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, words, label=None, env=None):
        process = self.bed.group.start(words, name=label or Path(str(words[0])).name, env=env)
        self.processes.append(process)
        return process

    def _remember(self, words):
        self.bed.commands.setdefault(self.name, self.bed.shown([str(word).replace(str(self.folder) + "/", "") for word in words]))

    def start(self):
        raise NotImplementedError

    def megaflows(self):
        """{"count": megaflows there are, "masks": of them}."""
        raise NotImplementedError

    def upcalls(self):
        raise NotImplementedError

    def made(self):
        raise NotImplementedError


class CreedenceSwitch(Switch):
    """creedence-switch without a daemon; both VIFs on one always-polling thread, as OVS's PMD has them."""

    def __init__(self, bed, name="creedence-switch", ports=2, flows=(), options=("--vif-threads=1", "--poll-us=always"), vif="",
                 more=(), anywhere=False):
        super().__init__(bed, name, ports)
        self.flows = list(flows)
        self.options = list(options)
        self.vif = vif  # more of each --vif
        self.more = list(more)  # more ports
        self.anywhere = anywhere  # not on the worker's core only
        self.prefix = []  # what runs it

    def start(self):
        file = self.folder / "flows"
        file.write_text("".join(f"{flow}\n" for flow in self.flows))
        self.control = self.folder / "control"
        words = [self.bed.program("creedence-switch"), "--bridge=br0,fail-mode=secure",
                 *[f"--vif=v{n},bridge=br0,number={n + 1},socket={path}{self.vif}" for n, path in enumerate(self.sockets)],
                 *self.more, f"--flow-file=br0,{file}", f"--control={self.control}", *self.options]
        command = [*self.prefix, *(words if self.anywhere else self.bed.pinned(self.bed.worker_core, words))]
        self._remember(command if self.ports < 8 else [w for w in command if not str(w).startswith("--vif=v") or "=v0," in str(w)])
        process = self._run(command, "creedence-switch")
        process.wait_for(self._answers, 60, f"socket {self.control}")

    @property
    def process(self):
        return self.processes[0]

    def _answers(self):
        try:
            return self.ask("net.stats")["settled"]
        except (FileNotFoundError, ConnectionRefusedError):
            return False

    def ask(self, method, **params):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.settimeout(30)
            s.connect(str(self.control))
            s.send(json.dumps({"id": 1, "method": method, "params": params}).encode())
            while True:
                answer = json.loads(s.recv(1 << 20))
                if answer.get("id") == 1:  # and not a notification
                    break
        if "error" in answer:
            self.process.fail(f"answered {method} with {answer['error']}")
        return answer["result"]

    def megaflows(self):
        stats = self.ask("megaflow.stats")
        return {"count": stats["megaflows"], "masks": stats["masks"]}

    def upcalls(self):
        """Translations so far."""
        return self.ask("megaflow.stats")["translations"]

    def made(self):
        """Megaflows that were put in so far, those that have gone again included."""
        stats = self.ask("megaflow.stats")
        return stats["megaflows"] + stats["evicted"] + stats["expired"]


class OvsDpdk(Switch):
    """Open vSwitch with DPDK: one PMD thread on the worker's core. Its other threads (revalidators, main) share the
    generator's core, which is to its advantage: they take nothing from the PMD thread."""

    listens = False
    SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
    PROGRAM = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"

    def __init__(self, bed, name="OVS-DPDK", ports=2, flows=(), tso=False, config=()):
        super().__init__(bed, name, ports)
        self.flows = list(flows)
        self.config = list(config)
        self.tso = tso

    def _vsctl(self, *words):
        self.bed.call(["ovs-vsctl", f"--db=unix:{self.folder}/db.sock", "--timeout=30", *words])

    def ofctl(self, *words):
        return self.bed.run_text(["env", f"OVS_RUNDIR={self.folder}", "ovs-ofctl", *words], 300)

    def appctl(self, *words):
        return self.bed.run_text(["ovs-appctl", "-t", self.folder / "vs.ctl", *words], 120)

    def _database(self):
        must_have("ovsdb-server", "openvswitch-switch")
        must_have("ovs-vswitchd-dpdk", "openvswitch-switch-dpdk")
        self.bed.call(["ovsdb-tool", "create", self.folder / "conf.db", self.SCHEMA])
        server = self._run(["ovsdb-server", self.folder / "conf.db", f"--remote=punix:{self.folder}/db.sock",
                            f"--unixctl={self.folder}/db.ctl"])
        server.wait_for_socket(self.folder / "db.sock")
        self._vsctl("--no-wait", "init")

    def settings(self):
        worker, other = 1 << self.bed.worker_core, 1 << self.bed.generator_core
        return ["dpdk-init=true", f"pmd-cpu-mask={worker:#x}", f"dpdk-lcore-mask={other:#x}", "dpdk-alloc-mem=768",
                "dpdk-extra=--in-memory --no-pci --file-prefix=cr-ovs",
                *(["userspace-tso-enable=true"] if self.tso else []), *self.config]

    def _prefix(self):
        return ["unshare", "--net"]  # a private name space: its taps concern nobody

    def start(self):
        have_huge_pages()
        self._database()
        self._vsctl("--no-wait", "set", "Open_vSwitch", ".", *[f"other_config:{s.replace('=', '=' + chr(34), 1)}{chr(34)}"
                                                              for s in self.settings()])
        words = [*self._prefix(), self.PROGRAM, f"unix:{self.folder}/db.sock", f"--unixctl={self.folder}/vs.ctl"]
        daemon = self._run(words, "ovs-vswitchd", env={"OVS_RUNDIR": str(self.folder)})
        daemon.wait_for(lambda: (self.folder / "vs.ctl").exists(), 30, "ovs-vswitchd")
        self._vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail-mode=secure")
        for n, path in enumerate(self.sockets):
            self._vsctl("add-port", "br0", f"v{n}", "--", "set", "Interface", f"v{n}", "type=dpdkvhostuserclient",
                        f"options:vhost-server-path={path}", f"ofport_request={n + 1}")
        self.add_flows(self.flows)
        self._remember(["ovs-vsctl set Open_vSwitch .", *[f"other_config:{s}" for s in self.settings()],
                        "; ports: type=dpdkvhostuserclient"])

    def add_flows(self, flows):
        file = self.folder / "flows"
        file.write_text("".join(f"{flow}\n" for flow in flows))
        self.ofctl("-O", "OpenFlow13", "--bundle", "add-flows", "br0", file)

    def megaflows(self):
        dump = self.appctl("dpctl/dump-flows", "-m")
        masks = set()
        for line in dump.splitlines():
            if "actions:" in line:
                # A mask is what is left when the values are taken out: the field names and what follows the slashes.
                match = re.sub(r"ufid:[^,]*, ?|in_port\([^)]*\)", "", line).split(", packets:")[0]
                masks.add(re.sub(r"=[^,/()]*", "=", match))
        return {"count": sum("actions:" in line for line in dump.splitlines()), "masks": len(masks)}

    def upcalls(self):
        """Misses so far; of a packet that came when the table was full, too: it was translated all the same."""
        perf = self.appctl("dpif-netdev/pmd-stats-show")
        return sum(int(n) for n in re.findall(r"miss with (?:success|failed) upcall: (\d+)", perf))

    def made(self):
        """Megaflows that were put in so far."""
        perf = self.appctl("dpif-netdev/pmd-stats-show")
        return sum(int(n) for n in re.findall(r"miss with success upcall: (\d+)", perf))


# ---- What drives them ----

def native(bed, switch, ports, *options, runtime_s=None, ramp_s=None, timeout_s=None):
    """vhost-net-bench on the generator's core; its result. ports: what follows the socket, for each."""
    if "--huge" in options:
        have_huge_pages(GENERATOR_HUGE_PAGES)
    p = bed.plan
    runtime_s = p.runtime_s if runtime_s is None else runtime_s
    ramp_s = p.ramp_s if ramp_s is None else ramp_s
    words = [bed.program("vhost-net-bench"), *[f"--port={path}{',' if what else ''}{what}" for path, what in zip(switch.sockets, ports)],
             f"--runtime={runtime_s}", f"--ramp={ramp_s}", "--wait=20", *options]
    if not switch.listens:
        words.append("--listen")
    command = bed.pinned(bed.generator_core, words)
    bed.commands.setdefault("vhost-net-bench", bed.shown([str(w).replace(str(switch.folder) + "/", "") for w in command]))
    return bed.run_json(command, timeout_s or 60 + runtime_s + ramp_s)


class Testpmd:
    """DPDK's testpmd with two virtio-user ports in flowgen mode: a vhost-user front end that is nobody's of those compared."""

    # What its flowgen sends (app/test-pmd/flowgen.c), for those who write rules for it.
    SRC, DST, TP_SRC, TP_DST = "10.254.0.0", "10.253.0.0", 1000, 1001

    def __init__(self, bed, switch, flows, packed=False):
        must_have("dpdk-testpmd", "dpdk-dev")
        have_huge_pages()
        self.bed, self.switch = bed, switch
        server = "" if switch.listens else ",server=1"
        ring = ",packed_vq=1" if packed else ""
        devices = []
        for n, path in enumerate(switch.sockets[:2]):
            devices += ["--vdev", f"net_virtio_user{n},path={path},queues=1,queue_size=1024{server}{ring}"]
        main, worker = bed.worker_core, bed.generator_core  # the main thread only sleeps
        self.command = ["stdbuf", "-oL", "dpdk-testpmd", "--lcores", f"0@{main},1@{worker}", "--in-memory", "--single-file-segments", "-m", "256",
                        "--no-pci", "--file-prefix=cr-cli", *devices, "--", "-i", "--forward-mode=flowgen",
                        f"--flowgen-flows={flows}", "--nb-cores=1", "--no-lsc-interrupt", "--total-num-mbufs=32768"]
        bed.commands.setdefault("testpmd", bed.shown([str(w).replace(str(switch.folder) + "/", "") for w in self.command]))

    def _say(self, line):
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def _text(self):
        return self.log.read_text(errors="replace")

    def _wait(self, pattern, since, timeout_s):
        def look():
            if self.popen.poll() is not None:
                raise BenchError(f"testpmd ended: {self._text()[-2000:]}")
            return re.search(pattern, self._text()[since:])
        try:
            return wait_until(look, timeout_s, f"testpmd: {pattern}")
        except ProcessError as error:
            raise BenchError(f"{error}: {self._text()[-2000:]}") from error

    def _received(self):
        """(when, packets that both ports have received)."""
        since = len(self._text())
        self._say("show port stats all")
        self._wait(r"(?s)NIC statistics for port 1 .*?RX-packets: (\d+).*?\#{60}", since, 20)
        counts = re.findall(r"RX-packets: (\d+)", self._text()[since:])
        return sum(int(n) for n in counts)

    def measure(self):
        """Packets per second that arrived, on both ports together."""
        p = self.bed.plan
        self.log = self.bed.work / "testpmd.log"
        with open(self.log, "wb") as out:
            self.popen = subprocess.Popen([str(w) for w in self.command], stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT,
                                          text=True, start_new_session=True)
        try:
            self._wait(r"testpmd>", 0, 60)
            time.sleep(0.5)  # the other side takes the rings up
            self._say("start")
            time.sleep(p.ramp_s)
            first_at, first = time.monotonic(), self._received()
            first_at = (first_at + time.monotonic()) / 2
            time.sleep(p.runtime_s)
            last_at, last = time.monotonic(), self._received()
            last_at = (last_at + time.monotonic()) / 2
            caches = self.switch.megaflows()
            self._say("stop")
            self._say("quit")
            self.popen.wait(30)
        finally:
            if self.popen.poll() is None:
                self.popen.kill()
                self.popen.wait()
        pps = (last - first) / (last_at - first_at)
        return pps, {"packets": last - first, "seconds": last_at - first_at, "megaflows": caches["count"], "masks": caches["masks"]}


# ---- Name spaces, for what goes through the kernel ----

class NetworkBed:
    """Name spaces whose names start with cr-; all of them are gone at the end."""

    def __init__(self, bed):
        self.bed = bed
        self.names = []

    def ip(self, *words):
        return self.bed.run_text(["ip", *words], 30)

    def add(self, suffix):
        name = f"cr-{os.getpid()}-{suffix}"
        self.ip("netns", "add", name)
        self.names.append(name)
        self.ip("-n", name, "link", "set", "lo", "up")
        return name

    def inside(self, name, command):
        return ["ip", "netns", "exec", name, *map(str, command)]

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


def iperf3(bed, net, server_ns, client_ns, address, *options, server_core=None, client_core=None, seconds=None):
    """bits per second that arrived."""
    must_have("iperf3", "iperf3")
    progress("iperf3", address)
    server = bed.group.start(net.inside(server_ns, bed_pinned(server_core, ["iperf3", "-s", "-1", "-p", "5201"])), name="iperf3-s")
    try:
        deadline = time.monotonic() + 10
        while "LISTEN" not in bed.run_text(net.inside(server_ns, ["ss", "-Hltn", "sport", "=", ":5201"]), 10):
            if time.monotonic() > deadline:
                server.fail("does not listen")
            time.sleep(0.05)
        seconds = seconds or bed.plan.runtime_s
        command = net.inside(client_ns, bed_pinned(client_core, ["iperf3", "-c", address, "-t", max(1, round(seconds)), "-O", "1", "-J", *options]))
        bed.commands.setdefault("iperf3", " ".join(str(w) for w in command[4:]))
        result = json.loads(bed.run_text(command, 60 + seconds))
        return result["end"]["sum_received"]["bits_per_second"], {"retransmits": result["end"]["sum_sent"].get("retransmits")}
    finally:
        server.terminate(5)
        if server in bed.group.processes:
            bed.group.processes.remove(server)


def bed_pinned(core, command):
    return list(map(str, command)) if core is None else ["taskset", "-c", str(core), *map(str, command)]
