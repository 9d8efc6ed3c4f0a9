/* SPDX-License-Identifier: Apache-2.0 */
#include "port/device.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int look_up(struct device *d, const char *name)
{
    struct ifreq request = {0};
    memcpy(request.ifr_name, name, strlen(name) + 1);
    if (ioctl(d->control_fd, SIOCGIFMTU, &request) < 0) return -errno;
    d->mtu = (uint32_t)request.ifr_mtu;
    if (ioctl(d->control_fd, SIOCGIFINDEX, &request) < 0) return -errno;
    d->ifindex = request.ifr_ifindex;
    return 0;
}

int device_open(struct device *d, const char *name, struct errmsg *e)
{
    *d = (struct device){.control_fd = -1};
    if (strlen(name) >= IFNAMSIZ) return errmsg_set(e, EINVAL, "%s: longer than an interface's name may be", name);
    d->control_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (d->control_fd < 0) return errmsg_sys(e, errno, "%s: socket", name);
    int ret = look_up(d, name);
    if (ret == 0) return 0;
    device_close(d);
    return errmsg_sys(e, -ret, "%s", name);
}

void device_close(struct device *d)
{
    if (d->control_fd >= 0) close(d->control_fd);
    d->control_fd = -1;
}

static bool name_of(const struct device *d, struct ifreq *request)
{
    *request = (struct ifreq){.ifr_ifindex = d->ifindex};
    return ioctl(d->control_fd, SIOCGIFNAME, request) == 0;
}

bool device_flags(const struct device *d, short *flags)
{
    struct ifreq request;
    if (!name_of(d, &request) || ioctl(d->control_fd, SIOCGIFFLAGS, &request) < 0) return false;
    *flags = request.ifr_flags;
    return true;
}

bool device_link_up(const struct device *d)
{
    short flags;
    return device_flags(d, &flags) && (flags & IFF_UP) && (flags & IFF_RUNNING);
}

bool device_mac(const struct device *d, uint8_t mac[6])
{
    struct ifreq request;
    if (!name_of(d, &request) || ioctl(d->control_fd, SIOCGIFHWADDR, &request) < 0) return false;
    if (request.ifr_hwaddr.sa_family != ARPHRD_ETHER) return false;
    memcpy(mac, request.ifr_hwaddr.sa_data, 6);
    return true;
}

unsigned device_queues(const struct device *d)
{
    struct ifreq request;
    struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};
    if (!name_of(d, &request)) return 1;
    request.ifr_data = (char *)&channels;
    if (ioctl(d->control_fd, SIOCETHTOOL, &request) < 0) return 1;
    unsigned n = channels.rx_count + channels.combined_count;
    return n ? n : 1;
}

static int ethtool_value(const struct device *d, uint32_t command, uint32_t *value)
{
    struct ifreq request;
    struct ethtool_value v = {.cmd = command, .data = *value};
    if (!name_of(d, &request)) return -ENODEV;
    request.ifr_data = (char *)&v;
    if (ioctl(d->control_fd, SIOCETHTOOL, &request) < 0) return -errno;
    *value = v.data;
    return 0;
}

int device_keep_tags(const struct device *d)
{
    uint32_t flags = 0;
    int ret = ethtool_value(d, ETHTOOL_GFLAGS, &flags);
    if (ret == -EOPNOTSUPP) return 0; /* it has no such thing */
    if (ret < 0 || !(flags & ETH_FLAG_RXVLAN)) return ret;
    flags &= ~(uint32_t)ETH_FLAG_RXVLAN;
    ret = ethtool_value(d, ETHTOOL_SFLAGS, &flags);
    if (ret == 0) ret = ethtool_value(d, ETHTOOL_GFLAGS, &flags);
    return ret < 0 ? ret : flags & ETH_FLAG_RXVLAN ? -EOPNOTSUPP : 0;
}
