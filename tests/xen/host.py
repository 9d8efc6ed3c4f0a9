# SPDX-License-Identifier: Apache-2.0
"""Creedence in dom0: the daemon, its command line, disks and cards of guests as xl's configuration has them.

Without a user "creedence" in dom0 its programs run as root, with no capabilities. Images are in /tmp, which is dom0's memory.
"""

import json

from lib.process import wait_until
from xen.lab import Card, Disk

LOG = "creedenced.log"


class Host:
    def __init__(self, lab, options=""):
        self.lab = lab
        self.dom0 = lab.dom0
        self.options = options

    # -- the daemon

    def start(self):
        self.dom0.check("mkdir -p /run/creedence /var/lib/creedence")
        self.dom0.check(f"creedenced --state-dir=/var/lib/creedence --run-dir=/run/creedence {self.options} "
                        f"</dev/null >>/share/{LOG} 2>&1 3>&- & echo $! >/run/creedenced.pid")
        self.dom0.check("n=0; until creedence status >/dev/null 2>&1; do usleep 50000; [ $((n += 1)) -lt 200 ] || break; done")
        return self

    def log(self):
        return (self.lab.share / LOG).read_text(errors="replace")

    def kill_daemon(self):
        self.dom0.check("kill -9 $(cat /run/creedenced.pid)")

    def cli(self, words):
        return self.dom0.check(f"creedence {words}")

    def call(self, words):
        return json.loads(self.cli(f"{words} --json"))

    # -- disks

    def disk_name(self, guest, vdev=51712):
        return f"xen-{guest.domid}-{vdev}"

    def show(self, name):
        return self.call(f"disk show {name}")

    def stats(self, name):
        [entry] = self.call(f"disk stats {name}")["disks"]
        return entry["stats"]

    def worker_pid(self, name):
        return wait_until(lambda: self.show(name).get("pid"), 20, f"a worker of {name}")

    def kill_worker(self, name):
        """SIGKILL, and until there is another; its pid."""
        old = self.worker_pid(name)
        self.dom0.check(f"kill -9 {old}")
        return wait_until(lambda: self.show(name).get("pid") not in (None, old), 20, f"a new worker of {name}")

    def disk_names(self):
        return [disk["name"] for disk in self.call("disk list")["disks"]]

    def wait_no_disks(self):
        wait_until(lambda: not self.disk_names(), 30, "the end of all disks")


def disk(target, vdev="xvda", access="rw", kind="disk"):
    """A disk of Creedence's: target is [FORMAT:PATH...][,OPTION=VALUE...]."""
    return Disk(target, vdev, f"access={access},devtype={kind},format=raw,script=block-creedence")


def card(mac, options="bridge=br0"):
    return Card(mac, f"script=vif-creedence,{options}")
