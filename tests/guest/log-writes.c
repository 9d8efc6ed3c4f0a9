/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs in the dom0 of the Xen lab: a block device that keeps a record of what reaches it (the kernel's dm-log-writes).
 *
 *     log-writes create NAME DEVICE LOG      /dev/dm-N of DEVICE's size, whose number is printed; the record goes to LOG
 *     log-writes remove NAME                 the record is whole then
 *
 * What dmsetup does, without its libraries (Linux' Documentation/admin-guide/device-mapper/log-writes.rst, linux/dm-ioctl.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/fs.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct order {
    struct dm_ioctl head;
    struct dm_target_spec target;
    char words[256];
};

static int control;

static void fail(const char *what)
{
    fprintf(stderr, "log-writes: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void give(unsigned long request, const char *name, struct order *o, const char *what)
{
    o->head.version[0] = DM_VERSION_MAJOR;
    o->head.data_size = sizeof *o;
    o->head.data_start = offsetof(struct order, target);
    snprintf(o->head.name, sizeof o->head.name, "%s", name);
    if (ioctl(control, request, o) < 0) fail(what);
}

static uint64_t sectors_of(const char *device)
{
    uint64_t bytes = 0;
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes) < 0) fail(device);
    close(fd);
    return bytes / 512;
}

static void create(const char *name, const char *device, const char *log)
{
    struct order o = {0};
    give(DM_DEV_CREATE, name, &o, "creating");
    o = (struct order){.head = {.target_count = 1},
                       .target = {.length = sectors_of(device), .target_type = "log-writes"}};
    snprintf(o.words, sizeof o.words, "%s %s", device, log);
    give(DM_TABLE_LOAD, name, &o, "its table");
    o = (struct order){0};
    give(DM_DEV_SUSPEND, name, &o, "starting"); /* without the flag: the opposite */
    printf("%u\n", minor((dev_t)o.head.dev));
}

int main(int argc, char **argv)
{
    struct order o = {0};
    control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
    if (control < 0) fail("/dev/mapper/control");
    if (argc == 5 && strcmp(argv[1], "create") == 0) {
        create(argv[2], argv[3], argv[4]);
    } else if (argc == 3 && strcmp(argv[1], "remove") == 0) {
        give(DM_DEV_REMOVE, argv[2], &o, "removing");
    } else {
        fprintf(stderr, "usage: log-writes create NAME DEVICE LOG | remove NAME\n");
        return 2;
    }
    return 0;
}
