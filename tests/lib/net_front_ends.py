# SPDX-License-Identifier: Apache-2.0
"""Network cards without guests: vhost-net-bench, which sends, receives and checks until it is told to stop."""

import json

from lib.paths import built
from lib.process import wait_until

FOR_EVER_S = 3600


class NetFrontEnds:
    """ports: {socket: what it sends, as in vhost-net-bench --port}."""

    def __init__(self, processes, ports, *options):
        words = [built("bench/vhost-net-bench"), *[f"--port={socket}{',' if what else ''}{what}" for socket, what in ports.items()]]
        self.process = processes.start([*words, f"--runtime={FOR_EVER_S}", "--ramp=0", "--drain", *options])

    def wait_connected(self, link, names, timeout_s=20):
        """Until the switch says that it has these cards' front ends."""
        wait_until(lambda: all(vif["state"] == "connected" for vif in link.ask("vif.stats")["vifs"] if vif["name"] in names),
                   timeout_s, "front ends to connect")

    def stop(self, timeout_s=30):
        """End it; what it saw (see bench/net_load.c)."""
        self.process.popen.terminate()
        status = self.process.wait(timeout_s)
        text = self.process.output()
        assert status in (0, 1), text
        return json.loads(next(line for line in text.splitlines() if line.startswith("{")))
