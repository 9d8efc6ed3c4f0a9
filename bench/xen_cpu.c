/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much processor time a domain has had, by the hypervisor's account, in nanoseconds: `xen-cpu DOMID`. xl tells it by tenths of a
 * second, and takes as much to find out.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <xenctrl.h>

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: xen-cpu DOMID\n");
        return 2;
    }
    uint32_t domid = (uint32_t)strtoul(argv[1], NULL, 10);
    xc_interface *xen = xc_interface_open(NULL, NULL, 0);
    if (!xen) return 1;
    uint64_t sum_ns = 0;
    unsigned count = 0;
    xc_vcpuinfo_t info;
    while (xc_vcpu_getinfo(xen, domid, count, &info) == 0) {
        sum_ns += info.cpu_time;
        count++;
    }
    xc_interface_close(xen);
    if (!count) return 1;
    printf("%" PRIu64 "\n", sum_ns);
    return 0;
}
